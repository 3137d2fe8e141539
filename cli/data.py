"""Commands about zoos as data: list, info, import, download, build and publish."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..builders.architecture import ARCHITECTURES
from ..builders.catalog import ELSEWHERE, ZOOS, list_zoos
from ..builders.homes import open_parts, zoos_home
from ..builders.names import normalize_name
from ..builders.phrases import byte_size, counted, typed
from ..builders.ranks import find_rank
from ..builders.specification import Zoo
from ..builders.splits import why_empty
from ..builders.zoo_directory import list_zoo_directories, open_zoo, refuse_zoo_as_root
from ..errors import FaultyZoo, InvalidArgument, UnknownZoo, ZooNotFound
from . import display
from .options import (
    AsJson,
    DataDir,
    MaxWeight,
    OutDir,
    Quiet,
    RankCount,
    RankIndex,
    Workers,
    ZooName,
    flag,
    parse_pairs,
)

if TYPE_CHECKING:
    from ..builders.overview import Overview
    from ..builders.sources.report import Report

LONGEST_TITLE = 16
"""Characters of a network in the list of zoos."""

BUILT_FOLDER = Path("repository")
"""Default folder of `build` and `publish`."""


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names.")] = "*",
    image_dataset: Annotated[Optional[str], typer.Option(help="mnist, cifar10, ...")] = None,
    architecture: Annotated[Optional[str], typer.Option(help=", ".join(ARCHITECTURES))] = None,
    variant: Annotated[Optional[str], typer.Option(help="seed, hyp_10_r, hyp_10_f")] = None,
    local: Annotated[
        bool, flag("--local", help="List the zoos of the folder instead, with their contents.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the zoos of the catalog, or those of a folder."""
    wanted = {"image_dataset": image_dataset, "architecture": architecture, "variant": variant}
    if local or data_dir is not None:
        _list_local(pattern, wanted, zoos_home(data_dir), as_json)
        return
    try:
        zoos = list_zoos(pattern, **wanted)
    except UnknownZoo:
        others = fnmatch.filter(ELSEWHERE, normalize_name(pattern))
        if not others or as_json:
            raise
        for zoo in map(ELSEWHERE.__getitem__, others):
            print(f"{zoo.name}: {zoo.title}, {zoo.states:,} states, for import: {zoo.url}")
        return
    if as_json:
        entries = [
            {**zoo.to_json(), "models": zoo.model_count, "states": zoo.state_count} for zoo in zoos
        ]
        print(display.json_text(entries))
        return
    texts = ("zoo", "images", "architecture", "variant")
    rows = [
        (
            *(zoo.name, zoo.image_dataset, _title(zoo), zoo.variant),
            *(f"{n:,}" for n in (zoo.model_count, zoo.state_count, zoo.layout.size)),
        )
        for zoo in zoos
    ]
    columns = (*texts, "models", "states", "weights")
    display.print_table(columns, rows, left=texts, secondary=("variant", "images"))


def _title(zoo: Zoo) -> str:
    """Return the title of a network; if it is a long text, its beginning."""
    title = zoo.layout.architecture.title
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 3]}..."


def _list_local(pattern: str, wanted: Mapping[str, str | None], root: Path, as_json: bool) -> None:
    """Print the contents of each zoo in a folder.

    Args:
        pattern: pattern of the names.
        wanted: attribute of a zoo -> the value that it must have; None for any.
        root: folder of zoo directories.
        as_json: whether to print them as JSON.
    """
    from ..builders.overview import overview

    given = {key: normalize_name(value) for key, value in wanted.items() if value is not None}
    found, unusable = [], {}
    for name in fnmatch.filter(list_zoo_directories(root), normalize_name(pattern)):
        try:
            zoo = open_zoo(root, name).zoo
            if all(normalize_name(getattr(zoo, key)) == value for key, value in given.items()):
                found += overview(name, root)
        except (ZooNotFound, FaultyZoo) as error:  # one that has no model yet, for example
            unusable[name] = str(error)
    if not found and not unusable:
        here = ", ".join(list_zoo_directories(root))
        if here:
            values = ", ".join(f"{key} {value!r}" for key, value in given.items())
            what = f"{pattern!r}" + f" with {values}" * bool(given)
            raise ZooNotFound(f"no zoo in {root} matches {what}; there are {here}")
        refuse_zoo_as_root(root)
        raise ZooNotFound(
            f"there is no zoo in {root}" + ", a folder that does not exist" * (not root.exists()),
            hint="model-zoos generate digits_cnn_s makes a small one",
        )
    if as_json:
        faulty = [{"zoo": name, "error": reason} for name, reason in unusable.items()]
        print(display.json_text([*map(dataclasses.asdict, found), *faulty]))
        return
    columns = ("zoo", "models", "states", "last epoch", "median test accuracy", "files")
    rows = [
        (
            *(part.zoo, f"{part.models:,}", f"{part.states:,}"),
            str(part.epochs[1]) if part.epochs else "-",
            f"{part.accuracies[2]:.3f}" if part.accuracies else "-",
            byte_size(part.size or 0),
        )
        for part in found
    ]
    if rows:
        display.print_table(columns, rows, left=("zoo",), title=str(root))
    for name, reason in unusable.items():
        print(f"{name}: {reason}")


