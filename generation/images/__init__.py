"""Image data sets as tensors: what the models of a zoo are trained on.

    >>> digits = load_images("digits")
    >>> digits.normalized("train").shape
    torch.Size([1200, 1, 28, 28])

data.py has the types, sources.py the table of all sets, readers.py their file formats, verify.py
the checksums, folder.py a set of one's own in a folder of image files.
"""

from ...errors import (
    ImageFilesError,
    MissingImagesError,
    UnreadableImagesError,
    UnverifiedImagesError,
)
from .data import ImageData, Images, ImageSource
from .load import load_images
from .sources import IMAGE_SOURCES

__all__ = [
    "IMAGE_SOURCES",
    "ImageData",
    "ImageFilesError",
    "ImageSource",
    "Images",
    "MissingImagesError",
    "UnreadableImagesError",
    "UnverifiedImagesError",
    "load_images",
]
