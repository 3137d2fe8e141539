"""Speed of property prediction from 51,000 rows of CNN-s, compared with scikit-learn's RidgeCV.

The rows are random: 1,000 models of a hyperparameter grid with 51 states each, so that no target is
constant. A run does the work of the command: the zoo is loaded (once from its directory, then from
the cache), represented, fitted and scored with bootstrap intervals. On random rows a logistic
regression ends after a few steps. On real ones it takes up to 100 steps, whose time must be added.
The baseline is RidgeCV with the same 17 strengths on the same rows, for the three numbers alone. It
selects the strength by leave-one-out on train, ours on the validation split. Memory is that of a
process that does nothing else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.linear_model import RidgeCV

from tests.zoos import random_zoo

from ...builders.access import weights
from ...builders.catalog import zoo_spec
from ..probes import STRENGTHS
from ..property_prediction import predict_properties
from ..targets import NUMBERS
from .measure import Models, Rounds, interleave, peak_memory

ZOO = "mnist_cnn_s_hyp_10_r"
PRESENT = [target for target in NUMBERS if target != "sparsity"]
BASELINE = "scikit-learn's RidgeCV, numbers from weights"
_ALONE = (
    "import sys; from pathlib import Path; import datasets; datasets.disable_progress_bars(); "
    "from model_zoos.benchmarks.speed.prediction import predict; "
    "predict(Path(sys.argv[1]), representations=['weights', 'statistics'])"
)


def measure(models: Models = 1000, rounds: Rounds = 3) -> dict[str, Any]:
    """Return `seconds` by name, their ratio, `memory_mb`, and the seconds of each step of a run."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        directory = random_zoo(Path(folder) / "zoos", zoo_spec(ZOO), models)
        root = directory.path.parent
        memory = peak_memory("-c", _ALONE, str(root))
        work: dict[str, Callable[[], object]] = {
            "all targets from weights": partial(predict, root, representations=["weights"]),
            "all targets from statistics": partial(predict, root, representations=["statistics"]),
            "numbers from weights": partial(
                predict, root, representations=["weights"], targets=PRESENT
            ),
            BASELINE: partial(ridge_cv, root),
        }
        clock = interleave(work, rounds)
        steps: list[tuple[str, float]] = []
        predict(
            root,
            representations=["weights", "statistics"],
            on_progress=lambda what, *_: steps.append((what, time.perf_counter())),
        )
        steps.append(("end", time.perf_counter()))
    return {
        "rows": models * directory.zoo.states_per_model,
        "rounds": rounds,
        "seconds": {name: round(value, 2) for name, value in clock.medians().items()},
        "ratio_to_ridge_cv": round(clock.ratio(BASELINE, "numbers from weights"), 2),
        "memory_mb": memory["megabytes"],
        "steps": {name: round(after - before, 2) for (name, before), (_, after) in pairwise(steps)},
    }


predict = partial(predict_properties, ZOO, max_weight=np.inf)
"""Function that predicts once, from every state of the zoo in a folder."""


def ridge_cv(root: Path) -> None:
    """Predict the same numbers with scikit-learn."""
    splits = datasets.load_dataset(
        "model_zoos", ZOO, data_dir=str(root), columns=["weights", *PRESENT]
    )
    x = weights(splits["train"]).numpy()
    y = np.stack([np.array(splits["train"][target]) for target in PRESENT], axis=1)
    fitted = RidgeCV(STRENGTHS, alpha_per_target=True).fit(x, y)
    for split in ("validation", "test"):
        fitted.predict(weights(splits[split]).numpy())
