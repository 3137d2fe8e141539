"""A plain sequence of layers, what it does to an image, and its compact text form.

    1x28x28 conv16k3s2 conv16k3s2 conv16k3s2 gap fc10

The text names the input (channels x rows x columns, square) and then, in forward order:

    conv16k3s2p1   convolution: 16 channels, kernel 3, stride 2 (default 1), padding 1 (default 0)
    fc10           linear layer with 10 outputs; an image is flattened as channel, row, column
    pool           max-pool 2 of the convolution before it, ahead of its activation
    drop            dropout at the model's rate, after the activation of the layer before it
    gap             global average pooling of the last convolution, after activation and dropout

Each layer but the last is followed by the model's activation (`ACTIVATIONS` in hyperparameters.py
lists them). A suffix sets a layer's own activation: `fc32:tanh`, or `fc32:identity` for none. The
last layer is linear and gives the logits. A text may come from any source, so its length, its
layers and their sizes are limited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..errors import InvalidArgument
from .hyperparameters import check_activation

Shape = tuple[int, ...]

MAX_TEXT, MAX_LAYERS, MAX_SIDE = 2000, 64, 1024
MAX_WEIGHTS, MAX_VALUES = 10**8, 10**7
"""Limit of a network's weights, and of one layer's outputs for one image, in a text."""


@dataclass(frozen=True)
class Layer:
    """One trainable layer with what follows it: [max-pool 2], [activation], [dropout], [average].

    Attributes:
        name: prefix of its tensors' names, as in "conv1.weight".
        out: number of its output channels or features. The last layer has one output for each
            class instead.
        kernel: side of a convolution's square kernel. None for a linear layer, whose input is
            flattened in the order channel, row, column.
        pool, dropout: whether these follow it.
        activation: True if the model's activation follows it, False for none, or the name of its
            own activation.
        stride, padding: of a convolution; zeros are padded on all four sides.
        gap: whether the average over all positions follows, which gives one number per channel.
    """

    name: str
    out: int
    kernel: int | None = None
    pool: bool = False
    activation: bool | str = True
    dropout: bool = False
    stride: int = 1
    padding: int = 0
    gap: bool = False

    def activation_of(self, model: str) -> str | None:
        """Return the activation that follows it, given the model's; None for none."""
        return model if self.activation is True else self.activation or None

    def text(self, out: int) -> str:
        """Return this layer as text with `out` outputs; the model's activation is left out."""
        suffix = "" if self.activation is True else f":{self.activation or 'identity'}"
        if self.kernel is None:
            head = f"fc{out}"
        else:
            head = f"conv{out}k{self.kernel}"
            head += f"s{self.stride}" * (self.stride > 1) + f"p{self.padding}" * (self.padding > 0)
        return head + suffix + " pool" * self.pool + " drop" * self.dropout + " gap" * self.gap


def outputs_of(layers: Sequence[Layer], side: int, classes: int) -> list[Shape]:
    """Return each layer's output shape before pooling: (channels, height, width) or (features,)."""
    shapes: list[Shape] = []
    for layer in layers:
        if layer.kernel is None:
            shapes.append((classes if layer is layers[-1] else layer.out,))
            continue
        side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        shapes.append((layer.out, side, side))
        side = pooled_side(layer, side)
    return shapes


def pooled_side(layer: Layer, side: int) -> int:
    """Return the side of a convolution's output image after its pool."""
    return side // 2 if layer.pool else side


def weight_shapes(
    layers: Sequence[Layer], channels: int, side: int, classes: int
) -> Iterator[tuple[Layer, Shape]]:
    """Yield each layer with the shape of its weight."""
    features: Shape = (channels, side, side)
    for layer, out in zip(layers, outputs_of(layers, side, classes), strict=True):
        if layer.kernel is not None:
            yield layer, (out[0], features[0], layer.kernel, layer.kernel)
        else:
            yield layer, (out[0], math.prod(features))
        features = (out[0], *(pooled_side(layer, size) for size in out[1:] if not layer.gap))


def misplaced_layer(layers: Sequence[Layer], side: int) -> tuple[int, str] | None:
    """Return the index of the first layer that is invalid at its position, and the reason.

    None if all layers are valid.
    """
    kinds = [layer.kernel is not None for layer in layers]
    names = [layer.name for layer in layers]
    size, averaged = side, False
    for number, layer in enumerate(layers):
        if layer.kernel is None:
            if layer.pool or layer.gap:
                return number, f"{'pool' if layer.pool else 'gap'} follows a convolution"
            continue
        if averaged or not all(kinds[:number]):
            before = "gap" if averaged else "linear layers"
            return number, f"a convolution cannot follow {before}: convolutions come first"
        if layer.stride < 1 or layer.padding < 0 or layer.kernel < 1:
            return number, "kernel and stride are at least 1, padding is at least 0"
        if layer.padding >= layer.kernel:
            return number, f"the padding {layer.padding} must be below the kernel {layer.kernel}"
        if size + 2 * layer.padding < layer.kernel:
            return number, (
                f"images of {side} x {side} pixels are too small for {layer.name}: its kernel of "
                f"{layer.kernel} meets {size} x {size}"
            )
        size = (size + 2 * layer.padding - layer.kernel) // layer.stride + 1
        if layer.pool and size < 2:
            return number, (
                f"images of {side} x {side} pixels are too small for {layer.name}: its pool of 2 "
                f"meets {size} x {size}"
            )
        size, averaged = pooled_side(layer, size), layer.gap
    if not layers:
        return 0, "a network needs at least one layer with weights, such as fc10"
    last = layers[-1]
    if kinds[-1]:
        return len(layers) - 1, "the last layer is linear (fc) and gives the logits"
    if last.activation or last.dropout:
        what = "dropout" if last.dropout else "activation"
        return len(layers) - 1, f"the last layer gives the logits, which have no {what}"
    if len(set(names)) < len(names):
        return 0, "there are two layers of one name"
    return None


