"""The builder of `load_dataset("model_zoos", ...)`: configurations, and rows of each split."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets.load
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.builder import Key

from ..errors import FaultyFile, FaultyFilesWarning, UnknownZoo, ZooNotFound
from . import catalog
from .catalog import METRICS_NAME, get_zoo
from .hub.names import whole_models
from .hub.read import Shard, Snapshot, open_snapshot, read_tables, weights_size
from .model_file import ModelFile
from .rows import states_table, weights_column
from .schema import row_features, row_schema
from .splits import SPLITS
from .zoo_directory import ZooDirectory, list_zoo_directories, open_zoo, refuse_zoo_as_root

_ROWS_PER_TABLE = 256
"""Rows that are read and handed over at once: 2.5 MB of CNN-s; one table costs about 1 ms."""

_WRITER_BATCH_BYTES = 32 << 20
"""Weights in one record batch of the Arrow cache (datasets' default of 1000 rows is 45 GB of
ResNet-18)."""

_ROWS_VERSION = datasets.Version("1.0.0")
"""Of the rows' form."""


def zoos_home(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of zoo directories: the argument, else MODEL_ZOOS_HOME, else ./zoos."""
    home = Path(data_dir or os.environ.get("MODEL_ZOOS_HOME") or "zoos")
    return home.expanduser().absolute()  # a stream may be read after a change of folder


@dataclass
class ModelZoosConfig(datasets.BuilderConfig):
    """What to read of a zoo; all of it can be given to load_dataset.

    Attributes:
        name: a zoo, a union, a twin zoo, `metrics`, or any zoo directory in `data_dir`.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        repo: repository on the Hub, ORG/NAME, else MODEL_ZOOS_REPO: a zoo that has no directory is
            read from there (`metrics` if there is no directory at all).
        revision: of the repository: branch, tag or commit; main by default.
        columns: read only these columns; weights that are not asked for are not read.
        filters: keep only matching rows, in the form of datasets' Parquet loader: a list of
            ("column", "==", value), a list of such lists, or a pyarrow expression.
        on_bad_files: "warn" leaves out a model file that cannot be read and says so; "error" stops
            at it; "skip" leaves it out silently.
    """

    repo: str | None = None
    revision: str | None = None
    columns: list[str] | None = None
    filters: Any = None
    on_bad_files: str = "warn"


class ModelZoos(datasets.ArrowBasedBuilder, datasets.GeneratorBasedBuilder):
    """Rows of model zoos: one state of one model each (builders/schema.py has the columns).

    A GeneratorBasedBuilder whose bulk path yields Arrow tables: as Python lists one row of
    ResNet-18 takes 1.9 s, 37 times as long.
    """

    VERSION = _ROWS_VERSION
    BUILDER_CONFIG_CLASS = ModelZoosConfig
    BUILDER_CONFIGS: ClassVar[list[ModelZoosConfig]] = [
        ModelZoosConfig(name=name, version=_ROWS_VERSION) for name in catalog.config_names()
    ]

    def _create_builder_config(
        self,
        config_name: str | None = None,
        custom_features: datasets.Features | None = None,
        config_id: str | None = None,
        **config_kwargs: Any,
    ) -> tuple[ModelZoosConfig, str]:
        if config_name is None:
            raise ValueError(
                'name a zoo: load_dataset("model_zoos", "digits_cnn_s"). `model-zoos list` shows '
                "them all; MODEL_ZOOS_HOME or data_dir= says where they are"
            )
        if config_kwargs.pop("data_files", None) is not None:
            raise ValueError("model_zoos reads zoo directories: give data_dir=, not data_files=")
        if config_kwargs.get("on_bad_files", "warn") not in ("warn", "error", "skip"):
            raise ValueError("on_bad_files must be 'warn', 'error' or 'skip'")
        columns = config_kwargs.get("columns")
        if columns is not None and (isinstance(columns, str) or not columns):
            raise ValueError(f"columns= is a list of names, found {columns!r}")
        name = catalog.normalize_name(config_name)
        root = zoos_home(config_kwargs.get("data_dir"))
        present = [part for part in _parts(name, root) if _is_zoo(root, part)]
        repo = config_kwargs.get("repo") or os.environ.get("MODEL_ZOOS_REPO")
        if config_kwargs.get("revision") and not repo:
            raise ValueError("revision= is that of a repository: give repo= or set MODEL_ZOOS_REPO")
        self._repository: Snapshot | None = None
        if repo and (not present or len(present) < len(_parts(name, root))):
            self._repository = open_snapshot(repo, config_kwargs.get("revision"), self.token)
        published = self._repository.zoos() if self._repository else []
        if name not in catalog.config_names() and not present and name not in published:
            own = list_zoo_directories(root)
            known = [*catalog.config_names(), *own, *published]
            message = catalog.unknown_name(config_name, known)
            places = f"In {root}: {', '.join(own) or 'no zoo'}"
            if self._repository:
                places += f"; in {repo}: {', '.join(published) or 'no zoo'}"
            raise UnknownZoo(f"{message} {places}")
        _check_filters(config_kwargs.get("filters"))
        config = ModelZoosConfig(**{**config_kwargs, "name": name, "version": self.VERSION})
        if config_id is None:
            # The cache of datasets is found by this id: it must change whenever the zoo does.
            state: list[Any] = [(part, open_zoo(root, part).fingerprint()) for part in present]
            if self._repository:
                state += [self._repository.repo_id, self._repository.commit]
            digest = hashlib.sha256(json.dumps([str(root.resolve()), state]).encode())
            config_id = config.create_config_id(
                {**config_kwargs, "fingerprint": digest.hexdigest()[:16]}, custom_features
            )
        return config, config_id

    def _info(self) -> datasets.DatasetInfo:
        size = self._weights_size()
        if size:
            self._writer_batch_size = max(1, _WRITER_BATCH_BYTES // (4 * size))
        return datasets.DatasetInfo(
            description=f"{self.config.name} of the model zoos",
            features=row_features(size, self.config.columns),
            homepage="https://arxiv.org/abs/2209.14764",
            license="CC-BY-4.0",
        )

    def _weights_size(self) -> int | None:
        """Elements of a row's weights; None for `metrics`."""
        if self.config.name == METRICS_NAME:
            return None
        first = catalog.parts_of(self.config.name)[0]
        root = zoos_home(self.config.data_dir)
        if _is_zoo(root, first):
            return open_zoo(root, first).zoo.layout.size
        for split in SPLITS if self._repository else ():
            for shard in self._repository.shards(first, split):
                return weights_size(shard, self.token, self.storage_options.get("hf"))
        return get_zoo(catalog.dense_name(first)).layout.size

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        root = zoos_home(self.config.data_dir)
        shards: dict[str, list[list[ModelFile] | Shard]] = {split: [] for split in SPLITS}
        faulty: list[FaultyFile] = []
        for directory in open_parts(self.config.name, root, self._repository):
            if isinstance(directory, str):
                for split in SPLITS:
                    shards[split] += self._repository.shards(directory, split)
                continue
            files, bad = directory.by_split()
            faulty += bad
            here = {states.model_id for found in files.values() for states in found}
            freed = self._freed(directory, here)
            for split in SPLITS:
                tables = _in_tables(files[split])
                if freed[split]:
                    tables = sorted([*tables, *freed[split]], key=_model_id)
                shards[split] += tables
        if faulty:
            if self.config.on_bad_files == "error":
                raise faulty[0]
            # Kept with the cached data, so that a later load from the cache says it again.
            about, _, _ = self.info.description.partition("\n")
            self.info.description = about + _left_out(faulty)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": files})
            for split, files in shards.items()
            if files
        ]

    def _freed(self, directory: ZooDirectory, here: set[str]) -> dict[str, list[Shard]]:
        """Files on the Hub of the models that were published and freed, by split; none of those
        that were still `here` a moment ago."""
        published = directory.published()
        freed = published.freed - here
        if not freed:
            return {split: [] for split in SPLITS}
        snapshot = open_snapshot(published.repo_id, None, self.token)
        there = whole_models(snapshot.paths, directory.zoo.name)
        if missing := freed - set(there):
            raise ZooNotFound(
                f"{len(missing)} models of {directory.path} were published to {published.repo_id} "
                f"and freed here, but are not there (any more), first {min(missing)}"
            )
        return {
            split: [
                shard
                for shard in snapshot.shards(directory.zoo.name, split)
                if shard.model_id in freed
            ]
            for split in SPLITS
        }

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self._warn_left_out()
        try:
            return super().as_dataset(*args, **kwargs)
        except ValueError as error:
            if self.config.filters is None or "corresponds to no data" not in str(error):
                raise
            raise ValueError(
                f"{error} The filters leave no row there: name a split that has some (split=...)"
            ) from None

    def as_streaming_dataset(self, *args: Any, **kwargs: Any) -> Any:
        streaming = super().as_streaming_dataset(*args, **kwargs)
        self._warn_left_out()
        return streaming

    def _warn_left_out(self) -> None:
        _, _, left_out = (self.info.description or "").partition("\n")
        if left_out and self.config.on_bad_files == "warn":
            warnings.warn(f"{self.config.name}: {left_out}", FaultyFilesWarning, stacklevel=3)

    def _generate_tables(self, files: list[list[ModelFile] | Shard]) -> Any:
        """Arrow tables of some hundred rows.

        Args:
            files: shards; each a list of model files that make one table, or a file of a
                repository, which gives one for each of its row groups.
        """
        schema = self.info.features.arrow_schema
        filters = _expression(self.config.filters)
        for number, group in enumerate(files):
            if isinstance(group, Shard):
                options = self.storage_options.get("hf")
                tables = read_tables(group, schema, filters, self.token, options)
            else:
                tables = _read_rows(group, schema, filters)
            for index, table in enumerate(tables):
                yield Key(number, index), table
                del table  # 45 MB of ResNet-18, while the next is read

    def _generate_examples(self, files: list[list[ModelFile] | Shard]) -> Any:
        """The same row by row, as a plain GeneratorBasedBuilder would yield them."""
        for key, table in self._generate_tables(files):
            for number, row in enumerate(table.to_pylist()):
                yield Key(key.original_shard_id, number), row


