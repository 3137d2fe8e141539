"""Find zoo directories, and those that a name stands for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FaultyFilesWarning, FaultyZoo, InvalidArgument, UnknownZoo, ZooNotFound
from . import catalog
from .absent import absent
from .names import METRICS_NAME, normalize_name, refuse_reserved
from .specification import Zoo
from .untrusted import MAX_JSON, parse_json, read_plain
from .zoo_directory import ZooDirectory, has_zoo, list_zoo_directories, open_zoo

if TYPE_CHECKING:
    from .hub.read import Shard, Snapshot


def zoos_home(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of zoo directories: the argument, else MODEL_ZOOS_HOME, else ./zoos."""
    home = Path(data_dir or os.environ.get("MODEL_ZOOS_HOME") or "zoos")
    return home.expanduser().absolute()  # a stream may be read after the working directory changes


def zoos_repository(repo: str | None = None) -> str | None:
    """Return the repository that zoos are read from: the argument, else MODEL_ZOOS_REPO, else none.

    dataset.py asks here because datasets gives it a copy of `os`, whose environment can be old.
    """
    return repo or os.environ.get("MODEL_ZOOS_REPO") or None


@dataclass(frozen=True)
class FoundZoos:
    """The zoos that a name stands for, and where each of them is.

    Attributes:
        name: a zoo, a union, twins or `metrics`.
        root: the folder of zoo directories that was searched.
        parts: the names of the zoos. Those of `metrics` are all zoos of the folder that can be
            used.
        directories: the zoo directories among them.
        left_out: the errors of the zoos that `metrics` leaves out.
        repository: where the other zoos are searched for; None if there is no repository, or not
            yet.
    """

    name: str
    root: Path
    parts: tuple[str, ...]
    directories: Mapping[str, ZooDirectory]
    left_out: tuple[FaultyZoo, ...] = ()
    repository: Snapshot | None = None

    @property
    def all_here(self) -> bool:
        """Whether all zoos, and at least one, have a directory."""
        return bool(self.parts) and len(self.directories) == len(self.parts)

    @property
    def are_found(self) -> bool:
        """Whether each zoo is in the folder or the repository, and there is at least one."""
        try:
            return bool(self.sources())
        except (ZooNotFound, UnknownZoo):
            return False

    def shards(self, zoo: str, split: str) -> list[Shard]:
        """Return the files of one split of a zoo in the repository; see `Snapshot.shards`."""
        return self.repository.shards(zoo, split) if self.repository else []

    def sources(self) -> list[ZooDirectory | str]:
        """Return the directory of each zoo, or the name of what is read from the repository.

        Raises:
            ZooNotFound, UnknownZoo: one of them is in neither.
        """
        published = self.repository.zoos() if self.repository else []
        if not self.parts and published:
            return [METRICS_NAME]
        missing = [
            part for part in self.parts if part not in self.directories and part not in published
        ]
        if missing or not self.parts:
            raise absent(self.name, missing, self.root, self.repository)
        return [self.directories.get(part, part) for part in self.parts]


def find_zoos(name: str, root: Path) -> FoundZoos:
    """Find the zoos that a name stands for in a folder, and open their directories.

    Raises:
        FaultyZoo: the zoo.json of a zoo cannot be used or, for `metrics`, no zoo of the folder can.
    """
    if name != METRICS_NAME:
        parts = catalog.parts_of(name)
        return FoundZoos(
            name, root, parts, {part: open_zoo(root, part) for part in parts if has_zoo(root, part)}
        )
    directories, faulty = {}, []
    for zoo in list_zoo_directories(root):
        try:
            directory = open_zoo(root, zoo)
            directory.splits()
            directories[zoo] = directory
        except FaultyZoo as error:
            faulty.append(error)
    if faulty and not directories:
        raise faulty[0]
    return FoundZoos(name, root, tuple(directories), directories, tuple(faulty))


def open_parts(name: str, root: Path) -> list[ZooDirectory]:
    """Open the zoo directories that a name stands for, with a warning for each one left out.

    Raises:
        ZooNotFound: one of them is not in `root`.
        UnknownZoo: no zoo has this name.
        FaultyZoo: see `find_zoos`.
    """
    zoos = find_zoos(name, root)
    for error in zoos.left_out:
        warnings.warn(f"a zoo is left out: {error}", FaultyFilesWarning, stacklevel=2)
    return [source for source in zoos.sources() if isinstance(source, ZooDirectory)]


def zoo_named(name: str, root: Path) -> Zoo:
    """Return the specification of a zoo directory, else that of the catalog.

    Raises:
        UnknownZoo: neither has this name.
    """
    own = normalize_name(name)
    if has_zoo(root, own):
        return open_zoo(root, own).zoo
    if own in catalog.ZOOS or own in catalog.UNIONS:
        return catalog.zoo_spec(name)
    raise catalog.unknown_zoo(name, [*catalog.ZOOS, *list_zoo_directories(root)])


def zoo_to_train(name: str, root: Path) -> Zoo:
    """Return the zoo that a name stands for in training.

    Args:
        name: of a zoo of the catalog, the path of a JSON file that specifies one (as Zoo.from_json
            reads it), or the name of a zoo directory in `root`.
        root: folder of zoo directories.

    Raises:
        InvalidArgument: the file cannot be read, or its zoo has a name of the catalog or a
            reserved one.
        UnknownZoo: no zoo has this name.
    """
    path = Path(name).expanduser()
    if not name.endswith(".json"):
        if path.suffix and path.is_file():
            raise InvalidArgument(f"{path}: a zoo is specified by a file that ends in .json")
        known = normalize_name(name) in catalog.ZOOS
        return catalog.zoo_spec(name) if known else zoo_named(name, root)
    if not path.exists():
        raise InvalidArgument(f"{path}: there is no such file")
    try:
        values = parse_json(read_plain(path, MAX_JSON), unique_keys=True)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: not readable as JSON ({error})") from error
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], dict):
        # as `model-zoos list NAME --json` prints it
        values = {key: v for key, v in values[0].items() if key not in ("models", "states")}
    try:
        zoo = Zoo.from_json(values)
        refuse_reserved(zoo.name)
    except ValueError as error:
        raise InvalidArgument(f"{path}: {error}") from error
    if zoo.name in catalog.config_names():
        raise InvalidArgument(
            f"{path}: the catalog has a zoo named {zoo.name!r}: choose another name"
        )
    return zoo
