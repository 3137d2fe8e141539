"""From zoo directories to a repository folder: Parquet that `datasets` loads without this package.

    data/<zoo>/<split>-00000-of-00003.parquet              all columns
    data/<zoo>/<split>-<model_id>-00000-of-00005.parquet   the same of a ResNet-18 zoo
    metrics/<zoo>-<split>.parquet                          the same rows without weights
    layouts/<architecture>-<weights>.json                  where a row's weights have each tensor
    README.md                                              the card (builders/card.py)
    .build/                                                for later builds; never published

Rows lie in the order of the zoo directory, by model and epoch. A row group holds whole trajectories
(one state of ResNet-18), a shard whole row groups. Models of ResNet-18 have shards of their own, 50
states of 45 MB each: one more model leaves all others alone, and each can be published when it is
finished (pushing.py). Every Parquet file carries the datasets Features
and, under the key "model_zoos", the zoo's specification and provenance in its schema.

The same zoo gives the same bytes, whatever the number of workers (with the same version of pyarrow,
which stands in each file). A shard appears by rename; one whose model files have not changed is not
written again, and all others are removed before the first is written: a build that was killed
leaves a folder that lacks shards, never one that repeats rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ...errors import Cancelled, FaultyFile
from ..atomic import write_atomically
from ..catalog import METRICS_NAME, parts_of
from ..layout import Layout
from ..model_file import ModelFile
from ..rows import states_table, weights_column
from ..schema import row_features
from ..specification import normalize_name
from ..splits import SPLITS
from ..zoo_directory import ZooDirectory, open_zoo
from .card import read_repository, render_card
from .names import DATA_FILE, METRICS_FILE, data_file, metrics_file

METRICS_GROUP_ROWS = 1 << 16
"""Rows in a row group of `metrics`, at most."""

ZSTD_LEVEL = 1
"""Dense weights do not shrink further at level 3 (mantissas are noise), and take longer."""

BUILD_FOLDER = ".build"
"""In a repository folder: state of the builds; not a part of the repository."""

_FORM = 1
"""Of what is written; another one makes every shard invalid."""


@dataclass(frozen=True)
class BuildSummary:
    """What a build made of one zoo.

    Attributes:
        zoo: its name.
        models, states: in the repository.
        shards: Parquet files with weights; `written` of them are new.
        weights_bytes, file_bytes: of all weights as float32, of the files with weights.
        left_out: what is wrong with each model file that was left out.
        seconds: that it took.
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


@dataclass(frozen=True)
class ShardToWrite:
    """One Parquet file to be.

    Attributes:
        name: in the repository folder, with slashes.
        schema: of the file, with metadata.
        groups: row groups, each the model files it holds.
        twin: whether its weights are pruned ones.
    """

    name: str
    schema: pa.Schema
    groups: list[list[ModelFile]]
    twin: bool

    @property
    def rows(self) -> int:
        return sum(len(states.epochs) for group in self.groups for states in group)


