"""A folder of checkpoints with a table that describes them: one row for each state.

    path,model_id,epoch,test_acc,activation,learning_rate,gpu
    runs/3/last.pt,3,50,0.981,relu,0.001,A100

The table is CSV, JSON lines or Parquet. `path` is the checkpoint's path in the folder; `model_id`
and `epoch` name the state; metrics and hyperparameters have the names of our columns. All other
columns are kept as texts in source.parquet beside zoo.json, a row for each state.

A fault in a row affects only this row: a missing file, tensors of another network, a second row of
the same epoch, a NaN metric. An empty cell is a value that was not measured or is not known. Two
rows of one file and epoch are joined if they have different metrics and do not contradict each
other.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import InvalidArgument, Unreadable
from ..architecture import canonical_name, find_architecture
from ..catalog import ELSEWHERE, IMAGE_FOLDER, UNKNOWN_IMAGES, config_names
from ..layers import looks_like_text, parse_text
from ..layout import Layout, find_layout, make_layout
from ..model_file import SHARES_OF_1
from ..phrases import counted
from ..schema import HYPERPARAMETERS, METRICS
from ..specification import Zoo
from ..zoo_directory import SOURCE_COLUMNS
from .archive import blamed_on_the_file, printable, shown
from .cells import CAN_BE_NULL, cell_hyperparameters, cell_number, cell_text, null_remark
from .found import State
from .identify import specify_drawn
from .names import model_id_of
from .report import LeftOut, weights_fault, whole
from .state_files import floats, largest_file, read_tensors, weights_of
from .table_files import Row, read_rows

FORM = "table"
"""The source format in zoo.json."""

KEYS = ("path", "model_id", "epoch")
"""The columns that a table must have."""

_ROUNDED = 1e-6
"""Tolerance above 1 for a share that was averaged in float32."""

_SHORT = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "act": "activation",
    "nonlinearity": "activation",
    "opt": "optimizer",
    "optim": "optimizer",
    "sched": "scheduler",
}
"""Common short names of hyperparameters, for which our name is suggested."""

_FEWEST_PERCENTS = 2
"""Number of values above 1 that make a column of shares suspect; one alone is its row's fault."""

_REPEATED = "repeated: another row is this epoch"


class Entry(NamedTuple):
    """A row of the table: the state of a model.

    Attributes:
        epoch: its epoch.
        path: path of its checkpoint, as written in the table.
        metrics: the measured metrics, under our names.
        others: values of the columns that our rows do not have.
        row: its number in the table, starting at 1.
    """

    epoch: int
    path: str
    metrics: Mapping[str, float]
    others: Mapping[str, str]
    row: int


