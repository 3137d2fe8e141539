"""Read the files of a zip or a folder in place, each within a size limit.

A zoo of the paper is one zip with hundreds of thousands of files, and each checkpoint in it is
itself a zip. Python's zipfile takes 0.5 ms to open an inner zip, and 1 kB of memory for each file
of the outer one. Here a file is one tuple, and callers keep only the tuples that they need. The
format is that of PKWARE's APPNOTE.TXT 6.3 (sections 4.3 and 4.5.3 for zip64). Names in a zip are
never used as paths.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ...errors import Unreadable
from .. import untrusted
from ..untrusted import is_clutter, read_plain

Read = Callable[[int, int], "bytes | memoryview"]
"""Function from offset and count to bytes of a file; fewer than count at the end of the file."""

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_TAIL = 65_557
"""Bytes of the end record with the longest possible comment."""
_IN_ZIP64 = 0xFFFFFFFF
"""Stands for a size or offset that does not fit into 32 bits and is in the zip64 fields."""
_STORED, _DEFLATED, _ENCRYPTED, _PLAIN_FILE, _OVERLAPPING = 0, 8, 99, -1, -2

_DOTS = re.compile(r"(?:^|(?<=/))(?:\./+)+|(?<=/)/+")
_CHECKPOINT = re.compile(r"checkpoint_\d+")
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
"""Errors of this process or machine, which say nothing about the file."""


def printable(text: str) -> str:
    """Return the first 200 characters of a file's text in a form that reports can show."""
    return untrusted.printable(text[:200])


def shown(value: object, most: int = 40) -> str:
    """Return a value from a file for a message; a nested value, which may be endless, as its type.

    Args:
        value: the value.
        most: characters of a text that are shown.
    """
    if isinstance(value, str):
        return untrusted.printable(repr(value if len(value) <= most else f"{value[:most]}..."))
    if isinstance(value, int | float | None):
        return printable(repr(value)[:40])
    return f"a {type(value).__name__}"


def first_of(names: Sequence[str]) -> str:
    """Return the first names, for a remark in a report."""
    return ", ".join(map(printable, names[:3])) + ", ..." * (len(names) > 3)


@contextmanager
def blamed_on_the_file(name: str = "") -> Iterator[None]:
    """Turn every error in the use of a file's content into `Unreadable`, except machine errors:
    a full disk or a lack of file descriptors is not the file's fault.

    Args:
        name: name of the file, if the caller's message does not contain it.
    """
    what = f"unreadable: {name}: " if name else "unreadable: "
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise Unreadable(f"{what}{error.strerror or error}") from None
    except Exception as error:
        raise Unreadable(f"{what}{type(error).__name__}: {printable(str(error))}") from None


class Member(NamedTuple):
    """One file of a zip or a folder.

    Attributes:
        name: path inside the zip or folder, with slashes; bytes that are not UTF-8 are surrogates.
        size: bytes of the content.
        offset: of the local header in the zip.
        compressed: bytes of the content as the zip holds it.
        method: of compression; -1 for a file of a folder.
        crc: CRC-32 of the content.
    """

    name: str
    size: int
    offset: int = 0
    compressed: int = 0
    method: int = _PLAIN_FILE
    crc: int = 0


def zip_members(read: Read, total: int) -> Iterator[Member]:
    """Yield the entries of a zip's directory.

    Args:
        read: reads the zip.
        total: bytes of the zip.

    Raises:
        Unreadable: it is not a zip, is truncated, or its directory contradicts itself.
    """
    if total == 0:
        raise Unreadable("empty file")
    tail_start = max(0, total - _LONGEST_TAIL)
    tail = bytes(read(tail_start, total - tail_start))
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        if read(0, 4) == b"PK\3\4":
            raise Unreadable("truncated: the directory at the end of the zip is missing")
        raise Unreadable("unreadable: not a zip")
    *_, count, size, offset, _ = _END.unpack_from(tail, at)
    if count == 0xFFFF or _IN_ZIP64 in (size, offset):
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
        start = position + _ENTRY.size
        if start > len(directory) or directory[position : position + 4] != b"PK\1\2":
            raise Unreadable("unreadable: the zip's directory is damaged")
        (_, _, _, flags, method, _, _, crc, compressed, content, n, m, k, _, _, _, local) = (
            _ENTRY.unpack_from(directory, position)
        )
        kind = "utf-8" if flags & 0x800 else "cp437"
        name = directory[start : start + n].decode(kind, "surrogateescape")
        if _IN_ZIP64 in (content, compressed, local):
            extra = directory[start + n : start + n + m]
            content, compressed, local = _sizes_64(extra, content, compressed, local)
        position = start + n + m + k
        yield Member(name, content, local, compressed, _ENCRYPTED if flags & 1 else method, crc)


