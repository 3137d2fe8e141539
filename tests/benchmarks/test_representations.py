"""Statistics against the original's own output and against numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.benchmarks.representations import PERCENTILES, statistics, weights
from model_zoos.builders.layout import make_layout

from ..shared import CNN_S, SEED_ZOO, SHARED, needs_shared


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
