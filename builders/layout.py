"""Where each named tensor of an architecture lies in the flat weight vector.

A row of a zoo holds one model's weights as a flat float32 vector. A `Layout` says which slice of it
is which tensor. The order is that of torch's state_dict: layer by layer, weight before bias; for
ResNet-18 every float tensor, batch-norm buffers included.

The architectures are those of the original (code/model_definitions/def_net.py): CNN-s is its class
CNN, CNN-l its class CNN3, ResNet-18 torchvision's with a 3x3 stem and no max-pool. This file only
describes them, so that reading a zoo needs no torch; generation/architectures.py makes them run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .architecture import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class Slot:
    """One named tensor's place in the flat vector: elements [offset, offset + size)."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """The slots of one architecture, in vector order, without gaps.

    Attributes:
        architecture: key of `ARCHITECTURES`.
        channels: of the input images.
        classes: outputs of the last layer.
        slots: one `Slot` for each tensor.
    """

    architecture: str
    channels: int
    classes: int
    slots: tuple[Slot, ...]

    @cached_property
    def size(self) -> int:
        """Elements of the flat vector (2,464 for CNN-s with one channel)."""
        return sum(slot.size for slot in self.slots)

    @cached_property
    def layers(self) -> dict[str, dict[str, Slot]]:
        """Slots by layer and role: `layers["conv1"]["weight"]`, in vector order."""
        layers: dict[str, dict[str, Slot]] = {}
        for slot in self.slots:
            layer, _, role = slot.name.rpartition(".")
            layers.setdefault(layer, {})[role] = slot
        return layers

    def to_vector(self, state_dict: Mapping[str, Any]) -> np.ndarray:
        """Flatten a state_dict to a float32 vector [size].

        Tensors are taken by order and shape, not by name, so the original's checkpoints (whose
        names depend on dropout) are read too; integer tensors (`num_batches_tracked`) are skipped.

        Args:
            state_dict: name -> torch tensor or numpy array, in layer order.

        Raises:
            ValueError: the shapes are not this architecture's.
        """
        arrays = [np.asarray(tensor) for tensor in state_dict.values()]
        arrays = [array for array in arrays if np.issubdtype(array.dtype, np.floating)]
        found = [array.shape for array in arrays]
        expected = [slot.shape for slot in self.slots]
        if found != expected:
            raise ValueError(
                f"these tensors are not a {ARCHITECTURES[self.architecture].title} with "
                f"{self.channels} channels and {self.classes} classes: expected shapes {expected}, "
                f"found {found}"
            )
        vector = np.empty(self.size, np.float32)
        for slot, array in zip(self.slots, arrays, strict=True):
            vector[slot.slice] = array.reshape(-1)
        return vector

    def to_state_dict(
        self, vector: Any, *, original_names: bool = False, dropout: float = 0.0
    ) -> dict[str, Any]:
        """Cut a flat vector into named tensors, as views on it.

        Args:
            vector: [..., size], numpy array or torch tensor; leading axes are kept.
            original_names: name the tensors as the original's checkpoints do
                (`module_list.0.weight`).
            dropout: the model's rate; with `original_names` it decides the indices.

        Raises:
            ValueError: the vector has another length.
        """
        if vector.shape[-1] != self.size:
            raise ValueError(
                f"expected {self.size} weights for {ARCHITECTURES[self.architecture].title} with "
                f"{self.channels} channels and {self.classes} classes, found {vector.shape[-1]}"
            )
        names = (
            self.original_names(dropout) if original_names else [slot.name for slot in self.slots]
        )
        lead = tuple(vector.shape[:-1])
        return {
            name: vector[..., slot.slice].reshape(lead + slot.shape)
            for name, slot in zip(names, self.slots, strict=True)
        }

    def original_names(self, dropout: float = 0.0) -> list[str]:
        """The original's names of all tensors, which shift with dropout in CNN-s."""
        architecture = ARCHITECTURES[self.architecture]
        if not architecture.layers:
            return [slot.name for slot in self.slots]
        indices = dict(zip(self.layers, _module_indices(architecture, dropout > 0), strict=True))
        return [
            f"module_list.{indices[slot.name.partition('.')[0]]}.{slot.name.partition('.')[2]}"
            for slot in self.slots
        ]

    def index_dict(self, dropout: float = 0.0) -> dict[str, list[int]]:
        """The layout in the form of the original's `index_dict.json`.

        Each list has one entry for each layer: `layer` (module index), `idx_start`, `idx_length`
        (weight and bias together), `kernel_no` (outputs), `kernel_size` (k * k; 1 for linear
        layers), `channels_in`.

        Raises:
            ValueError: ResNet-18, for which the original has no such dictionary.
        """
        architecture = ARCHITECTURES[self.architecture]
        if not architecture.layers:
            raise ValueError(f"index_dict describes CNN-s and CNN-l, not {architecture.title}")
        slots = [(layer["weight"], layer["bias"]) for layer in self.layers.values()]
        return {
            "layer": _module_indices(architecture, dropout > 0),
            "idx_start": [weight.offset for weight, _ in slots],
            "idx_length": [weight.size + bias.size for weight, bias in slots],
            "kernel_no": [weight.shape[0] for weight, _ in slots],
            "kernel_size": [math.prod(weight.shape[2:]) for weight, _ in slots],
            "channels_in": [weight.shape[1] for weight, _ in slots],
        }

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary with names, shapes and offsets, for zoo.json."""
        return {
            "architecture": self.architecture,
            "channels": self.channels,
            "classes": self.classes,
            "size": self.size,
            "tensors": [
                {"name": slot.name, "shape": list(slot.shape), "offset": slot.offset}
                for slot in self.slots
            ],
        }


@lru_cache
def make_layout(architecture: str, channels: int, classes: int = 10) -> Layout:
    """The layout of an architecture for images with `channels` and a task with `classes`.

    Raises:
        ValueError: unknown architecture.

    Example:
        >>> make_layout("cnn_s", channels=1).size
        2464
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    spec = ARCHITECTURES[architecture]
    shapes = (
        _cnn_shapes(spec, channels, classes) if spec.layers else _resnet18_shapes(channels, classes)
    )
    slots, offset = [], 0
    for name, shape in shapes:
        slots.append(Slot(name, shape, offset))
        offset += slots[-1].size
    return Layout(architecture, channels, classes, tuple(slots))


