"""Find cached rows that answer a load while the Hub cannot be reached.

datasets finds cached rows by the commit of the repository, which only the Hub knows. Therefore, a
small file in the cache of datasets records for each question (repository, revision, zoo, columns,
tensors, filters) which rows were prepared last.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import FaultyZoo
from ..atomic import json_bytes, write_atomically
from ..untrusted import read_json


@dataclass(frozen=True)
class CachedRows:
    """Rows that an earlier load has prepared.

    Attributes:
        config_id: name of their folder in the cache of datasets.
        commit: the commit of the repository.
        weights: length of a row's weights; None if they have none.
    """

    config_id: str
    commit: str
    weights: int | None


def recall(folder: Path, question: str) -> CachedRows | None:
    """Return the rows that answer a question; None if there are none.

    Args:
        folder: of the data set in the cache.
        question: a file name that stands for all arguments.
    """
    try:
        found = CachedRows(**read_json(_path(folder, question)))
    except (FaultyZoo, TypeError):
        return None
    good = (
        isinstance(found.config_id, str)
        and re.fullmatch(r"[^/\\.][^/\\]*", found.config_id)
        and isinstance(found.commit, str)
        and isinstance(found.weights, int | None)
    )
    there = good and any((folder / found.config_id).glob("*/*/dataset_info.json"))
    return found if there else None


def remember(folder: Path, question: str, rows: CachedRows) -> None:
    """Record that these rows answer a question."""
    path = _path(folder, question)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_bytes(dataclasses.asdict(rows)))


def _path(folder: Path, question: str) -> Path:
    return folder / ".offline" / f"{question}.json"
