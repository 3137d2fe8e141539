"""Image data sets as tensors: what the models of a zoo are trained on.

Every image data set of the original (Schuerholt et al., NeurIPS 2022) with its transforms and
its split into training and validation images, plus `digits`, the small set inside scikit-learn.
`IMAGE_SOURCES` is the table of them, `load_images` reads one, an `ImageData` holds one.

The original's transforms end in 8-bit images, then `ToTensor` and `Normalize`. So the 8-bit
pixels (after resize, crop or grayscale) are kept, and `ImageData.normalized` makes the floats,
equal to torchvision's to the bit. Two notes on sets where the original differs in a detail:

- Tiny-ImageNet was normalised on the 0..255 scale; here it is on 0..1 as the other sets, which
  agrees up to rounding.
- The ResNet-18 validation images were augmented like the training images, since both came from
  one `random_split`; here `augmentation` belongs to the training images alone.

Reading goes through torchvision, with three exceptions. Its tests of MD5 sums are replaced by our
own, which check the files that are read, whatever the set, and can be waived. CIFAR files are
pickles and go through an unpickler that knows numpy arrays and nothing else. torchvision does not
have Tiny-ImageNet. Transforms and splits are those of the original's scripts; MD5 sums are those
that torchvision 0.28 lists (MNIST and Fashion-MNIST: of the files unpacked from its archives).

Example:
    >>> digits = load_images("digits")
    >>> digits.normalized("train").shape
    torch.Size([1200, 1, 28, 28])
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 42  # of the original, for every set

Index = slice | Sequence[int] | np.ndarray | torch.Tensor


class ImageFilesError(OSError):
    """The files of an image data set cannot be used; the message is one line for the user."""


class MissingImagesError(ImageFilesError, FileNotFoundError):
    """The files are not in the images folder, or could not be fetched."""


class UnverifiedImagesError(ImageFilesError):
    """The files are readable, but not the published ones (MD5 sums or number of images)."""


class UnreadableImagesError(ImageFilesError):
    """A file is cut or damaged."""


# ----------------------------------------------------------------------- images in memory


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


# ------------------------------------------------------------------------ images on disk


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


def load_images(
    name: str | ImageSource,
    images_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    allow_unverified: bool = False,
    progress: bool = True,
) -> ImageData:
    """Read an image data set with the original's transforms and split.

    Training and validation images are those of `random_split` with seed 42. Where the number of
    images is not the published one (an incomplete copy, with `allow_unverified`), the split keeps
    the published proportions.

    Args:
        name: a key of `IMAGE_SOURCES` (hyphens may stand for underscores), a source of your own,
            or `folder/NAME` (image_folder.py).
        images_dir: the images folder; default: MODEL_ZOOS_IMAGES, else "images".
        download: fetch the set where it is missing. Files that are there stay.
        allow_unverified: take files that are not the published ones, with a warning and
            `verified=False`.
        progress: show a bar if the transforms take more than a few seconds.

    Raises:
        ValueError: no such image data set.
        MissingImagesError: files are missing, or the download failed.
        UnverifiedImagesError: files have another MD5 or number of images than the published.
        UnreadableImagesError: a file is cut or damaged.

    Example:
        >>> load_images("cifar10/cnn_s", "images", download=True).normalized("test").shape
        torch.Size([10000, 3, 28, 28])
    """
    root = Path(images_dir or os.environ.get("MODEL_ZOOS_IMAGES") or "images").expanduser()
    if isinstance(name, str) and name.startswith("folder/"):
        from .image_folder import load_folder

        return load_folder(name, root, progress=progress)
    source = name if isinstance(name, ImageSource) else _source(name)
    files = source.files
    folder = _find(files, root)
    if folder is None and download:
        _download(files, root / files.folders[0])
        folder = _find(files, root)
    if folder is None:
        raise MissingImagesError(_where_expected(files, root))

    verified, doubts = _compare_checksums(files, folder)
    _refuse(files, doubts if not allow_unverified else [])
    parts = [_read(source, "train", folder)]
    if files.test is not None:
        parts.append(_read(source, "test", folder))
    doubts += _compare_numbers(source, parts)
    if files.archive is not None:
        verified, differing = _compare_archive(files, folder, parts)
        doubts += differing
    _refuse(files, doubts if not allow_unverified else [])
    if doubts:
        warnings.warn(f"{files.title}: {'; '.join(doubts)}; used all the same", stacklevel=2)

    split = [Images(_pixels(source, part, progress), part.labels) for part in parts]
    if source.sizes[1] is None:
        train, validation, test = split[0], None, split[1]
    else:
        held_out = () if len(split) == 2 else (source.sizes[2],)
        train, validation, *rest = _random_split(split[0], (*source.sizes[:2], *held_out))
        test = rest[0] if rest else split[1]
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
    )


def import_torchvision() -> ModuleType:
    """torchvision, also beside a build of torch for which it was not compiled.

    The wheel of torchvision 0.28 fails to import beside the CPU build of torch, since its own
    operators cannot be loaded. The two whose schemas its Python code asks for are declared here
    (they stay without a kernel; nothing here calls them), then the import is tried again.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision")


