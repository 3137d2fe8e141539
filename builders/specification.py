"""The specification of a zoo (`Zoo`) and of each of its models (`Model`).

From a `Zoo` follow its models (`Zoo.models()`); the id of a `Model` is a digest of its own
specification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .architecture import find_architecture
from .layout import Layout, make_layout

ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu")

INITS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal")

OPTIMIZERS = ("adam", "sgd")

VARIANTS = ("seed", "hyp_10_r", "hyp_10_f")

Grid = tuple[tuple[str, tuple[Any, ...]], ...]
"""Hyperparameter name -> values, in the order of `GRID_KEYS`; the grid is their full product."""

GRID_KEYS = ("activation", "init", "dropout", "optimizer", "learning_rate", "weight_decay")


@dataclass(frozen=True)
class Model:
    """The specification of one network of a zoo: fixed hyperparameters and a seed.

    Attributes:
        zoo: name of its zoo, a part of its identity.
        activation: one of `ACTIVATIONS`.
        init: torch.nn.init function of all weights, one of `INITS`; biases start at 0.01.
        dropout: rate, 0 for none.
        optimizer: one of `OPTIMIZERS`.
        learning_rate, weight_decay: weight decay is an L2 term of the gradient.
        momentum: of sgd; None for adam, which has none (the original's records repeat the zoo's
            0.9 there).
        batch_size, epochs: of training.
        scheduler: "OneCycleLR" or None.
        seed: of every random draw.
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
        """12 hexadecimal digits: same specification, same id, on any machine."""
        return _digest(dataclasses.asdict(self))

    def hyperparameters(self) -> dict[str, Any]:
        """All but the zoo, as a row of the data set names them."""
        values = dataclasses.asdict(self)
        del values["zoo"]
        return values


@dataclass(frozen=True)
class Zoo:
    """The specification of a population: one architecture, one image data set, a grid, seeds.

    Attributes:
        name: with underscores, `mnist_cnn_s_seed`.
        image_dataset: `mnist`.
        images: key of the image data set with its transforms (generation/images.py).
        architecture: key of architecture.ARCHITECTURES.
        variant: one of `VARIANTS`.
        channels, classes: of the images.
        grid: the hyperparameters that vary, and those that do not, as lists of one.
        seeds: number of seeds at each grid point.
        random_seeds: drawn for each grid point from [0, 1000000), else 1, 2, 3, ...
        epochs, batch_size, momentum, scheduler: the same for all its models.
        experiment: the original's name of the run, by which published files are recognised.
        doi: of the published files; `doi_preprocessed` where those lie elsewhere.
        published: one of the 27 zoos of the paper.
        note: what a user must know about this zoo.
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
            architecture = find_architecture(self.architecture)
        except ValueError as error:
            raise ValueError(f"zoo {self.name!r}: {error}") from None
        if tuple(key for key, _ in self.grid) != GRID_KEYS:
            raise ValueError(
                f"zoo {self.name!r}: the grid must hold exactly {', '.join(GRID_KEYS)}, "
                f"found {', '.join(key for key, _ in self.grid)}"
            )
        for key in ("name", "image_dataset", "images", "variant"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"zoo {self.name!r}: {key} must be a text")
        if self.variant not in VARIANTS:
            raise ValueError(
                f"zoo {self.name!r}: unknown variant {self.variant!r}; known: {', '.join(VARIANTS)}"
            )
        if self.scheduler not in architecture.schedulers:
            known = ", ".join(name or "null" for name in architecture.schedulers)
            raise ValueError(
                f"zoo {self.name!r}: the scheduler of {architecture.title} is {known}, "
                f"found {self.scheduler!r}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"zoo {self.name!r}: channels must be 1 or 3, found {self.channels!r}")
        known = {"activation": ACTIVATIONS, "init": INITS, "optimizer": OPTIMIZERS}
        for key, values in self.grid:
            if not values:
                raise ValueError(f"zoo {self.name!r}: the grid has no value for {key}")
            if len(set(values)) < len(values):
                raise ValueError(f"zoo {self.name!r}: the grid repeats a value of {key}")
            for value in values:
                if key in known and value not in known[key]:
                    raise ValueError(
                        f"zoo {self.name!r}: unknown {key} {value!r}; "
                        f"known: {', '.join(known[key])}"
                    )
                if key not in known and not (isinstance(value, float) and 0 <= value < math.inf):
                    raise ValueError(
                        f"zoo {self.name!r}: {key} must be a finite number >= 0, found {value!r}"
                    )
        if any(rate >= 1 for rate in dict(self.grid)["dropout"]):
            raise ValueError(f"zoo {self.name!r}: dropout must be below 1")
        for key in ("channels", "classes", "seeds", "epochs", "batch_size"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"zoo {self.name!r}: {key} must be a whole number >= 1, found {value!r}"
                )
        if self.momentum is not None and not (
            type(self.momentum) in (int, float) and 0 <= self.momentum < 1
        ):
            raise ValueError(
                f"zoo {self.name!r}: momentum must be a number in [0, 1), found {self.momentum!r}"
            )
        if "sgd" in dict(self.grid)["optimizer"] and self.momentum is None:
            raise ValueError(f"zoo {self.name!r}: sgd needs a momentum (0 for none)")

    @property
    def layout(self) -> Layout:
        return make_layout(self.architecture, self.channels, self.classes)

    @property
    def model_count(self) -> int:
        points = 1
        for _, values in self.grid:
            points *= len(values)
        return points * self.seeds

    @property
    def keeps_epoch_0(self) -> bool:
        """The CNN zoos hold the untrained model as well, the ResNet-18 zoos do not."""
        return self.layout.architecture.keeps_epoch_0

    @property
    def states_per_model(self) -> int:
        return self.epochs + self.keeps_epoch_0

    @property
    def state_count(self) -> int:
        return self.model_count * self.states_per_model

    def models(self, limit: int | None = None) -> list[Model]:
        """All models, or the first `limit`.

        The order is seed by seed, and for each seed through the grid in an order shuffled by
        digest, so that the first n models are spread over the grid and a larger n only adds.

        Raises:
            ValueError: `limit` is below 1 or above the number of models.
        """
        if limit is not None and not 1 <= limit <= self.model_count:
            raise ValueError(
                f"zoo {self.name} has {self.model_count} models; cannot take {limit} of them"
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
                momentum=self.momentum if point["optimizer"] == "sgd" else None,
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
        # The original drew these with ray's sampler and published them only in the models' own
        # params.json. Ours are equally distributed, and the same on any machine.
        drawn: dict[int, None] = {}
        for k in itertools.count():
            if len(drawn) == self.seeds:
                return list(drawn)
            digest = _digest({"zoo": self.name, **point, "draw": k})
            drawn[int(digest, 16) % 1_000_000] = None
        raise AssertionError("unreachable")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary from which `zoo_from_json` makes an equal zoo."""
        values = dataclasses.asdict(self)
        values["grid"] = {key: list(grid_values) for key, grid_values in self.grid}
        return values


