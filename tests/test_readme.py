"""Every command and every line of Python in the README is run, and its tables are true."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_zoos.builders.catalog import ZOOS, get_zoo
from model_zoos.builders.schema import COLUMNS
from model_zoos.generation.generate import generate
from model_zoos.generation.images import load_images
from tests.shared import SHARED, needs_shared

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as `make demo` leaves it, with the README's own specification, and with
    the zoo that its first command makes, so that later ones can be tried alone."""
    path = tmp_path_factory.mktemp("readme")
    digits = load_images("digits").subset(train=slice(20))
    generate(get_zoo("digits_cnn_s"), path / "demo" / "zoos", digits, models=16)
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)
    generate(zoo, path / "zoos", load_images("digits"), models=4)
    [specification] = blocks("json")
    (path / "my_digits.json").write_text(specification)
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


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, folder: Path) -> None:
    run([sys.executable, "-c", code], folder)


def test_every_column_is_described() -> None:
    described = re.search(r"^## A row\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert described is not None
    assert set(COLUMNS) <= set(re.findall(r"`(\w+)`", described[1]))


def zoo_table() -> str:
    rows = [
        "| zoo | models | states | weights | images | published |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for zoo in ZOOS.values():
        doi = f"[{zoo.doi}](https://doi.org/{zoo.doi})" if zoo.doi else "our own"
        rows.append(
            f"| `{zoo.name}` | {zoo.model_count:,} | {zoo.state_count:,} | {zoo.layout.size:,} "
            f"({zoo.layout.architecture.title}) | {zoo.image_dataset} | {doi} |"
        )
    return "\n".join(rows)


def test_the_table_of_zoos_is_the_catalogs() -> None:
    table = re.search(r"<!-- zoos:.*?-->\n(.*?)\n<!-- /zoos -->", README, re.DOTALL)
    assert table is not None
    assert table[1] == zoo_table()
