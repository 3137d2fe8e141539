"""Signs and scales of hidden units: other weights for the same function.

If the activation is odd (tanh), a unit may change its sign if the weights that read it change
theirs. If it is homogeneous (relu), a unit's incoming weights and bias may be multiplied by a
positive factor if the weights that read it are divided by the same factor. In batch-norm layers,
weight and bias take the factor.

Factors map the name of a group of `hidden_units` to a factor of each unit, [units], or [rows,
units] for each row.

    factors = random_factors(layout, "tanh", np.random.default_rng(0), rows=len(weights))
    flipped = rescale(weights, layout, factors, "tanh")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..builders.arguments import check_kind
from ..builders.hyperparameters import HOMOGENEOUS, ODD, check_activation
from ..builders.layout import Layout
from ..builders.wiring import Group, wiring
from ..errors import InvalidArgument
from .arrays import as_generator, check_layout, check_vectors, constant, is_floating

if TYPE_CHECKING:
    from .arrays import Array

Factors = Mapping[str, NDArray[np.float64]]
Activations = str | Sequence[str]

_BLOCK_BYTES = 64 << 20
"""Limit of the number of factors in memory at a time, for many rows."""


def random_factors(
    layout: Layout,
    activation: Activations,
    generator: np.random.Generator | int,
    rows: int | None = None,
    *,
    flips: bool = True,
    scales: float = 1.0,
) -> Factors:
    """Draw factors that do not change the function of networks.

    Args:
        layout: layout of the networks.
        activation: activation of all networks, or one for each row.
        generator: source of the draws, or a seed.
        rows: number of rows, each with its own factors; None for one factor per unit.
        flips: whether to draw signs, if the activation allows it. Units that are max-pooled keep
            their signs.
        scales: positive factors are drawn log-uniformly from [1 / scales, scales], if the
            activation allows it.

    Returns:
        A factor for each hidden unit; 1 if the activation allows no other.

    Raises:
        InvalidArgument: scales below 1, an unknown activation, or a wrong number of them.
    """
    check_scales(scales)
    check_layout(layout)
    generator, factors = as_generator(generator), {}
    activations = _activations(activation, rows)
    for name, group in wiring(layout).hidden.items():
        odd, homogeneous = _allowed(group, activations)
        shape = (group.units,) if rows is None else (rows, group.units)
        signs = np.where(odd & flips, generator.choice([-1.0, 1.0], shape), 1.0)
        sizes = np.exp(generator.uniform(-1, 1, shape) * np.log(scales))
        factors[name] = signs * np.where(homogeneous, sizes, 1.0)
    return factors


def check_scales(scales: float) -> None:
    """Refuse a limit of scales that is not a number of at least 1.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(scales, Real) or not 1 <= scales < np.inf:
        raise InvalidArgument(f"scales must be at least 1, found {scales!r:.80}")


