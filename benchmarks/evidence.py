"""Zoos made here beside the published figures of the paper's zoos.

    python -m model_zoos.benchmarks.evidence summarise ZOO --out benchmarks/results/ZOO-epochs.json
    python -m model_zoos.benchmarks.evidence page

The first command reads a zoo, the second writes the part of benchmarks/README.md between its two
`evidence` marks, and its figures. It reads nothing but the JSON of a folder (by default
benchmarks/results) and the published figures of literature.py: `ZOO-epochs.json` of the first
command; `ZOO-report.json`, `ZOO-verify.json`, `ZOO-benchmark.json` and `ZOO-suite.json` of the
commands of these names; and `runs.json`, in which each run was written down.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..builders.catalog import ZOOS
from ..builders.names import dense_name
from . import literature
from .beside_published import accuracy_beside_published, twins_beside_published
from .epochs import summarise, to_text
from .literature import (
    BOX_FIGURES,
    BOX_PLOTS,
    HERE,
    IMAGES,
    PUBLISHED,
    RESULTS,
    SEED_ZOOS,
    TWINS,
    UNTERTHINER,
    Published,
    refuse_without_results,
)
from .plots import Plot
from .property_result import Result
from .suite import Part, SuiteResult
from .suite.tuning import FRESH
from .tables import Table, interval, number, rewrite_part

SOURCES = {
    "SEED_ZOOS": "table images of the post on generative hyper-representations, HSG-AIML site; "
    "that its zoos are the CNN-s seed zoos is an inference",
    "BOX_PLOTS": "box plots in the README of the paper's code, read by eye (± 0.01)",
    "TWINS": "figure of MNIST twins in the README of the paper's code, read by eye (± 0.01)",
}
"""Where the tables of literature.py come from, in the order of their letters in the page."""

LETTERS = dict(zip(SOURCES, "ABC", strict=True))

READING = {"SEED_ZOOS": 0.0005, "BOX_PLOTS": 0.01, "TWINS": 0.01}
"""How far a published figure may lie from the number that was read: rounding, or the eye."""

_NO_IMAGES = "no original files of these images were at hand"
NOT_COMPARED = {
    "svhn_cnn_s_seed": _NO_IMAGES,
    "cifar10_cnn_s_seed": _NO_IMAGES,
    "stl10_cnn_s_seed": _NO_IMAGES,
    "cifar10_cnn_l_hyp_10_r": _NO_IMAGES,
}
"""Why a published figure has no result here."""

NO_FIGURE = (
    (
        "`usps_cnn_s_seed` and `usps_cnn_s_hyp_10_f`",
        "no published figure was at hand; their curves and audits are shown",
    ),
    ("all other zoos of the paper", "no published figure was at hand, nor Table 2 of the paper"),
    ("ranges of the MNIST twins", "reports keep quartiles, not the lowest and highest value"),
    ("seed zoos at epoch 0", "published as about 0.1, which is chance, without a spread"),
    (
        "property prediction",
        "published for the Small CNN Zoo, which has other networks; see Scores",
    ),
    (
        "models sampled from a density of weights",
        "`sample_kernel_density` of weight_space has the method, but the published accuracies are "
        "those of the seed zoos of MNIST, SVHN, CIFAR-10 and STL-10, none of which has been run "
        "whole",
    ),
)
"""What else was not compared, and why."""

COMMANDS = {
    "-epochs.json": (
        "{made_by}",
        "python -m model_zoos.benchmarks.evidence summarise {zoo}{made_by_option} --out FILE",
    ),
    "_sparse-report.json": (
        "model-zoos generate {parent} --models {models}{unverified}",
        "model-zoos sparsify {parent} --models {models}{unverified}",
        "model-zoos report {zoo} --json",
    ),
    "-verify.json": ("{command}",),
    "-benchmark.json": ("OMP_NUM_THREADS=1 model-zoos benchmark {zoo} --out FILE",),
    "-suite.json": ("{generate_part}", "model-zoos benchmark {zoo} --suite{against} --out FILE"),
}
"""The commands that make a result, by the end of its file's name. One that does not apply is empty
once it is filled in, and is left out."""

READ = ("*-epochs.json", "*-report.json", "*-verify.json", "*-benchmark.json", "*-suite.json")
"""Files that the page reads; it takes them from a folder that has at least one of them."""


@dataclass(frozen=True)
class Measured:
    """What a result of ours says where a figure is published.

    Attributes:
        value: the figure, as a share of 1.
        std: standard deviation over models; None if unknown.
        interval: 95 % interval from the number of models; None if unknown.
        models: number of models.
        file: name of the result.
    """

    value: float
    std: float | None
    interval: tuple[float, float] | None
    models: int
    file: str


def measured(published: Published, folder: Path) -> Measured | None:
    """Return our figure beside a published one; None if the folder has no result that holds it."""
    path = folder / f"{published.zoo}-epochs.json"
    if path.exists() and published.metric == "test_acc":
        found = _at_epoch(json.loads(path.read_text())["test_acc"], published.epoch)
        return None if found is None else _of_summary(published.figure, found, path.name)
    path = folder / f"{published.zoo}-report.json"
    if not path.exists():
        return None
    found = _at_epoch(json.loads(path.read_text())["diversity"]["epochs"], published.epoch)
    key = {"test_acc": "accuracy", "generalization_gap": "gap"}.get(published.metric, "sparsity")
    if found is None or found[key] is None:
        return None
    values = found[key]
    if published.figure == "mean":
        return _mean(values["mean"], values["std"], values["count"], path.name)
    quartiles = dict(zip(BOX_FIGURES, values["quartiles"], strict=False))  # no highest value
    value = quartiles.get(published.figure)
    return (
        None if value is None else Measured(value, values["std"], None, values["count"], path.name)
    )


def _at_epoch(epochs: list[dict[str, Any]], epoch: int) -> dict[str, Any] | None:
    return next((found for found in epochs if found["epoch"] == epoch), None)


def _of_summary(figure: str, epoch: Mapping[str, Any], file: str) -> Measured:
    if figure == "mean":
        return _mean(epoch["mean"], epoch["std"], epoch["models"], file)
    percent = dict(zip(BOX_FIGURES, ("25", "50", "75", "100"), strict=True))[figure]
    ends = epoch["intervals"].get(percent)
    value = epoch["quantiles"][percent]
    return Measured(value, epoch["std"], ends and tuple(ends), epoch["models"], file)


def _mean(mean: float, std: float, count: int, file: str) -> Measured:
    half = 1.96 * std / count**0.5
    return Measured(mean, std, (mean - half, mean + half), count, file)


def comparison(folder: Path = RESULTS) -> Table:
    """Return every published figure for which a folder has a result, with the difference."""
    rows = []
    for published in PUBLISHED:
        ours = measured(published, folder)
        if ours is None:
            continue
        spread, whose = published.spread, published.spread_is
        if spread is None:
            spread, whose = ours.std, "our standard deviation"
        theirs, own = f"{published.value:g}", number(ours.value)
        if published.figure == "mean":
            theirs += f" ± {published.spread:g}"
            own += f" ± {number(ours.std)}"
        difference = ours.value - published.value
        rows.append(
            (
                f"`{published.zoo}`",
                f"{published.figure} of {published.metric}",
                str(published.epoch),
                LETTERS[published.source],
                theirs,
                own,
                "-" if ours.interval is None else interval(ours.interval),
                f"{ours.models:,}",
                signed(difference, 3),
                f"{signed(difference / spread, 2)} of {whose}" if spread else "-",
                "yes" if agrees(published, ours) else "NO",
                f"`{ours.file}`",
            )
        )
    columns = (
        *("zoo", "figure", "epoch", "source", "theirs", "ours", "[95 %]", "our models"),
        *("difference", "in units of a spread", "agrees", "our result"),
    )
    notes = [f"Source {LETTERS[name]}: {text}." for name, text in SOURCES.items()]
    notes.append(
        "Means stand with the standard deviation over models (± in the columns theirs and ours). "
        "Brackets are 95 % intervals for our number of models, if they are drawn independently; "
        "medians of twins have none. A published figure agrees if it lies in our interval, or "
        "equals our value where there is none, up to the error of reading it: "
        f"{READING['BOX_PLOTS']:g} by eye, {READING['SEED_ZOOS']:g} by rounding. The highest "
        "accuracy depends on the number of models. The error of the published figures is not "
        "counted, since their number of models is not known. One figure in 20 lies outside a 95 % "
        "interval by chance. A second table of source A gives "
        f"± {number(literature.MNIST_SECOND_STD)} for MNIST seed at epoch 50. The readings are "
        "older than the runs; the rule was set after a first look at both."
    )
    return Table("Published figures beside ours (shares of 1)", columns, tuple(rows), tuple(notes))


def curves(compared: Table) -> Table:
    """Return those rows of `comparison` that are points of curves, a line for each epoch."""
    points: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in compared.rows:
        points.setdefault(row[2], {})[row[1]] = row
    columns = dict.fromkeys(row[1] for row in compared.rows)
    rows = []
    for epoch in sorted(points, key=int):
        cells = [epoch]
        for column in columns:
            found = points[epoch].get(column)
            if found is None:
                cells += ["-"] * 3
            else:
                units = found[9].partition(" of ")[0]
                cells += [found[4], found[5], units if found[10] == "yes" else f"{units}, NO"]
        rows.append(tuple(cells))
    names = [name.removeprefix("median of ") for name in columns]
    heads = [cell for name in names for cell in (f"{name}, theirs", "ours", "units")]
    notes = []
    if compared.rows:
        agreeing = sum(row[10] == "yes" for row in compared.rows)
        notes.append(
            f"Medians of the same {compared.rows[0][7]} twins at each epoch ({compared.rows[0][11]}"
            "), source C. Units: the difference in standard deviations of our twins; with NO "
            f"behind it, the two do not agree. {agreeing} of {len(compared.rows)} agree."
        )
    return Table("Curves of MNIST twins beside ours", ("epoch", *heads), tuple(rows), tuple(notes))


def agrees(published: Published, ours: Measured) -> bool:
    """Whether a published figure lies in our interval, up to the error of reading it.

    Where there is no interval, it must equal our value up to that error.
    """
    low, high = ours.interval or (ours.value, ours.value)
    reading = READING[published.source] + 1e-9
    return low - reading <= published.value <= high + reading


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, and without one if it rounds to 0."""
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def not_compared(folder: Path = RESULTS) -> Table:
    """Return the published figures without a result here, and the reason."""
    missing: dict[str, list[str]] = {}
    for published in PUBLISHED:
        if measured(published, folder) is None:
            what = f"{published.figure} at epoch {published.epoch}"
            missing.setdefault(published.zoo, []).append(what)
    rows = [
        (f"`{zoo}`", ", ".join(what), NOT_COMPARED.get(zoo, "no result here"))
        for zoo, what in missing.items()
    ]
    rows += [(what, "-", reason) for what, reason in NO_FIGURE]
    return Table("What was not compared", ("what", "published figures", "reason"), tuple(rows))


