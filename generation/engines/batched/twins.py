"""Sparse twins, stacked in torch: variational dropout for the batched engine.

The formulas and their sources are in builders/variational_dropout.py; the normal numbers are those
of streams.gaussian_noise, computed in torch. To the optimizer, means and log_sigma2 of a model are
one vector [2 N]. A layer's outputs have the variance columns^2 exp(log_alpha) w^2. So a step has
two matrix products where dense training has one, and draws a normal number for every output before
pooling, which in torch costs more than everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ....builders.architecture import Layer
from ....builders.layout import Layout
from ....builders.specification import Model
from ....builders.variational_dropout import (
    KL_CONSTANTS,
    LOG_SIGMA2_START,
    PRUNE_LOG_ALPHA,
    TINY,
    noise_bounds,
)
from ....errors import InvalidArgument
from ...streams import NOISE
from ..population import Scores
from .blocks import TrainingBlock
from .layers import average, fold, pool, unfold, unpool
from .population import BatchedPopulation
from .random_numbers import random_words
from .rates import BlockRates


class BatchedTwins(BatchedPopulation):
    """Sparse twins in training by variational dropout, started from the weights of dense models.

    Args:
        layout: of an architecture with `layers`.
        models: the twins; their seeds give dropout masks and noise.
        weights: the parents' weights, float32 [P, layout.size] in layout order.
        log_sigma2: float32 [P, layout.size]; -10 everywhere before the first step.
        device, threads: see `BatchedPopulation`.
    """

    _blocks: list[TwinBlock]  # type: ignore[assignment]

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        log_sigma2: ArrayLike,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        super().__init__(layout, models, weights, device=device, threads=threads)
        start = torch.as_tensor(np.asarray(log_sigma2, np.float32), device=self.device)
        if start.shape != self._weights.shape:
            raise InvalidArgument(
                f"log_sigma2 must be {list(self._weights.shape)}, found {list(start.shape)}"
            )
        for block, values in zip(
            self._blocks, start.split([block.models for block in self._blocks]), strict=True
        ):
            block.log_sigma2.copy_(values)
            block.fixed.copy_(values)

    def _memory_of_column(self) -> int:
        return 2  # the columns and their squares

    def _block_class(self) -> type[TrainingBlock]:
        return TwinBlock

    @property
    def weights(self) -> NDArray[np.float32]:
        """The pruned weights, used in evaluation, [P, layout.size], a copy."""
        return _collect([block.pruned_weights() for block in self._blocks])

    @property
    def mean(self) -> NDArray[np.float32]:
        """The weights before pruning, [P, layout.size], a copy."""
        return _collect([block.means for block in self._blocks])

    @property
    def log_sigma2(self) -> NDArray[np.float32]:
        """The logarithms of the variances, [P, layout.size], a copy.

        For biases of linear layers, they keep their initial values.
        """
        return _collect([block.log_sigma2 for block in self._blocks])

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train every twin for one epoch.

        Args:
            images, labels, orders: see `Population.train_epoch`.
            more: one number, the factor of the divergence in the loss
                (variational_dropout.kl_weight).

        Returns:
            Cross entropy (without divergence) and accuracy of each twin: means over the samples
            during training, with noise.
        """
        (kl_weight,) = more
        for block in self._blocks:
            block.kl_weight.fill_(kl_weight)
        return super().train_epoch(images, labels, orders)


def _collect(parts: list[torch.Tensor]) -> NDArray[np.float32]:
    return torch.cat(parts).cpu().numpy().copy()


class SavedNoisy(NamedTuple):
    """What the backward pass needs from one layer."""

    shape: torch.Size  # of the layer's input
    columns: torch.Tensor  # [p, inputs of one output, outputs of one channel * b]
    squares: torch.Tensor  # of the columns
    slope: torch.Tensor  # of the outputs by their variance: noise / (2 deviation), as the outputs
    pooled: Sequence[torch.Tensor]  # what `unpool` needs, if there is a pool
    z: torch.Tensor  # before the activation
    a: torch.Tensor  # after it, with torch's graph back to z


