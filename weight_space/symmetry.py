"""Permutations of hidden units: other weights, the same function.

The units of a hidden layer can be put in any order if the inputs of the next layer are put in the
same order (Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight spaces").
Schuerholt et al. 2021 ("Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction") use this as augmentation of weights.

A permutation maps the name of a hidden layer to the order of its units (channels of a convolution),
int64 [units]: unit i of the result is unit `order[i]` of the argument. Orders [rows, units] are a
permutation for each row.

    order = random_permutation(layout, np.random.default_rng(0), rows=len(weights))
    augmented = permute(weights, layout, order)
    back = permute(augmented, layout, weight_matching(augmented, weights[0], layout))

`PermuteUnits` does this to the rows of a data set when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from ..builders.layout import Layout
from ..errors import InvalidArgument
from .arrays import check_vectors, gather_rows

if TYPE_CHECKING:
    import torch

Permutation = Mapping[str, NDArray[np.int64]]

Number = TypeVar("Number", bound=np.generic)

_BLOCK_BYTES = 64 << 20
"""Limit of the indices that are held at a time, for permutations of many rows."""


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


def random_permutation(
    layout: Layout, generator: np.random.Generator, rows: int | None = None
) -> Permutation:
    """Draw a permutation of all hidden layers uniformly, or one for each of `rows` rows.

    Raises:
        InvalidArgument: as `hidden_units`.
    """
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
        weights: [..., N], numpy array or torch tensor; [rows, N] if each row has orders of its own.
        layout: layout of the weights.
        permutation: orders of units; layers that it does not name keep theirs.

    Returns:
        A permuted copy, of the same kind and shape.

    Raises:
        InvalidArgument: not a permutation of the layout's hidden layers, or not one for each row.
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
    """Return the permutation that does the same as `first` and then `second`."""
    both = {}
    for name in first.keys() & second.keys():
        one, two = np.asarray(first[name]), np.asarray(second[name])
        lead = np.broadcast_shapes(one.shape[:-1], two.shape[:-1])
        one, two = (np.broadcast_to(order, (*lead, order.shape[-1])) for order in (one, two))
        both[name] = np.take_along_axis(one, two, axis=-1)
    return {**first, **second, **both}


def invert(permutation: Permutation) -> Permutation:
    """Return the permutation that undoes another one."""
    return {name: np.argsort(order, axis=-1) for name, order in permutation.items()}


def weight_matching(
    weights: ArrayLike | torch.Tensor,
    reference: ArrayLike | torch.Tensor,
    layout: Layout,
    *,
    sweeps: int = 100,
) -> Permutation:
    """Find orders of the hidden units that bring models close to a reference: weight matching.

    After Ainsworth et al. 2023 ("Git Re-Basin: Merging Models modulo Permutation Symmetries",
    ICLR), section 3.2: layer after layer, the order of the units is the one for which the weights
    that enter and leave them agree best with the reference (a linear assignment), until nothing
    changes. The first sweep sees only the weights that enter, so that a permuted copy of the
    reference is found back exactly. Others end in a local optimum.

    Args:
        weights: [rows, N] or [N], finite.
        reference: [N], finite.
        layout: layout of the weights.
        sweeps: limit of the passes over the layers.

    Returns:
        Orders [rows, units], or [units]: `permute(weights, layout, orders)` is close to the
        reference, in the squared distance.

    Raises:
        InvalidArgument: other shapes, weights that are not finite, or as `hidden_units`.
    """
    units = hidden_units(layout)
    models, target = (np.asarray(values, np.float64) for values in (weights, reference))
    for name, values in (("weights", models), ("reference", target)):
        check_vectors(values, layout)
        if values.ndim > 2 - (name == "reference") or not np.isfinite(values).all():
            raise InvalidArgument(
                f"{name} must be finite numbers of one shape: weights [rows, N] or [N], reference "
                f"[N]; found shape {values.shape}"
            )
    rows = np.atleast_2d(models)
    size = max(1, _BLOCK_BYTES // (8 * layout.size))
    blocks = [
        _match_block(rows[start : start + size], target, layout, sweeps)
        for start in range(0, len(rows), size)
    ]
    lead = models.shape[:-1]
    return {
        name: np.concatenate(
            [np.empty((0, count), np.int64), *(block[i] for block in blocks)]
        ).reshape(*lead, count)
        for i, (name, count) in enumerate(units.items())
    }


def _match_block(
    rows: NDArray[np.float64], target: NDArray[np.float64], layout: Layout, sweeps: int
) -> list[NDArray[np.int64]]:
    """Return the orders [rows, units] of each hidden layer."""
    own, wanted = _matrices(layout, rows), _matrices(layout, target[None])
    hidden = range(len(own) - 1)
    orders = [np.tile(np.arange(weight.shape[1]), (len(rows), 1)) for weight, _ in own[:-1]]
    active = np.arange(len(rows))
    for sweep in range(sweeps):
        changed = np.full(len(active), sweep == 0)
        for layer in hidden:
            weight, bias = own[layer][0][active], own[layer][1][active]
            if layer:
                before = orders[layer - 1][active]
                weight = np.take_along_axis(weight, before[:, None, :, None], axis=2)
            likeness = _products(weight, wanted[layer][0])
            likeness += wanted[layer][1][0][:, None] * bias[:, None, :]
            if sweep:
                weight = own[layer + 1][0][active]
                if layer + 1 in hidden:
                    behind = orders[layer + 1][active]
                    weight = np.take_along_axis(weight, behind[:, :, None, None], axis=1)
                likeness += _products(weight.swapaxes(1, 2), wanted[layer + 1][0].swapaxes(1, 2))
            best = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in likeness])
            changed |= (best != orders[layer][active]).any(axis=1)
            orders[layer][active] = best
        active = active[changed]
        if not len(active):
            break
    return orders


def _matrices(
    layout: Layout, rows: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return each layer's weight [rows, units, units before it, places] and bias [rows, units]."""
    matrices, before = [], layout.channels
    for slots in layout.layers.values():
        units = slots["bias"].size
        weight = rows[:, slots["weight"].slice].reshape(len(rows), units, before, -1)
        matrices.append((weight, rows[:, slots["bias"].slice]))
        before = units
    return matrices


