"""The ledger published.json: which models of a zoo are on the Hub, and which were freed here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FaultyZoo
from .atomic import json_bytes, write_atomically
from .model_file import MODEL_ID
from .untrusted import read_json

LEDGER = "published.json"
"""Name of the file."""

_PLACES = ("here", "freed", "damaged")


@dataclass(frozen=True)
class Published:
    """The models of a zoo that were published one by one.

    Attributes:
        repo_id: repository on the Hub, ORG/NAME; "" if no model was published.
        models: model id -> "here": published, and its files are also here; "freed": published, and
            its files are no longer (or never were) here; "damaged": its files are here, but cannot
            be read and were not published.
        stopped: why nothing more is published until the zoo is resumed; None while it is.
    """

    repo_id: str
    models: Mapping[str, str]
    stopped: str | None = None

    @property
    def freed(self) -> frozenset[str]:
        """Ids of the models whose files are only on the Hub."""
        return frozenset(model for model, place in self.models.items() if place == "freed")


def read_ledger(folder: Path) -> Published:
    """Read the ledger of a zoo directory; one without models if there is no file.

    Raises:
        FaultyZoo: the file cannot be read, or holds something else.
    """
    path = folder / LEDGER
    if not os.path.lexists(path):
        return Published("", {})
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
    return Published(found["repo_id"], found["models"], found.get("stopped"))


def write_ledger(folder: Path, published: Published) -> None:
    """Write the ledger of a zoo directory in place of the one that is there."""
    content = {"repo_id": published.repo_id, "models": dict(sorted(published.models.items()))}
    if published.stopped is not None:
        content["stopped"] = published.stopped
    write_atomically(folder / LEDGER, json_bytes(content))
