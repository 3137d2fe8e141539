"""A folder that `build` wrote, given as repo=: the same rows as from the zoo directories."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.publish import folder_files
from model_zoos.builders.overview import overview
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument, NoRowsLeft, ZooNotFound
from tests.builders.hub.folders import UNION, bits, write_folder
from tests.builders.hub.test_read import QUESTIONS
from tests.zoos import random_zoo


def test_it_can_be_given_as_a_path(folder: Path, tmp_path: Path) -> None:
    given = {"split": "train", "data_dir": str(tmp_path)}
    rows = load_dataset("model_zoos", "digits_cnn_s", repo=folder, **given)
    same = load_dataset("model_zoos", "digits_cnn_s", repo=str(folder), **given)
    assert len(rows) == 84
    assert rows.cache_files == same.cache_files


@pytest.mark.parametrize(
    ("header", "licence"),
    [("license: mit", "mit"), ("tags: [a]", ""), ("license: [mit, x]", ""), ("license: {", "")],
)
def test_the_licence_is_that_of_the_card(
    folder: Path, tmp_path: Path, header: str, licence: str
) -> None:
    def found() -> str:
        given = {"repo": str(copy), "data_dir": str(tmp_path)}
        return str(load_dataset_builder("model_zoos", "digits_cnn_s", **given).info.license)

    shutil.copytree(folder, copy := tmp_path / "copy")
    assert found() == "cc-by-4.0"
    (copy / "README.md").write_text(f"---\n{header}\n---\n# Zoos\n")
    assert found() == licence
    (copy / "README.md").unlink()
    assert found() == ""


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


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A zoo half of whose models end with a loss of NaN; folder of zoos and repository.

    The repository's statistics leave NaN out, as those of every file that is published already.
    """
    root = tmp_path_factory.mktemp("diverged")
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=2)
    directory = random_zoo(root / "zoos", zoo, 20)
    for number, model in enumerate(zoo.models(20)):
        losses = np.array([0.1, 0.2, np.nan if number % 2 else 0.3])
        weights = np.full((3, zoo.layout.size), number, np.float32)
        metrics = {"test_loss": losses, "test_acc": np.array([0.1, 0.2, 0.3])}
        directory.write_model(
            model.model_id, model.hyperparameters(), np.arange(3), weights, metrics
        )
    return root / "zoos", write_folder(root / "folder", root / "zoos", [zoo.name], group=6)


NEGATED = ~(pc.field("test_loss") < 5)


@pytest.mark.parametrize(
    ("filters", "more"),
    [
        (NEGATED, {}),
        (NEGATED, {"final": True}),
        (NEGATED & (pc.field("epoch") == 2), {"columns": ["weights", "epoch"]}),
        (~(pc.field("test_loss") >= 0), {"columns": ["test_acc"]}),
        ((pc.field("epoch") == 1) | ~(pc.field("test_loss") < pc.field("test_acc") + 5), {}),
        (pc.field("test_loss").is_null(nan_is_null=True), {}),
        ([("test_loss", "not in", [0.1, 0.3])], {"final": True}),
        ([[("test_loss", ">", 0.25)], [("test_acc", "<", 0.15)]], {}),
    ],
)
def test_filters_choose_the_same_rows_with_nan(
    diverged: tuple[Path, Path], tmp_path: Path, filters: Any, more: dict[str, Any]
) -> None:
    home, folder = diverged

    def found(zoos: Path) -> dict[str, Any] | None:
        try:
            rows = load_dataset(
                "model_zoos",
                "digits_cnn_s",
                split="train",
                data_dir=str(zoos),
                repo=str(folder),
                filters=filters,
                **more,
            )
        except NoRowsLeft:
            return None
        return bits(rows.with_format("arrow")[:])

    assert found(tmp_path) == found(home)


def test_everything_that_loads_rows_reads_it(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict_properties("digits_cnn_s", home, targets=["test_acc"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_ZOOS_REPO", str(folder))
    assert predict_properties("digits_cnn_s", targets=["test_acc"]).scores == expected.scores
    (found,), (own,) = overview("digits_cnn_s", repo=str(folder)), overview("digits_cnn_s", home)
    assert (found.models, found.states, found.splits) == (own.models, own.states, own.splits)


@pytest.fixture(params=["same", "other"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the disk of `tmp_path`, and one on another."""
    memory = "/dev/shm"
    if request.param == "other" and not os.access(memory, os.W_OK):
        pytest.skip("needs a second file system")
    with TemporaryDirectory(dir=tmp_path if request.param == "same" else memory) as folder:
        yield Path(folder)


def test_the_data_can_lie_behind_a_link(digits_home: Path, tmp_path: Path, disk: Path) -> None:
    """On a larger disk, for example; links that make a loop are harmless."""
    out, data, root = tmp_path / "out", disk / "data", tmp_path / "zoos"
    shutil.copytree(digits_home / "digits_cnn_s", root / "digits_cnn_s")
    build_folder(["digits_cnn_s"], root, out)
    expected = folder_files(out)
    shutil.move(out / "data", data)
    (out / "data").symlink_to(data)
    (data / "digits_cnn_s" / ".again").symlink_to(data)
    for path in open_zoo(root, "digits_cnn_s").files():
        os.utime(path)  # so that each shard is written again
    [summary] = build_folder(["digits_cnn_s"], root, out)
    assert summary.written == summary.shards
    assert folder_files(out) == expected
    given = {"data_dir": str(tmp_path / "none"), "repo": str(out), "split": "train"}
    assert len(load_dataset("model_zoos", "digits_cnn_s", **given)) == 84


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


def test_what_it_cannot_give(folder: Path, digits_home: Path, tmp_path: Path) -> None:
    def load(repo: object, **arguments: Any) -> None:
        load_dataset("model_zoos", "digits_cnn_s", repo=str(repo), data_dir=home, **arguments)

    home = str(tmp_path)
    with pytest.raises(InvalidArgument, match="is a folder here, which has no revision main"):
        load(folder, revision="main")
    with pytest.raises(ZooNotFound, match="is no folder that `model-zoos build` wrote, and no rep"):
        load(tmp_path)
    (tmp_path / "zoos").mkdir()
    (tmp_path / "zoos" / "digits_cnn_s").symlink_to(digits_home / "digits_cnn_s")
    for taken in (tmp_path / "zoos", tmp_path / "zoos" / "digits_cnn_s"):
        with pytest.raises(InvalidArgument, match=f"give data_dir='{tmp_path / 'zoos'}'"):
            load(taken)
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
