"""Publish a ResNet-18 zoo while it is being made, model by model, and make room for the next ones.

A zoo of the paper's is 2.2 TB, a finished model of it 2.2 GB. Its Parquet files hold no other model
(parquet.py), so they can go to the Hub as soon as it is finished: one is written, uploaded and
removed after the other, then one commit adds those of some models, with `metrics` and the card of
all that are there by then. published.json in the zoo directory says which models that are; after
that, if asked for, a model's files are removed here. `load_dataset("model_zoos", ...)` reads the
rows of such a model from the repository.

At whatever moment this is killed, the next call goes on: what the Hub has already is not sent
again, and nothing is removed here that no commit holds. Rows of other models that the repository
has of this zoo stay.
"""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
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
from huggingface_hub.hf_api import RepoFile

from .catalog import Zoo
from .hub import (
    FILES_PER_COMMIT,
    card_at,
    card_of,
    commit,
    is_same,
    list_files,
    merge_cards,
    open_head,
    write_token,
)
from .parquet import (
    METRICS_GROUP_ROWS,
    SHARD_BYTES,
    layout_bytes,
    layout_file,
    plan_data,
    plan_metrics,
    write_shard,
    writer_options,
)
from .repository import DATA_FILE, explained
from .schema import states_table
from .zoo_directory import Published, States, ZooDirectory

STAGING_BYTES = SHARD_BYTES["resnet18"]
"""Disk that publishing needs: one Parquet file, at most."""

_FOLDER = ".push"
"""In a zoo directory: the Parquet file that is on its way."""


class PushCancelled(Exception):
    """Publishing was told to stop; what was committed stays."""


@dataclass(frozen=True)
class PushSummary:
    """What one call of `push_models` did.

    Attributes:
        models: that were published now.
        uploaded_bytes: of their files, but for those that the Hub had already.
        freed: models whose files were removed here now, those published earlier included.
    """

    models: int
    uploaded_bytes: int
    freed: int


def check_push(zoo: Zoo, repo_id: str, published: Published, token: str | None = None) -> None:
    """Refuse what could not be published, before hours of training; makes a missing repository.

    Args:
        zoo: that will be published.
        repo_id: `ORG/NAME`.
        published: what its directory says of earlier publications.
        token: with write access; None for HF_TOKEN or that of `hf auth login`.

    Raises:
        ValueError: not a ResNet-18 zoo, or one whose earlier models are freed and in another
            repository, or the repository has this zoo in files that models share.
        HubFailed: no token, not allowed, or out of reach.
    """
    if zoo.architecture != "resnet18":
        raise ValueError(
            f"{zoo.name}: only ResNet-18 zoos are published model by model; the models of others "
            "share files: `model-zoos build` and `model-zoos publish` when they are made"
        )
    if published.freed and published.repo_id != repo_id:
        raise ValueError(
            f"{len(published.freed)} models of {zoo.name} are in {published.repo_id} and freed "
            f"here: go on with that repository, not {repo_id}"
        )
    token = write_token(token)
    with explained(repo_id, token):
        api = HfApi(token=token)
        head = open_head(api, repo_id, constants.DEFAULT_REVISION)
        _check_form(zoo, repo_id, list_files(api, repo_id, head))
        # Asks for an upload, which needs the right to write, and commits nothing.
        layout = CommitOperationAdd(layout_file(zoo.layout), layout_bytes(zoo.layout))
        api.preupload_lfs_files(repo_id, [layout], repo_type="dataset", free_memory=False)


def push_models(
    directory: ZooDirectory,
    repo_id: str,
    *,
    free: bool = False,
    token: str | None = None,
    cancelled: threading.Event | None = None,
    on_published: Callable[[int], None] = lambda models: None,
) -> PushSummary:
    """Publish the finished models of a zoo that are not published yet.

    Args:
        directory: of a ResNet-18 zoo; other processes may add models to it meanwhile.
        repo_id: `ORG/NAME`, which `check_push` has found good.
        free: remove the files of models that are published.
        token: with write access; None for HF_TOKEN or that of `hf auth login`.
        cancelled: stops before the next row group or file.
        on_published: called after every commit with the number of models that it added.

    Raises:
        HubFailed: not allowed, out of reach, or changed by somebody else meanwhile; call it again.
        ValueError: the repository has this zoo in files that models share.
        FaultyFile: a model's file was damaged after it had been written.
        PushCancelled: told to stop.
        RuntimeError: another process publishes this zoo.
    """
    cancelled = cancelled or threading.Event()
    token = write_token(token)
    api = HfApi(token=token)
    work = directory.path / _FOLDER
    try:
        with FileLock(directory.path / ".push.lock", timeout=0), explained(repo_id, token):
            models = sent = freed = 0
            if free and directory.published().repo_id == repo_id:  # published earlier, then kept
                freed += _free(directory)
            for batch in _batches(directory, _unpublished(directory, repo_id)):
                work.mkdir(exist_ok=True)
                try:
                    sent += _push(directory, batch, repo_id, api, work, cancelled)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                known = directory.published()
                here = known.models if known.repo_id == repo_id else {}
                here = {**here, **dict.fromkeys(batch, "here")}
                directory.write_published(Published(repo_id, here))
                models += len(batch)
                if free:
                    freed += _free(directory)
                on_published(len(batch))
    except Timeout:
        raise RuntimeError(f"another process publishes {directory.path}") from None
    return PushSummary(models, sent, freed)


