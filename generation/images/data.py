"""Images in memory (`ImageData`), and the description of a set on disk (`ImageSource`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from ...builders.catalog import IMAGE_SETS
from ...builders.splits import METRIC_OF_SPLIT, SPLITS
from ...errors import InvalidArgument

SPLIT_SEED = 42
"""Seed of the split into training and validation images, for every set, from the paper's code."""

Index = slice | Sequence[int] | np.ndarray | torch.Tensor
"""A slice, integer indices or a mask."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one split.

    Args:
        pixels: uint8 [n, c, h, w], 0..255: after resize, crop and grayscale, not normalised. A
            numpy array is converted.
        labels: int64 [n], classes from 0. A numpy array is converted.

    Raises:
        InvalidArgument: another dtype or number of dimensions, or unequal numbers of both.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        pixels, labels = torch.as_tensor(self.pixels), torch.as_tensor(self.labels)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise InvalidArgument(f"pixels are {_kind(pixels)}, not uint8 with 4 dimensions")
        if labels.is_floating_point() or labels.shape != pixels.shape[:1]:
            raise InvalidArgument(f"labels are {_kind(labels)}, not {len(pixels)} whole numbers")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "labels", labels.to(torch.int64))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image data set: training, validation and test images and their normalisation.

    It can be made directly from arrays. Two sets have the same images if their digests are equal.

    Args:
        name: key of `IMAGE_SOURCES`, such as "mnist" or "cifar10/cnn_s", or any other name.
        train: the training images, in the order of the split.
        validation: the validation images; None if there are none (Tiny-ImageNet).
        test: the test images.
        mean: of each channel, on the 0..1 scale; finite.
        std: standard deviation of each channel, on the 0..1 scale; finite and above 0.
        augmentation: transforms of the training pixels in every epoch, before normalisation
            (augmentation.py); () for CNN zoos.
        classes: number of classes.
        verified: whether every file has an original checksum and matches it.
        grey: whether networks see one channel, the mean of the normalised channels.

    Raises:
        InvalidArgument: shapes, channels or labels that do not fit together, a split without
            images, or a mean or std that images cannot be normalised with.
    """

    name: str
    train: Images
    validation: Images | None
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[str, ...] = ()
    classes: int = 10
    verified: bool = False
    grey: bool = False

    def __post_init__(self) -> None:
        shape = self.train.pixels.shape[1:]
        _check_scale("mean", self.mean, -math.inf)
        _check_scale("std", self.std, 0)
        if not len(self.mean) == len(self.std) == shape[0]:
            raise InvalidArgument(
                f"expected a mean and a std for each of {shape[0]} channels, found "
                f"{len(self.mean)} means and {len(self.std)} stds"
            )
        for split, images in self._splits():
            if not len(images):
                without = ", or validation=None" if split == "validation" else ""
                raise InvalidArgument(
                    f"{self.name} has no {split} images: expected at least one{without}"
                )
            if images.pixels.shape[1:] != shape:
                raise InvalidArgument(
                    f"{split} images are {_kind(images.pixels)}, not {list(shape)}"
                )
            labels = images.labels
            if not 0 <= labels.min() <= labels.max() < self.classes:
                raise InvalidArgument(
                    f"{split} labels are not all from 0 to {self.classes - 1}: "
                    f"found {labels.min()} to {labels.max()}"
                )

    def _splits(self) -> Iterator[tuple[str, Images]]:
        return ((s, getattr(self, s)) for s in SPLITS if getattr(self, s) is not None)

    def sets(self, device: str | None = None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return the normalised images and the labels of each split, under its metrics' prefix.

        Args:
            device: where they shall lie; None for where the images are.
        """
        return {
            METRIC_OF_SPLIT[split]: (
                self.normalized(split).to(device=device),
                images.labels.to(device=device),
            )
            for split, images in self._splits()
        }

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image as a network sees it."""
        channels, height, width = self.train.pixels.shape[1:]
        return 1 if self.grey else channels, height, width

    @property
    def sizes(self) -> tuple[int, int | None, int]:
        """Numbers of training, validation (None without such images) and test images."""
        validation = None if self.validation is None else len(self.validation)
        return len(self.train), validation, len(self.test)

    def normalized(self, split: str) -> torch.Tensor:
        """Return the images of a split as networks see them: (pixels / 255 - mean) / std.

        The operations and their order are those of torchvision's ToTensor and Normalize, so that
        all bits equal theirs on the CPU.

        Args:
            split: "train", "validation" or "test".

        Returns:
            float32 [n, c, h, w].

        Raises:
            InvalidArgument: no such split.
        """
        images = getattr(self, split) if split in SPLITS else None
        if images is None:
            present = ", ".join(name for name, _ in self._splits())
            raise InvalidArgument(f"{self.name} has no split {split!r}, it has {present}")
        return self.normalize(images.pixels)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise pixels, uint8 [n, c, h, w], as `normalized` does; also augmented ones."""

        def column(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)

        # A new tensor in plain order. A conversion keeps the strides. Those of a single channel can
        # look like channels-last: torch would convolve by another algorithm, with other last bits.
        floats = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device).copy_(pixels)
        floats.div_(255).sub_(column(self.mean)).div_(column(self.std))
        return floats.mean(1, keepdim=True) if self.grey else floats

    def to(self, device: str | torch.device) -> ImageData:
        """Return the same images on a device, for training there without copies."""
        moved: dict[str, Any] = {
            split: Images(images.pixels.to(device), images.labels.to(device))
            for split, images in self._splits()
        }
        return replace(self, **moved)

    def provenance(self) -> dict[str, object]:
        """Return the entry of zoo.json about the images that a zoo was trained on.

        For images outside the catalog it adds shape, normalisation and split sizes.
        """
        about = {"name": self.name, "sha256": self.digest(), "verified": self.verified}
        if self.name in IMAGE_SETS:
            return about
        return {
            **about,
            "shape": list(self.train.pixels.shape[1:]),
            "mean": [float(x) for x in self.mean],
            "std": [float(x) for x in self.std],
            "sizes": list(self.sizes),
            **({"grey": True} if self.grey else {}),
        }

    def digest(self) -> str:
        """Return the SHA-256 (hex) of pixels, labels, mean, std and grey, equal on every machine.

        It does not depend on the name, the augmentation or `verified`.
        """
        sha256 = hashlib.sha256()
        for numbers in (self.mean, self.std):
            sha256.update(" ".join(float(x).hex() for x in numbers).encode() + b"\n")
        sha256.update(b"grey\n" * self.grey)
        for split, images in self._splits():
            sha256.update(f"{split} {tuple(images.pixels.shape)}\n".encode())
            sha256.update(images.pixels.contiguous().cpu().numpy().data)
            sha256.update(images.labels.contiguous().cpu().numpy().astype("<i8").data)
        return sha256.hexdigest()

    def subset(
        self,
        train: Index | None = None,
        validation: Index | None = None,
        test: Index | None = None,
    ) -> ImageData:
        """Return some of the images, for small zoos and tests.

        Args:
            train: a slice, indices or a mask for the training images; None keeps all.
            validation: the same for the validation images.
            test: the same for the test images.

        Raises:
            InvalidArgument: `validation` is given, but there are no validation images; or no image
                of a split is chosen.

        Example:
            >>> load_images("mnist").subset(train=slice(2000), test=slice(500))
        """
        if validation is not None and self.validation is None:
            raise InvalidArgument(f"{self.name} has no validation images to choose from")
        chosen: dict[str, Any] = {}
        for split, index in zip(SPLITS, (train, validation, test), strict=True):
            if index is not None:
                images, where = getattr(self, split), _index(index)
                chosen[split] = Images(images.pixels[where], images.labels[where])
        return replace(self, **chosen)


def _check_scale(key: str, values: Sequence[float], low: float) -> None:
    """Refuse a mean or std whose numbers, as the float32 that they become, are not usable.

    Raises:
        InvalidArgument: they are no sequence of numbers that are finite and above `low`.
    """
    try:
        numbers = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.tensor(math.nan)
    if numbers.ndim != 1 or not bool((numbers.isfinite() & (numbers > low)).all()):
        raise InvalidArgument(
            f"{key} must have a finite number{' above 0' * (low == 0)} for each channel, found "
            f"{values!r:.80}"
        )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _index(index: Index) -> slice | torch.Tensor:
    if isinstance(index, slice):
        return index
    where = torch.as_tensor(index)
    return where if where.numel() else where.to(torch.int64)  # [] would be float


class RawImages(NamedTuple):
    """Images returned by a reader.

    Attributes:
        images: uint8 [n, h, w] or [n, h, w, 3], or the paths of n image files.
        labels: whole numbers [n].
    """

    images: np.ndarray | list[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class ImageFiles:
    """The original files of an image data set, in the folders that torchvision uses.

    Args:
        title: name for messages.
        read: `read(part, paths)` returns the images of the part "train" or "test" from the paths
            of its files (readers.py).
        train: (path, MD5) of the files with the training images. A path that ends in "/" is a
            folder. The MD5 is None if only the archive has an original one.
        test: the same for the test images; None if the set has no test part.
        folders: the folders below the images folder that may hold the files. A download goes to the
            first.
        archive: (path, MD5) of the archive, if single files have no original MD5. If the archive
            is present, its CRC-32 sums are compared with the image files.
        fetch: `fetch(torchvision.datasets, folder)` downloads the set; None if there is nothing to
            download.
    """

    title: str
    read: Callable[[str, Sequence[Path]], RawImages]
    train: tuple[tuple[str, str | None], ...]
    test: tuple[tuple[str, str | None], ...] | None
    folders: tuple[str, ...] = (".",)
    archive: tuple[str, str] | None = None
    fetch: Callable[[ModuleType, Path], object] | None = None

    @property
    def listed(self) -> tuple[tuple[str, str | None], ...]:
        """(path, MD5) of all files."""
        return self.train + (self.test or ())


@dataclass(frozen=True)
class ImageSource:
    """An image data set on disk: its files, transforms and split. See `IMAGE_SOURCES`.

    Args:
        name: such as "mnist", or "cifar10/cnn_s" if architectures see different images.
        files: its files.
        classes: number of classes.
        shape: (channels, height, width) after the transforms.
        sizes: number of training, validation and test images. Without a validation set its number
            is None, and the training images keep the order of the files. If `files.test` is None,
            the test images are split off as well.
        transform: (class of torchvision.transforms, its argument) on PIL images, in order.
        mean, std, augmentation, grey: see `ImageData`.
    """

    name: str
    files: ImageFiles
    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int | None, int]
    transform: tuple[tuple[str, int | tuple[int, int]], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[str, ...] = ()
    grey: bool = False
