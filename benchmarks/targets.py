"""Targets of property prediction: what is predicted of a state from its weights.

A target is a column of the rows, a column of the zoo's source that no row has (source.parquet), or
a user's own function of the rows. Numbers are predicted by regression, classes by classification.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from ..builders.schema import COLUMNS, HYPERPARAMETERS, METRICS
from ..builders.source_columns import source_columns
from ..errors import InvalidArgument, did_you_mean
from .functions import find_function, place_of

NUMBER, CLASS = "number", "class"

TARGETS: Mapping[str, str] = {
    "test_acc": NUMBER,
    "epoch": NUMBER,
    "generalization_gap": NUMBER,
    "sparsity": NUMBER,
    "activation": CLASS,
    "init": CLASS,
    "optimizer": CLASS,
    "dropout": CLASS,
    "learning_rate": CLASS,
    "weight_decay": CLASS,
}
"""Columns that are predicted by default, and whether as a number (ridge) or as a class
(logistic)."""

NUMBERS = tuple(target for target, kind in TARGETS.items() if kind == NUMBER)

COLUMN_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("zoo", "image_dataset", "variant"), CLASS),
    **dict.fromkeys(("epoch", *METRICS, "generalization_gap"), NUMBER),
    **dict.fromkeys(HYPERPARAMETERS, CLASS),
}
"""Columns of rows that can be predicted, and as what unless a user says otherwise."""

NO_TARGETS = ("weights", "architecture", "model_id", "parent_model_id")
"""Columns that cannot be predicted: what is predicted from, and what differs from model to model
or is the same for all."""

ROW_COLUMNS = tuple(name for name in COLUMNS if name != "weights")
"""The columns that a user's function gets."""

Function = Callable[[pa.Table], Any]
"""A user's own target: from the rows of a split, without weights, to one value for each row."""


