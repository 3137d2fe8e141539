"""The few operations with different names in numpy and torch; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..builders.arguments import check_kind
from ..builders.layout import Layout
from ..errors import InvalidArgument

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", NDArray[np.generic], torch.Tensor)


def check_layout(layout: Layout) -> None:
    """Refuse an argument that is not a layout.

    Raises:
        InvalidArgument: it is something else, such as a row.
    """
    check_kind(layout, Layout, "layout must be a layout: layout_of(row) returns that of a row")


def as_generator(generator: np.random.Generator | int) -> np.random.Generator:
    """Return a generator of random numbers; for a seed, a new one.

    Raises:
        InvalidArgument: it is something else.
    """
    try:
        return np.random.default_rng(generator)
    except (TypeError, ValueError):
        raise InvalidArgument(
            "generator must be a numpy.random.Generator or a seed from 0 on, found "
            f"{generator!r:.80}"
        ) from None


def check_vectors(weights: Array, layout: Layout) -> None:
    """Refuse an argument that is not an array or tensor [..., layout.size], or not a layout.

    Raises:
        InvalidArgument: it is something else.
    """
    check_layout(layout)
    shape = getattr(weights, "shape", None)
    if not shape or shape[-1] != layout.size:
        found = type(weights).__name__ if shape is None else f"shape {tuple(shape)}"
        raise InvalidArgument(
            f"weights must be a numpy array or torch tensor [..., {layout.size:,}] for {layout}, "
            f"found {found}"
        )


def is_floating(array: Array) -> bool:
    """Whether the numbers of an array or tensor are floating-point numbers."""
    if isinstance(array, np.ndarray):
        return np.issubdtype(array.dtype, np.floating)
    return bool(cast(Any, array).is_floating_point())


def concatenate(parts: Sequence[Array]) -> Array:
    """Join arrays of one kind at their last axis."""
    if isinstance(parts[0], np.ndarray):
        return cast("Array", np.concatenate(cast(Any, parts), axis=-1))
    import torch

    return torch.cat(cast(Any, parts), dim=-1)


def zeros(shape: Sequence[int], like: Array) -> Array:
    """Return zeros of the kind, dtype and device of another array."""
    if isinstance(like, np.ndarray):
        return cast("Array", np.zeros(shape, like.dtype))
    return cast("Array", cast(Any, like).new_zeros(tuple(shape)))


def constant(values: NDArray[np.generic], like: Array, *, same_type: bool = False) -> Array:
    """Return an array as an array or tensor like another one, on the same device.

    Args:
        values: the array.
        like: numpy array or torch tensor.
        same_type: whether to use the dtype of `like` too.
    """
    if isinstance(like, np.ndarray):
        return cast("Array", values.astype(like.dtype) if same_type else values)
    import torch

    tensor = torch.from_numpy(values)
    return tensor.to(cast(Any, like).device, cast(Any, like).dtype if same_type else tensor.dtype)


def gather_rows(array: Array, sources: Iterable[NDArray[np.int64]]) -> Array:
    """Return result[i, j] = array[i, sources[i, j]]; the sources come in blocks of rows."""
    parts, start = [], 0
    for block in sources:
        rows = array[start : start + len(block)]
        start += len(block)
        if isinstance(rows, np.ndarray):
            parts.append(cast("Array", np.take_along_axis(rows, block, axis=1)))
        else:
            parts.append(cast(Any, rows).gather(1, constant(block, cast(Any, rows))))
    if not parts:
        return array[:0]
    if isinstance(parts[0], np.ndarray):
        return cast("Array", np.concatenate(cast(Any, parts)))
    import torch

    return torch.cat(cast(Any, parts))
