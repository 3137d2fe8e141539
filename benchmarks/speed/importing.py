"""Speed and memory of importing an original zip, compared with a plain loop of torch.load.

The work is a zip like those of ray tune, with 51 CNN-s states per trial and random weights
(deflated, with the names and sizes of the paper's files). The plain loop reads each checkpoint with
zipfile, torch.load(weights_only=True) and torch.cat, and keeps nothing. The import also parses,
checks, matches metrics and writes the zoo directory. The page cache is warm. The loader of the
paper's code reads 140 rows a second (measured with its ray workers on two cores).
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ...builders.layout import make_layout
from ...builders.sources.importing import import_zoo
from .measure import Clock, Models, Rounds, peak_memory, torch_threads

STATES = 51
PAPER_ROWS_PER_SECOND = 140
BASELINE = "torch.load + flatten"


def measure(
    models: Models = 100,
    rounds: Rounds = 5,
    memory_models: Annotated[
        int, typer.Option(help="Models of the import whose memory is watched (1.4 GB); 0: none.")
    ] = 1000,
) -> dict[str, Any]:
    """Return `states`, `rounds`, `rows_per_second` by name, their ratios, and `memory`."""
    clock = Clock()
    with torch_threads(1), tempfile.TemporaryDirectory() as folder:
        path = raw_zip(Path(folder) / "zoo.zip", models)
        for number in range(rounds):
            with clock.time(BASELINE):
                rows = _plain_loop(path)
            with clock.time("import"):
                [report] = import_zoo(path, Path(folder) / f"zoos-{number}")
            assert rows == report.kept == report.found == models * STATES
    speeds = {name: round(value) for name, value in clock.speeds(rows).items()}
    return {
        "states": rows,
        "rounds": rounds,
        "rows_per_second": speeds,
        "over_torch_load": round(clock.ratio(BASELINE, "import"), 2),
        "over_the_original": round(speeds["import"] / PAPER_ROWS_PER_SECOND, 1),
        "memory": memory(memory_models) if memory_models else None,
    }


def memory(models: int) -> dict[str, float]:
    """Return states, peak memory and seconds of the command `import` with its workers."""
    with tempfile.TemporaryDirectory() as folder:
        path = raw_zip(Path(folder) / "zoo.zip", models, zipfile.ZIP_STORED)
        command = ("-m", "model_zoos", "import", str(path), "--quiet", "--out", f"{folder}/zoos")
        return {"states": models * STATES, **peak_memory(*command)}


def raw_zip(path: Path, models: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of trials. All trials have the same 51 states."""
    layout = make_layout("cnn_s", 1)
    checkpoints = []
    for epoch in range(STATES):
        vector = torch.randn(layout.size, generator=torch.Generator().manual_seed(epoch))
        named = layout.to_state_dict(vector, original_names=True)
        buffer = io.BytesIO()
        torch.save({name: tensor.clone() for name, tensor in named.items()}, buffer)
        checkpoints.append(buffer.getvalue())
    params = {
        "model::type": layout.architecture.original_class,
        "model::channels_in": 1,
        "model::o_dim": 10,
        "model::nlin": "tanh",
        "model::init_type": "uniform",
        "model::dropout": 0.0,
        "model::use_bias": False,
        "optim::optimizer": "adam",
        "optim::lr": 3e-4,
        "optim::wd": 0.0,
        "training::batchsize": 10,
        "training::epochs_train": STATES - 1,
        "dataset::dump": "/zoos/MNIST/tune_zoo_mnist_uniform/dataset.pt",
    }
    metrics = {
        f"{split}_{name}": value
        for split in ("train", "val", "test")
        for name, value in (("loss", 1.0), ("acc", 0.5))
    }
    with zipfile.ZipFile(path, "w", method) as archive:
        for seed in range(1, models + 1):
            name = f"NN_tune_trainable_0a1b2_{seed - 1:05d}_{seed - 1}_seed={seed}_2021-09-24_12-00"
            folder = f"tune_zoo_mnist_uniform/{name}"
            config = {**params, "seed": seed}
            archive.writestr(f"{folder}/params.json", json.dumps(config))
            lines = [
                {**metrics, "training_iteration": epoch, "time_total_s": 1.5, "config": config}
                for epoch in range(STATES)
            ]
            result = "".join(json.dumps(line) + "\n" for line in lines)
            archive.writestr(f"{folder}/result.json", result)
            for epoch, content in enumerate(checkpoints):
                archive.writestr(f"{folder}/checkpoint_{epoch:06d}/.is_checkpoint", b"")
                archive.writestr(f"{folder}/checkpoint_{epoch:06d}/checkpoints", content)
    return path


def _plain_loop(path: Path) -> int:
    rows = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/checkpoints"):
                state = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                rows += len(torch.cat([tensor.flatten() for tensor in state.values()])) > 0
    return rows