def populations(folder: Path = RESULTS) -> Table:
    """Return what each summary of a folder says about its zoo."""
    rows, kinds = [], set()
    for path in sorted(folder.glob("*-epochs.json")):
        found = json.loads(path.read_text())
        images = found["images"]
        by_epoch = [_at_epoch(found["test_acc"], epoch) for epoch in (0, 1, 25, 50)]
        kinds.add(images["verified"])
        rows.append(
            (
                f"`{found['zoo']}`",
                f"{found['models']:,} of {found['of']:,}",
                f"{found['grid_points']:,} of {found['grid_points_of']:,}",
                f"{found['states']:,}",
                f"{found['diverged_states']:,}",
                found["engine"],
                f"`{images['sha256']:.12}`" + ("" if images["verified"] else " (not verified)"),
                number(found["trivial_rate"]),
                f"{100 * found['never_left']:.1f} %",
                *(
                    "-" if at is None else f"{number(at['mean'])} ± {number(at['std'])}"
                    for at in by_epoch
                ),
            )
        )
    columns = (
        *("zoo", "models", "grid points", "states", "diverged", "engine", "images, SHA-256"),
        *("trivial rate", "never leave it", "epoch 0", "epoch 1", "epoch 25", "epoch 50"),
    )
    notes = [
        "Epochs: mean and standard deviation of test accuracy over models. The trivial rate is the "
        "share of the most frequent class of the test images; a model never leaves it if no epoch "
        "has a higher test accuracy. Such models are kept, as in the paper's zoos, and so are "
        "diverged states."
    ]
    if False in kinds:
        notes.append(
            "Not verified: a file of these images has another checksum than the original. For USPS "
            "this is the train file, rebuilt from the digits that it is made of; the test file is "
            "the original."
        )
    return Table(
        "Zoos made here and trained for all their epochs", columns, tuple(rows), tuple(notes)
    )


