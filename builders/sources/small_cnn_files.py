"""The three files of the Small CNN Zoo (small_cnn_zoo.py), each read and checked on its own."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format as npy
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from ...errors import Unreadable
from ..architecture import find_architecture
from ..model_file import SHARES_OF_1
from ..untrusted import open_plain, read_plain
from .archive import printable
from .cells import cell_number

_MAX_TABLE = 1 << 28
"""Limit of the unpacked table in bytes; 270,000 rows take 70 MB."""

_MAX_LAYOUT = 1 << 16
"""Limit of layout.csv in bytes; that of a published zoo has less than 1 kB."""

_BLANK_LINES = 1000
"""Number of lines that metrics.csv.gz may have more than weights.npy has rows."""

FILES = {"weights.npy": 1 << 35, "metrics.csv.gz": _MAX_TABLE, "layout.csv": _MAX_LAYOUT}
"""The files -> limit of their bytes; weights of 270,000 rows take 5.4 GB."""

_NULLS = ("", "NA", "N/A", "#NA", "#N/A", "#N/A N/A", "n/a", "NULL", "null")
"""Texts of an empty cell. NaN is not among them: the loss of a diverged model was measured."""

_LAYOUT_COLUMNS = ("varname", "start_idx", "end_idx", "shape")


def read_layout(path: Path) -> tuple[str, NDArray[np.int64]]:
    """Return the text of the network without its input, and the order of the weights, int64 [N].

    Raises:
        Unreadable, ValueError: layout.csv does not describe such a network.
    """
    rows = csv.DictReader(io.StringIO(read_plain(path, _MAX_LAYOUT).decode()))
    for column in _LAYOUT_COLUMNS:
        if column not in (rows.fieldnames or ()):
            raise Unreadable(
                f"layout.csv has no column {column}, expected {', '.join(_LAYOUT_COLUMNS)}"
            )
    layers: dict[str, dict[str, NDArray[np.int64]]] = {}
    end = 0
    for row in rows:
        layer, _, kind = row["varname"].removesuffix(":0").rpartition("/")
        shape = tuple(map(int, re.findall(r"\d+", row["shape"])))
        start, stop = int(row["start_idx"]), int(row["end_idx"])
        if start != end or math.prod(shape) != stop - start or not 0 < stop <= 1 << 24:
            raise Unreadable(f"layout.csv: {row['varname']:.100} is not where its shape says")
        end = stop
        layers.setdefault(layer, {})[kind] = np.arange(start, stop).reshape(shape)
    words, order = [], []
    for name, tensors in layers.items():
        kernel, bias = tensors.get("kernel"), tensors.get("bias")
        if kernel is None or bias is None or bias.shape != kernel.shape[-1:]:
            raise Unreadable(f"layout.csv: {name:.100} has not one kernel and one bias")
        if kernel.ndim == 4 and kernel.shape[0] == kernel.shape[1] and "gap" not in words:
            words.append(f"conv{kernel.shape[3]}k{kernel.shape[0]}s2")
            order.append(kernel.transpose(3, 2, 0, 1).reshape(-1))
        elif kernel.ndim == 2:
            words += [*([] if "gap" in words else ["gap"]), f"fc{kernel.shape[1]}"]
            order.append(kernel.T.reshape(-1))
        else:
            raise Unreadable(f"layout.csv: {name:.100} is no convolution or linear layer")
        order.append(bias)
    text = " ".join(words)
    find_architecture(f"1x28x28 {text}")  # raises ValueError if there is no such network
    return text, np.concatenate(order)


def weights_offset(path: Path, shape: tuple[int, int]) -> int:
    """Return where the weights begin in weights.npy, in bytes.

    Args:
        path: of weights.npy.
        shape: number of states, and of weights in a state.

    Raises:
        Unreadable: the file has another type, shape, order or size.
    """
    with open_plain(path) as file:
        found, fortran, dtype = npy_header(file)
        offset, size = file.tell(), file.seek(0, io.SEEK_END)
    if (found, fortran, dtype) == (shape, True, np.dtype("<f4")):
        raise Unreadable(
            "weights.npy is in Fortran's order, column by column, expected row by row: load it, "
            "and save numpy.ascontiguousarray of it"
        )
    if (found, fortran, dtype) != (shape, False, np.dtype("<f4")):
        raise Unreadable(
            f"weights.npy has {printable(str(dtype))} {printable(str(found))}, expected float32 "
            f"{shape}, a row for each of metrics.csv.gz"
        )
    if size != offset + 4 * math.prod(shape):
        raise Unreadable(f"truncated: weights.npy has {size:,} bytes")
    return offset


def npy_header(file: io.FileIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether it is in Fortran's order, and type; the file is then at its values."""
    version = npy.read_magic(file)
    return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)


def read_table(path: Path, rows: int) -> pa.Table:
    """Read metrics.csv.gz with all columns as texts, null where a cell is empty.

    Raises:
        Unreadable: it is too large, has more than `rows` rows, or repeats the name of a column.
    """
    with open_plain(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
        content = unpacked.read(_MAX_TABLE + 1)
    if len(content) > _MAX_TABLE:
        raise Unreadable(f"too large: metrics.csv.gz has more than {_MAX_TABLE:,} bytes unpacked")
    if content.count(b"\n") > rows + _BLANK_LINES:  # checked before lines become rows
        raise Unreadable(f"metrics.csv.gz has more lines than weights.npy has rows, {rows:,}")
    names = next(csv.reader(io.StringIO(content[: 1 << 16].decode(errors="replace"))), [])
    if len(names) != len(set(names)) or len(names) > 1000:
        raise Unreadable("metrics.csv.gz repeats the name of a column, or has too many")
    return pacsv.read_csv(
        pa.BufferReader(content),
        # Threads of Arrow would not be faster, and could abort a process that ends with an error.
        read_options=pacsv.ReadOptions(use_threads=False),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=_NULLS,
        ),
    )


def numbers_of(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column as float64; NaN for cells without a number."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    try:
        column = pc.cast(table[name], pa.float64())
    except pa.ArrowInvalid:  # some value is not a number

        def number(text: str | None) -> float:
            try:
                return float(text or "nan")
            except ValueError:
                return math.nan

        return np.array([number(text) for text in table[name].to_pylist()])
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


def metric_of(column: pa.ChunkedArray, name: str, faults: dict[int, str]) -> NDArray[np.float64]:
    """Return a metric of all rows as float64, masked where a loss is absent.

    Args:
        column: texts of the rows.
        name: the metric, under our name.
        faults: receives the rows whose cell cannot be used, and the reasons.
    """
    try:
        values = pc.cast(column, pa.float64()).to_numpy().astype(np.float64)
        absent = pc.is_null(column).to_numpy()
    except pa.ArrowInvalid:  # some value is not a number, or not one that Arrow can read
        found: list[float | None] = []
        for row, text in enumerate(column.to_pylist()):
            try:
                found.append(cell_number(name, text, "metrics"))
            except Unreadable as error:
                faults.setdefault(row, str(error))
                found.append(math.nan)
        values = np.array(found, np.float64)
        absent = np.array([value is None for value in found])
    if name in SHARES_OF_1:
        for row in np.flatnonzero(~((values >= 0) & (values <= 1))).tolist():
            wrong = f"wrong metrics: {name} is {values[row]}, not a share of 1"
            faults.setdefault(row, f"missing metrics: {name}" if absent[row] else wrong)
        return values
    return np.ma.array(values, mask=absent) if absent.any() else values
