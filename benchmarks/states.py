"""The states of a zoo as columns, for figures and diversity.

Rows come through load_dataset as a stream, which shows what is on disk now and leaves no copy in a
cache. The metrics of all states are small; weights are read only for some models and epochs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from datasets import IterableDataset, load_dataset
from numpy.typing import ArrayLike, NDArray

from ..builders.homes import zoos_home
from ..builders.schema import HYPERPARAMETERS, METRICS

_TEXTS = ("zoo", "architecture", "model_id", "parent_model_id")
_NUMBERS = ("epoch", *METRICS, "generalization_gap")

WEIGHTS_BYTES = 1 << 29
"""Limit in bytes of the weights that `choose` selects for reading at once."""


Column: TypeAlias = "NDArray[Any]"
"""One value for each row."""


@dataclass(frozen=True, eq=False)
class StateTable:
    """All states of a zoo without their weights, sorted by zoo, model and epoch.

    Attributes:
        name: name of the zoo for load_dataset.
        columns: name -> [rows]. Metrics are float64, NaN if absent; `epoch` is int64; texts and
            hyperparameters are objects, None if absent; `split` is the split.
        model: index of each row's model, int64 [rows]: 0, 1, ...
        diverged: whether the training or test loss is NaN or infinite, bool [rows].
    """

    name: str
    columns: Mapping[str, Column]
    model: NDArray[np.int64]
    diverged: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.model)

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]

    @property
    def models(self) -> int:
        """Number of models."""
        return int(self.model[-1]) + 1

    @cached_property
    def epochs(self) -> NDArray[np.int64]:
        """All epochs that occur, ascending."""
        return np.unique(self["epoch"])

    @cached_property
    def final(self) -> NDArray[np.int64]:
        """Indices of the rows at the last epoch that have not diverged."""
        return np.flatnonzero((self["epoch"] == self.epochs[-1]) & ~self.diverged)

    @property
    def twins(self) -> bool:
        """Whether these are sparse twins."""
        return any(parent is not None for parent in self["parent_model_id"])


def read_states(
    name: str, data_dir: str | os.PathLike[str] | None = None, on_bad_files: str = "warn"
) -> StateTable:
    """Read every state of a zoo without its weights; unreadable files are left out.

    Args:
        name: any config of the data set.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        on_bad_files: "skip" if another function warns of unreadable files.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: all its files are unreadable.
    """
    wanted = [*_TEXTS, *_NUMBERS, *HYPERPARAMETERS]
    table, split = read_table(open_stream(name, data_dir, wanted, on_bad_files=on_bad_files))
    columns: dict[str, Column] = {
        column: table[column].to_numpy().astype(np.float64) for column in _NUMBERS
    }
    columns["epoch"] = columns["epoch"].astype(np.int64)
    for column in (*_TEXTS, *HYPERPARAMETERS):
        columns[column] = objects(table[column])
    columns["split"] = split
    diverged = np.zeros(len(table), bool)
    for column in ("train_loss", "test_loss"):  # a source may lack some validation losses
        # An absent value is null in Arrow; it differs from the NaN of a diverged model.
        known = ~np.asarray(table[column].is_null())
        diverged |= known & ~np.isfinite(columns[column])
    keys = (columns["zoo"], columns["model_id"])
    order = np.lexsort((columns["epoch"], *reversed(keys)))
    columns = {column: values[order] for column, values in columns.items()}
    return StateTable(name, columns, number_models(*(key[order] for key in keys)), diverged[order])


def fingerprint(states: StateTable) -> str:
    """Return a SHA-256 of model ids, splits, epochs and metrics of all states, in hexadecimal."""
    digest = hashlib.sha256()
    for name in ("zoo", "model_id", "split"):
        for text in states[name].tolist():
            digest.update(f"{text}\n".encode())
    digest.update(states["epoch"].astype("<i8").tobytes())
    for name in METRICS:
        values = states[name].astype("<f4")
        digest.update(np.where(np.isnan(values), np.float32("nan"), values).tobytes())
    return digest.hexdigest()


def read_table(streams: Mapping[str, IterableDataset]) -> tuple[pa.Table, Column]:
    """Return all rows of some streams by split, and the split of each row."""
    tables, splits = [], []
    for split, stream in streams.items():
        for table in stream.with_format("arrow").iter(batch_size=10_000):
            tables.append(table)
            splits.append(np.full(len(table), split, object))
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(splits)


def objects(column: pa.ChunkedArray) -> Column:
    """Return a column as Python objects, None if absent; equal values are the same object."""
    encoded = column.combine_chunks().dictionary_encode()
    values = np.array([*encoded.dictionary.to_pylist(), None], object)
    return values[encoded.indices.fill_null(-1).to_numpy()]


def number_models(*keys: Column) -> NDArray[np.int64]:
    """Return indices from 0 of the models of rows that are sorted by model.

    Args:
        keys: columns that together identify the model: zoo and model_id.
    """
    new = np.zeros(len(keys[0]), bool)
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.cumsum(new)


def choose(
    states: StateTable, size: int, models: int, epochs: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose models and epochs whose weights fit into `WEIGHTS_BYTES`.

    Args:
        states: all states of the zoo.
        size: length of a weight vector.
        models, epochs: wanted numbers. For long vectors they are reduced, but to at least 2 models
            and the first, middle and last epoch.
        seed: seed of the choice of models.

    Returns:
        Indices of models in random order, and epochs, evenly spread from the first to the last.
    """
    most = max(2, WEIGHTS_BYTES // (4 * size))
    epochs = min(epochs, len(states.epochs), max(3, most // min(models, states.models, 8)))
    places = np.linspace(0, len(states.epochs) - 1, epochs).round().astype(np.int64)
    models = min(models, max(2, most // epochs))
    order = np.random.default_rng(seed).permutation(states.models)
    return order[:models], states.epochs[np.unique(places)]


def read_weights(
    states: StateTable,
    models: ArrayLike,
    epochs: ArrayLike,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read the weights of some models at some epochs; those that are not finite are left out.

    Args:
        states: all states of the zoo.
        models: indices of models, see `StateTable.model`.
        epochs: wanted epochs.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.

    Returns:
        Indices of the rows in `states`, int64 [n] ascending, and weights, float32 [n, N].
    """
    rows = np.flatnonzero(np.isin(states.model, models) & np.isin(states["epoch"], epochs))
    names = ("zoo", "model_id", "epoch")
    row_of = dict(zip(zip(*(states[name][rows] for name in names), strict=True), rows, strict=True))
    if not len(rows):
        return rows, np.zeros((0, weights_size(states.name, data_dir)), np.float32)
    filters = [
        ("model_id", "in", sorted({key[1] for key in row_of})),
        ("epoch", "in", sorted({int(key[2]) for key in row_of})),
    ]
    found, blocks = [], []
    streams = open_stream(states.name, data_dir, [*names, "weights"], filters=filters)
    for stream in streams.values():
        for table in stream.with_format("arrow").iter(batch_size=64):
            keys = zip(*(table[name].to_pylist() for name in names), strict=True)
            numbers = np.array([row_of.get(key, -1) for key in keys])
            matrix = weights_matrix(table)
            kept = (numbers >= 0) & np.isfinite(matrix).all(axis=1)
            found.append(numbers[kept])
            blocks.append(matrix[kept])
    found_rows = np.concatenate(found)
    order = np.argsort(found_rows)
    return found_rows[order], np.concatenate(blocks)[order]


def weights_size(name: str, data_dir: str | os.PathLike[str] | None = None) -> int:
    """Return the length of a zoo's weight vectors.

    Raises:
        InvalidArgument: `metrics`, which has no weights.
    """
    stream = next(iter(open_stream(name, data_dir, ["weights"]).values()))
    return int(stream.features["weights"].length)


def weights_matrix(table: pa.Table) -> NDArray[np.float32]:
    """Return the weights of an Arrow table as float32 [rows, N]; one chunk is not copied."""
    return table["weights"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def open_stream(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    columns: Sequence[str],
    **options: object,
) -> Mapping[str, IterableDataset]:
    """Open the splits of a zoo as streams; by default unreadable files are left out silently.

    Args:
        name: any config of the data set.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        columns: columns to read.
        options: further arguments of load_dataset.
    """
    return load_dataset(
        "model_zoos",
        name,
        data_dir=str(zoos_home(data_dir)),
        columns=list(columns),
        streaming=True,
        **{"on_bad_files": "skip", **options},
    )
