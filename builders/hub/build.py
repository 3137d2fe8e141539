"""Build a repository folder from zoo directories: Parquet that `datasets` loads by itself.

The folder holds the files that names.py describes, and `.build/`, the state of the builds, which is
never published. In a new folder, the same zoo gives the same bytes, whatever the number of workers.

An interrupted build can be resumed. A shard appears by rename when it is complete. Shards whose
model files have not changed are not written again (history.py), and all others are deleted before
the first one is written: an interrupted build leaves a folder that lacks shards, never one that
repeats rows. Until the build is finished, the card lets `datasets` load nothing of the zoo.

Ranks share the shards with weights. Each plans all of them and writes its own, and the last one to
end writes the card.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from ...errors import Cancelled, FaultyFile, InvalidArgument
from ..atomic import move, write_atomically
from ..catalog import parts_of
from ..files import file_digest
from ..model_file import ModelFile
from ..names import METRICS_NAME, normalize_name, refuse_reserved
from ..phrases import few
from ..ranks import ALONE, Rank, deal, rank_cores
from ..splits import SPLITS
from ..untrusted import read_plain
from ..zoo_directory import (
    MAX_SOURCE_COLUMNS,
    SOURCE_COLUMNS,
    ZooDirectory,
    built_zoos,
    list_zoo_directories,
    open_zoo,
)
from .build_ranks import (
    Mark,
    gate,
    recorded,
    registered,
    remove_ranks,
    remove_records,
    valid_marks,
    write_record,
)
from .card import render_card, unfinished_card
from .contents import read_contents
from .croissant import render_croissant
from .digests import Digests
from .history import (
    WAITING_FILE,
    Held,
    finished,
    models_bytes,
    models_file,
    read_held,
    waiting_file,
)
from .licence import card_licence, check_licence
from .merge import with_text_of
from .names import (
    BUILD_FOLDER,
    CARD,
    CROISSANT,
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
"""Called with a zoo's name, the number of states written, and the number of all its states."""


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
        missing: Parquet files that other ranks have still to write. The card and `file_bytes` are
            complete once there are none.
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
    missing: int = 0


def build_folder(
    names: Sequence[str],
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    licence: str | None = None,
    workers: int | None = None,
    rank: Rank = ALONE,
    on_progress: Progress | None = None,
) -> list[BuildSummary]:
    """Write zoos into a repository folder, or resume an interrupted build.

    Zoos that the folder holds already stay, and the card lists all of them.

    Args:
        names: zoos, twin zoos and unions (which stand for their parts).
        root: folder of all zoo directories.
        out: the repository folder, created if it does not exist.
        licence: the Hub's id of the licence, for the card; None for the licence of the folder's
            card, or cc-by-4.0 without a card. All ranks must be given the same.
        workers: number of threads, each of which needs about six row groups of memory (300 MB for
            ResNet-18); None for one per core.
        rank: the part of the work. Ranks need not run at the same time, and do not wait for each
            other.
        on_progress: called after each row group.

    Returns:
        One summary for each zoo, in the order of the names.

    Raises:
        ZooNotFound: a zoo has no directory, or no finished model.
        FaultyZoo: all files of a zoo are unusable.
        InvalidArgument: no or unusable names, a licence that is not an id, fewer than one worker,
            a zoo with models that are only on the Hub, or a folder that cannot be built into: `out`
            is a file, holds a model_zoos.py, holds other files but no build, or has a card without
            usable metadata.
        AlreadyRunning: another build is running in the folder that is not a rank of the same number
            of ranks.
    """
    if workers is not None and workers < 1:
        raise InvalidArgument(f"the number of workers must be at least 1, found {workers}")
    wanted = list(dict.fromkeys(part for name in names for part in parts_of(normalize_name(name))))
    if not wanted:
        raise InvalidArgument("name at least one zoo")
    if METRICS_NAME in wanted:
        raise InvalidArgument("metrics is built along with every zoo: name the zoos")
    for name in wanted:
        refuse_reserved(name)
    out = Path(out).expanduser()
    if (out / "model_zoos.py").exists():
        raise InvalidArgument(
            f"{out} holds a model_zoos.py, and datasets loads no folder with such a file"
        )
    if not built_zoos(out):
        _refuse_others(out)
    licence = card_licence(_card_of(out)) if licence is None else check_licence(licence)
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
    loads = [0.0] * rank.count
    with registered(out, rank) as work:
        written = [
            _build_zoo(*zoo, rank, loads, out, work, workers or rank_cores(), on_progress)
            for zoo in zoos
        ]
        with gate(out):
            summaries, marks = [], {}
            for summary, digests in written:
                valid = marks[summary.zoo] = valid_marks(out, summary.zoo, digests)
                file_bytes = sum(m.size for shard, m in valid.items() if DATA_FILE.fullmatch(shard))
                missing = len(digests) - len(valid)
                summaries.append(replace(summary, file_bytes=file_bytes, missing=missing))
            if rank.count == 1 or not any(summary.missing for summary in summaries):
                for name, valid in marks.items():
                    write_record(out, name, valid)
                contents = read_contents(out)
                card = with_text_of(render_card(contents, licence=licence), _card_of(out))
                _write(out, CARD, card.encode(), work)
                _write(out, CROISSANT, render_croissant(contents, out, licence), work)
                remove_ranks(out, rank)
    return summaries