class TwinBlock(TrainingBlock):
    """Twins that make their steps together. Arguments: see `TrainingBlock`; weights are means."""

    def __init__(
        self,
        layout: Layout,
        activation: str,
        weights: torch.Tensor,
        columns: dict[str, torch.Tensor] | None,
        optimizer: str,
        rates: BlockRates,
        dropout: bool,
        pruned: torch.Tensor | None = None,
    ) -> None:
        assert pruned is None, "variational dropout chooses the pruned weights itself"
        theta = torch.cat([weights, torch.full_like(weights, LOG_SIGMA2_START)], 1)
        super().__init__(layout, activation, theta, columns, optimizer, rates, dropout)
        self.means, self.log_sigma2 = theta[:, : layout.size], theta[:, layout.size :]
        bounds = torch.from_numpy(noise_bounds(layout)).to(weights.device)
        self.noisy = ~bounds.isnan()
        self.bounds = bounds.nan_to_num(0)
        self.kl_weight = theta.new_zeros(())
        self.fixed = self.log_sigma2.clone()
        """The value of log_sigma2 where there is no noise."""

    def log_alpha(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log alpha, clamped, [p, N], and whether each value was within its bounds."""
        values = self.log_sigma2 - 2 * torch.log(self.means.abs() + TINY)
        within = (values >= -self.bounds) & (values <= self.bounds)
        return values.clamp(-self.bounds, self.bounds), within

    def pruned_weights(self) -> torch.Tensor:
        """[p, N]."""
        # Comparisons with NaN are false, so the weights of a diverged twin stay NaN.
        return self.means.masked_fill((self.log_alpha()[0] >= PRUNE_LOG_ALPHA) & self.noisy, 0)

    def layers(
        self, vectors: torch.Tensor | None = None
    ) -> list[tuple[Layer, torch.Tensor, torch.Tensor]]:
        """See `Block.layers`; by default with the pruned weights, so that `forward` evaluates."""
        return super().layers(self.pruned_weights() if vectors is None else vectors)

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Make one training step of every twin on its own batch; see `TrainingBlock.step`."""
        masks = self.masks(labels.shape[1])
        noise = gaussian_noise(self.layout, self.rates, self.steps, labels.shape[1])
        log_alpha, within = self.log_alpha()
        alpha = log_alpha.exp() * self.noisy
        variances = alpha * self.means * self.means
        logits, tape = self.forward_noisy(x, variances, masks, noise)
        g, by_variance = self.backward_noisy(self.gradient(logits, labels), tape, variances, masks)
        # Derivatives by log_alpha: of the variances, and of the divergence's approximation.
        k1, k2, k3 = KL_CONSTANTS
        sigmoid = torch.sigmoid(k2 + k3 * log_alpha)
        divergence = -k1 * k3 * sigmoid * (1 - sigmoid) - 0.5 * torch.sigmoid(-log_alpha)
        by_log_alpha = by_variance * variances + self.kl_weight * divergence * self.noisy
        by_log_sigma2 = by_log_alpha * within
        # The variance exp(log_alpha) w^2 depends on w itself, and through log_alpha.
        g += 2 * by_variance * alpha * self.means
        g -= 2 * by_log_sigma2 * self.means.sign() / (self.means.abs() + TINY)
        self.update(self, torch.cat([g, by_log_sigma2], 1))
        # Undo the optimizer's weight decay where log_sigma2 is not trained.
        torch.where(self.noisy, self.log_sigma2, self.fixed, out=self.log_sigma2)

    def forward_noisy(
        self,
        x: torch.Tensor,
        variances: torch.Tensor,
        masks: list[torch.Tensor] | None,
        noise: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[SavedNoisy]]:
        """Return logits [p, classes, b] of images [p, channels, h, w, b], with noise.

        Args:
            variances: variances of the weights, [p, N]; 0 for biases of linear layers.
            noise: standard normal numbers for each layer's outputs.
        """
        dropped, tape = iter(masks or ()), []
        layers = zip(self.layers(self.means), self.layers(variances), noise, strict=True)
        for (layer, weight, bias), (_, variance, variance_bias), normals in layers:
            shape, samples = x.shape, x.shape[-1]
            columns, side = unfold(x, layer, self.columns)
            squares = columns * columns
            deviation = torch.bmm(variance, squares)
            deviation += variance_bias[..., None] + TINY
            deviation.sqrt_()
            if side:
                normals = normals[:, :, :side, :side].flatten(2)
            z = torch.bmm(weight, columns).addcmul_(deviation, normals)
            slope = normals / deviation.mul_(2)
            pooled: list[torch.Tensor] = []
            if side:
                z = z.view(*z.shape[:2], side, side, samples)
            if layer.pool:
                z, *pooled = pool(z)
            z = z + bias.view(*bias.shape, *[1] * (z.ndim - 2))
            a = self.activate(z, layer, recorded=True)
            tape.append(SavedNoisy(shape, columns, squares, slope, pooled, z, a))
            x = a.detach()
            if layer.dropout:
                mask = next(dropped, None)
                x = x if mask is None else x * mask
            x = average(x, layer)
        return x, tape

    def backward_noisy(
        self,
        g: torch.Tensor,
        tape: list[SavedNoisy],
        variances: torch.Tensor,
        masks: list[torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of means and variances, [p, N] each, given that of the logits."""
        remaining, by_mean, by_variance = list(masks or ()), [], []
        layers = list(zip(self.layers(self.means), self.layers(variances), tape, strict=True))
        for (layer, weight, _), (_, variance, _), saved in reversed(layers):
            g = self.before_activation(g, layer, saved, remaining)
            by_bias = g.flatten(2).sum(2)
            if layer.pool:
                g = unpool(g, *saved.pooled)
            g = g.flatten(2)
            h = g * saved.slope
            by_mean += [by_bias, torch.bmm(g, saved.columns.mT).flatten(1)]
            by_variance += [h.sum(2), torch.bmm(h, saved.squares.mT).flatten(1)]
            if layer is not layers[0][0][0]:
                columns = torch.bmm(variance.mT, h).mul_(saved.columns).mul_(2)
                g = fold(columns.baddbmm_(weight.mT, g), layer, saved.shape)
        return torch.cat(by_mean[::-1], 1), torch.cat(by_variance[::-1], 1)


def gaussian_noise(
    layout: Layout, rates: BlockRates, step: torch.Tensor, batch_size: int
) -> list[torch.Tensor]:
    """Compute streams.gaussian_noise on the device of the rates, with samples innermost.

    Args:
        layout: of the architecture.
        rates: the rates of p models.
        step: optimizer steps made before this one, int64 [], on the device.
        batch_size: samples of this batch, b.

    Returns:
        For each layer float32 [p, *outputs before pooling, b], within 2e-6 of streams.py's values.
    """
    shapes = layout.outputs
    sizes = [math.prod(shape) for shape in shapes]
    words = random_words(NOISE, sum(sizes), rates, step, batch_size)
    uniform = [((word >> 8).float() + 0.5) * 2**-24 for word in words]
    normals = []
    for first, second in (uniform[:2], uniform[2:]):
        # Subtract half a turn, which is exact in float32, and change the sign to compensate.
        radius = -torch.sqrt(-2 * torch.log(first))
        angle = (second - 0.5) * (2 * math.pi)
        normals += [radius * torch.cos(angle), radius * torch.sin(angle)]
    flat = torch.stack(normals, 2).flatten(1, 2)[:, : sum(sizes)]  # [p, units, b]
    return [
        part.unflatten(1, (*shape[1:], shape[0])).movedim(-2, 1)
        for part, shape in zip(flat.split(sizes, 1), shapes, strict=True)
    ]
