"""The architectures: their layers, the images they see, and what can be done with them.

An `Architecture` is data. Code that treats architectures differently asks for one of its fields,
never for its name; a new architecture of the layers below is one more entry of `ARCHITECTURES`.

The three of the paper are those of its code (code/model_definitions/def_net.py): CNN-s is its class
CNN, CNN-l its class CNN3, ResNet-18 is torchvision's with a 3x3 stem and no max-pool. This module
imports no torch, so that a zoo can be read without it; generation/networks.py builds the modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Shape = tuple[int, ...]
Shapes = list[tuple[str, Shape]]
"""Named tensors with their shapes, in the order of the flat weight vector."""


@dataclass(frozen=True)
class Layer:
    """One trainable layer of a CNN with what follows it: [max-pool 2], [activation], [dropout].

    `kernel` is the side of a convolution's square kernel (stride 1, no padding), None for a linear
    layer, which sees its input flattened in the order channel, row, column.
    """

    name: str
    out: int
    kernel: int | None = None
    pool: bool = False
    activation: bool = True
    dropout: bool = False


@dataclass(frozen=True)
class Architecture:
    """A kind of network, and what the rest of the package can do with it.

    Attributes:
        name: as in a zoo's specification and in the rows.
        title: for people.
        image_size: side of its square images; None for any.
        layers: of a network that is a plain sequence of layers; () for any other.
        tensors: shapes of the tensors of a network without `layers`, from the number of channels
            and of classes.
        engines: names of the engines that train it, the default first.
        schedulers: learning rate schedules that its models can have; None is a constant rate.
        original_class: name of its class in the paper's code.
        file_words: words for it in the names of the paper's preprocessed files; "" where a name
            without a word means it.
        always_dropout: that class holds Dropout modules even at rate 0, which shifts the indices in
            its state_dict.
        keeps_epoch_0: its zoos hold the untrained models.
        file_per_state: each state of a model has a file of its own, in place of one for all of
            them. Such models are also published one by one.
        row_group_bytes: weights in a row group of a Parquet file, at most, but always one model
            file.
        shard_bytes: weights that are not pruned in a Parquet file, at most.
    """

    name: str
    title: str
    image_size: int | None
    layers: tuple[Layer, ...] = ()
    tensors: Callable[[int, int], Shapes] | None = None
    engines: tuple[str, ...] = ("lanes", "batched", "reference")
    schedulers: tuple[str | None, ...] = (None,)
    original_class: str | None = None
    file_words: tuple[str, ...] = ()
    always_dropout: bool = False
    keeps_epoch_0: bool = True
    file_per_state: bool = False
    row_group_bytes: int = 10 << 20
    shard_bytes: int = 300_000_000

    def __str__(self) -> str:
        return self.name

    def shapes(self, channels: int, classes: int) -> Shapes:
        """Names and shapes of all weights: layer by layer, weight before bias."""
        if self.tensors is not None:
            return self.tensors(channels, classes)
        shapes: Shapes = []
        features: Shape = (channels,)
        for layer, out in zip(self.layers, self.outputs(channels, classes), strict=True):
            if layer.kernel is not None:
                weight: Shape = (out[0], features[0], layer.kernel, layer.kernel)
                sides = out[1:]
                features = (out[0], *(side // 2 if layer.pool else side for side in sides))
            else:
                weight, features = (out[0], math.prod(features)), (out[0],)
            shapes += [(f"{layer.name}.weight", weight), (f"{layer.name}.bias", (out[0],))]
        return shapes

    def outputs(self, channels: int, classes: int) -> list[Shape]:
        """Shape after each convolution (c, h, w), before pooling, or linear layer (features,)."""
        shapes: list[Shape] = []
        side = self.image_size or 0
        for layer in self.layers:
            if layer.kernel is None:
                shapes.append((layer.out if layer is not self.layers[-1] else classes,))
                continue
            side -= layer.kernel - 1
            shapes.append((layer.out, side, side))
            if layer.pool:
                side //= 2
        return shapes

    def module_indices(self, dropout: bool) -> list[int]:
        """Index of each layer in the `module_list` of the paper's code.

        The list holds each layer, then MaxPool2d, activation and Dropout where there are any, and
        one Flatten before the first linear layer (def_net.py).
        """
        indices, position, flattened = [], 0, False
        for layer in self.layers:
            if layer.kernel is None and not flattened:
                position, flattened = position + 1, True
            indices.append(position)
            has_dropout = layer.dropout and (dropout or self.always_dropout)
            position += 1 + layer.pool + layer.activation + has_dropout
        return indices


def _resnet18_shapes(channels: int, classes: int) -> Shapes:
    """Float tensors of torchvision's ResNet(BasicBlock, [2, 2, 2, 2]) with a 3x3 stem."""

    def batch_norm(name: str, width: int) -> Shapes:
        keys = ("weight", "bias", "running_mean", "running_var")
        return [(f"{name}.{key}", (width,)) for key in keys]

    shapes: Shapes = [("conv1.weight", (64, channels, 3, 3)), *batch_norm("bn1", 64)]
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            shapes.append((f"{name}.conv1.weight", (width, before, 3, 3)))
            shapes += batch_norm(f"{name}.bn1", width)
            shapes.append((f"{name}.conv2.weight", (width, width, 3, 3)))
            shapes += batch_norm(f"{name}.bn2", width)
            if before != width:
                shapes.append((f"{name}.downsample.0.weight", (width, before, 1, 1)))
                shapes += batch_norm(f"{name}.downsample.1", width)
            before = width
    return [*shapes, ("fc.weight", (classes, 512)), ("fc.bias", (classes,))]


_ALL = (
    Architecture(
        name="cnn_s",
        title="CNN-s",
        image_size=28,
        original_class="CNN",
        file_words=("small", ""),
        layers=(
            Layer("conv1", 8, kernel=5, pool=True, dropout=True),
            Layer("conv2", 6, kernel=5, pool=True, dropout=True),
            Layer("conv3", 4, kernel=2),
            Layer("fc1", 20, dropout=True),
            Layer("fc2", 10, activation=False),
        ),
    ),
    Architecture(
        name="cnn_l",
        title="CNN-l",
        image_size=32,
        original_class="CNN3",
        file_words=("large",),
        always_dropout=True,
        layers=(
            Layer("conv1", 16, kernel=3, pool=True, dropout=True),
            Layer("conv2", 32, kernel=3, pool=True, dropout=True),
            Layer("conv3", 15, kernel=3, pool=True, dropout=True),
            Layer("fc1", 20, dropout=True),
            Layer("fc2", 10, activation=False),
        ),
        row_group_bytes=20 << 20,
    ),
    Architecture(
        name="resnet18",
        title="ResNet-18",
        image_size=None,
        original_class="Resnet18",
        tensors=_resnet18_shapes,
        engines=("resnet",),
        schedulers=("OneCycleLR",),
        keeps_epoch_0=False,
        file_per_state=True,
        row_group_bytes=1,  # one state, 45 MB
        # Ten states, so that the 60,000 of a zoo stay below the Hub's 10,000 files in a folder.
        shard_bytes=450_000_000,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
"""Every architecture by name."""


def find_architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises:
        ValueError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
