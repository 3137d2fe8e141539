"""A zoo for the parts of the suite: its states, the usable ones among them, and its images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ...builders.homes import zoos_home
from ...builders.layout import Layout, find_layout
from ...builders.names import normalize_name
from ...builders.splits import SPLITS
from ...builders.zoo_directory import open_zoo as open_directory
from ...errors import InvalidArgument, TooFewModels
from ...generation.images import ImageData
from ..evaluation import zoo_images
from ..representations import statistics
from ..rows import LARGE_WEIGHT, MAX_WEIGHT, largest_weights, refuse_leakage
from ..states import StateTable, read_states, read_weights, weights_size
from ..targets import NUMBERS

_BLOCK_BYTES = 256 << 20
"""Number of weights that are read at a time."""


@dataclass(frozen=True)
class Settings:
    """Seed and sizes of the suite. The protocol is the default values.

    Attributes:
        seed: seed of every draw.
        max_weight: states with a larger weight (in absolute value) are left out.
        states: maximal number of states used for predictions; epochs are thinned out evenly.
        weights_bytes: limit in bytes of weights kept in memory.
        network_passes: maximal number of passes of the set network over its training states.
        good: share of the best models of the train split from which samples are drawn.
        samples: number of new weight vectors by each method.
        tuned: number of these that are trained further.
        tuned_epochs: number of epochs of this training.
    """

    seed: int = 0
    max_weight: float = MAX_WEIGHT
    states: int = 40_000
    weights_bytes: int = 2 << 30
    network_passes: int = 15
    good: float = 0.3
    samples: int = 32
    tuned: int = 16
    tuned_epochs: int = 3


@dataclass(frozen=True, eq=False)
class Used:
    """The usable states for property prediction, sorted by zoo, model and epoch.

    Attributes:
        rows: indices of their rows in the table of all states, [n].
        statistics: s(W), float64 [n, 7 * tensors].
        weights: W, float32 [n, N]; None if they are too many for the memory.
        targets: the numbers that are predicted.
        not_scored: target -> reason.
        left_out: reason -> number of states.
        epochs: the epochs that were read.
    """

    rows: NDArray[np.int64]
    statistics: NDArray[np.float64]
    weights: NDArray[np.float32] | None
    targets: Sequence[str]
    not_scored: Mapping[str, str]
    left_out: Mapping[str, int]
    epochs: Sequence[int]


@dataclass(frozen=True, eq=False)
class OpenZoo:
    """A zoo that is being measured. Expensive data is read once, on first use.

    Attributes:
        states: all its states without weights.
        layout: layout of the weights.
        data_dir, images_dir, download: places of zoos and images.
        settings: seed and sizes.
    """

    states: StateTable
    layout: Layout
    data_dir: str | os.PathLike[str] | None
    images_dir: str | os.PathLike[str] | None
    download: bool
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the zoo, as load_dataset knows it."""
        return self.states.name

    @cached_property
    def used(self) -> Used:
        """The usable states; see `Used`.

        Raises:
            TooFewModels: a split has fewer than two of them.
            Leakage: a model, or twins of one parent, in two splits.
        """
        states, settings = self.states, self.settings
        self._refuse_leakage()
        models, epochs = _thin_out(states, settings)
        wanted = np.isin(states.model, models) & np.isin(states["epoch"], epochs)
        fits = 4 * self.layout.size * int(wanted.sum()) <= settings.weights_bytes
        weights = np.empty((int(wanted.sum()) if fits else 0, self.layout.size), np.float32)
        step = max(1, _BLOCK_BYTES // (4 * self.layout.size * len(epochs)))
        left_out = Counter({"weights not finite": int(wanted.sum())})
        rows: list[NDArray[np.int64]] = []
        features: list[NDArray[np.float64]] = []
        count = 0
        for start in range(0, len(models), step):
            some = models[start : start + step]
            found, matrix = read_weights(states, some, epochs, self.data_dir)
            small = largest_weights(matrix) <= settings.max_weight
            left_out["weights not finite"] -= len(found)
            left_out[f"{LARGE_WEIGHT} {settings.max_weight:g}"] += int((~small).sum())
            found, matrix = found[small], matrix[small]
            rows.append(found)
            features.append(statistics(matrix, self.layout))
            if fits:
                weights[count : count + len(matrix)] = matrix
            count += len(matrix)
        row = np.concatenate(rows)
        targets, not_scored = self._targets(row)
        known = np.isfinite([states[target][row] for target in targets]).all(axis=0)
        left_out["target absent"] += int((~known).sum())
        weights = weights[:count]
        used = Used(
            row[known],
            np.concatenate(features)[known],
            (weights if known.all() else weights[known]) if fits else None,
            targets,
            not_scored,
            {why: count for why, count in left_out.items() if count},
            epochs.tolist(),
        )
        counts = {split: int((states["split"][used.rows] == split).sum()) for split in SPLITS}
        for split, count in counts.items():
            if count < 2:
                raise TooFewModels(
                    f"{self.name} has {count} usable states in {split}, expected 2 or more: make "
                    "more models"
                )
        return used

    @cached_property
    def images(self) -> ImageData:
        """The images on which the models were trained.

        Raises:
            ImageFilesError: the image files are missing or cannot be used.
            InvalidArgument: they are not the images that zoo.json names, or the parts of a union
                have several image data sets.
            ZooNotFound: there is no zoo directory, which would name the images.
        """
        home = zoos_home(self.data_dir)
        directories = [open_directory(home, name) for name in sorted(set(self.states["zoo"]))]
        images = sorted({directory.zoo.images for directory in directories})
        if len(images) > 1:
            raise InvalidArgument(f"{self.name} has several image data sets: {', '.join(images)}")
        return zoo_images(directories[0], None, self.images_dir, self.download)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Return the used states of a split, as indices in `used.rows`."""
        return np.flatnonzero(self.states["split"][self.used.rows] == split)

    def _targets(self, rows: NDArray[np.int64]) -> tuple[list[str], dict[str, str]]:
        targets, why = [], {}
        for target in NUMBERS:
            values = self.states[target][rows]
            values = values[np.isfinite(values)]
            if len(np.unique(values)) < 2:
                why[target] = f"constant: {values[0]:g}" if len(values) else "absent"
            else:
                targets.append(target)
        if not targets:
            reasons = ", ".join(f"{target} ({reason})" for target, reason in why.items())
            raise TooFewModels(f"{self.name} has no number that varies: {reasons}")
        return targets, why

    def _refuse_leakage(self) -> None:
        names = ("zoo", "model_id", "parent_model_id")
        first = np.flatnonzero(np.diff(self.states.model, prepend=-1))  # one row per model
        splits = {}
        for split in SPLITS:
            rows = first[self.states["split"][first] == split]
            splits[split] = Dataset.from_dict({n: self.states[n][rows].tolist() for n in names})
        refuse_leakage(splits)


def open_zoo(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
    settings: Settings,
) -> OpenZoo:
    """Open a zoo and read its states without weights.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: `metrics`, which has no weights, or states of several architectures.
    """
    name = normalize_name(name)
    size = weights_size(name, data_dir)
    states = read_states(name, data_dir)
    architectures = sorted(set(states["architecture"]))
    if len(architectures) > 1:
        raise InvalidArgument(f"{name} has several architectures: {', '.join(architectures)}")
    layout = find_layout(architectures[0], size)
    return OpenZoo(states, layout, data_dir, images_dir, download, settings)


def _thin_out(
    states: StateTable, settings: Settings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the models and the epochs of at most `settings.states` states, including the last."""
    models = np.arange(states.models)
    if len(models) > settings.states:
        draw = np.random.default_rng(settings.seed).permutation(len(models))
        models = np.sort(draw[: settings.states])
    count = max(1, min(len(states.epochs), settings.states // len(models)))
    places = np.linspace(len(states.epochs) - 1, 0, count).round().astype(np.int64)
    return models, states.epochs[np.unique(places)]
