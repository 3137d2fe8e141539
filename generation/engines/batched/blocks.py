"""Blocks of stacked models: their forward and backward pass, and the steps of their optimizers.

A block holds the models whose columns fit the workspace (population.py). Adam and SGD work on the
flat vectors of all models of a block, with torch.optim's formulas and a rate for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from ....builders.architecture import Layer
from ....builders.layout import Layout
from ...networks import make_activation
from .layers import average, fold, pool, unfold, unpool
from .random_numbers import dropout_masks
from .rates import BlockRates, DeviceSchedule

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch.optim.Adam's defaults."""
ALPHA = 0.99
"""torch.optim.RMSprop's default."""


class Recorded(Protocol):
    """A layer's output before and after its activation, with torch's graph between them."""

    @property
    def z(self) -> torch.Tensor: ...

    @property
    def a(self) -> torch.Tensor: ...


class Saved(NamedTuple):
    """What the backward pass needs from one layer."""

    shape: torch.Size  # of the layer's input
    columns: torch.Tensor  # [p, inputs of one output, outputs of one channel * b]
    pooled: Sequence[torch.Tensor]  # what `unpool` needs, if there is a pool
    z: torch.Tensor  # before the activation
    a: torch.Tensor  # after it, with torch's graph back to z


class Block:
    """Networks that are evaluated together.

    Args:
        layout, activation: see `BatchedWeights`.
        weights: float32 [p, N].
        columns: memory for the columns of each layer, shared by blocks that run one after another;
            None to allocate new memory. Allocating it in every step would cost a tenth of the
            time, spent on first accesses.
    """

    def __init__(
        self,
        layout: Layout,
        activation: str,
        weights: torch.Tensor,
        columns: dict[str, torch.Tensor] | None,
    ) -> None:
        self.layout, self.weights, self.columns = layout, weights, columns
        self.activations = {
            name: make_activation(name)
            for layer in layout.architecture.layers
            if (name := layer.activation_of(activation))
        }
        self.activation = activation
        self.models = len(weights)
        self.loss = weights.new_zeros(self.models, dtype=torch.float64)
        self.correct = weights.new_zeros(self.models, dtype=torch.int64)

    def forget_totals(self) -> None:
        self.loss.zero_()
        self.correct.zero_()

    def add_to_totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add losses and correct answers to the totals; return the log-probabilities.

        Args:
            logits: float32 [p, classes, b].
            labels: int64 [p, b], or [b] for all models.
        """
        log_probabilities = logits.log_softmax(1)
        labels = labels.expand(self.models, -1)
        self.loss -= log_probabilities.gather(1, labels[:, None]).double().sum((1, 2))
        self.correct += (logits.argmax(1) == labels).sum(1)
        return log_probabilities

    def forward(
        self,
        x: torch.Tensor,
        masks: list[torch.Tensor] | None = None,
        tape: list[Saved] | None = None,
    ) -> torch.Tensor:
        """Return logits [p, classes, b] of images [p or 1, channels, h, w, b]; 1 if all share them.

        A bias is added after the pool, where there are a quarter of the numbers; it does not change
        which number is the largest.

        Args:
            masks: dropout masks, in training.
            tape: in training, receives what `backward` needs.
        """
        remaining = iter(masks or ())
        for layer, weight, bias in self.layers():
            shape, samples = x.shape, x.shape[-1]
            columns, side = unfold(x, layer, self.columns)
            z = torch.bmm(weight, columns.expand(self.models, -1, -1))
            pooled: list[torch.Tensor] = []
            if side:
                z = z.view(*z.shape[:2], side, side, samples)
            if layer.pool:
                z, *pooled = pool(z)
            z = z + bias.view(*bias.shape, *[1] * (z.ndim - 2))
            a = self.activate(z, layer, tape is not None)
            if tape is not None:
                tape.append(Saved(shape, columns, pooled, z, a))
            x = a.detach()
            if layer.dropout:
                mask = next(remaining, None)
                x = x if mask is None else x * mask
            x = average(x, layer)
        return x

    def activate(self, z: torch.Tensor, layer: Layer, recorded: bool) -> torch.Tensor:
        """Return the layer's activation of z; if `recorded`, torch records its derivative."""
        own = layer.activation_of(self.activation)
        if own is None:
            return z
        if not recorded:
            result: torch.Tensor = self.activations[own](z)
            return result
        with torch.enable_grad():
            # Even the identity gets its own node.
            recorded_result: torch.Tensor = self.activations[own](z.requires_grad_()).view_as(z)
            return recorded_result

    def layers(
        self, vectors: torch.Tensor | None = None
    ) -> list[tuple[Layer, torch.Tensor, torch.Tensor]]:
        """Yield each layer with views of its weight [p, out, inputs of one output] and bias [p,
        out].

        Args:
            vectors: [p, N], used instead of the weights.
        """
        vectors, layers = self.weights if vectors is None else vectors, []
        for layer, slots in zip(
            self.layout.architecture.layers, self.layout.layers.values(), strict=True
        ):
            weight, bias = (vectors[:, slot.slice] for slot in slots.values())
            layers.append((layer, weight.unflatten(1, (bias.shape[1], -1)), bias))
        return layers


