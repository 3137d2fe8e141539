"""Read a repository on the Hub: the same rows as from zoo directories, over HTTP.

No file is downloaded whole. Each read of pyarrow becomes one request for exactly its bytes: the
footer, then the wanted columns of the row groups that can have matching rows by their statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.dataset as pads
from huggingface_hub import HfApi, HfFileSystem

from ...errors import FaultyZoo
from ..catalog import METRICS_NAME
from ..schema import row_schema
from ..specification import is_zoo_name
from .names import DATA_FILE, METRICS_FILE, matches
from .remote import explained


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a repository at a commit.

    Attributes:
        repo_id, commit, path: its place.
        model_id: the model whose rows it holds; None if it holds rows of several models.
    """

    repo_id: str
    commit: str
    path: str
    model_id: str | None = None

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.commit[:8]}/{self.path}"


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit.

    Attributes:
        repo_id: `ORG/NAME`.
        commit: 40 hexadecimal digits.
        paths: names of all files, sorted.
    """

    repo_id: str
    commit: str
    paths: tuple[str, ...]

    def zoos(self) -> list[str]:
        """Return the names of its zoos, sorted."""
        found = {match["zoo"] for match in matches(DATA_FILE, self.paths)}
        return sorted(name for name in found if is_zoo_name(name))

    def shards(self, name: str, split: str) -> list[Shard]:
        """Return the files of one split of a zoo, or of `metrics`, in the order of their rows."""
        pattern = METRICS_FILE if name == METRICS_NAME else DATA_FILE
        zoos = self.zoos() if name == METRICS_NAME else [name]
        found = list(matches(pattern, self.paths))
        return [
            Shard(self.repo_id, self.commit, match.string, match.groupdict().get("model_id"))
            for zoo in zoos
            for match in found
            if match["zoo"] == zoo and match["split"] == split
        ]


def open_snapshot(
    repo_id: str, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """List the files of a repository, in one request.

    Args:
        repo_id: `ORG/NAME`.
        revision: branch, tag or commit; None for main.
        token: of the Hub; None for HF_TOKEN or that of `hf auth login`, if there is one.

    Raises:
        HubFailed: no such repository or revision, or the Hub is out of reach.
    """
    with explained(repo_id, token):
        info = HfApi(token=token).dataset_info(repo_id, revision=revision)
    paths = sorted(sibling.rfilename for sibling in info.siblings or ())
    return Snapshot(repo_id, str(info.sha), tuple(paths))


def weights_size(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, object] | None = None
) -> int:
    """Return the length of a row's weights, by the schema of a file.

    Args:
        shard: the file.
        token: of the Hub.
        options: arguments of huggingface_hub.HfFileSystem.

    Raises:
        FaultyZoo: the file has other columns than the rows of a zoo.
        HubFailed: see `open_snapshot`.
    """
    with explained(shard.repo_id, token), _opened(shard, token, options) as file:
        schema = pads.ParquetFileFormat().make_fragment(file).physical_schema
    weights = schema.field("weights").type if "weights" in schema.names else None
    if (
        not isinstance(weights, pa.FixedSizeListType)
        or weights.value_type != pa.float32()
        or schema.names != row_schema(weights.list_size).names
        or schema.remove(schema.get_field_index("weights")) != row_schema(None)
    ):
        raise FaultyZoo(
            f"{shard} does not have the columns of a zoo: was it built with model_zoos?"
        )
    size: int = weights.list_size
    return size


def read_tables(
    shard: Shard,
    schema: pa.Schema,
    filters: pads.Expression | None = None,
    token: str | bool | None = None,
    options: Mapping[str, object] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of a file, row group by row group, in their order.

    Args:
        shard: the file.
        schema: wanted columns; nothing else is read.
        filters: keep only matching rows; row groups without any are not read.
        token: of the Hub.
        options: arguments of huggingface_hub.HfFileSystem.

    Raises:
        HubFailed: see `open_snapshot`.
    """
    with explained(shard.repo_id, token), _opened(shard, token, options) as file:
        fragment = pads.ParquetFileFormat().make_fragment(file)
        if filters is not None:
            fragment = fragment.subset(filter=filters)
        for group in fragment.row_groups:
            part = fragment.subset(row_group_ids=[group.id])
            table = part.to_table(columns=schema.names, filter=filters)
            if len(table):
                yield table.cast(schema)
            del table  # 45 MB of ResNet-18, while the next is read


@contextmanager
def _opened(
    shard: Shard, token: str | bool | None, options: Mapping[str, object] | None
) -> Iterator[IO[bytes]]:
    arguments: dict[str, Any] = {"token": token, **(options or {})}
    path = f"datasets/{shard.repo_id}@{shard.commit}/{shard.path}"
    # Without a cache: pyarrow knows which bytes it wants, and reads none of them twice.
    with HfFileSystem(**arguments).open(path, "rb", cache_type="none") as file:
        yield file
