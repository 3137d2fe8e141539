"""Compiled kernels are kept on disk, and used only if they are whole and nobody else wrote them.

A file's name carries a digest of everything that it was made from, and its own SHA-256. It is used
only if it and its folder belong to this user and nobody else may write to them; where there is no
such folder, each process compiles its own. `MODEL_ZOOS_CACHE` names another folder.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Used = TypeVar("Used")

_log = logging.getLogger(__name__)


def cached(
    folder: Path, name: str, suffix: str, build: Callable[[Path], Path], use: Callable[[Path], Used]
) -> Used:
    """Use a file of the cache, built if it is not there.

    Args:
        folder: of the cache, below `cache_root()`.
        name: of the file, with a digest of all that it is made from.
        suffix: of the file, such as ".so".
        build: makes the file in the temporary folder that it is given, and returns its path.
        use: of the whole file; it may be deleted afterwards.

    Raises:
        OSError: no folder can be written to.
    """
    try:
        return _use_in(_private(folder), name, suffix, build, use)
    except OSError:  # no cache that is ours alone and can be written: compiled by every process
        pass
    with tempfile.TemporaryDirectory(prefix="model-zoos-") as own:  # used, then deleted
        return _use_in(Path(own), name, suffix, build, use)


def cache_root() -> Path:
    """The folder that holds the caches of all kinds of kernels; it need not exist."""
    root = os.environ.get("MODEL_ZOOS_CACHE")
    if root:
        return Path(os.path.abspath(Path(root).expanduser()))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "model_zoos"


def _private(folder: Path) -> Path:
    """Return the cache folder, which is made if it is missing.

    Raises:
        OSError: it cannot be made, is a link, or others own it or may write to it. Code from such a
            folder is not loaded.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder.lstat(), stat.S_ISDIR):
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def _is_ours(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file of this kind belongs to the user, and nobody else may write to it."""
    return is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _use_in(
    folder: Path,
    name: str,
    suffix: str,
    build: Callable[[Path], Path],
    use: Callable[[Path], Used],
) -> Used:
    for path in folder.glob(f"{glob.escape(name)}-*{suffix}"):
        if _is_ours(path.lstat(), stat.S_ISREG):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.stem.endswith(f"-{digest}"):
                return use(path)
        path.unlink()  # truncated, or put there by somebody else
    _log.info("compiling the kernel %s for this machine", name.rpartition("-")[0])
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as building:
        built = build(Path(building))
        built.chmod(0o700)
        digest = hashlib.sha256(built.read_bytes()).hexdigest()
        path = built.replace(folder / f"{name}-{digest}{suffix}")
    return use(path)