def rescale(weights: Array, layout: Layout, factors: Factors, activation: Activations) -> Array:
    """Return weights of the same function whose hidden units are multiplied by factors.

    Args:
        weights: [..., N], numpy array or torch tensor of floating-point numbers; [rows, N] if each
            row has its own factors or activation.
        layout: layout of the weights.
        factors: factors of groups of units; units of other groups are unchanged.
        activation: activation of all networks, or one for each row.

    Returns:
        A copy of the same kind and shape. Signs are exact; other factors cause rounding.

    Raises:
        InvalidArgument: the factors do not fit, or change the function of a network with this
            activation.
    """
    check_vectors(weights, layout)
    if not is_floating(weights):
        raise InvalidArgument(
            f"weights must be floating-point numbers, found {weights.dtype}: factors would be "
            "rounded to integers"
        )
    activations = _activations(activation, len(weights) if weights.ndim == 2 else None)
    given = _check(layout, factors, activations)
    rows = {len(factor) for factor in given.values() if factor.ndim == 2}
    if rows and (weights.ndim != 2 or rows != {len(weights)}):
        raise InvalidArgument(
            f"factors for {' and '.join(map(str, sorted(rows)))} rows do not fit weights of shape "
            f"{tuple(weights.shape)}"
        )
    if not rows:
        every: Any = constant(_multiplier(layout, given), weights, same_type=True)
        return cast("Array", weights * every)
    result: Any = weights.copy() if isinstance(weights, np.ndarray) else cast(Any, weights).clone()
    size = max(1, _BLOCK_BYTES // (8 * layout.size))
    for start in range(0, len(weights), size):
        block = slice(start, start + size)
        own = {n: factor[block] if factor.ndim == 2 else factor for n, factor in given.items()}
        result[block] *= constant(_multiplier(layout, own), weights, same_type=True)
    return cast("Array", result)


def _activations(activation: Activations, rows: int | None) -> NDArray[np.str_]:
    """Return the activations, [] or [rows, 1].

    Raises:
        InvalidArgument: one is unknown, or their number is not that of the rows.
    """
    names = np.array(activation, dtype=str)
    for name in np.unique(names).tolist():
        check_activation(name)
    if names.ndim and names.shape != (rows,):
        raise InvalidArgument(
            f"expected one activation, or one for each of {rows or 'several'} rows, found "
            f"{len(names)}"
        )
    return names[:, None] if names.ndim else names


def _allowed(group: Group, activations: NDArray[np.str_]) -> tuple[Any, Any]:
    """Return whether signs, and whether scales, keep the function: bool [] or [rows, 1]."""
    odd = homogeneous = np.ones(activations.shape, bool)
    for own in group.activations:
        functions = activations if own is True else own or "identity"
        odd = odd & np.isin(functions, sorted(ODD))
        homogeneous = homogeneous & np.isin(functions, sorted(HOMOGENEOUS))
    return odd & (not group.pool), homogeneous


def _check(layout: Layout, factors: Factors, activations: NDArray[np.str_]) -> dict[str, Any]:
    """Return the factors as float64 arrays [units] or [rows, units].

    Raises:
        InvalidArgument: they do not fit, or change the function.
    """
    check_kind(factors, Mapping, "factors must map groups of units to a factor of each unit")
    groups, given = wiring(layout).hidden, {}
    for name, values in factors.items():
        if name not in groups:
            raise InvalidArgument(f"{name!r} is no hidden group; they are {', '.join(groups)}")
        factor = np.asarray(values, np.float64)
        units = groups[name].units
        if factor.ndim not in (1, 2) or factor.shape[-1] != units or not np.isfinite(factor).all():
            raise InvalidArgument(f"{name}: expected a finite factor for each of its {units} units")
        odd, homogeneous = _allowed(groups[name], activations)
        if not (((factor > 0) | odd) & ((np.abs(factor) == 1) | homogeneous) & (factor != 0)).all():
            raise InvalidArgument(
                f"{name}: these factors change the function of the network. None may be 0; a "
                f"negative one needs an odd activation ({', '.join(sorted(ODD))}) without "
                "max-pooling; one that is not 1 or -1 needs a homogeneous activation "
                f"({', '.join(sorted(HOMOGENEOUS))})"
            )
        given[name] = factor
    return given


def _multiplier(layout: Layout, factors: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the factor of each weight, [N] or [rows, N]."""
    lead = np.broadcast_shapes(*(factor.shape[:-1] for factor in factors.values()))
    net = wiring(layout)
    result = np.ones((*lead, layout.size))
    for wire in net.wires:
        units = net.groups[wire.target].units
        part = result[..., wire.slot.slice]
        if wire.scales and wire.target in factors:
            part *= np.repeat(factors[wire.target], wire.slot.size // units, axis=-1)
        if wire.source and wire.source in factors:
            before = factors[wire.source]
            places = wire.slot.size // (units * before.shape[-1])
            part *= np.tile(np.repeat(1 / before, places, axis=-1), units)
    return result
