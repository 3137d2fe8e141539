"""The command `model-zoos`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import datasets
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from .builders.architecture import ARCHITECTURES
from .builders.catalog import TWIN_EPOCHS, ZOOS, config_names, get_zoo, list_zoos, parts_of
from .builders.dataset import open_parts, zoos_home
from .builders.specification import Zoo, normalize_name, zoo_from_json

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from .benchmarks import tables
    from .generation.plan import Plan

app = typer.Typer(
    help="Load, make and benchmark populations of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no table.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
OutDir = Annotated[
    Optional[Path], typer.Option(help="Folder of zoo directories (see --data-dir elsewhere).")
]
MaxWeight = Annotated[
    Optional[float],
    typer.Option(help="Leave out states with a larger weight; the paper's data sets: 5."),
]
Workers = Annotated[Optional[int], typer.Option(help="Processes; as many as pay by default.")]
DataDir = Annotated[
    Optional[Path],
    typer.Option(help="Folder of zoo directories (else MODEL_ZOOS_HOME, else ./zoos)."),
]
Engine = Annotated[str, typer.Option(help="auto; or lanes, batched or reference, for CNNs.")]
ThreadCount = Annotated[Optional[int], typer.Option(help="Cores to use; all of them by default.")]
Device = Annotated[
    Optional[str], typer.Option(help="cpu or cuda; lanes and reference run on a CPU.")
]
ImagesDir = Annotated[
    Optional[Path], typer.Option(help="Folder of image files (else MODEL_ZOOS_IMAGES).")
]
DownloadImages = Annotated[bool, typer.Option("--download", help="Fetch missing images.")]
AllowUnverified = Annotated[
    bool, typer.Option("--allow-unverified", help="Accept images with another checksum.")
]


_WORTH_SAYING = 100_000_000
"""Bytes of disk that a user is told of before a zoo is made."""


def main() -> None:
    """Run the command; an expected error or warning is one line, not a traceback."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {_with_hint(message)}\n"
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__:
            error = error.__cause__  # what went wrong in the builder
        text = _with_hint(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{error.filename}: {error.strerror.lower()} (is it the folder that you mean?)"
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(1) from None


def _with_hint(error: Warning | BaseException | str) -> str:
    """The message of an error or warning, then what to type."""
    hint = getattr(error, "hint", None)
    return f"{error} ({hint})" if hint else str(error)


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names.")] = "*",
    image_dataset: Annotated[Optional[str], typer.Option(help="mnist, cifar10, ...")] = None,
    architecture: Annotated[Optional[str], typer.Option(help=", ".join(ARCHITECTURES))] = None,
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
            zoo.layout.architecture.title,
            zoo.variant,
            f"{zoo.model_count:,}",
            f"{zoo.state_count:,}",
            f"{zoo.layout.size:,}",
        )
    _console().print(table)


