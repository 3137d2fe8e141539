"""What a benchmark sees of a state: all weights, statistics of each layer, or a user's own
features.

The first two are those of the paper's code (code/model_definitions/def_downstream_module.py): W is
the flat weight vector, and s(W) has seven numbers for each layer's weights and seven for its
biases. A user's own is a function from weights and layout to features, named "module:function".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..builders.layout import Layout, find_layout
from ..errors import InvalidArgument
from . import stored
from .functions import find_function, place_of

PERCENTILES = (1, 25, 50, 75, 99)
"""Percentiles among the statistics."""

Matrix = NDArray[np.float32]
"""Weights, float32 [rows, N]."""

Representation = Callable[[Matrix, Layout], NDArray[Any]]
"""A function from weights and their layout to features [rows, d]."""


def weights(matrix: Matrix, layout: Layout) -> Matrix:
    """Return the weights themselves, W: float32 [rows, N]."""
    return matrix


def statistics(matrix: Matrix, layout: Layout) -> NDArray[np.float64]:
    """Return statistics of each layer, s(W): float64 [rows, 7 * tensors], 70 numbers for a CNN.

    For each tensor in layout order (weights and biases apart): mean, variance (of the population)
    and the percentiles 1, 25, 50, 75, 99, interpolated linearly.

    Args:
        matrix: float32 [rows, N].
        layout: layout of the weights.
    """
    result = np.empty((len(matrix), 7 * len(layout.slots)), np.float64)
    for number, slot in enumerate(layout.slots):
        # One sort serves all percentiles; numpy's percentile takes twice as long.
        values = np.sort(matrix[:, slot.slice], axis=1)
        columns = result[:, 7 * number : 7 * number + 7]
        columns[:, 0] = values.mean(axis=1, dtype=np.float64)
        columns[:, 1] = values.var(axis=1, dtype=np.float64)
        for column, percentile in enumerate(PERCENTILES, start=2):
            position = percentile / 100 * (slot.size - 1)
            below = int(position)
            above = min(below + 1, slot.size - 1)
            low = values[:, below].astype(np.float64)
            columns[:, column] = low + (position - below) * (values[:, above] - low)
    return result


def statistic_names(layout: Layout) -> tuple[str, ...]:
    """Return the names of the columns of `statistics`, such as "conv1.weight.p25"."""
    kinds = ("mean", "variance", *(f"p{percentile}" for percentile in PERCENTILES))
    return tuple(f"{slot.name}.{kind}" for slot in layout.slots for kind in kinds)


def statistics_table(table: pa.Table | pa.RecordBatch, layout: Layout | None = None) -> pa.Table:
    """Return rows with statistics instead of weights, one float64 column for each.

    It depends only on its arguments, so it can be mapped over the batches or shards of a zoo.

    Args:
        table: rows with the column weights, a list of float32; other columns are kept.
        layout: layout of the weights; None to find it from the column architecture.

    Raises:
        InvalidArgument: there are no weights, some are null or have another length, or there is
            neither a layout nor an architecture.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if "weights" not in table.column_names:
        raise InvalidArgument(f"the rows have no weights, only {', '.join(table.column_names)}")
    column, rows = table["weights"], len(table)
    lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if layout is None:
        if not rows or "architecture" not in table.column_names or None in lengths:
            raise InvalidArgument("without a layout rows must have an architecture and weights")
        layout = find_layout(table["architecture"][0].as_py(), min(lengths))
    if lengths - {layout.size}:
        found = ", ".join("none" if n is None else str(n) for n in lengths - {layout.size})
        raise InvalidArgument(f"expected {layout.size} weights in each row, found {found}")
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values = statistics(flat.reshape(rows, layout.size).astype(np.float32, copy=False), layout)
    table = table.drop_columns("weights")
    for name, feature in zip(statistic_names(layout), values.T, strict=True):
        table = table.append_column(name, pa.array(np.ascontiguousarray(feature)))
    return table


REPRESENTATIONS: dict[str, Representation] = {
    "weights": weights,
    "statistics": statistics,
}


def find_representation(name: str) -> Representation:
    """Return a representation of `REPRESENTATIONS`, or the function named by "module:function".

    Raises:
        InvalidArgument: there is no such representation or function.
    """
    if name in REPRESENTATIONS:
        return REPRESENTATIONS[name]
    if ":" not in name:
        raise InvalidArgument(
            f"unknown representation {name!r}; known: {', '.join(REPRESENTATIONS)}, or your own "
            "as module:function"
        )
    return find_function("representation", name)


def represent(
    name: str, function: Representation, matrix: stored.Matrix, layout: Layout
) -> stored.Matrix:
    """Return the features of some rows, after checking that they can be used.

    The function gets weights on disk some rows at a time. The representation `weights` leaves them
    on disk. Other functions get read-only weights, and a result that is a view of them is copied.

    Args:
        name: name of the representation, for messages.
        function: the result of `find_representation`.
        matrix: float32 [rows, N], in memory or on disk.
        layout: layout of the weights.

    Returns:
        Numbers [rows, d], all finite.

    Raises:
        InvalidArgument: the function failed, or returned something else.
    """
    if isinstance(matrix, stored.StoredMatrix):
        if function is weights:
            return matrix
        blocks = matrix.blocks(max(1, stored.BLOCK_BYTES // (8 * matrix.width)))
        return np.concatenate([_features(name, function, block, layout) for block in blocks])
    return _features(name, function, matrix, layout)


def _features(name: str, function: Representation, matrix: Matrix, layout: Layout) -> NDArray[Any]:
    given = matrix
    if function is not weights:
        given = matrix.view()
        given.flags.writeable = False  # other representations see the same weights
    try:
        features = np.asarray(function(given, layout))
    except Exception as error:
        advice = ""
        if isinstance(error, ValueError) and "read-only" in str(error):  # numpy has no class for it
            advice = ". A representation must not change the weights that it is given: copy them"
        raise InvalidArgument(
            f"representation {name!r} failed on weights float32 {list(matrix.shape)} with "
            f"{type(error).__name__}: {error}{place_of(error)}{advice}"
        ) from error
    if function is not weights and np.may_share_memory(features, matrix):
        features = features.copy()  # the next rows may be read into the same memory
    if features.ndim != 2 or len(features) != len(matrix) or not features.shape[1]:
        raise InvalidArgument(
            f"representation {name!r} must return a matrix [{len(matrix)}, d], one row for each "
            f"row of weights; found {list(features.shape)}"
        )
    if features.dtype.kind not in "fiub":
        raise InvalidArgument(
            f"representation {name!r} must return numbers, found {features.dtype}"
        )
    if features.dtype.kind != "f":
        features = features.astype(np.float64)
    if not np.isfinite(features.sum(axis=1, dtype=np.float64)).all():
        raise InvalidArgument(f"representation {name!r} returned NaN or infinite features")
    return features
