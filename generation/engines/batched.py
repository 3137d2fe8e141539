"""Stacked models in torch: every operation of a training step handles many models at once.

For GPUs and for machines without a C++ compiler; with a compiler the lane kernel (engines/lanes) is
faster on a CPU. Activations are [model, channel, row, column, sample]. With samples innermost, the
columns of a convolution ("im2col") are copied in long runs, the convolution of each model is one
matrix product, and torch's max-pool can take samples for channels. The backward pass is written
out, since torch's own is slow for the columns. Adam and SGD work on the flat vectors of all models,
with torch.optim's formulas and a rate for each model.

Models are trained in *blocks* whose columns fit the workspace: on a CPU a few models, so that
activations stay in the cache; on a GPU all models if memory allows. On a GPU a step is captured
once as a CUDA graph and replayed, and an epoch waits for the device only at its end.

Models do not influence each other. Unlike in the lane kernel, a model's bits may depend on the
number of models, since matrix products of different sizes may be summed in another order.

On one core (Xeon, AVX-512), batch 10, Adam, it trains 4.4 times as many model-samples a second as
the loop of the paper's code for CNN-s and 2.3 times for CNN-l; torch's grouped convolutions with
autograd reached 1.9 and 1.2 times, one block of 64 models in place of small ones 2.6 and 1.6 times.
About half of the time are matrix products, a sixth the pools, a sixth the columns' copies. Nothing
has been measured on a GPU yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from ...builders.architecture import Layer
from ...builders.layout import Layout
from ...builders.specification import Model
from ...errors import InvalidArgument
from ..networks import make_activation
from ..schedules import Schedule, schedule
from ..streams import DROPOUT, dropout_scale, dropout_shapes, dropout_threshold, split_seed
from .population import Scores, check_models, check_weights

aten = torch.ops.aten

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch.optim.Adam's defaults."""
ALPHA = 0.99
"""torch.optim.RMSprop's default."""

CPU_WORKSPACE = 12 * 2**20
"""Bytes of columns in a block: 11 models of CNN-s, 5 of CNN-l. On an otherwise idle machine, 8 to
16 MiB are equally fast; beside other processes, which use the cache too, 16 MiB are much slower."""
GPU_WORKSPACE = 1 / 8
"""Columns in a block as a share of free memory; the rest of a step takes up to twice as much."""


