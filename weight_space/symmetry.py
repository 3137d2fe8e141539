"""Permutations of hidden units: other weights, the same function.

The units of a hidden layer can be put in any order if the next layer's inputs are put in the same
order (Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight spaces"). Used
as augmentation of weights by Schuerholt et al. 2021 ("Self-Supervised Representation Learning on
Neural Network Weights for Model Characteristic Prediction").

A permutation is a mapping from each hidden layer's name to the order of its units (channels of a
convolution), int64 [units]: unit i afterwards is unit `order[i]` before.

    order = random_permutation(layout, np.random.default_rng(0))
    augmented = permute(weights, layout, order)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..builders.layout import Layout

Permutation = Mapping[str, np.ndarray]


def hidden_units(layout: Layout) -> dict[str, int]:
    """The layers whose units can be permuted, with their number of units.

    Raises:
        ValueError: ResNet-18, whose residual sums tie the channels of many layers to each other.
    """
    if not layout.architecture.layers:
        title = layout.architecture.title
        raise ValueError(f"permutations are for CNN-s and CNN-l, not {title}")
    return {name: slots["bias"].size for name, slots in list(layout.layers.items())[:-1]}


def random_permutation(layout: Layout, generator: np.random.Generator) -> Permutation:
    """A permutation drawn uniformly; errors as `hidden_units`."""
    return {name: generator.permutation(units) for name, units in hidden_units(layout).items()}


def permute(weights: Any, layout: Layout, permutation: Permutation) -> Any:
    """Weights of the same function with permuted hidden units.

    Args:
        weights: [..., N], numpy array or torch tensor.
        layout: of CNN-s or CNN-l.
        permutation: layers that it does not name keep their order.

    Returns:
        The permuted weights, of the same kind and shape; a copy.

    Raises:
        ValueError: not a permutation of the layout's hidden layers.
    """
    return weights[..., _indices(layout, permutation)]


def compose(first: Permutation, second: Permutation) -> Permutation:
    """The permutation that does the same as `first` and then `second`."""
    return {
        name: first[name][second[name]] if name in first and name in second
        else first.get(name, second.get(name))
        for name in {**first, **second}
    }  # fmt: skip


def invert(permutation: Permutation) -> Permutation:
    """The permutation that undoes it."""
    return {name: np.argsort(order) for name, order in permutation.items()}


def _indices(layout: Layout, permutation: Permutation) -> np.ndarray:
    """Where each permuted weight lies in the vector, int64 [N]."""
    units = hidden_units(layout)
    for name, order in permutation.items():
        if name not in units:
            raise ValueError(f"{name!r} is no hidden layer; they are {', '.join(units)}")
        if not np.array_equal(np.sort(order), np.arange(units[name])):
            raise ValueError(f"{name}: not a permutation of its {units[name]} units: {order}")
    indices = np.arange(layout.size)
    incoming = np.arange(layout.channels)
    parts = []
    for name, slots in layout.layers.items():
        shape = slots["weight"].shape
        order = np.asarray(permutation.get(name, np.arange(shape[0])))
        # A flattened image holds all places of a channel together: [out, channel, places].
        weight = indices[slots["weight"].slice].reshape(shape[0], len(incoming), -1)
        parts += [weight[order][:, incoming].reshape(-1), indices[slots["bias"].slice][order]]
        incoming = order
    return np.concatenate(parts)
