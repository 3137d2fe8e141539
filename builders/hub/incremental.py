"""Publish a ResNet-18 zoo while it is being made, model by model, and make room for the next ones.

A zoo of the paper's is 2.2 TB, a finished model of it 2.2 GB. Its Parquet files hold no other model
(parquet.py), so they can go to the Hub as soon as it is finished: one is written, uploaded and
removed after the other, then one commit adds those of some models, with `metrics` and the card of
all that are there by then. published.json in the zoo directory says which models that are; after
that, if asked for, a model's files are removed here. `load_dataset("model_zoos", ...)` reads the
rows of such a model from the repository.

At whatever moment this is killed, the next call goes on: what the Hub has already is not sent
again, and nothing is removed here but what the repository is seen to have. What it has of this zoo
from elsewhere stays, and is taken over (`prepare_push`).
"""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ...errors import Cancelled, FaultyFile, FaultyZoo, HubFailed, InvalidArgument
from ..architecture import ARCHITECTURES
from ..ledger import Published
from ..model_file import ModelFile
from ..rows import states_table
from ..specification import Zoo
from ..splits import SPLITS
from ..zoo_directory import ZooDirectory
from .names import DATA_FILE, metrics_file, whole_models
from .parquet import (
    METRICS_GROUP_ROWS,
    layout_bytes,
    layout_file,
    plan_data,
    plan_metrics,
    write_shard,
    writer_options,
)
from .publish import (
    FILES_PER_COMMIT,
    card_at,
    card_of,
    commit,
    is_same,
    list_files,
    merge_cards,
    open_head,
    write_token,
    zoo_of_file,
)
from .remote import explained

STAGING_BYTES = max(a.shard_bytes for a in ARCHITECTURES.values() if a.file_per_state)
"""Disk that publishing needs: one Parquet file, at most."""

_FOLDER = ".push"
"""In a zoo directory: the Parquet file that is on its way."""

_MAY_DIFFER = ("format", "layout", "versions")
"""Of zoo.json, between the parts of a zoo that are made on several machines."""


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
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError:
            valid = False
        else:
            valid = self.repo_id.count("/") == 1
        if not valid:
            raise InvalidArgument(
                f"{self.repo_id!r} cannot be the name of a repository: expected ORG/NAME"
            )


@dataclass(frozen=True)
class PushSummary:
    """What one call of `push_models` did.

    Attributes:
        models: that were published now.
        uploaded_bytes: of their files, but for those that the Hub had already.
        freed: models whose files were removed here now, those published earlier included.
        left_out: finished models that could not be published, with the reason.
    """

    models: int
    uploaded_bytes: int
    freed: int
    left_out: Mapping[str, str]


def check_push(zoo: Zoo, repo_id: str, published: Published) -> None:
    """Refuse what could never be published; asks nobody.

    Args:
        zoo: that will be published.
        repo_id: `ORG/NAME`.
        published: what its directory says of earlier publications.

    Raises:
        ValueError: not a ResNet-18 zoo, or one whose earlier models are freed and in another
            repository.
    """
    if not zoo.layout.architecture.file_per_state:
        raise ValueError(
            f"{zoo.name}: only ResNet-18 zoos are published model by model; the models of others "
            "share files: `model-zoos build` and `model-zoos publish` when they are made"
        )
    if published.freed and published.repo_id != repo_id:
        raise ValueError(
            f"{len(published.freed)} models of {zoo.name} are in {published.repo_id} and freed "
            f"here: go on with that repository, not {repo_id}"
        )


