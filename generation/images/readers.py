"""Read the image files of each set, and apply its transforms and its split."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...errors import UnreadableImagesError
from .data import SPLIT_SEED, Images, ImageSource, RawImages
from .torchvision import import_torchvision


def _read(source: ImageSource, part: str, folder: Path) -> RawImages:
    """One part of a set, with labels that fit the images."""
    paths = [folder / file for file, _ in getattr(source.files, part)]
    raw = source.files.read(part, paths)
    names = " and ".join(map(str, paths))
    if len(raw.images) != len(raw.labels):
        message = f"{names}: {len(raw.images):,} images, but {len(raw.labels):,} labels"
        raise UnreadableImagesError(message)
    labels = np.asarray(raw.labels, dtype=np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < source.classes:
        raise UnreadableImagesError(f"{names}: labels are not all from 0 to {source.classes - 1}")
    return RawImages(raw.images, labels)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of whatever kind a parser raises on a damaged file, with the file's name."""
    try:
        yield
    except ImportError:  # of scipy, say: not the file's fault
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableImagesError(
            f"{path} is cut or damaged ({reason}); delete it and fetch it again with `--download`"
        ) from error


def _unchecked(name: str) -> type:
    """A class of torchvision.datasets without its own test of MD5 sums, which we have done."""
    base = getattr(import_torchvision().datasets, name)
    return type(name, (base,), {"_check_integrity": lambda self: True})


def _read_mnist(part: str, paths: Sequence[Path]) -> RawImages:
    # Not through the class: it prefers a `processed` folder, where there is one, to these files.
    mnist = import_torchvision().datasets.mnist
    images, labels = paths
    with _reading(images):
        pixels = mnist.read_image_file(str(images)).numpy()
    with _reading(labels):
        return RawImages(pixels, mnist.read_label_file(str(labels)).numpy())


def _read_usps(part: str, paths: Sequence[Path]) -> RawImages:
    (path,) = paths
    with _reading(path):
        usps = import_torchvision().datasets.USPS(path.parent, train=part == "train")
        return RawImages(usps.data, np.array(usps.targets))


def _read_svhn(part: str, paths: Sequence[Path]) -> RawImages:
    (path,) = paths
    with _reading(path):
        svhn = _unchecked("SVHN")(path.parent, split=part)
        return RawImages(svhn.data.transpose(0, 2, 3, 1), svhn.labels)


def _read_stl10(part: str, paths: Sequence[Path]) -> RawImages:
    with _reading(paths[0]):
        stl10 = _unchecked("STL10")(paths[0].parent.parent, split=part)
        return RawImages(stl10.data.transpose(0, 2, 3, 1), stl10.labels)


_ARRAY_PARTS = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "encode": lambda text, encoding: text.encode("latin1"),  # how protocol 2 writes bytes
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, strings and numpy arrays; no file can make it run anything."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("numpy", "_codecs") and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an image file")


def _read_cifar(part: str, paths: Sequence[Path]) -> RawImages:
    images, labels = [], []
    for path in paths:
        with _reading(path), path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()  # made by Python 2
            images.append(batch["data"].reshape(-1, 3, 32, 32))
            labels += batch["labels"] if "labels" in batch else batch["fine_labels"]
    return RawImages(np.concatenate(images).transpose(0, 2, 3, 1), np.array(labels))


def _read_eurosat(part: str, paths: Sequence[Path]) -> RawImages:
    (folder,) = paths
    with _reading(folder):
        eurosat = import_torchvision().datasets.EuroSAT(folder.parent.parent)
        if len(eurosat.classes) != 10:  # torchvision numbers the classes it finds
            raise ValueError(f"{len(eurosat.classes)} of 10 class folders")
        return RawImages([Path(path) for path, _ in eurosat.samples], np.array(eurosat.targets))


def _read_tiny_imagenet(part: str, paths: Sequence[Path]) -> RawImages:
    """Training images in torchvision's ImageFolder order; the official val folder as test images.

    A class is numbered by the place of its wnid in sorted order, as by ImageFolder (`wnids.txt`
    itself has another order). Images that are listed but absent are left out here; that they
    are missing shows in the numbers.
    """
    wnids_file, listing = paths
    with _reading(wnids_file):
        wnids = sorted(wnids_file.read_text().split())
    if part == "train":
        labelled = [
            (path, wnid)
            for wnid in wnids
            for path in sorted((listing / wnid / "images").glob("*.JPEG"))
        ]
    else:
        with _reading(listing):
            rows = [row.split("\t")[:2] for row in listing.read_text().splitlines()]
            labelled = [(listing.parent / "images" / file, wnid) for file, wnid in rows]
        here = {path.name for path in (listing.parent / "images").glob("*.JPEG")}
        labelled = [(path, wnid) for path, wnid in labelled if path.name in here]
    number = {wnid: i for i, wnid in enumerate(wnids)}
    labels = [number.get(wnid, -1) for _, wnid in labelled]
    return RawImages([path for path, _ in labelled], np.array(labels))


def _read_digits(part: str, paths: Sequence[Path]) -> RawImages:
    """scikit-learn's digits, 8 x 8 with values 0..16: the first 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    half = slice(1437) if part == "train" else slice(1437, None)
    pixels = np.rint(digits.images[half] * 255 / 16).astype(np.uint8)
    return RawImages(pixels, digits.target[half])


def _pixels(source: ImageSource, raw: RawImages, progress: bool) -> torch.Tensor:
    """uint8 [n, c, h, w]: the images after the transforms of the source."""
    channels, height, width = source.shape
    if not source.transform and isinstance(raw.images, np.ndarray):
        if raw.images.shape[1:3] != (height, width):
            size = " x ".join(map(str, raw.images.shape[1:3]))
            message = f"{source.files.title}: images of {size} in place of {height} x {width}"
            raise UnreadableImagesError(message)
        pixels = raw.images.reshape(-1, height, width, channels)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    transforms = import_torchvision().transforms
    steps = transforms.Compose([getattr(transforms, t)(arg) for t, arg in source.transform])
    pixels = np.empty((len(raw.labels), height, width, channels), dtype=np.uint8)

    def transformed(image: Image.Image) -> np.ndarray:
        return np.asarray(steps(image)).reshape(height, width, channels)

    # One thread: images are so small that more of them only wait for each other (measured).
    bar = tqdm(raw.images, source.name, len(pixels), unit=" images", delay=3, disable=not progress)
    for index, image in enumerate(bar):
        if isinstance(image, Path):
            with _reading(image), Image.open(image) as file:
                pixels[index] = transformed(file.convert("RGB"))  # a few JPEGs are grey
        else:
            pixels[index] = transformed(Image.fromarray(image))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _random_split(images: Images, sizes: Sequence[int]) -> list[Images]:
    """As torch.utils.data.random_split with seed 42.

    If there are not sum(sizes) images, the parts have the proportions of `sizes`.
    """
    n, total = len(images), sum(sizes)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))
    bounds = (round(n * end / total) for end in accumulate(sizes, initial=0))
    parts = (order[start:end] for start, end in pairwise(bounds))
    return [Images(images.pixels[part], images.labels[part]) for part in parts]
