"""The columns of a source that no row has: beside zoo.json, in a built folder and on the Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import model_zoos
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.zoo_directory import SOURCE_COLUMNS
from model_zoos.errors import FaultyZoo, InvalidArgument, UnknownZoo
from tests.builders.hub.folders import PUBLISH
from tests.hub_server import Client, Hub
from tests.zoos import random_zoo

TABLE = {"model_id": ["a", "b"], "zoo": ["theirs", "theirs"], "label": ["7", None]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two zoos of a union with sources, and a zoo without one."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("mnist_cnn_s_seed", "mnist_cnn_s_hyp_10_r", "mnist_cnn_s_hyp_10_f"):
        random_zoo(root, dataclasses.replace(zoo_spec(name), epochs=1), 5)
    pq.write_table(pa.table(TABLE), root / "mnist_cnn_s_seed" / SOURCE_COLUMNS)
    other = {"model_id": ["c"], "epoch": [1], "width": ["3"]}
    pq.write_table(pa.table(other), root / "mnist_cnn_s_hyp_10_r" / SOURCE_COLUMNS)
    return root


EXPECTED = {
    "zoo": ["mnist_cnn_s_seed", "mnist_cnn_s_seed"],
    "model_id": ["a", "b"],
    "zoo_in_table": ["theirs", "theirs"],
    "label": ["7", None],
}


def test_of_a_zoo_directory(root: Path) -> None:
    found = model_zoos.source_columns("mnist-cnn-s-seed", root)
    assert found.to_pydict() == EXPECTED


def test_of_a_union(root: Path) -> None:
    found = model_zoos.source_columns("mnist_cnn_s", root)
    zoos = ["mnist_cnn_s_hyp_10_r", "mnist_cnn_s_seed", "mnist_cnn_s_seed"]
    assert sorted(found["zoo"].to_pylist()) == zoos
    assert dict(zip(found["model_id"].to_pylist(), found["width"].to_pylist(), strict=True)) == {
        "a": None,
        "b": None,
        "c": "3",
    }


def test_of_a_repository(root: Path, hub: Hub, writer: Client, tmp_path: Path) -> None:
    folder, empty = tmp_path / "repository", str(tmp_path)
    build_folder(["mnist_cnn_s_seed"], root, folder)
    for repo in (folder, str(folder)):
        found = model_zoos.source_columns("mnist_cnn_s_seed", empty, repo=repo)
        assert found.to_pydict() == EXPECTED
    writer.run(PUBLISH, folder=str(folder), repo_id="me/sources", arguments={})
    code = (
        "import model_zoos\n"
        "table = model_zoos.source_columns('mnist_cnn_s_seed', empty, repo='me/sources')\n"
        "result = table.to_pydict()"
    )
    assert writer.run(code, empty=empty) == EXPECTED


def test_of_a_zoo_without_a_source(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="mnist_cnn_s_hyp_10_f has no columns beside its row"):
        model_zoos.source_columns("mnist_cnn_s_hyp_10_f", root)
    with pytest.raises(UnknownZoo, match="no zoo named 'mnist_cnn'"):
        model_zoos.source_columns("mnist_cnn", root)
    build_folder(["mnist_cnn_s_hyp_10_f"], root, tmp_path / "out")
    with pytest.raises(InvalidArgument, match="no columns beside its rows"):
        model_zoos.source_columns("mnist_cnn_s_hyp_10_f", tmp_path, repo=tmp_path / "out")


def test_a_damaged_file(root: Path, tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(zoo_spec("mnist_cnn_s_seed"), epochs=1), 1)
    path = tmp_path / "mnist_cnn_s_seed" / SOURCE_COLUMNS
    path.write_bytes((root / "mnist_cnn_s_seed" / SOURCE_COLUMNS).read_bytes()[:-20])
    with pytest.raises(FaultyZoo, match=r"source\.parquet: not readable as Parquet"):
        model_zoos.source_columns("mnist_cnn_s_seed", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FaultyZoo, match="is no plain file"):
        model_zoos.source_columns("mnist_cnn_s_seed", tmp_path)
