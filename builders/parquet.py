"""From zoo directories to a repository folder: Parquet that `datasets` loads without this package.

    data/<zoo>/<split>-00000-of-00003.parquet   all columns
    metrics/<zoo>-<split>.parquet               the same rows without weights
    layouts/<architecture>-<weights>.json       where each tensor lies in a row's weights
    README.md                                   the card (builders/card.py)
    .build/                                     what a later build must know; never published

Rows lie in the order of the zoo directory, by model and epoch. A row group holds whole trajectories
(one state of ResNet-18), a shard whole row groups. Every Parquet file carries the datasets Features
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
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from .card import read_repository, render_card
from .catalog import METRICS_NAME, normalize_name, parts_of
from .layout import ARCHITECTURES, Layout
from .schema import row_features, states_table
from .splits import SPLITS
from .zoo_directory import FaultyFile, FaultyZoo, States, ZooDirectory, ZooNotFound, open_zoo

ROW_GROUP_BYTES = {"cnn_s": 10 << 20, "cnn_l": 20 << 20, "resnet18": 1}
"""Weights in a row group, at most, but always one file of the zoo: a trajectory of a CNN, one state
of ResNet-18 (45 MB)."""

METRICS_GROUP_ROWS = 1 << 16
"""Rows in a row group of `metrics`, at most."""

SHARD_BYTES = {"cnn_s": 300_000_000, "cnn_l": 300_000_000, "resnet18": 450_000_000}
"""Weights that are not pruned in a shard, at most. Dense ones shrink to 0.85, sparse ones to more
than their share (positions cost too): files of 100 to 400 MB. With ten states in a shard, the
60,000 of a ResNet-18 zoo stay below the Hub's 10,000 files in a folder."""

ZSTD_LEVEL = 1
"""Dense weights do not shrink further at level 3 (mantissas are noise), and take longer."""

BUILD_FOLDER = ".build"
"""In a repository folder: state of the builds; not a part of the repository."""

_FORM = 1
"""Of what is written; another one makes every shard invalid."""

_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")


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
class _Shard:
    """One Parquet file to be.

    Attributes:
        name: in the repository folder, with slashes.
        schema: of the file, with metadata.
        groups: row groups, each the model files it holds.
        twin: whether its weights are pruned ones.
        digest: changes whenever its content would.
    """

    name: str
    schema: pa.Schema
    groups: list[list[States]]
    twin: bool
    digest: str


class _Cancelled(Exception):
    """Another shard failed, or the user pressed Ctrl-C."""


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
        ValueError: no or unusable names, or fewer than one worker.
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
    zoos = [(directory, *_files_by_split(directory)) for directory in directories]
    (out / BUILD_FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / BUILD_FOLDER / "lock", timeout=0):
            summaries = [
                _build_zoo(*zoo, out, workers or os.cpu_count() or 1, on_progress) for zoo in zoos
            ]
            card = render_card(read_repository(out))
            _write_atomically(out, "README.md", card.encode())
    except Timeout:
        raise RuntimeError(f"another build is at work in {out}: wait for its end") from None
    return summaries


