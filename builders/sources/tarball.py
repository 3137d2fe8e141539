"""Unpack a few files of a .tar, .tar.gz or .tar.xz into a temporary folder.

The archive is read once and in order, a block at a time. Only the wanted files are written, under
fixed names in a new folder: names in the archive are never used as paths.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ...errors import Unreadable
from ..phrases import byte_size
from ..untrusted import is_clutter, open_plain
from .archive import blamed_on_the_file, shown

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")

_PREFIX = ".import-"
_BLOCK = 1 << 20
_MAX_MEMBERS = 10_000
_MAX_HEADER = 1 << 20
"""Limit of the bytes between two files: headers and long names."""
_MAX_UNPACKED = 1 << 36
_XZ_MEMORY = 1 << 28
"""Limit of the memory that an xz file may require; `xz -9` requires 65 MB."""
_OLD = 24 * 3600


def is_tarball(path: Path) -> bool:
    """Whether a path's name is that of an archive that `unpacked` reads."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


@contextmanager
def unpacked(path: Path, wanted: Mapping[str, int], beside: Path) -> Iterator[Path]:
    """Unpack files that share a folder in an archive into a new folder, which is deleted
    afterwards.

    Args:
        path: the archive.
        wanted: name of each file -> limit of its bytes.
        beside: folder in which the new folder is made, created if it does not exist.

    Raises:
        Unreadable: the archive is malformed, lacks a file or has one twice, holds links, devices
            or paths that leave it, or unpacks to more than the limit or the free disk space.
    """
    beside.mkdir(parents=True, exist_ok=True)
    for left in beside.glob(f"{_PREFIX}*"):  # left by killed imports
        if time.time() - left.stat().st_mtime > _OLD:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=beside) as folder:
        _unpack(path, wanted, Path(folder))
        yield Path(folder)


@blamed_on_the_file()
def _unpack(path: Path, wanted: Mapping[str, int], folder: Path) -> None:
    places: dict[str, str] = {}
    with open_plain(path) as raw:
        stream = _Bounded(_opened(path, raw))
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            left = _MAX_UNPACKED
            for _ in range(_MAX_MEMBERS):
                stream.left = _MAX_HEADER
                member = archive.next()
                if member is None:
                    break
                place, _, name = member.name.rpartition("/")
                _refuse(member, left)
                stream.left = member.size + _MAX_HEADER
                left -= member.size
                target = None
                if name in wanted and member.isreg() and not is_clutter(member.name):
                    if name in places:
                        raise Unreadable(f"holds {name} twice: unpack it, and import one folder")
                    if member.size > wanted[name]:
                        raise Unreadable(f"too large: {name} has {member.size:,} bytes")
                    places[name] = place
                    target = folder / name
                if member.isreg():
                    _copy(archive, member, target)
            else:
                raise Unreadable(f"too large: it has more than {_MAX_MEMBERS:,} files")
    if missing := [name for name in wanted if name not in places]:
        raise Unreadable(
            f"has no {' and no '.join(missing)}: only the Small CNN Zoo is read from an archive of "
            "tar; unpack one of trials or checkpoints, and import the folder"
        )
    if len(set(places.values())) > 1:
        raise Unreadable(f"{', '.join(wanted)} do not lie together in it")


def _refuse(member: tarfile.TarInfo, left: int) -> None:
    """Refuse entries that no data set holds."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise Unreadable(f"refused: the path {shown(member.name)} leaves the folder")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise Unreadable(f"refused: {shown(member.name)} is a link, a device or a sparse file")
    if not 0 <= member.size <= left:
        raise Unreadable(f"too large: unpacked it has more than {byte_size(_MAX_UNPACKED)}")


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path | None) -> None:
    """Write a file, or skip it if there is no target."""
    if target is not None and member.size > (free := shutil.disk_usage(target.parent).free):
        raise Unreadable(
            f"{target.name} needs {byte_size(member.size)}, {target.parent.parent} has "
            f"{byte_size(free)} left"
        )
    source = archive.extractfile(member)
    assert source is not None  # it is a regular file
    count = 0
    with open(target or "/dev/null", "wb") as file:
        while block := source.read(_BLOCK):
            count += len(block)
            file.write(block)
    if count != member.size:
        raise Unreadable(f"truncated: {shown(member.name)} has {count:,} of {member.size:,} bytes")


def _opened(path: Path, raw: io.FileIO) -> IO[bytes]:
    name = path.name.lower()
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if name.endswith("xz"):
        return io.BufferedReader(_Xz(raw))  # type: ignore[type-var]
    return io.BufferedReader(raw)


class _Xz(io.RawIOBase):
    """The content of an xz file, with a memory limit, which lzma.open does not have."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._reader = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray) -> int:  # type: ignore[override]
        while True:
            rest = b""
            if self._reader.eof:  # another stream may follow, after zeros
                rest = self._reader.unused_data
                while not (rest := rest.lstrip(b"\0")):
                    if not (rest := self._file.read(_BLOCK) or b""):
                        return 0
                self._reader = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self._reader.needs_input and not (rest := self._file.read(_BLOCK) or b""):
                raise EOFError("it ends too early")
            if found := self._reader.decompress(rest, len(target)):
                target[: len(found)] = found
                return len(found)


class _Bounded:
    """A stream from which at most `left` bytes can be read, since a header may state any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left = file, _MAX_HEADER

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise Unreadable("too large: a header of the archive has more bytes than it may have")
        return content
