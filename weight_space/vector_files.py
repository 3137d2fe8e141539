"""Weight vectors from a file: .npy, .safetensors or .parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..builders.access import weight_blocks
from ..builders.tensor_file import TensorFile
from ..errors import InvalidArgument

_BLOCK_BYTES = 64 << 20
"""Limit of the weights of a block of a .parquet file, as far as the file gives their number."""

Blocks = Iterator[NDArray[np.float32]]


def read_vectors(path: str | os.PathLike[str]) -> Blocks:
    """Yield the weight vectors of a file in blocks, [rows, N], in their order.

    Args:
        path: a .npy file with a matrix or a vector; a .safetensors file with the tensor `weights`,
            or only one tensor; or a .parquet file with the column `weights`. Nothing in it is
            executed, and it is mapped or read in parts.

    Raises:
        InvalidArgument: another kind of file, or it holds something else.
        OSError: the file cannot be read.
    """
    file = Path(path)
    if file.suffix not in _READERS:
        raise InvalidArgument(f"{path}: expected a file {', '.join(_READERS)}")
    try:
        for block in _READERS[file.suffix](file):
            if block.ndim not in (1, 2) or not np.issubdtype(block.dtype, np.floating):
                raise ValueError(
                    f"expected numbers [rows, N], found {block.dtype} {list(block.shape)}"
                )
            yield np.atleast_2d(block)
    except (ValueError, EOFError, KeyError, pa.ArrowException) as error:
        raise InvalidArgument(f"{path}: {error}") from None


def _npy(path: Path) -> Blocks:
    yield np.load(path, mmap_mode="r", allow_pickle=False)


def _safetensors(path: Path) -> Blocks:
    with TensorFile(path) as file:
        names = list(file.tensors)
        if "weights" not in names and len(names) != 1:
            few = ", ".join(names[:5])
            raise ValueError(f"it has no tensor `weights`, but {len(names)} others: {few}")
        yield file.map("weights" if "weights" in names else names[0])


def _parquet(path: Path) -> Blocks:
    with pq.ParquetFile(path) as file:
        if "weights" not in file.schema_arrow.names:
            raise ValueError("it has no column weights")
        length = getattr(file.schema_arrow.field("weights").type, "list_size", 0)
        rows = max(1, _BLOCK_BYTES // (4 * length)) if length else 256
        for batch in file.iter_batches(batch_size=rows, columns=["weights"]):
            column = pa.chunked_array([batch.column(0)])
            if column.null_count:
                raise ValueError(f"{column.null_count} of its rows have no weights")
            yield from weight_blocks(column)


_READERS: dict[str, Callable[[Path], Blocks]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