def _products(own: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scalar products of all wanted units with all own ones, [rows, wanted, own]."""
    one, other = wanted[0].reshape(wanted.shape[1], -1), own.reshape(*own.shape[:2], -1)
    return one @ other.swapaxes(1, 2)


@dataclass(frozen=True)
class PermuteUnits:
    """Permutes the hidden units of each row at random: an augmentation for `with_transform`.

    Every row gets a permutation of its own each time that it is read. The draws come from torch's
    generator, which `torch.manual_seed` sets and a DataLoader seeds differently in each worker.

    Args:
        layout: layout of the rows.

    Raises:
        InvalidArgument: as `hidden_units`.

    Example:
        >>> rows = dataset.with_transform(PermuteUnits(layout))  # doctest: +SKIP
    """

    layout: Layout

    def __post_init__(self) -> None:
        hidden_units(self.layout)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of rows with other weights, float32 [rows, N]; one row likewise."""
        import torch

        if "weights" not in batch:
            raise InvalidArgument("these rows have no weights: load them among `columns`")
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        weights = batch["weights"]
        if not isinstance(weights, torch.Tensor):
            weights = np.asarray(weights, np.float32)
        rows = None if weights.ndim == 1 else len(weights)
        order = random_permutation(self.layout, generator, rows)
        return {**batch, "weights": permute(weights, self.layout, order)}


def _check(layout: Layout, permutation: Permutation) -> dict[str, NDArray[np.int64]]:
    """Return the orders as arrays [units] or [rows, units].

    Raises:
        InvalidArgument: they are something else.
    """
    units, orders = hidden_units(layout), {}
    for name, given in permutation.items():
        if name not in units:
            raise InvalidArgument(f"{name!r} is no hidden layer; they are {', '.join(units)}")
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
    """Return the place in the given vector of each weight of the permuted one, [N] or [rows, N]."""
    lead = np.broadcast_shapes(*(order.shape[:-1] for order in orders.values()))
    incoming = np.arange(layout.channels)
    parts = []
    for name, slots in layout.layers.items():
        weight, bias = slots["weight"], slots["bias"]
        order = orders.get(name, np.arange(bias.size))
        channels = incoming.shape[-1]
        # A flattened image holds all places of a channel together: [out, channel, places].
        places = np.arange(weight.size // (bias.size * channels))
        starts = (order[..., :, None] * channels + incoming[..., None, :]) * len(places)
        sources = weight.offset + starts[..., None] + places
        parts += [sources.reshape(*sources.shape[:-3], weight.size), bias.offset + order]
        incoming = order
    return np.concatenate([np.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], axis=-1)
