"""Train models side by side: the epoch loop of the engines lanes, cuda and batched.

reference.py has its own epoch loop, and so has checkpointed.py for ResNets.

Models that share activation, optimizer, schedule, batch size and number of epochs, and either all
or none of which use dropout, fill a *block*. A block is trained from its first to its last epoch by
one thread, then the files of its models are written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from ...builders.specification import Model
from ..job import Job, Outcome, Work
from ..streams import SampleOrders, initial_weights, sample_orders
from .collect import Done, collect
from .population import Population
from .track import Track, seconds_left

Sets = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Normalised images and labels under the names in metrics: train, val, test."""


TOGETHER = (
    "models train together if they share an activation, an optimizer, a schedule, a batch size and "
    "a number of epochs, and either all or none use dropout"
)
"""The rule of `group_models`, for messages."""


def group_models(models: Sequence[Model], size: int) -> list[list[Model]]:
    """Divide models into blocks of at most `size` that can train together, in their order.

    Learning rate, weight decay, momentum, dropout rate, initialisation and seed may differ in a
    block.
    """
    blocks: list[list[Model]] = []
    filling: dict[tuple[object, ...], list[Model]] = {}
    for model in models:
        key = (
            *(model.activation, model.optimizer, model.scheduler, model.dropout > 0),
            *(model.batch_size, model.epochs),
        )
        if len(filling.get(key, range(size))) == size:
            filling[key] = []
            blocks.append(filling[key])
        filling[key].append(model)
    return blocks


def train_blocks(
    work: Work,
    blocks: Sequence[list[Model]],
    populate: Callable[..., Population],
    *,
    threads: int,
    device: str = "cpu",
    in_lanes: bool = False,
    remark: str = "",
) -> Iterator[Outcome]:
    """Train blocks of models, `threads` of them at a time, and write the models.

    Args:
        work: the work of the run.
        blocks: see `group_models`.
        populate: makes a population from models and their initial tensors (`Job.start`).
        threads: number of blocks at a time.
        device: device of the images.
        in_lanes: whether a block with few models takes as long as a full one.
        remark: remark of the first `Progress`.
    """
    # Copied to the device once: an engine does not copy what is there already.
    sets = work.job.images.sets(device)
    sizes = {name: len(labels) for name, (_, labels) in sets.items()}
    stop, drawing = threading.Event(), threading.Lock()
    tracks = [Track(sizes, block[0].epochs, 1 if in_lanes else len(block)) for block in blocks]
    training: dict[int, Population] = {}

    def train(number: int) -> list[Outcome]:
        watch = partial(training.__setitem__, number)
        try:
            return _train_block(
                *(work.job, blocks[number], sets, populate, drawing, watch, tracks[number], stop)
            )
        finally:
            training.pop(number, None)

    def done() -> Done:
        running, states, epochs = dict(training), 0.0, 0.0
        for number, (block, track) in enumerate(zip(blocks, tracks, strict=True)):
            track.look(running[number].epoch_share if number in running else 0.0)
            states += track.states * len(block)
            if not track.skipped:
                epochs += max(0.0, track.states - 1) * len(block)
        return Done(states, epochs, seconds_left(tracks, threads))

    pool = ThreadPoolExecutor(min(threads, len(blocks)) or 1)
    futures = {pool.submit(train, number): blocks[number] for number in range(len(blocks))}
    yield from collect(work, pool, futures, done, stop, remark)


def _train_block(
    job: Job,
    block: list[Model],
    sets: Sets,
    populate: Callable[..., Population],
    drawing: threading.Lock,
    watch: Callable[[Population], None],
    track: Track,
    stop: threading.Event,
) -> list[Outcome]:
    """Train the models of one block through all epochs, then write their files."""
    # Another run of the same zoo may have trained these models.
    block = [model for model in block if not job.directory.finished(model.model_id)]
    if not block:
        track.skip()
        return []
    layout, epochs = job.directory.zoo.layout, block[0].epochs
    with drawing:  # uses and restores torch's global stream
        drawn = [initial_weights(layout, model.init, model.seed) for model in block]
    orders = [SampleOrders(generator, len(sets["train"][1])) for _, generator in drawn]
    start = job.start(block, np.stack([weights for weights, _ in drawn]))
    population = populate(layout, block, **start)
    watch(population)
    held_out = [name for name in sets if name != "train"]
    tensors: dict[str, np.ndarray] = {}
    metrics = {
        f"{name}_{kind}": np.empty((len(block), epochs + 1))
        for name in sets
        for kind in ("loss", "acc")
    }
    for epoch in range(epochs + 1):
        track.begin("train", trained=epoch > 0)
        if epoch == 0:
            scores = {"train": population.evaluate(*sets["train"])}
        else:
            order = sample_orders(orders, epoch)
            more = job.epoch_arguments(epoch)
            scores = {"train": population.train_epoch(*sets["train"], order, *more)}
        track.end()
        for name in held_out:
            track.begin(name)
            scores[name] = population.evaluate(*sets[name])
            track.end()
        for name, values in job.tensors(population).items():
            if epoch == 0:
                tensors[name] = np.empty((len(block), epochs + 1, layout.size), np.float32)
            tensors[name][:, epoch] = values
        for name, (loss, accuracy) in scores.items():
            metrics[f"{name}_loss"][:, epoch] = loss
            metrics[f"{name}_acc"][:, epoch] = accuracy
        if stop.is_set() and epoch < epochs:
            return []
    return [
        job.write(
            model,
            {name: values[number] for name, values in tensors.items()},
            {name: values[number] for name, values in metrics.items()},
        )
        for number, model in enumerate(block)
    ]
