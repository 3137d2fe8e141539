"""Worker processes of the reference engine, each of which trains one model at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from ...builders.specification import Model
from ...builders.workers import end_with_parent, interrupts_held
from ..job import Job, Outcome, _Work
from .collect import _collect

_worker: dict[str, Any] = {}


def _train_reference(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    # Not fork: a forked child of a process whose torch has started threads can hang.
    context = multiprocessing.get_context("spawn")
    states, stop = context.Array("q", 2), context.Event()
    pool = ProcessPoolExecutor(
        min(work.threads, len(models)) or 1,
        context,
        _start_worker,
        (work.job, states, stop),
    )
    with interrupts_held():
        futures = {pool.submit(_train_one, model): [model] for model in models}
    yield from _collect(work, pool, futures, lambda: tuple(states), stop)


def _start_worker(job: Job, states: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and sets `stop`
    end_with_parent()
    _worker.update(job=job, states=states, stop=stop)


def _train_one(model: Model) -> list[Outcome]:
    job: Job = _worker["job"]
    if _worker["stop"].is_set() or job.directory.finished(model.model_id):
        return []
    trajectory = []
    for state in job.trajectory(model):
        trajectory.append(state)
        with _worker["states"].get_lock():
            _worker["states"][0] += 1
            _worker["states"][1] += state.epoch > 0
        if _worker["stop"].is_set():
            return []
    vectors = [{"weights": state.weights, **state.extra} for state in trajectory]
    tensors = {name: torch.stack([v[name] for v in vectors]).numpy() for name in vectors[0]}
    names = trajectory[-1].metrics
    metrics = {name: np.array([state.metrics[name] for state in trajectory]) for name in names}
    return [job.write(model, tensors, metrics)]
