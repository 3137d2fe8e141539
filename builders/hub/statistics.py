"""NaN and the statistics of Parquet files.

The minimum and the maximum of a column leave NaN out. If a row can pass a filter because it holds
NaN, as with `~(field("test_loss") < 5)`, statistics must not decide which row groups are read.
Columns with NaN are written without statistics, because `datasets` trusts any that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from ..model_file import ModelFile
from ..rows import states_table
from ..schema import row_schema

_PLAIN = row_schema(None)
_FLOATS = pa.schema([field for field in _PLAIN if pa.types.is_floating(field.type)])


def nan_can_pass(filters: pads.Expression) -> bool:
    """Whether a row with NaN might pass a filter where it would fail with another number.

    For each column that the filter names, pyarrow is asked whether rows with NaN in it might pass.
    """
    return any(
        _named(filters, column) and _without_statistics(column).subset(filter=filters).row_groups
        for column in _FLOATS
    )


def _named(filters: pads.Expression, column: pa.Field) -> bool:
    """Whether a filter names a column."""
    others = pa.schema([field for field in _PLAIN if field != column])
    try:
        others.empty_table().filter(filters)
    except pa.ArrowInvalid:
        return True
    return False


@cache
def _without_statistics(column: pa.Field) -> pads.ParquetFileFragment:
    """Return a file without statistics in which pyarrow knows only that the column is NaN."""
    sink = pa.BufferOutputStream()
    row = pa.Table.from_pylist([{}], schema=_PLAIN)
    pq.write_table(row, sink, write_statistics=False)
    known = pads.field(column.name) == pa.scalar(math.nan, column.type)
    return pads.ParquetFileFormat().make_fragment(
        pa.BufferReader(sink.getvalue()), partition_expression=known
    )


def columns_with_nan(table: pa.Table) -> list[str]:
    """Return the names of the columns that hold NaN in some row."""
    names = [name for name in _FLOATS.names if name in table.column_names]
    return [name for name in names if pc.any(pc.is_nan(table[name])).as_py()]


def nan_columns_of(files: Sequence[ModelFile]) -> list[str]:
    """Return the names of the columns that hold NaN at some state of some model files."""
    return columns_with_nan(states_table(files, _FLOATS))
