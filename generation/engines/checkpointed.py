"""Train large models state by state: each state is written while the next epoch trains.

A ResNet-18 trains for minutes or hours, and each state has 45 MB. So every state that the zoo keeps
is written in the background as soon as it exists. A checkpoint beside the states holds everything
needed to resume training (`<model_id>/checkpoint.pt`, 90 MB). After an interruption, training
resumes after the last epoch whose checkpoint was written, with the same bits (on a CPU, if the
number of threads is the same). The checkpoint is deleted when the model is finished.

A model that has some of its states but no checkpoint is trained again. Its good states are kept
until each is replaced. Meanwhile a file marks the model as incomplete, so that states of two runs
are never taken for one trajectory.
"""

from __future__ import annotations

import io
import pickle
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...builders.atomic import write_atomically
from ...builders.specification import Model
from ...builders.splits import METRIC_OF_SPLIT
from ...builders.zoo_directory import CHECKPOINT, REPLACING, ZooDirectory
from ...errors import CheckpointWarning, FaultyFile, UnreadableFile
from ..images import ImageData
from ..job import Outcome, Work
from .collect import Done, collect
from .resnet import ResNetTraining, Stopped

_STOPPING = (
    "stopping; Ctrl-C again stops at once. Finished models are kept; the one in training resumes "
    "after its last whole epoch"
)


def train_trajectory(
    directory: ZooDirectory,
    model: Model,
    images: ImageData,
    *,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    on_step: Callable[[int], bool] = lambda images: True,
    on_state: Callable[[int], None] = lambda states: None,
) -> Outcome:
    """Train a model up to the last epoch that the zoo keeps, from its checkpoint if there is one.

    Args:
        directory: where the epochs `directory.kept_epochs` are written.
        model: a model of the zoo.
        images: images on the device that trains.
        precision, compile, threads: see `ResNetTraining`.
        on_step: called with the number of images after every step; returns False to stop.
        on_state: called with the number of states that are newly on disk, or were there already.

    Raises:
        Stopped: `on_step` returned False; the next call resumes after the last whole epoch.
        UnreadableFile: the system cannot read the checkpoint or a state. Nothing is changed.
        OSError: a file could not be written.
    """

    def begin() -> ResNetTraining:
        layout = directory.zoo.layout
        return ResNetTraining(
            model, layout, images, precision=precision, compile=compile, threads=threads
        )

    path = _checkpoint(directory, model)
    path.parent.mkdir(exist_ok=True)
    training = begin()
    if path.exists() and not resume(training, directory, path):
        training = begin()
    kept = directory.kept_epochs
    _keep_until_replaced(directory, model, training.epoch)
    on_state(sum(epoch <= training.epoch for epoch in kept))
    first, states = training.epoch, 0
    test_acc, weights = float("nan"), None
    # One writer: states appear in order, and at most one waits in memory during the next epoch.
    with ThreadPoolExecutor(1) as writer:
        pending: Future[None] | None = None
        for epoch in range(first + 1, kept[-1] + 1):
            scores = {"train": training.train_epoch(on_step)}
            if epoch in kept:
                for split in ("validation", "test"):
                    if getattr(images, split) is not None:
                        scores[split] = training.evaluate(split)
                test_acc = scores["test"][1]
                states += 1
            metrics: dict[str, float] = {}
            for split, (loss, accuracy) in scores.items():
                name = METRIC_OF_SPLIT[split]
                metrics |= {f"{name}_loss": loss, f"{name}_acc": accuracy}
            weights = training.weights() if epoch in kept else None
            snapshot = training.snapshot() if epoch < kept[-1] else None
            if pending is not None:
                pending.result()
            pending = writer.submit(
                _write, directory, model, epoch, weights, metrics, snapshot, path, on_state
            )
        if pending is not None:
            pending.result()
    _replacing(directory, model).unlink(missing_ok=True)  # the last: all states are of this run
    remove_checkpoint(directory, model)
    diverged = weights is not None and not bool(np.isfinite(weights).all())
    return Outcome(test_acc, diverged, states, training.epoch - first)


def remove_checkpoint(directory: ZooDirectory, model: Model) -> None:
    """Remove a finished model's checkpoint, if one is left."""
    _checkpoint(directory, model).unlink(missing_ok=True)


def _checkpoint(directory: ZooDirectory, model: Model) -> Path:
    return directory.models_path / model.model_id / CHECKPOINT


def _replacing(directory: ZooDirectory, model: Model) -> Path:
    return directory.models_path / model.model_id / REPLACING


