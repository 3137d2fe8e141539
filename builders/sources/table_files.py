"""The file formats of a table of runs: CSV, JSON lines and Parquet, read row by row.

Each is read within limits of bytes, columns, cells and lines. An error in a row is yielded in place
of the row; an error in the whole table is raised.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import Unreadable
from ..untrusted import parse_json, read_plain
from .archive import shown

Row = Mapping[str, object]
"""Name of a column -> value."""

_MAX_BYTES = 1 << 26
_MAX_COLUMNS = 1000
_MAX_CELLS = 5_000_000
_MAX_CELL = 100_000
_MAX_LINE = 1 << 20
_MOST_NESTED = 64
"""Limits of a table: bytes of the file, columns, cells, characters of a cell, bytes of a line, keys
of an object that become columns."""

_BETWEEN = (",", ";", "\t")
"""Separators of the cells of a line; the first of them that occurs in the first line is used."""


def read_rows(path: Path, dropped: list[str]) -> Iterator[Row | Unreadable]:
    """Yield the rows of a table in order; for an unreadable row, yield the error.

    Args:
        path: a file that ends in one of `READERS`.
        dropped: receives the names of columns that are not read because their cells are nested.

    Raises:
        Unreadable: the table as a whole cannot be used.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(f"{path.name} is no table: expected {', '.join(READERS)}")
    yield from reader(read_plain(path, _MAX_BYTES), dropped)


def _check_width(columns: int) -> None:
    if columns > _MAX_COLUMNS:
        raise Unreadable(f"too large: the table has more than {_MAX_COLUMNS:,} columns")


def _check_unique(names: Iterable[str]) -> None:
    """Raise Unreadable if two columns have the same name."""
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise Unreadable(f"two columns of the table are named {shown(twice[0])}")


def _counted(rows: Iterable[Row | Unreadable], width: Callable[[], int]) -> Iterator[Any]:
    cells = 0
    for row in rows:
        cells += max(1, width())
        if cells > _MAX_CELLS:
            raise Unreadable(f"too large: the table has more than {_MAX_CELLS:,} cells")
        yield row


def _csv_rows(content: bytes, dropped: list[str]) -> Iterator[Row | Unreadable]:
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError:
        raise Unreadable("the table is not in UTF-8: save it as UTF-8") from None
    head = text.readline(_MAX_CELL)
    between = next((sign for sign in _BETWEEN if sign in head), ",")
    _check_width(head.count(between))
    text.seek(0)
    rows = csv.reader(text, delimiter=between)
    names = [name.strip() for name in next(rows, [])]
    _check_width(len(names))
    _check_unique(names)

    def checked() -> Iterator[Row | Unreadable]:
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Unreadable(f"malformed: {error}")
                continue
            if len(row) == len(names):
                yield {name: value for name, value in zip(names, row, strict=True) if name}
            elif row:
                yield Unreadable(f"malformed: {len(row)} values, expected {len(names)}")

    return _counted(checked(), lambda: len(names))


def _json_rows(content: bytes, dropped: list[str]) -> Iterator[Row | Unreadable]:
    names: set[str] = set()

    def checked() -> Iterator[Row | Unreadable]:
        for line in io.BytesIO(content):
            if line.isspace():
                continue
            try:
                if len(line) > _MAX_LINE:
                    raise ValueError(f"more than {_MAX_LINE:,} bytes")
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise ValueError("no JSON object")
            except ValueError as error:
                yield Unreadable(f"malformed: {error!s:.100}")
                continue
            row = _flat(row)
            names.update(row)
            _check_width(len(names))
            yield row

    return _counted(checked(), lambda: len(names))


def _flat(row: Mapping[str, Any], depth: int = 5) -> dict[str, Any]:
    """Return a row whose nested objects are columns such as config.lr.

    Objects stay unchanged if they are nested deeper, have many keys, or have a key that would
    repeat a column.
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        nested: dict[str, Any] = {}
        if isinstance(value, dict) and depth:
            nested = {f"{name}.{inner}": v for inner, v in _flat(value, depth - 1).items()}
        if nested and len(nested) <= _MOST_NESTED and not nested.keys() & row.keys():
            flat |= nested
        else:
            flat[name] = value
    return flat


def _parquet_rows(content: bytes, dropped: list[str]) -> Iterator[Row | Unreadable]:
    file = pq.ParquetFile(pa.BufferReader(content))
    about = file.metadata
    _check_width(about.num_columns)
    schema = file.schema_arrow
    flat = [field for field in schema if not pa.types.is_nested(field.type)]
    names = [field.name for field in flat]
    _check_unique(schema.names)
    dropped += [name for name in schema.names if name not in names]
    if about.num_rows * len(schema) > _MAX_CELLS:
        raise Unreadable(f"too large: the table has more than {_MAX_CELLS:,} cells")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if any(group.total_byte_size > 4 * _MAX_BYTES for group in groups):
        raise Unreadable("too large: a row group of the table does not fit into memory")
    # Texts stay in dictionaries until their lengths are checked: a few bytes can repeat a long
    # text.
    texts = [f.name for f in flat if pa.types.is_string(f.type) or pa.types.is_binary(f.type)]
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)

    def checked() -> Iterator[Row | Unreadable]:
        for batch in file.iter_batches(1024, columns=names, use_threads=False):
            for column in batch.columns:
                if pa.types.is_dictionary(column.type):
                    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                    if longest > _MAX_CELL:
                        raise Unreadable(f"too large: a cell has more than {_MAX_CELL:,} bytes")
            yield from batch.to_pylist()

    return _counted(checked(), lambda: len(names))


READERS: Mapping[str, Callable[[bytes, list[str]], Iterator[Row | Unreadable]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}
"""Suffix of a table -> function from its content to its rows, each name of a column -> value. The
function adds the columns that it does not read to a list."""
