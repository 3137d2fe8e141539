"""Inputs that are odd and legitimate: no rows, gradients, bfloat16, views, results that change."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.errors import CudaUnavailable, InvalidArgument
from model_zoos.weight_space import matching
from model_zoos.weight_space.combining import uniform_soup
from model_zoos.weight_space.graph import to_graphs
from model_zoos.weight_space.layers import stacked_state_dict
from model_zoos.weight_space.tokens import from_tokens, to_tokens, token_windows

from .layouts import KINDS, PLAIN, random_weights

LAYOUT = make_layout("1x8x8 conv4k3 pool fc6 fc3", 1, 3)
ROW = {"architecture": LAYOUT.architecture.name, "activation": "relu"}


@pytest.fixture(scope="module")
def rows(digits_home: Path) -> Dataset:
    return load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home), split="test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", PLAIN, ids=str)
def test_no_rows_there_and_back(layout: Any, kind: str) -> None:
    nothing = random_weights(layout, 1, kind)[:0]
    back = from_tokens(to_tokens(nothing, layout, 7), layout)
    assert type(back) is type(nothing)
    assert tuple(back.shape) == (0, layout.size)


def test_a_data_set_without_rows_is_said_to_have_none(rows: Dataset) -> None:
    empty, layout = rows.select([]), model_zoos.layout_of(rows[0])
    for work in (
        lambda: model_zoos.match_models(empty),
        lambda: model_zoos.pairs(empty),
        lambda: model_zoos.evaluate(model_zoos.weights(rows)[:2], empty, "digits"),
    ):
        with pytest.raises(InvalidArgument, match=r"no rows|without rows"):
            work()
    for augmentation in (
        model_zoos.PermuteUnits(layout),
        model_zoos.PermuteUnits(layout, flips=True, scales=2.0),
    ):
        assert len(rows.with_transform(augmentation)[:0]["weights"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_belongs_to_the_caller(kind: str) -> None:
    weights = random_weights(LAYOUT, 2, kind)

    def constants() -> list[Any]:
        graphs, tokens = to_graphs(weights, LAYOUT), to_tokens(weights, LAYOUT)
        names = ("edge_index", "node_types", "node_positions", "node_mask", "edge_mask")
        return [*(getattr(graphs, name) for name in names), tokens.mask, tokens.positions]

    before = [np.asarray(found).copy() for found in constants()]
    for found in constants():
        found[...] = 0
    assert all((np.asarray(a) == b).all() for a, b in zip(constants(), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_windows(kind: str) -> None:
    tokens = to_tokens(random_weights(LAYOUT, 4, kind), LAYOUT)
    outer = np.array([0, 2, 1, 3])
    windows = token_windows(tokens, 8, outer)
    for start in (2, np.array([2, 0, 3, 1])):
        found = token_windows(windows, 3, start)
        expected = token_windows(tokens, 3, outer + start)
        for one, other in zip(found, expected, strict=True):
            assert (np.asarray(one) == np.asarray(other)).all()


def test_tensors_that_need_gradients_and_bfloat16() -> None:
    weights = torch.from_numpy(random_weights(LAYOUT, 3))
    expected = matching.canonical_order(weights, LAYOUT)
    rounded = weights.bfloat16()
    for given in (weights.clone().requires_grad_(), rounded):
        plain = given.detach().float().numpy()
        orders = matching.canonical_order(given, LAYOUT)
        found = matching.weight_matching(given, plain[0], LAYOUT)
        for name, order in matching.weight_matching(plain, plain[0], LAYOUT).items():
            assert (order == found[name]).all()
            assert given is rounded or (orders[name] == expected[name]).all()
        assert (uniform_soup(given) == uniform_soup(plain)).all()
        named = LAYOUT.to_state_dict(given[0])
        assert (LAYOUT.to_vector(named) == plain[0]).all()


def test_arrays_in_reverse() -> None:
    weights = random_weights(LAYOUT, 3)
    for name, tensor in stacked_state_dict(weights[::-1], LAYOUT).items():
        assert torch.equal(tensor, stacked_state_dict(weights[::-1].copy(), LAYOUT)[name])
    images = np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32)
    labels = np.arange(6) % 3
    scores = [
        model_zoos.evaluate(weights, ROW, pair, engine="reference")
        for pair in ((images[::-1], labels[::-1]), (images[::-1].copy(), labels[::-1].copy()))
    ]
    assert (scores[0].loss == scores[1].loss).all()


def test_a_device_that_is_not_there() -> None:
    weights, images = random_weights(LAYOUT, 1), (np.zeros((2, 1, 8, 8), np.float32), [0, 1])
    with pytest.raises(InvalidArgument, match="device must be 'cpu' or 'cuda', found 'gpu'"):
        model_zoos.evaluate(weights, ROW, images, device="gpu")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CudaUnavailable, match="torch finds no CUDA device"):
        model_zoos.evaluate(weights, ROW, images, device="cuda")


def test_a_batch_size_is_a_whole_number() -> None:
    images = (np.zeros((2, 1, 8, 8), np.float32), [0, 1])
    with pytest.raises(InvalidArgument, match=r"batch_size must be .*found 2.7"):
        model_zoos.train(
            random_weights(LAYOUT, 1),
            ROW,
            images,
            epochs=1,
            learning_rate=0.1,
            optimizer="sgd",
            batch_size=2.7,
        )


def test_matching_wide_layers_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of the units of a layer, 32 kB a row, are more than its weights."""
    layout = make_layout("1x2x2 fc64 fc2", 1, 2)
    weights = random_weights(layout, 200)
    monkeypatch.setattr(matching, "_BLOCK_BYTES", 1 << 17)
    tracemalloc.start()
    try:
        matching.weight_matching(weights, weights[0], layout, sweeps=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20
