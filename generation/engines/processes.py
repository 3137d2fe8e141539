"""Train one model at a time in worker processes: how the reference engine trains a zoo."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...builders.specification import Model
from ...builders.workers import end_with_parent, interrupts_held
from ..job import Job, Outcome, Work
from .collect import Done, collect
from .reference import Network, train
from .reference_twins import PrunedTwin, VariationalTwin
from .track import STEP

Start = dict[str, NDArray[np.generic]]

NETWORKS: dict[str, Callable[[Start], Callable[..., Network]]] = {
    "dense": lambda start: Network,
    "variational": lambda start: partial(VariationalTwin, parent=start["weights"][0]),
    "magnitude": lambda start: partial(
        PrunedTwin, parent=start["weights"][0], pruned=start["pruned"][0]
    ),
}
"""What is trained by each method (`Job.method`), made from the result of `Job.start`."""

_worker: dict[str, Any] = {}
"""State of a worker process, set when it starts: `job`, `states` and `stop`. All workers share
`states`: the number of untrained and of trained states, then the seconds for each kind."""


def train_in_processes(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """Train models one by one, `work.threads` of them at a time, and write them."""
    # Not fork: a forked child can hang if torch has started threads in the parent.
    context = multiprocessing.get_context("spawn")
    states, stop = context.Array("d", 4), context.Event()
    pool = ProcessPoolExecutor(
        min(work.threads, len(models)) or 1, context, _start, (work.job, states, stop)
    )
    with interrupts_held():
        futures = {pool.submit(_train, model): [model] for model in models}
    epochs, threads = sum(model.epochs for model in models), min(work.threads, len(models)) or 1

    def done() -> Done:
        values: list[float] = states[:]
        untrained, trained, evaluating, training = values
        if not untrained:
            return Done(0, 0, None)
        evaluation = evaluating / untrained
        epoch = training / trained if trained else STEP * evaluation
        left = (len(models) - untrained) * evaluation + (epochs - trained) * epoch
        return Done(untrained + trained, trained, left / threads)

    yield from collect(work, pool, futures, done, stop)


def _start(job: Job, states: object, stop: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it and sets `stop`
    end_with_parent()
    _worker.update(job=job, states=states, stop=stop)


def _train(model: Model) -> list[Outcome]:
    job: Job = _worker["job"]
    if _worker["stop"].is_set() or job.directory.finished(model.model_id):
        return []
    layout = job.directory.zoo.layout
    start = job.start([model], np.empty((1, layout.size), np.float32))
    trajectory, began = [], time.monotonic()
    for state in train(model, layout, job.images, network=NETWORKS[job.method](start)):
        trajectory.append(state)
        ended, kind = time.monotonic(), state.epoch > 0
        with _worker["states"].get_lock():
            _worker["states"][kind] += 1
            _worker["states"][2 + kind] += ended - began
        began = ended
        if _worker["stop"].is_set() and state.epoch < model.epochs:
            return []
    vectors = [{"weights": state.weights, **state.extra} for state in trajectory]
    tensors = {name: torch.stack([v[name] for v in vectors]).numpy() for name in vectors[0]}
    names = trajectory[-1].metrics
    metrics = {name: np.array([state.metrics[name] for state in trajectory]) for name in names}
    return [job.write(model, tensors, metrics)]
