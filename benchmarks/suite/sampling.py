"""New weights from the good models of a zoo, without training.

The models are those of the train split with the best validation accuracy in their last state, since
Schuerholt et al. 2022 ("Hyper-Representations as Generative Models", NeurIPS) sample from the best
30 % of a zoo. They must share one activation, because their weights are mixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from ...builders.layout import Layout
from ...errors import InvalidArgument, TooFewModels
from ...weight_space.combining import sample_kernel_density, uniform_soup
from ...weight_space.matching import weight_matching
from ...weight_space.symmetry import permute
from ..states import read_weights
from .result import FEWEST
from .zoo import OpenZoo

FEWEST_GOOD = 5
"""Minimal number of models to sample from."""

DIMENSIONS = 64
"""Maximal number of principal directions of the subspace."""

VARIANCE = "running_var"
"""Role of a tensor whose values are variances, which must not be negative."""

_ROUNDING = 1e-6
"""Vectors whose distance is at most this share of their length are copies."""

Weights = NDArray[np.float32]
Sampler = Callable[[Weights, Layout, int, int], Weights]
"""Function from good weights [n, N], their layout, a count and a seed to new weights [count, N]."""


@dataclass(frozen=True, eq=False)
class LastStates:
    """The usable last states of some models, and which of them are good.

    Attributes:
        models: number of models in the split, including those that diverged or do not fit into
            memory.
        rows: indices of the rows in the table of all states, [n].
        weights: float32 [n, N].
        good: indices in these of the good states of `activation`, the best first.
        activation: the most frequent activation of the good states.
        chosen_by: the metric by which they are chosen.
        least: the lowest value of it among the good states.
    """

    models: int
    rows: NDArray[np.int64]
    weights: Weights
    good: NDArray[np.int64]
    activation: str
    chosen_by: str
    least: float

    @property
    def good_weights(self) -> Weights:
        """Weights of the good states, float32 [good, N]."""
        return self.weights[self.good]


def last_states(zoo: OpenZoo) -> LastStates:
    """Read the last states of the train split.

    Raises:
        TooFewModels: fewer than `FEWEST_GOOD` are good.
        InvalidArgument: the source does not state the models' activation.
    """
    rows, weights = read_last(zoo, "train")
    states, count = zoo.states, len(rows)
    chosen_by = "val_acc" if np.isfinite(states["val_acc"][rows]).all() else "train_acc"
    score = states[chosen_by][rows]
    order = np.argsort(-score, kind="stable")
    best = order[: round(zoo.settings.good * count)]
    kinds = Counter(states["activation"][rows[best]].tolist())
    if None in kinds:
        raise InvalidArgument("the source does not say the models' activation")
    activation = min(kinds, key=lambda kind: (-kinds[kind], kind), default="")
    good = best[states["activation"][rows[best]] == activation]
    if len(good) < FEWEST_GOOD:
        raise TooFewModels(
            f"of {count} last states in train, {len(good)} are good ones of one activation "
            f"({activation or 'none'}): at least {FEWEST_GOOD} are needed"
        )
    models = len(set(states.model[states["split"] == "train"].tolist()))
    return LastStates(models, rows, weights, good, activation, chosen_by, float(score[good].min()))


def read_last(zoo: OpenZoo, split: str) -> tuple[NDArray[np.int64], Weights]:
    """Return row indices and weights of the usable last states of a split, as many as fit."""
    states, settings = zoo.states, zoo.settings
    rows = states.final[states["split"][states.final] == split]
    models = np.random.default_rng(settings.seed).permutation(states.model[rows])
    models = models[: max(2, settings.weights_bytes // (4 * zoo.layout.size))]
    found, weights = read_weights(states, models, states.epochs[-1:], zoo.data_dir)
    kept = (np.abs(weights).max(axis=1) <= settings.max_weight) & ~states.diverged[found]
    return found[kept], weights[kept]


def sample(zoo: OpenZoo, method: str, last: LastStates, count: int) -> Weights:
    """Return new weights by one method of `SAMPLERS`; they are always the same."""
    return SAMPLERS[method](last.good_weights, zoo.layout, count, zoo.settings.seed)


def distinct(new: Weights) -> int:
    """Return the number of vectors that are not copies of an earlier one, up to rounding."""
    if len(new) < 2:
        return len(new)
    limits = _ROUNDING * np.linalg.norm(new, axis=1, keepdims=True)
    copies = np.tril(squareform(pdist(new)) <= limits, -1).any(axis=1)
    return int((~copies).sum())


def about_copies(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return a sentence for each method with so many copies that there is no interval.

    Args:
        counts: method -> number of vectors that are not copies, and of all.
    """
    return [
        f"{method}: {differ} of {drawn} vectors differ, too few for an interval."
        for method, (differ, drawn) in counts.items()
        if differ < FEWEST <= drawn
    ]


