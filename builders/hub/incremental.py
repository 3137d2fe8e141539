"""Publish a ResNet-18 zoo model by model while it is being made, and free the disk for the rest.

A zoo of the paper takes 2.2 TB, a finished model of it 2.2 GB. The Parquet files of a model hold no
other model (shards.py), so they can go to the Hub as soon as it is finished: each is written,
uploaded and deleted before the next one is written. Then one commit adds the files of some models,
with `metrics` and the card of all models that are there by then. The ledger published.json in the
zoo directory records these models; after that, the files of the models are deleted here if asked
for. `load_dataset("model_zoos", ...)` reads the rows of such a model from the repository.

An interrupted call can be resumed: what the Hub has already is not sent again. The ledger records
size and SHA-256 of each Parquet file, and a digest of the model files that it was made of. Model
files are deleted only while both are as they were: in the listing of the repository, and here. If
the model files have changed, they are published again. What the repository has of this zoo from
elsewhere stays, and is taken over (`prepare_push`); another model of the same id is never replaced.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, HfApi, constants

from ...errors import AlreadyRunning, Cancelled, FaultyFile, FaultyZoo, HubFailed, InvalidArgument
from ..architecture import ARCHITECTURES
from ..atomic import json_bytes
from ..ledger import Listed, Published, Record
from ..machine import file_stamp
from ..model_file import ModelFile
from ..rows import read_rows, states_table
from ..schema import row_schema
from ..specification import Zoo
from ..splits import SPLITS
from ..zoo_directory import ZooDirectory, same_images
from .checked import Seen, naming, read_metrics
from .licence import card_licence
from .merge import merge_cards
from .names import (
    CARD,
    DATA_FILE,
    layout_file,
    matches,
    metrics_file,
    model_of,
    whole_models,
    zoo_of,
)
from .parquet import metrics_bytes, write_shard
from .publish import future_card
from .read import Shard, read_tables
from .remote import (
    FILES_PER_COMMIT,
    Content,
    Remote,
    check_repo_id,
    explained,
    open_head,
    size_of,
    write_token,
)
from .shards import data_shards, layout_bytes, metrics_shard

STAGING_BYTES = max(a.shard_bytes for a in ARCHITECTURES.values() if a.file_per_state)
"""Disk space that publishing needs: at most one Parquet file at a time."""

_FOLDER = ".push"
"""Folder in a zoo directory that holds the Parquet file to be uploaded."""

_MAY_DIFFER = ("format", "layout", "versions")
"""Keys of zoo.json that may differ between parts of a zoo that are made on several machines."""


@dataclass(frozen=True)
class PublishOptions:
    """Where the models of a zoo are published while others train, and what becomes of them here.

    Attributes:
        repo_id: `ORG/NAME` on the Hub.
        free: delete the files of a model here once the repository is seen to hold them.
        private: create the repository as a private one if it does not exist.

    Raises:
        InvalidArgument: `repo_id` cannot be the name of a repository.
    """

    repo_id: str
    free: bool = False
    private: bool = False

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)


@dataclass(frozen=True)
class PushSummary:
    """What one call of `push_models` did.

    Attributes:
        models: number of models that were published.
        uploaded_bytes: size of their files, without those that the Hub had already.
        freed: number of models whose files were deleted here, including models published earlier.
        left_out: finished models that could not be published, with the reason.
    """

    models: int = 0
    uploaded_bytes: int = 0
    freed: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: PushSummary) -> PushSummary:
        return PushSummary(
            self.models + other.models,
            self.uploaded_bytes + other.uploaded_bytes,
            self.freed + other.freed,
            {**self.left_out, **other.left_out},
        )


def check_push(zoo: Zoo, options: PublishOptions, published: Published) -> None:
    """Refuse what could never be published, without asking the Hub.

    Args:
        zoo: the zoo to publish.
        options: where to.
        published: its ledger.

    Raises:
        InvalidArgument: the models of the zoo share files, or earlier models are freed and in
            another repository.
    """
    if not zoo.layout.architecture.file_per_state:
        raise InvalidArgument(
            f"{zoo.name}: only zoos with a file for each state (ResNet-18) are published model by "
            "model; build and publish others when they are made",
            hint=f"model-zoos build {zoo.name}, then model-zoos publish",
        )
    if published.freed and published.repo_id != options.repo_id:
        raise InvalidArgument(
            f"{len(published.freed)} models of {zoo.name} are in {published.repo_id} and freed "
            f"here: continue with that repository, not with {options.repo_id}"
        )


def prepare_push(directory: ZooDirectory, options: PublishOptions) -> None:
    """Create a repository if it does not exist, check that it may be written, take over its models.

    Models of this zoo that are complete in the repository and not in this directory are recorded as
    published and freed, with their splits: a zoo can be continued on another disk.

    Args:
        directory: a ResNet-18 zoo; published.json and splits.json are written.
        options: where to.

    Raises:
        InvalidArgument: as `check_push`; the repository lacks models that were freed here, or
            their files are damaged; it has this zoo in files that models share, or a zoo of this
            name that was made otherwise; its card cannot hold ours, or names its licence otherwise
            than by an id of the Hub.
        FaultyZoo: the repository's metrics of this zoo cannot be used.
        HubFailed: no token, not allowed, or out of reach; the repository has models without their
            metrics.
        AlreadyRunning: another process publishes this zoo.
    """
    repo_id = options.repo_id
    with _locked(directory):
        published = directory.published()
        check_push(directory.zoo, options, published)
        token = write_token()
        with explained(repo_id, token):
            api = HfApi(token=token)
            if published.repo_id == repo_id:  # it existed; a new one would be empty
                api.repo_info(repo_id, repo_type="dataset")
            head = open_head(api, repo_id, constants.DEFAULT_REVISION, options.private)
            seen = _look(directory, Remote.at(api, repo_id, head))
            _check_orphans(directory, seen, ())
            theirs = seen.remote.card()
            merge_cards("", theirs)
            card_licence(theirs)
            # Asks for an upload, which needs the right to write, and commits nothing.
            layout = directory.zoo.layout
            seen.remote.upload([CommitOperationAdd(layout_file(layout), layout_bytes(layout))])
            old = published.records if published.repo_id == repo_id else {}
            records = {
                model: record
                for model, record in old.items()
                if seen.shards.get(model) == record.shards
            }
            ours = published.freed if published.repo_id == repo_id else frozenset()
            absent = {model for model in seen.models if not directory.complete(model)}
            unknown = sorted(((ours & seen.models.keys()) | absent) - records.keys())
            records |= _verified(directory, seen, unknown)
            freed = (ours | absent) & records.keys()
            _refuse_lost(directory, repo_id, ours - freed)
        splits = {model: split for model, split in seen.models.items() if model in records}
        # A model that is here in another split is left out and named when its turn comes.
        directory.add_splits(seen.models, splits, moved=freed)
        models = dict.fromkeys(sorted(freed), "freed")
        if published.repo_id == repo_id:
            here = {model for model, place in published.models.items() if place == "here"}
            models |= dict.fromkeys((here & seen.models.keys() & records.keys()) - freed, "here")
        if models or published.models or published.stopped:
            directory.write_published(Published(repo_id, models, records=records))


def unpublished(directory: ZooDirectory) -> list[str]:
    """Return the ids of the finished models that wait to be published, sorted.

    A published model waits again if its files have changed or were copied, or if it is in a ledger
    of an earlier version, which does not say what they were. Of what the repository has already,
    nothing is sent then.
    """
    published = directory.published()

    def waits(model: str) -> bool:
        place, record = published.models.get(model), published.records.get(model)
        if place == "here":
            return record is None or record.source != _source(directory, model)
        return place is None

    found = sorted(path.name for path in directory.models_path.iterdir() if path.is_dir())
    return [model for model in found if waits(model) and directory.complete(model)]


def push_models(
    directory: ZooDirectory,
    options: PublishOptions,
    *,
    cancelled: threading.Event | None = None,
    on_published: Callable[[PushSummary], None] = lambda done: None,
) -> PushSummary:
    """Publish the finished models of a zoo that are not published yet.

    Args:
        directory: a ResNet-18 zoo; other processes may add models to it meanwhile.
        options: where to, after `prepare_push`.
        cancelled: set to stop before the next row group or file.
        on_published: called after each step with what it did, so that an error loses nothing.

    Raises:
        HubFailed: not allowed, out of reach, or changed by somebody else meanwhile; call it again.
        InvalidArgument, FaultyZoo: as `prepare_push`.
        Cancelled: `cancelled` was set; what was committed stays.
        AlreadyRunning: another process publishes this zoo.
    """
    cancelled = cancelled or threading.Event()
    repo_id, token = options.repo_id, write_token()
    api = HfApi(token=token)
    total = PushSummary()

    def done(step: PushSummary) -> None:
        nonlocal total
        total += step
        on_published(step)

    with _locked(directory), explained(repo_id, token):
        published = directory.published()
        check_push(directory.zoo, options, published)
        if published.repo_id != repo_id:
            directory.write_published(Published(repo_id, {}))
        # Models that were published and kept earlier, and what an interrupted run has left.
        places = published.models.items()
        if options.free and any(_left(directory, m) for m, place in places if place != "damaged"):
            done(_free(directory, Remote.at(api, repo_id)))
        waiting = unpublished(directory)
        while waiting:
            batch, waiting, faulty = _batch(directory, waiting)
            pushed, records = _push(directory, batch, Remote.at(api, repo_id), cancelled)
            left_out = {**faulty, **pushed.left_out}
            published = directory.published()
            known = {**published.models, **dict.fromkeys(left_out, "damaged")}
            known |= dict.fromkeys(records, "here")
            records = {**published.records, **records}
            records = {model: record for model, record in records.items() if model not in left_out}
            directory.write_published(Published(repo_id, known, records=records))
            done(pushed + PushSummary(left_out=faulty))
            if options.free and pushed.models:
                done(_free(directory, Remote.at(api, repo_id)))
    return total


@contextmanager
def _locked(directory: ZooDirectory) -> Iterator[None]:
    """Be the only process that publishes a zoo.

    Raises:
        AlreadyRunning: another one does.
    """
    try:
        with FileLock(directory.path / ".push.lock", timeout=0):
            yield
    except Timeout:
        raise AlreadyRunning(f"another process publishes {directory.path}") from None


@dataclass(frozen=True)
class _Candidate:
    """A model that is to be published.

    Attributes:
        states: its model files, in order.
        source: see Record, of these files before anything was read of them.
    """

    states: list[ModelFile]
    source: str | None


def _source(directory: ZooDirectory, model: str) -> str | None:
    """Return a digest of the names and stamps of a model's files; None if one is missing."""
    paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
    try:
        stamps = [(path.name, *file_stamp(path)) for path in paths]
    except OSError:
        return None
    return hashlib.sha256(json_bytes(stamps)).hexdigest()


