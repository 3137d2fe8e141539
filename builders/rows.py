"""Model files as Arrow tables: the rows of a data set, in the order of the files.

Their columns are listed in schema.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import InvalidArgument
from .layout import Layout
from .model_file import ModelFile
from .schema import CHOICE, COLUMNS, HYPERPARAMETERS, METRICS, row_schema

OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")
"""Comparisons of a filter."""

Filter: TypeAlias = tuple[str, str, object]
"""A condition: a column, one of `OPERATORS`, and a value."""

Filters: TypeAlias = "list[Filter] | list[list[Filter]] | pads.Expression"
"""A list: all its filters must hold. A list of lists: at least one inner list must hold."""

_SEVERAL = ("in", "not in")
"""The operators that compare with several values."""


def as_list(values: object) -> object:
    """Return several values as a list, those of a set sorted; a text or a single value as it is.

    An iterator can be read only once, and a set has another order in each process, while the same
    arguments must find the same cached rows.
    """
    if isinstance(values, str | bytes):
        return values
    if isinstance(values, Set):
        return sorted(values, key=repr)
    if callable(tolist := getattr(values, "tolist", None)):  # of an array, a series or an index
        return tolist()
    return list(values) if isinstance(values, Iterable) else values


def plain_filters(filters: Filters | None) -> Filters | None:
    """Return filters whose several values are lists; malformed ones as they are."""
    if not isinstance(filters, list):
        return filters
    plain: list[Any] = [
        plain_filters(filter)
        if isinstance(filter, list)
        else (*filter[:2], as_list(filter[2]))
        if isinstance(filter, tuple) and len(filter) == 3 and filter[1] in _SEVERAL
        else filter
        for filter in filters
    ]
    return plain


def filter_expression(filters: Filters | None) -> pads.Expression | None:
    """Return filters as an Arrow expression.

    Raises:
        InvalidArgument: they are malformed, name `weights`, or name a column that no row has.
    """
    if filters is None:
        return None
    try:
        found = plain_filters(filters)
        if isinstance(found, list):
            found = pq.filters_to_expression(_as_stored(found))
        elif not isinstance(filters, pads.Expression):
            raise TypeError(f"it is a {type(filters).__name__}")
        row_schema(None).empty_table().filter(found)
    except InvalidArgument:
        raise
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidArgument(
            f"filters={filters!r}: {reason}. Give a list of (column, operator, value), a list of "
            "such lists or a pyarrow expression, on any column but weights"
        ) from None
    return found


def _as_stored(filters: list[Any]) -> list[Any]:
    """Check the values of filters; round those that are compared with float32 columns.

    No float32 equals 0.05, but a test accuracy of 0.05 was stored as the nearest float32.

    Args:
        filters: as `plain_filters` returns them.

    Raises:
        InvalidArgument: there is no such column or operator, a text where a column holds numbers,
            a number where it holds texts, one value where several are expected, None, or a whole
            number of more than 64 bits.
    """
    if filters and isinstance(filters[0], list):
        return [_as_stored(some) for some in filters]
    rounded = []
    columns = [column for column, _, _ in filters]
    if "weights" in columns:
        raise InvalidArgument(
            f"filters={filters!r}: rows cannot be chosen by weights, but max_weight= leaves out "
            "those with a large one"
        )
    row_schema(None, columns)  # refuses a column that no row has
    for column, operator, value in filters:
        if operator not in OPERATORS:
            raise InvalidArgument(
                f"filters={filters!r}: unknown operator {operator!r}; known: {', '.join(OPERATORS)}"
            )
        kind = COLUMNS[column]
        of_texts = kind == pa.string()
        several = isinstance(value, list)
        if operator in _SEVERAL and not several:
            raise InvalidArgument(
                f"filters={filters!r}: {operator!r} compares with a list of values, found {value!r}"
            )
        values = [
            given.as_py() if isinstance(given, pa.Scalar) else given
            for given in (value if several else [value])
        ]
        for given in values:
            if given is None and not several:
                raise InvalidArgument(
                    f"filters={filters!r}: no value is equal to None, less or greater. Rows without"
                    f" a value are found by filters=pyarrow.dataset.field({column!r}).is_null(), "
                    f"rows with one by filters=~pyarrow.dataset.field({column!r}).is_null()"
                )
            if isinstance(given, int) and not -(2**63) <= given < 2**63:
                raise InvalidArgument(
                    f"filters={filters!r}: {given!r} is no whole number of 64 bits, and no column "
                    "holds it"
                )
            if isinstance(given, Real if of_texts else str):
                what = "texts" if of_texts else "numbers"
                raise InvalidArgument(
                    f"filters={filters!r}: the column {column!r} holds {what}, found {given!r}"
                )
        if kind == pa.float32():
            values = [_rounded(v) if isinstance(v, float) else v for v in values]
        rounded.append((column, operator, values if several else values[0]))
    return rounded


def _rounded(value: float) -> float:
    """Return the nearest float32; the value itself if it is finite and beyond all of them."""
    with np.errstate(over="ignore"):
        nearest = float(np.float32(value))
    return value if np.isinf(nearest) else nearest


def read_rows(
    files: Sequence[ModelFile],
    schema: pa.Schema,
    filters: pads.Expression | None = None,
    *,
    final: bool = False,
    chosen: Layout | None = None,
) -> pa.Table:
    """Read the states of some files that pass the filters.

    Args:
        files: model files, in the order of the rows.
        schema: wanted columns, as `row_schema` returns them.
        filters: condition on any columns except weights.
        final: read only the last state of each file.
        chosen: the tensors that the weights hold; None for all.
    """
    plain = [name for name in schema.names if name != "weights" and name not in CHOICE]
    # A filter may name columns that are not wanted in the result.
    # A table without columns has no rows.
    read = None if filters is not None else plain or ["epoch"]
    table = states_table(files, row_schema(None, read))
    kept: NDArray[np.int64] | None = None
    if filters is not None or final:
        table = table.append_column("_row", pa.array(np.arange(len(table))))
        if final:
            table = table.take(np.cumsum([len(file.epochs) for file in files]) - 1)
        table = table if filters is None else table.filter(filters)
        kept = table["_row"].to_numpy()
    columns = {name: table[name] for name in plain}
    if "weights" in schema.names:
        columns["weights"] = weights_column(files, schema.field("weights").type, kept, chosen)
    if chosen is not None:
        columns |= _choice(chosen, len(columns["weights"]))
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def choose_tensors(table: pa.Table, schema: pa.Schema, chosen: Layout) -> pa.Table:
    """Return rows with only some tensors, given rows that hold all of them.

    Args:
        table: rows with whole weights.
        schema: of the result; see `row_schema`.
        chosen: the tensors, chosen from the layout of the rows.
    """
    kind, chunks = schema.field("weights").type, []
    for chunk in table["weights"].chunks:
        whole = chunk.flatten().to_numpy().reshape(len(chunk), -1)
        flat = np.concatenate([whole[:, part] for part in chosen.sources], axis=1).reshape(-1)
        chunks.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind))
    columns = {name: table[name] for name in schema.names if name not in CHOICE}
    columns |= {"weights": pa.chunked_array(chunks, kind), **_choice(chosen, len(table))}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _choice(chosen: Layout, rows: int) -> dict[str, pa.Array]:
    """Return the columns that name the tensors that the weights hold."""
    values = ([slot.name for slot in chosen.slots], (chosen.whole or chosen).size)
    return {
        name: pa.array([value] * rows, kind)
        for (name, kind), value in zip(CHOICE.items(), values, strict=True)
    }


def states_table(files: Sequence[ModelFile], schema: pa.Schema) -> pa.Table:
    """Return the rows of all states of some files, without their weights.

    Args:
        files: model files, in the order of the rows.
        schema: wanted columns, as `row_schema` returns them, without weights.
    """
    counts = [len(file.epochs) for file in files]
    file_of_row = pa.array(np.repeat(np.arange(len(files)), counts))

    def column(name: str) -> pa.Array:
        kind = schema.field(name).type
        if name == "epoch":
            return pa.array(np.concatenate([file.epochs for file in files]), kind)
        if name in METRICS or name == "generalization_gap":
            found = [_metric(file, name) for file in files]
            numbers = np.concatenate(
                [
                    np.zeros(n) if values is None else np.ma.filled(values, 0)
                    for values, n in zip(found, counts, strict=True)
                ]
            )
            absent = np.concatenate(
                [
                    np.ones(n, np.bool_) if values is None else np.ma.getmaskarray(values)
                    for values, n in zip(found, counts, strict=True)
                ]
            )
            mask = absent if absent.any() else None
            return pa.array(numbers.astype(np.float32), kind, mask=mask)
        values = [_constant(file, name) for file in files]
        return pa.array(values, kind).take(file_of_row)

    return pa.table({name: column(name) for name in schema.names}, schema=schema)


def weights_column(
    files: Sequence[ModelFile],
    kind: pa.DataType,
    kept: NDArray[np.int64] | None = None,
    chosen: Layout | None = None,
) -> pa.ChunkedArray:
    """Return the weights of the rows of `states_table`, copied only once, on reading.

    Args:
        files: model files, in the same order.
        kind: type of the column, a fixed-size list of float32.
        kept: indices of the wanted rows, increasing; None for all. Files without a wanted row are
            not opened.
        chosen: the tensors to read; None for all.
    """
    chunks, start = [], 0
    for file in files:
        stop = start + len(file.epochs)
        rows = None
        if kept is not None:
            rows = (kept[(kept >= start) & (kept < stop)] - start).tolist()
        start = stop
        if rows is None or rows:
            whole = rows is None and chosen is None
            weights = file.mapped_weights() if whole else file.weights(rows, chosen)
            flat = pa.array(weights.reshape(-1))
            chunks.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
    return pa.chunked_array(chunks, kind)


def _constant(file: ModelFile, name: str) -> object:
    """Return the value of a column that all states of a file share."""
    if name in HYPERPARAMETERS:
        return file.hyperparameters.get(name)
    if name == "zoo":
        return file.zoo.name
    owner = file.zoo if name in ("image_dataset", "architecture", "variant") else file
    return getattr(owner, name)


def _metric(file: ModelFile, name: str) -> NDArray[np.float64] | None:
    """Return a metric of all states of a file; None if it was not measured."""
    metrics = file.metrics
    if name == "generalization_gap" and {"train_acc", "test_acc"} <= metrics.keys():
        # Subtract in float64 and round once: the difference of two rounded accuracies is not exact.
        return metrics["train_acc"] - metrics["test_acc"]
    return metrics.get(name)
