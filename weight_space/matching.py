"""Orders of hidden units that make models similar, or that bring them into a canonical form.

    orders = weight_matching(weights, weights[0], layout)    # to one reference, or pair by pair
    aligned = permute(weights, layout, orders)
    orders = canonical_order(weights, layout)                # the same for all permuted copies
    orders = match_models(dataset, reference)                # one for all states of a model

Weight matching follows Ainsworth et al. 2023 ("Git Re-Basin: Merging Models modulo Permutation
Symmetries", ICLR), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from ..builders.access import layout_of
from ..builders.access import weights as weights_of
from ..builders.connections import IMAGES
from ..builders.layout import Layout, as_numpy
from ..builders.names import dense_name
from ..builders.wiring import Wire, Wiring, wiring
from ..errors import InvalidArgument
from .arrays import check_vectors
from .symmetry import Permutation, hidden_units
from .trajectory import state_keys

if TYPE_CHECKING:
    import torch

_BLOCK_BYTES = 64 << 20
"""Limit of the number of weights copied at a time, and of the products of units."""

Orders = dict[str, NDArray[np.int64]]
Ends = list[tuple[int, Wire, str | None]]


def weight_matching(
    weights: ArrayLike | torch.Tensor,
    reference: ArrayLike | torch.Tensor,
    layout: Layout,
    *,
    sweeps: int = 100,
) -> Permutation:
    """Find orders of the hidden units that make models similar to a reference: weight matching.

    For one group after another, the units get the order in which their incoming and outgoing
    weights agree best with the reference (a linear assignment), until nothing changes. The first
    sweep uses only weights whose other end is ordered already, so that a permuted copy of the
    reference is recovered exactly. Other models end in a local optimum.

    Args:
        weights: [rows, N] or [N], finite.
        reference: [N]; or [rows, N], one for each row. Finite.
        layout: layout of the weights.
        sweeps: maximal number of passes over the groups.

    Returns:
        Orders [rows, units], or [units]: `permute(weights, layout, orders)` is close to the
        reference in the squared distance. The statistics of batch-norm layers are permuted too and
        do not count.

    Raises:
        InvalidArgument: arrays of other shapes, or weights that are not finite.
    """
    models, target = (as_numpy(values) for values in (weights, reference))
    for name, values in (("weights", models), ("reference", target)):
        check_vectors(values, layout)
        if values.ndim > 2 or not np.isfinite(values).all():
            raise InvalidArgument(
                f"{name} must be finite numbers [rows, N] or [N]; found shape {values.shape}"
            )
    if target.ndim == 2 and models.shape != target.shape:
        raise InvalidArgument(
            f"a reference for each row must have the shape {models.shape}, found {target.shape}"
        )
    return _in_blocks(
        layout,
        models,
        lambda block: _match(
            layout,
            np.atleast_2d(models)[block],
            np.atleast_2d(target)[block if target.ndim == 2 else slice(None)],
            sweeps,
        ),
    )


def canonical_order(weights: ArrayLike | torch.Tensor, layout: Layout) -> Permutation:
    """Return the order of the units of each group by the norm of their incoming weights.

    These are the weights from the images and from the groups that were ordered before, the biases,
    and the weights and biases of batch-norm layers, without their statistics. Permuted copies of a
    model become equal, unless two units of a group have the same norm.

    Args:
        weights: [rows, N] or [N].
        layout: layout of the weights.

    Returns:
        Orders [rows, units], or [units].
    """
    models = as_numpy(weights)
    check_vectors(models, layout)
    net = wiring(layout)

    def sort(block: slice) -> Orders:
        rows, orders = np.atleast_2d(models)[block], dict[str, NDArray[np.int64]]()
        for name in net.hidden:
            norms = np.zeros((len(rows), net.groups[name].units))
            for axis, wire, _ in _wires_at(net, name, {IMAGES, *orders}):
                if axis == 2:
                    continue
                tensor = _tensor(net, wire, rows)
                if wire.source in orders:  # so that copies have the same norm to the last bit
                    tensor = np.take_along_axis(tensor, orders[wire.source][:, None, :, None], 2)
                norms += np.square(tensor).reshape(*norms.shape, -1).sum(axis=-1)
            orders[name] = np.argsort(norms, axis=-1, kind="stable")
        return orders

    return _in_blocks(layout, models, sort)


def match_models(
    dataset: datasets.Dataset, reference: ArrayLike | torch.Tensor | None = None
) -> Permutation:
    """Match whole models to a reference: all states of a model get the same order of units.

    The last state of a model is matched, and the others use its order, so that trajectories stay
    continuous. A twin uses its parent's order if the data set has the parent.

    Args:
        dataset: rows with the columns weights, architecture, model_id and epoch; with
            parent_model_id if there are twins, and zoo if models of several zoos share their ids.
        reference: [N]; the last state of the first model by default.

    Returns:
        Orders [rows, units] for `permute(model_zoos.weights(dataset), layout, orders)`.

    Raises:
        InvalidArgument: a column is missing, or there are no rows; see also `weight_matching`.
    """
    ids, models, epochs = state_keys(dataset)
    if not ids:
        raise InvalidArgument("this data set has no rows: there is no model to match")
    last = np.full(len(ids), -1)
    for row in np.argsort(epochs, kind="stable"):
        last[models[row]] = row
    led, which = np.unique(_leaders(dataset, ids, last), return_inverse=True)
    vectors = weights_of(dataset.select(last[led])).numpy()
    layout = layout_of(dataset[0])
    target = vectors[0] if reference is None else reference
    found = weight_matching(vectors, target, layout)
    return {name: order[which[models]] for name, order in found.items()}


def _leaders(dataset: datasets.Dataset, ids: list[str], last: NDArray[np.int64]) -> list[int]:
    """Return the model whose order each model uses, itself or its parent, given a row of each."""
    wanted = [c for c in ("zoo", "parent_model_id") if c in dataset.column_names]
    if "parent_model_id" not in wanted:
        return list(range(len(ids)))
    table = dataset.with_format("arrow", columns=wanted)[last]
    parents = table["parent_model_id"].to_pylist()
    zoos = [""] * len(ids)
    if "zoo" in wanted:
        zoos = [dense_name(zoo or "") for zoo in table["zoo"].to_pylist()]
    keys = zip(zoos, ids, parents, strict=True)
    dense = {(zoo, own): i for i, (zoo, own, parent) in enumerate(keys) if parent is None}
    return [dense.get(key, i) for i, key in enumerate(zip(zoos, parents, strict=True))]


def _match(layout: Layout, rows: NDArray[Any], target: NDArray[Any], sweeps: int) -> Orders:
    """Return the orders [rows, units] of each group, for target [rows or 1, N]."""
    net = wiring(layout)
    orders: Orders = {
        name: np.tile(np.arange(group.units), (len(rows), 1)) for name, group in net.hidden.items()
    }
    stale = {name: np.ones(len(rows), bool) for name in orders}
    neighbours = {
        name: {w.target for w in net.wires if w.source == name}
        | {w.source for w in net.wires if w.target == name and w.source}
        for name in orders
    }
    settled = net.groups.keys() - orders.keys()
    for sweep in range(sweeps):
        for name in orders:
            if not stale[name].any():
                continue
            chosen = np.flatnonzero(stale[name])
            wanted = target[chosen] if len(target) > 1 else target
            likeness = _likeness(net, name, rows[chosen], wanted, settled, orders, chosen)
            best = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in likeness])
            changed = chosen[(best != orders[name][chosen]).any(axis=1)]
            orders[name][chosen] = best
            stale[name][chosen] = sweep == 0
            settled = settled | {name}
            for other in neighbours[name] & orders.keys() - {name}:
                stale[other][changed] = True
        if not any(rows.any() for rows in stale.values()):
            break
    return orders


def _likeness(
    net: Wiring,
    name: str,
    rows: NDArray[Any],
    target: NDArray[Any],
    settled: AbstractSet[str],
    orders: Orders,
    chosen: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the products of a group's reference units and its own, [rows, reference, own]."""
    units = net.groups[name].units
    likeness = np.zeros((len(rows), units, units))
    for axis, wire, other in _wires_at(net, name, settled):
        own, wanted = _tensor(net, wire, rows), _tensor(net, wire, target)
        if other in orders:
            order = orders[other][chosen]
            order = order[:, None, :, None] if axis == 1 else order[:, :, None, None]
            own = np.take_along_axis(own, order, axis=3 - axis)
        if axis == 2:
            own, wanted = own.swapaxes(1, 2), wanted.swapaxes(1, 2)
        one, two = (part.reshape(len(part), units, -1) for part in (wanted, own))
        likeness += one @ two.swapaxes(1, 2)
    return likeness


