"""What earlier builds of a folder have left: which shard holds which models, and under what name.

A shard whose models are unchanged is kept byte for byte, whatever its name: `-00003-of-00010` is
renamed when the number of shards changes. So one more model costs one shard, and no other one is
sent to the Hub, which knows contents by their digests.

.build/<zoo>.json         marks of the finished shards, by name
.build/<zoo>.models.json  split -> ids of the models in each shard that models share, in order
.build/<digest>.parquet   a shard that waits for its new name
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from ...errors import FaultyZoo
from ..machine import cores
from ..untrusted import MAX_JSON, parse_json, read_plain
from .build_ranks import Mark
from .checked import naming, open_fragment
from .digests import Digests
from .names import BUILD_FOLDER, DATA_FILE, METRICS_FILE, matches
from .shards import PlannedShard, sorted_json

Held: TypeAlias = dict[str, list[list[str]]]
"""Split -> ids of the models in each of its shards."""


WAITING_FILE = re.compile(re.escape(BUILD_FOLDER) + r"/[0-9a-f]{64}\.parquet")


def waiting_file(digest: str) -> str:
    """Return the name under which a shard waits for its new one, by the digest of its mark."""
    return f"{BUILD_FOLDER}/{digest}.parquet"


def models_file(zoo: str) -> str:
    """Return the name of the record of a zoo's models."""
    return f"{BUILD_FOLDER}/{zoo}.models.json"


def models_bytes(shards: Iterable[PlannedShard]) -> bytes:
    """Return that record of planned shards."""
    held: Held = {}
    for shard in shards:
        match = DATA_FILE.fullmatch(shard.name)
        if match and match["model_id"] is None:
            models = [file.model_id for group in shard.groups for file in group]
            held.setdefault(match["split"], []).append(models)
    return sorted_json(held)


def read_held(out: Path, zoo: str, known: Mapping[str, object]) -> Held:
    """Return which models the shards of a zoo hold.

    Args:
        out: the repository folder.
        zoo: name of the zoo.
        known: the marks by shard. In a folder without a record of models, the shards that have a
            mark are read instead.
    """
    with suppress(OSError, ValueError):
        found = parse_json(read_plain(out / models_file(zoo), MAX_JSON))
        if isinstance(found, dict) and all(map(_is_list_of_lists, found.values())):
            return found
    held: Held = {}
    for match in sorted(matches(DATA_FILE, known), key=lambda match: match.string):
        if match["zoo"] == zoo and match["model_id"] is None:
            path = out / match.string
            with suppress(FaultyZoo), naming(path), path.open("rb") as file:
                models = open_fragment(file).to_table(columns=["model_id"])["model_id"]
                held.setdefault(match["split"], []).append(models.unique().to_pylist())
    return held


def _is_list_of_lists(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(models, list) and all(isinstance(model, str) for model in models)
        for models in value
    )


def finished(out: Path, known: Mapping[str, Mark], stored: Digests) -> dict[str, str]:
    """Return digest -> name of each shard that is there as its mark says.

    Args:
        out: the repository folder.
        known: the marks by shard.
        stored: digests of the files of the folder, which tell whether a file was damaged.
    """
    patterns = (DATA_FILE, METRICS_FILE, WAITING_FILE)
    names = [match.string for pattern in patterns for match in matches(pattern, known)]
    with ThreadPoolExecutor(cores()) as pool:  # hashing releases the interpreter's lock
        intact = list(pool.map(lambda name: _is_intact(out / name, known[name], stored), names))
    return {known[name].digest: name for name, is_so in zip(names, intact, strict=True) if is_so}


def _is_intact(path: Path, mark: Mark, stored: Digests) -> bool:
    """Whether a file is as its mark says: in its size and, if the mark has one, its SHA-256."""
    with suppress(OSError):
        if path.stat().st_size == mark.size:
            return not mark.sha256 or stored.sha256(path) == mark.sha256
    return False
