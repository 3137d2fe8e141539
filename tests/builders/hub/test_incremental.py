"""Publishing a ResNet-18 zoo model by model, and reading one whose models are partly freed.

The Hub is tests/hub_server.py, the client a process of its own. Weights are random.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.incremental import PublishOptions, check_push
from model_zoos.builders.ledger import Published
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo, open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument
from tests import hub_server
from tests.builders.hub.bits import digests
from tests.hub_server import READER, Client, ClientError, Hub
from tests.zoos import random_zoo

ME, NAME = "me/model_zoos", "cifar10_resnet18"

PUSH = """
import dataclasses
from model_zoos.builders.hub.incremental import PublishOptions, prepare_push, push_models
from model_zoos.builders.zoo_directory import open_zoo
directory = open_zoo(home, "cifar10_resnet18")
options = PublishOptions(repo_id, free)
prepare_push(directory, options)
result = dataclasses.asdict(push_models(directory, options))
"""

CSV_CARD = b"""---
configs:
- config_name: tables
  data_files: "*.csv"
---
"""

PUBLISH = """
from model_zoos.builders.hub.publish import publish
publish(folder, repo_id)
"""

LOAD = """
import sys
sys.path.insert(0, tests)
from bits import digests
from datasets import load_dataset
import model_zoos
splits = load_dataset("model_zoos", name, data_dir=home, streaming=True, **arguments)
result = {split: digests(rows) for split, rows in splits.items()}
"""


@pytest.fixture(scope="module")
def zoo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of two states (never write to it)."""
    root = tmp_path_factory.mktemp("resnets")
    random_zoo(root, dataclasses.replace(zoo_spec(NAME), epochs=2), 4)
    return root


@pytest.fixture
def home(zoo_home: Path, tmp_path: Path) -> Path:
    """A copy of it, whose files are links: they may be removed."""
    shutil.copytree(zoo_home, tmp_path / "home", copy_function=lambda a, b: Path(b).hardlink_to(a))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def expected(hub: Hub, writer: Client, zoo_home: Path, tmp_path_factory: Any) -> dict[str, str]:
    """What the repository holds when the zoo is built and published as a whole."""
    out = tmp_path_factory.mktemp("built")
    build_folder([NAME], zoo_home, out)
    writer.run(PUBLISH, folder=str(out), repo_id="me/whole")
    return repository(hub, "me/whole")


def repository(hub: Hub, repo_id: str) -> dict[str, str]:
    """Path -> id of its content, that of the card's text as for every name of a repository."""
    found = hub.content(repo_id)
    return {**found, "README.md": hub.read(repo_id, "README.md").decode().replace(repo_id, "ORG")}


def hide(home: Path, models: list[str], elsewhere: Path) -> None:
    elsewhere.mkdir(exist_ok=True)
    for model in models:
        shutil.move(home / NAME / "models" / model, elsewhere / model)


def ids(home: Path) -> list[str]:
    return sorted(path.name for path in (home / NAME / "models").iterdir())


def failure(writer: Client, code: str, **values: Any) -> str | None:
    try:
        writer.run(code, **values)
    except ClientError as error:
        return str(error)
    return None


def load(writer: Client, home: Path, name: str = NAME, **arguments: Any) -> Any:
    values = {"home": str(home), "name": name, "arguments": arguments}
    return writer.run(LOAD, tests=str(Path(__file__).parent), **values)


# --- Publishing -----------------------------------------------------------------------------------


