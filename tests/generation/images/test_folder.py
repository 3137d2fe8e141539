"""Images of one's own from folders: numbering, sizes, settings, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from model_zoos.benchmarks.audit import audit_zoo
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import (
    InvalidArgument,
    MissingImagesError,
    ModelZoosWarning,
    UnreadableImagesError,
)
from model_zoos.generation.generate import generate
from model_zoos.generation.images import load_images
from model_zoos.generation.options import TwinOptions
from model_zoos.generation.sparsify import image_name, sparsify


def write(root: Path, sizes: dict[str, tuple[int, int]], classes: str = "ab") -> Path:
    """Two images of each class; pixel values tell class and number."""
    for split, size in sizes.items():
        for label, name in enumerate(classes):
            folder = root / "mine" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                values = np.full((*size, 3), 100 * label + 10 * number, np.uint8)
                Image.fromarray(values).save(folder / f"{number}.png")
    return root


def test_classes_and_images_have_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16), "validation": (16, 16), "test": (16, 16)})
    images = load_images("folder/mine", tmp_path)
    assert images.train.pixels.shape == (4, 3, 16, 16)
    assert images.train.pixels[:, 0, 0, 0].tolist() == [0, 10, 100, 110]
    assert images.train.labels.tolist() == [0, 0, 1, 1]
    assert (images.classes, images.verified) == (2, False)
    assert len(images.validation) == 4
    assert images.augmentation == ("random_crop_16_2", "horizontal_flip")
    assert images.normalized("train").max() < 0
    assert images.provenance()["sizes"] == [4, 4, 4]


def test_what_macos_and_jupyter_leave_behind_is_no_image_and_no_class(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    before = load_images("folder/mine", tmp_path)
    for split in ("train", "test"):
        folder = tmp_path / "mine" / split
        for place in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints", "__MACOSX/a"):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / "0.png").write_bytes(b"")
        (folder / "b" / "._0.png").write_bytes(b"\0\5\26\7")
        (folder / ".DS_Store").write_bytes(b"")
    images = load_images("folder/mine", tmp_path)
    assert images.classes == 2
    assert images.train.pixels.equal(before.train.pixels)
    assert images.test.labels.tolist() == [0, 0, 1, 1]


def test_files_of_other_formats_are_counted_in_a_warning(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", ".hidden.gif"):
            (tmp_path / "mine" / "train" / "a" / name).write_bytes(b"")
        before = load_images("folder/mine", tmp_path)
    first = tmp_path / "mine" / "train" / "a" / "2.gif"
    for path in (first, tmp_path / "mine" / "test" / "b" / "deeper" / "3.gif"):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    with pytest.warns(ModelZoosWarning) as found:
        after = load_images("folder/mine", tmp_path)
    (message,) = [str(warning.message) for warning in found]
    assert message.startswith(f"{first}: 2 files are not read, of which this is the first.")
    assert ".png" in message
    assert found[0].filename == __file__
    assert after.digest() == before.digest()
    for path in (tmp_path / "mine" / "train" / "a").glob("*.png"):
        path.unlink()
    with pytest.raises(UnreadableImagesError, match=r"the classes a\. Expected a folder .*\.png"):
        load_images("folder/mine", tmp_path)


def test_grey_files_are_grey_images(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    for path in tmp_path.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    grey = load_images("folder/mine", tmp_path)
    assert grey.shape == (1, 16, 16)
    assert grey.train.pixels[:, 0, 0, 0].tolist() == [0, 10, 100, 110]
    assert grey.digest() == load_images("folder/mine", tmp_path, channels=1).digest()
    coloured = load_images("folder/mine", tmp_path, channels=3)
    assert coloured.shape == (3, 16, 16)
    zoo = dataclasses.replace(
        zoo_spec("digits_cnn_s"), name="mine", images="folder/mine", channels=1, classes=2
    )
    with pytest.raises(InvalidArgument, match=r'load_images\("folder/mine", channels=1\)') as found:
        generate(zoo, tmp_path, coloured, models=1)
    assert '"size": [28, 28]' in str(found.value)
    one = tmp_path / "mine" / "train" / "b" / "1.png"
    Image.new("RGB", (16, 16)).save(one)
    assert load_images("folder/mine", tmp_path).shape == (3, 16, 16)
    one.write_bytes(b"no image")
    with pytest.raises(UnreadableImagesError, match=r"1\.png: no readable image"):
        load_images("folder/mine", tmp_path)


def grey_files(root: Path, suffix: str, pixels: np.ndarray, mode: str | None = None) -> Path:
    """One equal file for each of two splits and two classes; the path of the first."""
    for split in ("train", "test"):
        for name in "ab":
            folder = root / "mine" / split / name
            folder.mkdir(parents=True)
            image = Image.fromarray(pixels)
            if mode is not None:
                image = Image.frombytes(mode, image.size, pixels.tobytes())
            image.save(folder / f"0.{suffix}")
    return root / "mine" / "train" / "a" / f"0.{suffix}"


@pytest.mark.parametrize(
    ("suffix", "dtype", "mode"),
    [
        ("png", "<u2", None),
        ("tif", "<u2", None),
        ("tif", ">u2", "I;16B"),
        ("pgm", "<u2", None),  # which Pillow opens in mode I, as older versions do with PNG
    ],
)
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str, dtype: str, mode: str | None) -> None:
    eight = np.arange(256).reshape(16, 16)
    offset = np.resize([-128, 0, 128], (16, 16))  # all of them are nearest to `eight`
    sixteen = (eight * 257 + offset).clip(0, 65535).astype(dtype)
    grey_files(tmp_path, suffix, sixteen, mode)
    grey = load_images("folder/mine", tmp_path)
    assert grey.shape == (1, 16, 16)
    assert grey.train.pixels[0, 0].tolist() == eight.tolist()
    coloured = load_images("folder/mine", tmp_path, channels=3)
    assert coloured.train.pixels[1].tolist() == [eight.tolist()] * 3


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize(
    ("dtype", "mode", "kind"), [("i4", "I", "32-bit integers"), ("f4", "F", "floats")]
)
def test_pixels_of_no_known_range_are_refused(
    tmp_path: Path, dtype: str, mode: str, kind: str, channels: int | None
) -> None:
    path = grey_files(tmp_path, "tif", np.linspace(0, 1, 64).reshape(8, 8).astype(dtype))
    with pytest.raises(UnreadableImagesError) as found:
        load_images("folder/mine", tmp_path, channels=channels)
    assert str(found.value).startswith(f"{path}: its pixels are {kind} (mode {mode} of Pillow)")
    assert "as an 8-bit PNG file" in str(found.value)


def test_settings(tmp_path: Path) -> None:
    write(tmp_path, {"train": (20, 12), "test": (9, 9)})
    settings = {"size": [16, 16], "mean": [0.1], "std": [0.2], "augmentation": []}
    (tmp_path / "mine" / "images.json").write_text(json.dumps(settings))
    images = load_images("folder/mine", tmp_path)
    assert images.train.pixels.shape == (4, 1, 16, 16)
    assert images.test.pixels.shape == (4, 1, 16, 16)
    assert images.validation is None
    assert images.provenance()["sizes"] == [4, None, 4]
    assert (images.mean, images.std, images.augmentation) == ((0.1,), (0.2,), ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 32}, "size is 32"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean and std must both"),
        ({"mean": [0.5], "std": [0.5, 0.5, 0.5]}, "mean and std must both"),
        ({"mean": [0.5], "std": [0]}, r"std is \[0\]"),
        ({"augmentation": ["mixup"]}, r"images\.json: unknown augmentation 'mixup'"),
        ({"colour": True}, "expected a JSON object with the keys size"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: Any, message: str) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    (tmp_path / "mine" / "images.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        load_images("folder/mine", tmp_path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingImagesError, match=r"mine/train is not there.*images_dir=") as found:
        load_images("folder/mine", tmp_path)
    assert found.value.hint == "--images-dir names another folder"
    assert "names another" not in str(found.value)  # that is for the hint
    for name in ("folder/", "folder/..", "folder/a/b"):
        with pytest.raises(ValueError, match="expected folder/NAME"):
            load_images(name, tmp_path)
    write(tmp_path, {"train": (16, 16), "test": (9, 9)})
    with pytest.raises(UnreadableImagesError, match=r"test has images of 9 x 9.*give a size"):
        load_images("folder/mine", tmp_path)
    (tmp_path / "mine" / "train" / "a" / "9.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImagesError, match=r"9\.png: no readable image"):
        load_images("folder/mine", tmp_path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("0.png", lambda data: data[:36] + b"\5" + data[37:]),  # the length of a chunk
        ("0.bmp", lambda data: data[:30] + b"\1" + data[31:]),  # compressed, of 24 bits
        ("0.ppm", lambda data: b"P6 8 x " + data[7:]),
    ],
)
def test_damage_of_any_kind_names_the_file(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """Pillow raises SyntaxError or ValueError for some damaged files."""
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    path = tmp_path / "mine" / "train" / "a" / name
    Image.new("RGB", (16, 16)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnreadableImagesError) as found:
        load_images("folder/mine", tmp_path)
    assert str(found.value).startswith(f"{path}: no readable image (")
    assert "move it out of the folder" in str(found.value)
    assert found.value.hint is None  # nothing can be downloaded again


def test_other_classes_to_test(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16)})
    write(tmp_path, {"test": (16, 16)}, classes="ac")
    with pytest.raises(UnreadableImagesError, match=r"test has the classes a, c, .*train has a, b"):
        load_images("folder/mine", tmp_path)


def test_grey_images_for_a_zoo_of_one_channel(tmp_path: Path) -> None:
    """Without images.json; the zoo is trained, verified, and gets twins."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in "ab":
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = rng.integers(0, 256, (28, 28), np.uint8)
                Image.fromarray(values).save(folder / f"{number}.png")
    values = zoo_spec("mnist_cnn_s_seed").to_json()
    values |= {"name": "my_grey", "variant": "one_of_mine", "images": "folder/mine", "classes": 2}
    values |= {"image_dataset": "mine", "seeds": 3, "epochs": 1}
    zoo = Zoo.from_json(values)
    images = load_images(zoo.images, tmp_path, channels=zoo.channels)
    assert images.train.pixels.shape == (16, 1, 28, 28)
    assert (images.mean, images.std) == ((0.5,), (0.5,))
    generate(zoo, tmp_path / "zoos", images)
    audit = audit_zoo(zoo.name, tmp_path / "zoos", images_dir=tmp_path)
    assert audit.good
    assert audit.evaluated == 6
    rows = load_dataset("model_zoos", "my_grey", data_dir=str(tmp_path / "zoos"), split="train")
    assert set(rows["variant"]) == {"one_of_mine"}
    parents = open_zoo(tmp_path / "zoos", "my_grey")
    assert image_name(parents) == "folder/mine"
    summary = sparsify(parents, tmp_path / "zoos", images, twins=TwinOptions(epochs=1))
    assert summary.models == 3
    with pytest.raises(InvalidArgument, match=r"images\.json in the folder .*\[32, 32\]"):
        generate(zoo_spec("cifar10_cnn_l_seed"), tmp_path / "zoos", images)


@pytest.mark.parametrize("channels", [0, 2, 4, -1, True, "3", 1.0, [3]])
def test_channels_are_1_or_3(tmp_path: Path, channels: Any) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    with pytest.raises(InvalidArgument, match=r"channels must be 1 or 3, found .*folder/mine"):
        load_images("folder/mine", tmp_path, channels=channels)
    three: Any = np.int64(3)
    assert load_images("folder/mine", tmp_path, channels=three).shape == (3, 16, 16)


def test_channels_that_contradict_the_settings(tmp_path: Path) -> None:
    write(tmp_path, {"train": (16, 16), "test": (16, 16)})
    settings = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}
    (tmp_path / "mine" / "images.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidArgument, match=r'images\.json has a mean of 3 .*"channels": 1'):
        load_images("folder/mine", tmp_path, channels=1)