# --- The text form --------------------------------------------------------------------------------

_INPUT = re.compile(r"(\d{1,9})x(\d{1,9})x(\d{1,9})")
_LAYER = re.compile(
    r"(?:conv(?P<conv>\d{1,9})k(?P<kernel>\d{1,9})(?:s(?P<stride>\d{1,9}))?"
    r"(?:p(?P<padding>\d{1,9}))?|fc(?P<fc>\d{1,9}))(?::(?P<activation>\w{1,40}))?",
    re.ASCII,
)
_FORMS = "conv<channels>k<kernel>[s<stride>][p<padding>], fc<outputs>, pool, drop or gap"


@dataclass(frozen=True)
class Sequential:
    """What a text describes: layers, and the images and classes that they are for."""

    channels: int
    side: int
    classes: int
    layers: tuple[Layer, ...]

    @property
    def text(self) -> str:
        """The canonical text form."""
        return format_text(self.layers, self.channels, self.side, self.classes)


def format_text(layers: Sequence[Layer], channels: int, side: int, classes: int) -> str:
    """Return layers in the canonical text form."""
    *hidden, last = layers
    parts = [layer.text(layer.out) for layer in hidden]
    return " ".join(
        [f"{channels}x{side}x{side}", *parts, replace(last, activation=True).text(classes)]
    )


def looks_like_text(name: str) -> bool:
    """Whether a name is meant as the text form: it has several words, or starts with an input."""
    return " " in name.strip() or re.match(r"\d+x", name) is not None


@lru_cache(maxsize=1024)
def parse_text(text: str) -> Sequential:
    """Read the text form.

    Raises:
        InvalidArgument: it cannot be read, its layers do not fit the images, or it is too large.
            The message names the place.
    """
    if len(text) > MAX_TEXT:
        raise InvalidArgument(
            f"network {text[:40]!r}...: at most {MAX_TEXT:,} characters, found {len(text):,}"
        )
    words = [(match.start() + 1, match[0]) for match in re.finditer(r"\S+", text)]

    def fail(word: int, reason: str) -> InvalidArgument:
        place, found = words[word]
        return InvalidArgument(
            f"network {text!r:.200}, at character {place}, {found!r:.60}: {reason}"
        )

    if not words:
        raise InvalidArgument("network: the text is empty; for example, write '1x28x28 fc64 fc10'")
    given = _INPUT.fullmatch(words[0][1])
    if given is None:
        raise fail(0, "expected the input as <channels>x<rows>x<columns>, such as 1x28x28")
    channels, side, columns = map(int, given.groups())
    if side != columns:
        raise fail(0, f"images must be square, found {side} x {columns}")
    if not (1 <= channels <= MAX_SIDE and 1 <= side <= MAX_SIDE):
        raise fail(0, f"channels and sides lie in 1 to {MAX_SIDE:,}")
    layers: list[Layer] = []
    words_of_layers: list[int] = []
    for number, (_, word) in enumerate(words[1:], start=1):
        try:
            if word in _AFTER_A_LAYER:
                layers[-1:] = [_followed(word, layers[-1] if layers else None)]
                continue
            layers.append(_parse_layer(word, layers))
        except InvalidArgument as error:
            raise fail(number, str(error)) from None
        words_of_layers.append(number)
        if len(layers) > MAX_LAYERS:
            raise fail(number, f"at most {MAX_LAYERS} layers with weights")
    if layers and layers[-1].activation is True:
        layers[-1] = replace(layers[-1], activation=False)
    if found := misplaced_layer(layers, side):
        raise fail(words_of_layers[found[0]] if layers else len(words) - 1, found[1])
    classes, total, features = layers[-1].out, 0, 0
    for (layer, weight), out, place in zip(
        weight_shapes(layers, channels, side, classes),
        outputs_of(layers, side, classes),
        words_of_layers,
        strict=True,
    ):
        total += math.prod(weight) + layer.out
        features = max(features, math.prod(out))
        if total > MAX_WEIGHTS:
            raise fail(place, f"up to here the network has more than {MAX_WEIGHTS:,} weights")
        if features > MAX_VALUES:
            raise fail(place, f"the layer has more than {MAX_VALUES:,} outputs for one image")
    return Sequential(channels, side, classes, tuple(layers))


