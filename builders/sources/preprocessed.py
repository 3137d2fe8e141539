"""The paper's preprocessed data sets: `dataset_mnist_seed.pt` and so on.

Each is a torch file with a dictionary of `trainset`, `valset` and `testset`: pickled objects of the
class ModelDatasetBase (code/checkpoints_to_datasets/dataset_base.py). These attributes are used:

    data_in      list of state_dicts, or one tensor [rows, N] (mode "vector": weight, bias by layer)
    paths        path of the trial for each row; its last part becomes the id of the model
    epochs       epoch for each row
    properties   name -> one value for each row: results (test_acc, training_iteration, ggap = train
                 accuracy - test accuracy, ...) and keys of params.json (model::nlin, ...)

Metrics are matched by trial and training_iteration, as in the raw zoos. Hyperparameters that the
file does not hold are null. The file's splits are kept. Most files were filtered when they were
made: they hold few epochs, and no states with a weight above 5.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..layout import Layout
from ..phrases import counted
from .archive import blamed_on_the_file, printable
from .checkpoint import TorchFile, read_torch
from .found import State
from .names import last_folders, model_id_of
from .pickles import Record, Tensor
from .ray_tune import RESULT_KEYS
from .report import (
    REQUIRED_METRICS,
    LeftOut,
    drop_unusable,
    numbers,
    require_metrics,
    weights_fault,
    whole,
)

_MOST_TENSORS = 1000
"""Limit of the tensors of a state; ResNet-18 has 122."""
_MOST_PROPERTIES = 200
"""Limit of a state's properties; the original files have a few dozen."""

SPLIT_OF_PART = {"trainset": "train", "valset": "validation", "testset": "test"}


@dataclass(frozen=True)
class Row:
    """The place of one state in the file (name of the set, index in it), and its epoch."""

    part: str
    index: int
    epoch: int


@dataclass(frozen=True)
class DataSets:
    """A preprocessed file, without its weights.

    Attributes:
        file: the torch file.
        rows: model id -> its rows by epoch.
        names: model id -> name of the model in the file.
        splits: model id -> split in the file.
        metrics: model id -> training_iteration -> metrics under the names of the rows.
        params: model id -> flat keys of params.json, if the file has them.
        experiment: name of the run, "" if it is not known.
        left_out: rows that belong to no model.
        remarks: metrics that cannot be used.
        found: number of all rows.
    """

    file: TorchFile
    rows: Mapping[str, list[Row]]
    names: Mapping[str, str]
    splits: Mapping[str, str]
    metrics: Mapping[str, Mapping[int, dict[str, Any]]]
    params: Mapping[str, Mapping[str, Any]]
    experiment: str
    left_out: list[LeftOut]
    remarks: list[str]
    found: int

    def size(self) -> int:
        """Return the most frequent number of weights of a state.

        Raises:
            Unreadable: no state can be read.
        """
        sizes = Counter[int]()
        for rows in self.rows.values():
            for row in rows:
                data = self.file.tree[row.part]["data_in"]
                shapes = [data.shape[1:]] if type(data) is Tensor else _shapes(data[row.index])
                if shapes:
                    sizes[sum(map(math.prod, shapes))] += 1
        if not sizes:
            raise Unreadable("holds no readable state")
        return max(sizes, key=sizes.__getitem__)

    def states(
        self, model_id: str, layout: Layout, max_weight: float | None = None
    ) -> Iterator[State | LeftOut]:
        """Yield the states of one model by epoch; arguments: see `ray_tune.states`."""
        last = -1
        for row in self.rows[model_id]:
            try:
                if row.epoch == last:
                    raise Unreadable("repeated: another row holds the same epoch")
                state = self._state(model_id, row, layout, max_weight)
            except Unreadable as error:
                yield LeftOut(self.names[model_id], row.epoch, str(error))
                continue
            last = row.epoch
            yield state

    @blamed_on_the_file()
    def _state(self, model_id: str, row: Row, layout: Layout, max_weight: float | None) -> State:
        weights = self._weights(row, layout)
        metrics = self.metrics[model_id].get(row.epoch, {})
        if not any(value is not None for value in metrics.values()):
            raise Unreadable("missing metrics: the file has none of this epoch")
        if fault := weights_fault(weights, max_weight):
            raise Unreadable(fault)
        require_metrics(metrics, (name for name in REQUIRED_METRICS if name in metrics))
        return State(row.epoch, weights, numbers(metrics), {})

    def _weights(self, row: Row, layout: Layout) -> NDArray[np.float32]:
        data = self.file.tree[row.part]["data_in"]
        if type(data) is Tensor:
            start = data.offset + data.stride[0] * row.index
            one = data._replace(offset=start, shape=data.shape[1:], stride=data.stride[1:])
            weights: NDArray[np.float32] = self.file.array(one).astype(np.float32)
            if weights.shape != (layout.size,):
                raise Unreadable(f"wrong shape: {len(weights)} weights, expected {layout.size}")
            return weights
        if not isinstance(data[row.index], dict):
            raise Unreadable("unreadable: not a state_dict")
        if len(data[row.index]) > 2 * len(layout.slots):  # many rows can share one large dictionary
            raise Unreadable(f"wrong shape: {len(data[row.index])} tensors, not a {layout}")
        tensors = {name: self.file.array(t) for name, t in data[row.index].items()}
        try:
            return layout.to_vector(tensors)
        except ValueError as error:
            raise Unreadable(f"wrong shape: {error!s:.300}") from None


