"""Scores from papers, and tables that show them beside ours.

    python -m model_zoos.benchmarks.literature [FOLDER]

rewrites the tables of benchmarks/README.md, between its two `scores` marks, from the results in a
folder (by default benchmarks/results). A folder without any result is refused. The results are
every `*-benchmark.json` that `model-zoos benchmark NAME --boosting --out FILE` writes, and every
`*_sparse-report.json` that `model-zoos report NAME --json` prints. None of our numbers is typed by
hand.

Sources: UNTERTHINER: Unterthiner, Keysers, Gelly, Bousquet and Tolstikhin, "Predicting Neural
Network Accuracy from Weights", 2020; best_configs.json in google-research/dnn_predict_accuracy.
SCHUERHOLT: Schuerholt, Kostadinov and Borth, "Self-Supervised Representation Learning on Neural
Network Weights for Model Characteristic Prediction", NeurIPS 2021; the image of results on the
HSG-AIML site, linear probes.
TWINS: the figure of MNIST twins in the README of the paper's code, read by eye (+- 0.01).
SEED_ZOOS: two table images of the post on generative hyper-representations on the HSG-AIML site,
rows of models trained from scratch. BOX_PLOTS: box plots in the README of the paper's code, read by
eye (+- 0.01). `PUBLISHED` lists the figures that evidence.py compares with zoos made here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .property_result import Result
from .tables import Table, number, rewrite_part

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

IMAGES = ("mnist", "fashion_mnist", "cifar10", "svhn")
"""Image data sets of the scores below, in the order of their columns."""

UNTERTHINER: dict[tuple[str, str], tuple[float, ...]] = {
    ("linear", "weights"): (0.847, 0.733, 0.662, 0.786),
    ("linear", "statistics"): (0.920, 0.804, 0.727, 0.852),
    ("trees", "weights"): (0.988, 0.989, 0.970, 0.971),
    ("trees", "statistics"): (0.993, 0.993, 0.984, 0.986),
    ("network", "weights"): (0.980, 0.980, 0.954, 0.931),
    ("network", "statistics"): (0.993, 0.992, 0.980, 0.985),
}
"""R2 of test accuracy on the Small CNN Zoo, by `IMAGES` (the last two in grey)."""

SCHUERHOLT: dict[str, tuple[tuple[float, float, float], ...]] = {
    "epoch": ((25.8, 33.2, 50.0), (26.6, 34.6, 51.3), (25.7, 30.3, 53.3), (22.8, 37.8, 52.6)),
    "test_acc": ((74.7, 81.5, 94.9), (70.9, 78.5, 96.2), (76.4, 82.9, 92.7), (80.5, 82.1, 91.1)),
    "generalization_gap": (
        *((23.4, 24.4, 27.4), (48.1, 41.1, 49.0), (37.7, 37.4, 40.4), (38.7, 42.2, 44.2)),
    ),
    "learning_rate": (
        *((29.3, 34.3, 37.1), (33.5, 35.6, 42.4), (27.4, 32.3, 44.7), (24.5, 33.4, 49.1)),
    ),
    "weight_decay": (
        *((12.5, 16.5, 20.1), (11.9, 16.3, 25.0), (8.7, 13.8, 28.0), (9.0, 13.6, 28.0)),
    ),
    "dropout": ((28.5, 19.2, 35.8), (26.7, 21.3, 38.3), (16.7, 16.5, 33.8), (9.0, 14.6, 23.3)),
    "activation": ((88.6, 81.1, 88.7), (89.8, 82.4, 90.1), (88.3, 80.3, 90.0), (86.9, 78.8, 87.2)),
    "init": ((94.6, 72.0, 80.6), (95.7, 76.5, 86.7), (93.5, 73.3, 82.6), (91.0, 73.0, 82.8)),
    "optimizer": ((76.7, 65.4, 66.4), (79.9, 67.4, 73.0), (74.0, 65.5, 71.0), (72.5, 68.2, 72.3)),
}
"""Linear probes on the same zoo by `IMAGES`: weights, statistics, learned representation. R2 x 100,
of the last three accuracy in %."""

TWINS: dict[str, dict[int, float]] = {
    "sparsity": {
        **dict(enumerate((0, 0, 0.26, 0.43, 0.51, 0.56, 0.585, 0.61, 0.63, 0.65, 0.665))),
        **{16: 0.73, 20: 0.76, 25: 0.785},
    },
    "test_acc": {0: 0.911, 1: 0.912, 5: 0.901, 10: 0.8845, 15: 0.878, 20: 0.875, 25: 0.8745},
    "generalization_gap": {0: 0.006, 5: -0.018, 10: -0.054, 15: -0.047, 20: -0.041, 25: -0.0385},
}
"""Medians of the paper's MNIST twins (`mnist_cnn_s_seed_sparse`) by epoch; shares of 1."""