def info(
    name: ZooName,
    data_dir: DataDir = None,
    repo: Annotated[
        Optional[str], typer.Option(help="Read this repository: ORG/NAME, or a built folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the contents of a zoo, what it lacks, and what can be done next."""
    from ..builders.overview import overview

    name = normalize_name(name)
    display.hide_dataset_bars(True)
    unusable: dict[str, ZooNotFound | FaultyZoo] = {}
    if repo is not None:
        found = overview(name, repo=repo)
    else:
        found, root = [], zoos_home(data_dir)
        for directory in open_parts(name, root):
            try:
                found += overview(directory.zoo.name, root)
            except (ZooNotFound, FaultyZoo) as error:  # one that has no model yet, for example
                unusable[directory.zoo.name] = error
        if not found:
            raise next(iter(unusable.values()))
    if as_json:
        faulty = [{"zoo": zoo, "error": str(reason)} for zoo, reason in unusable.items()]
        print(display.json_text([*map(dataclasses.asdict, found), *faulty]))
        return
    where = _option("--data-dir", data_dir)
    any_empty = False
    for part in found:
        display.print_values(f"{part.zoo}: {part.where}", part.facts())
        if why := why_empty(part.splits):
            print(why)
            any_empty = True
        display.print_some(part.left_out, "--json lists them all")
    for zoo, reason in unusable.items():
        print(f"{zoo}: {reason}")
    useful = ["verify", *(["benchmark"] if not any_empty else []), "report"]
    commands = [f"model-zoos {command} {name}{where}" for command in useful]
    for part in reversed(found if repo is None else []):
        if part.specified and (part.incomplete or part.models < part.specified):
            commands.insert(0, _resume(part, data_dir))
    if repo is None:
        display.print_next(*commands)


def _option(name: str, value: Path | None) -> str:
    """Return an option as typed in a shell, after a space; "" if it is not given."""
    return "" if value is None else f" {name} {typed(value)}"


def _resume(part: Overview, data_dir: Path | None) -> str:
    """Return the command that trains a zoo's missing models, and a remark on their number.

    If only the first models were asked for and some of them are missing, it trains those.
    """
    from ..builders.overview import twin_levels

    directory = open_zoo(zoos_home(data_dir), part.zoo)
    parent, epochs = directory.parent_zoo, directory.zoo.epochs
    if parent is not None:
        where = _option("--data-dir", data_dir)
        levels = "".join(f" {level}" for level in twin_levels(directory))
        method = f" --method magnitude --sparsity{levels}" if levels else ""
        missing = (part.specified or 0) - part.models or part.incomplete
        command = f"model-zoos sparsify {parent}{where} --epochs {epochs}{method}"
        return f"{command}  # trains {missing:,} more"
    where = _option("--out", data_dir)
    usual = ZOOS[part.zoo].epochs if part.zoo in ZOOS else None
    planned, limit, wanted = directory.splits(), "", part.specified or part.models
    if part.models < len(planned) <= directory.zoo.model_count:
        first = directory.zoo.models(len(planned))
        if planned.keys() == {model.model_id for model in first}:
            limit, wanted = f" --models {len(planned)}", len(planned)
    missing = wanted - part.models
    return (
        f"model-zoos generate {part.zoo}{where}"
        + f" --epochs {epochs}" * (usual != epochs)
        + limit
        + f"  # trains {missing or part.incomplete:,} more"
    )


def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="An original zip, a folder of trials, a dataset_*.pt, a Small CNN Zoo, or a "
            "folder of checkpoints."
        ),
    ],
    zoo: Annotated[
        Optional[str], typer.Option(help="The zoo's name; recognised if not given.")
    ] = None,
    table: Annotated[
        Optional[Path],
        typer.Option(help="Table of the checkpoints in the folder: .csv, .jsonl or .parquet."),
    ] = None,
    architecture: Annotated[
        Optional[str], typer.Option(help="Their network: '1x28x28 fc64 fc10', cnn_s, ...")
    ] = None,
    images: Annotated[
        Optional[str], typer.Option(help="The images they were trained on: digits, mnist, ...")
    ] = None,
    rename: Annotated[
        Optional[list[str]],
        typer.Option(metavar="THEIRS=OURS", help="A column of the table by our name; repeatable."),
    ] = None,
    splits: Annotated[
        Optional[Path],
        typer.Option(help="The models' splits: a CSV of model_id and split, or an index list."),
    ] = None,
    constant: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME=VALUE", help="A hyperparameter of all models; repeatable."),
    ] = None,
    licence: Annotated[Optional[str], typer.Option(help="Licence of the checkpoints.")] = None,
    cite: Annotated[Optional[str], typer.Option(help="What users of them should cite.")] = None,
    out: OutDir = None,
    max_weight: MaxWeight = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Import original files as a zoo. Run the same command again to resume."""
    from ..builders.sources.importing import import_zoo
    from ..builders.sources.report import REPORT

    root = zoos_home(out)
    with display.progress_bars(quiet or as_json) as bars, display.resumable():
        show = display.counting(bars, "models")
        reports = import_zoo(
            source,
            root,
            zoo,
            table=table,
            architecture=architecture,
            images=images,
            rename=parse_pairs("--rename", rename),
            constants=parse_pairs("--constant", constant),
            licence=licence,
            cite=cite,
            splits=splits,
            max_weight=max_weight,
            workers=workers,
            on_progress=show,
        )
    if as_json:
        print(display.json_text([report.to_json() for report in reports]))
    elif not quiet:
        for report in reports:
            values = {"states found": f"{report.found:,}", "states kept": f"{report.kept:,}"}
            for category, count in report.categories().items():
                values[f"left out: {category}"] = f"{count:,}"
            folder = root / report.zoo
            display.print_values(
                f"{report.zoo}: {counted(report.models, 'model')} into {folder}", values
            )
            display.print_some(_left_out(report), str(folder / REPORT))
            display.print_some(report.remarks, str(folder / REPORT))
        where = _option("--data-dir", out)
        if useful := [f"model-zoos info {r.zoo}{where}" for r in reports if r.models]:
            display.print_next(*useful)
    if not any(report.models for report in reports):
        reasons = [left_out.reason for report in reports for left_out in report.left_out]
        raise InvalidArgument(
            f"no state of {source} could be imported" + f"; the first: {reasons[0]}" * bool(reasons)
        )


def _left_out(report: Report) -> list[str]:
    """Return one line for each group of states that trials lost in sequence for the same reason."""
    trials: dict[str, list[str]] = {}
    for (trial, reason), states in itertools.groupby(
        report.left_out, lambda state: (state.trial, state.reason)
    ):
        epochs = [state.epoch for state in states]
        if len(epochs) == 1:
            which = f"epoch {epochs[0]}" if epochs[0] >= 0 else "no epoch"
        elif epochs[0] < 0:
            which = f"{len(epochs)} states without an epoch"
        else:
            which = f"{len(epochs)} epochs, {epochs[0]} to {epochs[-1]}"
        trials.setdefault(f"{which}: {reason}", []).append(trial)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' * (len(names) > 1)}, {lost}"
        for lost, names in trials.items()
    ]


def download(
    zoo: Annotated[str, typer.Argument(help="A zoo of the paper; NAME_sparse for its twins.")],
    file: Annotated[
        Optional[str],
        typer.Option(help="The file's name in the record, if several files fit."),
    ] = None,
    preprocessed: Annotated[
        bool, flag("--preprocessed", help="The preprocessed data set, not the raw zip.")
    ] = False,
    out: OutDir = None,
    max_weight: MaxWeight = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download a zoo's original files and import them. Run the same command again to resume."""
    from ..builders.sources import zenodo

    with display.progress_bars(quiet or as_json) as bars, display.resumable():
        path = zenodo.download(
            zoo,
            zoos_home(out) / "downloads",
            file=file,
            preprocessed=preprocessed,
            on_progress=display.gigabytes(bars, zoo),
            on_wait=lambda seconds: bars(zoo, text=f"trying again in {seconds:.0f} s"),
        )
    import_command(
        path,
        zoo,
        out=out,
        max_weight=max_weight,
        workers=workers,
        quiet=quiet,
        as_json=as_json,
    )


