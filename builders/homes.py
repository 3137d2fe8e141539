"""Find zoo directories, and those that a name stands for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FaultyFilesWarning, FaultyZoo, InvalidArgument, UnknownZoo, ZooNotFound
from . import catalog
from .names import METRICS_NAME, dense_name, normalize_name, refuse_reserved, twin_name
from .phrases import typed
from .specification import Zoo
from .untrusted import MAX_JSON, parse_json, read_plain
from .zoo_directory import ZooDirectory, list_zoo_directories, open_zoo, refuse_zoo_as_root

if TYPE_CHECKING:
    from .hub.read import Snapshot


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
    """The zoos that a name stands for, and those of them that a folder holds.

    Attributes:
        name: the name.
        root: folder of zoo directories.
        parts: names of the zoos; for `metrics`, those of the folder that can be used.
        directories: zoo -> its directory, for those that the folder holds.
        left_out: errors of the zoos that `metrics` leaves out.
    """

    name: str
    root: Path
    parts: tuple[str, ...]
    directories: Mapping[str, ZooDirectory]
    left_out: Sequence[FaultyZoo] = ()

    @property
    def complete(self) -> bool:
        """Whether the folder holds every zoo, and at least one."""
        return bool(self.parts) and len(self.directories) == len(self.parts)

    def require(self, repository: Snapshot | None = None) -> list[ZooDirectory | str]:
        """Return the directory of each zoo, or its name if the repository has it.

        Raises:
            ZooNotFound, UnknownZoo: a zoo is in neither.
        """
        published = repository.zoos() if repository else []
        if not self.parts and published:
            return [METRICS_NAME]
        missing = [p for p in self.parts if p not in self.directories and p not in published]
        if missing or not self.parts:
            raise absent(self.name, missing, self.root, repository)
        return [self.directories.get(part, part) for part in self.parts]


def find_zoos(name: str, root: Path) -> FoundZoos:
    """Find the zoos that a name stands for, and open those that a folder holds.

    `metrics` stands for the zoos of the folder that can be used.

    Raises:
        FaultyZoo: the zoo.json of one cannot be used; for `metrics`, those of all.
    """
    if name != METRICS_NAME:
        parts = catalog.parts_of(name)
        held = {part: open_zoo(root, part) for part in parts if has_zoo(root, part)}
        return FoundZoos(name, root, parts, held)
    usable, faulty = {}, []
    for zoo in list_zoo_directories(root):
        try:
            directory = open_zoo(root, zoo)
            directory.splits()
            usable[zoo] = directory
        except FaultyZoo as error:
            faulty.append(error)
    if faulty and not usable:
        raise faulty[0]
    return FoundZoos(name, root, tuple(usable), usable, faulty)


def open_parts(name: str, root: Path) -> list[ZooDirectory]:
    """Open the zoo directories that a name stands for.

    Raises:
        ZooNotFound: one of them is not in `root`.
        UnknownZoo: no zoo has this name.
        FaultyZoo: the zoo.json of one of them cannot be used.
    """
    found = find_zoos(name, root)
    for left_out in found.left_out:
        warnings.warn(f"a zoo is left out: {left_out}", FaultyFilesWarning, stacklevel=2)
    return [part for part in found.require() if isinstance(part, ZooDirectory)]


def has_zoo(root: Path, name: str) -> bool:
    """Whether a folder holds a zoo directory of this name; False for a path."""
    return Path(name).name == name and (root / name / "zoo.json").exists()


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


def absent(
    name: str, missing: list[str], root: Path, repository: Snapshot | None
) -> UnknownZoo | ZooNotFound:
    """Return the error for a name whose zoos are not found, with the ways to get them.

    Args:
        name: as the user wrote it.
        missing: the zoos that are missing; [] for an unknown name, or for `metrics`.
        root: folder of zoo directories.
        repository: the repository that was also searched.
    """
    published = repository.zoos() if repository else []
    own = list_zoo_directories(root)
    path = Path(name)
    if path.name != name and has_zoo(path.parent, path.name):
        return UnknownZoo(
            f"{name} is the folder of a zoo: its name is {path.name}, and {path.parent} is the "
            "folder of zoo directories (data_dir=)",
            hint=f"the name {path.name} with --data-dir {typed(path.parent)}",
        )
    folder = f"{root} (data_dir=, else MODEL_ZOOS_HOME, else ./zoos)"
    below = _folder_below(root, missing[0] if missing else normalize_name(name))
    if below is not None:
        message = f"{name} is not in {folder}, but in {below}"
        return ZooNotFound(message, hint=f"--data-dir {typed(below)}")
    there = ", ".join(own) or "no zoo"
    if not root.exists():
        folder, there = f"{folder}, a folder that does not exist", ""
    known = [*catalog.config_names(), *own, *published]
    if not own:
        refuse_zoo_as_root(root)
    if name != METRICS_NAME and not any(
        n in known for part in missing for n in (part, dense_name(part))
    ):
        searched = f". In {folder}: {there}" if there else f". It was looked for in {folder}"
        if repository:
            searched += f"; in {repository.repo_id}: {', '.join(published) or 'no zoo'}"
        return catalog.unknown_zoo(name, known, searched)
    if repository:
        lacks = ", ".join(missing) or name
        here = "" if str(root) == os.devnull else f"in {folder}, nor "
        return ZooNotFound(
            f"{lacks} is not {here}in the repository {repository.repo_id}, which has "
            f"{', '.join(published) or 'no zoo'}"
        )
    if not missing:
        return ZooNotFound(f"there is no zoo in {folder}")
    refuse_zoo_as_root(root)
    sources, commands = [], []
    for part in missing:
        dense = dense_name(part)
        zoo = catalog.ZOOS.get(dense)
        if part == dense and zoo:
            commands.append(f"model-zoos generate {part} --out {typed(root)}")
        elif part != dense and (zoo is None or zoo.layout.architecture.layers):
            method = " --method magnitude" if part.endswith("_magnitude") else ""
            commands.append(f"model-zoos sparsify {dense} --data-dir {typed(root)}{method}")
        if other := catalog.ELSEWHERE.get(part):
            sources.append(f"The {other.title} has it: {other.url}.")
            file = other.url.rpartition("/")[2]
            commands.append(f"model-zoos import {file} --out {typed(root)}")
        doi = zoo.doi if zoo and part == dense else None
        if zoo and part == twin_name(dense):
            doi = catalog.TWIN_DOIS.get(dense)
        if doi:
            sources.append(f"Original files of {part}: https://doi.org/{doi}.")
            commands.append(f"model-zoos download {part} --out {typed(root)}")
    lacks = ", ".join(missing)
    lacks = f"the zoo {name!r}" if lacks == name else f"{lacks} of {name!r}"
    hint = "; ".join(commands) if commands else None
    if repo := zoos_repository():
        sources.append(f"MODEL_ZOOS_REPO={repo} is for load_dataset, `benchmark` and `plot`.")
    return ZooNotFound(" ".join([f"{lacks} is not in {folder}.", *sources]), hint=hint)


def _folder_below(root: Path, name: str) -> Path | None:
    """Return the folder below a folder that holds this zoo directory; None if there is none."""
    if not root.is_dir() or Path(name).name != name:
        return None
    # Path.exists raises an error for a folder without permission; os.path.exists returns False.
    found = (f for f in sorted(root.iterdir()) if os.path.exists(f / name / "zoo.json"))
    return next(found, None)