@blamed_on_the_file()
def read_datasets(path: Path) -> DataSets:
    """Read a preprocessed file, except for its weights.

    Raises:
        Unreadable: it is not such a file, is truncated, or its parts contradict each other.
    """
    with path.open("rb") as opened:
        if path.stat().st_size == 0:
            raise Unreadable("empty file")
        # Rows are views of the mapped file: a tensor of all weights is never copied as a whole.
        view = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    file = read_torch(lambda offset, count: view[offset : offset + count], len(view), len(view))
    # All rows can lie in one storage; its checksum is not computed again for each row.
    file = TorchFile(file.tree, lru_cache(maxsize=2)(file.storage))
    tree = file.tree
    parts = [
        key for key in SPLIT_OF_PART if isinstance(tree, dict) and type(tree.get(key)) is Record
    ]
    if not parts:
        raise Unreadable("is no preprocessed data set: it has no trainset, valset or testset")
    rows: dict[str, list[Row]] = {}
    names: dict[str, str] = {}
    splits: dict[str, str] = {}
    metrics: dict[str, dict[int, dict[str, Any]]] = {}
    params: dict[str, dict[str, Any]] = {}
    left_out: list[LeftOut] = []
    experiments, contradicting, found = Counter[str](), Counter[str](), 0
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
        if len(columns) > _MOST_PROPERTIES:
            raise Unreadable(f"too large: its {part} has more than {_MOST_PROPERTIES} properties")
        found += count
        for index, (where, epoch) in enumerate(zip(paths, epochs, strict=True)):
            experiment, name = last_folders(where)
            experiments[experiment] += 1
            values = {key: column[index] for key, column in properties.items()}
            model, number, fault = model_id_of(name), whole(epoch), None
            if number is None or not 0 <= number < 2**31:
                fault, number = "wrong epoch: no whole number", -1
            elif not name:
                fault = "refused: its path cannot name a model"
            elif splits.setdefault(model, SPLIT_OF_PART[part]) != SPLIT_OF_PART[part]:
                fault = f"repeated: its model lies in {splits[model]} already"
            if fault:
                left_out.append(LeftOut(printable(name), number, fault))
                continue
            names[model] = printable(name)
            rows.setdefault(model, []).append(Row(part, index, number))
            of_params = params.setdefault(model, {})
            for key, value in values.items():
                if "::" in str(key):
                    of_params.setdefault(key, value)
            if (seed := whole(values.get("seed"))) is not None:
                of_params.setdefault("seed", seed)
            of_epoch = whole(values.get("training_iteration", number))
            of_model = metrics.setdefault(model, {})
            if of_epoch is not None:
                own = _metrics(values)
                known = of_model.setdefault(of_epoch, own)  # of two rows, the first counts
                contradicting[model] += own is not known and repr(own) != repr(known)
    remarks = [
        f"{names[model]}: {counted(count, 'row')} with other metrics than an earlier row of the "
        "same training_iteration, whose metrics count"
        for model, count in contradicting.items()
        if count
    ]
    remarks += [
        f"{names[model]}: {remark}"
        for model, of_model in metrics.items()
        for remark in drop_unusable(of_model.items())
    ]
    for found_rows in rows.values():
        found_rows.sort(key=lambda row: row.epoch)
    return DataSets(
        file=file,
        rows=dict(sorted(rows.items())),
        names=names,
        splits=splits,
        metrics=metrics,
        params=params,
        experiment=max(sorted(experiments), key=experiments.__getitem__, default=""),
        left_out=left_out,
        remarks=remarks,
        found=found,
    )


def _shapes(state: object) -> list[tuple[int, ...]]:
    """Return the shapes of a state_dict's tensors; none for anything else."""
    if not isinstance(state, dict) or len(state) > _MOST_TENSORS:
        return []
    return [tensor.shape for tensor in state.values() if type(tensor) is Tensor]


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: values[theirs] for theirs, ours in RESULT_KEYS.items() if theirs in values}
    gap, test = values.get("ggap"), values.get("test_acc")
    if "train_acc" not in found and isinstance(gap, float) and isinstance(test, float):
        # The difference is rounded, so the sum can lie slightly outside [0, 1].
        found["train_acc"] = min(1.0, max(0.0, gap + test)) if abs(gap) <= 1 else gap + test
    return found
