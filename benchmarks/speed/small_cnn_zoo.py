"""Speed and memory of importing a Small CNN Zoo of the original size.

The data is generated: weights.npy with random weights in random row order, 30,000 models with 9
states of 4,970 weights (5.4 GB; the import writes as much). The import is the whole command with
its processes. It is compared with a plain loop in this process, which gathers the rows of each
model, puts them into torch's order and writes a file, without any check. The loop writes into
memory that the import has released, which is faster than new memory. Processor seconds are those of
all processes: on a busy machine, they are more meaningful than the wall time.
"""

from __future__ import annotations

import csv
import gzip
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ...builders.machine import cores
from ...builders.sources.small_cnn_zoo import read_small_cnn_zoo
from .measure import Clock, peak_memory

STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
WEIGHTS = 4970
IMPORT, LOOP = "import", "gather and write"
_BLOCK = 9_000

_LAYERS = (("conv2d", 1), ("conv2d_1", 16), ("conv2d_2", 16), ("dense", None))


def measure(
    models: Annotated[int, typer.Option(help="Number of models, with 9 states each.")] = 30_000,
) -> dict[str, Any]:
    """Return `states`, rows per second and per processor second, `megabytes`, `cores`."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        source = write_source(Path(folder) / "mnist", models)
        states = models * len(STEPS)
        command = ("-m", "model_zoos", "import", str(source), "--quiet", "--out", f"{folder}/zoos")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with clock.time(IMPORT):
            memory = peak_memory(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert len(list(Path(folder, "zoos", "mnist_small_cnn", "models").iterdir())) == models
        shutil.rmtree(f"{folder}/zoos")
        with clock.time(LOOP):
            _plain_loop(source, Path(folder) / "copy")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "states": states,
        "rows_per_second": {name: round(v) for name, v in clock.speeds(states).items()},
        "rows_per_processor_second": {
            IMPORT: round(states / used),
            LOOP: round(clock.speeds(states, cpu=True)[LOOP]),
        },
        "megabytes": memory["megabytes"],
        "cores": cores(),
    }


def _plain_loop(source: Path, target: Path) -> None:
    target.mkdir()
    data = read_small_cnn_zoo(source)
    for model, place in data.models.items():
        rows = data.rows[place].tolist()
        found = np.empty((len(rows), WEIGHTS), np.float32)
        with open(source / "weights.npy", "rb", buffering=0) as file:
            for row, state in zip(rows, found, strict=True):
                file.seek(data.offset + row * state.nbytes)
                file.readinto(state.data)
        (target / model).write_bytes(found.take(data.order, 1).data)


def write_source(folder: Path, models: int, seed: int = 0) -> Path:
    """Write the three files of a generated zoo, and return their folder."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    order = generator.permutation(models * len(STEPS))
    _write_layout(folder / "layout.csv")
    shape = (len(order), WEIGHTS)
    weights = np.lib.format.open_memmap(folder / "weights.npy", "w+", np.dtype("<f4"), shape)
    block = generator.standard_normal((_BLOCK, WEIGHTS), np.float32)
    for start in range(0, len(order), _BLOCK):
        block[:, 0] = start  # no two rows are equal
        weights[start : start + _BLOCK] = block[: len(order) - start]
    weights.flush()
    with gzip.open(folder / "metrics.csv.gz", "wt", 1, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_row(0, 0))
        rows.writerows([*_row(*divmod(int(n), len(STEPS))).values()] for n in order)
    return folder


def _row(model: int, state: int) -> dict[str, object]:
    return {
        "config.activation": ("relu", "tanh")[model % 2],
        "config.b_init": "zeros",
        "config.dataset": "mnist",
        "config.dnn_architecture": "cnn",
        "config.dropout": 0.7 * (model % 101) / 101,
        "config.epochs": STEPS[-1],
        "config.epochs_between_checkpoints": 20,
        "config.init_std": 0.1 / (1 + model % 97),
        "config.l2reg": 1e-3 / (1 + model % 89),
        "config.learning_rate": 0.05 / (1 + model),
        "config.num_layers": 3,
        "config.num_units": 16,
        "config.optimizer": ("adam", "rmsprop", "sgd")[model % 3],
        "config.random_seed": 42,
        "config.train_fraction": (0.1, 0.25, 0.5, 1.0)[model % 4],
        "config.w_init": ("glorot_normal", "he_normal", "orthogonal")[model % 3],
        "modeldir": f"/a/long/path/of/the/cluster/experiments/mnist/{model}",
        "step": STEPS[state],
        "test_accuracy": 0.1 + state / 10,
        "test_loss": 2.3 - state / 10,
        "train_accuracy": 0.1 + state / 9,
        "train_loss": 2.3 - state / 9,
    }


def _write_layout(path: Path) -> None:
    lines, start = ["varname,start_idx,end_idx,shape"], 0
    for name, channels in _LAYERS:
        bias, kernel = ((16,), (3, 3, channels, 16)) if channels else ((10,), (16, 10))
        for kind, shape in (("bias", bias), ("kernel", kernel)):
            stop = start + int(np.prod(shape))
            lines.append(f'sequential/{name}/{kind}:0,{start},{stop},"{shape}"')
            start = stop
    assert start == WEIGHTS
    path.write_text("\n".join(lines) + "\n")
