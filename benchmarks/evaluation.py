"""Recorded states evaluated again, and compared with what was recorded."""

from __future__ import annotations

import os
import platform
import warnings
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from ..builders.machine import cores
from ..builders.sources import small_cnn_zoo
from ..builders.zoo_directory import ZooDirectory
from ..errors import InvalidArgument, LanesUnavailable, ModelZoosWarning
from ..generation.engines import evaluate, reference
from ..generation.engines.lanes import lanes_count
from ..generation.images import ImageData, load_images
from .checks import Findings, ZooOnDisk

LOSS_TOLERANCE = 1e-3
"""Relative difference of losses that another engine than the recording one may have. Measured on
the states of three imported zoos, diverged models among them: 1e-5 at most."""

_BLOCK = 64
"""States that are evaluated together."""


class Evaluator:
    """Collects states, evaluates those of one activation together, and compares the results.

    Args:
        zoo: the zoo.
        images: the images that its models saw.
        threads: cores to use; None for all that this process may use.
        findings: receives the checks "accuracy" and "loss".

    Attributes:
        engine: name of the engine that evaluates.
        to_the_bit: whether recorded and evaluated values must be equal in all bits.
        states: number of states evaluated so far.
    """

    def __init__(
        self, zoo: ZooOnDisk, images: ImageData, threads: int | None, findings: Findings
    ) -> None:
        self.states = 0
        self._zoo, self._findings, self._threads = zoo, findings, threads or cores()
        self._layout, info = zoo.directory.zoo.layout, zoo.directory.info
        self.engine = self._choose(info.get("engine"))
        # The batched engine's sums depend on how many models are stacked. Processors other than x86
        # keep subnormal numbers. The reference engine adds the biases of variational twins
        # separately, and torch's sums depend on its version and the processor.
        made = info.get("versions") or {}
        here = {"torch": str(torch.__version__), "cpu": reference.cpu_kind()}
        method = (info.get("sparsification") or {}).get("method")
        self.to_the_bit = (
            self.engine == info.get("engine")
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
        source = info.get("source") or {}
        of_small_cnns = source.get("form") == small_cnn_zoo.FORM
        self._l2 = small_cnn_zoo.l2_factors(zoo.directory.path) if of_small_cnns else {}
        self._waiting: dict[tuple[str, ...], list[tuple[int, NDArray[np.float32]]]]
        self._waiting = defaultdict(list)

    def _choose(self, recorded: str | None) -> str:
        if not self._layout.architecture.layers or recorded == "reference":
            return "reference"
        if recorded == "batched":
            return "batched"
        try:
            lanes_count(self._layout, dict(self._zoo.directory.zoo.grid)["activation"][0])
        except LanesUnavailable:
            return "batched"
        return "lanes"

    def add(self, row: int, activation: str, weights: NDArray[np.float32]) -> None:
        """Take one state; when enough of a kind are there, evaluate them.

        Args:
            row: number of the state's row.
            activation: activation of the network.
            weights: float32 [N], which is copied.
        """
        states = self._zoo.states
        # Later training metrics are running means; an imported twin's first ones are its parent's,
        # and models of other forms than the paper's may have seen a part of the images only.
        source = self._zoo.directory.info.get("source") or {}
        own = "form" in source or self._zoo.penalised
        untrained = states.epoch[row] == 0 and not own
        sets = (
            name
            for name in self._sets
            if (name != "train" or untrained) and states.metric(f"{name}_acc", row) is not None
        )
        key = (activation, *sets)
        self._waiting[key].append((row, weights.copy()))
        if len(self._waiting[key]) == _BLOCK:
            self._evaluate(key)

    def finish(self) -> None:
        """Evaluate the states that are left."""
        for key in list(self._waiting):
            self._evaluate(key)

    def _evaluate(self, key: tuple[str, ...]) -> None:
        rows, vectors = zip(*self._waiting.pop(key), strict=True)
        activation, *sets = key
        self.states += len(rows)
        for name in sets:
            images, labels = self._sets[name]
            scores = evaluate(
                np.stack(vectors), self._layout, activation, images, labels,
                engine=self.engine, threads=self._threads,
            )  # fmt: skip
            for row, vector, loss, accuracy in zip(rows, vectors, *scores, strict=True):
                penalty = self._penalty(row, vector)
                self._compare(row, name, float(loss), float(accuracy), penalty)

    def _penalty(self, row: int, vector: NDArray[np.float32]) -> float:
        """Return the L2 penalty that the recorded losses of a state may contain."""
        factor = self._l2.get(self._zoo.states.model_id[row], 0.0)
        kernels = (vector[slot.slice] for slot in self._layout.slots if len(slot.shape) > 1)
        return factor * sum(float(np.square(k, dtype=np.float64).sum()) for k in kernels)

    def _compare(self, row: int, name: str, loss: float, accuracy: float, penalty: float) -> None:
        """Compare the loss and accuracy of a state on some images with the recorded ones."""
        states = self._zoo.states
        about, check = f"{states.title(row)}: {name}", self._findings["accuracy"]
        recorded = states.metric(f"{name}_acc", row)
        assert recorded is not None  # as `add` has looked
        check.see()
        step = 0.0 if self.to_the_bit else 1 / len(self._sets[name][1])
        if not abs(np.float32(accuracy) - np.float32(recorded)) <= step * 1.001:
            check.fail(f"{about}_acc is recorded as {recorded:.4f}, evaluated {accuracy:.4f}")
        recorded, check = states.metric(f"{name}_loss", row), self._findings["loss"]
        if recorded is None or self._zoo.penalised:
            return
        check.see()
        # The reference engine takes the untrained model's training loss in a random order.
        exact = self.to_the_bit and (name, self.engine) != ("train", "reference")
        if not _equal_losses(loss, recorded, exact) and not (
            penalty > 0 and _equal_losses(loss + penalty, recorded, exact)
        ):
            check.fail(
                f"{about}_loss is recorded as {recorded:.9g}, evaluated {np.float32(loss):.9g}"
            )


def _equal_losses(found: float, recorded: float, exact: bool) -> bool:
    if np.isnan(found) or np.isnan(recorded):
        return bool(np.isnan(found) and np.isnan(recorded))
    with np.errstate(over="ignore"):
        if exact or np.isinf(np.float32(found)) or np.isinf(recorded):
            return bool(np.float32(found) == np.float32(recorded))
    return abs(found - recorded) <= LOSS_TOLERANCE * abs(recorded) + 1e-6


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
    images, recorded = given, recorded_digest(directory)
    if images is None:
        zoo = directory.zoo
        with warnings.catch_warnings():
            # The recorded digest decides, also on files that are not the published ones.
            warnings.simplefilter("ignore", ModelZoosWarning)
            images = load_images(
                zoo.images,
                images_dir,
                channels=zoo.channels,
                download=download,
                allow_unverified=recorded is not None,
                progress=False,
            )
    if recorded not in (None, images.digest()):
        raise InvalidArgument(
            f"zoo.json names other images (sha256 {recorded:.12}...) than these {images.name} "
            f"({images.digest():.12}...); give those that the models saw"
        )
    return images


def recorded_digest(directory: ZooDirectory) -> str | None:
    """Return the digest of the images in zoo.json; None if it has none."""
    return (directory.info.get("images") or {}).get("sha256")
