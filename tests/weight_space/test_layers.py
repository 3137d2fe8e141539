"""Layers: exact both ways, as the networks name them, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import model_zoos
from model_zoos.errors import InvalidArgument
from model_zoos.generation.networks import build
from model_zoos.weight_space.layers import from_layers, stacked_state_dict, to_layers

from .layouts import ALL, KINDS, PLAIN, RESNET, random_weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ALL, ids=str)
def test_there_and_back(layout: ..., kind: str) -> None:
    weights = random_weights(layout, 4, kind)
    layers = to_layers(weights, layout)
    assert list(layers) == list(layout.layers)
    back = from_layers(layers, layout)
    assert type(back) is type(weights)
    assert np.asarray(back).tobytes() == np.asarray(weights).tobytes()
    one = to_layers(weights[1], layout)
    for name, roles in layers.items():
        for role, tensor in roles.items():
            slot = layout.layers[name][role]
            assert tuple(tensor.shape) == (len(weights), *slot.shape)
            assert (one[name][role] == tensor[1]).all()
    assert (from_layers(one, layout) == weights[1]).all()


@pytest.mark.parametrize("layout", PLAIN, ids=str)
def test_layers_of_rows_collate_to_layers_of_a_batch(layout: ...) -> None:
    weights = random_weights(layout, 3, "torch")
    batch = default_collate([to_layers(vector, layout) for vector in weights])
    assert torch.equal(from_layers(batch, layout), weights)


@pytest.mark.parametrize("layout", [*PLAIN[:4], RESNET], ids=str)
def test_vmap_runs_every_network(layout: ...) -> None:
    weights = 0.05 * random_weights(layout, 3).__abs__()
    side = layout.architecture.image_size or 32
    images = torch.randn(2, layout.channels, side, side)
    network = build(layout, "tanh").eval()
    tensors = stacked_state_dict(weights, layout)
    run = torch.vmap(lambda one: torch.func.functional_call(network, one, (images,)))
    row = {"architecture": layout.architecture.name, "activation": "tanh"}
    with torch.inference_mode():
        each = [model_zoos.instantiate({**row, "weights": w})(images) for w in weights]
    torch.testing.assert_close(run(tensors).detach(), torch.stack(each), rtol=1e-4, atol=1e-4)


def test_gradients_arrive_at_the_vectors() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 2, "torch").requires_grad_()
    from_layers(to_layers(weights, layout), layout).square().sum().backward()
    assert torch.equal(weights.grad, 2 * weights.detach())


def test_refusals() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 2)
    with pytest.raises(InvalidArgument, match=r"2,464.*found shape \(2, 2463\)"):
        to_layers(weights[:, 1:], layout)
    with pytest.raises(InvalidArgument, match="found list"):
        to_layers(weights.tolist(), layout)
    layers = to_layers(weights, layout)
    with pytest.raises(InvalidArgument, match=r"no fc2\.bias"):
        from_layers({**layers, "fc2": {"weight": layers["fc2"]["weight"]}}, layout)
    layers["fc1"]["bias"] = layers["fc1"]["bias"][:, :1]
    with pytest.raises(
        InvalidArgument, match=r"fc1.bias: expected shape .2, 20., found (.2, 1.|.1, 20.)"
    ):
        from_layers(layers, layout)
