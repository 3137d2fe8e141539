"""The networks that a row, a data set or a zoo describes, and the images that they take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..builders.access import check_row, layout_of_columns
from ..builders.catalog import zoo_spec
from ..builders.homes import zoo_named, zoos_home
from ..builders.layout import Layout, as_numpy
from ..builders.schema import CHOICE
from ..builders.specification import Zoo
from ..errors import InvalidArgument, UnknownZoo
from ..generation.images import ImageData, ImageSource, named_images

Like: TypeAlias = Mapping[str, object] | datasets.Dataset | Zoo | str
Images: TypeAlias = str | ImageSource | ImageData | tuple[ArrayLike, ArrayLike] | None
Vectors: TypeAlias = NDArray[np.generic] | torch.Tensor


@dataclass(frozen=True, eq=False)
class Networks:
    """Description of the networks of weight vectors.

    Attributes:
        layout: layout of all of them.
        values: hyperparameters, [] if all have the same value, else [P]; None if not known.
        images: name of the images of their zoo; None if the catalog has none.
    """

    layout: Layout
    values: Mapping[str, NDArray[np.object_]]
    images: str | None


def as_vectors(weights: ArrayLike | torch.Tensor) -> Vectors:
    """Return weights as an array or tensor [P, N].

    Raises:
        InvalidArgument: they have another type or shape.
    """
    vectors = weights if isinstance(weights, np.ndarray | torch.Tensor) else np.asarray(weights)
    vectors = vectors if vectors.ndim != 1 else vectors[None]
    if vectors.ndim != 2:
        raise InvalidArgument(f"weights must be [P, N], found shape {tuple(vectors.shape)}")
    return vectors


def as_block(vectors: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some rows of vectors, ascending, as a new float32 array."""
    block: Any = vectors[rows[0] : rows[-1] + 1]
    if len(block) > len(rows):
        block = vectors[rows]
    return np.ascontiguousarray(as_numpy(block), np.float32)


def read_networks(
    like: Like, shape: tuple[int, ...], given: Mapping[str, object], names: Sequence[str]
) -> Networks:
    """Return the networks that `like` describes for weights of shape [P, N].

    Args:
        like: a row, a data set with one row for each vector or with rows that are all alike, a zoo
            or its name.
        shape: shape of the vectors.
        given: hyperparameters that are known already, for all vectors or one for each; None if not.
        names: hyperparameters that are needed.

    Raises:
        InvalidArgument: it does not fit the weights, or has another type.
    """
    wanted = [name for name in names if given.get(name) is None]
    layout, values, images = _read(like, shape, wanted)
    values |= {name: np.array(given[name], object) for name in names if name not in wanted}
    for name, value in values.items():
        if value.ndim > 1 or (value.ndim and len(value) != shape[0]):
            raise InvalidArgument(
                f"{name}: {len(value)} values, but {shape[0]} weight vectors: give one for all, or "
                "one for each"
            )
    return Networks(layout, values, images)


