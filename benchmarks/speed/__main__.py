"""python -m model_zoos.benchmarks.speed COMMAND: loading, generation, importing, building,
streaming, prediction, resnet"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from . import building as building_speed
from . import generation as generation_speed
from . import importing as importing_speed
from . import loading as loading_speed
from . import prediction as prediction_speed
from . import resnet as resnet_speed
from . import streaming as streaming_cost
from .measure import machine

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Models = Annotated[int, typer.Option(help="Number of models, with 51 CNN-s states each.")]
Rounds = Annotated[int, typer.Option(help="Rounds. The figures are medians over them.")]
Samples = Annotated[int, typer.Option(help="Training images of an epoch.")]
Out = Annotated[Optional[Path], typer.Option(help="JSON file to write.")]


@app.callback()
def speed() -> None:
    """Measure the project's speed. Ratios hold, absolute figures are those of this machine."""


def _show(results: object, text: str, out: Path | None) -> None:
    print(text)
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


@app.command()
def loading(models: Models = 1000, rounds: Rounds = 5, out: Out = None) -> None:
    """Load a zoo directory into a data set and into one tensor, beside numpy's reading."""
    figures = loading_speed.measure(models, rounds)
    _show(figures, loading_speed.table(figures), out)


@app.command()
def generation(rounds: Rounds = 5, samples: Samples = 1000, out: Out = None) -> None:
    """Train dense models and sparse twins with every engine, beside the original's loop."""
    results = [
        generation_speed.measure(name, rounds, samples, twins)
        for twins in (False, True)
        for name in ("cnn_s", "cnn_l")
    ]
    _show(results, generation_speed.table(results), out)


@app.command()
def importing(
    models: Models = 100,
    rounds: Rounds = 5,
    memory_models: Annotated[
        int, typer.Option(help="Models of the import whose memory is watched; 1000 need 1.4 GB.")
    ] = 1000,
    out: Out = None,
) -> None:
    """Import the zip of a zoo, beside a plain loop of torch.load."""
    figures = importing_speed.measure(models, rounds, memory_models)
    _show(figures, importing_speed.table(figures), out)


@app.command()
def building(models: Models = 1000, rounds: Rounds = 5, out: Out = None) -> None:
    """Write a zoo directory as Parquet with one worker, beside pyarrow.parquet.write_table."""
    figures = building_speed.measure(models, rounds)
    _show(figures, building_speed.table(figures), out)


@app.command()
def streaming(
    states: Annotated[int, typer.Option(help="States of ResNet-18, 45 MB each.")] = 10,
    out: Out = None,
) -> None:
    """Count the bytes that each way to stream a zoo reads from a server on loopback."""
    figures = streaming_cost.measure(states)
    total = "all data: {file_bytes:,} bytes in {files} file(s)".format(**figures)
    _show(figures, f"{streaming_cost.table(figures)}\n{total}", out)


@app.command()
def prediction(models: Models = 1000, rounds: Rounds = 3, out: Out = None) -> None:
    """Predict properties from 51,000 rows, beside scikit-learn's RidgeCV."""
    figures = prediction_speed.measure(models, rounds)
    _show(figures, prediction_speed.table(figures), out)


@app.command()
def resnet(
    rounds: Rounds = 5,
    samples: Samples = 512,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 128,
    threads: Annotated[Optional[int], typer.Option(help="Cores; all of them by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well.")] = False,
    image_size: Annotated[int, typer.Option(help="32, or 16 where bf16 is slow.")] = 32,
    out: Out = None,
) -> None:
    """Train ResNet-18 with bf16 and channels-last order, beside the original's loop."""
    result = resnet_speed.measure(rounds, samples, batch_size, threads, device, compile, image_size)
    _show(result, resnet_speed.table(result), out)


app()
