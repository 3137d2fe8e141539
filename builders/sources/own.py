"""Folders of this package, which need no import."""

from __future__ import annotations

from pathlib import Path

from ...errors import Unreadable
from ..phrases import few, typed
from ..zoo_directory import built_zoos, list_zoo_directories


def refuse_zoo_directory(path: Path) -> None:
    """Refuse a zoo directory, which needs no import, and say what to do with it.

    Raises:
        Unreadable: the path is a zoo directory.
    """
    path = path.resolve()
    if path.name in list_zoo_directories(path.parent):
        raise Unreadable(
            "it is a zoo directory already, so there is nothing to import. "
            f'load_dataset("model_zoos", "{path.name}", data_dir="{path.parent}") reads it',
            hint=f"model-zoos info {path.name} --data-dir {typed(path.parent)}",
        )


def refuse_own_folder(path: Path) -> None:
    """Refuse a folder of zoo directories only, or a built folder, and say what to do with it.

    Raises:
        Unreadable: the folder is one of these.
    """
    path = path.resolve()
    if zoos := list_zoo_directories(path):
        raise Unreadable(
            f"it holds zoo directories already, so there is nothing to import: {few(zoos, 5)}. "
            f'load_dataset("model_zoos", "{zoos[0]}", data_dir="{path}") reads one',
            hint=f"model-zoos list --data-dir {typed(path)}",
        )
    if built := built_zoos(path):
        raise Unreadable(
            "`model-zoos build` wrote this folder, so there is nothing to import: "
            f'{few(built, 5)}. load_dataset("{path}", "{built[0]}") reads it without model_zoos',
            hint=f"model-zoos publish ORG/NAME --from {typed(path)}",
        )
