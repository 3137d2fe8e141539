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

from .architecture import Architecture, Shape, find_architecture


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
        architecture: whose tensors these are.
        channels: of the input images.
        classes: outputs of the last layer.
        slots: one `Slot` for each tensor.
    """

    architecture: Architecture
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

    @cached_property
    def outputs(self) -> list[Shape]:
        """Shape after each layer, before pooling: (c, h, w) or (features,); [] of ResNet-18."""
        return self.architecture.outputs(self.channels, self.classes)

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
                f"these tensors are not a {self.architecture.title} with "
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
                f"expected {self.size} weights for {self.architecture.title} with "
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
        if not self.architecture.layers:
            return [slot.name for slot in self.slots]
        indices = dict(zip(self.layers, self.architecture.module_indices(dropout > 0), strict=True))
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
        if not self.architecture.layers:
            raise ValueError(f"index_dict describes CNN-s and CNN-l, not {self.architecture.title}")
        slots = [(layer["weight"], layer["bias"]) for layer in self.layers.values()]
        return {
            "layer": self.architecture.module_indices(dropout > 0),
            "idx_start": [weight.offset for weight, _ in slots],
            "idx_length": [weight.size + bias.size for weight, bias in slots],
            "kernel_no": [weight.shape[0] for weight, _ in slots],
            "kernel_size": [math.prod(weight.shape[2:]) for weight, _ in slots],
            "channels_in": [weight.shape[1] for weight, _ in slots],
        }

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary with names, shapes and offsets, for zoo.json."""
        return {
            "architecture": self.architecture.name,
            "channels": self.channels,
            "classes": self.classes,
            "size": self.size,
            "tensors": [
                {"name": slot.name, "shape": list(slot.shape), "offset": slot.offset}
                for slot in self.slots
            ],
        }


def make_layout(architecture: str, channels: int, classes: int = 10) -> Layout:
    """The layout of an architecture for images with `channels` and a task with `classes`.

    Raises:
        ValueError: unknown architecture.

    Example:
        >>> make_layout("cnn_s", channels=1).size
        2464
    """
    return _layout(find_architecture(architecture), channels, classes)


@lru_cache
def _layout(architecture: Architecture, channels: int, classes: int) -> Layout:
    slots, offset = [], 0
    for name, shape in architecture.shapes(channels, classes):
        slots.append(Slot(name, shape, offset))
        offset += slots[-1].size
    return Layout(architecture, channels, classes, tuple(slots))


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
    raise ValueError(f"no {find_architecture(architecture).title} has {size} weights")