@dataclass(frozen=True)
class RunTable:
    """The content of a table, without the checkpoints.

    Attributes:
        folder: of the checkpoints.
        models: model id -> its states by epoch.
        names: model id -> name in the table.
        hyperparameters: model id -> hyperparameters of our rows; None where not known.
        left_out: rows that do not describe a state.
        remarks: facts on the columns that a user must know.
        count: number of states that the rows describe.
    """

    folder: Path
    models: Mapping[str, Sequence[Entry]]
    names: Mapping[str, str]
    hyperparameters: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[LeftOut]
    remarks: Sequence[str]
    count: int

    def part(self, ids: Sequence[str]) -> RunTable:
        """Return a part with some of the models, for another process."""
        return replace(
            self,
            models={model: self.models[model] for model in ids},
            names={model: self.names[model] for model in ids},
            hyperparameters={model: self.hyperparameters[model] for model in ids},
            left_out=(),
            remarks=(),
        )

    def states(
        self, model_id: str, layout: Layout, max_weight: float | None = None
    ) -> Iterator[State | LeftOut]:
        """Yield the states of one model by epoch, with one of them in memory at a time."""
        for entry in self.models[model_id]:
            try:
                yield self._state(entry, layout, max_weight)
            except Unreadable as error:
                yield LeftOut(self.names[model_id], entry.epoch, str(error))

    @blamed_on_the_file()
    def _state(self, entry: Entry, layout: Layout, max_weight: float | None) -> State:
        tensors = read_tensors(self._path(entry), largest_file(layout))
        weights = weights_of(tensors, layout)
        if fault := weights_fault(weights, max_weight):
            raise Unreadable(fault)
        return State(entry.epoch, weights, entry.metrics, {})

    def _path(self, entry: Entry) -> Path:
        root = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(root, entry.path))
        if os.path.commonpath((root, path)) != root:
            raise Unreadable(f"refused: the path {shown(entry.path, 200)} leaves the folder")
        if not os.path.isfile(path):
            raise Unreadable(
                f"missing file: there is no {shown(entry.path, 200)} in {self.folder.name}"
            )
        return Path(path)

    def sizes(self) -> list[tuple[str, int | None]]:
        """Return the path and the size in bytes of each checkpoint; None if it is missing."""

        def size(entry: Entry) -> int | None:
            try:
                return os.stat(self._path(entry)).st_size
            except (Unreadable, OSError, ValueError):
                return None

        entries = itertools.chain.from_iterable(self.models.values())
        return [(entry.path, size(entry)) for entry in entries]

    def layout(self, architecture: str) -> Layout:
        """Return the layout of the checkpoints.

        Args:
            architecture: name or text of the network. If a name leaves channels or classes open,
                those of the first readable checkpoint are taken.

        Raises:
            InvalidArgument: there is no such network.
            Unreadable: no checkpoint fits this network.
        """
        name = canonical_name(architecture)
        if looks_like_text(architecture):
            text = parse_text(architecture)
            return make_layout(name, text.channels, text.classes)
        reason = "it has no row that can be used"
        for entry in itertools.chain.from_iterable(self.models.values()):
            try:
                return self._layout_of(name, entry)
            except Unreadable as error:
                reason = str(error)
        raise Unreadable(f"no checkpoint is a {find_architecture(name).title}, the last: {reason}")

    @blamed_on_the_file()
    def _layout_of(self, name: str, entry: Entry) -> Layout:
        tensors = floats(read_tensors(self._path(entry), 1 << 30))
        return find_layout(name, sum(array.size for array in tensors.values()))

    def columns(self) -> pa.Table | None:
        """Return the columns that our rows do not have, a row for each state; None without any."""
        rows = [(i, entry) for i in sorted(self.models) for entry in self.models[i]]
        names = dict.fromkeys(name for _, entry in rows for name in entry.others)
        if not names:
            return None
        return pa.table(
            {
                "model_id": pa.array([model for model, _ in rows], pa.string()),
                "epoch": pa.array([entry.epoch for _, entry in rows], pa.int32()),
                **{
                    name: pa.array([entry.others.get(name) for _, entry in rows], pa.string())
                    for name in names
                },
            }
        )

    def specify(self, layout: Layout, name: str, images: str | None) -> Zoo:
        """Return the specification of the zoo.

        Args:
            layout: of its models.
            name: its name.
            images: key of the images on which they were trained; None if they are not known.
        """
        epochs = [entry.epoch for entries in self.models.values() for entry in entries]
        epochs += [model["epochs"] or 1 for model in self.hyperparameters.values()]
        images = images or UNKNOWN_IMAGES
        own = images.startswith(IMAGE_FOLDER)
        return specify_drawn(
            [*self.hyperparameters.values()],
            {
                "name": name,
                "image_dataset": Path(images).name if own else images.partition("/")[0],
                "images": images,
                "architecture": layout.architecture.name,
                "channels": layout.channels,
                "classes": layout.classes,
                "epochs": max(epochs),
                "note": "imported from checkpoints and a table; the rows say what each model has",
            },
        )


def check_name(name: str) -> str:
    """Return the name of a user's zoo; raise InvalidArgument if it is in the catalog."""
    if name in config_names() or name in ELSEWHERE:
        raise InvalidArgument(
            f"{name} is a zoo of the catalog: give this one another name", hint="--zoo NAME"
        )
    return name


def read_run_table(
    path: Path,
    folder: Path,
    rename: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
) -> RunTable:
    """Read a table, and check its content without opening a checkpoint.

    Args:
        path: a file that ends in .csv, .tsv, .jsonl or .parquet.
        folder: the folder to which its paths are relative.
        rename: name of a column in the table -> name here.
        constants: hyperparameters that all models share and that the table has no column for.

    Raises:
        InvalidArgument: `rename` or `constants` does not fit the table or our rows.
        Unreadable: the table cannot be read, or lacks a column.
    """
    rename, constants = dict(rename or {}), dict(constants or {})
    known = (*KEYS, *METRICS, *HYPERPARAMETERS)
    for name in rename.values():
        if name not in known:
            raise InvalidArgument(
                f"a column cannot be renamed to {name!r}, expected one of {', '.join(known)}"
            )
    for name in constants:
        if name not in HYPERPARAMETERS:
            raise InvalidArgument(
                f"a constant cannot be {name!r}, expected one of {', '.join(HYPERPARAMETERS)}"
            )
    for name, count in Counter(rename.values()).items():
        if count > 1:
            raise InvalidArgument(f"{count} columns are renamed to {name}, expected one")
    try:
        shared = cell_hyperparameters(constants)
    except Unreadable as error:
        raise InvalidArgument(str(error)) from None
    with blamed_on_the_file():
        found = _Rows(folder, rename)
        found.read(path)
        if not found.ours:
            reason = min(found.left_out).reason if found.left_out else "it is empty"
            raise Unreadable(f"{path.name} has no row that can be read: {reason}")
    if absent := sorted(rename.keys() - found.ours.keys()):
        raise InvalidArgument(
            f"{path.name} has no column {absent[0]!r}, which is to be renamed; it has "
            f"{', '.join(map(printable, [*found.ours][:20])) or 'none'}"
        )
    if missing := [key for key in KEYS if key not in found.ours.values()]:
        raise Unreadable(
            f"{path.name} has no column {' and no '.join(missing)}; it has "
            f"{', '.join(map(printable, [*found.ours][:20])) or 'none'}",
            hint=" ".join(f"--rename THEIRS={key}" for key in missing),
        )
    found.refuse_percents(path.name)
    found.leave_out_shared_files()
    if not found.entries:
        reason = min(found.left_out).reason if found.left_out else "it is empty"
        raise Unreadable(f"{path.name} has no row that can be used: {reason}")
    hyperparameters, remarks = _agree(found.hyperparameters, shared)
    models = {model: [of[e] for e in sorted(of)] for model, of in sorted(found.entries.items())}
    remarks += _remarks(found, models, constants)
    states = found.count - found.joined
    return RunTable(folder, models, found.names, hyperparameters, found.left_out, remarks, states)


