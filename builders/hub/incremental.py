"""Publish a ResNet-18 zoo model by model while it is made, and delete published models here.

A zoo of the paper takes 2.2 TB, a finished model of it 2.2 GB. The Parquet files of a model hold no
other model (shards.py), so they can be published as soon as it is finished. Each file is written,
uploaded and deleted before the next one is written. Then one commit adds the files of some models,
with `metrics` and a card that cover all models that are there by then. The ledger published.json in
the zoo directory records these models; after that, their files here are deleted if asked
for. `load_dataset("model_zoos", ...)` reads the rows of such a model from the repository.

An interrupted call can be resumed: what the Hub has is not sent again. The ledger records size and
SHA-256 of each Parquet file, and a digest of the model files that it was made from. Model files
are deleted only while both are unchanged: the Parquet files in the repository's listing, and the
model files here. If the model files have changed, they are published again. Rows of this zoo that
the repository has from elsewhere stay and are recorded (`prepare_push`); another model of the same
id is never replaced.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, HfApi, constants

from ...errors import AlreadyRunning, Cancelled, FaultyFile, FaultyZoo, InvalidArgument
from ..architecture import ARCHITECTURES
from ..ledger import Listed, Published, Record
from ..model_file import ModelFile
from ..rows import states_table
from ..specification import Zoo
from ..splits import SPLITS
from ..zoo_directory import ZooDirectory
from .freeing import free_published, left_epochs, source_digest
from .licence import card_licence
from .merge import merge_cards
from .names import (
    CARD,
    DATA_FILE,
    layout_file,
    matches,
    model_of,
    whole_models,
    zoo_of,
)
from .parquet import metrics_bytes, write_shard
from .publish import future_card
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
from .remote_zoo import (
    RemoteZoo,
    check_orphans,
    read_remote,
    refuse_lost,
    same_rows,
    verified,
)
from .shards import data_shards, layout_bytes, metrics_shard

STAGING_BYTES = max(a.shard_bytes for a in ARCHITECTURES.values() if a.file_per_state)
"""Disk space that publishing needs: at most one Parquet file at a time."""

_FOLDER = ".push"
"""Folder in a zoo directory for the Parquet file being uploaded."""


@dataclass(frozen=True)
class PublishOptions:
    """Where the models of a zoo are published while others train, and whether they stay here.

    Attributes:
        repo_id: `ORG/NAME` on the Hub.
        free: delete the files of a model here once the repository is known to hold them.
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
    """Refuse what can never be published, without a request to the Hub.

    Args:
        zoo: the zoo to publish.
        options: the repository.
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
    """Create a repository if it does not exist, check write access, and record its models.

    Models of this zoo that are complete in the repository and not in this directory are recorded as
    published and freed, with their splits: a zoo can be continued on another disk.

    Args:
        directory: a ResNet-18 zoo; published.json and splits.json are written.
        options: the repository.

    Raises:
        InvalidArgument: see `check_push`; also if the repository lacks models that were freed
            here or their files are damaged; if it has this zoo in files that models share, or a
            different zoo of this name; if its card cannot be merged with ours, or names its
            licence without an id of the Hub.
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
            repo = read_remote(directory, Remote.at(api, repo_id, head))
            check_orphans(directory, repo, ())
            theirs = repo.remote.card()
            merge_cards("", theirs)
            card_licence(theirs)
            # Asks the Hub for an upload, which requires write access, and commits nothing.
            layout = directory.zoo.layout
            repo.remote.upload([CommitOperationAdd(layout_file(layout), layout_bytes(layout))])
            old = published.records if published.repo_id == repo_id else {}
            records = {
                model: record
                for model, record in old.items()
                if repo.shards.get(model) == record.shards
            }
            ours = published.freed if published.repo_id == repo_id else frozenset()
            absent = {model for model in repo.models if not directory.complete(model)}
            unknown = sorted(((ours & repo.models.keys()) | absent) - records.keys())
            records |= verified(directory, repo, unknown)
            freed = (ours | absent) & records.keys()
            refuse_lost(directory, repo_id, ours - freed)
        splits = {model: split for model, split in repo.models.items() if model in records}
        # A model that is here in another split is left out and named when its turn comes.
        directory.add_splits(repo.models, splits, moved=freed)
        models = dict.fromkeys(sorted(freed), "freed")
        if published.repo_id == repo_id:
            here = {model for model, place in published.models.items() if place == "here"}
            models |= dict.fromkeys((here & repo.models.keys() & records.keys()) - freed, "here")
        if models or published.models or published.stopped:
            directory.write_published(Published(repo_id, models, records=records))


