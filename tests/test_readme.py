"""Every command and every line of Python in the README is run, and its tables are true."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import ZOOS, get_zoo
from model_zoos.generation.generate import generate
from model_zoos.generation.images import load_images
from tests import documents
from tests.documents import ROOT
from tests.shared import SHARED, needs_shared
from tests.test_docs import marked

BLOCKS = documents.blocks("README.md")
COMMANDS = [
    line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as `make demo` leaves it, and with the zoo that the first command of the
    README makes, with a model in each split, so that later ones can be tried alone."""
    path = tmp_path_factory.mktemp("readme")
    digits = load_images("digits").subset(train=slice(20))
    generate(get_zoo("digits_cnn_s"), path / "demo" / "zoos", digits, models=16)
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)
    generate(zoo, path / "zoos", load_images("digits"), models=16)
    return path


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("model-zoos")])
def test_commands(command: str, folder: Path) -> None:
    if "mnist" in command and not (SHARED / "data").is_dir():
        pytest.skip("MNIST is absent: MODEL_ZOOS_SHARED does not name its folder")
    program = str(Path(sys.executable).with_name("model-zoos"))
    arguments = command.split()[1:]
    run([program, *arguments], folder, MODEL_ZOOS_IMAGES=str(SHARED / "data"))


def test_the_two_make_targets_are_all_that_is_left() -> None:
    assert [c for c in COMMANDS if not c.startswith("model-zoos")] == ["make demo", "make test"]


@pytest.mark.slow
@needs_shared
def test_make_demo(tmp_path: Path) -> None:
    environment = {"DEMO": str(tmp_path), "VENV": sys.prefix}
    output = run(["make", *(f"{k}={v}" for k, v in environment.items()), "demo"], ROOT)
    assert re.search(r"recorded (0\.\d+), recomputed \1", output)
    assert (tmp_path / "accuracy.png").exists()
    assert (tmp_path / "benchmark.json").exists()


@pytest.mark.parametrize("code", [block.text for block in BLOCKS if block.language == "python"])
def test_python(code: str, folder: Path) -> None:
    run([sys.executable, "-c", code], folder)


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def zoo_table() -> str:
    """Models of each architecture on each image data set; the number of weights in brackets."""
    titles = [architecture.title for architecture in ARCHITECTURES.values()]
    cells: dict[str, dict[str, str]] = {}
    for zoo in ZOOS.values():
        if zoo.architecture not in ARCHITECTURES:
            continue
        same = [
            other
            for other in ZOOS.values()
            if (other.image_dataset, other.architecture) == (zoo.image_dataset, zoo.architecture)
        ]
        title = zoo.layout.architecture.title
        models = sum(other.model_count for other in same)
        cells.setdefault(zoo.image_dataset, {})[title] = f"{models:,} ({zoo.layout.size:,})"
    rows = [f"| images | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    rows += [
        f"| `{images}` | {' | '.join(found.get(title, '') for title in titles)} |"
        for images, found in cells.items()
    ]
    return "\n".join(rows)


def test_the_table_of_zoos_is_the_catalogs() -> None:
    assert marked("README.md", "zoos") == zoo_table()
