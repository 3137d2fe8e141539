"""How fast a zoo directory becomes Parquet, beside pyarrow's own writing of one table in memory.

The work is a whole zoo, 1000 models with 51 states of CNN-s (0.5 GB of weights, normally
distributed values: as incompressible as trained ones but for their exponents). The yardstick is one
call of pyarrow.parquet.write_table with the same options and row groups on the same rows, all in
memory: encoding and compression are in both, the build also reads and checks the model files, makes
the rows, plans, and writes metrics, layouts and the card. Both with one worker and on the same
disk; the build reads ahead in a thread of its own, which processor time counts and wall time hides.
Rounds are interleaved; medians are reported, in GB of weights a second.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ...builders.catalog import get_zoo
from ...builders.hub.build import build_folder
from ...builders.hub.parquet import writer_options
from ...builders.rows import states_table, weights_column
from ...builders.schema import row_features
from .loading import random_zoo


def measure(models: int, rounds: int) -> dict[str, Any]:
    """Medians over some rounds.

    Args:
        models: of 51 states each.
        rounds: at least 1.

    Returns:
        `rows`, `bytes` (of weights), `gb_per_second` and `gb_per_cpu_second` (which other work on
        the machine disturbs less) by name of what was measured, `build_over_write_table` (median
        of the rounds' ratios) and `size_over_raw`.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = random_zoo(Path(folder) / "zoos", get_zoo("mnist_cnn_s_seed"), models)
        size = 4 * models * directory.zoo.states_per_model * directory.zoo.layout.size
        good, _ = directory.scan()
        schema = row_features(directory.zoo.layout.size).arrow_schema
        plain = [field for field in schema if field.name != "weights"]
        table = states_table(good, schema.empty_table().select([f.name for f in plain]).schema)
        position = schema.get_field_index("weights")
        weights = weights_column(good, schema.field("weights").type)
        table = table.add_column(position, "weights", weights).combine_chunks()
        trajectory = 4 * directory.zoo.states_per_model * directory.zoo.layout.size
        models = directory.zoo.layout.architecture.row_group_bytes // trajectory
        group = models * directory.zoo.states_per_model
        names = [directory.zoo.name]
        seconds: dict[str, list[float]] = {}
        cpu_seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            path = Path(folder) / f"table-{number}.parquet"
            with _timed("pyarrow.parquet.write_table", seconds, cpu_seconds):
                pq.write_table(table, path, row_group_size=group, **writer_options(schema))
            path.unlink()
            out = Path(folder) / f"out-{number}"
            with _timed("build", seconds, cpu_seconds):
                [summary] = build_folder(names, directory.path.parent, out, workers=1)
            assert summary.weights_bytes == size
            shutil.rmtree(out)
    ratios = zip(seconds["pyarrow.parquet.write_table"], seconds["build"], strict=True)
    return {
        "rows": len(table),
        "bytes": size,
        "rounds": rounds,
        "gb_per_second": _speed(size, seconds),
        "gb_per_cpu_second": _speed(size, cpu_seconds),
        "build_over_write_table": round(statistics.median(a / b for a, b in ratios), 3),
        "size_over_raw": round(summary.file_bytes / size, 3),
    }


@contextmanager
def _timed(
    name: str, seconds: dict[str, list[float]], cpu_seconds: dict[str, list[float]]
) -> Iterator[None]:
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    cpu_seconds.setdefault(name, []).append(time.process_time() - cpu_start)


def _speed(size: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    return {n: round(size / statistics.median(values) / 1e9, 3) for n, values in seconds.items()}
