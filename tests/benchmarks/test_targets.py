"""Targets of a user's own: columns of rows, columns of the source, functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.property_result import Result
from model_zoos.benchmarks.targets import COLUMN_KINDS, NO_TARGETS, TARGETS, find_targets
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.schema import COLUMNS
from model_zoos.builders.zoo_directory import SOURCE_COLUMNS, create_zoo
from model_zoos.errors import InvalidArgument
from tests.zoos import random_zoo

MODULE = """
def norm_class(rows):
    return ["large" if value > 0.5 else "small" for value in rows["test_loss"].to_pylist()]

def squared(rows):
    return rows["test_loss"].to_numpy() ** 2

def short(rows):
    return [1]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo whose first weight is its test loss, and whose source has a width and a label."""
    root = tmp_path_factory.mktemp("targets")
    zoo = zoo_spec("digits_cnn_s")
    directory = create_zoo(root, zoo, engine="made")
    generator = np.random.default_rng(0)
    source: dict[str, list[object]] = {"model_id": [], "width": [], "label": [], "odd": []}
    for number in range(80):
        weights = generator.standard_normal((2, zoo.layout.size)).astype(np.float32) / 100
        losses = generator.random(2)
        weights[:, 0] = losses
        weights[:, 1] = number % 3
        directory.write_model(
            f"m{number}", {"seed": number % 4}, [1, 2], weights, {"test_loss": losses}
        )
        if number:  # one model is not in the source
            source["model_id"].append(f"m{number}")
            source["width"].append(str(number % 3))
            source["label"].append("abc"[number % 3])
            source["odd"].append("x" if number == 5 else "1")
    pq.write_table(pa.table(source), directory.path / SOURCE_COLUMNS)
    return root


def first_two(weights: Any, layout: object) -> Any:
    return weights[:, :2]


def measured(root: Path, targets: Any) -> Result:
    names = [f"{__name__}:first_two"]
    return predict_properties("digits_cnn_s", root, representations=names, targets=targets)


def test_a_metric_of_the_rows_is_a_number(root: Path) -> None:
    [score] = measured(root, ["test_loss"]).scores
    assert (score.target, score.method) == ("test_loss", "ridge")
    assert score.r2["test"] > 0.99  # the first weight is the loss


def test_columns_of_the_source_are_found_by_model(root: Path) -> None:
    result = measured(root, ["width=number", "label=class", "seed"])
    [width] = result.scores
    assert (width.target, result.left_out["target absent"]) == ("width", 2)
    assert width.r2["test"] > 0.99
    classes = {score.target: score for score in result.class_scores}
    assert list(classes) == ["label", "seed"]
    assert (classes["label"].classes, classes["seed"].classes) == (3, 4)
    assert classes["label"].accuracy["test"] == 1
    assert classes["seed"].accuracy["test"] < 0.6


def test_a_number_can_be_taken_for_a_class(root: Path) -> None:
    result = measured(root, {"width": "class", "epoch": "class"})
    assert [score.target for score in result.class_scores] == ["width", "epoch"]
    assert not result.scores
    assert result.class_scores[0].unknown == 2  # of the model that the source lacks


def test_a_union_of_a_source_by_model_and_one_by_state(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("mnist_cnn_s_seed", "mnist_cnn_s_hyp_10_r", "mnist_cnn_s_hyp_10_f"):
        zoo = zoo_spec(name)
        directory = create_zoo(tmp_path, zoo, engine="made")
        weights = generator.standard_normal((20, 2, zoo.layout.size)).astype(np.float32)
        for number in range(20):
            directory.write_model(f"m{number}", {}, [1, 2], weights[number], {})
        models = [f"m{number}" for number in range(20)]
        if name.endswith("seed"):
            table = {"model_id": models, "first": [str(w[0, 0]) for w in weights]}
        else:
            epochs = [1, 2] * 20
            firsts = [str(first) for w in weights for first in w[:, 0]]
            table = {"model_id": np.repeat(models, 2), "epoch": epochs, "first": firsts}
        pq.write_table(pa.table(table), directory.path / SOURCE_COLUMNS)
    result = predict_properties(
        "mnist_cnn_s",
        tmp_path,
        representations=[f"{__name__}:first_two"],
        targets=["first=number"],
        epochs=[1],
    )
    [score] = result.scores
    assert result.left_out["target absent"] == 0
    assert score.r2["test"] > 0.99


def test_functions_of_the_rows(root: Path) -> None:
    seen: list[pa.Table] = []

    def loss(rows: pa.Table) -> list[float | None]:
        seen.append(rows)
        return [None if epoch == 1 else float(epoch) for epoch in rows["epoch"].to_pylist()]

    half = measured(root, {"half": loss, "test_loss": "number"})
    assert half.left_out["target absent"] == 80
    assert half.not_scored == {"half": "constant: 2.0"}
    assert seen[0].column_names == [name for name in COLUMNS if name != "weights"]
    both = measured(
        root,
        {
            "twice": lambda rows: 2 * rows["test_loss"].to_numpy(),
            "sign": lambda rows: np.array(rows["test_loss"]) > 0.5,
            "test_loss": "number",
        },
    )
    twice, once = both.scores
    assert twice.r2["test"] == pytest.approx(once.r2["test"], abs=1e-6)
    [sign] = both.class_scores
    assert (sign.classes, sign.accuracy["test"] > 0.8) == (2, True)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["weights"], "weights cannot be a target; columns that can: zoo"),
        (["model_id=class"], "model_id cannot be a target"),
        (["width"], "predicted as width=number or width=class, .*known: zoo, image_dataset"),
        (["test_los"], r"did you mean test_loss\?$"),
        (["test_acc=size"], "the target test_acc is 'size', expected 'number' or 'class'"),
        (["activation=number"], "the target activation is a text: a class, not a number"),
        (["height=class"], "neither a row nor the source of digits_cnn_s has a column 'height'"),
        (["label=number"], "the target label has a value that is no number .*: .* label=class"),
        (["odd=number"], "the target odd has a value that is no number"),
        ("test_acc", r"targets is a list of names: targets=\['test_acc'\]"),
        ({"mine": lambda rows: [1]}, "target 'mine' must return one value for each of .*, found 1"),
        ({"mine": lambda rows: np.zeros((len(rows), 1))}, "one value .* of type list<"),
        ({"epoch": lambda rows: 1}, "the target 'epoch' is a function and has the name of a col"),
        ({"mine": lambda rows: 1 / 0}, "target 'mine' failed on .* with ZeroDivisionError"),
        (["no_such_module_of_mine:f"], "target .*: the module .* cannot be imported"),
        (["json:absent"], "json has no function 'absent'"),
    ],
)
def test_bad_targets(root: Path, targets: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        measured(root, targets)


def test_a_zoo_without_a_source(tmp_path: Path) -> None:
    random_zoo(tmp_path, zoo_spec("digits_cnn_s"), 20)
    with pytest.raises(InvalidArgument, match=r"digits_cnn_s has no columns .* no source\.parquet"):
        measured(tmp_path, ["label=class"])


def test_every_column_of_a_row_can_be_a_target_or_says_why_not() -> None:
    assert {*COLUMN_KINDS, *NO_TARGETS} == set(COLUMNS)
    assert [target.name for target in find_targets(TARGETS)] == list(TARGETS)
    assert all(COLUMN_KINDS[name] == kind for name, kind in TARGETS.items())


def test_the_command_takes_targets(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "model_zoos", "benchmark", "digits_cnn_s"]
        return subprocess.run(
            [*program, "--data-dir", root, "--representation", "weights", "--json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    names = ("test_loss", "label=class", "mine:norm_class", "mine:squared")
    done = run(*(part for name in names for part in ("--target", name)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [score["target"] for score in found["scores"]] == ["test_loss", "mine:squared"]
    assert [s["target"] for s in found["class_scores"]] == ["label", "mine:norm_class"]
    bad = run("--target", "mine:short")
    assert "must return one value for each of" in bad.stderr
    assert (
        "--suite is a fixed protocol, without --representation, --target"
        in run("--suite", "--target", "x").stderr
    )
