"""Growth of costs with the number of models: exponents near 1, or near 0 if one model changes.

The zoos have random values, CNN-s with 3 states per model. Each cost is that of one user's call;
the calls follow the life of a zoo. Publication goes to a Hub on loopback, whose own work is counted
too. Opened files are model files, without those that Arrow maps to copy weights. The exponent is
the slope of log(cost) by log(models) between the two largest zoos; costs of some milliseconds say
little.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import typer

from tests.hub_server import Client, Hub
from tests.zoos import random_zoo

from ...builders.catalog import zoo_spec
from ...builders.hub.build import build_folder
from ...builders.zoo_directory import open_zoo
from ..audit import audit_zoo
from ..property_prediction import predict_properties
from ..targets import NUMBERS
from .measure import markdown

_opened = 0
"""Model files that Python has opened."""

ZOO = "mnist_cnn_s_seed"
COLUMNS = ["model_id", "epoch", "test_acc", "learning_rate"]
_PUBLISH = """
import time
from model_zoos.builders.hub.publish import publish
start = time.perf_counter()
publish(folder, "me/zoos")
result = time.perf_counter() - start
"""


def measure(
    models: Annotated[str, typer.Option(help="Numbers of models, with commas.")] = (
        "100,1000,4320,20000"
    ),
) -> dict[str, Any]:
    """Return `models`; `seconds`, `files` and `bytes`: cost -> a figure for each zoo; and
    `exponents`: cost -> one exponent, or None."""
    datasets.disable_progress_bars()
    sys.addaudithook(_count)
    sizes = [int(size) for size in models.split(",")]
    seconds: dict[str, list[float]] = {}
    opened: dict[str, list[float]] = {}
    sizes_of: dict[str, list[float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            _measure_one(Path(folder), size, seconds, opened, sizes_of)
    return {
        "models": sizes,
        "seconds": {cost: [round(value, 4) for value in of] for cost, of in seconds.items()},
        "files": opened,
        "bytes": sizes_of,
        "exponents": {
            cost: _exponent(sizes, of)
            for costs in (seconds, sizes_of)
            for cost, of in costs.items()
        },
    }


def _measure_one(
    folder: Path,
    models: int,
    seconds: dict[str, list[float]],
    opened: dict[str, list[float]],
    sizes: dict[str, list[float]],
) -> None:
    """Add the costs of a zoo with this number of models."""

    @contextmanager
    def clock(cost: str) -> Iterator[None]:
        start, before = time.perf_counter(), _opened
        yield
        seconds.setdefault(cost, []).append(time.perf_counter() - start)
        opened.setdefault(cost, []).append(_opened - before)

    zoo = dataclasses.replace(zoo_spec(ZOO), epochs=2, seeds=max(1000, models + 1))
    root, repository = folder / "zoos", folder / "repository"
    with clock("write"):
        random_zoo(root, zoo, models)
    time.sleep(2.5)  # younger files could change within a step of the clock

    def load(cache: str, **options: object) -> Mapping[str, datasets.Dataset]:
        return datasets.load_dataset(
            "model_zoos", ZOO, data_dir=str(root), cache_dir=str(folder / cache), **options
        )

    with clock("open, splits and files"):
        directory = open_zoo(root, ZOO)
        directory.splits()
        directory.files()
    with clock("load, first time"):
        load("cache")
    with clock("load, again"):
        load("cache")
    with clock("load, a fresh cache"):
        load("cache-2")
    with clock("first row of a stream"):
        next(iter(load("cache", split="train", streaming=True)))
    with clock("four columns"):
        load("cache-3", columns=COLUMNS)
    with clock("build"):
        build_folder([ZOO], root, repository, workers=1)
    with clock("build, again"):
        build_folder([ZOO], root, repository, workers=1)
    with (
        Hub(folder / "hub") as hub,
        Client(hub.endpoint, folder / "client", token="hf_write") as client,
    ):
        for cost in ("publish", "publish without a change"):
            before = _uploaded(hub)
            seconds.setdefault(cost, []).append(client.run(_PUBLISH, folder=str(repository)))
            sizes.setdefault(f"{cost}: bytes uploaded", []).append(_uploaded(hub) - before)
        before, stamps = _uploaded(hub), _stamps(repository)
        [model] = zoo.models(models + 1)[models:]
        generator = np.random.default_rng(1)
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            [0, 1, 2],
            generator.standard_normal((3, zoo.layout.size), np.float32),
            {"test_acc": generator.random(3)},
        )
        with clock("build with one more model"):
            build_folder([ZOO], root, repository, workers=1)
        written = [path for path, stamp in _stamps(repository).items() if stamps.get(path) != stamp]
        sizes.setdefault("build with one more model: bytes written", []).append(
            sum(path.stat().st_size for path in written)
        )
        cost = "publish with one more model"
        seconds.setdefault(cost, []).append(client.run(_PUBLISH, folder=str(repository)))
        sizes.setdefault(f"{cost}: bytes uploaded", []).append(_uploaded(hub) - before)
    with clock("load with one more model"):
        load("cache")
    with clock("verify, no state evaluated"):
        audit_zoo(ZOO, root, states=0)
    with clock("benchmark of statistics, numbers"):
        predict_properties(
            ZOO, root, representations=["statistics"], targets=NUMBERS, max_weight=math.inf
        )


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    global _opened
    _opened += event == "open" and str(arguments[0]).endswith(".safetensors")


def _uploaded(hub: Hub) -> int:
    """Return the total bytes of all uploads so far."""
    return sum(request.received for request in hub.requests)


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _exponent(sizes: Sequence[int], costs: Sequence[float]) -> float | None:
    """Return the slope between the two largest zoos; None if a cost is 0."""
    if len(sizes) < 2 or min(costs[-2:]) <= 0:
        return None
    return round(math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2]), 2)


_FORMS: Mapping[str, tuple[Callable[[float], str], str]] = {
    "seconds": (lambda value: f"{value:,.2f}", ""),
    "files": (lambda value: f"{value:,}", ""),
    "bytes": (lambda value: f"{value / 1e6:,.1f}", " MB"),
}
"""How a figure of each kind is written, and its unit."""


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    rows = []
    for kind, (form, unit) in _FORMS.items():
        for cost, values in figures[kind].items():
            exponent = figures["exponents"].get(cost) if kind != "files" else None
            if kind == "files" and not any(values):
                continue
            rows.append(
                (
                    f"{cost}: files opened" if kind == "files" else cost,
                    *(form(value) + unit for value in values),
                    "-" if exponent is None else f"{exponent:.2f}",
                )
            )
    columns = ("cost", *(f"{models:,} models" for models in figures["models"]), "exponent")
    return markdown(columns, 1, rows)


def comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return two measurements of the same zoos as a Markdown table, without the smallest zoo.

    A cell has both figures, "before / after"; "-" is one that was not obtained.
    """

    def cell(form: Callable[[float], str], unit: str, *values: float | None) -> str:
        return " / ".join("-" if value is None else form(value) for value in values) + unit

    rows = []
    for kind in ("seconds", "bytes"):
        form, unit = _FORMS[kind]
        for cost, values in after[kind].items():
            pairs = [*zip(before[kind][cost], values, strict=True)][1:]
            exponents = (figures["exponents"][cost] for figures in (before, after))
            rows.append(
                (
                    cost,
                    *(cell(form, unit, *pair) for pair in pairs),
                    cell("{:.2f}".format, "", *exponents),
                )
            )
    columns = ("cost", *(f"{models:,} models" for models in after["models"][1:]), "exponent")
    return markdown(columns, 1, rows)
