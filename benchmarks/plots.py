"""Figures of a zoo, as PNG and as SVG.

Colours are those of Okabe and Ito and of viridis, which colour-blind readers can distinguish.
Lines that differ in colour also differ in style. Diverged states (NaN or infinite losses or
weights) are left out and counted in the caption. The number of marks in a figure is limited
independently of the size of the zoo.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..builders.layout import Layout, find_layout
from ..builders.names import dense_name
from ..builders.phrases import counted
from ..builders.schema import HYPERPARAMETERS
from ..errors import ZooNotFound
from .literature import TWINS, TWINS_ZOO
from .rows import MAX_WEIGHT, WHY_LEFT_OUT
from .states import StateTable, choose, read_states, read_weights, weights_size

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#666666"
STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))
MAP = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, 256)))
"""Viridis without its lightest yellow, which is hard to see on white."""

WIDTH, HEIGHT, DPI = 9.0, 4.2, 110
"""Size of a figure in inches, and dots per inch. All figures have this width."""

TRAJECTORIES = 24
"""Number of models whose trajectories are drawn."""

TRAJECTORY_EPOCHS = 13
"""Number of epochs of a trajectory that are drawn."""

HISTOGRAM_MODELS = 200
"""Number of models whose weights are in a histogram."""

POINTS = 1000
"""Limit of the points in a figure."""

MOST_INITS = 4
"""Number of initialisations whose weights are drawn, most frequent first; a row of panels each."""

_SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # of the same widths
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "model_zoos",
    "text.parse_math": False,
}
styled = matplotlib.rc_context(_SETTINGS)


HOW_TO_READ = (
    "Within a shape, it is widest where most models lie; widths of different shapes cannot be "
    "compared. Lines are medians, and points, where they are drawn, are models."
)


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes:
        name: what it shows, as a part of file names: "accuracy-by-epoch".
        title: what it shows, in words.
        caption: how to read it, and what was left out.
        figure: the drawing.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """The bytes of the PNG."""
        return _save(self.figure, "png", ["Software"])

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return self.png

    @cached_property
    def svg(self) -> str:
        """The `svg` element for an HTML page; it scales with the page and contains no address."""
        text = _save(self.figure, "svg", ["Creator", "Date", "Format", "Type"]).decode()
        start = text.index("<svg")
        head, body = text[start:].split(">", 1)
        head = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", head)
        # Group names would be repeated in a page. Two decimals suffice for a coordinate.
        body = re.sub(r'<g id="[^"]*"', "<g", body)
        return head + ">" + re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", body)


def plot_accuracy_by_epoch(
    name: str, path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Write the figure of `accuracy_by_epoch` as a PNG.

    Args:
        name: any config of the data set.
        path: the PNG to write.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
    """
    path = Path(path).expanduser()
    path.write_bytes(accuracy_by_epoch(read_states(name, data_dir)).png)
    return path