def _remarks(
    found: _Rows, models: Mapping[str, Sequence[Entry]], constants: Iterable[str]
) -> list[str]:
    """Return the facts on a table's columns that a user must know.

    Args:
        found: its rows.
        models: model id -> its states.
        constants: names of the hyperparameters that all models share.
    """
    entries = [entry for of in models.values() for entry in of]
    others = dict.fromkeys(name for entry in entries for name in entry.others)
    remarks = []
    for name in CAN_BE_NULL:
        if name in others:
            del others[name]
            texts = {entry.others[name] for entry in entries if name in entry.others}
            remarks.append(null_remark(name, texts))
    if others:
        remarks.append(
            f"columns that no row has, kept in {SOURCE_COLUMNS} ({len(others)}): "
            f"{', '.join(map(printable, others))}"
        )
    taken = {*found.ours.values(), *constants}
    if options := _suggested(entries, others, taken):
        remarks.append(f"columns that may be ours: {' '.join(map(printable, options))}")
    if changed := [model for model, text in sorted(found.names.items()) if model != text]:
        text = f"{shown(found.names[changed[0]], 60)} is {changed[0]}"
        remarks.append(f"the ids of {counted(len(changed), 'model')} are not their names: {text}")
    if not set(found.ours.values()) & set(METRICS):
        remarks.append(
            "no column is a metric, so that nothing can be benchmarked or verified: "
            "--rename THEIRS=test_acc (rename=) names one"
        )
    if shared := found.shared_files():
        some = next(iter(shared))
        remarks.append(
            f"{counted(len(shared), 'checkpoint')} of several models: {printable(some)} belongs to "
            f"{', '.join(map(printable, shared[some][:3]))}"
        )
    if found.joined:
        remarks.append(f"{counted(found.joined, 'row')} joined with another row of the same state")
    if found.dropped:
        listed = ", ".join(map(printable, found.dropped))
        remarks.append(f"nested columns that are not kept ({len(found.dropped)}): {listed}")
    return remarks


def _suggested(entries: Sequence[Entry], others: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Return options that rename columns whose names resemble ours and whose values fit.

    Args:
        entries: all states.
        others: columns that no row of ours has.
        taken: our names for which there is a column or a constant.
    """
    missing = {*METRICS, *HYPERPARAMETERS}.difference(taken)
    options = []
    for name in others:
        for part in (name, name.rpartition(".")[2]):
            plain = re.sub(r"[^a-z0-9]+", "_", part.lower()).replace("accuracy", "acc")
            plain = re.sub(r"^valid(ation)?_", "val_", plain)
            ours = _SHORT.get(plain, plain)
            if ours in missing and all(_fits(ours, entry.others.get(name)) for entry in entries):
                missing.remove(ours)
                options.append(f"--rename {shlex.quote(f'{name}={ours}')}")
    return options


def _fits(name: str, cell: str | None) -> bool:
    """Return whether a value is possible in a column of ours."""
    try:
        if name in METRICS:
            number = cell_number(name, cell, "metrics")
            return number is None or name not in SHARES_OF_1 or 0 <= number <= 1
        cell_hyperparameters({name: cell})
    except Unreadable:
        return False
    return True


class _Rows:
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


def _agree(
    given: Mapping[str, Mapping[int, Mapping[str, Any]]], shared: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the hyperparameters of each model (at its first epoch that has them), and remarks."""
    changing: dict[str, int] = defaultdict(int)
    overruled: dict[str, int] = defaultdict(int)
    agreed: dict[str, dict[str, Any]] = {}
    for model, rows in given.items():
        values: dict[str, Any] = {}
        changed = set()
        for epoch in sorted(rows):
            for name, value in rows[epoch].items():
                if value is not None and values.setdefault(name, value) != value:
                    changed.add(name)
        for name in changed:
            changing[name] += 1
        for name, value in shared.items():
            overruled[name] += values.get(name, value) != value
        agreed[model] = dict.fromkeys(HYPERPARAMETERS) | dict(shared) | values
    remarks = [
        f"{name} changes within {count} models; their rows have that of the first epoch"
        for name, count in sorted(changing.items())
    ]
    remarks += [
        f"the constant {name} has no effect on {count} models, whose {name} the table has"
        for name, count in sorted(overruled.items())
        if count
    ]
    if all(values["activation"] is None for values in agreed.values()):
        remarks.append(
            "no column and no constant is the activation, so that nothing can be verified: "
            "--constant activation=NAME (constants=) gives it"
        )
    return agreed, remarks


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
