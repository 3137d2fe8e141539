"""Evaluate and train small networks on a GPU, with one block of threads for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ....builders.layout import Layout
from ....builders.specification import Model
from ..kernels import (
    OPTIMIZERS,
    check_orders,
    check_samples,
    pace_of_epoch,
    rates_of,
    weights_order,
)
from ..population import Scores, check_weights
from .library import Arguments, Facts, load

TOTALS = np.dtype([("loss", "f8"), ("correct", "i8")])
SCRATCH = 2**31
"""Bytes of global memory that the blocks of one launch may use for data that shared memory cannot
hold; more models take several launches."""

BETA1, BETA2 = 0.9, 0.999
"""torch.optim.Adam's defaults; the kernel contains the second one too."""


class Kernel(Protocol):
    """A compiled kernel."""

    @property
    def facts(self) -> Facts:
        """What it says of itself."""

    def launch(self, name: str, grid: tuple[int, int], arguments: Arguments) -> None:
        """Launch a function after everything that torch has launched on this device."""


Load = Callable[[Layout, str, bool, torch.device], Kernel]
"""Function that makes the kernel of a layout and activation, with or without dropout."""


class CudaWeights:
    """Networks of one architecture and activation on a GPU, to be evaluated.

    Args:
        layout: of an architecture with `layers`.
        activation: key of hyperparameters.ACTIVATIONS; gelu is the exact one.
        weights: float32 [P, layout.size] in layout order.
        device: "cuda" or "cuda:1".
        dropout: whether the kernel must support dropout.
        load: function that makes the kernel.

    Raises:
        CudaUnavailable: the kernel cannot be built or run here.
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
        device: str = "cuda",
        dropout: bool = False,
        load: Load = load,
    ) -> None:
        values = check_weights(layout, activation, weights)
        self.layout, self.models = layout, len(values)
        self.device = torch.device(device)
        self._kernel = load(layout, activation, dropout, self.device)
        order = weights_order(layout, alignment=4)
        assert len(order) == self._kernel.facts.span
        self._places = np.flatnonzero(order >= 0)  # of the weights in the kernel's order
        self._order = order[self._places]
        # The kernel's parameters: values and two moments.
        parameters = np.zeros((self.models, 3, len(order)), np.float32)
        parameters[:, 0, self._places] = values[:, self._order]
        self._parameters = self._put(parameters)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The weights, float32 [P, layout.size] in layout order, a copy."""
        found = self._parameters[:, 0].cpu().numpy()
        values = np.empty((self.models, self.layout.size), np.float32)
        values[:, self._order] = found[:, self._places]
        values[np.isnan(values)] = np.nan  # one bit pattern, whichever operation made it
        return values

    def evaluate(
        self, images: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor
    ) -> Scores:
        """Score every model in evaluation mode. Arguments: see `Population.train_epoch`."""
        pixels, targets = self._samples(images, labels)
        slices = -(-len(pixels) // self._kernel.facts.slice_images)
        losses = torch.empty((self.models, len(pixels)), device=self.device)
        arguments = Arguments(
            images=pixels.data_ptr(),
            labels=targets.data_ptr(),
            losses=losses.data_ptr(),
            n=len(pixels),
        )
        return self._run("evaluate", slices, arguments)

    def _put(self, values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _samples(
        self, images: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and labels checked, contiguous and on the device."""
        # Arrays of numpy may be read-only, reversed or of another byte order.
        pixels = (
            images
            if isinstance(images, torch.Tensor)
            else torch.from_numpy(np.require(images, np.float32, ("C", "W")))
        )
        targets = labels if isinstance(labels, torch.Tensor) else np.asarray(labels)
        check_samples(self.layout, pixels, targets)
        if not isinstance(targets, torch.Tensor):
            targets = torch.from_numpy(np.require(targets, np.int64, ("C", "W")))
        pixels = pixels.to(self.device, torch.float32).contiguous()
        return pixels, targets.to(self.device, torch.int32).contiguous()

    def _run(self, name: str, slices: int, arguments: Arguments) -> Scores:
        """Launch the kernel for all models, and wait for the means over the samples."""
        facts, samples = self._kernel.facts, arguments.n
        totals = torch.empty((self.models, slices, 2), dtype=torch.float64, device=self.device)
        # As many blocks at a time as fit the scratch memory: slices first, then models.
        room = max(1, SCRATCH // max(1, facts.scratch_bytes))
        across = min(slices, room)
        down = max(1, min(self.models, room // across))
        scratch = torch.empty(
            facts.scratch_bytes * across * down, dtype=torch.uint8, device=self.device
        )
        arguments.models, arguments.parameters = self.models, self._parameters.data_ptr()
        arguments.totals, arguments.scratch = totals.data_ptr(), scratch.data_ptr()
        for model, part in itertools.product(range(0, self.models, down), range(0, slices, across)):
            arguments.first_model, arguments.first_slice = model, part
            grid = (min(down, self.models - model), min(across, slices - part))
            self._kernel.launch(name, grid, arguments)
        if name == "evaluate":
            self._kernel.launch("add_losses", (-(-self.models // facts.threads), 1), arguments)
        found = totals.cpu().numpy().view(TOTALS)[..., 0]
        return found["loss"].sum(1) / samples, found["correct"].sum(1) / samples


class CudaPopulation(CudaWeights):
    """Models in training that share architecture, activation, optimizer and batch size.

    Losses are in nats, accuracies in [0, 1], both float64 [P]. A model that diverges continues
    with NaN weights and losses, as in torch, and does not affect the others.

    Args:
        layout: of an architecture with `layers`.
        models: that share activation, optimizer, schedule and batch size; their rates and seeds may
            differ. Dropout masks are those of generation/streams.py.
        weights: initial weights, float32 [P, layout.size] in layout order.
        device: "cuda" or "cuda:1".
        threads: ignored; other engines need it.
        load: function that makes the kernel.

    Raises:
        CudaUnavailable: the kernel cannot be built or run here.
        InvalidArgument: arguments of a wrong shape or out of range.
    """

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        device: str = "cuda",
        threads: int | None = None,
        load: Load = load,
    ) -> None:
        rates = rates_of(models, len(check_weights(layout, models[0].activation, weights)))
        self.dropout = bool(rates["dropout_threshold"].any())
        super().__init__(
            layout, models[0].activation, weights, device=device, dropout=self.dropout, load=load
        )
        self.optimizer, self.batch_size = models[0].optimizer, models[0].batch_size
        self._scheduler, self._epochs = models[0].scheduler, models[0].epochs
        self._steps = 0
        self._rates = self._put(rates.view(np.uint8))

    def train_epoch(
        self,
        images: ArrayLike | torch.Tensor,
        labels: ArrayLike | torch.Tensor,
        orders: ArrayLike,
        *more: float,
    ) -> Scores:
        """Train every model for one epoch; see `Population.train_epoch`. `more` is empty."""
        pixels, targets = self._samples(images, labels)
        order = check_orders(orders, self.models, len(pixels))
        samples = order.shape[1]
        steps = -(-samples // self.batch_size)
        pace, momenta = self._pace(steps)
        own_order, own_pace = self._put(order.astype(np.int32)), self._put(pace)
        arguments = Arguments(
            rates=self._rates.data_ptr(),
            images=pixels.data_ptr(),
            labels=targets.data_ptr(),
            orders=own_order.data_ptr(),
            steps=own_pace.data_ptr(),
            n=samples,
            batch_size=self.batch_size,
            before=self._steps,
            optimizer=OPTIMIZERS[self.optimizer],
            dropout=self.dropout,
            momenta=momenta,
        )
        scores = self._run("train", 1, arguments)
        self._steps += steps
        return scores

    def _pace(self, steps: int) -> tuple[NDArray[np.float64], bool]:
        """Return the kernel's `Step` for each coming step, and whether a schedule sets momenta."""
        pace = pace_of_epoch(self._scheduler, self._epochs, self._steps, steps)
        factors = np.ones(steps) if pace.factors is None else pace.factors
        momenta = np.full(steps, BETA1) if pace.momenta is None else pace.momenta
        # Python's powers equal those of the C library and of the lanes.
        numbers = [float(self._steps + number) for number in range(1, steps + 1)]
        mean = [1 - beta1**n for beta1, n in zip(momenta.tolist(), numbers, strict=True)]
        root = [math.sqrt(1 - BETA2**n) for n in numbers]
        return np.stack([factors, momenta, mean, root], 1), pace.momenta is not None
