"""Collect the outcomes of workers as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Protocol

from ...builders.specification import Model
from ...errors import TrainingFailed
from ..job import Outcome, Progress, Work

AFTER_THE_EPOCH = (
    "stopping after the running epoch; Ctrl-C again stops at once. Finished models are kept; those "
    "in training start again from their first epoch, unless the running one is their last"
)


@dataclass(frozen=True)
class Done:
    """The progress of the workers.

    Attributes:
        states: number of states that exist, over all models.
        epochs: number of epochs trained in this run, over all models.
        seconds_left: estimated time until all models are finished; None if it is not known.
    """

    states: float
    epochs: float
    seconds_left: float | None


class StopEvent(Protocol):
    """An event of threading or multiprocessing."""

    def set(self) -> None: ...


def collect(
    work: Work,
    pool: Executor,
    futures: Mapping[Future[list[Outcome]], list[Model]],
    done: Callable[[], Done],
    stop: StopEvent,
    remark: str = "",
    stopping: str = AFTER_THE_EPOCH,
) -> Iterator[Outcome]:
    """Yield outcomes as they arrive; after an error or interruption, stop the workers and wait.

    Args:
        work: the work of the run.
        pool: executor that runs the workers.
        futures: future of each task -> the models that it trains.
        done: returns the progress of the workers.
        stop: event that tells the workers to stop.
        remark: remark of the first `Progress`.
        stopping: remark after an interruption.

    Raises:
        TrainingFailed: a worker was killed, or a model could not be written.
    """
    total = sum(len(models) for models in futures.values())
    directory = work.job.directory
    kept = len(directory.kept_epochs)
    running, models = set(futures), 0
    changed, left = time.monotonic(), None

    def report(remark: str = "", stopping: bool = False) -> None:
        nonlocal changed, left
        if work.on_progress is None:
            return
        now, seen = time.monotonic(), done()
        if seen.seconds_left != left:  # keep the time of an unchanged estimate
            changed, left = now, seen.seconds_left
        work.on_progress(
            Progress(
                *(models, total, seen.states, total * kept),
                samples=round(seen.epochs * len(work.job.images.train)),
                seconds_left=None if left is None else max(0.0, left - (now - changed)),
                remark=remark,
                stopping=stopping,
            )
        )

    try:
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
                models += len(futures[future])
            report(remark)
            remark = ""
    except KeyboardInterrupt:
        report(stopping, stopping=True)
        raise
    except (BrokenProcessPool, OSError) as error:
        reason = (
            "a training process ended at once or was killed (out of memory? or a script that "
            'calls this outside of `if __name__ == "__main__":`?)'
        )
        if isinstance(error, OSError):
            reason = f"a model could not be written ({error})"
        raise TrainingFailed(
            f"{reason}; {models} models of this run are finished in {directory.path}: run the "
            "same command again for the others"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