def audits(folder: Path = RESULTS) -> Table:
    """Return the counts of each audit of a folder."""
    rows = []
    for path in sorted(folder.glob("*-verify.json")):
        for audit in json.loads(path.read_text()):
            checks = {check["name"]: check for check in audit["checks"]}
            metrics = [checks[name] for name in ("accuracy", "loss") if name in checks]
            others = [check for check in audit["checks"] if check not in metrics]
            rows.append(
                (
                    f"`{audit['zoo']}`",
                    f"{audit['models']:,}",
                    f"{audit['states']:,}",
                    f"{audit['evaluated']:,}",
                    f"{sum(check['checked'] for check in metrics):,}",
                    "to the bit" if audit["to_the_bit"] else "to one image",
                    f"{sum(check['wrong'] for check in metrics):,}",
                    f"{len(others):,}",
                    f"{sum(check['wrong'] for check in others):,}",
                    f"`{path.name}`",
                )
            )
    columns = (
        *("zoo", "models", "states", "evaluated", "accuracies and losses", "compared", "wrong"),
        *("other checks, of all rows", "wrong in them", "result"),
    )
    return Table("States evaluated again: `model-zoos verify`", columns, tuple(rows))


def commands(folder: Path = RESULTS) -> str:
    """Return the commands that make each result of this page, as Markdown."""
    lines = []
    for end, texts in COMMANDS.items():
        for path in sorted(folder.glob(f"*{end}")):
            result = json.loads(path.read_text())
            first = result[0] if isinstance(result, list) else result
            zoo, models, made_by = first["zoo"], first["models"], first.get("made_by")
            if isinstance(models, dict):
                models = sum(models.values())
            unverified = " --allow-unverified" * zoo.startswith("usps_")
            part = f"model-zoos generate {zoo} --models {models}{unverified}"
            facts = {
                "zoo": zoo,
                "parent": dense_name(zoo),
                "models": models,
                "made_by": made_by or "",
                "made_by_option": f" --made-by {shlex.quote(made_by)}" if made_by else "",
                "generate_part": part * (zoo in ZOOS and models < ZOOS[zoo].model_count),
                "unverified": unverified,
                "against": "".join(f" --against {name}" for name in _others(result)),
                "command": f"model-zoos verify {zoo}"
                + " --all" * (first.get("evaluated") == first.get("states"))
                + " --json",
            }
            lines.append(f"    # {path.name}")
            lines += [f"    {line}" for text in texts if (line := text.format(**facts))]
    lines += [
        "    # this part and its figures",
        "    python -m model_zoos.benchmarks.evidence page",
    ]
    note = (
        "Where a result is of fewer models than another one of the same zoo, make them in another "
        "folder of zoos (`--data-dir`): the split of a model depends on the other models."
    )
    return "\n".join(["### Commands that make each result", "", note, "", *lines])