_AFTER_A_LAYER = {"pool": "pool", "drop": "dropout", "gap": "gap"}
"""The words that change the layer before them, and the field of `Layer` that each one sets."""


def _followed(word: str, before: Layer | None) -> Layer:
    """Return the layer before a word of `_AFTER_A_LAYER` as the word changes it.

    Raises:
        InvalidArgument: the word cannot follow it.
    """
    if before is None:
        raise InvalidArgument(f"{word} follows a layer with weights")
    if (word != "gap" and before.gap) or (word == "pool" and before.dropout):
        raise InvalidArgument("after a layer the order is pool, drop, gap")
    if getattr(before, _AFTER_A_LAYER[word]):
        raise InvalidArgument(f"a layer has at most one {word}")
    if word != "drop" and before.kernel is None:
        raise InvalidArgument(f"{word} follows a convolution")
    changed: dict[str, Any] = {_AFTER_A_LAYER[word]: True}
    return replace(before, **changed)


def _parse_layer(word: str, before: Sequence[Layer]) -> Layer:
    found = _LAYER.fullmatch(word)
    if found is None:
        raise InvalidArgument(f"expected {_FORMS}")
    activation: bool | str = found["activation"] or True
    if activation in ("identity", "none"):
        activation = False
    elif activation is not True:
        check_activation(activation)
    convolution = found["conv"] is not None
    out = int(found["conv"] or found["fc"])
    kernel, stride, padding = (
        int(found[key] or default)
        for key, default in (("kernel", 1), ("stride", 1), ("padding", 0))
    )
    if not 1 <= out <= MAX_VALUES:
        raise InvalidArgument(f"outputs lie in 1 to {MAX_VALUES:,}")
    if not (1 <= kernel <= MAX_SIDE and 1 <= stride <= MAX_SIDE):
        raise InvalidArgument(f"kernel and stride lie in 1 to {MAX_SIDE:,}")
    same = sum((layer.kernel is not None) == convolution for layer in before)
    return Layer(
        name=f"{'conv' if convolution else 'fc'}{same + 1}",
        out=out,
        kernel=kernel if convolution else None,
        activation=activation,
        stride=stride,
        padding=padding,
    )


_KEYS = {
    "conv": {"kernel", "stride", "padding", "activation"},
    "linear": {"activation"},
    "pool": set[str](),
    "gap": set[str](),
    "dropout": set[str](),
    "input": set[str](),
}


def text_of_list(parts: Sequence[object]) -> str:
    """Return the text of a list of layers, as the JSON of a zoo may hold it.

    Each element is a word of the text form, or an object: {"input": [1, 28, 28]},
    {"conv": 16, "kernel": 3, "stride": 2, "padding": 0, "activation": "relu"}, {"pool": 2},
    {"dropout": true}, {"gap": true}, {"linear": 10, "activation": null}.

    Raises:
        InvalidArgument: an element is anything else; the message has its number.
    """
    if len(parts) > MAX_TEXT:
        raise InvalidArgument(f"a network has at most {MAX_TEXT:,} elements, found {len(parts):,}")
    return " ".join(_word(number, part) for number, part in enumerate(parts, start=1))


def _word(number: int, part: object) -> str:
    if isinstance(part, str):
        return part

    def fail(reason: str) -> InvalidArgument:
        return InvalidArgument(f"element {number} of the network, {part!r:.80}: {reason}")

    if not isinstance(part, Mapping):
        raise fail("expected a word of the text form or an object")
    kinds = [key for key in _KEYS if key in part]
    if len(kinds) != 1:
        raise fail(f"expected one of the keys {', '.join(_KEYS)}")
    kind = kinds[0]
    if unknown := sorted(map(str, part.keys() - {kind} - _KEYS[kind])):
        raise fail(f"unknown: {', '.join(unknown)}")
    value = part[kind]
    if kind in ("gap", "dropout", "pool"):
        if value is not True and not (kind == "pool" and type(value) is int and value == 2):
            raise fail(f"the only {kind} is {'2' if kind == 'pool' else 'true'}")
        return "drop" if kind == "dropout" else kind
    if kind == "input":
        if not isinstance(value, list | tuple) or [type(v) for v in value] != [int] * 3:
            raise fail("expected three whole numbers: channels, rows, columns")
        return "x".join(str(size) for size in value)
    sizes = {key: part[key] for key in (kind, "kernel", "stride", "padding") if key in part}
    for key, size in sizes.items():
        if type(size) is not int or not 0 <= size <= MAX_VALUES:
            raise fail(f"{key} must be a whole number, found {size!r:.40}")
    activation = part.get("activation", True)
    if activation is not None and activation is not True and not isinstance(activation, str):
        raise fail(f"activation must be a name or null, found {activation!r:.40}")
    suffix = "" if activation is True else f":{activation or 'identity'}"
    if kind == "linear":
        return f"fc{value}{suffix}"
    if "kernel" not in sizes:
        raise fail("a convolution needs a kernel")
    stride, padding = sizes.get("stride", 1), sizes.get("padding", 0)
    return f"conv{value}k{sizes['kernel']}s{stride}p{padding}{suffix}"
