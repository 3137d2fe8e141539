"""The formulas of sparse twins against torch, and the divergence against its definition."""

import numpy as np
import pytest
import torch

from model_zoos.builders.variational_dropout import (
    kl_divergence,
    kl_weight,
    log_alpha,
    prune,
    sparsity,
)
from tests.shared import CNN_S

LINEAR_BIASES = ("fc1.bias", "fc2.bias")


def some_twins(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Means and log_sigma2 on both sides of every bound, with a mean of 0 and a NaN."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 0.3, (count, CNN_S.size)).astype(np.float32)
    log_sigma2 = rng.uniform(-20, 12, mean.shape).astype(np.float32)
    mean[0, 5], mean[1, 7] = 0, np.nan
    return mean, log_sigma2


def by_torch(mean: np.ndarray, log_sigma2: np.ndarray) -> tuple[dict, dict]:
    """Means and clamped log_alphas of one twin by name, float64."""
    means, values = (
        {k: torch.tensor(v, dtype=torch.float64) for k, v in CNN_S.to_state_dict(x).items()}
        for x in (mean, log_sigma2)
    )
    found = {}
    for name, m in means.items():
        bound = 8.0 if name.startswith("conv") else 10.0
        found[name] = torch.clamp(values[name] - 2 * torch.log(m.abs() + 1e-15), -bound, bound)
    return means, found


def test_log_alpha_pruning_and_sparsity_are_torchs() -> None:
    mean, log_sigma2 = some_twins()
    alphas, weights = log_alpha(mean, log_sigma2, CNN_S), prune(mean, log_sigma2, CNN_S)
    assert weights.dtype == alphas.dtype == np.float32
    shares = sparsity(weights, CNN_S)
    for number in range(len(mean)):
        means, expected = by_torch(mean[number], log_sigma2[number])
        pruned = 0
        for slot in CNN_S.slots:
            ours, theirs = alphas[number, slot.slice], expected[slot.name].flatten().numpy()
            kept = means[slot.name].flatten().numpy().astype(np.float32)
            if slot.name in LINEAR_BIASES:
                assert np.isneginf(ours).all()
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=5e-6)
                assert (np.abs(theirs - 3) > 1e-5).all() or np.isnan(theirs).any()
                kept[theirs >= 3] = 0
                pruned += int((theirs >= 3).sum()) * slot.name.endswith("weight")
            np.testing.assert_array_equal(weights[number, slot.slice], kept)
        assert shares[number] == pruned / 2416
    assert 0.1 < shares.mean() < 0.9


def test_the_divergence_is_torchs() -> None:
    mean, log_sigma2 = (values[2] for values in some_twins())
    _, alphas = by_torch(mean, log_sigma2)
    values = torch.cat([v.flatten() for name, v in alphas.items() if name not in LINEAR_BIASES])
    expected = -(
        0.63576 * torch.sigmoid(1.8732 + 1.48695 * values)
        - 0.5 * torch.log1p(torch.exp(-values))
        - 0.63576
    ).sum()
    found = kl_divergence(mean.astype(np.float64), log_sigma2.astype(np.float64), CNN_S)
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("value", [-7.5, -4.0, -1.0, 0.0, 1.0, 3.0, 7.5])
def test_the_approximation_is_that_of_the_divergence(value: float) -> None:
    """KL(N(w, alpha w^2) || log-uniform) up to a constant: E log|1 + sqrt(alpha) z| - log(alpha)/2.

    The constant is such that a weight of pure noise has none: E log|z| = -0.6352.
    """
    mean = np.full(CNN_S.size, 0.1)
    found = kl_divergence(mean, np.full(CNN_S.size, value + 2 * np.log(0.1)), CNN_S)
    z = np.linspace(-12, 12, 2_000_001)[:-1] + 6e-6  # never at the logarithm's pole
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    noise = (density * np.log(np.abs(z))).sum()
    exact = (density * np.log(np.abs(1 + np.exp(value / 2) * z))).sum() - value / 2 - noise
    count = CNN_S.size - 30
    assert found / count == pytest.approx(exact, abs=0.02)  # of the order of 4 at -7.5


def test_the_weight_of_the_divergence() -> None:
    assert [kl_weight(epoch, 25) for epoch in (1, 2, 25)] == [0, 0.01 / 25, 0.01 * 24 / 25]
    assert kl_weight(1000, 5) == 1
