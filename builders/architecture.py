"""The architectures: their layers, the images they take, and what the package can do with them.

An `Architecture` is data. Code that treats architectures differently asks for one of its fields,
never for its name. A new architecture is one more entry of `_ALL`. A plain sequence of layers needs
no entry: its text form (layers.py) is its name.

The entries are those of the paper's code (code/model_definitions/def_net.py): CNN-s is its class
CNN, CNN-l its class CNN3, ResNet-18 is torchvision's with a 3x3 stem and no max-pool. Zoos can be
read without torch, so this module does not import it; generation/networks.py builds the modules.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ..errors import InvalidArgument
from .connections import CLASSES, IMAGES, Connection, connection_shapes
from .layers import (
    Layer,
    Sequential,
    Shape,
    format_text,
    looks_like_text,
    misplaced_layer,
    outputs_of,
    parse_text,
    text_of_list,
    weight_shapes,
)

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Layer",
    "Shape",
    "Shapes",
    "canonical_name",
    "find_architecture",
]

OPEN_CHANNELS = (1, 3)
"""Channels of the images of an architecture whose name leaves them open. A row does not say which:
the length of its weights does."""

Shapes = list[tuple[str, Shape]]
"""Named tensors with their shapes, in the order of the flat weight vector."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network, and what the rest of the package can do with it.

    Attributes:
        name: its key in specifications and rows.
        title: its name in texts for people.
        image_size: side of its square input images; None if it takes any.
        layers: the layers of a plain sequence of layers; () for any other network.
        channels, classes: of the images; None for a name that stands for networks with any.
        graph: the connections of a network without `layers`, in the order of its tensors.
        engines: names of the engines that can train it, the default first.
        scheduler: learning rate schedule of the paper's zoos; None for a constant rate.
        original_class: name of its class in the paper's code.
        file_words: words for it in the names of the paper's preprocessed files; "" if a name
            without such a word means it.
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
    channels: int | None = None
    classes: int | None = None
    graph: tuple[Connection, ...] = ()
    engines: tuple[str, ...] = ("lanes", "batched", "reference", "cuda")
    scheduler: str | None = None
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
        if bool(self.layers) == bool(self.graph):
            raise ValueError(f"architecture {self.name!r} needs either layers or a graph")
        if not self.layers:
            if self.engines != ("resnet",) or not self.file_per_state or self.keeps_epoch_0:
                raise ValueError(
                    f"architecture {self.name!r} has a graph, whose engine is resnet alone: it "
                    'needs engines=("resnet",), file_per_state=True and keeps_epoch_0=False'
                )
            return
        if self.image_size is None:
            raise ValueError(f"architecture {self.name!r} has layers, which need an image_size")
        if found := misplaced_layer(self.layers, self.image_size):
            raise ValueError(f"architecture {self.name!r}: {found[1]}")

    def shapes(self, channels: int, classes: int) -> Shapes:
        """Return names and shapes of all weights: layer by layer, weight before bias."""
        if self.graph:
            return connection_shapes(self.graph, channels, classes)
        shapes: Shapes = []
        for layer, weight in weight_shapes(self.layers, channels, self.image_size or 0, classes):
            shapes += [(f"{layer.name}.weight", weight), (f"{layer.name}.bias", weight[:1])]
        return shapes

    def outputs(self, classes: int) -> list[Shape]:
        """Return each layer's output shape before pooling: (channels, height, width) or
        (features,)."""
        return outputs_of(self.layers, self.image_size or 0, classes)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Return the layers with weights as connections of groups of units, in tensor order."""
        if self.graph:
            return self.graph
        names = [IMAGES, *(layer.name for layer in self.layers[:-1]), CLASSES]
        return tuple(
            Connection(
                layer.name,
                source,
                target,
                layer.out,
                layer.kernel,
                None,
                layer.activation,
                layer.pool,
            )
            for layer, (source, target) in zip(self.layers, pairwise(names), strict=True)
        )

    @property
    def file_name(self) -> str:
        """Return the name as part of file names: the text form with hyphens, shortened if long."""
        plain = re.sub(r"[^\w-]", ".", self.name.replace(" ", "-"))
        if plain == self.name or len(plain) <= 120:
            return plain
        return f"{plain[:100]}-{hashlib.sha256(self.name.encode()).hexdigest()[:16]}"

    def module_indices(self, dropout: bool) -> list[int]:
        """Return the index of each layer in the `module_list` of the paper's code.

        The list holds each layer, then MaxPool2d, activation and Dropout where there are any, and
        one Flatten before the first linear layer (def_net.py).
        """
        indices, position, flattened = [], 0, False
        for layer in self.layers:
            if layer.kernel is None and not flattened:
                position, flattened = position + 1, True
            indices.append(position)
            has_dropout = layer.dropout and (dropout or self.always_dropout)
            position += 1 + layer.pool + bool(layer.activation) + has_dropout + layer.gap
        return indices


def _resnet18_connections() -> tuple[Connection, ...]:
    """torchvision's ResNet(BasicBlock, [2, 2, 2, 2]) with a 3x3 stem.

    A stream takes its name from the first layer that writes to it.
    """

    def convolution(
        name: str, norm: str, source: str, target: str, out: int, kernel: int = 3
    ) -> None:
        connections.append(Connection(name, source, target, out, kernel, norm, activation="relu"))

    connections: list[Connection] = []
    convolution("conv1", "bn1", IMAGES, "conv1", 64)
    stream, before = "conv1", 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            target = stream if before == width else f"{name}.conv2"
            convolution(f"{name}.conv1", f"{name}.bn1", stream, f"{name}.conv1", width)
            convolution(f"{name}.conv2", f"{name}.bn2", f"{name}.conv1", target, width)
            if before != width:
                shortcut = f"{name}.downsample"
                convolution(f"{shortcut}.0", f"{shortcut}.1", stream, target, width, kernel=1)
            stream, before = target, width
    return (*connections, Connection("fc", stream, CLASSES))


_ALL = (
    Architecture(
        name="cnn_s",
        title="CNN-s",
        image_size=28,
        original_class="CNN",
        file_words=("small", ""),
        layers=parse_text(
            "1x28x28 conv8k5 pool drop conv6k5 pool drop conv4k2 fc20 drop fc10"
        ).layers,
    ),
    Architecture(
        name="cnn_l",
        title="CNN-l",
        image_size=32,
        original_class="CNN3",
        file_words=("large",),
        always_dropout=True,
        layers=parse_text(
            "3x32x32 conv16k3 pool drop conv32k3 pool drop conv15k3 pool drop fc20 drop fc10"
        ).layers,
        row_group_bytes=20 << 20,
    ),
    Architecture(
        name="resnet18",
        title="ResNet-18",
        image_size=None,
        original_class="Resnet18",
        graph=_resnet18_connections(),
        engines=("resnet",),
        scheduler="OneCycleLR",
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
    """Return the architecture of this name, or the one that a text describes (layers.py).

    Raises:
        ValueError: unknown name, or a text that does not describe a usable architecture.
    """
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if not isinstance(name, str) or not looks_like_text(name):
        raise InvalidArgument(
            f"unknown architecture {name!r:.100}; known: {', '.join(ARCHITECTURES)}, or a text "
            "such as '1x28x28 conv16k3s2 gap fc10'"
        )
    return _of_layers(parse_text(name))


def canonical_name(architecture: str | Architecture | Sequence[object]) -> str:
    """Return the one name under which zoos and rows hold an architecture.

    Args:
        architecture: a name, a text, or a list of layers (layers.text_of_list).

    Returns:
        The key in `ARCHITECTURES` if these layers have one, else the canonical text.

    Raises:
        ValueError: see `find_architecture`; also a list whose elements are no layers.
    """
    if isinstance(architecture, Architecture):
        return architecture.name
    return find_architecture(_text_of(architecture)).name


def image_facts(architecture: str | Architecture | Sequence[object]) -> dict[str, int | None]:
    """Return the channels and classes that an architecture fixes, None for each it leaves open.

    A text fixes both, even one with the layers of CNN-s, whose name leaves both open.

    Args:
        architecture: a name, a text or a list of layers; see `canonical_name`.

    Raises:
        ValueError: see `find_architecture`.
    """
    text = _text_of(architecture)
    found = find_architecture(text)
    said = found if text in ARCHITECTURES else parse_text(text)
    return {"channels": said.channels, "classes": said.classes}


def check_image_facts(
    architecture: str | Architecture | Sequence[object], channels: int, classes: int
) -> None:
    """Refuse channels or classes that an architecture contradicts.

    Raises:
        ValueError: it is for other channels or classes, or leaves the channels open and they are
            not among `OPEN_CHANNELS`; also everything that `find_architecture` raises.
    """
    found = {"channels": channels, "classes": classes}
    facts = image_facts(architecture)
    for what, said in facts.items():
        if said not in (None, found[what]):
            raise InvalidArgument(
                f"the network {_text_of(architecture):.200} has {said} {what}, not {found[what]}"
            )
    if facts["channels"] is None and channels not in OPEN_CHANNELS:
        raise InvalidArgument(
            f"{_text_of(architecture)} is for images of 1 or 3 channels, not {channels}: write the "
            f"network as a text that begins with {channels}x, such as '{channels}x28x28 fc64 fc10'"
        )


def _text_of(architecture: str | Architecture | Sequence[object]) -> str:
    """Return the name or the text of an architecture as given, without looking it up."""
    if isinstance(architecture, str | Architecture):
        return str(architecture)
    if not isinstance(architecture, Sequence) or isinstance(architecture, bytes):
        raise InvalidArgument(
            "an architecture is a name, a text or a list of layers, found "
            f"{type(architecture).__name__}"
        )
    return text_of_list(architecture)


@lru_cache(maxsize=256)
def _of_layers(found: Sequential) -> Architecture:
    for known in _ALL:
        if known.layers and known.image_size and found.channels in OPEN_CHANNELS:
            shape = (found.channels, known.image_size, found.classes)
            if found.text == format_text(known.layers, *shape):
                return known
    return Architecture(
        name=found.text,
        title=found.text,
        image_size=found.side,
        layers=found.layers,
        channels=found.channels,
        classes=found.classes,
    )
