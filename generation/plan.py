"""Plan a zoo: which rank trains which models, how long it takes, how much disk it needs.

A ResNet-18 zoo of the paper is 2.2 TB and hundreds of GPU hours. So the space is computed before
the first model is trained, and `model-zoos generate --plan` says all of it without training.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..builders.machine import byte_size, counted
from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import ZooDirectory, create_zoo
from ..errors import NotEnoughSpace
from .engines import Engine, group_models
from .engines.resnet import ResNetTraining
from .images import ImageData, Images, ImageSource
from .job import Job, Work

_CPU_BATCH = 16

_MEASURED_IMAGES = 2000
"""Images of an epoch from which that of a zoo is extrapolated."""

_HEADER_BYTES = 128
"""A tensor's entry in a file's header, rounded up."""


@dataclass(frozen=True)
class Share:
    """What one rank does.

    Attributes:
        rank: number of the rank, from 0.
        model_ids, seeds: ids and seeds of all its models.
        missing: how many of them are to be trained, those that were begun included.
        states: number of states to write.
        bytes: size of these states.
        seconds: time to train, evaluate and write; None if the speed is not known, except that
            nothing to train takes no time.
    """

    rank: int
    model_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    missing: int
    states: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What `generate` would do.

    Attributes:
        zoo, path: name and folder.
        models, missing, states: numbers of all models, of models to train, of states to write.
        epochs: number of epochs that each model is trained for, up to the last that is kept.
        kept_epochs: epochs that are written of each model.
        freeing: whether each model is published and deleted when it is finished.
        bytes_needed: disk space needed, checkpoints of models in training included; with `freeing`,
            the least that is needed.
        bytes_free: free disk space where the zoo lies or will lie.
        seconds_per_epoch: time of one epoch of one model; None if it is not known.
        source_of_seconds: where that time is from: "stated", "measured" or "unknown".
        shares: the share of each rank.
    """

    zoo: str
    path: str
    models: int
    missing: int
    states: int
    epochs: int
    kept_epochs: tuple[int, ...]
    freeing: bool
    bytes_needed: int
    bytes_free: int
    seconds_per_epoch: float | None
    source_of_seconds: str
    shares: tuple[Share, ...]

    @property
    def seconds(self) -> float | None:
        """Until the last rank has ended; None if the speed is not known."""
        known = [share.seconds for share in self.shares if share.seconds is not None]
        return max(known) if len(known) == len(self.shares) else None

    def space(self) -> str:
        """One sentence about the disk."""
        at_least = "at least " if self.freeing else ""
        return (
            f"{self.zoo}: {counted(self.missing, 'model')} to train, "
            f"{counted(self.states, 'state')} to write, needs {at_least}"
            f"{byte_size(self.bytes_needed)} of disk, {byte_size(self.bytes_free)} are free"
        )

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "seconds": self.seconds}


def make_plan(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    seconds_per_epoch: float | None = None,
    source_of_seconds: str = "stated",
    *,
    staging: int = 0,
    freeing: bool = False,
    tensors: int = 1,
) -> Plan:
    """Plan a zoo, which need not exist yet; no model file is opened.

    Args:
        directory: of the zoo.
        shares: the models of each rank (`ranks.share_models`).
        seconds_per_epoch: of one model on one rank; None if not known.
        source_of_seconds: "stated" or "measured".
        staging: disk space that publishing needs, while models train; 0 if nothing is published.
        freeing: models are deleted here when they are published.
        tensors: how many tensors of the weights' size a state has; 3 of variational twins.
    """
    kept = tuple(directory.kept_epochs)
    size = tensors * state_bytes(directory.zoo)
    freed = directory.published().freed
    planned, most = [], []
    for rank, models in enumerate(shares):
        absent = [
            0 if model.model_id in freed else _absent(directory, model, kept) for model in models
        ]
        missing = sum(states > 0 for states in absent)
        most.append(_most_at_once(directory, [states for states in absent if states]))
        planned.append(
            Share(
                rank=rank,
                model_ids=tuple(model.model_id for model in models),
                seeds=tuple(model.seed for model in models),
                missing=missing,
                states=sum(absent),
                bytes=sum(absent) * size,
                seconds=missing * kept[-1] * seconds_per_epoch
                if seconds_per_epoch
                else (None if missing else 0.0),
            )
        )
    active = sum(share.missing > 0 for share in planned)
    if freeing:
        needed = sum(most)
    else:
        needed = sum(share.bytes for share in planned) + active * _working_bytes(directory.zoo)
    return Plan(
        zoo=directory.zoo.name,
        path=str(directory.path),
        models=sum(len(models) for models in shares),
        missing=sum(share.missing for share in planned),
        states=sum(share.states for share in planned),
        epochs=kept[-1],
        kept_epochs=kept,
        freeing=freeing,
        bytes_needed=needed + staging,
        bytes_free=free_bytes(directory.path),
        seconds_per_epoch=seconds_per_epoch,
        source_of_seconds=source_of_seconds if seconds_per_epoch is not None else "unknown",
        shares=tuple(planned),
    )


def check_space(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    *,
    staging: int = 0,
    freeing: bool = False,
    tensors: int = 1,
) -> None:
    """Refuse to begin what cannot be finished on this disk; arguments as of `make_plan`.

    Raises:
        NotEnoughSpace: less is free than the missing models need.
    """
    plan = make_plan(directory, shares, staging=staging, freeing=freeing, tensors=tensors)
    if plan.bytes_needed > plan.bytes_free:
        hint = "make room, choose another folder (--out) or fewer models (--models)"
        if directory.zoo.layout.architecture.file_per_state:
            hint += f", keep fewer epochs (--keep-epochs 1,{directory.zoo.epochs})"
            if not freeing:
                hint += ", or publish models as they are finished (--push ORG/NAME --free)"
        raise NotEnoughSpace(f"{plan.space()} in {directory.path}", hint=hint)


