"""New weights: what each method keeps of the models that it samples from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_zoos import permute, random_permutation
from model_zoos.benchmarks.suite.result import mean_of
from model_zoos.benchmarks.suite.sampling import (
    SAMPLERS,
    about_copies,
    about_variances,
    distinct,
)
from model_zoos.builders.catalog import get_zoo
from model_zoos.generation.networks import instantiate
from tests.weight_space.layouts import RESNET, resnet_weights

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


@pytest.mark.parametrize("method", sorted(SAMPLERS.keys() - {"soup of 2, matched"}))
def test_variances_stay_above_the_lowest_of_the_good_models(method: str) -> None:
    layout = RESNET.choose([f"bn1.{role}" for role in ("weight", "running_mean", "running_var")])
    place = layout.slot("bn1.running_var").slice
    good = np.random.default_rng(0).standard_normal((8, layout.size), np.float32)
    good[:, place] = np.exp(good[:, place] - 6)
    new = SAMPLERS[method](good, layout, 40, 0)
    # A mean of numbers can lie below all of them by rounding only.
    assert (new[:, place] >= good[:, place].min(axis=0) * (1 - 1e-6)).all()
    assert (new < 0).any()
    assert about_variances(layout)
    assert not about_variances(LAYOUT)


def test_a_resnet_with_noise_has_finite_outputs() -> None:
    good = resnet_weights(np.random.default_rng(0))[None]
    [vector] = SAMPLERS["noise 0.5"](good, RESNET, 1, 0)
    with torch.inference_mode():
        outputs = instantiate(RESNET, "relu", vector)(torch.ones(2, 3, 32, 32))
    assert torch.isfinite(outputs).all()


def test_copies_are_counted_and_have_no_interval() -> None:
    few = SAMPLERS["soup of 5"](GOOD[:6], LAYOUT, 32, 0)
    many = SAMPLERS["soup of 2"](GOOD, LAYOUT, 32, 0)
    assert distinct(few) == 6
    assert distinct(many) == len(np.unique(many, axis=0)) > 20
    assert distinct(GOOD) == 12
    assert distinct(GOOD[:1]) == 1
    values = np.arange(32.0)
    assert np.isnan(mean_of((), "x", values, distinct(few)).interval).all()
    assert mean_of((), "x", values, distinct(many)) == mean_of((), "x", values)
    counts = {"soup of 5": (6, 32), "soup of 2": (27, 32), "trained": (6, 6)}
    assert about_copies(counts) == ["soup of 5: 6 of 32 vectors differ, too few for an interval."]