def prepare_push(
    directory: ZooDirectory, repo_id: str, *, private: bool = False, token: str | None = None
) -> None:
    """Make a repository if it is missing, see that it may be written, take over what it has.

    Models of this zoo that the repository has whole and this directory has not are written down as
    published and freed, with their splits: a zoo goes on on another disk.

    Args:
        directory: of a ResNet-18 zoo; published.json and splits.json are written.
        repo_id: `ORG/NAME`.
        private: of a repository that is made.
        token: with write access; None for HF_TOKEN or that of `hf auth login`.

    Raises:
        ValueError: as `check_push`; the repository lacks models that were freed here; it has this
            zoo in files that models share or made otherwise; its card cannot hold ours.
        HubFailed: no token, not allowed, or out of reach; the repository has models without their
            metrics.
        RuntimeError: another process publishes this zoo.
    """
    with _alone(directory):
        published = directory.published()
        check_push(directory.zoo, repo_id, published)
        token = write_token(token)
        with explained(repo_id, token):
            api = HfApi(token=token)
            if published.repo_id == repo_id:  # it was there; made anew it would be empty
                api.repo_info(repo_id, repo_type="dataset")
            open_head(api, repo_id, constants.DEFAULT_REVISION, private)
            seen = _look(directory, repo_id, api)
            there = seen.models
            _check_orphans(directory, repo_id, seen, ())
            merge_cards("", card_at(api, repo_id, seen.head, seen.remote))
            # Asks for an upload, which needs the right to write, and commits nothing.
            layout = directory.zoo.layout
            probe = CommitOperationAdd(layout_file(layout), layout_bytes(layout))
            api.preupload_lfs_files(repo_id, [probe], repo_type="dataset", free_memory=False)
        models = {model: "freed" for model in there if not directory.finished(model)}
        # A model that is here in another split is left out and named when its turn comes.
        directory.add_splits(there, there, moved=models)
        models |= dict.fromkeys(published.freed, "freed")
        kept = {m for m, where in published.models.items() if where == "here" and m in there}
        kept -= set(models)
        models |= dict.fromkeys(kept if published.repo_id == repo_id else (), "here")
        if models or published.models or published.stopped:
            directory.write_published(Published(repo_id, models))


def unpublished(directory: ZooDirectory) -> list[str]:
    """Ids of the models that are finished and wait to be published, sorted."""
    known = directory.published().models
    found = sorted(path.name for path in directory.models_path.iterdir() if path.is_dir())
    return [model for model in found if model not in known and directory.finished(model)]


def push_models(
    directory: ZooDirectory,
    repo_id: str,
    *,
    free: bool = False,
    token: str | None = None,
    cancelled: threading.Event | None = None,
    on_published: Callable[[PushSummary], None] = lambda done: None,
) -> PushSummary:
    """Publish the finished models of a zoo that are not published yet.

    Args:
        directory: of a ResNet-18 zoo; other processes may add models to it meanwhile.
        repo_id: `ORG/NAME`, after `prepare_push`.
        free: remove the files of models that are published, once a commit is seen to hold them.
        token: with write access; None for HF_TOKEN or that of `hf auth login`.
        cancelled: stops before the next row group or file.
        on_published: called with what was done since the last call of it, and at once: what an
            error ends is not lost.

    Raises:
        HubFailed: not allowed, out of reach, or changed by somebody else meanwhile; call it again.
        ValueError: as `check_push`, or the repository has this zoo in files that models share.
        Cancelled: told to stop; what was committed stays.
        RuntimeError: another process publishes this zoo.
    """
    cancelled = cancelled or threading.Event()
    token = write_token(token)
    api = HfApi(token=token)
    total = PushSummary(0, 0, 0, {})

    def done(models: int, size: int, freed: int, left_out: Mapping[str, str]) -> None:
        nonlocal total
        total = PushSummary(
            total.models + models,
            total.uploaded_bytes + size,
            total.freed + freed,
            {**total.left_out, **left_out},
        )
        on_published(PushSummary(models, size, freed, left_out))

    with _alone(directory), explained(repo_id, token):
        published = directory.published()
        check_push(directory.zoo, repo_id, published)
        if published.repo_id != repo_id:
            directory.write_published(Published(repo_id, {}))
        # Those published earlier and kept then, and what an interruption has left.
        removable = (m for m, where in published.models.items() if where != "damaged")
        if free and any((directory.models_path / model).exists() for model in removable):
            done(0, 0, _free(directory, api), {})
        waiting = unpublished(directory)
        while waiting:
            left_out: dict[str, str] = {}
            batch, waiting = _batch(directory, waiting, left_out)
            pushed, size = _push(directory, batch, repo_id, api, cancelled, left_out)
            known = directory.published().models
            known = {**known, **dict.fromkeys(left_out, "damaged")}
            known = {**known, **dict.fromkeys(pushed, "here")}
            directory.write_published(Published(repo_id, known))
            done(len(pushed), size, 0, left_out)
            if free and pushed:
                done(0, 0, _free(directory, api), {})
    return total


