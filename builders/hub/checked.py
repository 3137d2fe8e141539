"""Read Parquet files of unknown origin: every fault is a FaultyZoo, and every read is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...errors import FaultyZoo, ModelZoosError
from ..schema import row_schema
from ..untrusted import parse_json

MAX_FOOTER = 16 << 20
"""Limit of a footer in bytes. The largest file that we write has a footer of some hundred kB."""

MAX_GROUP_BYTES = 96 << 20
"""Limit of a row group in bytes; reading takes about four times as much. One row may be larger."""

MAX_GROUP_ROWS = 1 << 19
MAX_METRICS_ROWS = 1 << 23
"""Limits of the rows in a row group, and in a file without weights: 160,000 models of 51 states."""

_MAX_ABOUT = 1 << 20
"""Limit of the JSON in a schema, in bytes."""


class Fault(ValueError):
    """What is wrong with a file, without its name, which `naming` adds."""


@contextmanager
def naming(name: object) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an error that names it.

    Raises:
        FaultyZoo: in place of any error that is not of model_zoos.
    """
    try:
        yield
    except ModelZoosError:
        raise
    except Fault as error:
        raise FaultyZoo(f"{name}: {error}") from None
    except Exception as error:  # pyarrow raises most built-in exceptions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FaultyZoo(f"{name}: not readable as Parquet ({reason:.200})") from error


class Bounded:
    """A file for pyarrow that refuses to read more than `limit` bytes at once.

    pyarrow asks for as many bytes as the file itself states.
    """

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.limit = file, MAX_FOOTER
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > self.limit:
            raise Fault(f"a part of {size:,} bytes is larger than {self.limit:,}")
        return self._file.read(size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Leave closing to whoever has opened the file."""


def open_fragment(file: IO[bytes]) -> pads.ParquetFileFragment:
    """Read the footer of a file, and refuse row groups that are too large for memory.

    Raises:
        Exception: of any class, see `naming`.
    """
    bounded = Bounded(file)
    fragment = pads.ParquetFileFormat().make_fragment(bounded)
    size = weights_type(fragment.physical_schema)
    row = 4 * size.list_size if size is not None else 0
    for group in fragment.row_groups:
        rows = group.num_rows
        if not 0 <= rows <= MAX_GROUP_ROWS or (rows > 1 and rows * row > MAX_GROUP_BYTES):
            raise Fault(f"a row group has {rows:,} rows, which are too many to be read at once")
    bounded.limit = max(MAX_GROUP_BYTES, 2 * row)
    return fragment


def weights_type(schema: pa.Schema) -> pa.FixedSizeListType | None:
    """Return the type of the column `weights`; None if it is missing or not a vector."""
    kind = schema.field("weights").type if schema.names.count("weights") == 1 else None
    fixed = isinstance(kind, pa.FixedSizeListType) and kind.value_type == pa.float32()
    return kind if fixed else None


def description(schema: pa.Schema) -> Mapping[str, Any]:
    """Return what a file says of its zoo; {} if it says nothing.

    Raises:
        Fault: it is not a JSON object.
    """
    content = (schema.metadata or {}).get(b"model_zoos", b"{}")
    about = parse_json(content) if len(content) <= _MAX_ABOUT else None
    if not isinstance(about, dict):
        raise Fault("the description of its zoo is no JSON object")
    return about


def check_columns(schema: pa.Schema, size: int | None) -> None:
    """Check the columns of a file.

    Args:
        schema: of the file.
        size: length of a row's weights; None for rows without weights.

    Raises:
        Fault: they are not the columns of a zoo's rows.
    """
    kind = weights_type(schema)
    if kind is not None and size is not None and kind.list_size != size:
        raise Fault(f"its rows have {kind.list_size:,} weights, expected {size:,}")
    expected = row_schema(size)
    plain = [name for name in expected.names if name != "weights"]
    if (
        schema.names != expected.names
        or (kind is None) != (size is None)
        or any(schema.field(name).type != expected.field(name).type for name in plain)
    ):
        raise Fault("it does not have the columns of a zoo: was it built with model_zoos?")


Place = tuple[str, int]
"""Name of a file, and the number of a row group in it."""

Seen = dict[tuple[str | None, str], dict[Place, NDArray[np.int32]]]
"""(zoo, model) -> where rows of the model were read -> their epochs."""


def check_rows(table: pa.Table, zoo: str | None, place: Place, seen: Seen) -> None:
    """Check the rows of a row group, as far as the columns read allow it.

    Args:
        table: the rows.
        zoo: their zoo.
        place: the row group. It may be read a second time.
        seen: the rows read from all files of the data set; these rows are added.

    Raises:
        Fault: null weights, models or epochs, or two rows with the same model and epoch.
    """
    for name in {"weights", "model_id", "epoch"} & set(table.column_names):
        column = table[name]
        nulls = column.null_count
        if name == "weights" and not nulls:
            nulls = sum(chunk.flatten().null_count for chunk in column.chunks)
        if nulls:
            raise Fault(f"{nulls} of its values in the column {name} are null")
    if not {"model_id", "epoch"} <= set(table.column_names) or not len(table):
        return
    models, codes, order, ends = _runs(table)
    epochs = table["epoch"].to_numpy()
    for code, found in zip(codes[order][[0, *ends]], np.split(epochs[order], ends), strict=True):
        model = models.dictionary[int(code)].as_py()
        places = seen.setdefault((zoo, model), {})
        twice = found[:-1][np.diff(found) == 0]
        if others := [epochs for other, epochs in places.items() if other != place]:
            twice = np.append(twice, found[np.isin(found, np.concatenate(others))])
        if len(twice):
            raise Fault(f"it repeats the model {model:.100} at epoch {twice[0]}")
        places[place] = found.copy()


def _runs(
    table: pa.Table,
) -> tuple[pa.DictionaryArray, NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return row models as codes, the row order by model and epoch, and where models begin."""
    models = pa.concat_arrays(table["model_id"].chunks).dictionary_encode()
    codes = models.indices.to_numpy()
    order = np.lexsort((table["epoch"].to_numpy(), codes))
    return models, codes, order, np.flatnonzero(np.diff(codes[order])) + 1


def last_rows(table: pa.Table) -> NDArray[np.int64]:
    """Return the numbers of the rows that hold the last state of each model."""
    if not len(table):
        return np.array([], np.int64)
    _, _, order, ends = _runs(table)
    return order[[*(ends - 1), -1]]


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
    bounded = Bounded(file)
    parquet = pq.ParquetFile(bounded)  # without threads, which might outlive the interpreter
    schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if not (about := description(schema)):
        return schema.empty_table(), {}
    check_columns(schema, None)
    if not 0 <= rows <= MAX_METRICS_ROWS:
        raise Fault(f"it has {rows:,} rows, more than {MAX_METRICS_ROWS:,}")
    bounded.limit = MAX_GROUP_BYTES
    table = parquet.read(columns and list(columns), use_threads=False)
    check_rows(table, None, ("", 0), {})
    return table, about
