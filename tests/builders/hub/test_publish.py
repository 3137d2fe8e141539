"""Publishing to a Hub, and reading from it with and without this package.

The Hub is tests/hub_server.py; every client is a process of its own, with the libraries as they
are.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, load_dataset

from model_zoos.benchmarks.speed import streaming as streaming_cost
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.merge import merge_cards
from model_zoos.builders.hub.publish import folder_files
from model_zoos.builders.schema import row_features
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import open_zoo
from tests.builders.hub.bits import digests
from tests.hub_server import READER, WRITER, Client, ClientError, Hub, Request
from tests.zoos import random_zoo

ME = "me/model_zoos"

PUBLISH = """
from dataclasses import asdict
from model_zoos.builders.hub.publish import publish
result = asdict(publish(folder, repo_id, **arguments))
"""


# --- Folders as `model-zoos build` makes them, of few lines ---------------------------------------


def write_folder(
    folder: Path, home: Path, names: list[str], *, shards: int = 1, group: int = 12
) -> Path:
    """A repository folder: `shards` files of each split, in row groups of `group` rows."""
    configs = []
    for name in names:
        about = {"zoo": open_zoo(home, name).zoo.to_json(), "engine": "test"}
        splits = load_dataset("model_zoos", name, data_dir=str(home))
        files = []
        for split, rows in splits.items():
            table = rows.with_format("arrow")[:]
            size = table.schema.field("weights").type.list_size
            for kind, columns in (("data", size), ("metrics", None)):
                schema = row_features(columns).arrow_schema
                metadata = {**schema.metadata, "model_zoos": json.dumps(about)}
                part = table.select(schema.names).cast(schema.with_metadata(metadata))
                if kind == "metrics":
                    _write(folder / f"metrics/{name}-{split}.parquet", part, 1 << 16)
                    continue
                step = -(-len(part) // shards)
                for number in range(shards):
                    path = f"data/{name}/{split}-{number:05d}-of-{shards:05d}.parquet"
                    _write(folder / path, part.slice(number * step, step), group)
            files.append({"split": split, "path": f"data/{name}/{split}-*.parquet"})
        configs.append({"config_name": name, "data_files": files})
    metrics = [{"split": split, "path": f"metrics/*-{split}.parquet"} for split in SPLITS]
    configs.append({"config_name": "metrics", "data_files": metrics, "default": True})
    header = {"license": "cc-by-4.0", "tags": ["model-zoo"], "configs": configs}
    card = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n# Model zoos\n"
    (folder / "README.md").write_text(card)
    (folder / ".build").mkdir(exist_ok=True)
    (folder / ".build" / "lock").write_text("")
    return folder


def _write(path: Path, table: pa.Table, group: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [name for name in table.column_names if name != "weights"]
    split = ["weights.list.element"] if "weights" in table.column_names else False
    pq.write_table(
        table,
        path,
        row_group_size=group,
        compression="zstd",
        use_dictionary=plain,
        write_statistics=plain,
        use_byte_stream_split=split,
        write_page_index=True,
    )


def bits(table: pa.Table) -> dict[str, Any]:
    """Digests of all columns, equal only if every value is to the bit."""
    return digests(Dataset(table))


# --- A Hub, its clients, and what is published there ----------------------------------------------


@pytest.fixture(scope="module")
def stranger(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody without a token."""
    with Client(hub.endpoint, tmp_path_factory.mktemp("stranger")) as client:
        client.run("import logging; logging.basicConfig(level=logging.DEBUG)")
        yield client


@pytest.fixture(scope="module")
def plain(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody with datasets alone."""
    folder = tmp_path_factory.mktemp("plain")
    with Client(hub.endpoint, folder, without=("model_zoos",)) as client:
        yield client


@pytest.fixture(scope="module")
def home(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zoo directories: digits_cnn_s, and a union of three."""
    root = tmp_path_factory.mktemp("zoos")
    (root / "digits_cnn_s").symlink_to(digits_home / "digits_cnn_s")
    for variant, models in (("seed", 9), ("hyp_10_r", 8), ("hyp_10_f", 7)):
        zoo = dataclasses.replace(get_zoo(f"mnist_cnn_s_{variant}"), epochs=2)
        random_zoo(root, zoo, models)
    return root


UNION = ["mnist_cnn_s_seed", "mnist_cnn_s_hyp_10_r", "mnist_cnn_s_hyp_10_f"]


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder"), home, ["digits_cnn_s", *UNION], shards=2)


@pytest.fixture(scope="module")
def published(hub: Hub, writer: Client, folder: Path) -> str:
    """The name of a repository that holds all of `folder`."""
    writer.run(PUBLISH, folder=str(folder), repo_id=ME, arguments={})
    return ME


# --- Publishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_a_published_zoo_is_loaded_with_datasets_alone(
    published: str, plain: Client, home: Path, streaming: bool
) -> None:
    loaded = plain.run(
        """
        import pyarrow, sys
        from datasets import load_dataset
        assert sys.modules["model_zoos"] is None
        splits = load_dataset(repo, "digits_cnn_s", streaming=streaming)
        result = {name: rows.with_format("arrow") for name, rows in splits.items()}
        for name, rows in result.items():
            result[name] = pyarrow.concat_tables(rows.iter(50)) if streaming else rows[:]
        """,
        repo=published,
        streaming=streaming,
    )
    ours = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(home))
    assert list(loaded) == list(ours)
    for split, table in loaded.items():
        assert len(table) == len(ours[split])
        assert bits(table) == bits(ours[split].with_format("arrow")[:])


