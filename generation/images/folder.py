"""A user's own images: a folder for each class, named in a zoo's JSON file as `folder/NAME`.

    <images folder>/NAME/train/<class>/*.png        or .jpg, .jpeg, .bmp, .webp, ...
                         test/<class>/*.png         the same classes
                         validation/<class>/*.png   optional
                         images.json                optional

Classes are numbered in the order of their names, and images are ordered by class and name, as by
torchvision's ImageFolder. Without images.json all images must have one size. A zoo of one channel
sees them in grey, one of three in colour; without a zoo, they are grey if all training images are.
Grey files of 16 bits are scaled to 8 bits. Images are normalised with mean and deviation 0.5.
ResNet-18 augments them by a crop, padded by an eighth of the size (square images only), and a flip.
Each key of images.json changes one of these:

    {"size": [32, 32], "mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26],
     "augmentation": ["random_crop_32_4", "horizontal_flip"]}

A single mean and a single std make the images grey.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...builders.arguments import wrong_keys
from ...builders.catalog import IMAGE_FOLDER
from ...builders.splits import SPLITS
from ...builders.untrusted import MAX_JSON, is_clutter, parse_json, read_plain
from ...errors import (
    InvalidArgument,
    MissingImagesError,
    ModelZoosWarning,
    UnreadableImagesError,
)
from ..augmentation import check_augmentation
from ..torchvision import import_torchvision
from .data import ImageData, Images
from .readers import refuse_damage

PREFIX = IMAGE_FOLDER
SETTINGS = "images.json"


def load_folder(
    name: str, root: Path, *, channels: int | None = None, progress: bool = True
) -> ImageData:
    """Read a user's own images.

    Args:
        name: `folder/NAME`, where NAME is a folder in `root`.
        root: the images folder.
        channels: 1 or 3; None to use those of images.json, or else 1 if all training images are
            grey files and 3 if not.
        progress: show a bar if reading takes more than a few seconds.

    Raises:
        InvalidArgument: NAME is not a plain name, or images.json has an unknown key or a bad value.
        MissingImagesError: there is no such folder, or it lacks train/ or test/.
        UnreadableImagesError: a file is not an image, sizes or classes differ, or a class is empty.
    """
    plain = name.removeprefix(PREFIX)
    if not plain or plain.startswith(".") or "/" in plain or "\\" in plain:
        raise InvalidArgument(f"images {name!r}: expected {PREFIX}NAME with the name of a folder")
    folder = root / plain
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise MissingImagesError(
                f"{folder / split} is not there: the images {name!r} are expected in "
                f"train/<class>/ and test/<class>/ of {folder}, a folder in {root} "
                "(images_dir=, else MODEL_ZOOS_IMAGES, else ./images)",
                hint="--images-dir names another folder",
            )
    settings = _settings(folder / SETTINGS)
    if channels is not None and "mean" in settings and len(settings["mean"]) != channels:
        raise InvalidArgument(
            f"{folder / SETTINGS} has a mean of {len(settings['mean'])} channels, "
            f'"mean": {settings["mean"]}, but the zoo has "channels": {channels}: give as many '
            "numbers in mean and std, or change the zoo's channels"
        )
    listed = {split: _list(folder / split) for split in SPLITS if (folder / split).is_dir()}
    _warn_of_skipped([path for listing in listed.values() for path in listing.skipped])
    if channels is None and "mean" not in settings:
        channels = 1 if _are_grey(listed["train"]) else 3
    usual = (0.5,) * (channels or 3)
    mean, std = (tuple(settings.get(key, usual)) for key in ("mean", "std"))
    read: dict[str, Images] = {}
    classes = listed["train"].classes
    for split, listing in listed.items():
        read[split] = _read(split, listing, len(mean), settings.get("size"), progress)
        height, width = read[split].pixels.shape[2:]
        if read[split].pixels.shape[1:] != read["train"].pixels.shape[1:]:
            raise UnreadableImagesError(
                f"{folder / split} has images of {height} x {width} pixels, other than "
                f"{folder / 'train'}: give a size in {SETTINGS}"
            )
        if listing.classes != classes:
            raise UnreadableImagesError(
                f"{folder / split} has the classes {', '.join(listing.classes)}, "
                f"{folder / 'train'} has {', '.join(classes)}"
            )
    crop = (f"random_crop_{height}_{height // 8}",) if height == width else ()
    augmentation = tuple(settings.get("augmentation", (*crop, "horizontal_flip")))
    try:
        check_augmentation(augmentation, height, width)
    except InvalidArgument as error:
        raise InvalidArgument(f"{folder / SETTINGS}: {error}") from None
    return ImageData(
        name=name,
        train=read["train"],
        validation=read.get("validation"),
        test=read["test"],
        mean=mean,
        std=std,
        augmentation=augmentation,
        classes=len(classes),
    )


def _settings(path: Path) -> Mapping[str, Any]:
    """Return the checked entries of images.json; {} if there is none."""
    if not path.exists():
        return {}
    try:
        values = parse_json(read_plain(path, MAX_JSON))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: not readable as JSON ({error})") from error
    known = ("size", "mean", "std", "augmentation")
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise InvalidArgument(
            f"{path}: expected a JSON object with the keys {', '.join(known)}"
            + (f"; {wrong_keys(values, known, ())}" if isinstance(values, dict) else "")
        )

    def numbers(
        key: str, counts: tuple[int, ...], kinds: tuple[type, ...], low: float, expected: str
    ) -> None:
        entries = values.get(key)
        if key in values and not (
            isinstance(entries, list)
            and len(entries) in counts
            and all(type(x) in kinds and low <= x < 10_000 for x in entries)
        ):
            raise InvalidArgument(f"{path}: {key} is {entries!r:.60}, expected {expected}")

    numbers("size", (2,), (int,), 1, "2 whole numbers from 1 to 9,999")
    numbers("mean", (3, 1), (int, float), 0, "3 numbers from 0 on, or 1 for grey images")
    numbers("std", (3, 1), (int, float), 1e-6, "3 numbers above 0, or 1 for grey images")
    if ("mean" in values) != ("std" in values) or len(values.get("mean", ())) != len(
        values.get("std", ())
    ):
        raise InvalidArgument(f"{path}: mean and std must both be there, with a number a channel")
    names = values.get("augmentation", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"{path}: augmentation is a list of names")
    return values


_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Modes of PIL with one channel of 16 bits."""

