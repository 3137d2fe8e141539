"""The builder of `load_dataset("model_zoos", ...)`: configurations, and the rows of each split."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from ..errors import (
    FaultyFile,
    FaultyFilesWarning,
    FaultyZoo,
    HubUnreachable,
    InvalidArgument,
    ModelZoosWarning,
    NoRowsLeft,
    OfflineWarning,
    ZooNotFound,
    did_you_mean,
)
from . import catalog
from .absent import absent
from .catalog import zoo_spec
from .homes import FoundZoos, find_zoos, zoos_home, zoos_repository
from .hub.checked import Seen, weights_type
from .hub.names import whole_models
from .hub.offline import CachedRows, recall, remember
from .hub.read import (
    LastStates,
    Shard,
    open_repository,
    open_snapshot,
    read_tables,
    row_groups,
    shard_layout,
    weights_size,
)
from .layout import Layout
from .model_file import ModelFile
from .names import METRICS_NAME, dense_name, normalize_name
from .phrases import few
from .rows import (
    Filters,
    as_list,
    choose_tensors,
    filter_expression,
    plain_filters,
    read_rows,
)
from .schema import CHOICE, COLUMNS, row_features, row_schema
from .splits import SPLITS, why_empty
from .zoo_directory import ZooDirectory

Piece = list[ModelFile] | Shard
"""A unit of reading: model files that make one table, or a Parquet file or a row group of one."""

_ROWS_PER_TABLE = 256
"""Limit of the rows in a table: 2.5 MB of CNN-s, while a table costs about 1 ms."""

_WRITER_BATCH_BYTES = 32 << 20
"""Weights in a record batch of the Arrow cache; with the default of datasets, 1000 rows, a batch of
ResNet-18 would take 45 GB."""

_NOT_THE_USERS = tuple(os.path.dirname(file) + os.sep for file in (__file__, datasets.__file__))
"""The folders of the code that a warning of a load passes through."""

_PAPERS_LICENCE = "CC-BY-4.0"

_ROWS_VERSION = datasets.Version("1.0.0")
"""Version of the row format."""


@dataclass
class ModelZoosConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets has no types
    """Which rows and columns to read; every attribute is an argument of load_dataset.

    Attributes:
        name: a zoo, a union, a twin zoo, `metrics`, or any zoo directory in `data_dir`.
        data_dir: folder of zoo directories; default MODEL_ZOOS_HOME, else ./zoos.
        repo: repository on the Hub, ORG/NAME, or a folder that `build` wrote; default
            MODEL_ZOOS_REPO. Zoos that have no directory are read from there, `metrics` only if
            there is no directory at all.
        revision: branch, tag or commit of the repository; main by default. It cannot be given
            where all rows come from zoo directories.
        columns: columns to read, None for all. Weights that are not among them are not read.
        tensors: names of the tensors to read, as `layer` takes them; None for all. The weights of a
            row are then these tensors in the order of the layout, whatever the order of the list.
            The columns `tensors` and `layout_size` at the end name them. Only these parts of zoo
            directories are read; Parquet files are read row group by row group.
        filters: condition on the rows, in the form of datasets' Parquet loader: a list of
            ("column", "==", value), a list of such lists, or a pyarrow expression. In lists,
            numbers are rounded to float32 where the column is.
        final: read only the last state of each model, at the last epoch that it has. Filters then
            choose among these.
        max_weight: leave out states with a NaN or a weight of larger magnitude. The value 5, used
            for the paper's data sets, leaves out unstable training. It does not change which state
            is the last of a model. All weights are read and count, also with `tensors`.
        on_bad_files: what to do with model files that cannot be read and, for `metrics`, with zoos
            that cannot be used: "warn" leaves them out with a warning, "skip" leaves them out
            silently, "error" raises the error of the first.
    """

    name: str = "default"
    repo: str | None = None
    revision: str | None = None
    columns: list[str] | None = None
    tensors: list[str] | None = None
    filters: Filters | None = None
    final: bool = False
    max_weight: float | None = None
    on_bad_files: str = "warn"

    def __post_init__(self) -> None:
        for name, expected in (
            ("name", "the name of a zoo"),
            ("data_dir", "the path of a folder of zoo directories"),
            ("repo", "ORG/NAME or the path of a folder that `model-zoos build` wrote"),
            ("revision", "a branch, tag or commit"),
        ):
            if isinstance(given := getattr(self, name), os.PathLike):
                setattr(self, name, given := os.fspath(given))
            if not isinstance(given, str | None):
                raise InvalidArgument(f"{name}= must be {expected}, found {given!r}")
        self.name = normalize_name(self.name)
        if self.on_bad_files not in ("warn", "error", "skip"):
            raise InvalidArgument("on_bad_files must be 'warn', 'error' or 'skip'")
        for name in ("columns", "tensors"):
            setattr(self, name, given := as_list(getattr(self, name)))
            names = given if isinstance(given, list) else []
            if given is not None and not (names and all(isinstance(n, str) for n in names)):
                raise InvalidArgument(f"{name}= is a list of names, found {given!r}")
        if self.tensors is not None and "weights" not in (self.columns or ["weights"]):
            raise InvalidArgument("tensors= chooses among the weights, which columns= leaves out")
        limit = self.max_weight
        if isinstance(limit, np.generic):
            self.max_weight = limit = limit.item()
        if limit is not None and not (type(limit) in (int, float) and limit > 0):
            raise InvalidArgument(f"max_weight= must be a number above 0, found {limit!r}")
        if isinstance(self.final, np.bool_):
            self.final = bool(self.final)
        if not isinstance(self.final, bool):
            raise InvalidArgument(f"final= must be True or False, found {self.final!r}")
        self.filters = plain_filters(self.filters)
        filter_expression(self.filters)
        super().__post_init__()


class ModelZoos(datasets.ArrowBasedBuilder, datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """The builder: each row is a state of a model, with the columns of builders/schema.py.

    It is a GeneratorBasedBuilder that yields Arrow tables in bulk: as Python lists, one row of
    ResNet-18 would take 1.9 s, 37 times as long.
    """

    config: ModelZoosConfig
    VERSION = _ROWS_VERSION
    BUILDER_CONFIG_CLASS = ModelZoosConfig
    BUILDER_CONFIGS: ClassVar[list[ModelZoosConfig]] = [
        ModelZoosConfig(name=name, version=_ROWS_VERSION) for name in catalog.config_names()
    ]

    def __init__(self, cache_dir: str | None = None, **arguments: object) -> None:
        self._cache_home = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
        self._question: str | None = None  # if rows come from a repository, see hub/offline.py
        self._cached: CachedRows | None = None
        self._unreachable: HubUnreachable | None = None
        self._seen: Seen = {}
        super().__init__(cache_dir, **arguments)
        self._last = LastStates(self.token, self.storage_options.get("hf"))

    def _create_builder_config(
        self,
        config_name: str | None = None,
        custom_features: datasets.Features | None = None,
        config_id: str | None = None,
        **arguments: object,  # of load_dataset
    ) -> tuple[ModelZoosConfig, str]:
        config = _checked_config(config_name, arguments)
        zoos = find_zoos(config.name, zoos_home(config.data_dir))
        if zoos.left_out and config.on_bad_files == "error":
            raise zoos.left_out[0]
        for error in zoos.left_out if config.on_bad_files == "warn" else ():
            warn_user(f"a zoo is left out: {error}", FaultyFilesWarning)
        repo = zoos_repository(config.repo)
        _check_revision(config, zoos, repo)
        # datasets finds its cache by an id, which must therefore change whenever the zoo does.
        given = {name: getattr(config, name) for name in arguments if name != "data_files"}
        here = [(name, zoo.fingerprint()) for name, zoo in zoos.directories.items()]

        def make_id(*more: object) -> str:
            state = json.dumps([str(zoos.root.resolve()), [*here, *more]])
            fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]
            made: str = config.create_config_id(
                {**given, "fingerprint": fingerprint}, custom_features
            )
            return made

        self._zoos = zoos
        version: tuple[str, ...] = ()
        if repo and not zoos.all_here:
            self._question = make_id("offline", repo)
            try:
                repository = open_repository(repo, config.revision, self.token)
            except HubUnreachable as error:
                self._cached = recall(self._cache_home / self.dataset_name, self._question)
                if self._cached is None or config_id is not None:
                    raise
                self._unreachable = error
                commit = self._cached.commit[:8]
                warn_user(
                    f"{error}. Rows of {repo} at {commit} are taken from the cache", OfflineWarning
                )
                return config, self._cached.config_id
            self._zoos = zoos = dataclasses.replace(zoos, repository=repository)
            version = repository.repo_id, repository.commit
        published = zoos.repository.zoos() if zoos.repository else []
        if not zoos.directories and config.name not in [*catalog.config_names(), *published]:
            raise absent(str(config_name), zoos.parts, zoos.root, zoos.repository)
        return config, make_id(*version) if config_id is None else config_id

    def _info(self) -> datasets.DatasetInfo:
        self._size = size = self._weights_size()
        self._chosen: Layout | None = None
        for name in ("max_weight", "tensors"):
            if getattr(self.config, name) is not None and size is None:
                raise InvalidArgument(f"`metrics` has no weights for {name}=: name a zoo instead")
        if self.config.tensors is not None and self._cached is None:
            self._chosen = self._layout().choose(self.config.tensors)
            size = self._chosen.size
        if size:
            self._writer_batch_size = max(1, _WRITER_BATCH_BYTES // (4 * size))
        return datasets.DatasetInfo(
            description=f"{self.config.name} of the model zoos",
            features=row_features(
                size, self.config.columns, chosen=self.config.tensors is not None
            ),
            homepage="https://arxiv.org/abs/2209.14764",
            license=_licence(self._zoos),
            # None: not known yet. The functions of datasets that describe all configs meet zoos of
            # the catalog that are nowhere.
            splits=None if self._cached is not None or self._zoos.are_found else {},
        )

    def _weights_size(self) -> int | None:
        """Return the length of a row's weights; None for `metrics`."""
        if self._cached is not None:
            return self._cached.weights
        if self.config.name == METRICS_NAME:
            return None
        shard = self._first_shard()
        if shard is None:
            return self._layout().size
        return weights_size(shard, self.token, self.storage_options.get("hf"))

    def _layout(self) -> Layout:
        """Return where each tensor lies in the whole weights."""
        first = self._zoos.parts[0]
        if (directory := self._zoos.directories.get(first)) is not None:
            return directory.zoo.layout
        if (shard := self._first_shard()) is not None:
            return shard_layout(shard, self.token, self.storage_options.get("hf"))
        return zoo_spec(dense_name(first)).layout

    def _first_shard(self) -> Shard | None:
        """Return the first file of the first zoo; None if that zoo has a directory, or no file."""
        first = self._zoos.parts[0]
        if first in self._zoos.directories:
            return None
        shards = (self._zoos.shards(first, split) for split in SPLITS)
        return next(itertools.chain.from_iterable(shards), None)

    def download_and_prepare(self, *args: object, **kwargs: object) -> None:
        super().download_and_prepare(*args, **kwargs)
        repository = self._zoos.repository
        if repository is not None and self._question is not None:
            kind = weights_type(self.info.features.arrow_schema)
            rows = CachedRows(self.config_id, repository.commit, kind and kind.list_size)
            remember(self._cache_home / self.dataset_name, self._question, rows)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        if self._unreachable is not None:  # the cached rows were not asked for, or are gone
            raise self._unreachable
        found: dict[str, list[ModelFile | Shard]] = {split: [] for split in SPLITS}
        faulty: list[FaultyFile] = []
        unusable: list[FaultyZoo | ZooNotFound] = []
        for source in self._zoos.sources():
            if not isinstance(source, ZooDirectory):
                for split in SPLITS:
                    found[split] += self._zoos.shards(source, split)
                continue
            if self._chosen is not None and source.zoo.layout != self._chosen.whole:
                raise FaultyZoo(
                    f"{source.path} has networks {source.zoo.layout}, expected {self._chosen.whole}"
                )
            try:
                files, bad = source.by_split()
            except (ZooNotFound, FaultyZoo) as error:  # costs the other zoos nothing
                if self.config.name != METRICS_NAME:
                    raise
                unusable.append(error)
                continue
            faulty += bad
            if self.config.final:
                files = {split: _last_files(own) for split, own in files.items()}
            freed = self._freed(source, {file.model_id for own in files.values() for file in own})
            for split in SPLITS:
                rows: list[ModelFile | Shard] = [*files[split], *freed[split]]
                # Only a zoo with freed models has its files in another order than its rows.
                found[split] += sorted(rows, key=_model_id) if freed[split] else rows
        # A zoo that is only begun has nothing to leave out.
        zoos = [error for error in unusable if isinstance(error, FaultyZoo)]
        if unusable and not any(found.values()):
            raise [*zoos, *unusable][0]
        if faulty or zoos:
            if self.config.on_bad_files == "error":
                raise [*faulty, *zoos][0]
            # Kept with the cached data, so that a later load from the cache warns again.
            about, _, _ = self.info.description.partition("\n")
            said = [_left_out("model file", faulty), _left_out("zoo", zoos)]
            self.info.description = f"{about}\n{'; '.join(filter(None, said))}"
        reads_weights = "weights" in self.info.features or self.config.max_weight is not None
        size = self._size if reads_weights else None
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": _pieces(files, size or 0)})
            for split, files in found.items()
            if files
        ]

    def _freed(self, directory: ZooDirectory, here: set[str]) -> dict[str, list[Shard]]:
        """Return the Hub's files of freed models by split, without models that are also `here`."""
        published = directory.published()
        freed = published.freed - here
        if not freed:
            return {split: [] for split in SPLITS}
        name = directory.zoo.name
        snapshot = open_snapshot(published.repo_id, None, self.token)
        if missing := freed - set(whole_models(snapshot.paths, name)):
            raise ZooNotFound(
                f"{len(missing)} models of {directory.path} were published to {published.repo_id} "
                f"and freed here, but are not there (any more), first {min(missing)}"
            )
        shards = {split: snapshot.shards(name, split) for split in SPLITS}
        return {
            split: [shard for shard in found if shard.model_id in freed]
            for split, found in shards.items()
        }

    def as_dataset(
        self, *args: object, **kwargs: object
    ) -> datasets.Dataset | datasets.DatasetDict:
        self._warn_left_out()
        try:
            return super().as_dataset(*args, **kwargs)
        except ValueError as error:
            self._explain_split(error, *args, **kwargs)
            splits = (self.info.splits or {}).items()
            empty = [name for name, split in splits if not split.num_examples]
            chosen = self.config.filters is not None or self.config.max_weight is not None
            if not chosen or not empty or str(error).startswith("Unknown split"):
                raise
            if len(empty) == len(splits):
                raise NoRowsLeft(f"{self._choices()} no row in any split{self._there()}") from None
            raise NoRowsLeft(
                f"{self._choices()} no row in {', '.join(empty)}: name a split that has some "
                "(split=...)"
            ) from None

    def _choices(self) -> str:
        """Return the start of a sentence on the arguments that choose rows, with its verb."""
        given = [
            f"{name}={value!r:.200}"
            for name in ("final", "filters", "max_weight")
            if (value := getattr(self.config, name)) is not None and value is not False
        ]
        return f"{' and '.join(given)} {'leave' if len(given) > 1 else 'leaves'}"

    def _there(self) -> str:
        """Return the epochs of the zoo directories as a phrase if filters name epochs; else ""."""
        if "epoch" not in str(self.config.filters):
            return ""
        files = itertools.chain.from_iterable(self._files().values())
        there = sorted({epoch for file in files for epoch in file.epochs.tolist()})
        if not there:
            return ""
        if len(there) > 2 and there[-1] - there[0] == len(there) - 1:
            return f"; its epochs are {there[0]} to {there[-1]}"
        return f"; its epochs are {few(list(map(str, there)), 10)}"

    def _explain_split(
        self, error: ValueError, split: object = None, *_: object, **__: object
    ) -> None:
        """Raise an error of datasets about a split again, with the reason why the split is empty.

        Nothing is raised if the error has another reason.

        Args:
            error: the error.
            split: the split that was asked for.
        """
        files = self._files() if str(error).startswith(("Unknown split", "Bad split")) else {}
        counts = {name: len({file.model_id for file in files[name]}) for name in files}
        if any(not count and name in str(split) for name, count in counts.items()):
            raise InvalidArgument(f"{str(error).rstrip('.')}: {why_empty(counts)}") from None

    def _files(self) -> dict[str, list[ModelFile]]:
        """Return the model files of each split for an error; {} if some rows are elsewhere."""
        files: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
        directories = self._zoos.directories.values() if self._zoos.all_here else ()
        try:
            for directory in directories:
                if directory.published().freed:
                    return {}
                for split, found in directory.by_split()[0].items():
                    files[split] += found
        except (FaultyZoo, ZooNotFound):
            return {}
        return files if directories else {}

    def as_streaming_dataset(
        self, *args: object, **kwargs: object
    ) -> datasets.IterableDataset | datasets.IterableDatasetDict:
        try:
            streaming = super().as_streaming_dataset(*args, **kwargs)
        except ValueError as error:
            self._explain_split(error, *args, **kwargs)
            raise
        self._warn_left_out()
        return streaming

    def _warn_left_out(self) -> None:
        _, _, left_out = (self.info.description or "").partition("\n")
        if left_out and self.config.on_bad_files == "warn":
            warn_user(f"{self.config.name}: {left_out}", FaultyFilesWarning)

    def _generate_tables(self, files: list[Piece]) -> Iterator[tuple[Key, pa.Table]]:
        """Yield Arrow tables of some hundred rows, several from a file of a repository."""
        schema = stored = self.info.features.arrow_schema
        largest, chosen = self.config.max_weight, self._chosen
        if largest is not None or chosen is not None:
            plain = [name for name in schema.names if name not in CHOICE]
            stored = row_schema(self._size, [*plain, "weights"])
        direct = chosen if largest is None else None  # read from model files without other tensors
        filters = filter_expression(self.config.filters)
        number = 0  # without gaps, which datasets below 5.1 does not accept
        for piece in files:
            if isinstance(piece, Shard):
                options = self.storage_options.get("hf")
                wanted = filters
                if self.config.final:
                    last = self._last.of(piece)
                    wanted = last if filters is None else filters & last
                tables = read_tables(piece, stored, wanted, self.token, options, self._seen)
            else:
                kind, final = stored if direct is None else schema, self.config.final
                tables = iter([read_rows(piece, kind, filters, final=final, chosen=direct)])
            index = 0
            for table in tables:
                if largest is not None:
                    table = table.filter(_bounded(table["weights"], largest))
                if chosen is not None and (direct is None or isinstance(piece, Shard)):
                    table = choose_tensors(table, schema, chosen)
                table = table.select(schema.names)
                if len(table):
                    yield Key(number, index), table
                    index += 1
                del table  # 45 MB of ResNet-18, freed before the next is read
            number += index > 0

    def _generate_more_gen_kwargs(self, files: list[Piece]) -> Iterator[dict[str, list[Piece]]]:
        """Divide Parquet files into their row groups: datasets calls this for `.reshard()`."""
        options = self.storage_options.get("hf")
        for piece in files:
            if isinstance(piece, Shard):
                yield {"files": [*row_groups(piece, self.token, options)]}
            else:
                yield {"files": [piece]}

    def _generate_examples(self, files: list[Piece]) -> Iterator[tuple[Key, dict[str, object]]]:
        """Yield the same rows one by one, as a plain GeneratorBasedBuilder does."""
        for key, table in self._generate_tables(files):
            for number, row in enumerate(table.to_pylist()):
                yield Key(key.original_shard_id, number), row


