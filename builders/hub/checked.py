"""Parquet files that somebody else wrote: every fault is a FaultyZoo, and every read is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from ...errors import FaultyZoo, ModelZoosError
from ..schema import row_schema
from ..untrusted import parse_json

MAX_FOOTER = 16 << 20
"""Limit of a footer in bytes. That of the largest file that we write has some hundred kB."""

MAX_GROUP_BYTES = 512 << 20
"""Limit of a row group in bytes, read or in memory. Ours have up to 45 MB."""

MAX_GROUP_ROWS = 1 << 20
MAX_METRICS_ROWS = 1 << 21
"""Limits of the rows in a row group, and in a file without weights: 40,000 models of 51 states."""

_MAX_ABOUT = 1 << 20
"""Limit of the JSON in a schema, in bytes."""


@contextmanager
def naming(name: object) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an error that names it.

    Raises:
        FaultyZoo: in place of anything but an error of model_zoos.
    """
    try:
        yield
    except ModelZoosError:
        raise
    except Exception as error:  # pyarrow raises most of the built-in ones
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FaultyZoo(f"{name}: not readable as Parquet ({reason:.200})") from error


class Bounded:
    """A file for pyarrow, which asks for as many bytes as the file itself says."""

    closed = False

    def __init__(self, file: IO[bytes], limit: int = MAX_FOOTER) -> None:
        self._file, self.limit = file, limit
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > self.limit:
            raise FaultyZoo(f"a part of {size:,} bytes is larger than {self.limit:,}")
        return self._file.read(size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Leave closing to whoever has opened the file."""


def open_fragment(file: IO[bytes]) -> pads.ParquetFileFragment:
    """Read the footer of a file, and refuse row groups that no memory might hold.

    Raises:
        Exception: of any class, see `naming`.
    """
    bounded = Bounded(file)
    fragment = pads.ParquetFileFormat().make_fragment(bounded)
    size = weights_type(fragment.physical_schema)
    row = 4 * size.list_size if size is not None else 0
    for group in fragment.row_groups:
        rows = group.num_rows
        if not 0 <= rows <= MAX_GROUP_ROWS or rows * row > MAX_GROUP_BYTES:
            raise FaultyZoo(f"a row group has {rows:,} rows, which are too many to be read at once")
    bounded.limit = MAX_GROUP_BYTES
    return fragment


def weights_type(schema: pa.Schema) -> pa.FixedSizeListType | None:
    """Return the type of the column `weights`; None if there is none, or it is no vector."""
    kind = schema.field("weights").type if schema.names.count("weights") == 1 else None
    fixed = isinstance(kind, pa.FixedSizeListType) and kind.value_type == pa.float32()
    return kind if fixed else None


def check_columns(schema: pa.Schema, size: int | None) -> None:
    """Check the columns of a file.

    Args:
        schema: of the file.
        size: length of a row's weights; None for rows without weights.

    Raises:
        FaultyZoo: they are not those of a zoo's rows.
    """
    kind = weights_type(schema)
    if kind is not None and size is not None and kind.list_size != size:
        raise FaultyZoo(f"its rows have {kind.list_size:,} weights, expected {size:,}")
    expected = row_schema(size)
    plain = [name for name in expected.names if name != "weights"]
    if (
        schema.names != expected.names
        or (kind is None) != (size is None)
        or any(schema.field(name).type != expected.field(name).type for name in plain)
    ):
        raise FaultyZoo("it does not have the columns of a zoo: was it built with model_zoos?")


class RowCheck:
    """Checks the rows of a data set table by table, as far as the wanted columns show them."""

    def __init__(self) -> None:
        self._epochs: dict[tuple[str | None, str], NDArray[np.int32]] = {}

    def check(self, zoo: str | None, table: pa.Table) -> None:
        """Check some more rows of a zoo.

        Raises:
            FaultyZoo: weights, a model or an epoch are null, or two rows are of one model and
                epoch.
        """
        for name in {"weights", "model_id", "epoch"} & set(table.column_names):
            column = table[name]
            nulls = column.null_count
            if name == "weights" and not nulls:
                nulls = sum(chunk.flatten().null_count for chunk in column.chunks)
            if nulls:
                raise FaultyZoo(f"{nulls} of its values in the column {name} are null")
        if not {"model_id", "epoch"} <= set(table.column_names) or not len(table):
            return
        models = pa.concat_arrays(table["model_id"].chunks).dictionary_encode()
        codes, epochs = models.indices.to_numpy(), table["epoch"].to_numpy()
        order = np.lexsort((epochs, codes))
        ends = np.flatnonzero(np.diff(codes[order])) + 1
        for code, found in zip(
            codes[order][[0, *ends]], np.split(epochs[order], ends), strict=True
        ):
            key = (zoo, models.dictionary[int(code)].as_py())
            if key in self._epochs:
                found = np.sort(np.concatenate([self._epochs[key], found]))
            if twice := found[:-1][np.diff(found) == 0].tolist():
                raise FaultyZoo(f"it repeats the model {key[1]} at epoch {twice[0]}")
            self._epochs[key] = found.copy()


def read_metrics(
    file: IO[bytes], columns: Sequence[str] | None = None
) -> tuple[pa.Table, Mapping[str, Any]]:
    """Read a file of rows without weights.

    Args:
        file: the Parquet file.
        columns: names of the wanted columns; None for all.

    Returns:
        The rows, and what the file says of its zoo: {} if it says nothing.

    Raises:
        Exception: of any class, see `naming`.
    """
    fragment = open_fragment(file)
    schema = fragment.physical_schema
    content = (schema.metadata or {}).get(b"model_zoos", b"{}")
    about = parse_json(content) if len(content) <= _MAX_ABOUT else None
    if not isinstance(about, dict):
        raise FaultyZoo("the description of its zoo is no JSON object")
    if not about:
        return schema.empty_table(), {}
    check_columns(schema, None)
    if (rows := fragment.metadata.num_rows) > MAX_METRICS_ROWS:
        raise FaultyZoo(f"it has {rows:,} rows, more than {MAX_METRICS_ROWS:,}")
    RowCheck().check(None, table := fragment.to_table(columns=columns and list(columns)))
    return table, about
