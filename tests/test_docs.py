"""Every command and every line of Python in docs/ is run, and what the pages say is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import ELSEWHERE, TWIN_DOIS, ZOOS, get_zoo
from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.schema import COLUMNS
from model_zoos.generation.generate import generate
from model_zoos.generation.images import load_images
from tests import documents

DOCS = documents.ROOT / "docs"
PAGES = sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))
# tests/builders/hub/test_read.py runs the Python of docs/streaming.md, against a server of its own.
RUN = [page for page in PAGES if page != "docs/streaming.md"]
SLOW = [page for page in RUN if any(block.mark == "slow" for block in documents.blocks(page))]


@pytest.fixture(autouse=True)
def own_tables() -> Iterator[None]:
    """What a page adds to the tables of the package is gone after it."""
    tables: list[dict[str, Any]] = [ARCHITECTURES, ACTIVATIONS]
    copies = [dict(table) for table in tables]
    yield
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.update(copy)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make demo` leaves, with a smaller zoo (never write to it)."""
    path = tmp_path_factory.mktemp("demo")
    digits = load_images("digits").subset(train=slice(20), validation=slice(20))
    generate(get_zoo("digits_cnn_s"), path / "zoos", digits, models=16)
    return path


@pytest.fixture
def folder(tmp_path: Path, demo: Path) -> Path:
    """A working directory of a page's own."""
    (tmp_path / "demo").symlink_to(demo)
    return tmp_path


@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs(page: str, folder: Path) -> None:
    for block in documents.blocks(page):
        if block.mark not in ("not run", "slow"):
            documents.run(block, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_what_takes_long_runs(page: str, folder: Path) -> None:
    for block in documents.blocks(page):
        if block.mark != "not run":
            documents.run(block, folder)


def test_commands_that_are_not_run_have_known_options() -> None:
    checked = 0
    for page in ["README.md", *PAGES]:
        for block in documents.blocks(page):
            if block.language != "bash":
                continue
            for command in block.commands():
                if given := documents.arguments(command):
                    documents.check_options(given)
                    checked += 1
    assert checked > 20


def test_a_block_that_loads_a_zoo_imports_what_registers_the_name() -> None:
    """Each block can be run by itself."""
    loads = [
        block
        for page in PAGES
        for block in documents.blocks(page)
        if re.search(r'load_dataset\(\s*"model_zoos"', block.text)
    ]
    assert len(loads) > 10
    for block in loads:
        assert re.search(r"^import model_zoos\b", block.text, re.MULTILINE), block.place


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in documents.blocks(page):
            assert block.mark in (None, "slow") or block.value, block.place
            assert block.language in ("bash", "python", "json", "text"), block.place


def marked(page: str, name: str) -> str:
    """What stands on a page between `<!-- name: ... -->` and `<!-- /name -->`."""
    text = (documents.ROOT / page).read_text()
    found = re.search(rf"<!-- {name}:.*?-->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"{page} has no {name}"
    return found[1]


def doi_link(doi: str | None) -> str:
    return f"[{doi.partition('/')[2]}](https://doi.org/{doi})" if doi else "our own"


def zoo_table() -> str:
    rows = [
        "| zoo | models | states | weights | images | original files |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for zoo in ZOOS.values():
        rows.append(
            f"| `{zoo.name}` | {zoo.model_count:,} | {zoo.state_count:,} | {zoo.layout.size:,} "
            f"({zoo.layout.architecture.title}) | {zoo.image_dataset} "
            f"| {doi_link(zoo.doi)} |"
        )
    return "\n".join(rows)


def twin_table() -> str:
    rows = ["| twins | original files |", "| --- | --- |"]
    rows += [f"| `{name}_sparse` | {doi_link(doi)} |" for name, doi in TWIN_DOIS.items()]
    return "\n".join(rows)


def elsewhere_table() -> str:
    rows = [
        "| zoo | models | states | images | original files |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    rows += [
        f"| `{zoo.name}` | {zoo.models:,} | {zoo.states:,} | {zoo.image_dataset} "
        f"| [{zoo.url.rpartition('/')[2]}]({zoo.url}) |"
        for zoo in ELSEWHERE.values()
    ]
    return "\n".join(rows)


TABLES = [("zoos", zoo_table), ("twins", twin_table), ("elsewhere", elsewhere_table)]


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_the_tables_are_the_catalogs(name: str, table: Callable[[], str]) -> None:
    assert marked("docs/zoos.md", name) == table()


def test_every_column_is_described() -> None:
    page = (DOCS / "load.md").read_text()
    described = re.search(r"^## The columns of a row\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    assert described is not None
    assert set(COLUMNS) <= set(re.findall(r"`(\w+)`", described[1]))


@pytest.mark.parametrize(
    ("name", "page", "section", "first"),
    [
        ("generation", "generate.md", "## How fast it is", "| CNN"),
        ("networks", "extend.md", "| network | engine |", "| `1x28x28"),
    ],
)
def test_the_table_of_speed_is_the_measured_one(
    name: str, page: str, section: str, first: str
) -> None:
    from model_zoos.benchmarks.speed.generation import table

    path = documents.ROOT / "benchmarks" / "results" / f"speed-{name}.json"
    measured = table(json.loads(path.read_text())["results"])
    # The figures; the words of the page are its own.
    rows = [line.split("|")[3:] for line in measured.splitlines()[2:]]
    text = (DOCS / page).read_text().partition(section)[2]
    shown = [line.split("|")[3:] for line in text.splitlines() if line.startswith(first)]
    assert shown == rows


def test_the_table_of_growth_is_the_measured_one() -> None:
    from model_zoos.benchmarks.speed.growth import comparison

    before, after = (
        json.loads((documents.ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("speed-growth-before", "speed-growth")
    )
    assert before["results"]["models"] == after["results"]["models"]
    table = comparison(before["results"], after["results"])
    assert marked("benchmarks/README.md", "growth") == table


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one_node_8_gpus", 8, 1), ("four_nodes_8_gpus", 32, 4)]
)
def test_accelerate_reads_the_configurations(name: str, processes: int, machines: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = DOCS / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert f"docs/accelerate/{path.name}" in (DOCS / "distributed.md").read_text()


@pytest.mark.slow
def test_the_plan_of_the_page(tmp_path: Path) -> None:
    [command] = [
        command
        for block in documents.blocks("docs/distributed.md")
        if block.language == "bash"
        for command in block.commands()
        if "--plan" in command
    ]
    done = subprocess.run(
        [sys.executable, "-m", "model_zoos", *command[1:]],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert "1,000 models to train" in done.stdout
    assert len(re.findall(r"^ +\d+  ", done.stdout, re.MULTILINE)) == 32
    assert not list(tmp_path.iterdir())
