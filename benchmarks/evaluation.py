"""Evaluate recorded states again, and compare the results with the recorded ones."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..builders.hyperparameters import ACTIVATIONS
from ..builders.machine import cores
from ..builders.sources import small_cnn_zoo
from ..builders.zoo_directory import ZooDirectory
from ..errors import InvalidArgument, LanesUnavailable, ModelZoosWarning
from ..generation.engines import evaluate, reference
from ..generation.engines.lanes import lanes_count
from ..generation.images import ImageData, load_images
from .checks import Tally, ZooOnDisk

LOSS_TOLERANCE = 1e-3
"""Tolerated relative difference of losses if another engine evaluates than the one that recorded
them. On the states of three imported zoos, including diverged models, it was at most 1e-5."""

_BLOCK = 64
"""Number of states that are evaluated together."""

Kind = tuple[str, ...]
"""The common key of states evaluated together: their activation, then the sets of images for which
they have metrics ("test", "val", "train")."""


def blocks(zoo: ZooOnDisk, rows: NDArray[np.int64]) -> list[tuple[Kind, list[int]]]:
    """Group states that are evaluated together; states with an unknown activation are left out.

    The groups depend only on the zoo and the rows, so that shares of an audit evaluate the same
    groups as one process would.

    Args:
        zoo: the zoo.
        rows: indices of the states to evaluate, ascending.
    """
    states, info = zoo.states, zoo.directory.info
    # Without layers there is no engine for several states at a time, and states are large.
    size = _BLOCK if zoo.directory.zoo.layout.architecture.layers else 1
    # Later training metrics are running means. An imported twin's first ones are its parent's.
    # Models from other sources than the paper's may have seen only a part of the images.
    own = "form" in (info.get("source") or {}) or zoo.penalised
    found: list[tuple[Kind, list[int]]] = []
    last: dict[Kind, list[int]] = {}
    for row in rows.tolist():
        if states.activation[row] not in ACTIVATIONS:
            continue
        names = ["test", "val"] + ["train"] * bool(states.epoch[row] == 0 and not own)
        recorded = [name for name in names if states.metric(f"{name}_acc", row) is not None]
        kind = (states.activation[row], *recorded)
        if len(last.get(kind, ())) % size == 0:
            last[kind] = []
            found.append((kind, last[kind]))
        last[kind].append(row)
    return found


class Evaluator:
    """Evaluates states of one kind together, and compares the results.

    Args:
        zoo: the zoo.
        images: the images for its models.
        threads: number of cores to use; None for all that this process may use.
        tallies: receives the results for "accuracy" and "loss".
        states: number of states evaluated so far.
    """

    def __init__(
        self,
        zoo: ZooOnDisk,
        images: ImageData,
        threads: int | None,
        tallies: Mapping[str, Tally],
    ) -> None:
        self.states = 0
        self._zoo, self._tallies, self._threads = zoo, tallies, threads or cores()
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

    def evaluate(self, kind: Kind, rows: Sequence[int], weights: NDArray[np.float32]) -> None:
        """Evaluate some states of one kind, and compare the results with the recorded ones.

        Args:
            kind: their common key.
            rows: indices of their rows, [n].
            weights: float32 [n, N].
        """
        activation, *recorded = kind
        self.states += len(rows)
        for name in filter(self._sets.__contains__, recorded):
            images, labels = self._sets[name]
            scores = evaluate(
                weights, self._layout, activation, images, labels,
                engine=self.engine, threads=self._threads,
            )  # fmt: skip
            for row, vector, loss, accuracy in zip(rows, weights, *scores, strict=True):
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
        about, tally = f"{states.title(row)}: {name}", self._tallies["accuracy"]
        recorded = states.metric(f"{name}_acc", row)
        assert recorded is not None  # `blocks` has checked it
        tally.see()
        step = 0.0 if self.to_the_bit else 1 / len(self._sets[name][1])
        if not abs(np.float32(accuracy) - np.float32(recorded)) <= step * 1.001:
            tally.fail(row, f"{about}_acc is recorded as {recorded:.4f}, evaluated {accuracy:.4f}")
        recorded, tally = states.metric(f"{name}_loss", row), self._tallies["loss"]
        if recorded is None or self._zoo.penalised:
            return
        tally.see()
        # The reference engine computes the untrained model's training loss in a random order.
        exact = self.to_the_bit and (name, self.engine) != ("train", "reference")
        if not _equal_losses(loss, recorded, exact) and not (
            penalty > 0 and _equal_losses(loss + penalty, recorded, exact)
        ):
            tally.fail(
                row,
                f"{about}_loss is recorded as {recorded:.9g}, evaluated {np.float32(loss):.9g}",
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
    """Return the images on which the models of a zoo were trained.

    Args:
        directory: the zoo.
        given: the images, if they are loaded already.
        images_dir, download: see `images.load_images`.

    Raises:
        ImageFilesError: the image files are missing or cannot be used.
        InvalidArgument: they are not the images that zoo.json names, or have another shape than
            the models take.
    """
    images, recorded = given, recorded_digest(directory)
    if images is None:
        zoo = directory.zoo
        with warnings.catch_warnings():
            # The recorded digest decides, even for files that are not the original ones.
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
    layout = directory.zoo.layout
    size = layout.architecture.image_size
    if size is not None and images.shape != (layout.channels, size, size):
        raise InvalidArgument(
            f"the models take images [{layout.channels}, {size}, {size}], {images.name} has "
            f"{list(images.shape)}: these are not the images that the models saw"
        )
    return images


def recorded_digest(directory: ZooDirectory) -> str | None:
    """Return the digest of the images in zoo.json; None if it has none."""
    return (directory.info.get("images") or {}).get("sha256")
