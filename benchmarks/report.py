"""One zoo on one page: `model-zoos report NAME`.

The HTML page is self-contained: figures are SVG in the page, styles are inline, nothing is fetched.
Its template is report.html.j2. The figures are also written as PNG, `<zoo>-<figure>.png`; the card
of a repository shows those in its folder figures/.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2

from ..builders.homes import open_parts, zoos_home
from ..builders.names import normalize_name
from ..builders.schema import HYPERPARAMETERS
from ..builders.sources.report import REPORT
from ..builders.splits import SPLITS
from ..builders.untrusted import read_json
from ..builders.zoo_directory import ZooDirectory
from .diversity import Diversity, diversity
from .plots import Plot, draw_all
from .property_prediction import predict_properties
from .property_result import Result
from .states import StateTable, read_states, weights_size
from .tables import Table
from .versions import versions

SHOWN_VALUES = 8
"""Values of a hyperparameter that are listed; of more, their number and the ends are."""

_NONE = ("scheduler", "momentum")
"""Hyperparameters that a model may do without; the others it has, known or not."""


@dataclass(frozen=True)
class ZooReport:
    """The content of a zoo's page.

    Attributes:
        zoo: name.
        about: fact -> value, in words.
        models, states: numbers of models and states, by split.
        diverged: number of states whose loss is NaN or infinite.
        left_out: reason -> number of states or files that are not in the zoo.
        plots: figures.
        diversity: how different the models are.
        prediction: the benchmark; None if it could not be made.
        not_obtained: part -> why it could not be obtained.
        made: date, command and versions of this page.
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
    made: Mapping[str, str]

    def tables(self) -> list[Table]:
        """Return the facts about the zoo, and the numbers of models and states."""
        left_out = [f"{count:,} {why}" for why, count in self.left_out.items()]
        notes = [f"Left out of the zoo: {'; '.join(left_out) or 'no state, no file'}."]
        if self.diverged:
            notes.insert(
                0,
                f"{self.diverged:,} of these states have diverged (a loss is NaN or infinite); "
                "they are in the zoo, but not in the figures.",
            )
        counts = {"models": self.models, "states": self.states}
        rows = tuple(
            (what, *(f"{n[split]:,}" for split in SPLITS), f"{sum(n.values()):,}")
            for what, n in counts.items()
        )
        return [
            Table("", ("", ""), tuple(self.about.items())),
            Table("Models and states by split", ("number of", *SPLITS, "all"), rows, tuple(notes)),
        ]


def make_report(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> ZooReport:
    """Draw, measure and count everything on the page.

    Args:
        name: a zoo, union or twin zoo.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        images_dir, download: see `images.load_images`. Parts that need images are not obtained
            without them.
        on_progress: called with the name of the next step.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: `metrics`, which has no weights.
    """
    name = normalize_name(name)
    say = on_progress or (lambda what: None)
    say("metrics")
    size = weights_size(name, data_dir)
    directories = open_parts(name, zoos_home(data_dir))
    states = read_states(name, data_dir)
    plots = draw_all(name, data_dir, states=states, on_progress=say)
    say("diversity")
    measured = diversity(
        name,
        data_dir,
        states=states,
        images_dir=images_dir,
        download=download,
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
        about=_about(states, size, directories),
        models={s: len(set(states.model[rows])) for s, rows in of_split.items()},
        states={s: int(rows.sum()) for s, rows in of_split.items()},
        diverged=int(states.diverged.sum()),
        left_out=_left_out(directories),
        plots=plots,
        diversity=measured,
        prediction=prediction,
        not_obtained=not_obtained,
        made=_made(name, {"data-dir": data_dir, "images-dir": images_dir}, download),
    )


def write_figures(zoo: str, plots: Iterable[Plot], folder: str | os.PathLike[str]) -> list[Path]:
    """Write figures as `<zoo>-<figure>.png` into a folder, which is created if it is missing."""
    folder = Path(folder).expanduser()
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
    page = Path(folder).expanduser() / f"{report.zoo}.html"
    page.write_text(render(report), encoding="utf-8")
    return [page, *figures]


def render(report: ZooReport) -> str:
    """Return the page as HTML; the same report gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(report=report) + "\n"


def _made(name: str, options: Mapping[str, object], download: bool) -> dict[str, str]:
    command = ["model-zoos", "report", name]
    for option, value in options.items():
        command += [f"--{option}", str(value)] if value is not None else []
    found = versions()
    found = {"Python": found.pop("python"), **found}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": shlex.join(command + ["--download"] * download),
        "versions": ", ".join(f"{what} {value}" for what, value in found.items()),
    }


def _about(states: StateTable, size: int, directories: Sequence[ZooDirectory]) -> dict[str, str]:
    zoo, info = directories[0].zoo, directories[0].info
    source = info.get("source")
    file = source.get("file") if isinstance(source, dict) else None
    made_with = info.get("versions") or {}
    return {
        "zoos": ", ".join(directory.zoo.name for directory in directories),
        "images": zoo.image_dataset,
        "architecture": f"{zoo.layout.architecture.title}, {size:,} weights",
        "variant": ", ".join(dict.fromkeys(directory.zoo.variant for directory in directories)),
        "epochs": f"{states.epochs[0]} to {states.epochs[-1]}",
        **_training(states),
        "made by": str(file or f"engine {info.get('engine', 'unknown')}"),
        "made with": ", ".join(f"{key} {value}" for key, value in made_with.items()) or "unknown",
    }


def _training(states: StateTable) -> dict[str, str]:
    """Return how the models were trained, as their rows say it."""
    values = {name: list(dict.fromkeys(states[name].tolist())) for name in HYPERPARAMETERS}
    seeds = len(set(values.pop("seed")) - {None})
    del values["epochs"]  # those of the states are said
    if values["momentum"] == [None]:  # no optimizer has one
        del values["momentum"]
    varied = {name: found for name, found in values.items() if len(found) > 1}
    same = {name: found for name, found in values.items() if len(found) == 1}
    return {
        "varied": _listed(varied) or "nothing but the seed",
        "same for all models": _listed(same) or "nothing",
        "seeds": f"{seeds:,}" if seeds else "unknown",
    }


def _listed(values: Mapping[str, Sequence[object]]) -> str:
    """Return hyperparameters with their values; of many only the ends."""
    parts = []
    for name, found in values.items():
        known: list[Any] = [value for value in found if value is not None]
        words = [f"{v:g}" if isinstance(v, float) else str(v) for v in sorted(known)]
        if len(words) > SHOWN_VALUES:
            words = [f"{len(words):,} values from {words[0]} to {words[-1]}"]
        if None in found:
            words.append("none" if name in _NONE else "unknown")
        parts.append(f"{name.replace('_', ' ')} {' or '.join(words)}")
    return "; ".join(parts)


def _left_out(directories: Sequence[ZooDirectory]) -> dict[str, int]:
    """Count the states left out at import, and the files that cannot be read."""
    counts: Counter[str] = Counter()
    for directory in directories:
        try:
            found = read_json(directory.path / REPORT)["categories"]
            counts.update({f"states: {why}": int(n) for why, n in found.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            if os.path.lexists(directory.path / REPORT):  # only imported zoos have one
                counts[f"{REPORT} that cannot be read"] += 1
        counts["files that cannot be read"] += len(directory.scan()[1])
    return {why: count for why, count in counts.items() if count}