def _build_zoo(
    directory: ZooDirectory,
    files: dict[str, list[States]],
    left_out: list[FaultyFile],
    out: Path,
    workers: int,
    on_progress: Callable[[str, int, int], None] | None,
) -> BuildSummary:
    start = time.monotonic()
    name = directory.zoo.name
    shards = [shard for split in SPLITS for shard in _plan(directory, split, files[split])]
    record = out / BUILD_FOLDER / f"{name}.json"
    known = _known(record)
    valid = {
        shard.name
        for shard in shards
        if shard.name in known and known[shard.name] == _mark(out / shard.name, shard)
    }
    for path in _files_of_zoo(out, name):
        if path.relative_to(out).as_posix() not in valid:
            path.unlink()
    for path in (out / BUILD_FOLDER).glob(f"{name}@*.partial"):
        path.unlink()
    missing = [shard for shard in shards if shard.name not in valid]
    marks = {shard.name: known[shard.name] for shard in shards if shard.name in valid}

    rows = {shard.name: sum(len(f.epochs) for g in shard.groups for f in g) for shard in shards}
    total, done = sum(rows.values()), sum(rows[shard] for shard in valid)
    lock = threading.Lock()
    cancelled = threading.Event()

    def advance(states: int) -> None:
        nonlocal done
        with lock:
            done += states
            if on_progress is not None:
                on_progress(name, done // 2, total // 2)  # every state is written twice

    def write(shard: _Shard) -> None:
        partial = out / BUILD_FOLDER / f"{name}@{shard.name.rpartition('/')[2]}.partial"
        try:
            _write_shard(shard, partial, cancelled, advance)
            path = out / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        with lock:
            marks[shard.name] = _mark(path, shard)
            _write_atomically(out, f"{BUILD_FOLDER}/{name}.json", _json_bytes(marks))

    def write_all(batch: Sequence[_Shard]) -> None:
        # Threads: reading, encoding and compressing happen outside of the interpreter's lock.
        with ThreadPoolExecutor(max(1, min(workers, len(batch)))) as pool:
            futures = [pool.submit(write, shard) for shard in batch]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                cancelled.set()
                raise
            if any(future.done() and future.exception() for future in futures):
                cancelled.set()
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, _Cancelled)):
            raise error

    advance(0)
    # First those without weights: a zoo that has them and lacks others is seen to be unfinished.
    write_all([shard for shard in missing if not shard.name.startswith("data/")])
    write_all([shard for shard in missing if shard.name.startswith("data/")])

    layout = directory.zoo.layout
    _write_atomically(out, f"layouts/{layout_name(layout)}.json", _json_bytes(layout_json(layout)))
    with_weights = [shard for shard in shards if shard.name.startswith("data/")]
    states = sum(rows[shard.name] for shard in with_weights)
    return BuildSummary(
        zoo=name,
        models=len({f.model_id for group in files.values() for f in group}),
        states=states,
        shards=len(with_weights),
        written=sum(shard.name.startswith("data/") for shard in missing),
        weights_bytes=4 * states * layout.size,
        file_bytes=sum((out / shard.name).stat().st_size for shard in with_weights),
        left_out=tuple(str(error) for error in left_out),
        seconds=round(time.monotonic() - start, 3),
    )


# --- What is written where ------------------------------------------------------------------------


def _files_by_split(directory: ZooDirectory) -> tuple[dict[str, list[States]], list[FaultyFile]]:
    splits = directory.splits()
    files: dict[str, list[States]] = {split: [] for split in SPLITS}
    good, bad = directory.scan()
    for states in good:
        if states.model_id in splits:
            files[splits[states.model_id]].append(states)
        else:
            bad.append(FaultyFile(f"{states.path}: splits.json has no split for it"))
    if not good and not bad:
        raise ZooNotFound(f"{directory.path} holds no finished model yet")
    if not any(files.values()):
        raise FaultyZoo(
            f"{directory.path}: none of its {len(bad)} model files can be used, first {bad[0]}"
        )
    return files, bad


def _plan(directory: ZooDirectory, split: str, files: list[States]) -> list[_Shard]:
    """The files of one split: some with weights, one without."""
    if not files:
        return []
    zoo = directory.zoo
    twin = any(states.parent_model_id is not None for states in files)
    sizes = [4 * zoo.layout.size * len(states.epochs) for states in files]
    groups = _grouped(files, sizes, ROW_GROUP_BYTES[zoo.architecture])
    stored = [sum(_stored_bytes(states) for states in group) for group in groups]
    parts = _shared_out(groups, stored, math.ceil(sum(stored) / SHARD_BYTES[zoo.architecture]))
    # What the layout says follows from the rest, and is long for ResNet-18.
    about = {key: value for key, value in directory.info.items() if key != "layout"}
    schemas = {
        kind: row_features(size).arrow_schema
        for kind, size in (("data", zoo.layout.size), ("metrics", None))
    }
    schemas = {
        kind: schema.with_metadata({**schema.metadata, "model_zoos": json.dumps(about)})
        for kind, schema in schemas.items()
    }
    names = [
        f"data/{zoo.name}/{split}-{number:05d}-of-{len(parts):05d}.parquet"
        for number in range(len(parts))
    ]
    by_rows = _grouped(files, [len(states.epochs) for states in files], METRICS_GROUP_ROWS)
    planned = [
        *((name, schemas["data"], part) for name, part in zip(names, parts, strict=True)),
        (f"metrics/{zoo.name}-{split}.parquet", schemas["metrics"], by_rows),
    ]
    return [
        _Shard(name, schema, part, twin, _digest(directory, schema, part))
        for name, schema, part in planned
    ]


