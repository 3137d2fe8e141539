"""What every population engine is told about its models, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...builders.layout import Layout
from ...builders.specification import ACTIVATIONS, OPTIMIZERS


@dataclass(frozen=True)
class PopulationArguments:
    """The models of a population, one entry or row for each, as an engine sees them.

    Attributes:
        weights: initial, float32 [P, N].
        seeds: of the dropout masks, integers [P].
        learning_rate, weight_decay, momentum, dropout: [P].
    """

    weights: np.ndarray
    seeds: np.ndarray
    learning_rate: np.ndarray
    weight_decay: np.ndarray
    momentum: np.ndarray
    dropout: np.ndarray


def check_models(
    layout: Layout,
    *,
    activation: str,
    optimizer: str,
    batch_size: int,
    weights: Any,
    seeds: Any,
    learning_rate: Any,
    weight_decay: Any,
    momentum: Any,
    dropout: Any,
) -> PopulationArguments:
    """The models, where one number given for all has become one for each.

    Raises:
        ValueError: an argument of a wrong shape, kind or range; ResNet-18.
    """
    if not layout.architecture.layers:
        title = layout.architecture.title
        raise ValueError(f"this engine trains CNN-s and CNN-l, not {title}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if not 1 <= batch_size < 2**24:  # a sample's place in the batch has 24 bits in the masks
        raise ValueError(f"batch_size must lie in [1, 2^24), found {batch_size}")
    weights = np.asarray(weights, np.float32)
    if weights.ndim != 2 or weights.shape[1] != layout.size or not len(weights):
        raise ValueError(f"weights must be [P, {layout.size}], found {list(weights.shape)}")

    def each(name: str, values: Any) -> np.ndarray:
        values = np.asarray(values)
        if values.shape not in ((), (len(weights),)):
            raise ValueError(f"{name} must be one number or [{len(weights)}], found {values.shape}")
        return np.broadcast_to(values, len(weights))

    models = PopulationArguments(
        weights,
        each("seeds", seeds),
        each("learning_rate", learning_rate),
        each("weight_decay", weight_decay),
        each("momentum", momentum),
        each("dropout", dropout),
    )
    if models.seeds.dtype.kind not in "iu":
        raise ValueError(f"seeds must be integers, found {models.seeds.dtype}")
    if not ((models.dropout >= 0) & (models.dropout < 1)).all():
        raise ValueError("dropout rates must lie in [0, 1)")
    return models
