"""Figures of a zoo, as PNG.

Colours are those of Okabe and Ito and of viridis, which colour-blind readers can tell apart, and
lines that differ in colour also differ in style. Diverged states (NaN or infinite losses or
weights) are left out and counted in the caption.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..builders.catalog import dense_name
from ..builders.layout import Layout, find_layout
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
"""Size of a figure in inches, and dots an inch. All figures have this width."""

TRAJECTORIES = 24
"""Models whose trajectories are drawn."""

HISTOGRAM_MODELS = 200
"""Models whose weights are in a histogram."""

POINTS = 4000
"""Limit of the points in a scatter plot."""

_SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_styled = matplotlib.rc_context(_SETTINGS)

_BOXES: dict[str, Any] = {
    "patch_artist": True,
    "boxprops": {"facecolor": BLUE, "alpha": 0.45, "linewidth": 0.8},
    "medianprops": {"color": "black", "linewidth": 1.4},
    "whiskerprops": {"linewidth": 0.8},
    "capprops": {"linewidth": 0.8},
    "flierprops": {"marker": ".", "markersize": 3, "alpha": 0.4, "markeredgecolor": GREY},
    "manage_ticks": False,
}


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes:
        name: what it shows, as a part of file names: "accuracy-by-epoch".
        title: what it shows, in words.
        caption: how to read it, and what was left out.
        png: the bytes of the image.
    """

    name: str
    title: str
    caption: str
    png: bytes


