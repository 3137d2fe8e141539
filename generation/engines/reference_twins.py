"""Sparse twins one at a time in plain torch, bit for bit as the paper's code trains them.

The formulas and their sources are in builders/variational_dropout.py. Random numbers come from
torch's global stream in the order of the paper's code (def_NN_experiment_distillation.py). It
builds a dense network with the twin's seed last, so its stream then has the state of a dense
model's after initialisation. One sample order for the evaluation of epoch 0 follows, then for each
epoch a sample order and, for each step, the noise of the layers' outputs in forward order.
Gradients are summed in the order of torch's graph, which therefore equals that of the paper's code:
for instance, a linear layer's log_alpha enters the divergence twice, as two nodes. With float32,
one thread, torch 2.13 and an Intel processor with AVX-512, this reproduces twins of the paper's
code bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...builders.layout import Layout
from ...builders.specification import Model
from ...builders.variational_dropout import (
    BOUNDS,
    KL_CONSTANTS,
    LOG_SIGMA2_START,
    PRUNE_LOG_ALPHA,
    TINY,
    kl_weight,
)
from ..streams import gaussian_noise
from .reference import Network


class TwinLayer(nn.Module):
    """A convolution or linear layer whose weights are normally distributed.

    It uses local reparametrisation: in training mode it draws its outputs instead of its weights.

    Args:
        layer: provides weight and bias, the means.

    Attributes:
        weight, bias, log_sigma2, log_sigma2_bias: parameters; the last is None in a linear layer.
        noise: standard normal numbers of the next forward pass [b, *output], or None to draw them
            from torch's global stream.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.convolution = isinstance(layer, nn.Conv2d)
        self.bound = BOUNDS["convolution" if self.convolution else "linear"]
        self.window: dict[str, Any] = (
            {"stride": layer.stride, "padding": layer.padding}
            if isinstance(layer, nn.Conv2d)
            else {}
        )
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.log_sigma2 = nn.Parameter(torch.full_like(self.weight, LOG_SIGMA2_START))
        self.log_sigma2_bias = (
            nn.Parameter(torch.full_like(self.bias, LOG_SIGMA2_START)) if self.convolution else None
        )
        self.noise: torch.Tensor | None = None

    def log_alpha(self) -> torch.Tensor:
        """Return log alpha of the weight, a new node of the graph at each call."""
        return self._log_alpha(self.weight, self.log_sigma2)

    def log_alpha_bias(self) -> torch.Tensor:
        """Return log alpha of a convolution's bias."""
        assert self.log_sigma2_bias is not None
        return self._log_alpha(self.bias, self.log_sigma2_bias)

    def _log_alpha(self, mean: torch.Tensor, log_sigma2: torch.Tensor) -> torch.Tensor:
        values = log_sigma2 - 2 * torch.log(torch.abs(mean) + TINY)
        return torch.clamp(values, -self.bound, self.bound)

    def pruned(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias as used in evaluation."""
        weight = torch.where(self.log_alpha() >= PRUNE_LOG_ALPHA, 0.0, self.weight)
        if not self.convolution:
            return weight, self.bias
        return weight, torch.where(self.log_alpha_bias() >= PRUNE_LOG_ALPHA, 0.0, self.bias)

    def divergence(self) -> torch.Tensor:
        """Return the KL divergence from the prior, in nats."""
        if not self.convolution:
            return _divergence(self.log_alpha(), self.log_alpha())
        weight, bias = self.log_alpha(), self.log_alpha_bias()
        return _divergence(weight, weight) + _divergence(bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            weight, bias = self.pruned()
            if self.convolution:
                return functional.conv2d(x, weight, bias, **self.window)
            return functional.linear(x, weight) + bias
        if self.convolution:
            mean = functional.conv2d(x, self.weight, self.bias, **self.window)
            alpha, alpha_bias = self.log_alpha(), self.log_alpha_bias()
            variance = functional.conv2d(
                x * x,
                torch.exp(alpha) * self.weight * self.weight,
                torch.exp(alpha_bias) * self.bias * self.bias,
                **self.window,
            )
            return mean + torch.sqrt(TINY + variance) * self._noise(mean)
        mean = functional.linear(x, self.weight)
        variance = x.pow(2).matmul(torch.exp(self.log_alpha()).T * self.weight.T**2)
        return mean + torch.sqrt(variance + TINY) * self._noise(mean) + self.bias

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape) if self.noise is None else self.noise


def _divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    k1, k2, k3 = KL_CONSTANTS
    values = k1 * torch.sigmoid(k2 + k3 * first) - 0.5 * torch.log1p(torch.exp(-second)) - k1
    return -torch.sum(values)


class VariationalTwin(Network):
    """The twin of a dense model, to be trained by `reference.train`.

    Its losses are cross entropies only, like those of its parent; those of the paper's code also
    contain the divergence.

    Args:
        module, model, layout, stream: see `Network`; `model.epochs` are the twin's.
        parent: the dense model's weights, float32 [N].
    """

    def __init__(
        self, module: nn.Module, model: Model, layout: Layout, stream: str, *, parent: np.ndarray
    ) -> None:
        super().__init__(module, model, layout, stream)
        _start_from(module, layout, parent)
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                setattr(module, name, TwinLayer(layer))
        self.layers = [layer for layer in module.children() if isinstance(layer, TwinLayer)]
        self.model, self.layout, self.stream, self.step = model, layout, stream, 0

    def before_step(self, batch_size: int) -> None:
        super().before_step(batch_size)
        if self.stream == "philox":
            noise = gaussian_noise(self.layout, self.model.seed, self.step, batch_size)
            for layer, values in zip(self.layers, noise, strict=True):
                layer.noise = torch.from_numpy(np.ascontiguousarray(values))
            self.step += 1

    def penalty(self, epoch: int) -> torch.Tensor:
        total = sum(layer.divergence() for layer in self.layers)  # the graph of the paper's code
        assert isinstance(total, torch.Tensor)
        return kl_weight(epoch, self.model.epochs) * total

    @torch.no_grad()
    def state(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the pruned weights, and `mean` and `log_sigma2`."""
        start = torch.tensor(LOG_SIGMA2_START)
        vectors = [
            [tensor for layer in self.layers for tensor in layer.pruned()],
            [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)],
            [
                tensor
                for layer in self.layers
                for tensor in (
                    layer.log_sigma2,
                    start.expand_as(layer.bias)
                    if layer.log_sigma2_bias is None
                    else layer.log_sigma2_bias,
                )
            ],
        ]
        weights, mean, log_sigma2 = (torch.cat([t.reshape(-1) for t in v]) for v in vectors)
        return weights, {"mean": mean, "log_sigma2": log_sigma2}


class PrunedTwin(Network):
    """A dense model whose pruned weights stay 0 while the other weights continue training.

    Args:
        module, model, layout, stream: see `Network`; `model.epochs` are the twin's.
        parent: the dense model's weights, float32 [N].
        pruned: whether each of them is 0, bool [N].
    """

    def __init__(
        self,
        module: nn.Module,
        model: Model,
        layout: Layout,
        stream: str,
        *,
        parent: np.ndarray,
        pruned: np.ndarray,
    ) -> None:
        super().__init__(module, model, layout, stream)
        _start_from(module, layout, parent)
        self.pruned = [
            torch.from_numpy(mask) for mask in layout.to_state_dict(np.array(pruned)).values()
        ]
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        for parameter, pruned in zip(self.module.parameters(), self.pruned, strict=True):
            parameter.masked_fill_(pruned, 0)


def _start_from(module: nn.Module, layout: Layout, parent: np.ndarray) -> None:
    module.load_state_dict(layout.to_state_dict(torch.from_numpy(np.array(parent, np.float32))))