@contextmanager
def _alone(directory: ZooDirectory) -> Iterator[None]:
    """The only process that publishes a zoo.

    Raises:
        RuntimeError: there is another one.
    """
    try:
        with FileLock(directory.path / ".push.lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"another process publishes {directory.path}") from None


def _batch(
    directory: ZooDirectory, models: Sequence[str], left_out: dict[str, str]
) -> tuple[dict[str, list[ModelFile]], list[str]]:
    """The first models with their states, as many as one commit may have files of, and the rest."""
    batch: dict[str, list[ModelFile]] = {}
    files = 0
    for number, model in enumerate(models):
        paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
        try:
            states = [directory.read(path) for path in paths]
        except FaultyFile as error:
            left_out[model] = str(error)
            continue
        count = len(plan_data(directory, SPLITS[0], states))
        if batch and files + count > FILES_PER_COMMIT - 10:  # metrics, the layout, the card
            return batch, list(models[number:])
        batch[model] = states
        files += count
    return batch, []


def _push(
    directory: ZooDirectory,
    batch: Mapping[str, list[ModelFile]],
    repo_id: str,
    api: HfApi,
    cancelled: threading.Event,
    left_out: dict[str, str],
) -> tuple[list[str], int]:
    """Upload the files of some models, then commit them: which these are, and bytes uploaded."""
    zoo = directory.zoo
    seen = _look(directory, repo_id, api)
    head, remote, there = seen.head, seen.remote, dict(seen.models)
    _check_orphans(directory, repo_id, seen, batch)
    splits = directory.splits()
    additions: list[CommitOperationAdd] = []
    by_split: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
    pushed, sent = [], 0
    new_files: dict[str, int] = {}
    for model, states in sorted(batch.items()):
        split = splits.get(model)
        if split is None or there.get(model, split) != split:
            left_out[model] = (
                "splits.json has no split for it"
                if split is None
                else f"it is in the split {split} here, {there[model]} in {repo_id}"
            )
            continue
        try:
            shards, new = _upload(directory, split, states, remote, repo_id, api, cancelled)
        except FaultyFile as error:
            left_out[model] = str(error)
            continue
        pushed.append(model)
        by_split[split] += states
        there[model] = split
        additions += new
        sent += sum(addition.upload_info.size for addition in new)
        new_files |= shards
    if not pushed:
        return [], 0

    contents: dict[str, Path | bytes] = {layout_file(zoo.layout): layout_bytes(zoo.layout)}
    # Files go that are of an earlier form of these models, or of models that are not whole there.
    stale = {
        path
        for path in remote
        if (model := _model_of(path, zoo)) is not None
        and path not in new_files
        and (model in pushed or model not in there)
    }
    for split, states in by_split.items():
        before = seen.metrics.get(split)
        kept = sorted(m for m, where in there.items() if where == split and m not in pushed)
        if not states and (before is None or set(before["model_id"].to_pylist()) == set(kept)):
            continue
        planned = plan_metrics(directory, split, states)
        if states or kept:
            contents[planned.name] = _metrics(states, planned.schema, before, kept)
        else:
            stale.add(planned.name)
    sizes = {path: entry.size for path, entry in remote.items() if path not in stale} | new_files
    sizes |= {path: len(content) for path, content in contents.items()}
    try:
        ours = card_of(sizes, contents, api, repo_id, head)
    except FaultyZoo:  # another zoo is there by halves, and its own business
        own = {path: size for path, size in sizes.items() if zoo_of_file(path) in (None, zoo.name)}
        ours = card_of(own, contents, api, repo_id, head)
    card, _ = merge_cards(ours, card_at(api, repo_id, head, remote))
    contents["README.md"] = card.encode()  # the last
    for path, content in contents.items():
        entry = remote.get(path)
        if entry is None or not is_same(content, len(content), entry):
            additions.append(CommitOperationAdd(path, content))
    if additions or stale:
        count = f"{len(pushed)} models" if len(pushed) > 1 else f"the model {pushed[0]}"
        deletions = [CommitOperationDelete(path) for path in sorted(stale)]
        message = f"Publish {count} of {zoo.name}"
        commit(api, repo_id, additions, deletions, message, head, constants.DEFAULT_REVISION)
    return pushed, sent


def _upload(
    directory: ZooDirectory,
    split: str,
    states: Sequence[ModelFile],
    remote: Mapping[str, RepoFile],
    repo_id: str,
    api: HfApi,
    cancelled: threading.Event,
) -> tuple[dict[str, int], list[CommitOperationAdd]]:
    """Write and upload the Parquet files of one model, one after the other.

    Returns:
        Sizes of all of them by name, and those that the commit to come must add.
    """
    work = directory.path / _FOLDER
    sizes, additions = {}, []
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    try:
        for shard in plan_data(directory, split, states):
            if cancelled.is_set():
                raise Cancelled
            path = work / "shard.parquet"
            write_shard(shard, path, cancelled)
            sizes[shard.name] = path.stat().st_size
            entry = remote.get(shard.name)
            if entry is None or not is_same(path, sizes[shard.name], entry):
                addition = CommitOperationAdd(shard.name, path)
                api.preupload_lfs_files(repo_id, [addition], repo_type="dataset")
                if not getattr(addition, "_is_uploaded", True):
                    raise ValueError(
                        f"{repo_id} ignores {shard.name}, or keeps it as a small file: mend its "
                        ".gitignore and .gitattributes (*.parquet filter=lfs diff=lfs merge=lfs)"
                    )
                additions.append(addition)
            path.unlink()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sizes, additions


def _metrics(
    states: Sequence[ModelFile], schema: pa.Schema, before: pa.Table | None, kept: Sequence[str]
) -> bytes:
    """The Parquet file of a split's rows without weights: new ones, and those there were of the
    models `kept`. In its bytes that which `build` makes of all of them."""
    table = states_table(states, schema) if states else schema.empty_table()
    if before is not None:
        others = before.filter(pc.is_in(before["model_id"], pa.array(kept, pa.string())))
        table = pa.concat_tables([others.cast(schema), table]).sort_by(
            [("model_id", "ascending"), ("epoch", "ascending")]
        )
    table = table.combine_chunks()
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, **writer_options(schema)) as writer:
        for start in range(0, len(table), METRICS_GROUP_ROWS):
            part = table.slice(start, METRICS_GROUP_ROWS)
            writer.write_table(part, row_group_size=len(part))
    return buffer.getvalue()


