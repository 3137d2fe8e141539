"""New models from old: densities, soup and ensemble against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.weight_space.combining import (
    ensemble_probabilities,
    sample_kernel_density,
    uniform_soup,
)


@pytest.mark.parametrize("independent", [False, True])
def test_samples_lie_a_bandwidth_around_models(independent: bool) -> None:
    models = np.arange(5)[:, None] + np.zeros((5, 40), np.float32)
    samples = sample_kernel_density(models, 400, bandwidth=0.01, independent=independent, seed=1)
    assert samples.shape == (400, 40)
    assert samples.dtype == np.float32
    nearest = samples.round()
    assert (samples - nearest).std() == pytest.approx(0.01, rel=0.03)
    assert np.bincount(nearest.astype(int).reshape(-1), minlength=5).min() > 0.15 * samples.size
    mixed = [len(np.unique(sample)) > 1 for sample in nearest]
    assert all(mixed) if independent else not any(mixed)
    again = sample_kernel_density(models, 400, bandwidth=0.01, independent=independent, seed=1)
    assert (again == samples).all()


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_samples_are_scikit_learns(independent: bool, kind: type) -> None:
    models = np.random.default_rng(0).standard_normal((7, 30)).astype(kind)
    state = np.random.RandomState(3)
    density = KernelDensity(kernel="gaussian", bandwidth=0.2)
    columns = models.T[:, :, None] if independent else [models]
    expected = [density.fit(column).sample(11, random_state=state) for column in columns]
    found = sample_kernel_density(models, 11, bandwidth=0.2, independent=independent, seed=3)
    assert (found == np.concatenate(expected, axis=1).astype(np.float32)).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="finite"):
        sample_kernel_density(np.full((2, 3), np.nan), 1)
    with pytest.raises(ValueError, match="bandwidth"):
        sample_kernel_density(np.zeros((2, 3)), 1, bandwidth=0)


def test_soup_and_ensemble_are_means() -> None:
    layout = make_layout("cnn_s", 1)
    generator = np.random.default_rng(0)
    weights = (0.3 * generator.standard_normal((3, layout.size))).astype(np.float32)
    np.testing.assert_allclose(uniform_soup(weights), weights.mean(axis=0), atol=1e-6)
    pixels = torch.from_numpy(generator.standard_normal((4, 1, 28, 28)).astype(np.float32))
    rows = [{"architecture": "cnn_s", "activation": "tanh", "weights": w} for w in weights]
    with torch.inference_mode():
        each = [model_zoos.instantiate(row)(pixels).softmax(1).numpy() for row in rows]
    found = ensemble_probabilities(weights, layout, "tanh", pixels)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