def test_only_what_has_changed_travels(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"repo_id": "me/changes", "arguments": {}}
    folder = write_folder(tmp_path / "one", home, ["digits_cnn_s"], shards=2)
    first, told = writer.run(
        "told = []\narguments = {**arguments, 'on_progress': lambda *values: told.append(values)}"
        + PUBLISH
        + "result = result, told",
        folder=str(folder),
        **arguments,
    )
    files = folder_files(folder)
    for what in ("compared", "uploaded"):
        assert [done for kind, done, _ in told if kind == what][-1] == first["uploaded_bytes"]
    assert {total for _, _, total in told} == {first["uploaded_bytes"]}
    assert set(hub.content("me/changes")) == {".gitattributes", *files}
    sizes = {path: len(hub.read("me/changes", path)) for path in files}
    for path in files[1:]:  # but the README
        assert hub.read("me/changes", path) == (folder / path).read_bytes()
    assert (first["uploaded"], first["unchanged"], first["deleted"]) == (len(files), 0, ())
    assert first["uploaded_bytes"] == sum(sizes.values())

    before = len(hub.requests)
    again = writer.run(PUBLISH, folder=str(folder), **arguments)
    assert (again["uploaded"], again["unchanged"]) == (0, len(files))
    assert again["commit"] == first["commit"] == hub.repos["me/changes"].refs["main"]
    assert {request.method for request in hub.requests[before:]} <= {"GET", "HEAD"}

    # Of an earlier build with other shards nothing stays; what is the same is not sent.
    folder = write_folder(tmp_path / "two", home, ["digits_cnn_s"], shards=1)
    before = len(hub.requests)
    third = writer.run(PUBLISH, folder=str(folder), **arguments)
    assert len(third["deleted"]) == 6
    assert set(hub.content("me/changes")) == {".gitattributes", *folder_files(folder)}
    assert (third["uploaded"], third["unchanged"]) == (3, 4)
    assert sum(request.method == "PUT" for request in hub.requests[before:]) == 3


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(
    hub: Hub, writer: Client, folder: Path
) -> None:
    old = hub.put("org/busy", {"README.md": b"# Before\n"})
    hub.put("org/busy", {"README.md": b"# After\n"})
    with pytest.raises(ClientError, match="HubFailed: org/busy was changed by somebody else"):
        writer.run(
            "import model_zoos.builders.hub.publish as hub\n"
            "kept, hub.open_head = hub.open_head, lambda *_: old\n"
            "try:\n    hub.publish(folder, 'org/busy')\nfinally:\n    hub.open_head = kept",
            folder=str(folder),
            old=old,
        )
    assert set(hub.content("org/busy")) == {"README.md"}


