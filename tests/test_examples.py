"""The notebooks of examples/: they hold no outputs, and they run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

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
