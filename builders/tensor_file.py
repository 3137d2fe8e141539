"""Safetensors files as the zoos have them: read in place, or mapped, and checked as a whole.

The form: 8 bytes of length (little-endian), a JSON header, and the tensors' bytes without a gap
(https://github.com/huggingface/safetensors, "Format"). The library's reader maps every file, opens
it for every look, and copies each tensor; a zoo has some ten thousand files, of which most readers
want the header, and builds want the weights where they lie.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Those that numpy has."""

MAX_HEADER = 100_000_000
"""Bytes; the library's own limit."""

_BUFFER = 1 << 14
"""The header of a model and the metrics behind it come with one read."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: bytes `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """A safetensors file, open for reading; a context manager.

    Args:
        path: of the file.

    Attributes:
        metadata: texts of the header.
        tensors: by name.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no safetensors file, or is cut, or has a type that numpy lacks.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = open(path, "rb", buffering=_BUFFER)  # noqa: SIM115, the object is the context
        try:
            self.metadata, self.tensors = _header(self.file)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, name: str) -> np.ndarray:
        """A tensor, copied."""
        tensor = self.tensors[name]
        array = np.empty(tensor.shape, DTYPES[tensor.dtype])
        self.read_into(name, array)
        return array

    def read_into(self, name: str, target: np.ndarray) -> None:
        """Copy a tensor into an array that lies in one piece and has as many bytes."""
        tensor = self.tensors[name]
        if target.nbytes == 0:
            return
        self.file.seek(tensor.begin)
        view = memoryview(target).cast("B")
        if len(view) != tensor.end - tensor.begin or self.file.readinto(view) != len(view):
            raise ValueError(f"{name} is not whole")

    def map(self, name: str, *, whole: bool = False) -> np.ndarray:
        """A tensor in the file's own pages: read-only, and not read before it is looked at.

        It outlives this object; the file must not be cut meanwhile.

        Args:
            name: of the tensor.
            whole: all of it will be wanted: a slow disk begins to read now.
        """
        tensor = self.tensors[name]
        dtype = DTYPES[tensor.dtype]
        if tensor.begin == tensor.end or tensor.begin % dtype.itemsize:
            return self.read(name)
        if whole and hasattr(os, "posix_fadvise"):
            length = tensor.end - tensor.begin
            os.posix_fadvise(self.file.fileno(), tensor.begin, length, os.POSIX_FADV_WILLNEED)
        # Not mmap.mmap, which keeps a file descriptor for every map: there may be thousands.
        with pa.memory_map(self.path) as pages:
            pages.seek(tensor.begin)
            buffer = pages.read_buffer(tensor.end - tensor.begin)
        if len(buffer) < tensor.end - tensor.begin:
            raise ValueError(f"{name} is not whole")
        return np.frombuffer(buffer, dtype).reshape(tensor.shape)


def _header(file: Any) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > MAX_HEADER or start > size:
        raise ValueError("it has no header of safetensors, or is cut within it")
    try:
        entries = json.loads(file.read(length).decode())
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no JSON object")
    tensors = {name: _tensor(name, entry, start) for name, entry in entries.items()}
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            raise ValueError(f"{name} does not follow on the tensor before it")
        end = tensor.end
    if end != size:
        raise ValueError(f"it has {size:,} bytes, its header speaks of {end:,}")
    return metadata, tensors


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        good = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        good = good and end - begin == DTYPES[dtype].itemsize * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: no tensor that numpy can have, {entry!r:.80}") from error
    if not good:
        raise ValueError(f"{name}: its offsets are not those of its shape, {entry!r:.80}")
    return Tensor(dtype, shape, start + begin, start + end)