def draw_all(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    states: StateTable | None = None,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> list[Plot]:
    """Draw every figure for which the zoo has data.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        states: all states of the zoo, if they have been read already.
        seed: seed of the choice of models and states, if not all are drawn.
        on_progress: called with the name of the next figures.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: `metrics`, which has no weights.
    """
    say = on_progress or (lambda what: None)
    states = states or read_states(name, data_dir)
    size = weights_size(name, data_dir)
    layout = find_layout(states["architecture"][0], size)
    say("accuracies")
    plots: list[Plot | None] = [accuracy_by_epoch(states)]
    if states.twins:
        plots.append(sparsity_by_epoch(states, _parents(states, data_dir)))
    plots += [accuracy_by_hyperparameter(states), train_and_test_accuracy(states, seed)]
    say("weight histograms")
    three = states.epochs[[0, len(states.epochs) // 2, -1]]
    models, _ = choose(states, size, HISTOGRAM_MODELS, 3, seed)
    rows, weights = read_weights(states, models, np.unique(three), data_dir)
    plots.append(weight_histograms(states, rows, weights, layout))
    say("trajectories")
    models, epochs = choose(states, size, TRAJECTORIES, TRAJECTORY_EPOCHS, seed)
    rows, weights = read_weights(states, models, epochs, data_dir)
    plots.append(trajectories(states, rows, weights))
    return [plot for plot in plots if plot is not None]


def _parents(
    states: StateTable, data_dir: str | os.PathLike[str] | None
) -> Mapping[tuple[str, str], float] | None:
    """Return zoo and id of the dense models -> final test accuracy; None if they are not here."""
    dense = dense_name(states.name)
    if dense == states.name:
        return None
    try:
        parents = read_states(dense, data_dir)
    except (ZooNotFound, ValueError):
        return None
    return {
        (parents["zoo"][row], parents["model_id"][row]): parents["test_acc"][row]
        for row in parents.final
    }


# --- Figures --------------------------------------------------------------------------------------


@styled
def accuracy_by_epoch(states: StateTable) -> Plot:
    """Draw the distribution of test accuracy over all models at each epoch."""
    good = ~states.diverged & np.isfinite(states["test_acc"])
    figure = new_figure()
    axes = figure.subplots()
    _violins_by_epoch(axes, states["epoch"][good], states["test_acc"][good])
    axes.set(xlabel="epoch", ylabel="test accuracy (share of 1)", ylim=(0, 1))
    if good.any():
        figure.legend(loc="outside lower center", ncols=3)
    return _plot(
        states,
        figure,
        f"test accuracy of {counted(states.models, 'model')} by epoch",
        "accuracy-by-epoch",
        f"{HOW_TO_READ} Two bulges are two kinds of models, such as those that learn and those "
        "that stay at chance." + _left_out(states, ~good),
    )


@styled
def accuracy_by_hyperparameter(states: StateTable) -> Plot | None:
    """Draw final accuracy by each hyperparameter that varies; None if none varies."""
    rows = states.final[np.isfinite(states["test_acc"][states.final])]
    values = {name: set(states[name][rows]) - {None} for name in HYPERPARAMETERS if name != "seed"}
    varying = {name: sorted(found) for name, found in values.items() if len(found) > 1}
    if not varying:
        return None
    figure, panels = panel_grid(len(varying), 2.6, "test accuracy (share of 1)")
    points = len(rows) * len(varying) <= POINTS
    for panel, name in zip(panels, varying, strict=True):
        groups = [states["test_acc"][rows[states[name][rows] == value]] for value in varying[name]]
        _violins(panel, range(len(groups)), groups, 0.8, points)
        labels = [_value(value) for value in varying[name]]
        counts = [f"{label}\nn={len(group):,}" for label, group in zip(labels, groups, strict=True)]
        crowded = max(map(len, labels)) * len(labels) > 36
        panel.set_xticks(range(len(groups)), counts, fontsize=8, rotation=25 if crowded else 0)
        panel.set(title=name.replace("_", " "), ylim=(0, 1), xlim=(-0.6, len(groups) - 0.4))
    absent = states.models - len(rows)
    return _plot(
        states,
        figure,
        f"final test accuracy of {counted(len(rows), 'model')} by hyperparameter",
        "accuracy-by-hyperparameter",
        f"Test accuracy at epoch {states.epochs[-1]} by each hyperparameter that varies; n is the "
        f"number of models. {HOW_TO_READ}"
        + (
            f" Left out: {counted(absent, 'model')}, diverged or without that state." * bool(absent)
        ),
    )


@styled
def train_and_test_accuracy(states: StateTable, seed: int = 0) -> Plot | None:
    """Draw train against test accuracy of states, coloured by epoch; None if either is absent."""
    good = ~states.diverged & np.isfinite(states["test_acc"]) & np.isfinite(states["train_acc"])
    rows = np.flatnonzero(good)
    if not len(rows):
        return None
    shown = np.random.default_rng(seed).permutation(rows)[:POINTS]
    figure = new_figure(4.6)
    left, right = figure.subplots(1, 2)
    both = np.concatenate([states["train_acc"][shown], states["test_acc"][shown]])
    limits = (max(0.0, both.min() - 0.03), min(1.0, both.max() + 0.03))
    left.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", label="equal")
    points = left.scatter(
        states["train_acc"][shown], states["test_acc"][shown],
        c=states["epoch"][shown], cmap=MAP, s=10, alpha=0.7, linewidths=0,
    )  # fmt: skip
    left.set(xlabel="train accuracy (share of 1)", ylabel="test accuracy (share of 1)")
    left.set(xlim=limits, ylim=limits, aspect="equal")
    left.legend(loc="upper left")
    # Above the panel: beside it, the label would seem to belong to the right panel.
    bar = figure.colorbar(points, ax=left, label="epoch", location="top", aspect=40, shrink=0.85)
    bar.locator = MaxNLocator(nbins=8, integer=True)
    bar.update_ticks()
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    gap = states["train_acc"] - states["test_acc"]
    right.axhline(0, color=GREY, linewidth=1, linestyle="--")
    _violins_by_epoch(right, states["epoch"][rows], gap[rows])
    right.set(xlabel="epoch", ylabel="train less test accuracy (share of 1)")
    some = "" if len(shown) == len(rows) else f" of {len(rows):,}, drawn at random"
    return _plot(
        states,
        figure,
        "train and test accuracy",
        "train-and-test-accuracy",
        f"Left: {len(shown):,} states{some}. Right: the generalization gap of all models. "
        f"{HOW_TO_READ} Train accuracy from epoch 1 on is a running mean over the "
        "epoch in training mode: with dropout, and early on, it lies below the model's own."
        + _left_out(states, ~good),
    )


@styled
def weight_histograms(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32], layout: Layout
) -> Plot | None:
    """Draw the distribution of weights by layer at the first, middle and last epoch.

    states: all states of the zoo.
    rows: indices in `states` of the weights.
        weights: float32 [rows, N].
        layout: layout of the weights.
    """
    rows, weights, left_out = _without_large(states, rows, weights)
    if not len(rows):
        return None
    slots = [
        slots["weight"] for slots in layout.layers.values() if len(slots["weight"].shape) > 1
    ]  # biases and batch norms are left out
    if len(slots) > 6:
        places = np.linspace(0, len(slots) - 1, 6).round().astype(int)
        slots = [slots[place] for place in places]
    inits = [_value(init) for init in states["init"][rows]]
    shown = [init for init, _ in Counter(inits).most_common(MOST_INITS)]
    epochs = np.unique(states["epoch"][rows])
    figure = new_figure(0.8 + 1.7 * len(shown))
    panels = figure.subplots(len(shown), len(slots), squeeze=False)
    for (down, across), panel in np.ndenumerate(panels):
        values = {}
        for epoch in epochs:
            chosen = (states["epoch"][rows] == epoch) & (np.array(inits) == shown[down])
            of_epoch = weights[chosen, slots[across].slice].reshape(-1)
            values[epoch] = of_epoch[of_epoch != 0] if states.twins else of_epoch
        _histograms(panel, values, states.twins)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=3))
        if not down:
            panel.set_title(slots[across].name)
        if down == len(shown) - 1:
            panel.set_xlabel("weight")
        if not across:
            panel.set_ylabel(f"{shown[down]}\n{'density (log)' if states.twins else 'density'}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    count = len(np.unique(states.model[rows]))
    return _plot(
        states,
        figure,
        "weights by initialisation and layer",
        "weight-histograms",
        f"Weights (without biases) of {count:,} models at {_epochs(epochs)}, 99 % of the values, "
        "by initialisation (from top to bottom) and layer (from left to right)."
        + f" Only the {MOST_INITS} most frequent initialisations." * (len(set(inits)) > MOST_INITS)
        + (" Pruned weights, which are 0, are left out." if states.twins else "")
        + left_out,
    )


@styled
def trajectories(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32]
) -> Plot | None:
    """Draw how the weights of models move away from their first state.

    The left panel shows the plane of the first two principal components of these moves, the right
    panel their distance.

    Args:
        states: all states of the zoo.
        rows: indices in `states` of the weights, ascending.
        weights: float32 [rows, N].
    """
    rows, moved, left_out = _without_large(states, rows, weights)
    if len(rows) < 3:
        return None
    starts = np.flatnonzero(np.diff(states.model[rows], prepend=-1))
    lengths = np.diff([*starts, len(rows)])
    for start, length in zip(starts, lengths, strict=True):  # in place, since they can be large
        moved[start : start + length] -= moved[start].copy()
    distance = np.sqrt(np.einsum("ij,ij->i", moved, moved))
    farthest = np.repeat(np.maximum.reduceat(distance, starts), lengths)
    moved /= np.where(farthest == 0, 1, farthest)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        components = PCA(n_components=2, svd_solver="auto", random_state=0).fit(moved)
        plane = components.transform(moved) - components.transform(np.zeros_like(moved[:1]))
    share = np.nan_to_num(components.explained_variance_ratio_)
    by_epoch = np.stack([states["epoch"][rows], distance], axis=1)
    figure = new_figure(4.6)
    panels = figure.subplots(1, 2)
    scale = Normalize(0, 1)
    for panel, places in zip(panels, (plane, by_epoch), strict=True):
        for start, length in zip(starts, lengths, strict=True):
            own, colours = places[start:][:length], states["test_acc"][rows][start:][:length]
            pieces = list(np.stack([own[:-1], own[1:]], axis=1))
            lines = LineCollection(pieces, cmap=MAP, norm=scale, linewidths=1.2, alpha=0.9)
            lines.set_array(colours[1:])
            panel.add_collection(lines)
            if panel is panels[0] and length > 1:
                panel.annotate(
                    "", own[-1], own[-2],
                    arrowprops={"arrowstyle": "-|>", "color": MAP(scale(colours[-1]))},
                )  # fmt: skip
        panel.scatter(
            *places.T, c=states["test_acc"][rows], cmap=MAP, norm=scale, s=7, linewidths=0
        )
        panel.margins(0.05)
    panels[0].plot(0, 0, "+", color="black", markersize=12)
    panels[0].set_xlabel(f"component 1 ({share[0]:.0%} of variance)")
    panels[0].set_ylabel(f"component 2 ({share[1]:.0%} of variance)")
    panels[1].set(xlabel="epoch", ylabel="distance from the first state")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(
        ScalarMappable(scale, MAP), ax=list(panels), label="test accuracy (share of 1)", pad=0.02
    )
    return _plot(
        states,
        figure,
        f"training trajectories of {counted(len(starts), 'model')}",
        "trajectories",
        f"Weights less those of the model's first state ({len(rows):,} states). Left: the first "
        "two principal components of these moves, each divided by its model's longest; every "
        "trajectory starts at the cross, and its arrow points to the last state. Right: their "
        "lengths." + left_out,
    )


