"""Commands that study a zoo: benchmark, verify, evaluate, plot and report."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..builders.catalog import parts_of, zoo_spec
from ..builders.homes import open_parts, zoo_to_train, zoos_home
from ..builders.names import dense_name, normalize_name
from ..builders.phrases import typed
from ..builders.ranks import Rank, find_rank, rank_cores
from ..builders.specification import Zoo
from ..errors import InvalidArgument, ZooNotFound
from . import display
from .options import (
    AsJson,
    DataDir,
    DownloadImages,
    ImagesDir,
    JoinedRanks,
    Quiet,
    RankIndex,
    ThreadCount,
    ZooName,
    flag,
    parse_epochs,
)


def benchmark(
    name: Annotated[Optional[str], typer.Argument(help="A zoo, union or twin zoo.")] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            help="JSON file to write; <name>-benchmark.json (or -suite.json) unless with --json."
        ),
    ] = None,
    representation: Annotated[
        Optional[list[str]],
        typer.Option(
            help="weights, statistics, or module:function for your own, from a float32 matrix and "
            "a layout to a matrix. Can be repeated; both by default."
        ),
    ] = None,
    target: Annotated[
        Optional[list[str]],
        typer.Option(
            help="What to predict: a column, where needed as NAME=number or NAME=class, or "
            "module:function for your own. Can be repeated; those of the paper by default."
        ),
    ] = None,
    epochs: Annotated[
        Optional[str], typer.Option(help="Use only these, as 10,25,50, or `last`.")
    ] = None,
    max_weight: Annotated[
        float, typer.Option(help="Leave out states with a larger weight; inf keeps all.")
    ] = 5.0,
    offset: Annotated[
        str,
        typer.Option(help="Intercept of the ridge: free, or regularised as in the paper's code."),
    ] = "free",
    split_by: Annotated[
        Optional[str],
        typer.Option(help="Put models with the same value, such as of seed, into one split."),
    ] = None,
    boosting: Annotated[
        bool, flag("--boosting", help="Gradient-boosted trees too (needs LightGBM).")
    ] = False,
    suite: Annotated[
        bool,
        flag(
            "--suite",
            help="The whole suite: predictions, transfer to other zoos, new weights, fine-tuning.",
        ),
    ] = False,
    against: Annotated[
        Optional[list[str]],
        typer.Option(help="Another zoo of this layout, for the suite. Can be repeated."),
    ] = None,
    part: Annotated[
        Optional[list[str]],
        typer.Option(help="Only this part of the suite. Can be repeated."),
    ] = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    compare: Annotated[
        Optional[tuple[Path, Path]],
        typer.Option(help="Compare two JSON files of the suite, and measure nothing."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict accuracy, epoch, gap and hyperparameters from weights and from their statistics.

    With --suite, measure the whole benchmark suite; with --compare, compare two of its results.
    """
    from ..benchmarks.property_prediction import LAST, predict_properties
    from ..benchmarks.representations import REPRESENTATIONS
    from ..benchmarks.targets import TARGETS

    of_suite: dict[str, object] = {"--against": against, "--part": part, "--images-dir": images_dir}
    of_suite["--download"] = download
    of_prediction: dict[str, object] = {"--representation": representation, "--target": target}
    of_prediction |= {"--epochs": epochs, "--max-weight": max_weight != 5}
    of_prediction["--offset"] = offset != "free"
    of_prediction |= {"--split-by": split_by, "--boosting": boosting}
    if compare is not None:
        given = {"a zoo": name, "--suite": suite, "--out": out, **of_suite, **of_prediction}
        _refuse(given, "--compare takes two files, and not")
        _compare(*compare, quiet, as_json)
        return
    if name is None:
        raise InvalidArgument("name a zoo", hint="model-zoos list shows which there are")
    name = normalize_name(name)
    if suite:
        _refuse(of_prediction, "--suite is a fixed protocol, without")
        _suite(
            name,
            data_dir,
            out,
            against=against,
            parts=part,
            images_dir=images_dir,
            download=download,
            quiet=quiet,
            as_json=as_json,
        )
        return
    _refuse(of_suite, "only --suite takes")
    chosen = epochs if epochs == LAST else parse_epochs("--epochs", epochs)
    path = out or (None if as_json else Path(f"{name}-benchmark.json"))
    _prepare(path)  # before the work, so that an error comes early
    if any(":" in entry for entry in (*(representation or ()), *(target or ()))):
        sys.path.insert(0, os.getcwd())  # may hold a user's own module
    display.hide_dataset_bars(True)
    with display.progress_bars(quiet or as_json) as bars:
        bars(name, text="reading")

        def show(step: str, done: int, total: int) -> None:
            bars(name, done, total, step)

        result = predict_properties(
            name,
            data_dir,
            representations=representation or tuple(REPRESENTATIONS),
            targets=target or tuple(TARGETS),
            epochs=chosen,
            max_weight=max_weight,
            offset=offset,
            split_by=split_by,
            boosting=boosting,
            on_progress=show,
        )
    _write_result(result, path, quiet, as_json)