def _batch(
    directory: ZooDirectory, models: Sequence[str]
) -> tuple[dict[str, _Candidate], list[str], dict[str, str]]:
    """Return as many of the first models as one commit can add, all others, and the faulty ones."""
    batch: dict[str, _Candidate] = {}
    faulty: dict[str, str] = {}
    count = 10  # metrics, the layout, the card
    for number, model in enumerate(models):
        paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
        source = _source(directory, model)
        try:
            states = [directory.read(path) for path in paths]
        except FaultyFile as error:
            faulty[model] = str(error)
            continue
        count += len(data_shards(directory, SPLITS[0], states))
        if batch and count > FILES_PER_COMMIT:
            return batch, list(models[number:]), faulty
        batch[model] = _Candidate(states, source)
    return batch, [], faulty


def _push(
    directory: ZooDirectory,
    batch: Mapping[str, _Candidate],
    remote: Remote,
    cancelled: threading.Event,
) -> tuple[PushSummary, dict[str, Record]]:
    """Upload the files of some models, then commit them.

    Returns:
        What was done, and what was published of each model.
    """
    zoo, splits = directory.zoo, directory.splits()
    seen = _look(directory, remote)
    _check_orphans(directory, seen, batch)
    there = dict(seen.models)
    additions: list[CommitOperationAdd] = []
    by_split: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
    left_out: dict[str, str] = {}
    records: dict[str, Record] = {}
    for model, candidate in sorted(batch.items()):
        split = splits.get(model)
        if split is None:
            left_out[model] = "splits.json has no split for it"
        elif there.get(model, split) != split:
            left_out[model] = f"it is in the split {split} here, {there[model]} in {remote.repo_id}"
        else:
            try:
                shards, new = _upload(directory, split, model, candidate, seen, cancelled)
            except FaultyFile as error:
                left_out[model] = str(error)
                continue
            if shards is None:
                left_out[model] = (
                    f"{remote.repo_id} has another model of this id, which is not replaced: "
                    "publish to another repository, or delete one of the two"
                )
                continue
            by_split[split] += candidate.states
            there[model] = split
            additions += new
            records[model] = Record(candidate.source, shards)
    pushed = records.keys()
    if not pushed:
        return PushSummary(left_out=left_out), {}
    sent = sum(addition.upload_info.size for addition in additions)

    contents: dict[str, Content] = {layout_file(zoo.layout): layout_bytes(zoo.layout)}
    new_files = {path: listed[0] for r in records.values() for path, listed in r.shards.items()}
    # Files of an earlier form of these models, and of models that are not complete, are deleted.
    whole = whole_models(remote.files, zoo.name)
    stale = {
        match.string
        for match in matches(DATA_FILE, remote.files)
        if match["zoo"] == zoo.name
        and match.string not in new_files
        and (match["model_id"] in pushed or match["model_id"] not in whole)
    }
    for split, states in by_split.items():
        kept = {m for m, where in there.items() if where == split and m not in pushed}
        shard = metrics_shard(directory, split, states)
        if not states and not kept:
            stale |= {shard.name} & remote.files.keys()
        elif states or set(seen.metrics[split]["model_id"].to_pylist()) != kept:
            contents[shard.name] = metrics_bytes(
                _metrics(states, shard.schema, seen.metrics.get(split), kept)
            )
    sizes = {path: entry.size for path, entry in remote.files.items() if path not in stale}
    sizes |= new_files | {path: size_of(content) for path, content in contents.items()}
    theirs = remote.card()
    licence = card_licence(theirs)  # there is no folder that has another one
    try:
        ours = future_card(remote, sizes, contents, licence)
    except FaultyZoo:  # another zoo is incomplete there, which is not this run's business
        own = {
            path: size
            for path, size in sizes.items()
            if zoo_of(path) in (None, zoo.name) and model_of(path) in (None, *there)
        }
        ours = future_card(remote, own, contents, licence)
    card, _ = merge_cards(ours, theirs)
    contents[CARD] = card.encode()  # the last
    additions += [
        CommitOperationAdd(path, content)
        for path, content in contents.items()
        if not remote.has(path, content)
    ]
    if additions or stale:
        count = f"{len(pushed)} models" if len(pushed) > 1 else f"the model {min(pushed)}"
        remote.commit(additions, sorted(stale), f"Publish {count} of {zoo.name}")
    return PushSummary(len(pushed), sent, 0, left_out), records


