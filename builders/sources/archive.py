"""Files of a zip or a folder, read in place, each bounded by what it may hold.

A published zoo is one zip with hundreds of thousands of files, and each checkpoint in it is a zip
of its own. Python's zipfile takes 0.5 ms to open the inner one and 1 kB of memory for every file of
the outer one; here a file is one tuple, and only the wanted ones are kept. Format: PKWARE's
APPNOTE.TXT 6.3 (sections 4.3 and 4.5.3 for zip64). Names in a zip are never used as paths.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Read = Callable[[int, int], "bytes | memoryview"]
"""(offset, count) -> bytes of a file, fewer where it ends; a view where the file is mapped."""

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED, _PLAIN_FILE = 0, 8, -1


class Unreadable(ValueError):
    """Bytes that are not what they must be; the message is a reason without the file's name."""


class Member(NamedTuple):
    """A file of a zip, or (method -1) of a folder.

    `name` has slashes; `size` and `crc` are those of the content; `offset` is that of the local
    header, `compressed` the bytes that follow it.
    """

    name: str
    size: int
    offset: int = 0
    compressed: int = 0
    method: int = _PLAIN_FILE
    crc: int = 0


def zip_members(read: Read, total: int) -> Iterator[Member]:
    """The directory of a zip.

    Args:
        read: reads the zip.
        total: its bytes.

    Raises:
        Unreadable: no zip, truncated, or a directory that contradicts itself.
    """
    if total == 0:
        raise Unreadable("empty file")
    tail_start = max(0, total - 65_557)
    tail = bytes(read(tail_start, total - tail_start))
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        if read(0, 4) == b"PK\3\4":
            raise Unreadable("truncated: the directory at the end of the zip is missing")
        raise Unreadable("unreadable: not a zip")
    _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, at)
    if count == 0xFFFF or size == 0xFFFFFFFF or offset == 0xFFFFFFFF:
        locator = read(max(0, tail_start + at - _LOCATOR_64.size), _LOCATOR_64.size)
        if locator[:4] == b"PK\6\7":
            end = read(_LOCATOR_64.unpack(locator)[2], _END_64.size)
            if len(end) < _END_64.size or end[:4] != b"PK\6\6":
                raise Unreadable("unreadable: the zip's directory is damaged")
            *_, count, size, offset = _END_64.unpack(end)
    if offset + size > total:
        raise Unreadable("truncated: the zip's directory lies beyond its end")
    directory = bytes(read(offset, size))
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory) or directory[position : position + 4] != (
            b"PK\1\2"
        ):
            raise Unreadable("unreadable: the zip's directory is damaged")
        (_, _, _, flags, method, _, _, crc, compressed, content, n, m, k, _, _, _, local) = (
            _ENTRY.unpack_from(directory, position)
        )
        start = position + _ENTRY.size
        name = directory[start : start + n].decode("utf-8" if flags & 0x800 else "cp437", "replace")
        if content == 0xFFFFFFFF or compressed == 0xFFFFFFFF or local == 0xFFFFFFFF:
            content, compressed, local = _sizes_64(
                directory[start + n : start + n + m], content, compressed, local
            )
        position = start + n + m + k
        if flags & 1:
            method = 99  # encrypted; refused when it is read
        yield Member(name, content, local, compressed, method, crc)


def _sizes_64(extra: bytes, *values: int) -> list[int]:
    """Sizes and offset of a zip64 entry: those that did not fit lie in its extra field 1."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return [next(wide, v) if v == 0xFFFFFFFF else v for v in values]
        position += 4 + length
    return list(values)


def read_member(read: Read, member: Member, limit: int) -> bytes | memoryview:
    """The content of a zip's file, of at most `limit` bytes; nothing larger is ever allocated.

    Raises:
        Unreadable: too large, encrypted, truncated, or other bytes than the checksum's.
    """
    if member.size > limit or member.compressed > limit + limit // 100 + 1024:
        raise Unreadable(
            f"too large: it claims {max(member.size, member.compressed):,} bytes, "
            f"expected at most {limit:,}"
        )
    header = read(member.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise Unreadable("unreadable: the zip's directory points at no file")
    *_, n, m = _LOCAL.unpack(header)
    raw = read(member.offset + _LOCAL.size + n + m, member.compressed)
    if len(raw) < member.compressed:
        raise Unreadable("truncated: its bytes in the zip end too early")
    if member.method == _DEFLATED:
        inflate = zlib.decompressobj(-15)
        try:
            raw = inflate.decompress(raw, member.size + 1)
        except zlib.error as error:
            raise Unreadable(f"unreadable: damaged in the zip ({error})") from None
    elif member.method != _STORED:
        raise Unreadable(
            "unreadable: it is encrypted"
            if member.method == 99
            else f"unreadable: compressed by method {member.method}, known are stored and deflated"
        )
    if len(raw) != member.size or zlib.crc32(raw) != member.crc:
        raise Unreadable("unreadable: its bytes are not those of the zip's checksum")
    return raw


class Source:
    """A zip or a folder, open for reading.

    Args:
        path: of the zip or folder.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = None if path.is_dir() else path.open("rb", buffering=0)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def members(self) -> Iterator[Member]:
        """Every file, folders left out; links in a folder are not followed.

        Raises:
            Unreadable: a zip without a whole directory.
        """
        if self._file is None:
            for folder, folders, names in os.walk(self.path):
                folders.sort()
                for name in sorted(names):
                    found = os.lstat(os.path.join(folder, name))
                    if stat.S_ISREG(found.st_mode):
                        inside = Path(folder, name).relative_to(self.path).as_posix()
                        yield Member(inside, found.st_size)
            return
        total = os.fstat(self._file.fileno()).st_size
        for member in zip_members(self._read, total):
            if not member.name.endswith("/"):
                yield member

    def read(self, member: Member, limit: int) -> bytes:
        """Content of one file; errors as `read_member`."""
        if self._file is not None:
            return bytes(read_member(self._read, member, limit))
        if member.size > limit:
            raise Unreadable(f"too large: {member.size:,} bytes, expected at most {limit:,}")
        try:
            with (self.path / member.name).open("rb") as file:
                return file.read(limit)
        except OSError as error:
            raise Unreadable(f"unreadable: {error.strerror}") from None

    def _read(self, offset: int, count: int) -> bytes:
        assert self._file is not None
        self._file.seek(offset)
        return self._file.read(count)
