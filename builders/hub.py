"""Publish a built repository folder (builders/parquet.py) to the Hugging Face Hub.

Only what differs from the repository travels: a file is compared by the SHA-256 (LFS) or the git
blob id that the Hub lists for it. The large files are uploaded first, then one commit names them
all, on top of the very commit that was compared: it either is there whole or not at all, and what
was uploaded before an interruption is not sent again. What is not the folder's stays: zoos, layouts
and other people's files, and in the card every config that the folder does not have.

`Dataset.push_to_hub` is of no use here: it would encode the weights anew, at 1.3 times their size.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    DatasetCardData,
    HfApi,
    HfFileSystem,
    constants,
    get_token,
)
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from .card import PLACEHOLDER, Repository, read_repository, render_card
from .repository import HubFailed, explained
from .splits import SPLITS
from .zoo_directory import FaultyZoo

_SPLIT = "|".join(SPLITS)
_SHARD = re.compile(
    rf"data/(?P<zoo>[a-z0-9_]+)/(?P<split>{_SPLIT})-(?P<number>\d{{5}})-of-(?P<count>\d{{5}})\.parquet"
)
_PARTS = re.compile(
    rf"README\.md|metrics/[a-z0-9_]+-({_SPLIT})\.parquet|layouts/[\w.-]+\.json|figures/[\w.-]+\.(png|svg)"
)
"""All else that a built folder holds; names that begin with a dot are no part of it."""

_FILES_PER_COMMIT = 250
"""The Hub advises against commits of very many files; one more is made for each so many."""

_FILES_AT_ONCE = 16
"""Uploaded together (five of them at the same time), then counted as progress."""

_END = "<!-- end of the card made by model_zoos -->"
"""Ends our text in a README; what follows is somebody else's, and stays."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublishSummary:
    """What a publication changed.

    Attributes:
        repo_id: `ORG/NAME`.
        url: of the commit or pull request.
        commit: the repository's head; where nothing had changed, the one that was there before.
        zoos: in the folder.
        uploaded, uploaded_bytes: files that are new or have changed. What an interrupted run had
            uploaded is counted, though it was not sent again.
        unchanged, unchanged_bytes: files that were left alone, being the same.
        deleted: files of earlier builds of the same zoos.
        kept_configs: configs of the card that are not the folder's.
    """

    repo_id: str
    url: str
    commit: str
    zoos: tuple[str, ...]
    uploaded: int
    uploaded_bytes: int
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
    on_progress: Callable[[str, int, int], None] | None = None,
) -> PublishSummary:
    """Bring a data set repository on the Hub to what a folder holds; it is created if missing.

    Args:
        folder: as `build_repository` leaves it.
        repo_id: `ORG/NAME`.
        token: with write access; None for HF_TOKEN or that of `hf auth login`.
        private: a new repository is private.
        revision: branch to commit to, created if missing; None for main. To go on with a pull
            request: "refs/pr/1".
        create_pr: open a pull request in place of a commit.
        on_progress: called with "compared" or "uploaded", bytes done and bytes in all.

    Raises:
        ValueError: the folder is not a built repository or lacks shards, `private` for a repository
            that is public, or a branch as well as a pull request.
        HubFailed: no token, not allowed, no such repository (of a pull request), out of reach, or
            changed by somebody else meanwhile. The message holds no token.
    """
    if create_pr and revision is not None:
        raise ValueError("a pull request goes to main: give a revision or create_pr, not both")
    folder = Path(folder)
    files = folder_files(folder)
    zoos = tuple(sorted({match["zoo"] for match in map(_SHARD.fullmatch, files) if match}))
    token = (token or get_token() or "").strip()
    if not token:
        raise HubFailed(
            "publishing needs a token with write access: `hf auth login`, or set HF_TOKEN "
            f"(made at {constants.ENDPOINT}/settings/tokens)"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise HubFailed("the token holds characters that no token has: copy it once more")
    branch = None if create_pr else revision or constants.DEFAULT_REVISION
    with explained(repo_id, token):
        api = HfApi(token=token)
        head = _head(api, repo_id, branch, private)
        remote = {
            entry.path: entry
            for entry in api.list_repo_tree(
                repo_id, recursive=True, revision=head, repo_type="dataset"
            )
            if isinstance(entry, RepoFile)
        }
        card, kept = _card(folder, zoos, HfFileSystem(token=token), repo_id, head, set(remote))
        contents: dict[str, Path | bytes] = {path: folder / path for path in files}
        contents["README.md"] = card.encode()
        changed, unchanged = _compare(contents, remote, on_progress)
        stale = [
            path for path in sorted(remote) if path not in contents and _belongs_to(path) in zoos
        ]
        commit, url = head, f"{constants.ENDPOINT}/datasets/{repo_id}/tree/{head}"
        if changed or stale:
            commit, url = _send(
                api,
                repo_id,
                [CommitOperationAdd(path, contents[path]) for path in changed],
                [CommitOperationDelete(path) for path in stale],
                f"Publish {_enumerated(zoos)}",
                head,
                branch,
                on_progress,
            )
    return PublishSummary(
        repo_id=repo_id,
        url=url,
        commit=commit,
        zoos=zoos,
        uploaded=len(changed),
        uploaded_bytes=sum(changed.values()),
        unchanged=len(unchanged),
        unchanged_bytes=sum(unchanged.values()),
        deleted=tuple(stale),
        kept_configs=kept,
    )


# --- The folder -----------------------------------------------------------------------------------


def folder_files(folder: Path) -> list[str]:
    """Files of a built repository folder that make the repository, sorted, with slashes.

    Raises:
        ValueError: it is no such folder, holds other files, or lacks shards of a split.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder: `model-zoos build NAME --out {folder}` makes it"
        )
    paths = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    paths = [path for path in paths if not path.startswith(".") and "/." not in path]
    how = f"`model-zoos build NAME --out {folder}` makes a repository folder"
    shards = [match for match in map(_SHARD.fullmatch, paths) if match]
    for path in paths:
        if path.rpartition("/")[2] == "model_zoos.py":
            raise ValueError(
                f"{folder / path}: with such a file nobody could load the repository (datasets "
                "takes it for a loading script): remove it"
            )
    if "README.md" not in paths or not shards:
        raise ValueError(f"{folder} holds no README.md or no data: {how}")
    for path in paths:
        if not _SHARD.fullmatch(path) and not _PARTS.fullmatch(path):
            raise ValueError(f"{folder / path} is no part of a built repository: remove it; {how}")
    groups: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for match in shards:
        numbers = groups.setdefault((match["zoo"], match["split"]), set())
        numbers.add((int(match["number"]), int(match["count"])))
    for (zoo, split), numbers in groups.items():
        if numbers != {(number, len(numbers)) for number in range(len(numbers))}:
            raise ValueError(
                f"{folder}: shards of {zoo}, {split} are missing or of two builds: build it again"
            )
    for match in shards:
        path = folder / match.string
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not readable as Parquet ({error}): build it again") from None
        if b"model_zoos" not in metadata:
            raise ValueError(f"{path} was not written by `model-zoos build`; {how}")
    return paths


def _belongs_to(path: str) -> str | None:
    """The zoo whose rows a file holds."""
    match = re.fullmatch(
        rf"(?:data/([a-z0-9_]+)/.*|metrics/([a-z0-9_]+)-(?:{_SPLIT}))\.parquet", path
    )
    return match and (match[1] or match[2])


def _enumerated(zoos: Sequence[str]) -> str:
    more = f" and {len(zoos) - 3} more" if len(zoos) > 3 else ""
    return ", ".join(zoos[:3]) + more


# --- The repository -------------------------------------------------------------------------------


def _head(api: HfApi, repo_id: str, branch: str | None, private: bool) -> str:
    """The commit to build on; repository and branch are made if they are missing."""
    try:
        info = api.repo_info(repo_id, repo_type="dataset")
        if private and not info.private:
            raise ValueError(
                f"{repo_id} exists and is public: make it private in its settings first, or leave "
                "--private out"
            )
    except RepositoryNotFoundError:
        if branch is None:
            raise
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    try:
        info = api.repo_info(repo_id, repo_type="dataset", revision=branch)
    except RevisionNotFoundError:
        if branch is None or branch.startswith("refs/"):
            raise
        api.create_branch(repo_id, branch=branch, repo_type="dataset", exist_ok=True)
        info = api.repo_info(repo_id, repo_type="dataset", revision=branch)
    return str(info.sha)


def _compare(
    contents: dict[str, Path | bytes],
    remote: dict[str, RepoFile],
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the files that are new or different, and of those that are the same."""
    sizes = {
        path: len(content) if isinstance(content, bytes) else content.stat().st_size
        for path, content in contents.items()
    }
    changed, unchanged, done = {}, {}, 0
    for path, content in contents.items():
        entry = remote.get(path)
        same = entry is not None and entry.size == sizes[path] and _same(content, entry)
        (unchanged if same else changed)[path] = sizes[path]
        done += sizes[path]
        if on_progress is not None:
            on_progress("compared", done, sum(sizes.values()))
    return changed, unchanged


def _same(content: Path | bytes, entry: RepoFile) -> bool:
    """Whether a file has the content that the Hub lists, which is of the same size."""
    if entry.lfs is not None:
        digest, expected = hashlib.sha256(), entry.lfs.sha256
    else:
        digest = hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)
        expected = entry.blob_id
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest() == expected


