"""Layers of stacked models: the columns of convolutions, pools, and their backward passes.

Activations are [model, channel, row, column, sample].
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ....builders.architecture import Layer

aten = torch.ops.aten


def unfold(
    x: torch.Tensor, layer: Layer, memory: dict[str, torch.Tensor] | None = None
) -> tuple[torch.Tensor, int | None]:
    """Return the inputs [p, inputs of one output, ...] of each output, and the output's side.

    A last row and column that the pool after the convolution drops are not computed. With
    `memory`, the result is in it and valid until the layer's next call.
    """
    if layer.kernel is None:
        return x.flatten(1, -2), None
    k, stride = layer.kernel, layer.stride
    if layer.padding:
        x = functional.pad(x, (0, 0, *[layer.padding] * 4))
    side = (x.shape[2] - k) // stride + 1
    if layer.pool:
        side -= side % 2
    seen = (side - 1) * stride + k
    x = x[:, :, :seen, :seen]
    windows = x.unfold(2, k, stride).unfold(3, k, stride)  # [p, channels, side, side, b, k, k]
    windows = windows.permute(0, 1, 5, 6, 2, 3, 4)
    if memory is None:
        columns = windows.contiguous()
    else:
        if layer.name not in memory or memory[layer.name].numel() < windows.numel():
            memory[layer.name] = x.new_empty(windows.numel())
        columns = memory[layer.name][: windows.numel()].view(windows.shape).copy_(windows)
    return columns.flatten(1, 3).flatten(2), side


def fold(columns: torch.Tensor, layer: Layer, shape: torch.Size) -> torch.Tensor:
    """Return the transpose of `unfold`: for every input, the sum over its positions in columns."""
    if layer.kernel is None:
        return columns.view(shape)
    k, stride, padding = layer.kernel, layer.stride, layer.padding
    side = math.isqrt(columns.shape[2] // shape[-1])
    columns = columns.view(*shape[:2], k, k, side, side, shape[-1])
    height, width = (size + 2 * padding for size in shape[2:4])
    x = columns.new_zeros(*shape[:2], height, width, shape[-1])
    seen = (side - 1) * stride + 1
    for row in range(k):
        for column in range(k):
            window = x[:, :, row : row + seen : stride, column : column + seen : stride]
            window += columns[:, :, row, column]
    return x[:, :, padding : height - padding, padding : width - padding]


def average(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Return the mean over all positions of x [p, channels, h, w, b] if the layer has `gap`."""
    return x.mean((2, 3), keepdim=True) if layer.gap else x


def pool(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the 2 x 2 maxima of y [p, channels, h, w, b], and what `unpool` needs.

    torch sees channels-last memory with b channels, for which its kernel is fastest.
    """
    images = y.flatten(0, 1).permute(0, 3, 1, 2)
    maxima, places = aten.max_pool2d_with_indices(images, [2, 2], [2, 2])
    return maxima.permute(0, 2, 3, 1).unflatten(0, y.shape[:2]), images, places


def unpool(g: torch.Tensor, images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return each gradient at the position of its maximum (the first of equals), 0 elsewhere."""
    shape = g.shape[:2]
    g = aten.max_pool2d_with_indices_backward(
        g.flatten(0, 1).permute(0, 3, 1, 2), images, [2, 2], [2, 2], [0, 0], [1, 1], False, places
    )
    return g.permute(0, 2, 3, 1).unflatten(0, shape)
