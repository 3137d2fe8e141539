"""Downloads from Zenodo: find a zoo's record, choose its file, download it, check it.

The DOI of a zoo ends in the number of its record. `/api/records/<number>` describes the record with
name, size, MD5 and address of each file (https://developers.zenodo.org/#records). An interrupted
download can be resumed (HTTP Range), also in a later run. It is complete only if its MD5 is the
record's.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests
import urllib3

from ...errors import DownloadFailed, InvalidArgument
from ..catalog import TWIN_DOIS, zoo_spec
from ..files import file_digest
from ..names import normalize_name
from ..phrases import byte_size
from ..specification import Zoo
from ..untrusted import MAX_JSON, parse_json
from .identify import zoo_of_file

ADDRESS = "https://zenodo.org"
"""Address of the API. The variable MODEL_ZOOS_ZENODO names another server with the same API."""

RECORD_ATTEMPTS = 3
"""Attempts to get the description of a record. They are few, so that being offline shows soon."""

ATTEMPTS = 8
"""Consecutive requests without new data after which a download fails."""

LONGEST_PAUSE = 60.0
"""Maximum of seconds before a request is retried, even if the server asks for more."""

_RETRIED = frozenset({408, 429, *range(500, 600)})
_TIMEOUT = 60.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record.

    Attributes:
        name: its name in the record.
        size: bytes.
        md5: hexadecimal digest.
        url: address of its content.
    """

    name: str
    size: int
    md5: str
    url: str


