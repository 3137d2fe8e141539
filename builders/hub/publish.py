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
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

from ...errors import FaultyZoo, HubFailed, InvalidArgument
from .card import PLACEHOLDER, describe_repository, read_repository, render_card
from .names import DATA_FILE, METRICS_FILE, data_files
from .remote import explained

_OTHER_FILE = re.compile(r"README\.md|layouts/[\w.-]+\.json|figures/[\w.-]+\.(png|svg)")
"""All else that a built folder holds; names that begin with a dot are no part of it."""

FILES_PER_COMMIT = 250
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
        ValueError: the folder is not a built repository, its build was not finished, or it lacks
            whole models that the repository has of a ResNet-18 zoo; `private` for a repository that
            is public; a branch as well as a pull request.
        HubFailed: no token, not allowed, no such repository (of a pull request), out of reach, or
            changed by somebody else meanwhile. The message holds no token.
    """
    if create_pr and revision is not None:
        raise InvalidArgument("a pull request goes to main: give a revision or create_pr, not both")
    folder = Path(folder)
    files = folder_files(folder)
    read_repository(folder)  # a build that was not finished is refused
    zoos = tuple(sorted({zoo for zoo, _ in data_files(files)[0]}))
    token = write_token(token)
    branch = None if create_pr else revision or constants.DEFAULT_REVISION
    with explained(repo_id, token):
        api = HfApi(token=token)
        head = open_head(api, repo_id, branch, private)
        remote = list_files(api, repo_id, head)
        contents: dict[str, Path | bytes] = {path: folder / path for path in files}
        stale = [
            path for path in sorted(remote) if path not in contents and zoo_of_file(path) in zoos
        ]
        _check_stale(repo_id, stale, files)
        others = any(zoo_of_file(path) not in (None, *zoos) for path in remote)
        ours = contents["README.md"].read_text("utf-8").replace(PLACEHOLDER, repo_id)
        if others:
            sizes = {path: entry.size for path, entry in remote.items() if path not in stale}
            sizes |= {path: _size(content) for path, content in contents.items()}
            # Without it: half a publication in several commits, whose next run mends the card.
            with suppress(FaultyZoo):
                ours = card_of(sizes, contents, api, repo_id, head)
        card, kept = merge_cards(ours, card_at(api, repo_id, head, remote))
        contents["README.md"] = card.encode()
        changed, unchanged = _compare(contents, remote, on_progress)
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
        raise InvalidArgument(
            f"{folder} is not a folder: `model-zoos build NAME --out {folder}` makes it"
        )
    paths = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    paths = [path for path in paths if not path.startswith(".") and "/." not in path]
    how = f"`model-zoos build NAME --out {folder}` makes a repository folder"
    shards = [path for path in paths if DATA_FILE.fullmatch(path)]
    for path in paths:
        if path.rpartition("/")[2] == "model_zoos.py":
            raise InvalidArgument(
                f"{folder / path}: with such a file nobody could load the repository (datasets "
                "takes it for a loading script): remove it"
            )
    if "README.md" not in paths or not shards:
        raise InvalidArgument(f"{folder} holds no README.md or no data: {how}")
    for path in paths:
        if not any(kind.fullmatch(path) for kind in (DATA_FILE, METRICS_FILE, _OTHER_FILE)):
            raise InvalidArgument(
                f"{folder / path} is no part of a built repository: remove it; {how}"
            )
    for zoo, split in sorted(data_files(shards)[1]):
        raise InvalidArgument(
            f"{folder}: shards of {zoo}, {split} are missing or of two builds: build it again"
        )
    for path in map(folder.joinpath, shards):
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise InvalidArgument(
                f"{path}: not readable as Parquet ({error}): build it again"
            ) from None
        if b"model_zoos" not in metadata:
            raise InvalidArgument(f"{path} was not written by `model-zoos build`; {how}")
    return paths


def zoo_of_file(path: str) -> str | None:
    """The zoo whose rows a file holds."""
    match = re.fullmatch(r"data/(?P<zoo>[a-z0-9_]+)/.*\.parquet", path)
    match = match or METRICS_FILE.fullmatch(path)
    return match and match["zoo"]


def _enumerated(zoos: Sequence[str]) -> str:
    more = f" and {len(zoos) - 3} more" if len(zoos) > 3 else ""
    return ", ".join(zoos[:3]) + more


def _check_stale(repo_id: str, stale: Sequence[str], files: Sequence[str]) -> None:
    """Refuse to delete models that the folder does not have: they may be nowhere else.

    Raises:
        ValueError: that would be done.
    """
    lost, here = (
        {match["model_id"] for match in map(DATA_FILE.fullmatch, paths) if match}
        for paths in (stale, files)
    )
    lost -= here | {None}
    if lost:
        raise InvalidArgument(
            f"{repo_id} has {len(lost)} models of these zoos that the folder lacks, first "
            f"{min(lost)}: delete them there first if that is meant, or publish to another "
            "repository"
        )


# --- The repository -------------------------------------------------------------------------------


def write_token(token: str | None) -> str:
    """The token to publish with: the argument, else HF_TOKEN or that of `hf auth login`.

    Raises:
        HubFailed: there is none, or it cannot be one.
    """
    token = (token or get_token() or "").strip()
    if not token:
        raise HubFailed(
            "publishing needs a token with write access: `hf auth login`, or set HF_TOKEN "
            f"(made at {constants.ENDPOINT}/settings/tokens)"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise HubFailed("the token holds characters that no token has: copy it once more")
    return token


def open_head(api: HfApi, repo_id: str, branch: str | None, private: bool = False) -> str:
    """The commit to build on; repository and branch are made if they are missing.

    Args:
        branch: None for main, which a pull request is to change.
        private: of a repository that is made.

    Raises:
        ValueError: `private`, but there is a public one.
    """
    try:
        info = api.repo_info(repo_id, repo_type="dataset")
        if private and not info.private:
            raise InvalidArgument(
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


def list_files(api: HfApi, repo_id: str, head: str) -> dict[str, RepoFile]:
    """The files of a repository at a commit, by name."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type="dataset")
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _compare(
    contents: dict[str, Path | bytes],
    remote: dict[str, RepoFile],
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the files that are new or different, and of those that are the same."""
    sizes = {path: _size(content) for path, content in contents.items()}
    changed, unchanged, done = {}, {}, 0
    for path, content in contents.items():
        entry = remote.get(path)
        same = entry is not None and is_same(content, sizes[path], entry)
        (unchanged if same else changed)[path] = sizes[path]
        done += sizes[path]
        if on_progress is not None:
            on_progress("compared", done, sum(sizes.values()))
    return changed, unchanged


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def is_same(content: Path | bytes, size: int, entry: RepoFile) -> bool:
    """Whether a file of some size has the content that the Hub lists."""
    if entry.size != size:
        return False
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
    return commit(api, repo_id, additions, deletions, message, head, branch)


def commit(
    api: HfApi,
    repo_id: str,
    additions: Sequence[CommitOperationAdd],
    deletions: Sequence[CommitOperationDelete],
    message: str,
    head: str,
    branch: str | None,
) -> tuple[str, str]:
    """Commit files that are uploaded (small ones travel along) on top of `head`; as `_send`.

    Args:
        additions: README.md, if it is one, as the last.
    """
    # The card comes with the last files; a zoo's deletions with its first new ones, so that no
    # commit has its rows twice.
    pieces: list[list[Any]] = [
        list(additions[start : start + FILES_PER_COMMIT])
        for start in range(0, max(1, len(additions)), FILES_PER_COMMIT)
    ]
    for deletion in deletions:
        zoo = zoo_of_file(deletion.path_in_repo)
        holds = (any(zoo_of_file(a.path_in_repo) == zoo for a in piece) for piece in pieces)
        number = next((number for number, found in enumerate(holds) if found), -1)
        pieces[number].append(deletion)
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


def card_of(
    sizes: Mapping[str, int],
    contents: Mapping[str, Path | bytes],
    api: HfApi,
    repo_id: str,
    head: str,
) -> str:
    """The card of a repository to be: some files, and those of a commit that stay beside them.

    Args:
        sizes: bytes of all files that there will be.
        contents: of those that are not as in the commit, as far as the card needs to read them.

    Raises:
        FaultyZoo: some zoo of them lacks files.
    """
    files = HfFileSystem(token=api.token)

    def open_file(path: str) -> Any:
        content = contents.get(path)
        if content is None:
            return files.open(f"datasets/{repo_id}@{head}/{path}", "rb")
        return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")

    return render_card(describe_repository(sizes, open_file, repo_id), repo_id)


def card_at(api: HfApi, repo_id: str, head: str, remote: Mapping[str, RepoFile]) -> str:
    """The README of a repository at a commit; empty if it has none."""
    if "README.md" not in remote:
        return ""
    return str(HfFileSystem(token=api.token).read_text(f"datasets/{repo_id}@{head}/README.md"))


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
            raise InvalidArgument(
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
