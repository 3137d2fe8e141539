"""The plan of a zoo's Parquet files: their rows, row groups and schema.

The rows of a shard have the order of the zoo directory, by model and epoch. A row group holds whole
trajectories (one state of ResNet-18), and a shard holds whole row groups. In a new folder the
shards continue this order and have about equal sizes; later builds leave every model in its shard
(history.py). Each model of ResNet-18, 50 states of 45 MB, has its own shards, so that it can be
published as soon as it is finished (incremental.py).

Every Parquet file carries in its schema the Features of datasets and, under the key "model_zoos",
the zoo's specification and provenance.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from ..architecture import Layer
from ..layout import Layout
from ..model_file import ModelFile
from ..schema import row_features
from ..zoo_directory import ZooDirectory
from .names import data_file, metrics_file
from .statistics import nan_columns_of

METRICS_GROUP_ROWS = 1 << 16
"""Maximum number of rows in a row group without weights."""


@dataclass(frozen=True)
class PlannedShard:
    """One Parquet file to be written.

    Attributes:
        name: name in the repository, with slashes.
        schema: schema of the file, with metadata.
        groups: for each row group, the model files whose rows it holds.
        twin: whether its weights are pruned.
    """

    name: str
    schema: pa.Schema
    groups: list[list[ModelFile]]
    twin: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(len(file.epochs) for group in self.groups for file in group)

    @cached_property
    def nan_columns(self) -> list[str]:
        """Names of the columns that hold NaN in some row."""
        return nan_columns_of([file for group in self.groups for file in group])

    @property
    def has_weights(self) -> bool:
        """Whether its rows have weights."""
        return "weights" in self.schema.names


def data_shards(
    directory: ZooDirectory,
    split: str,
    files: Sequence[ModelFile],
    held: Sequence[Sequence[str]] = (),
) -> list[PlannedShard]:
    """Plan the Parquet files with weights for model files of one split.

    Args:
        directory: the zoo.
        split: the split of the models.
        files: all files of the split, in order, or (ResNet-18) all files of some models.
        held: ids of the models in each file of an earlier build; the models stay in their files.
            Not needed for files that models do not share.
    """
    zoo, architecture = directory.zoo, directory.zoo.layout.architecture
    twin = any(file.parent_model_id is not None for file in files)
    schema = _schema(directory, zoo.layout.size)
    by_model: dict[str | None, list[ModelFile]] = {}
    for file in files:
        model = file.model_id if architecture.file_per_state else None
        by_model.setdefault(model, []).append(file)
    shards = []
    for model, own in by_model.items():

        def grouped(files: Sequence[ModelFile]) -> list[list[ModelFile]]:
            sizes = [4 * zoo.layout.size * len(file.epochs) for file in files]
            return _grouped(files, sizes, architecture.row_group_bytes)

        groups = grouped(own)
        stored = [sum(_stored_bytes(file) for file in group) for group in groups]
        count = math.ceil(sum(stored) / architecture.shard_bytes)
        parts = _distributed(groups, stored, count)
        if held and model is None:
            added = _added(own, held, architecture.shard_bytes)
            if len(added) <= 2 * count:  # if not, most shards have become nearly empty
                parts = [grouped(part) for part in added]
        for number, part in enumerate(parts):
            name = data_file(zoo.name, split, number, len(parts), model)
            shards.append(PlannedShard(name, schema, part, twin))
    return shards


def metrics_shard(directory: ZooDirectory, split: str, files: Sequence[ModelFile]) -> PlannedShard:
    """Plan the Parquet file of a split without weights."""
    groups = _grouped(files, [len(file.epochs) for file in files], METRICS_GROUP_ROWS)
    return PlannedShard(metrics_file(directory.zoo.name, split), _schema(directory, None), groups)


def _schema(directory: ZooDirectory, size: int | None) -> pa.Schema:
    """Return the schema of a file, with the zoo's specification and provenance."""
    # Without the layout, which follows from the specification and is long for ResNet-18.
    about = {key: value for key, value in directory.info.items() if key != "layout"}
    schema = row_features(size).arrow_schema
    return schema.with_metadata({**schema.metadata, "model_zoos": json.dumps(about)})


def _grouped(files: Sequence[ModelFile], sizes: Sequence[int], limit: int) -> list[list[ModelFile]]:
    """Group neighbouring files whose sizes add up to at most `limit`; no file is divided."""
    groups: list[list[ModelFile]] = []
    filled = 0
    for file, size in zip(files, sizes, strict=True):
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += size
    return groups


def _stored_bytes(file: ModelFile) -> float:
    """Estimate the size in Parquet: the weights that are not zero, at least a twentieth of all."""
    pruned = np.ma.filled(file.metrics.get("sparsity", np.zeros(len(file.epochs))), 0)
    return 4 * file.zoo.layout.size * float(np.maximum(1 - pruned, 0.05).sum())


def _distributed(
    groups: Sequence[list[ModelFile]], sizes: Sequence[float], count: int
) -> list[list[list[ModelFile]]]:
    """Cut row groups into `count` runs of about equal size (fewer if some groups are larger)."""
    parts: list[list[list[ModelFile]]] = [[] for _ in range(count)]
    before = 0.0
    for group, size in zip(groups, sizes, strict=True):
        parts[min(count - 1, int(before / sum(sizes) * count))].append(group)
        before += size
    return [part for part in parts if part]


def _added(
    files: Sequence[ModelFile], held: Sequence[Sequence[str]], limit: float
) -> list[list[ModelFile]]:
    """Assign model files to shards as described in `data_shards`.

    New ones go into the last shard while it has less than `limit` bytes, then into others.
    """
    places = {model: place for place, models in enumerate(held) for model in models}
    shards: list[list[ModelFile]] = [[] for _ in held]
    for file in files:
        if file.model_id in places:
            shards[places[file.model_id]].append(file)
    shards = [shard for shard in shards if shard] or [[]]
    filled = sum(map(_stored_bytes, shards[-1]))
    for file in files:
        if file.model_id not in places:
            size = _stored_bytes(file)
            if shards[-1] and filled + size > limit:
                shards.append([])
                filled = 0
            shards[-1].append(file)
            filled += size
    return [sorted(shard, key=lambda file: file.path.name) for shard in shards]


def layout_json(layout: Layout) -> dict[str, object]:
    """Return the tensors with shapes and offsets and, for CNNs, the layers to rebuild it from.

    Layers are in the order of application. Each is followed by max-pooling with kernel 2 (`pool`),
    the row's activation function (`activation`) and dropout at the row's rate (`dropout`), where
    these are true; a text in `activation` names the layer's own. `stride`, `padding` and `gap`
    (averaging over all positions follows) are present only if they differ from 1, 0 and false. A
    linear layer (kernel null) flattens its input.
    """
    architecture = layout.architecture
    return {
        **layout.to_json(),
        "image_size": architecture.image_size,
        "layers": [_layer_json(layer) for layer in architecture.layers],
    }


def _layer_json(layer: Layer) -> dict[str, object]:
    """Return a layer's fields; stride, padding and gap only if they differ from their defaults."""
    fields = dataclasses.asdict(layer)
    plain = Layer(layer.name, layer.out)
    later = ("stride", "padding", "gap")
    return {k: v for k, v in fields.items() if k not in later or v != getattr(plain, k)}


def layout_bytes(layout: Layout) -> bytes:
    """Return the content of a layout's file."""
    return sorted_json(layout_json(layout))


def sorted_json(value: object) -> bytes:
    """Return a value in the form of a repository folder's JSON files."""
    return (json.dumps(value, indent=1, allow_nan=False, sort_keys=True) + "\n").encode()
