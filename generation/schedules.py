"""Learning rate schedules: what the rate of each training step is, as a share of the model's own.

    OneCycleLR            torch's, over all steps, with its cycle of the momentum (beta1 of adam)
    cosine                torch's CosineAnnealingLR, over all steps, down to 0
    step(epochs=10, factor=0.1)
                          torch's StepLR: times `factor` (default 0.1) after every `epochs` epochs
                          (default: a third of all, rounded up)

`make_scheduler` makes torch's own; `schedule` has the same numbers for engines that step by
themselves, and a test compares the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..builders.hyperparameters import parse_scheduler
from ..builders.specification import Model

if TYPE_CHECKING:
    import torch


class Schedule(NamedTuple):
    """What changes from step to step, float64 [steps] over all epochs.

    Attributes:
        factor: of the model's learning rate.
        momentum: in place of the model's (of adam: beta1); None where it stays.
    """

    factor: NDArray[np.float64]
    momentum: NDArray[np.float64] | None


def schedule(scheduler: str | None, epochs: int, steps_per_epoch: int) -> Schedule | None:
    """The schedule of a training of so many epochs and steps; None for a constant rate.

    Raises:
        InvalidArgument: an unknown schedule.
    """
    if scheduler is None:
        return None
    name, numbers = parse_scheduler(scheduler)
    steps = np.arange(epochs * steps_per_epoch, dtype=np.float64)
    if name == "step":
        wait, factor = _step_numbers(numbers, epochs)
        return Schedule(factor ** (steps // (wait * steps_per_epoch)), None)
    if name == "cosine":
        return Schedule((1 + np.cos(math.pi * steps / len(steps))) / 2, None)
    # torch.optim.lr_scheduler.OneCycleLR with its defaults.
    peak, last = 0.3 * len(steps) - 1, len(steps) - 1
    rising = steps <= peak

    def between(start: float, top: float, end: float) -> NDArray[np.float64]:
        share = np.where(rising, steps / (peak or 1), (steps - peak) / (last - peak))
        first, second = np.where(rising, start, top), np.where(rising, top, end)
        return second + (first - second) / 2 * (1 + np.cos(math.pi * share))

    return Schedule(between(1 / 25, 1, 1 / 25e4), between(0.95, 0.85, 0.95))


def make_scheduler(
    optimizer: torch.optim.Optimizer, model: Model, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """torch's schedule of a model, to be stepped after each training step; None for none.

    Raises:
        InvalidArgument: an unknown schedule.
    """
    import torch

    if model.scheduler is None:
        return None
    name, numbers = parse_scheduler(model.scheduler)
    schedulers = torch.optim.lr_scheduler
    if name == "step":
        wait, factor = _step_numbers(numbers, model.epochs)
        return schedulers.StepLR(optimizer, wait * steps_per_epoch, factor)
    if name == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, model.epochs * steps_per_epoch)
    return schedulers.OneCycleLR(
        optimizer,
        max_lr=model.learning_rate,
        epochs=model.epochs,
        steps_per_epoch=steps_per_epoch,
    )


def _step_numbers(numbers: dict[str, float], epochs: int) -> tuple[int, float]:
    return int(numbers.get("epochs", math.ceil(epochs / 3))), numbers.get("factor", 0.1)