@app.command()
def generate(
    zoo: Annotated[str, typer.Argument(help="A zoo's name, or a JSON file that specifies one.")],
    out: OutDir = None,
    models: Annotated[Optional[int], typer.Option(help="Only the first so many models.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="In place of the zoo's own.")] = None,
    engine: Engine = "auto",
    threads: ThreadCount = None,
    device: Device = None,
    precision: Annotated[
        Optional[str],
        typer.Option(help="fp32 or bf16, for ResNet-18; fp32 on a CPU, bf16 on a GPU by default."),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Train ResNet-18 with torch.compile.")
    ] = False,
    keep_epochs: Annotated[
        Optional[str],
        typer.Option(help="Of ResNet-18, the epochs to write, as 1,10,50; all by default."),
    ] = None,
    push: Annotated[
        Optional[str],
        typer.Option(
            help="Of ResNet-18: publish each model to this repository on the Hub, ORG/NAME, when "
            "it is finished, while others train."
        ),
    ] = None,
    free: Annotated[
        bool, typer.Option("--free", help="With --push: then remove its files here.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: a new repository is private.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done, how long, how much disk.")
    ] = False,
    ranks: Annotated[
        Optional[int], typer.Option(help="With --plan: processes that will share the work.")
    ] = None,
    seconds_per_epoch: Annotated[
        Optional[float],
        typer.Option(help="With --plan: of one model; measured here by default (ResNet-18)."),
    ] = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    allow_unverified: AllowUnverified = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a zoo. Run the same command again to go on after an interruption."""
    specification = _specification(zoo)
    if epochs is not None:
        specification = dataclasses.replace(specification, epochs=epochs)
    from .generation import generate as population
    from .generation.images import load_images

    if not plan and not (ranks is None and seconds_per_epoch is None):
        raise ValueError(
            "--ranks and --seconds-per-epoch are for --plan: a launcher starts the ranks"
        )
    root = zoos_home(out)
    if (free or private) and push is None:
        raise ValueError(
            "--free and --private are for --push ORG/NAME: they say what becomes of models that "
            "are published"
        )
    from .builders.hub.publisher import HubPublisher, PublishOptions
    from .generation.options import TrainOptions

    options = TrainOptions(
        engine=engine,
        threads=threads,
        device=device,
        precision=precision,
        compile=compile,
        keep_epochs=_epochs("--keep-epochs", keep_epochs),
    )
    publisher = HubPublisher(PublishOptions(push, free, private)) if push is not None else None
    # What is wrong without looking at images is said before they are read or fetched.
    planned = population.plan(
        specification,
        root,
        models=models,
        options=options,
        publisher=publisher,
        ranks=ranks,
        seconds_per_epoch=seconds_per_epoch,
        measure=plan and _first_rank(),
    )
    if plan:
        _print_plan(planned, as_json)
        return
    if _first_rank() and not (quiet or as_json) and planned.bytes_needed > _WORTH_SAYING:
        print(planned.space(), file=sys.stderr, flush=True)
    images = load_images(
        specification.images,
        images_dir,
        download=download,
        allow_unverified=allow_unverified,
        progress=not (quiet or as_json),
    )
    with _resumable(), _training(specification.name, quiet or as_json) as show:
        summary = population.generate(
            specification,
            root,
            images,
            models=models,
            options=options,
            publisher=publisher,
            on_progress=show,
        )
    _print_summary(summary, quiet, as_json)


@app.command()
def sparsify(
    zoo: Annotated[str, typer.Argument(help="A dense zoo or union, generated or imported.")],
    more_levels: Annotated[Optional[list[float]], typer.Argument(hidden=True, metavar="")] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder for the twins; that of the dense zoo by default.")
    ] = None,
    data_dir: DataDir = None,
    models: Annotated[Optional[int], typer.Option(help="Twins of the first so many only.")] = None,
    epochs: Annotated[int, typer.Option(help="Of every twin.")] = TWIN_EPOCHS,
    engine: Engine = "auto",
    threads: ThreadCount = None,
    device: Device = None,
    method: Annotated[str, typer.Option(help="variational or magnitude")] = "variational",
    sparsity: Annotated[
        Optional[list[float]],
        typer.Option(help="Shares of weights that magnitude prunes; 0.5 0.8 0.9 by default."),
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            help="A number or `first` (model's): one for all twins. `parent`: each its own."
        ),
    ] = "first",
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    allow_unverified: AllowUnverified = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train sparse twins of a zoo. Run the same command again to go on after an interruption."""
    from .generation import sparsify as sparsification
    from .generation.images import load_images

    if more_levels and sparsity is None:
        raise ValueError(f"one zoo at a time; what are {' '.join(map(str, more_levels))}?")
    if sparsity is not None and method != "magnitude":
        raise ValueError("--sparsity is for --method magnitude: variational dropout finds its own")
    from .generation.options import LEVELS, TrainOptions, TwinOptions

    twins = TwinOptions(
        method=method,
        levels=[*(sparsity or LEVELS), *(more_levels or ())],
        epochs=epochs,
        seed=seed if seed in ("first", "parent") else _whole_number("--seed", seed),
    )
    options = TrainOptions(engine=engine, threads=threads, device=device)
    home = zoos_home(data_dir)
    name = normalize_name(zoo)
    if name in ZOOS:  # before it is said how to get one that is not there
        sparsification.check_zoo(ZOOS[name])
    dense = open_parts(name, home)
    for parents in dense:
        sparsification.check_sparsify(parents, models, twins, options)
    summaries = []
    for parents in dense:
        images = load_images(
            sparsification.image_name(parents),
            images_dir,
            download=download,
            allow_unverified=allow_unverified,
            progress=not (quiet or as_json),
        )
        name = sparsification.twin_zoo(parents.zoo, method).name
        with _resumable(), _training(name, quiet or as_json) as show:
            summary = sparsification.sparsify(
                parents,
                home if out is None else out,
                images,
                models=models,
                twins=twins,
                options=options,
                on_progress=show,
            )
        summaries.append(summary)
        _print_summary(summary, quiet or as_json, as_json=False)
    if as_json and _first_rank():  # of a union one for each part
        found = [dataclasses.asdict(summary) for summary in summaries]
        print(json.dumps(found if len(found) > 1 else found[0], indent=1))


@app.command("import")
def import_command(
    source: Annotated[
        Path, typer.Argument(help="A published zip, a folder of trials, or a dataset_*.pt.")
    ],
    zoo: Annotated[
        Optional[str], typer.Option(help="The zoo's name; recognised by default.")
    ] = None,
    out: OutDir = None,
    max_weight: MaxWeight = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn a published file into a zoo. Run the same command again to go on."""
    _import(source, zoo, out, max_weight, workers, quiet, as_json)


def _import(
    source: Path,
    zoo: str | None,
    out: Path | None,
    max_weight: float | None,
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    from .builders.sources.importing import REPORT, import_zoo

    root = zoos_home(out)
    tasks: dict[str, Any] = {}
    with _progress(hidden=quiet or as_json) as progress:

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, done="")
            progress.update(tasks[name], completed=done, done=f"{done:,}/{total:,} models")

        with _resumable():
            reports = import_zoo(
                source, root, zoo, max_weight=max_weight, workers=workers, on_progress=show
            )
    if as_json:
        print(json.dumps([report.to_json() for report in reports], indent=1))
    elif not quiet:
        for report in reports:
            _print_table(
                f"{report.zoo}: {report.models:,} models into {root / report.zoo}",
                {
                    "states found": f"{report.found:,}",
                    "states kept": f"{report.kept:,}",
                    **{
                        f"left out: {category}": f"{count:,}"
                        for category, count in report.categories().items()
                    },
                },
            )
            for state in report.left_out[:10]:
                print(f"{state.trial} epoch {state.epoch}: {state.reason}")
            if len(report.left_out) > 10:
                print(f"and {len(report.left_out) - 10:,} more: {root / report.zoo / REPORT}")
            for remark in report.remarks[:10]:
                print(remark)


@app.command()
def download(
    zoo: Annotated[str, typer.Argument(help="A published zoo's name; NAME_sparse for its twins.")],
    file: Annotated[
        Optional[str], typer.Option(help="The file's name in the record, if it is in doubt.")
    ] = None,
    preprocessed: Annotated[
        bool, typer.Option("--preprocessed", help="The preprocessed data set, not the raw zip.")
    ] = False,
    out: OutDir = None,
    max_weight: MaxWeight = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a published zoo from Zenodo and import it. Run the same command again to go on."""
    from .builders.sources import zenodo

    with _progress(hidden=quiet or as_json) as progress:
        task = progress.add_task(zoo, total=None, done="")

        def show(name: str, done: int, total: int) -> None:
            text = f"{name}: {done / 1e9:.2f} of {total / 1e9:.2f} GB"
            progress.update(task, completed=done, total=total, done=text)

        with _resumable():
            path = zenodo.download(
                zoo,
                zoos_home(out) / "downloads",
                file=file,
                preprocessed=preprocessed,
                on_progress=show,
            )
    _import(path, zoo, out, max_weight, workers, quiet, as_json)


@app.command()
def build(
    names: Annotated[list[str], typer.Argument(help="Zoos, twin zoos or unions.")],
    out: Annotated[Path, typer.Option(help="The repository folder.")],
    data_dir: DataDir = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Threads; one each core by default.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write zoos as Parquet with a card, to be published. Run the same command again to go on."""
    from .builders.hub.build import build_folder

    tasks: dict[str, Any] = {}
    with _progress(hidden=quiet or as_json) as progress:

        def show(zoo: str, done: int, total: int) -> None:
            if zoo not in tasks:
                tasks[zoo] = progress.add_task(zoo, total=total, done="")
            progress.update(tasks[zoo], completed=done, done=f"{done:,}/{total:,} states")

        with _resumable():
            summaries = build_folder(
                names, zoos_home(data_dir), out, workers=workers, on_progress=show
            )
    if as_json:
        print(json.dumps([dataclasses.asdict(summary) for summary in summaries], indent=1))
    elif not quiet:
        for summary in summaries:
            _print_table(
                f"{summary.zoo}: {summary.models:,} models into {out / 'data' / summary.zoo}",
                {
                    "states": f"{summary.states:,}",
                    "shards": f"{summary.shards} ({summary.written} new)",
                    "weights": f"{summary.weights_bytes / 1e6:,.1f} MB",
                    "files": f"{summary.file_bytes / 1e6:,.1f} MB",
                    "model files left out": len(summary.left_out),
                    "seconds": f"{summary.seconds:.1f}",
                },
            )
            for reason in summary.left_out[:10]:
                print(reason)
            if len(summary.left_out) > 10:
                print(f"and {len(summary.left_out) - 10:,} more (--json lists them all)")


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="A zoo, union or twin zoo.")],
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path],
        typer.Option(help="JSON file to write; <name>-benchmark.json unless with --json."),
    ] = None,
    representation: Annotated[
        Optional[list[str]],
        typer.Option(
            help="weights, statistics, or module:function for your own, from a float32 matrix and "
            "a layout to a matrix. Can be repeated; both by default."
        ),
    ] = None,
    epochs: Annotated[Optional[str], typer.Option(help="Use only these, as 10,25,50.")] = None,
    max_weight: Annotated[
        float, typer.Option(help="Leave out states with a larger weight; inf keeps all.")
    ] = 5.0,
    offset: Annotated[
        str, typer.Option(help="Of the ridge: free, or regularised as the paper's code has it.")
    ] = "free",
    boosting: Annotated[
        bool, typer.Option("--boosting", help="Gradient-boosted trees too (needs LightGBM).")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict accuracy, epoch, gap and hyperparameters from weights and from their statistics."""
    from .benchmarks.property_prediction import predict_properties
    from .benchmarks.representations import REPRESENTATIONS

    name, chosen = normalize_name(name), _epochs("--epochs", epochs)
    if out is not None:  # before the work, not after it
        out.parent.mkdir(parents=True, exist_ok=True)
    if any(":" in name for name in representation or ()):
        sys.path.insert(0, os.getcwd())  # where a user's own module is expected
    _quiet_datasets(quiet or as_json)
    with _progress(hidden=quiet or as_json) as progress:
        task = progress.add_task(name, total=None, done="reading")

        def show(step: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, done=step)

        result = predict_properties(
            name,
            data_dir,
            representations=representation or tuple(REPRESENTATIONS),
            epochs=chosen,
            max_weight=max_weight,
            offset=offset,
            boosting=boosting,
            on_progress=show,
        )
    text = json.dumps(_finite(dataclasses.asdict(result)), indent=1)
    path = out or (None if as_json else Path(f"{result.zoo}-benchmark.json"))
    if path is not None:
        path.write_text(text + "\n")
    if as_json:
        print(text)
    elif not quiet:
        _print_tables(result.tables())
        _console().print(f"written to {path}", style="dim")


def _print_tables(results: Iterable[tables.Table]) -> None:
    """Print the tables of a result, each with its title and notes."""
    console = _console()
    for table in results:
        shown = Table(title=Text(table.title))
        for title, numeric in zip(table.columns, table.numeric, strict=True):
            justify: JustifyMethod = "right" if numeric else "left"
            shown.add_column(Text(title), justify=justify, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
        for note in table.notes:
            print(note)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="A zoo, union or twin zoo.")],
    states: Annotated[
        int, typer.Option(help="How many to evaluate, over all models and epochs; 0: none.")
    ] = 512,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every state.")] = False,
    data_dir: DataDir = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    threads: ThreadCount = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check that a zoo's rows are what they say, by evaluating states; exit status 1 if not."""
    from .benchmarks.audit import audit_zoo

    _quiet_datasets(True)
    audits = []
    with _progress(hidden=quiet or as_json) as progress:
        for part in parts_of(normalize_name(name)):
            task = progress.add_task(part, total=None, done="reading")

            def show(done: int, total: int, task: Any = task) -> None:
                text = f"{done:,}/{total:,} states"
                progress.update(task, completed=done, total=total, done=text)

            audits.append(
                audit_zoo(
                    part,
                    data_dir,
                    states=None if every else states,
                    images_dir=images_dir,
                    download=download,
                    threads=threads,
                    on_progress=show,
                )
            )
    if as_json:
        entries = [{**dataclasses.asdict(audit), "good": audit.good} for audit in audits]
        print(json.dumps(_finite(entries), indent=1))
    elif not quiet:
        for audit in audits:
            _print_tables(audit.tables())
    if not all(audit.good for audit in audits):
        raise typer.Exit(1)


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

    name = normalize_name(name)
    _quiet_datasets(quiet)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    path = plot_accuracy_by_epoch(name, out or Path(f"{name}-accuracy.png"), data_dir)
    if not quiet:
        _console().print(f"written to {path}")


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A zoo, union or twin zoo.")],
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder for the page; <name>-report by default.")
    ] = None,
    figures: Annotated[
        Optional[Path], typer.Option(help="Write only the figures, as PNG, into this folder.")
    ] = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an HTML page about a zoo: figures, diversity and benchmarks, and the PNGs beside it."""
    from .benchmarks import plots
    from .benchmarks import report as pages

    if out is not None and figures is not None:
        raise ValueError("give --out for the page with its figures or --figures, not both")
    name = normalize_name(name)
    _quiet_datasets(True)
    with _progress(hidden=quiet or as_json) as progress:
        task = progress.add_task(name, total=None, done="reading")

        def show(step: str) -> None:
            progress.update(task, done=step)

        if figures is not None:
            drawn = plots.draw_all(name, data_dir, on_progress=show)
            paths = pages.write_figures(name, drawn, figures)
            result: dict[str, Any] = {"zoo": name}
        else:
            made = pages.make_report(
                name, data_dir, images_dir=images_dir, download=download, on_progress=show
            )
            paths = pages.write_report(made, out or Path(f"{name}-report"))
            drawn = made.plots
            # Without the bytes of the figures, which are in the files.
            result = dataclasses.asdict(dataclasses.replace(made, plots=()))
            del result["plots"]
    if as_json:
        result["captions"] = {plot.name: plot.caption for plot in drawn}
        result["files"] = [str(path) for path in paths]
        print(json.dumps(_finite(result), indent=1))
    elif not quiet:
        for path in paths:
            print(f"written to {path}")
        for part, why in result.get("not_obtained", {}).items():
            print(f"not obtained: {part}: {why}")


@app.command()
def publish(
    repository: Annotated[str, typer.Argument(help="On the Hub: ORG/NAME; created if missing.")],
    folder: Annotated[Path, typer.Option("--from", help="Folder that `model-zoos build` made.")],
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is private.")
    ] = False,
    revision: Annotated[
        Optional[str],
        typer.Option(help="Branch, created if missing; refs/pr/N goes on with a pull request."),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request in place of a commit.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Bring a repository on the Hub to what a folder holds. Run it again to go on.

    The token is that of HF_TOKEN or of `hf auth login`.
    """
    from huggingface_hub.utils import disable_progress_bars

    from .builders.hub import publish as hub

    disable_progress_bars()  # one bar for each file; here is one for all
    with _progress(hidden=quiet or as_json) as progress:
        task = progress.add_task(repository, total=None, done="")

        def show(what: str, done: int, total: int) -> None:
            text = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB {what}"
            progress.update(task, completed=done, total=total, done=text)

        with _resumable():
            summary = hub.publish(
                folder,
                repository,
                private=private,
                revision=revision,
                create_pr=create_pr,
                on_progress=show,
            )
    if as_json:
        print(json.dumps(dataclasses.asdict(summary), indent=1))
    elif not quiet:
        _print_table(
            f"{', '.join(summary.zoos)}: published, {summary.url}",
            {
                "files new or changed": f"{summary.uploaded:,}",
                "megabytes of these": f"{summary.uploaded_bytes / 1e6:,.1f}",
                "files skipped, being the same": f"{summary.unchanged:,}",
                "files of earlier builds deleted": f"{len(summary.deleted):,}",
                "configs of others kept": f"{len(summary.kept_configs):,}",
            },
        )


def _first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _training(name: str, hidden: bool) -> Iterator[Callable[[Any], None]]:
    """Shows how far a training is: a bar, or a line now and then where there is no terminal."""
    began, said = time.monotonic(), None
    hidden = hidden or not _first_rank()
    with _progress(hidden) as progress:
        task = progress.add_task(name, total=None, done="")

        def show(done: Any) -> None:
            nonlocal said
            now = time.monotonic()
            if said is None:
                said = now
                if progress.disable and not hidden:
                    print(f"{name}: training", file=sys.stderr, flush=True)
            speed = done.samples / (now - began)
            text = f"{done.models}/{done.models_total} models, {speed:,.0f} samples/s"
            if done.published is not None:
                text += f", {done.published} published"
            progress.update(task, completed=done.states, total=done.states_total, done=text)
            if not hidden and progress.disable and now - said > 30:
                said = now
                print(f"{name}: {text}", file=sys.stderr, flush=True)

        yield show


def _print_summary(summary: Any, quiet: bool, as_json: bool) -> None:
    """What a training did."""
    if not _first_rank():
        return
    if as_json:
        print(json.dumps(dataclasses.asdict(summary), indent=1))
        return
    if quiet:
        return
    values = {
        "already there": summary.present,
        "states written": f"{summary.states:,}",
        "diverged (kept)": summary.diverged,
        "mean test accuracy, last epoch": (
            "-" if summary.test_acc is None else f"{summary.test_acc:.3f}"
        ),
    }
    if summary.sparsity is not None:
        values["mean sparsity, last epoch"] = f"{summary.sparsity:.3f}"
    if summary.published is not None:
        values["published, then removed here"] = f"{summary.published}, {summary.freed}"
    if summary.left_out:
        what = "parents left out" if summary.published is None else "not published"
        values[what] = len(summary.left_out)
    values |= {
        "engine": summary.engine + (f", {summary.ranks} ranks" * (summary.ranks > 1)),
        "seconds": f"{summary.seconds:.1f}",
        "model-samples a second": f"{summary.samples_per_second:,.0f}",
    }
    _print_table(f"{summary.models} models trained into {summary.path}", values)
    for name, reason in [*summary.left_out.items()][:10]:
        print(f"{name}: {reason}")
    if len(summary.left_out) > 10:
        print(f"and {len(summary.left_out) - 10:,} more: --json names them all")


def _print_plan(plan: Plan, as_json: bool) -> None:
    """A table of ranks, and the sums."""
    if not _first_rank():
        return
    if as_json:
        print(json.dumps(plan.to_json(), indent=1))
        return
    table = Table()
    for title in ("rank", "models", "to train", "seeds", "states", "GB written", "hours"):
        table.add_column(title, justify="left" if title == "seeds" else "right")
    for share in plan.shares:
        table.add_row(
            str(share.rank),
            f"{len(share.model_ids):,}",
            f"{share.missing:,}",
            _few(share.seeds),
            f"{share.states:,}",
            f"{share.bytes / 1e9:,.1f}",
            "?" if share.seconds is None else f"{share.seconds / 3600:,.2f}",
        )
    console = _console()
    console.print(table)
    console.print(plan.space())
    if plan.bytes_needed > plan.bytes_free:
        console.print("it would not be begun on this disk", style="red")
    console.print(f"{plan.epochs} epochs a model, of which {len(plan.kept_epochs)} states are kept")
    if plan.seconds is None:
        console.print("how long: not known; --seconds-per-epoch states what a model's epoch takes")
    else:
        total = sum(share.seconds or 0 for share in plan.shares)
        console.print(
            f"how long: {plan.seconds / 3600:,.2f} hours, {total / 3600:,.1f} rank hours, at "
            f"{plan.seconds_per_epoch:.3g} seconds for a model's epoch ({plan.source_of_seconds})"
        )


def _few(numbers: Sequence[int]) -> str:
    """The first and the last of many."""
    shown = list(map(str, numbers))
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def _epochs(option: str, text: str | None) -> list[int] | None:
    """The epochs of `--keep-epochs 1,10,50`."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes numbers such as 1,10,50, found {text!r}") from None


def _whole_number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{option} must be a number, 'first' or 'parent', found {text!r}"
        ) from None


@contextmanager
def _resumable() -> Iterator[None]:
    """Work that goes on where it was: an interruption is one line that says so."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(130) from None


def _specification(name: str) -> Zoo:
    """A zoo of the catalog, or one specified in a JSON file."""
    if not name.endswith(".json"):
        return get_zoo(name)
    path = Path(name)
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if isinstance(values, list) and len(values) == 1:  # as `model-zoos list NAME --json` prints it
        values = {key: v for key, v in values[0].items() if key not in ("models", "states")}
    try:
        zoo = zoo_from_json(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if zoo.name in config_names():
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
    """A bar on a terminal; elsewhere (a log, a pipe) it would be noise."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        console=Console(stderr=True),
        disable=hidden or not sys.stderr.isatty(),
        expand=True,
    )


def _quiet_datasets(quiet: bool) -> None:
    """No bars of datasets either where ours are hidden."""
    if quiet or not sys.stderr.isatty():
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
