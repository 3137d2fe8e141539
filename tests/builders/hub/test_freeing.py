"""No model is lost: its bytes are in the repository, as the Hub lists them, or here.

Each test publishes a small zoo, changes something in the repository or here, and publishes again
with `free`. The Hub is tests/hub_server.py, the client a process of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from model_zoos.builders.atomic import json_bytes
from model_zoos.builders.hub.freeing import source_digest
from model_zoos.builders.hub.names import DATA_FILE, matches
from model_zoos.builders.ledger import Published
from model_zoos.builders.zoo_directory import ZooDirectory, open_zoo
from tests.builders.hub.small_states import (
    NAME,
    make,
    register,
    train_again,
    unregister,
    weights_of,
)
from tests.hub_server import Blob, Client, ClientError, Hub

PUSH = """
import dataclasses
from tests.builders.hub import small_states
small_states.register()
from model_zoos.builders.hub.incremental import PublishOptions, prepare_push, push_models
from model_zoos.builders.zoo_directory import open_zoo
directory = open_zoo(home, "small_states")
options = PublishOptions(repo_id, free)
prepare_push(directory, options)
result = dataclasses.asdict(push_models(directory, options))
"""


@pytest.fixture(scope="module", autouse=True)
def linear() -> Iterator[None]:
    """The small architecture is known to these tests alone."""
    register()
    yield
    unregister()


@dataclasses.dataclass
class Case:
    """A repository, a folder of zoos, and what must not be lost of them."""

    hub: Hub
    writer: Client
    home: Path
    repo_id: str
    models: list[str]
    expected: dict[str, dict[int, bytes]]

    def push(self, *, free: bool = True, home: Path | None = None) -> dict[str, Any]:
        done: dict[str, Any] = self.writer.run(
            PUSH, home=str(home or self.home), repo_id=self.repo_id, free=free
        )
        return done

    def try_push(self, **arguments: Any) -> str | None:
        """Publish; return the error."""
        try:
            self.push(**arguments)
        except ClientError as error:
            return str(error)
        return None

    def paths(self, model: str | None = None) -> list[str]:
        """Names of the files of a model (of all) in the repository."""
        found = matches(DATA_FILE, self.hub.content(self.repo_id))
        return sorted(m.string for m in found if model in (None, m["model_id"]))

    @property
    def head(self) -> dict[str, Blob]:
        repo = self.hub.repos[self.repo_id]
        return dict(repo.commits[repo.refs["main"]])

    def commit(self, changes: dict[str, Blob | bytes | None]) -> None:
        """Change files of the repository by hand; None deletes one."""
        files = self.head
        for path, content in changes.items():
            if content is None:
                del files[path]
            elif isinstance(content, bytes):
                files[path] = self.hub.store(self.repo_id, path, content)
            else:
                files[path] = content
        self.hub.repos[self.repo_id].commit(files, "by hand", "main")

    def there(self, model: str) -> dict[int, bytes]:
        """Epoch -> weights of a model in the repository."""
        found: dict[int, bytes] = {}
        for path in self.paths(model):
            content, blob = self.hub.read(self.repo_id, path), self.head[path]
            if blob.size != len(content) or not blob.sha256:
                continue
            try:
                table = pq.read_table(io.BytesIO(content))
                for row in range(len(table)):
                    weights = table["weights"].slice(row, 1).combine_chunks().flatten()
                    if table["model_id"][row].as_py() == model:
                        found[table["epoch"][row].as_py()] = weights.to_numpy().tobytes()
            except (pa.ArrowException, OSError):
                continue
        return found

    def lost(self) -> list[str]:
        """Models that are neither here nor there as they should be."""
        known = self.repo_id in self.hub.repos
        return [
            model
            for model, states in self.expected.items()
            if weights_of(self.home, model) != states
            and not (known and self.there(model) == states)
        ]

    def here(self) -> list[str]:
        return [model for model in self.models if weights_of(self.home, model)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    make(root)
    return root


def new_case(hub: Hub, writer: Client, original: Path, folder: Path) -> Case:
    home = folder / "home"
    shutil.copytree(original, home)
    models = sorted(path.name for path in (home / NAME / "models").iterdir())
    expected = {model: weights_of(home, model) for model in models}
    return Case(hub, writer, home, f"me/case{len(hub.repos)}", models, expected)


@pytest.fixture(scope="module")
def published(hub: Hub, writer: Client, original: Path, tmp_path_factory: Any) -> Case:
    made = new_case(hub, writer, original, tmp_path_factory.mktemp("published"))
    assert made.push(free=False)["models"] == 3
    return made


@pytest.fixture
def case(published: Case, tmp_path: Path) -> Case:
    """A zoo that is published, and still here: a copy of its own."""
    hub, old = published.hub, published.repo_id
    made = new_case(hub, published.writer, published.home, tmp_path)
    objects = hub.object(made.repo_id, "all").parent
    shutil.copytree(hub.object(old, "all").parent, objects, dirs_exist_ok=True)
    hub.repos[made.repo_id] = copy.deepcopy(hub.repos[old])
    path = made.home / NAME / "published.json"
    path.write_text(path.read_text().replace(old, made.repo_id))
    set_sources(made, source_digest)  # as if the copy had been published
    return made


def set_sources(case: Case, source: Callable[[ZooDirectory, str], str | None]) -> None:
    """Change what the ledger says of the model files that were published."""
    directory = open_zoo(case.home, NAME)
    published = directory.published()
    records = {
        model: dataclasses.replace(record, source=source(directory, model))
        for model, record in published.records.items()
    }
    directory.write_published(dataclasses.replace(published, records=records))


def source_of_an_earlier_version(directory: ZooDirectory, model: str) -> str:
    stats = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in (directory.state_path(model, epoch) for epoch in directory.kept_epochs)
    ]
    return hashlib.sha256(json_bytes(stats)).hexdigest()


def rewritten(content: bytes, change: Callable[[pa.Table], pa.Table]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(content))), sink)
    return sink.getvalue()


def other_weights(table: pa.Table) -> pa.Table:
    column = table["weights"].combine_chunks()
    values = pc.add(column.flatten(), pa.scalar(1, pa.float32()))
    changed = pa.FixedSizeListArray.from_arrays(values, type=column.type)
    return table.set_column(table.schema.get_field_index("weights"), "weights", changed)


def flipped(content: bytes) -> bytes:
    data = bytearray(content)
    data[len(data) // 3] ^= 255
    return bytes(data)


def edited(name: str, value: Any) -> Callable[[bytes], bytes]:
    """A change of one column of a file to the same value everywhere."""

    def change(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(name)
        column = pa.array([value] * len(table), table.schema.field(name).type)
        return table.set_column(number, table.schema.field(name), column)

    return lambda content: rewritten(content, change)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "garbage": lambda content: b"PAR1" * 100,
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "deleted": lambda content: None,
    "no rows": lambda content: rewritten(content, lambda table: table.slice(0, 0)),
    "another epoch": edited("epoch", 7),
    "another id": edited("model_id", "somebody"),
    "no epoch": edited("epoch", None),
    "no weights": edited("weights", None),
    "other columns": lambda c: rewritten(c, lambda table: table.drop_columns(["seed"])),
}


USUAL = ("cut", "emptied", "deleted", "another epoch")


def slow_but(usual: Collection[str], names: Iterable[str]) -> list[Any]:
    """Parameters, of which only the usual ones belong to the default tests."""
    return [pytest.param(n, marks=[] if n in usual else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("damage", slow_but(USUAL, DAMAGES))
def test_damaged_shards_are_published_again(case: Case, damage: str) -> None:
    path = case.paths(case.models[0])[0]
    case.commit({path: DAMAGES[damage](case.hub.read(case.repo_id, path))})
    done = case.push()
    assert case.lost() == []
    assert (done["models"], done["freed"], done["left_out"]) == (1, 3, {})
    assert case.here() == []


@pytest.mark.parametrize("lie", ["size 0", "another SHA-256", "a small file"])
def test_what_is_listed_otherwise_is_not_freed(case: Case, lie: str) -> None:
    path = case.paths(case.models[0])[0]
    blob = case.head[path]
    case.commit(
        {
            path: {
                "size 0": dataclasses.replace(blob, size=0),
                "another SHA-256": case.head[case.paths(case.models[1])[0]],
                "a small file": Blob(case.hub.read(case.repo_id, path), None, blob.size),
            }[lie]
        }
    )
    case.try_push()
    assert case.lost() == []
    case.try_push()
    assert case.lost() == []


@pytest.mark.parametrize("change", [flipped, lambda c: rewritten(c, other_weights)])
def test_another_model_of_the_same_id_is_not_replaced(
    case: Case, change: Callable[[bytes], bytes]
) -> None:
    paths = case.paths(case.models[0])
    theirs = {path: change(case.hub.read(case.repo_id, path)) for path in paths}
    case.commit(theirs)
    done = case.push()
    assert list(done["left_out"]) == [case.models[0]]
    assert "has another model of this id, which is not replaced" in done["left_out"][case.models[0]]
    assert case.lost() == []
    assert case.here() == [case.models[0]]
    assert {p: case.hub.read(case.repo_id, p) for p in paths} == theirs


@pytest.mark.parametrize("broken", ["nothing", "metrics", "one shard"])
def test_two_machines(case: Case, tmp_path: Path, broken: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(case.home, other)
    (other / NAME / "published.json").unlink()
    train_again(other, case.models[1])
    first, second = case.models[0], case.models[1]
    before = {path: case.hub.read(case.repo_id, path) for path in case.paths(second)}
    if broken == "metrics":
        case.commit({p: None for p in case.hub.content(case.repo_id) if p.startswith("metrics/")})
    if broken == "one shard":
        case.commit({case.paths(first)[1]: b""})
    done = case.push(home=other)
    # The first model is the same on both, or repaired; the second one is refused.
    assert list(done["left_out"]) == [second]
    assert weights_of(other, second)
    assert {path: case.hub.read(case.repo_id, path) for path in case.paths(second)} == before
    assert case.there(first) == case.expected[first]
    assert weights_of(other, first) == {}
    assert case.lost() == []
    case.try_push()
    assert case.lost() == []


@pytest.mark.parametrize("epochs", [(1,), (1, 2)])
def test_trained_again_after_publication(case: Case, epochs: tuple[int, ...]) -> None:
    train_again(case.home, case.models[2], epochs=epochs)
    case.expected[case.models[2]] = weights_of(case.home, case.models[2])
    done = case.push()
    assert (done["models"], done["freed"]) == (1, 3)
    assert case.there(case.models[2]) == case.expected[case.models[2]]
    assert case.lost() == []


def test_trained_again_without_freeing_is_published(case: Case) -> None:
    train_again(case.home, case.models[0])
    assert case.push(free=False)["models"] == 1
    assert case.there(case.models[0]) == weights_of(case.home, case.models[0])
    assert case.push(free=False)["models"] == 0


TRAIN_MEANWHILE = """
from pathlib import Path
import tests.builders.hub.small_states as small
small.register()
from model_zoos.builders.hub.remote import Remote
kept = getattr(Remote, method)
def training(*arguments, **others):
    small.train_again(Path(home), model)
    return kept(*arguments, **others)