def test_the_command(writer: Client, home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", home, ["digits_cnn_s"])
    command = """
        import contextlib, io
        from model_zoos.cli import app
        with contextlib.redirect_stdout(io.StringIO()) as output:
            app(["publish", "me/command", "--from", folder, *options], standalone_mode=False)
        result = output.getvalue()
        """
    shown = writer.run(command, folder=str(folder), options=[])
    assert re.search(
        r"^digits_cnn_s: published, http://.*/datasets/me/command/commit/\w+$", shown, re.M
    )
    assert re.search(r"files new or changed .* 7 ", shown)
    told = json.loads(writer.run(command, folder=str(folder), options=["--json"]))
    assert (told["uploaded"], told["unchanged"], told["zoos"]) == (0, 7, ["digits_cnn_s"])
    assert writer.run(command, folder=str(folder), options=["--quiet"]) == ""


def test_what_others_have_put_there_stays(
    hub: Hub, writer: Client, plain: Client, home: Path, tmp_path: Path
) -> None:
    repo = "org/shared"
    header = {
        "tags": ["fish"],
        "annotations_creators": ["found"],
        "configs": [{"config_name": "fish", "data_files": "fish/*.parquet", "default": True}],
        "dataset_info": {
            "config_name": "fish",
            "features": [{"name": "length", "dtype": "int64"}],
        },
    }
    card = f"---\n{yaml.safe_dump(header)}---\n# Fish\n\nA text of somebody.\n"
    pond = io.BytesIO()
    pq.write_table(pa.table({"length": [3, 5]}), pond)
    theirs = {
        "README.md": card.encode(),
        "fish/pond.parquet": pond.getvalue(),
        "data/other/train-00000-of-00001.parquet": b"not of the folder",
    }
    hub.put(repo, theirs)
    first = writer.run(
        PUBLISH,
        folder=str(write_folder(tmp_path / "1", home, ["digits_cnn_s"])),
        repo_id=repo,
        arguments={},
    )
    assert first["kept_configs"] == ("fish",)
    second = write_folder(tmp_path / "2", home, ["mnist_cnn_s_seed"])
    summary = writer.run(PUBLISH, folder=str(second), repo_id=repo, arguments={})
    assert summary["kept_configs"] == ("fish",)
    for path in ("fish/pond.parquet", "data/other/train-00000-of-00001.parquet"):
        assert hub.read(repo, path) == theirs[path]
    readme = hub.read(repo, "README.md").decode()
    assert readme.count("A text of somebody.") == 1
    assert readme.index("# Model Zoos") < readme.index("# Fish")
    assert "| `digits_cnn_s` | CNN-s |" in readme  # the card is one of both zoos
    assert "| `mnist_cnn_s_seed` | CNN-s |" in readme
    assert f'load_dataset("{repo}", "digits_cnn_s"' in readme
    values = yaml.safe_load(readme.split("---")[1])
    assert {"model-zoo", "fish"} < set(values["tags"])
    assert values["annotations_creators"] == ["found"]
    names = {config["config_name"]: config.get("default") for config in values["configs"]}
    expected = {"digits_cnn_s": None, "fish": True, "metrics": None, "mnist_cnn_s_seed": None}
    assert names == expected
    again = writer.run(PUBLISH, folder=str(second), repo_id=repo, arguments={})
    assert (again["uploaded"], again["commit"]) == (0, summary["commit"])
    counts = plain.run(
        """
        from datasets import load_dataset
        result = {}
        for name in (None, "digits_cnn_s", "mnist_cnn_s_seed", "metrics"):
            splits = load_dataset(repo, name)
            result[name] = sum(len(rows) for rows in splits.values())
        """,
        repo=repo,
    )
    assert counts == {None: 2, "digits_cnn_s": 120, "mnist_cnn_s_seed": 27, "metrics": 147}


def test_a_zoo_that_is_half_there_does_not_hinder(
    hub: Hub, writer: Client, folder: Path, home: Path, tmp_path: Path
) -> None:
    half = ["metrics/mnist_cnn_s_seed-train.parquet"]
    half += [path for path in folder_files(folder) if path.startswith("data/mnist_cnn_s_seed/test")]
    hub.put("org/half", {path: (folder / path).read_bytes() for path in half})
    one = write_folder(tmp_path / "f", home, ["digits_cnn_s"])
    summary = writer.run(PUBLISH, folder=str(one), repo_id="org/half", arguments={})
    assert summary["zoos"] == ("digits_cnn_s",)
    assert set(hub.content("org/half")) == {*half, *folder_files(one)}
    # Once it is whole, the card is one of both.
    whole = write_folder(tmp_path / "g", home, ["mnist_cnn_s_seed"], shards=2)
    writer.run(PUBLISH, folder=str(whole), repo_id="org/half", arguments={})
    card = hub.read("org/half", "README.md").decode()
    assert all(f"config_name: {name}\n" in card for name in ("digits_cnn_s", "mnist_cnn_s_seed"))


def test_a_pull_request_a_branch_and_several_commits(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "f", home, ["digits_cnn_s"])
    hub.put("org/theirs", {"README.md": b"# Theirs\n"})
    before = hub.content("org/theirs")
    arguments: dict[str, Any] = {"folder": str(folder), "repo_id": "org/theirs"}
    # More commits than one: the first opens the pull request, the others go on with it.
    summary = writer.run(
        "import model_zoos.builders.hub.remote as hub\nhub.FILES_PER_COMMIT = 3" + PUBLISH,
        **arguments,
        arguments={"create_pr": True},
    )
    assert summary["url"] == f"{hub.endpoint}/datasets/org/theirs/discussions/1"
    assert hub.content("org/theirs") == before
    assert set(hub.content("org/theirs", "refs/pr/1")) == set(folder_files(folder))
    messages = hub.repos["org/theirs"].messages
    assert messages[1:] == [f"Publish digits_cnn_s ({number} of 3)" for number in (1, 2, 3)]
    assert [ref for ref in hub.repos["org/theirs"].refs if ref != "main"] == ["refs/pr/1"]
    on_branch = writer.run(
        "import model_zoos.builders.hub.remote as hub\nhub.FILES_PER_COMMIT = 250" + PUBLISH,
        **arguments,
        arguments={"revision": "v2"},
    )
    assert hub.content("org/theirs") == before
    assert hub.repos["org/theirs"].refs["v2"] == on_branch["commit"]
    with pytest.raises(ClientError, match="not both"):
        writer.run(PUBLISH, **arguments, arguments={"revision": "v2", "create_pr": True})
    private = {**arguments, "repo_id": "me/secret"}
    writer.run(PUBLISH, **private, arguments={"private": True})
    assert hub.repos["me/secret"].private
    with pytest.raises(ClientError, match="exists and is public"):
        writer.run(PUBLISH, **arguments, arguments={"private": True})


def test_an_unfinished_build_is_not_published(
    hub: Hub, published: str, writer: Client, folder: Path, tmp_path: Path
) -> None:
    before = hub.content(published)
    shutil.copytree(folder, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "data" / "digits_cnn_s")
    (tmp_path / "half" / "data" / "digits_cnn_s").mkdir()
    for path in (folder / "data" / "digits_cnn_s").glob("train-*"):
        shutil.copy(path, tmp_path / "half" / "data" / "digits_cnn_s")
    with pytest.raises(ClientError, match=r"FaultyZoo: .* lacks some of its files"):
        writer.run(PUBLISH, folder=str(tmp_path / "half"), repo_id=published, arguments={})
    assert hub.content(published) == before


def test_no_commit_of_several_has_rows_twice(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"repo_id": "me/pieces", "arguments": {}}
    first = write_folder(tmp_path / "three", home, ["digits_cnn_s"], shards=3)
    writer.run(PUBLISH, folder=str(first), **arguments)
    second = write_folder(tmp_path / "one", home, ["digits_cnn_s"], shards=1)
    repo = hub.repos["me/pieces"]
    known = set(repo.commits)
    code = "import model_zoos.builders.hub.remote as hub\nhub.FILES_PER_COMMIT = 2"
    writer.run(code + PUBLISH, folder=str(second), **arguments)
    writer.run("import model_zoos.builders.hub.remote as hub\nhub.FILES_PER_COMMIT = 250")
    added = [files for commit, files in repo.commits.items() if commit not in known]
    assert len(added) > 1
    assert set(added[-1]) == {".gitattributes", *folder_files(second)}
    for files in added:
        assert not [path for path in files if path.startswith("data/") and "-of-00003" in path]


def stored(requests: list[Request]) -> set[str]:
    """Paths of the objects that arrived whole: half of one, from a killed client, is none."""
    return {r.path for r in requests if r.method == "PUT" and r.status == 200}


@pytest.fixture(scope="module")
def undisturbed(hub: Hub, writer: Client, folder: Path) -> int:
    """Requests that a publication of `folder` takes."""
    before = len(hub.requests)
    writer.run(PUBLISH, folder=str(folder), repo_id="me/undisturbed", arguments={})
    return len(hub.requests) - before


@pytest.mark.parametrize("seed", range(8))
def test_an_interrupted_publication_is_finished_by_the_next(
    hub: Hub, writer: Client, undisturbed: int, folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    repo = f"me/interrupted-{seed}"
    moment, where = chance.randrange(undisturbed), chance.choice(["before", "middle", "after"])
    start = len(hub.requests)
    message = r"HubFailed: .*try again to resume$"
    with hub.closing(moment, where), pytest.raises(ClientError, match=message):
        writer.run(PUBLISH, folder=str(folder), repo_id=repo, arguments={})
    kept = stored(hub.requests[start:])
    start = len(hub.requests)
    writer.run(PUBLISH, folder=str(folder), repo_id=repo, arguments={})
    assert hub.content(repo) == hub.content("me/undisturbed")
    assert hub.repos[repo].messages == hub.repos["me/undisturbed"].messages
    assert not kept & stored(hub.requests[start:])


def test_a_killed_publication_is_finished_by_the_next(
    home: Path, writer: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    build_folder(["digits_cnn_s"], home, folder)
    arguments: dict[str, Any] = {"folder": str(folder), "repo_id": ME, "arguments": {}}
    with Hub(tmp_path / "hub") as hub:
        with Client(hub.endpoint, tmp_path / "killed", token=WRITER) as client:
            client.run("import model_zoos.builders.hub.publish")

            def kill() -> None:
                while len(stored(hub.requests)) < 3:
                    time.sleep(0.001)
                client.process.kill()

            killer = threading.Thread(target=kill)
            killer.start()
            with pytest.raises(EOFError):
                client.run(PUBLISH, **arguments)
            killer.join()
        assert set(hub.content(ME)) == {".gitattributes"}
        kept = stored(hub.requests)
        start = len(hub.requests)
        program = Path(sys.executable).with_name("model-zoos")
        done = subprocess.run(
            [program, "publish", ME, "--from", folder, "--json"],
            env=client.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["commit"] == hub.repos[ME].refs["main"]
        assert done.stderr == ""
        assert set(hub.content(ME)) == {".gitattributes", *folder_files(folder)}
        assert not kept & stored(hub.requests[start:])
        hub.tokens = {}
        done = subprocess.run(
            [program, "publish", ME, "--from", folder],
            env=client.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        [line] = done.stderr.splitlines()
        assert line.startswith("error: the Hub does not accept this token")
        assert WRITER not in done.stderr + done.stdout
        assert (done.returncode, done.stdout) == (1, "")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no token": ({}, "publishing needs a token with write access, in HF_TOKEN"),
    "unknown token": ({"token": "hf_nobodynobody"}, "the Hub does not accept this token"),
    "may not write": (
        {"token": READER, "repo_id": "org/theirs"},
        "this token may not write to org/theirs",
    ),
    "broken token": ({"token": "hf_broken\nbroken"}, "characters that no token has"),
    "bad name": ({"token": WRITER, "repo_id": "a/b/c"}, "expected ORG/NAME"),
    "no repository": (
        {"token": WRITER, "repo_id": "me/none", "create_pr": True},
        "there is no data set repository me/none that this token may see",
    ),
    "no pull request": ({"token": WRITER, "revision": "refs/pr/9"}, "has no such revision"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line_that_says_what_to_do(
    hub: Hub, published: str, stranger: Client, folder: Path, case: str
) -> None:
    arguments, message = REFUSALS[case]
    hub.put("org/theirs", {"README.md": b"# Theirs\n"})
    arguments = {"repo_id": published, **arguments}
    with pytest.raises(ClientError) as raised:
        stranger.run(
            PUBLISH, folder=str(folder), repo_id=arguments.pop("repo_id"), arguments=arguments
        )
    said = str(raised.value)
    assert said.startswith("HubFailed: ")
    assert message in said
    assert "\n" not in said
    token = arguments.get("token", WRITER)
    for secret in {token, *token.split()}:
        assert secret not in said + stranger.output()


def test_a_hub_that_is_not_there(writer: Client, folder: Path, hub: Hub) -> None:
    for setting, message in (
        ("constants.HF_HUB_OFFLINE = True", "HF_HUB_OFFLINE is set"),
        ("constants.ENDPOINT = 'http://127.0.0.1:9'", "was not reached"),
    ):
        with pytest.raises(ClientError, match=f"HubFailed: .*{message}"):
            writer.run(
                "from huggingface_hub import constants\n"
                "from huggingface_hub.utils import close_session\n"
                "kept = constants.HF_HUB_OFFLINE, constants.ENDPOINT\n"
                f"{setting}\n"
                "close_session()\n"
                "try:\n    from model_zoos.builders.hub.publish import publish\n"
                "    publish(folder, 'me/x')\n"
                "finally:\n"
                "    constants.HF_HUB_OFFLINE, constants.ENDPOINT = kept\n"
                "    close_session()\n",
                folder=str(folder),
            )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model_zoos.py").write_text(""), "takes it for a loading script"),
        (lambda f: (f / "data/model_zoos.py").write_text(""), "takes it for a loading script"),
        (lambda f: (f / "notes.txt").write_text(""), "no part of a built repository"),
        (lambda f: (f / "README.md").unlink(), "holds no README.md or no data"),
        (lambda f: shutil.rmtree(f / "data"), "holds no README.md or no data"),
        (lambda f: next(f.glob("data/*/train-00000*")).unlink(), "are missing or of two builds"),
        (
            lambda f: shutil.copy(
                next(f.glob("data/*/train-00000*")),
                f / "data/digits_cnn_s/train-00000-of-00003.parquet",
            ),
            "are missing or of two builds",
        ),
        (
            lambda f: next(f.glob("data/*/train-00000*")).write_bytes(b"PAR1"),
            "not readable as Parquet",
        ),
        (
            lambda f: pq.write_table(pa.table({"a": [1]}), next(f.glob("data/*/train-00000*"))),
            "was not written by a build of model_zoos",
        ),
        (lambda f: shutil.rmtree(f), "is not a folder"),
    ],
)
def test_a_folder_that_is_no_repository(
    folder: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    copied = tmp_path / "copied"
    for path in folder_files(folder):
        if path.startswith(("data/digits_cnn_s/", "README.md")):
            (copied / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / path, copied / path)
    assert "README.md" in folder_files(copied)
    spoil(copied)
    with pytest.raises(ValueError, match=re.escape(message)):
        folder_files(copied)


def test_cards_that_add_nothing_leave_ours_to_the_byte() -> None:
    ours = "---\nlicense:   mit # as we wrote it\nconfigs:\n- config_name: z\n---\nText\n"
    theirs = "---\nconfigs:\n- config_name: z\n  data_files: old\n---\nOld text\n"
    end = "\n<!-- end of the card made by model_zoos -->\n"
    assert merge_cards(ours, "") == (ours + end, ())
    assert merge_cards(ours, theirs + end) == (ours + end, ())
    with pytest.raises(ValueError, match="should be a dict"):
        merge_cards(ours, "---\n- a list\n---\n")
    for files in ("a.csv", ["a.parquet", "b.csv"], [{"split": "test", "path": ["c/*.csv"]}]):
        theirs = {"configs": [{"config_name": "fish", "data_files": files}]}
        with pytest.raises(ValueError, match=r"config 'fish' reads \.csv files"):
            merge_cards(ours, f"---\n{yaml.safe_dump(theirs)}---\n")


# --- Reading a repository by the names of zoos ----------------------------------------------------

LOAD = """
import model_zoos, os, pyarrow
from datasets import load_dataset
def table(rows):
    if isinstance(rows, dict):
        return {name: table(split) for name, split in rows.items()}
    rows = rows.with_format("arrow")
    return rows[:] if hasattr(rows, "__len__") else pyarrow.concat_tables(rows.iter(50))
"""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["digits-cnn-s", "mnist_cnn_s", "metrics"])
def test_a_repository_gives_the_rows_of_the_zoo_directories(
    published: str, writer: Client, home: Path, name: str, streaming: bool
) -> None:
    features, tables = writer.run(
        LOAD
        + "rows = load_dataset('model_zoos', name, repo=repo, streaming=streaming)\n"
        + "result = rows['train'].features, table(rows)",
        name=name,
        repo=published,
        streaming=streaming,
    )
    ours = load_dataset("model_zoos", name, data_dir=str(home))
    assert list(tables) == list(ours)
    assert features == ours["train"].features
    for split, table in tables.items():
        expected = ours[split].with_format("arrow")[:]
        if name == "metrics":  # by zoo, then as in each
            assert set(table["zoo"].to_pylist()) == {"digits_cnn_s", *UNION}
        assert bits(table) == bits(expected)


QUESTIONS: list[dict[str, Any]] = [
    {"columns": ["test_acc", "epoch"]},
    {"columns": ["weights"], "filters": [("epoch", "==", 5)]},
    {"filters": [[("epoch", "<", 2)], [("optimizer", "==", "adam"), ("test_acc", ">", 0.3)]]},
    {"columns": ["model_id"], "filters": [("learning_rate", "==", 3e-3)]},
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_columns_and_filters_mean_the_same(
    published: str, writer: Client, home: Path, question: dict[str, Any]
) -> None:
    for streaming in (False, True):
        got = writer.run(
            LOAD + "os.environ['MODEL_ZOOS_REPO'] = repo\ntry:\n"
            "    result = table(load_dataset('model_zoos', 'digits_cnn_s', split='train',\n"
            "                                streaming=streaming, **question))\n"
            "finally:\n    del os.environ['MODEL_ZOOS_REPO']",
            repo=published,
            streaming=streaming,
            question=question,
        )
        ours = load_dataset(
            "model_zoos", "digits_cnn_s", split="train", data_dir=str(home), **question
        )
        assert 0 < len(got) == len(ours)
        assert bits(got) == bits(ours.with_format("arrow")[:])


def test_zoo_directories_come_first(
    hub: Hub, published: str, writer: Client, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / UNION[0], tmp_path / UNION[0])
    before = len(hub.requests)
    alone, union, everything = writer.run(
        LOAD + "result = [sum(len(rows) for rows in load_dataset('model_zoos', name, repo=repo,\n"
        "           data_dir=home, columns=['epoch']).values()) for name in names]",
        names=[UNION[0], "mnist_cnn_s", "metrics"],
        repo=published,
        home=str(tmp_path),
    )
    # One zoo lies here, the union takes its other two from the Hub; metrics are the folder's.
    assert (alone, union, everything) == (27, 72, 27)
    read = " ".join(request.path for request in hub.requests[before:])
    assert UNION[1] in read
    assert f"data/{UNION[0]}/" not in read


def test_commits_and_branches(hub: Hub, writer: Client, home: Path, tmp_path: Path) -> None:
    repo = "me/history"
    random_zoo(tmp_path / "zoos", dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 7)
    commits = []
    for models in (7, 10):
        random_zoo(
            tmp_path / "zoos", dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), models
        )
        folder = write_folder(tmp_path / f"{models}", tmp_path / "zoos", ["digits_cnn_s"])
        writer.run(PUBLISH, folder=str(folder), repo_id=repo, arguments={})
        commits.append(hub.repos[repo].refs["main"])
    loaded = writer.run(
        LOAD + "result = [sum(len(rows) for rows in load_dataset('model_zoos', 'digits_cnn_s',\n"
        "          repo=repo, revision=revision).values()) for revision in revisions]",
        repo=repo,
        revisions=[commits[0], None, "main"],
    )
    assert loaded == [14, 20, 20]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "cifar10_cnn_s_seed",
            {},
            r"cifar10_cnn_s_seed is not in .*, which has digits_cnn_s, mnis",
        ),
        ("cifar10_cnn_s", {}, r"cifar10_cnn_s_seed, cifar10_cnn_s_hyp_10_r, .* is not in"),
        ("nonsense", {}, r"UnknownZoo: there is no zoo named 'nonsense'.*model_zoos: digits_cnn_s"),
        ("digits_cnn_s", {"revision": "v9"}, "HubFailed: .*no such revision"),
        ("digits_cnn_s", {"repo": "me/nothing"}, "HubFailed: there is no data set repository"),
        ("digits_cnn_s", {"repo": None, "revision": "v9"}, "give repo= or set MODEL_ZOOS_REPO"),
        ("digits_cnn_s", {"repo": "me/foreign"}, r"FaultyZoo: .*not have the columns of a zoo"),
    ],
)
def test_what_a_repository_cannot_give(
    hub: Hub, published: str, writer: Client, name: str, arguments: dict[str, Any], message: str
) -> None:
    other = io.BytesIO()
    pq.write_table(pa.table({"weights": [[1.0, 2.0]]}), other)
    hub.put("me/foreign", {"data/digits_cnn_s/train-00000-of-00001.parquet": other.getvalue()})
    with pytest.raises(ClientError, match=message):
        writer.run(
            LOAD + "load_dataset('model_zoos', name, **arguments)",
            name=name,
            arguments={"repo": published, **arguments},
        )


@pytest.mark.parametrize("source", ["plain", "ours"])
def test_ranks_workers_and_a_resumed_stream_see_every_row_once(
    published: str, plain: Client, writer: Client, home: Path, source: str
) -> None:
    client = plain if source == "plain" else writer
    arguments = (
        {"path": published, "name": "digits_cnn_s"}
        if source == "plain"
        else {"path": "model_zoos", "name": "digits_cnn_s", "repo": published}
    )
    by_rank, by_worker, resumed, resharded = client.run(
        """
        if source == "ours":
            import model_zoos
        from datasets import load_dataset
        from datasets.distributed import split_dataset_by_node
        from torch.utils.data import DataLoader
        arguments |= {"split": "train", "streaming": True, "columns": ["model_id", "epoch"]}
        stream = load_dataset(**arguments)
        def keys(rows):
            return [(row["model_id"], row["epoch"]) for row in rows]
        by_rank = [keys(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
        loader = DataLoader(stream.batch(10), batch_size=None, num_workers=2)
        by_worker = [key for batch in loader
                     for key in zip(batch["model_id"], batch["epoch"], strict=True)]
        rows = iter(stream)
        first = keys(next(rows) for _ in range(31))
        state = stream.state_dict()
        stream.load_state_dict(state)
        resumed = [first, keys(stream)]
        again = load_dataset(**arguments)
        again.load_state_dict(state)
        assert keys(again) == resumed[1]
        resharded = again.reshard()
        resharded = [resharded.num_shards, keys(resharded)]
        result = by_rank, by_worker, resumed, resharded
        """,
        source=source,
        arguments=arguments,
    )
    rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(home), split="train")
    expected = list(zip(rows["model_id"], rows["epoch"], strict=True))
    assert [len(keys) for keys in by_rank] == [42, 42]
    assert sorted(by_rank[0] + by_rank[1]) == sorted(expected)
    assert sorted(by_worker) == sorted(expected)
    assert resumed == [expected[:31], expected[31:]]
    assert resharded[1] == expected
    assert resharded[0] == (8 if source == "plain" else 2)  # row groups; files


