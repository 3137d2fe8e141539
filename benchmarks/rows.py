"""The usable rows of each split, as matrices that a probe can be fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.typing import NDArray

from ..builders.access import weights
from ..builders.names import dense_name
from ..builders.phrases import counted
from ..builders.splits import FEWEST_MODELS, SPLITS, assign_splits
from ..errors import Leakage, TooFewModels
from .states import Column, number_models, objects
from .stored import BLOCK_BYTES, Matrix, StoredMatrix

MAX_WEIGHT = 5.0
"""The threshold of the paper's code (code/checkpoints_to_datasets/dataset_base.py,
weight_threshold)."""

WHY_LEFT_OUT = (
    f"The paper's data sets leave out states whose largest weight exceeds {MAX_WEIGHT:g}, a sign "
    "of unstable training."
)
"""The sentence shown wherever such states are left out."""

LARGE_WEIGHT = "a weight above"
"""Beginning of the reason for states that are left out because of a large weight."""


@dataclass(frozen=True)
class Rows:
    """The usable rows of a split, sorted by zoo, model and epoch.

    Attributes:
        weights: float32 [rows, N], in memory or on disk.
        columns: target -> [rows]: float64 for numbers, objects for classes (None if unknown).
        model: index of each row's model, int64 [rows]: 0, 1, ...
    """

    weights: Matrix
    columns: Mapping[str, Column]
    model: NDArray[np.int64]

    def matrix(self, targets: Sequence[str]) -> NDArray[np.float64]:
        """Return several numbers as columns of one matrix, [rows, targets]."""
        return np.stack([self.columns[target] for target in targets], axis=1)


def read_rows(
    dataset: Dataset,
    numbers: Sequence[str],
    classes: Sequence[str],
    max_weight: float,
    left_out: dict[str, int],
    *,
    stored: bool = False,
) -> Rows:
    """Read the usable rows of one split.

    Args:
        dataset: rows with the columns zoo, model_id, epoch, weights and the targets.
        numbers: targets that are numbers. Rows that lack one of them are left out.
        classes: targets that are classes.
        max_weight: rows with a larger weight (in absolute value) are left out.
        left_out: reason -> number of rows; the rows left out here are added to it.
        stored: whether the weights stay on disk.
    """
    plain = dataset.with_format("arrow")
    # As float64, an accuracy keeps the bits of its float32.
    columns: dict[str, Column] = {
        target: plain[target].to_numpy(zero_copy_only=False).astype(np.float64)
        for target in numbers
    }
    columns |= {target: objects(plain[target]) for target in classes}
    keys = [objects(plain[key]) for key in ("zoo", "model_id")]
    order = np.lexsort((plain["epoch"].to_numpy(), *reversed(keys)))
    matrix = StoredMatrix.of(dataset) if stored else None
    step = max(1, BLOCK_BYTES // (4 * weights_length(dataset)))
    largest = _largest(_blocks(dataset, step) if matrix is None else matrix.blocks(step))
    known = np.isfinite(np.stack([columns[t] for t in numbers] or [np.zeros(len(largest))]))
    kept = np.ones(len(largest), bool)
    for reason, good in (
        ("weights not finite", np.isfinite(largest)),
        (f"{LARGE_WEIGHT} {max_weight:g}", largest <= max_weight),
        ("target absent", known.all(axis=0)),
    ):
        left_out[reason] = left_out.get(reason, 0) + int((kept & ~good).sum())
        kept &= good
    order = order[kept[order]]
    if matrix is None and (len(order) < len(dataset) or (order[1:] < order[:-1]).any()):
        dataset = dataset.select(order)
    return Rows(
        weights(dataset).numpy() if matrix is None else matrix.select(order),
        {target: column[order] for target, column in columns.items()},
        number_models(*(key[order] for key in keys)),
    )


def weights_length(dataset: Dataset) -> int:
    """Return the length of a data set's weight vectors; 1 if its features do not state it."""
    return max(1, getattr(dataset.features.get("weights"), "length", 1))


def _largest(matrices: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return `largest_weights` of several blocks of rows, [rows]."""
    return np.concatenate([np.empty(0, np.float32), *map(largest_weights, matrices)])


def largest_weights(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest absolute weight of each row, from [rows, N]; NaN if one is NaN."""
    found: NDArray[np.float32] = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    return found


def _blocks(dataset: Dataset, step: int) -> Iterator[NDArray[np.float32]]:
    """Yield some rows at a time, so that only rows in use are copied."""
    for start in range(0, len(dataset), step):
        yield weights(dataset.select(range(start, min(start + step, len(dataset))))).numpy()


def refuse_leakage(splits: Mapping[str, Dataset]) -> None:
    """Refuse splits that share a model, or a parent and its twins.

    Args:
        splits: split -> rows with the columns zoo, model_id and parent_model_id.

    Raises:
        Leakage: they do; the message names the first such model.
    """
    found: dict[tuple[str, str], str] = {}
    for split, dataset in splits.items():
        names = ["zoo", "model_id", "parent_model_id"]
        table = dataset.select_columns(names).with_format("arrow")[:]
        # By model, not by row: a zoo can have 51 rows per model.
        for row in table.group_by(names).aggregate([]).to_pylist():
            zoo = dense_name(row["zoo"])
            family = (zoo, row["parent_model_id"] or row["model_id"])
            if found.setdefault(family, split) != split:
                kind = "a state of" if row["parent_model_id"] is None else "a twin of"
                raise Leakage(
                    f"{kind} the model {family[1]} of {zoo} lies in {split}, another one in "
                    f"{found[family]}, so scores would be those of models seen in training. "
                    "Splits are by model, and a twin lies in its parent's split (splits.json)"
                )


def refuse_few_values(values: Iterable[object], column: str, zoo: str) -> None:
    """Refuse a split by a column with fewer values than splits need.

    Raises:
        TooFewModels: the message names the zoo.
    """
    count = len(set(map(str, values)))
    if count < FEWEST_MODELS:
        raise TooFewModels(
            f"{zoo} cannot be split by {column}: its models have {counted(count, 'value')} of "
            f"{column}, and such a split needs {FEWEST_MODELS} or more. Name another "
            "hyperparameter, or use the splits of the zoo"
        )


def split_by_value(
    splits: Mapping[str, Dataset], column: str, zoo: str
) -> tuple[DatasetDict, dict[str, int]]:
    """Return the rows in new splits: all models with the same value of a column lie in one.

    Values are assigned like models (builders/splits.py): 70 % of the values are in train, however
    many models each of them has.

    Args:
        splits: split -> rows with the column.
        column: name of a hyperparameter, such as "seed".
        zoo: name of the zoo, for messages.

    Returns:
        The rows, and the number of values of the column, by split.

    Raises:
        TooFewModels: there are fewer values than splits need.
    """
    rows = concatenate_datasets([splits[split] for split in SPLITS])
    names = np.array([str(value) for value in objects(rows.with_format("arrow")[column])])
    refuse_few_values(names.tolist(), column, zoo)
    found = assign_splits({}, names.tolist())
    splits_of_rows = np.array([found[name] for name in names])
    return (
        DatasetDict({s: rows.select(np.flatnonzero(splits_of_rows == s)) for s in SPLITS}),
        {split: list(found.values()).count(split) for split in SPLITS},
    )