setattr(Remote, method, training)
"""


@pytest.mark.parametrize("method", ["upload_one", "commit"])
def test_trained_again_while_it_is_published(
    hub: Hub, writer: Client, original: Path, tmp_path: Path, method: str
) -> None:
    case = new_case(hub, writer, original, tmp_path)
    values = {"home": str(case.home), "model": case.models[0], "method": method}
    restore = "\nsetattr(Remote, method, kept)"
    code = TRAIN_MEANWHILE + PUSH + restore
    writer.run(code, repo_id=case.repo_id, free=True, **values)
    case.expected[case.models[0]] = weights_of(case.home, case.models[0])
    assert case.expected[case.models[0]]  # not freed
    assert case.push()["freed"] == 1
    assert case.lost() == []


@pytest.mark.parametrize("keeps_time", [False, True])
def test_only_touched_or_copied(case: Case, keeps_time: bool) -> None:
    for path in (case.home / NAME / "models").glob("*/*"):
        now, modified = time.time_ns(), path.stat().st_mtime_ns
        os.utime(path, ns=(now, modified if keeps_time else now))
    sent = sum(request.method == "PUT" for request in case.hub.requests)
    assert case.push()["freed"] == 3
    assert sum(request.method == "PUT" for request in case.hub.requests) == sent
    assert case.lost() == []


@pytest.mark.parametrize("ledger", ["new", "of an earlier version"])
def test_trained_again_with_the_same_times(case: Case, ledger: str) -> None:
    """As by `rsync -t` from another machine: sizes and times of modification stay."""
    model = case.models[1]
    if ledger != "new":
        set_sources(case, source_of_an_earlier_version)
    paths = sorted((case.home / NAME / "models" / model).glob("*.safetensors"))
    before = [path.stat() for path in paths]
    train_again(case.home, model)
    for path, stat in zip(paths, before, strict=True):
        assert path.stat().st_size == stat.st_size
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    case.expected[model] = weights_of(case.home, model)
    assert case.push()["freed"] == 3
    assert case.there(model) == case.expected[model]
    assert case.lost() == []


@pytest.mark.parametrize("back", ["first", "middle"])
def test_a_branch_that_was_reset(case: Case, tmp_path: Path, back: str) -> None:
    repo = case.hub.repos[case.repo_id]
    commits = list(repo.commits)
    if back == "middle":
        case.commit(dict.fromkeys(case.paths(case.models[1])))
        commits = [*repo.commits]
    repo.refs["main"] = commits[0 if back == "first" else -1]
    assert case.push()["freed"] == 3
    assert case.lost() == []
    repo.refs["main"] = commits[0]
    assert "not there any more" in (case.try_push() or "")


@pytest.mark.parametrize("what", ["gone", "empty"])
def test_a_repository_that_is_gone(case: Case, what: str) -> None:
    kept = case.hub.repos.pop(case.repo_id)
    if what == "empty":
        case.hub.put(case.repo_id, {".gitattributes": b"*.parquet filter=lfs\n"})
    failed = case.try_push()
    assert (failed is None) == (what == "empty")
    assert case.lost() == []
    if what == "gone":
        case.hub.repos[case.repo_id] = kept
        assert case.push()["freed"] == 3
        assert case.lost() == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"metrics/{NAME}-train.parquet", b"PAR1" * 9, r"FaultyZoo: me/.*: metrics/.*not readable"),
        (f"metrics/{NAME}-train.parquet", b"", r"FaultyZoo: me/.*: metrics/.*not readable"),
        ("README.md", b"---\nconfigs: abc\n---\n", "InvalidArgument: .* no usable metadata: conf"),
        ("README.md", b"\xff\xfe\x00", "InvalidArgument: .* no usable metadata: it is not UTF-8"),
    ],
)
def test_other_damages_are_named(case: Case, name: str, content: bytes, message: str) -> None:
    case.commit({name: content})
    with pytest.raises(ClientError, match=message):
        case.push()
    assert case.lost() == []
    assert case.here() == case.models


def old_ledger(case: Case, **places: str) -> None:
    """Make the ledger one of an earlier version."""
    path = case.home / NAME / "published.json"
    models = json.loads(path.read_text())["models"]
    path.write_text(json.dumps({"repo_id": case.repo_id, "models": {**models, **places}}))


@pytest.mark.parametrize("damage", [None, "cut"])
def test_a_ledger_of_an_earlier_version(case: Case, damage: str | None) -> None:
    old_ledger(case)
    if damage is not None:
        path = case.paths(case.models[0])[0]
        case.commit({path: DAMAGES[damage](case.hub.read(case.repo_id, path))})
    assert case.push()["freed"] == 3
    assert case.lost() == []
    assert case.here() == []


@pytest.mark.parametrize("changed", [False, True])
def test_what_an_interruption_of_an_earlier_version_left(case: Case, changed: bool) -> None:
    old_ledger(case, **{case.models[0]: "freed"})
    directory = open_zoo(case.home, NAME)
    directory.state_path(case.models[0], 1).unlink()
    if changed:
        train_again(case.home, case.models[0], epochs=(2,))
    done = case.push()
    assert case.here() == ([case.models[0]] if changed else [])
    assert ("differ from those in" in str(done["left_out"])) == changed
    assert case.lost() == []


@pytest.mark.parametrize("damage", slow_but(["cut"], USUAL))
@pytest.mark.parametrize("ledger", ["new", "old", "none"])
def test_freed_models_that_were_damaged_are_said(case: Case, damage: str, ledger: str) -> None:
    case.push()
    assert case.here() == []
    if ledger == "old":
        old_ledger(case)
    if ledger == "none":
        (case.home / NAME / "published.json").unlink()
    path = case.paths(case.models[0])[0]
    case.commit({path: DAMAGES[damage](case.hub.read(case.repo_id, path))})
    if ledger == "none":  # the other two are taken over; this one is to be trained again
        case.push()
        assert open_zoo(case.home, NAME).published().freed == set(case.models[1:])
    else:
        assert f"not there any more, first {case.models[0]}" in (case.try_push() or "")


def test_other_files_of_a_model_stay(case: Case) -> None:
    folder = case.home / NAME / "models" / case.models[0]
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint.pt").write_text("to resume from")
    assert case.push()["freed"] == 3
    assert [path.name for path in folder.parent.rglob("*")] == [case.models[0], "notes.txt"]
    assert case.lost() == []


def test_a_ledger_without_records_is_read_and_written_as_before(case: Case) -> None:
    directory = open_zoo(case.home, NAME)
    directory.write_published(Published("a/b", {"m": "here"}))
    content = json.loads((case.home / NAME / "published.json").read_text())
    assert content == {"repo_id": "a/b", "models": {"m": "here"}}


# --- Interruptions --------------------------------------------------------------------------------


def count_requests(hub: Hub, writer: Client, original: Path, folder: Path) -> int:
    case = new_case(hub, writer, original, folder)
    before = len(hub.requests)
    case.push()
    return len(hub.requests) - before


def interrupt(case: Case, requests: int, where: str) -> None:
    with case.hub.closing(requests, where):
        failed = case.try_push()
    assert failed is None or failed.startswith("HubUnreachable")
    assert case.lost() == [], (requests, where)


def kill(case: Case, requests: int, where: str) -> None:
    values = {"home": str(case.home), "repo_id": case.repo_id, "free": True}
    code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + PUSH
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=case.writer.environment, stderr=subprocess.DEVNULL
    )
    with case.hub.closing(requests, where, lambda: process.send_signal(signal.SIGKILL)):
        process.wait()
    time.sleep(0.05)  # the server's last answer
    assert case.lost() == [], (requests, where)


def finish(case: Case) -> None:
    case.push()
    assert case.here() == []
    assert case.lost() == []
    assert not (case.home / NAME / ".push").exists()


def test_some_interruptions(hub: Hub, writer: Client, original: Path, tmp_path: Path) -> None:
    total = count_requests(hub, writer, original, tmp_path / "count")
    chance = random.Random(0)
    case = new_case(hub, writer, original, tmp_path)
    for number in range(8):
        interrupt(case, chance.randrange(total), ("before", "middle", "after")[number % 3])
    kill(case, 2 * total // 3, "after")
    finish(case)


@pytest.mark.slow
@pytest.mark.parametrize("how", [interrupt, kill])
@pytest.mark.parametrize("where", ["before", "middle", "after"])
def test_every_interruption(
    hub: Hub,
    writer: Client,
    original: Path,
    tmp_path: Path,
    how: Callable[[Case, int, str], None],
    where: str,
) -> None:
    total = count_requests(hub, writer, original, tmp_path / "count")
    for requests in range(total):
        case = new_case(hub, writer, original, tmp_path / f"{requests}")
        how(case, requests, where)
        finish(case)
