"""Reading a repository on the Hub, with and without this package.

The Hub is tests/hub_server.py; every client is a process of its own, with the libraries as they
are.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from model_zoos.benchmarks.speed import streaming as streaming_cost
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.overview import overview
from model_zoos.errors import InvalidArgument
from tests.builders.hub.folders import PUBLISH, UNION, bits, write_folder
from tests.hub_server import Client, ClientError, Hub
from tests.zoos import random_zoo

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
    {"columns": ["weights"], "final": True},
    {"columns": ["model_id"], "filters": [("learning_rate", "==", 3e-3)]},
    {"tensors": ["fc2.bias", "conv1.weight"], "filters": [("epoch", "<", 3)]},
    {"tensors": ["conv1.bias"], "columns": ["weights", "epoch"], "final": True, "max_weight": 1.5},
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


@pytest.mark.parametrize(
    "address",
    ["{}/", "hf://datasets/{}", "https://huggingface.co/datasets/{}", "{hub}/datasets/{}/"],
)
def test_a_repository_can_be_given_by_its_address(
    hub: Hub, published: str, writer: Client, address: str
) -> None:
    rows = writer.run(
        LOAD + "rows = load_dataset('model_zoos', 'digits_cnn_s', split='test', repo=repo,\n"
        "                    columns=['epoch'])\nresult = len(rows)",
        repo=address.format(published, hub=hub.endpoint),
    )
    assert rows > 0


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
    with pytest.raises(InvalidArgument, match=r"folder of zoos .*, which has no revisions"):
        load_dataset(
            "model_zoos", UNION[0], data_dir=str(tmp_path), repo=published, revision="main"
        )
    licence = "datasets.load_dataset_builder('model_zoos', name, repo=repo).info.license"
    code = f"import model_zoos, datasets; result = {licence}"
    assert writer.run(code, name=UNION[1], repo=published) == "cc-by-4.0"
    # One zoo lies here, the union takes its other two from the Hub; metrics are the folder's.
    assert (alone, union, everything) == (27, 72, 27)
    read = " ".join(request.path for request in hub.requests[before:])
    assert UNION[1] in read
    assert f"data/{UNION[0]}/" not in read


def test_commits_and_branches(hub: Hub, writer: Client, home: Path, tmp_path: Path) -> None:
    repo = "me/history"
    random_zoo(tmp_path / "zoos", dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1), 7)
    commits = []
    for models in (7, 10):
        random_zoo(
            tmp_path / "zoos", dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1), models
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
        def by_worker(rows):
            loader = DataLoader(rows.batch(10), batch_size=None, num_workers=2)
            return [key for batch in loader
                    for key in zip(batch["model_id"], batch["epoch"], strict=True)]
        by_rank = [keys(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
        rows = iter(stream)
        first = keys(next(rows) for _ in range(31))
        state = stream.state_dict()
        stream.load_state_dict(state)
        resumed = [first, keys(stream)]
        again = load_dataset(**arguments)
        again.load_state_dict(state)
        assert keys(again) == resumed[1]
        resharded = again.reshard()
        rows = iter(resharded)
        first = keys(next(rows) for _ in range(31))
        resharded.load_state_dict(resharded.state_dict())
        assert first + keys(resharded) == keys(again.reshard())
        again = again.reshard()
        by_rank += [keys(split_dataset_by_node(again, rank, 2)) for rank in (0, 1)]
        resharded = [again.num_shards, keys(again), keys(again.reshard())]
        result = by_rank, [by_worker(stream), by_worker(again)], resumed, resharded
        """,
        source=source,
        arguments=arguments,
    )
    rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(home), split="train")
    expected = list(zip(rows["model_id"], rows["epoch"], strict=True))
    assert [len(keys) for keys in by_rank] == [42, 42, 48, 36]  # the last row group is smaller
    for seen in (by_rank[0] + by_rank[1], by_rank[2] + by_rank[3], *by_worker):
        assert sorted(seen) == sorted(expected)
    assert resumed == [expected[:31], expected[31:]]
    assert resharded[1:] == [expected, expected]
    assert resharded[0] == 8  # row groups, of two files


def test_cached_rows_have_the_licence_that_the_repository_has_now(
    hub: Hub, folder: Path, writer: Client
) -> None:
    repo = "me/licences"
    card = (folder / "README.md").read_bytes()
    paths = [path for path in folder.rglob("*.parquet") if "digits" in path.as_posix()]
    hub.put(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    found = []
    for licence in (b"cc-by-4.0", b"mit"):
        hub.put(repo, {"README.md": card.replace(b"license: cc-by-4.0", b"license: " + licence)})
        code = "result = load_dataset('model_zoos', 'digits_cnn_s', repo=repo, split='test')"
        found.append(writer.run(LOAD + code + ".info.license", repo=repo))
    assert found == ["cc-by-4.0", "mit"]


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
    message = "HubUnreachable: me/model_zoos: the Hub .* broke off"
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


def test_what_is_there_of_a_zoo(published: str, writer: Client, home: Path) -> None:
    """The same numbers as from the folder that was published, each part of a union for itself."""
    code = """
import model_zoos
from model_zoos.builders.overview import overview
found = overview(name, repo=repo)
result = [(o.zoo, o.where, o.models, o.states, o.epochs, o.splits) for o in found]
"""
    found = writer.run(code, name="mnist_cnn_s", repo=published)
    expected = [
        (o.zoo, published, o.models, o.states, o.epochs, o.splits)
        for o in overview("mnist_cnn_s", home)
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", ["digits_cnn_s", "mnist_cnn_s", "metrics"])
def test_the_last_states_of_a_repository(
    published: str, writer: Client, home: Path, name: str
) -> None:
    code = """
import model_zoos
from datasets import load_dataset
rows = load_dataset("model_zoos", name, repo=repo, final=True, filters=[("epoch", ">", 0)])
result = {
    split: sorted(zip(part["zoo"], part["model_id"], part["epoch"], part["test_acc"]))
    for split, part in rows.items()
}
"""
    ours = load_dataset("model_zoos", name, data_dir=str(home), final=True)
    expected = {
        split: sorted(zip(p["zoo"], p["model_id"], p["epoch"], p["test_acc"], strict=True))
        for split, p in ours.items()
    }
    assert writer.run(code, name=name, repo=published) == expected
    assert all(len({row[:2] for row in rows}) == len(rows) for rows in expected.values())