def _read_rows(group: list[ModelFile], schema: pa.Schema, filters: Any) -> Iterator[pa.Table]:
    """The rows of some model files as one table; none where no row passes the filters."""
    plain = [name for name in schema.names if name != "weights"]
    # A filter may name columns that are not wanted in the result.
    table = states_table(group, row_schema(None, None if filters is not None else plain))
    kept: np.ndarray | None = None
    if filters is not None:
        numbered = table.append_column("_row", pa.array(np.arange(len(table))))
        table = numbered.filter(filters)
        kept = table["_row"].to_numpy()
        if not len(kept):
            return
    columns = {name: table[name] for name in plain}
    if "weights" in schema.names:
        kind = schema.field("weights").type
        columns["weights"] = weights_column(group, kind, kept)
    yield pa.table({name: columns.pop(name) for name in schema.names}, schema=schema)


def _expression(filters: Any) -> Any:
    return pq.filters_to_expression(filters) if isinstance(filters, list) else filters


def _check_filters(filters: Any) -> None:
    """Refuse filters that no row could pass for being badly put, before anything is read."""
    if filters is None:
        return
    try:
        row_schema(None).empty_table().filter(_expression(filters))
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"filters={filters!r}: {reason}. Give a list of (column, operator, value), a list of "
            "such lists or a pyarrow expression, on any column but weights"
        ) from None


