"""Make a zoo: train those of its models that are not there yet and write each when it is complete.

A killed run loses the models it was training and nothing else: the same command goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..builders.catalog import Model, Zoo
from ..builders.layout import ARCHITECTURES
from ..builders.zoo_directory import ZooDirectory, create_zoo
from .engines import reference
from .images import ImageData

ENGINES = ("auto", "reference")


class TrainingFailed(RuntimeError):
    """A worker stopped; the models that were finished before are on disk."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a progress bar shows."""

    models: int
    models_total: int
    states: int
    states_total: int


@dataclass(frozen=True)
class Summary:
    """What one run of `generate` did.

    Attributes:
        zoo, path: name and folder.
        engine: that trained.
        models: trained in this run; `present`: models that were there before.
        states: written in this run.
        diverged: models of this run whose last weights are not finite. They are kept, as the
            original keeps them.
        test_acc: mean over this run's models at the last epoch; None if there are none.
        seconds: of training and writing.
        samples_per_second: training images seen by all models together, each second.
    """

    zoo: str
    path: str
    engine: str
    models: int
    present: int
    states: int
    diverged: int
    test_acc: float | None
    seconds: float
    samples_per_second: float


def generate(
    zoo: Zoo,
    root: str | os.PathLike[str],
    images: ImageData,
    *,
    models: int | None = None,
    engine: str = "auto",
    processes: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train a zoo, or the first `models` of it, into `<root>/<zoo>/`.

    Args:
        zoo: specification; see catalog.get_zoo, or zoo_from_json for your own.
        root: folder of all zoos.
        images: that `zoo.images` names (images.load_images).
        models: how many; None for all. The first n are spread over the grid.
        engine: one of `ENGINES`.
        processes: workers; None for one a core.
        on_progress: called about five times a second.

    Raises:
        ValueError: the images do not fit the zoo, or an unknown engine.
        FaultyZoo: the folder holds a zoo of this name that was made otherwise.
        TrainingFailed: a worker was killed, e.g. for want of memory.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    if zoo.architecture == "resnet18":
        raise ValueError(f"{zoo.name}: this version trains CNN-s and CNN-l, not ResNet-18")
    if processes is not None and processes < 1:
        raise ValueError(f"the number of processes must be at least 1, found {processes}")
    _check_images(zoo, images)
    specifications = zoo.models(models)
    directory = create_zoo(
        root,
        zoo,
        engine="reference",
        stream="torch",
        images={"name": images.name, "sha256": images.digest(), "verified": images.verified},
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    )
    directory.add_splits(model.model_id for model in specifications)
    missing = [model for model in specifications if not directory.finished(model.model_id)]
    start = time.monotonic()
    results = list(_train(directory, missing, images, processes or _cores(), on_progress))
    seconds = time.monotonic() - start
    accuracies = [accuracy for accuracy, _ in results]
    return Summary(
        zoo=zoo.name,
        path=str(directory.path),
        engine="reference",
        models=len(results),
        present=len(specifications) - len(missing),
        states=len(results) * (zoo.epochs + 1),
        diverged=sum(diverged for _, diverged in results),
        test_acc=float(np.mean(accuracies)) if accuracies else None,
        seconds=seconds,
        samples_per_second=len(results) * zoo.epochs * len(images.train.labels) / seconds,
    )


def _check_images(zoo: Zoo, images: ImageData) -> None:
    size = ARCHITECTURES[zoo.architecture].image_size
    expected = (zoo.channels, size, size)
    found = tuple(images.train.pixels.shape[1:])
    if found != expected or images.classes != zoo.classes:
        raise ValueError(
            f"{zoo.name} needs images of shape {expected} in {zoo.classes} classes; "
            f"{images.name} has {found} in {images.classes}"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Workers: one model at a time in each process -------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(directory: ZooDirectory, images: ImageData, states: Any) -> None:
    torch.set_num_threads(1)
    _worker.update(directory=directory, images=images, states=states)


def _train_one(model: Model) -> tuple[float, bool]:
    """Train and write one model; its last test accuracy and whether it diverged."""
    directory: ZooDirectory = _worker["directory"]
    trajectory = []
    for state in reference.train(model, directory.zoo.layout, _worker["images"]):
        trajectory.append(state)
        with _worker["states"].get_lock():
            _worker["states"].value += 1
    last = trajectory[-1]
    directory.write_model(
        model.model_id,
        model.hyperparameters(),
        [state.epoch for state in trajectory],
        torch.stack([state.weights for state in trajectory]).numpy(),
        {name: np.array([s.metrics[name] for s in trajectory]) for name in last.metrics},
    )
    return last.metrics["test_acc"], not bool(torch.isfinite(last.weights).all())


def _train(
    directory: ZooDirectory,
    models: list[Model],
    images: ImageData,
    processes: int,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[tuple[float, bool]]:
    if not models:
        return
    # Not fork: a forked child of a process whose torch has started threads can hang.
    context = multiprocessing.get_context("spawn")
    states = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(processes, len(models)), context, _start_worker, (directory, images, states)
    )
    try:
        running = {pool.submit(_train_one, model) for model in models}
        done = 0
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            done += len(finished)
            if on_progress is not None:
                total = len(models) * (directory.zoo.epochs + 1)
                on_progress(Progress(done, len(models), states.value, total))
    except BrokenProcessPool as error:
        raise TrainingFailed(
            f"a training process was killed (out of memory?); {done} models of this run are "
            f"finished in {directory.path}: run the same command again for the others"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
