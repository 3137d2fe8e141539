"""Learning rate schedules: what the rate of each training step is, as a share of the model's own.

    OneCycleLR            torch's, over all steps, with its cycle of the momentum (beta1 of adam)
    cosine                torch's CosineAnnealingLR, over all steps, down to 0
    step(epochs=10, factor=0.1)
                          torch's StepLR: times `factor` (default 0.1) after every `epochs` epochs
                          (default: a third of all, rounded up)

`make_scheduler` makes torch's own; `schedule` has the same values for engines that step by
themselves, and a test compares the two. A new schedule is one entry in `SCHEDULES`, and its name
with its numbers in builders/hyperparameters.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


class Course(NamedTuple):
    """The training that a schedule is for.

    Attributes:
        numbers: those of the schedule's text, such as `epochs` and `factor`.
        epochs, steps_per_epoch: length of the training.
    """

    numbers: Mapping[str, float]
    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class Kind(NamedTuple):
    """A schedule in its two forms.

    Attributes:
        values: the schedule of a training.
        torch_class: its class in torch.optim.lr_scheduler.
        torch_arguments: what this class takes beside the optimizer, from the training and the
            model's learning rate; torch's defaults otherwise.
    """

    values: Callable[[Course], Schedule]
    torch_class: str
    torch_arguments: Callable[[Course, float], dict[str, float]]


RISING_SHARE = 0.3
START_DIVISOR, END_DIVISOR = 25, 1e4
LOW_MOMENTUM, HIGH_MOMENTUM = 0.85, 0.95
"""The defaults of torch's OneCycleLR: pct_start; div_factor, final_div_factor; base_momentum,
max_momentum."""


def _one_cycle(course: Course) -> Schedule:
    steps = np.arange(course.steps, dtype=np.float64)
    peak, last = RISING_SHARE * len(steps) - 1, len(steps) - 1
    rising = steps <= peak

    def between(start: float, top: float, end: float) -> NDArray[np.float64]:
        share = np.where(rising, steps / (peak or 1), (steps - peak) / (last - peak))
        first, second = np.where(rising, start, top), np.where(rising, top, end)
        return second + (first - second) / 2 * (1 + np.cos(math.pi * share))

    return Schedule(
        between(1 / START_DIVISOR, 1, 1 / (START_DIVISOR * END_DIVISOR)),
        between(HIGH_MOMENTUM, LOW_MOMENTUM, HIGH_MOMENTUM),
    )


def _cosine(course: Course) -> Schedule:
    steps = np.arange(course.steps, dtype=np.float64)
    return Schedule((1 + np.cos(math.pi * steps / len(steps))) / 2, None)


def _step_arguments(course: Course) -> dict[str, float]:
    epochs = int(course.numbers.get("epochs", math.ceil(course.epochs / 3)))
    return {
        "step_size": epochs * course.steps_per_epoch,
        "gamma": course.numbers.get("factor", 0.1),
    }


def _step(course: Course) -> Schedule:
    wait, factor = _step_arguments(course).values()
    return Schedule(factor ** (np.arange(course.steps, dtype=np.float64) // wait), None)


SCHEDULES = {
    "OneCycleLR": Kind(
        _one_cycle,
        "OneCycleLR",
        lambda course, rate: {"max_lr": rate, "total_steps": course.steps},
    ),
    "cosine": Kind(_cosine, "CosineAnnealingLR", lambda course, _: {"T_max": course.steps}),
    "step": Kind(_step, "StepLR", lambda course, _: _step_arguments(course)),
}
"""Every schedule of hyperparameters.SCHEDULE_NUMBERS."""


def schedule(scheduler: str | None, epochs: int, steps_per_epoch: int) -> Schedule | None:
    """The schedule of a training of so many epochs and steps; None for a constant rate.

    Raises:
        InvalidArgument: an unknown schedule.
    """
    if scheduler is None:
        return None
    name, numbers = parse_scheduler(scheduler)
    return SCHEDULES[name].values(Course(numbers, epochs, steps_per_epoch))


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
    kind, course = SCHEDULES[name], Course(numbers, model.epochs, steps_per_epoch)
    make: Callable[..., torch.optim.lr_scheduler.LRScheduler]
    make = getattr(torch.optim.lr_scheduler, kind.torch_class)
    return make(optimizer, **kind.torch_arguments(course, model.learning_rate))
