"""Read (in place or memory-mapped), check and write safetensors files.

The format: 8 bytes of length (little-endian), a JSON header, and the tensors' bytes without gaps
(https://github.com/huggingface/safetensors, "Format"). The library's reader maps every file and
copies each tensor. A zoo has some ten thousand files; most readers need only the header, and builds
need the weights without a copy. The library's `save` copies all tensors, which takes noticeable
time when ten thousand files of small models are written.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .files import file_stamp
from .untrusted import open_plain, parse_json

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""The format's types that numpy has."""

_STORED = {**DTYPES, "BF16": np.dtype("<u2")}
"""The types that can be read, as stored; a bfloat16 is the upper half of a float32."""

_WRITTEN = {DTYPES[name]: name for name in ("F64", "F32", "I32")}
"""The types that can be written, in the order of tensors in the library's files."""

MAX_HEADER = 4 << 20
"""Limit of the header in bytes. ResNet-18's has 12 kB; the library's limit is 100 MB."""

_MAX_DIMENSIONS = 32
"""Limit of a tensor's dimensions; numpy had it before version 2."""

_BUFFER = 1 << 14
"""Bytes of the first read, enough for the header of a model file and the metrics after it."""


_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

Pieces = list[bytes | memoryview]
"""The content of a file, as consecutive pieces."""


@dataclass(frozen=True)
class Tensor:
    """The place of a tensor: bytes [begin, end) of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """A safetensors file that is open for reading; usable as a context manager.

    Args:
        path: path of the file.

    Attributes:
        metadata: texts of the header, by key.
        tensors: places of the tensors, by name.
        stamp: stamp of the file that is open, whatever has its path by now.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is not a safetensors file, is truncated, or has a type that is neither
            bfloat16 nor one of numpy's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = io.BufferedReader(open_plain(self.path), _BUFFER)
        try:
            self.stamp = file_stamp(self.file.fileno())
            self.metadata, self.tensors = _header(self.file, self.stamp[0])
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor into a new array; bfloat16 becomes float32."""
        tensor = self.tensors[name]
        array = np.empty(tensor.shape, _STORED[tensor.dtype])
        self.read_into(name, array)
        return widened(array) if tensor.dtype == "BF16" else array

    def read_into(self, name: str, target: NDArray[Any]) -> None:
        """Read a tensor into a contiguous array of the same number of bytes.

        Raises:
            ValueError: the array has another size, or the file ends too early.
        """
        tensor = self.tensors[name]
        if target.nbytes == 0:
            return
        self.file.seek(tensor.begin)
        view = target.data.cast("B")
        if len(view) != tensor.end - tensor.begin or self.file.readinto(view) != len(view):
            raise ValueError(f"{name} is not whole")

    def map(self, name: str, *, whole: bool = False) -> NDArray[Any]:
        """Map a tensor into memory: a read-only array whose pages are read on first use.

        The array outlives this object. The file must not be truncated during its use.

        Args:
            name: name of the tensor.
            whole: whether all of it will be used, so that the disk starts reading now.
        """
        tensor = self.tensors[name]
        dtype = _STORED[tensor.dtype]
        if tensor.begin == tensor.end or tensor.begin % dtype.itemsize or tensor.dtype == "BF16":
            return self.read(name)
        if whole and hasattr(os, "posix_fadvise"):
            length = tensor.end - tensor.begin
            os.posix_fadvise(self.file.fileno(), tensor.begin, length, os.POSIX_FADV_WILLNEED)
        # Not mmap.mmap, which keeps a file descriptor for every map; there may be thousands.
        with pa.memory_map(self.path) as pages:
            pages.seek(tensor.begin)
            buffer = pages.read_buffer(tensor.end - tensor.begin)
        if os.stat(self.path).st_ino != self.stamp[-1]:
            raise ValueError("it was replaced while it was read")
        if len(buffer) < tensor.end - tensor.begin:
            raise ValueError(f"{name} is not whole")
        return np.frombuffer(buffer, dtype).reshape(tensor.shape)


def encode_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Pieces:
    """Return the content of a file, with the same bytes as safetensors.numpy.save.

    The pieces are the header and the arrays themselves, which are not copied.

    Args:
        tensors: contiguous arrays of float64, float32 or int32, by name.
        metadata: texts for the header.

    Raises:
        ValueError: a tensor is not contiguous.
        KeyError: a tensor has another type.
    """
    kinds = list(_WRITTEN)
    ordered = sorted(tensors.items(), key=lambda item: (kinds.index(item[1].dtype), item[0]))
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous")
        dtype = _WRITTEN[array.dtype]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    header = _JSON.encode(entries).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little") + header, *(array.data for _, array in ordered)]


def widened(bfloat16: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the numbers with these bfloat16 bits, exactly."""
    return np.asarray(bfloat16.astype("<u4") << 16).view("<f4")


def _header(file: BinaryIO, size: int) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
    """Read and check the header of a file of `size` bytes."""
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > MAX_HEADER or start > size:
        raise ValueError("it has no header of safetensors, or is truncated within it")
    entries = parse_json(file.read(length))
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


def _tensor(name: str, entry: Mapping[str, Any], start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        good = len(shape) <= _MAX_DIMENSIONS and all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        )
        good = good and end - begin == _STORED[dtype].itemsize * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: no tensor that can be read, {entry!r:.80}") from error
    if not good:
        raise ValueError(f"{name}: its offsets are not those of its shape, {entry!r:.80}")
    return Tensor(dtype, shape, start + begin, start + end)
