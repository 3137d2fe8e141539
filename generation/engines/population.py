"""What the engines that train many models side by side have in common."""

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


class Population(Protocol):
    """Models in training side by side. Arrays have one entry or row for each model."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """The weights that evaluation uses, [P, N] in layout order, a copy."""

    @property
    def epoch_share(self) -> float:
        """Fraction of the running epoch or evaluation that is done, 0 if none runs.

        Another thread may read it.
        """

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train one epoch, each model in its own order of the images.

        Args:
            images: float32 [n, channels, h, w], normalised.
            labels: integers [n] in [0, classes).
            orders: integers [P, m] in [0, n), usually permutations.
            more: of twins by variational dropout, the weight of the divergence in the loss.

        Returns:
            Means over the samples as they were trained on.
        """

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Scores:
        """Score every model in evaluation mode. Arguments as in `train_epoch`."""


@dataclass(frozen=True, eq=False)
class Rates:
    """Hyperparameters that may differ between the models of a population, [P] each.

    Attributes:
        seeds: of dropout masks and noise.
        learning_rate, weight_decay, dropout: see `Model`.
        momentum: 0 for optimizers that have none.
    """

    seeds: NDArray[np.int64]
    learning_rate: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    momentum: NDArray[np.float64]
    dropout: NDArray[np.float64]


def check_weights(layout: Layout, activation: str, weights: ArrayLike) -> NDArray[np.float32]:
    """The weights of a population as float32 [P, N].

    Raises:
        InvalidArgument: another shape, an unknown activation, or an architecture that is no plain
            sequence of layers.
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
    """The rates of models that an engine can train side by side.

    Args:
        models: with one activation, optimizer and batch size.
        count: of the weights that they start from.
        optimizers: that the engine knows.

    Raises:
        InvalidArgument: models that differ in these, or an optimizer or a rate that the engine
            cannot train with.
    """
    if len(models) != count:
        raise InvalidArgument(f"found {len(models)} models and weights for {count}")
    first = models[0]
    for name in ("activation", "optimizer", "scheduler", "batch_size"):
        if any(getattr(model, name) != getattr(first, name) for model in models):
            raise InvalidArgument(f"models that train side by side have one {name}")
    if first.optimizer not in optimizers:
        raise InvalidArgument(
            f"unknown optimizer {first.optimizer!r}; known: {', '.join(optimizers)}"
        )
    if first.scheduler is not None:
        parse_scheduler(first.scheduler)
        if any(model.epochs != first.epochs for model in models):
            raise InvalidArgument("models with a scheduler train side by side for as many epochs")
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
