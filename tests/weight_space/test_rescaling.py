"""Signs and scales of units keep the function where the activation allows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.builders import hyperparameters
from model_zoos.builders.layout import make_layout
from model_zoos.generation.networks import make_activation
from model_zoos.weight_space.rescaling import random_factors, rescale

from .layouts import KINDS, PLAIN, RESNET, logits, random_weights, resnet_weights

LAYOUTS = [
    *PLAIN,
    make_layout("1x9x9 fc13:relu fc12:identity fc10", 1),
    make_layout("3x9x9 conv8k3s2p1:tanh conv9k3:identity pool fc7 fc10", 3),
    make_layout("1x9x9 conv8k3s2p1 drop conv9k3:leaky_relu drop gap fc10", 1),
]
seeds = st.integers(0, 2**32 - 1)


def test_the_tables_of_activations() -> None:
    """Found by torch itself: which are odd, and which are homogeneous."""
    x = torch.linspace(-3, 3, 101)
    for name in hyperparameters.ACTIVATIONS:
        f = make_activation(name)
        assert torch.allclose(f(-x), -f(x), atol=1e-6) == (name in hyperparameters.ODD)
        assert torch.allclose(f(2.5 * x), 2.5 * f(x)) == (name in hyperparameters.HOMOGENEOUS)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from(sorted(hyperparameters.ACTIVATIONS)),
    st.sampled_from([1.0, 1.5, 4.0]),
    seeds,
)
def test_the_function_stays(layout: Any, activation: str, scales: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = (0.3 * generator.standard_normal(layout.size)).astype(np.float32)
    factors = random_factors(layout, activation, generator, scales=scales)
    changed = rescale(weights, layout, factors, activation)
    assert changed.dtype == np.float32
    side = layout.architecture.image_size
    images = torch.from_numpy(generator.standard_normal((3, layout.channels, side, side)))
    name = layout.architecture.name
    before, after = (logits(w, name, activation, images.float()) for w in (weights, changed))
    torch.testing.assert_close(
        after, before, rtol=1e-4, atol=1e-4 * (1 + before.abs().max().item())
    )
    if scales == 1:
        assert (np.abs(changed) == np.abs(weights)).all()
        inverse = rescale(changed, layout, factors, activation)
        assert (inverse == weights).all()


@pytest.mark.parametrize(
    ("activation", "moved", "still"),
    [("tanh", {"conv3", "fc1"}, {"conv1", "conv2"}), ("sigmoid", set(), {"conv3", "fc1"})],
)
def test_who_may_change_its_sign(activation: str, moved: set[str], still: set[str]) -> None:
    """A maximum over places has no sign to change: conv1 and conv2 of CNN-s are pooled."""
    factors = random_factors(PLAIN[0], activation, np.random.default_rng(0), scales=3.0)
    assert all((factors[name] == -1).any() and (abs(factors[name]) == 1).all() for name in moved)
    assert all((factors[name] == 1).all() for name in still)
    relu = random_factors(PLAIN[0], "relu", np.random.default_rng(0), scales=3.0)
    assert all(((f > 1 / 3) & (f < 3) & (f != 1)).all() for f in relu.values())


def test_resnet_scales_through_its_norms() -> None:
    generator = np.random.default_rng(0)
    weights = resnet_weights(generator)
    factors = random_factors(RESNET, "relu", generator, scales=2.0)
    changed = rescale(weights, RESNET, factors, "relu")
    images = torch.randn(3, 3, 8, 8)
    before, after = (logits(w, "resnet18", "relu", images) for w in (weights, changed))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * before.std().item())
    tensors, given = RESNET.to_state_dict(changed), RESNET.to_state_dict(weights)
    assert (tensors["layer1.0.bn1.weight"] != given["layer1.0.bn1.weight"]).all()
    for role in ("running_mean", "running_var"):
        assert (tensors[f"layer1.0.bn1.{role}"] == given[f"layer1.0.bn1.{role}"]).all()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(PLAIN), st.sampled_from(KINDS), seeds)
def test_factors_for_each_row(layout: Any, kind: str, seed: int) -> None:
    weights = random_weights(layout, 4, kind)
    names = ["tanh", "relu", "gelu", "identity"]
    factors = random_factors(layout, names, np.random.default_rng(seed), rows=4, scales=2.0)
    changed = rescale(weights, layout, factors, names)
    assert type(changed) is type(weights)
    for row, name in enumerate(names):
        own = {group: factor[row] for group, factor in factors.items()}
        assert (rescale(weights[row], layout, own, name) == changed[row]).all()


def test_gradients_flow() -> None:
    weights = random_weights(PLAIN[0], 2, "torch").requires_grad_()
    factors = random_factors(PLAIN[0], "relu", np.random.default_rng(0), rows=2, scales=2.0)
    rescale(weights, PLAIN[0], factors, "relu").sum().backward()
    ones = rescale(torch.ones_like(weights), PLAIN[0], factors, "relu")
    assert torch.equal(weights.grad, ones)


def test_refusals() -> None:
    layout, weights = PLAIN[0], random_weights(PLAIN[0], 2)
    minus, two = -np.ones(20), np.full(20, 2.0)
    for factors, activation, message in (
        ({"fc1": minus}, "relu", "change the function"),
        ({"fc1": two}, "tanh", "change the function"),
        ({"fc1": 0 * two}, "relu", "change the function"),
        ({"conv1": -np.ones(8)}, "tanh", "change the function"),
        ({"fc1": two[1:]}, "relu", "a finite factor for each of its 20 units"),
        ({"fc2": np.ones(10)}, "relu", "'fc2' is no hidden group"),
        ({"fc1": np.ones((3, 20))}, "relu", "factors for 3 rows do not fit"),
        ({"fc1": two}, "ReLU", "unknown activation 'ReLU'"),
        ({"fc1": two}, ["relu"] * 3, "one for each of 2 rows, found 3"),
    ):
        with pytest.raises(ValueError, match=message):
            rescale(weights, layout, factors, activation)
    for integers in (np.ones((2, layout.size), np.int8), torch.ones(2, layout.size).long()):
        with pytest.raises(ValueError, match=r"must be floating-point numbers, found .*int"):
            rescale(integers, layout, {"fc1": two}, "relu")
    with pytest.raises(ValueError, match="unknown activation 'Tanh'"):
        random_factors(layout, "Tanh", 0)
    with pytest.raises(ValueError, match="one for each of 5 rows, found 3"):
        random_factors(layout, ["tanh"] * 3, 0, rows=5)
    with pytest.raises(ValueError, match="at least 1"):
        random_factors(layout, "relu", np.random.default_rng(0), scales=0.5)