def _sizes_64(extra: bytes, *values: int) -> list[int]:
    """Return sizes and offset of a zip64 entry; large ones are in field 1 of its extra data."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return [next(wide, value) if value == _IN_ZIP64 else value for value in values]
        position += 4 + length
    return list(values)


def read_member(read: Read, member: Member, limit: int) -> bytes | memoryview:
    """Return the content of one file of a zip. Nothing larger than the limit is ever allocated.

    Args:
        read: reads the zip.
        member: the file.
        limit: maximum of bytes in its content.

    Raises:
        Unreadable: it is too large, encrypted or truncated, or does not have its checksum.
    """
    if member.size > limit or member.compressed > limit + limit // 100 + 1024:
        raise Unreadable(
            f"too large: {_last(member)} claims {max(member.size, member.compressed):,} bytes, "
            f"expected at most {limit:,}"
        )
    if member.method == _OVERLAPPING:
        raise Unreadable("refused: its bytes in the zip belong to other files too")
    header = read(member.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise Unreadable("unreadable: the zip's directory points at no file")
    *_, n, m = _LOCAL.unpack(header)
    raw = read(member.offset + _LOCAL.size + n + m, member.compressed)
    if len(raw) < member.compressed:
        raise Unreadable("truncated: its bytes in the zip end too early")
    if member.method == _DEFLATED:
        try:
            raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, member.size + 1)
        except zlib.error as error:
            raise Unreadable(f"unreadable: damaged in the zip ({error})") from None
    elif member.method == _ENCRYPTED:
        raise Unreadable("unreadable: it is encrypted")
    elif member.method != _STORED:
        raise Unreadable(
            f"unreadable: compressed by method {member.method}, known are stored and deflated"
        )
    if len(raw) != member.size or zlib.crc32(raw) != member.crc:
        raise Unreadable("unreadable: its bytes are not those of the zip's checksum")
    return raw


def _last(member: Member) -> str:
    """Return the last part of a file's path, for a message."""
    return printable(member.name.rpartition("/")[2])


def _without_overlaps(members: Iterator[Member], total: int) -> Iterator[Member]:
    """Mark the files of a zip that share bytes with others, by which few bytes become many.

    Files that lie one after the other, as in nearly every zip, take no memory.
    """
    end, claimed, seen = 0, 0, set[int]()
    for member in members:
        after = member.offset + _LOCAL.size + member.compressed
        if after <= total:
            claimed += member.compressed
        if member.offset < end:
            if member.offset in seen or claimed > total:
                member = member._replace(method=_OVERLAPPING)
            seen.add(member.offset)
        elif after <= total:
            end = after
        yield member


class Source:
    """A zip or a folder that is open for reading.

    Args:
        path: path of the zip or folder.

    Attributes:
        skipped: what `members` did not follow or open in a folder.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: list[str] = []
        self._file = None if path.is_dir() else path.open("rb", buffering=0)
        self._total = os.fstat(self._file.fileno()).st_size if self._file is not None else 0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def members(self) -> Iterator[Member]:
        """Yield every file except clutter, and the folders of checkpoints, which can be empty.

        The name of a folder ends with a slash. A link in a folder is followed if it leads to a file
        or a checkpoint within the folder. Any other linked folder is read only at its own place, so
        that nothing is found twice.

        Raises:
            Unreadable: the zip has no complete directory.
        """
        if self._file is None:
            yield from self._files(os.path.join(os.path.realpath(self.path), ""))
            return
        found = zip_members(self._read, self._total)
        for member in _without_overlaps(found, self._total):
            name = member.name
            if "\\" in name or "//" in name or "./" in name:  # forms that some programs write
                member = member._replace(name=_DOTS.sub("", name.replace("\\", "/")))
            if is_clutter(member.name):
                continue
            folder, slash, file = member.name.rpartition("/")
            if file or not slash or _CHECKPOINT.fullmatch(folder.rpartition("/")[2]):
                yield member

    def _files(self, root: str) -> Iterator[Member]:
        folders = [("", True)]  # path with a slash at its end, and whether to yield it
        while folders:
            folder, deep = folders.pop()
            try:
                with os.scandir(self.path / folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except PermissionError:
                self.skipped.append(folder)
                continue
            for entry in found:
                if is_clutter(entry.name):
                    continue
                name, linked = folder + entry.name, entry.is_symlink()
                try:
                    about = entry.stat()
                except OSError:
                    self.skipped.append(name)  # a link to a missing file or to itself
                    continue
                is_folder = stat.S_ISDIR(about.st_mode)
                if linked and (
                    (is_folder and not _CHECKPOINT.fullmatch(entry.name))
                    or not os.path.realpath(entry.path).startswith(root)
                ):
                    self.skipped.append(name)
                elif is_folder and deep:
                    folders.append((f"{name}/", not linked))
                    if _CHECKPOINT.fullmatch(entry.name):
                        yield Member(f"{name}/", 0)
                elif stat.S_ISREG(about.st_mode):
                    yield Member(name, about.st_size)

    def read(self, member: Member, limit: int) -> bytes:
        """Return the content of one file; arguments and errors: see `read_member`."""
        if self._file is not None:
            return bytes(read_member(self._read, member, limit))
        if member.size > limit:
            raise Unreadable(
                f"too large: {_last(member)} has {member.size:,} bytes, expected at most {limit:,}"
            )
        return read_plain(self.path / member.name, limit)

    def _read(self, offset: int, count: int) -> bytes:
        assert self._file is not None
        if offset >= self._total:
            return b""
        self._file.seek(offset)
        return self._file.read(min(count, self._total - offset))
