"""Loss and accuracy of weight vectors from anywhere: generated, merged, perturbed, permuted.

    loss, accuracy = evaluate(weights, like=row, images="mnist")

The engines that train zoos do it: thousands of small networks side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..builders.access import check_row
from ..builders.catalog import zoo_spec
from ..builders.layout import Layout, find_layout
from ..builders.specification import Zoo
from ..errors import InvalidArgument, UnknownZoo
from ..generation import engines
from ..generation.images import IMAGE_SOURCES, ImageData, ImageSource, load_images

_BLOCK_BYTES = 256 << 20
"""Limit of the weights that are copied at a time."""

Like: TypeAlias = Mapping[str, object] | datasets.Dataset | Zoo | str


class Scores(NamedTuple):
    """Scores of weight vectors, float64 [P]: loss in nats, accuracy as a share of 1."""

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def evaluate(
    weights: ArrayLike | torch.Tensor,
    like: Like,
    images: str | ImageSource | ImageData | tuple[ArrayLike, ArrayLike] | None = None,
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
        like: says what networks they are: a row with the columns architecture and activation; a
            data set with one row for each vector, or with rows that are all alike; a zoo, or its
            name in the catalog.
        images: name of an image data set, such as "mnist" or "cifar10"; a source; ImageData; or a
            pair of normalised images, float32 [n, c, h, w], and labels, integers [n]. By default
            those of the zoo that `like` is or that its rows name.
        split: "train", "validation" or "test", of the images.
        images_dir, download: as for `model_zoos.load_images`.
        activation: of all networks, or one for each; by default that of `like`.
        engine, device, threads: as for `generation.engines.evaluate`.
        on_progress: called with the vectors that are done and all of them.

    Returns:
        Scores in the order of the vectors. Weights that are not finite have no finite loss.

    Raises:
        InvalidArgument: arguments that do not fit together.
        ImageFilesError: the images are missing, damaged, or not the original ones.
    """
    vectors = weights if isinstance(weights, np.ndarray | torch.Tensor) else np.asarray(weights)
    vectors = vectors if vectors.ndim != 1 else vectors[None]
    if vectors.ndim != 2:
        raise InvalidArgument(f"weights must be [P, N], found shape {tuple(vectors.shape)}")
    kind = _kind(like, tuple(vectors.shape))
    if activation is not None:
        kind = _Kind(kind.layout, np.array(activation, dtype=object), kind.images)
    if kind.activations.ndim and len(kind.activations) != len(vectors):
        raise InvalidArgument(
            f"{len(kind.activations)} activations, but {len(vectors)} weight vectors"
        )
    activations = np.broadcast_to(kind.activations, len(vectors))
    pixels, labels = _images(images, kind, split, images_dir, download)
    loss, accuracy = np.full(len(vectors), np.nan), np.full(len(vectors), np.nan)
    size, done = max(1, _BLOCK_BYTES // (4 * kind.layout.size)), 0
    for name in dict.fromkeys(activations.tolist()):
        if not isinstance(name, str):
            raise InvalidArgument(
                "the activation is not known: give it as the argument `activation`",
                hint="--activation names it",
            )
        rows = np.flatnonzero(activations == name)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            block: Any = vectors[chosen[0] : chosen[-1] + 1]
            if len(block) > len(chosen):
                block = vectors[chosen]
            if isinstance(block, torch.Tensor):
                block = block.detach().cpu().float().numpy()
            loss[chosen], accuracy[chosen] = engines.evaluate(
                np.ascontiguousarray(block, np.float32),
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


@dataclass(frozen=True, eq=False)
class _Kind:
    """What networks there are: activations of all of them, [] or [P], and the zoo's images."""

    layout: Layout
    activations: NDArray[np.object_]
    images: str | None


def _kind(like: Like, shape: tuple[int, ...]) -> _Kind:
    """Read off what `like` says about weights of a shape [P, N].

    Raises:
        InvalidArgument: it does not fit the weights, or is nothing of the kind.
    """
    if isinstance(like, str):
        like = zoo_spec(like)
    if isinstance(like, Zoo):
        if shape[1] != like.layout.size:
            raise InvalidArgument(
                f"{like.name} has {like.layout.size:,} weights a model, found {shape[1]:,}"
            )
        names = tuple(dict(like.grid)["activation"])
        one = names[0] if len(names) == 1 else None
        return _Kind(like.layout, np.array(one, dtype=object), like.images)
    if not isinstance(like, datasets.Dataset):
        row = check_row(like, ("architecture",))
        layout = find_layout(row["architecture"], shape[1])
        return _Kind(layout, np.array(row.get("activation"), dtype=object), _images_of(row))
    if "architecture" not in like.column_names:
        raise InvalidArgument("this data set has no architecture: load it among `columns`")
    wanted = [c for c in ("zoo", "architecture", "activation") if c in like.column_names]
    table = like.with_format("arrow", columns=wanted)[:]
    unique = {column: table[column].unique().to_pylist() for column in wanted}
    if len(unique["architecture"]) != 1:
        raise InvalidArgument(f"`like` has rows of several architectures: {unique['architecture']}")
    layout = find_layout(unique["architecture"][0], shape[1])
    names = tuple(unique.get("activation", [None]))
    if len(names) == 1:
        activations = np.array(names[0], dtype=object)
    elif len(like) == shape[0]:
        activations = np.array(table["activation"].to_pylist(), dtype=object)
    else:
        raise InvalidArgument(
            f"`like` has {len(like)} rows with the activations {', '.join(map(str, names))}, but "
            f"there are {shape[0]} weight vectors: give a row, or one for each vector"
        )
    zoos = unique.get("zoo", [])
    return _Kind(layout, activations, _images_of({"zoo": zoos[0]}) if len(zoos) == 1 else None)


def _images_of(row: Mapping[str, Any]) -> str | None:
    """Return the images of the zoo that a row names, if the catalog has it."""
    try:
        return zoo_spec(str(row.get("zoo"))).images
    except UnknownZoo:
        return None


def _images(
    images: Any,  # noqa: ANN401
    kind: _Kind,
    split: str,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images and their labels, checked against the layout."""
    images = kind.images if images is None else images
    if images is None:
        raise InvalidArgument(
            "no catalogued zoo says which images: give the argument `images`",
            hint="--images names them",
        )
    channels = kind.layout.channels
    if isinstance(images, str) and images not in IMAGE_SOURCES:  # "cifar10" of "cifar10/cnn_s"
        longer = f"{images}/{kind.layout.architecture}"
        images = longer if longer in IMAGE_SOURCES else images
    if isinstance(images, str | ImageSource):
        images = load_images(
            images, images_dir, channels=channels, download=download, progress=False
        )
    if isinstance(images, ImageData):
        pixels = images.normalized(split)
        labels = getattr(images, split).labels
    else:
        pixels, labels = (torch.as_tensor(part) for part in images)
    if pixels.ndim != 4 or not len(pixels) or labels.shape != pixels.shape[:1]:
        raise InvalidArgument(
            "images are normalised float32 [n, c, h, w] with labels [n], found shapes "
            f"{tuple(pixels.shape)} and {tuple(labels.shape)}"
        )
    side = kind.layout.architecture.image_size
    if pixels.shape[1] != channels or (side and pixels.shape[2:] != (side, side)):
        raise InvalidArgument(
            f"{kind.layout} takes images [{channels}, {side or 'h'}, {side or 'w'}], found "
            f"{list(pixels.shape[1:])}: name those that the models were trained on"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < kind.layout.classes:
        raise InvalidArgument(f"labels are not all from 0 to {kind.layout.classes - 1}")
    return pixels.float(), labels.to(torch.int64)
