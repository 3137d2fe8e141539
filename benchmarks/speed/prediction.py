"""How fast properties are predicted from 51,000 rows of CNN-s, beside scikit-learn's RidgeCV.

The rows are random, 1,000 models of a hyperparameter grid with 51 states each, so that no target is
constant: random weights and metrics, the catalog's hyperparameters. A run is what the command does:
the zoo is loaded (once from its directory, then from the cache), represented, fitted and scored
with bootstrap intervals. On random rows a logistic regression ends after a few steps; on real ones
it takes up to its 100, which must be added. The baseline is RidgeCV with the same 17 strengths on
the same rows, for the three numbers alone; it chooses by leave-one-out on train, ours by the
validation split. Rounds are interleaved; medians are reported. Memory is the largest resident size
of a process that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.linear_model import RidgeCV

import model_zoos

from ...builders.catalog import get_zoo
from ..probes import STRENGTHS
from ..property_prediction import NUMBERS, predict_properties
from .loading import random_zoo

ZOO = "mnist_cnn_s_hyp_10_r"
PRESENT = [target for target in NUMBERS if target != "sparsity"]


def measure(models: int, rounds: int) -> dict[str, Any]:
    """Medians over some rounds, and the memory of one run.

    Args:
        models: of 51 states each.
        rounds: at least 1.

    Returns:
        `rows`, `seconds` by name of what was measured, `ratio` of RidgeCV to our numbers from
        weights, `memory_mb`, and the seconds of each step of the last run.
    """
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        directory = random_zoo(Path(folder) / "zoos", get_zoo(ZOO), models)
        root = directory.path.parent
        megabytes = memory(root)
        seconds: dict[str, list[float]] = {}

        def timed(name: str, work: Callable[[], object]) -> None:
            start = time.perf_counter()
            work()
            seconds.setdefault(name, []).append(time.perf_counter() - start)

        for _ in range(rounds):
            timed("all targets from weights", lambda: predict(root, ["weights"]))
            timed("all targets from statistics", lambda: predict(root, ["statistics"]))
            timed("numbers from weights", lambda: predict(root, ["weights"], targets=PRESENT))
            timed("scikit-learn's RidgeCV, numbers from weights", lambda: ridge_cv(root))
        steps: list[tuple[str, float]] = []
        predict(
            root,
            ["weights", "statistics"],
            on_progress=lambda what, *_: steps.append((what, time.perf_counter())),
        )
        steps.append(("end", time.perf_counter()))
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    ratios = [
        a / b
        for a, b in zip(
            seconds["scikit-learn's RidgeCV, numbers from weights"],
            seconds["numbers from weights"],
            strict=True,
        )
    ]
    return {
        "rows": models * directory.zoo.states_per_model,
        "rounds": rounds,
        "seconds": medians,
        "ratio_to_ridge_cv": round(statistics.median(ratios), 2),
        "memory_mb": megabytes,
        "steps": {name: round(after - before, 2) for (name, before), (_, after) in pairwise(steps)},
    }


def predict(root: Path, representations: list[str], **arguments: Any) -> None:
    """One run, every state used."""
    predict_properties(ZOO, root, representations=representations, max_weight=np.inf, **arguments)


def ridge_cv(root: Path) -> None:
    """The same numbers by scikit-learn."""
    splits = datasets.load_dataset(
        "model_zoos", ZOO, data_dir=str(root), columns=["weights", *PRESENT]
    )
    x = model_zoos.weights(splits["train"]).numpy()
    y = np.stack([np.array(splits["train"][target]) for target in PRESENT], axis=1)
    fitted = RidgeCV(STRENGTHS, alpha_per_target=True).fit(x, y)
    for split in ("validation", "test"):
        fitted.predict(model_zoos.weights(splits[split]).numpy())


def memory(root: Path) -> int:
    """The largest resident memory of `model-zoos benchmark`, in MB."""
    code = (
        "import json, resource, sys; from pathlib import Path; import datasets; "
        "datasets.disable_progress_bars(); "
        "from model_zoos.benchmarks.speed.prediction import predict; "
        "predict(Path(sys.argv[1]), ['weights', 'statistics']); "
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], check=True, capture_output=True, text=True
    )
    return round(json.loads(done.stdout) * 1024 / 1e6)