def unpublished(directory: ZooDirectory) -> list[str]:
    """Return the ids of the finished models that wait to be published, sorted.

    A published model waits again if its files have changed or were copied, or if its ledger is from
    an earlier version, which does not record the files. Content that the repository already has is
    not sent again.
    """
    published = directory.published()

    def waits(model: str) -> bool:
        place, record = published.models.get(model), published.records.get(model)
        if place == "here":
            return record is None or record.source != source_digest(directory, model)
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
        options: the repository, after `prepare_push`.
        cancelled: set to stop before the next row group or file.
        on_published: called after each step with its summary, so that an error loses nothing.

    Raises:
        HubFailed: not allowed, out of reach, or changed by somebody else meanwhile; call it again.
        InvalidArgument, FaultyZoo: see `prepare_push`.
        Cancelled: `cancelled` was set; committed models stay.
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

    def free() -> None:
        freed, left_out = free_published(directory, Remote.at(api, repo_id))
        done(PushSummary(freed=freed, left_out=left_out))

    with _locked(directory), explained(repo_id, token):
        published = directory.published()
        check_push(directory.zoo, options, published)
        if published.repo_id != repo_id:
            directory.write_published(Published(repo_id, {}))
        # Models that were published and kept earlier, and those left by an interrupted run.
        places = published.models.items()
        if options.free and any(
            left_epochs(directory, model) for model, place in places if place != "damaged"
        ):
            free()
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
                free()
    return total


@contextmanager
def _locked(directory: ZooDirectory) -> Iterator[None]:
    """Hold the lock on publishing a zoo.

    Raises:
        AlreadyRunning: another process holds it.
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
        source: the digest in a `Record` of these files, taken before they were read.
    """

    states: list[ModelFile]
    source: str | None


def _batch(
    directory: ZooDirectory, models: Sequence[str]
) -> tuple[dict[str, _Candidate], list[str], dict[str, str]]:
    """Return the first models, as many as one commit can add; the other models; the faulty ones."""
    batch: dict[str, _Candidate] = {}
    faulty: dict[str, str] = {}
    count = 10  # metrics, the layout, the card
    for number, model in enumerate(models):
        paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
        source = source_digest(directory, model)
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


@dataclass(frozen=True)
class _Uploaded:
    """Models whose files are uploaded and wait for a commit.

    Attributes:
        states: split -> their model files.
        records: their records.
        additions: the files that the commit must add.
        left_out: models that could not be uploaded, with the reason.
    """

    states: Mapping[str, list[ModelFile]]
    records: dict[str, Record]
    additions: list[CommitOperationAdd]
    left_out: dict[str, str]


def _push(
    directory: ZooDirectory,
    batch: Mapping[str, _Candidate],
    remote: Remote,
    cancelled: threading.Event,
) -> tuple[PushSummary, dict[str, Record]]:
    """Upload the files of some models, then commit them.

    Returns:
        The summary, and the record of each model published.
    """
    repo = read_remote(directory, remote)
    check_orphans(directory, repo, batch)
    new = _upload_models(directory, batch, repo, cancelled)
    pushed = new.records.keys()
    if not pushed:
        return PushSummary(left_out=new.left_out), {}
    zoo = directory.zoo
    contents: dict[str, Content] = {layout_file(zoo.layout): layout_bytes(zoo.layout)}
    new_files = {path: listed[0] for r in new.records.values() for path, listed in r.shards.items()}
    # Files of these models from an earlier build, and of incomplete models, are deleted.
    whole = whole_models(remote.files, zoo.name)
    stale = {
        match.string
        for match in matches(DATA_FILE, remote.files)
        if match["zoo"] == zoo.name
        and match.string not in new_files
        and (match["model_id"] in pushed or match["model_id"] not in whole)
    }
    for split, states in new.states.items():
        kept = {m for m, where in repo.models.items() if where == split and m not in pushed}
        shard = metrics_shard(directory, split, states)
        if not states and not kept:
            stale |= {shard.name} & remote.files.keys()
        elif states or set(repo.metrics[split]["model_id"].to_pylist()) != kept:
            contents[shard.name] = metrics_bytes(
                _metrics(states, shard.schema, repo.metrics.get(split), kept)
            )
    sizes = {path: entry.size for path, entry in remote.files.items() if path not in stale}
    sizes |= new_files | {path: size_of(content) for path, content in contents.items()}
    # The card comes last.
    contents[CARD] = _card(zoo, remote, sizes, contents, repo.models.keys() | pushed).encode()
    additions = new.additions + [
        CommitOperationAdd(path, content)
        for path, content in contents.items()
        if not remote.has(path, content)
    ]
    if additions or stale:
        count = f"{len(pushed)} models" if len(pushed) > 1 else f"the model {min(pushed)}"
        remote.commit(additions, sorted(stale), f"Publish {count} of {zoo.name}")
    sent = sum(addition.upload_info.size for addition in new.additions)
    return PushSummary(len(pushed), sent, 0, new.left_out), new.records