def _keep_until_replaced(directory: ZooDirectory, model: Model, trained: int) -> None:
    """Mark a model that has states of epochs which are still to be trained, and warn of a restart.

    Args:
        directory: of the zoo.
        model: that is trained.
        trained: the epoch from which training resumes; 0 if it starts again from the beginning.
    """
    paths = {epoch: directory.state_path(model.model_id, epoch) for epoch in directory.kept_epochs}
    good, wrong = 0, []
    for epoch, path in paths.items():
        if epoch <= trained or not path.exists():
            continue
        try:
            directory.read(path)
        except UnreadableFile:
            raise
        except FaultyFile as error:
            wrong.append(str(error))
        else:
            good += 1
    if not good:
        return
    _replacing(directory, model).touch()
    if trained == 0:
        absent = [path.name for path in paths.values() if not path.exists()]
        reasons = "; ".join([*wrong, *([f"{', '.join(absent)} missing"] if absent else [])])
        warnings.warn(
            f"{paths[directory.kept_epochs[0]].parent}: {good} of {len(paths)} states are good, "
            f"but not all ({reasons:.300}), and no checkpoint can be resumed: the model is trained "
            "again from the beginning, and each good state stays until its epoch is trained",
            CheckpointWarning,
            stacklevel=3,
        )


def _write(
    directory: ZooDirectory,
    model: Model,
    epoch: int,
    weights: np.ndarray | None,
    metrics: Mapping[str, float],
    snapshot: Mapping[str, Any] | None,
    path: Path,
    on_state: Callable[[int], None],
) -> None:
    """Write a state, then the checkpoint; a checkpoint implies all states up to it on disk."""
    if weights is not None:
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            [epoch],
            weights[None],
            {name: np.array([value]) for name, value in metrics.items()},
        )
        on_state(1)
    if snapshot is None:
        return
    buffer = io.BytesIO()  # so that a full disk raises an OSError, as everywhere
    torch.save(snapshot, buffer)
    write_atomically(path, buffer.getbuffer())


def resume(training: ResNetTraining, directory: ZooDirectory, path: Path) -> bool:
    """Resume from the checkpoint and return True if it and all states before it are intact.

    Raises:
        UnreadableFile: the system cannot read one of them, which may be intact.
    """
    try:
        # Like downloaded files, our own are never unpickled without restrictions.
        snapshot = torch.load(path, map_location="cpu", weights_only=True)
        epoch, threads = int(snapshot["epoch"]), snapshot["threads"]
        for kept in directory.kept_epochs:
            if kept <= epoch:
                directory.read(directory.state_path(training.model.model_id, kept))
        training.restore(snapshot)
    except UnreadableFile:
        raise
    except OSError as error:
        raise UnreadableFile(
            f"{path}: the system cannot read this checkpoint ({error}); it is kept as it is: see "
            "to its disk, network or permissions, then run the same command again"
        ) from error
    except (
        *(FaultyFile, ValueError, KeyError, TypeError, EOFError, RuntimeError),
        *(pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:
        reason = " ".join(str(error).split())
        warnings.warn(
            f"{path}: training starts again from the beginning ({reason:.200})",
            CheckpointWarning,
            stacklevel=3,
        )
        return False
    now = torch.get_num_threads() if training.threads is None else training.threads
    if training.device.type == "cpu" and threads != now:
        warnings.warn(
            f"{path}: begun with {threads} threads, resumed with {now}: the model will differ in "
            "its last bits from one whose training was not interrupted",
            CheckpointWarning,
            stacklevel=3,
        )
    return True


def train(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """Train one model after the other; a second thread writes their states."""
    directory, images = work.job.directory, work.job.images.to(work.device)
    stop, counts = threading.Event(), {"states": 0, "images": 0}

    def on_step(images: int) -> bool:
        counts["images"] += images
        return not stop.is_set()

    def on_state(states: int) -> None:
        counts["states"] += states

    def train(model: Model) -> list[Outcome]:
        if stop.is_set() or directory.finished(model.model_id):
            return []
        if work.wait_for_room is not None:
            work.wait_for_room(stop)
        try:
            outcome = train_trajectory(
                *(directory, model, images),
                precision=directory.info["precision"],
                compile=directory.info["compile"],
                threads=work.threads if work.device == "cpu" else None,
                on_step=on_step,
                on_state=on_state,
            )
        except Stopped:
            return []
        return [outcome]

    pool = ThreadPoolExecutor(1)
    futures = {pool.submit(train, model): [model] for model in models}

    began = time.monotonic()

    def done() -> Done:
        states, epochs = counts["states"], counts["images"] / len(images.train)
        if not epochs:
            return Done(states, epochs, None)
        # Existing states took no time in this run.
        total = len(models) * directory.kept_epochs[-1] - max(0.0, states - epochs)
        return Done(states, epochs, max(0.0, total / epochs - 1) * (time.monotonic() - began))

    yield from collect(work, pool, futures, done, stop, stopping=_STOPPING)
