"""Images of one's own: a folder for each class, named in a zoo's JSON file as `folder/NAME`.

    <images folder>/NAME/train/<class>/*.png      also .jpg, .jpeg, .bmp, .webp, ...
                         test/<class>/*.png       the same classes
                         validation/<class>/*.png  if there is a validation set
                         images.json              optional

Classes are numbered by the order of their names, images ordered by class and name, as by
torchvision's ImageFolder. Without images.json the images must have one size and are taken in
colour, normalised with mean and deviation 0.5, and (by ResNet-18 alone) augmented by a crop from an
eighth of padding and a flip. images.json says otherwise, each key if it is there:

    {"size": [32, 32], "mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26],
     "augmentation": ["random_crop_32_4", "horizontal_flip"]}

One mean and one std make the images grey.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ...errors import MissingImagesError, UnreadableImagesError
from ..augmentation import check_augmentation
from .data import SPLITS, ImageData, Images
from .torchvision import import_torchvision

PREFIX = "folder/"
SETTINGS = "images.json"


def load_folder(name: str, root: Path, *, progress: bool = True) -> ImageData:
    """Read images of one's own.

    Args:
        name: `folder/NAME`, where NAME is a folder in `root`.
        root: the images folder.
        progress: show a bar if reading takes more than a few seconds.

    Raises:
        ValueError: NAME is no plain name, or images.json has an unknown key or a wrong value.
        MissingImagesError: there is no such folder, or it lacks train/ or test/.
        UnreadableImagesError: a file is no image, sizes or classes differ, a class is empty.
    """
    plain = name.removeprefix(PREFIX)
    if not plain or plain.startswith(".") or "/" in plain or "\\" in plain:
        raise ValueError(f"images {name!r}: expected {PREFIX}NAME with the name of a folder")
    folder = root / plain
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise MissingImagesError(
                f"{folder / split} is not there: the images {name!r} are expected in "
                f"{folder}/train/<class>/ and {folder}/test/<class>/; `--images-dir` or the "
                "environment variable MODEL_ZOOS_IMAGES points to another folder than "
                f"{root}"
            )
    settings = _settings(folder / SETTINGS)
    mean, std = (tuple(settings.get(key, (0.5, 0.5, 0.5))) for key in ("mean", "std"))
    read: dict[str, Images] = {}
    classes: list[str] = []
    for split in SPLITS:
        if (folder / split).is_dir():
            read[split], found = _read(folder / split, len(mean), settings.get("size"), progress)
            height, width = read[split].pixels.shape[2:]
            if read[split].pixels.shape[1:] != read["train"].pixels.shape[1:]:
                raise UnreadableImagesError(
                    f"{folder / split} has images of {height} x {width} pixels, other than "
                    f"{folder / 'train'}: give a size in {SETTINGS}"
                )
            if split != "train" and found != classes:
                raise UnreadableImagesError(
                    f"{folder / split} has the classes {', '.join(found)}, "
                    f"{folder / 'train'} has {', '.join(classes)}"
                )
            classes = found
    crop = (f"random_crop_{height}_{height // 8}",) if height == width else ()
    augmentation = tuple(settings.get("augmentation", (*crop, "horizontal_flip")))
    try:
        check_augmentation(augmentation, height, width)
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS}: {error}") from None
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
    """images.json, checked; {} if there is none."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    known = ("size", "mean", "std", "augmentation")
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise ValueError(f"{path}: expected a JSON object with the keys {', '.join(known)}")

    def numbers(key: str, counts: tuple[int, ...], kinds: tuple[type, ...], low: float) -> None:
        entries = values.get(key)
        if key in values and not (
            isinstance(entries, list)
            and len(entries) in counts
            and all(type(x) in kinds and low <= x < 10_000 for x in entries)
        ):
            raise ValueError(f"{path}: {key} is {entries!r:.60}, expected {counts[0]} numbers")

    numbers("size", (2,), (int,), 1)
    numbers("mean", (3, 1), (int, float), 0)
    numbers("std", (3, 1), (int, float), 1e-6)
    if ("mean" in values) != ("std" in values) or len(values.get("mean", ())) != len(
        values.get("std", ())
    ):
        raise ValueError(f"{path}: mean and std must both be there, with a number a channel")
    names = values.get("augmentation", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: augmentation is a list of names")
    return values


def _read(
    folder: Path, channels: int, size: list[int] | None, progress: bool
) -> tuple[Images, list[str]]:
    """The images of one split, resized if their size is given, and the names of its classes."""
    try:
        found = import_torchvision().datasets.ImageFolder(folder)
    except FileNotFoundError as error:  # no class, or one without images
        raise UnreadableImagesError(f"{folder}: {' '.join(str(error).split())}") from None
    arrays = []
    bar = tqdm(found.samples, folder.name, unit=" images", delay=3, disable=not progress)
    for path, _ in bar:
        try:
            with Image.open(path) as file:
                image = file.convert("RGB" if channels == 3 else "L")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UnreadableImagesError(f"{path}: no readable image ({error})") from error
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
    return Images(pixels, np.array(found.targets)), found.classes
