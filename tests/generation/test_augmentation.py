"""Augmentation of batches is torchvision's, image by image; draws are uniform and repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_zoos.generation.augmentation import augment, augmentation_draws, check_augmentation
from model_zoos.generation.torchvision import import_torchvision

ALL = ("random_crop_32_4", "horizontal_flip", "random_rotation_20")


def pixels(count: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def one_by_one(images: torch.Tensor, names: tuple[str, ...], draws: np.ndarray) -> torch.Tensor:
    """The same with torchvision's functions."""
    functional = import_torchvision().transforms.functional
    done = []
    for image, (row, column, flip, angle) in zip(images, draws.tolist(), strict=True):
        side = image.shape[1]
        for name in names:
            if name.startswith("random_crop"):
                padding = int(name.split("_")[-1])
                places = 2 * padding + 1
                at = int(row / 2**32 * places), int(column / 2**32 * places)
                image = functional.crop(functional.pad(image, [padding]), *at, side, side)
            elif name == "horizontal_flip":
                image = functional.hflip(image) if flip / 2**32 >= 0.5 else image
            else:
                degrees = int(name.split("_")[-1])
                image = functional.rotate(image, (2 * angle / 2**32 - 1) * degrees)
        done.append(image)
    return torch.stack(done)


@pytest.mark.parametrize("names", [ALL[:1], ALL[1:2], ALL[:2], ("random_crop_32_2", ALL[1])])
def test_crops_and_flips_are_torchvisions(names: tuple[str, ...]) -> None:
    draws = augmentation_draws(seed=3, step=7, batch_size=200)
    found = augment(pixels(200), names, draws)
    assert found.dtype == torch.uint8
    assert torch.equal(found, one_by_one(pixels(200), names, draws))


def test_rotations_are_torchvisions_but_for_ties_of_float32() -> None:
    names = ("horizontal_flip", "random_rotation_20")
    draws = augmentation_draws(seed=3, step=7, batch_size=200)
    found = augment(pixels(200, 64), names, draws)
    expected = one_by_one(pixels(200, 64), names, draws)
    assert (found != expected).float().mean() < 1e-4
    assert (found == 0).any()  # corners that the turned image has no pixel for


def test_draws_are_uniform_and_functions_of_seed_step_and_place() -> None:
    draws = augmentation_draws(seed=1, step=2**32 + 5, batch_size=4000)
    assert draws.dtype == np.uint32
    assert (augmentation_draws(1, 2**32 + 5, 10) == draws[:10]).all()
    for other in (augmentation_draws(2, 2**32 + 5, 10), augmentation_draws(1, 5, 10)):
        assert not (other == draws[:10]).any()
    shares = draws / 2.0**32
    assert np.abs(shares.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(shares.T) - np.eye(4)).max() < 0.06
    flipped = augment(pixels(4000, 8), ("horizontal_flip",), draws) != pixels(4000, 8)
    assert 0.47 < flipped.any((1, 2, 3)).float().mean() < 0.53


def test_nothing_to_do() -> None:
    images = pixels(3)
    assert augment(images, (), augmentation_draws(1, 1, 3)) is images


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixup", "unknown augmentation 'mixup'"),
        ("random_crop_28_4", "another size than 32 x 32"),
        ("random_rotation_181", "at most 180"),
    ],
)
def test_what_cannot_be_done(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_augmentation((name,), 32, 32)
