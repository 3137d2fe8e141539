"""Weights in blocks of lanes, one model in each lane: their evaluation and their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....builders.layout import Layout
from ....builders.machine import cores
from ....builders.specification import Model
from ....errors import InvalidArgument
from ..kernels import (
    OPTIMIZERS,
    check_orders,
    check_samples,
    pace_of_epoch,
    rates_of,
    weights_order,
)
from ..population import Scores, check_weights
from .library import load


class LanesWeights:
    """Networks of one architecture and activation in lanes, to be evaluated.

    Args:
        layout: of an architecture with `layers`.
        activation: key of hyperparameters.ACTIVATIONS; gelu is the exact one.
        weights: float32 [P, layout.size] in layout order.
        threads: blocks that are worked on at a time; None for one on each core.
        isa: "auto", "avx512", "avx2" or "portable".

    Attributes:
        kernel: which of `library.KERNELS`.
        parameters: how many numbers of a weight are trained.
        moments: how many numbers the optimizer keeps of each of them.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        InvalidArgument: arguments of a wrong shape or an unknown activation.
    """

    kernel: ClassVar[str] = "dense"
    parameters: ClassVar[int] = 1
    moments: ClassVar[int] = 0

    def __init__(
        self,
        layout: Layout,
        activation: str,
        weights: ArrayLike,
        *,
        threads: int | None = None,
        isa: str = "auto",
    ) -> None:
        values = check_weights(layout, activation, weights)
        self.layout, self.models = layout, len(values)
        self.threads = threads or cores()
        self._library = load(layout, activation, isa, self.kernel)
        lanes = self._library.lanes_count()
        assert self._library.weights_count() == layout.size
        # Lanes without a model repeat the last one; what they compute is dropped.
        members = np.arange(-(-self.models // lanes) * lanes).clip(max=self.models - 1)
        self._members = members.reshape(-1, lanes)
        self._order = weights_order(layout)
        # The kernel's `Parameters`: each with its moments.
        shape = (self.parameters, 1 + self.moments, layout.size, lanes)
        self._blocks = [aligned(shape) for _ in self._members]
        self._scatter(values, 0)
        self._samples_seen, self._samples_all = np.zeros(1, np.int64), 1

    @property
    def epoch_share(self) -> float:
        """Share of the images that the running epoch or evaluation has seen; else 0."""
        return float(self._samples_seen.mean() / self._samples_all)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The weights used in evaluation, [P, layout.size] in layout order, a copy."""
        return self._gather([self._evaluated(number) for number in range(len(self._blocks))])

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Scores:
        """Score every model in evaluation mode. Arguments as in `Population.train_epoch`."""
        pixels, targets = self._samples(images, labels)

        def evaluate(number: int, totals: NDArray[np.void]) -> int:
            weights = self._evaluated(number)  # lives until the kernel has read it
            return self._library.evaluate(
                weights.ctypes.data,
                pixels.ctypes.data,
                targets.ctypes.data,
                len(pixels),
                totals.ctypes.data,
            )

        return self._run(evaluate, len(pixels))

    def _evaluated(self, number: int) -> NDArray[np.float32]:
        """The weights that a block is evaluated with, [N, lanes] in the kernel's order."""
        return self._blocks[number][0, 0]

    def _scatter(self, values: NDArray[np.float32], parameter: int) -> None:
        """Give the blocks a parameter, [P, N] in layout order."""
        for block, members in zip(self._blocks, self._members, strict=True):
            block[parameter, 0] = values[members][:, self._order].T

    def _gather(self, blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """[P, N] in layout order from the blocks' [N, lanes]."""
        values = np.empty((len(blocks), self._members.shape[1], self.layout.size), np.float32)
        for block, rows in zip(blocks, values, strict=True):
            rows[:, self._order] = block.T
        values = values.reshape(-1, self.layout.size)[: self.models]
        values[np.isnan(values)] = np.nan  # one bit pattern, whichever operation made it
        return values

    def _run(self, work: Callable[[int, NDArray[np.void]], int], samples: int) -> Scores:
        """Call the kernel for every block, `threads` at a time, and join the lanes' means."""
        lanes = self._members.shape[1]
        totals = np.zeros(
            len(self._blocks),
            [("loss", "f8", lanes), ("correct", "i8", lanes), ("samples", "i8")],
        )
        self._samples_seen, self._samples_all = totals["samples"], samples
        numbers = range(len(self._blocks))

        def run(number: int) -> int:
            return work(number, totals[number : number + 1])

        if len(numbers) == 1 or self.threads == 1:
            failed = [run(number) for number in numbers]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                failed = list(pool.map(run, numbers))
        self._samples_seen = np.zeros(1, np.int64)
        if 2 in failed:
            raise InvalidArgument("the kernel has no optimizer of this number")
        if any(failed):
            raise MemoryError("no memory for the kernel's workspace")
        loss = totals["loss"].reshape(-1)[: self.models] / samples
        return loss, totals["correct"].reshape(-1)[: self.models] / samples

    def _samples(
        self, images: ArrayLike, labels: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Checked and contiguous."""
        pixels, targets = np.ascontiguousarray(images, np.float32), np.asarray(labels)
        check_samples(self.layout, pixels, targets)
        return pixels, np.ascontiguousarray(targets, np.int64)


class Blocks(LanesWeights):
    """A population in training: `LanesPopulation` has the arguments."""

    moments = 2

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        threads: int | None = None,
        isa: str = "auto",
    ) -> None:
        super().__init__(layout, models[0].activation, weights, threads=threads, isa=isa)
        rates = rates_of(models, self.models)
        self.optimizer, self.batch_size = models[0].optimizer, models[0].batch_size
        self.dropout = bool(rates["dropout_threshold"].any())
        self._scheduler, self._epochs = models[0].scheduler, models[0].epochs
        self._steps = 0
        self._rates = [_by_field(rates[block]) for block in self._members]

    def _train(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train one epoch. `more` are arguments of this kernel alone."""
        pixels, targets = self._samples(images, labels)
        order = check_orders(orders, self.models, len(pixels))
        samples = order.shape[1]
        steps = -(-samples // self.batch_size)
        factors, momenta = pace_of_epoch(self._scheduler, self._epochs, self._steps, steps)

        def train(number: int, totals: NDArray[np.void]) -> int:
            own = np.ascontiguousarray(order[self._members[number]], np.int32)
            return self._library.train(
                self._blocks[number].ctypes.data,
                self._rates[number].ctypes.data,
                OPTIMIZERS[self.optimizer],
                self.dropout,
                pixels.ctypes.data,
                targets.ctypes.data,
                own.ctypes.data,
                samples,
                self.batch_size,
                self._steps,
                None if factors is None else factors.ctypes.data,
                None if momenta is None else momenta.ctypes.data,
                totals.ctypes.data,
                *more,
            )

        result = self._run(train, samples)
        self._steps += steps
        return result


def _by_field(records: NDArray[np.void]) -> NDArray[np.void]:
    """An array of structures [lanes] as one structure of arrays, the kernel's `Rates`."""
    names = records.dtype.names or ()
    joined = np.zeros(1, [(name, records.dtype[name], len(records)) for name in names])
    for name in names:
        joined[name] = records[name]
    return joined


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, on a page boundary."""
    page, size = 4096, 4 * int(np.prod(shape))
    memory = np.zeros(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size].view(np.float32).reshape(shape)
