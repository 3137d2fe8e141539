"""The formulas of sparse twins: variational dropout as the paper's code uses it, in numpy.

The engines have the loss in reference_twins.py, batched_twins.py and lanes/twins.cpp; tests compare
them with these.

Variational dropout (Molchanov, Ashukha and Vetrov, "Variational Dropout Sparsifies Deep Neural
Networks", ICML 2017, arXiv 1701.05369) gives every weight w a normal distribution with mean w and
variance sigma^2 = alpha w^2. log sigma^2 is trained with the weights, by the loss of the data plus
a weight times the KL divergence from a log-uniform prior; a weight whose alpha has grown large is
noise, and is pruned. What follows is that of def_net_distillation.py in the paper's code
(Conv2dARD, LinearARD, NNmoduleARD), which departs from the paper in details. They are kept:

- log alpha is clamped, to other bounds in convolutions than in linear layers, and outside of them
  neither the data nor the divergence moves log sigma^2.
- Biases of convolutions have noise too, and are pruned; those of linear layers have none. Their
  log_sigma2, arbitrary numbers in the original files, stays at its start in our twins.
- The sparsity counts weights alone, neither the biases that are pruned nor those that cannot be.
"""

from __future__ import annotations

import numpy as np

from .layout import Layout

LOG_SIGMA2_START = -10.0
"""log sigma^2 of every weight before the first step (`ard_init`)."""

PRUNE_LOG_ALPHA = 3.0
"""From this log alpha on a weight is 0 in evaluation (`thresh`; the paper, section 4.4)."""

BOUNDS = {"convolution": 8.0, "linear": 10.0}
"""log alpha is clamped to [-bound, bound]."""

TINY = 1e-15
"""Added to |w| under the logarithm and to a variance under the root."""

KL_CONSTANTS = (0.63576, 1.8732, 1.48695)
"""k1, k2, k3 of the divergence's approximation (the paper, equation 14)."""

KL_WEIGHT_SLOPE = 0.01
"""See `kl_weight`."""


def noise_bounds(layout: Layout) -> np.ndarray:
    """The bound of each weight's log alpha, float32 [N]; NaN for biases of linear layers."""
    bounds = np.empty(layout.size, np.float32)
    for slots in layout.layers.values():
        convolution = len(slots["weight"].shape) == 4
        bounds[slots["weight"].slice] = BOUNDS["convolution" if convolution else "linear"]
        bounds[slots["bias"].slice] = BOUNDS["convolution"] if convolution else np.nan
    return bounds


def weight_entries(layout: Layout) -> np.ndarray:
    """Which entries of a flat vector are weights, not biases: bool [N]."""
    entries = np.zeros(layout.size, bool)
    for slots in layout.layers.values():
        entries[slots["weight"].slice] = True
    return entries


def log_alpha(mean: np.ndarray, log_sigma2: np.ndarray, layout: Layout) -> np.ndarray:
    """log_sigma2 - 2 log(|mean| + 1e-15), clamped; -infinity for biases of linear layers.

    Args:
        mean, log_sigma2: float32 [..., N].

    Returns:
        float32 [..., N].
    """
    bounds = noise_bounds(layout)
    with np.errstate(all="ignore"):
        values = log_sigma2 - 2 * np.log(np.abs(mean) + np.float32(TINY))
        values = np.clip(values, -bounds, bounds)
    return np.where(np.isnan(bounds), np.float32(-np.inf), values)


def prune(mean: np.ndarray, log_sigma2: np.ndarray, layout: Layout) -> np.ndarray:
    """The weights that a twin uses in evaluation: `mean` with zeros where log alpha >= 3.

    Args:
        mean, log_sigma2: float32 [..., N].
    """
    pruned = log_alpha(mean, log_sigma2, layout) >= PRUNE_LOG_ALPHA
    return np.where(pruned, np.float32(0), mean)


def sparsity(weights: np.ndarray, layout: Layout) -> np.ndarray:
    """The share of pruned weights, biases not counted: float64 [...] of weights [..., N]."""
    return (weights[..., weight_entries(layout)] == 0).mean(-1)


def kl_divergence(mean: np.ndarray, log_sigma2: np.ndarray, layout: Layout) -> np.ndarray:
    """-sum(k1 sigmoid(k2 + k3 log_alpha) - log(1 + 1 / alpha) / 2 - k1) over all noisy weights.

    Args:
        mean, log_sigma2: float [..., N].

    Returns:
        [...], in nats.
    """
    k1, k2, k3 = KL_CONSTANTS
    values = log_alpha(mean, log_sigma2, layout)[..., ~np.isnan(noise_bounds(layout))]
    sigmoid = 1 / (1 + np.exp(-(k2 + k3 * values)))
    return -(k1 * sigmoid - 0.5 * np.log1p(np.exp(-values)) - k1).sum(-1)


def kl_weight(epoch: int, epochs: int) -> float:
    """Return the weight of the KL divergence in an epoch's loss: min(1, 0.01 e / epochs).

    e = epoch - 1 is the iteration of the paper's code. In the first epoch of training (1), e is 0
    and the loss has no divergence. (The evaluation before it in the paper's code has e = -1 and
    reports a loss of -16.)
    """
    return min(1.0, KL_WEIGHT_SLOPE * (epoch - 1) / epochs)