@styled
def sparsity_by_epoch(
    states: StateTable, parents: Mapping[tuple[str, str], float] | None = None
) -> Plot | None:
    """Draw sparsity and test accuracy of twins by epoch.

    Args:
        states: all states of a twin zoo.
        parents: zoo and id of the dense models -> test accuracy, as a reference.
    """
    good = ~states.diverged & np.isfinite(states["sparsity"]) & np.isfinite(states["test_acc"])
    if not good.any():
        return None
    figure = new_figure()
    panels = figure.subplots(1, 2)
    for panel, column, label in zip(
        panels, ("sparsity", "test_acc"),
        ("share of pruned weights", "test accuracy (share of 1)"), strict=True,
    ):  # fmt: skip
        _violins_by_epoch(panel, states["epoch"][good], states[column][good])
        if states.name == TWINS_ZOO:
            panel.plot(*zip(*TWINS[column].items(), strict=True), color=GREEN, marker="x",
                       linestyle="", label="median of the paper's twins")  # fmt: skip
        panel.set(xlabel="epoch of pruning", ylabel=label)
    panels[0].set_ylim(0, 1)
    zoos = [dense_name(zoo) for zoo in states["zoo"]]
    ids = dict.fromkeys(zip(zoos, states["parent_model_id"], strict=True))
    dense = np.array([parents[key] for key in ids if key in parents] if parents else [])
    dense = dense[np.isfinite(dense)]
    about = " Their parents' accuracy is not here."
    if len(dense):
        panels[1].axhline(np.median(dense), color=ORANGE, ls="--", label="median of the parents")
        about = f" Dashed: median of their {len(dense):,} parents."
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    return _plot(
        states,
        figure,
        f"sparsity and accuracy of {counted(states.models, 'twin')}",
        "sparsity-by-epoch",
        f"{HOW_TO_READ}{about}" + _left_out(states, ~good),
    )  # fmt: skip


