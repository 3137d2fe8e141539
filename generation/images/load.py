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

import os
import warnings
from pathlib import Path

from ...errors import MissingImagesError
from .data import ImageData, ImageFiles, Images, ImageSource
from .readers import _pixels, _random_split, _read
from .sources import IMAGE_SOURCES
from .torchvision import import_torchvision
from .verify import _compare_archive, _compare_checksums, _compare_numbers, _listed, _refuse

# ----------------------------------------------------------------------- images in memory


# ------------------------------------------------------------------------ images on disk


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
        from .folder import load_folder

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


# ------------------------------------------------------------------- finding and checking


def _source(name: str) -> ImageSource:
    source = IMAGE_SOURCES.get(name.replace("-", "_"))
    if source is None:
        known = ", ".join(IMAGE_SOURCES)
        raise ValueError(f"no image data set {name!r}; there are {known}, folder/<your own>")
    return source


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


# ------------------------------------------------------------------------------- reading


# ------------------------------------------------------------------ transforms and splits


# ----------------------------------------------------------------------------- the table
