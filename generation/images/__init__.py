"""Image data sets as tensors: what the models of a zoo are trained on.

    >>> digits = load_images("digits")
    >>> digits.normalized("train").shape
    torch.Size([1200, 1, 28, 28])

data.py has the types, sources.py the table of all sets, readers.py their file formats, verify.py
their checksums, load.py the steps from files to tensors, folder.py a user's own folder of images.
"""

from ...errors import (
    ImageFilesError,
    MissingImagesError,
    UnreadableImagesError,
    UnverifiedImagesError,
)
from .data import ImageData, ImageFiles, Images, ImageSource, RawImages
from .load import load_images, named_images
from .sources import IMAGE_SOURCES

__all__ = [
    "IMAGE_SOURCES",
    "ImageData",
    "ImageFiles",
    "ImageFilesError",
    "ImageSource",
    "Images",
    "MissingImagesError",
    "RawImages",
    "UnreadableImagesError",
    "UnverifiedImagesError",
    "load_images",
    "named_images",
]
