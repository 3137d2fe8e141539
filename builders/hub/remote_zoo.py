"""What a repository has of a zoo that is published model by model: its models, rows and faults."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import FaultyZoo, HubFailed, InvalidArgument
from ..ledger import Listed, Record
from ..model_file import ModelFile
from ..rows import read_rows
from ..schema import row_schema
from ..splits import SPLITS
from ..zoo_directory import ZooDirectory, same_images
from .checked import Seen, naming, read_metrics
from .names import DATA_FILE, matches, metrics_file, model_of, whole_models, zoo_of
from .read import Shard, read_tables
from .remote import Remote

_MAY_DIFFER = ("format", "layout", "versions")
"""Keys of zoo.json that may differ between parts of a zoo made on several machines."""


@dataclass(frozen=True)
class RemoteZoo:
    """A repository's content of a zoo.

    Attributes:
        remote: the repository.
        metrics: split -> rows without weights.
        models: model id -> split, of the models that are complete there, with their metrics.
        shards: model id -> name of each of its files -> what the Hub lists of it.
    """

    remote: Remote
    metrics: Mapping[str, pa.Table]
    models: Mapping[str, str]
    shards: Mapping[str, Mapping[str, Listed]]


def read_remote(directory: ZooDirectory, remote: Remote) -> RemoteZoo:
    """Read a repository's content of a zoo.

    Raises:
        InvalidArgument: models share files there, freed models are missing, or it is a different
            zoo of this name.
    """
    zoo, repo_id = directory.zoo.name, remote.repo_id
    for path in remote.files:
        if zoo_of(path) == zoo and DATA_FILE.fullmatch(path) and model_of(path) is None:
            raise InvalidArgument(
                f"{repo_id} has {zoo} in files that models share ({path}): publish to another "
                "repository, or rebuild that zoo and publish it first"
            )
    metrics, provenance = {}, []
    for split in SPLITS:
        if (name := metrics_file(zoo, split)) in remote.files:
            with naming(f"{repo_id}: {name}"), remote.open(name) as file:
                metrics[split], about = read_metrics(file)
            provenance.append(about)
    rows = {split: set(table["model_id"].to_pylist()) for split, table in metrics.items()}
    models = {
        model: split
        for model, split in whole_models(remote.files, zoo).items()
        if model in rows.get(split, ())
    }
    shards: dict[str, dict[str, Listed]] = {}
    for match in matches(DATA_FILE, remote.files):
        if match["zoo"] == zoo:
            # A small file is listed without a SHA-256, and so matches no record.
            listed = remote.listed(match.string) or (-1, "")
            shards.setdefault(match["model_id"], {})[match.string] = listed
    published = directory.published()
    if published.repo_id == repo_id:
        refuse_lost(directory, repo_id, published.freed - models.keys())
    _check_provenance(directory, repo_id, provenance)
    return RemoteZoo(remote, metrics, models, shards)


def refuse_lost(directory: ZooDirectory, repo_id: str, lost: Collection[str]) -> None:
    """Refuse a repository that lacks freed models that have no files here either.

    Raises:
        InvalidArgument: it does.
    """
    if lost := [model for model in lost if not directory.complete(model)]:
        raise InvalidArgument(
            f"{len(lost)} models of {directory.path} were published to {repo_id} and freed here, "
            f"but are not there any more, first {min(lost)}: restore that repository, or delete "
            f"{directory.path / 'published.json'} to train them again"
        )


def _check_provenance(
    directory: ZooDirectory, repo_id: str, provenance: Iterable[Mapping[str, Any]]
) -> None:
    """Refuse a different zoo of the same name.

    Raises:
        InvalidArgument: it differs.
    """
    for about in provenance:
        for key in sorted((directory.info.keys() | about.keys()) - set(_MAY_DIFFER)):
            here, there = directory.info.get(key), about.get(key)
            if here != there and not (key == "images" and same_images(here, there)):
                raise InvalidArgument(
                    f"{repo_id} has a zoo {directory.zoo.name} that was made with {key} = "
                    f"{there!r:.100}, not {here!r:.100}: publish to another repository"
                )


def check_orphans(directory: ZooDirectory, repo: RemoteZoo, own: Collection[str]) -> None:
    """Refuse to continue if the repository has complete models without metrics.

    Models without metrics belong to another publication; continuing would delete them.

    Args:
        directory: the zoo.
        repo: what the repository has.
        own: models of this directory that are to be published now.

    Raises:
        HubFailed: there are such models other than those of `own`.
    """
    without = whole_models(repo.remote.files, directory.zoo.name).keys() - repo.models - set(own)
    if orphans := sorted(model for model in without if not directory.finished(model)):
        raise HubFailed(
            f"{repo.remote.repo_id} has {len(orphans)} models of {directory.zoo.name} without "
            f"their metrics, first {orphans[0]}: another publication is under way and will add "
            "them, or its metrics/ were deleted: restore them, or delete the files of these models"
        )


def verified(directory: ZooDirectory, repo: RemoteZoo, models: Sequence[str]) -> dict[str, Record]:
    """Return records of those models whose files in the repository hold all their rows.

    Only the footer and two columns of each file are read.
    """
    with ThreadPoolExecutor(8) as pool:
        whole = pool.map(lambda model: _is_whole(directory, repo, model), models)
        found = [model for model, is_whole in zip(models, whole, strict=True) if is_whole]
    return {model: Record(None, repo.shards[model]) for model in found}


def _shards(repo: RemoteZoo, model: str) -> list[Shard]:
    remote = repo.remote
    return [Shard(remote.repo_id, remote.head, path, model) for path in sorted(repo.shards[model])]


def _is_whole(directory: ZooDirectory, repo: RemoteZoo, model: str) -> bool:
    """Whether the files of a model in the repository can be read, and hold all kept epochs once."""
    if any(size <= 0 for size, _ in repo.shards[model].values()):
        return False
    size, epochs = directory.zoo.layout.size, set()
    seen: Seen = {}
    try:
        for shard in _shards(repo, model):
            wanted = row_schema(size, ["model_id", "epoch"])
            for table in read_tables(shard, wanted, None, repo.remote.api.token, None, seen):
                if set(table["model_id"].to_pylist()) != {model}:
                    return False
                epochs |= set(table["epoch"].to_pylist())
    except FaultyZoo:
        return False
    return epochs == set(directory.kept_epochs)


def same_rows(
    directory: ZooDirectory, repo: RemoteZoo, model: str, states: Sequence[ModelFile]
) -> bool | None:
    """Whether the repository has exactly the same rows for some states of a model.

    Returns:
        None if its files of this model are damaged or incomplete.
    """
    if not _is_whole(directory, repo, model):
        return None
    schema = row_schema(directory.zoo.layout.size)
    by_epoch = {int(epoch): file for file in states for epoch in file.epochs}
    filters = pc.field("epoch").isin(sorted(by_epoch))
    try:
        for shard in _shards(repo, model):
            for table in read_tables(shard, schema, filters, repo.remote.api.token):
                for row in range(len(table)):
                    theirs = table.slice(row, 1)
                    ours = read_rows([by_epoch[theirs["epoch"][0].as_py()]], schema)
                    if _bits(theirs) != _bits(ours):
                        return False
    except FaultyZoo:
        return None
    return True


def _bits(row: pa.Table) -> tuple[bytes, str]:
    """Return the values of one row as bytes and text, so that NaN equals NaN."""
    weights = row["weights"].combine_chunks().flatten().to_numpy()
    return weights.tobytes(), repr(row.drop_columns(["weights"]).to_pylist())
