"""Loss and accuracy of weight vectors of any origin: generated, merged, perturbed, permuted.

    loss, accuracy = evaluate(weights, like=row, images="mnist")

It uses the engines that train zoos, which run thousands of small networks together.
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
"""Limit of the number of weights that are copied at a time."""


class Scores(NamedTuple):
    """Scores of weight vectors, float64 [P]: loss in nats, accuracy in [0, 1]."""

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
        like: describes the networks. A row with the columns architecture and activation describes
            all vectors. A data set has one row for each vector, or only rows that agree in these
            columns. A zoo, or the name of one, is also accepted: a zoo directory in
            MODEL_ZOOS_HOME (default ./zoos), or else a zoo of the catalog.
        images: name of an image data set, such as "mnist" or "cifar10"; an ImageSource; ImageData;
            or a pair of normalised images, float32 [n, c, h, w], and labels, integers [n]. By
            default those of the zoo that `like` is or that its rows name.
        split: "train", "validation" or "test", of the images.
        images_dir, download: see `model_zoos.load_images`.
        activation: for all networks, or one for each; by default that of `like`.
        engine, device, threads: see `generation.engines.evaluate`, which uses the CPU unless a
            device or the engine cuda is named.
        on_progress: called with the number of vectors done, and of all.

    Returns:
        Scores in the order of the vectors. Weights that are not finite have a loss that is not.

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
