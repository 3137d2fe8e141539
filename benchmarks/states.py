"""The states of a zoo as columns: what figures and diversity are made from.

Rows come through load_dataset, as a stream: what is on disk now, without a copy in a cache. Metrics
of all states are small; weights are read for some models and epochs only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from datasets import load_dataset

import model_zoos

from ..builders.schema import HYPERPARAMETERS, METRICS

_TEXTS = ("zoo", "architecture", "model_id", "parent_model_id")
_NUMBERS = ("epoch", *METRICS, "generalization_gap")

WEIGHTS_BYTES = 1 << 29
"""Of weights that `choose` lets be read at once."""


@dataclass(frozen=True, eq=False)
class StateTable:
    """All states of a zoo without their weights, sorted by zoo, model and epoch.

    Attributes:
        name: of the data set, as load_dataset knows it.
        columns: name -> [rows]. Metrics float64, NaN where absent; `epoch` int64; texts and
            hyperparameters objects, None where absent; `split`.
        model: int64 [rows], 0, 1, ...: number of the model.
        diverged: bool [rows]: the training or test loss is NaN or infinite.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    model: np.ndarray
    diverged: np.ndarray

    def __len__(self) -> int:
        return len(self.model)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def models(self) -> int:
        return int(self.model[-1]) + 1

    @cached_property
    def epochs(self) -> np.ndarray:
        """Those that any model has, int64, ascending."""
        return np.unique(self["epoch"])

    @cached_property
    def final(self) -> np.ndarray:
        """Row numbers of the states at the last epoch that have not diverged."""
        return np.flatnonzero((self["epoch"] == self.epochs[-1]) & ~self.diverged)

    @property
    def twins(self) -> bool:
        return any(parent is not None for parent in self["parent_model_id"])


def read_states(name: str, data_dir: str | os.PathLike[str] | None = None) -> StateTable:
    """Every state of a zoo, without weights; unreadable files are left out.

    Args:
        name: any config of the data set.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.

    Raises:
        ZooNotFound, FaultyZoo: there is nothing to read.
    """
    wanted = [*_TEXTS, *_NUMBERS, *HYPERPARAMETERS]
    tables, splits = [], []
    for split, stream in _stream(name, data_dir, columns=wanted, on_bad_files="warn").items():
        for table in stream.with_format("arrow").iter(batch_size=10_000):
            tables.append(table)
            splits += [split] * len(table)
    table = pa.concat_tables(tables)
    columns: dict[str, np.ndarray] = {
        column: table[column].to_numpy().astype(np.float64) for column in _NUMBERS
    }
    columns["epoch"] = columns["epoch"].astype(np.int64)
    for column in (*_TEXTS, *HYPERPARAMETERS):
        columns[column] = np.array(table[column].to_pylist(), object)
    columns["split"] = np.array(splits, object)
    diverged = np.zeros(len(table), bool)
    for column in ("train_loss", "test_loss"):  # a source may lack single validation losses
        # Absent is null in Arrow, which a diverged model's NaN is not.
        known = ~np.asarray(table[column].is_null())
        diverged |= known & ~np.isfinite(columns[column])
    order = np.lexsort((columns["epoch"], columns["model_id"], columns["zoo"]))
    columns = {column: values[order] for column, values in columns.items()}
    new = np.ones(len(order), bool)
    new[1:] = (columns["zoo"][1:] != columns["zoo"][:-1]) | (
        columns["model_id"][1:] != columns["model_id"][:-1]
    )
    return StateTable(name, columns, np.cumsum(new) - 1, diverged[order])


def choose(
    states: StateTable, size: int, models: int, epochs: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Some models and epochs whose weights fit `WEIGHTS_BYTES`.

    Args:
        states: of the zoo.
        size: elements of a weight vector.
        models, epochs: how many are wanted; wide weights get fewer, but at least 2 models and the
            first, middle and last epoch.
        seed: of the choice of models.

    Returns:
        Numbers of models in random order, and epochs, spread evenly with the first and last.
    """
    most = max(2, WEIGHTS_BYTES // (4 * size))
    epochs = min(epochs, len(states.epochs), max(3, most // min(models, states.models, 8)))
    places = np.linspace(0, len(states.epochs) - 1, epochs).round().astype(np.int64)
    models = min(models, max(2, most // epochs))
    order = np.random.default_rng(seed).permutation(states.models)
    return order[:models], states.epochs[np.unique(places)]


def read_weights(
    states: StateTable,
    models: Sequence[int] | np.ndarray,
    epochs: Sequence[int] | np.ndarray,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of some models at some epochs, those with a NaN or infinite weight left out.

    Args:
        states: of the zoo.
        models: numbers of models, as in `states.model`.
        epochs: wanted ones.

    Returns:
        Row numbers in `states`, int64 [n] ascending, and weights, float32 [n, N].
    """
    rows = np.flatnonzero(np.isin(states.model, models) & np.isin(states["epoch"], epochs))
    key_columns = ("zoo", "model_id", "epoch")
    row_of = dict(zip(zip(*(states[c][rows] for c in key_columns), strict=True), rows, strict=True))
    if not len(rows):
        return rows, np.zeros((0, weights_size(states.name, data_dir)), np.float32)
    filters = [
        ("model_id", "in", sorted({key[1] for key in row_of})),
        ("epoch", "in", sorted({int(key[2]) for key in row_of})),
    ]
    found, blocks = [], []
    streams = _stream(states.name, data_dir, columns=[*key_columns, "weights"], filters=filters)
    for stream in streams.values():
        for table in stream.with_format("arrow").iter(batch_size=64):
            keys = zip(*(table[column].to_pylist() for column in key_columns), strict=True)
            numbers = np.array([row_of.get(key, -1) for key in keys])
            flat = table["weights"].combine_chunks().flatten().to_numpy()
            matrix = flat.reshape(len(table), -1)
            kept = (numbers >= 0) & np.isfinite(matrix).all(axis=1)
            found.append(numbers[kept])
            blocks.append(matrix[kept])
    found_rows = np.concatenate(found)
    order = np.argsort(found_rows)
    return found_rows[order], np.concatenate(blocks)[order]


def weights_size(name: str, data_dir: str | os.PathLike[str] | None = None) -> int:
    """Elements of a zoo's weight vectors.

    Raises:
        ValueError: `metrics`, which has none.
    """
    feature = next(iter(_stream(name, data_dir, columns=["weights"]).values())).features["weights"]
    return int(feature.length)


def _stream(name: str, data_dir: str | os.PathLike[str] | None, **options: object) -> Mapping:
    return load_dataset(
        "model_zoos",
        name,
        data_dir=str(model_zoos.zoos_home(data_dir)),
        streaming=True,
        **{"on_bad_files": "skip", **options},
    )