@dataclass(frozen=True)
class Target:
    """What is predicted of a state.

    Attributes:
        name: name in the result.
        kind: "number" or "class"; None for a function, whose values decide.
        function: a user's own; None for a column.
        of_source: whether the column is one of source.parquet.
    """

    name: str
    kind: str | None
    function: Function | None = None
    of_source: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of rows that its values need."""
        if self.of_source:
            return ()
        return (self.name,) if self.function is None else ROW_COLUMNS


def find_targets(given: Iterable[str] | Mapping[str, str | Function]) -> list[Target]:
    """Return targets by their names.

    Args:
        given: names, each of a column or "module:function", with "=number" or "=class" behind it
            where this is not clear; or a mapping from a name to "number", "class" or a function.

    Raises:
        InvalidArgument: a column that cannot be a target, an unknown kind, or no such function.
    """
    if isinstance(given, str):
        raise InvalidArgument(f"targets is a list of names: targets=[{given!r}]")
    if isinstance(given, Mapping):
        return [_target(str(name), value) for name, value in given.items()]
    pairs = [str(name).rpartition("=") for name in dict.fromkeys(given)]
    return [_target(name or kind, kind if sign else None) for name, sign, kind in pairs]


def _target(name: str, stated: str | Function | None) -> Target:
    if callable(stated):
        if name in COLUMNS:
            raise InvalidArgument(
                f"the target {name!r} is a function and has the name of a column: rename it"
            )
        return Target(name, None, stated)
    if stated not in (None, NUMBER, CLASS):
        raise InvalidArgument(f"the target {name} is {stated!r}, expected {NUMBER!r} or {CLASS!r}")
    if name in NO_TARGETS:
        raise InvalidArgument(f"{name} cannot be a target; columns that can: {_known()}")
    if name in COLUMN_KINDS:
        if stated == NUMBER and COLUMNS[name] == pa.string():
            raise InvalidArgument(f"the target {name} is a text: a class, not a number")
        return Target(name, stated or COLUMN_KINDS[name])
    if ":" in name:
        return Target(name, stated, find_function("target", name))
    if stated is None:
        advice = did_you_mean(name, COLUMN_KINDS) or f"known: {_known()}"
        raise InvalidArgument(
            f"no row has a column {name!r} to predict. A column of the zoo's source is predicted "
            f"as {name}=number or {name}=class, a function of yours as module:function; {advice}"
        )
    return Target(name, stated, of_source=True)


def _known() -> str:
    return ", ".join(COLUMN_KINDS)


def add_values(
    splits: DatasetDict,
    targets: Sequence[Target],
    zoo: str,
    data_dir: str | os.PathLike[str] | None,
) -> tuple[DatasetDict, dict[str, str]]:
    """Add the values of targets that are no columns of rows.

    Args:
        splits: rows with the `columns` of all targets.
        targets: the targets.
        zoo: name of the zoo.
        data_dir: folder of zoo directories; see homes.zoos_home.

    Returns:
        The rows with a column for each target, and the kind of each target by name.

    Raises:
        InvalidArgument: a function failed or did not return one value for each row, or the source
            of the zoo has no such column or something else than numbers in it.
    """
    of_source = any(target.of_source for target in targets)
    source = source_columns(zoo, data_dir) if of_source else None
    kinds: dict[str, str] = {}
    for target in targets:
        kinds[target.name] = target.kind or CLASS
        if target.function is not None:
            found = {split: _called(target, rows) for split, rows in splits.items()}
            types = {values.type for values in found.values()} - {pa.null()}
            if target.kind is None and all(map(pa.types.is_floating, types)):
                kinds[target.name] = NUMBER
        elif source is not None and target.of_source:
            found = {s: _looked_up(target, rows, source, zoo) for s, rows in splits.items()}
        else:  # a column of the rows
            continue
        if kinds[target.name] == NUMBER:
            found = {split: _numbers(target, values) for split, values in found.items()}
        splits = DatasetDict(
            {split: rows.add_column(target.name, found[split]) for split, rows in splits.items()}
        )
    return splits, kinds


def _called(target: Target, rows: Dataset) -> pa.Array:
    """Return the values of a user's function, null for NaN and None."""
    assert target.function is not None
    table = rows.select_columns(list(ROW_COLUMNS)).with_format("arrow")[:]
    try:
        values = target.function(table)
        if isinstance(values, pa.ChunkedArray | pa.Array):
            values = values.to_pandas()
        array = pa.array(np.asarray(values).tolist(), from_pandas=True)
    except Exception as error:  # whatever a user's function raises
        raise InvalidArgument(
            f"target {target.name!r} failed on {len(table)} rows with {type(error).__name__}: "
            f"{error}{place_of(error)}"
        ) from error
    if len(array) != len(table) or pa.types.is_nested(array.type):
        raise InvalidArgument(
            f"target {target.name!r} must return one value for each of {len(table)} rows, "
            f"found {len(array)} of type {array.type}"
        )
    return array


def _looked_up(target: Target, rows: Dataset, source: pa.Table, zoo: str) -> pa.Array:
    """Return a column of the source for each row: by zoo and model, and by epoch if it has one."""
    if target.name not in source.column_names:
        known = [name for name in source.column_names if name not in ("zoo", "model_id", "epoch")]
        raise InvalidArgument(
            f"neither a row nor the source of {zoo} has a column {target.name!r}; "
            f"{did_you_mean(target.name, known) or 'the source has ' + ', '.join(known[:20])}"
        )
    keys = zip(
        source["zoo"].to_pylist(),
        source["model_id"].to_pylist(),
        # A source with a row for each model has no epoch.
        source["epoch"].to_pylist() if "epoch" in source.column_names else itertools.repeat(None),
        strict=False,
    )
    values = dict(zip(keys, source[target.name].to_pylist(), strict=False))
    table = rows.select_columns(["zoo", "model_id", "epoch"]).with_format("arrow")[:]
    wanted = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return pa.array(
        [values.get((*model, epoch), values.get((*model, None))) for *model, epoch in wanted],
        pa.string(),
    )


def _numbers(target: Target, values: pa.Array) -> pa.Array:
    """Return values as float64, null for NaN.

    Raises:
        InvalidArgument: one of them is no number.
    """
    try:
        numbers = pc.cast(values, pa.float64())
    except pa.ArrowInvalid as error:
        raise InvalidArgument(
            f"the target {target.name} has a value that is no number ({error}): predict it as "
            f"{target.name}={CLASS}"
        ) from error
    return pc.if_else(pc.is_nan(numbers), None, numbers)
