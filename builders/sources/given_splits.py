"""Splits that come with a source as a file: a split for each model's name, or an index list.

    model_id,split              4711
    run_1,train                 12
    run_2,test                  ...

Published work on the Small CNN Zoo commits lists of the second kind: an order of all rows. In this
order, the second half of the final states is the test set. The first half is shuffled by Python's
random.Random(0) and cut into 80 % for training and 20 % for validation.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import SourceNotFound, Unreadable
from ..files import file_digest
from ..phrases import counted
from ..untrusted import read_plain
from .archive import blamed_on_the_file, first_of, shown

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Word for a split -> our word."""

_MAX_BYTES = 1 << 26
_NAMES = ("model_id", "modeldir")


def splits_of_file(
    path: Path | None,
    names: Mapping[str, str],
    finals: Callable[[], Mapping[int, str | None]] | None,
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the split of each model that a file names, the entry for zoo.json, and remarks.

    Args:
        path: the file; None if there is none.
        names: model id -> name in the source.
        finals: returns the argument of `_by_order`; None if rows have no numbers.
    """
    remarks: list[str] = []
    if path is None:
        return {}, {}, remarks
    if not path.exists():
        raise SourceNotFound(f"{path}: there is no such file of splits")
    found = _read_splits(path)
    if isinstance(found, Mapping):
        splits = _by_name(found, names)
        if others := found.keys() - {*names, *names.values()}:
            unknown = counted(len(others), "unknown model")
            remarks.append(f"{path.name} names {unknown}: {first_of(sorted(others))}")
        if splits and len(splits) < len(names):
            remarks.append(
                f"{path.name} does not name {len(names) - len(splits)} of {len(names)} models, "
                "which were assigned 70/15/15"
            )
    elif finals is not None:
        splits = _by_order(found, finals())
    else:
        raise Unreadable(f"{path.name} has numbers of rows, expected models by name")
    if not splits:
        raise Unreadable(f"{path.name} names none of its models")
    return splits, {"splits": file_digest(path, "sha256")}, remarks


@blamed_on_the_file()
def _read_splits(path: Path) -> Mapping[str, str] | Sequence[int]:
    """Return each model's split by its name, or the order of all rows of the source.

    Raises:
        Unreadable: it is neither, repeats a model or row, or names an unknown split.
    """
    text = io.StringIO(read_plain(path, _MAX_BYTES).decode("utf-8-sig"), newline="")
    rows = (row for row in csv.reader(text) if row)
    first = next(rows, [])
    if len(first) == 1 and first[0].strip().isdecimal():
        order = [_row_number(path, row[0]) for row in (first, *rows)]
        if len(set(order)) < len(order):
            raise Unreadable(f"{path.name}: its index list names a row twice")
        return order
    head = [name.strip() for name in first]
    name = next((name for name in _NAMES if name in head), None)
    if name is None or "split" not in head:
        raise Unreadable(
            f"{path.name} is neither a list of row numbers nor a table with the columns "
            f"{' or '.join(_NAMES)} and split"
        )
    splits: dict[str, str] = {}
    for row in rows:
        values = {key: value.strip() for key, value in zip(head, row, strict=False)}
        model, split = values.get(name, ""), values.get("split", "").lower()
        if split not in SPLIT_WORDS:
            raise Unreadable(f"{path.name}: {shown(split)} is none of {', '.join(SPLIT_WORDS)}")
        if splits.setdefault(model, SPLIT_WORDS[split]) != SPLIT_WORDS[split]:
            raise Unreadable(f"{path.name}: the model {shown(model)} is in two splits")
    return splits


def _row_number(path: Path, text: str) -> int:
    if not text.strip().isdecimal():
        raise Unreadable(
            f"{path.name}: {shown(text)} is no number of a row, of which an index list has one in "
            "each line"
        )
    return int(text)


def _by_name(splits: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Return model id -> split.

    Args:
        splits: from `_read_splits`; models are named by their ids or as the source names them.
        names: model id -> name in the source.
    """
    found = {model: splits.get(model, splits.get(name)) for model, name in names.items()}
    return {model: split for model, split in found.items() if split is not None}


def _by_order(order: Sequence[int], finals: Mapping[int, str | None]) -> dict[str, str]:
    """Return model id -> split, assigned as published work does.

    Args:
        order: rows of the source, from `_read_splits`.
        finals: row of each final state -> id of its model; None if it is left out.
    """
    rows = [row for row in order if row in finals]
    half = len(rows) // 2
    first = list(range(half))
    random.Random(0).shuffle(first)
    cut = int(0.8 * half)
    parts = {
        "train": (rows[place] for place in first[:cut]),
        "validation": (rows[place] for place in first[cut:]),
        "test": iter(rows[half:]),
    }
    found = ((finals[row], split) for split, some in parts.items() for row in some)
    return {model: split for model, split in found if model is not None}
