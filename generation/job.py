"""What is trained, and what is reported about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import ZooDirectory, create_zoo
from .engines import reference
from .engines.lanes import LanesPopulation
from .images import ImageData


@dataclass(frozen=True)
class Outcome:
    """A model that was trained and written.

    Attributes:
        test_acc: of its last state.
        diverged: the weights of its last state are not finite.
        states, epochs: written and trained now; some may have been there before.
        sparsity: of a twin's last state; None for a model of its own.
    """

    test_acc: float
    diverged: bool
    states: int
    epochs: int
    sparsity: float | None = None


ENGINES = ("lanes", "batched", "reference")
"""For CNNs; ResNet-18 has the engine "resnet" alone."""

STREAMS = {"lanes": "philox", "batched": "philox", "reference": "torch", "resnet": "philox"}
"""Where an engine's dropout masks and augmentation come from (streams.py, augmentation.py)."""


class Population(Protocol):
    """Models in training side by side; arrays have one entry or row for each model."""

    @property
    def weights(self) -> np.ndarray:
        """float32 [P, N] in layout order."""

    def train_epoch(self, images: Any, labels: Any, orders: Any) -> tuple[np.ndarray, np.ndarray]:
        """Train one epoch, each model in its own order; running means of loss and accuracy."""

    def evaluate(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss and accuracy in evaluation mode."""


@dataclass(frozen=True)
class Progress:
    """How far this rank is: what a progress bar shows. `samples` are model-samples trained,
    `published` models on the Hub by this run, None if it publishes none."""

    models: int
    models_total: int
    states: int
    states_total: int
    samples: int
    published: int | None = None


@dataclass(frozen=True)
class Summary:
    """What one run of `generate` or `sparsify` did, all ranks together.

    Attributes:
        zoo, path: name and folder.
        engine: that trained.
        ranks: processes that shared the work.
        models: trained in this run; `present`: models that were there before.
        states: written in this run.
        diverged: models of this run whose last weights are not finite. They are kept, as the
            original keeps them.
        test_acc: mean over this run's models at the last epoch; None if there are none.
        sparsity: the same, of twins; None for models of their own.
        published, freed: models that were published in this run, and removed here; None if that
            was not asked for.
        left_out: what could not be trained, with the reason: parents of twins by model id.
        seconds: of training, evaluating and writing; of the slowest rank.
        samples_per_second: training images seen by all models together, each second.
    """

    zoo: str
    path: str
    engine: str
    ranks: int
    models: int
    present: int
    states: int
    diverged: int
    test_acc: float | None
    seconds: float
    samples_per_second: float
    sparsity: float | None = None
    published: int | None = None
    freed: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is trained into a zoo directory: models of a zoo, from their initial weights.

    `run` does any job; those of sparse twins (sparsification.py) override what they do otherwise.
    The processes of the reference engine get a copy of it. ResNet-18 needs no more of it than the
    directory, whose zoo.json says how it is trained, and the images.
    """

    directory: ZooDirectory
    images: ImageData

    def population(
        self, engine: str, models: Sequence[Model], initial: np.ndarray, **options: Any
    ) -> Population:
        """Models that are trained side by side.

        Args:
            engine: "lanes" or "batched".
            models: of the population, [P].
            initial: weights as their seeds draw them, float32 [P, N].
            options: of the engine.
        """
        return population_class(engine)(
            self.directory.zoo.layout, weights=initial, **options, **engine_arguments(models)
        )

    def train_epoch(
        self, population: Any, images: Any, labels: Any, orders: Any, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """One epoch, from 1 on; the rest as `Population.train_epoch`."""
        return population.train_epoch(images, labels, orders)

    def tensors(self, population: Any) -> dict[str, np.ndarray]:
        """What is kept of a state, float32 [P, N] each: weights, and a twin's further tensors."""
        return {"weights": population.weights}

    def trajectory(self, model: Model) -> Iterator[reference.State]:
        """One model's states, by the reference engine."""
        return reference.train(model, self.directory.zoo.layout, self.images)

    def write(
        self, model: Model, tensors: Mapping[str, np.ndarray], metrics: Mapping[str, np.ndarray]
    ) -> Outcome:
        """Write a model that is complete.

        Args:
            tensors: as `tensors`, [S, N] each.
            metrics: name -> [S].
        """
        weights = tensors["weights"]
        epochs = np.arange(len(weights))
        self.directory.write_model(
            model.model_id, model.hyperparameters(), epochs, weights, metrics
        )
        return Outcome(
            test_acc=float(metrics["test_acc"][-1]),
            diverged=not bool(np.isfinite(weights[-1]).all()),
            states=len(epochs),
            epochs=int(epochs[-1]),
        )


def begin(
    root: str | os.PathLike[str], zoo: Zoo, engine: str, images: ImageData, **provenance: Any
) -> ZooDirectory:
    """The directory of a zoo that an engine trains on these images, new or to be continued.

    Raises:
        FaultyZoo: the folder holds a zoo of this name that was made otherwise.
    """
    return create_zoo(
        root,
        zoo,
        engine=engine,
        stream=STREAMS[engine],
        images={"name": images.name, "sha256": images.digest(), "verified": images.verified},
        **provenance,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "cpu": reference.cpu_kind(),
        },
    )


def group_models(models: Sequence[Model], size: int) -> list[list[Model]]:
    """Blocks of at most `size` models that can be trained side by side, in the models' order.

    Models of one block are equal in activation, optimizer, dropout or not, batch size and epochs;
    learning rate, weight decay, momentum, dropout rate, initialisation and seed may differ.
    """
    blocks: list[list[Model]] = []
    filling: dict[tuple[Any, ...], list[Model]] = {}
    for model in models:
        key = (model.activation, model.optimizer, model.dropout > 0, model.batch_size, model.epochs)
        if len(filling.get(key, range(size))) == size:
            filling[key] = []
            blocks.append(filling[key])
        filling[key].append(model)
    return blocks


@dataclass(frozen=True)
class _Work:
    """What every worker of a run needs."""

    job: Job
    threads: int
    device: str
    on_progress: Callable[[Progress], None] | None
    room: int


def population_class(engine: str) -> type[Population]:
    """The class that trains models of their own."""
    if engine == "lanes":
        return LanesPopulation
    from .engines.batched import BatchedPopulation

    return BatchedPopulation


def engine_arguments(models: Sequence[Model]) -> dict[str, Any]:
    """What a population engine wants to know about models that are trained side by side."""
    first = models[0]
    return {
        "activation": first.activation,
        "optimizer": first.optimizer,
        "batch_size": first.batch_size,
        "seeds": np.array([model.seed for model in models], np.int64),
        "learning_rate": np.array([model.learning_rate for model in models]),
        "weight_decay": np.array([model.weight_decay for model in models]),
        "momentum": np.array([model.momentum or 0.0 for model in models]),
        "dropout": np.array([model.dropout for model in models]),
    }
