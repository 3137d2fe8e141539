"""How fast a published zip becomes a zoo, beside a plain loop of torch.load, and in what memory.

The work is a zip as ray tune leaves it, 51 CNN-s states a trial with random weights (deflated, as
the published ones; their names and sizes are the original's). The plain loop reads each checkpoint
with zipfile, torch.load(weights_only=True) and torch.cat, and keeps nothing; the import also
parses, checks, matches metrics and writes the zoo directory. Rounds are interleaved on a warm page
cache; medians are reported. The original's own loader reads 140 rows a second (measured with its
ray workers on two cores).
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...builders.layout import make_layout
from ...builders.sources.importing import import_zoo

STATES = 51
ORIGINAL_ROWS_PER_SECOND = 140


def measure(models: int, rounds: int, memory_models: int) -> dict[str, Any]:
    """Medians over some rounds, and the memory of one import.

    Args:
        models: of 51 states each.
        rounds: at least 1.
        memory_models: of the import whose memory is watched; 0 leaves it out.

    Returns:
        `states`, `rows_per_second` by name of what was measured, their ratios, `memory`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = raw_zip(Path(folder) / "zoo.zip", models)
            seconds: dict[str, list[float]] = {"import": [], "torch.load + flatten": []}
            for number in range(rounds):
                start = time.perf_counter()
                rows = _plain_loop(path)
                seconds["torch.load + flatten"].append(time.perf_counter() - start)
                start = time.perf_counter()
                [report] = import_zoo(path, Path(folder) / f"zoos-{number}")
                seconds["import"].append(time.perf_counter() - start)
                assert rows == report.kept == report.found == models * STATES
    finally:
        torch.set_num_threads(threads)
    speed = {name: round(rows / statistics.median(values)) for name, values in seconds.items()}
    ratios = [
        a / b for a, b in zip(seconds["torch.load + flatten"], seconds["import"], strict=True)
    ]
    return {
        "states": rows,
        "rounds": rounds,
        "rows_per_second": speed,
        "over_torch_load": round(statistics.median(ratios), 2),
        "over_the_original": round(speed["import"] / ORIGINAL_ROWS_PER_SECOND, 1),
        "memory": memory(memory_models) if memory_models else None,
    }


def memory(models: int) -> dict[str, Any]:
    """The largest resident memory of the command `import` with its workers, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = raw_zip(Path(folder) / "zoo.zip", models, zipfile.ZIP_STORED)
        command = [sys.executable, "-m", "model_zoos", "import", str(path), "--quiet"]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--out", f"{folder}/zoos"])
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        return {
            "states": models * STATES,
            "megabytes": round(peak / 1e6),
            "seconds": round(time.perf_counter() - start, 1),
        }


def _resident(pid: int) -> int:
    """Bytes of a process and those it started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return 4096 * pages + sum(_resident(int(child)) for child in children)


def raw_zip(path: Path, models: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of trials whose 51 states are the same in every trial."""
    layout = make_layout("cnn_s", 1)
    checkpoints = []
    for epoch in range(STATES):
        vector = torch.randn(layout.size, generator=torch.Generator().manual_seed(epoch))
        named = layout.to_state_dict(vector, original_names=True)
        buffer = io.BytesIO()
        torch.save({name: tensor.clone() for name, tensor in named.items()}, buffer)
        checkpoints.append(buffer.getvalue())
    params = {
        "model::type": "CNN",
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
    with zipfile.ZipFile(path, "w", method) as archive:
        for seed in range(1, models + 1):
            name = f"NN_tune_trainable_0a1b2_{seed - 1:05d}_{seed - 1}_seed={seed}_2021-09-24_12-00"
            folder = f"tune_zoo_mnist_uniform/{name}"
            config = {**params, "seed": seed}
            lines = [
                json.dumps(
                    {
                        "train_loss": 1.0,
                        "train_acc": 0.5,
                        "val_loss": 1.0,
                        "val_acc": 0.5,
                        "test_loss": 1.0,
                        "test_acc": 0.5,
                        "training_iteration": epoch,
                        "time_total_s": 1.5,
                        "config": config,
                    }
                )
                for epoch in range(STATES)
            ]
            archive.writestr(f"{folder}/params.json", json.dumps(config))
            archive.writestr(f"{folder}/result.json", "\n".join(lines) + "\n")
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
