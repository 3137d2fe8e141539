"""Sparse twins in lanes: variational dropout, one model in each SIMD lane."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....builders.layout import Layout
from .blocks import Blocks, aligned


class LanesTwins(Blocks):
    """Sparse twins in training (variational dropout as in the original; twins.cpp has it).

    Every weight has a mean and a log_sigma2, the logarithm of its variance; both are trained, by
    one optimizer with the model's rates (weight decay, too, is added to the gradients of both).
    Weights whose log_alpha = log_sigma2 - log(mean^2) is at least 3 are pruned, 0 in evaluation.
    The kernel alone decides, in single precision, for `weights` and for `evaluate`; another
    logarithm may see a log_alpha within a millionth of 3 on the other side.
    Biases of linear layers have no noise, are not pruned, and keep their log_sigma2. The noise is
    that of `gaussian_noise` in generation/streams.py.

    Args:
        layout: of CNN-s or CNN-l.
        weights: initial means, float32 [P, layout.size] in layout order.
        log_sigma2: initial, float32 [P, layout.size] in layout order.
        options: as for `LanesPopulation`; the seeds are those of masks and noise.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        ValueError: arguments of a wrong shape or out of range.
    """

    kernel, parameters = "twins", 2

    def __init__(self, layout: Layout, *, weights: Any, log_sigma2: Any, **options: Any) -> None:
        super().__init__(layout, weights=weights, **options)
        log_sigma2 = np.asarray(log_sigma2, np.float32)
        if log_sigma2.shape != (self.models, layout.size):
            expected = [self.models, layout.size]
            raise ValueError(f"log_sigma2 must be {expected}, found {list(log_sigma2.shape)}")
        self._scatter(log_sigma2, 1)

    @property
    def mean(self) -> np.ndarray:
        """The means, also those of pruned weights: float32 [P, layout.size] in layout order."""
        return self._gather([block[0, 0] for block in self._blocks])

    @property
    def log_sigma2(self) -> np.ndarray:
        """float32 [P, layout.size] in layout order."""
        return self._gather([block[1, 0] for block in self._blocks])

    def train_epoch(
        self, images: Any, labels: Any, orders: Any, kl_weight: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train every model for one epoch on cross entropy + kl_weight * divergence.

        Args:
            images: float32 [n, channels, h, w], normalised.
            labels: integers [n] in [0, classes).
            orders: which images each model sees, in its order: integers [P, m] in [0, n),
                usually permutations.
            kl_weight: of the divergence from the prior, in the loss of every step.

        Returns:
            Cross entropy and accuracy of each model, means over its samples as they were trained on
            (with noise).
        """
        if not np.isfinite(kl_weight):
            raise ValueError(f"kl_weight must be a finite number, found {kl_weight}")
        return self._train(images, labels, orders, kl_weight)

    def _evaluated(self, number: int) -> np.ndarray:
        block = self._blocks[number]
        weights = aligned(block.shape[2:])
        self._library.prune(block.ctypes.data, weights.ctypes.data)
        return weights