class BatchedWeights:
    """Networks of one architecture and activation, to be evaluated together.

    Args:
        layout: of an architecture with `layers`.
        activation: key of hyperparameters.ACTIVATIONS; gelu is the exact one.
        weights: float32 [P, layout.size] in layout order.
        device: "cpu", "cuda" or "cuda:1".
        threads: number of torch's threads during this population's work; None to leave it.

    Raises:
        InvalidArgument: arguments of a wrong shape or an unknown activation.
    """

    epoch_share: float = 0.0
    """See `Population`."""

    def __init__(
        self,
        layout: Layout,
        activation: str,
        weights: ArrayLike,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        values = check_weights(layout, activation, weights)
        self.layout, self.activation = layout, activation
        self.models, self.threads = len(values), threads
        self.device = torch.device(device)
        self._weights = torch.tensor(values, device=self.device)
        self._capacity = max(1, _capacity(layout, self.device) // self._memory_of_column())
        # CUDA's allocator keeps memory by itself, and a graph has its own memory.
        self._columns: dict[str, torch.Tensor] | None = {} if self.device.type == "cpu" else None
        count = math.ceil(self.models / max(1, self._capacity // self._samples_at_once()))
        self._members = np.array_split(np.arange(self.models), count)
        self._blocks = [self._make_block(members) for members in self._members]

    def _memory_of_column(self) -> int:
        """Return the memory of a step relative to that of its columns."""
        return 1

    def _samples_at_once(self) -> int:
        """Return the minimum number of samples of each model that a block handles together."""
        return 1

    def _make_block(self, members: NDArray[np.int64]) -> Block:
        weights = self._weights[members[0] : members[-1] + 1]
        return Block(self.layout, self.activation, weights, self._columns)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The current weights, [P, layout.size] in layout order, a copy."""
        return self._weights.cpu().numpy().copy()

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Scores:
        """Score every model in evaluation mode. Arguments: see `Population.train_epoch`."""
        pixels, targets = self._samples(images, labels)
        with _settings(self.threads, self.device):
            for block in self._blocks:
                block.forget_totals()
                size = max(1, self._capacity // block.models)
                for x, y in zip(pixels.split(size), targets.split(size), strict=True):
                    block.add_to_totals(block.forward(x.permute(1, 2, 3, 0)[None].contiguous()), y)
                    self.epoch_share += len(y) / len(pixels) * block.models / self.models
            self.epoch_share = 0.0
            return self._means(len(pixels))

    def _means(self, samples: int) -> Scores:
        """Return the blocks' totals divided by the samples of each model; waits for the device."""
        loss = torch.cat([block.loss for block in self._blocks])
        correct = torch.cat([block.correct for block in self._blocks])
        return loss.cpu().numpy() / samples, correct.cpu().numpy() / samples

    def _samples(self, images: ArrayLike, labels: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and labels, checked and on the device."""
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(np.require(images, np.float32, ["C", "W"]))
        side = self.layout.architecture.image_size
        expected = (self.layout.channels, side, side)
        if images.shape[1:] != expected or not len(images):
            raise InvalidArgument(f"images must be {['n', *expected]}, found {list(images.shape)}")
        targets = _integers("labels", labels)
        if targets.shape != images.shape[:1]:
            raise InvalidArgument(f"labels must be integers [{len(images)}], found {targets.shape}")
        if targets.min() < 0 or targets.max() >= self.layout.classes:
            raise InvalidArgument(f"labels must lie in [0, {self.layout.classes})")
        return images.to(self.device, torch.float32), targets.to(self.device)


class BatchedPopulation(BatchedWeights):
    """Models in training that share architecture, activation, optimizer and batch size.

    Losses are in nats, accuracies in [0, 1], both float64 [P]. A model that diverges continues
    with NaN weights and losses, as in torch, and does not affect the others.

    Args:
        layout: of an architecture with `layers`.
        models: that share activation, optimizer, schedule and batch size; their rates and seeds may
            differ. Dropout masks are those of generation/streams.py.
        weights: initial weights, float32 [P, layout.size] in layout order.
        device: "cpu", "cuda" or "cuda:1".
        threads: number of torch's threads during this population's work; None to leave it.
        pruned: weights that are 0 and stay 0, bool [P, layout.size]; None for none.

    Raises:
        InvalidArgument: arguments of a wrong shape or out of range.
    """

    _blocks: list[TrainingBlock]  # type: ignore[assignment]

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        pruned: ArrayLike | None = None,
    ) -> None:
        first = models[0]
        self.optimizer, self.batch_size = first.optimizer, first.batch_size
        check_weights(layout, first.activation, weights)
        own = check_models(models, len(np.asarray(weights)), list(OPTIMIZERS))
        drops = any(layer.dropout for layer in layout.architecture.layers)
        self._dropout = drops and bool((own.dropout > 0).any())
        self._rates = BlockRates(
            learning_rate=own.learning_rate[:, None],
            weight_decay=own.weight_decay.astype(np.float32)[:, None],
            momentum=own.momentum.astype(np.float32)[:, None],
            key=split_seed(own.seeds).astype(np.int64),
            threshold=dropout_threshold(own.dropout).astype(np.int64)[:, None],
            scale=dropout_scale(own.dropout)[:, None],
        )
        self._pruned: torch.Tensor | None = None
        if pruned is not None:
            self._pruned = torch.as_tensor(np.asarray(pruned), device=device)
            if self._pruned.shape != np.shape(weights) or self._pruned.dtype != torch.bool:
                raise InvalidArgument(f"pruned must be bool {list(np.shape(weights))}")
        super().__init__(layout, first.activation, weights, device=device, threads=threads)
        self._steps: list[Callable[[torch.Tensor, torch.Tensor], None]] = [
            block.step for block in self._blocks
        ]
        self._scheduler, self._epochs = first.scheduler, first.epochs
        self._graph_memory = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def _samples_at_once(self) -> int:
        return self.batch_size

    def _make_block(self, members: NDArray[np.int64]) -> TrainingBlock:
        own = slice(members[0], members[-1] + 1)
        if self._pruned is not None:
            self._weights[own].masked_fill_(self._pruned[own], 0)
        rates = (torch.tensor(rate[members], device=self.device) for rate in self._rates)
        return self._block_class()(
            self.layout,
            self.activation,
            self._weights[own],
            self._columns,
            self.optimizer,
            BlockRates(*rates),
            self._dropout,
            None if self._pruned is None else self._pruned[own],
        )

    def _block_class(self) -> type[TrainingBlock]:
        return TrainingBlock

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train every model for one epoch; see `Population.train_epoch`. `more` is empty.

        Images that are on the device already are not copied.
        """
        pixels, targets = self._samples(images, labels)
        chosen = _integers("orders", orders)
        if chosen.ndim != 2 or len(chosen) != self.models or not chosen.numel():
            raise InvalidArgument(f"orders must be [{self.models}, m], found {list(chosen.shape)}")
        if chosen.min() < 0 or chosen.max() >= len(pixels):
            raise InvalidArgument(f"orders must be integers in [0, {len(pixels)})")
        chosen = chosen.to(self.device)
        if self._scheduler is not None and self._blocks[0].schedule is None:
            steps = math.ceil(chosen.shape[1] / self.batch_size)
            rates = schedule(self._scheduler, self._epochs, steps)
            for block in self._blocks:
                block.schedule = DeviceSchedule.make(rates, block)
        with _settings(self.threads, self.device):
            start, self.epoch_share = 0, 0.0
            for number, block in enumerate(self._blocks):
                block.forget_totals()
                order = chosen[start : start + block.models]
                start += block.models
                for batch in order.split(self.batch_size, dim=1):
                    self._train_step(number, _gather(pixels, batch), targets[batch])
                    self.epoch_share += batch.numel() / chosen.numel()
            self.epoch_share = 0.0
            return self._means(chosen.shape[1])

    def _train_step(self, number: int, x: torch.Tensor, labels: torch.Tensor) -> None:
        block = self._blocks[number]
        if labels.shape[1] < self.batch_size:
            block.step(x, labels)
            return
        if self.device.type == "cuda" and not isinstance(self._steps[number], _Graph):
            self._steps[number] = _Graph(
                self._steps[number], block.state, x, labels, self._graph_memory
            )
        self._steps[number](x, labels)


class BlockRates(NamedTuple):
    """Values that may differ between models of a block: one row per model, on the device."""

    learning_rate: Any  # float64 [p, 1]
    weight_decay: Any  # float32 [p, 1]
    momentum: Any  # float32 [p, 1]
    key: Any  # int64 [p, 2], words of 32 bits
    threshold: Any  # int64 [p, 1], of 32 bits
    scale: Any  # float32 [p, 1]


class DeviceSchedule(NamedTuple):
    """A `Schedule` as float64 tensors [steps] on the device of a block."""

    factor: torch.Tensor
    momentum: torch.Tensor | None

    @classmethod
    def make(cls, found: Schedule | None, block: Block) -> DeviceSchedule | None:
        if found is None:
            return None
        factor, momentum = (
            None if values is None else torch.from_numpy(values).to(block.weights.device)
            for values in found
        )
        assert factor is not None
        return cls(factor, momentum)


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


def _gather(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the models' batches, float32 [p, channels, h, w, b], from images [n, channels, h, w].

    Args:
        order: int64 [p, b].
    """
    x = images.index_select(0, order.flatten()).unflatten(0, order.shape)
    return x.permute(0, 2, 3, 4, 1).contiguous()


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


class _Graph:
    """A training step for batches of one size, captured once as a CUDA graph, then replayed.

    The graph reads its batch from its own tensors and changes the block's state in place. It is
    warmed up on a side stream, as torch requires; changes by the warm-up are undone.

    Args:
        step: function of a batch (x, labels).
        state: every tensor that a step changes.
        x, labels: a batch.
        memory: pool that all graphs share. They run one after another and leave nothing in it.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], None],
        state: list[torch.Tensor],
        x: torch.Tensor,
        labels: torch.Tensor,
        memory: object,
    ) -> None:
        self._batch = x.clone(), labels.clone()
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(*self._batch)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory):  # type: ignore[arg-type]
            step(*self._batch)

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        for own, new in zip(self._batch, (x, labels), strict=True):
            own.copy_(new)
        self._graph.replay()


def _capacity(layout: Layout, device: torch.device) -> int:
    """Return how many model-samples at a time have columns that fit the workspace."""
    if device.type == "cuda":
        workspace = GPU_WORKSPACE * torch.cuda.mem_get_info(device)[0]
    else:
        workspace = CPU_WORKSPACE
    layers = layout.architecture.layers
    outputs = layout.outputs
    columns = sum(
        math.prod(layout.layers[layer.name]["weight"].shape[1:]) * math.prod(shape[1:])
        for layer, shape in zip(layers, outputs, strict=True)
    )
    return max(1, int(workspace / (4 * columns)))


def _integers(name: str, values: ArrayLike) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise InvalidArgument(f"{name} must be integers, found {values.dtype}")
        return values.long()
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InvalidArgument(f"{name} must be integers, found {array.dtype}")
    return torch.from_numpy(np.require(array, np.int64, ["C", "W"]))


@contextmanager
def _settings(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set the device, thread count and float32 products within the context, then restore them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), _float32():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _float32() -> Iterator[None]:
    """Turn TF32 and bfloat16 in matrix products off within the context."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    precisions = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision
