"""The CPU kernel: small CNNs trained many at a time, one model in each SIMD lane.

A small CNN cannot fill a processor core, and an array library that stacks models streams the
activations of all of them through memory at every operation. Here a *block* of models (16 with
AVX-512, 8 with AVX2) shares a core's vector registers, one model in each lane, and the whole
training step runs fused, sample by sample, with everything in the core's own cache. The sources are
in this folder: vectors.hpp (arithmetic), layers.hpp (one template for each kind of layer),
kernel.cpp (the network put together, training, evaluation).

A model's weights depend on its own specification alone: they are the same to the bit in any lane,
beside any other models, for any number of threads, and in the AVX-512, AVX2 and portable builds on
x86 processors with fused multiply-add. (Without it the portable build rounds more often; and other
processors keep subnormal numbers, which the x86 builds take as zero.)

Measured: one core trains 142,000 CNN-s model-samples a second (the original's loop: 4,750) and
21,300 of CNN-l (2,800), 30 and 7.5 times as many, two cores twice that; kernel.cpp has the table. A
library is built in 1.5 seconds for each architecture and activation.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ....builders.layout import ARCHITECTURES, Layout
from ...streams import dropout_scale, dropout_threshold
from ..arguments import check_models
from .library import ISAS, LanesUnavailable, load

__all__ = ["ISAS", "LanesPopulation", "LanesUnavailable", "lanes_count"]


def lanes_count(layout: Layout, activation: str = "tanh", isa: str = "auto") -> int:
    """How many models fill a block on this machine; the kernel is built to find out that it can be.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
    """
    return load(layout, activation, isa).lanes_count()


class LanesPopulation:
    """Models in training that share architecture, activation, optimizer and batch size.

    Losses are in nats, accuracies shares of 1, both float64 [P]. A model that diverges goes on with
    NaN weights and losses, as in torch, and does not disturb the others.

    Args:
        layout: of CNN-s or CNN-l.
        activation: of catalog.ACTIVATIONS; gelu is the exact one.
        optimizer: "adam" or "sgd", with torch's meaning and defaults.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        weights: initial weights, float32 [P, layout.size] in layout order.
        seeds: of the dropout masks, integers [P]. This and the following may also be one number.
        learning_rate: [P].
        weight_decay: added to the gradient as L2 term, [P].
        momentum: of sgd, [P]; adam ignores it.
        dropout: rates in [0, 1), [P]; masks as generation/streams.py defines them.
        threads: blocks trained at a time; by default one for each core this process may use.
        isa: "auto", "avx512", "avx2" or "portable".

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        ValueError: arguments of a wrong shape or out of range.
    """

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
        self._library = load(layout, activation, isa)
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
        self._blocks = [_aligned((3, layout.size, lanes)) for _ in self._members]
        for block, lanes_of_block in zip(self._blocks, self._members, strict=True):
            block[0] = models.weights[lanes_of_block][:, self._order].T

    @property
    def weights(self) -> np.ndarray:
        """The current weights, float32 [P, layout.size] in layout order, a copy."""
        weights = np.empty((len(self._blocks) * self._members.shape[1], self.layout.size), "f4")
        for block, rows in zip(
            self._blocks, weights.reshape(len(self._blocks), -1, self.layout.size), strict=True
        ):
            rows[:, self._order] = block[0].T
        weights = weights[: self.models]
        weights[np.isnan(weights)] = np.nan  # one bit pattern, whichever operation made it
        return weights

    def train_epoch(self, images: Any, labels: Any, orders: Any) -> tuple[np.ndarray, np.ndarray]:
        """Train every model for one epoch.

        Args:
            images: float32 [n, channels, h, w], normalised.
            labels: integers [n] in [0, classes).
            orders: which images each model sees, in its order: integers [P, m] in [0, n),
                usually permutations.

        Returns:
            Loss and accuracy of each model, means over its samples as they were trained on.
        """
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
            )

        result = self._run(train, samples)
        self._steps += -(-samples // self.batch_size)
        return result

    def evaluate(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of every model in evaluation mode; arguments as in `train_epoch`."""
        images, labels = self._samples(images, labels)

        def evaluate(number: int, totals: np.ndarray) -> int:
            return self._library.evaluate(
                self._blocks[number].ctypes.data,
                images.ctypes.data,
                labels.ctypes.data,
                len(images),
                totals.ctypes.data,
            )

        return self._run(evaluate, len(images))

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
        side = ARCHITECTURES[self.layout.architecture].image_size
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


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, on a page boundary."""
    page, size = 4096, 4 * int(np.prod(shape))
    memory = np.zeros(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size].view(np.float32).reshape(shape)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
