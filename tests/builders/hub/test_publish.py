"""Publishing a folder to a Hub.

The Hub is tests/hub_server.py; every client is a process of its own, with the libraries as they
are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
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
from datasets import load_dataset

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.names import DATA_FILE
from model_zoos.builders.hub.publish import folder_files, publish
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import InvalidArgument
from tests.builders.hub.folders import ME, PUBLISH, bits, write_folder
from tests.hub_server import READER, WRITER, Client, ClientError, Hub, Request
from tests.zoos import random_zoo


@pytest.fixture(scope="module")
def stranger(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody without a token."""
    with Client(hub.endpoint, tmp_path_factory.mktemp("stranger")) as client:
        client.run("import logging; logging.basicConfig(level=logging.DEBUG)")
        yield client


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


def test_digests_of_unchanged_files_are_kept(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "one", home, ["digits_cnn_s"], shards=2)
    record = folder / ".build" / "files.digests.json"
    arguments: dict[str, Any] = {"folder": str(folder), "repo_id": "me/kept", "arguments": {}}

    def uploaded() -> int:
        return int(writer.run(PUBLISH, **arguments)["uploaded"])

    assert uploaded() == len(folder_files(folder))
    assert json.loads(record.read_text()) == {}  # nothing was there to compare with
    assert uploaded() == 0
    time.sleep(2.1)  # a file that was just written may still change
    assert uploaded() == 0
    kept = json.loads(record.read_text())
    data = sorted(path for path in folder_files(folder) if DATA_FILE.fullmatch(path))
    assert set(data) <= set(kept)
    for path, (size, *_, digest) in kept.items():
        content = (folder / path).read_bytes()
        assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    # The record is used ...
    record.write_text(json.dumps({**kept, data[0]: [*kept[data[0]][:-1], "0" * 64]}))
    assert uploaded() == 1
    # ... but not for a file of the same size and time that was changed after it.
    stat, content = (folder / data[1]).stat(), bytearray((folder / data[1]).read_bytes())
    record.write_text(json.dumps(kept))
    content[100] ^= 1
    (folder / data[1]).write_bytes(content)
    os.utime(folder / data[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert uploaded() == 1
    for damage in ("[]", '{"%s": 5}' % data[0], "\0"):  # noqa: UP031
        record.write_text(damage)
        assert uploaded() == 0
    assert ".build/files.digests.json" not in hub.content("me/kept")


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
    assert re.search(r"files new or changed +7$", shown, re.M)
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


def test_the_licence_is_that_of_the_folder(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    """Also where the card is written anew, since the repository has other zoos."""
    hub.put("me/licence", {"README.md": b"---\nlicense: gpl-3.0\n---\n"})
    for zoo, licence in (("digits_cnn_s", "mit"), ("mnist_cnn_s_seed", "apache-2.0")):
        build_folder([zoo], home, tmp_path / zoo, licence=licence)
        writer.run(PUBLISH, folder=str(tmp_path / zoo), repo_id="me/licence", arguments={})
        card = hub.read("me/licence", "README.md").decode()
        assert yaml.safe_load(card.split("---")[1])["license"] == licence
        assert f"license of this data set is {licence}." in card
    assert "config_name: digits_cnn_s\n" in card


def test_a_licence_that_nobody_chose_changes_none(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    told = "import warnings\nwith warnings.catch_warnings(record=True) as caught:\n    "
    told += PUBLISH.strip().replace("\n", "\n    ") + "\nresult = [str(c.message) for c in caught]"
    for zoo, licence, said in (
        ("digits_cnn_s", "mit", []),
        ("mnist_cnn_s_seed", None, ["stays mit, also for the zoos of this folder"]),
        ("mnist_cnn_s_seed", "apache-2.0", ["was mit and is now apache-2.0"]),
    ):
        out = tmp_path / f"{zoo}-{licence}"
        build_folder([zoo], home, out, licence=licence)
        found = writer.run(told, folder=str(out), repo_id="me/chosen", arguments={})
        assert len(found) == len(said)
        assert all(text in message for text, message in zip(said, found, strict=True))
        card = hub.read("me/chosen", "README.md").decode()
        assert yaml.safe_load(card.split("---")[1])["license"] == (licence or "mit")


def test_models_are_deleted_only_if_that_is_said(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    """A folder that lacks models, as after a build beside a damaged file."""
    arguments = {"repo_id": "me/fewer", "folder": str(tmp_path / "out")}
    shutil.copytree(home / "digits_cnn_s", tmp_path / "zoos" / "digits_cnn_s")
    build_folder(["digits_cnn_s"], tmp_path / "zoos", tmp_path / "out")
    writer.run(PUBLISH, **arguments, arguments={})
    before = hub.content("me/fewer")
    first, second, *_ = open_zoo(tmp_path / "zoos", "digits_cnn_s").files()
    for path in (first, second):
        path.write_bytes(b"")
    build_folder(["digits_cnn_s"], tmp_path / "zoos", tmp_path / "out")
    with pytest.raises(ClientError, match=f"has 2 models .* lacks, first {first.stem}"):
        writer.run(PUBLISH, **arguments, arguments={})
    assert hub.content("me/fewer") == before
    writer.run(PUBLISH, **arguments, arguments={"drop_models": True})
    assert set(hub.content("me/fewer")) == {".gitattributes", *folder_files(tmp_path / "out")}


def test_notes_below_the_card_stay(hub: Hub, writer: Client, home: Path, tmp_path: Path) -> None:
    notes = {zoo: f"## Notes on {zoo}" for zoo in ("digits_cnn_s", "mnist_cnn_s_seed")}
    for _ in range(2):
        for zoo, text in notes.items():
            build_folder([zoo], home, tmp_path / zoo)
            card = (tmp_path / zoo / "README.md").read_text()
            if text not in card:
                (tmp_path / zoo / "README.md").write_text(f"{card}\n{text}\n")
            arguments = {"folder": str(tmp_path / zoo), "repo_id": "me/notes", "arguments": {}}
            writer.run(PUBLISH, **arguments)
    card = hub.read("me/notes", "README.md").decode()
    assert [card.count(text) for text in notes.values()] == [1, 1]
    assert card.index("end of the card made by") < min(map(card.index, notes.values()))


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
    message = r"HubUnreachable: .*try again to resume$"
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
        line, hint = done.stderr.splitlines()
        assert line.startswith("error: the Hub does not accept this token")
        assert hint.startswith("try: ")
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


@pytest.mark.parametrize("name", ["zoos", "a/b/c", "me/", "me/my zoos", ""])
def test_a_repository_has_an_owner_and_a_name(tmp_path: Path, name: str) -> None:
    """Said first, before the folder is read and a token is asked for."""
    with pytest.raises(InvalidArgument, match="expected ORG/NAME"):
        publish(tmp_path, name)


def test_a_hub_that_is_not_there(writer: Client, folder: Path, hub: Hub) -> None:
    for setting, message in (
        ("constants.HF_HUB_OFFLINE = True", "HF_HUB_OFFLINE is set"),
        ("constants.ENDPOINT = 'http://127.0.0.1:9'", "was not reached"),
    ):
        with pytest.raises(ClientError, match=f"HubUnreachable: .*{message}"):
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
        (lambda f: (f / "zoo.json").write_text("{}"), "is a zoo directory, and a repository is"),
        (lambda f: next(f.glob("metrics/*-test*")).unlink(), "are missing or of two builds"),
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
        (lambda f: shutil.rmtree(f), "there is no such folder"),
    ],
)
def test_a_folder_that_is_no_repository(
    folder: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    copied = tmp_path / "copied"
    for path in folder_files(folder):
        if path.startswith(("data/digits_cnn_s/", "metrics/digits_cnn_s", "README.md")):
            (copied / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / path, copied / path)
    assert "README.md" in folder_files(copied)
    spoil(copied)
    with pytest.raises(ValueError, match=re.escape(message)):
        folder_files(copied)


# --- Removing -------------------------------------------------------------------------------------

DELETE = """
from huggingface_hub import HfApi
HfApi().delete_files(repo_id, patterns, repo_type="dataset")
result = None
"""


def test_what_a_source_says_goes_when_the_zoo_has_it_no_longer(
    hub: Hub, writer: Client, tmp_path: Path
) -> None:
    out, root = tmp_path / "out", tmp_path / "zoos"
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    other = dataclasses.replace(zoo, name="other_digits")
    for spec in (zoo, other):
        directory = random_zoo(root, spec, 3)
        pq.write_table(pa.table({"model_id": ["a"]}), directory.path / "source.parquet")
    arguments: dict[str, Any] = {"folder": str(out), "repo_id": "me/sources", "arguments": {}}
    build_folder([zoo.name, other.name], root, out)
    writer.run(PUBLISH, **arguments)
    source = f"sources/{zoo.name}.parquet"
    assert source in hub.content("me/sources")
    (root / zoo.name / "source.parquet").unlink()
    build_folder([zoo.name], root, out)
    assert [path.name for path in (out / "sources").iterdir()] == [f"{other.name}.parquet"]
    assert list(writer.run(PUBLISH, **arguments)["deleted"]) == [source]
    # The whole zoo, as docs/publish.md says.
    shutil.rmtree(out / "data" / other.name)
    for path in out.glob(f"metrics/{other.name}-*.parquet"):
        path.unlink()
    (out / "sources" / f"{other.name}.parquet").unlink()
    build_folder([zoo.name], root, out)
    patterns = ["data/{}/*", "metrics/{}-*.parquet", "sources/{}.parquet", "README.md"]
    writer.run(DELETE, repo_id="me/sources", patterns=[p.format(other.name) for p in patterns])
    assert list(writer.run(PUBLISH, **arguments)["zoos"]) == [zoo.name]
    assert set(hub.content("me/sources")) == {".gitattributes", *folder_files(out)}
    assert other.name not in hub.read("me/sources", "README.md").decode()