def _model_of(path: str, zoo: Zoo) -> str | None:
    """Whose rows a file of this zoo holds."""
    match = DATA_FILE.fullmatch(path)
    return match["model_id"] if match and match["zoo"] == zoo.name else None


@dataclass(frozen=True)
class _Seen:
    """What a repository has of a zoo at one commit.

    Attributes:
        head: the commit.
        remote: all its files.
        metrics: of the zoo, by split.
        models: that are whole there, with their metrics -> their splits.
    """

    head: str
    remote: Mapping[str, RepoFile]
    metrics: Mapping[str, pa.Table]
    models: Mapping[str, str]


def _look(directory: ZooDirectory, repo_id: str, api: HfApi) -> _Seen:
    """What a repository has of a zoo now; one that is not there is not made.

    Raises:
        ValueError: its files of this zoo are not one model's each, it lacks freed models, or has a
            zoo of this name that was made otherwise.
    """
    head = str(api.repo_info(repo_id, repo_type="dataset").sha)
    remote = list_files(api, repo_id, head)
    files = HfFileSystem(token=api.token)
    metrics = {}
    for split in SPLITS:
        if (name := metrics_file(directory.zoo.name, split)) in remote:
            with files.open(f"datasets/{repo_id}@{head}/{name}", "rb") as file:
                metrics[split] = pq.read_table(file)
    models = _models_there(directory, repo_id, remote, metrics)
    _check_provenance(directory, repo_id, metrics)
    return _Seen(head, remote, metrics, models)


