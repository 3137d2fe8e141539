"""Recorded states evaluated again, and whether the results agree with what was recorded."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..builders.zoo_directory import ZooDirectory
from ..errors import InvalidArgument, LanesUnavailable
from ..generation.engines import evaluate, reference
from ..generation.engines.lanes import lanes_count
from ..generation.engines.lanes.blocks import cores
from ..generation.images import ImageData, load_images

LOSS_TOLERANCE = 1e-3
"""Relative difference of losses that another engine than the recording one may have. Measured on
the states of three imported zoos, diverged models among them: 1e-5 at most."""

_BLOCK = 64
"""States that are evaluated together."""


@dataclass(frozen=True)
class Measurement:
    """The loss and accuracy of one state on one set of images.

    Attributes:
        row: number of the state's row.
        metrics: "test", "val" or "train", as the names of metrics begin.
        loss: in nats.
        accuracy: share of 1.
    """

    row: int
    metrics: str
    loss: float
    accuracy: float


class Evaluator:
    """Collects states and evaluates those of one activation together.

    Later training metrics are running means, so training images are for untrained states only.

    Args:
        directory: the zoo.
        images: the images that its models saw.
        threads: cores to use; None for all that this process may use.

    Attributes:
        engine: name of the engine that evaluates.
        to_the_bit: whether recorded and evaluated values must be equal in all bits.
        compares_losses: False for imported twins, whose losses are not cross entropies alone.
        states: number of states evaluated so far.
    """

    def __init__(self, directory: ZooDirectory, images: ImageData, threads: int | None) -> None:
        self._layout = directory.zoo.layout
        self._threads = threads or cores()
        self.states = 0
        self.compares_losses = not has_penalised_losses(directory)
        recorded = directory.info.get("engine")
        self.engine = self._choose(recorded, dict(directory.zoo.grid)["activation"][0])
        # The batched engine's sums depend on how many models are stacked. Processors other than x86
        # keep subnormal numbers. The reference engine adds the biases of variational twins
        # separately, and torch's sums depend on its version and the processor.
        made = directory.info.get("versions") or {}
        here = {"torch": str(torch.__version__), "cpu": reference.cpu_kind()}
        method = (directory.info.get("sparsification") or {}).get("method")
        self.to_the_bit = (
            self.engine == recorded
            and self.engine in ("lanes", "reference")
            and (self.engine, method) != ("reference", "variational")
            and (self.engine == "lanes" or all(made.get(key) == here[key] for key in here))
            and platform.machine().lower() in ("x86_64", "amd64")
        )
        self._sets = {
            name: (images.normalized(split), part.labels)
            for name, split in (("test", "test"), ("val", "validation"), ("train", "train"))
            if (part := getattr(images, split)) is not None
        }
        self._waiting: dict[tuple[str, tuple[str, ...]], list[tuple[int, NDArray[np.float32]]]]
        self._waiting = defaultdict(list)

    def _choose(self, recorded: str | None, activation: str) -> str:
        if not self._layout.architecture.layers or recorded == "reference":
            return "reference"
        if recorded == "batched":
            return "batched"
        try:
            lanes_count(self._layout, activation)
        except LanesUnavailable:
            return "batched"
        return "lanes"

    def add(
        self, row: int, weights: NDArray[np.float32], activation: str, recorded: set[str]
    ) -> Iterator[Measurement]:
        """Take one state; when enough of a kind are there, evaluate them and yield the results.

        Args:
            row: number of the state's row.
            weights: float32 [N], which is copied.
            activation: activation of the network.
            recorded: the sets of images ("test", "val", "train") to evaluate it on.
        """
        key = (activation, tuple(name for name in self._sets if name in recorded))
        self._waiting[key].append((row, weights.copy()))
        if len(self._waiting[key]) == _BLOCK:
            yield from self._evaluate(*key)

    def finish(self) -> Iterator[Measurement]:
        """Evaluate the states that are left."""
        for key in list(self._waiting):
            yield from self._evaluate(*key)

    def _evaluate(self, activation: str, sets: tuple[str, ...]) -> Iterator[Measurement]:
        states = self._waiting.pop((activation, sets))
        self.states += len(states)
        weights = np.stack([vector for _, vector in states])
        for name in sets:
            loss, accuracy = evaluate(
                weights,
                self._layout,
                activation,
                *self._sets[name],
                engine=self.engine,
                threads=self._threads,
            )
            for (row, _), *values in zip(states, loss, accuracy, strict=True):
                yield Measurement(row, name, *map(float, values))

    def agrees_in_accuracy(self, found: Measurement, recorded: float) -> bool:
        """Whether an accuracy is the recorded one: to the bit, else within one image."""
        step = 0.0 if self.to_the_bit else 1 / len(self._sets[found.metrics][1])
        difference = abs(np.float32(found.accuracy) - np.float32(recorded))
        return bool(difference <= step * 1.001)

    def agrees_in_loss(self, found: Measurement, recorded: float) -> bool:
        """Whether a loss is the recorded one: to the bit, else within `LOSS_TOLERANCE`."""
        # The reference engine takes the untrained model's training loss in a random order.
        exact = self.to_the_bit and (found.metrics, self.engine) != ("train", "reference")
        if np.isnan(found.loss) or np.isnan(recorded):
            return bool(np.isnan(found.loss) and np.isnan(recorded))
        with np.errstate(over="ignore"):
            if exact or np.isinf(np.float32(found.loss)) or np.isinf(recorded):
                return bool(np.float32(found.loss) == np.float32(recorded))
        return abs(found.loss - recorded) <= LOSS_TOLERANCE * abs(recorded) + 1e-6


def zoo_images(
    directory: ZooDirectory,
    given: ImageData | None,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
) -> ImageData:
    """Return the images that the models of a zoo saw.

    Args:
        directory: the zoo.
        given: the images, if they have been loaded already.
        images_dir, download: as for images.load_images.

    Raises:
        ImageFilesError: the image files are missing or cannot be used.
        ValueError: they are other images than zoo.json names.
    """
    images = given
    if images is None:
        images = load_images(directory.zoo.images, images_dir, download=download, progress=False)
    recorded = recorded_digest(directory)
    if recorded not in (None, images.digest()):
        raise InvalidArgument(
            f"zoo.json names other images (sha256 {recorded:.12}...) than these {images.name} "
            f"({images.digest():.12}...); give those that the models saw"
        )
    return images


def recorded_digest(directory: ZooDirectory) -> str | None:
    """Return the digest of the images in zoo.json; None if it has none."""
    return (directory.info.get("images") or {}).get("sha256")


def has_penalised_losses(directory: ZooDirectory) -> bool:
    """Whether these are imported twins, whose losses include the divergence term."""
    return directory.parent_zoo is not None and "sparsification" not in directory.info