def plot_accuracy_by_epoch(
    name: str, path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Write the figure of `accuracy_by_epoch` as a PNG.

    Args:
        name: any config of the data set.
        path: the PNG to write.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
    """
    path = Path(path)
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
        seed: seed of the choice of models and states, where not all are drawn.
        on_progress: called with the name of the next figures.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: none of its files can be read.
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
    models, epochs = choose(states, size, TRAJECTORIES, len(states.epochs), seed)
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


@_styled
def accuracy_by_epoch(states: StateTable) -> Plot:
    """Draw box plots of test accuracy over all models, as in the README of the paper's code."""
    good = ~states.diverged & np.isfinite(states["test_acc"])
    figure = _figure()
    axes = figure.subplots()
    _boxes_by_epoch(axes, states["epoch"][good], states["test_acc"][good])
    axes.set(xlabel="epoch", ylabel="test accuracy (share of 1)", ylim=(0, 1))
    return _plot(
        states,
        figure,
        "test accuracy by epoch",
        "accuracy-by-epoch",
        f"Test accuracy of {states.models:,} models. Boxes are quartiles with the median, whiskers "
        "reach 1.5 box lengths, points are models beyond." + _left_out(states, ~good),
    )


@_styled
def accuracy_by_hyperparameter(states: StateTable) -> Plot | None:
    """Draw box plots of final accuracy by each hyperparameter that varies; None if none does."""
    rows = states.final[np.isfinite(states["test_acc"][states.final])]
    values = {name: set(states[name][rows]) - {None} for name in HYPERPARAMETERS if name != "seed"}
    varying = {name: sorted(found) for name, found in values.items() if len(found) > 1}
    if not varying:
        return None
    figure, panels = _grid(len(varying), 2.6, "test accuracy (share of 1)", sharey=True)
    for panel, name in zip(panels, varying, strict=True):
        groups = [states["test_acc"][rows[states[name][rows] == value]] for value in varying[name]]
        panel.boxplot(groups, positions=range(len(groups)), widths=0.6, **_BOXES)
        labels = [_value(value) for value in varying[name]]
        counts = [f"{label}\nn={len(group):,}" for label, group in zip(labels, groups, strict=True)]
        crowded = max(map(len, labels)) * len(labels) > 36
        panel.set_xticks(range(len(groups)), counts, fontsize=8, rotation=25 if crowded else 0)
        panel.set(title=name.replace("_", " "), ylim=(0, 1), xlim=(-0.6, len(groups) - 0.4))
        panel.grid(axis="x", visible=False)
    absent = states.models - len(rows)
    return _plot(
        states,
        figure,
        "final test accuracy by hyperparameter",
        "accuracy-by-hyperparameter",
        f"Test accuracy at epoch {states.epochs[-1]} of {len(rows):,} models by each "
        "hyperparameter that varies; n is the number of models."
        + (f" Left out: {_count(absent, 'model')}, diverged or without that state." * bool(absent)),
    )


@_styled
def train_and_test_accuracy(states: StateTable, seed: int = 0) -> Plot | None:
    """Draw train against test accuracy of states, coloured by epoch; None if either is absent."""
    good = ~states.diverged & np.isfinite(states["test_acc"]) & np.isfinite(states["train_acc"])
    rows = np.flatnonzero(good)
    if not len(rows):
        return None
    shown = np.random.default_rng(seed).permutation(rows)[:POINTS]
    figure = _figure(4.6)
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
    _colour_bar(figure, points, left, "epoch", whole=True)
    gap = states["train_acc"] - states["test_acc"]
    right.axhline(0, color=GREY, linewidth=1, linestyle="--")
    _boxes_by_epoch(right, states["epoch"][rows], gap[rows])
    right.set(xlabel="epoch", ylabel="train less test accuracy (share of 1)")
    some = "" if len(shown) == len(rows) else f" of {len(rows):,}, drawn at random"
    return _plot(
        states,
        figure,
        "train and test accuracy",
        "train-and-test-accuracy",
        f"Left: {len(shown):,} states{some}. Right: the generalization gap, box plots over all "
        "models. Train accuracy from epoch 1 on is a running mean over the "
        "epoch in training mode: with dropout, and early on, it lies below the model's own."
        + _left_out(states, ~good),
    )


@_styled
def weight_histograms(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32], layout: Layout
) -> Plot | None:
    """Draw the distribution of weights by layer at the first, middle and last epoch.

    Args:
        states: all states of the zoo.
        rows: row numbers of the weights in `states`.
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
    density = "density (logarithmic)" if states.twins else "density"
    figure, panels = _grid(len(slots), 2.5, density)
    epochs = np.unique(states["epoch"][rows])
    for panel, slot in zip(panels, slots, strict=True):
        values = {}
        for epoch in epochs:
            of_epoch = weights[states["epoch"][rows] == epoch, slot.slice].reshape(-1)
            values[epoch] = of_epoch[of_epoch != 0] if states.twins else of_epoch
        limits = [np.percentile(v, (0.5, 99.5)) for v in values.values() if len(v)]
        if not limits:
            continue
        low, high = min(pair[0] for pair in limits), max(pair[1] for pair in limits)
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, 41)
        for (epoch, of_epoch), (colour, style) in zip(values.items(), STYLES, strict=False):
            heights = np.histogram(of_epoch, edges)[0] / max(1, len(of_epoch)) / np.diff(edges)
            panel.stairs(
                heights, edges, color=colour, linestyle=style, linewidth=1.5, label=f"epoch {epoch}"
            )
        panel.set(title=slot.name, xlabel="weight")
        if states.twins:  # many weights are almost pruned: a peak at 0 that hides the rest
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    count = len(np.unique(states.model[rows]))
    return _plot(
        states,
        figure,
        "weights by layer",
        "weight-histograms",
        f"Weights (without biases) of {count:,} models at {_epochs(epochs)}, 99 % of the values."
        + (" Pruned weights, which are 0, are left out." if states.twins else "")
        + left_out,
    )


@_styled
def trajectories(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32]
) -> Plot | None:
    """Draw trajectories in the plane of the first two principal components of the weights.

    Args:
        states: all states of the zoo.
        rows: row numbers of the weights in `states`, ascending.
        weights: float32 [rows, N].
    """
    rows, weights, left_out = _without_large(states, rows, weights)
    if len(rows) < 3:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        components = PCA(n_components=2, svd_solver="auto", random_state=0).fit(weights)
        plane = components.transform(weights)
    share = np.nan_to_num(components.explained_variance_ratio_)
    figure = _figure(4.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    numbers = np.unique(states.model[rows])
    for panel, column, label in zip(
        panels, ("test_acc", "epoch"), ("test accuracy (share of 1)", "epoch"), strict=True
    ):
        colours = states[column][rows].astype(np.float64)
        scale = Normalize(*(_ends(states.epochs) if column == "epoch" else (0, 1)))
        for number in numbers:
            own = np.flatnonzero(states.model[rows] == number)
            pieces = np.stack([plane[own][:-1], plane[own][1:]], axis=1)
            lines = LineCollection(list(pieces), cmap=MAP, norm=scale, linewidths=1.1, alpha=0.8)
            lines.set_array(colours[own][1:])
            panel.add_collection(lines)
        points = panel.scatter(*plane.T, c=colours, cmap=MAP, norm=scale, s=9, linewidths=0)
        first = np.flatnonzero(np.diff(states.model[rows], prepend=-1))
        last = np.flatnonzero(np.diff(states.model[rows], append=-1))
        for ends, marker, name in ((first, "o", "first epoch"), (last, "s", "last epoch")):
            panel.scatter(
                *plane[ends].T, marker=marker, s=22, facecolors="none", edgecolors="black",
                linewidths=0.8, label=name,
            )  # fmt: skip
        panel.set_xlabel(f"component 1 ({share[0]:.0%} of variance)")
        panel.margins(0.05)
        _colour_bar(figure, points, panel, label, whole=column == "epoch")
    panels[0].set_ylabel(f"component 2 ({share[1]:.0%} of variance)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return _plot(
        states,
        figure,
        "trajectories of weights",
        "trajectories",
        f"The weights of {len(numbers):,} models ({len(rows):,} states) in the plane of their "
        "first two principal components, coloured by test accuracy (left) and by epoch (right)."
        + left_out,
    )


@_styled
def sparsity_by_epoch(
    states: StateTable, parents: Mapping[tuple[str, str], float] | None = None
) -> Plot | None:
    """Draw sparsity and test accuracy of twins by epoch.

    Args:
        states: all states of a twin zoo.
        parents: zoo and id of dense models -> test accuracy, as a reference.
    """
    good = ~states.diverged & np.isfinite(states["sparsity"]) & np.isfinite(states["test_acc"])
    if not good.any():
        return None
    figure = _figure()
    panels = figure.subplots(1, 2)
    for panel, column, label in zip(
        panels, ("sparsity", "test_acc"),
        ("share of pruned weights", "test accuracy (share of 1)"), strict=True,
    ):  # fmt: skip
        epochs = np.unique(states["epoch"][good])
        bands = np.array([
            np.percentile(states[column][good & (states["epoch"] == epoch)], (0, 25, 50, 75, 100))
            for epoch in epochs
        ]).T  # fmt: skip
        panel.fill_between(epochs, bands[0], bands[4], color=BLUE, alpha=0.12, linewidth=0,
                           label="range")  # fmt: skip
        panel.fill_between(epochs, bands[1], bands[3], color=BLUE, alpha=0.35, linewidth=0,
                           label="quartiles")  # fmt: skip
        panel.plot(epochs, bands[2], color=BLUE, marker="o", markersize=4, label="median")
        if states.name == TWINS_ZOO:
            panel.plot(*zip(*TWINS[column].items(), strict=True), color=GREEN, marker="x",
                       linestyle="", label="median of the paper's twins")  # fmt: skip
        panel.set(xlabel="epoch of pruning", ylabel=label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(0, 1)
    zoos = [dense_name(zoo) for zoo in states["zoo"]]
    ids = dict.fromkeys(zip(zoos, states["parent_model_id"], strict=True))
    dense = np.array([parents[key] for key in ids if key in parents] if parents else [])
    dense = dense[np.isfinite(dense)]
    about = " Their parents' accuracy is not here."
    if len(dense):
        low, median, high = np.percentile(dense, (25, 50, 75))
        panels[1].axhspan(low, high, color=ORANGE, alpha=0.15, linewidth=0)
        panels[1].axhline(median, color=ORANGE, linestyle="--", label="parents")
        about = f" Dashed: median of their {len(dense):,} parents, with quartiles."
    panels[1].legend(loc="best")
    return _plot(
        states,
        figure,
        "sparsity and accuracy",
        "sparsity-by-epoch",
        f"Sparsity and test accuracy of {states.models:,} twins by epoch of pruning." + about
        + _left_out(states, ~good),
    )  # fmt: skip


# --- Parts of figures -----------------------------------------------------------------------------


def _figure(height: float = HEIGHT) -> Figure:
    # Without pyplot: no global state, and no window system is looked for.
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _grid(
    count: int, height: float, label: str, *, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels in rows of three, each of the given height in inches."""
    across = min(3, count)
    down = -(-count // across)
    figure = _figure(0.4 + height * down)
    panels = figure.subplots(down, across, sharey=sharey, squeeze=False)
    for panel in panels[:, 0]:
        panel.set_ylabel(label)
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    return figure, list(panels.flat[:count])


def _plot(states: StateTable, figure: Figure, title: str, name: str, caption: str) -> Plot:
    title = f"{states.name}: {title}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return Plot(name, title, caption, file.getvalue())


def _boxes_by_epoch(axes: Axes, epochs: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    shown = np.unique(epochs)
    if not len(shown):
        axes.text(0.5, 0.5, "no such numbers", ha="center", transform=axes.transAxes)
        return
    width = 0.6 * (np.diff(shown).min() if len(shown) > 1 else 1)
    axes.boxplot(
        [values[epochs == epoch] for epoch in shown], positions=shown, widths=width, **_BOXES
    )
    axes.set_xlim(shown[0] - width, shown[-1] + width)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    axes.grid(axis="x", visible=False)


def _colour_bar(
    figure: Figure, points: PathCollection, axes: Axes, label: str, *, whole: bool
) -> None:
    bar = figure.colorbar(points, ax=axes, label=label, pad=0.02)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    if whole:
        bar.locator = MaxNLocator(nbins=8, integer=True)
        bar.update_ticks()


def _left_out(states: StateTable, mask: NDArray[np.bool_]) -> str:
    diverged = int((mask & states.diverged).sum())
    absent = int(mask.sum()) - diverged
    parts = [_count(diverged, "diverged state")] if diverged else []
    parts += [_count(absent, "state") + " without these numbers"] if absent else []
    return f" Left out: {' and '.join(parts)}." if parts else ""


def _without_large(
    states: StateTable, rows: NDArray[np.int64], weights: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
    """Leave out diverged states and those with a weight above MAX_WEIGHT; return what to say."""
    kept = ~states.diverged[rows] & (np.abs(weights).max(axis=1, initial=0) <= MAX_WEIGHT)
    text = ""
    if not kept.all():
        count = _count(int((~kept).sum()), "state")
        text = f" Left out: {count}, diverged or with a weight above {MAX_WEIGHT:g}. {WHY_LEFT_OUT}"
    return rows[kept], weights[kept], text


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _epochs(epochs: NDArray[np.int64]) -> str:
    *names, last = map(str, epochs)
    return f"epochs {', '.join(names)} and {last}" if names else f"epoch {last}"


def _ends(epochs: NDArray[np.int64]) -> tuple[float, float]:
    return float(epochs[0]), float(max(epochs[-1], epochs[0] + 1))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