def _upload(
    directory: ZooDirectory,
    split: str,
    model: str,
    candidate: _Candidate,
    seen: _Seen,
    cancelled: threading.Event,
) -> tuple[Mapping[str, Listed] | None, list[CommitOperationAdd]]:
    """Write and upload the Parquet files of one model, one after the other.

    Returns:
        What the Hub will list of them, and those that the commit must add. If the repository has
        the same rows in other files, these; None if it has another model.
    """
    remote = seen.remote
    shards: dict[str, Listed] = {}
    additions: list[CommitOperationAdd] = []
    theirs = seen.shards.get(model, {})
    record = directory.published().records.get(model)
    replaceable = not theirs or (record is not None and record.shards == theirs)
    path = directory.path / _FOLDER / "shard.parquet"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    try:
        for shard in data_shards(directory, split, candidate.states):
            if cancelled.is_set():
                raise Cancelled
            write_shard(shard, path, cancelled)
            addition = CommitOperationAdd(shard.name, path)
            ours = (addition.upload_info.size, addition.upload_info.sha256.hex())
            if remote.listed(shard.name) != ours:
                if not replaceable:
                    same = _same_rows(directory, seen, model, candidate.states)
                    if same is not None:
                        return (theirs if same else None), []
                    replaceable = True
                remote.upload_one(addition)
                additions.append(addition)
            shards[shard.name] = ours
            path.unlink()
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
    return shards, additions


