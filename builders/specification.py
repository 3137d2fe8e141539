"""The specification of a zoo (`Zoo`) and of each of its models (`Model`).

`Zoo.models()` lists the models of a zoo. The id of a model is a digest of its own specification.
The names of activations, initialisations and optimizers are in hyperparameters.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .architecture import (
    canonical_name,
    check_image_facts,
    image_facts,
)
from .arguments import Check, require, wrong_keys
from .hyperparameters import (
    ACTIVATIONS,
    INITS,
    MOMENTUM_OPTIMIZERS,
    OPTIMIZERS,
    SCHEDULE_NUMBERS,
    check_activation,
    parse_init,
    parse_scheduler,
)
from .layers import MAX_SIDE
from .layout import Layout, make_layout
from .names import is_zoo_name
from .untrusted import is_text

VARIANTS = ("seed", "hyp_10_r", "hyp_10_f")
"""The variants of the paper's zoos."""

Value = str | float | None
"""A hyperparameter; None where it does not apply or is not known."""

Grid = tuple[tuple[str, tuple[Any, ...]], ...]
"""Hyperparameter name -> values, in the order of `GRID_KEYS`; the grid is their full product."""


# --- Checks: what a field must be, as a test and in words -----------------------------------------

MAX_EPOCHS = 1_000_000
"""Limit of a zoo's epochs."""

_MAX_MODELS = 1_000_000
"""Limit of the grid points and seeds that `Zoo.models` lists, since it builds the whole list."""


def _one_of(names: Collection[str]) -> Check:
    return (
        (lambda value: isinstance(value, str) and value in names),
        f"one of {', '.join(names)}",
    )


def _is_init(value: object) -> bool:
    """Whether this is an initialisation; bad numbers raise an error with more details."""
    if isinstance(value, str) and "(" in value:
        parse_init(value)
        return True
    return isinstance(value, str) and value in INITS


def _is_scheduler(value: object) -> bool:
    """Whether this is a schedule; errors as of `_is_init`."""
    if isinstance(value, str) and "(" in value:
        parse_scheduler(value)
        return True
    return isinstance(value, str) and value in SCHEDULE_NUMBERS


def _is_activation(value: object) -> bool:
    """Whether this is an activation; the error for an unknown one says how to register it."""
    if isinstance(value, str):
        check_activation(value)
        return True
    return False


def _count(limit: int) -> Check:
    return (
        (lambda value: type(value) is int and 1 <= value <= limit),
        f"a whole number from 1 to {limit:,}",
    )


def _or_null(check: Check) -> Check:
    good, expected = check
    return (lambda value: value is None or good(value)), f"null or {expected}"


_TEXT: Check = (lambda value: is_text(value, 10_000)), "a text of at most 10,000 characters"
_FLAG: Check = ((lambda value: isinstance(value, bool)), "true or false")
_RATE: Check = (
    (lambda value: isinstance(value, float) and 0 <= value < math.inf),
    "a finite number >= 0",
)
_SHARE: Check = (
    (lambda value: type(value) in (int, float) and 0 <= value < 1),
    "a number in [0, 1)",
)

_FIELD_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("name", "image_dataset", "images", "architecture", "note"), _TEXT),
    **dict.fromkeys(("experiment", "doi", "doi_preprocessed"), _or_null(_TEXT)),
    **dict.fromkeys(("random_seeds", "published"), _FLAG),
    "seeds": _count(100_000),  # random ones are drawn from [0, 1,000,000)
    "classes": _count(100_000),
    "epochs": _count(MAX_EPOCHS),
    "batch_size": _count(2**31 - 1),  # an int32 column
    "variant": (
        (lambda value: is_text(value, 64) and is_zoo_name(value)),
        f"small letters, digits and underscores, such as {', '.join(VARIANTS)}",
    ),
    "channels": _count(MAX_SIDE),
    "momentum": _or_null(_SHARE),
    "scheduler": _or_null((_is_scheduler, " or ".join(SCHEDULE_NUMBERS))),
}

_GRID_CHECKS: dict[str, Check] = {
    "activation": (_is_activation, f"one of {', '.join(ACTIVATIONS)}"),
    "init": (_is_init, f"one of {', '.join(INITS)}"),
    "dropout": ((lambda value: _RATE[0](value) and value < 1), _SHARE[1]),
    "optimizer": _one_of(OPTIMIZERS),
    "learning_rate": _RATE,
    "weight_decay": _RATE,
}

GRID_KEYS = tuple(_GRID_CHECKS)
"""The hyperparameters of a grid, in canonical order."""

HYPERPARAMETER_CHECKS = {
    **_GRID_CHECKS,
    **{name: _FIELD_CHECKS[name] for name in ("batch_size", "momentum", "epochs")},
}
"""Hyperparameter of a model -> check of its value."""


