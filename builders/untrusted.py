"""Read files of unknown origin: only plain files, each within a limit.

sources/pickles.py reads pickles that torch wrote.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from ..errors import FaultyZoo

MAX_JSON = 16 << 20
"""Limit of a JSON file in bytes: the splits of some 200,000 models. Parsed, it takes up to twenty
times as much memory."""

_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\xed[\xa0-\xbf]")

_CLUTTER = re.compile(r"(?:^|/)(?:__MACOSX|\.ipynb_checkpoints|\.DS_Store|\._[^/]*)(?:/|$)")


def open_plain(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a plain file for reading.

    Raises:
        OSError: it cannot be opened, or is a directory, device, pipe or socket. Reading from one of
            these could block or never end.
    """
    _refuse_others(path, os.stat(path))  # before opening, since opening a device can have effects
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    file = io.FileIO(handle)
    try:
        _refuse_others(path, os.fstat(handle))  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


def _refuse_others(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{os.fspath(path)} is no plain file")


def read_plain(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a whole plain file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is not a plain file, or is longer.
    """
    with open_plain(path) as file:
        content = file.read(limit + 1)  # one read(2) gives at most 2 GiB
        while content and len(content) <= limit and (more := file.read(limit + 1 - len(content))):
            content += more
    if len(content) > limit:
        raise OSError(f"{os.fspath(path)} has more than {limit:,} bytes")
    return content


def is_clutter(path: str) -> bool:
    """Whether a path is a file or in a folder that macOS or Jupyter creates by itself."""
    hint = "._" in path or ".DS_Store" in path or "_checkpoints" in path or "__MACOSX" in path
    return hint and _CLUTTER.search(path) is not None  # checking the hint is ten times as fast


def parse_json(content: bytes, *, unique_keys: bool = False) -> object:
    """Parse JSON in which all values can be stored: integers of 64 bits, and Unicode texts.

    Args:
        content: the JSON.
        unique_keys: whether to refuse repeated keys of an object; if not, the last one counts.

    Raises:
        ValueError: it is not JSON or not UTF-8, is nested too deeply, or has any other value. NaN
            and infinities are accepted.
    """
    decoder = _UNIQUE_DECODER if unique_keys else _DECODER
    try:
        value = decoder.decode(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(content):  # half of a surrogate pair is not a character
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has a text that is not valid Unicode") from None
    return value


def _parse_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**63:
        raise ValueError(f"the number {digits:.30} does not fit 64 bits")
    return number


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r:.80} twice")
        found[key] = value
    return found


_DECODER = json.JSONDecoder(parse_int=_parse_int)
_UNIQUE_DECODER = json.JSONDecoder(parse_int=_parse_int, object_pairs_hook=_unique)


def is_text(value: object, limit: int) -> bool:
    """Whether a value is a text of at most `limit` characters that are valid Unicode."""
    if not isinstance(value, str) or len(value) > limit:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str, kept: str = "") -> str:
    """Return a file's text in a form that reports and terminals can show.

    Args:
        text: any characters; control characters and others without a visible shape become U+FFFD.
        kept: characters that are kept in any case.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else "\ufffd" for c in text)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a zoo, which holds an object.

    Raises:
        FaultyZoo: it is not readable, or not an object.
    """
    try:
        found = parse_json(read_plain(path, MAX_JSON))
    except (OSError, ValueError) as error:
        raise FaultyZoo(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise FaultyZoo(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