def about_variances(layout: Layout) -> dict[str, str]:
    """Return the setting that states how variances are treated, if the layout has some."""
    return {"variances": "at least the lowest of good models"} if _variances(layout) else {}


# --- Methods --------------------------------------------------------------------------------------


def _noise(share: float) -> Sampler:
    """Return a sampler: a good state plus Gaussian noise, a share of each tensor's deviation."""

    def draw(good: Weights, layout: Layout, count: int, seed: int) -> Weights:
        generator = np.random.default_rng(seed)
        new = good[generator.integers(len(good), size=count)]
        for slot in layout.slots:
            part = new[:, slot.slice]
            deviation = share * part.std(axis=1, keepdims=True)
            part += deviation * generator.standard_normal(part.shape, np.float32)
        return _raise_variances(new, good, layout)

    return draw


def _soup(models: int, matched: bool = False) -> Sampler:
    """Return a sampler: the mean of good states; if `matched`, in the unit order of the first."""

    def draw(good: Weights, layout: Layout, count: int, seed: int) -> Weights:
        generator = np.random.default_rng(seed)
        new = []
        for _ in range(count):
            chosen = good[generator.permutation(len(good))[:models]]
            if matched:
                orders = weight_matching(chosen[1:], chosen[0], layout)
                others = permute(chosen[1:], layout, orders)
                chosen = np.concatenate([chosen[:1], np.asarray(others)])
            new.append(uniform_soup(chosen))
        return np.stack(new)

    return draw


def _density(good: Weights, layout: Layout, count: int, seed: int) -> Weights:
    """Return samples of a kernel density of each weight."""
    return _raise_variances(sample_kernel_density(good, count, seed=seed), good, layout)


def _subspace_density(good: Weights, layout: Layout, count: int, seed: int) -> Weights:
    """Return samples of a kernel density of each principal component of the good states.

    The components, scaled to deviation 1, replace the learned representation of the publication.
    The bandwidth is Scott's, n^(-1/5) (Scott 1992, "Multivariate Density Estimation").
    """
    mean = good.mean(axis=0, dtype=np.float64)
    # n is far below N, so the directions are computed from the inner products of the rows.
    centred = good - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    kept = np.argsort(-values)[: min(DIMENSIONS, len(good) - 1)]
    kept = kept[values[kept] > 1e-10 * values.max()]
    components = vectors[:, kept] * np.sqrt(len(good))  # of deviation 1
    directions = centred.T @ vectors[:, kept] / np.sqrt(len(good))
    bandwidth = float(len(good)) ** -0.2
    drawn = sample_kernel_density(components, count, bandwidth=bandwidth, seed=seed)
    new = (mean + drawn @ directions.T).astype(np.float32)
    return _raise_variances(new, good, layout)


def _variances(layout: Layout) -> list[slice]:
    """Return the slices of the running variances of a layout; only batch normalisation has some."""
    return [roles[VARIANCE].slice for roles in layout.layers.values() if VARIANCE in roles]


def _raise_variances(new: Weights, good: Weights, layout: Layout) -> Weights:
    """Raise each running variance to at least the lowest one of the good states; return the
    weights.

    With a negative variance, the outputs of a network are NaN; with one near 0, they are far too
    large.
    """
    for place in _variances(layout):
        np.maximum(new[:, place], good[:, place].min(axis=0), out=new[:, place])
    return new


SAMPLERS: Mapping[str, Sampler] = {
    "noise 0.1": _noise(0.1),
    "noise 0.5": _noise(0.5),
    "soup of 2": _soup(2),
    "soup of 2, matched": _soup(2, matched=True),
    "soup of 5": _soup(5),
    "density of weights": _density,
    "density in a subspace": _subspace_density,
}
"""The methods; see docs/suite.md for each."""
