"""A repository on the Hub at one commit: its files, uploads and commits.

read.py reads its rows.

Every error between this machine and the Hub becomes a HubFailed with a message of one line.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    get_token,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from ...errors import HubFailed, HubUnreachable, InvalidArgument
from ..ledger import Listed
from .merge import unusable_card
from .names import CARD, zoo_of

Content = Path | bytes
"""A file to be published, or its content."""

FILES_PER_COMMIT = 250
"""Maximum number of files in a commit; the Hub advises against very large commits."""

_BLOCK = 1 << 20

_MAX_CARD = 4 << 20
"""Limit of a README in bytes; the Hub shows no larger ones."""

_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "hf_xet")
"""Modules of the HTTP clients that versions of huggingface_hub use."""


def check_repo_id(repo_id: str) -> None:
    """Refuse a text that cannot be the name of a repository.

    Raises:
        InvalidArgument: it is not `ORG/NAME`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise InvalidArgument(
            f"{repo_id!r} cannot be the name of a repository: expected ORG/NAME, an account or "
            "organisation on the Hub and a name"
        )


def size_of(content: Content) -> int:
    """Return the size of a file in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def open_content(content: Content) -> IO[bytes]:
    """Open a file for reading."""
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


@dataclass(frozen=True)
class Remote:
    """A data set repository at the commit that will be the parent of the next one.

    Attributes:
        api: client of the Hub, with the token.
        repo_id: `ORG/NAME`.
        head: id of the commit.
        files: all its files, by name.
    """

    api: HfApi
    repo_id: str
    head: str
    files: Mapping[str, RepoFile]

    @classmethod
    def at(cls, api: HfApi, repo_id: str, head: str | None = None) -> Remote:
        """List the files of a repository at a commit, by default the newest one of main."""
        head = head or str(api.repo_info(repo_id, repo_type="dataset").sha)
        entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type="dataset")
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        return cls(api, repo_id, head, files)

    def open(self, path: str) -> IO[bytes]:
        """Open one of the files for reading."""
        address, size = f"datasets/{self.repo_id}@{self.head}/{path}", self.files[path].size
        # Given the size, the file system does not ask the Hub for it again.
        file: IO[bytes] = HfFileSystem(token=self.api.token).open(address, "rb", size=size)
        return file

    def card(self) -> str:
        """Return the README; empty if there is none.

        Raises:
            InvalidArgument: it is not UTF-8, or too large to be a card.
        """
        if CARD not in self.files:
            return ""
        if (size := self.files[CARD].size) > _MAX_CARD:
            raise unusable_card(f"it has {size:,} bytes")
        with self.open(CARD) as file:
            content = file.read(size)
        try:
            return io.TextIOWrapper(io.BytesIO(content), "utf-8").read()
        except UnicodeDecodeError as error:
            raise unusable_card(f"it is not UTF-8: {error}") from None

    def listed(self, path: str) -> Listed | None:
        """Return the Hub's entry for a large file; None if there is no such file."""
        entry = self.files.get(path)
        if entry is None or entry.lfs is None or entry.size != entry.lfs.size:
            return None
        return entry.size, entry.lfs.sha256

    def has(self, path: str, content: Content, sha256: Callable[[Path], str] | None = None) -> bool:
        """Whether the file of this name has this content, by the digest that the Hub lists.

        Args:
            path: name of the file.
            content: the content to compare.
            sha256: returns the digest of a file on disk; None to compute it.
        """
        entry, size = self.files.get(path), size_of(content)
        if entry is None or entry.size != size:
            return False
        if entry.lfs is not None and sha256 is not None and isinstance(content, Path):
            return bool(sha256(content) == entry.lfs.sha256)
        if entry.lfs is not None:
            digest, expected = hashlib.sha256(), entry.lfs.sha256
        else:
            digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            expected = entry.blob_id
        with open_content(content) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == expected

    def knows(self, content: Content, sha256: Callable[[Path], str]) -> bool:
        """Whether some large file has this content under any name.

        Args:
            content: a file on disk; any other content counts as small.
            sha256: returns its digest.
        """
        if not isinstance(content, Path):
            return False
        size = size_of(content)
        stored = {e.lfs.sha256 for e in self.files.values() if e.lfs and e.size == size}
        return bool(stored) and sha256(content) in stored

    def upload(
        self, additions: list[CommitOperationAdd], branch: str | None = constants.DEFAULT_REVISION
    ) -> None:
        """Upload the large files among some files; a later commit can then refer to them.

        Contents that the Hub has already, from an interrupted run, are not sent again.

        Args:
            additions: the files.
            branch: branch of the later commit; None for a pull request.
        """
        self.api.preupload_lfs_files(
            self.repo_id,
            additions,
            repo_type="dataset",
            revision=branch,
            create_pr=branch is None,
            free_memory=False,
        )

    def upload_one(self, addition: CommitOperationAdd) -> None:
        """Upload one large file, which may be deleted here before the commit that adds it.

        Raises:
            InvalidArgument: the repository would not store it as a large file.
        """
        self.api.preupload_lfs_files(self.repo_id, [addition], repo_type="dataset")
        # As documented, the client replaces uploaded content by empty bytes.
        if addition.path_or_fileobj != b"":
            raise InvalidArgument(
                f"{self.repo_id} ignores {addition.path_in_repo}, or keeps it as a small file: fix "
                "its .gitignore and .gitattributes (*.parquet filter=lfs diff=lfs merge=lfs)"
            )

    def commit(
        self,
        additions: Sequence[CommitOperationAdd],
        deleted: Sequence[str],
        message: str,
        branch: str | None = constants.DEFAULT_REVISION,
    ) -> tuple[str, str]:
        """Commit uploaded files on top of `head`; small files are sent with the commit.

        More than `FILES_PER_COMMIT` files take several commits, each with the previous one as
        parent.

        Args:
            additions: new and changed files; README.md must be the last.
            deleted: names of the files to delete.
            message: of the commit; if there are several, each gets a number.
            branch: branch to commit to; None opens a pull request.

        Returns:
            Id of the last commit, and its address or that of the pull request.
        """
        # The card comes with the last files. Old files of a zoo are deleted in the commit that adds
        # its first new ones, so that no commit has its rows twice.
        pieces: list[list[CommitOperationAdd | CommitOperationDelete]] = [
            list(additions[start : start + FILES_PER_COMMIT])
            for start in range(0, max(1, len(additions)), FILES_PER_COMMIT)
        ]
        zoos = [{zoo_of(operation.path_in_repo) for operation in piece} for piece in pieces]
        for path in deleted:
            piece = next((n for n, found in enumerate(zoos) if zoo_of(path) in found), -1)
            pieces[piece].append(CommitOperationDelete(path))
        head, url = self.head, ""
        for number, operations in enumerate(pieces, 1):
            part = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
            commit = self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=message + part,
                repo_type="dataset",
                revision=branch,
                create_pr=branch is None,
                parent_commit=head,
            )
            head, url = commit.oid, url or str(commit.pr_url or "")
            if commit.pr_url is not None:
                branch = commit.pr_revision
        return head, url or str(commit.commit_url)


