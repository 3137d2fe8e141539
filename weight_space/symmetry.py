"""Permutations of hidden units: other weights, the same function.

The units of a hidden layer can be put in any order if the inputs of the next layer are put in the
same order (Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight spaces").
Schuerholt et al. 2021 ("Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction") use this as augmentation of weights.

A permutation maps the name of a hidden layer to the order of its units (channels of a convolution),
int64 [units]: unit i of the result is unit `order[i]` of the argument.

    order = random_permutation(layout, np.random.default_rng(0))
    augmented = permute(weights, layout, order)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ..builders.layout import Layout
from ..errors import InvalidArgument

if TYPE_CHECKING:
    import torch

Permutation = Mapping[str, NDArray[np.int64]]


Number = TypeVar("Number", bound=np.generic)


def hidden_units(layout: Layout) -> dict[str, int]:
    """Return the layers whose units can be permuted, with their numbers of units.

    Raises:
        InvalidArgument: the architecture is no plain sequence of layers. In ResNet-18, for example,
            residual sums tie the channels of many layers to each other.
    """
    if not layout.architecture.layers:
        title = layout.architecture.title
        raise InvalidArgument(f"permutations are for plain sequences of layers, not {title}")
    return {name: slots["bias"].size for name, slots in list(layout.layers.items())[:-1]}


def random_permutation(layout: Layout, generator: np.random.Generator) -> Permutation:
    """Draw a permutation of all hidden layers uniformly; errors as `hidden_units`."""
    return {name: generator.permutation(units) for name, units in hidden_units(layout).items()}


@overload
def permute(
    weights: NDArray[Number], layout: Layout, permutation: Permutation
) -> NDArray[Number]: ...
@overload
def permute(weights: torch.Tensor, layout: Layout, permutation: Permutation) -> torch.Tensor: ...
def permute(
    weights: NDArray[Number] | torch.Tensor, layout: Layout, permutation: Permutation
) -> NDArray[Number] | torch.Tensor:
    """Return weights of the same function with permuted hidden units.

    Args:
        weights: [..., N], numpy array or torch tensor.
        layout: layout of the weights.
        permutation: orders of units; layers that it does not name keep theirs.

    Returns:
        A permuted copy, of the same kind and shape.

    Raises:
        InvalidArgument: not a permutation of the layout's hidden layers.
    """
    return weights[..., _sources(layout, permutation)]


def compose(first: Permutation, second: Permutation) -> Permutation:
    """Return the permutation that does the same as `first` and then `second`."""
    both = first.keys() & second.keys()
    return {**first, **second, **{name: first[name][second[name]] for name in both}}


def invert(permutation: Permutation) -> Permutation:
    """Return the permutation that undoes another one."""
    return {name: np.argsort(order) for name, order in permutation.items()}


def _sources(layout: Layout, permutation: Permutation) -> NDArray[np.int64]:
    """Return the place in the given vector of each weight of the permuted one, int64 [N]."""
    units = hidden_units(layout)
    for name, order in permutation.items():
        if name not in units:
            raise InvalidArgument(f"{name!r} is no hidden layer; they are {', '.join(units)}")
        if not np.array_equal(np.sort(order), np.arange(units[name])):
            raise InvalidArgument(f"{name}: not a permutation of its {units[name]} units: {order}")
    places = np.arange(layout.size)
    incoming = np.arange(layout.channels)
    parts = []
    for name, slots in layout.layers.items():
        shape = slots["weight"].shape
        order = np.asarray(permutation.get(name, np.arange(shape[0])))
        # A flattened image holds all places of a channel together: [out, channel, places].
        weight = places[slots["weight"].slice].reshape(shape[0], len(incoming), -1)
        parts += [weight[order][:, incoming].reshape(-1), places[slots["bias"].slice][order]]
        incoming = order
    return np.concatenate(parts)