_DECLARED: list[torch.library.Library] = []  # a schema lives as long as its library


# ------------------------------------------------------------------- finding and checking


def _source(name: str) -> ImageSource:
    source = IMAGE_SOURCES.get(name.replace("-", "_"))
    if source is None:
        known = ", ".join(IMAGE_SOURCES)
        raise ValueError(f"no image data set {name!r}; there are {known}, folder/<your own>")
    return source


def _listed(files: ImageFiles) -> tuple[tuple[str, str | None], ...]:
    return files.train + (files.test or ())


def _is_there(folder: Path, file: str) -> bool:
    return (folder / file).is_dir() if file.endswith("/") else (folder / file).is_file()


def _find(files: ImageFiles, root: Path) -> Path | None:
    """The folder in which all files lie, or None."""
    for folder in (root / name for name in files.folders):
        if all(_is_there(folder, file) for file, _ in _listed(files)):
            return folder
    return None


def _where_expected(files: ImageFiles, root: Path) -> str:
    folders = [root / name for name in files.folders]
    listed = dict.fromkeys(file for file, _ in _listed(files))
    missing = min(([f for f in listed if not _is_there(d, f)] for d in folders), key=len)
    return (
        f"the {files.title} images are not complete: {', '.join(missing)} not found in "
        f"{' or '.join(map(str, folders))}; `--download` fetches them, `--images-dir` or the "
        "environment variable MODEL_ZOOS_IMAGES points to another folder"
    )


def _download(files: ImageFiles, folder: Path) -> None:
    if files.fetch is None:
        return
    datasets = import_torchvision().datasets
    try:
        files.fetch(datasets, folder)
    except Exception as error:  # network, disk, MD5 of the archive: torchvision raises many kinds
        message = f"the {files.title} images could not be fetched into {folder}: {error}"
        raise MissingImagesError(message) from error


def _md5(path: Path) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            md5.update(chunk)
    return md5.hexdigest()


def _compare_checksums(files: ImageFiles, folder: Path) -> tuple[bool, list[str]]:
    """Whether every file has the published MD5, and a sentence for each that has another."""
    doubts = []
    for file, expected in _listed(files):
        if expected is not None and (found := _md5(folder / file)) != expected:
            doubts.append(f"{folder / file} has MD5 {found}, the published file has {expected}")
    return all(md5 is not None for _, md5 in _listed(files)) and not doubts, doubts


def _compare_archive(
    files: ImageFiles, folder: Path, parts: Sequence[RawImages]
) -> tuple[bool, list[str]]:
    """Likewise for image files, by the CRC-32 sums in the published archive, if that is there."""
    archive, expected = folder / files.archive[0], files.archive[1]
    if not archive.is_file() or _md5(archive) != expected:
        return False, []
    with zipfile.ZipFile(archive) as opened:
        published = {member.filename: member.CRC for member in opened.infolist()}
    read = [folder / file for file, _ in _listed(files) if not file.endswith("/")]
    read += [path for part in parts for path in part.images]
    differing = [
        path
        for path in read
        if published.get(path.relative_to(archive.parent).as_posix())
        != zlib.crc32(path.read_bytes())
    ]
    if not differing:
        return True, []
    return False, [f"{differing[0]} and {len(differing) - 1} more differ from {archive.name}"]