def _others(result: object) -> list[str]:
    """Return the zoos that a result of the suite was compared with."""
    parts = result.get("parts", ()) if isinstance(result, dict) else ()
    found = (part["settings"].get("against", ()) for part in parts)
    return [name for names in found for name in names]


def page(folder: Path = RESULTS) -> str:
    """Return the whole part of benchmarks/README.md as Markdown."""
    compared = comparison(folder)
    parts = [_verdict(compared)]
    points = [row for row in compared.rows if row[3] == LETTERS["TWINS"]]
    others = [row for row in compared.rows if row not in points]
    beside = [
        replace(compared, rows=tuple(others)),
        curves(replace(compared, rows=tuple(points))),
        populations(folder),
    ]
    parts += [f"### {table.markdown()}" for table in beside if table.rows or table is beside[0]]
    for plot in draw(folder):
        parts += [f"![{plot.title}](results/figures/{plot.name}.png)", plot.caption]
    tables = [table(folder) for table in (not_compared, audits, predictions)]
    tables += [*suites(folder), runs(folder)]
    parts += [f"### {table.markdown()}" for table in tables if table.rows]
    return "\n\n".join([*parts, commands(folder)])


def _verdict(compared: Table) -> str:
    """Say how many published figures were compared, and how many of them agree."""
    count, agreeing = len(compared.rows), sum(row[10] == "yes" for row in compared.rows)
    others = "; ".join(
        f"{row[1]} of {row[0]} at epoch {row[2]}" for row in compared.rows if row[10] != "yes"
    )
    models = {row[0]: row[7] for row in compared.rows}
    text = (
        f"Of {len(PUBLISHED)} published figures that were at hand, {count} have been "
        f"compared, of {len(models)} zoos; {agreeing} of these agree"
        + f", and these do not: {others}" * bool(others)
        + f". The other {len(PUBLISHED) - count} are listed with the reason."
    )
    if count:
        of_zoo = Counter(row[0] for row in compared.rows)
        counts = ", ".join(f"{of_zoo[zoo]} of {zoo} ({models[zoo]})" for zoo in models)
        text += (
            f" They are not {count} independent pieces of evidence, since figures of one "
            f"zoo are of the same models, whose number stands in parentheses: {counts}. No other "
            "zoo of the paper has been compared."
        )
    return text


