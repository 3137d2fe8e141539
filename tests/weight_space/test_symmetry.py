"""Permutations of hidden units keep the function, compose and invert."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.builders.layout import make_layout
from model_zoos.weight_space.symmetry import (
    compose,
    hidden_units,
    invert,
    permute,
    random_permutation,
)

from .layouts import PLAIN, RESNET, logits, random_weights, resnet_weights

LAYOUTS = [
    make_layout("cnn_s", 1),
    make_layout("cnn_s", 3, 7),
    make_layout("cnn_l", 3),
    make_layout("1x9x9 fc13:relu fc12:identity fc10", 1),
    make_layout("3x9x9 conv8k3s2p1:silu conv9k3 pool fc7 fc10", 3),
    make_layout("1x9x9 conv8k3s2p1 drop conv9k3 drop gap fc10", 1),
]
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(LAYOUTS), st.sampled_from(["tanh", "relu", "sigmoid", "gelu"]), seeds)
def test_the_function_stays(layout: ..., activation: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = (0.3 * generator.standard_normal(layout.size)).astype(np.float32)
    side = layout.architecture.image_size
    images = torch.from_numpy(
        generator.standard_normal((3, layout.channels, side, side)).astype(np.float32)
    )
    permuted = permute(weights, layout, random_permutation(layout, generator))
    assert (permuted != weights).any()
    assert sorted(permuted) == sorted(weights)
    before = logits(weights, layout.architecture.name, activation, images)
    after = logits(permuted, layout.architecture.name, activation, images)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_function_of_resnet_stays() -> None:
    """Streams, shortcuts and batch-norm statistics go along; float noise is 1e-4 of the logits."""
    generator = np.random.default_rng(0)
    weights = resnet_weights(generator)
    permuted = permute(weights, RESNET, random_permutation(RESNET, generator))
    for slot in RESNET.slots:
        hidden = slot.name not in ("fc.bias",)
        assert (permuted[slot.slice] != weights[slot.slice]).any() == hidden
        assert (np.sort(permuted[slot.slice]) == np.sort(weights[slot.slice])).all()
    images = torch.randn(3, 3, 8, 8)
    before = logits(weights, "resnet18", "relu", images)
    after = logits(permuted, "resnet18", "relu", images)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.std().item())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(LAYOUTS), seeds)
def test_they_compose_and_invert(layout: ..., seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((2, layout.size))
    first, second = (random_permutation(layout, generator) for _ in range(2))
    del second[list(second)[1]]  # a layer that is not named keeps its order
    one_by_one = permute(permute(weights, layout, first), layout, second)
    assert (permute(weights, layout, compose(first, second)) == one_by_one).all()
    assert (permute(permute(weights, layout, first), layout, invert(first)) == weights).all()
    assert (permute(weights, layout, compose(first, invert(first))) == weights).all()


def test_what_moves_where() -> None:
    layout = make_layout("cnn_s", 1)
    assert hidden_units(layout) == {"conv1": 8, "conv2": 6, "conv3": 4, "fc1": 20}
    swap = {"conv3": np.array([1, 0, 2, 3])}
    numbers = torch.arange(layout.size)
    before = layout.to_state_dict(numbers)
    after = layout.to_state_dict(permute(numbers, layout, swap))
    assert (after["conv3.weight"][0] == before["conv3.weight"][1]).all()
    assert after["conv3.bias"][0] == before["conv3.bias"][1]
    # Flattened, channel 1 lies behind the 9 places of channel 0.
    assert (after["fc1.weight"][:, :9] == before["fc1.weight"][:, 9:18]).all()
    for name in ("conv1.weight", "conv2.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
        assert (after[name] == before[name]).all()


def test_refusals() -> None:
    layout = make_layout("cnn_s", 1)
    weights = np.zeros(layout.size)
    with pytest.raises(ValueError, match="'fc2' is no hidden group"):
        permute(weights, layout, {"fc2": np.arange(10)})
    with pytest.raises(ValueError, match="conv1: not a permutation of its 8 units"):
        permute(weights, layout, {"conv1": np.zeros(8, int)})


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(PLAIN), seeds, st.sampled_from(["numpy", "torch"]))
def test_a_permutation_for_each_row(layout: ..., seed: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    weights = random_weights(layout, 4, kind, seed)
    orders = random_permutation(layout, generator, rows=4)
    permuted = permute(weights, layout, orders)
    assert type(permuted) is type(weights)
    for row in range(4):
        own = {name: order[row] for name, order in orders.items()}
        assert (permute(weights[row], layout, own) == permuted[row]).all()
    second = random_permutation(layout, generator)  # one for all rows
    both = permute(permuted, layout, second)
    assert (permute(weights, layout, compose(orders, second)) == both).all()
    assert (permute(permuted, layout, invert(orders)) == weights).all()


def test_blocks_of_rows_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 7)
    orders = random_permutation(layout, np.random.default_rng(0), rows=7)
    whole = permute(weights, layout, orders)
    monkeypatch.setattr("model_zoos.weight_space.symmetry._BLOCK_BYTES", 3 * 8 * layout.size)
    assert (permute(weights, layout, orders) == whole).all()
    assert permute(weights[:0], layout, {n: o[:0] for n, o in orders.items()}).shape == (0, 2464)


def test_refusals_of_rows() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 3)
    orders = random_permutation(layout, np.random.default_rng(0), rows=2)
    with pytest.raises(ValueError, match=r"orders for 2 rows do not fit .* \(3, 2464\)"):
        permute(weights, layout, orders)