def test_one_by_one_they_make_what_a_build_of_all_makes(
    hub: Hub, writer: Client, home: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    models, elsewhere = ids(home), tmp_path / "elsewhere"
    hide(home, models[1:3], elsewhere)  # neither the first nor the last come last
    arguments = {"home": str(home), "repo_id": "me/pieces", "free": False}
    first = writer.run(PUSH, **arguments)
    assert (first["models"], first["freed"]) == (2, 0)
    assert hub.repos["me/pieces"].messages[-1] == f"Publish 2 models of {NAME}"
    assert len([path for path in hub.content("me/pieces") if path.startswith("data/")]) == 2
    for model in models[1:3]:
        shutil.move(elsewhere / model, home / NAME / "models" / model)
        before = len(hub.requests)
        assert writer.run(PUSH, **arguments)["models"] == 1
        sent = sum(r.received for r in hub.requests[before:] if "/objects/" in r.path)
        assert sent < 2.2 * 40e6  # the two states of this model
        assert hub.repos["me/pieces"].messages[-1].startswith(f"Publish the model {model} of")
    assert repository(hub, "me/pieces") == expected
    commits = len(hub.repos["me/pieces"].messages)
    assert writer.run(PUSH, **arguments) == {
        **{"models": 0, "uploaded_bytes": 0, "freed": 0},
        "left_out": {},
    }
    assert len(hub.repos["me/pieces"].messages) == commits
    # Kept at first, freed when that is asked for later.
    assert ids(home) == models
    assert writer.run(PUSH, **arguments | {"free": True})["freed"] == 4
    assert ids(home) == []


@pytest.mark.slow
def test_freed_models_are_read_from_the_repository(
    hub: Hub, writer: Client, home: Path, zoo_home: Path, tmp_path: Path
) -> None:
    rows = {
        key: {
            split: digests(rows)
            for split, rows in load_dataset(
                "model_zoos", name, data_dir=str(zoo_home), streaming=True, **arguments
            ).items()
        }
        for key, name, arguments in (
            ("all", NAME, {}),
            ("some", NAME, {"columns": ["model_id", "test_acc"], "filters": [("epoch", "==", 2)]}),
            ("metrics", "metrics", {}),
        )
    }
    models, elsewhere = ids(home), tmp_path / "elsewhere"
    hide(home, models[::2], elsewhere)
    done = writer.run(PUSH, home=str(home), repo_id="me/freed", free=True)
    assert (done["models"], done["freed"]) == (2, 2)
    assert ids(home) == []
    for model in models[::2]:
        shutil.move(elsewhere / model, home / NAME / "models" / model)
    directory = open_zoo(home, NAME)
    assert directory.published().freed == set(models[1::2])
    assert all(directory.finished(model) for model in models)
    assert load(writer, home) == rows["all"]
    some = {"columns": ["model_id", "test_acc"], "filters": [("epoch", "==", 2)]}
    before = len(hub.requests)
    assert load(writer, home, **some) == rows["some"]
    assert hub.sent(before) < 500_000  # no weights
    assert load(writer, home, "metrics") == rows["metrics"]
    with pytest.raises(ValueError, match=r"2 models of .* were published to me/freed and freed"):
        build_folder([NAME], home, tmp_path / "out")
    del hub.repos["me/freed"]
    with pytest.raises(ClientError, match="no data set repository me/freed"):
        load(writer, home)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_whenever_the_connection_breaks_off_the_next_call_goes_on(
    hub: Hub, writer: Client, home: Path, expected: dict[str, str], seed: int
) -> None:
    chance = random.Random(seed)
    repo_id = f"me/broken{seed}"
    arguments = {"home": str(home), "repo_id": repo_id, "free": True}
    # It is made, and the first request of what follows is the first that can fail.
    writer.run(
        "from huggingface_hub import create_repo; create_repo(name, repo_type='dataset')",
        name=repo_id,
    )
    for _ in range(3):
        where = chance.choice(["before", "middle", "after"])
        with hub.closing(chance.randrange(2, 40), where):
            failed = failure(writer, PUSH, **arguments)
        assert failed is None or failed.startswith("HubUnreachable")
        committed = [path for path in hub.content(repo_id) if path.startswith("data/")]
        # Whatever is not here is there.
        assert len(ids(home)) + len(committed) >= 4
    writer.run(PUSH, **arguments)
    assert ids(home) == []
    assert repository(hub, repo_id) == expected


@pytest.mark.slow
def test_killed_it_goes_on(hub: Hub, writer: Client, home: Path, expected: dict[str, str]) -> None:
    values = {"home": str(home), "repo_id": "me/killed", "free": True}
    code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + PUSH
    for seconds in (0.0, 0.3, 0.8):
        process = subprocess.Popen([sys.executable, "-c", code], env=writer.environment)
        deadline = time.monotonic() + 60
        while not list((home / NAME).glob(".push/*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = [p for p in hub.content("me/killed") if p.startswith("data/")]
        assert len(ids(home)) + len(there) >= 4
    writer.run(PUSH, **values)
    assert repository(hub, "me/killed") == expected
    assert ids(home) == []
    assert not list((home / NAME).glob(".push/*"))


def test_files_that_an_interruption_left_are_no_rows(home: Path) -> None:
    directory = open_zoo(home, NAME)
    models = ids(home)
    directory.write_published(Published(ME, {models[0]: "freed", models[1]: "here"}))
    assert {states.model_id for states in directory.scan()[0]} == set(models[1:])
    assert directory.finished(models[0])


def test_what_others_have_put_there_stays(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    digits = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    random_zoo(tmp_path / "digits", digits, 7)
    build_folder(["digits_cnn_s"], tmp_path / "digits", tmp_path / "out", licence="mit")
    writer.run(PUBLISH, folder=str(tmp_path / "out"), repo_id="me/both")
    before = hub.content("me/both")
    writer.run(PUSH, home=str(home), repo_id="me/both", free=False)
    after = hub.content("me/both")
    assert {p: after[p] for p in before if p != "README.md"} == {
        p: before[p] for p in before if p != "README.md"
    }
    card = hub.read("me/both", "README.md").decode()
    for name in ("digits_cnn_s", NAME):
        assert f"config_name: {name}\n" in card
        assert f"| `{name}` |" in card
    assert "\nlicense: mit\n" in card
    assert "license of this data set is mit." in card


def test_a_licence_that_is_no_id_is_named_before_anything_is_sent(
    hub: Hub, writer: Client, home: Path
) -> None:
    hub.put("me/two", {"README.md": b"---\nlicense: [mit, gpl-3.0]\n---\n"})
    with pytest.raises(ClientError, match=r"InvalidArgument: license in README\.md: .* found \["):
        writer.run(PUSH, home=str(home), repo_id="me/two", free=True)
    assert set(hub.content("me/two")) == {"README.md"}


def test_what_an_earlier_version_said_of_the_images_is_enough(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    path = home / NAME / "zoo.json"
    info = json.loads(path.read_text())
    images = {"name": "folder/mine", "sha256": "0" * 64, "verified": False}
    values = {"home": str(home), "repo_id": "me/images", "free": False}

    def push(**more: Any) -> int:
        path.unlink()  # it may be a link
        path.write_text(json.dumps(info | {"images": {**images, **more}}))
        return int(writer.run(PUSH, **values)["models"])

    hide(home, ids(home)[2:], tmp_path / "elsewhere")
    assert push() == 2
    for model in (tmp_path / "elsewhere").iterdir():
        shutil.move(model, home / NAME / "models" / model.name)
    assert push(shape=[3, 32, 32], sizes=[9, None, 9]) == 2
    assert push() == 0
    with pytest.raises(ClientError, match=r"InvalidArgument: .* made with images = "):
        push(sha256="1" * 64)


def test_nothing_is_removed_that_the_repository_does_not_have(
    hub: Hub, writer: Client, home: Path, expected: dict[str, str]
) -> None:
    values = {"home": str(home), "repo_id": "me/emptied", "free": False}
    models = ids(home)
    writer.run(PUSH, **values)
    kept = hub.repos.pop("me/emptied")
    with pytest.raises(ClientError, match="HubFailed: there is no data set repository me/emptied"):
        writer.run(PUSH, **values | {"free": True})
    assert ids(home) == models
    # It is there again, but for one model's files.
    hub.repos["me/emptied"] = kept
    head = kept.commits[kept.find("main")]
    kept.commit({p: b for p, b in head.items() if models[0] not in p}, "by hand", "main")
    done = writer.run(PUSH, **values | {"free": True})
    assert (done["models"], done["freed"]) == (1, 4)
    assert repository(hub, "me/emptied") == expected
    # Freed models that are gone there are said, and not trained again by themselves.
    head = kept.commits[kept.find("main")]
    kept.commit({p: b for p, b in head.items() if models[0] not in p}, "by hand", "main")
    with pytest.raises(ClientError, match=rf"InvalidArgument: 1 models .*not there .*{models[0]}"):
        writer.run(PUSH, **values)


@pytest.mark.slow
def test_a_zoo_goes_on_when_its_disk_is_lost(
    hub: Hub, writer: Client, home: Path, zoo_home: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    models = ids(home)
    hide(home, models[2:], tmp_path / "elsewhere")
    writer.run(PUSH, home=str(home), repo_id="me/lost", free=False)
    before = open_zoo(home, NAME)
    other = create_zoo(tmp_path / "new", before.zoo, engine=before.info["engine"])
    # Planned there already, in a split that the repository knows better.
    splits = before.splits()
    other.add_splits(models[:1], {models[0]: next(s for s in SPLITS if s != splits[models[0]])})
    values = {"home": str(tmp_path / "new"), "repo_id": "me/lost", "free": True}
    writer.run(PUSH, **values)
    assert other.published().freed == set(models[:2])
    assert other.splits().items() <= before.splits().items()
    for model in models[2:]:
        shutil.move(tmp_path / "elsewhere" / model, other.models_path / model)
    other.add_splits(models[2:], before.splits())
    assert writer.run(PUSH, **values)["models"] == 2
    assert repository(hub, "me/lost") == expected
    assert load(writer, tmp_path / "new") == {
        split: digests(rows)
        for split, rows in load_dataset(
            "model_zoos", NAME, data_dir=str(zoo_home), streaming=True
        ).items()
    }


FAULT = """
from pathlib import Path
from huggingface_hub import HfApi
upload = HfApi.preupload_lfs_files
def truncating(api, repo_id, additions, **others):
    # With the upload of the first model, when all models were found to be good.
    file = Path(path)
    if additions[0].path_in_repo.startswith("data/") and file.stat().st_size > 1_000_000:
        content = file.read_bytes()
        file.unlink()  # it is a link
        file.write_bytes(content[:1_000_000])
    return upload(api, repo_id, additions, **others)
HfApi.preupload_lfs_files = truncating
"""


def test_a_model_that_is_half_there_is_put_right(
    hub: Hub, writer: Client, home: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    models = ids(home)
    values = {"home": str(home), "repo_id": "me/half", "free": False}
    writer.run(PUSH, **values)
    repo = hub.repos["me/half"]
    head = repo.commits[repo.find("main")]
    # One lacks its file, though its metrics are there, and was lost here too.
    repo.commit({p: b for p, b in head.items() if models[0] not in p}, "by hand", "main")
    hide(home, models[:2], tmp_path / "elsewhere")
    (home / NAME / "published.json").unlink()
    writer.run(PUSH, **values)
    assert not [path for path in hub.content("me/half") if models[0] in path]
    assert open_zoo(home, NAME).published().models[models[1]] == "freed"
    (home / NAME / "published.json").unlink()
    for model in models[:2]:
        shutil.move(tmp_path / "elsewhere" / model, home / NAME / "models" / model)
    writer.run(PUSH, **values | {"free": True})
    assert repository(hub, "me/half") == expected
    assert ids(home) == []


def test_a_build_does_not_delete_models_that_it_lacks(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    writer.run(PUSH, home=str(home), repo_id="me/built", free=False)
    hide(home, ids(home)[:1], tmp_path / "elsewhere")
    build_folder([NAME], home, tmp_path / "out")
    before = hub.content("me/built")
    with pytest.raises(ClientError, match="InvalidArgument: me/built has 1 model of these zoos"):
        writer.run(PUBLISH, folder=str(tmp_path / "out"), repo_id="me/built")
    assert hub.content("me/built") == before


def test_a_damaged_model_costs_no_other(hub: Hub, writer: Client, home: Path) -> None:
    models = ids(home)
    path = open_zoo(home, NAME).state_path(models[1], 1)
    values = {"home": str(home), "repo_id": "me/damaged", "free": True, "path": str(path)}
    done = writer.run(FAULT + PUSH + "HfApi.preupload_lfs_files = upload", **values)
    assert (done["models"], done["freed"]) == (3, 3)
    assert list(done["left_out"]) == [models[1]]
    assert "epoch_0001.safetensors" in done["left_out"][models[1]]
    assert ids(home) == [models[1]]
    directory = open_zoo(home, NAME)
    assert not directory.finished(models[1])  # is trained again
    assert set(directory.published().freed) == {*models} - {models[1]}


def test_a_model_without_a_split_is_named(writer: Client, home: Path) -> None:
    path = home / NAME / "splits.json"
    splits = json.loads(path.read_text())
    path.unlink()  # it is a link
    path.write_text(json.dumps({m: s for m, s in splits.items() if m != min(splits)}))
    done = writer.run(PUSH, home=str(home), repo_id="me/unsplit", free=True)
    assert done["models"] == 3
    assert done["left_out"] == {min(splits): "splits.json has no split for it"}
    assert ids(home) == [min(splits)]


def test_another_zoo_that_is_half_there_does_not_hinder(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    random_zoo(tmp_path / "d", dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1), 7)
    build_folder(["digits_cnn_s"], tmp_path / "d", tmp_path / "out")
    files = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*.parquet")
        if "data/digits_cnn_s/test" not in path.as_posix()
    }
    hub.put("me/halves", files)
    assert writer.run(PUSH, home=str(home), repo_id="me/halves", free=True)["freed"] == 4
    card = hub.read("me/halves", "README.md").decode()
    assert f"| `{NAME}` |" in card
    assert "digits_cnn_s" not in card


# --- What cannot be done --------------------------------------------------------------------------


def test_refusals(hub: Hub, writer: Client, home: Path, zoo_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only zoos with a file for each state"):
        check_push(zoo_spec("digits_cnn_s"), PublishOptions(ME), Published("", {}))
    with pytest.raises(ValueError, match=r"1 models of .* are in me/other and freed here: cont"):
        check_push(zoo_spec(NAME), PublishOptions(ME), Published("me/other", {"a": "freed"}))
    with Client(hub.endpoint, tmp_path / "reader", token=READER) as reader:
        writer.run(
            "from huggingface_hub import create_repo; create_repo(name, repo_type='dataset')",
            name="me/closed",
        )
        with pytest.raises(ClientError, match="HubFailed: this token may not write to me/closed"):
            reader.run(PUSH, home=str(home), repo_id="me/closed", free=True)
    with (
        Client(hub.endpoint, tmp_path / "nobody") as nobody,
        pytest.raises(ClientError, match="HubFailed: publishing needs a token"),
    ):
        nobody.run(PUSH, home=str(home), repo_id=ME, free=True)
    hub.put("me/shared_files", {f"data/{NAME}/train-00000-of-00001.parquet": b"x"})
    with pytest.raises(
        ClientError, match=r"InvalidArgument: me/shared_files has .* in files that models share"
    ):
        writer.run(PUSH, home=str(home), repo_id="me/shared_files", free=True)
    writer.run(PUSH, home=str(zoo_home), repo_id="me/other", free=False)
    (zoo_home / NAME / "published.json").unlink()
    path = home / NAME / "zoo.json"
    info = json.loads(path.read_text())
    path.unlink()  # it is a link
    path.write_text(json.dumps(info | {"engine": "another"}))
    with pytest.raises(ClientError, match=r"InvalidArgument: me/other has .* made with engine = "):
        writer.run(PUSH, home=str(home), repo_id="me/other", free=True)
    path.write_text(json.dumps(info))
    splits = open_zoo(home, NAME).splits()
    turned = dict.fromkeys(splits, "test")
    (home / NAME / "splits.json").unlink()
    (home / NAME / "splits.json").write_text(json.dumps(turned))
    moved = {model for model, split in splits.items() if split != "test"}
    done = writer.run(PUSH, home=str(home), repo_id="me/other", free=False)
    assert set(done["left_out"]) == moved
    assert all("it is in the split test here, " in reason for reason in done["left_out"].values())
    hub.put("me/csv", {"README.md": CSV_CARD})
    sent = sum(request.method == "PUT" for request in hub.requests)
    with pytest.raises(ClientError, match=r"InvalidArgument: .* config 'tables' reads \.csv"):
        writer.run(PUSH, home=str(home), repo_id="me/csv", free=True)
    assert sum(request.method == "PUT" for request in hub.requests) == sent
    assert ids(home) == ids(zoo_home)


@pytest.mark.parametrize("name", ["", "model_zoos", "a/b/c", "me/model zoos", "https://a/b"])
def test_the_name_of_a_repository_is_checked(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be the name of a repository: expected ORG/N"):
        PublishOptions(name)


def test_a_repository_must_store_parquet_as_large_files(
    hub: Hub, writer: Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ids(home)
    monkeypatch.setattr(hub_server, "LFS_ENDINGS", ())
    monkeypatch.setattr(hub_server, "LFS_SIZE", 1 << 40)
    message = r"InvalidArgument: me/small ignores data/.* or keeps it as a small file: fix its"
    with pytest.raises(ClientError, match=message):
        writer.run(PUSH, home=str(home), repo_id="me/small", free=True)
    assert not [path for path in hub.content("me/small") if path.startswith("data/")]
    assert ids(home) == models


def test_models_without_their_metrics_are_not_deleted(
    hub: Hub, writer: Client, home: Path, tmp_path: Path
) -> None:
    values = {"home": str(home), "repo_id": "me/orphans", "free": True}
    before = open_zoo(home, NAME)
    hide(home, ids(home)[3:], tmp_path / "elsewhere")
    writer.run(PUSH, **values)
    repo = hub.repos["me/orphans"]
    head = repo.commits[repo.find("main")]
    repo.commit({p: b for p, b in head.items() if not p.startswith("metrics/")}, "by hand", "main")
    left = hub.content("me/orphans")
    other = create_zoo(tmp_path / "new", before.zoo, engine=before.info["engine"])
    [last] = (tmp_path / "elsewhere").iterdir()
    shutil.move(last, other.models_path / last.name)
    other.add_splits([last.name], before.splits())
    with pytest.raises(ClientError, match=r"HubFailed: .* has 3 models .* without their"):
        writer.run(PUSH, **values | {"home": str(tmp_path / "new")})
    assert hub.content("me/orphans") == left


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"repo_id": 1, "models": {}}', '{"repo_id": "a/b", "models": {"x": "gone"}}'],
)
def test_a_damaged_record_is_named(home: Path, content: str) -> None:
    (home / NAME / "published.json").write_text(content)
    with pytest.raises(FaultyZoo, match=r"published\.json"):
        ZooDirectory(home / NAME, zoo_spec(NAME), {}).published()
