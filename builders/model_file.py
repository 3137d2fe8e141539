"""One model file: its format, reading with checks, and encoding.

A file of an architecture with `file_per_state` holds one state as named tensors; its epoch and
metrics are in the header. Any other file holds all states of a model, as the tensors `weights`
[S, N] float32, `epoch` [S] int32 and `metrics` [S, M] float64, and for twins `mean` and
`log_sigma2` [S, N] float32. All else is JSON under the key "model_zoos" of the header: safetensors
writes several keys in random order, but the same model must give the same bytes.

A NaN loss was measured: the model has diverged. A metric that was measured at only some states is
NaN at the others, and the header's `not_measured` lists their epochs: `{"val_acc": [1, 3]}`. An
accuracy can be NaN only there. A file of one state leaves out what was not measured.
`original_name` is in the header of an imported model whose name cannot be its id.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FaultyFile, InvalidArgument, UnreadableFile
from .files import Stamp
from .layout import Layout
from .schema import HYPERPARAMETERS, METRICS
from .specification import Zoo
from .tensor_file import Pieces, TensorFile, encode_tensors
from .untrusted import is_text, parse_json

FORMAT = "model_zoos/1"
"""Version of the format of model files and zoo directories."""

HEADER_KEY = "model_zoos"

MODEL_ID = re.compile(r"[A-Za-z0-9_=,-][A-Za-z0-9_=,.-]{0,199}")
"""A model's id, which also names its file: never a path and never hidden. The names of ray tune's
trial folders match."""

SHARES_OF_1 = ("train_acc", "val_acc", "test_acc", "sparsity")
"""The metrics that lie in [0, 1]."""

_MAX_METRICS = 64 << 20
"""Limit of the metrics of one file in bytes, which are read into memory."""

_MAX_TEXT = 1000
"""Limit of a hyperparameter's text in characters."""

_MAX_WHOLE = 2**53
"""Limit of the whole numbers that a float64 holds exactly."""

_KINDS = {name: str(kind) for name, kind in HYPERPARAMETERS.items()}
"""Names of the hyperparameters' types; Arrow would make them at every call."""

_BOUNDS = {"int32": 2**31, "int64": 2**63}
"""Limits of the integer types."""

_JSON = json.JSONEncoder(separators=(",", ":"))
"""Arguments of `json.dumps` for headers; a loss may be Infinity, which readers accept."""

_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of this process or machine, which say nothing about the file."""

_OTHER_THAN_FILES = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a path at which no file lies."""


