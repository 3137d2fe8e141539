"""Random symmetries of the rows of a data set, when they are read."""

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

    Every row gets a permutation of its own each time that it is read. The draws come from torch's
    generator, which `torch.manual_seed` sets and a DataLoader seeds differently in each worker.

    Args:
        layout: layout of the rows.
        flips: also change signs of units where the row's activation is odd. The rows need the
            column activation then.
        scales: also multiply units by factors from 1 / scales to scales where the row's activation
            is homogeneous; the rows need the column activation then.

    Raises:
        InvalidArgument: no layout, or scales below 1.

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
        """Return a batch of rows with other weights, float32 [rows, N]; one row likewise."""
        import torch

        if "weights" not in batch:
            raise InvalidArgument("these rows have no weights: load them among `columns`")
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        weights = batch["weights"]
        if not isinstance(weights, torch.Tensor):
            weights = np.asarray(weights, np.float32)
        if not weights.shape[0]:  # a batch without rows has lost their length
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
