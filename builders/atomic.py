"""Files that are there whole or not at all, even if the process that writes them is killed."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(
    path: Path, content: bytes | memoryview, partial_in: Path | None = None
) -> None:
    """Write a file under another name, then give it its own.

    Args:
        path: of the file, which is replaced if it is there.
        content: of it.
        partial_in: folder of the unfinished file, on the same disk, which a killed process leaves
            there as `.*.partial`; None for that of `path`.

    Raises:
        OSError: it could not be written; what was there before still is.
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
        with suppress(FileNotFoundError):  # it has its own name already
            os.unlink(temporary)
        raise
