"""What is there of a zoo, compared with its rows."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

import model_zoos
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.overview import overview, twin_levels
from model_zoos.builders.zoo_directory import SOURCE_COLUMNS, create_zoo, open_zoo
from model_zoos.cli import app
from model_zoos.errors import ZooNotFound
from model_zoos.generation.options import TwinOptions
from tests.zoos import random_zoo


def test_a_directory(digits_home: Path) -> None:
    [found] = overview("digits-cnn-s", digits_home)
    rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home))
    last = np.array(
        [row["test_acc"] for part in rows.values() for row in part if row["epoch"] == 5]
    )
    assert (found.models, found.specified, found.states) == (20, 320, 120)
    assert found.epochs == (0, 5)
    assert found.splits == {"train": 14, "validation": 3, "test": 3}
    assert np.allclose(found.accuracies or (), np.quantile(last, [0, 0.25, 0.5, 0.75, 1]))
    files = (digits_home / "digits_cnn_s" / "models").iterdir()
    assert found.size == sum(path.stat().st_size for path in files)
    assert not found.left_out
    facts = found.facts()
    assert facts["models"] == "20 of 320"
    assert "models that lack epochs" not in facts


def test_the_columns_beside_the_rows_are_named(tmp_path: Path) -> None:
    directory = random_zoo(tmp_path, zoo_spec("digits_cnn_s"), 1)
    names = [f"config.{number}" for number in range(7)]
    table = pa.table({name: ["1"] for name in ("model_id", "epoch", *names)})
    pq.write_table(table, path := directory.path / SOURCE_COLUMNS)
    [found] = overview("digits_cnn_s", tmp_path)
    assert found.more_columns == tuple(names)
    five = "config.0, config.1, config.2, config.3, config.4 and 2 more"
    assert found.facts()["columns beside the rows"] == five
    path.write_bytes(path.read_bytes()[:-9])
    [damaged] = overview("digits_cnn_s", tmp_path)
    assert (damaged.models, damaged.more_columns) == (1, ())


def test_what_is_missing_or_damaged_is_counted(tmp_path: Path) -> None:
    zoo = dataclasses.replace(zoo_spec("mnist_cnn_s_seed"), epochs=3, seeds=6)
    directory = random_zoo(tmp_path, zoo, 5)
    model = zoo.models()[5]
    weights = np.zeros((2, zoo.layout.size), np.float32)
    directory.write_model(model.model_id, model.hyperparameters(), [0, 1], weights, {})
    directory.files()[0].write_bytes(b"")
    [found] = overview(zoo.name, tmp_path)
    assert (found.models, found.specified, found.incomplete) == (5, 6, 1)
    assert len(found.left_out) == 1
    assert found.facts()["model files left out"] == "1"


def test_twins_are_counted_beside_the_models_that_could_have_some(tmp_path: Path) -> None:
    dense = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    random_zoo(tmp_path, dense, 6)
    twins = TwinOptions(method="magnitude", levels=(0.5, 0.8), epochs=1)
    model_zoos.sparsify("digits_cnn_s", tmp_path, models=2, twins=twins)
    name = "digits_cnn_s_sparse_magnitude"
    [found] = overview(name, tmp_path)
    assert (found.models, found.specified) == (4, 12)
    assert twin_levels(open_zoo(tmp_path, name)) == ["0.5", "0.8"]
    printed = CliRunner().invoke(app, ["info", name, "--data-dir", str(tmp_path)]).stdout
    command = f"sparsify digits_cnn_s --data-dir {tmp_path} --epochs 1 --method magnitude"
    assert f"{command} --sparsity 0.5 0.8 # trains 8 more" in " ".join(printed.split())
    shutil.rmtree(tmp_path / "digits_cnn_s")
    [found] = overview(name, tmp_path)
    assert (found.models, found.specified) == (4, None)


def test_a_zoo_that_is_only_begun_hides_no_other(tmp_path: Path) -> None:
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    random_zoo(tmp_path, zoo, 6)
    create_zoo(tmp_path, dataclasses.replace(zoo, name="begun"))
    run = CliRunner().invoke(app, ["info", "metrics", "--data-dir", str(tmp_path)])
    assert run.exit_code == 0
    assert f"begun: {tmp_path / 'begun'} holds no finished model" in run.stdout
    assert "6 of 320" in run.stdout
    run = CliRunner().invoke(app, ["info", "metrics", "--data-dir", str(tmp_path), "--json"])
    found, unusable = sorted(json.loads(run.stdout), key=lambda part: "error" in part)
    assert (found["zoo"], found["models"]) == (zoo.name, 6)
    assert unusable["zoo"] == "begun"
    assert "no finished model" in unusable["error"]
    assert CliRunner().invoke(app, ["info", "begun", "--data-dir", str(tmp_path)]).exit_code == 1


def test_a_zoo_of_one_model_without_metrics(tmp_path: Path) -> None:
    directory = create_zoo(tmp_path, zoo_spec("digits_cnn_s"))
    directory.write_model("one", {}, [7], np.zeros((1, directory.zoo.layout.size), np.float32), {})
    [found] = overview("digits_cnn_s", tmp_path)
    assert (found.models, found.specified, found.epochs) == (1, None, (7, 7))
    assert found.accuracies is None
    with pytest.raises(ZooNotFound):
        overview("mnist_cnn_s", tmp_path)
