"""The wheel: what is in it, that it works without the checkout, and that its types are visible."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
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


def test_the_wheel_is_an_ordinary_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"model_zoos"}
    inside = {"/".join(name.split("/")[1:]) for name in names if name.startswith("model_zoos/")}
    assert {name for name in inside if "/" not in name} == {
        "__init__.py",
        "__main__.py",
        "dataset_card.md",
        "errors.py",
        "py.typed",
    }
    assert {name.split("/")[0] for name in inside if "/" in name} == {
        "benchmarks",
        "builders",
        "cli",
        "generation",
        "weight_space",
    }
    assert {"builders/catalog.py", "generation/engines/lanes/network.hpp"} <= inside
    wrong = re.compile(r"(^|/)(tests?|speed|results|typings|__pycache__|\.[^/]*)(/|$)")
    assert not [name for name in inside if wrong.search(name)]
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    here = re.compile(r"(builders|generation|weight_space|benchmarks(?!/speed))/")
    assert {name for name in tracked if here.match(name)} <= inside


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


# --- Types, where users meet them -----------------------------------------------------------------

SCRIPT = """
import model_zoos
from model_zoos.builders.catalog import ZOOS

reveal_type(ZOOS["digits_cnn_s"])
reveal_type(model_zoos.zoo_spec("digits_cnn_s").layout.slots[0])
reveal_type(model_zoos.open_zoo(".", "digits_cnn_s").files())
reveal_type(model_zoos.instantiate({}))
reveal_type(model_zoos.layer({}, "conv1.weight"))
images = model_zoos.load_images("digits")
reveal_type(images)
reveal_type(model_zoos.generate(ZOOS["digits_cnn_s"], ".", images))
reveal_type(model_zoos.errors.ZooNotFound("").hint)
"""
TYPES = ("Zoo", "Slot", "list[Path]", "Module", "Tensor", "ImageData", "Summary", "str | None")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script, beside the interpreter of an environment into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    [packages] = (folder / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    # What the package needs, but not its editable install: a .pth within a .pth is not read.
    (packages / "needed.pth").write_text("\n".join(site.getsitepackages()))
    (folder / "script.py").write_text(SCRIPT)
    return folder / "script.py"


def _environment() -> dict[str, str]:
    """Without the paths by which this checkout may be found."""
    hidden = ("PYTHONPATH", "MYPYPATH")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_installed_wheel(program: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    interpreter = program.parent / "env" / "bin" / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", interpreter]
    done = subprocess.run(
        [*command, "--cache-dir", program.parent / "cache", program],
        cwd=program.parent,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall('Revealed type is "(.*)"', done.stdout)
    assert tuple(re.sub(r"\b[a-z_]+\.(?=[\w.])", "", found) for found in revealed) == TYPES


@pytest.mark.slow
def test_pyright_sees_the_types_of_the_installed_wheel(program: Path) -> None:
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    if pyright is None:
        pytest.skip("pyright is not installed")
    interpreter = program.parent / "env" / "bin" / "python"
    done = subprocess.run(
        [pyright, "--outputjson", "--pythonpath", interpreter, program],
        cwd=program.parent,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["summary"]["errorCount"] == 0, done.stdout
    messages = [entry["message"] for entry in found["generalDiagnostics"]]
    assert tuple(re.findall(r'is "([^"]*)"$', "\n".join(messages), re.MULTILINE)) == TYPES


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
