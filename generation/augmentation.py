"""Augmentation of training images: crops, flips and rotations of whole batches, on their device.

The transforms are torchvision's (RandomCrop, RandomHorizontalFlip, RandomRotation), which the
paper's code applies image by image. `ImageData.augmentation` names them in order:

    random_crop_32_4        pad by 4 pixels of value 0 on each side, then cut 32 x 32 at random
    horizontal_flip         with probability 1/2
    random_rotation_20      by an angle between -20 and 20 degrees about the centre, with nearest
                            pixels, and 0 outside the image

The draws for an image are a function of the model's seed, the step and the image's position in the
batch (the counter generator of streams.py). They are the same on every device, for any number of
ranks, and in a resumed run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from ..errors import InvalidArgument
from .streams import philox, split_seed

AUGMENTATION = 3
"""The purpose of these draws in the counter; streams.py has those of dropout and twins."""

_NAME = re.compile(r"(random_crop)_(\d+)_(\d+)|(horizontal_flip)|(random_rotation)_(\d+)")


def augmentation_draws(seed: int, step: int, batch_size: int) -> np.ndarray:
    """Draw four random words for each image of a batch.

    Word 0 decides the row of a crop, 1 its column, 2 the flip and 3 the rotation. The counter is
    (0, purpose << 24 | position in the batch, step % 2^32, step // 2^32); the key is the seed.

    Args:
        seed: the model's seed.
        step: number of earlier optimizer steps, over all epochs.
        batch_size: number of images in this batch.

    Returns:
        uint32 [batch_size, 4].
    """
    counter = np.empty((batch_size, 4), np.uint32)
    counter[:, 0] = 0
    counter[:, 1] = np.arange(batch_size, dtype=np.uint32) | np.uint32(AUGMENTATION << 24)
    counter[:, 2] = step % 2**32
    counter[:, 3] = step >> 32
    return philox(counter, split_seed(np.asarray(seed)))


def check_augmentation(names: Sequence[str], height: int, width: int) -> None:
    """Reject transforms that `augment` cannot apply to images of this size.

    Raises:
        InvalidArgument: an unknown name, a crop of another size than the images, or a rotation
            beyond 180 degrees.
    """
    for name in names:
        if not (match := _NAME.fullmatch(name)):
            raise InvalidArgument(
                f"unknown augmentation {name!r}; known: random_crop_<size>_<padding>, "
                "horizontal_flip, random_rotation_<degrees>"
            )
        if match[1] and (int(match[2]), int(match[2])) != (height, width):
            raise InvalidArgument(f"{name} makes images of another size than {height} x {width}")
        if match[5] and int(match[6]) > 180:
            raise InvalidArgument(f"{name}: degrees must be at most 180")


def augment(pixels: torch.Tensor, names: Sequence[str], draws: np.ndarray) -> torch.Tensor:
    """Augment one batch.

    Args:
        pixels: uint8 [b, c, h, w], on any device.
        names: the transforms in order; see `ImageData.augmentation`.
        draws: uint32 [b, 4], from `augmentation_draws`.

    Returns:
        uint8 [b, c, h, w], on the same device.

    Raises:
        InvalidArgument: see `check_augmentation`.
    """
    check_augmentation(names, *pixels.shape[2:])
    if not names:
        return pixels
    words = torch.from_numpy(draws.astype(np.int64)).to(pixels.device)
    for name in names:
        match = _NAME.fullmatch(name)
        assert match is not None
        if match[1]:
            pixels = _crop(pixels, int(match[3]), words[:, 0], words[:, 1])
        elif match[4]:
            flipped = (words[:, 2] >= 1 << 31)[:, None, None, None]
            pixels = torch.where(flipped, pixels.flip(3), pixels)
        else:
            degrees = (words[:, 3].double() * 2**-31 - 1) * int(match[6])
            pixels = _rotate(pixels, degrees)
    return pixels


def _crop(
    pixels: torch.Tensor, padding: int, row_words: torch.Tensor, column_words: torch.Tensor
) -> torch.Tensor:
    """Pad images and cut each to its old size, at one of (2 padding + 1)^2 positions."""
    count, channels, height, width = pixels.shape
    padded = functional.pad(pixels, (padding,) * 4)
    places = 2 * padding + 1

    def indices(words: torch.Tensor, size: int) -> torch.Tensor:
        return (words * places >> 32)[:, None] + torch.arange(size, device=pixels.device)

    rows, columns = indices(row_words, height), indices(column_words, width)
    image = torch.arange(count, device=pixels.device)[:, None, None, None]
    channel = torch.arange(channels, device=pixels.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _rotate(pixels: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate each image counter-clockwise about its centre.

    In double precision, the nearest pixel is the same on every device.
    """
    count, channels, height, width = pixels.shape
    y = torch.arange(height, device=pixels.device, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, device=pixels.device, dtype=torch.float64) - (width - 1) / 2
    cos, sin = (f(torch.deg2rad(degrees))[:, None, None] for f in (torch.cos, torch.sin))
    y, x = y[:, None], x[None, :]
    # The source position of each pixel of the result; rows count downwards.
    from_x = (cos * x - sin * y + (width - 1) / 2).round().long()
    from_y = (sin * x + cos * y + (height - 1) / 2).round().long()
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    source = (from_y * width + from_x).where(inside, 0).view(count, 1, -1)
    turned = pixels.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(pixels)
    return turned * inside[:, None]
