"""Speed of building Parquet from a zoo directory, compared with pyarrow writing one table.

The work is a whole zoo, 1000 models with 51 states of CNN-s (0.5 GB of weights, normally
distributed: except for their exponents as incompressible as trained ones). The baseline is one call
of pyarrow.parquet.write_table with the same options and row groups on the same rows in memory. Both
encode and compress; the build also reads and checks the model files, makes the rows, and writes
metrics, layouts and the card. Both use one worker and the same disk. The build reads ahead in its
own thread, which processor time includes and wall time hides.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.zoos import random_zoo

from ...builders.catalog import zoo_spec
from ...builders.hub.build import build_folder
from ...builders.hub.parquet import writer_options
from ...builders.rows import states_table, weights_column
from ...builders.schema import row_features
from .measure import Clock, Models, Rounds

BASELINE = "pyarrow.parquet.write_table"


def measure(models: Models = 1000, rounds: Rounds = 5) -> dict[str, Any]:
    """Return the figures: `gb_per_second` and others, by name if there are several.

    Figures of `gb_per_cpu_second` depend less on other programs on the machine.
    """
    clock = Clock()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        directory = random_zoo(folder / "zoos", zoo_spec("mnist_cnn_s_seed"), models)
        states, layout = directory.zoo.states_per_model, directory.zoo.layout
        size = 4 * models * states * layout.size
        good, _ = directory.scan()
        schema = row_features(layout.size).arrow_schema
        plain = [field.name for field in schema if field.name != "weights"]
        table = states_table(good, schema.empty_table().select(plain).schema)
        weights = weights_column(good, schema.field("weights").type)
        table = table.add_column(schema.get_field_index("weights"), "weights", weights)
        table = table.combine_chunks()
        group = layout.architecture.row_group_bytes // (4 * states * layout.size) * states
        path, out = folder / "table.parquet", folder / "out"
        for _ in range(rounds):
            with clock.time(BASELINE):
                pq.write_table(table, path, row_group_size=group, **writer_options(schema))
            path.unlink()
            with clock.time("build"):
                [summary] = build_folder(
                    [directory.zoo.name], directory.path.parent, out, workers=1
                )
            assert summary.weights_bytes == size
            shutil.rmtree(out)
    return {
        "rows": len(table),
        "bytes": size,
        "rounds": rounds,
        "gb_per_second": clock.speeds(size / 1e9),
        "gb_per_cpu_second": clock.speeds(size / 1e9, cpu=True),
        "build_over_write_table": round(clock.ratio(BASELINE, "build"), 3),
        "size_over_raw": round(summary.file_bytes / size, 3),
    }
