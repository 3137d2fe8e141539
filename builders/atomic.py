"""Files that are there whole or not at all, even if the process that writes them is killed."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FaultyZoo


def write_atomically(
    path: Path, content: bytes | memoryview, partial_in: Path | None = None
) -> None:
    """Write a file under a temporary name, then rename it.

    Args:
        path: path of the file, which is replaced if it exists.
        content: all its bytes.
        partial_in: folder of the unfinished file on the same disk, where a killed process leaves it
            as `.*.partial`; None for the folder of `path`.

    Raises:
        OSError: the file cannot be written; one that was there before is unchanged.
    """
    handle, temporary = tempfile.mkstemp(
        prefix=".", suffix=".partial", dir=path.parent if partial_in is None else partial_in
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # it has been renamed already
            os.unlink(temporary)
        raise


def json_bytes(value: object) -> bytes:
    """Return a value as the JSON files of a zoo hold it."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a zoo, which holds an object.

    Raises:
        FaultyZoo: it is not readable, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FaultyZoo(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise FaultyZoo(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
