"""Plan a zoo: which rank trains which models, how long it takes, how much disk it needs.

A ResNet-18 zoo of the paper takes 2.2 TB and hundreds of GPU hours. So the space is computed before
the first model is trained, and `model-zoos generate --plan` prints the whole plan.
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
"""Number of images in a measured epoch, from which the time of a zoo's epoch is extrapolated."""

_HEADER_BYTES = 128
"""Bytes of a tensor's entry in a file's header, rounded up."""


@dataclass(frozen=True)
class Share:
    """The work of one rank.

    Attributes:
        rank: number of the rank, from 0.
        model_ids, seeds: ids and seeds of all its models.
        missing: number of its models to be trained, including unfinished ones.
        states: number of states to write.
        bytes: size of these states.
        seconds: time to train, evaluate and write; 0 if there is nothing to train, None if the
            speed is not known.
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
    """The work of `generate`, before it is done.

    Attributes:
        zoo, path: name and folder of the zoo.
        models, missing, states: numbers of all models, of models to train, of states to write.
        epochs: number of epochs that each model is trained for, up to the last one kept.
        kept_epochs: epochs of each model that are written.
        freeing: whether each model is published and deleted when it is finished.
        bytes_needed: disk space needed, including checkpoints of models in training; with
            `freeing`, the minimum.
        bytes_free: free disk space at the folder of the zoo.
        seconds_per_epoch: time of one epoch of one model; None if it is not known.
        source_of_seconds: origin of that time: "stated", "measured" or "unknown".
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
        """Wall time in seconds until the last rank finishes; None if the speed is not known."""
        known = [share.seconds for share in self.shares if share.seconds is not None]
        return max(known) if len(known) == len(self.shares) else None

    def space(self) -> str:
        """Return a sentence about the disk space."""
        at_least = "at least " if self.freeing else ""
        return (
            f"{self.zoo}: {counted(self.missing, 'model')} to train, "
            f"{counted(self.states, 'state')} to write, needs {at_least}"
            f"{byte_size(self.bytes_needed)} of disk, {byte_size(self.bytes_free)} are free"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all attributes and `seconds` as JSON values."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}


def make_plan(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    seconds_per_epoch: float | None = None,
    source_of_seconds: str = "stated",
    *,
    staging: int = 0,
    freeing: bool = False,
) -> Plan:
    """Plan a zoo, which may not exist yet; no model file is opened.

    Args:
        directory: directory of the zoo.
        shares: the models of each rank (`ranks.share_models`).
        seconds_per_epoch: time of one model on one rank; None if not known.
        source_of_seconds: "stated" or "measured".
        staging: disk space that publishing needs during training; 0 if nothing is published.
        freeing: whether models are deleted here when they are published.
    """
    kept = tuple(directory.kept_epochs)
    size = state_bytes(directory.zoo)
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
) -> None:
    """Refuse to begin a run that does not fit this disk; arguments: see `make_plan`.

    Raises:
        NotEnoughSpace: the missing models need more space than is free.
    """
    plan = make_plan(directory, shares, staging=staging, freeing=freeing)
    if plan.bytes_needed > plan.bytes_free:
        hint = "make room, choose another folder (--out) or fewer models (--models)"
        if directory.zoo.layout.architecture.file_per_state:
            hint += f", keep fewer epochs (--keep-epochs 1,{directory.zoo.epochs})"
            if not freeing:
                hint += ", or publish models as they are finished (--push ORG/NAME --free)"
        raise NotEnoughSpace(f"{plan.space()} in {directory.path}", hint=hint)


def state_bytes(zoo: Zoo) -> int:
    """Return the disk space of one state: float32 weights, and its part of header or metrics."""
    entries = len(zoo.layout.slots) if zoo.layout.architecture.file_per_state else 1
    return 4 * zoo.layout.size + _HEADER_BYTES * entries


def model_bytes(directory: ZooDirectory) -> int:
    """Return the disk space of one model in training, including all states that are kept."""
    states = len(directory.kept_epochs) * state_bytes(directory.zoo)
    return states + _working_bytes(directory.zoo)


def _most_at_once(directory: ZooDirectory, absent: Sequence[int]) -> int:
    """Return the maximal disk space of a rank if each model is deleted when it is finished.

    Args:
        directory: directory of the zoo.
        absent: number of states not on disk, for each of its unfinished models in order.
    """
    size, kept = state_bytes(directory.zoo), len(directory.kept_epochs)
    most = made = 0
    for states in absent:
        most = max(most, states * size + _working_bytes(directory.zoo) - made)
        made += (kept - states) * size  # its existing states are deleted with it
    return most


def free_bytes(path: Path) -> int:
    """Return the free disk space at the place of a path, which may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _working_bytes(zoo: Zoo) -> int:
    """Return the size of a model's files in training: two checkpoints of ResNet-18 and a state."""
    return 5 * 4 * zoo.layout.size if zoo.layout.architecture.file_per_state else 0


def _absent(directory: ZooDirectory, model: Model, kept: Sequence[int]) -> int:
    """Return the number of a model's states that are not on disk."""
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
    """Measure the seconds that an epoch takes for each of some models, on random images.

    One round of concurrent blocks is trained for 1 and for 3 epochs. The difference is scaled to
    all blocks, so that partly filled blocks count.

    Args:
        zoo: a zoo whose networks train together.
        like: the zoo's images, or their source.
        models: all models that one rank will train.
        engine, device, threads: those of the run.

    Returns:
        Seconds of training and evaluation per epoch and model.
    """
    train = like.sizes[0]
    count = min(train, _MEASURED_IMAGES)
    images = _random_images(like, count, [s and -(-s * count // train) for s in like.sizes[1:]])
    blocks = group_models(models, engine.side_by_side(zoo, device))
    at_once = threads if engine.block_a_thread else 1
    some = [model for block in blocks[:at_once] for model in block]
    seconds: list[float] = []
    for epochs in (1, 1, 3):  # the first run compiles the kernels and is not counted
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
    """Return random images in the shape of others, with these numbers of images in each part."""
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
    """Measure the seconds of one model's epoch here, extrapolated from some steps on random images.

    Args:
        zoo: a zoo whose models train one by one, such as ResNet-18.
        like: the zoo's images, or their source.
        device, precision, compile, threads: see `TrainOptions`.
        steps: number of measured steps, after one warm-up step.

    Returns:
        Seconds of training and evaluation.
    """
    train, validation, test = like.sizes
    # On a CPU, a part of a batch takes its share of the time; on a GPU it does not.
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
