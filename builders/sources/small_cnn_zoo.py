"""The Small CNN Zoo: weights.npy, metrics.csv.gz and layout.csv, as its authors publish it.

T. Unterthiner et al., "Predicting Neural Network Accuracy from Weights" (2020). A row of
weights.npy is a state; the same row of metrics.csv.gz says which model (`modeldir`) and epoch
(`step`) it is, with metrics and `config.*`. Rows are in no order. Weights are TensorFlow's:
layout.csv names the tensors, convolutions are [height, width, in, out] and linear layers [in, out].

The networks are convolutions of stride 2 **without padding**, each with the activation, then the
average over all positions and a linear layer. Public readers disagree about the padding; with
another padding the recorded accuracies are not reproduced, which `verify` shows. Images are grey
(the mean of the channels) with values from -1 to 1. Metrics are from evaluation mode at all epochs.

Source columns without a counterpart in rows, such as the L2 penalty and the share of training
images, are kept in source.parquet beside zoo.json: one row for each model, with all its `config.*`.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...errors import Unreadable
from ..model_file import SHARES_OF_1
from ..phrases import counted
from ..specification import MAX_EPOCHS, Zoo
from ..untrusted import open_plain
from ..zoo_directory import SOURCE_COLUMNS
from .archive import blamed_on_the_file, printable, shown
from .found import State
from .identify import specify_drawn
from .names import model_id_of
from .report import LeftOut, weights_fault
from .small_cnn_config import Config
from .small_cnn_files import (
    FILES,
    metric_of,
    npy_header,
    numbers_of,
    read_layout,
    read_table,
    weights_offset,
)

FORM = "small_cnn_zoo"
"""The source format in zoo.json."""

IMAGE_SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "svhn_cropped": 32}
"""Image data set of the source -> side of its images."""

_WRONG_STEP = "wrong epoch: its step is no whole number"

METRIC_COLUMNS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_acc",
    "test_loss": "test_loss",
    "test_accuracy": "test_acc",
}


@dataclass(frozen=True)
class SmallCnnZoo:
    """A published zoo, whose weights are read model by model.

    Attributes:
        dataset: image data set, as the source names it.
        architecture: text of the network.
        folder: of the files.
        offset: of the first weight in weights.npy, which is float32 [rows, N].
        order: int64 [N]; element n of our order is element order[n] of the source's.
        models: model id -> its range in the arrays below, sorted by epoch.
        names: model id -> name in the source.
        hyperparameters: model id -> hyperparameters of the row.
        config: all `config.*` of the source, one row for each model; None in a `part`.
        rows: int64 [rows], the row of weights.npy; those that belong to no model come last.
        epochs: int64 [rows].
        metrics: name of our column -> float64 [rows]; masked where a loss was not measured. A
            metric without a column in the table is absent.
        left_out: rows that belong to no model.
        remarks: facts on the columns that a user must know.
    """

    dataset: str
    architecture: str
    folder: Path
    offset: int
    order: NDArray[np.int64]
    models: Mapping[str, slice]
    names: Mapping[str, str]
    hyperparameters: Mapping[str, Mapping[str, Any]]
    config: pa.Table
    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    metrics: Mapping[str, NDArray[np.float64]]
    left_out: list[LeftOut]
    remarks: list[str]

    def finals(self) -> dict[int, str | None]:
        """Return the model of each row of the last epoch; None for a row that is left out."""
        last = int(self.epochs.max(initial=0))
        found: dict[int, str | None] = dict.fromkeys(self.rows[self.epochs == last].tolist())
        ends = ((int(self.rows[rows.stop - 1]), model) for model, rows in self.models.items())
        return found | {row: model for row, model in ends if row in found}

    def count(self, model_id: str) -> int:
        """Return the number of states of a model."""
        return self.models[model_id].stop - self.models[model_id].start

    def part(self, ids: Sequence[str]) -> SmallCnnZoo:
        """Return a part with some of the models and only their rows, for another process.

        Args:
            ids: ids of consecutive models in `models`.
        """
        places = [self.models[model] for model in ids]
        start = places[0].start
        rows = slice(start, places[-1].stop)
        return replace(
            self,
            models={
                model: slice(place.start - start, place.stop - start)
                for model, place in zip(ids, places, strict=True)
            },
            rows=self.rows[rows],
            epochs=self.epochs[rows],
            metrics={name: column[rows] for name, column in self.metrics.items()},
            names={model: self.names[model] for model in ids},
            hyperparameters={model: self.hyperparameters[model] for model in ids},
            config=self.config.schema.empty_table(),
            left_out=[],
            remarks=[],
        )

    @contextmanager
    def opened(self) -> Iterator[OpenWeights]:
        """Open weights.npy."""
        most = max(map(self.count, self.models), default=0)
        scratch = np.empty((2, most, len(self.order)), np.float32)
        with open_plain(self.folder / "weights.npy") as file:
            yield OpenWeights(self, file, scratch, [row.data for row in scratch[0]])

    def states(self, model_id: str, max_weight: float | None) -> Iterator[State | LeftOut]:
        """Yield the states of one model by epoch."""
        rows = self.models[model_id]
        with self.opened() as opened:
            faults = opened.read(model_id, max_weight)
            found = opened.memory(model_id)
        epochs = self.epochs[rows].tolist()
        metrics = [column[rows].tolist() for column in self.metrics.values()]
        for epoch, weights, fault, *row in zip(epochs, found, faults, *metrics, strict=True):
            values = {
                name: value
                for name, value in zip(self.metrics, row, strict=True)
                if value is not None  # masked
            }
            if fault is not None:
                yield LeftOut(self.names[model_id], epoch, fault)
            else:
                yield State(epoch, weights, values, {})


@dataclass(frozen=True)
class OpenWeights:
    """An open weights.npy from which models are read one after the other into the same memory.

    Allocating memory for each would take as long as reading it.

    Attributes:
        zoo: the zoo of the weights.
        file: weights.npy.
        scratch: float32 [2, S, N] for the model with most states: rows of the file, and the same
            in our order.
        lines: the memory of each row of the file.
    """

    zoo: SmallCnnZoo
    file: io.FileIO
    scratch: NDArray[np.float32]
    lines: list[memoryview]

    def memory(self, model_id: str) -> NDArray[np.float32]:
        """Return the memory [S, N] into which `read` puts the weights of a model by epoch.

        The next `read` of any model overwrites it.
        """
        return self.scratch[1, : self.zoo.count(model_id)]

    def read(self, model_id: str, max_weight: float | None) -> list[str | None]:
        """Read the weights of one model into its memory; return the fault of each state, or None.

        Args:
            model_id: id of the model.
            max_weight: see `report.weights_fault`.

        Raises:
            Unreadable: the file has become shorter.
        """
        rows = self.zoo.rows[self.zoo.models[model_id]].tolist()
        size = 4 * len(self.zoo.order)
        for row, target in zip(rows, self.lines, strict=False):
            self.file.seek(self.zoo.offset + row * size)
            if self.file.readinto(target) != size:  # not mapped: 5 GB are too many
                raise Unreadable("truncated: weights.npy has become shorter during the import")
        raw, found = self.scratch[:, : len(rows)]
        raw.take(self.zoo.order, 1, out=found, mode="clip")  # "raise" would copy once more
        limit = np.finfo(np.float32).max if max_weight is None else max_weight
        if -limit <= found.min() and found.max() <= limit:  # False if one is NaN
            return [None] * len(rows)
        return [weights_fault(weights, max_weight) for weights in found]


def is_small_cnn_zoo(folder: Path) -> bool:
    """Whether a folder holds the three files."""
    return all((folder / name).exists() for name in FILES)


@blamed_on_the_file()
def read_small_cnn_zoo(folder: Path) -> SmallCnnZoo:
    """Read all but the weights, which are read model by model.

    Raises:
        Unreadable: a file is malformed, or the files contradict each other.
    """
    with blamed_on_the_file("layout.csv"):
        text, order = read_layout(folder / "layout.csv")
    with blamed_on_the_file("weights.npy"), open_plain(folder / "weights.npy") as file:
        shape, *_ = npy_header(file)
    with blamed_on_the_file("metrics.csv.gz"):
        table = read_table(folder / "metrics.csv.gz", shape[0] if shape else 0)
    offset = weights_offset(folder / "weights.npy", (len(table), len(order)))
    accuracies = [theirs for theirs, ours in METRIC_COLUMNS.items() if ours in SHARES_OF_1]
    needed = ["step", "config.dataset", *accuracies]
    if missing := [name for name in needed if name not in table.column_names]:
        raise Unreadable(f"metrics.csv.gz has no column {' and no '.join(missing)}")
    config = table.select([name for name in table.column_names if name.startswith("config.")])
    datasets = config["config.dataset"].unique().to_pylist()
    if len(datasets) != 1 or datasets[0] not in IMAGE_SIDES:
        raise Unreadable(
            f"its models were trained on {', '.join(map(shown, datasets[:5]))}, expected one of "
            f"{', '.join(IMAGE_SIDES)}"
        )
    dataset = datasets[0]
    numbers, names = _models(table, config)
    steps = numbers_of(table, "step")
    good = np.isfinite(steps) & (steps >= 0) & (steps == np.rint(steps)) & (steps < 2**31)
    epochs = np.where(good, steps, -1).astype(np.int64)
    faults = dict.fromkeys(np.flatnonzero(~good).tolist(), _WRONG_STEP)
    metrics = {}
    for theirs, ours in METRIC_COLUMNS.items():
        if theirs in table.column_names:
            metrics[ours] = metric_of(table[theirs], ours, faults)
    of_rows = Config(config, numbers)
    for row, reason in of_rows.faults():
        faults.setdefault(row, reason)
    good[list(faults)] = False
    left_out = [
        LeftOut(names[numbers[row]], int(epochs[row]), reason) for row, reason in faults.items()
    ]
    by_model = np.lexsort((epochs, numbers))
    by_model = by_model[good[by_model]]
    same = (np.diff(numbers[by_model]) == 0) & (np.diff(epochs[by_model]) == 0)
    repeated = by_model[1:][same]
    left_out += [
        LeftOut(names[numbers[row]], int(epochs[row]), "repeated: another row is this epoch")
        for row in repeated
    ]
    kept = np.delete(by_model, np.flatnonzero(same) + 1)
    if not len(kept):
        reason = min(left_out).reason if left_out else "it is empty"
        raise Unreadable(f"metrics.csv.gz has no row that can be used: {reason}")
    starts = np.flatnonzero(np.diff(numbers[kept], prepend=-1))
    names = [names[number] for number in numbers[kept[starts]].tolist()]
    ids = [model_id_of(name) for name in names]
    places = map(slice, starts.tolist(), [*starts[1:].tolist(), len(kept)])
    of_models, hyperparameters, remarks = of_rows.of_models(kept, starts)
    rest = np.ones(len(epochs), np.bool_)
    rest[kept] = False
    rows = np.concatenate([kept, np.flatnonzero(rest)])
    side = IMAGE_SIDES[dataset]
    return SmallCnnZoo(
        dataset=dataset,
        architecture=f"1x{side}x{side} {text}",
        folder=folder,
        offset=offset,
        order=order,
        models=dict(zip(ids, places, strict=False)),
        names=dict(zip(ids, names, strict=True)),
        hyperparameters=dict(zip(ids, hyperparameters, strict=True)),
        config=of_models.add_column(0, "model_id", pa.array(ids)),
        rows=rows,
        epochs=epochs[rows],
        metrics={name: column[rows] for name, column in metrics.items()},
        left_out=left_out,
        remarks=remarks + _null_metrics(metrics, kept),
    )


def _null_metrics(metrics: Mapping[str, NDArray[np.float64]], kept: NDArray[np.int64]) -> list[str]:
    """Return a remark on each metric that is null at some of the rows that are used."""
    remarks = []
    for theirs, name in METRIC_COLUMNS.items():
        if name not in metrics:
            remarks.append(f"{name} is null: metrics.csv.gz has no column {theirs}")
        elif count := int(np.ma.getmaskarray(metrics[name])[kept].sum()):
            remarks.append(f"{name} is null at {counted(count, 'state')}, whose cells are empty")
    return remarks


def _models(table: pa.Table, config: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    """Return the index of each row's model, and the names of the models.

    A row without a modeldir belongs to the model with the same `config.*`, if there is one.
    """
    if "modeldir" in table.column_names:
        column = table["modeldir"].combine_chunks()
    else:
        column = pa.nulls(len(table), pa.string())
    if column.null_count or pc.any(pc.equal(column, "")).as_py():
        rows = zip(*(values.to_pylist() for values in config.columns), strict=True)
        keys = [hashlib.sha256(repr(row).encode()).hexdigest()[:12] for row in rows]
        given = column.to_pylist()
        of_key = {key: folder for key, folder in zip(keys, given, strict=True) if folder}
        column = pa.array(
            [
                folder or of_key.get(key) or f"config_{key}"
                for key, folder in zip(keys, given, strict=True)
            ]
        )
    encoded = column.dictionary_encode()
    folders = encoded.dictionary.to_pylist()
    shorts = [folder.rstrip("/").rpartition("/")[2] for folder in folders]
    count = Counter(shorts)
    names = [
        printable(short if short and count[short] == 1 else folder)
        for folder, short in zip(folders, shorts, strict=True)
    ]
    return encoded.indices.to_numpy().astype(np.int64), names


def write_source_columns(found: SmallCnnZoo, folder: Path) -> None:
    """Write the `config.*` of each model beside zoo.json."""
    pq.write_table(found.config.sort_by("model_id"), folder / SOURCE_COLUMNS)


def l2_factors(folder: Path) -> dict[str, float]:
    """Return model id -> factor of the L2 penalty on kernels; {} if the folder does not state it.

    The recorded losses contain the penalty, as Keras reports them (train_network.py of the authors,
    `eval_model`).
    """
    names = ["model_id", "config.l2reg"]
    try:
        table = pq.read_table(folder / SOURCE_COLUMNS, columns=names)
        return dict(
            zip(table[names[0]].to_pylist(), numbers_of(table, names[1]).tolist(), strict=True)
        )
    except (OSError, pa.ArrowException, KeyError):  # no such file, or another program's
        return {}


def specify(found: SmallCnnZoo, name: str | None) -> Zoo:
    """Return the specification of a zoo."""
    models = list(found.hyperparameters.values())
    images = found.dataset.removesuffix("_cropped")
    return specify_drawn(
        models,
        {
            "name": name or f"{images}_small_cnn",
            "image_dataset": images,
            "images": f"{images}/grey",
            "architecture": found.architecture,
            "variant": "random",
            "channels": 1,
            "classes": 10,
            "grid": {"dropout": [0.0], "weight_decay": [0.0]},
            "epochs": max(
                [m["epochs"] for m in models if 1 <= (m["epochs"] or 0) <= MAX_EPOCHS], default=86
            ),
            "momentum": 0.0,
            "note": "imported from the Small CNN Zoo (Unterthiner et al. 2020, CC BY 4.0); "
            f"hyperparameters were drawn at random, the others are in {SOURCE_COLUMNS}",
        },
    )
