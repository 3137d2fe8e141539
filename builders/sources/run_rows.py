"""The rows of a table of checkpoints (run_table.py): what each says, and whether it can be used."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import Unreadable
from ..model_file import SHARES_OF_1
from ..schema import HYPERPARAMETERS, METRICS
from .archive import printable, shown
from .cells import CAN_BE_NULL, cell_hyperparameters, cell_number, cell_text
from .names import model_id_of
from .report import LeftOut, whole
from .run_table import Entry
from .table_files import Row, read_rows

KEYS = ("path", "model_id", "epoch")
"""The columns that a table must have."""

_ROUNDED = 1e-6
"""Tolerance above 1 for a share that was averaged in float32."""

_FEWEST_PERCENTS = 2
"""Number of values above 1 that make a column of shares suspect; one alone is its row's fault."""

_REPEATED = "repeated: another row is this epoch"


class Rows:
    """The rows of a table during reading: states by model and epoch, and rows left out.

    Args:
        folder: the folder to which the paths of the table are relative.
        rename: name of a column in the table -> name here.
    """

    def __init__(self, folder: Path, rename: Mapping[str, str]) -> None:
        self._folder, self._rename = os.path.abspath(folder), rename
        self.ours: dict[str, str] = {}
        self.entries: dict[str, dict[int, Entry]] = {}
        self.hyperparameters: dict[str, dict[int, dict[str, Any]]] = {}
        self.names: dict[str, str] = {}
        self.left_out: list[LeftOut] = []
        self.dropped: list[str] = []
        self.count = self.joined = 0
        self._shares: dict[str, list[int]] = {name: [0, 0] for name in SHARES_OF_1}
        self._epochs: dict[tuple[str, str], set[int]] = defaultdict(set)

    def read(self, path: Path) -> None:
        """Read all rows."""
        for row in read_rows(path, self.dropped):
            self.count += 1
            if isinstance(row, Unreadable):
                self._leave_out(f"row {self.count}", -1, row, self.count)
            else:
                self._add(self._renamed(row))

    def refuse_percents(self, table: str) -> None:
        """Raise Unreadable if a share is above 1 in several rows and in a tenth of all rows.

        In a column in percent, small values would look like shares.
        """
        suspect = [
            f"{name} is above 1 in {above} of {count} rows"
            for name, (above, count) in self._shares.items()
            if above >= max(_FEWEST_PERCENTS, count / 10)
        ]
        if suspect:
            raise Unreadable(
                f"{table}: {'; '.join(suspect)}; expected shares of 1: if they are in percent, "
                "divide these columns by 100"
            )

    def leave_out_shared_files(self) -> None:
        """Leave out epochs of a model that name the same file, which can hold only one of them."""
        for model, entries in [*self.entries.items()]:
            for epoch, entry in [*entries.items()]:
                count = len(self._epochs[model, self._file(entry.path)])
                if count > 1:
                    reason = (
                        f"ambiguous: {shown(entry.path, 200)} is the file of {count} epochs: keep "
                        "the row of the epoch at which it was saved"
                    )
                    self._leave_out(self.names[model], epoch, reason, entry.row)
                    del entries[epoch]
            if not entries:
                del self.entries[model], self.hyperparameters[model], self.names[model]

    def shared_files(self) -> dict[str, list[str]]:
        """Return each file that several models have -> names of these models."""
        models: dict[str, list[str]] = defaultdict(list)
        for model, file in self._epochs:
            if model in self.names:
                models[file].append(self.names[model])
        return {
            os.path.relpath(file, self._folder): names
            for file, names in models.items()
            if len(names) > 1
        }

    def _renamed(self, row: Row) -> Row:
        ours = {name: self._rename.get(name, name) for name in row}
        for theirs, name in self._rename.items():
            if theirs in row and name in row and name not in self._rename:
                # An existing column with this name is renamed.
                ours[name] = f"{name}_in_table"
                while ours[name] in row:
                    ours[name] += "_"
        self.ours |= ours
        return {ours[name]: value for name, value in row.items()}

    def _add(self, values: Row) -> None:
        trial, epoch = f"row {self.count}", -1
        try:
            name = cell_text(values.get("model_id"))
            if name is None:
                raise Unreadable("wrong model_id: it is empty")
            trial = printable(name)
            epoch = _epoch(values.get("epoch"))
            model = model_id_of(name)
            self._count(values, model, epoch)
            entry, hyperparameters = _entry(values, epoch, self.count)
            if earlier := self.entries.get(model, {}).get(epoch):
                if self._file(earlier.path) != self._file(entry.path):
                    raise Unreadable(_REPEATED)
                known = self.hyperparameters[model][epoch]
                entry = _joined(earlier, entry, known, hyperparameters)
                hyperparameters |= {n: v for n, v in known.items() if v is not None}
                self.joined += 1
        except Unreadable as error:
            self._leave_out(trial, epoch, error, self.count)
            return
        self.names[model] = trial
        self.entries.setdefault(model, {})[epoch] = entry
        self.hyperparameters.setdefault(model, {})[epoch] = hyperparameters

    def _count(self, values: Row, model: str, epoch: int) -> None:
        """Count what is checked once all rows are known, including rows that are left out."""
        if path := cell_text(values.get("path")):
            self._epochs[model, self._file(path)].add(epoch)
        for name, counts in self._shares.items():
            with suppress(Unreadable):
                number = cell_number(name, values.get(name), "metrics")
                if number is not None and not math.isnan(number):
                    counts[0] += number > 1 + _ROUNDED
                    counts[1] += 1

    def _file(self, path: str) -> str:
        """Return the file of a path, which may be absolute or relative to the folder."""
        return os.path.normpath(os.path.join(self._folder, path))

    def _leave_out(self, trial: str, epoch: int, reason: object, row: int) -> None:
        self.left_out.append(LeftOut(trial, epoch, f"{reason} (row {row})"))