TWINS_ZOO = "mnist_cnn_s_seed_sparse"

SEED_ZOOS: dict[str, dict[int, tuple[float, float]]] = {
    "mnist_cnn_s_seed": {1: (0.206, 0.016), 25: (0.833, 0.026), 50: (0.911, 0.026)},
    "svhn_cnn_s_seed": {1: (0.194, 0.006), 25: (0.667, 0.085), 50: (0.707, 0.088)},
    "cifar10_cnn_s_seed": {1: (0.275, 0.021), 25: (0.461, 0.013), 50: (0.487, 0.014)},
    "stl10_cnn_s_seed": {1: (0.154, 0.018), 25: (0.350, 0.013), 50: (0.390, 0.010)},
}
"""Mean and standard deviation of test accuracy over models by epoch; shares of 1. The post does not
name its zoos: that they are the CNN-s seed zoos is inferred (MNIST at epoch 50 is where TWINS
starts)."""

MNIST_SECOND_STD = 0.010
"""Standard deviation of MNIST at epoch 50 in the second table of the post."""

BOX_PLOTS: dict[str, tuple[float, float, float, float]] = {
    "fashion_mnist_cnn_s_hyp_10_r": (0.61, 0.76, 0.85, 0.885),
    "usps_cnn_s_hyp_10_r": (0.18, 0.775, 0.905, 0.95),
    "cifar10_cnn_l_hyp_10_r": (0.10, 0.42, 0.605, 0.70),
}
"""Test accuracy over all models at epoch 50: lower quartile, median, upper quartile, highest."""

BOX_FIGURES = ("lower quartile", "median", "upper quartile", "highest")
"""Names of the numbers of a box plot, in their order."""


@dataclass(frozen=True)
class Published:
    """One published figure of a zoo.

    Attributes:
        zoo: name in the catalog.
        metric: "test_acc", "generalization_gap" or "sparsity".
        figure: "mean", or one of `BOX_FIGURES`.
        epoch: epoch of the states.
        value: the figure, as a share of 1.
        spread: the published spread over models; None if there is none.
        spread_is: what that spread is.
        source: name of the table of this module that holds the figure.
    """

    zoo: str
    metric: str
    figure: str
    epoch: int
    value: float
    spread: float | None
    spread_is: str
    source: str


def _published() -> list[Published]:
    std = "their standard deviation"
    found = [
        Published(zoo, "test_acc", "mean", epoch, mean, spread, std, "SEED_ZOOS")
        for zoo, epochs in SEED_ZOOS.items()
        for epoch, (mean, spread) in epochs.items()
    ]
    found += [
        Published(
            zoo, "test_acc", figure, 50, value, box[2] - box[0], "their quartile range", "BOX_PLOTS"
        )
        for zoo, box in BOX_PLOTS.items()
        for figure, value in zip(BOX_FIGURES, box, strict=True)
    ]
    found += [
        Published(TWINS_ZOO, metric, "median", epoch, value, None, "", "TWINS")
        for metric, epochs in TWINS.items()
        for epoch, value in epochs.items()
    ]
    return found


PUBLISHED = tuple(_published())
"""All published figures of the paper's zoos that this module knows."""


SHOWN = ("*-benchmark.json", "*_sparse-report.json")
"""Files that the tables of a folder show."""


def tables(folder: Path) -> str:
    """Return, as Markdown, the tables of each result in a folder, then those of the literature."""
    shown = []
    for path in sorted(folder.glob("*-benchmark.json")):
        shown += zoo_tables(Result.from_json(json.loads(path.read_text())))
    for path in sorted(folder.glob("*_sparse-report.json")):
        shown.append(twins_table(json.loads(path.read_text())))
    return "\n\n".join(table.markdown() for table in (*shown, *_literature()))


