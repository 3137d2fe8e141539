"""Several builds of one repository folder: which of them run, and what all of them have written.

.build/lock                 held by a build of one process, from its beginning to its end
.build/<zoo>.json           what it has written: shard -> its digest and its size
.build/rank-3-of-16/        the same of a rank, and its unfinished files, until all are finished
.build/gate                 held by any of them, for a moment
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import AlreadyRunning
from ..ranks import Rank
from .names import BUILD_FOLDER

_RANKS = "rank-*-of-*"

Mark = tuple[str, int]
"""What is recorded of a finished shard: its digest and the size of the file."""


@contextmanager
def registered(out: Path, rank: Rank) -> Iterator[Path]:
    """Hold the lock of a build, and give the folder of its record and its unfinished files.

    Args:
        out: the repository folder.
        rank: the part of the work. A build of all of it excludes every other one, and ranks exclude
            those of another number.

    Raises:
        AlreadyRunning: such a build is running.
    """
    build = out / BUILD_FOLDER
    work = build if rank.count == 1 else build / str(rank)
    with gate(out):
        work.mkdir(exist_ok=True)
        own = FileLock(work / "lock")
        busy = [
            other.name
            for other in (build, *build.glob(_RANKS))
            if not other.name.endswith(f"-of-{rank.count}") and other != work and _held(other)
        ]
        try:
            own.acquire(timeout=0)
        except Timeout:
            busy = [work.name]
        if busy:
            own.release()
            who = "another build" if busy[0] == BUILD_FOLDER else f"a build ({busy[0]})"
            raise AlreadyRunning(f"{who} is running in {out}: wait until it has finished")
    try:
        for path in work.glob("*.partial"):  # of an interrupted build
            path.unlink()
        yield work
    finally:
        own.release()


@contextmanager
def gate(out: Path) -> Iterator[None]:
    """Keep all other builds of a folder from beginning, deleting and finishing, for a moment."""
    (out / BUILD_FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(out / BUILD_FOLDER / "gate"):
        yield


def valid_marks(out: Path, zoo: str, digests: Mapping[str, str]) -> dict[str, Mark]:
    """Return the marks of those shards that some build has written as they must be now.

    Args:
        out: the repository folder.
        zoo: name of the zoo.
        digests: shard -> digest of all that decides its bytes.
    """
    # Sizes before records: a shard is recorded before it appears.
    paths = {shard: out / shard for shard in digests}
    marks = {s: (digests[s], p.stat().st_size) for s, p in paths.items() if p.exists()}
    build = out / BUILD_FOLDER
    records = [_read_record(path / f"{zoo}.json") for path in (build, *build.glob(_RANKS))]
    return {s: mark for s, mark in marks.items() if any(r.get(s) == list(mark) for r in records)}


def remove_ranks(out: Path, rank: Rank) -> None:
    """Delete the folders of ranks whose work is in the record of all, unless they still run."""
    for path in (out / BUILD_FOLDER).glob(_RANKS):
        if path.name == str(rank) or not _held(path):
            shutil.rmtree(path, ignore_errors=True)


def _held(folder: Path) -> bool:
    """Whether the lock of a build's folder is held, by this process or by another one."""
    if not (folder / "lock").exists():
        return False
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True


def _read_record(path: Path) -> dict[str, object]:
    """Read the marks of a build; none if the record is missing or damaged."""
    try:
        marks = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}