@dataclass(frozen=True)
class Model:
    """The specification of one network of a zoo: fixed hyperparameters and a seed.

    Attributes:
        zoo: name of its zoo, a part of its identity.
        activation: one of `ACTIVATIONS`.
        init: torch.nn.init function for all weights, one of `INITS`, with its parameters in
            brackets if they differ from torch's; biases start at 0.01, or as in "normal(bias=0)".
        dropout: rate in [0, 1).
        optimizer: one of `OPTIMIZERS`.
        learning_rate: the rate at the start, or the maximum of a schedule.
        weight_decay: factor of the weights that is added to the gradient (an L2 penalty); adamw
            subtracts it, times the learning rate, from the weights themselves.
        momentum: momentum of the optimizer; None if it has none, although the records of the
            paper's code repeat the zoo's 0.9 for adam.
        batch_size: images in a training step.
        epochs: passes over the training images.
        scheduler: learning rate schedule (generation/schedules.py), or None for a constant rate.
        seed: seed of every random draw.
    """

    zoo: str
    activation: str
    init: str
    dropout: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float | None
    batch_size: int
    epochs: int
    scheduler: str | None
    seed: int

    @cached_property
    def model_id(self) -> str:
        """12 hexadecimal digits; the same specification has the same id on any machine."""
        return _digest(dataclasses.asdict(self))

    def hyperparameters(self) -> dict[str, Value]:
        """All attributes except `zoo`, under the names that a row of the data set has."""
        values = dataclasses.asdict(self)
        del values["zoo"]
        return values


@dataclass(frozen=True)
class Zoo:
    """The specification of a population: one architecture, one image data set, a grid, seeds.

    Attributes:
        name: with underscores, such as `mnist_cnn_s_seed`.
        image_dataset: name of the image data set, such as `mnist`.
        images: key of the image data set together with its transforms (generation/images).
        architecture: key of architecture.ARCHITECTURES, or the text form of a network (layers.py);
            a given text or list of layers becomes the canonical text.
        variant: one of `VARIANTS`, or any other word.
        channels: channels of the images; 1 or 3 for an architecture with a name, such as cnn_s.
        classes: classes of the images.
        grid: the values of each hyperparameter; a fixed one has a single value.
        seeds: number of seeds at each grid point.
        random_seeds: whether the seeds of a grid point are drawn from [0, 1000000) instead of being
            1, 2, 3, ...
        epochs, batch_size, momentum, scheduler: the same for all models; see `Model`.
        experiment: name of the run in the paper's code, which identifies its original files.
        doi: record of the original files on Zenodo.
        doi_preprocessed: record of the preprocessed files, if it is a different one.
        published: whether this is one of the 27 zoos of the paper.
        note: what a user must know about this zoo.

    Raises:
        ValueError: a value that a zoo cannot have.
    """

    name: str
    image_dataset: str
    images: str
    architecture: str
    variant: str
    channels: int
    classes: int
    grid: Grid
    seeds: int
    random_seeds: bool = False
    epochs: int = 50
    batch_size: int = 10
    momentum: float | None = None
    scheduler: str | None = None
    experiment: str | None = None
    doi: str | None = None
    doi_preprocessed: str | None = None
    published: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        try:
            given = self.architecture
            object.__setattr__(self, "architecture", canonical_name(given))
            self._check()
            check_image_facts(given, self.channels, self.classes)
        except ValueError as error:
            raise ValueError(f"zoo {self.name!r}: {error}") from None

    def _check(self) -> None:
        for name, check in _FIELD_CHECKS.items():
            require(name, getattr(self, name), check)
        grid = dict(self.grid)
        if wrong := wrong_keys(grid, GRID_KEYS, GRID_KEYS):
            beside = [key for key in grid if key in self.__dataclass_fields__]
            raise ValueError(
                f"a grid has the keys {', '.join(GRID_KEYS)}; {wrong}"
                + f". {', '.join(beside)} stands beside the grid: one value for all models"
                * bool(beside)
            )
        if tuple(name for name, _ in self.grid) != GRID_KEYS:
            raise ValueError(f"the keys of a grid stand in the order {', '.join(GRID_KEYS)}")
        for name, values in self.grid:
            if not values:
                raise ValueError(f"the grid has no value for {name}")
            for value in values:
                require(name, value, _GRID_CHECKS[name])
            if len(set(values)) < len(values):
                raise ValueError(f"the grid repeats a value of {name}")
        for optimizer in grid["optimizer"]:
            if optimizer in MOMENTUM_OPTIMIZERS and self.momentum is None:
                raise ValueError(f'{optimizer} needs a "momentum" beside the grid (0 for none)')
            if OPTIMIZERS[optimizer].momentum == "above 0" and not self.momentum:
                raise ValueError(f"{optimizer} needs a momentum above 0")

    def __repr__(self) -> str:
        return (
            f"<Zoo {self.name}: {self.model_count:,} models, {self.layout.architecture.title} on "
            f"{self.images}, {self.epochs} epochs>"
        )

    @cached_property
    def layout(self) -> Layout:
        """Where each named tensor of its models lies in their weight vectors."""
        return make_layout(self.architecture, self.channels, self.classes)

    @property
    def model_count(self) -> int:
        """Number of models: grid points times seeds."""
        return math.prod(len(values) for _, values in self.grid) * self.seeds

    @property
    def keeps_epoch_0(self) -> bool:
        """Whether the zoo holds the untrained models (architectures can leave them out)."""
        return self.layout.architecture.keeps_epoch_0

    @property
    def states_per_model(self) -> int:
        """Number of states of a model: its epochs, and epoch 0 if the zoo keeps it."""
        return self.epochs + self.keeps_epoch_0

    @property
    def state_count(self) -> int:
        """Number of states of all models."""
        return self.model_count * self.states_per_model

    def models(self, limit: int | None = None) -> list[Model]:
        """Return all models, or the first `limit`.

        Models are ordered by seed. For each seed, the grid points follow in an order shuffled by
        digest. The first n models are therefore spread over the grid, and a larger n only adds
        models.

        Raises:
            ValueError: `limit` is below 1 or above the number of models.
        """
        if limit is not None and not 1 <= limit <= self.model_count:
            raise ValueError(
                f"zoo {self.name} has {self.model_count} models; cannot take {limit} of them"
            )
        if self.model_count > _MAX_MODELS:  # an imported zoo whose rates were drawn at random
            raise ValueError(
                f"zoo {self.name} has a grid of {self.model_count:,} models, too many to list"
            )
        points = [
            dict(zip(GRID_KEYS, values, strict=True))
            for values in itertools.product(*(values for _, values in self.grid))
        ]
        points.sort(key=lambda point: _digest({"zoo": self.name, **point}))
        seeds = [self._seeds(point) for point in points]
        models = (
            Model(
                zoo=self.name,
                **point,
                momentum=self.momentum if point["optimizer"] in MOMENTUM_OPTIMIZERS else None,
                batch_size=self.batch_size,
                epochs=self.epochs,
                scheduler=self.scheduler,
                seed=seeds_of_point[k],
            )
            for k in range(self.seeds)
            for point, seeds_of_point in zip(points, seeds, strict=True)
        )
        return list(itertools.islice(models, limit))

    def _seeds(self, point: Mapping[str, Any]) -> list[int]:
        if not self.random_seeds:
            return list(range(1, self.seeds + 1))
        # The paper's code drew its seeds with ray's sampler and recorded them only in each model's
        # params.json. These seeds have the same distribution and do not depend on the machine.
        drawn: dict[int, None] = {}
        draw = 0
        while len(drawn) < self.seeds:
            digest = _digest({"zoo": self.name, **point, "draw": draw})
            drawn[int(digest, 16) % 1_000_000] = None
            draw += 1
        return list(drawn)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal zoo."""
        return {**dataclasses.asdict(self), "grid": {key: list(found) for key, found in self.grid}}

    @classmethod
    def from_json(cls, values: object) -> Zoo:
        """Make a zoo from an object in the form of `to_json`; also the way to specify a new zoo.

        Raises:
            ValueError: an unknown or missing key, or a value that a zoo cannot have.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a zoo is a JSON object, found {type(values).__name__}")
        values = _with_image_facts(values)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        required = {n for n, field in fields.items() if field.default is dataclasses.MISSING}
        if wrong := wrong_keys(values, fields, required):
            raise ValueError(f"a zoo's specification has the keys {', '.join(fields)}; {wrong}")
        name, grid = values["name"], values["grid"]
        if not isinstance(name, str) or not is_zoo_name(name):
            raise ValueError(
                f"a zoo's name consists of small letters, digits and underscores, found {name!r}"
            )
        if not isinstance(grid, Mapping):
            raise ValueError(f"zoo {name!r}: the grid is a JSON object of lists")
        arguments: dict[str, Any] = {**values, "grid": make_grid(**grid)}
        return cls(**arguments)


