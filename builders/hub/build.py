"""Build a repository folder from zoo directories: Parquet that `datasets` loads by itself.

The folder holds the files that names.py describes, and `.build/`, the state of the builds, which is
never published. In a new folder, the same zoo gives the same bytes, whatever the number of workers.

An interrupted build can be resumed. A shard appears by rename when it is complete. Shards whose
model files have not changed are not written again (history.py), and all others are deleted before
the first one is written: an interrupted build leaves a folder that lacks shards, never one that
repeats rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from ...errors import AlreadyRunning, Cancelled, FaultyFile, InvalidArgument
from ..atomic import write_atomically
from ..catalog import METRICS_NAME, parts_of
from ..model_file import ModelFile
from ..specification import normalize_name
from ..splits import SPLITS
from ..untrusted import read_plain
from ..zoo_directory import MAX_SOURCE_COLUMNS, SOURCE_COLUMNS, ZooDirectory, open_zoo
from .card import render_card
from .contents import read_contents
from .history import (
    WAITING_FILE,
    Held,
    finished,
    models_bytes,
    models_file,
    read_held,
    waiting_file,
)
from .names import (
    BUILD_FOLDER,
    CARD,
    DATA_FILE,
    METRICS_FILE,
    layout_file,
    matches,
    source_file,
)
from .parquet import ZSTD_LEVEL, write_shard
from .shards import PlannedShard, data_shards, layout_bytes, metrics_shard, sorted_json

_FORMAT = 1
"""Version of what is written; a new one makes every existing shard invalid."""

Progress = Callable[[str, int, int], None]
"""Called with a zoo's name, the states written and all its states."""


@dataclass(frozen=True)
class BuildSummary:
    """What a build made of one zoo.

    Attributes:
        zoo: its name.
        models, states: number of them in the folder.
        shards: number of Parquet files with weights; `written` of them are new.
        weights_bytes: size of all weights as float32.
        file_bytes: size of the files with weights.
        left_out: for each model file that was left out, what is wrong with it.
        seconds: duration.
    """

    zoo: str
    models: int
    states: int
    shards: int
    written: int
    weights_bytes: int
    file_bytes: int
    left_out: tuple[str, ...]
    seconds: float