def _wires_at(net: Wiring, name: str, settled: AbstractSet[str]) -> Ends:
    """Return the parameters of a group whose other end is ordered already.

    Each comes with the axis of `_tensor` that belongs to the group, and the other axis's group.
    """
    found: Ends = []
    for wire in net.wires:
        if wire.buffer:
            continue
        if wire.target == name and (wire.source is None or wire.source in settled):
            found.append((1, wire, wire.source))
        if wire.source == name and wire.target in settled:
            found.append((2, wire, wire.target))
    return found


def _tensor(net: Wiring, wire: Wire, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return a tensor of each row, [rows, target units, source units or 1, places]."""
    before = 1 if wire.source is None else net.groups[wire.source].units
    shape = (len(rows), net.groups[wire.target].units, before, -1)
    return rows[:, wire.slot.slice].astype(np.float64).reshape(shape)


def _in_blocks(
    layout: Layout, models: NDArray[Any], orders_of: Callable[[slice], Orders]
) -> Permutation:
    """Return the orders of models [rows, N] or [N], computed by a function block by block."""
    rows = len(np.atleast_2d(models))
    products = max((units**2 for units in hidden_units(layout).values()), default=0)
    size = max(1, _BLOCK_BYTES // (8 * max(layout.size, products)))
    blocks = [orders_of(slice(start, start + size)) for start in range(0, rows, size)]
    return {
        name: np.concatenate(
            [np.empty((0, units), np.int64), *(block[name] for block in blocks)]
        ).reshape(*models.shape[:-1], units)
        for name, units in hidden_units(layout).items()
    }
