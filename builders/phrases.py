"""Numbers, lists, paths and sizes in words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: "1 model", "2,000 models"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def few(texts: Sequence[str], most: int) -> str:
    """Return the first texts and the number of the others: "a, b and 3 more"."""
    return ", ".join(texts[:most]) + f" and {len(texts) - most} more" * (len(texts) > most)


def typed(path: str | os.PathLike[str]) -> str:
    """Return a path as it is typed in a shell, quoted where needed."""
    return shlex.quote(os.fspath(path))


def byte_size(count: float, smallest: str = "kB") -> str:
    """Return a number of bytes in words: "12 kB", "1.2 MB", "3.4 GB". Units are powers of 1000.

    Args:
        count: the number of bytes.
        smallest: the smallest unit used, "kB" or "MB".
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale or unit == smallest:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