def build(
    names: Annotated[list[str], typer.Argument(help="Zoos, twin zoos or unions.")],
    out: Annotated[
        Path, typer.Option(help="Folder to write, for `model-zoos publish`.")
    ] = BUILT_FOLDER,
    data_dir: DataDir = None,
    licence: Annotated[
        Optional[str],
        typer.Option(
            help="Licence, by the Hub's id, such as mit; by default that of the folder's card, "
            "else cc-by-4.0."
        ),
    ] = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Number of threads; one for each core if not given.")
    ] = None,
    rank: RankIndex = None,
    ranks: RankCount = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write zoos as Parquet files with a card. Run the same command again to resume.

    Ranks on one file system share the files, and the last to finish writes the card.
    Start a rank again if it was killed.
    """
    from ..builders.hub.build import build_folder

    root, share = zoos_home(data_dir), find_rank(rank, ranks)
    for name in names:  # refuses an unknown one with suggestions
        open_parts(normalize_name(name), root)
    with display.progress_bars(quiet or as_json) as bars, display.resumable():
        show = display.counting(bars, "states")
        summaries = build_folder(
            names, root, out, licence=licence, workers=workers, rank=share, on_progress=show
        )
    if as_json:
        print(display.json_text([dataclasses.asdict(summary) for summary in summaries]))
    elif not quiet:
        for summary in summaries:
            display.print_values(
                f"{summary.zoo}: {counted(summary.models, 'model')} into "
                f"{out / 'data' / summary.zoo}",
                {
                    "states": f"{summary.states:,}",
                    "shards": f"{summary.shards} ({summary.written} new)",
                    "weights": byte_size(summary.weights_bytes),
                    "files": byte_size(summary.file_bytes),
                    "model files left out": len(summary.left_out),
                    "seconds": f"{summary.seconds:.1f}",
                    **(
                        {"files that other ranks still write": summary.missing}
                        if share.count > 1
                        else {}
                    ),
                },
            )
            display.print_some(summary.left_out, "--json lists them all")
        if not any(summary.missing for summary in summaries):  # else there is no card yet
            folder = _option("--from", None if out == BUILT_FOLDER else out)
            display.print_next(f"model-zoos publish ORG/NAME{folder}")


def publish(
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the Hub; created if missing.")],
    folder: Annotated[
        Path, typer.Option("--from", help="Folder that `model-zoos build` wrote.")
    ] = BUILT_FOLDER,
    private: Annotated[
        bool, flag("--private", help="Create a new repository as a private one.")
    ] = False,
    revision: Annotated[
        Optional[str],
        typer.Option(help="Branch, created if missing; refs/pr/N adds to a pull request."),
    ] = None,
    create_pr: Annotated[
        bool, flag("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    drop_models: Annotated[
        bool,
        flag("--drop-models", help="Delete models of the folder's zoos there that it lacks here."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Upload a built folder to a repository on the Hub. Run the same command again to resume.

    The token is HF_TOKEN, or that of `hf auth login`.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from ..builders.hub import publish as hub

    disable_progress_bars()  # one bar for each file; this command has one for all
    with display.progress_bars(quiet or as_json) as bars, display.resumable():
        summary = hub.publish(
            folder,
            repository,
            private=private,
            revision=revision,
            create_pr=create_pr,
            drop_models=drop_models,
            on_progress=display.gigabytes(bars, repository),
        )
    if as_json:
        print(display.json_text(dataclasses.asdict(summary)))
    elif not quiet:
        display.print_values(
            f"{', '.join(summary.zoos)}: published, {summary.url}",
            {
                "files new or changed": f"{summary.uploaded:,}",
                "size of these": byte_size(summary.uploaded_bytes),
                "files renamed": f"{summary.renamed:,}",
                "identical files skipped": f"{summary.unchanged:,}",
                "files of earlier builds deleted": f"{len(summary.deleted):,}",
                "configs of others kept": f"{len(summary.kept_configs):,}",
            },
        )
        if revision is None and not create_pr and summary.zoos:
            display.print_next(
                f'load_dataset("model_zoos", "{summary.zoos[0]}", repo="{repository}")'
            )
