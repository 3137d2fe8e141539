"""Small repository folders, like those of a build, and the code that publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, load_dataset

from model_zoos.builders.schema import row_features
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import open_zoo
from tests.builders.hub.bits import digests

ME = "me/model_zoos"

PUBLISH = """
from dataclasses import asdict
from model_zoos.builders.hub.publish import publish
result = asdict(publish(folder, repo_id, **arguments))
"""

UNION = ["mnist_cnn_s_seed", "mnist_cnn_s_hyp_10_r", "mnist_cnn_s_hyp_10_f"]


def write_folder(
    folder: Path, home: Path, names: list[str], *, shards: int = 1, group: int = 12
) -> Path:
    """A repository folder: `shards` files of each split, in row groups of `group` rows."""
    configs = []
    for name in names:
        about = {"zoo": open_zoo(home, name).zoo.to_json(), "engine": "test"}
        splits = load_dataset("model_zoos", name, data_dir=str(home))
        files = []
        for split, rows in splits.items():
            table = rows.with_format("arrow")[:]
            size = table.schema.field("weights").type.list_size
            for kind, columns in (("data", size), ("metrics", None)):
                schema = row_features(columns).arrow_schema
                metadata = {**schema.metadata, "model_zoos": json.dumps(about)}
                part = table.select(schema.names).cast(schema.with_metadata(metadata))
                if kind == "metrics":
                    _write(folder / f"metrics/{name}-{split}.parquet", part, 1 << 16)
                    continue
                step = -(-len(part) // shards)
                for number in range(shards):
                    path = f"data/{name}/{split}-{number:05d}-of-{shards:05d}.parquet"
                    _write(folder / path, part.slice(number * step, step), group)
            files.append({"split": split, "path": f"data/{name}/{split}-*.parquet"})
        configs.append({"config_name": name, "data_files": files})
    metrics = [{"split": split, "path": f"metrics/*-{split}.parquet"} for split in SPLITS]
    configs.append({"config_name": "metrics", "data_files": metrics, "default": True})
    header = {"license": "cc-by-4.0", "tags": ["model-zoo"], "configs": configs}
    card = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n# Model zoos\n"
    (folder / "README.md").write_text(card)
    (folder / ".build").mkdir(exist_ok=True)
    (folder / ".build" / "lock").write_text("")
    return folder


def _write(path: Path, table: pa.Table, group: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [name for name in table.column_names if name != "weights"]
    split = ["weights.list.element"] if "weights" in table.column_names else False
    pq.write_table(
        table,
        path,
        row_group_size=group,
        compression="zstd",
        use_dictionary=plain,
        write_statistics=plain,
        use_byte_stream_split=split,
        write_page_index=True,
    )


def bits(table: pa.Table) -> dict[str, Any]:
    """Return digests of all columns, equal only if every bit of every value is."""
    return digests(Dataset(table))
