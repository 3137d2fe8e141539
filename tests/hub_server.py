"""A Hub on the loopback interface: enough of its HTTP API for unmodified clients.

With HF_ENDPOINT set to its address and HF_HUB_DISABLE_XET=1, huggingface_hub 1 and 2 and datasets 4
and 5 create repositories, upload (preupload, LFS batch, commit), list and read files. It implements
the calls and fields that these clients use (huggingface_hub: hf_api.py, _commit_api.py, lfs.py,
file_download.py; https://huggingface.co/docs/hub/api), for data set repositories only. As on the
Hub, the answer to a request for an LFS file is a redirect to its object.

A test with this server proves nothing about Xet (chunks, deduplication, its own tokens and servers;
this server offers plain LFS), multipart uploads, permissions of organisations and fine-grained
tokens (a token here may read, write or nothing, everywhere), gated repositories, rate limits, how
the Hub checks commits and the metadata of a card (here: it must be YAML), and the viewer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

WRITER, READER = "hf_writerwriterwriter", "hf_readerreaderreader"
"""Tokens that tests use."""

LFS_ENDINGS = (".parquet", ".safetensors", ".png", ".bin")
LFS_SIZE = 10 << 20
"""Minimum size from which other files are stored as LFS too, as on the Hub."""


Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer."""


@dataclass(frozen=True)
class Blob:
    """The content of a file: bytes in memory, or (LFS) the SHA-256 of an object in the store."""

    content: bytes | None
    sha256: str | None
    size: int

    @cached_property
    def pointer(self) -> bytes:
        """The pointer that git stores in place of an LFS file."""
        text = f"oid sha256:{self.sha256}\nsize {self.size}\n"
        return b"version https://git-lfs.github.com/spec/v1\n" + text.encode()

    @cached_property
    def oid(self) -> str:
        """Id of the git blob."""
        content = self.pointer if self.content is None else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: commits (id -> path -> blob), and the commit of each branch."""

    private: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], message: str, ref: str) -> str:
        content = {path: blob.oid for path, blob in sorted(files.items())}
        parts = [self.refs.get(ref), len(self.messages), content, message]
        oid = hashlib.sha1(json.dumps(parts).encode()).hexdigest()
        self.commits[oid] = files
        self.messages.append(message)
        self.refs[ref] = oid
        return oid

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """One answered request, with the sizes of both bodies in bytes."""

    method: str
    path: str
    status: int
    received: int
    sent: int


class Hub(ThreadingHTTPServer):
    """The server: a context manager that serves from a thread.

    Attributes:
        tokens: token -> "read" or "write"; None allows everything to everybody.
        page: number of entries in a page of a listing (1000 on the Hub).
        requests: all answered requests, in order.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        folder: Path,
        *,
        tokens: dict[str, str] | None = None,
        page: int = 1000,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokens = tokens
        self.page = page
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self._left: int | None = None
        self._where = "before"
        self._then: Callable[[], None] = lambda: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Address of the objects: another host than the Hub's, which clients rely on."""
        return f"http://localhost:{self.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Print what went wrong, unless the client has gone: some are killed on purpose."""
        import traceback

        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()

    # --- Disturbances -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def closing(
        self, requests: int, where: str = "before", then: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Answer some more requests, then close the connection of every later one.

        Args:
            requests: number of requests that are still answered.
            where: close the connection of the first one after these "before" it is read, in the
                "middle" of its body (for GET, of the answer), or "after" its work, without an
                answer.
            then: called just before that, to kill the client, for example.
        """
        with self.lock:
            self._left, self._where, self._then = requests, where, then
        try:
            yield
        finally:
            with self.lock:
                self._left = None

    def disturbance(self) -> str | None:
        with self.lock:
            if self._left is None:
                return None
            self._left -= 1
            if self._left == -1:
                self._then()
                return self._where
            return "before" if self._left < 0 else None

    # --- For tests --------------------------------------------------------------------------------

    def content(self, repo: str, revision: str = "main") -> dict[str, str]:
        """Return path -> id of the git blob."""
        found = self.repos[repo]
        return {path: blob.oid for path, blob in found.commits[found.find(revision)].items()}

    def read(self, repo: str, path: str, revision: str = "main") -> bytes:
        found = self.repos[repo]
        blob = found.commits[found.find(revision)][path]
        return blob.content or self.object(repo, blob.sha256).read_bytes()

    def put(self, repo: str, files: dict[str, bytes], message: str = "by hand") -> str:
        """Commit files on top of the present ones without the API; return the id of the commit."""
        with self.lock:
            found = self.repos.setdefault(repo, Repo())
            blobs = {path: self.store(repo, path, content) for path, content in files.items()}
            head = found.commits.get(found.refs.get("main", ""), {})
            return found.commit({**head, **blobs}, message, "main")

    def sent(self, start: int = 0, pattern: str = "") -> int:
        """Return the bytes sent since request number `start` for paths that match."""
        chosen = (r for r in self.requests[start:] if re.search(pattern, r.path))
        return sum(request.sent for request in chosen)

    def object(self, repo: str, sha256: str | None) -> Path:
        folder = self.folder / repo.replace("/", "--")
        folder.mkdir(exist_ok=True)
        return folder / f"{sha256}"

    def store(self, repo: str, path: str, content: bytes) -> Blob:
        if not path.endswith(LFS_ENDINGS) and len(content) < LFS_SIZE:
            return Blob(content, None, len(content))
        sha256 = hashlib.sha256(content).hexdigest()
        self.object(repo, sha256).write_bytes(content)
        return Blob(None, sha256, len(content))


class _Answer(Exception):
    """The answer to a request that fails."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


