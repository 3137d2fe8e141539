"""What a benchmark sees of a state: all its weights, or statistics of each layer.

Both as in the original (code/model_definitions/def_downstream_module.py): W is the flat weight
vector, s(W) has seven numbers for each layer's weights and seven for its biases.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..builders.layout import Layout

PERCENTILES = (1, 25, 50, 75, 99)


def weights(matrix: np.ndarray, layout: Layout) -> np.ndarray:
    """The weights themselves, W: float32 [rows, N]."""
    return matrix


def statistics(matrix: np.ndarray, layout: Layout) -> np.ndarray:
    """Statistics of each layer, s(W): float64 [rows, 7 * tensors], 70 numbers for a CNN.

    For each tensor in layout order (weights and biases apart): mean, variance (of the population)
    and the percentiles 1, 25, 50, 75, 99, interpolated linearly.

    Args:
        matrix: float32 [rows, N].
        layout: of the rows.
    """
    result = np.empty((len(matrix), 7 * len(layout.slots)), np.float64)
    for number, slot in enumerate(layout.slots):
        # One sort serves all percentiles; numpy's percentile takes twice as long.
        values = np.sort(matrix[:, slot.slice], axis=1)
        columns = result[:, 7 * number : 7 * number + 7]
        columns[:, 0] = values.mean(axis=1, dtype=np.float64)
        columns[:, 1] = values.var(axis=1, dtype=np.float64)
        for column, percentile in enumerate(PERCENTILES, start=2):
            position = percentile / 100 * (slot.size - 1)
            below = int(position)
            above = min(below + 1, slot.size - 1)
            low = values[:, below].astype(np.float64)
            columns[:, column] = low + (position - below) * (values[:, above] - low)
    return result


REPRESENTATIONS: dict[str, Callable[[np.ndarray, Layout], np.ndarray]] = {
    "weights": weights,
    "statistics": statistics,
}
