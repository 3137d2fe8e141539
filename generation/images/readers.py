"""The file formats of image data sets: a reader for each.

A reader is given a part, "train" or "test", and the paths of its files, and returns `RawImages`. It
raises UnreadableImagesError for a damaged file. torchvision reads, with three exceptions: CIFAR
files are pickles and go through an unpickler that knows numpy arrays and nothing else, torchvision
does not have Tiny-ImageNet, and its import takes longer than all else that reads MNIST. verify.py
replaces its tests of MD5 sums.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import UnreadableImagesError
from ..torchvision import import_torchvision
from .data import RawImages


@contextmanager
def refuse_damage(path: str | Path, *, published: bool = True) -> Iterator[None]:
    """Name a file in the error, of whatever kind, that a parser raises because it is damaged.

    Args:
        path: the file.
        published: whether it belongs to a set that can be downloaded again; a user's own images
            cannot.

    Raises:
        UnreadableImagesError: in place of the parser's error.
    """
    try:
        yield
    except (ImportError, UnreadableImagesError):  # scipy is missing, say; or the file is named
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if not published:
            raise UnreadableImagesError(
                f"{path}: no readable image ({reason}). Replace the file, or move it out of the "
                "folder"
            ) from error
        raise UnreadableImagesError(
            f"{path} is truncated or damaged ({reason})",
            hint="delete the file and download it again with --download",
        ) from error


def _unchecked(name: str) -> type:
    """Return a class of torchvision.datasets without its test of MD5 sums (verify.py has one)."""
    base = getattr(import_torchvision().datasets, name)
    return type(name, (base,), {"_check_integrity": lambda self: True})


def read_mnist(part: str, paths: Sequence[Path]) -> RawImages:
    """Read two IDX files: images uint8 [n, 28, 28], labels uint8 [n] from 0."""
    images, labels = paths
    with refuse_damage(images):
        pixels = _read_idx(images, 3)
    with refuse_damage(labels):
        return RawImages(pixels, _read_idx(labels, 1))


def _read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read the bytes of an IDX file, whose format http://yann.lecun.com/exdb/mnist/ describes."""
    with path.open("rb") as file:
        start = file.read(4)
        if start != bytes([0, 0, 8, axes]):  # 8 stands for unsigned bytes
            raise ValueError(f"it begins with {start!r}, not as an IDX file of {axes} axes")
        shape = np.frombuffer(file.read(4 * axes), ">u4")
        return np.fromfile(file, np.uint8).reshape(shape)


def read_usps(part: str, paths: Sequence[Path]) -> RawImages:
    """Read one file with torchvision: images uint8 [n, 16, 16], labels int64 [n] from 0."""
    (path,) = paths
    with refuse_damage(path):
        usps = import_torchvision().datasets.USPS(path.parent, train=part == "train")
        return RawImages(usps.data, np.array(usps.targets))


def read_svhn(part: str, paths: Sequence[Path]) -> RawImages:
    """Read one file with torchvision: images uint8 [n, 32, 32, 3], labels int64 [n] from 0.

    The file has the label 10 for the digit 0; torchvision replaces it by 0.
    """
    (path,) = paths
    with refuse_damage(path):
        svhn = _unchecked("SVHN")(path.parent, split=part)
        return RawImages(svhn.data.transpose(0, 2, 3, 1), svhn.labels)


def read_stl10(part: str, paths: Sequence[Path]) -> RawImages:
    """Read two files with torchvision: images uint8 [n, 96, 96, 3], labels uint8 [n] from 0.

    The files count labels from 1; torchvision subtracts 1.
    """
    with refuse_damage(paths[0]):
        stl10 = _unchecked("STL10")(paths[0].parent.parent, split=part)
        return RawImages(stl10.data.transpose(0, 2, 3, 1), stl10.labels)


_ARRAY_PARTS = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "encode": lambda text, encoding: text.encode("latin1"),  # how protocol 2 writes bytes
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, strings and numpy arrays. No file can make it run anything."""

    def find_class(self, module: str, name: str) -> object:
        if module.partition(".")[0] in ("numpy", "_codecs") and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an image file")


def read_cifar(part: str, paths: Sequence[Path]) -> RawImages:
    """Read pickled batches of CIFAR-10 or CIFAR-100, in the order of the paths.

    Images are uint8 [n, 32, 32, 3], labels (of CIFAR-100 the fine ones) int64 [n] from 0.
    """
    images: list[np.ndarray] = []
    labels: list[int] = []
    for path in paths:
        with refuse_damage(path), path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()  # made by Python 2
            images.append(batch["data"].reshape(-1, 3, 32, 32))
            labels += batch["labels"] if "labels" in batch else batch["fine_labels"]
    return RawImages(np.concatenate(images).transpose(0, 2, 3, 1), np.array(labels))


def read_eurosat(part: str, paths: Sequence[Path]) -> RawImages:
    """List the image files of a folder of 10 class folders, with labels int64 [n] from 0.

    Classes are numbered in the sorted order of their folders; images are sorted by path.
    """
    (folder,) = paths
    with refuse_damage(folder):
        eurosat = import_torchvision().datasets.EuroSAT(folder.parent.parent)
        if len(eurosat.classes) != 10:  # torchvision numbers the classes it finds
            raise ValueError(f"{len(eurosat.classes)} of 10 class folders")
        return RawImages([Path(path) for path, _ in eurosat.samples], np.array(eurosat.targets))


def read_tiny_imagenet(part: str, paths: Sequence[Path]) -> RawImages:
    """Read train/ in the order of torchvision's ImageFolder, and val/ as the test images.

    Classes are numbered in the sorted order of their wnids, as by ImageFolder (`wnids.txt` has
    another order). Images that are listed but absent are left out; verify.py counts the others.
    """
    wnids_file, listing = paths
    with refuse_damage(wnids_file):
        wnids = sorted(wnids_file.read_text().split())
    if part == "train":
        labelled = [
            (path, wnid)
            for wnid in wnids
            for path in sorted((listing / wnid / "images").glob("*.JPEG"))
        ]
    else:
        with refuse_damage(listing):
            rows = [row.split("\t")[:2] for row in listing.read_text().splitlines()]
            labelled = [(listing.parent / "images" / file, wnid) for file, wnid in rows]
        here = {path.name for path in (listing.parent / "images").glob("*.JPEG")}
        labelled = [(path, wnid) for path, wnid in labelled if path.name in here]
    number = {wnid: i for i, wnid in enumerate(wnids)}
    labels = [number.get(wnid, -1) for _, wnid in labelled]
    return RawImages([path for path, _ in labelled], np.array(labels))


def read_digits(part: str, paths: Sequence[Path]) -> RawImages:
    """Read scikit-learn's digits, 8 x 8 with values 0..16: 1,437 to train, the last 360 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    half = slice(1437) if part == "train" else slice(1437, None)
    pixels = np.rint(digits.images[half] * 255 / 16).astype(np.uint8)
    return RawImages(pixels, digits.target[half])
