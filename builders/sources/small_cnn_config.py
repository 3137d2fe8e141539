"""The `config.*` of the Small CNN Zoo: the values of each model, and the unusable rows.

The table repeats the `config.*` of a model in each of its rows. Values are checked as in a user's
table: a row with an impossible value is left out, an unknown optimizer or initialisation becomes
null, and if values change within a model, the first by epoch counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...errors import Unreadable
from ..phrases import counted
from ..zoo_directory import SOURCE_COLUMNS
from .archive import printable
from .cells import cell_hyperparameters, null_remark
from .found import HYPERPARAMETER_KINDS

_COLUMNS = {
    "activation": "config.activation",
    "optimizer": "config.optimizer",
    "init": "config.w_init",
    "dropout": "config.dropout",
    "learning_rate": "config.learning_rate",
    "seed": "config.random_seed",
    "epochs": "config.epochs",
}
"""Hyperparameter -> column of the source."""


@dataclass(frozen=True)
class _Values:
    """Some cells of a hyperparameter.

    Attributes:
        values: the value of each; None if the cell has none that a row can have.
        unknown: number of the cell -> text of an optimizer or initialisation that we do not have.
        faults: number of the cell -> why its value is impossible for a model.
    """

    values: Sequence[Any]
    unknown: Mapping[int, str]
    faults: Mapping[int, str]


@dataclass(frozen=True)
class _Column:
    """A column that repeats one text in all rows of nearly every model.

    Attributes:
        cells: texts of the first row of each model, followed by those of each odd row.
        odd: int64, the rows whose text differs from that of the first row of their model.
    """

    cells: pa.Array
    odd: NDArray[np.int64]

    @classmethod
    def of(cls, column: pa.ChunkedArray, firsts: NDArray[np.int64], first: pa.Array) -> _Column:
        """Return a column.

        Args:
            column: texts of all rows.
            firsts: first row of each model.
            first: for each row, the first row of its model.
        """
        texts = column.combine_chunks()
        expected = texts[0] if len(texts) else pa.scalar(None, pa.string())
        same = pc.equal(texts, expected)
        if same.null_count or not pc.all(same).as_py():  # some model has several texts
            expected = texts.take(first)
            same = pc.equal(texts, expected)
        if same.null_count:
            neither = pc.and_(pc.is_null(texts), pc.is_null(expected))
            same = pc.or_(pc.fill_null(same, False), neither)
        odd = np.flatnonzero(~same.to_numpy(zero_copy_only=False))
        return cls(texts.take(pa.array(np.concatenate([firsts, odd]))), odd)

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each row's cell, from the number of each row's model."""
        places = numbers.copy()
        places[self.odd] = np.arange(len(self.cells) - len(self.odd), len(self.cells))
        return places