@dataclass(frozen=True)
class ModelFile:
    """The states of a model that one file holds: all of them, or one with `file_per_state`.

    Attributes:
        path: path of the file.
        model_id: id of the model.
        parent_model_id: id of the dense model of a twin; None for other models.
        hyperparameters: with the keys of `Model.hyperparameters()`; absent ones are not known.
        epochs: int32 [S], increasing; 0 is the untrained model.
        metrics: name in schema.METRICS -> float64 [S]. Losses of a diverged model are NaN. A metric
            that was not measured at all states is a masked array.
        zoo: zoo of the model.
        stamp: stamp of the file when its content was read, by which a later change is noticed.
        original_name: name of the model in the source of an import, where it could not be the id.
    """

    path: Path
    model_id: str
    parent_model_id: str | None
    hyperparameters: Mapping[str, Any]
    epochs: NDArray[np.int32]
    metrics: Mapping[str, NDArray[np.float64]]
    zoo: Zoo = field(repr=False)
    stamp: Stamp = field(repr=False)
    original_name: str | None = None

    def weights(
        self, rows: Sequence[int] | None = None, chosen: Layout | None = None
    ) -> NDArray[np.float32]:
        """Read the weights of all states, or of some rows: float32 [rows, N].

        Args:
            rows: numbers of the rows; None for all.
            chosen: the tensors to read, chosen from the zoo's layout; None for all.

        Raises:
            FaultyFile: the file is missing, unreadable or truncated, or its epochs or metrics have
                changed since this was read.
        """
        with self._open() as file:
            if self.zoo.layout.architecture.file_per_state:
                return _read_vector(file, chosen or self.zoo.layout)[None]
            if chosen is not None:  # reads only the pages of these tensors
                mapped, wanted = file.map("weights"), slice(None) if rows is None else rows
                return np.concatenate([mapped[wanted, part] for part in chosen.sources], axis=1)
            if rows is None:
                return file.read("weights")
            return file.map("weights")[rows]  # reads only these rows

    def mapped_weights(self) -> NDArray[np.float32]:
        """Return the weights of all states, float32 [S, N] and read-only, mapped where possible.

        Copying the result reads every byte once. The file must not be truncated during its use.
        """
        if self.zoo.layout.architecture.file_per_state:
            return self.weights()
        with self._open() as file:
            return file.map("weights", whole=True)

    @contextmanager
    def _open(self) -> Iterator[TensorFile]:
        """Open the file to read weights of it, which must be those of these epochs and metrics."""
        with _open(self.path) as file:
            if file.stamp != self.stamp and not self._same_states():
                raise FaultyFile(f"{self.path} has changed since it was listed: load it again")
            yield file

    def _same_states(self) -> bool:
        """Whether the file still holds these states: it may only have been copied or touched."""
        now = read_model_file(self.path, self.zoo)
        return (
            np.array_equal(now.epochs, self.epochs)
            and now.hyperparameters == self.hyperparameters
            and now.parent_model_id == self.parent_model_id
            and now.metrics.keys() == self.metrics.keys()
            and all(_equal(now.metrics[name], self.metrics[name]) for name in self.metrics)
        )


