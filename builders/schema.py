"""The columns of a row, which is a state of a model, as Arrow schema and as datasets Features.

A new column is one more entry of `COLUMNS`; rows.py gets its value, dataset_card.md describes it.
Every config of the data set has these columns. Only the length of `weights` differs, and `metrics`
has no weights. Absent values are null. As in the paper's code, train_loss and train_acc of epoch 1
and later are running means over the epoch in training mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import InvalidArgument, did_you_mean

if TYPE_CHECKING:
    import datasets

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "sparsity")
"""The metrics of a state: losses in nats, accuracies and sparsity as fractions in [0, 1]."""

HYPERPARAMETERS: dict[str, pa.DataType] = {
    "seed": pa.int64(),
    "activation": pa.string(),
    "init": pa.string(),
    "dropout": pa.float64(),
    "optimizer": pa.string(),
    "learning_rate": pa.float64(),
    "weight_decay": pa.float64(),
    "momentum": pa.float64(),
    "batch_size": pa.int32(),
    "epochs": pa.int32(),
    "scheduler": pa.string(),
}
"""The hyperparameters of a model. Rates are float64, so that a filter such as
("learning_rate", "==", 1e-3) finds its rows."""

COLUMNS: dict[str, pa.DataType | None] = {
    "zoo": pa.string(),
    "image_dataset": pa.string(),
    "architecture": pa.string(),
    "variant": pa.string(),
    "model_id": pa.string(),
    "parent_model_id": pa.string(),
    "epoch": pa.int32(),
    "weights": None,  # fixed-size list of float32, as long as the zoo's layout
    "train_loss": pa.float32(),
    "train_acc": pa.float32(),
    "val_loss": pa.float32(),
    "val_acc": pa.float32(),
    "test_loss": pa.float32(),
    "test_acc": pa.float32(),
    "generalization_gap": pa.float32(),
    "sparsity": pa.float32(),
    **HYPERPARAMETERS,
}


CHOICE: dict[str, pa.DataType] = {"tensors": pa.list_(pa.string()), "layout_size": pa.int64()}
"""Last columns of rows whose weights hold only some tensors: the names of these tensors, in the
order of the weights, and the length of the whole weight vector."""


def row_schema(
    weights: int | None, columns: Sequence[str] | None = None, *, chosen: bool = False
) -> pa.Schema:
    """Return the Arrow schema of a row.

    Args:
        weights: length of the weight vector; None for a data set without weights.
        columns: the columns to keep, in any order; None for all. The schema keeps its own order.
        chosen: whether the weights hold only some tensors. The columns of `CHOICE`, which name
            them, are then always included.

    Raises:
        InvalidArgument: no row has one of the columns.
    """
    types = {**COLUMNS, "weights": pa.list_(pa.float32(), weights) if weights else None}
    if chosen:
        types |= CHOICE
        columns = columns and [*columns, *CHOICE]
    known = [name for name, kind in types.items() if kind is not None]
    for name in columns or ():
        if not isinstance(name, str):
            raise InvalidArgument(f"columns are given by their names, found {name!r}")
        if name == "weights" and not weights:
            raise InvalidArgument("`metrics` has no weights: name a zoo instead")
        if name not in known:
            advice = did_you_mean(name, known) or f"known: {', '.join(known)}"
            raise InvalidArgument(f"there is no column {name!r}; {advice}")
    return pa.schema({name: types[name] for name in known if columns is None or name in columns})


def row_features(
    weights: int | None, columns: Sequence[str] | None = None, *, chosen: bool = False
) -> datasets.Features:
    """Return `row_schema` as datasets Features; arguments and errors are the same."""
    import datasets

    return datasets.Features.from_arrow_schema(row_schema(weights, columns, chosen=chosen))
