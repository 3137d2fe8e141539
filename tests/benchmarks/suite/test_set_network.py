"""The set network: it does not see the order of hidden units, and learns what depends on none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from model_zoos import permute, random_permutation
from model_zoos.benchmarks.suite import set_network
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import Layout, make_layout


def some(layout: Layout, rows: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, layout.size), np.float32)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_network, "PASS_ROWS", (16, 16))


LAYOUTS = {
    "cnn_s": get_zoo("digits_cnn_s").layout,
    "colour": get_zoo("cifar10_cnn_s_seed").layout,
    "cnn_l": make_layout("cnn_l", 3, 10),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_permuted_units_have_the_same_prediction(name: str) -> None:
    layout = LAYOUTS[name]
    weights, values = some(layout, 12), np.random.default_rng(1).random((12, 2))
    predict = set_network.fit(weights[:8], values[:8], weights[8:], values[8:], layout, passes=1)
    order = random_permutation(layout, np.random.default_rng(2))
    permuted = permute(weights, layout, order)
    assert np.abs(permuted - weights).max() > 0.1
    np.testing.assert_allclose(predict(permuted), predict(weights), rtol=0, atol=1e-5)
    assert np.ptp(predict(weights), axis=0).min() > 0


@pytest.mark.slow
def test_it_learns_what_does_not_depend_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PASS_ROWS": (512, 512), "BATCH": 32, "RATE": 5e-3}.items():
        monkeypatch.setattr(set_network, name, value)
    layout = LAYOUTS["cnn_s"]
    weights, values = some(layout, 240), np.random.default_rng(1).uniform(-1, 1, (240, 2))
    bias, kernel = layout.slots[1], layout.slots[2]
    weights[:, bias.slice] += values[:, :1]
    weights[:, kernel.slice] *= np.exp(values[:, 1:])
    predict = set_network.fit(
        weights[:160], values[:160], weights[160:200], values[160:200], layout, passes=6
    )
    found = predict(weights[200:])
    for number in range(2):
        assert kendalltau(values[200:, number], found[:, number]).statistic > 0.5


def test_it_leaves_torchs_random_numbers_alone_and_repeats_itself() -> None:
    layout = LAYOUTS["cnn_s"]
    weights, values = some(layout, 12), np.random.default_rng(1).random((12, 1))
    state, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        predict = set_network.fit(
            weights[:8], values[:8], weights[8:], values[8:], layout, passes=1, seed=seed
        )
        found.append(predict(weights))
        torch.manual_seed(torch.initial_seed())  # another state of torch's own stream
        torch.set_rng_state(state)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
