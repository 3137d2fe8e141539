"""Commands that train: generate and sparsify."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..builders.catalog import IMAGE_FOLDER, TWIN_EPOCHS, ZOOS, parts_of
from ..builders.homes import open_parts, zoo_to_train, zoos_home
from ..builders.names import normalize_name
from ..builders.phrases import byte_size, counted
from ..builders.zoo_directory import has_zoo
from ..errors import InvalidArgument
from . import display
from .options import (
    AllowUnverified,
    AsJson,
    DataDir,
    Device,
    DownloadImages,
    Engine,
    ImagesDir,
    OutDir,
    Quiet,
    ThreadCount,
    flag,
    parse_epochs,
    parse_seed,
)

if TYPE_CHECKING:
    from ..generation.images import ImageData
    from ..generation.job import Summary
    from ..generation.plan import Plan

ANNOUNCED_BYTES = 100_000_000
"""Disk space from which a user is informed before a zoo is generated."""


def generate(
    zoo: Annotated[str, typer.Argument(help="A zoo's name, or a JSON file that specifies one.")],
    out: OutDir = None,
    models: Annotated[Optional[int], typer.Option(help="Number of models, from the first.")] = None,
    epochs: Annotated[
        Optional[int], typer.Option(help="Epochs to train; those of the zoo by default.")
    ] = None,
    engine: Engine = "auto",
    threads: ThreadCount = None,
    device: Device = None,
    precision: Annotated[
        Optional[str],
        typer.Option(help="fp32 or bf16, for ResNet-18; by default fp32 on a CPU, bf16 on a GPU."),
    ] = None,
    compile: Annotated[bool, flag("--compile", help="Train ResNet-18 with torch.compile.")] = False,
    keep_epochs: Annotated[
        Optional[str],
        typer.Option(help="Epochs of ResNet-18 to write, as 1,10,50; all if not given."),
    ] = None,
    push: Annotated[
        Optional[str],
        typer.Option(
            help="Publish each finished ResNet-18 to this repository on the Hub, ORG/NAME, while "
            "others train."
        ),
    ] = None,
    free: Annotated[
        bool, flag("--free", help="With --push: delete the files of published models.")
    ] = False,
    private: Annotated[
        bool, flag("--private", help="With --push: create a private repository.")
    ] = False,
    plan: Annotated[
        bool, flag("--plan", help="Only say what would be done, its time and disk space.")
    ] = False,
    ranks: Annotated[
        Optional[int], typer.Option(help="With --plan: processes that will share the work.")
    ] = None,
    seconds_per_epoch: Annotated[
        Optional[float],
        typer.Option(help="With --plan: time of one model; measured in some seconds if not given."),
    ] = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    allow_unverified: AllowUnverified = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a zoo. Run the same command again to resume."""
    specification = zoo_to_train(zoo, zoos_home(out))
    if epochs is not None:
        specification = dataclasses.replace(specification, epochs=epochs)
    if not plan and not (ranks is None and seconds_per_epoch is None):
        raise InvalidArgument(
            "--ranks and --seconds-per-epoch are for --plan: a launcher starts the ranks"
        )
    if (free or private) and push is None:
        raise InvalidArgument(
            "--free and --private are for --push ORG/NAME: they are about published models"
        )
    from ..generation import generate as generation
    from ..generation.images import ImageFilesError, load_images
    from ..generation.options import TrainOptions

    options = TrainOptions(
        engine=engine,
        threads=threads,
        device=device,
        precision=precision,
        compile=compile,
        keep_epochs=parse_epochs("--keep-epochs", keep_epochs),
    )
    publisher = None
    if push is not None:
        from ..builders.hub.incremental import PublishOptions
        from ..builders.hub.publisher import HubPublisher

        publisher = HubPublisher(PublishOptions(push, free, private))
    root, hidden = zoos_home(out), quiet or as_json
    own_images, unread = None, ""  # a plan needs them to measure the time of an epoch
    if plan and seconds_per_epoch is None and specification.images.startswith(IMAGE_FOLDER):
        try:
            own_images = load_images(
                specification.images,
                images_dir,
                channels=specification.channels,
                progress=not quiet,
            )
        except ImageFilesError as error:
            unread = "; ".join(filter(None, (str(error), error.hint)))
    # Also without --plan: wrong arguments are refused before images are read or downloaded.
    planned = generation.plan(
        specification,
        root,
        models=models,
        options=options,
        publisher=publisher,
        ranks=ranks,
        seconds_per_epoch=seconds_per_epoch,
        measure=plan and display.first_rank(),
        images=own_images,
    )
    if plan:
        _print_plan(planned, as_json, unread)
        return
    fits = planned.bytes_needed <= planned.bytes_free  # if not, an error says so
    if display.first_rank() and not hidden and fits and planned.bytes_needed > ANNOUNCED_BYTES:
        print(planned.space(), file=sys.stderr, flush=True)
    with display.resumable():
        images = load_images(
            specification.images,
            images_dir,
            channels=specification.channels,
            download=download,
            allow_unverified=allow_unverified,
            progress=not hidden,
        )
        with display.training_progress(specification.name, hidden) as show:
            summary = generation.generate(
                specification,
                root,
                images,
                models=models,
                options=options,
                publisher=publisher,
                on_progress=show,
            )
    if as_json and display.first_rank():
        print(display.json_text(dataclasses.asdict(summary)))
    elif not hidden:
        _print_summary(summary)


