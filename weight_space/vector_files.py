"""Weight vectors from a file (.npy, .safetensors or .parquet), and the networks of its rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..builders.access import weight_blocks
from ..builders.architecture import find_architecture
from ..builders.hyperparameters import ACTIVATIONS
from ..builders.specification import Zoo
from ..builders.tensor_file import TensorFile
from ..errors import InvalidArgument

_BLOCK_BYTES = 64 << 20
"""Limit of the weights in a block of a .parquet file, if the file states their number."""

Blocks = Iterator[NDArray[np.float32]]


def read_vectors(path: str | os.PathLike[str]) -> Blocks:
    """Yield the weight vectors of a file in blocks, [rows, N], in their order.

    Args:
        path: a .npy file with a matrix or a vector; a .safetensors file with the tensor `weights`,
            or only one tensor; or a .parquet file with the column `weights`. Nothing in it is
            executed, and it is mapped or read in parts.

    Raises:
        InvalidArgument: another kind of file, or content of another form.
        OSError: the file cannot be read.
    """
    file = Path(path)
    if file.suffix not in _READERS:
        raise InvalidArgument(f"{path}: expected a file {', '.join(_READERS)}")
    file.stat()  # pyarrow's error for a missing file does not start with its name
    try:
        for block in _READERS[file.suffix](file):
            if block.ndim not in (1, 2) or not np.issubdtype(block.dtype, np.floating):
                raise ValueError(
                    "expected floating-point weights [rows, N] or [N], found "
                    f"{block.dtype} {list(block.shape)}"
                )
            yield np.atleast_2d(block)
    except (ValueError, EOFError, KeyError, pa.ArrowException) as error:
        raise InvalidArgument(f"{path}: {error}") from None


def read_activations(
    path: str | os.PathLike[str], zoo: Zoo, given: str | None = None
) -> list[str] | None:
    """Return the activation of each row of a file; None if the file names none.

    Args:
        path: see `read_vectors`. A .parquet file, such as one with a zoo's rows, may have the
            columns `activation` and `architecture`.
        zoo: the zoo whose networks the rows are.
        given: activation of all rows; if the file names one, it must be the same.

    Raises:
        InvalidArgument: the columns hold something else, or contradict `given` or the zoo.
        OSError: the file cannot be read.
    """
    if Path(path).suffix != ".parquet":
        return None
    try:
        columns = _texts(Path(path), ("architecture", "activation"))
        for name in _unique(columns.get("architecture", ())):
            if find_architecture(name) != zoo.layout.architecture:
                raise ValueError(
                    f"its column architecture has {name:.80}, but {zoo.name} has "
                    f"{zoo.layout.architecture}: name a zoo with such networks"
                )
        found = columns.get("activation", [])
        names = _unique(found)
        if not names:
            return None
        if unknown := [name for name in names if name not in ACTIVATIONS]:
            raise ValueError(
                f"its column activation has {unknown[0]!r:.60}; known: {', '.join(ACTIVATIONS)}"
            )
        if missing := found.count(None):
            raise ValueError(f"{missing} of its {len(found)} rows have no activation")
    except (ValueError, pa.ArrowException) as error:
        raise InvalidArgument(f"{path}: {error}") from None
    if given is not None and names != [given]:
        raise InvalidArgument(
            f"{path}: its column activation has {', '.join(names)}, which contradicts the "
            f"activation {given} for all rows",
            hint="leave out --activation: each row is evaluated with its own",
        )
    return [name for name in found if name is not None]


def _texts(path: Path, names: Sequence[str]) -> dict[str, list[str | None]]:
    """Return the text columns among some names that a .parquet file has."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [name for name in names if name in schema.names]
        for name in names:
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ValueError(f"its column {name} has the type {kind}, expected string")
        parts: dict[str, list[str | None]] = {name: [] for name in names}
        for batch in file.iter_batches(columns=names):
            for name in names:  # interned, since a zoo's rows repeat a few words
                parts[name] += (text and sys.intern(text) for text in batch[name].to_pylist())
    return parts


def _unique(texts: Sequence[str | None]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text is not None]


def _npy(path: Path) -> Blocks:
    try:
        yield np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"no whole .npy file of numbers ({error})") from None


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
