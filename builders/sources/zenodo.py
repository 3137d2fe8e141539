"""Fetch published zoos from Zenodo: which record, which of its files, resumed and checked.

A zoo's DOI ends in the number of its record; `/api/records/<number>` describes it, with name, size,
MD5 and address of every file (https://developers.zenodo.org/#records). A download that breaks off
goes on where it was (HTTP Range), also in a later run, and counts only when its MD5 is the
record's.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DownloadFailed
from ..catalog import TWIN_DOIS, get_zoo
from ..specification import Zoo, normalize_name
from .identify import zoo_of_file

ADDRESS = "https://zenodo.org"
"""Of the API; MODEL_ZOOS_ZENODO names another that speaks it."""

RECORD_ATTEMPTS = 3
"""Requests for the description of a record: without a network a user shall not wait for long."""

ATTEMPTS = 8
"""Requests in a row that bring nothing before a download gives up."""

_TIMEOUT = 60.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: name, bytes, MD5 (hex) and address."""

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
) -> Path:
    """Fetch the published file of a zoo.

    Args:
        name: of a zoo of the catalog, or of its sparse twins.
        folder: where the file goes, under its own name.
        file: its name in the record; None to choose by the zoo's name.
        preprocessed: take the preprocessed data set, not the raw zip.
        address: of the API, else MODEL_ZOOS_ZENODO, else `ADDRESS`.
        pause: seconds after the first failed request; doubles with each.
        on_progress: called with the file's name, bytes that are there and bytes in all.

    Returns:
        The file's path; its MD5 is the record's.

    Raises:
        ValueError: the zoo was not published, or the record has not exactly one file for it (the
            message lists the record).
        DownloadFailed: out of reach, or other bytes than the record's MD5.
    """
    address = (address or os.environ.get("MODEL_ZOOS_ZENODO") or ADDRESS).rstrip("/")
    zoo, doi = _published(name, preprocessed)
    files = record_files(doi, address, pause)
    chosen = choose(files, normalize_name(name), zoo, doi, file, preprocessed)
    return fetch(chosen, Path(folder), pause=pause, on_progress=on_progress)


def _published(name: str, preprocessed: bool) -> tuple[Zoo, str]:
    key = normalize_name(name)
    zoo = get_zoo(key.removesuffix("_sparse"))
    doi = TWIN_DOIS.get(zoo.name) if key.endswith("_sparse") else zoo.doi
    if preprocessed and zoo.doi_preprocessed and not key.endswith("_sparse"):
        doi = zoo.doi_preprocessed
    if doi is None:
        raise ValueError(
            f"{key} was not published: `model-zoos list --json` shows the DOIs of those that were"
        )
    return zoo, doi


def record_files(doi: str, address: str = ADDRESS, pause: float = 1.0) -> list[RemoteFile]:
    """The files of a record.

    Raises:
        DownloadFailed: out of reach, or no description of a record.
    """
    url = f"{address}/api/records/{doi.rpartition('.')[2]}"
    failed = ""
    for attempt in range(RECORD_ATTEMPTS):
        if attempt:
            time.sleep(min(60.0, pause * 2 ** (attempt - 1)))
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                record = json.loads(response.read(64 << 20))
            return [_remote_file(entry) for entry in record["files"]]
        except urllib.error.HTTPError as error:
            failed = f"HTTP {error.code}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            failed = str(error)
        except (ValueError, KeyError, TypeError) as error:
            raise DownloadFailed(f"{url}: no description of a record ({error})") from None
    raise DownloadFailed(f"{url}: {failed}. The record: https://doi.org/{doi}")


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    name, url, checksum = entry["key"], entry["links"]["self"], entry["checksum"]
    if not re.fullmatch(r"[^./\\\0][^/\\\0]*", name):
        raise ValueError(f"a file named {name!r}")
    if not url.startswith(("https://", "http://")) or not checksum.startswith("md5:"):
        raise ValueError(f"{name} has no address or no MD5")
    return RemoteFile(name, int(entry["size"]), checksum.removeprefix("md5:"), url)


def choose(
    files: Sequence[RemoteFile],
    name: str,
    zoo: Zoo,
    doi: str,
    file: str | None = None,
    preprocessed: bool = False,
) -> RemoteFile:
    """The file of a record that holds a zoo.

    That is the zip named after the zoo's experiment, or the preprocessed file named after the zoo;
    else the only zip there is.

    Raises:
        ValueError: none or several; the message lists the record.
    """
    zips = [f for f in files if f.name.lower().endswith(".zip")]
    if file is not None:
        matching = [f for f in files if f.name == file]
    elif preprocessed:
        matching = [f for f in files if zoo_of_file(f.name, zoo.architecture) == zoo.name]
    elif name == zoo.name and zoo.experiment is not None:
        # Some scripts and zips differ in the last letter of "seeds".
        wanted = zoo.experiment.rstrip("s")
        matching = [f for f in zips if f.name.lower()[:-4].rstrip("s") == wanted]
    else:
        matching = []
    if not matching and file is None and not preprocessed and len(zips) == 1:
        matching = zips
    if len(matching) == 1:
        return matching[0]
    listing = "".join(f"\n  {f.name}  {f.size / 1e9:.3f} GB" for f in files)
    raise ValueError(
        f"{name}: {'no file' if not matching else f'{len(matching)} files'} of the record "
        f"{doi} can be told to be it; choose one with --file:{listing}"
    )


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    pause: float = 1.0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Download one file, going on with what an earlier run left.

    Raises:
        DownloadFailed: see `download`.
    """
    path = folder / file.name
    if path.exists() and path.stat().st_size == file.size and _md5(path) == file.md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{file.name}.partial")
    for second in (False, True):
        _fill(file, partial, pause, on_progress)
        if _md5(partial) == file.md5:
            partial.replace(path)
            return path
        partial.unlink()  # a byte is wrong, nobody knows which: once more from the start
        if second:
            break
    raise DownloadFailed(
        f"{file.url}: came twice with another MD5 than the record's {file.md5}: try again later"
    )


def _fill(
    file: RemoteFile,
    partial: Path,
    pause: float,
    on_progress: Callable[[str, int, int], None] | None,
) -> None:
    """Bring the partial file to its full size."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > file.size:
        partial.unlink()
        have = 0
    free = shutil.disk_usage(partial.parent).free
    if file.size - have > free:
        raise DownloadFailed(
            f"{file.name} needs {(file.size - have) / 1e9:.1f} GB more, {partial.parent} has "
            f"{free / 1e9:.1f} GB left"
        )
    failures, failed = 0, ""
    while have < file.size:
        if failures == ATTEMPTS:
            raise DownloadFailed(
                f"{file.url}: {failed}; {have:,} of {file.size:,} bytes are there: run the same "
                "command again to go on"
            )
        if failures:
            time.sleep(min(60.0, pause * 2 ** (failures - 1)))
        before = have
        request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"})
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                # A server that cannot resume sends all of it, with 200 in place of 206.
                resumed = response.status == 206
                with partial.open("ab" if resumed else "wb") as target:
                    have = have if resumed else 0
                    while block := response.read(min(_BLOCK, file.size - have)):
                        target.write(block)
                        have += len(block)
                        if on_progress is not None:
                            on_progress(file.name, have, file.size)
            failed = "the connection broke off"
        except urllib.error.HTTPError as error:
            failed = f"HTTP {error.code}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise DownloadFailed(f"{file.url}: {failed}") from None
        except (OSError, http.client.HTTPException) as error:
            failed = str(error) or type(error).__name__
            have = partial.stat().st_size if partial.exists() else 0
        failures = 0 if have > before else failures + 1


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