def _send(
    api: HfApi,
    repo_id: str,
    additions: list[CommitOperationAdd],
    deletions: list[CommitOperationDelete],
    message: str,
    head: str,
    branch: str | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[str, str]:
    """Upload, then commit on top of `head`; branch None opens a pull request.

    Returns:
        Id and address of the commit (of the pull request).
    """
    additions.sort(key=lambda operation: operation.path_in_repo == "README.md")  # it comes last
    total, done = sum(operation.upload_info.size for operation in additions), 0
    for start in range(0, len(additions), _FILES_AT_ONCE):
        batch = additions[start : start + _FILES_AT_ONCE]
        api.preupload_lfs_files(
            repo_id,
            batch,
            repo_type="dataset",
            revision=branch,
            create_pr=branch is None,
            free_memory=False,
        )
        done += sum(operation.upload_info.size for operation in batch)
        if on_progress is not None:
            on_progress("uploaded", done, total)
    # Deletions and the card come with the last files: until then the card is true of what is there.
    pieces: list[list[Any]] = [
        list(additions[start : start + _FILES_PER_COMMIT])
        for start in range(0, max(1, len(additions)), _FILES_PER_COMMIT)
    ]
    pieces[-1] += deletions
    url = ""
    for number, operations in enumerate(pieces, 1):
        done_by = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=message + done_by,
            repo_type="dataset",
            revision=branch,
            create_pr=branch is None,
            parent_commit=head,
        )
        head, url = commit.oid, url or str(commit.pr_url or "")
        if commit.pr_url is not None:
            branch = commit.pr_revision
    return head, url or str(commit.commit_url)


