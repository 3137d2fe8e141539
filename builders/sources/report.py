"""The import report: which states of a source were left out, and why.

A state is left out when its file is unreadable, truncated, empty or of the wrong shape, when a
weight is NaN or infinite (the paper's code leaves out NaN: test_checkpoint_for_nan), when its
metrics are missing, and, only on request, when a weight exceeds a threshold (the paper's data sets
use 5: test_checkpoint_with_threshold). A faulty state never affects another state.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_atomically
from ..model_file import SHARES_OF_1

REPORT = "import_report.json"
"""Name of the report's file in the directory of a zoo."""

REQUIRED_METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")


@dataclass(frozen=True, order=True)
class LeftOut:
    """A state that did not become a row.

    Attributes:
        trial: folder or model to which it belongs, as the source names it.
        epoch: epoch of the state.
        reason: category, and after a colon what was found.
    """

    trial: str
    epoch: int
    reason: str

    @property
    def category(self) -> str:
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Report:
    """What became of all states of a source that belong to one zoo.

    Attributes:
        zoo: name of the zoo.
        source: `file`, `bytes` and `sha256` of the source.
        models: number of models with at least one kept state.
        found: number of states in the source, always that of kept and left out states together.
        kept: number of states in the zoo.
        left_out: the other states, sorted.
        remarks: further facts worth knowing: a cut result.json, trials without any state.
    """

    zoo: str
    source: Mapping[str, object]
    models: int
    found: int
    kept: int
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.found != self.kept + len(self.left_out):
            raise AssertionError(
                f"{self.found} states found, {self.kept} kept, {len(self.left_out)} left out"
            )

    def categories(self) -> dict[str, int]:
        """Return the number of left out states by category, the most frequent first."""
        return dict(Counter(state.category for state in self.left_out).most_common())

    def to_json(self) -> dict[str, object]:
        """Return the content of import_report.json, which is the same for the same source."""
        return {**asdict(self), "categories": self.categories()}

    def write(self, folder: Path) -> None:
        """Write import_report.json, unless it is there with the same content."""
        content = (json.dumps(self.to_json(), indent=1) + "\n").encode()
        path = folder / REPORT
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)


def weights_fault(weights: NDArray[np.float32], max_weight: float | None = None) -> str | None:
    """Return why a weight vector is left out, or None.

    Args:
        weights: float32 [N].
        max_weight: largest |w| that is kept; None for no limit.
    """
    largest = float(np.abs(weights).max())  # NaN if any is
    if not math.isfinite(largest):
        bad = int((~np.isfinite(weights)).sum())
        return f"NaN or infinite weights: {bad} of {len(weights)}"
    if max_weight is not None and largest > max_weight:
        return f"weights above {max_weight:g}: the largest is {largest:.4g}"
    return None


def metrics_fault(metrics: Mapping[str, object] | None, names: Sequence[str]) -> str | None:
    """Return why a state's metrics cannot be used, or None.

    Args:
        metrics: metrics as the source records them; None if it has none.
        names: metrics that this state must have; a loss may be NaN, an accuracy may not.
    """
    if metrics is None:
        return "missing metrics: no line of result.json has its training_iteration"
    for name in names:
        value = metrics.get(name)
        if value is None:
            return f"missing metrics: {name}"
        if type(value) is not float and (type(value) is not int or abs(value) > 2**53):
            return f"wrong metrics: {name} is no number"
        if name in SHARES_OF_1 and not 0 <= value <= 1:
            return f"wrong metrics: {name} is {value}, not a share of 1"
    return None


def common_metrics(lines: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """Return the optional metrics of a model: those in more than half of its results."""
    lines = list(lines)
    return tuple(
        name
        for name in ("val_loss", "val_acc", "sparsity")
        if 2 * sum(line.get(name) is not None for line in lines) > len(lines)
    )