def layer_outputs(spec: Architecture, channels: int, classes: int) -> list[tuple[int, ...]]:
    """Shape after each layer's convolution or product, before pooling: (c, h, w) or (features,)."""
    shapes: list[tuple[int, ...]] = []
    assert spec.image_size is not None
    side = spec.image_size
    for layer in spec.layers:
        if layer.kernel is None:
            shapes.append((layer.out if layer is not spec.layers[-1] else classes,))
            continue
        side -= layer.kernel - 1
        shapes.append((layer.out, side, side))
        if layer.pool:
            side //= 2
    return shapes


def _cnn_shapes(
    spec: Architecture, channels: int, classes: int
) -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = []
    features = channels
    flattened = False
    for layer, out in zip(spec.layers, layer_outputs(spec, channels, classes), strict=True):
        if layer.kernel is not None:
            weight: tuple[int, ...] = (out[0], features, layer.kernel, layer.kernel)
            area = (out[1] // 2) ** 2 if layer.pool else out[1] ** 2
        else:
            if not flattened:
                features *= area
                flattened = True
            weight = (out[0], features)
        shapes += [(f"{layer.name}.weight", weight), (f"{layer.name}.bias", (out[0],))]
        features = out[0]
    return shapes


def _module_indices(spec: Architecture, dropout: bool) -> list[int]:
    """Index of each layer in the original's `module_list`.

    The list holds each layer, then MaxPool2d, activation and Dropout where there are any, and one
    Flatten before the first linear layer (def_net.py).
    """
    indices, position, flattened = [], 0, False
    for layer in spec.layers:
        if layer.kernel is None and not flattened:
            position, flattened = position + 1, True
        indices.append(position)
        has_dropout = layer.dropout and (dropout or spec.always_dropout)
        position += 1 + layer.pool + layer.activation + has_dropout
    return indices


def _resnet18_shapes(channels: int, classes: int) -> list[tuple[str, tuple[int, ...]]]:
    """Float tensors of torchvision's ResNet(BasicBlock, [2, 2, 2, 2]) with a 3x3 stem."""

    def batch_norm(name: str, width: int) -> list[tuple[str, tuple[int, ...]]]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return [(f"{name}.{key}", (width,)) for key in keys]

    shapes = [("conv1.weight", (64, channels, 3, 3)), *batch_norm("bn1", 64)]
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


def find_layout(architecture: str, size: int) -> Layout:
    """The layout of an architecture whose flat vector has `size` elements.

    A row does not name channels and classes; its length does, for images with 1 or 3 channels.

    Raises:
        ValueError: unknown architecture, or no such layout.
    """
    for channels in (1, 3):
        # A vector grows by the same number of elements with every class.
        one, two = (make_layout(architecture, channels, classes).size for classes in (1, 2))
        classes, rest = divmod(size - one, two - one)
        if rest == 0 and classes >= 0:
            return make_layout(architecture, channels, classes + 1)
    raise ValueError(f"no {ARCHITECTURES[architecture].title} has {size} weights")