# --- The card -------------------------------------------------------------------------------------


def _card(
    folder: Path,
    zoos: Sequence[str],
    files: HfFileSystem,
    repo_id: str,
    head: str,
    remote: set[str],
) -> tuple[str, tuple[str, ...]]:
    """The repository's README to be, and the configs in it that are not ours.

    That is the folder's own where the repository has no other zoos; else a card of all of them.
    """
    path = f"datasets/{repo_id}@{head}"
    ours = (folder / "README.md").read_text("utf-8").replace(PLACEHOLDER, repo_id)
    if {_belongs_to(name) for name in remote} - {None, *zoos}:
        here = read_repository(folder)
        try:
            there = read_repository(path, files)
        except FaultyZoo:  # half a publication in several commits: its next run mends the card
            there = Repository(())
        others = [zoo for zoo in there.zoos if zoo.name not in zoos]
        if others:
            every = tuple(sorted([*here.zoos, *others], key=lambda zoo: zoo.name))
            figures = tuple(sorted({*here.figures, *there.figures}))
            ours = render_card(Repository(every, figures), repo_id)
    theirs = files.read_text(f"{path}/README.md") if "README.md" in remote else ""
    return merge_cards(ours, theirs)


def merge_cards(ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """One README out of two.

    Configs and dataset_info of ours replace those of the same name, all others of theirs stay as
    they are, also as the default; tags, task categories and languages are united; of other keys
    ours count, those that only theirs has stay. The text is ours; what theirs says that we did not
    write follows it.

    Args:
        ours, theirs: whole files; an empty text is none.

    Returns:
        The README, in which a line marks where ours ends, and the names of the configs kept.

    Raises:
        ValueError: a header that is not the metadata of a card, or a config of other than Parquet
            files.
    """
    our_card, their_card = (
        DatasetCard(text if REGEX_YAML_BLOCK.search(text) else f"---\n\n---\n{text}")
        for text in (ours, theirs)
    )
    our, their = our_card.data.to_dict(), their_card.data.to_dict()
    configs, their_configs = _by_name(our.get("configs")), _by_name(their.get("configs"))
    kept = {name: config for name, config in their_configs.items() if name not in configs}
    for name, config in kept.items():
        if formats := {Path(path).suffix for path in _patterns(config)} - {".parquet", ""}:
            raise ValueError(
                f"the repository's config {name!r} reads {', '.join(sorted(formats))} files: "
                "datasets loads all configs of a repository in one format, so that either it or "
                "ours could not be loaded: publish to another repository"
            )
    before, end, after = their_card.text.partition(_END)
    below = (after if end else before).strip()
    below = f"\n\n{_END}\n" + (f"\n{below}\n" if below else "")
    if not kept:
        return ours.rstrip() + below, ()
    if any(config.get("default") or name == "default" for name, config in kept.items()):
        configs = {name: {**config, "default": None} for name, config in configs.items()}
    infos, their_infos = _by_name(our.get("dataset_info")), _by_name(their.get("dataset_info"))
    merged = {**our, **{key: value for key, value in their.items() if key not in our}}
    for key in ("tags", "task_categories", "language"):
        if values := [*_listed(our.get(key)), *_listed(their.get(key))]:
            merged[key] = list(dict.fromkeys(values))
    merged["configs"] = [
        {key: value for key, value in config.items() if value is not None}
        for config in [*configs.values(), *kept.values()]
    ]
    kept_infos = [info for name, info in their_infos.items() if name not in configs]
    if infos or kept_infos:
        merged["dataset_info"] = [*infos.values(), *kept_infos]
    header = DatasetCardData(**merged).to_yaml(original_order=list(merged))
    return f"---\n{header}\n---\n{our_card.text.rstrip()}{below}", tuple(kept)


def _by_name(entries: Any) -> dict[str, dict[str, Any]]:
    """Entries of `configs` or `dataset_info`; the latter may be a single one without a name."""
    if isinstance(entries, dict):
        entries = [entries]
    return {entry.get("config_name", "default"): entry for entry in entries or ()}


def _patterns(config: dict[str, Any]) -> list[str]:
    """Of the files of a config, in any of the forms that its data_files may have."""
    entries = _listed(config.get("data_files"))
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [str(pattern) for path in paths for pattern in _listed(path)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
