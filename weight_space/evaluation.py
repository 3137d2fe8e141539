"""Loss and accuracy of weight vectors from anywhere: generated, merged, perturbed, permuted.

    loss, accuracy = evaluate(weights, like=row, images="mnist")

The engines that train zoos do it: thousands of small networks side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidArgument
from ..generation import engines
from .networks import Images, Like, as_block, as_vectors, find_images, read_networks, samples_of

_BLOCK_BYTES = 64 << 20
"""Limit of the weights that are copied at a time."""


class Scores(NamedTuple):
    """Scores of weight vectors, float64 [P]: loss in nats, accuracy as a share of 1."""

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def evaluate(
    weights: ArrayLike | torch.Tensor,
    like: Like,
    images: Images = None,
    split: str = "test",
    images_dir: str | os.PathLike[str] | None = None,
    *,
    activation: str | Sequence[str] | None = None,
    download: bool = False,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score weight vectors as networks on images.

    Args:
        weights: [P, N] or [N], numpy array (also memory-mapped), torch tensor or lists.
        like: says what networks they are: a row with the columns architecture and activation,
            which are those of all vectors; a data set with one row for each vector, or with rows
            that are all alike; a zoo, or its name: that of a zoo directory in MODEL_ZOOS_HOME
            (else ./zoos), or else of the catalog.
        images: name of an image data set, such as "mnist" or "cifar10"; a source; ImageData; or a
            pair of normalised images, float32 [n, c, h, w], and labels, integers [n]. By default
            those of the zoo that `like` is or that its rows name.
        split: "train", "validation" or "test", of the images.
        images_dir, download: as for `model_zoos.load_images`.
        activation: of all networks, or one for each; by default that of `like`.
        engine, device, threads: as for `generation.engines.evaluate`, which uses the CPU unless
            a device or the engine cuda is named.
        on_progress: called with the vectors that are done and all of them.

    Returns:
        Scores in the order of the vectors. Weights that are not finite have no finite loss.

    Raises:
        InvalidArgument: arguments that do not fit together.
        ImageFilesError: the images are missing, damaged, or not the original ones.
    """
    vectors = as_vectors(weights)
    kind = read_networks(like, tuple(vectors.shape), {"activation": activation}, ["activation"])
    activations = np.broadcast_to(kind.values["activation"], len(vectors))
    pixels, labels = samples_of(find_images(images, kind, images_dir, download), split, kind.layout)
    loss, accuracy = np.full(len(vectors), np.nan), np.full(len(vectors), np.nan)
    size, done = max(1, _BLOCK_BYTES // (4 * kind.layout.size)), 0
    for name in dict.fromkeys(activations.tolist()):
        if not isinstance(name, str):
            raise InvalidArgument(
                "a weight vector has no activation: give the argument `activation`, one for all "
                "vectors or one for each. A zoo as `like` says it only if it has a single one",
                hint="--activation names it",
            )
        rows = np.flatnonzero(activations == name)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            loss[chosen], accuracy[chosen] = engines.evaluate(
                as_block(vectors, chosen),
                kind.layout,
                name,
                pixels,
                labels,
                engine=engine,
                device=device,
                threads=threads,
            )
            done += len(chosen)
            if on_progress is not None:
                on_progress(done, len(vectors))
    return Scores(loss, accuracy)
