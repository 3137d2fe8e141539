"""Random words and dropout masks of stacked models, the numbers of generation/streams.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ....builders.layout import Layout
from ...streams import DROPOUT, dropout_shapes
from .rates import BlockRates


def dropout_masks(
    layout: Layout, rates: BlockRates, step: torch.Tensor, batch_size: int
) -> list[torch.Tensor]:
    """Return the bits of streams.dropout_masks, on the rates' device, with samples innermost.

    Args:
        layout: of the architecture.
        rates: the rates of p models.
        step: optimizer steps made before this one, int64 [], on the device.
        batch_size: samples of this batch, b.

    Returns:
        For each dropout layer, float32 [p, *shape, b].
    """
    shapes = dropout_shapes(layout)
    sizes = [math.prod(shape) for shape in shapes]
    words = random_words(DROPOUT, sum(sizes), rates, step, batch_size)
    flat = torch.stack(words, 2).flatten(1, 2)[:, : sum(sizes)]  # [p, units, b]
    masks = (flat >= rates.threshold[:, None]) * rates.scale[:, None]
    return [
        mask.unflatten(1, shape) for mask, shape in zip(masks.split(sizes, 1), shapes, strict=True)
    ]


def random_words(
    purpose: int, units: int, rates: BlockRates, step: torch.Tensor, batch_size: int
) -> list[torch.Tensor]:
    """Return random words of 32 bits as in streams.py: four int64 [p, units / 4 rounded up, b].

    Word i of the four belongs to the units 4 j + i.
    """
    blocks = torch.arange(-(-units // 4), device=step.device)[:, None]
    samples = torch.arange(batch_size, device=step.device) | purpose << 24
    counter = blocks, samples, step & _LOW, step >> 32
    return _philox(counter, rates.key[:, :, None, None].unbind(1))


_LOW = 2**32 - 1


def _philox(counter: Sequence[torch.Tensor], key: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Compute streams.philox with words of 32 bits in int64 tensors, which are broadcast.

    A product of two words may need all 64 bits, and compilers may assume that signed numbers do not
    overflow. The factors minus 2^32 are small enough: word * factor = word * 2^32 + product.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * (0xD2511F53 - 2**32), c2 * (0xCD9E8D57 - 2**32)
        high_a, high_b = c0 + (a >> 32), c2 + (b >> 32)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, b & _LOW, high_a ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return [c0, c1, c2, c3]