def sparsify(
    zoo: Annotated[str, typer.Argument(help="A dense zoo or union, generated or imported.")],
    context: typer.Context,
    out: Annotated[
        Optional[Path],
        typer.Option(
            help="Folder for the twins; by default the dense zoo's. Without --data-dir, "
            "the dense zoo may lie here too."
        ),
    ] = None,
    data_dir: DataDir = None,
    models: Annotated[
        Optional[int], typer.Option(help="Number of parents, from the first.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of every twin.")] = TWIN_EPOCHS,
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
            help="Seed of all twins: a number, or `first` for the first model's; `parent`: each "
            "twin has its parent's."
        ),
    ] = "first",
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    allow_unverified: AllowUnverified = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train sparse twins of a zoo. Run the same command again to resume."""
    more = context.args  # of `--sparsity 0.5 0.8`, an option that takes one word, the second
    if more and sparsity is None:
        raise InvalidArgument(f"one zoo at a time; what are {' '.join(more)}?")
    if sparsity is not None and method != "magnitude":
        raise InvalidArgument(
            "--sparsity is for --method magnitude: variational dropout finds its own"
        )
    try:
        levels = [*(sparsity or ()), *map(float, more)]
    except ValueError:
        raise InvalidArgument(
            f"--sparsity takes numbers such as 0.5 0.8, found {' '.join(more)}"
        ) from None
    from ..generation import sparsify as sparsification
    from ..generation.images import load_images
    from ..generation.options import LEVELS, TrainOptions, TwinOptions

    twins = TwinOptions(
        method=method,
        levels=levels or LEVELS,
        epochs=epochs,
        seed=parse_seed(seed),
    )
    options = TrainOptions(engine=engine, threads=threads, device=device)
    name, hidden = normalize_name(zoo), quiet or as_json
    if data_dir is None and out is not None and any(has_zoo(out, part) for part in parts_of(name)):
        data_dir = out
    home = zoos_home(data_dir)
    if name in ZOOS:  # before an absent zoo is refused, with how to get it
        sparsification.check_zoo(ZOOS[name])
    dense = open_parts(name, home)
    for parents in dense:
        sparsification.check_sparsify(parents, models, twins, options)
    summaries = []
    loaded: dict[tuple[str, int], ImageData] = {}  # the parts of a union share their images
    for parents in dense:
        name = sparsification.twin_zoo(parents.zoo, method).name
        seen = sparsification.image_name(parents), parents.zoo.channels
        with display.resumable():
            if seen not in loaded:
                loaded[seen] = load_images(
                    seen[0],
                    images_dir,
                    channels=seen[1],
                    download=download,
                    allow_unverified=allow_unverified,
                    progress=not hidden,
                )
            with display.training_progress(name, hidden) as show:
                summary = sparsification.sparsify(
                    parents,
                    home if out is None else out,
                    loaded[seen],
                    models=models,
                    twins=twins,
                    options=options,
                    on_progress=show,
                )
        summaries.append(dataclasses.asdict(summary))
        if not hidden:
            _print_summary(summary)
    if as_json and display.first_rank():  # a list for a union
        print(display.json_text(summaries if len(summaries) > 1 else summaries[0]))


def _print_summary(summary: Summary) -> None:
    """Print the result of a training, on one rank."""
    if not display.first_rank():
        return
    if not summary.models and not summary.left_out:
        present = "the model is" if summary.present == 1 else f"all {summary.present} models are"
        print(f"{present} already in {summary.path}")
        return
    values: dict[str, object] = {
        "already there": summary.present,
        "states written": f"{summary.states:,}",
        "diverged (kept)": summary.diverged,
        "mean test accuracy at the last epoch": (
            "-" if summary.test_acc is None else f"{summary.test_acc:.3f}"
        ),
    }
    if summary.sparsity is not None:
        values["mean sparsity at the last epoch"] = f"{summary.sparsity:.3f}"
    if summary.published is not None:
        values["published, then deleted here"] = f"{summary.published}, {summary.freed}"
    if summary.left_out:
        what = "parents left out" if summary.published is None else "not published"
        values[what] = len(summary.left_out)
    values |= {
        "engine": summary.engine + (f", {summary.ranks} ranks" * (summary.ranks > 1)),
        "seconds": f"{summary.seconds:.1f}",
        "model-samples a second": f"{summary.samples_per_second:,.0f}",
    }
    trained = counted(summary.models, "model")
    display.print_values(f"{trained} trained into {summary.path}", values)
    left_out = [f"{name}: {reason}" for name, reason in summary.left_out.items()]
    display.print_some(left_out, "--json names them all")


def _print_plan(plan: Plan, as_json: bool, unread: str) -> None:
    """Print the share of each rank, then time and disk space, on one rank.

    Args:
        plan: the plan.
        as_json: whether to print it as JSON.
        unread: why the zoo's own images could not be read; "" if they were, or are not needed.
    """
    if not display.first_rank():
        return
    if as_json:
        print(display.json_text(plan.to_json()))
        return
    columns = ("rank", "models", "to train", "seeds", "states", "written", "time")
    rows = [
        (
            str(share.rank),
            f"{len(share.model_ids):,}",
            f"{share.missing:,}",
            _few(list(dict.fromkeys(share.seeds))),
            f"{share.states:,}",
            byte_size(share.bytes),
            "?" if share.seconds is None else display.duration(share.seconds),
        )
        for share in plan.shares
    ]
    display.print_table(columns, rows, left=("seeds",))
    shown = display.console()
    shown.print(plan.space())
    if plan.bytes_needed > plan.bytes_free:
        shown.print("there is not enough space on this disk to begin", style="red")
    kept = counted(len(plan.kept_epochs), "kept state")
    shown.print(f"{counted(plan.epochs, 'epoch')} and {kept} a model")
    if not plan.missing:
        return
    if plan.seconds is None:
        reason = f" ({unread})" if unread else ""
        shown.print(
            f"time: unknown{reason}; --seconds-per-epoch states how long an epoch of a model takes"
        )
    else:
        total = sum(share.seconds or 0 for share in plan.shares)
        shown.print(
            f"time: {display.duration(plan.seconds)}, of all ranks {display.duration(total)}, at "
            f"{plan.seconds_per_epoch:.3g} seconds for an epoch of a model "
            f"({plan.source_of_seconds})"
        )


def _few(numbers: Sequence[int]) -> str:
    """Return numbers as text; if there are many, the first three and the last."""
    shown = list(map(str, numbers))
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])