def _metrics(
    states: Sequence[ModelFile], schema: pa.Schema, before: pa.Table | None, kept: Collection[str]
) -> pa.Table:
    """Return the rows without weights of new states and of the models kept, as a build has them.

    Args:
        states: the new states.
        schema: of the file.
        before: the rows that the repository has; None for no rows.
        kept: ids of the models whose rows are taken from `before`.
    """
    table = states_table(states, schema) if states else schema.empty_table()
    if before is None:
        return table
    others = before.filter(pc.is_in(before["model_id"], pa.array(sorted(kept), pa.string())))
    order = [("model_id", "ascending"), ("epoch", "ascending")]
    return pa.concat_tables([others.cast(schema), table]).sort_by(order)


@dataclass(frozen=True)
class _Seen:
    """What a repository has of a zoo.

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


def _look(directory: ZooDirectory, remote: Remote) -> _Seen:
    """Find out what a repository has of a zoo.

    Raises:
        InvalidArgument: models share files there, freed models are missing, or the zoo of this name
            was made otherwise.
    """
    zoo, repo_id = directory.zoo.name, remote.repo_id
    for path in remote.files:
        if zoo_of(path) == zoo and DATA_FILE.fullmatch(path) and model_of(path) is None:
            raise InvalidArgument(
                f"{repo_id} has {zoo} in files that models share ({path}): publish to another "
                "repository, or build that zoo anew and publish it first"
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
            # A small file is listed without a SHA-256, and equals no record.
            listed = remote.listed(match.string) or (-1, "")
            shards.setdefault(match["model_id"], {})[match.string] = listed
    published = directory.published()
    if published.repo_id == repo_id:
        _refuse_lost(directory, repo_id, published.freed - models.keys())
    _check_provenance(directory, repo_id, provenance)
    return _Seen(remote, metrics, models, shards)


def _refuse_lost(directory: ZooDirectory, repo_id: str, lost: Collection[str]) -> None:
    """Refuse a repository that lacks freed models whose files are not here either.

    Raises:
        InvalidArgument: there are some.
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
    """Refuse a zoo of the same name that was made otherwise.

    Raises:
        InvalidArgument: it was.
    """
    for about in provenance:
        for key in sorted((directory.info.keys() | about.keys()) - set(_MAY_DIFFER)):
            here, there = directory.info.get(key), about.get(key)
            if here != there and not (key == "images" and same_images(here, there)):
                raise InvalidArgument(
                    f"{repo_id} has a zoo {directory.zoo.name} that was made with {key} = "
                    f"{there!r:.100}, not {here!r:.100}: publish to another repository"
                )