def _with_image_facts(values: Mapping[str, object]) -> Mapping[str, object]:
    """Add channels and classes, if absent, from the text or list of layers."""
    given = values.get("architecture")
    if {"channels", "classes"} <= values.keys() or not isinstance(given, str | list | tuple):
        return values
    said = {what: count for what, count in image_facts(given).items() if count is not None}
    return {**said, **values}


zoo_from_json = Zoo.from_json
"""The name that `Zoo.from_json` had in version 0.1."""


def _digest(values: Mapping[str, Any]) -> str:
    """Return 48 bits of SHA-256 over canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_grid(**values: Iterable[object]) -> Grid:
    """Make a grid in canonical order; whole numbers become floats, so 0 and 0.0 give the same id.

    Raises:
        ValueError: a value is not a list.
    """
    known = [key for key in GRID_KEYS if key in values]
    grid = []
    for key in [*known, *(key for key in values if key not in GRID_KEYS)]:
        if isinstance(values[key], str) or not isinstance(values[key], Iterable):
            raise ValueError(f"the grid's {key} must be a list, found {values[key]!r}")
        grid.append((key, tuple(_as_float(value) for value in values[key])))
    return tuple(grid)


def _as_float(value: object) -> object:
    """Return a whole number as a float if one equals it; any other value is unchanged."""
    return float(value) if type(value) is int and abs(value) <= 2**53 else value
