"""How fast a zoo directory becomes a data set, and a data set one tensor.

The work is 1,000 models with 51 states of CNN-s (0.5 GB of weights, random values: only their
number matters). Reading by numpy is the yardstick: np.fromfile over the same bytes, file by file,
all in the page cache. Rounds are interleaved; medians are reported, in GB of weights a second.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np

import model_zoos
from tests.zoos import random_zoo  # beside this package in a checkout

from ...builders.catalog import get_zoo


def measure(models: int, rounds: int) -> dict[str, Any]:
    """Medians over some rounds.

    Args:
        models: of 51 states each.
        rounds: at least 1.

    Returns:
        `rows`, `bytes` (of weights) and `gb_per_second` by name of what was measured.
    """
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        directory = random_zoo(Path(folder) / "zoos", get_zoo("mnist_cnn_s_seed"), models)
        rows = models * directory.zoo.states_per_model
        size = 4 * rows * directory.zoo.layout.size
        files = directory.files()
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            cache = Path(folder) / f"cache-{number}"
            _timed(seconds, "numpy: np.fromfile over the zoo's files", lambda: _read(files))
            splits = _timed(
                seconds,
                'builder: load_dataset("model_zoos", ...), a fresh cache',
                lambda cache=cache: datasets.load_dataset(
                    "model_zoos",
                    directory.zoo.name,
                    data_dir=str(directory.path.parent),
                    cache_dir=str(cache),
                ),
            )
            arrow = sorted(cache.glob("**/*.arrow"))
            _timed(
                seconds,
                "numpy: np.fromfile over the cached Arrow files",
                lambda arrow=arrow: _read(arrow),
            )
            for call in ("first call", "again"):  # the first one meets memory new to the process
                tensors = _timed(
                    seconds,
                    f"tensor: model_zoos.weights of all splits, {call}",
                    lambda s=splits: [model_zoos.weights(split) for split in s.values()],
                )
                assert sum(tensor.numel() for tensor in tensors) * 4 == size
                del tensors
            del splits
    return {
        "rows": rows,
        "bytes": size,
        "rounds": rounds,
        "gb_per_second": {
            name: round(size / statistics.median(values) / 1e9, 3)
            for name, values in seconds.items()
        },
    }


def _timed(seconds: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return result


def _read(files: list[Path]) -> int:
    return sum(len(np.fromfile(path, np.uint8)) for path in files)
