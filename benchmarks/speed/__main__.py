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
from .machine import machine

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def speed() -> None:
    """Measure the project's speed; ratios hold, absolute figures are this machine's."""


@app.command()
def loading(
    models: Annotated[int, typer.Option(help="Of 51 CNN-s states each.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 5,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """From zoo directory through the builder, and into one tensor, beside numpy's reading."""
    figures = loading_speed.measure(models, rounds)
    for name, value in figures["gb_per_second"].items():
        print(f"{name:55} {value:6.2f} GB/s")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": figures}, indent=1) + "\n")


@app.command()
def generation(
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 5,
    samples: Annotated[int, typer.Option(help="Training images of an epoch.")] = 1000,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Engines beside the original's loop: one torch module, batches of 10, one thread.

    Dense models, then sparse twins.
    """
    results = [
        generation_speed.measure(name, rounds, samples, twins)
        for twins in (False, True)
        for name in ("cnn_s", "cnn_l")
    ]
    print(generation_speed.table(results))
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


@app.command()
def importing(
    models: Annotated[int, typer.Option(help="Of 51 CNN-s states each.")] = 100,
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 5,
    memory_models: Annotated[
        int, typer.Option(help="Of the import whose memory is watched (1.4 GB of disk); 0: none.")
    ] = 1000,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """From a published zip to a zoo directory, beside a plain loop of torch.load."""
    figures = importing_speed.measure(models, rounds, memory_models)
    for name, value in figures["rows_per_second"].items():
        print(f"{name:55} {value:6,} rows/s")
    print(f"{'import / torch.load + flatten':55} {figures['over_torch_load']:6} x")
    print(f"{'import / the original loader (140 rows/s)':55} {figures['over_the_original']:6} x")
    if figures["memory"] is not None:
        about = "peak memory of importing {states:,} states in {seconds} s".format(
            **figures["memory"]
        )
        print(f"{about:55} {figures['memory']['megabytes']:6} MB")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": figures}, indent=1) + "\n")


@app.command()
def building(
    models: Annotated[int, typer.Option(help="Of 51 CNN-s states each.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 5,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """From zoo directory to Parquet with one worker, beside pyarrow.parquet.write_table."""
    figures = building_speed.measure(models, rounds)
    for name, value in figures["gb_per_second"].items():
        cpu = figures["gb_per_cpu_second"][name]
        print(f"{name:55} {value:6.3f} GB/s {cpu:6.3f} GB per second of processor time")
    print(f"{'build / write_table':55} {figures['build_over_write_table']:6.1%}")
    print(f"{'files with weights / float32':55} {figures['size_over_raw']:6.3f}")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": figures}, indent=1) + "\n")


@app.command()
def streaming(
    states: Annotated[int, typer.Option(help="Of ResNet-18, 45 MB each.")] = 10,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Bytes that each way to stream a published zoo reads, counted by a server on loopback."""
    figures = streaming_cost.measure(states)
    print(streaming_cost.table(figures))
    print("all data: {file_bytes:,} bytes in {files} file(s)".format(**figures))
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": figures}, indent=1) + "\n")


@app.command()
def prediction(
    models: Annotated[int, typer.Option(help="Of 51 CNN-s states each.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 3,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Property prediction from 51,000 rows, beside scikit-learn's RidgeCV."""
    figures = prediction_speed.measure(models, rounds)
    for name, value in figures["seconds"].items():
        print(f"{name:55} {value:6.2f} s")
    print(f"{'RidgeCV / ours, numbers from weights':55} {figures['ratio_to_ridge_cv']:6} x")
    print(f"{'peak memory':55} {figures['memory_mb']:6} MB")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": figures}, indent=1) + "\n")


@app.command()
def resnet(
    rounds: Annotated[int, typer.Option(help="Medians are over these.")] = 5,
    samples: Annotated[int, typer.Option(help="Training images of an epoch.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 128,
    threads: Annotated[Optional[int], typer.Option(help="Cores; all of them by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well.")] = False,
    image_size: Annotated[int, typer.Option(help="32, or 16 where bf16 is slow.")] = 32,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Training ResNet-18 with bf16 and channels-last order, beside the original's loop."""
    result = resnet_speed.measure(rounds, samples, batch_size, threads, device, compile, image_size)
    print(resnet_speed.table(result))
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "results": result}, indent=1) + "\n")


app()
