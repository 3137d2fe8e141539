"""Model files to Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from .schema import HYPERPARAMETERS, METRICS

if TYPE_CHECKING:
    from .model_file import ModelFile


def states_table(files: Sequence[ModelFile], schema: pa.Schema) -> pa.Table:
    """Rows of all states of some files, without their weights.

    Args:
        files: in the order that the rows shall have.
        schema: as `row_schema` gives it, without weights.
    """
    counts = [len(states.epochs) for states in files]
    file_of_row = pa.array(np.repeat(np.arange(len(files)), counts))

    def column(name: str) -> pa.Array:
        kind = schema.field(name).type
        if name == "epoch":
            return pa.array(np.concatenate([states.epochs for states in files]), kind)
        if name in METRICS or name == "generalization_gap":
            found = [_metric(states, name) for states in files]
            absent = np.repeat([values is None for values in found], counts)
            filled = [np.zeros(n) if v is None else v for v, n in zip(found, counts, strict=True)]
            values = np.concatenate(filled).astype(np.float32)
            return pa.array(values, kind, mask=absent if absent.any() else None)
        if name in HYPERPARAMETERS:
            values = [states.hyperparameters.get(name) for states in files]
        elif name == "zoo":
            values = [states.zoo.name for states in files]
        elif name in ("image_dataset", "architecture", "variant"):
            values = [getattr(states.zoo, name) for states in files]
        else:  # model_id, parent_model_id
            values = [getattr(states, name) for states in files]
        return pa.array(values, kind).take(file_of_row)

    return pa.table({name: column(name) for name in schema.names}, schema=schema)


def weights_column(
    files: Sequence[ModelFile], kind: pa.DataType, kept: np.ndarray | None = None
) -> pa.ChunkedArray:
    """The weights that belong to `states_table`, without a copy beyond the reading itself.

    Args:
        files: in the same order.
        kind: of the column, a fixed-size list of float32.
        kept: numbers of the wanted rows, int64, increasing; None for all. Files without any are
            not opened.
    """
    chunks, start = [], 0
    for states in files:
        stop = start + len(states.epochs)
        rows = None
        if kept is not None:
            rows = (kept[(kept >= start) & (kept < stop)] - start).tolist()
        start = stop
        if rows is None or rows:
            weights = states.mapped_weights() if rows is None else states.weights(rows)
            flat = pa.array(weights.reshape(-1))
            chunks.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
    return pa.chunked_array(chunks, kind)


def _metric(states: ModelFile, name: str) -> np.ndarray | None:
    """One metric of all states of a file, float64; None where it was not measured."""
    metrics = states.metrics
    if name == "generalization_gap" and {"train_acc", "test_acc"} <= metrics.keys():
        # In float64, then rounded once: the difference of two rounded accuracies is not it.
        return metrics["train_acc"] - metrics["test_acc"]
    return metrics.get(name)