def draw(folder: Path = RESULTS) -> list[Plot]:
    """Draw the zoos and the twins of a folder beside published figures."""
    summaries = [json.loads(path.read_text()) for path in sorted(folder.glob("*-epochs.json"))]
    twins = [
        json.loads(path.read_text()) for path in sorted(folder.glob("*_seed_sparse-report.json"))
    ]
    plots = []
    if summaries:
        plots.append(accuracy_beside_published(summaries, BOX_PLOTS, SEED_ZOOS))
    if twins:
        plots.append(twins_beside_published(twins, TWINS))
    return plots


def predictions(folder: Path = RESULTS) -> Table:
    """Return how well test accuracy is predicted from weights, zoo by zoo, beside two papers."""
    rows = []
    for path in sorted(folder.glob("*-benchmark.json")):
        result = Result.from_json(json.loads(path.read_text()))
        models, states = (sum(n.values()) for n in (result.models, result.states))
        for score in result.scores:
            if score.target == "test_acc":
                rows.append(
                    (
                        *(f"`{result.zoo}`", f"{models:,}", f"{states:,}"),
                        *(score.representation, score.method),
                        *(number(score.r2["test"]), interval(score.r2_interval)),
                        *(number(score.tau["test"]), interval(score.tau_interval)),
                        *_published_r2(result.zoo, score.representation, score.method),
                    )
                )
    columns = (
        *("zoo", "models", "states", "from", "by", "R2", "[95 %]", "tau", "[95 %]"),
        *("R2, 2020", "R2, 2021"),
    )
    notes = (
        "Of the test split; intervals are over its models. 2020: Unterthiner et al., linear model "
        "or trees; 2021: Schuerholt et al., linear probe. Both are for the Small CNN Zoo of the "
        "same images: another architecture (4,970 weights), 15,000 training models in 2020, and "
        "hyperparameters drawn at random for each model. The zoos here have fewer models, on a "
        "grid of some values or on one point of it, and all epochs. Their scores say how hard a "
        "zoo is; they do not repeat those experiments.",
    )
    return Table("Test accuracy from weights, on zoos made here", columns, tuple(rows), notes)