_LFS = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_API = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>[^/]+)(?P<rest>/.*)?)?")
_RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    # --- One request ------------------------------------------------------------------------------

    def _serve(self) -> None:
        where = self.server.disturbance()
        if where == "before":
            return self._hang_up()
        length = int(self.headers.get("Content-Length") or 0)
        if where == "middle" and self.command != "GET":
            self.rfile.read(length // 2)
            return self._hang_up()
        self.received = length
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        wire, self.rest = self.wfile, length
        if where is not None:
            self.wfile = io.BytesIO()  # the answer goes nowhere, or half of it
        try:
            status, headers, body = self._answer(url.path)
        except _Answer as error:
            status, body = error.status, json.dumps({"error": error.message}).encode()
            headers = {"Content-Type": "application/json"}
            if error.code:
                headers["X-Error-Code"] = error.code
            if error.message:
                headers["X-Error-Message"] = error.message
        self._body()  # what nobody read
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body
        with self.server.lock:
            request = Request(self.command, unquote(self.path), status, length, len(sent))
            self.server.requests.append(request)
        self.wfile.write(sent)
        if where is not None:
            answer = self.wfile.getvalue()
            self.wfile = wire
            if where == "middle":
                self.wfile.write(answer[: len(answer) - max(1, len(sent) // 2)])
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        content = self.rfile.read(self.rest)
        if len(content) < self.rest:
            raise ConnectionResetError("the client has gone")
        self.rest = 0
        return content

    def _json(self) -> Any:
        return json.loads(self._body())

    def _answer(self, path: str) -> Reply:
        if path.startswith("/objects/"):  # addresses that the Hub gave out itself need no token
            return self._object(path.removeprefix("/objects/"))
        self.role = self._role()
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") is None:
                raise _Answer(401, message="Invalid username or password.")
            return _as_json({"type": "user", "name": "somebody", "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self._validate_yaml()
        if path == "/api/repos/create":
            return self._create_repo()
        if match := _LFS.fullmatch(path):
            self._repo(match["repo"])
            return self._lfs_batch(match["repo"])
        if match := _RESOLVE.fullmatch(path):
            return self._resolve(match["repo"], unquote(match["revision"]), unquote(match["path"]))
        if match := _API.fullmatch(path):
            repo = self._repo(match["repo"])
            rest = [unquote(part) for part in (match["rest"] or "").split("/")[1:]]
            what = match["what"] or "revision"
            answer = getattr(self, f"_api_{what.replace('-', '_')}", None)
            if answer is not None:
                return answer(match["repo"], repo, rest)
        raise _Answer(404, message=f"this small Hub knows no {path}")

    # --- Permissions ------------------------------------------------------------------------------

    def _role(self) -> str | None:
        if self.server.tokens is None:
            return "write"
        header = self.headers.get("Authorization")
        if header is None:
            return None
        role = self.server.tokens.get(header.removeprefix("Bearer "))
        if role is None:
            raise _Answer(401, message="Invalid credentials in Authorization header")
        return role

    def _may_write(self) -> None:
        if self.role is None:
            raise _Answer(401, message="Invalid username or password.")
        if self.role != "write":
            raise _Answer(
                403, message="You don't have the required permissions to perform this operation"
            )

    def _repo(self, name: str) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.role is None):
            # Without a token the Hub does not say whether there is such a repository.
            if self.role is None:
                raise _Answer(401, "RepoNotFound", "Invalid username or password.")
            raise _Answer(404, "RepoNotFound", "Repository not found")
        return repo

    def _revision(self, repo: Repo, revision: str) -> str:
        oid = repo.find(revision)
        if oid is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    # --- The API ----------------------------------------------------------------------------------

    def _validate_yaml(self) -> Reply:
        content = self._json()["content"]
        match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            yaml.safe_load(match[1] if match else "")
        except yaml.YAMLError as error:
            return _as_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return _as_json({"errors": [], "warnings": []})

    def _create_repo(self) -> Reply:
        self._may_write()
        values = self._json()
        assert values["type"] == "dataset"
        name = f"{values['organization']}/{values['name']}"
        url = f"{self.server.endpoint}/datasets/{name}"
        with self.server.lock:
            if name in self.server.repos:
                return _as_json({"error": "You already created this dataset repo", "url": url}, 409)
            private = values.get("visibility") == "private" or values.get("private")
            repo = Repo(private=bool(private))  # older clients send "private"
            attributes = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
            repo.commit(
                {".gitattributes": Blob(attributes, None, len(attributes))},
                "initial commit",
                "main",
            )
            self.server.repos[name] = repo
        return _as_json({"url": url})

    def _api_revision(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        oid = self._revision(repo, "/".join(rest) or "main")
        siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        values = {"id": name, "sha": oid, "private": repo.private, "siblings": siblings}
        card = repo.commits[oid].get("README.md")
        if licence := re.search(
            rb"\A---\n(?:.*\n)*?license: (.*)\n", (card and card.content) or b""
        ):
            values["cardData"] = {"license": licence[1].decode()}
        return _as_json({**values, "tags": [], "downloads": 0, "likes": 0, "disabled": False})

    def _api_refs(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        refs = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if not ref.startswith("refs/")
        ]
        return _as_json({"branches": refs, "converts": [], "tags": []})

    def _api_branch(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        self._may_write()
        start = json.loads(self._body() or b"{}").get("startingPoint", "main")
        with self.server.lock:
            if rest[0] in repo.refs:
                raise _Answer(409, message="Reference already exists")
            repo.refs[rest[0]] = self._revision(repo, start)
        return _as_json({})

    def _api_tree(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        files = repo.commits[self._revision(repo, rest[0])]
        folder = "/".join(rest[1:])
        prefix = f"{folder}/" if folder else ""
        below = sorted(path for path in files if path.startswith(prefix))
        if folder and not below and folder not in files:
            raise _Answer(404, "EntryNotFound", f"{folder} does not exist")
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path in below:
            parts = path[len(prefix) :].split("/")
            depths = range(1, len(parts)) if recursive else range(1, min(2, len(parts)))
            for depth in depths:
                above = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(above.encode()).hexdigest()
                entries[above] = {"type": "directory", "path": above, "oid": oid, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = _entry(path, files[path])
        start = int(self.query.get("cursor", 0))
        page = list(entries.values())[start : start + self.server.page]
        status, headers, body = _as_json(page)
        if start + self.server.page < len(entries):
            query = {**self.query, "cursor": str(start + self.server.page)}
            text = "&".join(f"{key}={quote(value)}" for key, value in query.items())
            address = f"{self.server.endpoint}{urlsplit(self.path).path}?{text}"
            headers["Link"] = f'<{address}>; rel="next"'
        return status, headers, body

    def _api_paths_info(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        files = repo.commits[self._revision(repo, rest[0])]
        body = self._body().decode()
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body).get("paths", [])
        found = [_entry(path, files[path]) for path in paths if path in files]
        for path in paths:
            if path not in files and any(other.startswith(f"{path}/") for other in files):
                oid = hashlib.sha1(path.encode()).hexdigest()
                found.append({"type": "directory", "path": path, "oid": oid, "size": 0})
        return _as_json(found)

    def _api_preupload(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        if "create_pr" in self.query:
            if self.role is None:
                raise _Answer(401, message="Invalid username or password.")
        else:
            self._may_write()
        files = repo.commits[self._revision(repo, rest[0])]
        answers = []
        for file in self._json()["files"]:
            path = file["path"]
            lfs = path.endswith(LFS_ENDINGS) or file["size"] >= LFS_SIZE
            blob = files.get(path)
            known = None if blob is None else blob.sha256 or blob.oid
            mode = "lfs" if lfs else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append({**answer, **({"oid": known} if known else {})})
        return _as_json({"files": answers})

    def _lfs_batch(self, name: str) -> Reply:
        if self.role is None:
            raise _Answer(401, message="Invalid username or password.")
        answers = []
        for entry in self._json()["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if not self.server.object(name, entry["oid"]).exists():
                address = f"{self.server.storage}/objects/{name}/{entry['oid']}"
                actions = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
                answer["actions"] = actions
            answers.append(answer)
        return _as_json({"transfer": "basic", "objects": answers})

    def _object(self, rest: str) -> Reply:
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)/([0-9a-f]{64})(/verify)?", rest)
        assert match is not None
        name, oid, verify = match.groups()
        path = self.server.object(name, oid)
        if verify:
            size = self._json()["size"]
            if not path.exists() or path.stat().st_size != size:
                raise _Answer(404, message="not uploaded")
            return _as_json({})
        if self.command == "PUT":
            digest, partial = hashlib.sha256(), path.with_suffix(f".{threading.get_ident()}")
            with partial.open("wb") as file:
                while block := self.rfile.read(min(1 << 20, self.rest)):
                    self.rest -= len(block)
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != oid:
                partial.unlink()
                raise _Answer(400, message="the content has another SHA-256")
            partial.replace(path)
            return _as_json({})
        return self._ranged(path.open("rb"), path.stat().st_size, {"ETag": f'"{oid}"'})

    def _api_commit(self, name: str, repo: Repo, rest: list[str]) -> Reply:
        pull_request = "create_pr" in self.query
        if not pull_request:
            self._may_write()
        lines = [json.loads(line) for line in self._body().splitlines()]
        header = lines[0]["value"]
        ref = rest[0]
        with self.server.lock:
            head = self._revision(repo, ref)
            if header.get("parentCommit") not in (None, head):
                raise _Answer(412, message="A commit has happened since. Please refresh")
            files = dict(repo.commits[head])
            for line in lines[1:]:
                kind, value = line["key"], line["value"]
                if kind == "file":
                    content = base64.b64decode(value["content"])
                    files[value["path"]] = Blob(content, None, len(content))
                elif kind == "lfsFile":
                    if not self.server.object(name, value["oid"]).exists():
                        raise _Answer(400, message=f"{value['path']}: its object is missing")
                    files[value["path"]] = Blob(None, value["oid"], value["size"])
                elif kind == "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise _Answer(404, "EntryNotFound", "A file with this name doesn't exist")
                else:
                    raise _Answer(400, message=f"this small Hub knows no {kind}")
            number = sum(other.startswith("refs/pr/") for other in repo.refs) + 1
            if pull_request:
                ref = f"refs/pr/{number}"
                repo.refs[ref] = head
            oid = repo.commit(files, header["summary"], ref)
        address = f"{self.server.endpoint}/datasets/{name}"
        values = {"success": True, "commitOid": oid, "commitUrl": f"{address}/commit/{oid}"}
        if pull_request:
            values["pullRequestUrl"] = f"{address}/discussions/{number}"
        return _as_json(values)

    # --- Files ------------------------------------------------------------------------------------

    def _resolve(self, name: str, revision: str, path: str) -> Reply:
        repo = self._repo(name)
        oid = self._revision(repo, revision)
        blob = repo.commits[oid].get(path)
        if blob is None:
            raise _Answer(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if blob.content is not None:
            headers["ETag"] = f'"{blob.oid}"'
            return self._ranged(io.BytesIO(blob.content), blob.size, headers)
        headers["X-Linked-Etag"] = f'"{blob.sha256}"'
        headers["X-Linked-Size"] = str(blob.size)
        headers["Location"] = (
            f"{self.server.storage}/objects/{name}/{blob.sha256}?path={quote(path)}"
        )
        return 302, headers, b""

    def _ranged(self, file: Any, size: int, headers: dict[str, str]) -> Reply:
        headers = {"Content-Type": "application/octet-stream", **headers}
        with file:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if self.command == "HEAD":
                return 200, {**headers, "Content-Length": str(size)}, b""
            if match is None:
                return 200, headers, file.read()
            start = int(match[1])
            if start >= size:
                raise _Answer(416, message="Range not satisfiable")
            stop = min(int(match[2]) + 1, size) if match[2] else size
            file.seek(start)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            return 206, headers, file.read(stop - start)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "oid": blob.oid, "size": blob.size}
    if blob.sha256 is not None:
        lfs = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        entry["lfs"] = lfs
    return entry


def _as_json(value: Any, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


# --- Clients --------------------------------------------------------------------------------------

_LOOP = """
import contextlib, io, pickle, sys, traceback
lines = sys.stdin.buffer
answers, sys.stdout = sys.stdout.buffer, sys.stderr
while True:
    try:
        code, values = pickle.load(lines)
    except EOFError:
        break
    try:
        exec(compile(code, "<client>", "exec"), values)
        answer = (values.get("result"), None)
    except BaseException as error:
        answer = (None, f"{type(error).__name__}: {error}")
        traceback.print_exc()
    pickle.dump(answer, answers)
    answers.flush()
"""


class ClientError(Exception):
    """Code in a client raised an error: its class and message."""


class Client:
    """A Python process with a Hub as HF_ENDPOINT, which the libraries read when they are imported.

    Args:
        endpoint: address of the Hub.
        folder: working directory, with caches and output.
        token: HF_TOKEN; None for no token.
        without: modules that cannot be imported, as if they were not installed.
    """

    def __init__(
        self,
        endpoint: str,
        folder: Path,
        *,
        token: str | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment = environment = {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            **({"HF_TOKEN": token} if token is not None else {}),
        }
        if without:
            environment.pop("PYTHONPATH")
        self.log = folder / "output.txt"
        self._output = self.log.open("wb")
        start = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in without)
        self.process = subprocess.Popen(
            [sys.executable, "-c", start + _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=environment,
            cwd=folder,
        )

    def run(self, code: str, **values: Any) -> Any:
        """Run code in the process and return the value of `result` after it.

        Args:
            code: Python, which may be indented.
            values: variables of the code.

        Raises:
            ClientError: the code raised an error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((textwrap.dedent(code), values), self.process.stdin)
        self.process.stdin.flush()
        result, error = pickle.load(self.process.stdout)
        if error is not None:
            raise ClientError(error)
        return result

    def output(self) -> str:
        """Return everything that the process has printed and logged."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self._output.close()