class TrainingBlock(Block):
    """Models that make their steps together, and everything that a step changes.

    Args:
        layout, activation, weights, columns: see `Block`; the weights are trained in place.
        optimizer: key of `OPTIMIZERS`.
        rates: the rates of these models.
        dropout: whether any model has a rate above 0.
        pruned: weights that stay 0, bool [p, N], or None.
    """

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
        super().__init__(layout, activation, weights, columns)
        self.update, second_moment = OPTIMIZERS[optimizer]
        self.rates, self.dropout, self.pruned = rates, dropout, pruned
        self.mean = torch.zeros_like(weights)  # sgd's momentum buffer
        self.square = torch.zeros_like(weights if second_moment else weights[:, :0])
        self.steps = weights.new_zeros((), dtype=torch.int64)
        self.schedule: DeviceSchedule | None = None

    @property
    def state(self) -> list[torch.Tensor]:
        return [self.weights, self.mean, self.square, self.steps, self.loss, self.correct]

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Make one training step of every model, each on its own batch.

        Args:
            x: float32 [p, channels, h, w, b].
            labels: int64 [p, b].
        """
        masks = self.masks(labels.shape[1])
        tape: list[Saved] = []
        logits = self.forward(x, masks, tape)
        self.update(self, self.backward(self.gradient(logits, labels), tape, masks))
        if self.pruned is not None:
            self.weights.masked_fill_(self.pruned, 0)

    def masks(self, batch_size: int) -> list[torch.Tensor] | None:
        """Return the dropout masks of this step."""
        if not self.dropout:
            return None
        return dropout_masks(self.layout, self.rates, self.steps, batch_size)

    def gradient(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the mean cross entropy with respect to the logits [p, classes, b].

        Their losses and correct answers are added to the totals.
        """
        log_probabilities = self.add_to_totals(logits, labels)
        classes = torch.arange(self.layout.classes, device=labels.device)
        truth = (labels[:, None] == classes[:, None]).float()
        return (log_probabilities.exp() - truth) / labels.shape[1]

    def backward(
        self, g: torch.Tensor, tape: list[Saved], masks: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Return the gradient of the weights, [p, N], given that of the logits."""
        remaining, parts = list(masks or ()), []
        layers = self.layers()
        for (layer, weight, _), saved in zip(reversed(layers), reversed(tape), strict=True):
            g = self.before_activation(g, layer, saved, remaining)
            by_bias = g.flatten(2).sum(2)
            if layer.pool:
                g = unpool(g, *saved.pooled)
            g = g.flatten(2)
            by_weight = torch.bmm(g, saved.columns.mT)
            parts += [by_bias, by_weight.flatten(1)]
            if layer is not layers[0][0]:
                g = fold(torch.bmm(weight.mT, g), layer, saved.shape)
        return torch.cat(parts[::-1], 1)

    @staticmethod
    def before_activation(
        g: torch.Tensor, layer: Layer, saved: Recorded, masks: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the gradient with respect to z, given that of the layer's output.

        If the layer has dropout, the last of the masks is removed from the list.
        """
        if layer.gap:
            places = saved.a.shape[2] * saved.a.shape[3]
            g = (g.flatten(2) / places).view(*g.shape[:2], 1, 1, -1).expand(saved.a.shape)
        g = g.reshape(saved.a.shape)
        if layer.dropout and masks:
            g = g * masks.pop()
        if layer.activation:
            (g,) = torch.autograd.grad(saved.a, saved.z, g)
        return g

    def learning_rate(self) -> torch.Tensor:
        """Return this step's learning rates, float64 [p, 1]. Call it before the step is counted."""
        rate: torch.Tensor = self.rates.learning_rate
        return rate if self.schedule is None else rate * self._now(self.schedule.factor)

    def momentum(self, otherwise: torch.Tensor | float) -> torch.Tensor | float:
        """Return the schedule's momentum for this step, float64 [], or the argument without one."""
        if self.schedule is None or self.schedule.momentum is None:
            return otherwise
        return self._now(self.schedule.momentum)

    def _now(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value for this step, a tensor on the device, from values [steps]."""
        return values.index_select(0, self.steps.view(1).clamp(max=len(values) - 1)).view(())

    def decayed(self, g: torch.Tensor) -> torch.Tensor:
        """Return the gradient with the weight decay added as an L2 term."""
        return g + self.rates.weight_decay * self.weights

    def adam(self, g: torch.Tensor) -> None:
        """Make torch.optim.Adam's step for every model, from the gradient [p, N]."""
        self._adam(self.decayed(g))

    def adamw(self, g: torch.Tensor) -> None:
        """Make torch.optim.AdamW's step, in which the weights themselves decay."""
        self.weights *= (1 - self.learning_rate() * self.rates.weight_decay.double()).float()
        self._adam(g)

    def _adam(self, g: torch.Tensor) -> None:
        rate, beta1 = self.learning_rate(), self.momentum(BETA1)
        self.steps += 1
        self.mean.lerp_(g, 1 - beta1 if isinstance(beta1, float) else (1 - beta1).float())
        self.square.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        steps = self.steps.double()
        step_size = (rate / (1 - beta1**steps)).float()
        correction = (1 - BETA2**steps).sqrt().float()
        self.weights -= step_size * (self.mean / (self.square.sqrt() / correction + EPSILON))

    def sgd(self, g: torch.Tensor) -> None:
        """Make torch.optim.SGD's step for every model, from the gradient [p, N]."""
        self._sgd(self.decayed(g), nesterov=False)

    def nesterov(self, g: torch.Tensor) -> None:
        """Make torch.optim.SGD's step with Nesterov's momentum."""
        self._sgd(self.decayed(g), nesterov=True)

    def _sgd(self, g: torch.Tensor, nesterov: bool) -> None:
        rate, momentum = self.learning_rate().float(), self.momentum(self.rates.momentum)
        if self.schedule is not None:
            momentum = torch.as_tensor(momentum).float()
        self.steps += 1
        self.mean.mul_(momentum).add_(g)
        self.weights -= rate * (g + momentum * self.mean if nesterov else self.mean)

    def rmsprop(self, g: torch.Tensor) -> None:
        """Make torch.optim.RMSprop's step, with momentum if the schedule has one."""
        g, rate, momentum = self.decayed(g), self.learning_rate().float(), self.momentum(0.0)
        self.steps += 1
        self.square.mul_(ALPHA).addcmul_(g, g, value=1 - ALPHA)
        g = g / (self.square.sqrt() + EPSILON)
        if isinstance(momentum, torch.Tensor):
            g = self.mean.mul_(momentum.float()).add_(g)
        self.weights -= rate * g


OPTIMIZERS: dict[str, tuple[Callable[[TrainingBlock, torch.Tensor], None], bool]] = {
    "adam": (TrainingBlock.adam, True),
    "sgd": (TrainingBlock.sgd, False),
    "adamw": (TrainingBlock.adamw, True),
    "nesterov": (TrainingBlock.nesterov, False),
    "rmsprop": (TrainingBlock.rmsprop, True),
}
"""The step of each optimizer, and whether it keeps a second moment of the gradient."""
