"""Statistics against the original's own output and against numpy; functions of a user's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.benchmarks.representations import (
    PERCENTILES,
    find_representation,
    represent,
    statistics,
    weights,
)
from model_zoos.builders.layout import make_layout
from tests.shared import CNN_S, SEED_ZOO, SHARED, needs_shared


@needs_shared
def test_statistics_are_the_originals() -> None:
    reference = np.load(SHARED / "data" / "raw_zoos" / "reference" / f"{SEED_ZOO}.npz")
    for order in ("sorted", "as_listed"):
        for split in ("train", "val", "test"):
            ours = statistics(reference[f"{order}_{split}_weights"], CNN_S)
            theirs = reference[f"{order}_{split}_quintiles"]
            assert ours.shape == theirs.shape == (len(theirs), 70)
            assert np.abs(ours - theirs).max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([("cnn_s", 1), ("cnn_l", 3)]), st.integers(1, 5), st.integers(0, 99))
def test_statistics_are_numpys(kind: tuple[str, int], rows: int, seed: int) -> None:
    layout = make_layout(*kind)
    matrix = np.random.default_rng(seed).standard_normal((rows, layout.size), np.float32)
    found = statistics(matrix, layout).reshape(rows, len(layout.slots), 7)
    for number, slot in enumerate(layout.slots):
        block = matrix[:, slot.slice].astype(np.float64)
        expected = [block.mean(1), block.var(1), *np.percentile(block, PERCENTILES, axis=1)]
        assert np.allclose(found[:, number], np.stack(expected, 1), atol=1e-6)


def test_weights_are_themselves() -> None:
    matrix = np.zeros((2, 2464), np.float32)
    assert weights(matrix, CNN_S) is matrix


def wrong_rows(matrix: np.ndarray, layout: object) -> np.ndarray:
    return matrix[:1]


def not_finite(matrix: np.ndarray, layout: object) -> np.ndarray:
    return np.full((len(matrix), 3), np.nan)


def texts(matrix: np.ndarray, layout: object) -> np.ndarray:
    return np.full((len(matrix), 3), "a")


def fails(matrix: np.ndarray, layout: object) -> np.ndarray:
    raise KeyError("conv9")


def test_ones_own_function_is_found() -> None:
    assert find_representation("statistics") is statistics
    assert find_representation(f"{__name__}:fails") is fails
    counts = represent("x", lambda m, _: (m > 0).sum(1, keepdims=True), np.ones((2, 4)), CNN_S)
    assert counts.dtype == np.float64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixels", "known: weights, statistics, or your own as module:function"),
        ("no_such_module:f", "the module 'no_such_module' cannot be imported"),
        (":f", "cannot be imported"),
        (f"{__name__}:nothing", "has no function 'nothing'"),
        (f"{__name__}:CNN_S", "has no function 'CNN_S'"),
        (f"{__name__}:wrong_rows", r"must return a matrix \[3, d\].*found \[1, 2464\]"),
        (f"{__name__}:not_finite", "returned NaN or infinite features"),
        (f"{__name__}:texts", "must return numbers"),
        (f"{__name__}:fails", r"failed on weights float32 \[3, 2464\] with KeyError: 'conv9'"),
    ],
)
def test_ones_own_function_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        represent(name, find_representation(name), np.zeros((3, 2464), np.float32), CNN_S)
    assert repr(name) in str(error.value)