def _parts(name: str, root: Path) -> Sequence[str]:
    return list_zoo_directories(root) if name == METRICS_NAME else catalog.parts_of(name)


def _is_zoo(root: Path, name: str) -> bool:
    return (root / name / "zoo.json").exists()


def open_parts(
    name: str, root: Path, repository: Snapshot | None = None
) -> list[ZooDirectory | str]:
    """What is behind a name, all of which must be there: zoo directories; of those that the
    repository has, the names."""
    parts = _parts(name, root) or ([METRICS_NAME] if repository else [])
    missing = [part for part in parts if not _is_zoo(root, part)]
    published = repository.zoos() if repository else []
    if repository and published and missing == [METRICS_NAME]:
        missing = []
    missing = [part for part in missing if part not in published]
    if not missing and parts:
        return [open_zoo(root, part) if _is_zoo(root, part) else part for part in parts]
    where = f"{root} (data_dir=, else MODEL_ZOOS_HOME, else ./zoos)"
    if repository:
        has = ", ".join(published) or "no zoo"
        raise ZooNotFound(
            f"{', '.join(missing)} is not in {where}, nor in the repository "
            f"{repository.repo_id}, which has {has}"
        )
    if name == METRICS_NAME:
        raise ZooNotFound(f"there is no zoo in {where}")
    refuse_zoo_as_root(root)
    lacks = f"the zoo {name!r}" if len(parts) == 1 else f"{', '.join(missing)} of {name!r}"
    dense = [catalog.dense_name(part) for part in missing]
    made = [part for part in missing if part in catalog.ZOOS]
    ways = [f"Generate: model-zoos generate {part} --out {root}." for part in made]
    ways += [
        f"Train twins: model-zoos sparsify {name} --data-dir {root}"
        + (" --method magnitude." if part.endswith("_magnitude") else ".")
        for part, name in zip(missing, dense, strict=True)
        if part != name and _can_have_twins(name)
    ]
    dois = {
        part: catalog.ZOOS[name].doi if part == name else catalog.TWIN_DOIS.get(name)
        for part, name in zip(missing, dense, strict=True)
        if name in catalog.ZOOS and part in (name, catalog.twin_name(name))
    }
    ways += [
        f"Published: model-zoos download {part} --out {root} (https://doi.org/{doi})."
        for part, doi in dois.items()
        if doi
    ]
    raise ZooNotFound(" ".join([f"{lacks} is not in {where}.", *ways]))


def _can_have_twins(name: str) -> bool:
    zoo = catalog.ZOOS.get(name)
    return zoo is None or bool(zoo.layout.architecture.layers)


def _model_id(shard: list[ModelFile] | Shard) -> str:
    """Of its first rows."""
    return str(shard.model_id) if isinstance(shard, Shard) else shard[0].model_id


def _in_tables(files: list[ModelFile]) -> list[list[ModelFile]]:
    """Files in groups that make one table each: small enough that there are some to share out."""
    total = sum(len(states.epochs) for states in files)
    size = files[0].zoo.layout.size if files else 1
    limit = min(_ROWS_PER_TABLE, max(1, total // 16), max(1, _WRITER_BATCH_BYTES // (4 * size)))
    groups: list[list[ModelFile]] = []
    rows = limit
    for states in files:
        if rows >= limit:
            groups.append([])
            rows = 0
        groups[-1].append(states)
        rows += len(states.epochs)
    return groups


def _left_out(faulty: list[FaultyFile]) -> str:
    shown = "; ".join(str(error) for error in faulty[:3])
    more = f"; and {len(faulty) - 3} more" if len(faulty) > 3 else ""
    return f"\n{len(faulty)} model file(s) left out: {shown}{more}"
