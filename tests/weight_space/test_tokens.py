"""Tokens: exact inverse at every width, and what the mask and the positions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.errors import InvalidArgument
from model_zoos.weight_space.tokens import from_tokens, longest_channel, to_tokens, token_windows

from .layouts import ALL, KINDS, PLAIN, random_weights


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PLAIN), st.integers(1, 1200), st.sampled_from(KINDS), st.integers(1, 3))
def test_there_and_back(layout: ..., width: int, kind: str, rows: int) -> None:
    weights = random_weights(layout, rows, kind)
    tokens, mask, positions = map(np.asarray, made := to_tokens(weights, layout, width))
    back = from_tokens(made.tokens, layout)
    assert type(back) is type(weights) is type(made.mask)
    assert np.asarray(back).tobytes() == np.asarray(weights).tobytes()
    assert tokens.shape == (rows, len(mask), width)
    # What the mask names are the weights, each once; the padding is 0.
    assert (np.sort(tokens[:, mask], axis=1) == np.sort(np.asarray(weights), axis=1)).all()
    assert not tokens[:, ~mask].any()
    assert (positions[:, 0] == np.arange(len(mask))).all()
    assert mask.any(axis=1).all()


@pytest.mark.parametrize("layout", ALL, ids=str)
def test_a_token_is_a_channel(layout: ...) -> None:
    weights = random_weights(layout, 1)
    width = longest_channel(layout) if layout.size < 10**6 else 600
    tokens, mask, positions = to_tokens(weights, layout, width)
    names, tensors = list(layout.layers), layout.to_state_dict(weights[0])
    for number in np.random.default_rng(0).choice(len(mask), 20):
        _, layer, channel = positions[number]
        same = (positions[:, 1:] == [layer, channel]).all(axis=1)
        roles = layout.layers[names[layer]].values()
        expected = np.concatenate([tensors[slot.name][channel].reshape(-1) for slot in roles])
        assert (tokens[0, same][mask[same]] == expected).all()
    assert (from_tokens(tokens, layout) == weights).all()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_consecutive_tokens(kind: str) -> None:
    layout = PLAIN[0]
    tokens = to_tokens(random_weights(layout, 5, kind), layout, 40)
    total = len(tokens.mask)
    starts = np.random.default_rng(1).integers(0, total - 8 + 1, 5)
    own = token_windows(tokens, 8, starts)
    for row, start in enumerate(starts):
        one = token_windows(tokens, 8, int(start))
        assert (own.tokens[row] == one.tokens[row]).all()
        assert (own.mask[row] == one.mask).all()
        assert (own.positions[row] == one.positions).all()
        assert one.positions[:, 0].tolist() == list(range(start, start + 8))
    for length, start in ((8, total - 7), (0, 0), (total + 1, 0), (8, -1), (8, [0] * 4)):
        with pytest.raises(InvalidArgument, match=r"^windows of|a start for each"):
            token_windows(tokens, length, start)


def test_gradients_and_refusals() -> None:
    layout = PLAIN[0]
    weights = random_weights(layout, 2, "torch").requires_grad_()
    tokens = to_tokens(weights, layout, 30).tokens
    from_tokens(tokens, layout).square().sum().backward()
    assert torch.equal(weights.grad, 2 * weights.detach())
    with pytest.raises(InvalidArgument, match="at least 1, found 0"):
        to_tokens(weights, layout, 0)
    with pytest.raises(InvalidArgument, match="tokens of width 30"):
        from_tokens(tokens[:, 1:], layout)
