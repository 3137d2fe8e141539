"""Publish a built repository folder to the Hugging Face Hub (incremental.py: model by model).

Only files that differ from the repository are sent: a file is compared by the SHA-256 (LFS) or the
git blob id that the Hub lists for it; `digests` keeps the SHA-256 of unchanged files. The large
files are uploaded first. Then one commit adds all files. Its parent is the commit that they were
compared with, and it succeeds or fails as a whole. More than `remote.FILES_PER_COMMIT` files take
several commits, each with the previous one as parent. Files that an interrupted run uploaded are
not sent again. Other zoos and layouts, other people's files, and configs that the folder's card
lacks all stay.

`Dataset.push_to_hub` cannot be used: it would encode the weights again, at 1.3 times their size.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi, constants

from ...errors import FaultyZoo, InvalidArgument, ModelZoosWarning
from ..files import files_below
from ..phrases import counted, few, typed
from ..zoo_directory import list_zoo_directories
from .build_ranks import recorded
from .card import published_card, render_card
from .contents import describe_contents, read_contents
from .digests import Digests
from .licence import LICENCE, card_licence, check_licence
from .merge import merge_cards, parse_card, with_text_of
from .names import (
    CARD,
    CROISSANT,
    DATA_FILE,
    FILES,
    METRICS_FILE,
    data_files,
    matches,
    metrics_file,
    model_of,
    source_file,
    zoo_of,
)
from .remote import (
    Content,
    Remote,
    check_repo_id,
    explained,
    open_content,
    open_head,
    size_of,
    write_token,
)

_FILES_AT_ONCE = 16
"""Files uploaded together, five at a time, before progress is reported."""

Progress = Callable[[str, int, int], None]
"""Called with "compared" or "uploaded", the bytes done and the bytes in all."""


@dataclass(frozen=True)
class PublishSummary:
    """What a publication changed.

    Attributes:
        repo_id: `ORG/NAME`.
        url: address of the commit or pull request.
        commit: the repository's head; the previous one if nothing has changed.
        zoos: zoos in the folder.
        uploaded, uploaded_bytes: files that are new or have changed. Files that an interrupted run
            uploaded are counted, although they were not sent again.
        renamed: files whose content the repository had under other names, so that nothing was sent.
        unchanged, unchanged_bytes: files that the repository already had.
        deleted: files of earlier builds of the same zoos that were deleted.
        kept_configs: configs of the card that are not the folder's.
    """

    repo_id: str
    url: str
    commit: str
    zoos: tuple[str, ...]
    uploaded: int
    uploaded_bytes: int
    renamed: int
    unchanged: int
    unchanged_bytes: int
    deleted: tuple[str, ...]
    kept_configs: tuple[str, ...]


def publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    drop_models: bool = False,
    on_progress: Progress | None = None,
) -> PublishSummary:
    """Bring a repository on the Hub up to date with a folder; create it if it does not exist.

    Args:
        folder: a repository folder written by `build_folder`.
        repo_id: `ORG/NAME`.
        token: with write access; None for HF_TOKEN or the token of `hf auth login`.
        private: create the repository as a private one.
        revision: branch to commit to, created if it does not exist; None for main. "refs/pr/1" adds
            to a pull request.
        create_pr: open a pull request instead of committing to a branch.
        drop_models: delete models of the folder's zoos that the repository has and the folder
            lacks.
        on_progress: called after each file compared, and after each batch uploaded.

    Raises:
        InvalidArgument: `repo_id` is not ORG/NAME; the folder is not a built repository, or lacks
            models that the repository has, without `drop_models`; `private` for a repository that
            is public; a branch together with a pull request; a licence that is not an id of
            the Hub.
        FaultyZoo: the build of the folder was interrupted, or a file was damaged after it.
        HubFailed: no token, not allowed, no such repository (for a pull request), out of reach, or
            changed by somebody else meanwhile. The message does not contain the token.
    """
    if create_pr and revision is not None:
        raise InvalidArgument("a pull request goes to main: give a revision or create_pr, not both")
    check_repo_id(repo_id)
    folder = Path(folder).expanduser()
    files = folder_files(folder)
    described = read_contents(folder)  # refuses the folder of an interrupted build
    zoos = tuple(sorted({zoo for zoo, _ in data_files(files)[0]}))
    token = write_token(token)
    branch = None if create_pr else revision or constants.DEFAULT_REVISION
    with explained(repo_id, token):
        api = HfApi(token=token)
        remote = Remote.at(api, repo_id, open_head(api, repo_id, branch, private))
        contents: dict[str, Content] = {path: folder / path for path in files}
        own = {path for path in remote.files if zoo_of(path) in zoos}
        own |= {source_file(zoo) for zoo in zoos} & remote.files.keys()
        stale = sorted(own - contents.keys())
        digests = Digests(folder)
        if not drop_models:
            _check_models(remote, folder, stale, files, digests)
        theirs = remote.card()
        text = (folder / CARD).read_text("utf-8")
        ours = published_card(text, repo_id, described)
        if any(zoo_of(path) not in (None, *zoos) for path in remote.files):
            licence = _licence_of_all(repo_id, card_licence(text), theirs)
            sizes = {path: entry.size for path, entry in remote.files.items() if path not in stale}
            sizes |= {path: size_of(content) for path, content in contents.items()}
            # After a part of several commits, a zoo looks faulty; the next run fixes the card.
            with suppress(FaultyZoo):
                ours = with_text_of(future_card(remote, sizes, contents, licence), text)
        card, kept = merge_cards(ours, theirs)
        contents[CARD] = card.encode()
        changed, unchanged = _compare(contents, remote, digests, on_progress)
        renamed = [path for path in changed if remote.knows(contents[path], digests.sha256)]
        order = sorted(changed, key=lambda path: path == CARD)  # it comes last
        additions = [CommitOperationAdd(path, contents[path]) for path in order]
        _refuse_damaged(folder, zoos, additions, digests)
        digests.save()
        commit, url = remote.head, f"{constants.ENDPOINT}/datasets/{repo_id}/tree/{remote.head}"
        if changed or stale:
            _upload(remote, additions, branch, on_progress)
            message = f"Publish {few(zoos, 3)}"
            commit, url = remote.commit(additions, stale, message, branch)
    return PublishSummary(
        repo_id=repo_id,
        url=url,
        commit=commit,
        zoos=zoos,
        uploaded=len(changed) - len(renamed),
        uploaded_bytes=sum(changed.values()) - sum(changed[path] for path in renamed),
        renamed=len(renamed),
        unchanged=len(unchanged),
        unchanged_bytes=sum(unchanged.values()),
        deleted=tuple(stale),
        kept_configs=kept,
    )


def folder_files(folder: Path) -> list[str]:
    """Return the files of a built folder that make the repository, sorted, with slashes.

    Raises:
        InvalidArgument: it is not a built folder, holds other files, or lacks shards of a split.
    """

    def refused(reason: str) -> InvalidArgument:
        return InvalidArgument(reason, hint=f"model-zoos build NAME --out {typed(folder)}")

    if (folder / "zoo.json").exists():
        raise InvalidArgument(
            f"{folder} is a zoo directory, and a repository is what `build` makes of it",
            hint=f"model-zoos build {typed(folder.name)} --data-dir {typed(folder.parent)} "
            "--out repository",
        )

    if not folder.is_dir():
        raise refused(f"{folder}: there is no such folder")
    paths = sorted(name for name, path in files_below(folder).items() if path.is_file())
    paths = [path for path in paths if not path.startswith(".") and "/." not in path]
    paths = [path for path in paths if path != CROISSANT]
    shards = [path for path in paths if DATA_FILE.fullmatch(path)]
    for path in paths:
        if path.rpartition("/")[2] == "model_zoos.py":
            raise InvalidArgument(
                f"{folder / path}: with such a file nobody could load the repository (datasets "
                "takes it for a loading script): remove it"
            )
    if beside := list_zoo_directories(folder):
        raise InvalidArgument(
            f"{folder} holds zoo directories too ({', '.join(beside[:3])}): keep these, and build "
            "into a folder of its own",
            hint="model-zoos build NAME --out repository",
        )
    if CARD not in paths or not shards:
        raise refused(f"{folder} holds no {CARD} or no data: build zoos into it first")
    for path in paths:
        if not any(pattern.fullmatch(path) for pattern in FILES):
            raise refused(f"{folder / path} is no part of a built repository: remove it")
    found, unfinished = data_files(shards)
    unfinished |= {key for key in found if metrics_file(*key) not in paths}
    for zoo, split in sorted(unfinished):
        raise refused(
            f"{folder}: shards of {zoo}, {split} are missing or of two builds: build it again"
        )
    for path in shards:
        try:
            metadata = pq.read_schema(folder / path).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise refused(
                f"{folder / path}: not readable as Parquet ({error}): build it again"
            ) from None
        if b"model_zoos" not in metadata:
            raise refused(f"{folder / path} was not written by a build of model_zoos: remove it")
    return paths


def _refuse_damaged(
    folder: Path, zoos: Iterable[str], additions: Iterable[CommitOperationAdd], digests: Digests
) -> None:
    """Refuse to upload files that are not what `build` has written.

    Args:
        folder: the built folder.
        zoos: the zoos in it.
        additions: the files that are to be uploaded, all of whose bytes were read.
        digests: of the files of the folder, to which those of damaged ones are added, so that the
            next build writes these files again.

    Raises:
        FaultyZoo: there are such files.
    """
    marks = {path: mark for zoo in zoos for path, mark in recorded(folder, zoo).items()}
    damaged = []
    for addition in additions:
        path, found = addition.path_in_repo, addition.upload_info.sha256.hex()
        if path in marks and marks[path].sha256 not in ("", found):
            damaged.append(path)
            digests.note(folder / path, found)
    if damaged:
        digests.save()
        raise FaultyZoo(
            f"{folder}: {few(damaged, 3)} {'was' if len(damaged) == 1 else 'were'} damaged or "
            "changed after the build: build the zoo again, which writes such files anew",
            hint=f"model-zoos build NAME --out {typed(folder)}",
        )


def _check_models(
    remote: Remote, folder: Path, stale: Sequence[str], files: Sequence[str], digests: Digests
) -> None:
    """Refuse to delete models that the folder lacks, since they may exist nowhere else.

    Args:
        remote: the repository.
        folder: the built folder.
        stale: files to be deleted in the repository.
        files: files of the folder.
        digests: digests of these files.

    Raises:
        InvalidArgument: the repository has such models.
    """
    lost = {model for path in stale if (model := model_of(path)) is not None}
    lost -= {model_of(path) for path in files}
    for zoo in sorted({match["zoo"] for match in matches(METRICS_FILE, files)}):
        there = [m.string for m in matches(METRICS_FILE, remote.files) if m["zoo"] == zoo]
        here = [m.string for m in matches(METRICS_FILE, files) if m["zoo"] == zoo]
        same = (p in here and remote.has(p, folder / p, digests.sha256) for p in there)
        if not all(same):
            ours = _models_in(here, lambda path: open_content(folder / path))
            lost |= _models_in(there, remote.open) - ours
    if lost:
        raise InvalidArgument(
            f"{remote.repo_id} has {counted(len(lost), 'model')} of these zoos that the folder "
            f"lacks, first {min(lost)}: publish to another repository",
            hint="--drop-models deletes them there",
        )


def _models_in(paths: Iterable[str], open_file: Callable[[str], IO[bytes]]) -> set[str]:
    """Return the models with rows in the files without weights among some paths."""
    found: set[str] = set()
    for path in paths:
        with open_file(path) as file, suppress(pa.ArrowInvalid, KeyError):
            found.update(pq.read_table(file, columns=["model_id"])["model_id"].to_pylist())
    return found


def _licence_of_all(repo_id: str, ours: str, card: str) -> str:
    """Return the licence of a repository that has other zoos too; warn if it was a different one.

    Args:
        repo_id: name of the repository.
        ours: the licence of the folder, which is `LICENCE` if none was chosen.
        card: the card of the repository.
    """
    theirs = parse_card(card)[0].get("license")
    if not isinstance(theirs, str) or theirs == ours:
        return ours
    if ours == LICENCE:
        text = (
            f"the licence of {repo_id} stays {theirs}, also for the zoos of this folder, "
            f"for which none was chosen ({LICENCE})"
        )
        warnings.warn(ModelZoosWarning(text), stacklevel=3)
        return check_licence(theirs, "license in README.md: ")
    text = f"the licence of {repo_id}, of all its zoos, was {theirs} and is now {ours}"
    warnings.warn(ModelZoosWarning(text), stacklevel=3)
    return ours


def future_card(
    remote: Remote, sizes: Mapping[str, int], contents: Mapping[str, Content], licence: str
) -> str:
    """Return the card that a repository will have after a commit.

    Args:
        remote: the repository before.
        sizes: bytes of each file after the commit.
        contents: new and changed files whose content the card depends on.
        licence: id of the repository's licence.

    Raises:
        FaultyZoo: some zoo will lack files.
    """

    def open_file(path: str) -> IO[bytes]:
        return open_content(contents[path]) if path in contents else remote.open(path)

    found = describe_contents(sizes, open_file, remote.repo_id)
    return render_card(found, remote.repo_id, licence=licence)


def _compare(
    contents: Mapping[str, Content],
    remote: Remote,
    digests: Digests,
    on_progress: Progress | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the sizes of files that are new or different, and of those that are unchanged."""
    sizes = {path: size_of(content) for path, content in contents.items()}
    changed: dict[str, int] = {}
    unchanged: dict[str, int] = {}
    done = 0
    for path, content in contents.items():
        same = remote.has(path, content, digests.sha256)
        (unchanged if same else changed)[path] = sizes[path]
        done += sizes[path]
        if on_progress is not None:
            on_progress("compared", done, sum(sizes.values()))
    return changed, unchanged


def _upload(
    remote: Remote,
    additions: Sequence[CommitOperationAdd],
    branch: str | None,
    on_progress: Progress | None,
) -> None:
    total, done = sum(addition.upload_info.size for addition in additions), 0
    for start in range(0, len(additions), _FILES_AT_ONCE):
        batch = list(additions[start : start + _FILES_AT_ONCE])
        remote.upload(batch, branch)
        done += sum(addition.upload_info.size for addition in batch)
        if on_progress is not None:
            on_progress("uploaded", done, total)
