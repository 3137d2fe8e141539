"""Populations of stacked models in torch, to be evaluated or trained together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ....builders.layout import Layout
from ....builders.specification import Model
from ....errors import InvalidArgument
from ...schedules import schedule
from ...streams import dropout_scale, dropout_threshold, split_seed
from ..population import Scores, check_models, check_weights
from .blocks import OPTIMIZERS, Block, TrainingBlock
from .rates import BlockRates, DeviceSchedule
from .torch_runs import CapturedStep, run_settings

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
        with run_settings(self.threads, self.device):
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
                block.schedule = DeviceSchedule.make(rates, self.device)
        with run_settings(self.threads, self.device):
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
        if self.device.type == "cuda" and not isinstance(self._steps[number], CapturedStep):
            self._steps[number] = CapturedStep(
                self._steps[number], block.state, x, labels, self._graph_memory
            )
        self._steps[number](x, labels)


def _gather(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the models' batches, float32 [p, channels, h, w, b], from images [n, channels, h, w].

    Args:
        order: int64 [p, b].
    """
    x = images.index_select(0, order.flatten()).unflatten(0, order.shape)
    return x.permute(0, 2, 3, 4, 1).contiguous()


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