def zoo_tables(result: Result) -> list[Table]:
    """Return the tables of one zoo, beside the scores of SCHUERHOLT on the same images."""
    images = images_of(result.zoo)
    shown = []
    for table in result.tables():
        if images and table.columns[0] == "target":
            rows = tuple((*row, schuerholt(images, *row[:3])) for row in table.rows)
            table = replace(table, columns=(*table.columns, "2021, test"), rows=rows)
        shown.append(table)
    return shown


def images_of(zoo: str) -> str | None:
    """Return which of `IMAGES` a zoo was trained on; None for any other."""
    return next((name for name in IMAGES if zoo.startswith(f"{name}_")), None)


def schuerholt(images: str, target: str, representation: str, method: str) -> str:
    """Return the score of a linear probe in SCHUERHOLT as a share of 1, or "-"."""
    column = {"weights": 0, "statistics": 1}.get(representation)
    if column is None or target not in SCHUERHOLT or method == "trees":
        return "-"
    return number(SCHUERHOLT[target][IMAGES.index(images)][column] / 100)


def twins_table(report: Mapping[str, Any]) -> Table:
    """Return sparsity and accuracy of twins by epoch, beside the paper's if they are MNIST's.

    Args:
        report: the JSON of `model-zoos report NAME --json`.
    """
    epochs = {epoch["epoch"]: epoch for epoch in report["diversity"]["epochs"]}
    shown = sorted({*TWINS["test_acc"], *epochs} & {0, 1, 2, 5, 10, 15, 20, max(epochs)})
    rows = []
    for epoch in shown:
        row = [str(epoch)]
        for column, key in (
            ("sparsity", "sparsity"),
            ("test_acc", "accuracy"),
            ("generalization_gap", "gap"),
        ):
            found = epochs.get(epoch, {}).get(key)
            row.append(f"{found['quartiles'][1]:.3f} ({found['mean']:.3f})" if found else "-")
            known = TWINS[column].get(epoch) if report["zoo"] == TWINS_ZOO else None
            row.append("-" if known is None else f"{known:g}")
        rows.append(tuple(row))
    return Table(
        f"{report['zoo']}, {report['diversity']['models']:,} twins: medians (means), beside the "
        "medians of the paper's MNIST twins, read off its figure",
        ("epoch", "sparsity", "paper", "test accuracy", "paper", "gap", "paper"),
        tuple(rows),
    )


def _literature() -> list[Table]:
    columns = ("", "MNIST", "Fashion-MNIST", "CIFAR-10", "SVHN")
    return [
        Table(
            "Unterthiner et al. 2020, R2 of test accuracy on the Small CNN Zoo (4,970 weights, "
            "15,000 training models; CIFAR-10 and SVHN in grey)",
            columns,
            tuple(
                (f"{method}, {representation}", *(f"{value:.3f}" for value in values))
                for (method, representation), values in UNTERTHINER.items()
            ),
        ),
        Table(
            "Schuerholt et al. 2021, linear probes on the same zoo from weights / statistics / "
            "their learned representation; R2 x 100, of the last three accuracy in %",
            columns,
            tuple(
                (target, *(" / ".join(f"{v:.1f}" for v in values) for values in by_images))
                for target, by_images in SCHUERHOLT.items()
            ),
        ),
    ]


def refuse_without_results(folder: Path, patterns: Sequence[str]) -> None:
    """Refuse a folder without results, since the page would lose its numbers.

    Raises:
        BadParameter: no file of the folder fits one of the patterns.
    """
    if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
        raise typer.BadParameter(
            f"{folder} holds no result ({', '.join(patterns)}), and the page stays as it is"
        )


app = typer.Typer(add_completion=False)


@app.command()
def _scores(
    folder: Annotated[
        Path, typer.Argument(help="Folder of results.", exists=True, file_okay=False)
    ] = RESULTS,
) -> None:
    """Rewrite the tables of benchmarks/README.md from the results of a folder."""
    refuse_without_results(folder, SHOWN)
    rewrite_part(HERE / "README.md", "scores", tables(folder))


if __name__ == "__main__":
    app()