def _equal(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two metrics have the same values, or NaN, and are masked at the same states."""
    masks = np.ma.getmaskarray(one), np.ma.getmaskarray(other)
    return np.array_equal(*masks) and np.array_equal(
        np.ma.getdata(one), np.ma.getdata(other), equal_nan=True
    )


Encoded = tuple[int, Pieces]
"""The first epoch in a model file, and the file's content."""


@contextmanager
def _open(path: Path) -> Iterator[TensorFile]:
    """Open a file of tensors.

    Errors become `FaultyFile`, except those of the machine; errors of the disk, the network or
    permissions, which say nothing about the file's content, become `UnreadableFile`.
    """
    try:
        with TensorFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise FaultyFile(f"{path}: there is no such file (any more)") from error
    except FaultyFile:
        raise
    except (OSError, ValueError, KeyError) as error:
        code = getattr(error, "errno", None)
        if code in _NOT_THE_FILES_FAULT:
            raise
        if code is not None and code not in _OTHER_THAN_FILES:
            raise UnreadableFile(
                f"{path}: the system cannot read it ({error}); it is kept as it is: see to its "
                "disk, network or permissions, then try again"
            ) from error
        raise FaultyFile(f"{path}: unreadable, truncated or not safetensors ({error})") from error


def read_model_file(path: Path, zoo: Zoo) -> ModelFile:
    """Read and check a model file, except for its weights.

    Raises:
        FaultyFile: it is truncated, not a model of this zoo, or has wrong shapes or values.
        UnreadableFile: the system cannot read it.
    """
    layout = zoo.layout
    with _open(path) as file:
        tensors, header = file.tensors, _read_header(path, file)
        if layout.architecture.file_per_state:
            epochs, table = _read_state(path, file, header, layout)
            kinds = {tensors[slot.name].dtype for slot in layout.slots}
            shape: tuple[int, ...] = (1, layout.size)
        else:
            epochs, table = _read_states(path, file)
            shape, kinds = tensors["weights"].shape, {tensors["weights"].dtype}
    if kinds != {"F32"}:
        raise FaultyFile(f"{path}: weights are {'/'.join(sorted(kinds))}, expected F32")
    if problem := _problem(header, epochs, table, shape, zoo):
        raise FaultyFile(f"{path}: {problem}")
    named = path.parent.name if layout.architecture.file_per_state else path.stem
    if header["model_id"] != named:
        raise FaultyFile(f"{path}: holds the model {header['model_id']}: file and header disagree")
    return ModelFile(
        path=path,
        model_id=header["model_id"],
        parent_model_id=header.get("parent_model_id"),
        hyperparameters=header["hyperparameters"],
        epochs=epochs,
        metrics={
            name: masked(table[:, column], epochs, (header.get("not_measured") or {}).get(name))
            for column, name in enumerate(header["metrics"])
        },
        zoo=zoo,
        stamp=file.stamp,
        original_name=header.get("original_name"),
    )


def _read_states(path: Path, file: TensorFile) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the epochs and metrics of a file of several states."""
    tensors = file.tensors
    if missing := {"weights", "epoch", "metrics"} - tensors.keys():
        raise FaultyFile(f"{path}: there is no tensor {min(missing)!r}")
    for name in ("epoch", "metrics"):
        if tensors[name].end - tensors[name].begin > _MAX_METRICS:
            raise FaultyFile(f"{path}: {name} has more than {_MAX_METRICS:,} bytes")
    # Metrics follow the header within the bytes already read; epochs follow the weights.
    table, epochs = file.read("metrics"), file.read("epoch")
    return epochs, table


def _read_state(
    path: Path, file: TensorFile, header: Mapping[str, Any], layout: Layout
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the epoch and metrics of a file of one state, whose tensors are those of a layout."""
    for slot in layout.slots:
        if slot.name not in file.tensors:
            raise FaultyFile(f"{path}: there is no tensor {slot.name!r}")
        if (shape := file.tensors[slot.name].shape) != slot.shape:
            raise FaultyFile(f"{path}: {slot.name} has shape {shape}, expected {slot.shape}")
    values, epoch = header.get("values"), header.get("epoch")
    if (
        not isinstance(values, list)
        or not all(type(value) in (float, int, NoneType) for value in values)
        or type(epoch) is not int
        or not 0 <= epoch < 2**31
    ):
        raise FaultyFile(f"{path}: its header lacks the state's epoch or metrics")
    if path.stem != f"epoch_{epoch:04d}":
        raise FaultyFile(f"{path}: holds epoch {epoch}: file and header disagree")
    table = np.array([[math.nan if v is None else v for v in values]], np.float64)
    return np.array([epoch], np.int32), table


def _read_header(path: Path, file: TensorFile) -> dict[str, Any]:
    """Return the JSON object in a model file's header."""
    try:
        header = parse_json(file.metadata[HEADER_KEY].encode())
    except (KeyError, AttributeError, ValueError) as error:
        raise FaultyFile(
            f"{path}: its header has no JSON object {HEADER_KEY!r}: not a model of a zoo ({error})"
        ) from error
    if not isinstance(header, dict):
        raise FaultyFile(f"{path}: {HEADER_KEY!r} in its header is no JSON object")
    return header


def masked(
    values: NDArray[np.float64], epochs: NDArray[np.int32], absent: list[int] | None
) -> NDArray[np.float64]:
    """Return a metric, masked at the epochs at which it was not measured; unchanged for None."""
    return values if absent is None else np.ma.array(values, mask=np.isin(epochs, absent))


def _read_vector(file: TensorFile, layout: Layout) -> NDArray[np.float32]:
    """Read named tensors as one vector [N], in the order in which the file holds them."""
    vector = np.empty(layout.size, np.float32)
    for slot in sorted(layout.slots, key=lambda slot: file.tensors[slot.name].begin):
        file.read_into(slot.name, vector[slot.slice])
    return vector


def encode_model(
    zoo: Zoo,
    model_id: str,
    hyperparameters: Mapping[str, object],
    epochs: ArrayLike,
    weights: NDArray[np.floating],
    metrics: Mapping[str, ArrayLike],
    parent_model_id: str | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
    original_name: str | None = None,
) -> Iterator[Encoded]:
    """Check a model, and return its files: the first epoch of each, with its content.

    Arguments and errors: see `ZooDirectory.write_model`. The values of the weights are not checked.
    Where all states are in one file, its content refers to a contiguous float32 array without a
    copy, whose values may still be filled in until the file is written.
    """
    epochs = np.ascontiguousarray(epochs, np.int32)
    weights = np.ascontiguousarray(weights, np.float32)
    names, table, absent = _metric_table(model_id, metrics, epochs)
    header: dict[str, Any] = {
        "format": FORMAT,
        "zoo": zoo.name,
        "model_id": model_id,
        "parent_model_id": parent_model_id,
        "hyperparameters": {  # numpy's numbers are accepted like Python's
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in hyperparameters.items()
        },
        "metrics": names,
    }
    if absent:
        header["not_measured"] = {name: epochs[mask].tolist() for name, mask in absent.items()}
    if original_name is not None:
        header["original_name"] = original_name
    if problem := _problem(header, epochs, table, weights.shape, zoo):
        raise InvalidArgument(f"model {model_id}: {problem}")
    tensors: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(value, np.float32) for name, value in (extra or {}).items()
    }
    if any(value.shape != weights.shape for value in tensors.values()):
        raise InvalidArgument(f"model {model_id}: extra tensors must have the shape of the weights")
    if not zoo.layout.architecture.file_per_state:
        tensors |= {"weights": weights, "epoch": epochs, "metrics": table}
        return iter([(int(epochs[0]), _encode(tensors, header))])
    header.pop("not_measured", None)

    def encode_state(row: int, epoch: int) -> Encoded:
        found = dict(zip(names, table[row].tolist(), strict=True))
        for name in [name for name, mask in absent.items() if mask[row]]:
            del found[name]
        values = [None if math.isnan(value) else value for value in found.values()]
        state = {**header, "metrics": list(found), "epoch": epoch, "values": values}
        named = zoo.layout.to_state_dict(weights[row])
        return epoch, _encode({n: np.ascontiguousarray(v) for n, v in named.items()}, state)

    return itertools.starmap(encode_state, enumerate(epochs.tolist()))


