"""SHA-256 of the files of a repository folder, computed once for each version of a file."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from ..atomic import write_atomically
from ..files import file_digest, file_stamp
from ..untrusted import parse_json, read_plain
from .names import BUILD_FOLDER
from .shards import sorted_json

_RECORD = f"{BUILD_FOLDER}/digests.json"
_LIMIT = 1 << 28
_SETTLED = 2.0
"""Seconds after which another change of a file changes its times on every file system."""


class Digests:
    """The digests of a folder's files. Those of unchanged files are read from `.build`.

    A file is unchanged if its size, its times and its inode are the recorded ones.

    Args:
        folder: the repository folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, object] = {}
        with suppress(OSError, ValueError):  # without a record, all are computed
            found = parse_json(read_plain(folder / _RECORD, _LIMIT))
            self._known = found if isinstance(found, dict) else {}
        self._settled: dict[str, list[int | str]] = {}

    def sha256(self, path: Path) -> str:
        """Return the digest of a file of the folder in hexadecimal digits."""
        stamp = list(file_stamp(path))
        name = path.relative_to(self._folder).as_posix()
        known = self._known.get(name)
        if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
            digest = known[-1]
        else:
            digest = file_digest(path, "sha256")
        _, modified, changed, _ = stamp
        if time.time() - max(modified, changed) / 1e9 > _SETTLED:
            self._settled[name] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Record the digests that were asked for, if the folder can be written."""
        with suppress(OSError):
            (self._folder / BUILD_FOLDER).mkdir(exist_ok=True)
            write_atomically(self._folder / _RECORD, sorted_json(self._settled))
