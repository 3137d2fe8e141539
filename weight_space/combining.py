"""New weights and predictions by combining several models, without training.

- `sample_kernel_density`: samples of a Gaussian kernel density over weights, after Schuerholt et
  al. 2022 ("Hyper-Representations as Generative Models", NeurIPS). Their code
  (sample_finetune_auxiliaries.py, "S_KDE") fits the best 30 % of the models with bandwidth 0.002,
  with a density for each dimension. It works in a learned representation and draws every dimension
  with the same random state, so that all dimensions of a sample come from the same model. They
  report these accuracies for a density over weights, without training: MNIST 63.2 %, SVHN 10.1 %,
  CIFAR-10 15.5 %, STL-10 12.7 %. The code of that baseline is not public; `independent` chooses
  between its two possible readings.
- `uniform_soup`: the mean of the weights (Wortsman et al. 2022, "Model soups", section 2).
- `ensemble_probabilities`: the mean of the probabilities (Lakshminarayanan et al. 2017,
  section 2.4).

`evaluate` gives the accuracy of the new weights.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..builders.layout import Layout, as_numpy
from ..errors import InvalidArgument
from ..generation.networks import instantiate

BANDWIDTH = 0.002
"""The bandwidth in the paper's code, in units of weights."""

_IMAGES = 1000
"""Number of images that a network processes at a time."""


def sample_kernel_density(
    weights: ArrayLike | torch.Tensor,
    count: int,
    *,
    bandwidth: float = BANDWIDTH,
    independent: bool = True,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Draw the weights of new models from a Gaussian kernel density over given weights.

    Args:
        weights: float32 [models, N].
        count: number of samples.
        bandwidth: standard deviation of each kernel, in units of weights.
        independent: whether each weight has its own density, so that a sample mixes all models. If
            not, whole vectors share one, and a sample is one model plus noise.
        seed: seed of the draws.

    Returns:
        float32 [count, N].

    Raises:
        InvalidArgument: weights that are not a finite matrix, or a bandwidth of at most 0.
    """
    models = as_numpy(weights)
    if models.ndim != 2 or not len(models) or not np.isfinite(models).all():
        raise InvalidArgument("weights must be a matrix [models, N] of finite numbers")
    if not bandwidth > 0:
        raise InvalidArgument(f"bandwidth must be above 0, found {bandwidth}")
    state = np.random.RandomState(seed)
    new = np.empty((count, models.shape[1]), np.float32)
    for column in range(models.shape[1]) if independent else [slice(None)]:
        # Samples like scikit-learn's KernelDensity, which would build a tree for each weight.
        chosen = (state.uniform(size=count) * len(models)).astype(np.int64)
        new[:, column] = state.normal(models[chosen, column].astype(np.float64), bandwidth)
    return new


def uniform_soup(weights: ArrayLike | torch.Tensor) -> NDArray[np.float32]:
    """Return the mean of models' weights, float32 [N], from [models, N]."""
    return as_numpy(weights).mean(axis=0, dtype=np.float64).astype(np.float32)


def ensemble_probabilities(
    weights: NDArray[np.float32], layout: Layout, activation: str, pixels: torch.Tensor
) -> NDArray[np.float64]:
    """Return the mean of models' probabilities for each image.

    Args:
        weights: float32 [models, N].
        layout: layout of the weights.
        activation: activation of the models.
        pixels: normalised images, float32 [n, channels, h, w].

    Returns:
        float64 [n, classes].
    """
    total = np.zeros((len(pixels), layout.classes))
    for vector in weights:
        network = instantiate(layout, activation, vector)
        with torch.inference_mode():
            logits = torch.cat([network(part) for part in pixels.split(_IMAGES)])
            total += logits.double().softmax(dim=1).numpy()
    return total / len(weights)
