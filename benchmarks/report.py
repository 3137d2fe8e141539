"""One zoo on one page: `model-zoos report NAME`.

A self-contained HTML page: figures are embedded, styles are inline, nothing is fetched. Beside it
lie the figures as PNG, `<zoo>-<figure>.png`, which a repository's card shows from its folder
figures/.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import model_zoos

from ..builders.sources.report import REPORT
from ..builders.specification import normalize_name
from ..builders.splits import SPLITS
from ..builders.zoo_directory import open_zoo
from .diversity import Distribution, Diversity, EpochDiversity, diversity
from .plots import Plot, draw_all
from .property_prediction import Result, predict_properties
from .states import StateTable, read_states, weights_size


@dataclass(frozen=True)
class ZooReport:
    """What there is to say about a zoo.

    Attributes:
        zoo: name.
        about: fact -> value, in words.
        models, states: by split.
        diverged: states in the zoo whose loss is NaN or infinite.
        left_out: states and files that are not in the zoo, by reason.
        plots: figures.
        diversity: of the models.
        prediction: the benchmark; None if it could not be made.
        not_obtained: part -> why.
    """

    zoo: str
    about: Mapping[str, str]
    models: Mapping[str, int]
    states: Mapping[str, int]
    diverged: int
    left_out: Mapping[str, int]
    plots: Sequence[Plot]
    diversity: Diversity
    prediction: Result | None
    not_obtained: Mapping[str, str]


def make_report(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> ZooReport:
    """Draw, measure and count everything that is on the page.

    Args:
        name: a zoo, union or twin zoo.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        images_dir, download: as load_images; without images, what needs them is not obtained.
        seed: of every choice of models and images.
        on_progress: called with what is done next.

    Raises:
        ZooNotFound, FaultyZoo: there is nothing to read.
        ValueError: `metrics`, which has no weights.
    """
    name = normalize_name(name)
    say = on_progress or (lambda what: None)
    say("metrics")
    size = weights_size(name, data_dir)
    states = read_states(name, data_dir)
    plots = draw_all(name, data_dir, states=states, seed=seed, on_progress=say)
    say("diversity")
    measured = diversity(
        name,
        data_dir,
        states=states,
        images_dir=images_dir,
        download=download,
        seed=seed,
        on_progress=lambda done, total: say(f"diversity, epoch {done} of {total}"),
    )
    not_obtained = dict(measured.not_obtained)
    say("property prediction")
    prediction = None
    try:
        prediction = predict_properties(
            name, data_dir, on_progress=lambda step, done, total: say(f"prediction: {step}")
        )
    except ValueError as error:  # too few models, or splits that leak
        not_obtained["property prediction"] = str(error)
    of_split = {split: states["split"] == split for split in SPLITS}
    return ZooReport(
        zoo=name,
        about=_about(states, size, data_dir),
        models={s: len(set(states.model[rows])) for s, rows in of_split.items()},
        states={s: int(rows.sum()) for s, rows in of_split.items()},
        diverged=int(states.diverged.sum()),
        left_out=_left_out(states, data_dir),
        plots=plots,
        diversity=measured,
        prediction=prediction,
        not_obtained=not_obtained,
    )


def write_figures(zoo: str, plots: Iterable[Plot], folder: str | os.PathLike[str]) -> list[Path]:
    """Write figures as `<zoo>-<figure>.png` into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in plots:
        paths.append(folder / f"{zoo}-{plot.name}.png")
        paths[-1].write_bytes(plot.png)
    return paths