def test_a_connection_that_breaks_off_while_reading(
    hub: Hub, published: str, writer: Client
) -> None:
    code = LOAD + (
        "stream = load_dataset('model_zoos', 'digits_cnn_s', repo=repo, split='train',"
        " streaming=True)\n"
    )
    for _ in range(2):  # the second time finds listings in its cache
        before = len(hub.requests)
        assert writer.run(code + "result = len(table(stream))", repo=published) == 84
    requests = len(hub.requests) - before
    message = "HubFailed: me/model_zoos: the Hub .* broke off"
    for moment in (0, requests // 2, requests - 1):
        with hub.closing(moment, "middle"), pytest.raises(ClientError, match=message):
            writer.run(code + "result = len(table(stream))", repo=published)
    assert writer.run(code + "result = len(table(stream))", repo=published) == 84


# --- Bytes ----------------------------------------------------------------------------------------


def test_only_the_wanted_bytes_are_read(
    hub: Hub, published: str, writer: Client, home: Path, folder: Path
) -> None:
    footer, read = 1 << 16, {}
    questions: dict[str, dict[str, Any]] = {
        "metrics": {"columns": ["epoch", "test_acc"]},
        "model": {"filters": [_one_model(home)]},
        "all": {},
    }
    for name, question in questions.items():
        before = len(hub.requests)
        rows = writer.run(
            LOAD + "result = len(table(load_dataset('model_zoos', name, repo=repo, split='train',\n"
            "                              streaming=True, **question)))",
            name="digits_cnn_s",
            repo=published,
            question=question,
        )
        assert rows == {"metrics": 84, "model": 6, "all": 84}[name]
        read[name] = hub.sent(before, "/objects/")
    metadata = [pq.read_metadata(path) for path in folder.glob("data/digits_cnn_s/train-*")]
    groups = [
        sum(m.row_group(i).column(j).total_compressed_size for j in range(m.num_columns))
        for m in metadata
        for i in range(m.num_row_groups)
    ]
    assert read["metrics"] < 3 * footer + 20_000  # of the schema and of two files
    assert read["model"] < 3 * footer + max(groups) + 10_000
    assert sum(groups) < read["all"] < 3 * footer + sum(groups) + 10_000


def _one_model(home: Path) -> tuple[str, str, str]:
    rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(home), split="train")
    return ("model_id", "==", rows[0]["model_id"])


