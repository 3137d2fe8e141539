"""Repositories that lack files or hold faulty ones: each fault is one error that names the file."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.names import MAX_FAULTS, faults
from tests.builders.hub.folders import write_folder
from tests.hub_server import Client, ClientError, Hub
from tests.zoos import random_zoo

NAME = "digits_cnn_s"
SHARD = f"data/{NAME}/train-00001-of-00003.parquet"

IMPORTS = """
from datasets import load_dataset
import model_zoos
"""

LOAD = """
from datasets import load_dataset
import model_zoos
try:
    splits = load_dataset("model_zoos", name, repo=repo, streaming=streaming)
    result = sum(1 for rows in splits.values() for _ in rows)
except Exception as error:
    while error.__cause__ is not None and not isinstance(error, model_zoos.errors.ModelZoosError):
        error = error.__cause__  # datasets wraps it
    raise error
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good repository: three shards for each split, of two states a model."""
    root = tmp_path_factory.mktemp("zoos")
    random_zoo(root, dataclasses.replace(zoo_spec(NAME), epochs=1), 20)
    folder = write_folder(tmp_path_factory.mktemp("folder"), root, [NAME], shards=3)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".build" not in path.parts
    }


def load(
    hub: Hub, writer: Client, files: dict[str, bytes], name: str = NAME, streaming: bool = True
) -> int:
    repo = f"me/faulty{len(hub.repos)}"
    hub.put(repo, files)
    rows: int = writer.run(LOAD, repo=repo, name=name, streaming=streaming)
    return rows


def without(files: dict[str, bytes], pattern: str) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if not re.search(pattern, path)}


def test_a_good_one(hub: Hub, writer: Client, files: dict[str, bytes]) -> None:
    assert load(hub, writer, files) == load(hub, writer, files, "metrics") == 40
    twice = "stream = load_dataset('model_zoos', name, repo=repo, streaming=True)['train']\n"
    twice += "result = [a == b for _ in range(2) for a, b in zip(stream, stream, strict=True)]"
    same = writer.run(IMPORTS + twice, repo=f"me/faulty{len(hub.repos) - 1}", name=NAME)
    assert same
    assert all(same)


@pytest.mark.parametrize(
    ("pattern", "name", "message"),
    [
        (SHARD, NAME, rf"{SHARD} is missing"),
        (
            "train-0000[01]",
            NAME,
            r"train-00000-of-00003.* is missing; .*train-00001-of",
        ),
        ("data/.*/test", NAME, rf"data/{NAME}/test-\*.parquet are missing"),
        ("metrics/.*-test", "metrics", rf"metrics/{NAME}-test.parquet is missing"),
    ],
)
def test_missing_files_are_named(
    hub: Hub, writer: Client, files: dict[str, bytes], pattern: str, name: str, message: str
) -> None:
    with pytest.raises(ClientError, match=f"FaultyZoo: me/faulty.*{message}"):
        load(hub, writer, without(files, pattern), name)


def test_faults_of_names() -> None:
    zoo = ["data/z/train-00000-of-00002.parquet", "data/z/train-00001-of-00002.parquet"]
    assert (
        faults([*zoo, "data/y/train-00001-of-00002.parquet", "metrics/z-train.parquet"], "z") == []
    )
    assert faults(zoo[1:], "z") == [f"{zoo[0]} is missing"]
    both = [*zoo, "data/z/train-00000-of-00001.parquet"]
    assert faults(both, "z") == [
        "data/z/train-00000-of-00001.parquet and data/z/train-00000-of-00002.parquet are of two "
        "builds"
    ]
    own = "data/z/train-m1-00000-of-00001.parquet"
    [found] = faults([*zoo, own], "z")
    assert found == "train has files that models share beside files of the model m1"
    many = [f"data/z/train-m{n}-00001-of-99999.parquet" for n in range(1000)]
    assert len(faults(many, "z")) == MAX_FAULTS


def set_column(name: str, change: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    def apply(table: pa.Table) -> pa.Table:
        column = change(table[name].combine_chunks())
        return table.set_column(table.schema.get_field_index(name), name, column)

    return apply


def null_at_1(column: pa.Array) -> pa.Array:
    return pa.concat_arrays([column[:1], pa.nulls(1, column.type), column[2:]])


def null_weight(column: pa.Array) -> pa.Array:
    values = null_at_1(column.flatten())
    return pa.FixedSizeListArray.from_arrays(values, column.type.list_size)


def shorter(column: pa.Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(column.flatten()[: 2 * len(column)], 2)


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "null weights": (set_column("weights", null_at_1), "1 of its values in the column weights"),
    "a null weight": (set_column("weights", null_weight), "1 of its values in the column weights"),
    "no model": (
        set_column("model_id", null_at_1),
        "1 of its values in the column model_id are nu",
    ),
    "no epoch": (set_column("epoch", null_at_1), "1 of its values in the column epoch are null"),
    "twice": (lambda t: pa.concat_tables([t, t[:1]]), "it repeats the model .* at epoch 0"),
    "two weights": (set_column("weights", shorter), "its rows have 2 weights, expected 2,464"),
    "no weights": (lambda t: t.drop_columns(["weights"]), "not have the columns of a zoo"),
    "no seed": (lambda t: t.drop_columns(["seed"]), "not have the columns of a zoo"),
    "texts": (set_column("epoch", lambda c: c.cast(pa.string())), "not have the columns of a zoo"),
    "too large": (
        lambda t: t.take(pa.array([0] * 14_000)),
        "a row group has 14,000 rows, which are too many",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_faulty_rows_are_named(
    hub: Hub, writer: Client, files: dict[str, bytes], change: str
) -> None:
    apply, message = CHANGES[change]
    sink = io.BytesIO()
    pq.write_table(apply(pq.read_table(io.BytesIO(files[SHARD]))), sink)
    with pytest.raises(ClientError, match=f"FaultyZoo: hf://.*/{SHARD}: .*{message}"):
        load(hub, writer, {**files, SHARD: sink.getvalue()})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"PAR1" * 100, None])
@pytest.mark.parametrize("streaming", [True, False])
def test_files_that_are_not_parquet_are_named(
    hub: Hub, writer: Client, files: dict[str, bytes], content: bytes | None, streaming: bool
) -> None:
    content = files[SHARD][:-100] if content is None else content
    with pytest.raises(ClientError, match=f"FaultyZoo: hf://.*/{SHARD}: not readable as Parquet"):
        load(hub, writer, {**files, SHARD: content}, streaming=streaming)


@pytest.mark.parametrize("streaming", [True, False])
def test_rows_that_two_shards_have_are_named(
    hub: Hub, writer: Client, files: dict[str, bytes], streaming: bool
) -> None:
    copied = files[SHARD.replace("00001-of", "00000-of")]
    with pytest.raises(ClientError, match=f"FaultyZoo: hf://.*/{SHARD}: it repeats the model"):
        load(hub, writer, {**files, SHARD: copied}, streaming=streaming)


def test_the_last_states_are_those_of_a_sort() -> None:
    import numpy as np

    from model_zoos.builders.hub.checked import last_rows

    rng = np.random.default_rng(0)
    pairs = [(f"m{model}", int(epoch)) for model in range(7) for epoch in rng.permutation(20)[:9]]
    pairs = [pairs[n] for n in rng.permutation(len(pairs))]
    table = pa.table({"model_id": [m for m, _ in pairs], "epoch": pa.array([e for _, e in pairs])})
    expected = {model: max(e for m, e in pairs if m == model) for model, _ in pairs}
    assert {pairs[row] for row in last_rows(table).tolist()} == set(expected.items())
    assert last_rows(table[:0]).tolist() == []


@pytest.mark.slow
def test_a_hostile_repository_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Two cases of the program that makes many."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile_repositories", "--count", "2"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "repositories: 2 cases" in done.stdout
