"""Load an image data set: find or download its files, verify, read, transform and split them.

The transforms of the paper's code produce 8-bit images, then apply ToTensor and Normalize. The
8-bit pixels (after resize, crop or grayscale) are kept here. `ImageData.normalized` makes the
floats, equal to torchvision's in all bits. Two details differ from the paper's code:

- Tiny-ImageNet was normalised on the 0..255 scale. Here it is on 0..1 like the other sets, which
  agrees up to rounding.
- The validation images of ResNet-18 were augmented like the training images, since one
  `random_split` made both. Here only training images are augmented.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from numbers import Integral
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...builders.arguments import check_kind
from ...builders.layout import Layout
from ...builders.phrases import counted
from ...errors import (
    InvalidArgument,
    MissingImagesError,
    ModelZoosWarning,
    UnreadableImagesError,
    UnverifiedImagesError,
    did_you_mean,
)
from ..torchvision import import_torchvision
from .data import SPLIT_SEED, ImageData, ImageFiles, Images, ImageSource, RawImages
from .folder import PREFIX, load_folder
from .readers import refuse_damage
from .sources import IMAGE_SOURCES
from .verify import compare_archive, compare_checksums, compare_counts

Step = Callable[[Image.Image], Image.Image]
"""A transform of an image."""


def load_images(
    name: str | os.PathLike[str] | ImageSource,
    images_dir: str | os.PathLike[str] | None = None,
    *,
    channels: int | None = None,
    download: bool = False,
    allow_unverified: bool = False,
    progress: bool = True,
) -> ImageData:
    """Load an image data set with the transforms and the split of the paper's code.

    Training and validation images are those of `random_split` with seed 42. If `allow_unverified`
    accepts an incomplete copy, the parts keep the proportions of the original split.

    Args:
        name: key of `IMAGE_SOURCES` (hyphens may stand for underscores), your own `ImageSource`, or
            `folder/NAME` for a folder of image files (folder.py).
        images_dir: the images folder; by default MODEL_ZOOS_IMAGES, else "images".
        channels: of a folder of image files, 1 to read them in grey or 3 in colour; None for what
            its images.json says, else 1 if all training images are grey files, else 3. Every other
            set has its own number, and another one is refused.
        download: download the set if it is missing. Files that are there stay.
        allow_unverified: accept files that are not the published ones, with a warning and
            `verified=False`.

    Raises:
        InvalidArgument: no such image data set, or it does not have so many channels.
        MissingImagesError: files are missing, or the download failed.
        UnverifiedImagesError: an MD5 sum or an image count differs from that of the original files.
        UnreadableImagesError: a file is truncated or damaged.

    Example:
        >>> load_images("cifar10/cnn_s", "images", download=True).normalized("test").shape
        torch.Size([10000, 3, 28, 28])
    """
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    check_kind(name, (str, ImageSource), "the images must be named, such as 'mnist'")
    check_kind(images_dir, (str, os.PathLike, NoneType), "images_dir must be the path of a folder")
    root = Path(images_dir or os.environ.get("MODEL_ZOOS_IMAGES") or "images").expanduser()
    if isinstance(name, str) and name.startswith(PREFIX):
        _check_channels(channels, (1, 3), f"{name} can be read in grey (1) or in colour (3)")
        return load_folder(name, root, channels=channels, progress=progress)
    source = name if isinstance(name, ImageSource) else _source(name)
    own = 1 if source.grey else source.shape[0]
    _check_channels(channels, (own,), f"{source.name} has {counted(own, 'channel')}")
    files = source.files
    folder = _files_folder(files, root, download)
    verified, doubts = compare_checksums(files, folder)
    if not allow_unverified:
        _refuse(files, doubts)
    parts = [
        _read_part(source, part, [folder / file for file, _ in listed])
        for part, listed in (("train", files.train), ("test", files.test))
        if listed is not None
    ]
    doubts += compare_counts(source, parts)
    if files.archive is not None:
        verified, differing = compare_archive(files, folder, parts)
        doubts += differing
    if not allow_unverified:
        _refuse(files, doubts)
    if doubts:
        message = f"{files.title}: {'; '.join(doubts)}; used all the same"
        warnings.warn(ModelZoosWarning(message), stacklevel=2)

    images = [
        Images(_transform(source, part, progress), torch.from_numpy(part.labels)) for part in parts
    ]
    validation: Images | None = None
    if source.sizes[1] is None:
        train, test = images
    else:
        sizes = [size for size in source.sizes if size is not None]
        held_out = sizes if files.test is None else sizes[:2]
        train, validation, test = (*_random_split(images[0], held_out), *images[1:])
    return ImageData(
        name=source.name,
        train=train,
        validation=validation,
        test=test,
        mean=source.mean,
        std=source.std,
        augmentation=source.augmentation,
        classes=source.classes,
        verified=verified and not doubts,
        grey=source.grey,
    )


def named_images(
    images: str | ImageSource | ImageData,
    layout: Layout,
    images_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
) -> ImageData:
    """Return images, loading them if only their name or source is given.

    Args:
        images: `ImageData`, an `ImageSource`, or a name such as "cifar10". Such a name stands for
            the images of the layout's architecture: "cifar10/cnn_s".
        layout: layout of the networks that see them.
        images_dir, download: see `load_images`.

    Raises:
        InvalidArgument: no such image data set, or an argument of another type.
        ImageFilesError: the images are missing, damaged, or not the original ones.
    """
    if isinstance(images, ImageData):
        return images
    expected = "images must be a name such as 'mnist', or what load_images returns"
    check_kind(images, (str, ImageSource), expected)
    if isinstance(images, str) and images not in IMAGE_SOURCES:
        longer = f"{images}/{layout.architecture}"
        images = longer if longer in IMAGE_SOURCES else images
    return load_images(
        images, images_dir, channels=layout.channels, download=download, progress=False
    )


def _check_channels(channels: object, known: tuple[int, ...], reason: str) -> None:
    """Refuse a number of channels that images cannot be read with; None stands for their own.

    Raises:
        InvalidArgument: it is another one.
    """
    whole = isinstance(channels, Integral) and not isinstance(channels, bool)
    if channels is None or (whole and channels in known):
        return
    raise InvalidArgument(
        f"channels must be {' or '.join(map(str, known))}, found {channels!r:.80}: {reason}. Leave "
        'channels out, or name other images; a zoo\'s JSON has them as "channels" and "images"'
    )


def _source(name: str) -> ImageSource:
    source = IMAGE_SOURCES.get(name.replace("-", "_"))
    if source is None:
        advice = did_you_mean(name, IMAGE_SOURCES) or f"known: {', '.join(IMAGE_SOURCES)}."
        raise InvalidArgument(
            f"there is no image data set {name!r}; {advice} Images of your own are named "
            f"{PREFIX}<folder>"
        )
    return source


def find_folder(files: ImageFiles, root: Path) -> Path | None:
    """Return the folder that holds all files of a set; None if there is none."""
    folders = (root / name for name in files.folders)
    return next((folder for folder in folders if not _missing(files, folder)), None)


def _missing(files: ImageFiles, folder: Path) -> list[str]:
    """Return the files missing in a folder, and the missing folders with a slash at the end."""
    return [
        file
        for file in dict.fromkeys(file for file, _ in files.listed)
        if not ((folder / file).is_dir() if file.endswith("/") else (folder / file).is_file())
    ]


def _files_folder(files: ImageFiles, root: Path, download: bool) -> Path:
    """Return the folder that holds the files of a set, downloaded if needed and allowed.

    Raises:
        MissingImagesError: files are missing, or the download failed.
    """
    folder = find_folder(files, root)
    if folder is None and download and files.fetch is not None:
        target, vision = root / files.folders[0], import_torchvision()
        try:
            files.fetch(vision.datasets, target)
        except Exception as error:  # torchvision has many: network, disk, MD5 of the archive
            message = f"the {files.title} images could not be downloaded into {target}: {error}"
            raise MissingImagesError(message) from error
        folder = find_folder(files, root)
    if folder is not None:
        return folder
    folders = [root / name for name in files.folders]
    missing = min((_missing(files, folder) for folder in folders), key=len)
    raise MissingImagesError(
        f"the {files.title} images are not complete: {', '.join(missing)} not found in "
        f"{' or '.join(map(str, folders))} (images_dir=, else MODEL_ZOOS_IMAGES, else ./images)",
        hint="--download fetches them, --images-dir names another folder",
    )


def _refuse(files: ImageFiles, doubts: Sequence[str]) -> None:
    if doubts:
        raise UnverifiedImagesError(
            f"{files.title}: {'; '.join(doubts)}; with allow_unverified they are used as they are",
            hint="delete what differs and use --download for the original files, or use "
            "--allow-unverified",
        )


def _read_part(source: ImageSource, part: str, paths: Sequence[Path]) -> RawImages:
    """Read the part "train" or "test" of a set, with a label for each image.

    Raises:
        UnreadableImagesError: a file is damaged, or the labels do not fit.
    """
    raw = source.files.read(part, paths)
    names = " and ".join(map(str, paths))
    if len(raw.images) != len(raw.labels):
        raise UnreadableImagesError(
            f"{names}: {len(raw.images):,} images, but {len(raw.labels):,} labels"
        )
    labels = np.asarray(raw.labels, dtype=np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < source.classes:
        raise UnreadableImagesError(f"{names}: labels are not all from 0 to {source.classes - 1}")
    return RawImages(raw.images, labels)


def _transform(source: ImageSource, raw: RawImages, progress: bool) -> torch.Tensor:
    """Return the pixels after the transforms of the source, uint8 [n, c, h, w]."""
    channels, height, width = source.shape
    if not source.transform and isinstance(raw.images, np.ndarray):
        if raw.images.shape[1:3] != (height, width):
            size = " x ".join(map(str, raw.images.shape[1:3]))
            message = f"{source.files.title}: images of {size} in place of {height} x {width}"
            raise UnreadableImagesError(message)
        pixels = raw.images.reshape(-1, height, width, channels)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    steps = [_step(name, argument) for name, argument in source.transform]
    pixels = np.empty((len(raw.labels), height, width, channels), dtype=np.uint8)
    # One thread: images are so small that several threads would only wait for each other
    # (measured).
    bar = tqdm(raw.images, source.name, len(pixels), unit=" images", delay=3, disable=not progress)
    for index, image in enumerate(bar):
        if isinstance(image, Path):
            with refuse_damage(image), Image.open(image) as file:
                made = reduce(_apply, steps, file.convert("RGB"))  # a few JPEGs are grey
                pixels[index] = np.asarray(made).reshape(height, width, channels)
        else:
            made = reduce(_apply, steps, Image.fromarray(image))
            pixels[index] = np.asarray(made).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


_PILLOW: dict[tuple[str, str], Step] = {
    ("Resize", "(28, 28)"): lambda image: image.resize((28, 28), Image.Resampling.BILINEAR),
    ("Resize", "(32, 32)"): lambda image: image.resize((32, 32), Image.Resampling.BILINEAR),
    ("Grayscale", "1"): lambda image: image.convert("L"),
}
"""The effect of torchvision's transforms on Pillow images; these sets do not need torchvision."""


def _step(name: str, argument: object) -> Step:
    """Return a transform of torchvision, by class and argument, as a function of an image."""
    if (name, str(argument)) in _PILLOW:
        return _PILLOW[name, str(argument)]
    step: Step = getattr(import_torchvision().transforms, name)(argument)
    return step


def _apply(image: Image.Image, step: Step) -> Image.Image:
    return step(image)


def _random_split(images: Images, sizes: Sequence[int]) -> list[Images]:
    """Split images as torch.utils.data.random_split does with seed 42.

    If there are not sum(sizes) images, the parts keep the proportions of `sizes`.
    """
    n, total = len(images), sum(sizes)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))
    bounds = (round(n * end / total) for end in accumulate(sizes, initial=0))
    parts = (order[start:end] for start, end in pairwise(bounds))
    return [Images(images.pixels[part], images.labels[part]) for part in parts]