def _check_orphans(directory: ZooDirectory, seen: _Seen, own: Collection[str]) -> None:
    """Refuse to continue if the repository has complete models without metrics.

    They would be deleted.

    Args:
        directory: the zoo.
        seen: what the repository has.
        own: models of this directory that are about to be published.

    Raises:
        HubFailed: there are such models, and they are not finished here.
    """
    without = whole_models(seen.remote.files, directory.zoo.name).keys() - seen.models - set(own)
    if orphans := sorted(model for model in without if not directory.finished(model)):
        raise HubFailed(
            f"{seen.remote.repo_id} has {len(orphans)} models of {directory.zoo.name} without "
            f"their metrics, first {orphans[0]}: another publication is under way and will add "
            "them, or its metrics/ were deleted: restore them, or delete the files of these models"
        )


# --- Deleting what is published -------------------------------------------------------------------


def _left(directory: ZooDirectory, model: str) -> list[int]:
    """Return the epochs of a model whose files are here."""
    return [epoch for epoch in directory.kept_epochs if directory.state_path(model, epoch).exists()]


def _free(directory: ZooDirectory, remote: Remote) -> PushSummary:
    """Delete the files of all published models that the repository is seen to have now.

    A model that the repository does not list as it was published waits to be published again.

    Returns:
        Number of freed models, and those whose files differ from the repository's and are kept.
    """
    seen = _look(directory, remote)
    published = directory.published()
    models, records = dict(published.models), dict(published.records)
    freed = 0
    for model, place in published.models.items():
        record = records.get(model)
        if place != "here":
            continue
        if record is None or model not in seen.models or seen.shards[model] != record.shards:
            del models[model]
            records.pop(model, None)
        elif record.source == _source(directory, model):
            models[model] = "freed"
            freed += 1
    # This comes first: a model whose files are not complete must not be trained again.
    directory.write_published(Published(remote.repo_id, models, records=records))
    left_out = {}
    for model, place in models.items():
        # Also what an interrupted run has left.
        if place == "freed" and model in seen.models and (left := _left(directory, model)):
            if _may_go(directory, seen, model, left, records.get(model)):
                _delete(directory, model)
            else:
                left_out[model] = (
                    f"it was freed, but its files here differ from those in {remote.repo_id}: "
                    "delete one of the two"
                )
    return PushSummary(freed=freed, left_out=left_out)