def _card(
    zoo: Zoo,
    remote: Remote,
    sizes: Mapping[str, int],
    contents: Mapping[str, Content],
    models: Collection[str],
) -> str:
    """Return the card of the repository after a commit, with the texts that it has now.

    Args:
        zoo: the zoo that is published.
        remote: the repository before the commit.
        sizes: name -> bytes of all files after it.
        contents: what the commit adds besides the files with weights.
        models: all models of the zoo that are there after it.
    """
    theirs = remote.card()
    licence = card_licence(theirs)  # no folder has another one
    try:
        ours = future_card(remote, sizes, contents, licence)
    except FaultyZoo:  # another zoo is incomplete there, which does not concern this run
        own = {
            path: size
            for path, size in sizes.items()
            if zoo_of(path) in (None, zoo.name) and model_of(path) in (None, *models)
        }
        ours = future_card(remote, own, contents, licence)
    card, _ = merge_cards(ours, theirs)
    return card


def _upload_models(
    directory: ZooDirectory,
    batch: Mapping[str, _Candidate],
    repo: RemoteZoo,
    cancelled: threading.Event,
) -> _Uploaded:
    """Upload the files of some models, except of those that are in the repository otherwise."""
    splits, repo_id = directory.splits(), repo.remote.repo_id
    done = _Uploaded({split: [] for split in SPLITS}, {}, [], {})
    for model, candidate in sorted(batch.items()):
        split = splits.get(model)
        if split is None:
            done.left_out[model] = "splits.json has no split for it"
            continue
        if (theirs := repo.models.get(model, split)) != split:
            done.left_out[model] = f"it is in the split {split} here, {theirs} in {repo_id}"
            continue
        try:
            shards, additions = _upload(directory, split, model, candidate, repo, cancelled)
        except FaultyFile as error:
            done.left_out[model] = str(error)
            continue
        if shards is None:
            done.left_out[model] = (
                f"{repo_id} has another model of this id, which is not replaced: "
                "publish to another repository, or delete one of the two"
            )
            continue
        done.states[split].extend(candidate.states)
        done.additions.extend(additions)
        done.records[model] = Record(candidate.source, shards)
    return done


def _upload(
    directory: ZooDirectory,
    split: str,
    model: str,
    candidate: _Candidate,
    repo: RemoteZoo,
    cancelled: threading.Event,
) -> tuple[Mapping[str, Listed] | None, list[CommitOperationAdd]]:
    """Write and upload the Parquet files of one model, one after the other.

    Returns:
        What the Hub will list for them, and those that the commit must add. If the repository has
        the same rows in other files, what it lists for those; None if it has another model.
    """
    remote = repo.remote
    shards: dict[str, Listed] = {}
    additions: list[CommitOperationAdd] = []
    theirs = repo.shards.get(model, {})
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
                    same = same_rows(directory, repo, model, candidate.states)
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
    """Return rows without weights, in a build's form: of new states, and of the models kept.

    Args:
        states: the new states.
        schema: of the file.
        before: the rows that the repository has; None if it has none.
        kept: ids of the models whose rows are taken from `before`.
    """
    table = states_table(states, schema) if states else schema.empty_table()
    if before is None:
        return table
    others = before.filter(pc.is_in(before["model_id"], pa.array(sorted(kept), pa.string())))
    order = [("model_id", "ascending"), ("epoch", "ascending")]
    return pa.concat_tables([others.cast(schema), table]).sort_by(order)
