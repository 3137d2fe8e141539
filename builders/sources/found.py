"""What each form of source says of a model and of its states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import ACTIVATIONS, OPTIMIZERS, is_init

_Kind = tuple[type, Callable[[Any], bool]]

_COUNT: _Kind = int, lambda value: 1 <= value < 2**31
_RATE: _Kind = float, lambda value: 0 <= value < math.inf

HYPERPARAMETER_KINDS: dict[str, _Kind] = {
    "seed": (int, lambda value: abs(value) < 2**63),
    "activation": (str, lambda value: value in ACTIVATIONS),
    "init": (str, is_init),
    "dropout": (float, lambda value: 0 <= value < 1),
    "optimizer": (str, lambda value: value in OPTIMIZERS),
    "learning_rate": _RATE,
    "weight_decay": _RATE,
    "momentum": _RATE,
    "batch_size": _COUNT,
    "epochs": _COUNT,
    "scheduler": (str, lambda value: True),
}
"""Hyperparameter -> its type, and the test that its values pass."""


@dataclass(frozen=True)
class Description:
    """The source's description of one model.

    Attributes:
        shape: name of the architecture, channels and classes.
        hyperparameters: see `Model.hyperparameters`; None where the source does not state them.
        experiment: name of the run, "" if it is not known.
        twin: whether the model is a sparse twin.
        parent, parent_experiment: for a twin, the id of the dense model and the name of its run.
    """

    shape: tuple[str, int, int]
    hyperparameters: Mapping[str, Any]
    experiment: str
    twin: bool = False
    parent: str | None = None
    parent_experiment: str = ""


@dataclass(frozen=True)
class State:
    """One state that can become a row.

    Attributes:
        epoch: epoch of training.
        weights: float32 [N]; those of a twin are pruned.
        metrics: name in schema.METRICS -> value, for the measured metrics.
        extra: `mean` and `log_sigma2` of a twin, float32 [N]; empty for other models.
    """

    epoch: int
    weights: NDArray[np.float32]
    metrics: Mapping[str, float]
    extra: Mapping[str, NDArray[np.float32]]
