"""Write files so that they are complete or absent, even if the writing process is killed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write_atomically(
    path: Path, *content: bytes | memoryview, partial_in: Path | None = None
) -> None:
    """Write a file under a temporary name, then rename it.

    Args:
        path: path of the file, which is replaced if it exists.
        content: all its bytes, in one piece or several.
        partial_in: folder of the unfinished file, where a killed process leaves it behind as
            `.*.partial`; None for the folder of `path`.

    Raises:
        OSError: the file cannot be written; an existing one is unchanged.
    """
    folder = os.fspath(partial_in) if partial_in else os.path.dirname(path)
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.partial")
    try:
        with open(temporary, "xb") as file:  # with the permissions of the user's umask
            file.writelines(content)
        move(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # it has been renamed already
            os.unlink(temporary)
        raise


def move(partial: str | Path, path: Path) -> None:
    """Give a finished file its name; on another disk, it appears there only when complete."""
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            shutil.copyfile(partial, beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        os.unlink(partial)


def json_bytes(value: object) -> bytes:
    """Return a value in the form of a zoo's JSON files."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
