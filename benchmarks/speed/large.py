"""Time of each step and peak memory of the benchmark, for zoos larger than memory.

The rows are random: models of the zoo's grid with 51 states each. Memory is the resident memory of
a process that does nothing else, including the pages of mapped files. With `--in-memory` the same
zoo is benchmarked again with all weights in memory, as the baseline. On random rows a logistic
regression ends after few steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import datasets
import typer

from tests.zoos import random_zoo

from ...builders.catalog import zoo_spec
from ..property_prediction import predict_properties
from .measure import Models, peak_memory

_ALONE = "import sys; from model_zoos.benchmarks.speed.large import run; run(*sys.argv[1:])"


def measure(
    zoo: Annotated[str, typer.Option(help="Zoo whose grid and layout the rows have.")] = (
        "mnist_cnn_s_hyp_10_r"
    ),
    models: Models = 9640,
    in_memory: Annotated[bool, typer.Option(help="Also with all weights in memory.")] = False,
) -> dict[str, Any]:
    """Return the zoo, its rows, gigabytes of weights and, for each way of reading, the seconds of
    each step, megabytes of memory, and R2."""
    datasets.disable_progress_bars()
    found: dict[str, Any] = {"zoo": zoo}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "zoos"
        specification = zoo_spec(zoo)
        grid = specification.model_count // specification.seeds
        specification = dataclasses.replace(specification, seeds=math.ceil(models / grid))
        directory = random_zoo(root, specification, models)
        limits = {"on disk": 0, **({"in memory": 1 << 60} if in_memory else {})}
        for name, limit in limits.items():
            out = Path(folder) / "out.json"
            memory = peak_memory("-c", _ALONE, zoo, str(root), str(limit), str(out))
            seconds, scores, rows = json.loads(out.read_text())
            found |= {"rows": rows, "gigabytes": round(4e-9 * rows * directory.zoo.layout.size, 2)}
            found[name] = memory | {step: round(value, 1) for step, value in seconds.items()}
            found[f"{name}, R2"] = {f"{target} from {what}": r2 for target, what, r2 in scores}
    return found


def run(zoo: str, root: str, memory: str, out: str) -> None:
    """Benchmark a zoo, and write the seconds of each step, the scores and the rows to a file."""
    datasets.disable_progress_bars()
    steps = [("read", time.perf_counter())]
    result = predict_properties(
        zoo,
        root,
        max_weight=float("inf"),
        memory=int(memory),
        on_progress=lambda what, *_: steps.append((what, time.perf_counter())),
    )
    steps.append(("end", time.perf_counter()))
    seconds: dict[str, float] = {}
    for (name, before), (_, after) in pairwise(steps):
        seconds[name] = seconds.get(name, 0) + after - before
    scores = [(score.target, score.representation, score.r2["test"]) for score in result.scores]
    Path(out).write_text(json.dumps([seconds, scores, sum(result.states.values())]))