def _compare_numbers(source: ImageSource, parts: Sequence[RawImages]) -> list[str]:
    """A sentence for each part that has not as many images as published."""
    train, validation, test = source.sizes
    published = {"training": train + (validation or 0), "test": test}
    if len(parts) == 1:
        published = {"training and test": sum(published.values())}
    doubts = []
    for (kind, expected), part in zip(published.items(), parts, strict=True):
        if (found := len(part.labels)) < expected:
            doubts.append(f"{expected - found:,} of {expected:,} {kind} images are missing")
        elif found > expected:
            doubts.append(f"{found:,} {kind} images in place of {expected:,}")
    return doubts


def _refuse(files: ImageFiles, doubts: Sequence[str]) -> None:
    if doubts:
        raise UnverifiedImagesError(
            f"{files.title}: {'; '.join(doubts)}; delete what differs and fetch the published "
            "files with `--download`, or use these as they are with `--allow-unverified`"
        )


# ------------------------------------------------------------------------------- reading


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


# ------------------------------------------------------------------ transforms and splits


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


# ----------------------------------------------------------------------------- the table

_MNIST = ImageFiles(
    title="MNIST",
    read=_read_mnist,
    train=(
        ("MNIST/raw/train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("MNIST/raw/train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ),
    test=(
        ("MNIST/raw/t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("MNIST/raw/t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
    fetch=lambda datasets, folder: datasets.MNIST(folder, download=True),
)

_FASHION = ImageFiles(
    title="Fashion-MNIST",
    read=_read_mnist,
    train=(
        ("FashionMNIST/raw/train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("FashionMNIST/raw/train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9"),
    ),
    test=(
        ("FashionMNIST/raw/t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a"),
        ("FashionMNIST/raw/t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    fetch=lambda datasets, folder: datasets.FashionMNIST(folder, download=True),
)

_SVHN = ImageFiles(
    title="SVHN",
    read=_read_svhn,
    train=(("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),),
    test=(("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),),
    folders=("SVHN", "."),
    fetch=lambda datasets, folder: [
        datasets.SVHN(folder, split=part, download=True) for part in ("train", "test")
    ],
)

_USPS = ImageFiles(
    title="USPS",
    read=_read_usps,
    train=(("usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"),),
    test=(("usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118"),),
    folders=("USPS", "."),
    fetch=lambda datasets, folder: [
        datasets.USPS(folder, train=train, download=True) for train in (True, False)
    ],
)

_CIFAR10 = ImageFiles(
    title="CIFAR-10",
    read=_read_cifar,
    train=(
        ("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),),
    fetch=lambda datasets, folder: datasets.CIFAR10(folder, download=True),
)

_CIFAR100 = ImageFiles(
    title="CIFAR-100",
    read=_read_cifar,
    train=(("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=(("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    fetch=lambda datasets, folder: datasets.CIFAR100(folder, download=True),
)

_STL10 = ImageFiles(
    title="STL-10",
    read=_read_stl10,
    train=(
        ("stl10_binary/train_X.bin", "918c2871b30a85fa023e0c44e0bee87f"),
        ("stl10_binary/train_y.bin", "5a34089d4802c674881badbb80307741"),
    ),
    test=(
        ("stl10_binary/test_X.bin", "7f263ba9f9e0b06b93213547f721ac82"),
        ("stl10_binary/test_y.bin", "36f9794fa4beb8a2c72628de14fa638e"),
    ),
    fetch=lambda datasets, folder: datasets.STL10(folder, download=True),
)

_TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_TINY_IMAGENET = ImageFiles(
    title="Tiny-ImageNet",
    read=_read_tiny_imagenet,
    train=(("tiny-imagenet-200/wnids.txt", None), ("tiny-imagenet-200/train/", None)),
    test=(
        ("tiny-imagenet-200/wnids.txt", None),
        ("tiny-imagenet-200/val/val_annotations.txt", None),
    ),
    archive=("tiny-imagenet-200.zip", _TINY_IMAGENET_MD5),
    fetch=lambda datasets, folder: datasets.utils.download_and_extract_archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip", folder, md5=_TINY_IMAGENET_MD5
    ),
)

_EUROSAT = ImageFiles(
    title="EuroSAT",
    read=_read_eurosat,
    train=(("eurosat/2750/", None),),
    test=None,
    archive=("eurosat/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387"),
    fetch=lambda datasets, folder: datasets.EuroSAT(folder, download=True),
)

_DIGITS = ImageFiles(title="digits", read=_read_digits, train=(), test=())

_RESIZE_28 = (("Resize", (28, 28)),)
_RESIZE_32 = (("Resize", (32, 32)),)
_MNIST_SCALE = {"mean": (0.1307,), "std": (0.3081,)}
_GREY = {"mean": (0.5,), "std": (0.5,)}
_RGB = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_RESNET_AUGMENTATION = ("random_crop_32_4", "horizontal_flip")

_SOURCES = (
    ImageSource("mnist", _MNIST, 10, (1, 28, 28), (50_000, 10_000, 10_000), (), **_MNIST_SCALE),
    ImageSource("fashion_mnist", _FASHION, 10, (1, 28, 28), (50_000, 10_000, 10_000), (), **_GREY),
    # The hyperparameter scripts name other transforms for SVHN, in a branch that never ran.
    ImageSource(
        "svhn",
        _SVHN,
        classes=10,
        shape=(1, 28, 28),
        sizes=(60_000, 13_257, 26_032),
        transform=(("Grayscale", 1), ("CenterCrop", 28)),
        **_GREY,
    ),
    ImageSource("usps", _USPS, 10, (1, 28, 28), (6_000, 1_291, 2_007), _RESIZE_28, **_MNIST_SCALE),
    ImageSource(
        "cifar10/cnn_s", _CIFAR10, 10, (3, 28, 28), (42_000, 8_000, 10_000), _RESIZE_28, **_RGB
    ),
    ImageSource("cifar10/cnn_l", _CIFAR10, 10, (3, 32, 32), (42_000, 8_000, 10_000), (), **_RGB),
    ImageSource(
        "cifar10/resnet18",
        _CIFAR10,
        classes=10,
        shape=(3, 32, 32),
        sizes=(40_000, 10_000, 10_000),
        transform=(),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        augmentation=_RESNET_AUGMENTATION,
    ),
    ImageSource("stl10/cnn_s", _STL10, 10, (3, 28, 28), (4_200, 800, 8_000), _RESIZE_28, **_RGB),
    ImageSource("stl10/cnn_l", _STL10, 10, (3, 32, 32), (4_200, 800, 8_000), _RESIZE_32, **_RGB),
    ImageSource(
        "cifar100/resnet18",
        _CIFAR100,
        classes=100,
        shape=(3, 32, 32),
        sizes=(40_000, 10_000, 10_000),
        transform=(),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        augmentation=_RESNET_AUGMENTATION,
    ),
    ImageSource(
        "tiny_imagenet/resnet18",
        _TINY_IMAGENET,
        classes=200,
        shape=(3, 64, 64),
        sizes=(100_000, None, 10_000),
        transform=(),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=("horizontal_flip", "random_rotation_20"),
    ),
    # Transforms and split of EuroSAT are our choice: the original published neither.
    ImageSource(
        "eurosat/cnn_s", _EUROSAT, 10, (3, 28, 28), (16_200, 5_400, 5_400), _RESIZE_28, **_RGB
    ),
    # Ours: small, and inside scikit-learn.
    ImageSource("digits", _DIGITS, 10, (1, 28, 28), (1_200, 237, 360), _RESIZE_28, **_GREY),
)

IMAGE_SOURCES: Mapping[str, ImageSource] = MappingProxyType({s.name: s for s in _SOURCES})