def _unpublished(directory: ZooDirectory, repo_id: str) -> list[str]:
    """Ids of finished models that the repository lacks, sorted."""
    published = directory.published()
    known = published.models if published.repo_id == repo_id else {}
    found = sorted(path.name for path in directory.models_path.iterdir() if path.is_dir())
    return [model for model in found if model not in known and directory.finished(model)]


def _batches(directory: ZooDirectory, models: Sequence[str]) -> Iterator[dict[str, list[States]]]:
    """Model ids with their states: as many as one commit may have files of."""
    batch: dict[str, list[States]] = {}
    files = 0
    for model in models:
        paths = [directory.state_path(model, epoch) for epoch in directory.kept_epochs]
        states = [directory.read(path) for path in paths]
        count = len(plan_data(directory, "train", states))
        if batch and files + count > FILES_PER_COMMIT - 10:  # metrics, the layout, the card
            yield batch
            batch, files = {}, 0
        batch[model] = states
        files += count
    if batch:
        yield batch


def _push(
    directory: ZooDirectory,
    batch: dict[str, list[States]],
    repo_id: str,
    api: HfApi,
    work: Path,
    cancelled: threading.Event,
) -> int:
    """Upload the files of some models, then commit them; bytes uploaded."""
    head = open_head(api, repo_id, constants.DEFAULT_REVISION)
    remote = list_files(api, repo_id, head)
    _check_form(directory.zoo, repo_id, remote)
    splits = directory.splits()
    by_split: dict[str, list[States]] = {}
    for model, states in sorted(batch.items()):
        by_split.setdefault(splits[model], []).extend(states)

    sizes = {path: entry.size for path, entry in remote.items()}
    additions: list[CommitOperationAdd] = []
    names, sent = set(), 0
    for split, states in by_split.items():
        for shard in plan_data(directory, split, states):
            if cancelled.is_set():
                raise PushCancelled
            path = work / "shard.parquet"
            write_shard(shard, path, cancelled)
            names.add(shard.name)
            sizes[shard.name] = path.stat().st_size
            entry = remote.get(shard.name)
            if entry is None or not is_same(path, sizes[shard.name], entry):
                addition = CommitOperationAdd(shard.name, path)
                api.preupload_lfs_files(repo_id, [addition], repo_type="dataset")
                additions.append(addition)
                sent += sizes[shard.name]
            path.unlink()
    stale = {  # of an earlier form of these models
        path for path in remote if _model_of(path, directory.zoo) in batch and path not in names
    }
    contents: dict[str, Path | bytes] = {
        layout_file(directory.zoo.layout): layout_bytes(directory.zoo.layout)
    }
    files = HfFileSystem(token=api.token)
    for split, states in by_split.items():
        planned = plan_metrics(directory, split, states)
        before = None
        if planned.name in remote:
            with files.open(f"datasets/{repo_id}@{head}/{planned.name}", "rb") as file:
                before = pq.read_table(file)
        contents[planned.name] = _metrics(states, planned.schema, before)
    sizes = {path: size for path, size in sizes.items() if path not in stale}
    sizes |= {path: len(content) for path, content in contents.items()}
    ours = card_of(sizes, contents, api, repo_id, head)
    card, _ = merge_cards(ours, card_at(api, repo_id, head, remote))
    contents["README.md"] = card.encode()  # the last
    for path, content in contents.items():
        entry = remote.get(path)
        if entry is None or not is_same(content, len(content), entry):
            additions.append(CommitOperationAdd(path, content))
    if additions or stale:
        count = f"{len(batch)} models" if len(batch) > 1 else f"the model {min(batch)}"
        deletions = [CommitOperationDelete(path) for path in sorted(stale)]
        message = f"Publish {count} of {directory.zoo.name}"
        branch = constants.DEFAULT_REVISION
        commit(api, repo_id, additions, deletions, message, head, branch)
    return sent


def _metrics(states: Sequence[States], schema: pa.Schema, before: pa.Table | None) -> bytes:
    """The Parquet file of a split's rows without weights: those of some models anew, all others as
    they were. In its bytes that which `build` makes of all of them."""
    table = states_table(states, schema)
    if before is not None:
        new = pa.array(sorted({one.model_id for one in states}))
        others = before.filter(pc.invert(pc.is_in(before["model_id"], new))).cast(schema)
        table = pa.concat_tables([others, table]).sort_by(
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


def _check_form(zoo: Zoo, repo_id: str, remote: dict[str, RepoFile]) -> None:
    """Refuse a repository whose files of this zoo are not one model's each."""
    for path in remote:
        match = DATA_FILE.fullmatch(path)
        if match and match["zoo"] == zoo.name and match["model_id"] is None:
            raise ValueError(
                f"{repo_id} has {zoo.name} in files that models share ({path}): publish to "
                "another repository, or build that zoo anew and publish it first"
            )


def _free(directory: ZooDirectory) -> int:
    """Remove the files of all models that are published; their number."""
    published = directory.published()
    freed = [model for model, where in published.models.items() if where == "here"]
    if freed:
        # First this: a model whose files are not whole must not be trained again.
        everywhere = dict.fromkeys(published.models, "freed")
        directory.write_published(Published(published.repo_id, everywhere))
    for model in published.models:  # those that an interruption has left too
        shutil.rmtree(directory.models_path / model, ignore_errors=True)
    return len(freed)
