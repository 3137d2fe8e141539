"""The tables of benchmarks/README.md are those of the results."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_zoos.benchmarks import literature
from model_zoos.benchmarks.literature import (
    IMAGES,
    SCHUERHOLT,
    UNTERTHINER,
    tables,
    twins_table,
    zoo_tables,
)
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.property_result import Result

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_has_the_tables_of_the_results() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    found = re.search(r"<!-- scores:.*?-->\n(.*?)\n<!-- /scores -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == tables(ROOT / "benchmarks" / "results")


def test_only_a_folder_with_results_rewrites_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(literature, "HERE", tmp_path)
    page, folder = tmp_path / "README.md", tmp_path / "results"
    page.write_text("<!-- scores: by x -->\nold\n<!-- /scores -->\n")
    folder.mkdir()
    cases = ((["--help"], 0), (["--helo"], 2), ([str(folder)], 2), ([str(tmp_path / "none")], 2))
    for arguments, status in cases:
        assert CliRunner().invoke(literature.app, arguments).exit_code == status
        assert "old" in page.read_text()
    name = "digits_cnn_s-benchmark.json"
    shutil.copy(ROOT / "benchmarks" / "results" / name, folder)
    run = CliRunner().invoke(literature.app, [str(folder)])
    assert run.exit_code == 0, run.output
    assert tables(folder) in page.read_text()


def test_every_published_row_has_all_image_data_sets() -> None:
    for row in (*UNTERTHINER.values(), *SCHUERHOLT.values()):
        assert len(row) == len(IMAGES)


def test_a_zoos_tables(digits_home: Path) -> None:
    result = predict_properties(
        "digits_cnn_s",
        digits_home,
        representations=["statistics"],
        targets=["test_acc", "init", "dropout"],
    )
    values = json.loads(json.dumps(dataclasses.asdict(result)))
    assert Result.from_json(values).tables() == result.tables()
    # Three test models are too few for intervals; these stand for those of a larger zoo.
    values["scores"][0] |= dict.fromkeys(("r2_interval", "tau_interval"), (0.25, 0.5))
    values["class_scores"][0]["accuracy_interval"] = [0.25, 0.5]
    shown = zoo_tables(Result.from_json({**values, "zoo": "mnist_cnn_s_hyp_10_r"}))
    numbers, classes, used = (table.markdown().splitlines() for table in shown)
    [score], [of_class] = result.scores, result.class_scores
    assert numbers[-1].startswith("| test_acc | statistics | ridge ")
    assert f"| {score.r2['test']:.3f} | [0.250, 0.500] |" in numbers[-1]
    assert numbers[-1].endswith("] | 0.815 |")
    assert classes[-1].startswith("| init | statistics | logistic | 2 |")
    assert f"| {of_class.accuracy['test']:.3f} | [" in classes[-1]
    assert classes[-1].endswith(f"| {of_class.majority['test']:.3f} | 0.720 |")
    assert "Not scored: dropout (constant: 0.0)." in used


def test_twins_stand_beside_the_originals() -> None:
    measured = {"count": 3, "mean": 0.5, "std": 0.1, "quartiles": [0.25, 0.75, 0.8]}
    epochs = [
        {"epoch": 0, "accuracy": measured, "gap": None, "sparsity": None},
        {"epoch": 25, "accuracy": measured, "gap": measured, "sparsity": measured},
    ]
    report = {"zoo": "mnist_cnn_s_seed_sparse", "diversity": {"models": 3, "epochs": epochs}}
    lines = twins_table(report).markdown().splitlines()
    assert "| 0 | - | 0 | 0.750 (0.500) | 0.911 | - | 0.006 |" in lines
    # The figure of the original ends at 78.5 % sparsity and 87.45 % accuracy.
    assert lines[-1] == (
        "| 25 | 0.750 (0.500) | 0.785 | 0.750 (0.500) | 0.8745 | 0.750 (0.500) | -0.0385 |"
    )
    assert "0.911" not in twins_table({**report, "zoo": "svhn_cnn_s_seed_sparse"}).markdown()
