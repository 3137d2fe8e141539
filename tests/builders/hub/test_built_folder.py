"""A folder that `build` wrote, given as repo=: the same rows as from the zoo directories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError

from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.builders.overview import overview
from model_zoos.builders.splits import SPLITS
from model_zoos.errors import FaultyZoo, InvalidArgument, ZooNotFound
from tests.builders.hub.folders import UNION, bits, write_folder
from tests.builders.hub.test_read import QUESTIONS


def table(rows: Any) -> pa.Table:
    return pa.concat_tables(rows.with_format("arrow").iter(50))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "question"),
    [*((name, {}) for name in ("digits_cnn_s", "mnist_cnn_s", "metrics"))]
    + [("digits_cnn_s", question) for question in QUESTIONS],
)
def test_it_gives_the_rows_of_the_zoo_directories(
    folder: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    question: dict[str, Any],
    streaming: bool,
) -> None:
    monkeypatch.chdir(folder.parent)
    given = {"repo": folder.name, "data_dir": str(tmp_path), "streaming": streaming}
    for split in ("train",) if question else SPLITS:
        found = load_dataset("model_zoos", name, split=split, **given, **question)
        expected = load_dataset("model_zoos", name, split=split, data_dir=str(home), **question)
        assert found.features == expected.features
        assert len(expected) > 0
        assert bits(table(found)) == bits(expected.with_format("arrow")[:])


def test_everything_that_loads_rows_reads_it(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict_properties("digits_cnn_s", home, targets=["test_acc"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_ZOOS_REPO", str(folder))
    assert predict_properties("digits_cnn_s", targets=["test_acc"]).scores == expected.scores
    (found,), (own,) = overview("digits_cnn_s", repo=str(folder)), overview("digits_cnn_s", home)
    assert (found.models, found.states, found.splits) == (own.models, own.states, own.splits)


def test_a_folder_that_was_built_again_gives_its_new_rows(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    def zoos(name: str) -> list[str]:
        rows = load_dataset("model_zoos", name, repo=str(tmp_path / "copy"), data_dir=str(tmp_path))
        return sorted({zoo for part in rows.values() for zoo in part["zoo"]})

    shutil.copytree(folder, tmp_path / "copy")
    assert zoos("metrics") == ["digits_cnn_s", *sorted(UNION)]
    shutil.rmtree(tmp_path / "copy")
    write_folder(tmp_path / "copy", home, UNION[:1])
    assert zoos("metrics") == UNION[:1]
    with pytest.raises(ZooNotFound, match=r"digits_cnn_s is not .* which has mnist_cnn_s_seed"):
        zoos("digits_cnn_s")


def test_what_it_cannot_give(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(repo: object, **arguments: Any) -> None:
        load_dataset("model_zoos", "digits_cnn_s", repo=str(repo), data_dir=home, **arguments)

    home = str(tmp_path)
    with pytest.raises(InvalidArgument, match="is a folder here, which has no revision main"):
        load(folder, revision="main")
    with pytest.raises(ZooNotFound, match="is no folder that `model-zoos build` wrote, and no rep"):
        load(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    lost = next((tmp_path / "copy" / "data" / "digits_cnn_s").glob("test-00000-*"))
    content = lost.read_bytes()
    lost.write_bytes(content[:-100])
    with pytest.raises(DatasetGenerationError) as failed:
        load(tmp_path / "copy")
    assert f"{lost}: not readable as Parquet" in str(failed.value.__cause__)
    lost.unlink()
    with pytest.raises(FaultyZoo, match=f"{tmp_path / 'copy'}: .*{lost.name} is missing") as caught:
        load(tmp_path / "copy")
    assert caught.value.hint == "build the zoo again"
    home = str(folder)  # the folder of zoo directories and the repository folder, taken for another
    with pytest.raises(ZooNotFound, match="repo= or the variable MODEL_ZOOS_REPO names such"):
        load_dataset("model_zoos", "digits_cnn_s", data_dir=home)
