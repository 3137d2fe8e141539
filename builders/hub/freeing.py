"""Delete the files of published models here, once the repository is known to hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from ...errors import FaultyFile
from ..atomic import json_bytes
from ..files import file_stamp
from ..ledger import Published, Record
from ..zoo_directory import CHECKPOINT, REPLACING, ZooDirectory
from .remote import Remote
from .remote_zoo import RemoteZoo, read_remote, same_rows


def source_digest(directory: ZooDirectory, model: str) -> str | None:
    """Return a digest of the names and stamps of a model's files; None if one is missing."""
    paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
    try:
        stamps = [(path.name, *file_stamp(path)) for path in paths]
    except OSError:
        return None
    return hashlib.sha256(json_bytes(stamps)).hexdigest()


def left_epochs(directory: ZooDirectory, model: str) -> list[int]:
    """Return the epochs of a model whose files are here."""
    return [epoch for epoch in directory.kept_epochs if directory.state_path(model, epoch).exists()]


def free_published(directory: ZooDirectory, remote: Remote) -> tuple[int, dict[str, str]]:
    """Delete the files of all published models that the repository now lists.

    A model that the repository no longer lists as published waits to be published again.

    Returns:
        Number of freed models, and those whose files differ from the repository's and are kept,
        with the reason.
    """
    repo = read_remote(directory, remote)
    published = directory.published()
    models, records = dict(published.models), dict(published.records)
    freed = 0
    for model, place in published.models.items():
        record = records.get(model)
        if place != "here":
            continue
        if record is None or model not in repo.models or repo.shards[model] != record.shards:
            del models[model]
            records.pop(model, None)
        elif record.source == source_digest(directory, model):
            models[model] = "freed"
            freed += 1
    # This comes first: a model whose files are not complete must not be trained again.
    directory.write_published(Published(remote.repo_id, models, records=records))
    left_out = {}
    for model, place in models.items():
        # Also deletes what an interrupted run has left.
        if place == "freed" and model in repo.models and (left := left_epochs(directory, model)):
            if _may_go(directory, repo, model, left, records.get(model)):
                _delete(directory, model)
            else:
                left_out[model] = (
                    f"it was freed, but its files here differ from those in {remote.repo_id}: "
                    "delete one of the two"
                )
    return freed, left_out


def _may_go(
    directory: ZooDirectory,
    repo: RemoteZoo,
    model: str,
    left: Sequence[int],
    record: Record | None,
) -> bool:
    """Whether the repository has the model's remaining files, by the ledger or by reading it."""
    known = record is not None and record.source is not None
    if known and record == Record(source_digest(directory, model), repo.shards[model]):
        return True
    try:
        states = [directory.read(directory.state_path(model, epoch)) for epoch in left]
        return same_rows(directory, repo, model, states) is True
    except FaultyFile:
        return False


def _delete(directory: ZooDirectory, model: str) -> None:
    """Delete the files of a model, but no other files in its folder."""
    folder = directory.models_path / model
    for path in (folder / CHECKPOINT, folder / REPLACING, *folder.glob(".*.partial")):
        path.unlink(missing_ok=True)
    for epoch in directory.kept_epochs:
        directory.state_path(model, epoch).unlink(missing_ok=True)
    with suppress(OSError):  # the folder holds something else
        folder.rmdir()
