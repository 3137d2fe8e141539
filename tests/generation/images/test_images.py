"""Images against independent sources: torchvision's own pipelines, the original's facts, and
files in the published formats that these tests write themselves.

Tests with real images read them from MODEL_ZOOS_SHARED (default: `../shared` beside the
checkout) and are skipped where that is absent.
"""

import bz2
import functools
import hashlib
import http.server
import inspect
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from model_zoos.errors import (
    ImageFilesError,
    InvalidArgument,
    MissingImagesError,
    UnreadableImagesError,
    UnverifiedImagesError,
)
from model_zoos.generation.images import IMAGE_SOURCES, load_images
from model_zoos.generation.images import load as module
from model_zoos.generation.images.data import ImageData, ImageFiles, Images, ImageSource, RawImages
from model_zoos.generation.torchvision import import_torchvision

torchvision = import_torchvision()
T = torchvision.transforms

CHECKOUT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("MODEL_ZOOS_SHARED", CHECKOUT.parent / "shared"))
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no shared data at {SHARED}; MODEL_ZOOS_SHARED points to it"
)
allowing = pytest.mark.filterwarnings("ignore:.*used all the same:UserWarning")

HALF_RGB = T.Normalize((0.5,) * 3, (0.5,) * 3)
# The evaluation transforms of the original's scripts, as they are written there.
PIPELINES = {
    "mnist": [T.ToTensor(), T.Normalize((0.1307,), (0.3081,))],
    "fashion_mnist": [T.ToTensor(), T.Normalize((0.5,), (0.5,))],
    "svhn": [T.Grayscale(1), T.CenterCrop(28), T.ToTensor(), T.Normalize((0.5,), (0.5,))],
    "usps": [T.Resize((28, 28)), T.ToTensor(), T.Normalize((0.1307,), (0.3081,))],
    "cifar10/cnn_s": [T.Resize((28, 28)), T.ToTensor(), HALF_RGB],
    "cifar10/cnn_l": [T.ToTensor(), HALF_RGB],
    "cifar10/resnet18": [
        T.ToTensor(),
        T.Normalize([x / 255 for x in (125.3, 123.0, 113.9)], [x / 255 for x in (63, 62.1, 66.7)]),
    ],
    "stl10/cnn_s": [T.Resize((28, 28)), T.ToTensor(), HALF_RGB],
    "stl10/cnn_l": [T.Resize((32, 32)), T.ToTensor(), HALF_RGB],
    "cifar100/resnet18": [
        T.ToTensor(),
        T.Normalize([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    ],
    "tiny_imagenet/resnet18": [
        T.ToTensor(),
        T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
    "eurosat/cnn_s": [T.Resize((28, 28)), T.ToTensor(), HALF_RGB],
    "digits": [T.Resize((28, 28)), T.ToTensor(), T.Normalize((0.5,), (0.5,))],
}


def through_torchvision(name, pixels):
    """float32 [n, c, h, w] of arrays [n, h, w(, 3)], one PIL image at a time."""
    pipeline = T.Compose(PIPELINES[name])
    return torch.stack([pipeline(Image.fromarray(image)) for image in pixels])


def random_split(n, *sizes):
    """Indices of each part, by torch's own random_split."""
    generator = torch.Generator().manual_seed(42)
    parts = torch.utils.data.random_split(range(n), sizes, generator=generator)
    return [list(part.indices) for part in parts]


# ---------------------------------------------------- small sets in the published formats


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root, draw, folder="MNIST"):
    parts = draw(60, 28, 28), draw(12, 28, 28)
    for name, (pixels, labels) in zip(("train", "t10k"), parts, strict=True):
        write_idx(root / folder / "raw" / f"{name}-images-idx3-ubyte", pixels)
        write_idx(root / folder / "raw" / f"{name}-labels-idx1-ubyte", labels.astype(np.uint8))
    return parts


def write_usps(root, draw):
    parts = draw(30, 16, 16), draw(8, 16, 16)
    for name, (pixels, labels) in zip(("usps.bz2", "usps.t.bz2"), parts, strict=True):
        # + 0.2: torchvision cuts off, so that exact values could fall to the pixel below
        values = ((pixels.reshape(-1, 256) + 0.2) / 255 * 2 - 1).clip(-1, 1)
        rows = (
            f"{label + 1} " + " ".join(f"{i + 1}:{x:.6f}" for i, x in enumerate(row)) + " \n"
            for label, row in zip(labels, values, strict=True)
        )
        (root / name).write_bytes(bz2.compress("".join(rows).encode()))
    return parts


def write_svhn(root, draw):
    from scipy.io import savemat

    (root / "SVHN").mkdir()
    parts = draw(50, 32, 32, 3), draw(9, 32, 32, 3)
    for name, (pixels, labels) in zip(("train", "test"), parts, strict=True):
        y = np.where(labels == 0, 10, labels).astype(np.uint8).reshape(-1, 1)  # 10 is digit 0
        matrices = {"X": pixels.transpose(1, 2, 3, 0), "y": y}
        savemat(root / "SVHN" / f"{name}_32x32.mat", matrices, do_compression=True)
    return parts


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, in which the CIFAR files are made."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_string


def write_cifar_batch(path, pixels, labels, key):
    path.parent.mkdir(exist_ok=True)
    data = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump({b"data": data, key: [int(label) for label in labels]})


def write_cifar10(root, draw):
    pixels, labels = draw(100, 32, 32, 3)
    for i in range(5):
        part = slice(20 * i, 20 * (i + 1))
        path = root / "cifar-10-batches-py" / f"data_batch_{i + 1}"
        write_cifar_batch(path, pixels[part], labels[part], b"labels")
    test = draw(20, 32, 32, 3)
    write_cifar_batch(root / "cifar-10-batches-py" / "test_batch", *test, b"labels")
    return (pixels, labels), test


def write_cifar100(root, draw):
    parts = draw(50, 32, 32, 3, classes=100), draw(20, 32, 32, 3, classes=100)
    for name, part in zip(("train", "test"), parts, strict=True):
        write_cifar_batch(root / "cifar-100-python" / name, *part, b"fine_labels")
    return parts


def write_stl10(root, draw):
    folder = root / "stl10_binary"
    folder.mkdir()
    parts = draw(50, 96, 96, 3), draw(20, 96, 96, 3)
    for name, (pixels, labels) in zip(("train", "test"), parts, strict=True):
        # column by column within a channel; labels from 1
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{name}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    return parts


def write_eurosat(root, draw):
    """10 classes of 5 images; decoded JPEGs in torchvision's order."""
    pixels, _ = draw(50, 64, 64, 3)
    decoded, labels = [], []
    for label in range(10):
        folder = root / "eurosat" / "2750" / f"Class{label}"
        folder.mkdir(parents=True)
        for i in range(5):
            path = folder / f"Class{label}_{i}.jpg"
            Image.fromarray(pixels[5 * label + i]).save(path)
            decoded.append(np.asarray(Image.open(path)))
            labels.append(label)
    return (np.stack(decoded), np.array(labels)), None


WRITERS = {
    "mnist": write_mnist,
    "fashion_mnist": functools.partial(write_mnist, folder="FashionMNIST"),
    "usps": write_usps,
    "svhn": write_svhn,
    "cifar10/cnn_s": write_cifar10,
    "cifar10/cnn_l": write_cifar10,
    "cifar10/resnet18": write_cifar10,
    "cifar100/resnet18": write_cifar100,
    "stl10/cnn_s": write_stl10,
    "stl10/cnn_l": write_stl10,
    "eurosat/cnn_s": write_eurosat,
}
PACKED = ("mnist", "usps", "svhn", "cifar10/cnn_l", "cifar100/resnet18", "stl10/cnn_l")


def write(name, root):
    """A small set; returns its ((training pixels, labels), (test pixels, labels) or None)."""
    rng = np.random.default_rng(0)

    def draw(n, *shape, classes=10):
        return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, classes, n)

    return WRITERS[name](root, draw)


def as_published(name, root, n_train, n_test):
    """The source of a small set, as if its files and sizes were the published ones."""
    source = IMAGE_SOURCES[name]
    folder = module.find_folder(source.files, root)

    def with_md5(files):
        return tuple((f, hashlib.md5((folder / f).read_bytes()).hexdigest()) for f, _ in files)

    files = replace(
        source.files, train=with_md5(source.files.train), test=with_md5(source.files.test)
    )
    return replace(source, files=files, sizes=(n_train - 7, 7, n_test))


# ------------------------------------------------------------------------------ the table


@needs_shared
def test_table_holds_the_image_data_sets_of_the_zoos():
    facts = json.loads((SHARED / "reference" / "zoo_facts.json").read_text())["images"]
    assert set(IMAGE_SOURCES) == set(facts) | {
        "digits",
        *(f"{name}/grey" for name in ("mnist", "fashion_mnist", "cifar10", "svhn")),
    }
    for name, fact in facts.items():
        source = IMAGE_SOURCES[name]
        assert list(source.shape) == fact["input"], name
        if name == "eurosat/cnn_s":
            assert sum(source.sizes) == 27_000
            continue
        assert source.sizes[2] == fact["test"], name
        assert list(source.sizes[:2]) == (fact["split"] or [100_000, None]), name
        crops = "RandomCrop" in fact.get("train_transform", "")
        assert ("random_crop_32_4" in source.augmentation) == crops
        flips = "RandomHorizontalFlip" in fact.get("train_transform", "")
        assert ("horizontal_flip" in source.augmentation) == flips
        assert fact.get("train_transform", fact.get("transform")), name


def test_md5_sums_are_those_of_torchvision():
    datasets = torchvision.datasets
    for name in ("USPS", "SVHN"):
        files = IMAGE_SOURCES[name.lower()].files
        listed = getattr(datasets, name).split_list
        assert files.train == (tuple(listed["train"][1:]),)
        assert files.test == (tuple(listed["test"][1:]),)
    for name, key in (
        ("CIFAR10", "cifar10/cnn_s"),
        ("CIFAR100", "cifar100/resnet18"),
        ("STL10", "stl10/cnn_s"),
    ):
        published = getattr(datasets, name)
        for part in ("train", "test"):
            listed = dict(getattr(published, f"{part}_list"))
            listed.pop("unlabeled_X.bin", None)
            ours = getattr(IMAGE_SOURCES[key].files, part)
            assert {Path(file).name: md5 for file, md5 in ours} == listed
            assert {str(Path(file).parent) for file, _ in ours} == {published.base_folder}


def test_md5_sums_of_archives():
    """Tiny-ImageNet: as its users publish it (torchvision does not have the set)."""
    files = IMAGE_SOURCES["tiny_imagenet/resnet18"].files
    assert files.archive == ("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")
    archive, md5 = IMAGE_SOURCES["eurosat/cnn_s"].files.archive
    source = inspect.getsource(torchvision.datasets.EuroSAT)
    assert f'md5="{md5}"' in source
    assert f"/{Path(archive).name}" in source


@needs_shared
def test_md5_sums_of_mnist_are_those_of_the_data_sheet():
    sheet = (DATA / "README.md").read_text()
    for name in ("mnist", "fashion_mnist"):
        files = IMAGE_SOURCES[name].files
        for file, md5 in files.train + files.test:
            (row,) = [line for line in sheet.splitlines() if line.startswith(f"| {file} ")]
            assert f"| {md5} | yes" in row


def test_hyphens_are_accepted_and_unknown_names_refused(tmp_path):
    with pytest.raises(MissingImagesError, match="Fashion-MNIST"):
        load_images("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match=r"'mnits'; did you mean mnist\? .* folder/<folder>"):
        load_images("mnits", tmp_path)
    with pytest.raises(ValueError, match=r"'xyz'; known: mnist, fashion_mnist.*digits\. Images"):
        load_images("xyz", tmp_path)


def test_names_are_texts_or_paths_and_folders_are_paths():
    assert load_images(Path("digits")).digest() == load_images("digits").digest()
    for name in (None, 5, b"digits", ["digits"]):
        with pytest.raises(InvalidArgument, match=r"named, such as 'mnist', found \w+"):
            load_images(name)
    with pytest.raises(InvalidArgument, match="images_dir must be the path of a folder, found int"):
        load_images("digits", 5)


def test_channels_that_a_set_does_not_have_are_refused_before_its_files_are_read(tmp_path):
    assert load_images("digits", channels=1).shape == (1, 28, 28)
    with pytest.raises(InvalidArgument, match=r"must be 1, found 3: digits has 1 channel\. Leave"):
        load_images("digits", channels=3)
    with pytest.raises(InvalidArgument, match="must be 3, found 1: cifar10/cnn_s has 3 channels"):
        load_images("cifar10/cnn_s", tmp_path, channels=1)
    with pytest.raises(InvalidArgument, match="must be 1, found 3: svhn/grey has 1 channel"):
        load_images("svhn/grey", tmp_path, channels=3)
    with pytest.raises(MissingImagesError):
        load_images("svhn/grey", tmp_path, channels=1)


# ----------------------------------------------------------------------------- real images


@pytest.fixture(scope="module")
def mnist():
    return load_images("mnist", DATA)


@needs_shared
@allowing
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mnist", lambda **kw: torchvision.datasets.MNIST(DATA, **kw)),
        ("fashion_mnist", lambda **kw: torchvision.datasets.FashionMNIST(DATA, **kw)),
        pytest.param(
            "usps",
            lambda **kw: torchvision.datasets.USPS(DATA / "USPS", **kw),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_images_equal_torchvisions_to_the_bit(name, reference):
    data = load_images(name, DATA, allow_unverified=True)
    assert data.verified == (name != "usps")
    pipeline = T.Compose(PIPELINES[name])
    train = reference(train=True, transform=pipeline)
    sizes = {"mnist": (50_000, 10_000), "fashion_mnist": (50_000, 10_000), "usps": (6_000, 1_291)}
    generator = torch.Generator().manual_seed(42)
    parts = torch.utils.data.random_split(train, sizes[name], generator=generator)
    parts.append(reference(train=False, transform=pipeline))
    for split, part in zip(("train", "validation", "test"), parts, strict=True):
        ours = data.normalized(split)
        labels = getattr(data, split).labels
        assert len(ours) == len(labels) == len(part)
        for i in range(0, len(part), 1 + len(part) // 2_000):
            image, label = part[i]
            assert torch.equal(ours[i], image), (split, i)
            assert labels[i] == label, (split, i)


@needs_shared
def test_images_of_the_raw_zoos_are_a_subset(mnist):
    """The recipe of the data sheet, with the raw bytes of the file as the source."""
    data = replace(mnist, mean=(0.5,), std=(0.5,))
    data = data.subset(train=slice(2_000), validation=slice(500), test=slice(500))
    raw = np.fromfile(DATA / "MNIST/raw/train-images-idx3-ubyte", np.uint8, offset=16)
    raw = torch.from_numpy(raw).view(60_000, 1, 28, 28)
    p = torch.randperm(60_000, generator=torch.Generator().manual_seed(42))
    assert torch.equal(data.normalized("train"), (raw[p[:2_000]] / 255 - 0.5) / 0.5)
    assert torch.equal(data.normalized("validation"), (raw[p[50_000:50_500]] / 255 - 0.5) / 0.5)
    assert len(data.test) == 500

    def padded(images):
        pixels = torch.nn.functional.pad(images.pixels, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
        return Images(pixels, images.labels)

    large = ImageData(
        "mnist32", padded(data.train), None, padded(data.test), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    images = large.normalized("train")
    assert images.shape == (2_000, 3, 32, 32)
    assert (images[:, :, :2] == -1).all()
    assert (images[..., -2:] == -1).all()
    assert torch.equal(images[:, 2:, 2:-2, 2:-2], data.normalized("train"))


@needs_shared
def test_rebuilt_usps_is_refused_then_allowed():
    expected, found = "ec16c51db3855ca6c91edd34d0e9b197", "87922cc43ed42d3d18caceec739190db"
    with pytest.raises(UnverifiedImagesError) as refused:
        load_images("usps", DATA)
    for word in ("usps.bz2", expected, found, "allow_unverified"):
        assert word in str(refused.value)
    assert "--allow-unverified" in refused.value.hint
    assert "usps.t.bz2" not in str(refused.value)
    with pytest.warns(UserWarning, match=f"usps.bz2 has MD5 {found}") as warned:
        data = load_images("usps", DATA, allow_unverified=True)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert not data.verified
    assert (len(data.train), len(data.validation), len(data.test)) == (6_000, 1_291, 2_007)


@needs_shared
def test_mnist_counts_of_each_digit(mnist):
    """Published class counts of the 60,000 and the 10,000."""
    both = torch.cat([mnist.train.labels, mnist.validation.labels])
    assert both.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test.labels.bincount().tolist() == (
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )


# ------------------------------------------------------------------- the published formats


@allowing
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_small_set_is_read_transformed_and_split_in_proportion(name, tmp_path):
    (pixels, labels), test = write(name, tmp_path)
    with pytest.raises(UnverifiedImagesError):
        load_images(name, tmp_path)
    data = load_images(name, tmp_path, allow_unverified=True)
    assert not data.verified

    n, expected = len(labels), through_torchvision(name, pixels)
    train, validation, _ = IMAGE_SOURCES[name].sizes
    if test is None:
        parts = random_split(n, 30, 10, 10)  # 60 / 20 / 20 of 50
    else:
        n_train = round(n * train / (train + validation))
        parts = random_split(n, n_train, n - n_train)
        assert torch.equal(data.normalized("test"), through_torchvision(name, test[0]))
        assert data.test.labels.tolist() == test[1].tolist()
    for split, part in zip(("train", "validation", "test"), parts, strict=False):
        assert torch.equal(data.normalized(split), expected[part])
        assert getattr(data, split).labels.tolist() == labels[part].tolist()
    assert data.train.pixels.shape[1:] == IMAGE_SOURCES[name].shape


@allowing
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_grey_images_are_those_of_the_small_cnn_zoo(name, tmp_path):
    """Its train_network.py: x / 255, then -1 + 2 x, then the mean over the channels."""
    (pixels, labels), (test, _) = write({"cifar10": "cifar10/cnn_l"}.get(name, name), tmp_path)
    data = load_images(f"{name}/grey", tmp_path, allow_unverified=True)
    assert data.validation is None
    assert data.shape == (1, 32, 32)
    assert data.train.labels.tolist() == labels.tolist()
    for split, raw in (("train", pixels), ("test", test)):
        expected = (-1 + 2 * (raw.astype(np.float64) / 255)).mean(3)[:, None]
        assert np.abs(data.normalized(split).numpy() - expected).max() < 1e-6
    assert data.digest() != replace(data, grey=False).digest()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PACKED)
def test_files_with_the_published_md5_are_verified(name, tmp_path):
    (_, labels), (_, test_labels) = write(name, tmp_path)
    source = as_published(name, tmp_path, len(labels), len(test_labels))
    data = load_images(source, tmp_path)
    assert data.verified
    assert len(data.validation) == 7
    with pytest.raises(UnverifiedImagesError, match=r"1 of \d+ test images are missing"):
        load_images(replace(source, sizes=(*source.sizes[:2], len(test_labels) + 1)), tmp_path)
    with pytest.raises(UnverifiedImagesError, match=f"{len(labels)} training images in place of"):
        load_images(replace(source, sizes=(5, 7, len(test_labels))), tmp_path)


@allowing
@pytest.mark.parametrize("name", PACKED)
def test_cut_files_are_named(name, tmp_path):
    write(name, tmp_path)
    folder = module.find_folder(IMAGE_SOURCES[name].files, tmp_path)
    for file, _ in IMAGE_SOURCES[name].files.train + IMAGE_SOURCES[name].files.test:
        whole = (folder / file).read_bytes()
        for size in (len(whole) // 2, 3, 0):
            (folder / file).write_bytes(whole[:size])
            with pytest.raises(UnreadableImagesError) as damaged:
                load_images(name, tmp_path, allow_unverified=True)
            assert str(folder / file) in str(damaged.value), size
            assert "\n" not in str(damaged.value)
        (folder / file).write_bytes(whole)
    assert load_images(name, tmp_path, allow_unverified=True)


@allowing
def test_labels_beyond_the_classes_are_refused(tmp_path):
    write("cifar100/resnet18", tmp_path)
    shutil.move(tmp_path / "cifar-100-python", tmp_path / "cifar-10-batches-py")
    folder = tmp_path / "cifar-10-batches-py"
    for i in range(1, 6):
        shutil.copy(folder / "train", folder / f"data_batch_{i}")
    (folder / "test").rename(folder / "test_batch")
    with pytest.raises(
        UnreadableImagesError, match=r"data_batch_1.*labels are not all from 0 to 9"
    ):
        load_images("cifar10/cnn_l", tmp_path, allow_unverified=True)


@allowing
def test_images_of_another_size_are_refused(tmp_path):
    write("mnist", tmp_path)
    pixels = np.zeros((12, 14, 56), np.uint8)  # as many numbers as 12 images of 28 x 28
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte", pixels)
    with pytest.raises(UnreadableImagesError, match="MNIST: images of 14 x 56 in place of 28 x 28"):
        load_images("mnist", tmp_path, allow_unverified=True)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@allowing
def test_nothing_in_a_pickle_is_executed(tmp_path):
    write("cifar10/cnn_l", tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(pickle.dumps({"data": Touch(tmp_path / "ran"), "labels": []}, 2))
    with pytest.raises(UnreadableImagesError, match=r"data_batch_2.*not allowed"):
        load_images("cifar10/cnn_l", tmp_path, allow_unverified=True)
    assert not (tmp_path / "ran").exists()


@allowing
@pytest.mark.parametrize(("name", "folder"), [("usps", "USPS"), ("svhn", "SVHN")])
def test_files_may_lie_in_the_images_folder_or_in_their_own(name, folder, tmp_path):
    write(name, tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    digests = []
    for a, b in ((tmp_path, tmp_path / folder), (tmp_path / folder, tmp_path)):
        for file, _ in IMAGE_SOURCES[name].files.train + IMAGE_SOURCES[name].files.test:
            if (a / file).exists():
                (a / file).rename(b / file)
        digests.append(load_images(name, tmp_path, allow_unverified=True).digest())
    assert digests[0] == digests[1]


@allowing
def test_legacy_processed_folder_is_not_read_in_place_of_the_files(tmp_path):
    _, (_, labels) = write("mnist", tmp_path)
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3)), processed / name)
    data = load_images("mnist", tmp_path, allow_unverified=True)
    assert data.test.labels.tolist() == labels.tolist()


@allowing
def test_eurosat_with_a_missing_class_folder_is_refused(tmp_path):
    write("eurosat/cnn_s", tmp_path)
    shutil.rmtree(tmp_path / "eurosat" / "2750" / "Class3")  # the classes after it would shift
    with pytest.raises(UnreadableImagesError, match="9 of 10 class folders"):
        load_images("eurosat/cnn_s", tmp_path, allow_unverified=True)


def zip_eurosat(root, sizes=(30, 10, 10)):
    """The source of a small EuroSAT, with its archive beside it."""
    archive = root / "eurosat" / "EuroSAT.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted((root / "eurosat").rglob("*.jpg")):
            opened.write(path, path.relative_to(archive.parent))
    source, md5 = IMAGE_SOURCES["eurosat/cnn_s"], hashlib.md5(archive.read_bytes()).hexdigest()
    files = replace(source.files, archive=("eurosat/EuroSAT.zip", md5))
    return replace(source, files=files, sizes=sizes)


@pytest.mark.filterwarnings("error")
def test_image_folders_are_verified_by_the_archive_beside_them(tmp_path):
    write("eurosat/cnn_s", tmp_path)
    source = zip_eurosat(tmp_path)
    assert load_images(source, tmp_path).verified
    other = replace(source, files=replace(source.files, archive=("eurosat/EuroSAT.zip", "0" * 32)))
    assert not load_images(other, tmp_path).verified
    image = tmp_path / "eurosat" / "2750" / "Class4" / "Class4_2.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(image)
    with pytest.raises(UnverifiedImagesError, match=r"Class4_2.jpg and 0 more differ"):
        load_images(source, tmp_path)
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UnreadableImagesError, match=r"Class4_2.jpg is truncated or damaged"):
        load_images(other, tmp_path)


# --------------------------------------------------------------------------- Tiny-ImageNet


@pytest.fixture(scope="module")
def tiny_imagenet_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    with zipfile.ZipFile(DATA / "samples" / "tiny-imagenet-200-sample.zip") as sample:
        sample.extractall(root)
    return root


@needs_shared
def test_incomplete_tiny_imagenet_is_refused_with_numbers(tiny_imagenet_folder):
    """The sample has 10 x 120 training and 10 x 50 validation images."""
    with pytest.raises(UnverifiedImagesError) as refused:
        load_images("tiny_imagenet/resnet18", tiny_imagenet_folder)
    assert "98,800 of 100,000 training images are missing" in str(refused.value)
    assert "9,500 of 10,000 test images are missing" in str(refused.value)
    assert "--allow-unverified" in refused.value.hint


@needs_shared
def test_incomplete_tiny_imagenet_is_allowed(tiny_imagenet_folder):
    root = tiny_imagenet_folder / "tiny-imagenet-200"
    with pytest.warns(UserWarning, match="98,800 of 100,000"):
        data = load_images(
            "tiny_imagenet/resnet18", tiny_imagenet_folder, allow_unverified=True, progress=False
        )
    assert data.validation is None
    assert not data.verified
    assert data.classes == 200
    folder = torchvision.datasets.ImageFolder(root / "train", T.Compose(PIPELINES[data.name]))
    wnids = sorted((root / "wnids.txt").read_text().split())
    assert folder.classes == wnids[:10]  # the sample has the first ten
    assert data.train.labels.tolist() == folder.targets
    ours = data.normalized("train")
    assert all(torch.equal(ours[i], folder[i][0]) for i in range(0, 1200, 7))
    greys = [i for i, (path, _) in enumerate(folder.samples) if Image.open(path).mode == "L"]
    assert greys
    assert all(torch.equal(ours[i], folder[i][0]) for i in greys)

    rows = [r.split("\t") for r in (root / "val/val_annotations.txt").read_text().splitlines()]
    rows = [(name, wnid) for name, wnid, *_ in rows if (root / "val/images" / name).exists()]
    assert data.test.labels.tolist() == [wnids.index(wnid) for _, wnid in rows]
    for i in range(0, len(rows), 31):
        image = Image.open(root / "val/images" / rows[i][0]).convert("RGB")
        assert (data.test.pixels[i].permute(1, 2, 0).numpy() == np.asarray(image)).all()


@needs_shared
@pytest.mark.filterwarnings("error")
def test_tiny_imagenet_is_verified_by_its_archive(tiny_imagenet_folder, tmp_path):
    archive = DATA / "samples" / "tiny-imagenet-200-sample.zip"
    (tmp_path / "tiny-imagenet-200").symlink_to(tiny_imagenet_folder / "tiny-imagenet-200")
    shutil.copy(archive, tmp_path / "tiny-imagenet-200.zip")
    source = IMAGE_SOURCES["tiny_imagenet/resnet18"]
    # the MD5 of the sample in the data sheet
    files = replace(
        source.files, archive=("tiny-imagenet-200.zip", "f593ab9c2889e7b37ef1ad23559a3a0f")
    )
    data = load_images(replace(source, files=files, sizes=(1_200, None, 500)), tmp_path)
    assert data.verified


# ---------------------------------------------------------------------------------- digits


def test_digits():
    from sklearn.datasets import load_digits

    data = load_images("digits")
    assert data.verified
    assert data.classes == 10
    digits = load_digits()
    # 17 grey values at equal distance: 0, 15.9, 31.9, ... 255; the middle one (127.5) to 128
    grey = np.array([round(255 / 16 * v) for v in range(17)], np.uint8)
    assert grey[8] == 128
    assert grey[16] == 255
    expected = through_torchvision("digits", grey[digits.images.astype(int)])
    train, validation = random_split(1_437, 1_200, 237)
    parts = {"train": train, "validation": validation, "test": list(range(1_437, 1_797))}
    for split, part in parts.items():
        assert torch.equal(data.normalized(split), expected[part])
        assert getattr(data, split).labels.tolist() == digits.target[part].tolist()


# --------------------------------------------------------------- missing files and download


@pytest.mark.parametrize("name", sorted(set(IMAGE_SOURCES) - {"digits"}))
def test_missing_files_are_one_sentence(name, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_images(name, tmp_path)
    sentence = str(missing.value)
    assert isinstance(missing.value, ImageFilesError)
    files = IMAGE_SOURCES[name].files
    for file, _ in files.train + (files.test or ()):
        assert file in sentence
    for word in (str(tmp_path), "images_dir", "MODEL_ZOOS_IMAGES", files.title):
        assert word in sentence
    for word in ("--download", "--images-dir"):
        assert word in missing.value.hint
    assert "images_dir" not in missing.value.hint
    assert "--" not in sentence
    assert "names another" not in sentence  # that is for the hint
    assert "\n" not in sentence
    assert ". " not in sentence


def test_only_the_missing_files_are_named(tmp_path):
    write("mnist", tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingImagesError, match="complete: MNIST/raw/t10k-labels-idx1-ubyte not"):
        load_images("mnist", tmp_path)


@allowing
def test_images_folder_argument_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_ZOOS_IMAGES", raising=False)
    with pytest.raises(MissingImagesError, match=r"not found in images \(images_dir="):
        load_images("mnist")
    (tmp_path / "elsewhere").mkdir()
    write("mnist", tmp_path / "elsewhere")
    monkeypatch.setenv("MODEL_ZOOS_IMAGES", "elsewhere")
    assert len(load_images("mnist", allow_unverified=True).test) == 12
    with pytest.raises(MissingImagesError, match=r"not found in nowhere \(images_dir="):
        load_images("mnist", "nowhere", allow_unverified=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; gives its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", folder
        served.shutdown()


@pytest.mark.filterwarnings("error")
def test_download_fetches_what_is_missing_and_only_that(tmp_path, server):
    address, served = server
    write("eurosat/cnn_s", served)
    source = zip_eurosat(served)
    md5 = source.files.archive[1]

    def fetch(datasets, folder):
        datasets.utils.download_and_extract_archive(
            f"{address}/eurosat/EuroSAT.zip", folder / "eurosat", md5=md5
        )

    root = tmp_path / "fresh" / "images"
    source = replace(source, files=replace(source.files, fetch=fetch))
    with pytest.raises(MissingImagesError):
        load_images(source, root)
    data = load_images(source, root, download=True)
    assert data.verified
    assert len(data.train) == 30
    (served / "eurosat" / "EuroSAT.zip").unlink()
    assert load_images(source, root, download=True).digest() == data.digest()
    with pytest.raises(MissingImagesError, match=r"EuroSAT images could not be downloaded.*404"):
        load_images(source, tmp_path / "other", download=True)


# ------------------------------------------------------------------------------- in memory


def made(n=6, channels=1, size=4, seed=0, mean=0.5, std=0.25):
    generator = torch.Generator().manual_seed(seed)

    def images(n):
        shape = (n, channels, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.randint(0, 10, (n,), generator=generator))

    parts = images(n), images(n), images(n)
    return ImageData("made", *parts, mean=(mean,) * channels, std=(std,) * channels)


@given(
    channels=st.sampled_from([1, 3]),
    mean=st.floats(-1, 1),
    std=st.floats(0.01, 2),
    seed=st.integers(0, 2**31),
)
def test_normalized_equals_torchvision_to_the_bit(channels, mean, std, seed):
    data = made(5, channels, 7, seed, mean, std)
    normalize = T.Normalize((mean,) * channels, (std,) * channels)
    for split in ("train", "validation", "test"):
        images = getattr(data, split).pixels.permute(0, 2, 3, 1).numpy()
        expected = torch.stack([normalize(T.functional.to_tensor(image)) for image in images])
        assert data.normalized(split).dtype == torch.float32
        assert torch.equal(data.normalized(split), expected)


def test_every_pixel_value_is_normalized_as_by_torchvision():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    images = Images(pixels, torch.zeros(1, dtype=torch.int64))
    for name, pipeline in PIPELINES.items():
        source = IMAGE_SOURCES[name]
        c = source.shape[0]
        one = Images(images.pixels[:, :c], images.labels)
        data = ImageData(name, one, None, one, source.mean, source.std)
        array = pixels[0, :c].permute(1, 2, 0).numpy()
        expected = T.Compose(pipeline[-2:])(array)
        assert torch.equal(data.normalized("test")[0], expected), name
        assert pixels.flatten()[255] == 255  # the pixels stay as they are


def test_digest_is_of_pixels_labels_mean_and_std():
    """By hand, since digests are stored in zoos and must stay."""
    pixels, labels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([1, 0])
    data = ImageData(
        "a", Images(pixels, labels), None, Images(pixels[:1], labels[:1]), mean=(0.5,), std=(0.25,)
    )
    text = b"0x1.0000000000000p-1\n0x1.0000000000000p-2\n"
    text += b"train (2, 1, 2, 2)\n" + bytes(range(8)) + struct.pack("<qq", 1, 0)
    text += b"test (1, 1, 2, 2)\n" + bytes(range(4)) + struct.pack("<q", 1)
    assert data.digest() == hashlib.sha256(text).hexdigest()
    assert replace(data, name="b", verified=True).digest() == data.digest()


@given(
    split=st.sampled_from(["train", "validation", "test"]),
    where=st.integers(0, 6 * 16 - 1),
    add=st.integers(1, 255),
)
def test_digest_changes_with_every_pixel_label_and_scale(split, where, add):
    data = made()
    images = getattr(data, split)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels.view(-1)[where] += add
    labels[where % 6] = (labels[where % 6] + 1 + add % 9) % 10
    others = [
        replace(data, **{split: Images(pixels, images.labels)}),
        replace(data, **{split: Images(images.pixels, labels)}),
        replace(data, mean=(0.5 + add,)),
        replace(data, std=(0.25 + add,)),
        replace(data, validation=None),
    ]
    assert len({data.digest(), made().digest()}) == 1
    assert len({data.digest(), *(other.digest() for other in others)}) == 6


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_subset_by_indices_slice_and_mask(indices):
    data = made()
    some = data.subset(train=indices, validation=slice(1, 4), test=data.test.labels > 4)
    assert some.train.labels.tolist() == [data.train.labels[i].item() for i in indices]
    assert all(
        torch.equal(some.train.pixels[k], data.train.pixels[i]) for k, i in enumerate(indices)
    )
    assert torch.equal(some.validation.pixels, data.validation.pixels[1:4])
    assert some.test.labels.tolist() == [x for x in data.test.labels.tolist() if x > 4]
    assert data.subset(train=torch.arange(6)).digest() == data.digest()


@pytest.mark.filterwarnings("ignore:Length of split")
@given(n=st.none() | st.integers(1, 60), sizes=st.lists(st.integers(1, 40), min_size=3, max_size=3))
def test_split_is_a_partition_and_random_split_at_full_size(n, sizes):
    """A set of one's own, that makes its images in memory: image i has label and pixel i."""

    n = sum(sizes) if n is None else n
    assume(n == sum(sizes) or n * min(sizes) > sum(sizes))  # every part gets images

    def read(part, paths):
        numbers = np.arange(n, dtype=np.uint8)
        return RawImages(numbers.reshape(-1, 1, 1), numbers)

    files = ImageFiles("numbers", read, train=(), test=None)
    source = ImageSource("numbers", files, 256, (1, 1, 1), tuple(sizes), (), (0.5,), (0.5,))
    if n != sum(sizes):
        with pytest.raises(UnverifiedImagesError, match="numbers"):
            load_images(source)
        with pytest.warns(UserWarning, match="numbers"):
            data = load_images(source, allow_unverified=True)
    else:
        data = load_images(source)
    parts = [getattr(data, s).labels.tolist() for s in ("train", "validation", "test")]
    assert sorted(label for part in parts for label in part) == list(range(n))
    for part, size in zip(parts, sizes, strict=True):
        assert abs(len(part) - n * size / sum(sizes)) <= 1
    assert parts == random_split(n, *map(len, parts))
    if n == sum(sizes):
        assert [len(part) for part in parts] == sizes
    assert all(data.train.pixels.flatten() == data.train.labels)


def test_wrong_arrays_are_refused():
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"float32.*not uint8"):
        Images(pixels.float(), labels)
    with pytest.raises(ValueError, match="not uint8 with 4 dimensions"):
        Images(pixels[0], labels)
    with pytest.raises(ValueError, match="not 2 whole numbers"):
        Images(pixels, labels[:1])
    with pytest.raises(ValueError, match="not 2 whole numbers"):
        Images(pixels, labels.float())
    images = Images(pixels, labels)
    with pytest.raises(ValueError, match="each of 1 channels, found 3 means and 1 stds"):
        ImageData("a", images, None, images, (0.5,) * 3, (0.5,))
    for std in ((0.0,), (-0.5,), (float("nan"),), (float("inf"),), (1e-60,), ("1",), 0.5, None):
        with pytest.raises(InvalidArgument, match="std must have a finite number above 0 for each"):
            ImageData("a", images, None, images, (0.5,), std)
    for mean in ((float("nan"),), (-float("inf"),), (1e60,), ("1",), 0.5, None):
        with pytest.raises(InvalidArgument, match="mean must have a finite number for each chan"):
            ImageData("a", images, None, images, mean, (0.5,))
    assert ImageData("a", images, None, images, np.array([-0.5]), np.array([0.5])).mean == -0.5
    with pytest.raises(ValueError, match="test images are"):
        ImageData("a", images, None, Images(pixels[..., 1:], labels), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="test labels are not all from 0 to 9: found 1"):
        ImageData("a", images, None, Images(pixels, labels + 10), (0.5,), (0.5,))
    data = ImageData("a", images, None, images, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="no split 'validation', it has train, test"):
        data.normalized("validation")
    with pytest.raises(ValueError, match="no validation images"):
        data.subset(validation=slice(1))
    with pytest.raises(InvalidArgument, match=r"a has no train images: expected at least one$"):
        data.subset(train=slice(0))
    with pytest.raises(InvalidArgument, match=r"a has no test images: expected at least one$"):
        data.subset(test=[])
    none = Images(pixels[:0], labels[:0])
    with pytest.raises(InvalidArgument, match=r"no validation images: .* one, or validation=None"):
        replace(data, validation=none)


# ----------------------------------------------------------------------------- torchvision


def test_torchvision_is_imported_late_and_works():
    """In a fresh process, where nothing has repaired the import yet."""
    code = (
        "import sys\n"
        "from model_zoos.generation.images import load_images\n"
        "from model_zoos.generation.torchvision import import_torchvision\n"
        "assert 'torchvision' not in sys.modules\n"
        "first = import_torchvision()\n"
        "import torchvision\n"
        "assert first is torchvision is import_torchvision()\n"
        "print(first.transforms.Resize(28).size, first.datasets.MNIST.__name__)\n"
    )
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(CHECKOUT)]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "28 MNIST\n"), done.stderr
