"""The examples: notebooks hold no outputs, all run, and those of torch stay short."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import model_zoos
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
