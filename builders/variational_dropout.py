"""The formulas of sparse twins: variational dropout as the paper's code uses it, in numpy.

The engines implement the loss in reference_twins.py, batched/twins.py and lanes/twins.cpp; tests
compare them with these functions.

Variational dropout (Molchanov, Ashukha and Vetrov, "Variational Dropout Sparsifies Deep Neural
Networks", ICML 2017, arXiv 1701.05369) gives every weight w a normal distribution with mean w and
variance sigma^2 = alpha w^2. log sigma^2 is trained together with the weights. The loss is that of
the data plus a factor times the KL divergence from a log-uniform prior. A weight with a large alpha
is noise, and is pruned. This module follows def_net_distillation.py of the paper's code
(Conv2dARD, LinearARD, NNmoduleARD), which differs from that publication in details. They are kept:

- log alpha is clamped, to other bounds in convolutions than in linear layers. Outside its bounds,
  log sigma^2 gets no gradient, neither from the data nor from the divergence.
- Biases of convolutions have noise too, and are pruned; those of linear layers have none. Their
  log_sigma2, arbitrary numbers in the original files, keeps its initial value in our twins.
- The sparsity counts only weights. It leaves out all biases, whether they can be pruned or not.
"""

from __future__ import annotations

import numpy as np

from .layout import Layout

LOG_SIGMA2_START = -10.0
"""log sigma^2 of every weight before the first step (`ard_init`)."""

PRUNE_LOG_ALPHA = 3.0
"""A weight with at least this log alpha is 0 in evaluation (`thresh`; section 4.4)."""

BOUNDS = {"convolution": 8.0, "linear": 10.0}
"""log alpha is clamped to [-bound, bound]."""

TINY = 1e-15
"""Added to |w| inside the logarithm and to a variance inside the root."""

KL_CONSTANTS = (0.63576, 1.8732, 1.48695)
"""k1, k2, k3 in the approximation of the divergence (equation 14 of that publication)."""

KL_WEIGHT_SLOPE = 0.01
"""See `kl_weight`."""


def noise_bounds(layout: Layout) -> np.ndarray:
    """Return the bound of each weight's log alpha, float32 [N]; NaN for biases of linear layers."""
    bounds = np.empty(layout.size, np.float32)
    for slots in layout.layers.values():
        convolution = len(slots["weight"].shape) == 4
        bounds[slots["weight"].slice] = BOUNDS["convolution" if convolution else "linear"]
        bounds[slots["bias"].slice] = BOUNDS["convolution"] if convolution else np.nan
    return bounds


def weight_entries(layout: Layout) -> np.ndarray:
    """Return which entries of a flat vector are weights and not biases: bool [N]."""
    entries = np.zeros(layout.size, bool)
    for slots in layout.layers.values():
        entries[slots["weight"].slice] = True
    return entries


def log_alpha(mean: np.ndarray, log_sigma2: np.ndarray, layout: Layout) -> np.ndarray:
    """Return log_sigma2 - 2 log(|mean| + 1e-15), clamped; -infinity for biases of linear layers.

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
    """Return a twin's weights in evaluation: `mean` with zeros where log alpha >= 3.

    Args:
        mean, log_sigma2: float32 [..., N].

    Returns:
        float32 [..., N].
    """
    pruned = log_alpha(mean, log_sigma2, layout) >= PRUNE_LOG_ALPHA
    return np.where(pruned, np.float32(0), mean)


def sparsity(weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the share of pruned weights, without biases: float64 [...] for weights [..., N]."""
    return (weights[..., weight_entries(layout)] == 0).mean(-1)


def kl_divergence(mean: np.ndarray, log_sigma2: np.ndarray, layout: Layout) -> np.ndarray:
    """Return -sum(k1 sigmoid(k2 + k3 log_alpha) - log(1 + 1 / alpha) / 2 - k1) over noisy weights.

    Args:
        mean, log_sigma2: float [..., N].

    Returns:
        The divergence of each vector, [...], in nats.
    """
    k1, k2, k3 = KL_CONSTANTS
    values = log_alpha(mean, log_sigma2, layout)[..., ~np.isnan(noise_bounds(layout))]
    sigmoid = 1 / (1 + np.exp(-(k2 + k3 * values)))
    return -(k1 * sigmoid - 0.5 * np.log1p(np.exp(-values)) - k1).sum(-1)


def kl_weight(epoch: int, epochs: int) -> float:
    """Return the factor of the KL divergence in an epoch's loss: min(1, 0.01 e / epochs).

    e = epoch - 1 is the iteration of the paper's code. In the first epoch of training (1), e is 0
    and the loss has no divergence. (In the paper's code, the evaluation before that epoch has
    e = -1 and reports a loss of -16.)
    """
    return min(1.0, KL_WEIGHT_SLOPE * (epoch - 1) / epochs)
