"""The examples: notebooks hold no outputs, all run, and those of torch stay short."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import model_zoos
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.representations import statistics
from model_zoos.builders.hub.build import build_folder
from tests.documents import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown"
    assert len(code) > 3
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader without `make demo` would: the first one makes the zoo."""
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    folder = tmp_path / "examples"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    output = {}
    for path in NOTEBOOKS:
        shutil.copy(path, folder)
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        where = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=1200, resources=where).execute()
        found = [out for cell in notebook.cells for out in cell.get("outputs", ())]
        output[path.stem] = json.dumps(found)
        assert sum("image/png" in out.get("data", {}) for out in found) == (
            3 if path.stem == "first_look" else 1
        )
    assert "test accuracy: recorded" in output["first_look"]
    for method in ("ridge", "network"):
        assert f"| test_acc | weights | {method}" in output["predict_accuracy"]
    assert "There is no interval" not in output["predict_accuracy"]


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> dict[str, Any]:
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
    return runpy.run_path(str(path), run_name="__main__")


def test_a_graph_network_beside_ridge(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a small form: what it says of real rows takes minutes."""
    found = run(monkeypatch, "graph_network", digits_home, 1)
    out = capsys.readouterr().out
    assert "| test_acc | weights | ridge" in out
    assert "| test_acc | weights | graph network" in out
    assert "| test_acc | weights | trees" in out
    text = (ROOT / "examples" / "graph_network.py").read_text()
    parts = [p for p in ast.parse(text).body if isinstance(p, ast.ClassDef | ast.FunctionDef)]
    assert sum((part.end_lineno or 0) - part.lineno + 1 for part in parts) <= 60
    layout, network = found["layout"], found["GraphNetwork"]()
    weights = torch.randn(3, layout.size)
    orders = model_zoos.random_permutation(layout, np.random.default_rng(0), rows=3)
    with torch.no_grad():
        before = network(weights)
        after = network(model_zoos.permute(weights, layout, orders))
    assert before.std() > 0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_a_barrier_before_and_after_alignment(
    digits_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    picture = tmp_path / "barrier.png"
    found = run(monkeypatch, "interpolation", digits_home, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(found["others"]) > 0
    before, after = (line.split() for line in capsys.readouterr().out.splitlines())
    assert float(after[-1]) <= float(before[-1])  # the distance; equal if the seeds were


# --- Engines that share shards among machines: no part of our dependencies ------------------------


@pytest.fixture
def repository(digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits, built; and what processes that an engine starts need to import this package."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    build_folder(["digits_cnn_s"], digits_home, tmp_path / "repository")
    return tmp_path / "repository"


def code_lines(name: str) -> int:
    return len((ROOT / "examples" / f"{name}.py").read_text().splitlines())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray Data is not installed")
def test_the_ridge_of_ray_is_ours(
    repository: Path, digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = run(monkeypatch, "ray_ridge", repository, "digits_cnn_s")
    finally:
        ray.shutdown()
    [score] = predict_properties(
        "digits_cnn_s", digits_home, representations=["statistics"], targets=["test_acc"]
    ).scores
    assert found["STRENGTHS"][found["best"]] == score.strength
    for split, r2 in score.r2.items():
        assert found["r2"][split][found["best"]] == pytest.approx(r2, abs=1e-9)
    assert code_lines("ray_ridge") < 40


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyspark") is None, reason="Spark is not installed")
@pytest.mark.skipif(not (shutil.which("java") or "JAVA_HOME" in os.environ), reason="no Java")
def test_the_answers_of_spark_are_pyarrows(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    found = run(monkeypatch, "spark_metrics", repository, "digits_cnn_s")
    by_setting, by_epoch = (found[name].collect() for name in ("by_setting", "by_epoch"))
    found["spark"].stop()
    table = pa.concat_tables(map(pq.read_table, repository.glob("data/digits_cnn_s/*.parquet")))
    last = table.filter(pc.equal(table["epoch"], pc.max(table["epoch"])))
    keys = ["activation", "init", "learning_rate", "dropout"]
    last = last.set_column(
        last.schema.get_field_index("test_acc"), "test_acc", last["test_acc"].cast(pa.float64())
    )
    groups = last.group_by(keys).aggregate([("test_acc", "mean"), ("test_acc", "count")])
    expected = {tuple(g[key] for key in keys): g for g in groups.to_pylist()}
    assert len(by_setting) == len(expected) > 1
    for row in by_setting:
        group = expected[tuple(row[key] for key in keys)]
        assert row["models"] == group["test_acc_count"]
        assert row["test_acc"] == pytest.approx(group["test_acc_mean"], rel=1e-12)
    assert [row["epoch"] for row in by_epoch] == sorted(set(table["epoch"].to_pylist()))
    layout = model_zoos.layout_of({"architecture": "cnn_s", "weights": [0.0] * 2464})
    place = [slot.name for slot in layout.slots].index("fc2.weight")
    for row in by_epoch:
        rows = table.filter(pc.equal(table["epoch"], row["epoch"]))
        matrix = rows["weights"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        variance = statistics(matrix, layout)[:, 7 * place + 1]
        assert row["variance"] == pytest.approx(variance.mean(), rel=1e-12)
        accuracy = rows["test_acc"].to_numpy().astype(np.float64)
        assert row["r"] == pytest.approx(np.corrcoef(variance, accuracy)[0, 1], abs=1e-9)
    assert code_lines("spark_metrics") < 40