def zoo_from_json(values: Mapping[str, Any]) -> Zoo:
    """The zoo that `Zoo.to_json` described; also the way to bring your own.

    Raises:
        ValueError: an unknown or missing key, or a value that a zoo cannot have.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a zoo is a JSON object, found {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(Zoo)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    )
    if unknown or missing:
        raise ValueError(
            f"a zoo's specification has the keys {', '.join(fields)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    name = values["name"]
    if not isinstance(name, str) or not is_zoo_name(name):
        raise ValueError(
            f"a zoo's name is made of small letters, digits and underscores, found {name!r}"
        )
    if not isinstance(values["grid"], Mapping):
        raise ValueError(f"zoo {name!r}: the grid is a JSON object of lists")
    return Zoo(**{**values, "grid": make_grid(**values["grid"])})


def normalize_name(name: str) -> str:
    """A name as the catalog has it: hyphens become underscores, letters small."""
    return name.strip().replace("-", "_").lower()


def is_zoo_name(name: str) -> bool:
    """Whether a zoo, and the folder that holds it, can have this name."""
    plain = name.replace("_", "")
    return name == normalize_name(name) and plain.isalnum() and plain.isascii()


def _digest(values: Mapping[str, Any]) -> str:
    """48 bits of SHA-256 over canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_grid(**values: Iterable[Any]) -> Grid:
    """A grid in canonical order with floats as floats: 0 and 0.0 must give the same model id."""
    canonical = []
    for key in [*GRID_KEYS, *(set(values) - set(GRID_KEYS))]:
        if key not in values:
            continue
        entries = values[key]
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise ValueError(f"the grid's {key} must be a list, found {entries!r}")
        canonical.append(
            (
                key,
                tuple(
                    float(v) if isinstance(v, int) and not isinstance(v, bool) else v
                    for v in entries
                ),
            )
        )
    return tuple(canonical)
