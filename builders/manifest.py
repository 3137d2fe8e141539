"""The manifest of a zoo directory: what earlier scans found in its model files, except the weights.

It saves a scan from opening the files that have not changed since. It is a cache: its entry for a
file is valid only while the file has the same stamp, and an unusable manifest is ignored and
rebuilt. Deleting it costs only time.

It is a safetensors file, so that reading it takes no more memory than its size, whoever wrote it.
For F model files with T states it holds

    names     F texts, one a line: paths of the model files below models/
    headers   F texts, one a line: a JSON object with all of a `ModelFile` except its arrays
    stamps    int64 [F, 4]
    states    int32 [F], the number of states in each file
    epochs    int32 [T]
    metrics   float64 [M, T], in the order of schema.METRICS; NaN for absent values

and its header names the version of this format, the zoo that the files were checked against, and a
digest of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from .atomic import write_atomically
from .files import Stamp
from .model_file import (
    HEADER_KEY,
    SHARES_OF_1,
    ModelFile,
    hyperparameters_problem,
    masked,
    names_problem,
)
from .schema import METRICS
from .specification import Zoo
from .tensor_file import MAX_HEADER, TensorFile
from .untrusted import parse_json

MANIFEST = ".manifest"
"""Name of the manifest in a zoo directory."""

_VERSION = 1
"""Version of the format and of the checks on model files; a manifest of another version is
rebuilt."""

_MAX_BYTES = 1 << 28
"""Limit of its size in bytes: 80,000 models of 51 states. A larger zoo has no manifest."""

_CLOCK_STEP = 2_000_000_000
"""Coarsest file-system clock (FAT) in ns: a file changed within this time before it was read can
change again without a new stamp."""


@dataclass(frozen=True)
class _Rows:
    """The tensors of a manifest, with its texts as lists."""

    names: list[bytes]
    headers: list[bytes]
    stamps: NDArray[np.int64]
    states: NDArray[np.int32]
    epochs: NDArray[np.int32]
    metrics: NDArray[np.float64]

    def select(self, kept: list[bool]) -> _Rows:
        """Return the rows of some files; `kept` has a flag for each."""
        files = np.array(kept, np.bool_)
        states = np.repeat(files, self.states)
        return _Rows(
            [name for name, keep in zip(self.names, kept, strict=True) if keep],
            [header for header, keep in zip(self.headers, kept, strict=True) if keep],
            self.stamps[files],
            self.states[files],
            self.epochs[states],
            self.metrics[:, states],
        )

    def __add__(self, other: _Rows) -> _Rows:
        return _Rows(
            self.names + other.names,
            self.headers + other.headers,
            np.concatenate([self.stamps, other.stamps]),
            np.concatenate([self.states, other.states]),
            np.concatenate([self.epochs, other.epochs]),
            np.concatenate([self.metrics, other.metrics], axis=1),
        )


@dataclass(frozen=True)
class Recorded:
    """The entries of a manifest for files that have not changed since.

    Attributes:
        files: the model files by name.
        rows: the same entries as tensors of a manifest.
        stale: whether the manifest has entries for other files too, or could not be used.
    """

    files: Mapping[str, ModelFile]
    rows: _Rows
    stale: bool


def nothing_recorded(*, stale: bool) -> Recorded:
    """Return the content of an empty manifest."""
    return Recorded({}, _encode({}, {}), stale)


def read_manifest(folder: Path, zoo: Zoo, stamps: Mapping[str, Stamp | None]) -> Recorded:
    """Read the manifest of a zoo directory.

    Args:
        folder: the zoo directory.
        zoo: its zoo.
        stamps: name of each existing model file -> its stamp, None for one that has none.
    """
    try:
        rows = _read(folder / MANIFEST, zoo)
        kept = [
            stamps.get(name.decode()) == tuple(stamp)
            for name, stamp in zip(rows.names, rows.stamps.tolist(), strict=True)
        ]
        stale = not all(kept)
        rows = rows.select(kept) if stale else rows
        return Recorded(_decode(rows, folder / "models", zoo), rows, stale)
    except FileNotFoundError:
        return nothing_recorded(stale=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError):
        return nothing_recorded(stale=True)


def write_manifest(
    folder: Path,
    zoo: Zoo,
    recorded: Recorded,
    new: Mapping[str, ModelFile],
    stamps: Mapping[str, Stamp | None],
) -> None:
    """Replace the manifest of a zoo directory, if it can be written.

    Args:
        folder, zoo, stamps: see `read_manifest`.
        recorded: what `read_manifest` returned.
        new: name -> model file, all of which are `settled`.
    """
    rows = recorded.rows + _encode(new, stamps)
    texts = {"names": rows.names, "headers": rows.headers}
    tensors: dict[str, NDArray[Any]] = {
        **{key: np.frombuffer(b"\n".join(lines), np.uint8) for key, lines in texts.items()},
        **{key: getattr(rows, key) for key in ("stamps", "states", "epochs", "metrics")},
    }
    content = save(tensors, metadata={HEADER_KEY: _about(zoo, tensors)})
    if len(content) <= _MAX_BYTES:
        with suppress(OSError):
            write_atomically(folder / MANIFEST, content)


def clock(folder: Path) -> int:
    """Return the time of a folder's file system in ns; 0 if the folder cannot be written to."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".partial") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def settled(stamp: Stamp | None, now: int) -> bool:
    """Whether any later change of a file will change its stamp, and the stamp fits into int64.

    Args:
        stamp: its stamp.
        now: what `clock` returned after the stamp was taken, and before the file was read.
    """
    if stamp is None or not -(2**63) <= min(stamp) <= max(stamp) < 2**63:
        return False
    _, modified, changed, _ = stamp
    return max(modified, changed) + _CLOCK_STEP <= now


