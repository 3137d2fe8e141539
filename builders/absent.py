"""The error for a zoo that is in no folder and no repository, with the ways to get it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnknownZoo, ZooNotFound
from . import catalog
from .names import METRICS_NAME, dense_name, normalize_name, twin_name
from .phrases import typed
from .zoo_directory import has_zoo, list_zoo_directories, refuse_zoo_as_root

if TYPE_CHECKING:
    from .hub.read import Snapshot


def absent(
    name: str, missing: Sequence[str], root: Path, repository: Snapshot | None
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
    lacks = ", ".join(missing)
    lacks = f"the zoo {name!r}" if lacks == name else f"{lacks} of {name!r}"
    ways = [_ways_to_get(part, root) for part in missing]
    sources = [sentence for sentences, _ in ways for sentence in sentences]
    if repo := os.environ.get("MODEL_ZOOS_REPO"):
        sources.append(f"MODEL_ZOOS_REPO={repo} is for load_dataset, `benchmark` and `plot`.")
    return ZooNotFound(
        " ".join([f"{lacks} is not in {folder}.", *sources]),
        hint="; ".join(command for _, commands in ways for command in commands) or None,
    )


def _ways_to_get(zoo: str, root: Path) -> tuple[list[str], list[str]]:
    """Return sentences on where a zoo's files are, and the commands that make or fetch it."""
    sources, commands = [], []
    dense = dense_name(zoo)
    known, is_dense = catalog.ZOOS.get(dense), zoo == dense
    if is_dense and known:
        commands.append(f"model-zoos generate {zoo} --out {typed(root)}")
    elif not is_dense and (known is None or known.layout.architecture.layers):
        method = " --method magnitude" if zoo.endswith("_magnitude") else ""
        commands.append(f"model-zoos sparsify {dense} --data-dir {typed(root)}{method}")
    if other := catalog.ELSEWHERE.get(zoo):
        sources.append(f"The {other.title} has it: {other.url}.")
        file = other.url.rpartition("/")[2]
        commands.append(f"model-zoos import {file} --out {typed(root)}")
    doi = known.doi if known and is_dense else None
    if known and zoo == twin_name(dense):
        doi = catalog.TWIN_DOIS.get(dense)
    if doi:
        sources.append(f"Original files of {zoo}: https://doi.org/{doi}.")
        commands.append(f"model-zoos download {zoo} --out {typed(root)}")
    return sources, commands


def _folder_below(root: Path, name: str) -> Path | None:
    """Return the folder below a folder that holds this zoo directory; None if there is none."""
    if not root.is_dir() or Path(name).name != name:
        return None
    # Path.exists raises an error for a folder without permission; os.path.exists returns False.
    found = (f for f in sorted(root.iterdir()) if os.path.exists(f / name / "zoo.json"))
    return next(found, None)
