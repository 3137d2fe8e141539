"""New weights: what each method keeps of the models that it samples from."""

from __future__ import annotations

import numpy as np
import pytest

from model_zoos import permute, random_permutation
from model_zoos.benchmarks.suite.sampling import SAMPLERS
from model_zoos.builders.catalog import get_zoo

LAYOUT = get_zoo("digits_cnn_s").layout
GOOD = np.random.default_rng(0).standard_normal((12, LAYOUT.size), np.float32)


@pytest.mark.parametrize("method", SAMPLERS)
def test_finite_new_and_repeatable(method: str) -> None:
    before = GOOD.copy()
    new = SAMPLERS[method](GOOD, LAYOUT, 7, 0)
    assert new.shape == (7, LAYOUT.size)
    assert new.dtype == np.float32
    assert np.isfinite(new).all()
    assert (before == GOOD).all()
    assert (SAMPLERS[method](GOOD, LAYOUT, 7, 0) == new).all()
    assert (SAMPLERS[method](GOOD, LAYOUT, 7, 1) != new).any()
    assert (new[:, None] != GOOD).any(axis=2).all()  # none is a copy


def test_noise_is_a_share_of_each_tensors_deviation() -> None:
    scaled = GOOD[:1].copy()
    for number, slot in enumerate(LAYOUT.slots):
        scaled[:, slot.slice] *= 10.0 ** (number % 3)
    new = SAMPLERS["noise 0.5"](scaled, LAYOUT, 400, 0)
    for slot in LAYOUT.slots:
        part = scaled[0, slot.slice]
        assert (new[:, slot.slice] - part).std() == pytest.approx(0.5 * part.std(), rel=0.1)


def test_a_matched_soup_of_permuted_copies_is_the_model() -> None:
    generator = np.random.default_rng(3)
    copies = np.stack(
        [permute(GOOD[0], LAYOUT, random_permutation(LAYOUT, generator)) for _ in range(4)]
    )
    new = SAMPLERS["soup of 2, matched"](copies, LAYOUT, 3, 0)
    for vector in new:
        assert np.abs(copies - vector).max(axis=1).min() < 1e-6
    plain = SAMPLERS["soup of 2"](copies, LAYOUT, 3, 0)
    assert min(np.abs(copies - vector).max(axis=1).min() for vector in plain) > 0.1


def test_the_subspace_is_that_of_the_models() -> None:
    new = SAMPLERS["density in a subspace"](GOOD, LAYOUT, 500, 0).astype(np.float64)
    mean = GOOD.mean(axis=0, dtype=np.float64)
    basis = np.linalg.svd(GOOD - mean, full_matrices=False)[2][: len(GOOD) - 1]
    away = new - mean
    np.testing.assert_allclose(away @ basis.T @ basis, away, atol=1e-5)
    # The density of a component has its variance, and that of the kernel.
    components, drawn = (GOOD - mean) @ basis.T, away @ basis.T
    widened = np.sqrt(1 + len(GOOD) ** -0.4)
    assert (drawn.std(axis=0) / components.std(axis=0)).mean() == pytest.approx(widened, rel=0.05)
