"""The paper's preprocessed data sets: `dataset_mnist_seed.pt` and so on.

Each is a torch file with a dictionary of `trainset`, `valset` and `testset`, which are pickled
objects of the class ModelDatasetBase (code/checkpoints_to_datasets/dataset_base.py). These of its
attributes are used:

    data_in      list of state_dicts, or one tensor [rows, N] (mode "vector": weight, bias by layer)
    paths        path of the trial for each row; its last part becomes the id of the model
    epochs       epoch for each row
    properties   name -> one value for each row: results (test_acc, training_iteration, ggap = train
                 accuracy - test accuracy, ...) and keys of params.json (model::nlin, ...)

Metrics are matched by trial and training_iteration, as in the raw zoos. Hyperparameters that the
file does not hold are null. The split of the file is kept. Most files were filtered when they were
made: they hold few epochs, and no states with a weight above 5.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..layout import Layout
from ..model_file import MODEL_ID
from .checkpoint import Record, Tensor, TorchFile, read_torch
from .ray_tune import METRICS, State, last_folders
from .report import LeftOut, metrics_fault, weights_fault

SPLITS = {"trainset": "train", "valset": "validation", "testset": "test"}


@dataclass(frozen=True)
class Row:
    """The place of one state in the file: name of the set and index in it; and its epoch."""

    part: str
    index: int
    epoch: int


@dataclass(frozen=True)
class DataSets:
    """A preprocessed file, without its weights.

    Attributes:
        file: the torch file.
        rows: model id -> its rows by epoch.
        splits: model id -> split in the file.
        metrics: (model id, training_iteration) -> metrics under the names of the rows.
        params: model id -> flat keys of params.json, as far as the file has them.
        experiment: name of the run, "" if it is not known.
        left_out: rows that belong to no model.
        found: number of all rows.
    """

    file: TorchFile
    rows: Mapping[str, list[Row]]
    splits: Mapping[str, str]
    metrics: Mapping[tuple[str, int], Mapping[str, Any]]
    params: Mapping[str, Mapping[str, Any]]
    experiment: str
    left_out: list[LeftOut]
    found: int

    def size(self) -> int:
        """Return the number of weights of the first readable state.

        Raises:
            Unreadable: no state is readable.
        """
        for rows in self.rows.values():
            for row in rows:
                data = self.file.tree[row.part]["data_in"]
                try:
                    if type(data) is Tensor:
                        return data.shape[1]
                    return sum(self.file.array(tensor).size for tensor in data[row.index].values())
                except (Unreadable, AttributeError):
                    continue
        raise Unreadable("holds no readable state")

    def states(
        self, model_id: str, layout: Layout, max_weight: float | None = None
    ) -> Iterator[State | LeftOut]:
        """Yield the states of one model by epoch; arguments as in `ray_tune.states`."""
        last = -1
        for row in self.rows[model_id]:
            try:
                if row.epoch == last:
                    raise Unreadable("repeated: another row holds the same epoch")
                weights = self._weights(row, layout)
                metrics = self.metrics.get((model_id, row.epoch))
                if not metrics:
                    raise Unreadable("missing metrics: the file has none of this epoch")
                fault = weights_fault(weights, max_weight) or metrics_fault(metrics, tuple(metrics))
                if fault:
                    raise Unreadable(fault)
            except Unreadable as error:
                yield LeftOut(model_id, row.epoch, str(error))
                continue
            last = row.epoch
            numbers = {name: float(value) for name, value in metrics.items()}
            yield State(row.epoch, weights, numbers, {})

    def _weights(self, row: Row, layout: Layout) -> NDArray[np.float32]:
        data = self.file.tree[row.part]["data_in"]
        if type(data) is Tensor:
            start = data.offset + data.stride[0] * row.index
            one = Tensor(data.storage, start, data.shape[1:], data.stride[1:])
            weights: NDArray[np.float32] = self.file.array(one).astype(np.float32)
            if weights.shape != (layout.size,):
                raise Unreadable(f"wrong shape: {len(weights)} weights, expected {layout.size}")
            return weights
        if not isinstance(data[row.index], dict):
            raise Unreadable("unreadable: not a state_dict")
        tensors = {name: self.file.array(t) for name, t in data[row.index].items()}
        try:
            return layout.to_vector(tensors)
        except ValueError as error:
            raise Unreadable(f"wrong shape: {error!s:.300}") from None


def read_datasets(path: Path) -> DataSets:
    """Read a preprocessed file, except for its weights.

    Raises:
        Unreadable: it is no such file, is truncated, or its parts contradict each other.
    """
    with path.open("rb") as opened:
        if path.stat().st_size == 0:
            raise Unreadable("empty file")
        # Rows are views of the mapped file: a tensor of all weights is never copied as a whole.
        view = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    file = read_torch(lambda offset, count: view[offset : offset + count], len(view))
    # All rows can lie in one storage, whose checksum need not be computed for each of them.
    file = TorchFile(file.tree, lru_cache(maxsize=2)(file.storage))
    tree = file.tree
    parts = [key for key in SPLITS if isinstance(tree, dict) and type(tree.get(key)) is Record]
    if not parts:
        raise Unreadable("is no preprocessed data set: it has no trainset, valset or testset")
    rows: dict[str, list[Row]] = {}
    splits: dict[str, str] = {}
    metrics: dict[tuple[str, int], dict[str, Any]] = {}
    params: dict[str, dict[str, Any]] = {}
    left_out: list[LeftOut] = []
    experiments, found = [], 0
    for part in parts:
        content = tree[part]
        data = content.get("data_in")
        count = data.shape[0] if type(data) is Tensor and len(data.shape) == 2 else None
        if type(data) is list:
            count = len(data)
        paths, epochs = content.get("paths"), content.get("epochs")
        properties = content.get("properties") or {}
        columns = [paths, epochs, *(properties.values() if type(properties) is dict else [None])]
        if count is None or any(type(c) is not list or len(c) != count for c in columns):
            raise Unreadable(f"its {part} has not one path, epoch and property for each state")
        found += count
        for index, (where, epoch) in enumerate(zip(paths, epochs, strict=True)):
            experiment, trial = last_folders(where)
            experiments.append(experiment)
            values = {key: column[index] for key, column in properties.items()}
            fault = None
            if type(epoch) is not int or not 0 <= epoch < 2**31:
                fault, epoch = "wrong epoch: no whole number", -1
            elif not MODEL_ID.fullmatch(trial):
                fault = "refused: its path cannot name a model"
            elif splits.setdefault(trial, SPLITS[part]) != SPLITS[part]:
                fault = f"repeated: its model lies in {splits[trial]} already"
            if fault:
                left_out.append(LeftOut(trial[:200], epoch, fault))
                continue
            rows.setdefault(trial, []).append(Row(part, index, epoch))
            params.setdefault(trial, {}).update({k: v for k, v in values.items() if "::" in str(k)})
            if type(values.get("seed")) is int:
                params[trial]["seed"] = values["seed"]
            of_epoch = values.get("training_iteration", epoch)
            if type(of_epoch) is int:
                metrics[trial, of_epoch] = _metrics(values)
    for found_rows in rows.values():
        found_rows.sort(key=lambda row: row.epoch)
    return DataSets(
        file=file,
        rows=dict(sorted(rows.items())),
        splits=splits,
        metrics=metrics,
        params=params,
        experiment=max(sorted(set(experiments)), key=experiments.count, default=""),
        left_out=left_out,
        found=found,
    )


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: values[theirs] for theirs, ours in METRICS.items() if theirs in values}
    gap, test = values.get("ggap"), values.get("test_acc")
    if "train_acc" not in found and isinstance(gap, float) and isinstance(test, float):
        # The difference is rounded, so that the sum can lie just outside of [0, 1].
        found["train_acc"] = min(1.0, max(0.0, gap + test)) if abs(gap) <= 1 else gap + test
    return found
