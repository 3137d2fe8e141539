"""What is trained (`Job`), and the results for a model (`Outcome`) and for a run (`Summary`)."""

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
        states, epochs: number of states written and epochs trained in this run, without earlier
            ones.
        sparsity: sparsity of a twin's last state; None for a dense model.
    """

    test_acc: float
    diverged: bool
    states: int
    epochs: int
    sparsity: float | None = None


@dataclass(frozen=True)
class Progress:
    """The progress of this rank, for a progress bar.

    Attributes:
        models, models_total: number of finished models, and of all.
        states, states_total: number of existing states, and of all; a running epoch counts by the
            share that is done.
        samples: number of model-samples trained.
        published: number of models that this run has published; None if it publishes none.
        seconds_left: an estimate from the finished work; None before there is any.
        remark: what a user should know about this run; sent once.
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
    """The result of one run of `generate` or `sparsify`, over all ranks.

    Attributes:
        zoo, path: name and folder of the zoo.
        engine: name of the engine that trained.
        ranks: number of processes that shared the work.
        models, present: number of models trained in this run, and number of earlier ones.
        states: number of states written in this run.
        diverged: number of this run's models whose last weights are not finite. They are kept, as
            in the paper's code.
        test_acc: mean over this run's models at the last epoch; None without such models.
        seconds: time of training, evaluating and writing, on the slowest rank.
        samples_per_second: training images per second, counted for every model that sees them.
        sparsity: mean over this run's twins at the last epoch; None for dense models.
        published, freed: number of models published in this run, and of models deleted here; None
            if nothing was to be published.
        left_out: reason for each model that could not be trained or published, by model id.
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
    """The part of a population that a job reads."""

    @property
    def weights(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Job:
    """How the dense models of a zoo start, what is kept of a state, and how a model is written.

    Sparse twins (sparsify.py) override these methods. The processes of the reference engine get a
    copy of the job.

    Attributes:
        directory: directory of the zoo.
        images: the images on which its models are trained.
        method: "dense", or the method that makes the twins; the engine must support it.
    """

    directory: ZooDirectory
    images: ImageData
    method: ClassVar[str] = "dense"

    def start(
        self, models: Sequence[Model], drawn: NDArray[np.float32]
    ) -> dict[str, NDArray[np.generic]]:
        """Return the initial tensors of models, as arguments of a population, [P, N] each.

        Args:
            models: the models of the population, [P].
            drawn: initial weights drawn with the models' seeds, [P, N].
        """
        return {"weights": drawn}

    def epoch_arguments(self, epoch: int) -> tuple[float, ...]:
        """Return further arguments of `Population.train_epoch` for an epoch, which starts at 1."""
        return ()

    def tensors(self, population: Tensors) -> Arrays:
        """Return the tensors kept of a state, [P, N] each: weights, for twins also others."""
        return {"weights": population.weights}

    def write(
        self, model: Model, tensors: Arrays, metrics: Mapping[str, NDArray[np.float64]]
    ) -> Outcome:
        """Write a complete model.

        Args:
            model: the model.
            tensors: by the names of `tensors()`, [S, N] each.
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
        threads: number of cores to use; 0 until it is chosen (generate.run).
        device: "cpu", "cuda" or "cuda:1".
        on_progress: called about five times a second.
        wait_for_room: called before a model with one file per state begins, with an event that
            stops the waiting; returns when there is enough disk space for the model.
    """

    job: Job
    threads: int
    device: str
    on_progress: Callable[[Progress], None] | None = None
    wait_for_room: Callable[[threading.Event], None] | None = None
