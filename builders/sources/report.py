"""The import report: which states of a source were left out, and why.

A state is left out when its file is unreadable, truncated, empty or of the wrong shape, when a
weight is NaN or infinite (the paper's code leaves out NaN: test_checkpoint_for_nan), when its
losses or accuracies on the training and test set are missing, and, only on request, when a weight
exceeds a threshold (the paper's data sets use 5: test_checkpoint_with_threshold). Other metrics are
null where they were not measured; all losses of the Small CNN Zoo and all metrics of a table may be
null. A faulty state never affects another state.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..atomic import write_atomically
from ..model_file import SHARES_OF_1
from ..untrusted import read_plain

REPORT = "import_report.json"
"""Name of the report's file in the directory of a zoo."""

REQUIRED_METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")


@dataclass(frozen=True, order=True)
class LeftOut:
    """A state that was not imported.

    Attributes:
        trial: its folder or model, under the source's name.
        epoch: epoch of the state.
        reason: category, followed by a colon and details.
    """

    trial: str
    epoch: int
    reason: str

    @property
    def category(self) -> str:
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Report:
    """The outcome for all states of a source that belong to one zoo.

    Attributes:
        zoo: name of the zoo.
        source: `file`, `bytes` and `sha256` of the source.
        models: number of models with at least one kept state.
        found: number of states in the source, always the sum of kept and left out states.
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
        """Return the number of left out states by category, most frequent first."""
        return dict(Counter(state.category for state in self.left_out).most_common())

    def to_json(self) -> dict[str, object]:
        """Return the content of import_report.json, which is the same for the same source."""
        return {**asdict(self), "categories": self.categories()}

    def write(self, folder: Path) -> None:
        """Write import_report.json, unless it exists with the same content."""
        content = (json.dumps(self.to_json(), indent=1) + "\n").encode()
        path = folder / REPORT
        try:
            same = read_plain(path, len(content)) == content
        except OSError:  # it does not exist, or is larger
            same = False
        if not same:
            write_atomically(path, content)


def weights_fault(weights: NDArray[np.float32], max_weight: float | None = None) -> str | None:
    """Return why a weight vector is left out; None if it is kept.

    Args:
        weights: float32 [N].
        max_weight: largest |w| that is kept; None for no limit.
    """
    largest = float(np.abs(weights).max())  # NaN if any weight is NaN
    if not math.isfinite(largest):
        bad = int((~np.isfinite(weights)).sum())
        return f"NaN or infinite weights: {bad} of {len(weights)}"
    if max_weight is not None and largest > max_weight:
        return f"weights above {max_weight:g}: the largest is {largest:.4g}"
    return None


def require_metrics(metrics: Mapping[str, object], names: Iterable[str]) -> None:
    """Check the metrics that a state must have; a loss may be NaN, an accuracy may not.

    Args:
        metrics: metrics in the source, under the names of the rows.
        names: the metrics that this state must have.

    Raises:
        Unreadable: one of them is missing or cannot be used.
    """
    for name in names:
        if metrics.get(name) is None:
            raise Unreadable(f"missing metrics: {name}")
        if fault := _fault(name, metrics[name]):
            raise Unreadable(f"wrong metrics: {fault}")


def drop_unusable(states: Iterable[tuple[int, dict[str, Any]]]) -> list[str]:
    """Set optional metrics of a model to null where their values cannot be used.

    Args:
        states: epoch and metrics of each state; null stands for an unmeasured metric.

    Returns:
        A remark on each metric that was set to null.
    """
    faults: dict[str, list[str]] = {}
    for epoch, metrics in states:
        for name in metrics.keys() - REQUIRED_METRICS:
            if metrics[name] is not None and (fault := _fault(name, metrics[name])):
                faults.setdefault(name, []).append(f"{fault}, at epoch {epoch}")
                metrics[name] = None
    return [
        f"{name} is null at {len(found)} states, at the first because {found[0]}"
        for name, found in sorted(faults.items())
    ]


def _fault(name: str, value: object) -> str | None:
    if not isinstance(value, float) and (type(value) is not int or abs(value) > 2**53):
        return f"{name} is no number"
    if name in SHARES_OF_1 and not 0 <= value <= 1:
        return f"{name} is {value}, not a share of 1"
    return None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that were measured."""
    return {name: float(value) for name, value in metrics.items() if value is not None}


def whole(value: object) -> int | None:
    """Return a whole number, even if it is written as 1.0; None for any other value."""
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if type(value) is int else None
