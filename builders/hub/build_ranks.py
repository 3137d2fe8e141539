"""Several builds of one repository folder: which of them run, and what all of them have written.

.build/lock                 held by a build of one process, from its beginning to its end
.build/<zoo>.json           what it has written: shard -> its mark
.build/rank-3-of-16/        the same of a rank, and its unfinished files, until all are finished
.build/gate                 held by any of them, for a moment
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ...errors import AlreadyRunning
from ..atomic import write_atomically
from ..ranks import Rank
from .names import BUILD_FOLDER
from .shards import sorted_json

_RANKS = "rank-*-of-*"


class Mark(NamedTuple):
    """What is recorded of a finished shard.

    Attributes:
        digest: of all that decides its bytes, with the stamps of its model files.
        size: of the file in bytes.
        loose: the same digest, in which a model file has only a size and a time of modification. A
            zoo that was copied with these times has the same one. Earlier versions wrote no other.
        sha256: of the file as it was written; "" in a record of an earlier version.
    """

    digest: str
    size: int
    loose: str
    sha256: str = ""


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
    """Return the marks of the shards on disk that some build has recorded with the wanted digest.

    Args:
        out: the repository folder.
        zoo: name of the zoo.
        digests: shard -> digest of all that decides its bytes.
    """
    # Sizes before records: a shard is recorded before it appears.
    paths = {shard: out / shard for shard in digests}
    wanted = {s: (digests[s], p.stat().st_size) for s, p in paths.items() if p.exists()}
    records = [_read_record(path) for path in _records(out, zoo)]
    found = ((s, mark) for record in records for s, mark in record.items())
    return {s: mark for s, mark in found if (mark.digest, mark.size) == wanted.get(s)}


def recorded(out: Path, zoo: str) -> dict[str, Mark]:
    """Return the marks of all shards that builds of a zoo have recorded; some shards may be gone.

    Where records differ, the record of all takes precedence over that of a rank, which may be
    older.
    """
    return {
        shard: mark for path in _records(out, zoo) for shard, mark in _read_record(path).items()
    }


def write_record(out: Path, zoo: str, marks: Mapping[str, Mark], work: Path | None = None) -> None:
    """Write the record of all, or that of the rank whose folder is given."""
    folder = work or out / BUILD_FOLDER
    write_atomically(folder / f"{zoo}.json", sorted_json(marks), partial_in=folder)


def remove_records(out: Path, zoo: str, work: Path) -> None:
    """Delete the records of this rank and of those not running: the record of all has them."""
    for path in _records(out, zoo)[:-1]:
        if path.parent == work or not _held(path.parent):
            path.unlink(missing_ok=True)


def _records(out: Path, zoo: str) -> list[Path]:
    """Return the paths of all records of a zoo, the record of all last."""
    build = out / BUILD_FOLDER
    return [path / f"{zoo}.json" for path in (*build.glob(_RANKS), build)]


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


def _read_record(path: Path) -> dict[str, Mark]:
    """Read the marks of a build; none if the record is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    marks = found.items() if isinstance(found, dict) else ()
    return {shard: found for shard, value in marks if (found := _mark(value)) is not None}


def _mark(value: object) -> Mark | None:
    """Return the mark that a record holds; None for anything else."""
    parts = value if isinstance(value, list) else []
    kinds = [type(part) for part in parts]
    if kinds == [str, int]:  # of an earlier version
        return Mark(parts[0], parts[1], parts[0])
    return Mark(*parts) if kinds == [str, int, str, str] else None