def _metric_table(
    model_id: str, metrics: Mapping[str, ArrayLike], epochs: NDArray[np.int32]
) -> tuple[list[str], NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Return the measured metrics: names, values [S, M], and where some were not measured.

    Raises:
        InvalidArgument: unknown metrics, or another number of values than of epochs.
    """
    if unknown := set(metrics).difference(METRICS):
        raise InvalidArgument(f"unknown metrics {sorted(unknown)}; known: {', '.join(METRICS)}")
    columns: dict[str, ArrayLike] = {}
    absent: dict[str, NDArray[np.bool_]] = {}
    for name in filter(metrics.__contains__, METRICS):
        values = metrics[name]
        if np.shape(values) != epochs.shape:
            raise InvalidArgument(f"{name} of {model_id} must have one value for each epoch")
        if isinstance(values, np.ma.MaskedArray):
            mask = np.ma.getmaskarray(values)
            if mask.all():  # never measured
                continue
            if mask.any():
                absent[name] = mask
            values = np.ma.array(values, np.float64).filled(math.nan)
        columns[name] = values
    table = np.empty((len(epochs), len(columns)), np.float64)
    for column, values in enumerate(columns.values()):
        table[:, column] = values
    return list(columns), table, absent


def _encode(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, object]) -> Pieces:
    return encode_tensors(tensors, {HEADER_KEY: _JSON.encode(header)})


def _problem(
    header: Mapping[str, Any],
    epochs: NDArray[np.int32],
    table: NDArray[np.float64],
    weights_shape: tuple[int, ...],
    zoo: Zoo,
) -> str | None:
    """Return in one sentence what is wrong with a model's states; None if nothing is.

    Reader and writer share this check: the writer refuses what a reader would refuse.
    """
    count = len(epochs) if epochs.ndim == 1 else -1
    names = header.get("metrics")
    if header.get("zoo") != zoo.name:
        return f"belongs to the zoo {header.get('zoo')!r:.60}, expected {zoo.name!r}"
    if problem := names_problem(header):
        return problem
    if weights_shape != (count, zoo.layout.size) or count < 1:
        return (
            f"weights have shape {weights_shape}, expected ({max(count, 1)}, {zoo.layout.size}): "
            f"one row for each of {max(count, 0)} epochs"
        )
    if epochs.dtype != np.int32 or epochs[0] < 0 or (epochs[1:] <= epochs[:-1]).any():
        return f"epochs must be increasing int32 from 0 on, found {epochs.tolist()!r:.60}"
    if not isinstance(names, list) or not all(names.count(n) == 1 and n in METRICS for n in names):
        return f"unknown or repeated metrics {names!r:.200}; known: {', '.join(METRICS)}"
    if table.dtype != np.float64 or table.shape != (count, len(names)):
        return f"metrics are {table.dtype} {table.shape}, expected float64 ({count}, {len(names)})"
    absent = header.get("not_measured", {})
    if not isinstance(absent, dict) or not all(
        name in names and isinstance(found, list) and all(type(e) is int for e in found)
        for name, found in absent.items()
    ):
        return f"not_measured must be lists of epochs by metric, found {absent!r:.60}"
    # Losses of a diverged model are NaN; an accuracy is a count and never is.
    shares = [column for column, name in enumerate(names) if name in SHARES_OF_1]
    if not _are_shares(table[:, shares]):  # unmeasured shares are absent here
        for column in shares:
            name, values = names[column], table[:, column]
            if name in absent:
                values = values[~np.isin(epochs, absent[name])]
            if not _are_shares(values):
                return f"{name} must lie in [0, 1] at every epoch, found {values.tolist()!r:.60}"
    return hyperparameters_problem(header.get("hyperparameters"))


def _are_shares(values: NDArray[np.float64]) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def names_problem(header: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the names of a model, its parent and its original, or None."""
    model_id = header.get("model_id")
    if not isinstance(model_id, str) or not MODEL_ID.fullmatch(model_id):
        return (
            "its model_id must be 1 to 200 letters, digits and the signs _ - = , . "
            f"(not first), found {model_id!r:.220}"
        )
    parent = header.get("parent_model_id")
    if parent is not None and not is_text(parent, _MAX_TEXT):
        return f"parent_model_id must be a text of at most {_MAX_TEXT:,} characters"
    if "original_name" in header and not is_text(header["original_name"], _MAX_TEXT):
        return f"original_name must be a text of at most {_MAX_TEXT:,} characters"
    return None


def hyperparameters_problem(hyperparameters: object) -> str | None:
    """Return what is wrong with the hyperparameters of a model; None if nothing is."""
    if not isinstance(hyperparameters, dict) or not set(hyperparameters) <= set(HYPERPARAMETERS):
        return (
            f"hyperparameters must be among {', '.join(HYPERPARAMETERS)}, "
            f"found {hyperparameters!r:.200}"
        )
    for name, value in hyperparameters.items():
        kind = _KINDS[name]
        if kind == "string":
            good = is_text(value, _MAX_TEXT)
        elif bound := _BOUNDS.get(kind):
            good = type(value) is int and -bound <= value < bound
        else:
            good = type(value) is float and math.isfinite(value)
            good = good or (type(value) is int and abs(value) <= _MAX_WHOLE)
        if value is not None and not good:
            return f"{name} must be a finite {kind}, found {value!r:.60}"
    return None