_GREY = ("1", "L", "LA", "I", *_SIXTEEN_BITS)
"""Modes of PIL with one channel of brightness."""


def _are_grey(listing: _Listing) -> bool:
    """Whether all images of a split are grey files, by their headers."""
    for path, _ in listing.samples:
        with _opened(path) as file:
            if file.mode not in _GREY:
                return False
    return True


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open an image file.

    Raises:
        UnreadableImagesError: it cannot be read, here or while it is open, or has 32-bit pixels.
    """
    with refuse_damage(path, published=False), Image.open(path) as file:
        if file.mode == "F" or (file.mode == "I" and not _has_16_bits(file)):
            kind = "floats" if file.mode == "F" else "32-bit integers"
            raise UnreadableImagesError(
                f"{path}: its pixels are {kind} (mode {file.mode} of Pillow), whose range is not "
                "known; expected 8 or 16 bits a channel. Scale the pixels to 0..255 and save them "
                "as an 8-bit PNG file"
            )
        yield file


def _has_16_bits(file: Image.Image) -> bool:
    """Whether a file has one channel of 16 bits, which Pillow puts into 32 for some formats."""
    return file.mode in _SIXTEEN_BITS or (file.mode == "I" and file.format in ("PNG", "PPM"))


def _in_8_bits(file: Image.Image) -> Image.Image:
    """Return an image with 8 bits a channel, of 16 the nearest: Pillow clips them at 255."""
    if not _has_16_bits(file):
        return file
    return Image.fromarray(((np.asarray(file).astype(np.int64) + 128) // 257).astype(np.uint8))


class _Listing(NamedTuple):
    """The files of one split.

    Attributes:
        classes: the names of its classes.
        samples: the path and the class of each image.
        skipped: the paths of other files in the folders of the classes, without those that systems
            leave there.
    """

    classes: list[str]
    samples: list[tuple[str, int]]
    skipped: list[str]


def _list(folder: Path) -> _Listing:
    """List the files of a split.

    Raises:
        UnreadableImagesError: there is no class, or one without images.
    """
    vision = import_torchvision().datasets.folder
    skipped: list[str] = []

    def is_image(path: str) -> bool:
        inside = Path(path).relative_to(folder)
        if is_clutter(inside.as_posix()):
            return False
        if vision.has_file_allowed_extension(path, vision.IMG_EXTENSIONS):
            return True
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and inside.name.lower() not in ("thumbs.db", "desktop.ini"):
            skipped.append(path)
        return False

    try:
        classes = [name for name in vision.find_classes(folder)[0] if not is_clutter(name)]
        numbers = {name: number for number, name in enumerate(classes)}
        samples = vision.make_dataset(folder, numbers, is_valid_file=is_image)
    except (FileNotFoundError, ValueError) as error:  # there is no class, or one has no images
        raise UnreadableImagesError(
            f"{folder}: {' '.join(str(error).split())} Expected a folder for each class, with "
            f"images in it ({', '.join(vision.IMG_EXTENSIONS)})"
        ) from None
    return _Listing(classes, samples, skipped)


def _warn_of_skipped(paths: Sequence[str]) -> None:
    """Warn of files in the folders of classes that are not read, if there are any."""
    if not paths:
        return
    count = f"{len(paths):,} files are" if len(paths) > 1 else "1 file is"
    formats = ", ".join(import_torchvision().datasets.folder.IMG_EXTENSIONS)
    warnings.warn(
        ModelZoosWarning(
            f"{paths[0]}: {count} not read, of which this is the first. Images are read from "
            f"{formats}; convert these files, or move them out of the folders of the classes"
        ),
        stacklevel=4,
    )


def _read(
    split: str, listing: _Listing, channels: int, size: list[int] | None, progress: bool
) -> Images:
    """Read the images of one split, resized if a size is given."""
    arrays: list[np.ndarray] = []
    bar = tqdm(listing.samples, split, unit=" images", delay=3, disable=not progress)
    for path, _ in bar:
        with _opened(path) as file:
            image = _in_8_bits(file).convert("RGB" if channels == 3 else "L")
        if size is not None and image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        array = np.asarray(image).reshape(*image.size[::-1], channels)
        if arrays and array.shape != arrays[0].shape:
            raise UnreadableImagesError(
                f"{path} has {array.shape[0]} x {array.shape[1]} pixels, the images before it "
                f"{arrays[0].shape[0]} x {arrays[0].shape[1]}: give a size in {SETTINGS}"
            )
        arrays.append(array)
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor([label for _, label in listing.samples]))
