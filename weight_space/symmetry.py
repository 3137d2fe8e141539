"""Permutations of hidden units: other weights for the same function.

The units of a hidden layer can be put in any order if the inputs of the next layer are put in the
same order (Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight spaces").
Batch-norm layers follow their layer's order, and all layers that write to one residual stream share
its order. Schuerholt et al. 2021 ("Self-Supervised Representation Learning on Neural Network
Weights for Model Characteristic Prediction") use this as augmentation of weights.

A permutation maps the name of a group of `hidden_units` to the order of its units (for a
convolution, its channels), int64 [units]: unit i of the result is unit `order[i]` of the argument.
Orders [rows, units] hold one permutation for each row.

    order = random_permutation(layout, np.random.default_rng(0), rows=len(weights))
    augmented = permute(weights, layout, order)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from ..builders.arguments import check_kind
from ..builders.layout import Layout
from ..builders.wiring import wiring
from ..errors import InvalidArgument
from .arrays import as_generator, check_layout, check_vectors, gather_rows

if TYPE_CHECKING:
    import torch

Permutation = Mapping[str, NDArray[np.int64]]

Number = TypeVar("Number", bound=np.generic)

_BLOCK_BYTES = 64 << 20
"""Limit of the number of indices in memory at a time, for permutations of many rows."""


def hidden_units(layout: Layout) -> dict[str, int]:
    """Return the groups of units that can be permuted, with their numbers of units.

    In a plain sequence of layers they are the hidden layers. In ResNet-18 a residual stream is also
    one group, named after the first layer that writes to it.
    """
    check_layout(layout)
    return {name: group.units for name, group in wiring(layout).hidden.items()}


def random_permutation(
    layout: Layout, generator: np.random.Generator | int, rows: int | None = None
) -> Permutation:
    """Draw a permutation of all hidden units uniformly, or one for each of `rows` rows.

    The generator may be a seed.
    """
    generator = as_generator(generator)
    lead = () if rows is None else (rows,)
    return {
        name: generator.permuted(np.broadcast_to(np.arange(units), (*lead, units)), axis=-1)
        for name, units in hidden_units(layout).items()
    }


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
        weights: [..., N], numpy array or torch tensor; [rows, N] if each row has its own orders.
        layout: layout of the weights.
        permutation: orders of units; groups that it does not name keep their order.

    Returns:
        A permuted copy, of the same kind and shape.

    Raises:
        InvalidArgument: not a permutation of the layout's hidden units, or a wrong number of them.
    """
    check_vectors(cast(Any, weights), layout)
    orders = _check(layout, permutation)
    rows = {len(order) for order in orders.values() if order.ndim == 2}
    if not rows:
        return cast(Any, weights)[..., _sources(layout, orders)]
    if weights.ndim != 2 or rows != {len(weights)}:
        raise InvalidArgument(
            f"orders for {' and '.join(map(str, sorted(rows)))} rows do not fit weights of shape "
            f"{tuple(weights.shape)}"
        )
    size = max(1, _BLOCK_BYTES // (8 * layout.size))
    blocks = [slice(start, start + size) for start in range(0, len(weights), size)]
    return gather_rows(
        cast(Any, weights),
        (
            _sources(layout, {n: o[block] if o.ndim == 2 else o for n, o in orders.items()})
            for block in blocks
        ),
    )


def compose(first: Permutation, second: Permutation) -> Permutation:
    """Return the permutation that has the effect of `first` and then `second`."""
    both = {}
    for permutation in (first, second):
        _check_kind(permutation)
    for name in first.keys() & second.keys():
        one, two = np.asarray(first[name]), np.asarray(second[name])
        lead = np.broadcast_shapes(one.shape[:-1], two.shape[:-1])
        one, two = (np.broadcast_to(order, (*lead, order.shape[-1])) for order in (one, two))
        both[name] = np.take_along_axis(one, two, axis=-1)
    return {**first, **second, **both}


def invert(permutation: Permutation) -> Permutation:
    """Return the permutation that undoes another one."""
    _check_kind(permutation)
    return {name: np.argsort(order, axis=-1) for name, order in permutation.items()}


def _check_kind(permutation: Permutation) -> None:
    """Refuse a value that does not map names to orders."""
    check_kind(permutation, Mapping, "a permutation must map groups of units to orders")


def _check(layout: Layout, permutation: Permutation) -> dict[str, NDArray[np.int64]]:
    """Return the orders as arrays [units] or [rows, units].

    Raises:
        InvalidArgument: they have another type or shape.
    """
    _check_kind(permutation)
    units, orders = hidden_units(layout), {}
    for name, given in permutation.items():
        if name not in units:
            raise InvalidArgument(f"{name!r} is no hidden group; they are {', '.join(units)}")
        order = np.asarray(given)
        if (
            order.ndim not in (1, 2)
            or order.shape[-1] != units[name]
            or (np.sort(order, axis=-1) != np.arange(units[name])).any()
        ):
            raise InvalidArgument(f"{name}: not a permutation of its {units[name]} units: {order}")
        orders[name] = order.astype(np.int64)
    return orders


def _sources(layout: Layout, orders: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the index in the given vector of each weight of the permuted one, [N] or [rows, N]."""
    lead = np.broadcast_shapes(*(order.shape[:-1] for order in orders.values()))
    net, parts = wiring(layout), []

    def order_of(group: str) -> NDArray[np.int64]:
        return orders.get(group, np.arange(net.groups[group].units))

    for wire in net.wires:
        sources = order_of(wire.target)
        if wire.source is not None:
            before = order_of(wire.source)
            channels = before.shape[-1]
            # A flattened image holds all positions of a channel together: [out, channel,
            # positions].
            places = np.arange(wire.slot.size // (sources.shape[-1] * channels))
            starts = (sources[..., :, None] * channels + before[..., None, :]) * len(places)
            grid = starts[..., None] + places
            sources = grid.reshape(*grid.shape[:-3], wire.slot.size)
        parts.append(np.broadcast_to(wire.slot.offset + sources, (*lead, wire.slot.size)))
    return np.concatenate(parts, axis=-1)
