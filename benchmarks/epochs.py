"""Test accuracy over a zoo's models by epoch: a small record that represents a large zoo."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from ..builders.homes import zoos_home
from ..builders.schema import HYPERPARAMETERS
from ..builders.zoo_directory import open_zoo
from .evaluation import zoo_images
from .states import StateTable, read_states

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
"""Percentiles recorded for each epoch; 0 is the lowest value and 100 the highest."""

WITH_INTERVALS = (25, 50, 75)
"""Those of `QUANTILES` for which a confidence interval is recorded."""

_DIGITS = 4


def summarise(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    images_dir: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return the distribution of test accuracy over the models of a zoo at each epoch.

    Diverged states count with their accuracy, as in the paper's box plots.

    Args:
        name: name of a zoo directory.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        images_dir: folder of image files, see `images.load_images`; the test labels give the
            trivial rate, the share of the most frequent class.
        command: the shell command that made the zoo; it is only recorded.

    Returns:
        A JSON object: provenance of the zoo, counts, and `test_acc`, a list with a record for each
        epoch. Accuracies and shares are rounded to 4 digits.

    Raises:
        ZooNotFound: there is no such zoo directory.
        FaultyZoo: all its files are unreadable.
        ImageFilesError: the image files are missing or cannot be used.
        ValueError: they are other images than zoo.json names.
    """
    directory = open_zoo(zoos_home(data_dir), name)
    images = zoo_images(directory, None, images_dir, False)
    states = read_states(name, data_dir)
    labels = images.test.labels.numpy()
    trivial = float(np.bincount(labels).max() / len(labels))
    info, zoo = directory.info, directory.zoo
    grid = [key for key in HYPERPARAMETERS if key != "seed"]
    points = set(zip(*(states[key].tolist() for key in grid), strict=True))
    return {
        "zoo": name,
        "made_by": command,
        "models": states.models,
        "of": zoo.model_count,
        "grid_points": len(points),
        "grid_points_of": zoo.model_count // zoo.seeds,
        "states": len(states),
        "diverged_states": int(states.diverged.sum()),
        "engine": info.get("engine"),
        "versions": info.get("versions"),
        "images": info.get("images"),
        "test_images": len(labels),
        "trivial_rate": round(trivial, _DIGITS),
        "never_left": round(_never_left(states, trivial + 0.5 / len(labels)), _DIGITS),
        "test_acc": [
            {"epoch": int(epoch), **describe_accuracies(states["test_acc"][rows])}
            for epoch in states.epochs
            if np.isfinite(states["test_acc"][rows := states["epoch"] == epoch]).any()
        ],
    }


def _never_left(states: StateTable, rate: float) -> float:
    """Return the share of models whose accuracies at all epochs are at most a rate."""
    best = np.full(states.models, -np.inf)
    np.fmax.at(best, states.model, states["test_acc"])
    return float((best <= rate).mean())


def describe_accuracies(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return count, mean, standard deviation (of the population) and quantiles of finite values.

    The intervals of the quartiles are 95 % intervals from order statistics. They assume no form of
    the distribution, only that the models are drawn independently.
    """
    values = np.sort(values[np.isfinite(values)])
    count = len(values)
    intervals = {}
    for percent in WITH_INTERVALS:
        low, high = binom.ppf((0.025, 0.975), count, percent / 100).astype(int)
        ends = values[max(0, low - 1)], values[min(count - 1, high)]
        intervals[str(percent)] = [round(float(end), _DIGITS) for end in ends]
    found = np.percentile(values, QUANTILES)
    return {
        "models": count,
        "mean": round(float(values.mean()), _DIGITS),
        "std": round(float(values.std()), _DIGITS),
        "quantiles": {
            str(percent): round(float(value), _DIGITS)
            for percent, value in zip(QUANTILES, found, strict=True)
        },
        "intervals": intervals,
    }


def to_text(summary: Mapping[str, Any]) -> str:
    """Return a summary as the text of a JSON file with one line for each epoch."""
    lines = ",\n  ".join(map(json.dumps, summary["test_acc"]))
    head = json.dumps({**summary, "test_acc": []}, indent=1)
    return head.removesuffix("[]\n}") + f"[\n  {lines}\n ]\n}}\n"