@pytest.mark.slow
def test_bytes_of_a_resnet_zoo() -> None:
    figures = streaming_cost.measure()
    read = {reading["name"]: reading for reading in figures["readings"]}
    rows = {name: reading["rows"] for name, reading in read.items()}
    group = figures["row_group_bytes"]
    cost = {name: reading["bytes"] for name, reading in read.items()}
    assert read.keys() == streaming_cost.CALLS.keys()
    assert all(rows[name] == (1 if "first" in name or "50" in name else 10) for name in rows)
    assert cost["metrics of all zoos"] < 50_000
    assert cost["metrics of one zoo, small blocks"] < 1_000_000
    assert cost["model_zoos: metrics of one zoo"] < 1_000_000
    for name in ("first row, reshard", "first row, reshard, small blocks", "model_zoos: first row"):
        assert cost[name] < 2 * group
    for name in ("rows of epoch 50, small blocks", "model_zoos: rows of epoch 50"):
        assert 0.99 * group < cost[name] < 1.01 * group
    for name in ("all rows, reshard, small blocks", "model_zoos: all rows"):
        assert figures["file_bytes"] < cost[name] < 1.01 * figures["file_bytes"]
    blocks = 3 * 5 * 2**20  # of huggingface_hub's default size: how many depends on threads' order
    assert cost["rows of epoch 50"] < group + blocks
    assert cost["all rows"] < figures["file_bytes"] + blocks


