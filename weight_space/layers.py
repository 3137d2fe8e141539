"""Flat weight vectors as the tensors of each layer, and back.

    layers = to_layers(weights, layout)          # [rows, N]
    layers["conv1"]["weight"]                    # [rows, 8, 1, 5, 5]
    layers["conv1"]["bias"]                      # [rows, 8]

Layouts and leading axes are arbitrary. Numpy arrays give numpy arrays. Torch tensors give tensors
through which gradients flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..builders.arguments import check_kind
from ..builders.layout import Layout
from ..errors import InvalidArgument
from .arrays import check_layout, check_vectors, concatenate

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

    from .arrays import Array


def to_layers(weights: Array, layout: Layout) -> dict[str, dict[str, Array]]:
    """Cut weight vectors into the tensors of each layer.

    Args:
        weights: [..., N], numpy array or torch tensor.
        layout: layout of the weights.

    Returns:
        Views by layer and role, in the order of the layout: {"conv1": {"weight": [..., 8, 1, 5, 5],
        "bias": [..., 8]}, ...}. Convolutions of ResNet-18 have no bias; its batch-norm layers also
        have running_mean and running_var.

    Raises:
        InvalidArgument: the vectors have another length.
    """
    check_vectors(weights, layout)
    tensors = layout.to_state_dict(weights)
    return {
        layer: {role: tensors[slot.name] for role, slot in slots.items()}
        for layer, slots in layout.layers.items()
    }


def from_layers(layers: Mapping[str, Mapping[str, Array]], layout: Layout) -> Array:
    """Join the tensors of each layer to weight vectors [..., N]: the inverse of `to_layers`.

    Raises:
        InvalidArgument: a tensor is missing or has another shape.
    """
    check_layout(layout)
    check_kind(layers, Mapping, "layers must map names to tensors, as to_layers returns them")
    parts: list[Array] = []
    lead: tuple[int, ...] | None = None
    for layer, slots in layout.layers.items():
        for role, slot in slots.items():
            try:
                tensor = layers[layer][role]
            except KeyError:
                raise InvalidArgument(f"the layers have no {slot.name}") from None
            shape: tuple[int, ...] = tuple(tensor.shape)
            axes = len(shape) - len(slot.shape)
            if lead is None:
                lead = shape[: max(0, axes)]
            if shape != lead + slot.shape:
                expected = lead + slot.shape
                raise InvalidArgument(f"{slot.name}: expected shape {expected}, found {shape}")
            parts.append(tensor.reshape(lead + (slot.size,)))  # noqa: RUF005
    return concatenate(parts)


def stacked_state_dict(
    weights: ArrayLike | torch.Tensor, layout: Layout
) -> dict[str, torch.Tensor]:
    """Return the tensors of many models under their names in `instantiate(row)`, for torch.func.

    Args:
        weights: [..., N]; numpy arrays become tensors, gradients flow through tensors.
        layout: layout of the weights.

    Returns:
        Views [..., *shape], for torch.vmap and torch.func.functional_call.

    Example:
        >>> tensors = stacked_state_dict(weights, layout)  # doctest: +SKIP
        >>> run = lambda one: torch.func.functional_call(network, one, (images,))
        >>> logits = torch.vmap(run)(tensors)  # [rows, images, classes]
    """
    import torch

    given: Any = weights if isinstance(weights, torch.Tensor) else np.ascontiguousarray(weights)
    check_vectors(given, layout)
    return layout.to_state_dict(torch.as_tensor(given))