def state_bytes(zoo: Zoo) -> int:
    """Disk of one state: float32 weights, and its part of the header or metrics."""
    entries = len(zoo.layout.slots) if zoo.layout.architecture.file_per_state else 1
    return 4 * zoo.layout.size + _HEADER_BYTES * entries


def model_bytes(directory: ZooDirectory) -> int:
    """Disk that one model takes while it is trained, all the states that are kept included."""
    states = len(directory.kept_epochs) * state_bytes(directory.zoo)
    return states + _working_bytes(directory.zoo)


def _most_at_once(directory: ZooDirectory, absent: Sequence[int]) -> int:
    """Disk that a rank needs at most at one time, if each model is deleted when it is finished.

    Args:
        absent: states that are not on disk, of each of its unfinished models in turn.
    """
    size, kept = state_bytes(directory.zoo), len(directory.kept_epochs)
    most = made = 0
    for states in absent:
        most = max(most, states * size + _working_bytes(directory.zoo) - made)
        made += (kept - states) * size  # what is there already is deleted with it
    return most


def free_bytes(path: Path) -> int:
    """Disk that is free where a path lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _working_bytes(zoo: Zoo) -> int:
    """Files of a model in training: a ResNet-18's old and new checkpoint, and a state."""
    return 5 * 4 * zoo.layout.size if zoo.layout.architecture.file_per_state else 0


def _absent(directory: ZooDirectory, model: Model, kept: Sequence[int]) -> int:
    """Number of a model's states that are not on disk."""
    if not directory.zoo.layout.architecture.file_per_state:
        return 0 if directory.state_path(model.model_id, kept[0]).exists() else len(kept)
    return sum(not directory.state_path(model.model_id, epoch).exists() for epoch in kept)


def measure_population(
    zoo: Zoo,
    like: ImageSource | ImageData,
    models: Sequence[Model],
    engine: Engine,
    device: str,
    threads: int,
) -> float:
    """Seconds that an epoch takes for each of some models, from a short run on random images.

    As many blocks of models as train at a time are trained for one and for three epochs; how
    well the models fill their blocks is counted in.

    Args:
        zoo: of networks that are trained side by side.
        like: the zoo's images, or their source.
        models: all that one rank will train.
        engine, device, threads: that train them.

    Returns:
        Seconds of training and evaluating.
    """
    train = like.sizes[0]
    count = min(train, _MEASURED_IMAGES)
    images = _random_images(like, count, [s and -(-s * count // train) for s in like.sizes[1:]])
    blocks = group_models(models, engine.side_by_side(zoo, device))
    at_once = threads if engine.block_a_thread else 1
    some = [model for block in blocks[:at_once] for model in block]
    seconds: list[float] = []
    for epochs in (1, 1, 3):  # the first compiles the kernels and is not counted
        chosen = [dataclasses.replace(model, epochs=epochs) for model in some]
        with tempfile.TemporaryDirectory() as folder:
            directory = create_zoo(folder, dataclasses.replace(zoo, epochs=epochs))
            start = time.perf_counter()
            for _ in engine.train(Work(Job(directory, images), threads, device), chosen):
                pass
            seconds.append(time.perf_counter() - start)
    epoch = max(seconds[2] - seconds[1], 1e-3) / 2 * train / count
    return epoch * len(blocks) / min(at_once, len(blocks)) / len(models)


def _random_images(
    like: ImageSource | ImageData, train: int, others: Sequence[int | None]
) -> ImageData:
    """Random images of the shape of others: so many to train, to validate (or None) and to test."""
    generator = np.random.default_rng(0)

    def random(count: int) -> Images:
        pixels = generator.integers(0, 256, (count, *like.shape), np.uint8)
        labels = generator.integers(0, like.classes, count)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    validation, test = others
    return ImageData(
        name="random",
        train=random(train),
        validation=None if validation is None else random(validation),
        test=random(test or 1),
        mean=like.mean,
        std=like.std,
        augmentation=like.augmentation,
        classes=like.classes,
    )


def measure_epoch(
    zoo: Zoo,
    like: ImageSource | ImageData,
    *,
    device: str,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    steps: int = 3,
) -> float:
    """Seconds that one model's epoch takes here, extrapolated from some steps on random images.

    Args:
        zoo: one whose models are trained one by one, as ResNet-18.
        like: the zoo's images, or their source.
        device, precision, compile, threads: as `TrainOptions`.
        steps: measured after one that warms up.

    Returns:
        Seconds of training and evaluating.
    """
    train, validation, test = like.sizes
    # A CPU is as fast with a part of a batch, a GPU is not.
    batch = min(zoo.batch_size, train, _CPU_BATCH if torch.device(device).type == "cpu" else train)
    images = _random_images(like, batch * (steps + 1), (None, batch)).to(device)
    training = ResNetTraining(
        dataclasses.replace(zoo.models(1)[0], batch_size=batch),
        zoo.layout,
        images,
        precision=precision,
        compile=compile,
        threads=threads,
    )
    ends: list[float] = []

    def on_step(count: int) -> bool:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return True

    training.train_epoch(on_step)
    trained = (ends[-1] - ends[0]) / (steps * batch)
    start = time.perf_counter()
    training.evaluate("test")
    evaluated = (time.perf_counter() - start) / batch
    return trained * train + evaluated * (test + (validation or 0))
