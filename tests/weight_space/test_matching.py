"""Weight matching, canonical orders, and models whose states share one order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.weight_space.matching import canonical_order, match_models, weight_matching
from model_zoos.weight_space.symmetry import invert, permute, random_permutation

from .layouts import PLAIN, RESNET, random_weights, resnet_weights

seeds = st.integers(0, 2**32 - 1)


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


def test_blocks_of_rows_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 7)
    found, own = weight_matching(weights, weights[0], layout), canonical_order(weights, layout)
    monkeypatch.setattr("model_zoos.weight_space.matching._BLOCK_BYTES", 3 * 8 * layout.size)
    again, same = weight_matching(weights, weights[0], layout), canonical_order(weights, layout)
    assert all((again[name] == found[name]).all() for name in found)
    assert all((same[name] == own[name]).all() for name in own)
    assert weight_matching(weights[:0], weights[0], layout)["fc1"].shape == (0, 20)


def test_pair_by_pair() -> None:
    layout = PLAIN[1]
    weights, others = random_weights(layout, 5), random_weights(layout, 5, seed=1)
    found = weight_matching(weights, others, layout)
    for row in range(5):
        one = weight_matching(weights[row], others[row], layout)
        assert all((found[name][row] == one[name]).all() for name in one)


def test_resnet_is_found_back() -> None:
    generator = np.random.default_rng(0)
    weights = resnet_weights(generator)
    orders = random_permutation(RESNET, generator)
    permuted = permute(weights, RESNET, orders)
    noisy = permuted + 1e-3 * generator.standard_normal(RESNET.size).astype(np.float32)
    for start in (permuted, noisy):
        found = weight_matching(start, weights, RESNET)
        assert all((found[name] == order).all() for name, order in invert(orders).items())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(PLAIN), seeds)
def test_permuted_copies_have_one_canonical_form(layout: Any, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = random_weights(layout, 4, seed=seed)
    permuted = permute(weights, layout, random_permutation(layout, generator, rows=4))
    one = permute(weights, layout, canonical_order(weights, layout))
    other = permute(permuted, layout, canonical_order(permuted, layout))
    assert (one == other).all()
    single = canonical_order(torch.from_numpy(weights[2]), layout)
    assert (permute(weights[2], layout, single) == one[2]).all()


def test_resnet_has_a_canonical_form() -> None:
    generator = np.random.default_rng(1)
    weights = resnet_weights(generator)
    permuted = permute(weights, RESNET, random_permutation(RESNET, generator))
    forms = [permute(w, RESNET, canonical_order(w, RESNET)) for w in (weights, permuted)]
    assert (forms[0] == forms[1]).all()


def test_states_follow_their_last_and_twins_their_parents() -> None:
    """Models a (permuted copies of the reference at its last epoch), b, and a twin of a."""
    layout = PLAIN[0]
    generator = np.random.default_rng(3)
    reference, *drift = random_weights(layout, 4)
    order = random_permutation(layout, generator)
    # The early state and the twin are unlike the reference: alone they would be matched otherwise.
    states = [permute(w, layout, order) for w in (drift[0], reference, drift[1])]
    rows = Dataset.from_dict(
        {
            "weights": [*states, drift[2]],
            "architecture": ["cnn_s"] * 4,
            "zoo": ["z_seed", "z_seed", "z_seed_sparse", "z_seed"],
            "model_id": ["a", "a", "a", "b"],
            "parent_model_id": [None, None, "a", None],
            "epoch": [0, 5, 2, 1],
        }
    )
    found = match_models(rows, reference)
    for name, wanted in invert(order).items():
        assert (found[name][:3] == wanted).all()
    alone = weight_matching(drift[2], reference, layout)
    assert all((found[name][3] == alone[name]).all() for name in alone)
    first = match_models(rows)  # to the last state of the first model, which stays where it is
    assert all((first[name][:3] == np.arange(first[name].shape[1])).all() for name in first)
    without = match_models(rows.remove_columns("parent_model_id"), reference)
    assert any((without[name][2] != found[name][2]).any() for name in found)


def test_refusals() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 3)
    with pytest.raises(ValueError, match="weights must be finite"):
        weight_matching(weights * np.nan, weights[0], layout)
    with pytest.raises(ValueError, match=r"reference for each row must have the shape \(3, 2464\)"):
        weight_matching(weights, weights[:2], layout)
