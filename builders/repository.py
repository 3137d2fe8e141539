"""Read a published repository: the same rows as from zoo directories, over HTTP.

    data/<zoo>/<split>-00000-of-00003.parquet              all columns
    data/<zoo>/<split>-<model_id>-00000-of-00005.parquet   the same of a ResNet-18 zoo: models apart
    metrics/<zoo>-<split>.parquet                          the same rows without weights

Files are never fetched whole. Each read of pyarrow becomes one request for just its bytes: the
footer, then the wanted columns of those row groups whose statistics let a row pass the filters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from huggingface_hub import HfApi, HfFileSystem, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .catalog import METRICS_NAME, is_zoo_name
from .schema import row_schema
from .splits import SPLITS
from .zoo_directory import MODEL_ID, FaultyZoo

_OF = rf"(?P<zoo>[a-z0-9_]+){{}}(?P<split>{'|'.join(SPLITS)})"
DATA_FILE = re.compile(
    rf"data/{_OF.format('/')}(?:-(?P<model_id>{MODEL_ID.pattern}))?"
    r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet"
)
METRICS_FILE = re.compile(rf"metrics/{_OF.format('-')}\.parquet")


def data_file(zoo: str, split: str, number: int, count: int, model_id: str | None = None) -> str:
    """Name of a file of `DATA_FILE`: the rows of a split, or of one of its models, in `count`."""
    model = "" if model_id is None else f"-{model_id}"
    return f"data/{zoo}/{split}{model}-{number:05d}-of-{count:05d}.parquet"


def metrics_file(zoo: str, split: str) -> str:
    """Name of a file of `METRICS_FILE`."""
    return f"metrics/{zoo}-{split}.parquet"


def data_files(
    paths: Iterable[str],
) -> tuple[dict[tuple[str, str], set[str]], set[tuple[str, str]]]:
    """Which splits of zoos have files with weights.

    Args:
        paths: names of files in a repository; others are passed over.

    Returns:
        (zoo, split) -> the ids of the models that have files of their own (none of a CNN zoo), and
        those of these splits that lack files, or hold files of two builds.
    """
    numbers: dict[tuple[str, str, str | None], set[tuple[int, int]]] = {}
    for match in filter(None, map(DATA_FILE.fullmatch, paths)):
        key = (match["zoo"], match["split"], match["model_id"])
        numbers.setdefault(key, set()).add((int(match["number"]), int(match["count"])))
    found: dict[tuple[str, str], set[str]] = {}
    faulty = set()
    for (zoo, split, model), parts in numbers.items():
        found.setdefault((zoo, split), set()).update({model} - {None})
        if parts != {(number, len(parts)) for number in range(len(parts))}:
            faulty.add((zoo, split))
        if model is not None and (zoo, split, None) in numbers:
            faulty.add((zoo, split))
    return found, faulty


def whole_models(paths: Iterable[str], zoo: str) -> dict[str, str]:
    """The models of a zoo that have files of their own, all of them and in one split -> the split.

    Args:
        paths: names of all files in a repository.
        zoo: a ResNet-18 zoo.
    """
    files: dict[str, list[str]] = {}
    for match in filter(None, map(DATA_FILE.fullmatch, paths)):
        if match["zoo"] == zoo and match["model_id"] is not None:
            files.setdefault(match["model_id"], []).append(match.string)
    whole = {}
    for model, own in files.items():
        found, lacking = data_files(own)
        if len(found) == 1 and not lacking:
            [(_, whole[model])] = found
    return whole


class HubFailed(OSError):
    """The Hub could not be reached or refused; the message says in one line what to do."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a repository at a commit.

    Attributes:
        repo_id, commit, path: where it is.
        model_id: whose rows it holds; None if it holds those of several models.
    """

    repo_id: str
    commit: str
    path: str
    model_id: str | None = None

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.commit[:8]}/{self.path}"


@dataclass(frozen=True)
class Snapshot:
    """A published repository as it is at one commit.

    Attributes:
        repo_id: `ORG/NAME`.
        commit: 40 hexadecimal digits.
        paths: of all its files, sorted.
    """

    repo_id: str
    commit: str
    paths: tuple[str, ...]

    def zoos(self) -> list[str]:
        """Names of its zoos, sorted."""
        found = {match["zoo"] for match in map(DATA_FILE.fullmatch, self.paths) if match}
        return sorted(name for name in found if is_zoo_name(name))

    def shards(self, name: str, split: str) -> list[Shard]:
        """The files of one split of a zoo, or of `metrics`, in the order of their rows."""
        pattern = METRICS_FILE if name == METRICS_NAME else DATA_FILE
        zoos = self.zoos() if name == METRICS_NAME else [name]
        matches = [match for match in map(pattern.fullmatch, self.paths) if match]
        return [
            Shard(self.repo_id, self.commit, match.string, match.groupdict().get("model_id"))
            for zoo in zoos
            for match in matches
            if match["zoo"] == zoo and match["split"] == split
        ]


def open_repository(
    repo_id: str, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """What a repository holds, in one request.

    Args:
        repo_id: `ORG/NAME`.
        revision: branch, tag or commit; None for main.
        token: of the Hub; None for the one that is logged in, if any.

    Raises:
        HubFailed: no such repository or revision, or the Hub is out of reach.
    """
    with explained(repo_id, token):
        info = HfApi(token=token).repo_info(repo_id, revision=revision, repo_type="dataset")
    paths = sorted(sibling.rfilename for sibling in info.siblings or ())
    return Snapshot(repo_id, str(info.sha), tuple(paths))


def weights_size(
    shard: Shard, token: str | bool | None = None, options: Mapping[str, Any] | None = None
) -> int:
    """Elements of a row's weights, as the file's schema says.

    Raises:
        FaultyZoo: the file has other columns than a row of a zoo.
        HubFailed: see `open_repository`.
    """
    with explained(shard.repo_id, token), _opened(shard, token, options) as file:
        schema = pads.ParquetFileFormat().make_fragment(file).physical_schema
    weights = schema.field("weights").type if "weights" in schema.names else None
    if (
        not isinstance(weights, pa.FixedSizeListType)
        or weights.value_type != pa.float32()
        or schema.names != row_schema(weights.list_size).names
        or schema.remove(schema.get_field_index("weights")) != row_schema(None)
    ):
        raise FaultyZoo(
            f"{shard} does not have the columns of a zoo: was it made by `model-zoos build`?"
        )
    return weights.list_size


def read_tables(
    shard: Shard,
    schema: pa.Schema,
    filters: pads.Expression | None = None,
    token: str | bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """The rows of a file, row group by row group, in their order.

    Args:
        shard: the file.
        schema: wanted columns; nothing else is read.
        filters: keep only matching rows; row groups without any are not read.
        token: of the Hub.
        options: of huggingface_hub.HfFileSystem.

    Raises:
        HubFailed: see `open_repository`.
    """
    with explained(shard.repo_id, token), _opened(shard, token, options) as file:
        fragment = pads.ParquetFileFormat().make_fragment(file)
        if filters is not None:
            fragment = fragment.subset(filter=filters)
        for group in fragment.row_groups:
            part = fragment.subset(row_group_ids=[group.id])
            table = part.to_table(columns=schema.names, filter=filters)
            if len(table):
                yield table.cast(schema)
            del table  # 45 MB of ResNet-18, while the next is read


@contextmanager
def _opened(
    shard: Shard, token: str | bool | None, options: Mapping[str, Any] | None
) -> Iterator[Any]:
    files = HfFileSystem(**{"token": token, **(options or {})})
    path = f"datasets/{shard.repo_id}@{shard.commit}/{shard.path}"
    # Without a cache: pyarrow knows which bytes it wants, and reads none of them twice.
    with files.open(path, "rb", cache_type="none") as file:
        yield file


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