def _grouped(files: Sequence[States], sizes: Sequence[int], limit: int) -> list[list[States]]:
    """Neighbouring files together while they stay within a limit; a file is never cut."""
    groups: list[list[States]] = []
    filled = 0
    for states, size in zip(files, sizes, strict=True):
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(states)
        filled += size
    return groups


def _stored_bytes(states: States) -> float:
    """Weights that are not zero, as float32, but a twentieth at least."""
    pruned = states.metrics.get("sparsity", np.zeros(len(states.epochs)))
    return 4 * states.zoo.layout.size * float(np.maximum(1 - pruned, 0.05).sum())


def _shared_out(
    groups: Sequence[list[States]], sizes: Sequence[float], count: int
) -> list[list[list[States]]]:
    """Row groups in `count` runs of about equal size (fewer where a group is larger than that)."""
    parts: list[list[list[States]]] = [[] for _ in range(count)]
    before = 0.0
    for group, size in zip(groups, sizes, strict=True):
        parts[min(count - 1, int(before / sum(sizes) * count))].append(group)
        before += size
    return [part for part in parts if part]


def _files_of_zoo(out: Path, name: str) -> list[Path]:
    """Parquet files of a zoo in a repository folder, also those of earlier builds."""
    shards = (out / "data" / name).glob("*.parquet")
    metrics = (out / "metrics" / f"{name}-{split}.parquet" for split in SPLITS)
    return [
        *(path for path in shards if _SHARD_NAME.fullmatch(path.name)),
        *(path for path in metrics if path.exists()),
    ]


def layout_name(layout: Layout) -> str:
    """`cnn_s-2464`: a row's architecture and the number of its weights."""
    return f"{layout.architecture}-{layout.size}"


def layout_json(layout: Layout) -> dict[str, Any]:
    """Tensors with shapes and offsets; for CNNs also the layers, from which it can be rebuilt.

    In the order of application, each layer is followed by max-pooling with kernel 2 (`pool`), the
    row's activation function (`activation`) and dropout at the row's rate (`dropout`), where these
    are true. Linear layers (kernel null) see their input flattened.
    """
    spec = ARCHITECTURES[layout.architecture]
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


def weights_column(files: Sequence[States], kind: pa.DataType) -> pa.ChunkedArray:
    """All weights of some files, without a copy beyond the reading itself."""
    chunks = [
        pa.FixedSizeListArray.from_arrays(pa.array(states.weights().reshape(-1)), type=kind)
        for states in files
    ]
    return pa.chunked_array(chunks, kind)


def _write_shard(
    shard: _Shard, path: Path, cancelled: threading.Event, advance: Callable[[int], None]
) -> None:
    schema = shard.schema
    plain = pa.schema([field for field in schema if field.name != "weights"])

    def read(group: list[States]) -> pa.Table:
        table = states_table(group, plain)
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
                raise _Cancelled
            if number + 1 < len(shard.groups):
                ahead = reader.submit(read, shard.groups[number + 1])
            writer.write_table(table, row_group_size=len(table))
            advance(len(table))


def _digest(directory: ZooDirectory, schema: pa.Schema, groups: list[list[States]]) -> str:
    """Of all that decides a shard's content; model files by name, size and time."""
    files = []
    for group in groups:
        stats = ((states.path, states.path.stat()) for states in group)
        files.append(
            [(str(p.relative_to(directory.path)), s.st_size, s.st_mtime_ns) for p, s in stats]
        )
    form = [_FORM, ZSTD_LEVEL, pa.__version__]
    digest = hashlib.sha256(json.dumps([form, files]).encode())
    digest.update(schema.serialize())
    return digest.hexdigest()


def _mark(path: Path, shard: _Shard) -> list[Any] | None:
    """What `.build` says of a finished shard: its digest and the file's size."""
    return [shard.digest, path.stat().st_size] if path.exists() else None


def _known(record: Path) -> dict[str, Any]:
    """Marks of earlier builds; none where the record is missing or damaged."""
    try:
        marks = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, sort_keys=True) + "\n").encode()


def _write_atomically(out: Path, name: str, content: bytes) -> None:
    """Write a small file whole or not at all; leave it alone if that is what it holds."""
    path = out / name
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = out / BUILD_FOLDER / f"{path.name}.new"
    partial.write_bytes(content)
    partial.replace(path)
