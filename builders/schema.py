"""The columns of one row: a state of a model, as Arrow schema and as datasets Features.

Every config of the data set has these columns; only the length of `weights` differs, and `metrics`
has none. Absent values are null. Metrics of epoch 1 on are as the original records them: train_loss
and train_acc are running means over the epoch in training mode.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import datasets


METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "sparsity")
"""What is measured of a state; losses in nats, accuracies and sparsity as shares of 1."""

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
"""float64, so that `filters=[("learning_rate", "==", 1e-3)]` finds its rows."""

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


def row_schema(weights: int | None, columns: Sequence[str] | None = None) -> pa.Schema:
    """Arrow schema of a row.

    Args:
        weights: length of the weight vector; None for a data set without weights.
        columns: keep only these, in the schema's own order; None for all.

    Raises:
        ValueError: a column that no row has.
    """
    types = dict(COLUMNS)
    types["weights"] = pa.list_(pa.float32(), weights) if weights else None
    types = {name: kind for name, kind in types.items() if kind is not None}
    if columns is not None:
        for name in columns:
            if name not in types:
                if name == "weights":
                    raise ValueError("`metrics` has no weights: name a zoo instead")
                close = difflib.get_close_matches(name, types, n=3, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(types)}"
                raise ValueError(f"there is no column {name!r}; {hint}")
        types = {name: kind for name, kind in types.items() if name in columns}
    return pa.schema(types)


def row_features(weights: int | None, columns: Sequence[str] | None = None) -> datasets.Features:
    """The same as datasets Features; arguments and errors as `row_schema`."""
    import datasets

    return datasets.Features.from_arrow_schema(row_schema(weights, columns))