def open_head(api: HfApi, repo_id: str, branch: str | None, private: bool = False) -> str:
    """Return the commit to start from; create repository and branch if they do not exist.

    Args:
        api: client of the Hub.
        repo_id: `ORG/NAME`.
        branch: branch to commit to; None for a pull request to main.
        private: create the repository as a private one.

    Raises:
        InvalidArgument: `private`, but the repository exists and is public.
    """
    try:
        info = api.repo_info(repo_id, repo_type="dataset")
        if private and not info.private:
            raise InvalidArgument(
                f"{repo_id} exists and is public: make it private in its settings first, or do not "
                "ask for a private one"
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


# --- Tokens and errors ----------------------------------------------------------------------------


def write_token(token: str | None = None) -> str:
    """Return the token to publish with: the argument, else HF_TOKEN or that of `hf auth login`.

    Raises:
        HubFailed: there is no token, or it has impossible characters.
    """
    token = (token or get_token() or "").strip()
    if not token:
        raise HubFailed(
            "publishing needs a token with write access, in HF_TOKEN or from `hf auth login` "
            f"(made at {constants.ENDPOINT}/settings/tokens)",
            hint="hf auth login",
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise HubFailed("the token holds characters that no token has: copy it once more")
    return token


@contextmanager
def explained(repo_id: str, token: str | bool | None = None) -> Iterator[None]:
    """Turn the errors of the Hub's client into one line that says what to do, without the token.

    Raises:
        HubFailed: in place of what the client raised; HubUnreachable if there was no answer.
    """
    try:
        yield
    except Exception as error:
        secret = token if isinstance(token, str) else get_token()
        failed = _explanation(error, repo_id, bool(secret))
        if failed is None:
            raise
        message = " ".join(str(failed).split())
        if secret:
            message = message.replace(secret, "***")
        # The client's error contains the request, and with it the token.
        raise type(failed)(message, hint=failed.hint) from None


_BROKEN = (
    "{repo}: the Hub ({hub}) was not reached, or the connection broke off ({said}): try again to "
    "resume"
)
_MESSAGES: dict[type[Exception] | int, str] = {
    OfflineModeIsEnabled: "{repo}: HF_HUB_OFFLINE is set, and the Hub is not asked: unset it",
    HFValidationError: "'{repo}' cannot be the name of a repository: expected ORG/NAME",
    GatedRepoError: "{repo} is gated: ask for access at {hub}/datasets/{repo}",
    RevisionNotFoundError: "{repo} has no such revision (branch, tag or commit)",
    RepositoryNotFoundError: "there is no data set repository {repo} that {seen}: check the name; "
    "a private one needs a token",
    401: "the Hub does not accept this token: make one with write access at {hub}/settings/tokens",
    403: "this token may not write to {repo}: take one of type write (a fine-grained one must name "
    "the repository), of a user who may write there, or open a pull request. The Hub says: {said}",
    412: "{repo} was changed by somebody else meanwhile: try again",
    HfHubHTTPError: "{repo}: the Hub answered HTTP {status} ({said}): try again later",
    ConnectionError: _BROKEN,
    TimeoutError: _BROKEN,
}
"""What an error of the Hub's client means, by its first class found here or by HTTP status."""

_UNREACHABLE = (OfflineModeIsEnabled, ConnectionError, TimeoutError)

_HINTS: dict[type[Exception] | int | None, str] = {
    RepositoryNotFoundError: "hf auth login",
    401: "hf auth login",
    403: "model-zoos publish {repo} --from FOLDER --create-pr",
}


def _explanation(error: BaseException, repo_id: str, has_token: bool) -> HubFailed | None:
    """Return the explanation of an error; None if it is not from the Hub or its client."""
    if isinstance(error, HubFailed):
        return error
    kinds = [kind for kind in _MESSAGES if isinstance(kind, type)]
    key: type[Exception] | int | None = next((k for k in kinds if isinstance(error, k)), None)
    said, status = str(error) or type(error).__name__, 0
    if isinstance(error, HfHubHTTPError):
        status, said = error.response.status_code, error.server_message or said
        if key is HfHubHTTPError and status in _MESSAGES:
            key = status
    elif type(error).__module__.partition(".")[0] in _CLIENTS:
        key, said = ConnectionError, type(error).__name__
    if key is None:
        cause = error.__cause__ or error.__context__
        return None if cause is None else _explanation(cause, repo_id, has_token)
    values = {"repo": repo_id, "hub": constants.ENDPOINT, "said": said, "status": status}
    values["seen"] = "this token may see" if has_token else "can be seen without a token"
    hint = _HINTS.get(key)
    absent = key in _UNREACHABLE or (key is HfHubHTTPError and status >= 500)
    return (HubUnreachable if absent else HubFailed)(
        _MESSAGES[key].format(**values), hint=hint and hint.format(**values)
    )
