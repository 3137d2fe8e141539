"""Reading of a table of checkpoints (run_table.py), with remarks on its columns for the user."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InvalidArgument, Unreadable
from ..model_file import SHARES_OF_1
from ..phrases import counted
from ..schema import HYPERPARAMETERS, METRICS
from ..zoo_directory import SOURCE_COLUMNS
from .archive import blamed_on_the_file, printable, shown
from .cells import CAN_BE_NULL, cell_hyperparameters, cell_number, null_remark
from .run_rows import KEYS, Rows
from .run_table import Entry, RunTable

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
        found = Rows(folder, rename)
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


def _remarks(
    found: Rows, models: Mapping[str, Sequence[Entry]], constants: Iterable[str]
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
