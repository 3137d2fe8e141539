"""Figures of zoos made here beside published ones, drawn from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from .plots import BLUE, GREEN, GREY, ORANGE, Plot, new_figure, panel_grid, styled

Box = tuple[float, float, float, float]

_LINES = ((BLUE, "-"), (GREEN, "--"))
"""Colour and style of each zoo of twins."""


@styled
def accuracy_beside_published(
    summaries: Sequence[Mapping[str, Any]],
    boxes: Mapping[str, Box],
    means: Mapping[str, Mapping[int, tuple[float, float]]],
) -> Plot:
    """Draw test accuracy by epoch of some zoos, with what is published of them.

    Args:
        summaries: one or more, as `epochs.summarise` returns them.
        boxes: zoo -> published lower quartile, median, upper quartile and highest value of the last
            epoch.
        means: zoo -> epoch -> published mean and standard deviation.
    """
    figure, panels = panel_grid(len(summaries), 3.0, "test accuracy (share of 1)")
    for panel, summary in zip(panels, summaries, strict=True):
        epochs = [found["epoch"] for found in summary["test_acc"]]
        lines = {
            percent: [found["quantiles"][percent] for found in summary["test_acc"]]
            for percent in ("0", "25", "50", "75", "100")
        }
        bands = (("0", "100", 0.15, "range, ours"), ("25", "75", 0.4, "quartiles, ours"))
        for low, high, alpha, label in bands:
            panel.fill_between(
                epochs, lines[low], lines[high], color=BLUE, alpha=alpha, lw=0, label=label
            )
        panel.plot(epochs, lines["50"], color=BLUE, lw=1.6, label="median, ours")
        panel.axhline(summary["trivial_rate"], color=GREY, lw=1, ls=":", label="trivial rate")
        if summary["zoo"] in boxes:
            lower, median, upper, most = boxes[summary["zoo"]]
            place = epochs[-1] + 3.5  # beside the last epoch, not on it
            panel.bxp(
                [{"q1": lower, "med": median, "q3": upper, "whislo": lower, "whishi": most}],
                positions=[place], widths=2.5, showfliers=False, manage_ticks=False,
                boxprops={"color": ORANGE, "lw": 1.6}, medianprops={"color": ORANGE, "lw": 2.4},
                whiskerprops={"color": ORANGE}, capprops={"color": ORANGE},
            )  # fmt: skip
            panel.plot([], [], color=ORANGE, lw=1.6, label="published box, last epoch")
        published = means.get(summary["zoo"], {})
        if published:
            centres, spreads = zip(*published.values(), strict=True)
            panel.errorbar(
                [*published], centres, spreads,
                fmt="o", color=ORANGE, ms=4, capsize=3, label="published mean ± std",
            )  # fmt: skip
        panel.set_title(f"{summary['zoo']}\n{summary['models']:,} models", fontsize=9)
        panel.set(xlabel="epoch", ylim=(0, 1), xlim=(0, epochs[-1] + 6))
    return _finish(
        figure,
        "accuracy-beside-published",
        "Test accuracy by epoch beside published figures",
        "Box: published quartiles with the median. Its upper whisker is the published highest "
        "value; the lowest is not published. A panel without orange has no published figure.",
    )


@styled
def twins_beside_published(
    reports: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[int, float]]
) -> Plot:
    """Draw sparsity, accuracy and gap of twins by epoch, with the published medians.

    Args:
        reports: one or more, as `model-zoos report NAME --json` prints them.
        published: column of a row -> epoch -> published median.
    """
    figure = new_figure()
    panels = figure.subplots(1, len(published), squeeze=False)[0]  # each has a scale of its own
    keys = {"sparsity": "sparsity", "test_acc": "accuracy", "generalization_gap": "gap"}
    for panel, (column, medians) in zip(panels, published.items(), strict=True):
        for report, (colour, style) in zip(reports, _LINES, strict=False):
            found = [e for e in report["diversity"]["epochs"] if e[keys[column]] is not None]
            epochs = [epoch["epoch"] for epoch in found]
            low, middle, high = zip(*(e[keys[column]]["quartiles"] for e in found), strict=True)
            label = f"{report['zoo']}, {report['diversity']['models']:,} twins"
            panel.fill_between(epochs, low, high, color=colour, alpha=0.25, lw=0)
            panel.plot(epochs, middle, color=colour, ls=style, lw=1.6, label=label)
        panel.plot(
            [*medians], [*medians.values()],
            "o", color=ORANGE, ms=4, label="published medians, MNIST",
        )  # fmt: skip
        panel.set(title=column.replace("_", " "), xlabel="epoch")
    return _finish(
        figure,
        "twins-beside-published",
        "Sparse twins by epoch beside the published medians",
        "Lines are medians over twins, bands their quartiles; points are medians that were read by "
        "eye off the figure of MNIST twins in the README of the paper's code.",
    )


def _finish(figure: Figure, name: str, title: str, caption: str) -> Plot:
    legend: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend([*legend.values()], [*legend], loc="outside lower center", ncols=3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Plot(name, title, caption, figure)
