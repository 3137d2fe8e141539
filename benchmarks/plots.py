"""Figures of a zoo."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets, load_dataset

COLOUR = "#0072b2"  # of Okabe and Ito's palette, which colour-blind readers can tell apart


def plot_accuracy_by_epoch(
    name: str, path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Box plots of test accuracy over all models of a zoo, one box an epoch, as a PNG.

    The figure of the original's README: boxes are quartiles, whiskers reach 1.5 box lengths.

    Args:
        name: any config of the data set.
        path: of the PNG.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    splits = load_dataset(
        "model_zoos",
        name,
        data_dir=None if data_dir is None else str(data_dir),
        columns=["zoo", "model_id", "epoch", "test_acc"],
    )
    rows = concatenate_datasets(list(splits.values())).with_format("numpy")
    epochs, accuracies = np.asarray(rows["epoch"]), np.asarray(rows["test_acc"])
    models = len(set(zip(rows["zoo"], rows["model_id"], strict=True)))
    shown = np.unique(epochs)
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.22 * len(shown)), 4.0))
    axes.boxplot(
        [accuracies[epochs == epoch] for epoch in shown],
        positions=shown,
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": COLOUR, "alpha": 0.5},
        medianprops={"color": "black"},
        flierprops={"marker": ".", "markersize": 3, "alpha": 0.4},
        manage_ticks=False,
    )
    axes.set(
        xlabel="epoch",
        ylabel="test accuracy",
        ylim=(0, 1),
        title=f"{name}: {models} models",
    )
    axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    path = Path(path)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