class Config:
    """The `config.*` of all rows.

    Args:
        config: texts of all rows.
        numbers: int64 [rows], the number of each row's model, from 0 on.
    """

    def __init__(self, config: pa.Table, numbers: NDArray[np.int64]) -> None:
        self._numbers = numbers
        firsts = np.empty(int(numbers.max(initial=-1)) + 1, np.int64)
        firsts[numbers[::-1]] = np.arange(len(numbers))[::-1]  # the first row is set last
        first = pa.array(firsts[numbers])
        self._columns = {
            name: _Column.of(config[name], firsts, first) for name in config.column_names
        }
        self._values = {
            theirs: _values(name, self._columns[theirs].cells)
            for name, theirs in _COLUMNS.items()
            if theirs in self._columns
        }

    def faults(self) -> Iterator[tuple[int, str]]:
        """Yield the rows with a value that is impossible for a model, and why."""
        for name, values in self._values.items():
            column = self._columns[name]
            if values.faults:
                wrong = np.zeros(len(column.cells), np.bool_)
                wrong[list(values.faults)] = True
                places = column.places(self._numbers)
                for row in np.flatnonzero(wrong[places]).tolist():
                    yield row, values.faults[int(places[row])]

    def of_models(
        self, kept: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> tuple[pa.Table, list[dict[str, Any]], list[str]]:
        """Return the `config.*` and the hyperparameters of each model, and remarks.

        Args:
            kept: rows that are used, sorted by model and epoch.
            starts: where the rows of each model start in `kept`.
        """
        ours = {theirs: name for name, theirs in _COLUMNS.items()}
        texts: dict[str, pa.Array] = {}
        found: dict[str, list[Any]] = {}
        remarks = []
        for name, column in self._columns.items():
            values = self._values.get(name)
            chosen, changing = self._chosen(column, values, kept, starts)
            texts[name] = column.cells.take(pa.array(chosen))
            if values is not None:
                found[name] = [values.values[place] for place in chosen.tolist()]
                if null := values.unknown.keys() & set(chosen.tolist()):
                    remarks.append(null_remark(ours[name], {values.unknown[cell] for cell in null}))
            if changing:
                models = counted(changing, "model")
                where = f"{SOURCE_COLUMNS} has" if values is None else "their rows have"
                remarks.append(
                    f"{ours.get(name, printable(name))} changes within {models}; {where} that of "
                    "the first epoch"
                )
        absent = [None] * len(starts)
        rows = zip(*(found.get(theirs, absent) for theirs in _COLUMNS.values()), strict=True)
        hyperparameters = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        return pa.table(texts), hyperparameters, remarks

    def _chosen(
        self,
        column: _Column,
        values: _Values | None,
        kept: NDArray[np.int64],
        starts: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], int]:
        """Return the index of the cell that counts for each model, the first one by epoch that is
        not empty, and the number of models within which the values change."""
        if not len(column.odd):
            return self._numbers[kept[starts]], 0
        places = column.places(self._numbers)[kept]
        chosen = places[starts]
        keys = column.cells.to_pylist()
        if values is not None:
            keys = [
                values.unknown.get(place) if value is None else value
                for place, value in enumerate(values.values)
            ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        codes = np.array([-1 if key is None else numbers[key] for key in keys])
        models = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(kept)))
        known = np.flatnonzero(codes[places] >= 0)
        first = known[np.flatnonzero(np.diff(models[known], prepend=-1))]
        chosen[models[first]] = places[first]
        changed = codes[places[known]] != codes[chosen[models[known]]]
        return chosen, len(np.unique(models[known[changed]]))


def _values(name: str, texts: pa.Array) -> _Values:
    """Read the cells of a hyperparameter."""
    kind, possible = HYPERPARAMETER_KINDS[name]
    if kind is not str and len(texts) and not texts.null_count:
        with suppress(pa.ArrowInvalid):  # some value is not such a number
            column = pc.cast(texts, pa.int64() if kind is int else pa.float64()).to_numpy()
            # The possible values form an interval, so checking the ends suffices; NaN is never in
            # it.
            if possible(column.min().item()) and possible(column.max().item()):
                return _Values(column.tolist(), {}, {})
    encoded = texts.dictionary_encode()
    read: list[Any] = []
    unknown: dict[int, str] = {}
    faults: dict[int, str] = {}
    for number, text in enumerate(encoded.dictionary.to_pylist()):
        others: dict[str, str] = {}
        value = None
        try:
            value = cell_hyperparameters({name: text}, others)[name]
        except Unreadable as error:
            faults[number] = str(error)
        read.append(value)
        if name in others:
            unknown[number] = others[name]
    places = encoded.indices.to_pylist()

    def by_cell(found: Mapping[int, str]) -> dict[int, str]:
        cells = enumerate(places) if found else ()  # nearly always empty
        return {cell: found[place] for cell, place in cells if place in found}

    values = [None if place is None else read[place] for place in places]
    return _Values(values, by_cell(unknown), by_cell(faults))
