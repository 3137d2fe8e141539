"""Sources for the tests: parts of the raw zoos, changed and packed again."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.shared import SEED_ZOO, SHARED

RAW = SHARED / "data" / "raw_zoos"


def files_of(zoo: str = SEED_ZOO, trials: int = 1, epochs: int = 9) -> dict[str, bytes]:
    """Name -> content of the first trials of a raw zoo, as far as an import reads them."""
    with zipfile.ZipFile(RAW / f"{zoo}.zip") as archive:
        names = archive.namelist()
        folders = sorted(
            name.removesuffix("params.json") for name in names if "params.json" in name
        )
        wanted = [
            f"{folder}{file}"
            for folder in folders[:trials]
            for file in (
                "params.json",
                "result.json",
                *(f"checkpoint_{epoch:06d}/checkpoints" for epoch in range(epochs)),
            )
        ]
        return {name: archive.read(name) for name in wanted}


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
