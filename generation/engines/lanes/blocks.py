"""Models in blocks of lanes: what dense training and that of sparse twins share."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from ....builders.layout import Layout
from ...streams import dropout_scale, dropout_threshold
from ..arguments import check_models
from .library import load


class Blocks:
    """A population in training: `LanesPopulation` has the arguments.

    Attributes:
        kernel: which of `library.KERNELS`.
        parameters: how many numbers of a weight are trained.
    """

    kernel: ClassVar[str]
    parameters: ClassVar[int]

    def __init__(
        self,
        layout: Layout,
        *,
        activation: str,
        optimizer: str,
        batch_size: int,
        weights: Any,
        seeds: Any,
        learning_rate: Any,
        weight_decay: Any = 0.0,
        momentum: Any = 0.0,
        dropout: Any = 0.0,
        threads: int | None = None,
        isa: str = "auto",
    ) -> None:
        models = check_models(
            layout,
            activation=activation,
            optimizer=optimizer,
            batch_size=batch_size,
            weights=weights,
            seeds=seeds,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            dropout=dropout,
        )
        self.layout, self.batch_size, self.adam = layout, int(batch_size), optimizer == "adam"
        self.models = len(models.weights)
        self.threads = threads or _cores()
        self._library = load(layout, activation, isa, self.kernel)
        self._steps = 0

        lanes = self._library.lanes_count()
        assert self._library.weights_count() == layout.size
        rates = np.zeros(
            self.models,
            [
                ("learning_rate", "f8"),
                ("seed", "u8"),
                ("weight_decay", "f4"),
                ("momentum", "f4"),
                ("dropout_threshold", "u4"),
                ("dropout_scale", "f4"),
            ],
        )
        rates["seed"] = models.seeds.astype(np.uint64)
        rates["learning_rate"] = models.learning_rate
        rates["weight_decay"] = models.weight_decay
        rates["momentum"] = 0 if self.adam else models.momentum
        rates["dropout_threshold"] = dropout_threshold(models.dropout)
        rates["dropout_scale"] = dropout_scale(models.dropout)
        self.dropout = bool((models.dropout > 0).any())

        # Lanes without a model repeat the last one; what they compute is dropped.
        members = np.arange(-(-self.models // lanes) * lanes).clip(max=self.models - 1)
        self._members = members.reshape(-1, lanes)
        self._order = _kernel_order(layout)
        self._rates = [_by_field(rates[block]) for block in self._members]
        # The kernel's `Parameters`: each with its two moments.
        shape = (self.parameters, 3, layout.size, lanes)
        self._blocks = [aligned(shape) for _ in self._members]
        self._scatter(models.weights, 0)

    @property
    def weights(self) -> np.ndarray:
        """The weights used in evaluation, float32 [P, layout.size] in layout order, a copy."""
        return self._gather([self._evaluated(number) for number in range(len(self._blocks))])

    def evaluate(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of every model in evaluation mode; arguments as in `train_epoch`."""
        images, labels = self._samples(images, labels)

        def evaluate(number: int, totals: np.ndarray) -> int:
            weights = self._evaluated(number)
            return self._library.evaluate(
                weights.ctypes.data,
                images.ctypes.data,
                labels.ctypes.data,
                len(images),
                totals.ctypes.data,
            )

        return self._run(evaluate, len(images))

    def _evaluated(self, number: int) -> np.ndarray:
        """The weights that a block is evaluated with, float32 [N, lanes] in the kernel's order."""
        return self._blocks[number][0, 0]

    def _scatter(self, values: np.ndarray, parameter: int) -> None:
        """Gives the blocks a parameter, [P, N] in layout order."""
        for block, members in zip(self._blocks, self._members, strict=True):
            block[parameter, 0] = values[members][:, self._order].T

    def _gather(self, blocks: list[np.ndarray]) -> np.ndarray:
        """[P, N] in layout order from the blocks' [N, lanes]."""
        values = np.empty((len(blocks), self._members.shape[1], self.layout.size), np.float32)
        for block, rows in zip(blocks, values, strict=True):
            rows[:, self._order] = block.T
        values = values.reshape(-1, self.layout.size)[: self.models]
        values[np.isnan(values)] = np.nan  # one bit pattern, whichever operation made it
        return values

    def _train(
        self, images: Any, labels: Any, orders: Any, *more: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """One epoch; `more` are arguments of this kernel alone."""
        images, labels = self._samples(images, labels)
        orders = np.asarray(orders)
        if orders.ndim != 2 or len(orders) != self.models or not orders.size:
            raise ValueError(f"orders must be [{self.models}, m], found {list(orders.shape)}")
        if orders.dtype.kind not in "iu" or orders.min() < 0 or orders.max() >= len(images):
            raise ValueError(f"orders must be integers in [0, {len(images)})")
        samples = orders.shape[1]

        def train(number: int, totals: np.ndarray) -> int:
            order = np.ascontiguousarray(orders[self._members[number]], np.int32)
            return self._library.train(
                self._blocks[number].ctypes.data,
                self._rates[number].ctypes.data,
                self.adam,
                self.dropout,
                images.ctypes.data,
                labels.ctypes.data,
                order.ctypes.data,
                samples,
                self.batch_size,
                self._steps,
                totals.ctypes.data,
                *more,
            )

        result = self._run(train, samples)
        self._steps += -(-samples // self.batch_size)
        return result

    def _run(self, work: Any, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Call the kernel for every block, `threads` at a time, and join the lanes' means."""
        lanes = self._members.shape[1]
        totals = np.zeros(len(self._blocks), [("loss", "f8", lanes), ("correct", "i8", lanes)])
        numbers = range(len(self._blocks))

        def run(number: int) -> int:
            return work(number, totals[number : number + 1])

        if len(numbers) == 1 or self.threads == 1:
            failed = [run(number) for number in numbers]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                failed = list(pool.map(run, numbers))
        if any(failed):
            raise MemoryError("no memory for the kernel's workspace")
        loss = totals["loss"].reshape(-1)[: self.models] / samples
        return loss, totals["correct"].reshape(-1)[: self.models] / samples

    def _samples(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Checked and contiguous: the kernel looks at nothing before it reads."""
        images = np.ascontiguousarray(images, np.float32)
        side = self.layout.architecture.image_size
        expected = (self.layout.channels, side, side)
        if images.shape[1:] != expected or not len(images) or len(images) >= 2**31:
            raise ValueError(f"images must be {['n', *expected]}, found {list(images.shape)}")
        labels = np.asarray(labels)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers [{len(images)}], found {labels.shape}")
        if labels.min() < 0 or labels.max() >= self.layout.classes:
            raise ValueError(f"labels must lie in [0, {self.layout.classes})")
        return images, np.ascontiguousarray(labels, np.int64)


def _kernel_order(layout: Layout) -> np.ndarray:
    """Where each weight of the kernel lies in the layout's vector, int64 [N].

    The kernel counts channels last: convolutions [row, column, in, out], linear weights [in, out],
    where the first linear layer sees its image as [row, column, channel].
    """
    indices = np.arange(layout.size)
    order, channels = [], layout.channels
    for slots in layout.layers.values():
        shape = slots["weight"].shape
        side = round((shape[1] // channels) ** 0.5) if len(shape) == 2 else shape[2]
        weight = indices[slots["weight"].slice].reshape(shape[0], channels, side, side)
        order += [weight.transpose(2, 3, 1, 0).reshape(-1), indices[slots["bias"].slice]]
        channels = shape[0]
    return np.concatenate(order)


def _by_field(records: np.ndarray) -> np.ndarray:
    """An array of structures [lanes] as one structure of arrays, the kernel's `Rates`."""
    lanes = len(records)
    fields = [(name, records.dtype[name], lanes) for name in records.dtype.names]
    joined = np.zeros(1, fields)
    for name in records.dtype.names:
        joined[name] = records[name]
    return joined


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, on a page boundary."""
    page, size = 4096, 4 * int(np.prod(shape))
    memory = np.zeros(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size].view(np.float32).reshape(shape)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
