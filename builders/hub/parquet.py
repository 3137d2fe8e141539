"""How a Parquet file of a repository is encoded and written.

The same rows become the same bytes on every machine, given the same version of pyarrow, which each
file names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import Cancelled
from ..model_file import ModelFile
from ..rows import states_table, weights_column
from .checked import MAX_GROUP_BYTES, weights_type
from .shards import METRICS_GROUP_ROWS, PlannedShard
from .statistics import columns_with_nan

ZSTD_LEVEL = 1
"""At level 3, dense weights do not become smaller (mantissas are noise) and take longer."""


def writer_options(
    schema: pa.Schema, *, twin: bool = False, nan_columns: Collection[str] = ()
) -> dict[str, object]:
    """Return the encoding of a file as arguments of pyarrow.parquet.ParquetWriter.

    Dense weights are split into four byte streams, of which only the one with signs and exponents
    compresses. The zeros of twins compress better without the split.

    Args:
        schema: of the file.
        twin: whether its weights are pruned.
        nan_columns: columns that hold NaN, which get no statistics.
    """
    plain = [name for name in schema.names if name != "weights"]
    split = "weights" in schema.names and not twin
    return {
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": plain,
        "write_statistics": [name for name in plain if name not in nan_columns],
        "use_byte_stream_split": ["weights.list.element"] if split else False,
        "write_page_index": True,
        "write_batch_size": 1 << 16,  # pyarrow's default of 1024 costs a third of the speed
    }


def write_shard(
    shard: PlannedShard,
    path: Path,
    cancelled: threading.Event,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write one Parquet file.

    Args:
        shard: its plan.
        path: where it is written; it is complete when this function returns.
        cancelled: set to stop before the next row group.
        advance: called with the number of rows of each row group that was written.

    Raises:
        Cancelled: `cancelled` was set before the file was complete.
        FaultyFile: a model file cannot be read.
    """
    schema = shard.schema
    plain = pa.schema([field for field in schema if field.name != "weights"])

    def read(group: list[ModelFile]) -> pa.Table:
        table = states_table(group, plain).combine_chunks()
        if not shard.has_weights:
            return table
        kind = schema.field("weights").type
        position = schema.get_field_index("weights")
        return table.add_column(position, "weights", weights_column(group, kind))

    options = writer_options(schema, twin=shard.twin, nan_columns=shard.nan_columns)
    size = weights_type(schema)
    room = MAX_GROUP_BYTES * 2 // 3  # the rest is for the other columns, which are read too
    most = max(1, room // (4 * size.list_size)) if size else METRICS_GROUP_ROWS
    # A row group is read while the previous one is encoded, which saves an eighth of the time.
    with ThreadPoolExecutor(1) as reader, pq.ParquetWriter(path, schema, **options) as writer:
        ahead = reader.submit(read, shard.groups[0])
        for number in range(len(shard.groups)):
            table = ahead.result()
            if cancelled.is_set():
                raise Cancelled
            if number + 1 < len(shard.groups):
                ahead = reader.submit(read, shard.groups[number + 1])
            # A long trajectory of a wide network may exceed the row groups that readers accept.
            writer.write_table(table, row_group_size=min(len(table), most))
            advance(len(table))


def metrics_bytes(table: pa.Table) -> bytes:
    """Return rows without weights as a Parquet file, with the same bytes as `write_shard`.

    Args:
        table: the rows, sorted by model and epoch, with the schema of the file.
    """
    table, sink = table.combine_chunks(), pa.BufferOutputStream()
    options = writer_options(table.schema, nan_columns=columns_with_nan(table))
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        for start in range(0, len(table), METRICS_GROUP_ROWS):
            part = table.slice(start, METRICS_GROUP_ROWS)
            writer.write_table(part, row_group_size=len(part))
    return sink.getvalue().to_pybytes()
