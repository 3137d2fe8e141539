"""The ledger published.json: which models of a zoo are on the Hub, and which were freed here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import FaultyZoo
from .atomic import json_bytes, write_atomically
from .model_file import MODEL_ID
from .untrusted import read_json

LEDGER = "published.json"
"""Name of the file."""

_PLACES = ("here", "freed", "damaged")

_SHA256 = re.compile(r"[0-9a-f]{64}")

Listed = tuple[int, str]
"""What the Hub lists of a large file: its size in bytes, and the SHA-256 of its content."""


@dataclass(frozen=True)
class Record:
    """What was published of a model.

    Attributes:
        source: digest of names and stamps of the model files that were published; None if they
            were never here. Earlier versions took no more than size and time of modification of a
            stamp: such a digest equals none of today.
        shards: name of each Parquet file in the repository -> what the Hub lists of it.
    """

    source: str | None
    shards: Mapping[str, Listed]


@dataclass(frozen=True)
class Published:
    """The models of a zoo that were published one by one.

    Attributes:
        repo_id: repository on the Hub, ORG/NAME; "" if no model was published.
        models: model id -> "here": published, and its files are also here; "freed": published, and
            its files are no longer (or never were) here; "damaged": its files are here, but were
            not published: they cannot be read, or the repository has another model of this id.
        stopped: why nothing more is published until the zoo is resumed; None while it is.
        records: model id -> what was published of it. Ledgers of earlier versions have none.
    """

    repo_id: str
    models: Mapping[str, str]
    stopped: str | None = None
    records: Mapping[str, Record] = field(default_factory=dict)

    @cached_property
    def freed(self) -> frozenset[str]:
        """Ids of the models whose files are only on the Hub."""
        return frozenset(model for model, place in self.models.items() if place == "freed")


NOTHING = Published("", {})
"""The ledger of a zoo without a published model, which has no file."""


def read_ledger(folder: Path) -> Published:
    """Read the ledger of a zoo directory.

    Raises:
        FaultyZoo: the file cannot be read, or holds something else.
    """
    path = folder / LEDGER
    found = read_json(path)
    if (
        not isinstance(found.get("repo_id"), str)
        or not isinstance(found.get("models"), dict)
        or not all(place in _PLACES for place in found["models"].values())
        or not all(MODEL_ID.fullmatch(model) for model in found["models"])
        or not isinstance(found.get("stopped"), str | None)
    ):
        raise FaultyZoo(
            f"{path}: expected a repo_id, and models that are 'here', 'freed' or 'damaged'"
        )
    records = found.get("records", {})
    if not isinstance(records, dict) or not all(map(_is_record, records.values())):
        raise FaultyZoo(f"{path}: expected records with the size and the SHA-256 of each shard")
    return Published(
        found["repo_id"],
        found["models"],
        found.get("stopped"),
        {
            model: Record(value["source"], {k: (v[0], v[1]) for k, v in value["shards"].items()})
            for model, value in records.items()
        },
    )


def _is_record(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("source", 0), str | None)
        and isinstance(value.get("shards"), dict)
        and all(
            isinstance(listed, list)
            and len(listed) == 2
            and type(listed[0]) is int
            and isinstance(listed[1], str)
            and _SHA256.fullmatch(listed[1])
            for listed in value["shards"].values()
        )
    )


def write_ledger(folder: Path, published: Published) -> None:
    """Write the ledger of a zoo directory in place of the one that is there."""
    models = dict(sorted(published.models.items()))
    content: dict[str, object] = {"repo_id": published.repo_id, "models": models}
    if published.stopped is not None:
        content["stopped"] = published.stopped
    if records := {m: vars(published.records[m]) for m in models if m in published.records}:
        content["records"] = records
    write_atomically(folder / LEDGER, json_bytes(content))
