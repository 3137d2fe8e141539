"""Results of the suite: named numbers, their tables and their JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...builders.splits import SPLITS
from ...builders.untrusted import read_json
from ...errors import FaultyZoo, InvalidArgument
from ..bootstrap import UNKNOWN, Floats, Interval, resamples
from ..tables import Table, interval, number

PROTOCOL = "model_zoos suite 1"
"""Name and version of the protocol. The version changes with every change that could change a
number at equal settings. Adding a number, or omitting an interval, changes no other number."""

FEWEST = 10
"""With fewer values (without copies), the interval of a mean is too narrow, so none is given."""


@dataclass(frozen=True)
class Measure:
    """One number.

    Attributes:
        of: what is measured, with one text for each of `Part.labels`.
        name: name of the number, such as "R2" or "accuracy".
        value: the number; NaN if it is not defined.
        interval: its 95 % interval; NaN if there is none.
    """

    of: tuple[str, ...]
    name: str
    value: float
    interval: Interval = UNKNOWN


@dataclass(frozen=True)
class Part:
    """The numbers of one part.

    Attributes:
        name: key of `PARTS`.
        title: title of the numbers.
        labels: names of the texts of `Measure.of`.
        measures: the numbers.
        settings: choices such as the number of samples; other settings give other numbers.
        notes: sentences that belong to the numbers.
        not_obtained: what -> why it could not be measured.
        seconds: time that it took.
    """

    name: str
    title: str
    labels: tuple[str, ...] = ()
    measures: Sequence[Measure] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
    not_obtained: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def table(self) -> Table:
        """Return a row for each measured thing and a column for each name."""
        if not self.measures:
            rows_not = tuple(self.not_obtained.items())
            return Table(f"{self.name}: not obtained", ("what", "why"), rows_not)
        names = list(dict.fromkeys(measure.name for measure in self.measures))
        bounded = {m.name for m in self.measures if not math.isnan(m.interval[0])}
        cells: dict[tuple[str, ...], dict[str, Measure]] = {}
        for measure in self.measures:
            cells.setdefault(measure.of, {})[measure.name] = measure
        columns, rows = list(self.labels), []
        for name in names:
            columns += [name, "[95 %]"] if name in bounded else [name]
        for of, found in cells.items():
            row = list(of)
            for name in names:
                one = found.get(name)
                row.append(number(one.value if one else None))
                if name in bounded:
                    row.append(interval(one.interval) if one else "-")
            rows.append(tuple(row))
        not_obtained = [f"not obtained: {what}: {why}" for what, why in self.not_obtained.items()]
        notes = (*self.notes, *not_obtained, f"{self.seconds:,.0f} s")
        return Table(f"{self.name}: {self.title}", tuple(columns), tuple(rows), notes)


@dataclass(frozen=True)
class SuiteResult:
    """The suite of one zoo.

    Attributes:
        protocol: `PROTOCOL` of the version that measured it.
        zoo: name.
        models, states: numbers of models and states in the zoo, by split.
        digest: SHA-256 of all states without their weights (`fingerprint`).
        settings: seed and sizes, fixed by the protocol unless a user changes them.
        versions: package -> version.
        parts: the parts in their order.
    """

    protocol: str
    zoo: str
    models: Mapping[str, int]
    states: Mapping[str, int]
    digest: str
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    parts: Sequence[Part]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SuiteResult:
        """Return a result from the command's JSON, which has None for each NaN.

        Raises:
            LookupError, TypeError, ValueError: an entry is missing or malformed.
        """
        _check(values, {"protocol": str, "zoo": str, "digest": str, "parts": list})
        _check(values, dict.fromkeys(("models", "states", "settings", "versions"), dict))
        for key in ("models", "states"):
            if set(values[key]) != set(SPLITS):
                raise ValueError(f"{key} must be those of {', '.join(SPLITS)}")
            _check(values[key], dict.fromkeys(SPLITS, int))
        return cls(**{**values, "parts": [_part(part) for part in values["parts"]]})

    def tables(self) -> list[Table]:
        """Return a table of the zoo, and one of each part."""
        counts = {"models": self.models, "states": self.states}
        splits = tuple(self.models)
        about = Table(
            f"{self.zoo}: {self.protocol}",
            ("number of", *splits),
            tuple((what, *(f"{n[split]:,}" for split in splits)) for what, n in counts.items()),
            (f"SHA-256 of the states without weights: {self.digest[:16]}...",),
        )
        return [about, *(part.table() for part in self.parts)]


def _part(values: Mapping[str, Any]) -> Part:
    _check(values, {"name": str, "title": str, "seconds": (int, float)})
    _check(values, dict.fromkeys(("labels", "measures", "notes"), list))
    _check(values, dict.fromkeys(("settings", "not_obtained"), dict))
    measures = []
    for one in values["measures"]:
        _check(one, {"of": list, "name": str, "interval": list})
        if len(one["of"]) != len(values["labels"]):
            raise ValueError(f"{one['of']} must have {len(values['labels'])} texts")
        low, high = map(_float, one["interval"])
        of = tuple(map(str, one["of"]))
        measures.append(Measure(of, one["name"], _float(one["value"]), (low, high)))
    return Part(**{**values, "labels": tuple(values["labels"]), "measures": measures})


def _check(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse entries that have other types.

    Raises:
        LookupError: an entry is missing.
        TypeError: an entry has another type.
    """
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise TypeError(f"{key} cannot be {values[key]!r:.40}")


def _float(value: object) -> float:
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.40} is no number")
    return math.nan if value is None else float(value)


def read_result(path: Path) -> SuiteResult:
    """Read a result written by `model-zoos benchmark --suite`.

    Raises:
        InvalidArgument: the file cannot be read or is something else; the message names it.
    """
    if not path.exists():
        raise InvalidArgument(f"{path}: there is no such file")
    try:
        values = read_json(path)
    except FaultyZoo as error:
        raise InvalidArgument(str(error)) from error
    if not str(values.get("protocol")).startswith(PROTOCOL.rpartition(" ")[0]):
        raise InvalidArgument(
            f"{path}: not a result of the suite: its protocol is {values.get('protocol')!r:.60}"
        )
    try:
        result = SuiteResult.from_json(values)
        result.tables()  # uses all values
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InvalidArgument(
            f"{path}: not a whole result of the suite: an entry is missing or malformed "
            f"({error!r:.80})"
        ) from error
    return result


def mean_of(of: tuple[str, ...], name: str, values: Floats, distinct: int | None = None) -> Measure:
    """Return the mean of some values with its bootstrap interval; NaN values are left out.

    Args:
        of, name: what the values are, see `Measure`.
        values: the values.
        distinct: how many of the measured things are not copies; None for all.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Measure(of, name, math.nan)
    bounds = UNKNOWN
    if len(values) >= FEWEST and (distinct is None or distinct >= FEWEST):
        means = np.concatenate([draws @ values for draws in resamples(len(values))]) / len(values)
        low, high = np.percentile(means, (2.5, 97.5))
        bounds = (float(low), float(high))
    return Measure(of, name, float(values.mean()), bounds)
