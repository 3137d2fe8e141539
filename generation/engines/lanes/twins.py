"""Sparse twins in lanes: variational dropout, one model in each SIMD lane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....builders.layout import Layout
from ....builders.specification import Model
from ....errors import InvalidArgument
from ..population import Scores
from .blocks import Blocks, aligned


class LanesTwins(Blocks):
    """Sparse twins in training by variational dropout, as in the paper's code (see twins.cpp).

    Every weight has a mean and a log_sigma2, the logarithm of its variance. One optimizer trains
    both with the model's rates, and weight decay is added to the gradients of both. Weights with
    log_alpha = log_sigma2 - log(mean^2) of at least 3 are pruned: they are 0 in evaluation. The
    kernel decides this for `weights` and for `evaluate`, in single precision; another logarithm may
    put a log_alpha within a millionth of 3 on the other side. Biases of linear layers have no
    noise, are not pruned, and keep their log_sigma2. The noise is that of `gaussian_noise` in
    generation/streams.py.

    Args:
        layout: of an architecture with `layers`.
        models: the twins; their seeds give dropout masks and noise.
        weights: initial means, float32 [P, layout.size] in layout order.
        log_sigma2: initial values, float32 [P, layout.size] in layout order.
        threads, isa: see `LanesPopulation`.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        InvalidArgument: arguments of a wrong shape or out of range.
    """

    kernel, parameters = "twins", 2

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        log_sigma2: ArrayLike,
        threads: int | None = None,
        isa: str = "auto",
    ) -> None:
        super().__init__(layout, models, weights, threads=threads, isa=isa)
        start = np.asarray(log_sigma2, np.float32)
        if start.shape != (self.models, layout.size):
            expected = [self.models, layout.size]
            raise InvalidArgument(f"log_sigma2 must be {expected}, found {list(start.shape)}")
        self._scatter(start, 1)

    @property
    def mean(self) -> NDArray[np.float32]:
        """The means, including those of pruned weights: [P, layout.size] in layout order."""
        return self._gather([block[0, 0] for block in self._blocks])

    @property
    def log_sigma2(self) -> NDArray[np.float32]:
        """The logarithms of the variances, [P, layout.size] in layout order."""
        return self._gather([block[1, 0] for block in self._blocks])

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train every model for one epoch on cross entropy + kl_weight * divergence.

        Args:
            images, labels, orders: see `Population.train_epoch`.
            more: one number, kl_weight: factor of the divergence from the prior in the loss.

        Returns:
            Cross entropy and accuracy of each model: means over the samples during training, with
            noise.
        """
        (kl_weight,) = more
        if not np.isfinite(kl_weight):
            raise InvalidArgument(f"kl_weight must be a finite number, found {kl_weight}")
        return self._train(images, labels, orders, kl_weight)

    def _evaluated(self, number: int) -> NDArray[np.float32]:
        block = self._blocks[number]
        weights = aligned(block.shape[2:])
        self._library.prune(block.ctypes.data, weights.ctypes.data)
        return weights