def write_report(report: ZooReport, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the page, `<zoo>.html`, and its figures into a folder.

    Returns:
        The files, the page first.
    """
    figures = write_figures(report.zoo, report.plots, folder)
    page = Path(folder) / f"{report.zoo}.html"
    page.write_text(render(report), encoding="utf-8")
    return [page, *figures]


def _about(
    states: StateTable, size: int, data_dir: str | os.PathLike[str] | None
) -> dict[str, str]:
    directories = [
        open_zoo(model_zoos.zoos_home(data_dir), zoo) for zoo in dict.fromkeys(states["zoo"])
    ]
    zoo, info = directories[0].zoo, directories[0].info
    source = info.get("source")
    file = source.get("file") if isinstance(source, dict) else None
    return {
        "zoos": ", ".join(directory.zoo.name for directory in directories),
        "images": zoo.image_dataset,
        "architecture": f"{zoo.layout.architecture.title}, {size:,} weights",
        "variant": ", ".join(dict.fromkeys(directory.zoo.variant for directory in directories)),
        "epochs": f"{states.epochs[0]} to {states.epochs[-1]}",
        "made by": str(file or f"engine {info.get('engine', 'unknown')}"),
    }


def _left_out(states: StateTable, data_dir: str | os.PathLike[str] | None) -> dict[str, int]:
    """States left out at import and files that cannot be read."""
    counts: Counter[str] = Counter()
    for zoo in dict.fromkeys(states["zoo"]):
        directory = open_zoo(model_zoos.zoos_home(data_dir), zoo)
        try:
            found = json.loads((directory.path / REPORT).read_text())
            counts.update({f"states: {why}": n for why, n in found["categories"].items()})
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            counts[f"{REPORT} that cannot be read"] += 1
        counts["files that cannot be read"] += len(directory.scan()[1])
    return {why: count for why, count in counts.items() if count}


# --- The page -------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1000px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em; margin-bottom: 0 } h2 { font-size: 1.25em; margin-top: 2em }
p.lead { color: #444; margin-top: .3em }
figure { margin: 1.5em 0 } figure img { max-width: 100%; height: auto }
figcaption { color: #444; font-size: .92em }
div.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9em; margin: 1em 0 }
caption { text-align: left; color: #444; padding-bottom: .3em }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums }
th { border-bottom: 1px solid #666 } th.text, td.text { text-align: left }
""".strip()


def render(report: ZooReport) -> str:
    """The page as HTML; the same report gives the same text."""
    prediction = report.prediction
    parts = [
        f"<h1>{escape(report.zoo)}</h1>",
        f'<p class="lead">{sum(report.models.values()):,} models, '
        f"{sum(report.states.values()):,} states: a population of neural networks.</p>",
        _table("", ["", ""], [[fact, value] for fact, value in report.about.items()], text=2),
        _table(
            "What is in it",
            ["", *SPLITS, "all"],
            [
                [title, *(f"{counts[s]:,}" for s in SPLITS), f"{sum(counts.values()):,}"]
                for title, counts in (("models", report.models), ("states", report.states))
            ],
        ),
        _left_out_line(report),
        "<h2>Figures</h2>",
        *(_figure(plot) for plot in report.plots),
        "<h2>Diversity</h2>",
        _diversity(report.diversity),
        "<h2>What weights tell</h2>",
        _prediction(prediction) if prediction else "<p>Not obtained.</p>",
    ]
    if report.not_obtained:
        items = "".join(
            f"<li><b>{escape(part)}</b>: {escape(why)}</li>"
            for part, why in report.not_obtained.items()
        )
        parts += ["<h2>Not obtained</h2>", f"<ul>{items}</ul>"]
    parts.append(
        f'<p class="lead">Made by model_zoos {escape(model_zoos.__version__)}: <code>model-zoos '
        f"report {escape(report.zoo)}</code>. Choices of models and images: seed "
        f"{report.diversity.seed}.</p>"
    )
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # No page may fetch anything, whatever its text holds.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(report.zoo)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1
) -> str:
    """A table whose first `text` columns are words, the others numbers."""
    words = ' class="text"'

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{words * (number < text)}>{escape(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )

    head = f"<tr>{line('th', titles)}</tr>\n" if any(titles) else ""
    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    about = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    return f'<div class="wide"><table>\n{about}{head}{body}\n</table></div>'


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    return (
        f'<figure><img alt="{escape(plot.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _left_out_line(report: ZooReport) -> str:
    parts = [f"{count:,} {why}" for why, count in report.left_out.items()]
    diverged = (
        f"{report.diverged:,} of these states have diverged (a loss is NaN or infinite); "
        "they are in the zoo, but not in the figures. "
        if report.diverged
        else ""
    )
    return f"<p>{diverged}Left out of the zoo: {escape('; '.join(parts) or 'nothing')}.</p>"


def _diversity(measured: Diversity) -> str:
    last = measured.epochs[-1]
    compared = [epoch for epoch in measured.epochs if epoch.compared]
    accuracy = _table(
        "Shares of 1 over models that have not diverged; ± standard deviation, [quartiles]. Gap: "
        "train less test accuracy.",
        ["epoch", "models", "diverged", "mean test accuracy", "median", "mean gap", "median"],
        [
            [
                str(epoch.epoch),
                f"{epoch.models:,}",
                f"{epoch.diverged:,}",
                *_both(epoch.accuracy),
                *_both(epoch.gap),
            ]
            for epoch in (compared or [last])
        ],
    )
    pairs = max((e.l2.count for e in compared if e.l2), default=0)
    models = max((e.compared for e in compared), default=0)
    run = max((e.run for e in compared), default=0)
    weights = _table(
        f"Over up to {pairs:,} pairs of {models:,} models: median "
        "[quartiles] of the weights' l2 distance and cosine; over pairs of "
        f"{run:,} models on {measured.images:,} test images: "
        "share of equal answers. Models that never leave chance agree by giving one answer.",
        ["epoch", "l2 distance", "cosine", "same answer"],
        [
            [str(e.epoch), _quartiles(e.l2, 1), _quartiles(e.cosine), _quartiles(e.agreement)]
            for e in compared
        ],
    )
    return accuracy + weights + _cka(compared)


def _cka(compared: Sequence[EpochDiversity]) -> str:
    layers = list(dict.fromkeys(layer for epoch in compared for layer in epoch.cka or ()))
    if not layers:
        return ""
    return _table(
        "Linear CKA of activations over the same pairs: median [quartiles]; 1 is equal up to "
        "rotation and scale. Models with constant activations have none.",
        ["epoch", *layers],
        [
            [str(e.epoch), *(_quartiles((e.cka or {}).get(layer)) for layer in layers)]
            for e in compared
        ],
    )


def _prediction(result: Result) -> str:
    parts = []
    if result.scores:
        parts.append(
            _table(
                "Numbers: R² and Kendall's tau; bootstrap intervals over the test models.",
                [
                    "target",
                    "from",
                    "by",
                    *(f"R² {s}" for s in SPLITS),
                    "[95 %]",
                    "tau test",
                    "[95 %]",
                ],
                [
                    [
                        *(score.target, score.representation),
                        score.method
                        if score.strength is None
                        else f"{score.method} {score.strength:g}",
                        *(f"{score.r2[s]:.3f}" for s in SPLITS),
                        _interval(score.r2_interval),
                        f"{score.tau['test']:.3f}",
                        _interval(score.tau_interval),
                    ]
                    for score in result.scores
                ],
                text=3,
            )
        )
    if result.class_scores:
        parts.append(
            _table(
                "Classes: accuracy, beside that of always answering the most frequent class.",
                ["target", "from", "by", "classes", *SPLITS, "[95 %]", "most frequent, test"],
                [
                    [
                        *(score.target, score.representation, score.method, str(score.classes)),
                        *(f"{score.accuracy[s]:.3f}" for s in SPLITS),
                        _interval(score.accuracy_interval),
                        f"{score.majority['test']:.3f}",
                    ]
                    for score in result.class_scores
                ],
                text=3,
            )
        )
    notes = [
        "Used: " + ", ".join(f"{s} {result.models[s]:,} models, {result.states[s]:,} states"
                             for s in SPLITS),
        "left out: "
        + (", ".join(f"{n:,} states ({why})" for why, n in result.left_out.items() if n) or "none"),
        "not scored: "
        + (", ".join(f"{target} ({why})" for target, why in result.not_scored.items()) or "none"),
    ]  # fmt: skip
    if result.models["test"] < 30:
        notes.append(
            f"{result.models['test']} test models are too few to compare with published numbers"
        )
    return "\n".join([*parts, f"<p>{escape('; '.join(notes))}.</p>"])


def _both(values: Distribution | None) -> list[str]:
    if values is None:
        return ["-", "-"]
    return [f"{_number(values.mean)} ± {_number(values.std)}", _quartiles(values)]


def _quartiles(values: Distribution | None, digits: int = 3) -> str:
    if values is None:
        return "-"
    low, median, high = (_number(quartile, digits) for quartile in values.quartiles)
    return f"{median} [{low}, {high}]"


def _number(value: float, digits: int = 3) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: never -0.000


def _interval(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return "-" if low != low else f"[{low:.3f}, {high:.3f}]"