def warn_user(message: str, category: type[ModelZoosWarning]) -> None:
    """Warn of the line of the user, the first one outside of this package and datasets."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _left_out(what: str, errors: Sequence[Exception]) -> str:
    """Return a sentence that counts what is left out and has the first errors; "" for none."""
    if not errors:
        return ""
    shown = "; ".join(str(error) for error in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return f"{len(errors)} {what}(s) left out: {shown}{more}"


def _bounded(weights: pa.ChunkedArray, largest: float) -> pa.Array:
    """Return whether all weights of each row are at most `largest` in magnitude."""
    bounded = []
    for chunk in weights.chunks:
        values = chunk.flatten().to_numpy().reshape(len(chunk), -1)
        bounded.append(np.abs(values).max(axis=1) <= largest)  # false with a NaN
    return pa.array(np.concatenate([np.zeros(0, np.bool_), *bounded]))


def _last_files(files: list[ModelFile]) -> list[ModelFile]:
    """Return for each model the file that holds its last state, in the given order."""
    last: dict[str, ModelFile] = {}
    for file in files:
        known = last.get(file.model_id)
        if known is None or known.epochs[-1] < file.epochs[-1]:
            last[file.model_id] = file
    return [file for file in files if file is last[file.model_id]]


def _licence(zoos: FoundZoos) -> str:
    """Return the licence of rows; "" if it is not known, or if zoos have several.

    It is the licence that came with an imported zoo, else that of the repository's card, else that
    of the paper's zoos.
    """
    found = {zoos.repository.licence} if zoos.repository else set()
    for directory in zoos.directories.values():
        given = (directory.info.get("source") or {}).get("licence")
        named = given if isinstance(given, str) else None
        found.add(named or (_PAPERS_LICENCE if directory.zoo.doi else ""))
    return found.pop() if len(found) == 1 else "" if found else _PAPERS_LICENCE


def _model_id(file: ModelFile | Shard) -> str:
    """Return the id of the model of the first rows."""
    return str(file.model_id)


def _pieces(files: Sequence[ModelFile | Shard], size: int) -> list[Piece]:
    """Group neighbouring model files into tables small enough for several processes to share.

    Args:
        files: model files and Parquet files, in the order of the rows.
        size: number of weights that are read of each row.
    """
    rows = sum(len(file.epochs) for file in files if isinstance(file, ModelFile))
    most = min(_ROWS_PER_TABLE, rows // 16, _WRITER_BATCH_BYTES // (4 * max(1, size)))
    pieces: list[Piece] = []
    group: list[ModelFile] = []
    filled = 0
    for file in files:
        if isinstance(file, Shard):
            pieces.append(file)
            group = []
            continue
        if not group or filled >= most:
            pieces.append(group := [])
            filled = 0
        group.append(file)
        filled += len(file.epochs)
    return pieces


def _checked_config(name: str | None, arguments: Mapping[str, object]) -> ModelZoosConfig:
    """Return the configuration that arguments of load_dataset describe.

    Raises:
        InvalidArgument: no name, or an unknown or unusable argument.
        UnknownZoo: the name is a path.
    """
    if name is None:
        raise InvalidArgument(
            'name a zoo: load_dataset("model_zoos", "digits_cnn_s"). model_zoos.list_zoos() '
            "returns them all; MODEL_ZOOS_HOME or data_dir= says where they are"
        )
    if arguments.get("data_files") is not None:
        raise InvalidArgument("model_zoos reads zoo directories: give data_dir=, not data_files=")
    known = [field.name for field in dataclasses.fields(ModelZoosConfig)]
    for argument in arguments:
        if argument not in known:
            advice = did_you_mean(argument, known) or f"known: {', '.join(known)}"
            if argument in COLUMNS:
                advice = f'filters=[("{argument}", "==", value)] chooses rows by this column'
            raise InvalidArgument(f"load_dataset has no argument {argument!r}; {advice}")
    fields: dict[str, Any] = {**arguments, "name": name, "version": _ROWS_VERSION}
    try:
        return ModelZoosConfig(**fields)
    except datasets.builder.InvalidConfigName:  # such as a path
        raise absent(os.fspath(name), [], zoos_home(fields.get("data_dir")), None) from None


def _check_revision(config: ModelZoosConfig, zoos: FoundZoos, repo: str | None) -> None:
    """Refuse a revision where no row comes from a repository.

    Raises:
        InvalidArgument: there is no repository, or it is not read.
    """
    if config.revision and not repo:
        raise InvalidArgument("revision= is for a repository: give repo= or set MODEL_ZOOS_REPO")
    if config.revision and zoos.all_here:
        raise InvalidArgument(
            f"revision={config.revision!r}: the rows of {config.name} come from the folder of zoos "
            f"{zoos.root}, which has no revisions and takes precedence over the repository {repo}. "
            "Give data_dir= of a folder without this zoo, or leave revision= out"
        )
