"""Read a published repository: the same rows as from zoo directories, over HTTP.

    data/<zoo>/<split>-00000-of-00003.parquet              all columns
    data/<zoo>/<split>-<model_id>-00000-of-00005.parquet   the same of a ResNet-18 zoo: models apart
    metrics/<zoo>-<split>.parquet                          the same rows without weights

Files are never fetched whole. Each read of pyarrow becomes one request for just its bytes: the
footer, then the wanted columns of those row groups whose statistics let a row pass the filters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from huggingface_hub import HfApi, HfFileSystem

from ...errors import FaultyZoo
from ..catalog import METRICS_NAME
from ..schema import row_schema
from ..specification import is_zoo_name
from .names import DATA_FILE, METRICS_FILE
from .remote import explained


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a repository at a commit.

    Attributes:
        repo_id, commit, path: where it is.
        model_id: whose rows it holds; None if it holds those of several models.
    """

    repo_id: str
    commit: str
    path: str
    model_id: str | None = None

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.commit[:8]}/{self.path}"


@dataclass(frozen=True)
class Snapshot:
    """A published repository as it is at one commit.

    Attributes:
        repo_id: `ORG/NAME`.
        commit: 40 hexadecimal digits.
        paths: of all its files, sorted.
    """

    repo_id: str
    commit: str
    paths: tuple[str, ...]

    def zoos(self) -> list[str]:
        """Names of its zoos, sorted."""
        found = {match["zoo"] for match in map(DATA_FILE.fullmatch, self.paths) if match}
        return sorted(name for name in found if is_zoo_name(name))

    def shards(self, name: str, split: str) -> list[Shard]:
        """The files of one split of a zoo, or of `metrics`, in the order of their rows."""
        pattern = METRICS_FILE if name == METRICS_NAME else DATA_FILE
        zoos = self.zoos() if name == METRICS_NAME else [name]
        matches = [match for match in map(pattern.fullmatch, self.paths) if match]
        return [
            Shard(self.repo_id, self.commit, match.string, match.groupdict().get("model_id"))
            for zoo in zoos
            for match in matches
            if match["zoo"] == zoo and match["split"] == split
        ]


def open_repository(
    repo_id: str, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """What a repository holds, in one request.

    Args:
        repo_id: `ORG/NAME`.
        revision: branch, tag or commit; None for main.
        token: of the Hub; None for the one that is logged in, if any.

    Raises:
        HubFailed: no such repository or revision, or the Hub is out of reach.
    """
    with explained(repo_id, token):
        info = HfApi(token=token).repo_info(repo_id, revision=revision, repo_type="dataset")
    paths = sorted(sibling.rfilename for sibling in info.siblings or ())
    return Snapshot(repo_id, str(info.sha), tuple(paths))


def weights_size(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, Any] | None = None
) -> int:
    """Elements of a row's weights, as the file's schema says.

    Raises:
        FaultyZoo: the file has other columns than a row of a zoo.
        HubFailed: see `open_repository`.
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
            f"{shard} does not have the columns of a zoo: was it made by `model-zoos build`?"
        )
    return weights.list_size


def read_tables(
    shard: Shard,
    schema: pa.Schema,
    filters: pads.Expression | None = None,
    token: str | bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """The rows of a file, row group by row group, in their order.

    Args:
        shard: the file.
        schema: wanted columns; nothing else is read.
        filters: keep only matching rows; row groups without any are not read.
        token: of the Hub.
        options: of huggingface_hub.HfFileSystem.

    Raises:
        HubFailed: see `open_repository`.
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
    shard: Shard, token: str | bool | None, options: Mapping[str, Any] | None
) -> Iterator[Any]:
    files = HfFileSystem(**{"token": token, **(options or {})})
    path = f"datasets/{shard.repo_id}@{shard.commit}/{shard.path}"
    # Without a cache: pyarrow knows which bytes it wants, and reads none of them twice.
    with files.open(path, "rb", cache_type="none") as file:
        yield file
