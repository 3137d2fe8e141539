"""What is trained (`Job`), and what comes of a model (`Outcome`) and a run (`Summary`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..builders.specification import Model
from ..builders.zoo_directory import ZooDirectory
from .images import ImageData

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Outcome:
    """A model that was trained and written.

    Attributes:
        test_acc: test accuracy of its last state.
        diverged: whether the weights of its last state are not finite.
        states, epochs: number of states written and epochs trained in this run, without those that
            were there before.
        sparsity: sparsity of a twin's last state; None for a dense model.
    """

    test_acc: float
    diverged: bool
    states: int
    epochs: int
    sparsity: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far this rank is: what a progress bar shows.

    Attributes:
        models, models_total: finished, and in all.
        states, states_total: trained or present, and in all; a running epoch counts by its share.
        samples: model-samples trained.
        published: models that this run has published; None if it publishes none.
        seconds_left: an estimate from the work that is done; None before there is any.
        remark: what a user should know about this run; said once.
        stopping: the run was interrupted and ends soon; `remark` says when and what is kept.
    """

    models: int
    models_total: int
    states: float
    states_total: int
    samples: int
    published: int | None = None
    seconds_left: float | None = field(default=None, compare=False)
    remark: str = ""
    stopping: bool = False


@dataclass(frozen=True)
class Summary:
    """What one run of `generate` or `sparsify` did, all ranks together.

    Attributes:
        zoo, path: name and folder of the zoo.
        engine: name of the engine that trained.
        ranks: number of processes that shared the work.
        models, present: number of models trained in this run, and of those that were there before.
        states: number of states written in this run.
        diverged: models of this run whose last weights are not finite. They are kept, as the
            paper's code keeps them.
        test_acc: mean over this run's models at the last epoch; None if there are none.
        seconds: of training, evaluating and writing; of the slowest rank.
        samples_per_second: training images seen by all models together, each second.
        sparsity: mean over this run's twins at the last epoch; None for dense models.
        published, freed: models that were published in this run, and deleted here; None if that
            was not asked for.
        left_out: what could not be trained or published, with the reason, by model id.
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


class Tensors(Protocol):
    """A population, as far as a job looks at it."""

    @property
    def weights(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Job:
    """What is trained into a zoo directory: here the dense models of a zoo.

    Sparse twins (sparsify.py) override what they do otherwise. The processes of the reference
    engine get a copy of it.

    Attributes:
        directory: of the zoo.
        images: that its models are trained on.
        method: "dense", or the method by which twins are made: what an engine must be able to do.
    """

    directory: ZooDirectory
    images: ImageData
    method: ClassVar[str] = "dense"

    def start(
        self, models: Sequence[Model], drawn: NDArray[np.float32]
    ) -> dict[str, NDArray[np.generic]]:
        """What the models start from, as arguments of an engine's population, [P, N] each.

        Args:
            models: of the population, [P].
            drawn: initial weights as the models' seeds draw them, [P, N].
        """
        return {"weights": drawn}

    def epoch_arguments(self, epoch: int) -> tuple[float, ...]:
        """Further arguments of `Population.train_epoch` in an epoch, from 1 on."""
        return ()

    def tensors(self, population: Tensors) -> Arrays:
        """What is kept of a state, [P, N] each: weights, and a twin's further tensors."""
        return {"weights": population.weights}

    def write(
        self, model: Model, tensors: Arrays, metrics: Mapping[str, NDArray[np.float64]]
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


@dataclass(frozen=True)
class Work:
    """What every engine needs to train the models of a run.

    Attributes:
        job: what is trained.
        threads: cores to use.
        device: "cpu", "cuda" or "cuda:1".
        on_progress: called about five times a second.
        wait_for_room: called before a model whose states have a file each is begun, with an event
            that stops the waiting; returns when there is disk space for it.
    """

    job: Job
    threads: int
    device: str
    on_progress: Callable[[Progress], None] | None = None
    wait_for_room: Callable[[threading.Event], None] | None = None