def build_folder(
    names: Sequence[str],
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[BuildSummary]:
    """Write zoos into a repository folder, or resume an interrupted build.

    Zoos that the folder holds already stay, and the card lists all of them.

    Args:
        names: zoos, twin zoos and unions (which stand for their parts).
        root: folder of all zoo directories.
        out: the repository folder, created if it does not exist.
        workers: number of threads, each of which needs about six row groups of memory (300 MB for
            ResNet-18); None for one per core.
        on_progress: called after each row group.

    Returns:
        One summary for each zoo, in the order of the names.

    Raises:
        ZooNotFound: a zoo has no directory, or no finished model.
        FaultyZoo: none of a zoo's files can be used.
        InvalidArgument: no or unusable names, fewer than one worker, or a zoo some of whose models
            are only on the Hub.
        AlreadyRunning: another build is running in the folder.
    """
    if workers is not None and workers < 1:
        raise InvalidArgument(f"the number of workers must be at least 1, found {workers}")
    wanted = list(dict.fromkeys(part for name in names for part in parts_of(normalize_name(name))))
    if not wanted:
        raise InvalidArgument("name at least one zoo")
    if METRICS_NAME in wanted:
        raise InvalidArgument("metrics is built along with every zoo: name the zoos")
    out = Path(out)
    if (out / "model_zoos.py").exists():
        raise InvalidArgument(
            f"{out} holds a model_zoos.py, and datasets loads no folder with such a file"
        )
    # All of them are checked before anything is written.
    directories = [open_zoo(root, name) for name in wanted]
    for directory in directories:
        published = directory.published()
        if published.freed:
            raise InvalidArgument(
                f"{len(published.freed)} models of {directory.path} were published to "
                f"{published.repo_id} and freed here: that repository has all models, and a build "
                "without the freed ones would replace it"
            )
    zoos = [(directory, *directory.by_split()) for directory in directories]
    (out / BUILD_FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / BUILD_FOLDER / "lock", timeout=0):
            for path in (out / BUILD_FOLDER).glob("*.partial"):  # of an interrupted build
                path.unlink()
            summaries = [
                _build_zoo(*zoo, out, workers or os.cpu_count() or 1, on_progress) for zoo in zoos
            ]
            _write(out, CARD, render_card(read_contents(out)).encode())
    except Timeout:
        raise AlreadyRunning(
            f"another build is running in {out}: wait until it has finished"
        ) from None
    return summaries


def _build_zoo(
    directory: ZooDirectory,
    files: Mapping[str, list[ModelFile]],
    left_out: Sequence[FaultyFile],
    out: Path,
    workers: int,
    on_progress: Progress | None,
) -> BuildSummary:
    start = time.monotonic()
    name, layout = directory.zoo.name, directory.zoo.layout
    record = f"{BUILD_FOLDER}/{name}.json"
    known = _read_record(out / record)
    there = finished(out, known)
    shards, digests = _plan(directory, files, read_held(out, name, known))
    if not any(digests[shard.name] in there for shard in shards if shard.has_weights):
        shards, digests = _plan(directory, files, {})  # all are written, as into a new folder
    marks = {shard: known[there[d]] for shard, d in digests.items() if d in there}
    # Shards that get another name wait under the name of their digest: at every moment, the record
    # is right about each file, and a name is never that of two shards.
    moved = {there[d]: d for shard, d in digests.items() if d in there and there[d] != shard}
    waiting = {waiting_file(digest): known[old] for old, digest in moved.items()}
    _write(out, record, sorted_json({**known, **waiting}))
    _write(out, models_file(name), models_bytes(shards))
    # Those without weights go first: without them, a split is seen to be unfinished.
    for path in (*out.glob(f"metrics/{name}-*.parquet"), *out.glob(f"data/{name}/*.parquet")):
        file = path.relative_to(out).as_posix()
        if file in moved:
            path.rename(out / waiting_file(moved[file]))
        elif (DATA_FILE.fullmatch(file) or METRICS_FILE.fullmatch(file)) and (
            file not in marks or there[digests[file]] != file
        ):
            path.unlink()  # of an earlier build
    _write(out, record, sorted_json({**marks, **waiting}))
    for shard in marks:
        if (path := out / waiting_file(digests[shard])).exists():
            path.rename(out / shard)
    for match in matches(WAITING_FILE, known):  # of an interrupted build of other models
        (out / match.string).unlink(missing_ok=True)
    _write(out, record, sorted_json(marks))
    missing = [shard for shard in shards if shard.name not in marks]
    total = sum(shard.rows for shard in shards)
    done = total - sum(shard.rows for shard in missing)
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(rows: int) -> None:
        nonlocal done
        with lock:
            done += rows
            if on_progress is not None:
                on_progress(name, done // 2, total // 2)  # each state is written twice

    def write(shard: PlannedShard, first: Sequence[Future[None]] = ()) -> None:
        """Write a shard, which appears only after those of `first` were written."""
        if cancelled.is_set():
            raise Cancelled
        path = out / shard.name
        partial = out / BUILD_FOLDER / f"{name}@{path.name}.partial"
        try:
            write_shard(shard, partial, cancelled, advance)
            if any(future.exception() for future in first):
                raise Cancelled
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        with lock:
            marks[shard.name] = _mark(path, digests[shard.name])
            _write(out, record, sorted_json(marks))

    advance(0)
    # The shards without weights come first: a zoo that has only these is seen to be unfinished.
    heavy = [shard for shard in missing if shard.has_weights]
    # Threads suffice: reading, encoding and compressing release the interpreter's lock.
    with (
        ThreadPoolExecutor(max(1, min(workers, len(heavy)))) as pool,
        ThreadPoolExecutor(1) as beside,  # little work, done while the first weights are encoded
    ):
        try:
            light = [beside.submit(write, shard) for shard in missing if not shard.has_weights]
            futures = [*light, *(pool.submit(write, shard, light) for shard in heavy)]
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            cancelled.set()
            raise
        if any(future.done() and future.exception() for future in futures):
            cancelled.set()
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error

    _write(out, layout_file(layout), layout_bytes(layout))
    if (columns := directory.path / SOURCE_COLUMNS).exists():
        _write(out, source_file(name), read_plain(columns, MAX_SOURCE_COLUMNS))
    with_weights = [shard for shard in shards if shard.has_weights]
    states = sum(shard.rows for shard in with_weights)
    return BuildSummary(
        zoo=name,
        models=len({file.model_id for group in files.values() for file in group}),
        states=states,
        shards=len(with_weights),
        written=len(heavy),
        weights_bytes=4 * states * layout.size,
        file_bytes=sum((out / shard.name).stat().st_size for shard in with_weights),
        left_out=tuple(str(error) for error in left_out),
        seconds=round(time.monotonic() - start, 3),
    )


def _plan(
    directory: ZooDirectory, files: Mapping[str, list[ModelFile]], held: Held
) -> tuple[list[PlannedShard], dict[str, str]]:
    """Return all shards of a zoo, and their digests by name."""
    shards: list[PlannedShard] = []
    for split in SPLITS:
        if files[split]:
            shards += data_shards(directory, split, files[split], held.get(split, ()))
            shards.append(metrics_shard(directory, split, files[split]))
    return shards, {shard.name: _digest(directory, shard) for shard in shards}


def _digest(directory: ZooDirectory, shard: PlannedShard) -> str:
    """Return a digest of all that decides a shard's bytes; of a model file name, size and time."""
    files = []
    for group in shard.groups:
        stats = ((file.path, file.path.stat()) for file in group)
        files.append(
            [(str(p.relative_to(directory.path)), s.st_size, s.st_mtime_ns) for p, s in stats]
        )
    form = [_FORMAT, ZSTD_LEVEL, pa.__version__]
    digest = hashlib.sha256(json.dumps([form, files]).encode())
    digest.update(shard.schema.serialize())
    return digest.hexdigest()


def _mark(path: Path, digest: str) -> list[str | int] | None:
    """Return what `.build` records of a finished shard: its digest and the size of the file."""
    return [digest, path.stat().st_size] if path.exists() else None


def _read_record(path: Path) -> dict[str, list[str | int] | None]:
    """Read the marks of earlier builds; none if the record is missing or damaged."""
    try:
        marks = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def _write(out: Path, name: str, content: bytes) -> None:
    """Write a small file of the repository folder, unless it has this content already."""
    path = out / name
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, out / BUILD_FOLDER)
