"""Two results of the suite side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import InvalidArgument
from ..bootstrap import Interval
from ..tables import Table, interval, number
from .result import Measure, SuiteResult

Key = tuple[str, tuple[str, ...], str]
"""Part, texts of what is measured, and name of the number."""


@dataclass(frozen=True)
class Pair:
    """One number in both results.

    Attributes:
        part, of, name: what it is; see `Measure`.
        a, b: its values.
        a_interval, b_interval: their 95 % intervals.
    """

    part: str
    of: tuple[str, ...]
    name: str
    a: float
    b: float
    a_interval: Interval
    b_interval: Interval

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.b - self.a

    @property
    def overlap(self) -> bool | None:
        """Whether the intervals overlap; None if one is unknown."""
        (low, high), (other_low, other_high) = self.a_interval, self.b_interval
        if any(math.isnan(bound) for bound in (*self.a_interval, *self.b_interval)):
            return None
        return low <= other_high and other_low <= high


@dataclass(frozen=True)
class Comparison:
    """A comparison of two results of the same protocol.

    Attributes:
        a, b: names of the results, such as their files.
        pairs: numbers that both have.
        only_a, only_b: descriptions of numbers that only one of them has.
        remarks: other differences between the runs.
    """

    a: str
    b: str
    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    remarks: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Return one table of all pairs; its notes name what only one result has."""
        rows = tuple(
            (
                *(pair.part, ", ".join(filter(None, pair.of)), pair.name),
                *(number(pair.a), interval(pair.a_interval)),
                *(number(pair.b), interval(pair.b_interval)),
                number(pair.difference),
                {True: "yes", False: "no", None: "-"}[pair.overlap],
            )
            for pair in self.pairs
        )
        columns = ("part", "what", "number", "A", "A [95 %]", "B", "B [95 %]", "B - A", "overlap")
        notes = [*self.remarks, *_only("A", self.only_a), *_only("B", self.only_b)]
        title = f"A: {self.a}; B: {self.b}"
        return [Table(title, columns, rows, tuple(notes), secondary=("A [95 %]", "B [95 %]"))]


def compare(a: SuiteResult, b: SuiteResult, names: tuple[str, str] | None = None) -> Comparison:
    """Compare two results.

    Args:
        a, b: the results.
        names: names for them; by default the names of their zoos.

    Raises:
        InvalidArgument: they have different protocols.
    """
    names = names or (a.zoo, b.zoo)
    if a.protocol != b.protocol:
        raise InvalidArgument(
            f"{names[0]} is of the protocol {a.protocol!r}, {names[1]} of {b.protocol!r}: their "
            "numbers cannot be compared; run the suite again with one version of model_zoos"
        )
    found, other = _measures(a), _measures(b)
    pairs = tuple(
        Pair(*key, one.value, other[key].value, one.interval, other[key].interval)
        for key, one in found.items()
        if key in other
    )
    return Comparison(
        a=_title(names[0], a),
        b=_title(names[1], b),
        pairs=pairs,
        only_a=_without(found, other),
        only_b=_without(other, found),
        remarks=tuple(_remarks(a, b)),
    )


def _measures(result: SuiteResult) -> dict[Key, Measure]:
    return {(part.name, one.of, one.name): one for part in result.parts for one in part.measures}


def _without(found: dict[Key, Measure], other: dict[Key, Measure]) -> tuple[str, ...]:
    """Return what the other result lacks: a part, all of a kind, or things with their numbers."""
    known = {(part,) for part, _, _ in other} | {(part, *of[:1]) for part, of, _ in other}
    lacking: dict[str, list[str]] = {}
    for part, of, name in found:
        if (part,) not in known:
            lacking.setdefault(part, [])
        elif (part, *of[:1]) not in known:
            lacking.setdefault(f"{part}, {of[0]}", [])
        elif (part, of, name) not in other:
            lacking.setdefault(f"{part}, {', '.join(filter(None, of))}", []).append(name)
    return tuple(f"{what} ({', '.join(n)})" if n else what for what, n in lacking.items())


def _only(which: str, what: tuple[str, ...]) -> list[str]:
    return [f"Only {which} has: {'; '.join(what)}."] if what else []


def _title(name: str, result: SuiteResult) -> str:
    return name if name == result.zoo else f"{name} ({result.zoo})"


def _remarks(a: SuiteResult, b: SuiteResult) -> list[str]:
    remarks = []
    if a.zoo == b.zoo:
        same = "the same states" if a.digest == b.digest else "other states of the zoo"
        remarks.append(f"Both results are of {a.zoo}, and B of {same}.")
    if differing := _differing(a.settings, b.settings):
        remarks.append(f"Settings differ ({differing}), so numbers may for that reason.")
    if differing := _differing(a.versions, b.versions):
        remarks.append(f"Versions differ: {differing}.")
    others = {part.name: part for part in b.parts}
    for part in a.parts:
        other = others.get(part.name)
        if other is None:
            continue
        for which, one, two in (("A", part, other), ("B", other, part)):
            for what, why in one.not_obtained.items():
                if what not in two.not_obtained:
                    remarks.append(f"Not obtained in {which}: {part.name}, {what}: {why}")
        differing = _differing(part.settings, other.settings)
        if differing and part.measures and other.measures:
            remarks.append(f"Settings of {part.name} differ: {differing}.")
    return remarks


def _differing(a: Mapping[str, object], b: Mapping[str, object]) -> str:
    """Return the keys whose values differ, with short values; "" if there are none."""
    said = []
    for key in dict.fromkeys((*a, *b)):
        pair = [_short(values[key]) if key in values else "-" for values in (a, b)]
        if key not in a or key not in b or a[key] != b[key]:
            said.append(f"{key} {' and '.join(pair)}" if all(pair) else key)
    return "; ".join(said)


def _short(value: object) -> str:
    """Return a value as a text, "" if it is a list or a table."""
    return "" if isinstance(value, (Mapping, list, tuple)) else str(value)
