"""A population of torch modules that are trained one by one: networks of any architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...builders.hyperparameters import OPTIMIZERS
from ...builders.layout import Layout
from ...builders.machine import cores
from ...builders.specification import Model
from ...errors import InvalidArgument
from ..networks import build
from ..schedules import make_scheduler
from . import reference
from .population import Scores, check_models

_BATCH = 64
"""Images that are evaluated at a time."""


class ModulesPopulation:
    """Models in training in plain torch, as many at a time as there are threads.

    Args:
        layout: of any architecture.
        models: with one activation, optimizer, schedule and batch size.
        weights: float32 [P, N] in layout order.
        device: "cpu" or "cuda"; None for the CPU.
        threads: models at a time; None for one on each core.

    Raises:
        InvalidArgument: models that do not fit together, or weights of another shape.
    """

    epoch_share: float = 0.0

    def __init__(
        self,
        layout: Layout,
        models: Sequence[Model],
        weights: ArrayLike,
        *,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        vectors = np.asarray(weights, np.float32)
        if vectors.shape != (len(models), layout.size):
            raise InvalidArgument(
                f"weights must be [{len(models)}, {layout.size}], found {list(vectors.shape)}"
            )
        check_models(models, len(vectors), list(OPTIMIZERS))
        self.layout, self.models, self.epoch = layout, models, 0
        self.device, self.threads = torch.device(device or "cpu"), threads or cores()
        self._networks = [
            reference.Network(self._module(model, vector), model, layout, "philox")
            for model, vector in zip(models, vectors, strict=True)
        ]
        self._optimizers = [
            reference.make_optimizer(model, network.module)
            for model, network in zip(models, self._networks, strict=True)
        ]
        self._schedulers: list[torch.optim.lr_scheduler.LRScheduler | None] = []

    def _module(self, model: Model, vector: NDArray[np.float32]) -> torch.nn.Module:
        module = build(self.layout, model.activation, model.dropout)
        tensors = self.layout.to_state_dict(torch.from_numpy(np.array(vector)))
        module.load_state_dict(tensors, strict=False)
        order = torch.contiguous_format if self.layout.architecture.layers else torch.channels_last
        return module.to(self.device, memory_format=order)  # type: ignore[call-overload]

    @property
    def weights(self) -> NDArray[np.float32]:
        """The current weights, [P, N] in layout order, a copy."""
        return np.stack(
            [self.layout.to_vector(network.module.state_dict()) for network in self._networks]
        )

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train every model for one epoch; see `Population.train_epoch`. `more` is empty."""
        x, y = (torch.as_tensor(part, device=self.device) for part in (images, labels))
        rows = torch.as_tensor(np.asarray(orders), device=self.device)
        batch = self.models[0].batch_size
        if not self._schedulers:
            steps = -(-rows.shape[1] // batch)
            pairs = zip(self._optimizers, self.models, strict=True)
            self._schedulers = [
                make_scheduler(optimizer, model, steps) for optimizer, model in pairs
            ]
        self.epoch += 1
        return self._each(
            lambda i: reference.train_epoch(
                *(self._networks[i], self._optimizers[i], x, y, batch, self.epoch),
                *(self._schedulers[i], rows[i]),
            )
        )

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Scores:
        """Score every model in evaluation mode; see `Population.evaluate`."""
        x, y = (torch.as_tensor(part, device=self.device) for part in (images, labels))
        return self._each(lambda i: reference.evaluate(self._networks[i].module, x, y, _BATCH))

    def _each(self, work: Callable[[int], tuple[float, float]]) -> Scores:
        """Do something with each model, on one thread each."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self.threads) as pool:
                results = list(pool.map(work, range(len(self.models))))
        finally:
            torch.set_num_threads(before)
        loss, accuracy = np.array(results, np.float64).T
        return loss, accuracy
