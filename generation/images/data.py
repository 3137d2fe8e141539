"""Images in memory (`ImageData`), and the description of a set on disk (`ImageSource`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

SPLITS = ("train", "validation", "test")

SPLIT_SEED = 42  # of the original, for every set

Index = slice | Sequence[int] | np.ndarray | torch.Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one split.

    Args:
        pixels: uint8 [n, c, h, w], 0..255: after resize, crop and grayscale, not normalised.
        labels: int64 [n], classes from 0.

    numpy arrays are accepted too.

    Raises:
        ValueError: another dtype or number of dimensions, or not as many labels as images.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        pixels, labels = torch.as_tensor(self.pixels), torch.as_tensor(self.labels)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels are {_kind(pixels)}, not uint8 with 4 dimensions")
        if labels.is_floating_point() or labels.shape != pixels.shape[:1]:
            raise ValueError(f"labels are {_kind(labels)}, not {len(pixels)} whole numbers")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "labels", labels.to(torch.int64))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image data set: training, validation and test images and how they are normalised.

    Can be built by hand from arrays. Two are the same images if their `digest()` is equal.

    Args:
        name: as in `IMAGE_SOURCES`, such as "mnist" or "cifar10/cnn_s"; any name if by hand.
        train: the training images, in the order of the original's split.
        validation: None where there are none (Tiny-ImageNet).
        test: the test images.
        mean: per channel, on the 0..1 scale.
        std: likewise.
        augmentation: what is done to the training pixels in every epoch, before normalisation;
            a crop of padded images is padded with pixel 0. () for CNN zoos.
        classes: number of classes.
        verified: whether every file was compared with a published checksum and equal.

    Raises:
        ValueError: shapes, channels or labels that do not fit together.
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

    def __post_init__(self) -> None:
        shape = self.train.pixels.shape[1:]
        if not len(self.mean) == len(self.std) == shape[0]:
            raise ValueError(f"{len(self.mean)} means, {len(self.std)} stds, {shape[0]} channels")
        if any(deviation == 0 for deviation in self.std):
            raise ValueError("std is 0")
        for split, images in self._splits():
            if images.pixels.shape[1:] != shape:
                raise ValueError(f"{split} images are {_kind(images.pixels)}, not {list(shape)}")
            if len(images) and not 0 <= images.labels.min() <= images.labels.max() < self.classes:
                raise ValueError(f"{split} labels are not all from 0 to {self.classes - 1}")

    def _splits(self) -> Iterator[tuple[str, Images]]:
        return ((s, getattr(self, s)) for s in SPLITS if getattr(self, s) is not None)

    def normalized(self, split: str) -> torch.Tensor:
        """The images of a split as a network sees them: (pixels / 255 - mean) / std.

        The same operations in the same order as torchvision's ToTensor and Normalize, so that
        on the CPU all bits are equal to theirs.

        Args:
            split: "train", "validation" or "test".

        Returns:
            float32 [n, c, h, w].

        Raises:
            ValueError: no such split.
        """
        images = getattr(self, split) if split in SPLITS else None
        if images is None:
            present = ", ".join(name for name, _ in self._splits())
            raise ValueError(f"{self.name} has no split {split!r}, it has {present}")
        return self.normalize(images.pixels)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `normalized`, for any pixels uint8 [n, c, h, w], such as augmented ones."""
        column = {"dtype": torch.float32, "device": pixels.device}
        mean = torch.tensor(self.mean, **column).view(-1, 1, 1)
        std = torch.tensor(self.std, **column).view(-1, 1, 1)
        # A new tensor in plain order. A conversion keeps the strides, and those of one channel can
        # be taken for channels-last: then torch convolves by another algorithm, to other last bits.
        floats = torch.empty(pixels.shape, **column).copy_(pixels)
        return floats.div_(255).sub_(mean).div_(std)

    def to(self, device: str | torch.device) -> ImageData:
        """The same images on a device, to train there without copies."""
        return replace(
            self,
            **{s: Images(i.pixels.to(device), i.labels.to(device)) for s, i in self._splits()},
        )

    def digest(self) -> str:
        """SHA-256 (hex) over pixels, labels, mean and std; equal on every machine.

        The name, the augmentation and `verified` do not enter.
        """
        sha256 = hashlib.sha256()
        for numbers in (self.mean, self.std):
            sha256.update(" ".join(float(x).hex() for x in numbers).encode() + b"\n")
        for split, images in self._splits():
            sha256.update(f"{split} {tuple(images.pixels.shape)}\n".encode())
            sha256.update(images.pixels.contiguous().cpu().numpy())
            sha256.update(images.labels.contiguous().cpu().numpy().astype("<i8"))
        return sha256.hexdigest()

    def subset(
        self,
        train: Index | None = None,
        validation: Index | None = None,
        test: Index | None = None,
    ) -> ImageData:
        """Some of the images, for small zoos and tests.

        Args:
            train: a slice, indices or a mask into the training images; None keeps them all.
            validation: likewise.
            test: likewise.

        Raises:
            ValueError: `validation` is given, but there are no validation images.

        Example:
            >>> load_images("mnist").subset(train=slice(2000), test=slice(500))
        """
        if validation is not None and self.validation is None:
            raise ValueError(f"{self.name} has no validation images to choose from")
        chosen = {}
        for split, index in zip(SPLITS, (train, validation, test), strict=True):
            if index is not None:
                images, index = getattr(self, split), _index(index)
                chosen[split] = Images(images.pixels[index], images.labels[index])
        return replace(self, **chosen)


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _index(index: Index) -> slice | torch.Tensor:
    if isinstance(index, slice):
        return index
    index = torch.as_tensor(index)
    return index if index.numel() else index.to(torch.int64)  # [] would be float


