"""Train given weights further, with the engines that train zoos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..builders.layout import Layout
from ..builders.machine import cores
from ..builders.specification import Model
from .engines import group_models, populate
from .streams import SampleOrders, sample_orders

_BLOCK_BYTES = 64 << 20
"""Limit of the number of weights that train together; an engine uses several times the memory."""

Metrics = dict[str, NDArray[np.float64]]


def fine_tune(
    weights: NDArray[np.float32],
    layout: Layout,
    models: Sequence[Model],
    sets: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], Metrics]:
    """Train weight vectors and return all their states.

    In epoch e, starting at 1, model i sees the images in the e-th permutation drawn by a torch
    generator with its seed.

    Args:
        weights: float32 [P, N].
        layout: layout of the vectors.
        models: hyperparameters and seed of each vector, [P]: a separate object for each, all with
            the same number of epochs.
        sets: name in the metrics (train, and perhaps val and test) -> normalised images, float32
            [n, channels, h, w], and labels, integers [n].
        engine, device, threads: see `engines.populate`.
        on_progress: called with the epochs done by all models, and the total number of their
            epochs.

    Returns:
        Weights, float32 [P, epochs + 1, N], and metrics such as test_acc, float64 [P, epochs + 1].
        State 0 has the given weights; its training metrics are measured in evaluation mode. Those
        of later states are running means over the epoch.

    Raises:
        InvalidArgument, LanesUnavailable, CudaUnavailable: see `engines.populate`.
    """
    epochs = models[0].epochs
    states = np.empty((len(models), epochs + 1, layout.size), np.float32)
    metrics = {
        f"{name}_{kind}": np.empty((len(models), epochs + 1))
        for name in sets
        for kind in ("loss", "acc")
    }
    row_of = {id(model): row for row, model in enumerate(models)}
    size, done = max(threads or cores(), _BLOCK_BYTES // (4 * layout.size)), 0
    for block in group_models(models, size):
        rows = np.array([row_of[id(model)] for model in block])
        population = populate(
            layout, block, weights[rows], engine=engine, device=device, threads=threads
        )
        orders = [
            SampleOrders(torch.Generator().manual_seed(model.seed), len(sets["train"][1]))
            for model in block
        ]
        for epoch in range(epochs + 1):
            scores = {}
            if epoch:
                order = sample_orders(orders, epoch - 1)
                scores["train"] = population.train_epoch(*sets["train"], order)
            for name, samples in sets.items():
                if name not in scores:
                    scores[name] = population.evaluate(*samples)
            states[rows, epoch] = population.weights
            for name, (loss, accuracy) in scores.items():
                metrics[f"{name}_loss"][rows, epoch] = loss
                metrics[f"{name}_acc"][rows, epoch] = accuracy
            done += len(block) * (epoch > 0)
            if on_progress is not None and epoch:
                on_progress(done, len(models) * epochs)
    return states, metrics