# --- docs/streaming.md ----------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "streaming.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_what_the_guide_shows_runs(
    published: str, plain: Client, writer: Client, home: Path, number: int
) -> None:
    code = SNIPPETS[number].replace("ORG/model_zoos", published)
    code = code.replace("cifar10_resnet18", "digits_cnn_s").replace('"==", 50', '"==", 5')
    with_it = "import model_zoos" in code
    names = ["good", "accuracies", "row", "first", "batch", "mine", "sixth", "network"]
    values = (writer if with_it else plain).run(
        f"{code}\nfound = {{name: value for name, value in locals().items() if name in {names}}}\n"
        "result = {name: value if isinstance(value, (dict, list)) else str(value)\n"
        "          for name, value in found.items()}"
    )
    zoo = "digits_cnn_s" if "digits_cnn_s" in code else UNION[0]
    rows = load_dataset("model_zoos", zoo, data_dir=str(home), split="train")
    if "accuracies" in values:
        assert values["accuracies"] == rows["test_acc"][:]
    elif "row" in values:
        assert values["row"] == next(row for row in rows if row["epoch"] == 5)
    elif "first" in values:
        assert values["first"] == rows[0]
    elif "batch" in values:
        weights = values["batch"]["weights"].tolist()  # of one worker, which has one file
        assert weights == rows["weights"][: len(weights)]
        assert len(weights) == 9
    elif "sixth" in values:
        assert values["sixth"] == {name: rows[5][name] for name in ("model_id", "epoch")}
    else:
        assert values.keys() & {"good", "mine", "network"}


def test_the_guides_figures_are_the_measured_ones() -> None:
    path = ROOT / "benchmarks" / "results" / "speed-streaming.json"
    measured = streaming_cost.table(json.loads(path.read_text())["results"])
    shown = re.search(r"<!-- bytes:.*?-->\n(.*?)\n<!-- /bytes -->", GUIDE, re.DOTALL)
    assert shown is not None
    assert shown[1] == measured
