"""Scores of predictions, and their bootstrap intervals over models.

The states of one model are not independent, so samples are drawn from models, not rows: intervals
over rows would be far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

RESAMPLES = 1000
"""Bootstrap samples."""

FEWEST_MODELS = 10
"""With fewer models, a bootstrap interval is far too narrow, so none is given."""

_COUNTS = 4 << 20
"""Limit of the counts (samples times models) that are in memory at a time."""

_FEW = 512
"""Number of rows whose pairs are compared one by one. Their counts are exact in float32."""

_GROUPS = 256
"""Number of groups of equal rows that are counted at a time."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]
"""A 95 % interval; NaN with fewer than FEWEST_MODELS, or if too few samples have a score."""

UNKNOWN: Interval = (np.nan, np.nan)


def r2(truth: Floats, prediction: Floats) -> Floats:
    """Return R2 along the first axis: 1 - residual / total sum of squares.

    The total is taken around the mean of these rows, so predicting their mean scores 0.
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
        model: index of each row's model, int64 [rows], ascending from 0 without gaps.
    """
    if (models := int(model[-1]) + 1) < FEWEST_MODELS:
        return UNKNOWN, UNKNOWN
    starts = np.flatnonzero(np.diff(model, prepend=-1))
    centred = truth - truth.mean()
    parts = np.stack([np.ones(len(truth)), centred, centred**2, (truth - prediction) ** 2], axis=1)
    of_model = np.add.reduceat(parts, starts)
    r2_samples, tau_samples = [], []
    for weights in resamples(models):
        count, total, squares, residual = (weights @ of_model).T
        with np.errstate(divide="ignore", invalid="ignore"):
            r2_samples.append(1 - residual / (squares - total**2 / count))
        tau_samples.append(kendall_tau(truth, prediction, model, weights))
    return _interval(r2_samples), _interval(tau_samples)


def share_interval(hits: NDArray[np.bool_], model: NDArray[np.int64]) -> Interval:
    """Return the interval of a share of rows.

    Args:
        hits: whether each row counts, [rows].
        model: index of each row's model, [rows].
    """
    present, model = np.unique(model, return_inverse=True)
    if len(present) < FEWEST_MODELS:
        return UNKNOWN
    right, count = (np.bincount(model, w) for w in (hits, np.ones(len(model))))
    return _interval([(weights @ right) / (weights @ count) for weights in resamples(len(present))])


def resamples(models: int) -> Iterator[Floats]:
    """Yield how often each bootstrap sample contains each model, float64 [samples, models].

    There are RESAMPLES samples in all; if there are many models, they come in blocks. The draws
    are always the same.
    """
    generator = np.random.default_rng(0)
    step = max(1, _COUNTS // models)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        yield generator.multinomial(models, np.full(models, 1 / models), size).astype(np.float64)


def kendall_tau(
    truth: Floats, prediction: Floats, model: NDArray[np.int64], weights: Floats
) -> Floats:
    """Return Kendall's tau-b of each sample, [samples]; NaN if truth or prediction is constant.

    As in Knight's algorithm (1966), pairs of rows are counted by their ties and inversions, in
    O(rows log(rows)) for each sample. All counts are exact.

    Args:
        truth, prediction: [rows].
        model: index of each row's model, [rows].
        weights: how often each sample contains each model, integers [samples, models].
    """
    order = np.lexsort((prediction, truth))
    truth, prediction, model = truth[order], prediction[order], model[order]
    by_prediction = np.argsort(prediction, kind="stable")
    place = np.empty_like(order)
    place[by_prediction] = np.arange(len(order))
    counts = np.ascontiguousarray(weights.T)
    total = (np.bincount(model, minlength=len(counts)) @ counts) ** 2
    in_truth = _ties(model, counts, truth)
    in_prediction = _ties(model[by_prediction], counts, prediction[by_prediction])
    in_both = _ties(model, counts, truth, prediction)
    # Of the ordered pairs that differ in both, twice the number of inversions are discordant.
    agree = total - in_truth - in_prediction + in_both - 4 * _inversions(place, model, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return agree / np.sqrt((total - in_truth) * (total - in_prediction))


def _ties(model: NDArray[np.int64], counts: Floats, *columns: Floats) -> Floats:
    """Return the number of ordered pairs of rows that are equal in all columns, [samples].

    Args:
        model: index of each row's model, [rows].
        counts: how often each sample contains each model, [models, samples].
        columns: [rows] each; rows that are equal in all of them are neighbours.
    """
    new = np.ones(len(model), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    alone = new & np.append(new[1:], True)
    pairs = np.bincount(model[alone], minlength=len(counts)) @ counts**2
    tied, first = model[~alone], np.flatnonzero(new[~alone])
    for block in range(0, len(first), _GROUPS):
        bounds = np.append(first, len(tied))[block : block + _GROUPS + 1]
        group = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        of_group = _totals(group, tied[bounds[0] : bounds[-1]], counts, len(bounds) - 1)
        pairs += (of_group**2).sum(axis=0)
    return pairs


def _inversions(place: NDArray[np.int64], model: NDArray[np.int64], counts: Floats) -> Floats:
    """Return the number of pairs of rows i < j with place[i] > place[j], [samples].

    The rows are cut into strips by their order, and again by their place. A running sum over the
    cells of this grid counts the pairs that share neither strip. Each single strip is the same
    problem with fewer rows.

    Args:
        place: different numbers, [rows].
        model: index of each row's model, [rows].
        counts: how often each sample contains each model, [models, samples].
    """
    rows, samples = len(place), counts.shape[1]
    if rows <= _FEW:
        inverted = np.triu(place[:, None] > place).astype(np.float32)
        of_row = counts[model].astype(np.float32)
        return (inverted @ of_row * of_row).sum(axis=0, dtype=np.float64)
    strips = math.isqrt(rows)
    strip = np.arange(rows) * strips // rows
    bounds = np.searchsorted(strip, np.arange(strips + 1))
    by_place = np.argsort(place)
    place_strip = np.empty_like(strip)
    place_strip[by_place] = strip
    found, above = np.zeros(samples), np.zeros((strips, samples))
    for start, end in pairwise(bounds):
        rows_here = slice(start, end)
        found += _inversions(place[rows_here], model[rows_here], counts)
        cells = _totals(place_strip[rows_here], model[rows_here], counts, strips)
        found += np.einsum("ps,ps->s", cells, above)
        higher = np.zeros(samples)
        for number in range(strips - 1, 0, -1):
            higher += cells[number]
            above[number - 1] += higher
        # Rows of one strip ascend here, since their pairs are counted already.
        same_place = by_place[rows_here]
        same_place = same_place[np.argsort(strip[same_place], kind="stable")]
        found += _inversions(place[same_place], model[same_place], counts)
    return found


def _totals(
    group: NDArray[np.int64], model: NDArray[np.int64], counts: Floats, groups: int
) -> Floats:
    """Return the number of rows of each group in each sample, [groups, samples]."""
    rows = csr_array((np.ones(len(group)), (group, model)), (groups, len(counts)))
    return rows @ counts


def _interval(samples: Sequence[Floats]) -> Interval:
    values = np.concatenate(samples)
    finite = values[np.isfinite(values)]
    if len(finite) < RESAMPLES / 2:
        return UNKNOWN
    low, high = np.percentile(finite, (2.5, 97.5))
    return (float(low), float(high))
