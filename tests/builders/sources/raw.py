"""Sources for the tests: parts of the raw zoos, changed and packed again, and zoos made here."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.shared import CNN_S, SEED_ZOO, SHARED

RAW = SHARED / "data" / "raw_zoos"


def files_of(zoo: str = SEED_ZOO, trials: int = 1, epochs: int = 9) -> dict[str, bytes]:
    """Name -> content of the first trials of a raw zoo, as far as an import reads them."""
    with zipfile.ZipFile(RAW / f"{zoo}.zip") as archive:
        names = archive.namelist()
        folders = sorted(
            name.removesuffix("params.json") for name in names if "params.json" in name
        )
        wanted = [
            f"{folder}{file}"
            for folder in folders[:trials]
            for file in (
                "params.json",
                "result.json",
                *(f"checkpoint_{epoch:06d}/checkpoints" for epoch in range(epochs)),
            )
        ]
        return {name: archive.read(name) for name in wanted}


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


PARAMS = {
    "model::type": "CNN",
    "model::channels_in": 1,
    "model::o_dim": 10,
    "model::nlin": "tanh",
    "model::dropout": 0.0,
    "model::init_type": "uniform",
    "optim::optimizer": "adam",
    "optim::lr": 0.001,
    "optim::wd": 0.0,
    "seed": 1,
    "training::batchsize": 10,
    "training::epochs_train": 3,
    "dataset::dump": "/x/some_run/dataset.pt",
}
LINE = {"train_loss": 2.0, "train_acc": 0.5, "test_loss": 2.0, "test_acc": 0.25}


def saved(value: Any, **options: Any) -> bytes:
    """What torch.save writes of a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def state_dict(seed: int, names: str = "module_list.{}") -> dict[str, torch.Tensor]:
    """A state_dict of CNN-s with random weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        names.format(slot.name): torch.randn(slot.shape, generator=generator)
        for slot in CNN_S.slots
    }


def made_trial(
    folder: str,
    *,
    epochs: Sequence[int] = (0, 1, 2),
    params: Mapping[str, Any] = PARAMS,
    lines: Sequence[Mapping[str, Any]] | None = None,
    checkpoint: Callable[[int], bytes] = lambda epoch: saved(state_dict(epoch)),
) -> dict[str, bytes]:
    """A trial as ray tune 1.8 writes it, made here: name -> content."""
    if lines is None:
        lines = [{**LINE, "training_iteration": epoch} for epoch in epochs]
    return {
        f"{folder}/params.json": json.dumps(params).encode(),
        f"{folder}/result.json": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        **{f"{folder}/checkpoint_{e:06d}/checkpoints": checkpoint(e) for e in epochs},
    }