def _may_go(
    directory: ZooDirectory, seen: _Seen, model: str, left: Sequence[int], record: Record | None
) -> bool:
    """Whether the repository has what is left here of a model: by the ledger, or by reading it."""
    known = record is not None and record.source is not None
    if known and record == Record(_source(directory, model), seen.shards[model]):
        return True
    try:
        states = [directory.read(directory.state_path(model, epoch)) for epoch in left]
        return _same_rows(directory, seen, model, states) is True
    except FaultyFile:
        return False


def _delete(directory: ZooDirectory, model: str) -> None:
    """Delete the files of a model, but no others that lie in its folder."""
    folder = directory.models_path / model
    for path in (folder / "checkpoint.pt", *folder.glob(".*.partial")):
        path.unlink(missing_ok=True)
    for epoch in directory.kept_epochs:
        directory.state_path(model, epoch).unlink(missing_ok=True)
    with suppress(OSError):  # there is something else
        folder.rmdir()


# --- What the repository's files hold -------------------------------------------------------------


def _verified(directory: ZooDirectory, seen: _Seen, models: Sequence[str]) -> dict[str, Record]:
    """Return records of those models whose files in the repository hold all their rows.

    Of each file the footer and two columns are read.
    """
    with ThreadPoolExecutor(8) as pool:
        whole = pool.map(lambda model: _is_whole(directory, seen, model), models)
        found = [model for model, is_whole in zip(models, whole, strict=True) if is_whole]
    return {model: Record(None, seen.shards[model]) for model in found}


def _shards(seen: _Seen, model: str) -> list[Shard]:
    remote = seen.remote
    return [Shard(remote.repo_id, remote.head, path, model) for path in sorted(seen.shards[model])]


def _is_whole(directory: ZooDirectory, seen: _Seen, model: str) -> bool:
    """Whether the files of a model in the repository can be read, and hold all kept epochs once."""
    if any(size <= 0 for size, _ in seen.shards[model].values()):
        return False
    size, epochs = directory.zoo.layout.size, set()
    seen_rows: Seen = {}
    try:
        for shard in _shards(seen, model):
            wanted = row_schema(size, ["model_id", "epoch"])
            for table in read_tables(shard, wanted, None, seen.remote.api.token, None, seen_rows):
                if set(table["model_id"].to_pylist()) != {model}:
                    return False
                epochs |= set(table["epoch"].to_pylist())
    except FaultyZoo:
        return False
    return epochs == set(directory.kept_epochs)


def _same_rows(
    directory: ZooDirectory, seen: _Seen, model: str, states: Sequence[ModelFile]
) -> bool | None:
    """Whether the repository has the very rows of some states of a model.

    Returns:
        None if its files of this model are damaged or incomplete.
    """
    if not _is_whole(directory, seen, model):
        return None
    schema = row_schema(directory.zoo.layout.size)
    by_epoch = {int(epoch): file for file in states for epoch in file.epochs}
    filters = pc.field("epoch").isin(sorted(by_epoch))
    try:
        for shard in _shards(seen, model):
            for table in read_tables(shard, schema, filters, seen.remote.api.token):
                for row in range(len(table)):
                    theirs = table.slice(row, 1)
                    ours = read_rows([by_epoch[theirs["epoch"][0].as_py()]], schema)
                    if _bits(theirs) != _bits(ours):
                        return False
    except FaultyZoo:
        return None
    return True


def _bits(row: pa.Table) -> tuple[bytes, str]:
    """Return the values of one row, in which NaN equals NaN."""
    weights = row["weights"].combine_chunks().flatten().to_numpy()
    return weights.tobytes(), repr(row.drop_columns(["weights"]).to_pylist())
