"""Permutations of hidden units keep the function, compose and invert."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.weight_space.symmetry import (
    compose,
    hidden_units,
    invert,
    permute,
    random_permutation,
)

LAYOUTS = [
    make_layout("cnn_s", 1),
    make_layout("cnn_s", 3, 7),
    make_layout("cnn_l", 3),
    make_layout("1x9x9 fc13:relu fc12:identity fc10", 1),
    make_layout("3x9x9 conv8k3s2p1:silu conv9k3 pool fc7 fc10", 3),
    make_layout("1x9x9 conv8k3s2p1 drop conv9k3 drop gap fc10", 1),
]
seeds = st.integers(0, 2**32 - 1)


def logits(weights: np.ndarray, architecture: str, activation: str, images: torch.Tensor) -> ...:
    row = {"architecture": architecture, "activation": activation, "weights": weights}
    with torch.inference_mode():
        return model_zoos.instantiate(row)(images)


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
    with pytest.raises(ValueError, match="'fc2' is no hidden layer"):
        permute(weights, layout, {"fc2": np.arange(10)})
    with pytest.raises(ValueError, match="conv1: not a permutation of its 8 units"):
        permute(weights, layout, {"conv1": np.zeros(8, int)})
    with pytest.raises(ValueError, match="not ResNet-18"):
        random_permutation(make_layout("resnet18", 3), np.random.default_rng(0))
