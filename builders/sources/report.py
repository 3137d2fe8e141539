"""Faulty states: what is left out of a zoo, why, and the account of it.

A state is left out when its file is unreadable, truncated, empty or of the wrong shape, when a
weight is NaN or infinite (the original leaves out NaN: test_checkpoint_for_nan), when its metrics
are missing, and, only if asked for, when a weight exceeds a threshold (the original's data sets
use 5: test_checkpoint_with_threshold). A faulty state costs no other state.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..model_file import SHARES_OF_1

REQUIRED_METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")


@dataclass(frozen=True, order=True)
class LeftOut:
    """A state that did not become a row.

    Attributes:
        trial: folder or model it belongs to, as the source names it.
        epoch: of the state.
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
        zoo: its name.
        source: `file`, `bytes` and `sha256` of the published file.
        models: with at least one kept state.
        found: states in the source; always `kept` and those left out together.
        kept: states in the zoo.
        left_out: the others, sorted.
        remarks: what is worth knowing beside: a cut result.json, trials without any state.
    """

    zoo: str
    source: Mapping[str, Any]
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
        """How many states were left out for which kind of reason, the most frequent first."""
        return dict(Counter(state.category for state in self.left_out).most_common())

    def to_json(self) -> dict[str, Any]:
        """For import_report.json; the same source gives the same bytes."""
        return {**asdict(self), "categories": self.categories()}


def weights_fault(weights: np.ndarray, max_weight: float | None = None) -> str | None:
    """Why a weight vector is left out, or None.

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


def metrics_fault(metrics: Mapping[str, Any] | None, names: Sequence[str]) -> str | None:
    """Why a state's metrics cannot be used, or None.

    Args:
        metrics: as the source records them; None if it has none.
        names: what this state must have; a loss may be NaN, an accuracy may not.
    """
    if metrics is None:
        return "missing metrics: no line of result.json has its training_iteration"
    for name in names:
        value = metrics.get(name)
        if value is None:
            return f"missing metrics: {name}"
        if type(value) not in (int, float) or (type(value) is int and abs(value) > 2**53):
            return f"wrong metrics: {name} is no number"
        if name in SHARES_OF_1 and not 0 <= value <= 1:
            return f"wrong metrics: {name} is {value}, not a share of 1"
    return None


def common_metrics(lines: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The optional metrics that a model has: those in more than half of its results."""
    lines = list(lines)
    return tuple(
        name
        for name in ("val_loss", "val_acc", "sparsity")
        if 2 * sum(line.get(name) is not None for line in lines) > len(lines)
    )
