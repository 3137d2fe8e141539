"""The activations, initialisations, optimizers and schedules of models, by name.

Each is added by one more entry here. generation/networks.py finds what torch calls an activation or
an initialisation. What else there is to add:

    activation    where speed matters: a struct in generation/engines/kernels/elementwise.hpp
    schedule      an entry in generation/schedules.py, its values
    optimizer     its step in the engines that step by themselves, in generation/engines: an entry
                  in batched/blocks.py; for the kernels its number in kernels/arguments.py, and a
                  struct and a line of `with_optimizer` in kernels/elementwise.hpp

Tests compare the tables, and what each entry does with torch.

Initialisations and schedules may carry numbers, as in `normal(std=0.1, bias=0)`: so a row describes
itself without a column for each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidArgument

ACTIVATIONS = {
    "tanh": "Tanh",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "gelu": "GELU",
    "selu": "SELU",
    "elu": "ELU",
    "leaky_relu": "LeakyReLU",
    "silu": "SiLU",
    "softplus": "Softplus",
    "identity": "Identity",
}
"""Activation -> its class in torch.nn, with torch's defaults, or a user's own, "module:Class"."""


def check_activation(name: object) -> None:
    """Refuse an activation that is not in the table.

    Raises:
        InvalidArgument: unknown.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InvalidArgument(
            f"unknown activation {name!r:.60}; known: {', '.join(ACTIVATIONS)}. Another one is "
            "added to model_zoos.builders.hyperparameters.ACTIVATIONS: name -> class in torch.nn, "
            "or 'module:Class'. Commands import the modules that MODEL_ZOOS_EXTENSIONS names, "
            "which can do so"
        )


ODD = {"tanh", "identity"}
"""Activations with f(-x) = -f(x)."""

HOMOGENEOUS = {"relu", "leaky_relu", "identity"}
"""Activations with f(cx) = c f(x) for every c > 0."""

BIAS = 0.01
"""Start of all biases, unless the initialisation names another `bias` (def_net.py of the paper's
code, `initialize_weights`)."""

INITS: dict[str, tuple[str, ...]] = {
    "uniform": ("bias",),
    "normal": ("std", "bias"),
    "kaiming_uniform": ("bias",),
    "kaiming_normal": ("bias",),
    "xavier_uniform": ("gain", "bias"),
    "xavier_normal": ("gain", "bias"),
    "orthogonal": ("gain", "bias"),
    "trunc_normal": ("std", "bias"),
}
"""Initialisation, a function of torch.nn.init -> the numbers that it can have. Those of torch have
torch's defaults; trunc_normal is cut at two deviations. `bias` is where biases start."""


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of torch. Its weight decay is that of its class: an L2 term, except in adamw.

    Attributes:
        torch_class: its class in torch.optim.
        arguments: what this class takes beside the model's rates; torch's defaults otherwise.
        momentum: the momentum that it has.
    """

    torch_class: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    momentum: Literal["none", "any", "above 0"] = "none"


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adam": Optimizer("Adam"),
    "sgd": Optimizer("SGD", momentum="any"),
    "adamw": Optimizer("AdamW"),
    "nesterov": Optimizer("SGD", {"nesterov": True}, momentum="above 0"),
    "rmsprop": Optimizer("RMSprop"),
}
"""Every optimizer by name."""

MOMENTUM_OPTIMIZERS = tuple(name for name, one in OPTIMIZERS.items() if one.momentum != "none")
"""The optimizers that have a momentum."""

SCHEDULE_NUMBERS: dict[str, tuple[str, ...]] = {
    "OneCycleLR": (),
    "cosine": (),
    "step": ("epochs", "factor"),
}
"""Learning rate schedule of generation/schedules.py -> the numbers that it can have."""

_SETTING = re.compile(r"(\w{1,40})(?:\(([^()]{0,200})\))?", re.ASCII)
_NUMBER = re.compile(r"\s*(\w{1,40})\s*=\s*([-+.\w]{1,40})\s*", re.ASCII)


def parse_setting(
    kind: str, text: str, table: Mapping[str, tuple[str, ...]]
) -> tuple[str, dict[str, float]]:
    """Read a name with numbers, such as `normal(std=0.1, bias=0)`.

    Args:
        kind: what it is, for messages.
        table: the known names, and the numbers that each can have.

    Raises:
        InvalidArgument: an unknown name or number, or something else than a finite number.
    """
    found = _SETTING.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1] not in table:
        raise InvalidArgument(f"unknown {kind} {text!r:.100}; known: {', '.join(table)}")
    name, numbers = found[1], {}
    for part in found[2].split(",") if found[2] is not None else ():
        given = _NUMBER.fullmatch(part)
        try:
            value = float(given[2]) if given else math.nan
        except ValueError:
            value = math.nan
        if given is None or not math.isfinite(value):
            raise InvalidArgument(f"{kind} {text!r}: expected <name>=<number>, found {part!r}")
        if given[1] not in table[name] or given[1] in numbers:
            known = ", ".join(table[name]) or "none"
            raise InvalidArgument(f"{kind} {text!r}: {name} has the numbers {known}, once each")
        if given[1] != "bias" and value <= 0:
            raise InvalidArgument(f"{kind} {text!r}: {given[1]} must be above 0")
        numbers[given[1]] = value
    return name, numbers


def parse_init(text: str) -> tuple[str, dict[str, float]]:
    """Read an initialisation: its name in torch.nn.init, its numbers; errors: `parse_setting`."""
    return parse_setting("init", text, INITS)


def is_init(text: str) -> bool:
    """Whether a text is an initialisation, with numbers or without."""
    try:
        parse_init(text)
    except InvalidArgument:
        return False
    return True


def parse_scheduler(text: str) -> tuple[str, dict[str, float]]:
    """Read a learning rate schedule: its name and its numbers; errors: `parse_setting`.

    Raises:
        InvalidArgument: also if the epochs of a step are no whole number.
    """
    name, numbers = parse_setting("scheduler", text, SCHEDULE_NUMBERS)
    if numbers.get("epochs", 1.0) % 1:
        raise InvalidArgument(f"scheduler {text!r}: epochs must be a whole number")
    return name, numbers