def _joined(first: Entry, second: Entry, known: Mapping[str, Any], new: Mapping[str, Any]) -> Entry:
    """Join two rows of one file that have different metrics, or of which one has none.

    Columns that our rows do not have may differ: then both texts are kept, except those of a row
    without metrics.

    Args:
        first, second: the two rows.
        known, new: their hyperparameters.

    Raises:
        Unreadable: both have the same metric, or they disagree on a value.
    """

    def values(entry: Entry, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: entry.others[name] for name in CAN_BE_NULL if name in entry.others}
        return {**entry.metrics, **hyperparameters, **texts}

    one, two = values(first, known), values(second, new)
    agree = all(None in (value, two.get(name)) or two[name] == value for name, value in one.items())
    if not agree or first.metrics.keys() == second.metrics.keys():
        raise Unreadable(_REPEATED)
    if not second.metrics:
        return first
    if not first.metrics:
        return second
    others = {**second.others, **first.others}
    for name in first.others.keys() & second.others.keys():
        if first.others[name] != second.others[name]:
            others[name] = f"{first.others[name]}; {second.others[name]}"
    return first._replace(metrics={**first.metrics, **second.metrics}, others=others)


def _entry(values: Row, epoch: int, row: int) -> tuple[Entry, dict[str, Any]]:
    """Return the state of a row, and the hyperparameters of its model."""
    path = cell_text(values.get("path"))
    if path is None:
        raise Unreadable("missing file: its path is empty")
    metrics = {}
    for name in METRICS:
        number = cell_number(name, values.get(name), "metrics")
        if number is None:
            continue
        if name in SHARES_OF_1 and 1 < number <= 1 + _ROUNDED:
            number = 1.0
        if math.isnan(number) or (name in SHARES_OF_1 and not 0 <= number <= 1):
            good = "a share of 1" if name in SHARES_OF_1 else "a number"
            good += " (in percent? divide the column by 100)" * (1 < number <= 100)
            raise Unreadable(f"wrong metrics: {name} is {number:g}, not {good}")
        metrics[name] = number
    others = {
        name: text
        for name, value in values.items()
        if name not in KEYS and name not in METRICS and name not in HYPERPARAMETERS
        if (text := _as_written(value)) is not None
    }
    hyperparameters = cell_hyperparameters(values, others)
    return Entry(epoch, path, metrics, others, row), hyperparameters


def _epoch(value: object) -> int:
    number = None if isinstance(value, bool) else whole(cell_number("epoch", value, "epoch"))
    if number is None or not 0 <= number < 2**31:
        raise Unreadable(f"wrong epoch: {shown(value)} is no whole number from 0 on")
    return number


def _as_written(value: object) -> str | None:
    """Return a cell of any type as a text; None if it is empty."""
    if isinstance(value, list | dict | bool):
        return json.dumps(value, allow_nan=True)
    return None if value is None or value == "" else str(value)
