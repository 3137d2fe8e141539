"""The trajectories of a data set: all states of each model in epoch order.

whole = trajectories(dataset)                # whole.weights [models, epochs, N]
steps = pairs(dataset, step=5)               # weights [2, N] at epochs e and e + 5
loader = torch.utils.data.DataLoader(steps, batch_size=64, shuffle=True, num_workers=2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from ..builders.access import weight_blocks, weights
from ..errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The trajectories of several models on one axis of epochs.

    Attributes:
        weights: float32 [models, epochs, N]; 0 where a model lacks an epoch.
        model_ids: the models, in the order of their first rows.
        epochs: int64 [epochs], ascending: every epoch that some model has.
        mask: bool [models, epochs], True if a model has the epoch.
    """

    weights: NDArray[np.float32]
    model_ids: list[str]
    epochs: NDArray[np.int64]
    mask: NDArray[np.bool_]


def trajectories(dataset: datasets.Dataset) -> Trajectories:
    """Return the weights of a data set by model and epoch.

    Args:
        dataset: rows in any order, with the columns weights, model_id and epoch; also zoo if models
            of several zoos share their ids.

    Raises:
        InvalidArgument: a column is missing or a state is repeated; see also
            `model_zoos.weights`.
    """
    model_ids, models, epoch = state_keys(dataset)
    epochs, column = np.unique(epoch, return_inverse=True)
    mask = np.zeros((len(model_ids), len(epochs)), bool)
    mask[models, column] = True
    rows = weights(dataset).numpy()
    result = np.zeros((*mask.shape, rows.shape[1]), np.float32)
    result[models, column] = rows
    return Trajectories(result, model_ids, epochs, mask)


@dataclass(frozen=True, eq=False)
class Windows(Sequence[dict[str, Any]]):
    """Parts of trajectories, for a DataLoader; each is read when it is requested.

    It can be shuffled, sampled and read by several workers, like any torch data set with a length.

    Attributes:
        dataset: the rows.
        rows: int64 [windows, length], the rows of each window.
        epochs: int64 [windows, length], their epochs.
        model_ids: the model of each window.
    """

    dataset: datasets.Dataset
    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    model_ids: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        """Return weights float32 [length, N], epochs int64 [length] and model_id of a window."""
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several windows, read together."""
        for index in indices:
            if not -len(self) <= index < len(self):
                raise IndexError(f"window {index} of {len(self)}")
        chosen = np.asarray(indices, np.int64)
        table = self.dataset.with_format("arrow", columns=["weights"])[
            self.rows[chosen].reshape(-1)
        ]
        blocks = weight_blocks(table["weights"]) or [np.zeros((0, 0), np.float32)]
        vectors = np.concatenate(blocks).reshape(*self.rows[chosen].shape, -1)
        return [
            {"weights": vector, "epochs": self.epochs[i], "model_id": self.model_ids[i]}
            for vector, i in zip(vectors, chosen, strict=True)
        ]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))


def epoch_windows(dataset: datasets.Dataset, length: int, step: int = 1) -> Windows:
    """Return every window of `length` states of one model that are `step` epochs apart.

    Args:
        dataset: see `trajectories`; the weights are read when a window is requested.
        length: number of states in a window, at least 1.
        step: number of epochs between two states, at least 1. Windows that lack a state are
            omitted.

    Returns:
        Windows in the order of models and of epochs.

    Raises:
        InvalidArgument: a column is missing, a state is repeated, or no model has such a window.
    """
    if length < 1 or step < 1:
        raise InvalidArgument(f"length and step are at least 1, found {length} and {step}")
    if "weights" not in (dataset.column_names or ()):
        raise InvalidArgument("this data set has no weights: load it with them among `columns`")
    model_ids, models, epoch = state_keys(dataset)
    # Each state as a number that grows with model and epoch; models are further apart than steps.
    stride = int(epoch.max(initial=0) - epoch.min(initial=0)) + length * step + 1
    keys = models * stride + (epoch - epoch.min(initial=0))
    order = np.argsort(keys)
    wanted = keys[order][:, None] + step * np.arange(length)
    places = np.searchsorted(keys[order], wanted).clip(max=max(0, len(keys) - 1))
    whole = (keys[order][places] == wanted).all(axis=1)
    rows = order[places[whole]]
    if not len(rows):
        raise InvalidArgument(
            f"no model has {length} states that are {step} epochs apart: load more epochs"
            if len(keys)
            else "this data set has no rows"
        )
    return Windows(dataset, rows, epoch[rows], [model_ids[model] for model in models[rows[:, 0]]])


def pairs(dataset: datasets.Dataset, step: int = 1) -> Windows:
    """Return all pairs of states of one model that are `step` epochs apart, earlier one first.

    Arguments and errors: see `epoch_windows`, with a length of 2.
    """
    return epoch_windows(dataset, 2, step)


def state_keys(dataset: datasets.Dataset) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of all models, and for each row the index of its model and its epoch.

    Raises:
        InvalidArgument: not a Dataset, a column is missing or null, or a state is repeated.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise InvalidArgument(
            f"expected a datasets.Dataset, found {type(dataset).__name__}: name a split, and do "
            "not stream"
        )
    for column in ("model_id", "epoch"):
        if column not in dataset.column_names:
            raise InvalidArgument(f"this data set has no {column}: load it among `columns`")
    names = [c for c in ("zoo", "model_id", "epoch") if c in dataset.column_names]
    table = dataset.with_format("arrow", columns=names)[:]
    if nulls := table["model_id"].null_count + table["epoch"].null_count:
        raise InvalidArgument(f"{nulls} rows of this data set have no model_id or no epoch")
    ids = table["model_id"].to_pylist()
    zoos = table["zoo"].to_pylist() if "zoo" in names else [None] * len(ids)
    numbers: dict[tuple[object, str], int] = {}
    models = [numbers.setdefault(key, len(numbers)) for key in zip(zoos, ids, strict=True)]
    epoch = table["epoch"].to_numpy().astype(np.int64)
    states = np.stack([np.array(models, np.int64), epoch])
    if twice := len(ids) - np.unique(states, axis=1).shape[1]:
        raise InvalidArgument(
            f"{twice} rows of this data set repeat the model and epoch of another row"
        )
    return [model for _, model in numbers], states[0], epoch
