"""The cores of this machine, lists, stamps and digests of its files, and sizes in words."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of status in ns, and inode of a file."""


def cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def file_stamp(path: str | os.PathLike[str] | int) -> Stamp:
    """Return the stamp of a file, which changes whenever the file is replaced.

    Args:
        path: path of the file, or the descriptor of an open one.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def files_below(folder: Path) -> dict[str, Path]:
    """Return name with slashes -> path of all files in a folder, also behind links to folders.

    A link to a folder on the way to it is not followed, so that no loop is without end.
    """
    found: dict[str, Path] = {}
    passed = {os.fspath(folder): {os.path.realpath(folder)}}  # folder -> those on the way to it
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


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: "1 model", "2,000 models"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def few(texts: Sequence[str], most: int) -> str:
    """Return the first texts, and how many more there are: "a, b and 3 more"."""
    return ", ".join(texts[:most]) + f" and {len(texts) - most} more" * (len(texts) > most)


def typed(path: str | os.PathLike[str]) -> str:
    """Return a path as it is typed in a shell: in quotation marks where it needs them."""
    return shlex.quote(os.fspath(path))


def byte_size(count: float, smallest: str = "kB") -> str:
    """Return a number of bytes in words: "12 kB", "1.2 MB", "3.4 GB". Units are powers of 1000.

    Args:
        count: the number of bytes.
        smallest: the unit of all smaller numbers, "kB" or "MB".
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale or unit == smallest:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