@dataclass(frozen=True)
class ImageFiles:
    """The published files of an image data set, as torchvision lays them out.

    Args:
        title: for messages.
        read: `read(part, paths)` gives the images of part "train" or "test" from the paths of
            its files; see `RawImages`.
        train: (path, MD5) of the files with the training images; a path that ends in "/" is a
            folder; the MD5 is None where only the archive's is published.
        test: likewise; None where the set has no test part.
        folders: the folders under the images folder in which the files may lie; a download goes
            to the first.
        archive: (path, MD5) of the archive, where single files have no published MD5. If it
            lies there, the CRC-32 sums in it are compared with the image files.
        fetch: `fetch(torchvision.datasets, folder)` downloads the set; None where there is
            nothing to download.
    """

    title: str
    read: Callable[[str, Sequence[Path]], RawImages]
    train: tuple[tuple[str, str | None], ...]
    test: tuple[tuple[str, str | None], ...] | None
    folders: tuple[str, ...] = (".",)
    archive: tuple[str, str] | None = None
    fetch: Callable[[Any, Path], object] | None = None


@dataclass(frozen=True)
class ImageSource:
    """An image data set of the zoos: files, transforms and split. See `IMAGE_SOURCES`.

    Args:
        name: "mnist", or "cifar10/cnn_s" where the architectures see different images.
        files: where the images come from.
        classes: number of classes.
        shape: (channels, height, width) after the transforms.
        sizes: number of training, validation and test images; validation is None where the
            original has no validation set: the training images then keep the order of the
            files. Where `files.test` is None, the test images are split off as well.
        transform: (class of torchvision.transforms, its argument) on PIL images, in order.
        mean: as in `ImageData`.
        std: as in `ImageData`.
        augmentation: as in `ImageData`.
    """

    name: str
    files: ImageFiles
    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int | None, int]
    transform: tuple[tuple[str, Any], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[str, ...] = ()


class RawImages(NamedTuple):
    """Images as they are in the files: uint8 [n, h, w] or [n, h, w, 3], or n image files."""

    images: np.ndarray | list[Path]
    labels: np.ndarray  # int [n]