def _card_of(out: Path) -> str:
    """Return the card that a folder has; an empty text if it has none."""
    path = out / CARD
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def _refuse_others(out: Path) -> None:
    """Refuse to begin a repository in a folder that holds anything else, such as a README.md.

    Raises:
        InvalidArgument: `out` is not a folder, or holds other files than figures.
    """
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file, expected the folder to build into")
    if (out / BUILD_FOLDER).exists() or not out.exists():  # an interrupted build, or a new folder
        return
    names = sorted(path.name for path in out.iterdir())
    beside = [name for name in names if not name.startswith(".") and name != "figures"]
    if beside:
        what = "zoo directories" if list_zoo_directories(out) else "other files"
        raise InvalidArgument(
            f"{out} holds {what} ({few(beside, 3)}): build into a folder of its own, "
            "as a repository holds nothing else",
            hint="--out names it",
        )


def _build_zoo(
    directory: ZooDirectory,
    files: Mapping[str, list[ModelFile]],
    left_out: Sequence[FaultyFile],
    rank: Rank,
    loads: list[float],
    out: Path,
    work: Path,
    workers: int,
    on_progress: Progress | None,
) -> tuple[BuildSummary, dict[str, str]]:
    """Write this rank's shards of a zoo; return a summary and the digests of all shards."""
    start = time.monotonic()
    name, layout = directory.zoo.name, directory.zoo.layout
    stored = Digests(out)
    with gate(out):
        shards, digests, loose, marks = _arranged(directory, files, out, work, stored)
        stored.save()
    with_weights = [shard for shard in shards if shard.has_weights]
    owners = deal([shard.rows * layout.size for shard in with_weights], loads)
    own = {s.name for s, owner in zip(with_weights, owners, strict=True) if owner == rank.index}
    # The shards without weights are little work: each rank that finds some missing writes them.
    mine = [shard for shard in shards if shard.name in own or not shard.has_weights]
    missing = [shard for shard in mine if shard.name not in marks]
    states = sum(shard.rows for shard in mine if shard.has_weights)
    total = sum(shard.rows for shard in mine)
    done = total - sum(shard.rows for shard in missing)

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress is not None:
            on_progress(name, done * states // total, states)

    advance(0)
    writer = _Writer(name, out, work, digests, loose, marks, stored, advance)
    try:
        writer.write_all(missing, workers)
    finally:
        with gate(out):
            stored.save()
    _write(out, layout_file(layout), layout_bytes(layout), work)
    if (columns := directory.path / SOURCE_COLUMNS).exists():
        _write(out, source_file(name), read_plain(columns, MAX_SOURCE_COLUMNS), work)
    else:
        (out / source_file(name)).unlink(missing_ok=True)  # of an earlier form of the zoo
    states = sum(shard.rows for shard in with_weights)
    summary = BuildSummary(
        zoo=name,
        models=len({file.model_id for group in files.values() for file in group}),
        states=states,
        shards=len(with_weights),
        written=sum(shard.has_weights for shard in missing),
        weights_bytes=4 * states * layout.size,
        file_bytes=0,  # counted when this rank has ended
        left_out=tuple(str(error) for error in left_out),
        seconds=round(time.monotonic() - start, 3),
    )
    return summary, digests


@dataclass
class _Writer:
    """Writes shards of a zoo on several threads, and records each of them.

    Attributes:
        name: of the zoo.
        out, work: the repository folder, and the folder for unfinished files.
        digests, loose: see `Mark`, by shard.
        marks: those of the finished shards; written shards are added.
        stored: digests of the files of the folder.
        advance: called with the number of rows of each row group that is written.
    """

    name: str
    out: Path
    work: Path
    digests: Mapping[str, str]
    loose: Mapping[str, str]
    marks: dict[str, Mark]
    stored: Digests
    advance: Callable[[int], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def write_all(self, shards: Sequence[PlannedShard], workers: int) -> None:
        """Write shards; an error of one stops all others."""
        # Those without weights come first: a zoo that has only these is recognised as unfinished.
        heavy = [shard for shard in shards if shard.has_weights]
        # Threads suffice: reading, encoding and compressing release the interpreter's lock. The
        # thread of `beside` has little work, done while the first weights are encoded.
        with (
            ThreadPoolExecutor(max(1, min(workers, len(heavy)))) as pool,
            ThreadPoolExecutor(1) as beside,
        ):
            try:
                light = [beside.submit(self._write, s) for s in shards if not s.has_weights]
                futures = [*light, *(pool.submit(self._write, shard, light) for shard in heavy)]
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._cancelled.set()
                raise
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
            raise error

    def _write(self, shard: PlannedShard, first: Sequence[Future[None]] = ()) -> None:
        """Write a shard, which appears only after those of `first` were written."""
        if self._cancelled.is_set():
            raise Cancelled
        path = self.out / shard.name
        partial = self.work / f"{self.name}@{path.name}.partial"
        try:
            write_shard(shard, partial, self._cancelled, self._advance)
            if any(future.exception() for future in first):
                raise Cancelled
            sha256 = file_digest(partial, "sha256")
            digest, size = self.digests[shard.name], partial.stat().st_size
            with self._lock:  # recorded before it appears: a shard without a record is old
                self.marks[shard.name] = Mark(digest, size, self.loose[shard.name], sha256)
                write_record(self.out, self.name, self.marks, self.work)
            path.parent.mkdir(parents=True, exist_ok=True)
            move(partial, path)
            self.stored.note(path, sha256)
        except BaseException:
            self._cancelled.set()  # here, before this thread takes the next shard
            raise
        finally:
            partial.unlink(missing_ok=True)

    def _advance(self, rows: int) -> None:
        with self._lock:
            self.advance(rows)


def _arranged(
    directory: ZooDirectory,
    files: Mapping[str, list[ModelFile]],
    out: Path,
    work: Path,
    stored: Digests,
) -> tuple[list[PlannedShard], dict[str, str], dict[str, str], dict[str, Mark]]:
    """Give finished shards their current names, and delete those of earlier builds.

    Returns:
        All shards of the zoo, their digests and their loose digests by name (see `Mark`), and the
        marks of those that are finished.
    """
    name = directory.zoo.name
    # Those without weights go first: without them, a split is recognised as unfinished.
    present = (*out.glob(f"metrics/{name}-*.parquet"), *out.glob(f"data/{name}/*.parquet"))
    known = recorded(out, name)  # later, since other ranks write meanwhile
    there = finished(out, known, stored)
    held = read_held(out, name, known)
    shards, digests, loose = _plan(directory, files, held)
    earlier = {known[file].loose for file in there.values()}
    # The record may be that of this plan: of another rank, or before an interruption.
    if sorted_json(held) != models_bytes(shards) and not any(
        loose[shard.name] in earlier for shard in shards if shard.has_weights
    ):
        shards, digests, loose = _plan(directory, files, {})  # all are written, as if anew
    marks = {shard: known[there[d]] for shard, d in digests.items() if d in there}
    names = {path.relative_to(out).as_posix() for path in present}
    changes = names - digests.keys() or any(there.get(d) != s for s, d in digests.items())
    if changes and (card := _card_of(out)):
        _write(out, CARD, unfinished_card(card, name).encode(), work)
    # Shards to be renamed wait under the name of their digest. Thus the record is right about each
    # file at every moment, and no name ever belongs to two shards.
    moved = {there[d]: d for shard, d in digests.items() if d in there and there[d] != shard}
    waiting = {waiting_file(digest): known[old] for old, digest in moved.items()}
    write_record(out, name, {**known, **waiting})
    _write(out, models_file(name), models_bytes(shards), work)
    for path in present:
        file = path.relative_to(out).as_posix()
        if file in moved:
            move(path, out / waiting_file(moved[file]))
        elif (DATA_FILE.fullmatch(file) or METRICS_FILE.fullmatch(file)) and (
            file not in marks or there[digests[file]] != file
        ):
            path.unlink(missing_ok=True)  # of an earlier build
    write_record(out, name, {**marks, **waiting})
    for shard in marks:
        if (path := out / waiting_file(digests[shard])).exists():
            move(path, out / shard)
            stored.note(out / shard, marks[shard].sha256)
    for match in matches(WAITING_FILE, known):  # of an interrupted build of other models
        (out / match.string).unlink(missing_ok=True)
    write_record(out, name, marks)
    remove_records(out, name, work)
    return shards, digests, loose, marks


def _plan(
    directory: ZooDirectory, files: Mapping[str, list[ModelFile]], held: Held
) -> tuple[list[PlannedShard], dict[str, str], dict[str, str]]:
    """Return all shards of a zoo, their digests and their loose digests by name (see `Mark`)."""
    shards: list[PlannedShard] = []
    for split in SPLITS:
        if files[split]:
            shards += data_shards(directory, split, files[split], held.get(split, ()))
            shards.append(metrics_shard(directory, split, files[split]))
    digests, loose = {}, {}
    for shard in shards:
        digests[shard.name], loose[shard.name] = _digests(directory, shard)
    return shards, digests, loose


def _digests(directory: ZooDirectory, shard: PlannedShard) -> tuple[str, str]:
    """Return the digest of a shard and its loose digest, as `Mark` describes them.

    Model files of one architecture all have the same size, and copies can have the same time of
    modification. The whole stamp also tells these apart.
    """
    stamped = [
        [(str(file.path.relative_to(directory.path)), file.stamp) for file in group]
        for group in shard.groups
    ]
    form = [_FORMAT, ZSTD_LEVEL, pa.__version__, *shard.nan_columns]
    found = []
    for length in (4, 2):
        files = [[(name, *stamp[:length]) for name, stamp in group] for group in stamped]
        digest = hashlib.sha256(json.dumps([form, files]).encode())
        digest.update(shard.schema.serialize())
        found.append(digest.hexdigest())
    return found[0], found[1]


def _write(out: Path, name: str, content: bytes, work: Path) -> None:
    """Write a small file of the repository folder, unless it has this content already."""
    path = out / name
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, partial_in=work)
