"""SHA-256 of the files of a repository folder, computed once for each version of a file."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from ..atomic import write_atomically
from ..machine import file_digest, file_stamp
from ..untrusted import parse_json, read_plain
from .names import BUILD_FOLDER
from .shards import sorted_json

_RECORD = f"{BUILD_FOLDER}/files.digests.json"
"""Its name has a dot, which no zoo has, and so is not that of a zoo's record."""

_LIMIT = 1 << 28
_SETTLED = 2.0
"""Seconds after which a further change of a file also changes its times on every file system."""


class Digests:
    """The digests of a folder's files. Those of unchanged files are read from `.build`.

    A file is unchanged if its size, its times and its inode are the recorded ones.

    Args:
        folder: the repository folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._recorded()
        self._found: dict[str, list[int | str] | None] = {}

    def _recorded(self) -> dict[str, object]:
        with suppress(OSError, ValueError):  # without a record, all are computed
            found = parse_json(read_plain(self._folder / _RECORD, _LIMIT))
            if isinstance(found, dict):
                return found
        return {}

    def sha256(self, path: Path) -> str:
        """Return the digest of a file of the folder in hexadecimal digits."""
        stamp = list(file_stamp(path))
        name = self._name(path)
        known = self._found.get(name) or self._known.get(name)
        digest: object = known[-1] if isinstance(known, list) and known[:-1] == stamp else None
        if isinstance(digest, str):
            self._found[name] = [*stamp, digest]
            return digest
        digest = file_digest(path, "sha256")
        _, modified, changed, _ = stamp
        settled = time.time() - max(modified, changed) / 1e9 > _SETTLED
        self._found[name] = [*stamp, digest] if settled else None
        return digest

    def note(self, path: Path, digest: str) -> None:
        """Record the digest of a file that the caller has written or read as it is now.

        It must be the only one that changes the file now.
        """
        self._found[self._name(path)] = [*file_stamp(path), digest]

    def save(self) -> None:
        """Record what was found, beside the digests of other files, if the folder can be written.

        Other builds of the folder must not do so at the same time.
        """
        kept = {k: v for k, v in self._recorded().items() if (self._folder / k).is_file()}
        found = {name: entry for name, entry in self._found.items() if entry is not None}
        others = {name: entry for name, entry in kept.items() if name not in self._found}
        with suppress(OSError):
            (self._folder / BUILD_FOLDER).mkdir(exist_ok=True)
            write_atomically(self._folder / _RECORD, sorted_json({**others, **found}))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()
