"""Permutations of hidden units keep the function, compose and invert."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.weight_space.symmetry import (
    PermuteUnits,
    compose,
    hidden_units,
    invert,
    permute,
    random_permutation,
    weight_matching,
)

from .layouts import PLAIN, RESNET, random_weights

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
    whole, found = permute(weights, layout, orders), weight_matching(weights, weights[0], layout)
    monkeypatch.setattr("model_zoos.weight_space.symmetry._BLOCK_BYTES", 3 * 8 * layout.size)
    assert (permute(weights, layout, orders) == whole).all()
    again = weight_matching(weights, weights[0], layout)
    assert all((again[name] == found[name]).all() for name in found)
    assert permute(weights[:0], layout, {n: o[:0] for n, o in orders.items()}).shape == (0, 2464)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(PLAIN), seeds)
def test_permuted_models_are_found_back_exactly(layout: ..., seed: int) -> None:
    generator = np.random.default_rng(seed)
    reference = random_weights(layout, 1, seed=seed)[0]
    copies = np.repeat(reference[None], 5, axis=0)
    orders = random_permutation(layout, generator, rows=5)
    permuted = permute(copies, layout, orders)
    found = weight_matching(permuted, reference, layout)
    assert (permute(permuted, layout, found) == reference).all()
    expected = invert(orders)
    assert all((found[name] == expected[name]).all() for name in expected)
    one = weight_matching(torch.from_numpy(permuted[0]), torch.from_numpy(reference), layout)
    assert all((one[name] == expected[name][0]).all() for name in expected)


def test_matching_never_goes_away_from_the_reference() -> None:
    """Noise beside a permutation is seen through; unrelated models come closer."""
    layout = PLAIN[0]
    generator = np.random.default_rng(0)
    reference, *others = random_weights(layout, 6)
    noisy = reference + 0.3 * np.stack(others)
    orders = random_permutation(layout, generator, rows=5)
    found = weight_matching(permute(noisy, layout, orders), reference, layout)
    assert all((found[name] == invert(orders)[name]).all() for name in found)
    matched = permute(np.stack(others), layout, weight_matching(others, reference, layout))
    before = np.square(others - reference).sum(axis=1)
    assert (np.square(matched - reference).sum(axis=1) < before).all()


def test_workers_permute_each_row_differently() -> None:
    layout = PLAIN[0]
    weights = np.repeat(random_weights(layout, 1), 8, axis=0)
    rows = Dataset.from_dict({"weights": list(weights), "test_acc": np.arange(8.0)})
    augmented = rows.with_transform(PermuteUnits(layout))
    torch.manual_seed(0)
    batches = list(DataLoader(augmented, batch_size=4, num_workers=2))
    seen = torch.cat([batch["weights"] for batch in batches])
    assert torch.cat([batch["test_acc"] for batch in batches]).tolist() == list(range(8))
    assert len({vector.numpy().tobytes() for vector in seen}) == 8
    assert (seen.sort(dim=1).values == torch.from_numpy(weights).sort(dim=1).values).all()
    torch.manual_seed(0)
    again = torch.cat([b["weights"] for b in DataLoader(augmented, batch_size=4, num_workers=2)])
    assert torch.equal(again, seen)
    stream = rows.to_iterable_dataset(num_shards=2).with_format("numpy")
    streamed = stream.map(PermuteUnits(layout), batched=True, batch_size=2)
    batches = list(DataLoader(streamed, batch_size=4, num_workers=2))
    seen = torch.cat([batch["weights"] for batch in batches])
    assert len({vector.numpy().tobytes() for vector in seen}) == 8
    with pytest.raises(ValueError, match="have no weights"):
        rows.select_columns("test_acc").with_transform(PermuteUnits(layout))[0]


def test_refusals_of_rows() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 3)
    orders = random_permutation(layout, np.random.default_rng(0), rows=2)
    with pytest.raises(ValueError, match=r"orders for 2 rows do not fit .* \(3, 2464\)"):
        permute(weights, layout, orders)
    with pytest.raises(ValueError, match="weights must be finite"):
        weight_matching(weights * np.nan, weights[0], layout)
    with pytest.raises(ValueError, match="reference must be finite"):
        weight_matching(weights, weights, layout)
    with pytest.raises(ValueError, match="not ResNet-18"):
        PermuteUnits(RESNET)