def build_repository(
    names: Sequence[str],
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[BuildSummary]:
    """Write zoos into a repository folder; run again after an interruption, it goes on.

    Zoos that the folder holds already stay, and the card lists all of them.

    Args:
        names: zoos, twin zoos and unions (which are their parts).
        root: folder of all zoo directories.
        out: the repository folder, made if it is not there.
        workers: threads, each of which needs some six row groups of memory (300 MB for ResNet-18);
            None for one each core.
        on_progress: called with the zoo's name, states written and states in all.

    Returns:
        One summary for each zoo, in the order of the names.

    Raises:
        ZooNotFound: a zoo has no directory, or no finished model.
        FaultyZoo: none of a zoo's files can be used.
        ValueError: no or unusable names, fewer than one worker, or a zoo some of whose models are
            only on the Hub.
        RuntimeError: another build is at work in the folder.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1, found {workers}")
    wanted = list(dict.fromkeys(part for name in names for part in parts_of(normalize_name(name))))
    if not wanted:
        raise ValueError("name at least one zoo")
    if METRICS_NAME in wanted:
        raise ValueError("metrics is built along with every zoo: name the zoos")
    out = Path(out)
    if (out / "model_zoos.py").exists():
        raise ValueError(f"{out} holds a model_zoos.py, with which datasets loads no folder")
    # All of them are looked through before anything is written.
    directories = [open_zoo(root, name) for name in wanted]
    for directory in directories:
        if freed := directory.published().freed:
            raise ValueError(
                f"{len(freed)} models of {directory.path} were published to "
                f"{directory.published().repo_id} and freed here: that repository has them all, "
                "and a build without them would replace it"
            )
    zoos = [(directory, *directory.by_split()) for directory in directories]
    (out / BUILD_FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / BUILD_FOLDER / "lock", timeout=0):
            for path in (out / BUILD_FOLDER).glob("*.partial"):  # of a build that was killed
                path.unlink()
            summaries = [
                _build_zoo(*zoo, out, workers or os.cpu_count() or 1, on_progress) for zoo in zoos
            ]
            card = render_card(read_repository(out))
            _write(out, "README.md", card.encode())
    except Timeout:
        raise RuntimeError(f"another build is at work in {out}: wait for its end") from None
    return summaries


def _build_zoo(
    directory: ZooDirectory,
    files: dict[str, list[ModelFile]],
    left_out: list[FaultyFile],
    out: Path,
    workers: int,
    on_progress: Callable[[str, int, int], None] | None,
) -> BuildSummary:
    start = time.monotonic()
    name = directory.zoo.name
    shards = [
        shard
        for split in SPLITS
        if files[split]
        for shard in (
            *plan_data(directory, split, files[split]),
            plan_metrics(directory, split, files[split]),
        )
    ]
    digests = {shard.name: _digest(directory, shard) for shard in shards}
    record = out / BUILD_FOLDER / f"{name}.json"
    known = _known(record)
    valid = {
        shard.name
        for shard in shards
        if shard.name in known and known[shard.name] == _mark(out / shard.name, digests[shard.name])
    }
    for path in _files_of_zoo(out, name):
        if path.relative_to(out).as_posix() not in valid:
            path.unlink()
    missing = [shard for shard in shards if shard.name not in valid]
    marks = {shard.name: known[shard.name] for shard in shards if shard.name in valid}

    rows = {shard.name: shard.rows for shard in shards}
    total, done = sum(rows.values()), sum(rows[shard] for shard in valid)
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(states: int) -> None:
        nonlocal done
        with lock:
            done += states
            if on_progress is not None:
                on_progress(name, done // 2, total // 2)  # every state is written twice

    def write(shard: ShardToWrite, first: Sequence[Future[None]] = ()) -> None:
        """Write a shard, which appears only when those of `first` are there."""
        if cancelled.is_set():
            raise Cancelled
        partial = out / BUILD_FOLDER / f"{name}@{shard.name.rpartition('/')[2]}.partial"
        try:
            write_shard(shard, partial, cancelled, advance)
            if any(future.exception() for future in first):
                raise Cancelled
            path = out / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        with lock:
            marks[shard.name] = _mark(path, digests[shard.name])
            _write(out, f"{BUILD_FOLDER}/{name}.json", _json_bytes(marks))

    advance(0)
    # First those without weights: a zoo that has them and lacks others is seen to be unfinished.
    without = [shard for shard in missing if not shard.name.startswith("data/")]
    others = [shard for shard in missing if shard.name.startswith("data/")]
    # Threads: reading, encoding and compressing happen outside of the interpreter's lock.
    with (
        ThreadPoolExecutor(max(1, min(workers, len(others)))) as pool,
        ThreadPoolExecutor(1) as beside,  # little work, while the first weights are encoded
    ):
        try:
            small = [beside.submit(write, shard) for shard in without]
            futures = [*small, *(pool.submit(write, shard, small) for shard in others)]
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            cancelled.set()
            raise
        if any(future.done() and future.exception() for future in futures):
            cancelled.set()
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error

    layout = directory.zoo.layout
    _write(out, layout_file(layout), layout_bytes(layout))
    with_weights = [shard for shard in shards if shard.name.startswith("data/")]
    states = sum(rows[shard.name] for shard in with_weights)
    return BuildSummary(
        zoo=name,
        models=len({f.model_id for group in files.values() for f in group}),
        states=states,
        shards=len(with_weights),
        written=len(others),
        weights_bytes=4 * states * layout.size,
        file_bytes=sum((out / shard.name).stat().st_size for shard in with_weights),
        left_out=tuple(str(error) for error in left_out),
        seconds=round(time.monotonic() - start, 3),
    )


# --- What is written where ------------------------------------------------------------------------


def plan_data(
    directory: ZooDirectory, split: str, files: Sequence[ModelFile]
) -> list[ShardToWrite]:
    """The Parquet files for some model files of one split, weights included.

    Args:
        directory: of the zoo.
        split: to which they belong.
        files: in order; all of the split, or of ResNet-18 all of some models.
    """
    zoo, kind = directory.zoo, directory.zoo.layout.architecture
    twin = any(states.parent_model_id is not None for states in files)
    schema = _schema(directory, zoo.layout.size)
    apart: dict[str | None, list[ModelFile]] = {}
    for states in files:
        model = states.model_id if kind.file_per_state else None
        apart.setdefault(model, []).append(states)
    planned = []
    for model, own in apart.items():
        sizes = [4 * zoo.layout.size * len(states.epochs) for states in own]
        groups = _grouped(own, sizes, kind.row_group_bytes)
        stored = [sum(_stored_bytes(states) for states in group) for group in groups]
        parts = _shared_out(groups, stored, math.ceil(sum(stored) / kind.shard_bytes))
        for number, part in enumerate(parts):
            name = data_file(zoo.name, split, number, len(parts), model)
            planned.append(ShardToWrite(name, schema, part, twin))
    return planned


def plan_metrics(directory: ZooDirectory, split: str, files: Sequence[ModelFile]) -> ShardToWrite:
    """The Parquet file of a split without weights."""
    groups = _grouped(files, [len(states.epochs) for states in files], METRICS_GROUP_ROWS)
    name = metrics_file(directory.zoo.name, split)
    return ShardToWrite(name, _schema(directory, None), groups, twin=False)


def _schema(directory: ZooDirectory, size: int | None) -> pa.Schema:
    """Of a file, with the zoo's specification and provenance."""
    # What the layout says follows from the rest, and is long for ResNet-18.
    about = {key: value for key, value in directory.info.items() if key != "layout"}
    schema = row_features(size).arrow_schema
    return schema.with_metadata({**schema.metadata, "model_zoos": json.dumps(about)})


def _grouped(files: Sequence[ModelFile], sizes: Sequence[int], limit: int) -> list[list[ModelFile]]:
    """Neighbouring files together while they stay within a limit; a file is never cut."""
    groups: list[list[ModelFile]] = []
    filled = 0
    for states, size in zip(files, sizes, strict=True):
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(states)
        filled += size
    return groups


def _stored_bytes(states: ModelFile) -> float:
    """Weights that are not zero, as float32, but a twentieth at least."""
    pruned = states.metrics.get("sparsity", np.zeros(len(states.epochs)))
    return 4 * states.zoo.layout.size * float(np.maximum(1 - pruned, 0.05).sum())


def _shared_out(
    groups: Sequence[list[ModelFile]], sizes: Sequence[float], count: int
) -> list[list[list[ModelFile]]]:
    """Row groups in `count` runs of about equal size (fewer where a group is larger than that)."""
    parts: list[list[list[ModelFile]]] = [[] for _ in range(count)]
    before = 0.0
    for group, size in zip(groups, sizes, strict=True):
        parts[min(count - 1, int(before / sum(sizes) * count))].append(group)
        before += size
    return [part for part in parts if part]


def _files_of_zoo(out: Path, name: str) -> list[Path]:
    """Parquet files of a zoo in a repository folder, also those of earlier builds."""
    found = [*(out / "data" / name).glob("*.parquet"), *(out / "metrics").glob(f"{name}-*.parquet")]
    names = {path: path.relative_to(out).as_posix() for path in found}
    matches = {
        path: DATA_FILE.fullmatch(text) or METRICS_FILE.fullmatch(text)
        for path, text in names.items()
    }
    return [path for path, match in matches.items() if match and match["zoo"] == name]


def layout_file(layout: Layout) -> str:
    """`layouts/cnn_s-2464.json`: a row's architecture and the number of its weights."""
    return f"layouts/{layout.architecture}-{layout.size}.json"


def layout_bytes(layout: Layout) -> bytes:
    """Content of that file."""
    return _json_bytes(layout_json(layout))


def layout_json(layout: Layout) -> dict[str, Any]:
    """Tensors with shapes and offsets; for CNNs also the layers, from which it can be rebuilt.

    In the order of application, each layer is followed by max-pooling with kernel 2 (`pool`), the
    row's activation function (`activation`) and dropout at the row's rate (`dropout`), where these
    are true. Linear layers (kernel null) see their input flattened.
    """
    spec = layout.architecture
    return {
        **layout.to_json(),
        "image_size": spec.image_size,
        "layers": [dataclasses.asdict(layer) for layer in spec.layers],
    }


# --- Writing --------------------------------------------------------------------------------------


def writer_options(schema: pa.Schema, *, twin: bool = False) -> dict[str, Any]:
    """How a file is encoded, as arguments of pyarrow.parquet.ParquetWriter.

    Dense weights are split into four streams of bytes, of which only that of signs and exponents
    shrinks; that would spoil the zeros of twins, whose bytes are compressed as they are.

    Args:
        schema: of the file.
        twin: whether its weights are pruned ones.
    """
    plain = [name for name in schema.names if name != "weights"]
    split = "weights" in schema.names and not twin
    return {
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": plain,
        "write_statistics": plain,
        "use_byte_stream_split": ["weights.list.element"] if split else False,
        "write_page_index": True,
        "write_batch_size": 1 << 16,  # pyarrow's 1024 costs a third of the speed
    }


def write_shard(
    shard: ShardToWrite,
    path: Path,
    cancelled: threading.Event,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write one Parquet file.

    Args:
        shard: what it holds.
        path: where; the file is whole when this returns.
        cancelled: ends the work before the next row group.
        advance: called with the number of rows of every row group that was written.

    Raises:
        Cancelled: before all of it was written.
        FaultyFile: a model file cannot be read.
    """
    schema = shard.schema
    plain = pa.schema([field for field in schema if field.name != "weights"])

    def read(group: list[ModelFile]) -> pa.Table:
        table = states_table(group, plain).combine_chunks()
        if "weights" not in schema.names:
            return table
        kind = schema.field("weights").type
        position = schema.get_field_index("weights")
        return table.add_column(position, "weights", weights_column(group, kind))

    options = writer_options(schema, twin=shard.twin)
    # A row group is read while the one before is encoded: an eighth of the time.
    with ThreadPoolExecutor(1) as reader, pq.ParquetWriter(path, schema, **options) as writer:
        ahead = reader.submit(read, shard.groups[0])
        for number in range(len(shard.groups)):
            table = ahead.result()
            if cancelled.is_set():
                raise Cancelled
            if number + 1 < len(shard.groups):
                ahead = reader.submit(read, shard.groups[number + 1])
            writer.write_table(table, row_group_size=len(table))
            advance(len(table))


def _digest(directory: ZooDirectory, shard: ShardToWrite) -> str:
    """Of all that decides a shard's content; model files by name, size and time."""
    files = []
    for group in shard.groups:
        stats = ((states.path, states.path.stat()) for states in group)
        files.append(
            [(str(p.relative_to(directory.path)), s.st_size, s.st_mtime_ns) for p, s in stats]
        )
    form = [_FORM, ZSTD_LEVEL, pa.__version__]
    digest = hashlib.sha256(json.dumps([form, files]).encode())
    digest.update(shard.schema.serialize())
    return digest.hexdigest()


def _mark(path: Path, digest: str) -> list[Any] | None:
    """What `.build` says of a finished shard: its digest and the file's size."""
    return [digest, path.stat().st_size] if path.exists() else None


def _known(record: Path) -> dict[str, Any]:
    """Marks of earlier builds; none where the record is missing or damaged."""
    try:
        marks = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, sort_keys=True) + "\n").encode()


def _write(out: Path, name: str, content: bytes) -> None:
    """A small file of the repository folder; left alone if that is what it holds."""
    path = out / name
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, out / BUILD_FOLDER)
