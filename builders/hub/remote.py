"""What can go wrong between this machine and the Hub, explained in one line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...errors import HubFailed


@contextmanager
def explained(repo_id: str, token: str | bool | None = None) -> Iterator[None]:
    """What can go wrong with the Hub becomes one line that says what to do, and holds no token.

    Raises:
        HubFailed: in place of what the client raised.
    """
    try:
        yield
    except Exception as error:
        secret = token if isinstance(token, str) else get_token()
        message = _explanation(error, repo_id, bool(secret))
        if message is None:
            raise
        message = " ".join(message.split())
        if secret:
            message = message.replace(secret, "***")
        raise HubFailed(message) from None  # the client's own error holds the request


def _explanation(error: BaseException, repo_id: str, known: bool) -> str | None:
    if isinstance(error, HubFailed):
        return str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo_id}: HF_HUB_OFFLINE is set, so that the Hub is not asked: unset it"
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} cannot be the name of a repository: it is ORG/NAME"
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: ask for access at {_address(repo_id)}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision (branch, tag or commit)"
    if isinstance(error, RepositoryNotFoundError):
        seen = "this token may see" if known else "can be seen without a token"
        return (
            f"there is no data set repository {repo_id} that {seen}: check the name; a private one "
            "needs `hf auth login` or HF_TOKEN"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or str(error)
        if status == 401:
            return (
                "the Hub does not accept this token: make one with write access at "
                f"{constants.ENDPOINT}/settings/tokens, then `hf auth login` or "
                "HF_TOKEN"
            )
        if status == 403:
            return (
                f"this token may not write to {repo_id}: take one of type write (a fine-grained "
                "one must name the repository), of a user who may write there, or offer the "
                f"change with `publish --create-pr`. The Hub says: {said}"
            )
        if status == 412:
            return f"{repo_id} was changed by somebody else meanwhile: run the same command again"
        return f"{repo_id}: the Hub answered HTTP {status} ({said}): try again later"
    # httpx or httpx2, by the version of huggingface_hub; ConnectionError is what Xet's client says.
    module = type(error).__module__.partition(".")[0]
    if module in ("httpx", "httpx2", "httpcore", "httpcore2", "hf_xet"):
        said = type(error).__name__
    elif isinstance(error, ConnectionError | TimeoutError):
        said = f"{error}" or type(error).__name__
    else:
        cause = error.__cause__ or error.__context__
        return None if cause is None else _explanation(cause, repo_id, known)
    return (
        f"{repo_id}: the Hub ({constants.ENDPOINT}) was not reached, or the connection broke off "
        f"({said}): run the same command again to go on"
    )


def _address(repo_id: str) -> str:
    return f"{constants.ENDPOINT}/datasets/{repo_id}"