def _about(zoo: Zoo, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the text of a manifest's header."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).data)
    about = {"manifest": _VERSION, "zoo": zoo.to_json(), "sha256": digest.hexdigest()}
    return json.dumps(about, sort_keys=True)


def _read(path: Path, zoo: Zoo) -> _Rows:
    """Read the tensors of a manifest, and check what `_Rows` relies on."""
    with TensorFile(path) as file:
        if os.fstat(file.file.fileno()).st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        found = {name: file.read(name) for name in file.tensors}
        if file.metadata[HEADER_KEY] != _about(zoo, found):
            raise ValueError("it is damaged, or of another version or zoo")
    count, states = len(found["stamps"]), len(found["epochs"])
    expected = {
        "stamps": ((count, 4), np.dtype(np.int64)),
        "states": ((count,), np.dtype(np.int32)),
        "epochs": ((states,), np.dtype(np.int32)),
        "metrics": ((len(METRICS), states), np.dtype(np.float64)),
    }
    for name, (shape, kind) in expected.items():
        if found[name].shape != shape or found[name].dtype != kind:
            raise ValueError(f"{name} has another form")
    if (found["states"] < 1).any() or found["states"].sum(dtype=np.int64) != states:
        raise ValueError("the numbers of states are not those of the epochs")
    names, headers = (_lines(found[name], count) for name in ("names", "headers"))
    if len(set(names)) < count:
        raise ValueError("a file occurs twice")
    return _Rows(names, headers, *(found[name] for name in expected))


def _lines(text: NDArray[np.uint8], count: int) -> list[bytes]:
    if np.count_nonzero(text == ord("\n")) != max(0, count - 1):
        raise ValueError("a text has too few or too many lines")
    return text.tobytes().split(b"\n") if count else []


def _decode(rows: _Rows, models: Path, zoo: Zoo) -> dict[str, ModelFile]:
    """Return model files by name, with the same checks as files that are read directly."""
    ends = rows.states.cumsum(dtype=np.int64)
    rising = np.diff(rows.epochs) > 0
    rising[ends[:-1] - 1] = True  # where the next model begins
    shares = rows.metrics[[METRICS.index(name) for name in SHARES_OF_1]]
    if (
        not rising.all()
        or (rows.epochs < 0).any()
        or not ((shares >= 0) & (shares <= 1) | np.isnan(shares)).all()
    ):
        raise ValueError("epochs do not increase, or accuracies do not lie in [0, 1]")
    metrics = dict(zip(METRICS, rows.metrics, strict=True))
    files, start = {}, 0
    stamps: list[Stamp] = [(size, m, c, inode) for size, m, c, inode in rows.stamps.tolist()]
    places = zip(ends.tolist(), stamps, strict=True)
    for line, text, (end, stamp) in zip(rows.names, rows.headers, places, strict=True):
        if len(text) > MAX_HEADER:
            raise ValueError("a text is too long")
        name, header = line.decode(), parse_json(text)
        if not isinstance(header, dict):
            raise ValueError("a text is no JSON object")
        header["model_id"] = name.partition("/")[0].removesuffix(".safetensors")
        hyperparameters, absent = header["hyperparameters"], header.get("not_measured", {})
        if problem := names_problem(header) or hyperparameters_problem(hyperparameters):
            raise ValueError(problem)
        epochs = rows.epochs[start:end]
        values = {metric: metrics[metric][start:end] for metric in header["metrics"]}
        for metric, found in absent.items():
            if not all(type(epoch) is int for epoch in found):
                raise ValueError("not_measured must be lists of epochs by metric")
            values[metric] = masked(values[metric], epochs, found)
        files[name] = ModelFile(
            path=models / name,
            model_id=header["model_id"],
            parent_model_id=header.get("parent_model_id"),
            hyperparameters=hyperparameters,
            epochs=epochs,
            metrics=values,
            zoo=zoo,
            stamp=stamp,
            original_name=header.get("original_name"),
        )
        start = end
    return files


def _encode(files: Mapping[str, ModelFile], stamps: Mapping[str, Stamp | None]) -> _Rows:
    """Return model files as the rows of a manifest."""
    states = np.array([len(file.epochs) for file in files.values()], np.int32)
    metrics = np.full((len(METRICS), states.sum()), np.nan)
    headers, start = [], 0
    for file in files.values():
        end = start + len(file.epochs)
        absent = {}
        for name, values in file.metrics.items():
            metrics[METRICS.index(name), start:end] = np.ma.getdata(values)
            if isinstance(values, np.ma.MaskedArray):
                absent[name] = file.epochs[np.ma.getmaskarray(values)].tolist()
        header = {
            "parent_model_id": file.parent_model_id,
            "original_name": file.original_name,
            "hyperparameters": file.hyperparameters,
            "metrics": list(file.metrics),
            "not_measured": absent or None,
        }
        known = {key: value for key, value in header.items() if value is not None}
        headers.append(json.dumps(known).encode())
        start = end
    epochs: Sequence[NDArray[np.int32]] = [file.epochs for file in files.values()]
    return _Rows(
        names=[name.encode() for name in files],
        headers=headers,
        stamps=np.array([stamps[name] for name in files], np.int64).reshape(-1, 4),
        states=states,
        epochs=np.concatenate([np.zeros(0, np.int32), *epochs]),
        metrics=metrics,
    )
