"""The command `model-zoos`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import datasets
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import model_zoos

from .builders.catalog import METRICS, Zoo, get_zoo, list_zoos, zoo_from_json
from .builders.layout import ARCHITECTURES

app = typer.Typer(
    help="Load, make and benchmark populations of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no table.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataDir = Annotated[
    Optional[Path],
    typer.Option(help="Folder of zoo directories (else MODEL_ZOOS_HOME, else ./zoos)."),
]


def main() -> None:
    """Run the command; an expected error is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__:
            error = error.__cause__  # what went wrong in the builder
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names.")] = "*",
    image_dataset: Annotated[Optional[str], typer.Option(help="mnist, cifar10, ...")] = None,
    architecture: Annotated[Optional[str], typer.Option(help="cnn_s, cnn_l, resnet18")] = None,
    variant: Annotated[Optional[str], typer.Option(help="seed, hyp_10_r, hyp_10_f")] = None,
    as_json: AsJson = False,
) -> None:
    """List the zoos of the catalog."""
    zoos = list_zoos(
        pattern, image_dataset=image_dataset, architecture=architecture, variant=variant
    )
    if as_json:
        entries = [
            {**zoo.to_json(), "models": zoo.model_count, "states": zoo.state_count} for zoo in zoos
        ]
        print(json.dumps(entries, indent=1))
        return
    table = Table()
    for title in ("zoo", "images", "architecture", "variant"):
        table.add_column(title, no_wrap=True)
    for title in ("models", "states", "weights"):
        table.add_column(title, justify="right")
    for zoo in zoos:
        table.add_row(
            zoo.name,
            zoo.image_dataset,
            ARCHITECTURES[zoo.architecture].title,
            zoo.variant,
            f"{zoo.model_count:,}",
            f"{zoo.state_count:,}",
            f"{zoo.layout.size:,}",
        )
    _console().print(table)


@app.command()
def generate(
    zoo: Annotated[str, typer.Argument(help="A zoo's name, or a JSON file that specifies one.")],
    out: Annotated[
        Optional[Path], typer.Option(help="Folder of zoo directories (see --data-dir elsewhere).")
    ] = None,
    models: Annotated[Optional[int], typer.Option(help="Only the first so many models.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="In place of the zoo's own.")] = None,
    engine: Annotated[str, typer.Option(help="auto or reference")] = "auto",
    processes: Annotated[
        Optional[int], typer.Option(help="Workers; one a core by default.")
    ] = None,
    images_dir: Annotated[
        Optional[Path], typer.Option(help="Folder of image files (else MODEL_ZOOS_IMAGES).")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing images.")] = False,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Accept images with another checksum.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a zoo. Run the same command again to go on after an interruption."""
    specification = _specification(zoo)
    if epochs is not None:
        specification = dataclasses.replace(specification, epochs=epochs)
    if models is not None:
        specification.models(models)  # an impossible number is an error before images are read

    from .generation import population
    from .generation.images import load_images

    images = load_images(
        specification.images,
        images_dir,
        download=download,
        allow_unverified=allow_unverified,
        progress=not (quiet or as_json),
    )
    count = models or specification.model_count
    with _progress(hidden=quiet or as_json) as progress:
        task = progress.add_task(f"{specification.name}: states", total=None)

        def show(done: population.Progress) -> None:
            progress.update(task, completed=done.states, total=done.states_total)

        summary = population.generate(
            specification,
            model_zoos.zoos_home(out),
            images,
            models=models,
            engine=engine,
            processes=processes,
            on_progress=show,
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(summary), indent=1))
    elif not quiet:
        accuracy = "-" if summary.test_acc is None else f"{summary.test_acc:.3f}"
        _print_table(
            f"{summary.models} of {count} models trained into {summary.path}",
            {
                "already there": summary.present,
                "states written": f"{summary.states:,}",
                "diverged (kept)": summary.diverged,
                "mean test accuracy, last epoch": accuracy,
                "engine": summary.engine,
                "seconds": f"{summary.seconds:.1f}",
                "model-samples a second": f"{summary.samples_per_second:,.0f}",
            },
        )


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="A zoo, union or twin zoo.")],
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path], typer.Option(help="JSON file to write; <name>-benchmark.json by default.")
    ] = None,
    max_weight: Annotated[
        float, typer.Option(help="Leave out states with a larger weight; inf keeps all.")
    ] = 5.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict accuracy, epoch and generalization gap from weights and from their statistics."""
    from .benchmarks.property_prediction import predict_properties

    _quiet_datasets(quiet or as_json)
    result = predict_properties(name, data_dir, max_weight=max_weight)
    text = json.dumps(_finite(dataclasses.asdict(result)), indent=1)
    path = out or Path(f"{result.zoo}-benchmark.json")
    path.write_text(text + "\n")
    if as_json:
        print(text)
    elif not quiet:
        table = Table(title=f"{result.zoo}: R2 of linear probes")
        table.add_column("target")
        for title in ("from", "train", "validation", "test", "ridge"):
            table.add_column(title, justify="right" if title != "from" else "left")
        for score in result.scores:
            table.add_row(
                score.target,
                score.representation,
                *(f"{score.r2[split]:.3f}" for split in ("train", "validation", "test")),
                f"{score.strength:g}",
            )
        console = _console()
        console.print(table)
        counts = ", ".join(
            f"{split} {result.models[split]} models / {states} states"
            for split, states in result.states.items()
        )
        left_out = ", ".join(f"{count} {reason}" for reason, count in result.left_out.items())
        console.print(f"{counts}; left out: {left_out}; written to {path}", style="dim")


@app.command()
def plot(
    name: Annotated[str, typer.Argument(help="Any name that load_dataset knows.")],
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path], typer.Option(help="PNG to write; <name>-accuracy.png by default.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw test accuracy by epoch over all models."""
    from .benchmarks.plots import plot_accuracy_by_epoch

    _quiet_datasets(quiet)
    path = plot_accuracy_by_epoch(name, out or Path(f"{name}-accuracy.png"), data_dir)
    if not quiet:
        _console().print(f"written to {path}")


def _specification(name: str) -> Zoo:
    """A zoo of the catalog, or one specified in a JSON file."""
    if not name.endswith(".json"):
        return get_zoo(name)
    path = Path(name)
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    try:
        zoo = zoo_from_json(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if zoo.name in (*model_zoos.catalog.config_names(), METRICS):
        raise ValueError(f"{path}: the catalog has a zoo named {zoo.name!r}: choose another name")
    return zoo


def _console() -> Console:
    # Without a terminal rich assumes 80 columns, which cuts tables in logs and pipes.
    return Console(width=None if sys.stdout.isatty() else 160)


def _print_table(title: str, values: dict[str, Any]) -> None:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(name, str(value))
    console = _console()
    console.print(title)
    console.print(table)


def _progress(hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=hidden,
    )


def _quiet_datasets(quiet: bool) -> None:
    if quiet:
        datasets.disable_progress_bars()


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: null instead."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
