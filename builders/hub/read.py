"""Read a repository on the Hub, or a built folder: the same rows as from zoo directories.

No file is read as a whole. Each read of pyarrow becomes one request for exactly its bytes: the
footer, then the wanted columns of the row groups whose statistics allow matching rows. Statistics
leave NaN out. If NaN can pass the filter, the columns without weights decide instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from huggingface_hub import HfApi, HfFileSystem, constants

from ...errors import FaultyZoo, InvalidArgument, ZooNotFound
from ..files import file_stamp, files_below
from ..layout import Layout
from ..names import METRICS_NAME, is_zoo_name
from ..schema import row_schema
from ..specification import Zoo
from ..untrusted import open_plain
from ..zoo_directory import built_zoos, list_zoo_directories
from .checked import (
    Fault,
    Seen,
    check_columns,
    check_rows,
    description,
    naming,
    open_fragment,
    weights_type,
)
from .merge import parse_card
from .names import (
    CARD,
    DATA_FILE,
    METRICS_FILE,
    faults,
    matches,
    metrics_file,
    source_file,
    zoo_of,
)
from .remote import explained
from .statistics import nan_can_pass


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a repository at a commit, or a row group of it.

    Attributes:
        repo_id, commit, path: its place; see `Snapshot`.
        model_id: the model whose rows it holds; None if it holds rows of several models.
        group: the number of the row group; None for the whole file.
    """

    repo_id: str
    commit: str
    path: str
    model_id: str | None = None
    group: int | None = None

    def __str__(self) -> str:
        if is_folder(self.repo_id):
            return os.path.join(self.repo_id, self.path)
        return f"hf://datasets/{self.repo_id}@{self.commit[:8]}/{self.path}"


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit.

    Attributes:
        repo_id: `ORG/NAME`, or the absolute path of a built folder.
        commit: 40 hexadecimal digits; for a folder, a digest that changes with its Parquet files
            and its licence.
        paths: names of all files, sorted.
        licence: the licence in its card; "" if the card names none.
    """

    repo_id: str
    commit: str
    paths: tuple[str, ...]
    licence: str = ""

    def __str__(self) -> str:
        return self.repo_id if is_folder(self.repo_id) else f"{self.repo_id}@{self.commit[:8]}"

    def zoos(self) -> list[str]:
        """Return the names of its zoos, sorted."""
        found = {match["zoo"] for match in matches(DATA_FILE, self.paths)}
        return sorted(name for name in found if is_zoo_name(name))

    def shards(self, name: str, split: str) -> list[Shard]:
        """Return the files of one split of a zoo, or of `metrics`, in the order of their rows.

        Raises:
            FaultyZoo: some files of the zoo are missing, in this or another split.
        """
        if name == METRICS_NAME:
            zoos, pattern = self.zoos(), METRICS_FILE
            have = {(m["zoo"], m["split"]) for m in matches(DATA_FILE, self.paths)}
            lacking = {metrics_file(*key) for key in have if key[0] in zoos} - set(self.paths)
            faulty = [f"{path} is missing" for path in sorted(lacking)]
        else:
            zoos, pattern = [name], DATA_FILE
            faulty = faults(self.paths, name)
        if faulty:
            more = f", and {len(faulty) - 3} more" if len(faulty) > 3 else ""
            raise FaultyZoo(
                f"{self}: {'; '.join(faulty[:3])}{more}: the publication of {name} was "
                "interrupted, or somebody has deleted files",
                hint="build the zoo again"
                if is_folder(self.repo_id)
                else "read another revision=, or publish the zoo again",
            )
        found = [m for m in matches(pattern, self.paths) if m["split"] == split]
        return [
            Shard(self.repo_id, self.commit, match.string, match.groupdict().get("model_id"))
            for match in sorted(found, key=lambda match: match["zoo"])
            if match["zoo"] in zoos
        ]


def is_folder(repo_id: str) -> bool:
    """Whether a repository is a built folder, by the `repo_id` of its `Snapshot`."""
    return os.path.isabs(repo_id)


def open_repository(
    repo: str, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """List the files of a repository on the Hub, or of a built folder.

    Args:
        repo: `ORG/NAME` on the Hub, also as an address (https://huggingface.co/datasets/ORG/NAME,
            hf://datasets/ORG/NAME), or the path of a folder that `model-zoos build` wrote. If it
            could be either, an existing folder takes precedence, as in datasets.
        revision, token: see `open_snapshot`. A folder has no revisions.

    Raises:
        HubUnreachable, HubFailed: see `open_snapshot`.
        InvalidArgument: a revision of a folder is asked for, or the path leads to a zoo directory
            or a folder of zoo directories.
        ZooNotFound: a path does not lead to a built folder.
    """
    folder = Path(repo).expanduser().absolute()
    if built_zoos(folder):
        if revision is not None:
            raise InvalidArgument(f"{repo} is a folder here, which has no revision {revision}")
        return _built_folder(folder)
    if (folder / "zoo.json").exists() or list_zoo_directories(folder):
        root = folder.parent if (folder / "zoo.json").exists() else folder
        raise InvalidArgument(
            f"{repo} holds zoo directories: give data_dir={str(root)!r}. repo= is a repository on "
            "the Hub, ORG/NAME, or a folder that `model-zoos build` wrote"
        )
    repo_id = repo.removesuffix("/")
    for prefix in ("hf://", "https://huggingface.co/", f"{constants.ENDPOINT}/"):
        if repo_id.startswith(f"{prefix}datasets/"):
            repo_id = repo_id.removeprefix(f"{prefix}datasets/")
            break
    if repo_id.count("/") != 1 or repo_id.startswith(("/", ".", "~")):
        raise ZooNotFound(
            f"{repo} is no folder that `model-zoos build` wrote, and no repository on the Hub, "
            "which is ORG/NAME"
        )
    return open_snapshot(repo_id, revision, token)


def open_snapshot(
    repo_id: str, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """List the files of a repository on the Hub, in one request.

    Args:
        repo_id: `ORG/NAME`.
        revision: branch, tag or commit; None for main.
        token: of the Hub; None for HF_TOKEN or that of `hf auth login`, if there is one.

    Raises:
        HubUnreachable: the Hub is out of reach.
        HubFailed: no such repository or revision.
    """
    with explained(repo_id, token):
        info = HfApi(token=token).dataset_info(repo_id, revision=revision)
    paths = sorted(sibling.rfilename for sibling in info.siblings or ())
    licence = info.card_data.get("license") if info.card_data else None
    named = licence if isinstance(licence, str) else ""
    return Snapshot(repo_id, str(info.sha), tuple(paths), named)


def _built_folder(folder: Path) -> Snapshot:
    files = files_below(folder).items()
    stamps = {name: file_stamp(path) for name, path in files if name.endswith(".parquet")}
    paths = sorted(stamps)
    licence = _licence_of(folder / CARD)
    digest = hashlib.sha256(repr([licence, *((path, stamps[path]) for path in paths)]).encode())
    return Snapshot(str(folder), digest.hexdigest()[:40], tuple(paths), licence)


def _licence_of(card: Path) -> str:
    """Return the licence that a card names; "" if it cannot be read, since rows do not need it."""
    try:
        named = parse_card(card.read_text("utf-8"))[0].get("license")
    except (OSError, ValueError):
        return ""
    return named if isinstance(named, str) else ""


def weights_size(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, object] | None = None
) -> int:
    """Return the length of a row's weights from the schema of a file.

    Args:
        shard: the file.
        token: of the Hub.
        options: arguments of huggingface_hub.HfFileSystem.

    Raises:
        FaultyZoo: the file has other columns than the rows of a zoo.
        HubFailed: see `open_snapshot`.
    """
    with _fragment(shard, token, options) as fragment:
        kind = weights_type(fragment.physical_schema)
        size: int | None = kind and kind.list_size
        check_columns(fragment.physical_schema, size or 0)
    return size or 0


def shard_layout(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, object] | None = None
) -> Layout:
    """Return where each tensor lies in a row's weights, from the file's description of its zoo.

    Arguments and errors: see `weights_size`.
    """
    with _fragment(shard, token, options) as fragment:
        schema = fragment.physical_schema
        layout = Zoo.from_json(description(schema).get("zoo")).layout
        if (kind := weights_type(schema)) is None or kind.list_size != layout.size:
            raise Fault(f"its rows are not {layout.size:,} weights of {layout}")
    return layout


def row_groups(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, object] | None = None
) -> list[Shard]:
    """Return the row groups of a file, as its footer lists them; arguments: see `weights_size`."""
    if shard.group is not None:
        return [shard]
    with _fragment(shard, token, options) as fragment:
        return [replace(shard, group=group.id) for group in fragment.row_groups]


def read_tables(
    shard: Shard,
    schema: pa.Schema,
    filters: pads.Expression | None = None,
    token: str | bool | None = None,
    options: Mapping[str, object] | None = None,
    seen: Seen | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of a file, row group by row group, in their order.

    Args:
        shard: the file, or the row group.
        schema: wanted columns; nothing else is read.
        filters: keep only matching rows. Row groups without any are not read, or, if NaN can pass
            the filter, read without weights.
        token: of the Hub.
        options: arguments of huggingface_hub.HfFileSystem.
        seen: rows of the other files that are read; this file must not repeat any of them.

    Raises:
        FaultyZoo: the file cannot be read, has other columns than the rows of a zoo, other weights
            than the schema, null or repeated rows.
        HubFailed: see `open_snapshot`.
    """
    seen = {} if seen is None else seen
    with _fragment(shard, token, options) as fragment:
        kind = weights_type(schema) or weights_type(fragment.physical_schema)
        check_columns(fragment.physical_schema, kind and kind.list_size)
        if shard.group is not None:
            fragment = fragment.subset(row_group_ids=[shard.group])
        trusted = filters is None or not nan_can_pass(filters)
        if filters is not None and trusted:
            fragment = fragment.subset(filter=filters)
        for group in fragment.row_groups:
            part = fragment.subset(row_group_ids=[group.id])
            if trusted:
                table = part.to_table(columns=schema.names, filter=filters)
            else:
                table = _matching(part, schema.names, filters)
            if len(table):
                table = table.cast(schema)
                check_rows(table, zoo_of(shard.path), (shard.path, group.id), seen)
                yield table
            del table  # 45 MB of ResNet-18, freed before the next is read


def _matching(
    group: pads.ParquetFileFragment, names: Sequence[str], filters: pads.Expression
) -> pa.Table:
    """Return the matching rows of a row group, without using its statistics.

    Its weights are read only if it has such a row.
    """
    plain = [name for name in group.physical_schema.names if name != "weights"]
    table = group.to_table(columns=plain)
    table = table.append_column("_row", pa.array(np.arange(len(table)))).filter(filters)
    if len(table) and "weights" in names:
        weights = group.to_table(columns=["weights"])["weights"]
        table = table.append_column("weights", weights.take(table["_row"]))
    return table.select([name for name in names if name in table.column_names])


class LastStates:
    """Finds the last states of models in a repository, from its metrics.

    Args:
        token: of the Hub.
        options: arguments of huggingface_hub.HfFileSystem.
    """

    def __init__(
        self, token: str | bool | None = None, options: Mapping[str, object] | None = None
    ) -> None:
        self._token, self._options = token, options
        self._known: dict[str, pads.Expression] = {}

    def of(self, shard: Shard) -> pads.Expression:
        """Return the condition for the last states of a file's zoo and split.

        Raises:
            FaultyZoo: the metrics of the zoo cannot be read.
            HubFailed: see `open_snapshot`.
        """
        match = DATA_FILE.fullmatch(shard.path) or METRICS_FILE.fullmatch(shard.path)
        if match is None:
            raise FaultyZoo(f"{shard} is no file of a zoo")
        path = metrics_file(match["zoo"], match["split"])
        if path not in self._known:
            metrics = Shard(shard.repo_id, shard.commit, path)
            schema = row_schema(None, ("model_id", "epoch"))
            tables = list(read_tables(metrics, schema, None, self._token, self._options))
            rows = pa.concat_tables(tables).group_by("model_id").aggregate([("epoch", "max")])
            models: dict[int, list[str]] = {}
            for model, epoch in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                models.setdefault(epoch, []).append(model)
            conditions = [
                (pads.field("epoch") == epoch) & pads.field("model_id").isin(found)
                for epoch, found in models.items()
            ]
            self._known[path] = reduce(or_, conditions)
        return self._known[path]


def read_source_file(
    snapshot: Snapshot, zoo: str, limit: int, token: str | bool | None = None
) -> bytes | None:
    """Return the file with the columns of a zoo's source that no row has; None if there is none.

    Args:
        snapshot: the repository.
        zoo: name of the zoo.
        limit: of the file in bytes.
        token: of the Hub.

    Raises:
        FaultyZoo: the file is larger.
        HubFailed: see `open_snapshot`.
    """
    if (path := source_file(zoo)) not in snapshot.paths:
        return None
    shard = Shard(snapshot.repo_id, snapshot.commit, path)
    with explained(shard.repo_id, token), _opened(shard, token, None) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise FaultyZoo(f"{shard}: larger than {limit:,} bytes")
    return content


@contextmanager
def _fragment(
    shard: Shard, token: str | bool | None, options: Mapping[str, object] | None
) -> Iterator[pads.ParquetFileFragment]:
    with naming(shard), explained(shard.repo_id, token), _opened(shard, token, options) as file:
        yield open_fragment(file)


@contextmanager
def _opened(
    shard: Shard, token: str | bool | None, options: Mapping[str, object] | None
) -> Iterator[IO[bytes]]:
    if is_folder(shard.repo_id):
        with open_plain(Path(shard.repo_id, shard.path)) as file:
            yield file
        return
    arguments: dict[str, Any] = {"token": token, **(options or {})}
    path = f"datasets/{shard.repo_id}@{shard.commit}/{shard.path}"
    # Without a cache: pyarrow requests exactly the bytes that it needs, and each only once.
    with HfFileSystem(**arguments).open(path, "rb", cache_type="none") as file:
        yield file
