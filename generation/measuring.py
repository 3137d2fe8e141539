"""Measure how long models train here, from a short run on random images."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch

from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import create_zoo
from .engines import Engine, group_models
from .engines.resnet import ResNetTraining
from .images import ImageData, Images, ImageSource
from .job import Job, Work

_CPU_BATCH = 16

_MEASURED_IMAGES = 2000
"""Number of images in a measured epoch, from which the time of a zoo's epoch is extrapolated."""

_STEPS = 3
"""Steps of a ResNet-18 that are measured, after one that warms up."""


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
        pixels = generator.integers(0, 256, (count, len(like.mean), *like.shape[1:]), np.uint8)
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
        grey=like.grey,
    )


def measure_epoch(
    zoo: Zoo,
    like: ImageSource | ImageData,
    *,
    device: str,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
) -> float:
    """Measure the seconds of one model's epoch here, extrapolated from some steps on random images.

    Args:
        zoo: a zoo whose models train one by one, such as ResNet-18.
        like: the zoo's images, or their source.
        device, precision, compile, threads: as `TrainOptions`.

    Returns:
        Seconds of training and evaluation per epoch and model.
    """
    train, validation, test = like.sizes
    # On a CPU, a part of a batch takes its share of the time; on a GPU it does not.
    batch = min(zoo.batch_size, train, _CPU_BATCH if torch.device(device).type == "cpu" else train)
    images = _random_images(like, batch * (_STEPS + 1), (None, batch)).to(device)
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
    trained = (ends[-1] - ends[0]) / (_STEPS * batch)
    start = time.perf_counter()
    training.evaluate("test")
    evaluated = (time.perf_counter() - start) / batch
    return trained * train + evaluated * (test + (validation or 0))
