"""Weight vectors as sequences of tokens, and back: the form that SANE uses.

A token holds the numbers of one output channel: its row of the weight, then its bias (and its other
tensors, if a layer has some). All tokens have the same width: shorter ones are padded with zeros,
longer ones are cut into several. After Schuerholt et al. 2024 ("Towards Scalable and Versatile
Weight Space Learning", ICML).

    tokens, mask, positions = to_tokens(weights, layout, width=64)
    assert (from_tokens(tokens, layout) == weights).all()
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..builders.arguments import check_kind
from ..builders.layout import Layout
from ..errors import InvalidArgument
from .arrays import check_layout, check_vectors, concatenate, constant, zeros

if TYPE_CHECKING:
    import torch

    from .arrays import Array


class Tokens(NamedTuple):
    """Weights as tokens: numpy arrays or torch tensors, like the weights.

    Attributes:
        tokens: [..., T, width], in the type of the weights.
        mask: bool [T, width], True for a weight in a token, False for padding.
        positions: int64 [T, 3]: index of the token, index of its layer, and its output channel.
            Pieces of the same channel share the last two.

    If windows start at different tokens, mask and positions also have the leading axes.
    """

    tokens: NDArray[np.generic] | torch.Tensor
    mask: NDArray[np.generic] | torch.Tensor
    positions: NDArray[np.generic] | torch.Tensor


def to_tokens(weights: Array, layout: Layout, width: int | None = None) -> Tokens:
    """Cut weight vectors into tokens.

    Args:
        weights: [..., N], numpy array or torch tensor.
        layout: layout of the weights.
        width: width of a token; by default that of the longest channel, so that none is cut.

    Raises:
        InvalidArgument: the vectors have another length, or `width` is below 1.
    """
    check_vectors(weights, layout)
    width = longest_channel(layout) if width is None else width
    if width < 1:
        raise InvalidArgument(f"the width of tokens must be at least 1, found {width}")
    mask, positions = _places(layout, width)
    lead: tuple[int, ...] = tuple(weights.shape[:-1])
    tokens = zeros((*lead, len(mask), width), weights)
    start = 0
    for slots in layout.layers.values():
        channels, length = _size(slots)
        pieces = -(-length // width)
        stop = start + channels * pieces
        rows = cast(Any, tokens)[..., start:stop, :].reshape((*lead, channels, pieces * width))
        column = 0  # rows is a view, since the axes that it joins are neighbours
        for slot in slots.values():
            size = slot.size // channels
            rows[..., column : column + size] = weights[..., slot.slice].reshape(
                (*lead, channels, size)
            )
            column += size
        start = stop
    return Tokens(tokens, constant(mask.copy(), weights), constant(positions.copy(), weights))


def from_tokens(tokens: Array | Tokens, layout: Layout) -> Array:
    """Join tokens [..., T, width] to weight vectors [..., N]: the inverse of `to_tokens`.

    Args:
        tokens: numpy array or torch tensor, or the result of `to_tokens`.
        layout: layout of the weights.

    Raises:
        InvalidArgument: the number of tokens is not that of the layout at this width.
    """
    check_layout(layout)
    tokens = cast("Array", tokens.tokens) if isinstance(tokens, Tokens) else tokens
    if not getattr(tokens, "shape", None):
        found = type(tokens).__name__
        raise InvalidArgument(f"tokens must be an array or a tensor [..., T, width], found {found}")
    width = tokens.shape[-1]
    expected = sum(c * -(-length // width) for c, length in map(_size, layout.layers.values()))
    if tokens.ndim < 2 or tokens.shape[-2] != expected:
        raise InvalidArgument(
            f"{layout} has {expected:,} tokens of width {width}, found shape {tuple(tokens.shape)}"
        )
    lead: tuple[int, ...] = tuple(tokens.shape[:-2])
    parts, start = [], 0
    for slots in layout.layers.values():
        channels, length = _size(slots)
        stop = start + channels * -(-length // width)
        rows = tokens[..., start:stop, :].reshape((*lead, channels, -(-length // width) * width))
        column = 0
        for slot in slots.values():
            size = slot.size // channels
            parts.append(rows[..., column : column + size].reshape((*lead, slot.size)))
            column += size
        start = stop
    return concatenate(parts)


def token_windows(tokens: Tokens, length: int, start: int | ArrayLike) -> Tokens:
    """Return windows of consecutive tokens.

    Args:
        tokens: result of `to_tokens`, or windows of it.
        length: number of tokens in a window.
        start: first token of the window; or integers [B], one for each row of tokens [B, T, width].

    Returns:
        Tokens [..., length, width] with their mask and positions, which are [B, length, ...] if
        each row has its own start.

        Raises:
            InvalidArgument: a window starts or ends outside the tokens.
    """
    check_kind(tokens, Tokens, "tokens must be what to_tokens returns")
    total, starts = tokens.tokens.shape[-2], np.asarray(start)
    if not 1 <= length <= total:
        raise InvalidArgument(f"windows of {total} tokens have 1 to {total} tokens, found {length}")
    if starts.size and starts.dtype.kind not in "iu":
        raise InvalidArgument(f"windows start at integers, found {starts.dtype}")
    if starts.size and not 0 <= starts.min() <= starts.max() <= total - length:
        raise InvalidArgument(
            f"windows of {length} of {total} tokens start at 0 to {total - length}, found "
            f"{starts.min()} to {starts.max()}"
        )
    starts = starts.astype(np.int64)
    if not starts.ndim:
        window = slice(int(starts), int(starts) + length)
        return Tokens(*(cast(Any, part)[..., window, :] for part in tokens))
    if tokens.tokens.shape[:-2] != starts.shape:
        raise InvalidArgument(
            f"expected a start for each of {tuple(tokens.tokens.shape[:-2])} rows, "
            f"found {starts.shape}"
        )
    places = constant(starts[:, None] + np.arange(length), cast(Any, tokens.tokens))
    rows = constant(np.arange(len(starts))[:, None], cast(Any, tokens.tokens))
    parts: list[Any] = list(tokens)  # in windows, each row has its own mask and positions
    return Tokens(*(part[rows, places] if part.ndim > 2 else part[places] for part in parts))


def longest_channel(layout: Layout) -> int:
    """Return the number of elements in the longest channel: a width at which no channel is cut."""
    return max(length for _, length in map(_size, layout.layers.values()))


def _size(slots: dict[str, Any]) -> tuple[int, int]:
    """Return the number of output channels of a layer, and of the elements in each."""
    channels = next(iter(slots.values())).shape[0]
    return channels, sum(slot.size for slot in slots.values()) // channels


@lru_cache(maxsize=16)
def _places(layout: Layout, width: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the mask and the positions of a layout's tokens."""
    masks, positions = [], []
    for number, slots in enumerate(layout.layers.values()):
        channels, length = _size(slots)
        pieces = -(-length // width)
        held = np.arange(pieces * width) < length
        masks.append(np.broadcast_to(held, (channels, len(held))).reshape(-1, width))
        channel = np.repeat(np.arange(channels), pieces)
        positions.append(np.stack([np.full(len(channel), number), channel], axis=1))
    places = np.concatenate(positions)
    return np.concatenate(masks), np.column_stack([np.arange(len(places)), places])