def _read(
    like: Like, shape: tuple[int, ...], wanted: Sequence[str]
) -> tuple[Layout, dict[str, NDArray[np.object_]], str | None]:
    if isinstance(like, str):
        like = zoo_named(like, zoos_home())
    if isinstance(like, Zoo):
        if shape[1] != like.layout.size:
            raise InvalidArgument(
                f"{like.name} has {like.layout.size:,} weights a model, found {shape[1]:,}"
            )
        grid = dict(like.grid)
        known = {name: (getattr(like, name, None),) for name in wanted} | grid
        one = {name: known[name][0] if len(known[name]) == 1 else None for name in wanted}
        return like.layout, {name: np.array(one[name], object) for name in wanted}, like.images
    if not isinstance(like, datasets.Dataset):
        row = check_row(like, ("architecture",))
        layout = layout_of_columns(row, shape[1])
        layout.require_all()
        values = {name: np.array(row.get(name), object) for name in wanted}
        return layout, values, _images_of(row.get("zoo"))
    if "architecture" not in like.column_names:
        raise InvalidArgument("this data set has no architecture: load it among `columns`")
    columns = [c for c in ("zoo", "architecture", *wanted) if c in like.column_names]
    table = like.with_format("arrow", columns=columns)[:]
    unique = {column: table[column].unique().to_pylist() for column in columns}
    if not len(like):
        raise InvalidArgument("`like` is a data set without rows: give one with a row at least")
    if len(unique["architecture"]) != 1:
        raise InvalidArgument(f"`like` has rows of several architectures: {unique['architecture']}")
    values = {}
    for name in wanted:
        found = unique.get(name, [None])
        if len(found) > 1 and len(like) != shape[0]:
            few = ", ".join(map(str, found[:5]))
            raise InvalidArgument(
                f"`like` has {len(like)} rows with the {name} {few}, but there are {shape[0]} "
                "weight vectors: give a row, or one for each vector"
            )
        values[name] = np.array(table[name].to_pylist() if len(found) > 1 else found[0], object)
    zoos = unique.get("zoo", [])
    about = [c for c in ("architecture", *CHOICE) if c in like.column_names]
    [first] = like.select(range(1)).with_format("arrow", columns=about)[:].to_pylist()
    layout = layout_of_columns(first, shape[1])
    layout.require_all()
    return layout, values, _images_of(zoos[0]) if len(zoos) == 1 else None


def _images_of(zoo: object) -> str | None:
    """Return the images of a zoo if they are in the catalog."""
    try:
        return zoo_spec(str(zoo)).images
    except UnknownZoo:
        return None


def find_images(
    images: Images,
    networks: Networks,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
) -> ImageData | tuple[torch.Tensor, torch.Tensor]:
    """Return the images for networks: as data, or a given pair as tensors.

    Raises:
        InvalidArgument: no images are given, and none are known.
    """
    images = networks.images if images is None else images
    if images is None:
        raise InvalidArgument(
            "it is not known which images the networks saw: `like` names no zoo of the catalog, or "
            "several. Give the argument `images`, such as images='mnist'",
            hint="--images names them",
        )
    if not isinstance(images, tuple | list):
        return named_images(images, networks.layout, images_dir, download=download)
    if len(images) != 2:
        raise InvalidArgument(f"give a pair of images and labels, found {len(images)} values")
    pixels, labels = (
        part if isinstance(part, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(part))
        for part in images
    )
    return pixels, labels


def samples_of(
    images: ImageData | tuple[torch.Tensor, torch.Tensor], split: str, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images and their labels; a pair has no splits.

    Raises:
        InvalidArgument: they do not fit the layout, or there is no such split.
    """
    if isinstance(images, ImageData):
        pixels, labels = images.normalized(split), getattr(images, split).labels
    else:
        pixels, labels = images
    if pixels.ndim != 4 or not len(pixels) or labels.shape != pixels.shape[:1]:
        raise InvalidArgument(
            "images are normalised float32 [n, c, h, w] with labels [n], found shapes "
            f"{tuple(pixels.shape)} and {tuple(labels.shape)}"
        )
    if not pixels.is_floating_point() or labels.is_floating_point() or labels.is_complex():
        raise InvalidArgument(
            "images are normalised floats and labels are integers, found "
            f"{pixels.dtype} and {labels.dtype}"
        )
    side = layout.architecture.image_size
    if pixels.shape[1] != layout.channels or (side and pixels.shape[2:] != (side, side)):
        raise InvalidArgument(
            f"{layout} takes images [{layout.channels}, {side or 'h'}, {side or 'w'}], found "
            f"{list(pixels.shape[1:])}: name those that the models were trained on, or read them "
            f"with load_images(..., channels={layout.channels})"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < layout.classes:
        raise InvalidArgument(f"labels are not all from 0 to {layout.classes - 1}")
    return pixels.float(), labels.to(torch.int64)
