"""Sources for the tests: parts of the raw zoos, changed and packed again, and zoos made here."""

from __future__ import annotations

import io
import json
import sys
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
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


PROPERTIES = {
    "model::nlin": "tanh",
    "model::init_type": "uniform",
    "model::dropout": 0,
    "optim::optimizer": "adam",
    "optim::lr": 3e-4,
    "optim::wd": 0.0,
    "seed": 1,
}


def write_datasets(path: Path, monkeypatch: pytest.MonkeyPatch, **sets: dict[str, Any]) -> Path:
    """A file as the original's script would save it: with a class of this very name."""
    module = types.ModuleType("checkpoints_to_datasets.dataset_base")
    cls = type("ModelDatasetBase", (), {"__module__": module.__name__})
    module.ModelDatasetBase = cls  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "checkpoints_to_datasets", types.ModuleType("c"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    tree = {}
    for name, attributes in sets.items():
        tree[name] = cls()
        tree[name].__dict__.update(attributes)
    torch.save(tree, path)
    return path


def one_set(trials: list[str], epochs: list[int]) -> dict[str, Any]:
    rows = [(trial, epoch) for trial in trials for epoch in epochs]
    generator = torch.Generator().manual_seed(len(trials))
    return {
        "data_in": torch.randn(len(rows), 2464, generator=generator),
        "paths": [Path("/somewhere/tune_zoo_mnist_uniform") / trial for trial, _ in rows],
        "epochs": [epoch for _, epoch in rows],
        "properties": {
            "training_iteration": [epoch for _, epoch in rows],
            "test_acc": [0.5 for _ in rows],
            "train_acc": [0.75 for _ in rows],
            **{key: [value for _ in rows] for key, value in PROPERTIES.items()},
        },
    }
