"""The architectures: their layers, the images they see, and what can be done with them.

An `Architecture` is data. Code that treats architectures differently asks for one of its fields,
never for its name. A further sequence of such layers is one more entry of `ARCHITECTURES`.

The entries are those of the paper's code (code/model_definitions/def_net.py): CNN-s is its class
CNN, CNN-l its class CNN3, ResNet-18 is torchvision's with a 3x3 stem and no max-pool. Zoos can be
read without torch, so this module does not import it; generation/networks.py builds the modules.
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
    """One trainable layer with what follows it: [max-pool 2], [activation], [dropout].

    Attributes:
        name: of its tensors, as in "conv1.weight".
        out: number of its output channels or features. The last layer has one for each class
            instead.
        kernel: side of a convolution's square kernel (stride 1, no padding). None for a linear
            layer, whose input is flattened in the order channel, row, column.
        pool, activation, dropout: whether it is followed by these.
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
        name: its key in specifications and rows.
        title: its name in texts for people.
        image_size: side of its square input images; None if it takes any.
        layers: the layers of a plain sequence of layers; () for any other network.
        tensors: function from the numbers of channels and classes to the named tensors of a network
            without `layers`.
        engines: names of the engines that can train it, the default first.
        schedulers: learning rate schedules that its models can have; None is a constant rate.
        original_class: name of its class in the paper's code.
        file_words: words for it in the names of the paper's preprocessed files; "" where a name
            without a word means it.
        always_dropout: whether that class holds Dropout modules even at rate 0, which shifts the
            indices in its state_dict.
        keeps_epoch_0: whether its zoos hold the untrained models.
        file_per_state: whether each state has a file of its own, instead of one file a model. Such
            models are also published one by one.
        row_group_bytes: limit of the weights in one row group of a Parquet file, which holds at
            least one model file.
        shard_bytes: limit of the weights (those that are not pruned) in one Parquet file.

    Raises:
        ValueError: the fields contradict each other, or the images are too small for the layers.
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

    def __post_init__(self) -> None:
        if bool(self.layers) == (self.tensors is not None):
            raise ValueError(f"architecture {self.name!r} needs either layers or tensors")
        if not self.layers:
            return
        if self.image_size is None:
            raise ValueError(f"architecture {self.name!r} has layers, which need an image_size")
        kernels = [layer.kernel is not None for layer in self.layers]
        if kernels != sorted(kernels, reverse=True) or kernels[-1]:
            raise ValueError(
                f"architecture {self.name!r}: convolutions come first, and the last layer is linear"
            )
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise ValueError(f"architecture {self.name!r} has two layers of one name")
        for layer, shape in zip(self.layers, self.outputs(classes=1), strict=True):
            if shape[-1] < 1 + (layer.kernel is not None and layer.pool):
                raise ValueError(
                    f"architecture {self.name!r}: images of {self.image_size} x {self.image_size} "
                    f"pixels are too small for {layer.name}"
                )

    def shapes(self, channels: int, classes: int) -> Shapes:
        """Names and shapes of all weights: layer by layer, weight before bias."""
        if self.tensors is not None:
            return self.tensors(channels, classes)
        shapes: Shapes = []
        side = self.image_size or 0
        features: Shape = (channels, side, side)
        for layer, out in zip(self.layers, self.outputs(classes), strict=True):
            if layer.kernel is not None:
                weight: Shape = (out[0], features[0], layer.kernel, layer.kernel)
            else:
                weight = (out[0], math.prod(features))
            features = (out[0], *(size // 2 if layer.pool else size for size in out[1:]))
            shapes += [(f"{layer.name}.weight", weight), (f"{layer.name}.bias", (out[0],))]
        return shapes

    def outputs(self, classes: int) -> list[Shape]:
        """Shape of each layer's output before pooling: (channels, height, width) or (features,)."""
        shapes: list[Shape] = []
        side = self.image_size or 0
        for layer in self.layers:
            if layer.kernel is None:
                shapes.append((classes if layer is self.layers[-1] else layer.out,))
                continue
            side -= layer.kernel - 1
            shapes.append((layer.out, side, side))
            side //= 1 + layer.pool
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
    """Return the architecture of this name.

    Raises:
        ValueError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