def download(
    name: str,
    folder: str | os.PathLike[str],
    *,
    file: str | None = None,
    preprocessed: bool = False,
    address: str | None = None,
    pause: float = 1.0,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Path:
    """Download the original file of a zoo. Call it again to resume an interrupted download.

    Args:
        name: name of a zoo of the catalog, or of its sparse twins.
        folder: folder in which the file is written under its own name.
        file: its name in the record; None to choose it by the zoo's name.
        preprocessed: take the preprocessed data set instead of the raw zip.
        address: address of the API; None for MODEL_ZOOS_ZENODO, or else `ADDRESS`.
        pause: seconds before the first retry of a request; they double with each further one.
        on_progress: called with the file's name, the bytes that have arrived, and its size.
        on_wait: called before each wait, with the seconds until the retry.

    Returns:
        The path of the file, whose MD5 is the record's.

    Raises:
        UnknownZoo: the catalog has no such zoo.
        InvalidArgument: the zoo has no original files, or not exactly one file of its record fits.
            The message lists the files of the record.
        DownloadFailed: the server is out of reach, or sends other bytes than the record's.
    """
    address = (address or os.environ.get("MODEL_ZOOS_ZENODO") or ADDRESS).rstrip("/")
    zoo, doi = _zoo_and_doi(name, preprocessed)
    files = record_files(doi, address, pause, on_wait)
    chosen = choose(files, normalize_name(name), zoo, doi, file, preprocessed)
    return fetch(chosen, Path(folder), pause=pause, on_progress=on_progress, on_wait=on_wait)


def _zoo_and_doi(name: str, preprocessed: bool) -> tuple[Zoo, str]:
    key = normalize_name(name)
    zoo = zoo_spec(key.removesuffix("_sparse"))
    doi = TWIN_DOIS.get(zoo.name) if key.endswith("_sparse") else zoo.doi
    if preprocessed and zoo.doi_preprocessed and not key.endswith("_sparse"):
        doi = zoo.doi_preprocessed
    if doi is None:
        raise InvalidArgument(
            f"{key} has no original files: nobody put them on Zenodo",
            hint="model-zoos list --json shows the DOIs of the zoos that have some",
        )
    return zoo, doi


def record_files(
    doi: str,
    address: str = ADDRESS,
    pause: float = 1.0,
    on_wait: Callable[[float], None] | None = None,
) -> list[RemoteFile]:
    """Return the files of a record.

    Args:
        doi: DOI of the record.
        address: address of the API.
        pause, on_wait: see `download`.

    Raises:
        DownloadFailed: the server is out of reach, or its answer does not describe a record.
    """
    url = f"{address}/api/records/{doi.rpartition('.')[2]}"
    try:
        with _session(RECORD_ATTEMPTS, pause, on_wait) as session:
            response = session.get(url, timeout=_TIMEOUT, stream=True)
            response.raise_for_status()
            record: Any = parse_json(response.raw.read(MAX_JSON, decode_content=True))
        files = record["files"]
        if isinstance(files, dict):  # the form of InvenioRDM itself
            files = [*files["entries"].values()]
        return [_remote_file(entry) for entry in files]
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadFailed(
            f"{url}: {_reason(error)}. The record: https://doi.org/{doi}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadFailed(f"{url}: no description of a record ({error})") from None


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    """Read the description of a file, under the names in any API version since 2017."""
    name = entry.get("key", entry.get("filename"))
    size = entry.get("size", entry.get("filesize"))
    checksum, links = str(entry.get("checksum")).removeprefix("md5:"), entry.get("links")
    # The link `self` leads to the content in one API version and to its description in another.
    urls = [links.get(key) for key in ("content", "download", "self")] if links else []
    url = next((url for url in urls if isinstance(url, str)), "")
    if not isinstance(name, str) or not re.fullmatch(r"[^./\\\0][^/\\\0]{,199}", name):
        raise ValueError(f"a file named {name!r:.80}")
    if type(size) is not int or size < 0:
        raise ValueError(f"{name} has no size")
    if not url.startswith(("https://", "http://")) or not re.fullmatch(
        r"[0-9a-fA-F]{32}", checksum
    ):
        raise ValueError(f"{name} has no address or no MD5")
    return RemoteFile(name, size, checksum.lower(), url)


def choose(
    files: Sequence[RemoteFile],
    name: str,
    zoo: Zoo,
    doi: str,
    file: str | None = None,
    preprocessed: bool = False,
) -> RemoteFile:
    """Return the file of a record that holds a zoo.

    It is the zip named after the zoo's experiment, or the preprocessed file named after the zoo, or
    else the only zip of the record.

    Args:
        files: the files of the record.
        name: name of the zoo or of its twins.
        zoo: the zoo, or the dense parent of its twins.
        doi: DOI of the record.
        file, preprocessed: see `download`.

    Raises:
        InvalidArgument: no file fits, or several fit. The message lists the files of the record.
    """
    zips = [f for f in files if f.name.lower().endswith(".zip")]
    matching: list[RemoteFile] = []
    if file is not None:
        matching = [f for f in files if f.name == file]
    elif preprocessed:
        matching = [f for f in files if zoo_of_file(f.name, zoo.architecture) == zoo.name]
    elif name == zoo.name and zoo.experiment is not None:
        # Some scripts and zips differ in the last letter of "seeds".
        wanted = zoo.experiment.rstrip("s")
        matching = [f for f in zips if f.name.lower()[:-4].rstrip("s") == wanted]
    if not matching and file is None and not preprocessed and len(zips) == 1:
        matching = zips
    if len(matching) == 1:
        return matching[0]
    listing = "".join(f"\n  {f.name}  {f.size / 1e9:.3f} GB" for f in files)
    found = f"{len(matching)} files" if matching else "no file"
    text = f"{found} of the record {doi} can be recognised as {name}"
    if file is not None:
        text = f"the record {doi} has no file {file!r:.100}"
    raise InvalidArgument(f"{text}. Its files:{listing}", hint="choose one with --file")


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    pause: float = 1.0,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Path:
    """Download one file, or resume an interrupted download of it.

    Args:
        file: the file.
        folder: folder in which it is written.
        pause, on_progress, on_wait: see `download`.

    Returns:
        The path of the file.

    Raises:
        DownloadFailed: see `download`.
    """
    path = folder / file.name
    if path.exists() and path.stat().st_size == file.size and _is_right(path, file):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{file.name}.partial")
    for _ in range(2):
        _fill(file, partial, pause, on_progress, on_wait)
        if _is_right(partial, file):
            partial.replace(path)
            return path
        partial.unlink()  # it is not known which byte is wrong, so all are downloaded again
    raise DownloadFailed(
        f"{file.url}: came twice with another MD5 than the record's {file.md5}: try again later"
    )


def _is_right(path: Path, file: RemoteFile) -> bool:
    return file_digest(path, "md5") == file.md5


def _fill(
    file: RemoteFile,
    partial: Path,
    pause: float,
    on_progress: Callable[[str, int, int], None] | None,
    on_wait: Callable[[float], None] | None,
) -> None:
    """Append to the partial file until it has its full size."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > file.size:
        partial.unlink()
        have = 0
    free = shutil.disk_usage(partial.parent).free
    if file.size - have > free:
        raise DownloadFailed(
            f"{file.name} needs {byte_size(file.size - have)} more, {partial.parent} has "
            f"{byte_size(free)} left"
        )
    failures, failed = 0, ""
    partial.touch()
    with _session(ATTEMPTS, pause, on_wait) as session:
        while have < file.size and failures < ATTEMPTS:
            before = have
            headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
            try:
                response = session.get(file.url, headers=headers, stream=True, timeout=_TIMEOUT)
                response.raise_for_status()
            except requests.RequestException as error:
                raise DownloadFailed(f"{file.url}: {_reason(error)}") from None
            kind = response.headers.get("Content-Type", "")
            if kind.startswith("application/json") and not file.name.endswith(".json"):
                raise DownloadFailed(f"{file.url}: is a description in JSON, not the file itself")
            if response.status_code != 206:  # the server cannot resume and sends the whole file
                have = 0
            with response, partial.open("ab" if have else "wb") as target:
                try:
                    while block := response.raw.read(min(_BLOCK, file.size - have)):
                        target.write(block)
                        have += len(block)
                        if on_progress is not None:
                            on_progress(file.name, have, file.size)
                except urllib3.exceptions.HTTPError as error:
                    failed = str(error)
            failures = 0 if have > before else failures + 1
    if have < file.size:
        raise DownloadFailed(
            f"{file.url}: {failed or 'the connection broke off'}; {have:,} of {file.size:,} bytes "
            "have arrived, and the next call resumes there",
            hint="run the same command again",
        )


class _Retry(urllib3.Retry):
    """Retries of a request that wait as long as the server asks, up to a limit."""

    on_wait: Callable[[float], None] | None = None

    def new(self, **changed: object) -> _Retry:
        retry = super().new(**changed)
        retry.on_wait = self.on_wait
        return retry

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        try:
            asked = super().get_retry_after(response)  # seconds or a date
            reset = response.headers.get("X-RateLimit-Reset")
            if asked is None and reset is not None and response.status == 429:
                asked = float(reset) - time.time()
        except (urllib3.exceptions.InvalidHeader, ValueError):
            return None
        return None if asked is None else min(max(asked, 0), LONGEST_PAUSE)

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        asked = None if response is None else self.get_retry_after(response)
        seconds = asked or self.get_backoff_time()
        if seconds > 0:
            if self.on_wait is not None:
                self.on_wait(seconds)
            time.sleep(seconds)


def _session(
    attempts: int, pause: float, on_wait: Callable[[float], None] | None
) -> requests.Session:
    """Return a session that retries each request up to a limit."""
    session = requests.Session()
    session.headers["User-Agent"] = f"model_zoos/{version('model_zoos')}"
    retry = _Retry(
        attempts - 1,
        backoff_factor=pause,
        backoff_max=LONGEST_PAUSE,
        status_forcelist=_RETRIED,
        raise_on_status=False,
    )
    retry.on_wait = on_wait
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


def _reason(error: Exception) -> str:
    """Return why a request failed, in one line."""
    if isinstance(error, requests.RequestException) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", None) or cause)