def _published_r2(zoo: str, representation: str, method: str) -> tuple[str, str]:
    """Return R2 of test accuracy in UNTERTHINER and SCHUERHOLT on the images of a zoo, or "-"."""
    images = literature.images_of(zoo)
    method = {"ridge": "linear", "boosting": "trees"}.get(method, method)
    if images is None or (method, representation) not in UNTERTHINER:
        return "-", "-"
    first = UNTERTHINER[method, representation][IMAGES.index(images)]
    return number(first), literature.schuerholt(images, "test_acc", representation, method)


def suites(folder: Path = RESULTS) -> list[Table]:
    """Return the tables of each result of the suite."""
    results = (
        SuiteResult.from_json(json.loads(path.read_text()))
        for path in sorted(folder.glob("*-suite.json"))
    )
    shown = []
    for result in results:
        more = [(), *map(_about_reference, result.parts)]
        for table, notes in zip(result.tables(), more, strict=True):
            title = f"Suite of `{result.zoo}`: {table.title.removeprefix(f'{result.zoo}: ')}"
            shown.append(replace(table, title=title, notes=(*table.notes, *notes)))
    return shown


def _about_reference(part: Part) -> tuple[str, ...]:
    """Say that fresh models save epochs too, if a result was measured before they were counted."""
    saved = {measure.of for measure in part.measures if measure.name == "epochs saved"}
    if not saved or (FRESH,) in saved:
        return ()
    return (
        f"What the row {FRESH} saves is what epochs saved are to be compared with: by chance some "
        "fresh models reach their mean early. This result was measured before it was counted.",
    )


def runs(folder: Path = RESULTS) -> Table:
    """Return how long each run took, and on what."""
    path = folder / "runs.json"
    found = json.loads(path.read_text())["runs"] if path.exists() else []
    rows = tuple(
        (
            f"`{run['zoo']}`",
            run["what"],
            f"`{run['command']}`",
            f"{run['hours']:.2f}",
            "-" if run["samples_per_second"] is None else f"{run['samples_per_second']:,}",
            run["machine"],
            run["load"],
        )
        for run in found
    )
    columns = ("zoo", "what", "command", "hours", "model-samples a second", "machine", "other work")
    return Table("How long the runs took", columns, rows)


app = typer.Typer(help=(__doc__ or "").split("\n\n")[0], no_args_is_help=True)


@app.command("summarise")
def _summarise(
    zoo: Annotated[str, typer.Argument(help="A zoo directory.")],
    data_dir: Annotated[Optional[Path], typer.Option(help="Folder of zoo directories.")] = None,
    images_dir: Annotated[Optional[Path], typer.Option(help="Folder of image files.")] = None,
    made_by: Annotated[Optional[str], typer.Option(help="The command that made the zoo.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Write test accuracy over the models of a zoo, by epoch, as JSON."""
    text = to_text(summarise(zoo, data_dir, images_dir=images_dir, command=made_by))
    if out is None:
        print(text, end="")
    else:
        out.write_text(text)


@app.command("page")
def _page(
    folder: Annotated[
        Path, typer.Option(help="Folder of results.", exists=True, file_okay=False)
    ] = RESULTS,
) -> None:
    """Write the part of benchmarks/README.md, and its figures, from the results of a folder."""
    refuse_without_results(folder, READ)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    rewrite_part(HERE / "README.md", "evidence", page(folder))
    for plot in draw(folder):
        (figures / f"{plot.name}.png").write_bytes(plot.png)


if __name__ == "__main__":
    app()