# --- Parts of figures -----------------------------------------------------------------------------


def new_figure(height: float = HEIGHT) -> Figure:
    # Without pyplot: it has global state and searches for a window system.
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


@styled
def _save(figure: Figure, kind: str, omitted: Iterable[str]) -> bytes:
    """Return a figure as a file without some metadata, so that the bytes are always the same."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=dict.fromkeys(omitted))
    return file.getvalue()


def panel_grid(count: int, height: float, label: str) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, which share the y axis and fill rows of up to three.

    Args:
        count: number of panels.
        height: height of a row in inches.
        label: label of the y axis.
    """
    down = -(-count // 3)
    figure = new_figure(0.4 + height * down)
    cells = figure.add_gridspec(down, 6)
    panels: list[Axes] = []
    for row in range(down):
        wide = 6 // len(range(row, count, down))
        for start in range(0, 6, wide):
            cell = cells[row, start : start + wide]
            panels.append(figure.add_subplot(cell, sharey=panels[0] if panels else None))
            if start:
                panels[-1].tick_params(labelleft=False)
            else:
                panels[-1].set_ylabel(label)
    return figure, panels


def _plot(states: StateTable, figure: Figure, title: str, name: str, caption: str) -> Plot:
    title = f"{states.name}: {title}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Plot(name, title, caption, figure)


def _violins(
    axes: Axes,
    places: Iterable[float],
    groups: Sequence[NDArray[np.float64]],
    width: float,
    points: bool,
) -> None:
    """Draw the density, the median and perhaps the values of each group at its position on x."""
    spread = max((np.ptp(values) for values in groups if len(values)), default=0) or 1.0
    generator = np.random.default_rng(0)
    for place, values in zip(places, groups, strict=True):
        if not len(values):
            continue
        grid = np.linspace(values.min(), values.max(), 50)
        scale = 0.1 * spread * len(values) ** -0.2  # of the kernel; narrow, to keep modes apart
        density = np.exp(-0.5 * ((grid[:, None] - values) / scale) ** 2).sum(axis=1)
        half = width / 2 * density / density.max()
        labels = ("share of models", "a model", "median") if not axes.lines else (None,) * 3
        axes.fill_betweenx(
            grid, place - half, place + half,
            color=BLUE, alpha=0.35, linewidth=0.8, label=labels[0],
        )  # fmt: skip
        if points:
            shift = generator.uniform(-0.9, 0.9, len(values)) * np.interp(values, grid, half)
            axes.plot(
                place + shift, values, ".",
                color=BLUE, markersize=4, markeredgewidth=0, label=labels[1],
            )  # fmt: skip
        middle = np.median(values)
        axes.plot(
            [place - width / 4, place + width / 4], [middle, middle],
            color="black", lw=1.6, label=labels[2],
        )  # fmt: skip
    axes.grid(axis="x", visible=False)


def _violins_by_epoch(axes: Axes, epochs: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    shown = np.unique(epochs)
    if not len(shown):
        axes.text(0.5, 0.5, "no such numbers", ha="center", transform=axes.transAxes)
        return
    width = 0.85 * (np.diff(shown).min() if len(shown) > 1 else 1)
    groups = [values[epochs == epoch] for epoch in shown]
    _violins(axes, shown, groups, width, len(values) <= POINTS)
    axes.set_xlim(shown[0] - width, shown[-1] + width)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))


