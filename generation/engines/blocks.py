"""Train blocks of models side by side: the epoch loop of the lanes and batched engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor as Threads
from typing import Any

import numpy as np
import torch

from ...builders.specification import Model
from ..job import Job, Outcome, Population, _Work, group_models
from ..streams import SampleOrders, initial_weights, sample_orders
from .collect import _collect
from .lanes import lanes_count

BATCHED_BLOCK = {"cpu": 64, "cuda": 1024}
"""Models that the batched engine stacks."""


def _train_lanes(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    """A thread for each core, a block of one model a lane in each: the kernel releases the GIL."""
    zoo = work.job.directory.zoo
    blocks = group_models(models, lanes_count(zoo.layout, dict(zoo.grid)["activation"][0]))
    yield from _train_blocks(work, "lanes", blocks, work.threads, "cpu", {"threads": 1})


def _train_batched(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    """One block of stacked models after the other, with torch's own threads."""
    blocks = group_models(models, BATCHED_BLOCK[torch.device(work.device).type])
    options = {"device": work.device, "threads": work.threads}
    yield from _train_blocks(work, "batched", blocks, 1, work.device, options)


def _train_blocks(
    work: _Work,
    engine: str,
    blocks: list[list[Model]],
    threads: int,
    device: str,
    options: Mapping[str, Any],
) -> Iterator[Outcome]:
    # On the device once and for all: an engine does not copy what lies there already.
    images = work.job.images
    sets = {
        name: (images.normalized(split).to(device), getattr(images, split).labels.to(device))
        for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))
        if getattr(images, split) is not None
    }
    stop, drawing = threading.Event(), threading.Lock()
    states, trained = [0] * len(blocks), [0] * len(blocks)

    def train(number: int) -> list[Outcome]:
        def begin(block: list[Model], initial: np.ndarray) -> Population:
            return work.job.population(engine, block, initial, **options)

        def on_epoch(epoch: int) -> bool:
            states[number] += len(blocks[number])
            trained[number] += len(blocks[number]) * (epoch > 0)
            return not stop.is_set()

        return _train_block(work.job, blocks[number], sets, begin, drawing, on_epoch)

    pool = Threads(min(threads, len(blocks)) or 1)
    futures = {pool.submit(train, number): blocks[number] for number in range(len(blocks))}
    yield from _collect(work, pool, futures, lambda: (sum(states), sum(trained)), stop)


def _train_block(
    job: Job,
    block: list[Model],
    sets: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    begin: Callable[[list[Model], np.ndarray], Population],
    drawing: threading.Lock,
    on_epoch: Callable[[int], bool],
) -> list[Outcome]:
    """Train the models of one block through all epochs, then write their files."""
    # Another run of the same zoo may have come first.
    block = [model for model in block if not job.directory.finished(model.model_id)]
    if not block:
        return []
    layout, epochs = job.directory.zoo.layout, block[0].epochs
    with drawing:  # torch's global stream is borrowed
        drawn = [initial_weights(layout, model.init, model.seed) for model in block]
    orders = [SampleOrders(generator, len(sets["train"][1])) for _, generator in drawn]
    population = begin(block, np.stack([weights for weights, _ in drawn]))
    held_out = [name for name in sets if name != "train"]
    tensors: dict[str, np.ndarray] = {}
    metrics = {
        f"{name}_{kind}": np.empty((len(block), epochs + 1))
        for name in sets
        for kind in ("loss", "acc")
    }
    for epoch in range(epochs + 1):
        if epoch == 0:
            scores = {"train": population.evaluate(*sets["train"])}
        else:
            order = sample_orders(orders, epoch)
            scores = {"train": job.train_epoch(population, *sets["train"], order, epoch)}
        scores |= {name: population.evaluate(*sets[name]) for name in held_out}
        for name, values in job.tensors(population).items():
            if epoch == 0:
                tensors[name] = np.empty((len(block), epochs + 1, layout.size), np.float32)
            tensors[name][:, epoch] = values
        for name, (loss, accuracy) in scores.items():
            metrics[f"{name}_loss"][:, epoch] = loss
            metrics[f"{name}_acc"][:, epoch] = accuracy
        if not on_epoch(epoch):
            return []
    return [
        job.write(
            model,
            {name: values[number] for name, values in tensors.items()},
            {name: values[number] for name, values in metrics.items()},
        )
        for number, model in enumerate(block)
    ]
