"""Scores of predictions, and their bootstrap intervals over models.

The states of one model are not independent, so models are drawn, not rows: intervals over rows
would be far too narrow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""Bootstrap samples."""

FEWEST_MODELS = 10
"""With fewer models a bootstrap interval is far too narrow, so there is none."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]
"""A 95 % interval; NaN with fewer than FEWEST_MODELS, or where too few samples have a score."""

UNKNOWN: Interval = (np.nan, np.nan)


def r2(truth: Floats, prediction: Floats) -> Floats:
    """Return R2 along the first axis: 1 - residual / total sum of squares.

    The total is taken around the mean of these rows, so 0 is as good as their mean.
    """
    residual = ((truth - prediction) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - residual / total


def number_intervals(
    truth: Floats, prediction: Floats, model: NDArray[np.int64]
) -> tuple[Interval, Interval]:
    """Return the intervals of R2 and of Kendall's tau-b.

    Args:
        truth, prediction: [rows].
        model: number of each row's model, [rows]: 0, 1, ... in this order.
    """
    if (models := int(model[-1]) + 1) < FEWEST_MODELS:
        return UNKNOWN, UNKNOWN
    weights = resamples(models)
    starts = np.flatnonzero(np.diff(model, prepend=-1))
    centred = truth - truth.mean()
    parts = np.stack([np.ones(len(truth)), centred, centred**2, (truth - prediction) ** 2], axis=1)
    count, total, squares, residual = (weights @ np.add.reduceat(parts, starts)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_samples = 1 - residual / (squares - total**2 / count)
        # tau-b is a ratio of sums over pairs of rows, thus over pairs of models by their counts.
        agree, in_truth, in_prediction = (
            ((weights @ pairs) * weights).sum(axis=1) for pairs in _pairs(truth, prediction, starts)
        )
        tau_samples = agree / np.sqrt(in_truth * in_prediction)
    return _interval(r2_samples), _interval(tau_samples)


def share_interval(hits: NDArray[np.bool_], model: NDArray[np.int64]) -> Interval:
    """Return the interval of a share of rows.

    Args:
        hits: whether each row counts, [rows].
        model: number of each row's model, [rows].
    """
    present, model = np.unique(model, return_inverse=True)
    if len(present) < FEWEST_MODELS:
        return UNKNOWN
    weights = resamples(len(present))
    right, count = (np.bincount(model, w) for w in (hits, np.ones(len(model))))
    return _interval((weights @ right) / (weights @ count))


def resamples(models: int) -> Floats:
    """Return how often each sample holds each model, [RESAMPLES, models]; always the same draws."""
    generator = np.random.default_rng(0)
    return generator.multinomial(models, np.full(models, 1 / models), RESAMPLES).astype(np.float64)


def _pairs(truth: Floats, prediction: Floats, starts: NDArray[np.int64]) -> Floats:
    """Return three sums over the pairs of rows of two models, [3, models, models].

    The sums are concordant less discordant pairs, pairs that differ in truth, and pairs that differ
    in prediction.
    """
    sums = np.empty((3, len(starts), len(starts)))
    ends = [*starts[1:], len(truth)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        a, b = (
            (v[start:end, None] > v).view(np.int8) - (v[start:end, None] < v).view(np.int8)
            for v in (truth, prediction)
        )
        for total, signs in zip(sums, (a * b, a * a, b * b), strict=True):
            total[number] = np.add.reduceat(signs.sum(axis=0, dtype=np.int64), starts)
    return sums


def _interval(samples: Floats) -> Interval:
    finite = samples[np.isfinite(samples)]
    if len(finite) < RESAMPLES / 2:
        return UNKNOWN
    low, high = np.percentile(finite, (2.5, 97.5))
    return (float(low), float(high))