def _histograms(axes: Axes, values: Mapping[int, NDArray[np.float32]], twins: bool) -> None:
    """Draw a histogram for each epoch, from the lowest to the highest 0.5 % of the values."""
    limits = np.array([np.percentile(v, (0.5, 99.5)) for v in values.values() if len(v)])
    if not len(limits):
        return
    edges, highest = np.histogram_bin_edges(limits, 35), 0.0
    for (epoch, found), (colour, style) in zip(values.items(), STYLES, strict=False):
        heights = np.histogram(found, edges)[0] / max(1, len(found)) / np.diff(edges)
        axes.stairs(heights, edges, color=colour, ls=style, lw=1.4, label=f"epoch {epoch}")
        highest = max(highest, heights.max())
    if twins:  # many weights are almost pruned: their peak at 0 would hide the rest
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # powers of ten would be written in TeX
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(0, 1.05 * highest)


def _left_out(states: StateTable, mask: NDArray[np.bool_]) -> str:
    diverged = int((mask & states.diverged).sum())
    absent = int(mask.sum()) - diverged
    parts = [counted(diverged, "diverged state")] if diverged else []
    parts += [counted(absent, "state") + " without these numbers"] if absent else []
    return f" Left out: {' and '.join(parts)}." if parts else ""


def _without_large(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
    """Leave out diverged states and those with a weight above MAX_WEIGHT; return a sentence."""
    kept = ~states.diverged[rows] & (np.abs(weights).max(axis=1, initial=0) <= MAX_WEIGHT)
    text = ""
    if not kept.all():
        count = counted(int((~kept).sum()), "state")
        text = f" Left out: {count}, diverged or with a weight above {MAX_WEIGHT:g}. {WHY_LEFT_OUT}"
    return rows[kept], weights[kept], text


def _epochs(epochs: NDArray[np.int64]) -> str:
    *names, last = map(str, epochs)
    return f"epochs {', '.join(names)} and {last}" if names else f"epoch {last}"


def _value(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