def _prepare(path: Path | None) -> None:
    """Make the folder of a JSON file to be written, and check that the file can be written.

    No file is left behind, and an existing one is not changed.

    Raises:
        InvalidArgument: it is a folder, or cannot be written.
    """
    if path is None:
        return
    target = path.resolve()  # for a link, the file that it leads to
    try:
        if target.is_dir():
            raise InvalidArgument(f"{path} is a folder: --out is the JSON file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            target.open("ab").close()
        elif not target.exists():  # an existing one is a pipe or a device
            target.open("xb").close()
            target.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> InvalidArgument:
    """Return the error that says which file cannot be written and why."""
    why = error.strerror or str(error)
    if error.filename and Path(error.filename) not in (path, path.resolve()):
        why = f"{error.filename}: {why}"  # a folder on the way to it
    return InvalidArgument(f"{path} cannot be written: {why}", hint="--out names another file")


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse options that do not apply.

    Raises:
        InvalidArgument: one of them is given.
    """
    if found := [option for option, value in given.items() if value]:
        raise InvalidArgument(f"{why} {', '.join(found)}")


def _suite(
    name: str,
    data_dir: Path | None,
    out: Path | None,
    *,
    against: list[str] | None,
    parts: list[str] | None,
    images_dir: Path | None,
    download: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure a zoo by the suite, and write and show the result."""
    from ..benchmarks.suite import PARTS, run_suite

    path = out or (None if as_json else Path(f"{name}-suite.json"))
    _prepare(path)  # before the work, so that an error comes early
    display.hide_dataset_bars(True)
    with display.progress_bars(quiet or as_json) as bars:
        bars(name, text="reading")
        result = run_suite(
            name,
            data_dir,
            parts=parts or tuple(PARTS),
            against=against or (),
            images_dir=images_dir,
            download=download,
            on_progress=lambda step, done, total: bars(name, done, total, step),
        )
    _write_result(result, path, quiet, as_json)


def _compare(first: Path, second: Path, quiet: bool, as_json: bool) -> None:
    """Show two results of the suite side by side."""
    from ..benchmarks.suite import compare, read_result

    found = compare(read_result(first), read_result(second), (str(first), str(second)))
    if as_json:
        pairs = [
            {**dataclasses.asdict(pair), "difference": pair.difference, "overlap": pair.overlap}
            for pair in found.pairs
        ]
        print(display.json_text({**dataclasses.asdict(found), "pairs": pairs}))
    elif not quiet:
        display.print_tables(found.tables())


def _write_result(result: Any, path: Path | None, quiet: bool, as_json: bool) -> None:  # noqa: ANN401
    """Show a result as JSON or as its tables, then write it as JSON.

    Raises:
        InvalidArgument: it cannot be written; its JSON is then printed in any case.
    """
    text = display.json_text(dataclasses.asdict(result))
    if as_json:
        print(text)
    elif not quiet:
        display.print_tables(result.tables())
    if path is None:
        return
    try:
        path.write_text(text + "\n")
    except OSError as error:
        if not as_json:
            print(text)
        raise _not_written(path, error) from error
    if not (quiet or as_json):
        display.console().print(f"written to {path}", style="dim", markup=False)


def verify(
    name: ZooName,
    states: Annotated[
        int, typer.Option(help="How many states to evaluate, over all models and epochs; 0: none.")
    ] = 512,
    every: Annotated[bool, flag("--all", help="Evaluate every state.")] = False,
    data_dir: DataDir = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    threads: ThreadCount = None,
    rank: RankIndex = None,
    ranks: JoinedRanks = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder of what ranks find; <name>-verify by default.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check a zoo's rows by evaluating states again.

    The exit status is 1 if something is wrong, and 2 if something could not be compared.

    A rank checks some models, writes what it finds into a folder, and ends with 0.
    When all have ended, --ranks without --rank joins what they found: the result of one process.
    """
    from ..benchmarks.audit import audit_share, audit_zoo, join_shares
    from ..benchmarks.shares import read_shares, share_path, write_share

    name = normalize_name(name)
    if ranks == 1 and rank is None:  # a single rank has nothing to join
        rank = 0
    joined = ranks if rank is None else None
    share = find_rank(rank, ranks) if joined is None else Rank(0, joined)
    if out is not None and share.count == 1 and joined is None:
        raise InvalidArgument(
            "--out is where ranks write what they find, and this is one process: the folder of "
            f"zoo directories is --data-dir {typed(out)}"
        )
    folder, audits, written = out or Path(f"{name}-verify"), [], []
    display.hide_dataset_bars(True)
    with display.progress_bars(quiet or as_json) as bars:
        for part in (zoo.zoo.name for zoo in open_parts(name, zoos_home(data_dir))):
            bars(part, text="reading")
            options: dict[str, Any] = {
                "states": None if every else states,
                "images_dir": images_dir,
                "download": download,
                "threads": threads or rank_cores(),
                "on_progress": partial(display.counting(bars, "states"), part),
            }
            if joined is not None:
                audits.append(join_shares(part, read_shares(folder, part, joined), data_dir))
            elif share.count == 1:
                audits.append(audit_zoo(part, data_dir, **options))
            else:
                share_path(folder, part, share).unlink(missing_ok=True)  # of an earlier run
                found = audit_share(part, share, data_dir, **options)
                written.append(str(write_share(folder, found)))
    if written:
        if as_json:
            print(display.json_text({"rank": share.index, "ranks": share.count, "files": written}))
        elif not quiet:
            print(*(f"written to {path}" for path in written), sep="\n")
            print(f"when all ranks have ended: model-zoos verify {name} --ranks {share.count}")
        return
    if as_json:
        print(
            display.json_text(
                [
                    {**dataclasses.asdict(audit), "good": audit.good, "verdict": audit.verdict}
                    for audit in audits
                ]
            )
        )
    elif not quiet:
        for audit in audits:
            display.print_tables(audit.tables())
    else:
        for audit in audits:
            if audit.verdict != "good":
                print(f"{audit.zoo}: {audit.verdict}", file=sys.stderr)
    verdicts = {audit.verdict for audit in audits}
    if verdicts != {"good"}:
        raise typer.Exit(1 if "wrong" in verdicts else 2)


def evaluate(
    file: Annotated[
        Path, typer.Argument(help=".npy, .safetensors or .parquet with rows of weights.")
    ],
    like: Annotated[str, typer.Option(help="Zoo with such networks, by name or as a JSON file.")],
    images: Annotated[
        Optional[str], typer.Option(help="Image data set; that of the zoo if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    activation: Annotated[
        Optional[str],
        typer.Option(
            help="Of the networks; needed if the zoo has several and the file has no column "
            "activation."
        ),
    ] = None,
    data_dir: DataDir = None,
    images_dir: ImagesDir = None,
    download: DownloadImages = False,
    threads: ThreadCount = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure loss and accuracy of weight vectors, such as generated or merged ones."""
    import numpy as np

    from ..generation.images import load_images
    from ..weight_space.evaluation import evaluate as score
    from ..weight_space.vector_files import read_activations, read_vectors

    zoo, done = _zoo_like(like, data_dir), 0
    blocks = read_vectors(file)
    first = next(blocks, None)  # so that a faulty file is reported before the images are read
    if first is None or not len(first):
        raise InvalidArgument(f"{file}: it has no rows, expected one for each network")
    own = read_activations(file, zoo, activation)
    data = load_images(
        images or zoo.images,
        images_dir,
        channels=zoo.channels,
        download=download,
        progress=not (quiet or as_json),
    )
    parts = []
    with display.progress_bars(quiet or as_json) as bars:
        for block in itertools.chain([first], blocks):

            def show(number: int, _: int, before: int = done) -> None:
                bars(file.name, before + number, None, f"{before + number:,} networks")

            chosen = activation if own is None else own[done : done + len(block)]
            run = partial(score, activation=chosen, threads=threads, on_progress=show)
            parts.append(run(block, zoo, data, split))
            done += len(block)
    loss, accuracy = (np.concatenate(values) for values in zip(*parts, strict=True))
    if as_json:
        result = {"file": str(file), "like": zoo.name, "images": data.name, "split": split}
        scores = {"loss": loss.tolist(), "accuracy": accuracy.tolist()}
        print(display.json_text({**result, **scores}))
    elif not quiet:
        finite = loss[np.isfinite(loss)]
        values = {
            "networks": f"{len(loss):,}",
            "accuracy, mean": f"{accuracy.mean():.4f}",
            "accuracy, median": f"{np.median(accuracy):.4f}",
            "best": f"{accuracy.max():.4f} (row {accuracy.argmax()})",
            "worst": f"{accuracy.min():.4f} (row {accuracy.argmin()})",
            "loss, median": f"{np.median(finite):.4f}" if len(finite) else "none is finite",
            "loss not finite": f"{len(loss) - len(finite):,}",
        }
        display.print_values(f"{file.name} on {data.name}, {split}", values)


def _zoo_like(name: str, data_dir: Path | None) -> Zoo:
    """Return a zoo of a folder, of the catalog, or of a JSON file; for a union its first part."""
    if name.endswith(".json"):
        return zoo_to_train(name, zoos_home(data_dir))
    try:
        return open_parts(normalize_name(name), zoos_home(data_dir))[0].zoo
    except ZooNotFound:
        return zoo_spec(parts_of(dense_name(normalize_name(name)))[0])


def plot(
    name: Annotated[str, typer.Argument(help="A zoo, union or twin zoo, or `metrics`.")],
    data_dir: DataDir = None,
    out: Annotated[
        Optional[Path], typer.Option(help="PNG to write; <name>-accuracy.png by default.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw test accuracy by epoch over all models."""
    from ..benchmarks.plots import plot_accuracy_by_epoch

    name = normalize_name(name)
    display.hide_dataset_bars(quiet)
    if out is not None:
        if out.suffix != ".png":
            raise InvalidArgument(
                f"--out is the PNG to write: --out {typed(out.with_suffix('.png'))}"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
    path = plot_accuracy_by_epoch(name, out or Path(f"{name}-accuracy.png"), data_dir)
    if not quiet:
        print(f"written to {path}")


def report(
    name: ZooName,
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
    from ..benchmarks import plots
    from ..benchmarks import report as pages

    if out is not None and figures is not None:
        raise InvalidArgument("give --out for the page with its figures or --figures, not both")
    if out is not None and out.suffix == ".html":
        raise InvalidArgument(
            f"--out is the folder for a page and its figures: --out {typed(out.with_suffix(''))}"
        )
    name = normalize_name(name)
    display.hide_dataset_bars(True)
    result: dict[str, object]
    not_obtained: dict[str, str] = {}
    with display.progress_bars(quiet or as_json) as bars:
        bars(name, text="reading")

        def show(step: str) -> None:
            bars(name, text=step)

        if figures is not None:
            drawn = plots.draw_all(name, data_dir, on_progress=show)
            paths = pages.write_figures(name, drawn, figures)
            result = {"zoo": name}
        else:
            made = pages.make_report(
                name, data_dir, images_dir=images_dir, download=download, on_progress=show
            )
            paths = pages.write_report(made, out or Path(f"{name}-report"))
            drawn, not_obtained = list(made.plots), dict(made.not_obtained)
            # Without the figures' bytes, which are in the files.
            result = dataclasses.asdict(dataclasses.replace(made, plots=()))
            del result["plots"]
    if as_json:
        result["captions"] = {plot.name: plot.caption for plot in drawn}
        result["files"] = [str(path) for path in paths]
        print(display.json_text(result))
    elif not quiet:
        for path in paths:
            print(f"written to {path}")
        for part, why in not_obtained.items():
            print(f"not obtained: {part}: {why}")