def _models_there(
    directory: ZooDirectory,
    repo_id: str,
    remote: Mapping[str, RepoFile],
    tables: Mapping[str, pa.Table],
) -> dict[str, str]:
    """The models of a zoo that a repository has whole, with their metrics -> their splits.

    Raises:
        ValueError: its files of this zoo are not one model's each, or it lacks freed models.
    """
    zoo = directory.zoo
    for path in remote:
        if zoo_of_file(path) == zoo.name and DATA_FILE.fullmatch(path) and not _model_of(path, zoo):
            raise ValueError(
                f"{repo_id} has {zoo.name} in files that models share ({path}): publish to "
                "another repository, or build that zoo anew and publish it first"
            )
    rows = {split: set(table["model_id"].to_pylist()) for split, table in tables.items()}
    there = {
        model: split
        for model, split in whole_models(remote, zoo.name).items()
        if model in rows.get(split, ())
    }
    published = directory.published()
    lacking = published.freed - set(there) if published.repo_id == repo_id else ()
    if lacking:
        raise ValueError(
            f"{len(lacking)} models of {directory.path} were published to {repo_id} and freed "
            f"here, but are not there any more, first {min(lacking)}: restore that repository, "
            f"or remove {directory.path / 'published.json'} to train them again"
        )
    return there


def _check_provenance(
    directory: ZooDirectory, repo_id: str, tables: Mapping[str, pa.Table]
) -> None:
    """Refuse a zoo of the same name that was made otherwise.

    Raises:
        ValueError: it was.
    """
    ours = {key: value for key, value in directory.info.items() if key not in _MAY_DIFFER}
    for table in tables.values():
        about = json.loads((table.schema.metadata or {}).get(b"model_zoos", b"{}"))
        for key in ours.keys() | about.keys() - set(_MAY_DIFFER):
            if ours.get(key) != about.get(key):
                raise ValueError(
                    f"{repo_id} has a zoo {directory.zoo.name} that was made with {key} = "
                    f"{about.get(key)!r:.100}, not {ours.get(key)!r:.100}: publish to another "
                    "repository"
                )


def _check_orphans(
    directory: ZooDirectory, repo_id: str, seen: _Seen, own: Collection[str]
) -> None:
    """Refuse to go on beside whole models whose rows no metrics have: they would be deleted.

    Args:
        own: models of this directory that are about to be published.

    Raises:
        HubFailed: there are such models.
    """
    without = set(whole_models(seen.remote, directory.zoo.name)) - set(seen.models) - set(own)
    if orphans := sorted(model for model in without if not directory.finished(model)):
        raise HubFailed(
            f"{repo_id} has {len(orphans)} models of {directory.zoo.name} without their metrics, "
            f"first {orphans[0]}: another publication is under way, whose end is waited for, or "
            "its metrics/ were removed: restore them, or remove the files of these models"
        )


def _free(directory: ZooDirectory, api: HfApi) -> int:
    """Remove the files of all models that are published, if they are seen to be there now.

    Returns:
        How many.
    """
    published = directory.published()
    repo_id = published.repo_id
    there = set(_look(directory, repo_id, api).models)
    here = {model for model, where in published.models.items() if where == "here"}
    models = {m: where for m, where in published.models.items() if m not in here - there}
    # First this: a model whose files are not whole must not be trained again.
    models |= dict.fromkeys(here & there, "freed")
    directory.write_published(Published(repo_id, models))
    for model, where in models.items():
        if where == "freed" and model in there:  # those that an interruption has left, too
            shutil.rmtree(directory.models_path / model, ignore_errors=True)
    return len(here & there)
