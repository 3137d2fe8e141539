"""Downloads from a server on loopback that speaks Zenodo's API and misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.sources import zenodo
from model_zoos.builders.sources.zenodo import RemoteFile, choose, download, record_files
from model_zoos.errors import DownloadFailed, InvalidArgument
from tests.builders.sources.raw import files_of, write_zip
from tests.shared import needs_shared

DOI = "10.5281/zenodo.6632086"
ZIP = "tune_zoo_mnist_uniform.zip"


@dataclass
class Server:
    """What the server holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    drop_after: list[int] = field(default_factory=list)  # bytes sent before each broken connection
    corrupt: list[int] = field(default_factory=list)  # positions, one for each complete sending
    refuse: list[int] = field(default_factory=list)  # HTTP statuses of the next requests
    headers: dict[str, str] = field(default_factory=dict)  # of refusals
    entry: Callable[[dict[str, Any]], Any] = lambda entry: entry  # changes a file's description
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)  # User-Agent headers
    address: str = ""

    def url(self, name: str, end: str = "") -> str:
        return f"{self.address}/api/records/6632086/files/{name}{end}"

    def record(self) -> dict[str, Any]:
        return {
            "id": 6632086,
            "doi": DOI,
            "files": [
                self.entry(
                    {
                        "key": name,
                        "size": len(content),
                        "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                        "links": {"self": self.url(name, "/content")},
                    }
                )
                for name, content in self.files.items()
            ],
        }


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            server.agents.add(self.headers["User-Agent"])
            if any(default in self.headers["User-Agent"] for default in ("python", "urllib")):
                self.reply(403, b"")
                return
            if server.refuse:
                self.send_response(server.refuse.pop(0))
                for key, value in server.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path == "/api/records/6632086":
                self.reply(200, json.dumps(server.record()).encode())
                return
            if not self.path.endswith("/content"):
                self.reply(200, b'{"links": {}}', kind="application/json")
                return
            name = unquote(self.path.removesuffix("/content").rpartition("/")[2])
            content = server.files[name]
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
            sent = bytearray(content[start:])
            if server.corrupt and start <= server.corrupt[0]:
                sent[server.corrupt.pop(0) - start] ^= 1
            drop = server.drop_after.pop(0) if server.drop_after else None
            status = 206 if asked and server.ranges else 200
            self.reply(status, bytes(sent), drop)

        def reply(
            self, status: int, content: bytes, drop: int | None = None, kind: str = "text/plain"
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:drop])
            if drop is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.address = f"http://127.0.0.1:{http.server_port}"
        Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()


CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def server() -> Iterator[Server]:
    files = {"index_dict.json": b"{}", ZIP: CONTENT, "dataset_mnist_seed.pt": b"preprocessed"}
    with serving(Server(files)) as running:
        yield running


def fetched(server: Server, folder: Path, **options: Any) -> Path:
    return download("mnist-cnn-s-seed", folder, address=server.address, pause=0.001, **options)


