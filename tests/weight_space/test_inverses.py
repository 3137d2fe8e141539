"""Every view is exactly undone, for all networks of the catalog and for any drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.builders.catalog import ZOOS
from model_zoos.builders.layers import parse_text
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.builders.wiring import wiring
from model_zoos.errors import InvalidArgument
from model_zoos.weight_space.graph import from_graphs, to_graphs
from model_zoos.weight_space.layers import from_layers, to_layers
from model_zoos.weight_space.rescaling import random_factors, rescale
from model_zoos.weight_space.symmetry import compose, invert, permute, random_permutation
from model_zoos.weight_space.tokens import from_tokens, longest_channel, to_tokens

from .layouts import KINDS, random_weights

CATALOG = sorted({(zoo.architecture, zoo.channels, zoo.classes) for zoo in ZOOS.values()})
SMALL = [key for key in CATALOG if make_layout(*key).size < 10**6]
LARGE = [key for key in CATALOG if key not in SMALL]


def check(layout: Layout, kind: str, seed: int, rows: int = 2) -> None:
    weights = random_weights(layout, rows, kind, seed)
    given_bytes, generator = np.asarray(weights).tobytes(), np.random.default_rng(seed)
    orders = random_permutation(layout, generator, rows)
    signs = random_factors(layout, "tanh", generator, rows)
    width = int(generator.integers(1, longest_channel(layout) + 2))
    there_and_back = {
        "layers": from_layers(to_layers(weights, layout), layout),
        "tokens": from_tokens(to_tokens(weights, layout).tokens, layout),
        f"tokens of {width}": from_tokens(to_tokens(weights, layout, width).tokens, layout),
        "graphs": from_graphs(to_graphs(weights, layout)),
        "permutation": permute(permute(weights, layout, orders), layout, invert(orders)),
        "composition": permute(weights, layout, compose(orders, invert(orders))),
        "signs": rescale(rescale(weights, layout, signs, "tanh"), layout, signs, "tanh"),
    }
    for name, back in there_and_back.items():
        assert type(back) is type(weights), name
        assert np.asarray(back).tobytes() == given_bytes, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", SMALL, ids=str)
def test_of_the_catalog(key: Any, kind: str) -> None:
    check(make_layout(*key), kind, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("key", LARGE, ids=str)
def test_of_large_ones(key: Any) -> None:
    check(make_layout(*key), "numpy", seed=0, rows=1)


@st.composite
def networks(draw: st.DrawFn) -> Layout:
    """A network of the text form, of zero to three convolutions and one to three linear layers."""
    channels, side = draw(st.sampled_from([1, 3])), draw(st.integers(6, 16))
    own = st.sampled_from(["", "", ":relu", ":tanh", ":identity"])
    words = [f"{channels}x{side}x{side}"]
    for _ in range(draw(st.integers(0, 3))):
        kernel = draw(st.integers(1, 3))
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, kernel - 1))
        last = f"conv{draw(st.integers(1, 9))}k{kernel}s{stride}p{padding}{draw(own)}"
        words += [last, *draw(st.sampled_from([(), (), ("pool",), ("drop",), ("pool", "drop")]))]
    if len(words) > 1 and draw(st.booleans()):
        words.append("gap")
    words += [f"fc{draw(st.integers(1, 12))}{draw(own)}" for _ in range(draw(st.integers(0, 2)))]
    text = " ".join([*words, f"fc{draw(st.integers(1, 10))}"])
    try:
        found = parse_text(text)
    except InvalidArgument:  # images too small for so many strides and pools
        found = parse_text(f"{words[0]} fc7:relu fc3")
    return make_layout(found.text, found.channels, found.classes)


@settings(max_examples=30, deadline=None)
@given(networks(), st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_of_any(layout: Layout, kind: str, seed: int) -> None:
    check(layout, kind, seed)


@settings(max_examples=30, deadline=None)
@given(networks())
def test_every_tensor_has_its_groups(layout: Layout) -> None:
    """The units of the groups are the axes of the tensors."""
    net = wiring(layout)
    assert [wire.slot for wire in net.wires] == list(layout.slots)
    for wire in net.wires:
        assert wire.slot.shape[0] == net.groups[wire.target].units
        if wire.source is not None:
            assert wire.slot.shape[1] % net.groups[wire.source].units == 0
