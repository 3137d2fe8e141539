"""The highest possible Kendall's tau-b if the truth has ties."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def tau_ceiling(truth: ArrayLike) -> float:
    """Return the highest tau-b of a prediction that has no two equal values.

    tau-b is (C - D) / sqrt((n0 - n1) (n0 - n2)), with C concordant and D discordant pairs of n0,
    and n1 and n2 the pairs that are tied in the truth and in the prediction (Kendall 1945, "The
    treatment of ties in ranking problems", Biometrika 33). A prediction without ties has n2 = 0,
    and at best it orders all pairs correctly that are not tied in the truth: C = n0 - n1, D = 0.
    This gives sqrt((n0 - n1) / n0). A prediction with the same ties as the truth could reach 1.

    Args:
        truth: [rows].

    Returns:
        A share of 1; NaN if the truth is constant, where tau-b is not defined.
    """
    values = np.asarray(truth, np.float64)
    pairs = len(values) * (len(values) - 1) // 2
    _, counts = np.unique(values, return_counts=True)
    tied = int((counts.astype(np.int64) * (counts - 1) // 2).sum())
    return math.sqrt((pairs - tied) / pairs) if tied < pairs else math.nan
