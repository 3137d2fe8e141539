"""The interface of the engines that train many models together, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...builders.hyperparameters import MOMENTUM_OPTIMIZERS, check_activation, parse_scheduler
from ...builders.layout import Layout
from ...builders.specification import Model
from ...errors import InvalidArgument

Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Loss in nats and accuracy in [0, 1] of each model, float64 [P] each."""


class Evaluable(Protocol):
    """Weight vectors of one layout and activation, to be evaluated."""

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Scores:
        """Score every vector in evaluation mode. Arguments as in `Population.train_epoch`."""


class Population(Evaluable, Protocol):
    """Models that train together. Arrays have one entry or row for each model."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """The weights used in evaluation, [P, N] in layout order, a copy."""

    @property
    def epoch_share(self) -> float:
        """Fraction of the running epoch or evaluation that is done, 0 if none runs.

        Other threads may read it.
        """

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train one epoch, each model in its own order of the images.

        Args:
            images: float32 [n, channels, h, w], normalised.
            labels: integers [n] in [0, classes).
            orders: integers [P, m] in [0, n), usually permutations.
            more: for twins by variational dropout, the factor of the divergence in the loss.

        Returns:
            Means over the samples during training.
        """


@dataclass(frozen=True, eq=False)
class Rates:
    """Hyperparameters that may differ between the models of a population, [P] each.

    Attributes:
        seeds: seeds of dropout masks and noise.
        learning_rate, weight_decay, dropout: see `Model`.
        momentum: 0 for optimizers without momentum.
    """

    seeds: NDArray[np.int64]
    learning_rate: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    momentum: NDArray[np.float64]
    dropout: NDArray[np.float64]


def check_weights(layout: Layout, activation: str, weights: ArrayLike) -> NDArray[np.float32]:
    """Return the weights of a population as float32 [P, N].

    Raises:
        InvalidArgument: another shape, an unknown activation, or an architecture that is not a
            plain sequence of layers.
    """
    if not layout.architecture.layers:
        raise InvalidArgument(
            f"this engine trains networks that are a sequence of layers, which "
            f"{layout.architecture.title} is not"
        )
    check_activation(activation)
    array = np.asarray(weights, np.float32)
    if array.ndim != 2 or array.shape[1] != layout.size or not len(array):
        raise InvalidArgument(f"weights must be [P, {layout.size}], found {list(array.shape)}")
    return array


def check_models(models: Sequence[Model], count: int, optimizers: Sequence[str]) -> Rates:
    """Return the rates of models that an engine can train together.

    Args:
        models: with one activation, optimizer, scheduler and batch size, and, if they have a
            scheduler, one number of epochs.
        count: number of weight vectors from which they start.
        optimizers: names of the optimizers that the engine knows.

    Raises:
        InvalidArgument: the models differ in these, or the engine does not know the optimizer or
            cannot train with a rate.
    """
    if len(models) != count:
        raise InvalidArgument(f"found {len(models)} models and weights for {count}")
    first = models[0]
    for name in ("activation", "optimizer", "scheduler", "batch_size"):
        if any(getattr(model, name) != getattr(first, name) for model in models):
            raise InvalidArgument(f"models that train together must share one {name}")
    if first.optimizer not in optimizers:
        raise InvalidArgument(
            f"unknown optimizer {first.optimizer!r}; known: {', '.join(optimizers)}"
        )
    if first.scheduler is not None:
        parse_scheduler(first.scheduler)
        if any(model.epochs != first.epochs for model in models):
            raise InvalidArgument(
                "models with a scheduler that train together must share one number of epochs"
            )
    if not 1 <= first.batch_size < 2**24:  # a sample's place in the batch has 24 bits in the masks
        raise InvalidArgument(f"batch_size must lie in [1, 2^24), found {first.batch_size}")
    for model in models:
        if type(model.seed) is not int:
            raise InvalidArgument(f"seeds must be integers, found {model.seed!r}")
        if not 0 <= model.dropout < 1:
            raise InvalidArgument(f"dropout rates must lie in [0, 1), found {model.dropout}")
    return Rates(
        seeds=np.array([model.seed for model in models], np.int64),
        learning_rate=np.array([model.learning_rate for model in models], np.float64),
        weight_decay=np.array([model.weight_decay for model in models], np.float64),
        momentum=np.array([model.momentum or 0.0 for model in models], np.float64)
        * (first.optimizer in MOMENTUM_OPTIMIZERS),
        dropout=np.array([model.dropout for model in models], np.float64),
    )