def test_the_record_and_the_zoos_file(server: Server, tmp_path: Path) -> None:
    assert [f.name for f in record_files(DOI, server.address)] == list(server.files)
    seen: list[tuple[str, int, int]] = []
    path = fetched(server, tmp_path, on_progress=lambda *done: seen.append(done))
    assert (path.name, path.read_bytes()) == (ZIP, CONTENT)
    assert seen[-1] == (ZIP, len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [path]
    server.requests.clear()
    assert fetched(server, tmp_path) == path  # there, and its MD5 is right: not fetched again
    assert len(server.requests) == 1
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert fetched(server, tmp_path, preprocessed=True).read_bytes() == b"preprocessed"
    assert fetched(server, tmp_path, file="index_dict.json").read_bytes() == b"{}"


def test_broken_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.drop_after = [0, 1_000_000, 1, 0, 2_000_000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    starts = [asked for path, asked in server.requests if path.endswith("content")]
    assert starts == [f"bytes={n}-" for n in (0, 0, 1_000_000, 1_000_001, 1_000_001, 3_000_001)]


def test_a_later_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_500_000, *[0] * 8]
    with pytest.raises(
        DownloadFailed, match="1,500,000 of 5,120,000 bytes have arrived, and the next"
    ):
        fetched(server, tmp_path)
    server.requests.clear()
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1500000-"


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.drop_after = [1_000_000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT


def test_a_corrupt_byte(server: Server, tmp_path: Path) -> None:
    server.corrupt = [3_000_000]
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3
    (tmp_path / ZIP).unlink()
    server.corrupt = [3_000_000, 5]
    with pytest.raises(DownloadFailed, match="twice with another MD5"):
        fetched(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.refuse = [503, 429]
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    server.refuse = [404]
    with pytest.raises(DownloadFailed, match=r"6632086: HTTP 404\. .*doi\.org"):
        fetched(server, tmp_path)
    server.refuse = [500] * 8
    with pytest.raises(DownloadFailed, match="HTTP 500"):
        fetched(server, tmp_path)


def test_a_busy_server_says_when_to_ask_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wish counts within a limit: a day would look like a hanging program."""
    monkeypatch.setattr(zenodo, "LONGEST_PAUSE", 0.2)
    day = time.time() + 86400
    for headers, longest in (
        ({"Retry-After": "0"}, 0.01),
        ({"Retry-After": "86400"}, 0.2),
        ({"Retry-After": formatdate(day, usegmt=True)}, 0.2),
        ({"Retry-After": formatdate(0, usegmt=True)}, 0.01),
        ({"Retry-After": "soon"}, 0.01),
        ({"X-RateLimit-Reset": str(int(day))}, 0.2),
        ({"X-RateLimit-Reset": "1"}, 0.01),
        ({"X-RateLimit-Reset": "x"}, 0.01),
    ):
        server.refuse, server.headers = [429, 429], headers
        before, waits = time.monotonic(), list[float]()
        assert len(record_files(DOI, server.address, 0.001, waits.append)) == 3
        assert sum(waits) <= time.monotonic() - before
        assert (max(waits, default=0) == 0.2) == (longest == 0.2), headers
        assert max(waits, default=0) <= longest


def test_descriptions_of_other_versions(server: Server, tmp_path: Path) -> None:
    """`self` describes the file or is it; names, sizes and MD5 under the names of several APIs."""
    name = "a zoo of mnist.zip"
    server.files = {name: CONTENT}
    md5 = hashlib.md5(CONTENT).hexdigest()
    here, described = server.url(name, "/content"), server.url(name)
    forms: list[dict[str, Any]] = [
        {"links": {"self": described, "content": here}},
        {"links": {"self": described, "download": here}},
        {"links": {"self": here}, "checksum": md5.upper()},
        {"filename": name, "filesize": len(CONTENT), "key": None, "size": None},
    ]
    for number, form in enumerate(forms):
        changed = {key: value for key, value in form.items() if value is not None}
        absent = form.keys() - changed.keys()
        server.entry = lambda entry, c=changed, a=absent: {
            **{key: value for key, value in entry.items() if key not in a},
            **c,
        }  # type: ignore[misc]
        assert fetched(server, tmp_path / str(number)).read_bytes() == CONTENT
    server.entry = lambda entry: {**entry, "links": {"self": described}}
    with pytest.raises(DownloadFailed, match="is a description in JSON, not the file"):
        fetched(server, tmp_path / "self")
    assert not (tmp_path / "self" / name).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"links": {}},
        {"links": None},
        {"links": {"self": "ftp://x/y"}},
        {"checksum": "sha256:00"},
        {"checksum": None},
        {"size": "12"},
        {"size": -1},
    ],
)
def test_descriptions_that_lack_something(server: Server, change: dict[str, Any]) -> None:
    server.entry = lambda entry: {**entry, **change}
    with pytest.raises(DownloadFailed, match="no description of a record"):
        record_files(DOI, server.address)


@pytest.mark.parametrize("url", ["http://[bad/x", "http://localhost:port/x", "http:///x"])
def test_addresses_that_are_none_fail_at_once(server: Server, tmp_path: Path, url: str) -> None:
    waits: list[float] = []
    server.entry = lambda entry: {**entry, "links": {"content": url}}
    with pytest.raises(DownloadFailed, match="http:"):
        fetched(server, tmp_path, on_wait=waits.append)
    with pytest.raises(DownloadFailed, match="http:"):
        record_files(DOI, url, on_wait=waits.append)
    with pytest.raises(DownloadFailed, match="zenodo"):
        record_files(DOI, "zenodo.org", on_wait=waits.append)
    assert waits == []


def test_the_server_learns_who_asks_and_odd_names_are_quoted(
    server: Server, tmp_path: Path
) -> None:
    name = "a zoo, 100% größer.zip"
    server.files = {name: CONTENT}
    assert fetched(server, tmp_path).read_bytes() == CONTENT
    assert server.agents == {f"model_zoos/{model_zoos.__version__}"}


@pytest.mark.parametrize("name", ["../evil", ".hidden", "a/b", "a\\b", ""])
def test_names_that_are_paths_are_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.files = {name: b"x"}
    with pytest.raises(DownloadFailed, match="no description of a record"):
        fetched(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_which_file() -> None:
    def files(*names: str) -> list[RemoteFile]:
        return [RemoteFile(name, 10**9, "0", "https://zenodo.org/x") for name in names]

    def chosen(name: str, *names: str, **options: Any) -> str:
        zoo = get_zoo(name.removesuffix("_sparse"))
        return choose(files(*names), name, zoo, DOI, **options).name

    stem = "tune_zoo_mnist_hyperparameter_10"
    names = (ZIP, f"{stem}_random_seeds.zip", f"{stem}_fixed_seed.zip", "dataset_mnist_hyp_fix.pt")
    assert chosen("mnist_cnn_s_seed", *names) == ZIP
    assert chosen("mnist_cnn_s_hyp_10_r", *names) == names[1]
    assert chosen("mnist_cnn_s_hyp_10_f", *names) == names[2]
    assert chosen("mnist_cnn_s_hyp_10_f", *names, preprocessed=True) == names[3]
    assert chosen("cifar10_resnet18", "whatever.zip", "readme.md") == "whatever.zip"
    assert chosen("mnist_cnn_s_seed_sparse", "cnn_small_mnist_ard.zip") == "cnn_small_mnist_ard.zip"
    assert chosen("mnist_cnn_s_seed", *names, file=names[1]) == names[1]
    for options, text in (
        ({}, "no file of the record .* can be recognised as mnist_cnn_s_seed"),
        ({"file": "nosuch"}, "the record .* has no file 'nosuch'"),
        ({"preprocessed": True}, "no file of the record"),
    ):
        with pytest.raises(
            InvalidArgument, match=rf"{text}.* Its files:\n  a\.zip  1\.000"
        ) as error:
            chosen("mnist_cnn_s_seed", "a.zip", "b.zip", **options)
        assert "--file" in str(error.value.hint)


def test_what_was_not_published(tmp_path: Path) -> None:
    for name in ("digits_cnn_s", "usps_cnn_s_seed_sparse"):
        with pytest.raises(InvalidArgument, match="has no original files"):
            download(name, tmp_path)


@needs_shared
def test_the_command_downloads_and_imports(server: Server, tmp_path: Path) -> None:
    server.files[ZIP] = write_zip(tmp_path / "x.zip", files_of(trials=2, epochs=2)).read_bytes()
    command = [sys.executable, "-m", "model_zoos", "download", "mnist_cnn_s_seed", "--json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MODEL_ZOOS_ZENODO": server.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)
    assert (report["zoo"], report["found"], report["kept"]) == ("mnist_cnn_s_seed", 4, 4)
    assert (tmp_path / "zoos" / "downloads" / ZIP).exists()
    assert (tmp_path / "zoos" / "mnist_cnn_s_seed" / "zoo.json").exists()
