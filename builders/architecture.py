"""The architectures: their layers, the images they see, and what can be done with them.

The architectures are those of the paper's code (code/model_definitions/def_net.py): CNN-s is its
class CNN, CNN-l its class CNN3, ResNet-18 is torchvision's with a 3x3 stem and no max-pool. This
module only describes them, so that reading a zoo needs no torch; generation/networks.py builds
torch modules from it.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """A kind of network: its layers (none for ResNet-18), and the images it sees.

    `image_size`: side of its square images, None for any.

    `always_dropout`: the original's class holds Dropout modules even at rate 0, which shifts the
    indices in its state_dict.
    """

    name: str
    title: str
    image_size: int | None
    layers: tuple[Layer, ...] = ()
    always_dropout: bool = False


CNN_S = Architecture(
    name="cnn_s",
    title="CNN-s",
    image_size=28,
    layers=(
        Layer("conv1", 8, kernel=5, pool=True, dropout=True),
        Layer("conv2", 6, kernel=5, pool=True, dropout=True),
        Layer("conv3", 4, kernel=2),
        Layer("fc1", 20, dropout=True),
        Layer("fc2", 10, activation=False),
    ),
)

CNN_L = Architecture(
    name="cnn_l",
    title="CNN-l",
    image_size=32,
    always_dropout=True,
    layers=(
        Layer("conv1", 16, kernel=3, pool=True, dropout=True),
        Layer("conv2", 32, kernel=3, pool=True, dropout=True),
        Layer("conv3", 15, kernel=3, pool=True, dropout=True),
        Layer("fc1", 20, dropout=True),
        Layer("fc2", 10, activation=False),
    ),
)

RESNET18 = Architecture(name="resnet18", title="ResNet-18", image_size=None)

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (CNN_S, CNN_L, RESNET18)}
