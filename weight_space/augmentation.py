"""Random symmetries of a data set's rows, applied when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..builders.layout import Layout
from ..errors import InvalidArgument
from .arrays import check_layout
from .rescaling import check_scales, random_factors, rescale
from .symmetry import permute, random_permutation


@dataclass(frozen=True)
class PermuteUnits:
    """Permutes the hidden units of each row at random: an augmentation for `with_transform`.

    Each time a row is read, it gets a new permutation. The draws come from torch's generator, which
    `torch.manual_seed` sets and a DataLoader seeds differently in each worker.

    Args:
        layout: layout of the rows.
        flips: whether to change signs of units too, if the row's activation is odd. The rows then
            need the column activation.
        scales: limit of factors of units; they are drawn from 1 / scales to scales if the row's
            activation is homogeneous. The rows then need the column activation.

    Raises:
        InvalidArgument: not a layout, or scales below 1.

    Example:
        >>> rows = dataset.with_transform(PermuteUnits(layout))  # doctest: +SKIP
    """

    layout: Layout
    flips: bool = False
    scales: float = 1.0

    def __post_init__(self) -> None:
        check_layout(self.layout)
        check_scales(self.scales)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of rows with new weights, float32 [rows, N]; or one row likewise."""
        import torch

        if "weights" not in batch:
            raise InvalidArgument("these rows have no weights: load them among `columns`")
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        weights = batch["weights"]
        if not isinstance(weights, torch.Tensor):
            weights = np.asarray(weights, np.float32)
        if not weights.shape[0]:  # a batch without rows has no vector length
            weights = weights.reshape(0, self.layout.size)
        rows = None if weights.ndim == 1 else len(weights)
        weights = permute(weights, self.layout, random_permutation(self.layout, generator, rows))
        if self.flips or self.scales != 1:
            if (activation := batch.get("activation")) is None:
                raise InvalidArgument(
                    "signs and scales depend on the activation, which these rows do not have: load "
                    "it among `columns`"
                )
            factors = random_factors(
                self.layout, activation, generator, rows, flips=self.flips, scales=self.scales
            )
            weights = rescale(weights, self.layout, factors, activation)
        return {**batch, "weights": weights}
