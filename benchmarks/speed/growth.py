"""How the time to open a zoo grows with its models, before and after its manifest was written.

The zoos hold CNN-s with random weights and four states a model. Each figure is that of one call in
this process, with all files in the page cache; `cpu` is its processor time, which suffers less from
other work on the machine. `files` counts the model files that Python opens meanwhile, without those
that Arrow maps to copy weights.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import datasets
import typer

from tests.zoos import random_zoo

from ...builders.catalog import zoo_spec
from ...builders.overview import overview
from .measure import markdown

_opened = 0
"""Model files that Python has opened since the first measurement."""


def measure(
    sizes: Annotated[str, typer.Option(help="Numbers of models, with commas.")] = "100,1000,4320",
) -> dict[str, Any]:
    """Return, for each number of models, what each call takes: `seconds`, `cpu` and `files`."""
    datasets.disable_progress_bars()
    sys.addaudithook(_count)
    results = {}
    for size in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            spec = dataclasses.replace(zoo_spec("mnist_cnn_s_seed"), epochs=3, seeds=size)
            directory = random_zoo(folder / "zoos", spec)
            time.sleep(2.5)  # younger files may yet change within a tick of the clock
            results[str(size)] = _calls(directory.zoo.name, folder)
    return results


def _calls(name: str, folder: Path) -> dict[str, dict[str, float]]:
    root, cache = folder / "zoos", folder / "cache"

    def load(**options: object) -> Any:
        arguments = {"data_dir": str(root), "cache_dir": str(cache), **options}
        return datasets.load_dataset("model_zoos", name, **arguments)

    def first_row() -> object:
        return next(iter(load(split="train", streaming=True)))

    figures = {}
    calls: Mapping[str, Callable[[], object]] = {
        "first row of a stream, first": first_row,
        "first row of a stream": first_row,
        "info": lambda: overview(name, root),
        "columns only": lambda: load(columns=["epoch", "test_acc"]),
        "load": load,
        "load from the cache": load,
    }
    for title, call in calls.items():
        before, start, cpu = _opened, time.perf_counter(), time.process_time()
        call()
        figures[title] = {
            "seconds": round(time.perf_counter() - start, 3),
            "cpu": round(time.process_time() - cpu, 3),
            "files": _opened - before,
        }
    shutil.rmtree(cache)
    return figures


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    global _opened
    if event == "open" and str(arguments[0]).endswith(".safetensors"):
        _opened += 1


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table: seconds, those of the processor, and files."""
    first, *_ = figures.values()
    rows = [
        (title, *("{seconds} / {cpu} s, {files:,}".format(**calls[title]) for calls in sizes))
        for sizes in [figures.values()]
        for title in first
    ]
    return markdown(("", *(f"{int(size):,} models" for size in figures)), 1, rows)
