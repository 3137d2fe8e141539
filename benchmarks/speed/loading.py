"""Speed of loading a zoo directory, and of making one tensor, compared with numpy's reading.

The work is 1,000 models with 51 states of CNN-s (0.5 GB of random weights: only their number
matters). The baseline is np.fromfile over the same bytes, file by file, all in the page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tests.zoos import random_zoo

from ...builders.access import weights
from ...builders.catalog import zoo_spec
from .measure import Clock, Models, Rounds


def measure(models: Models = 1000, rounds: Rounds = 5) -> dict[str, Any]:
    """Return `rows`, `bytes` (of weights), `rounds`, and `gb_per_second` by name."""
    datasets.disable_progress_bars()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        directory = random_zoo(Path(folder) / "zoos", zoo_spec("mnist_cnn_s_seed"), models)
        name, root = directory.zoo.name, str(directory.path.parent)
        rows = models * directory.zoo.states_per_model
        size = 4 * rows * directory.zoo.layout.size
        files = directory.files()
        for number in range(rounds):
            cache = Path(folder) / f"cache-{number}"
            with clock.time("numpy: np.fromfile over the zoo's files"):
                _read(files)
            with clock.time('builder: load_dataset("model_zoos", ...), a fresh cache'):
                splits = datasets.load_dataset(
                    "model_zoos", name, data_dir=root, cache_dir=str(cache)
                )
            arrow = sorted(cache.glob("**/*.arrow"))
            with clock.time("numpy: np.fromfile over the cached Arrow files"):
                _read(arrow)
            for call in ("first call", "again"):  # the first one meets memory new to the process
                with clock.time(f"tensor: model_zoos.weights of all splits, {call}"):
                    tensors = [weights(split) for split in splits.values()]
                assert sum(tensor.numel() for tensor in tensors) * 4 == size
                del tensors
            del splits
    speeds = clock.speeds(size / 1e9)
    return {"rows": rows, "bytes": size, "rounds": rounds, "gb_per_second": speeds}


def _read(files: Iterable[Path]) -> None:
    for path in files:
        np.fromfile(path, np.uint8)
