"""The table of image data sets: files, transforms, split and normalisation of each.

A new set is one more `ImageSource` in the table, with a reader (readers.py) if its file format is
new. Transforms and splits are those of the scripts of the paper's code. MD5 sums are those listed
in torchvision 0.28; for MNIST and Fashion-MNIST they belong to the files unpacked from its
archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import readers
from .data import ImageFiles, ImageSource

_CIFAR10 = ImageFiles(
    title="CIFAR-10",
    read=readers.read_cifar,
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

_STL10 = ImageFiles(
    title="STL-10",
    read=readers.read_stl10,
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

_RESIZE_28, _RESIZE_32 = (("Resize", (28, 28)),), (("Resize", (32, 32)),)
_MNIST_SCALE = (0.1307,), (0.3081,)
_GREY = (0.5,), (0.5,)
_RGB = (0.5,) * 3, (0.5,) * 3
_CROP_AND_FLIP = ("random_crop_32_4", "horizontal_flip")

_MNIST_SPLIT, _WHOLE = (50_000, 10_000, 10_000), (60_000, None, 10_000)

_MNIST = ImageFiles(
    title="MNIST",
    read=readers.read_mnist,
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
    read=readers.read_mnist,
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
    read=readers.read_svhn,
    train=(("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),),
    test=(("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),),
    folders=("SVHN", "."),
    fetch=lambda datasets, folder: [
        datasets.SVHN(folder, split=part, download=True) for part in ("train", "test")
    ],
)

_SOURCES = (
    ImageSource("mnist", _MNIST, 10, (1, 28, 28), _MNIST_SPLIT, (), *_MNIST_SCALE),
    ImageSource("fashion_mnist", _FASHION, 10, (1, 28, 28), _MNIST_SPLIT, (), *_GREY),
    # As for the Small CNN Zoo: all training images, in an order that is not known.
    ImageSource("mnist/grey", _MNIST, 10, (1, 28, 28), _WHOLE, (), *_GREY),
    ImageSource("fashion_mnist/grey", _FASHION, 10, (1, 28, 28), _WHOLE, (), *_GREY),
    ImageSource(
        "cifar10/grey", _CIFAR10, 10, (3, 32, 32), (50_000, None, 10_000), (), *_RGB, grey=True
    ),
    ImageSource("svhn/grey", _SVHN, 10, (3, 32, 32), (73_257, None, 26_032), (), *_RGB, grey=True),
    # The hyperparameter scripts name other transforms for SVHN, in a branch that never ran.
    ImageSource(
        "svhn",
        _SVHN,
        10,
        (1, 28, 28),
        (60_000, 13_257, 26_032),
        (("Grayscale", 1), ("CenterCrop", 28)),
        *_GREY,
    ),
    ImageSource(
        "usps",
        ImageFiles(
            title="USPS",
            read=readers.read_usps,
            train=(("usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"),),
            test=(("usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118"),),
            folders=("USPS", "."),
            fetch=lambda datasets, folder: [
                datasets.USPS(folder, train=train, download=True) for train in (True, False)
            ],
        ),
        10,
        (1, 28, 28),
        (6_000, 1_291, 2_007),
        _RESIZE_28,
        *_MNIST_SCALE,
    ),
    ImageSource(
        "cifar10/cnn_s", _CIFAR10, 10, (3, 28, 28), (42_000, 8_000, 10_000), _RESIZE_28, *_RGB
    ),
    ImageSource("cifar10/cnn_l", _CIFAR10, 10, (3, 32, 32), (42_000, 8_000, 10_000), (), *_RGB),
    ImageSource(
        "cifar10/resnet18",
        _CIFAR10,
        10,
        (3, 32, 32),
        (40_000, 10_000, 10_000),
        transform=(),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        augmentation=_CROP_AND_FLIP,
    ),
    ImageSource("stl10/cnn_s", _STL10, 10, (3, 28, 28), (4_200, 800, 8_000), _RESIZE_28, *_RGB),
    ImageSource("stl10/cnn_l", _STL10, 10, (3, 32, 32), (4_200, 800, 8_000), _RESIZE_32, *_RGB),
    ImageSource(
        "cifar100/resnet18",
        ImageFiles(
            title="CIFAR-100",
            read=readers.read_cifar,
            train=(("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),),
            test=(("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            fetch=lambda datasets, folder: datasets.CIFAR100(folder, download=True),
        ),
        100,
        (3, 32, 32),
        (40_000, 10_000, 10_000),
        transform=(),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        augmentation=_CROP_AND_FLIP,
    ),
    ImageSource(
        "tiny_imagenet/resnet18",
        ImageFiles(
            title="Tiny-ImageNet",
            read=readers.read_tiny_imagenet,
            train=(("tiny-imagenet-200/wnids.txt", None), ("tiny-imagenet-200/train/", None)),
            test=(
                ("tiny-imagenet-200/wnids.txt", None),
                ("tiny-imagenet-200/val/val_annotations.txt", None),
            ),
            archive=("tiny-imagenet-200.zip", _TINY_IMAGENET_MD5),
            fetch=lambda datasets, folder: datasets.utils.download_and_extract_archive(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip", folder, md5=_TINY_IMAGENET_MD5
            ),
        ),
        200,
        (3, 64, 64),
        (100_000, None, 10_000),
        transform=(),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=("horizontal_flip", "random_rotation_20"),
    ),
    # The transforms and the split of EuroSAT are our choice: the paper's code has neither.
    ImageSource(
        "eurosat/cnn_s",
        ImageFiles(
            title="EuroSAT",
            read=readers.read_eurosat,
            train=(("eurosat/2750/", None),),
            test=None,
            archive=("eurosat/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387"),
            fetch=lambda datasets, folder: datasets.EuroSAT(folder, download=True),
        ),
        10,
        (3, 28, 28),
        (16_200, 5_400, 5_400),
        _RESIZE_28,
        *_RGB,
    ),
    # Not in the paper: small, and part of scikit-learn.
    ImageSource(
        "digits",
        ImageFiles(title="digits", read=readers.read_digits, train=(), test=()),
        10,
        (1, 28, 28),
        (1_200, 237, 360),
        _RESIZE_28,
        *_GREY,
    ),
)

IMAGE_SOURCES: Mapping[str, ImageSource] = MappingProxyType({s.name: s for s in _SOURCES})
"""The image data sets by name."""
