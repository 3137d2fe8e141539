"""The wheel: what is in it, and that it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return path


def test_nothing_but_the_package_lands_in_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "model_zoos.py",
        "model_zoos",
    }
    assert "model_zoos/builders/catalog.py" in names
    assert "model_zoos/py.typed" in names
    assert "model_zoos/dataset_card.md" in names
    assert not [name for name in names if "test" in name or "__pycache__" in name]


def test_the_installed_wheel_loads_a_zoo_in_any_folder(
    wheel: Path, digits_home: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "builders").mkdir()  # a folder of the user's with one of our names
    code = f"""
import model_zoos, sys
from datasets import load_dataset
assert model_zoos.__file__.startswith({str(site)!r}), model_zoos.__file__
import model_zoos.builders.catalog as catalog
assert catalog.__file__.startswith({str(site / "model_zoos")!r})
rows = load_dataset("model_zoos", "digits_cnn_s", split="test", data_dir={str(digits_home)!r},
                    num_proc=2)
print(len(rows), model_zoos.weights(rows).shape[1], type(model_zoos.instantiate(rows[0])).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "work",
        # The editable install must not serve: PYTHONPATH comes before it.
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["18", "2464", "Sequential"], done.stderr


def test_a_checkout_works_from_its_own_folder(digits_home: Path) -> None:
    code = f"""
import model_zoos
from datasets import load_dataset
print(len(load_dataset("model_zoos", "digits_cnn_s", split="test", data_dir={str(digits_home)!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["18"], done.stderr
