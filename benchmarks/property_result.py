"""The result of property prediction: the scores of a zoo, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..builders.phrases import counted
from ..builders.splits import SPLITS
from .bootstrap import FEWEST_MODELS, Interval
from .rows import LARGE_WEIGHT, WHY_LEFT_OUT
from .tables import Table, interval, number

FEW_MODELS = 30
"""With fewer test models, scores are too uncertain for comparison with those of papers."""

FEW_VALUES = 10
"""With fewer test values of the hyperparameter that splits were made by, a note says so."""

NO_INTERVAL = f"There is no interval for fewer than {FEWEST_MODELS} test models that differ."

KEEP_ALL = (
    "To keep them: model-zoos benchmark NAME --max-weight inf (in Python: max_weight=math.inf)."
)


@dataclass(frozen=True)
class Score:
    """How well one number is predicted from one representation.

    Attributes:
        target, representation: names.
        method: "ridge", "boosting" or the name of a user's predictor.
        strength: strength of the ridge penalty, chosen on validation; None for other methods.
        r2: R2 by split: 1 is perfect, 0 equals predicting the split's mean, below 0 is worse.
        tau: Kendall's tau-b by split, in [-1, 1].
        r2_interval, tau_interval: 95 % bootstrap intervals on test, over models; NaN with fewer
            than FEWEST_MODELS, or if too few of them differ.
    """

    target: str
    representation: str
    method: str
    strength: float | None
    r2: Mapping[str, float]
    tau: Mapping[str, float]
    r2_interval: Interval
    tau_interval: Interval


@dataclass(frozen=True)
class ClassScore:
    """How well one hyperparameter is recognised from one representation.

    Attributes:
        target, representation: names.
        method: "logistic", "boosting" or the name of a user's predictor.
        classes: number of classes in train.
        accuracy: accuracy by split, a share of states.
        majority: accuracy of always answering the train split's most frequent class.
        accuracy_interval: 95 % bootstrap interval on test, over models.
        unknown: number of states left out of this target because they do not have it.
    """

    target: str
    representation: str
    method: str
    classes: int
    accuracy: Mapping[str, float]
    majority: Mapping[str, float]
    accuracy_interval: Interval
    unknown: int


@dataclass(frozen=True)
class Result:
    """The benchmark of one zoo.

    Attributes:
        zoo: name.
        models, states: numbers of models and states used, by split.
        left_out: reason -> number of states that cannot be used.
        not_scored: target -> reason: it is constant or absent.
        scores: scores of numbers, one for each representation, method and target.
        class_scores: scores of classes.
        settings: offset, max_weight and epochs as given, split_by if it was given, and the number
            of threads of matrix products, on which the last digits depend.
        versions: package -> version, and the processor; empty in results that lack them.
        digest: SHA-256 of all states of the zoo without their weights (`fingerprint`), including
            unused ones; None in results that lack it.
        values: number of values of the hyperparameter `split_by`, by split; empty without it and
            in results that lack it.
    """

    zoo: str
    models: Mapping[str, int]
    states: Mapping[str, int]
    left_out: Mapping[str, int]
    not_scored: Mapping[str, str]
    scores: Sequence[Score]
    class_scores: Sequence[ClassScore]
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    values: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """Return a result from the JSON of `model-zoos benchmark`, which has None for each NaN."""
        scores = [Score(**score) for score in values["scores"]]
        class_scores = [ClassScore(**score) for score in values["class_scores"]]
        return cls(**{**values, "scores": scores, "class_scores": class_scores})

    def tables(self) -> list[Table]:
        """Return a table of numbers, one of classes, and one of the rows that were used."""
        tables, names = [], ("target", "from", "by")

        def add(title: str, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> None:
            unknown = any(row[columns.index("[95 %]")] == "-" for row in rows)
            models = self.models["test"]
            title = f"{self.zoo}: {title} with 95 % intervals over the test models"
            if models < FEW_MODELS:  # in the title, so that it is read before the numbers
                title += f". {counted(models, 'model')}: too few to compare with scores of papers"
            less = ("penalty", "R2 train", "train", "R2 validation", "validation")
            shown = tuple(name for name in less if name in columns)
            notes = (NO_INTERVAL,) * unknown + self._few_values()
            tables.append(Table(title, columns, rows, notes, secondary=shown))

        if self.scores:
            columns = (
                *(*names, "penalty"),
                *(*(f"R2 {split}" for split in SPLITS), "[95 %]", "tau test", "[95 %]"),
            )
            rows = tuple(
                (
                    *(score.target, score.representation, _method(score), _penalty(score)),
                    *(number(score.r2[split]) for split in SPLITS),
                    interval(score.r2_interval),
                    number(score.tau["test"]),
                    interval(score.tau_interval),
                )
                for score in self.scores
            )
            add("numbers, R2 and Kendall's tau", columns, rows)
        if self.class_scores:
            columns = (*names, "classes", *SPLITS, "[95 %]", "most frequent class, test")
            rows = tuple(
                (
                    *(score.target, score.representation, _method(score), str(score.classes)),
                    *(number(score.accuracy[split]) for split in SPLITS),
                    interval(score.accuracy_interval),
                    number(score.majority["test"]),
                )
                for score in self.class_scores
            )
            add("classes, accuracy", columns, rows)
        return [*tables, self._used()]

    def _few_values(self) -> tuple[str, ...]:
        """Return a note that the intervals are over models of a few values of `split_by`."""
        count, by = self.values.get("test", FEW_VALUES), self.settings.get("split_by")
        if count >= FEW_VALUES:
            return ()
        return (
            f"The intervals are over models of {counted(count, 'value')} of {by} and say nothing "
            "about others.",
        )

    def _used(self) -> Table:
        left_out = [f"{count:,} states ({why})" for why, count in self.left_out.items() if count]
        not_scored = [f"{target} ({why})" for target, why in self.not_scored.items()]
        large = any(count and why.startswith(LARGE_WEIGHT) for why, count in self.left_out.items())
        notes = [
            f"Left out: {', '.join(left_out) or 'none'}.",
            *([f"{WHY_LEFT_OUT} {KEEP_ALL.replace('NAME', self.zoo)}"] if large else []),
            f"Not scored: {', '.join(not_scored) or 'none'}.",
        ]
        counts = {"models": self.models, "states": self.states}
        by = self.settings.get("split_by")
        if self.values:
            counts = {f"values of {by}": self.values, **counts}
        return Table(
            f"{self.zoo}: rows that were used" + (f", split by {by}" if by else ""),
            ("number of", *SPLITS),
            tuple((what, *(f"{n[split]:,}" for split in SPLITS)) for what, n in counts.items()),
            tuple(notes),
        )


def _method(score: Score | ClassScore) -> str:
    return "trees" if score.method == "boosting" else score.method


def _penalty(score: Score) -> str:
    """Return the strength of the ridge penalty without an exponent, "-" for other methods."""
    return "-" if score.strength is None else np.format_float_positional(score.strength, trim="-")
