"""Where each named tensor of an architecture lies in the flat weight vector.

A row of a zoo holds one model's weights as a flat float32 vector. A `Layout` maps each tensor to a
slice of it, in the order of torch's state_dict: layer by layer, weight before bias. For ResNet-18
it has every float tensor, including the batch-norm buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidArgument, did_you_mean
from .architecture import (
    OPEN_CHANNELS,
    Architecture,
    Shape,
    check_image_facts,
    find_architecture,
)

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", NDArray[np.generic], torch.Tensor)


def as_numpy(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Return values as a numpy array; a tensor is copied to the CPU without its gradients.

    bfloat16, which numpy lacks, becomes float32.
    """
    tensor: Any = values
    if not hasattr(tensor, "detach"):
        return np.asarray(values)
    tensor = tensor.detach().cpu()
    return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


@dataclass(frozen=True)
class Slot:
    """The place of one named tensor in the flat vector: elements [offset, offset + size).

    Attributes:
        name: name of the tensor in the state_dict.
        shape: its shape.
        offset: index of its first element in the vector.
    """

    name: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """The slice of the flat vector that holds the tensor."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """All or some named tensors of an architecture, in vector order, without gaps.

    Attributes:
        architecture: the architecture that has these tensors.
        channels: channels of the input images.
        classes: outputs of the last layer.
        slots: one `Slot` for each tensor.
        whole: the layout that these tensors were chosen from; None if they are all of its tensors.
    """

    architecture: Architecture
    channels: int
    classes: int
    slots: tuple[Slot, ...]
    whole: Layout | None = field(default=None, repr=False)

    @cached_property
    def size(self) -> int:
        """Number of elements of the flat vector (2,464 for CNN-s with one channel)."""
        return sum(slot.size for slot in self.slots)

    @cached_property
    def layers(self) -> dict[str, dict[str, Slot]]:
        """Slots by layer and role, in vector order: `layers["conv1"]["weight"]`."""
        layers: dict[str, dict[str, Slot]] = {}
        for slot in self.slots:
            layer, _, role = slot.name.rpartition(".")
            layers.setdefault(layer, {})[role] = slot
        return layers

    @cached_property
    def outputs(self) -> list[Shape]:
        """Shape of each layer's output before pooling; [] for a network without `layers`."""
        return self.architecture.outputs(self.classes)

    def __str__(self) -> str:
        if self.whole is not None:
            return f"{len(self.slots)} of the {len(self.whole.slots)} tensors of {self.whole}"
        return f"{self.architecture.title} (channels: {self.channels}, classes: {self.classes})"

    def slot(self, name: str) -> Slot:
        """Return the place of a tensor.

        Raises:
            InvalidArgument: there is no such tensor.
        """
        slots = {slot.name: slot for slot in self.slots}
        if not isinstance(name, str):
            example = next(iter(slots))
            raise InvalidArgument(
                f"a tensor is named by a text, such as {example!r}, found {name!r:.80}"
            )
        if name not in slots:
            if self.whole is not None:
                self.whole.slot(name)  # raises the error for a name that no row has
                raise InvalidArgument(
                    f"this row was loaded without {name}, with tensors={list(slots)!r:.200}"
                )
            advice = did_you_mean(name, slots, 3) or f"the first are {', '.join(list(slots)[:3])}"
            raise InvalidArgument(f"there is no tensor {name!r}; {advice}")
        return slots[name]

    def choose(self, names: Iterable[str]) -> Layout:
        """Return the layout of vectors that hold only some tensors, still in vector order.

        Raises:
            InvalidArgument: there is no such tensor.
        """
        chosen = {self.slot(name) for name in names}
        slots, offset = [], 0
        for slot in self.slots:
            if slot in chosen:
                slots.append(Slot(slot.name, slot.shape, offset))
                offset += slot.size
        return Layout(self.architecture, self.channels, self.classes, tuple(slots), self)

    @cached_property
    def sources(self) -> list[slice]:
        """Return the places in whole vectors of the tensors of a chosen layout."""
        return [(self.whole or self).slot(slot.name).slice for slot in self.slots]

    def require_all(self) -> None:
        """Refuse a layout that lacks some tensors, since a network needs all of them.

        Raises:
            InvalidArgument: it was made by `choose`.
        """
        if self.whole is not None:
            raise InvalidArgument(
                f"these rows hold {self}, and all are needed: load them without tensors="
            )

    def to_vector(self, state_dict: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """Flatten a state_dict to a float32 vector [size].

        Tensors are taken by order and shape, not by name, so that checkpoints of the paper's code
        (whose names depend on dropout) can be read too. Integer tensors (`num_batches_tracked`) are
        skipped.

        Args:
            state_dict: name -> torch tensor or numpy array, in layer order.

        Raises:
            ValueError: the shapes do not fit this architecture.
        """
        arrays = [as_numpy(tensor) for tensor in state_dict.values()]
        arrays = [array for array in arrays if np.issubdtype(array.dtype, np.floating)]
        found = [array.shape for array in arrays]
        expected = [slot.shape for slot in self.slots]
        if found != expected:
            raise ValueError(
                f"these tensors are not a {self}: expected shapes {expected}, found {found}"
            )
        vector = np.empty(self.size, np.float32)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite
            for slot, array in zip(self.slots, arrays, strict=True):
                vector[slot.slice] = array.reshape(-1)
        return vector

    def to_state_dict(
        self, vector: Array, *, original_names: bool = False, dropout: float = 0.0
    ) -> dict[str, Array]:
        """Cut a flat vector into named tensors, as views on it.

        Args:
            vector: [..., size], numpy array or torch tensor; leading axes are kept.
            original_names: name the tensors as checkpoints of the paper's code do
                (`module_list.0.weight`).
            dropout: the model's rate, on which the indices of `original_names` depend.

        Returns:
            Name -> view on the vector, of its type, with shape [..., *shape of the tensor].

        Raises:
            ValueError: the vector has another length.
        """
        if vector.shape[-1] != self.size:
            raise ValueError(f"expected {self.size} weights for {self}, found {vector.shape[-1]}")
        names = (
            self.original_names(dropout) if original_names else [slot.name for slot in self.slots]
        )
        lead = tuple(vector.shape[:-1])
        return {
            name: vector[..., slot.slice].reshape(lead + slot.shape)
            for name, slot in zip(names, self.slots, strict=True)
        }

    def original_names(self, dropout: float = 0.0) -> list[str]:
        """Return the tensors' names in the paper's code, which depend on dropout for CNN-s."""
        self.require_all()
        if not self.architecture.layers:
            return [slot.name for slot in self.slots]
        indices = dict(zip(self.layers, self.architecture.module_indices(dropout > 0), strict=True))
        return [
            f"module_list.{indices[slot.name.partition('.')[0]]}.{slot.name.partition('.')[2]}"
            for slot in self.slots
        ]

    def index_dict(self, dropout: float = 0.0) -> dict[str, list[int]]:
        """Return the layout in the form of `index_dict.json` of the paper's code.

        Each list has one entry for each layer: `layer` (module index), `idx_start`, `idx_length`
        (weight and bias together), `kernel_no` (outputs), `kernel_size` (k * k; 1 for linear
        layers), `channels_in`.

        Raises:
            ValueError: the network is not a plain sequence of layers, as ResNet-18 is not.
        """
        if not self.architecture.layers:
            raise ValueError(f"index_dict describes sequences of layers, not {self}")
        self.require_all()
        slots = [(layer["weight"], layer["bias"]) for layer in self.layers.values()]
        return {
            "layer": self.architecture.module_indices(dropout > 0),
            "idx_start": [weight.offset for weight, _ in slots],
            "idx_length": [weight.size + bias.size for weight, bias in slots],
            "kernel_no": [weight.shape[0] for weight, _ in slots],
            "kernel_size": [math.prod(weight.shape[2:]) for weight, _ in slots],
            "channels_in": [weight.shape[1] for weight, _ in slots],
        }

    def to_json(self) -> dict[str, object]:
        """Return a JSON object with the names, shapes and offsets of all tensors."""
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
    """Return the layout of an architecture for images with these channels and classes.

    Raises:
        ValueError: unknown architecture, or a text for other channels or classes.

    Example:
        >>> make_layout("cnn_s", channels=1).size
        2464
    """
    check_image_facts(architecture, channels, classes)
    return _layout(find_architecture(architecture), channels, classes)


@lru_cache
def _layout(architecture: Architecture, channels: int, classes: int) -> Layout:
    slots, offset = [], 0
    for name, shape in architecture.shapes(channels, classes):
        slots.append(Slot(name, shape, offset))
        offset += slots[-1].size
    return Layout(architecture, channels, classes, tuple(slots))


def find_layout(architecture: str, size: int) -> Layout:
    """Return the layout of an architecture whose flat vector has `size` elements.

    A row does not name its channels and classes. The text of a network has them. For a name such as
    cnn_s, the length determines them, as the channels are 1 or 3.

    Raises:
        ValueError: unknown architecture, or none of its layouts has this size.
    """
    known = find_architecture(architecture)
    if known.channels is not None and known.classes is not None:
        layout = _layout(known, known.channels, known.classes)
        if layout.size != size:
            raise ValueError(f"{known} has {layout.size:,} weights, found {size:,}")
        return layout
    for channels in OPEN_CHANNELS:
        # Each further class adds the same number of elements to a vector.
        one, two = (_layout(known, channels, classes).size for classes in (1, 2))
        classes, rest = divmod(size - one, two - one)
        if rest == 0 and classes >= 0:
            return _layout(known, channels, classes + 1)
    usual = (_layout(known, channels, 10).size for channels in OPEN_CHANNELS)
    grey, colour = (f"{size:,}" for size in usual)
    raise ValueError(
        f"no {known.title} has {size:,} weights: for 10 classes of grey images it has {grey}, of "
        f"images in colour {colour}"
    )
