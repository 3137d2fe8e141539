"""What a kernel is given, checked: a kernel itself looks at nothing before it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....builders.layout import Layout
from ....builders.specification import Model
from ....errors import InvalidArgument
from ...schedules import schedule
from ...streams import dropout_scale, dropout_threshold
from ..population import check_models

if TYPE_CHECKING:
    import torch

    Array = NDArray[Any]

OPTIMIZERS = {"sgd": 0, "adam": 1, "adamw": 2, "nesterov": 3, "rmsprop": 4}
"""The kernels' number of each optimizer, by which `with_optimizer` in elementwise.hpp knows it."""

RATES = np.dtype(
    [
        ("learning_rate", "f8"),
        ("seed", "u8"),
        ("weight_decay", "f4"),
        ("momentum", "f4"),
        ("dropout_threshold", "u4"),
        ("dropout_scale", "f4"),
    ]
)
"""Values that may differ between models that train together: the kernels' `Rates`."""


def rates_of(models: Sequence[Model], count: int) -> NDArray[np.void]:
    """The rates of models that train side by side, `RATES` [count].

    Raises:
        InvalidArgument: as `check_models`.
    """
    own = check_models(models, count, list(OPTIMIZERS))
    rates = np.zeros(count, RATES)
    rates["seed"] = own.seeds.astype(np.uint64)
    rates["learning_rate"] = own.learning_rate
    rates["weight_decay"] = own.weight_decay
    rates["momentum"] = own.momentum
    rates["dropout_threshold"] = dropout_threshold(own.dropout)
    rates["dropout_scale"] = dropout_scale(own.dropout)
    return rates


def check_samples(
    layout: Layout, images: Array | torch.Tensor, labels: Array | torch.Tensor
) -> None:
    """Refuse images and labels that do not fit a network.

    Raises:
        InvalidArgument: another shape, labels that are no integers or out of range.
    """
    side = layout.architecture.image_size
    expected = (layout.channels, side, side)
    if tuple(images.shape[1:]) != expected or not 0 < len(images) < 2**31:
        raise InvalidArgument(f"images must be {['n', *expected]}, found {list(images.shape)}")
    if tuple(labels.shape) != (len(images),) or "int" not in str(labels.dtype):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise InvalidArgument(f"labels must be integers [{len(images)}], found {found}")
    if labels.min() < 0 or labels.max() >= layout.classes:
        raise InvalidArgument(f"labels must lie in [0, {layout.classes})")


def check_orders(orders: ArrayLike, models: int, images: int) -> NDArray[np.integer[Any]]:
    """The sample orders of an epoch, integers [models, m] in [0, images).

    Raises:
        InvalidArgument: another shape, or numbers that are no images'.
    """
    order = np.asarray(orders)
    if order.ndim != 2 or len(order) != models or not order.size:
        raise InvalidArgument(f"orders must be [{models}, m], found {list(order.shape)}")
    if order.dtype.kind not in "iu" or order.min() < 0 or order.max() >= images:
        raise InvalidArgument(f"orders must be integers in [0, {images})")
    return order


@dataclass(frozen=True)
class SizeLimits:
    """The largest networks that a kernel trains.

    Attributes:
        layers: number of layers.
        weights: length of the weight vector.
        outputs: of all layers for one image, before pooling.
        row: outputs in a row of an image, in all channels.
    """

    layers: int
    weights: int
    outputs: int
    row: int

    def misfit(self, layout: Layout) -> str | None:
        """Which limit a network exceeds, in words; None if it exceeds none."""
        outputs = layout.outputs
        found = {
            "layers": (len(outputs), self.layers),
            "weights": (layout.size, self.weights),
            "outputs": (sum(math.prod(shape) for shape in outputs), self.outputs),
            "outputs in a row of an image": (
                max(shape[0] * shape[1] for shape in [*outputs, (0, 0)] if len(shape) > 1),
                self.row,
            ),
        }
        for what, (size, limit) in found.items():
            if size > limit:
                return f"{limit:,} {what}; {layout.architecture.title:.100} has {size:,}"
        return None


class EpochPace(NamedTuple):
    """What changes from step to step of an epoch, float64 [steps] or None where nothing does.

    Attributes:
        factors: multipliers of the learning rate.
        momenta: values that replace the model's momentum (for Adam, beta1).
    """

    factors: NDArray[np.float64] | None
    momenta: NDArray[np.float64] | None


def pace_of_epoch(scheduler: str | None, epochs: int, before: int, steps: int) -> EpochPace:
    """Return the pace of an epoch of `steps` steps, after `before` steps in earlier epochs."""
    found = schedule(scheduler, epochs, steps)

    def these(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if values is None:
            return None
        return values[(before + np.arange(steps)).clip(max=len(values) - 1)]  # the last one stays

    return EpochPace(*(these(values) for values in found or (None, None)))


def weights_order(layout: Layout, alignment: int = 1) -> NDArray[np.int64]:
    """Where each weight of a kernel lies in the layout's vector, -1 for none: [N] or a few more.

    A kernel counts channels last: convolutions [row, column, in, out], linear weights [in, out],
    where the first linear layer sees its image as [row, column, channel].

    Args:
        alignment: each tensor begins at a multiple of this.
    """
    indices = np.arange(layout.size)
    order, channels = [], layout.channels
    for slots in layout.layers.values():
        shape = slots["weight"].shape
        side = math.isqrt(shape[1] // channels) if len(shape) == 2 else shape[2]
        weight = indices[slots["weight"].slice].reshape(shape[0], channels, side, side)
        for tensor in (weight.transpose(2, 3, 1, 0).reshape(-1), indices[slots["bias"].slice]):
            order.append(np.pad(tensor, (0, -len(tensor) % alignment), constant_values=-1))
        channels = shape[0]
    return np.concatenate(order)
