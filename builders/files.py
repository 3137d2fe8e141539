"""Lists, stamps and digests of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of metadata in ns, and inode of a file."""


def file_stamp(path: str | os.PathLike[str] | int) -> Stamp:
    """Return the stamp of a file, which changes whenever the file is replaced.

    Args:
        path: path of the file, or the descriptor of an open one.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def files_below(folder: Path) -> dict[str, Path]:
    """Return name with slashes -> path of all files below a folder, following links to folders.

    A link to a folder that contains the link is not followed, so that there are no endless loops.
    """
    found: dict[str, Path] = {}
    passed = {os.fspath(folder): {os.path.realpath(folder)}}  # folder -> folders on the way to it
    for parent, below, files in os.walk(folder, followlinks=True):
        for name in tuple(below):
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            if real in passed[parent]:
                below.remove(name)
            else:
                passed[path] = passed[parent] | {real}
        paths = (Path(parent, name) for name in files)
        found |= {path.relative_to(folder).as_posix(): path for path in paths}
    return found


def file_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file in hexadecimal; `algorithm` is "md5" or "sha256"."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
