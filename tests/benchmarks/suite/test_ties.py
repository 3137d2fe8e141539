"""The highest tau-b, against all orders of few values and scipy's tau-b."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

from model_zoos.benchmarks.suite.ties import tau_ceiling


@pytest.mark.parametrize(
    "truth",
    [[1, 2, 3], [1, 1, 2], [1, 1, 2, 2], [3, 1, 1, 1, 2], [1, 1, 1, 1, 2, 2], [5.5, 5.5, 0]],
)
def test_no_order_is_better_and_one_is_as_good(truth: list[float]) -> None:
    orders = itertools.permutations(range(len(truth)))
    best = max(kendalltau(truth, order).statistic for order in orders)
    assert tau_ceiling(truth) == pytest.approx(best, abs=1e-12)


def test_of_many_rows() -> None:
    truth = np.random.default_rng(0).integers(0, 50, 20_000)
    best = np.argsort(np.argsort(truth, kind="stable"))
    assert tau_ceiling(truth) == pytest.approx(kendalltau(truth, best).statistic, abs=1e-12)


@pytest.mark.parametrize("truth", [[1, 1, 1], [1], []])
def test_a_constant_truth_has_none(truth: list[float]) -> None:
    assert np.isnan(tau_ceiling(truth))
