"""One file of model states: reading it and checking what it says."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FaultyFile
from .layout import Layout
from .schema import HYPERPARAMETERS, METRICS
from .specification import Zoo
from .tensor_file import TensorFile

FORMAT = "model_zoos/1"

HEADER_KEY = "model_zoos"

MODEL_ID = re.compile(r"[A-Za-z0-9_=,-][A-Za-z0-9_=,.-]{0,199}")
"""Names a file: never a path, never hidden; trial folders of ray tune fit."""

_NOT_THE_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of this process or machine, whatever file is read."""

SHARES_OF_1 = ("train_acc", "val_acc", "test_acc", "sparsity")


@dataclass(frozen=True)
class ModelFile:
    """The states of one model that one file holds; all of them in a CNN zoo, one in a ResNet zoo.

    Attributes:
        path: of the file.
        model_id, parent_model_id: the latter None unless a twin.
        hyperparameters: as `catalog.Model.hyperparameters`; missing keys are unknown.
        epochs: int32 [S], increasing; 0 is the untrained model.
        metrics: name -> float64 [S], names from schema.METRICS; a diverged model's losses are NaN.
        zoo: it belongs to.
    """

    path: Path
    model_id: str
    parent_model_id: str | None
    hyperparameters: Mapping[str, Any]
    epochs: np.ndarray
    metrics: Mapping[str, np.ndarray]
    zoo: Zoo = field(repr=False)

    def weights(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """Weights of all states, or of some rows: float32 [rows, N], read from the file now."""
        with _opened(self.path) as file:
            if self.zoo.layout.architecture.file_per_state:
                return _vector(file, self.zoo.layout)[None]
            if rows is None:
                return file.read("weights")
            return file.map("weights")[rows]  # reads nothing of the other rows

    def mapped_weights(self) -> np.ndarray:
        """Weights of all states: float32 [S, N], read-only, a CNN's where they lie in its file.

        Whoever writes them on reads every byte once. The file must not be cut meanwhile.
        """
        if self.zoo.layout.architecture.file_per_state:
            return self.weights()
        with _opened(self.path) as file:
            return file.map("weights", whole=True)


@contextmanager
def _opened(path: Path) -> Iterator[TensorFile]:
    """A file of tensors; errors name it."""
    try:
        with TensorFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise FaultyFile(f"{path}: there is no such file (any more)") from error
    except FaultyFile:
        raise
    except (OSError, ValueError, KeyError) as error:
        if getattr(error, "errno", None) in _NOT_THE_FILES:
            raise
        raise FaultyFile(f"{path}: unreadable, truncated or not safetensors ({error})") from error


def read_model_file(path: Path, zoo: Zoo) -> ModelFile:
    layout = zoo.layout
    with _opened(path) as file:
        try:
            header = json.loads(file.metadata[HEADER_KEY])
            assert isinstance(header, dict)
        except (KeyError, TypeError, ValueError, RecursionError, AssertionError) as error:
            raise FaultyFile(
                f"{path}: its header has no JSON object {HEADER_KEY!r}: not a model of a zoo"
            ) from error
        tensors = file.tensors
        if {"weights", "epoch", "metrics"} <= tensors.keys():
            shape, kinds = tensors["weights"].shape, {tensors["weights"].dtype}
            epochs, table = file.read("epoch"), file.read("metrics")
        else:
            for slot in layout.slots:
                if slot.name not in tensors:
                    raise FaultyFile(f"{path}: there is no tensor {slot.name!r}")
                if tensors[slot.name].shape != slot.shape:
                    raise FaultyFile(
                        f"{path}: {slot.name} has shape {tensors[slot.name].shape}, "
                        f"expected {slot.shape}"
                    )
            shape, kinds = (1, layout.size), {tensors[slot.name].dtype for slot in layout.slots}
            values = header.get("values")
            if not isinstance(values, list) or not isinstance(header.get("epoch"), int):
                raise FaultyFile(f"{path}: its header lacks the state's epoch or metrics")
            epochs = np.array([header["epoch"]], np.int32)
            table = np.array([[math.nan if v is None else v for v in values]], np.float64)
    if kinds != {"F32"}:
        raise FaultyFile(f"{path}: weights are {'/'.join(sorted(kinds))}, expected F32")
    if problem := _problem(header, epochs, table, shape, zoo):
        raise FaultyFile(f"{path}: {problem}")
    if header["model_id"] not in (path.stem, path.parent.name):
        raise FaultyFile(f"{path}: holds the model {header['model_id']}: file and header disagree")
    return ModelFile(
        path=path,
        model_id=header["model_id"],
        parent_model_id=header.get("parent_model_id"),
        hyperparameters=header["hyperparameters"],
        epochs=epochs,
        metrics={name: table[:, column] for column, name in enumerate(header["metrics"])},
        zoo=zoo,
    )


def _vector(file: TensorFile, layout: Layout) -> np.ndarray:
    """The tensors of a ResNet-18's state as one vector, float32 [N], read into place."""
    vector = np.empty(layout.size, np.float32)
    for slot in sorted(layout.slots, key=lambda slot: file.tensors[slot.name].begin):
        file.read_into(slot.name, vector[slot.slice])
    return vector


def _problem(
    header: Mapping[str, Any],
    epochs: np.ndarray,
    table: np.ndarray,
    weights_shape: tuple[int, ...],
    zoo: Zoo,
) -> str | None:
    """What is wrong with a model's states, in one sentence; None if nothing is."""
    count = len(epochs) if epochs.ndim == 1 else -1
    names, hyperparameters = header.get("metrics"), header.get("hyperparameters")
    if header.get("zoo") != zoo.name:
        return f"belongs to the zoo {header.get('zoo')!r}, expected {zoo.name!r}"
    model_id = header.get("model_id")
    if not isinstance(model_id, str) or not MODEL_ID.fullmatch(model_id):
        return (
            "its model_id must be 1 to 200 letters, digits and the signs _ - = , . "
            f"(not first), found {model_id!r}"
        )
    if not isinstance(header.get("parent_model_id"), str | None):
        return "has a parent_model_id that is not a text"
    if weights_shape != (count, zoo.layout.size) or count < 1:
        return (
            f"weights have shape {weights_shape}, expected ({max(count, 1)}, {zoo.layout.size}): "
            f"one row for each of {max(count, 0)} epochs"
        )
    if epochs.dtype != np.int32 or epochs[0] < 0 or (epochs[1:] <= epochs[:-1]).any():
        return f"epochs must be increasing int32 from 0 on, found {epochs.tolist()}"
    if not isinstance(names, list) or not all(names.count(n) == 1 and n in METRICS for n in names):
        return f"unknown or repeated metrics {names!r}; known: {', '.join(METRICS)}"
    if table.dtype != np.float64 or table.shape != (count, len(names)):
        return f"metrics are {table.dtype} {table.shape}, expected float64 ({count}, {len(names)})"
    # Losses of a diverged model are NaN; an accuracy is a count and never is.
    shares = [column for column, name in enumerate(names) if name in SHARES_OF_1]
    if not ((table[:, shares] >= 0) & (table[:, shares] <= 1)).all():
        values = {names[column]: table[:, column].tolist() for column in shares}
        wrong = next(n for n, v in values.items() if not all(0 <= value <= 1 for value in v))
        return f"{wrong} must lie in [0, 1] at every epoch, found {values[wrong]}"
    if not isinstance(hyperparameters, dict) or not set(hyperparameters) <= set(HYPERPARAMETERS):
        return (
            f"hyperparameters must be among {', '.join(HYPERPARAMETERS)}, found {hyperparameters!r}"
        )
    for name, value in hyperparameters.items():
        kind = str(HYPERPARAMETERS[name])
        if value is None:
            continue
        if kind == "string":
            good = isinstance(value, str)
        elif kind.startswith("int"):
            bits = 63 if kind == "int64" else 31
            good = type(value) is int and -(2**bits) <= value < 2**bits
        else:
            good = type(value) in (int, float) and math.isfinite(value)
        if not good:
            return f"{name} must be a finite {kind}, found {value!r}"
    return None


def _header_json(header: Mapping[str, Any]) -> str:
    return json.dumps(header, separators=(",", ":"), allow_nan=False)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
