"""Every zoo by name: its grid, seeds, images and DOI.

A `Zoo` is a specification: from it follow its models (`Zoo.models()`), each a `Model` whose id is a
digest of its own specification. The 27 zoos are those of the original (Schuerholt et al., NeurIPS
2022, arXiv 2209.14764), read off its generator scripts (code/zoo_generators/); `eurosat_cnn_s` was
published by the same authors in 2023 without its script, `digits_cnn_s` is our own.

    >>> zoo = get_zoo("mnist-cnn-s-seed")
    >>> len(zoo.models()), zoo.models()[0].learning_rate
    (1000, 0.0003)
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .layout import ARCHITECTURES, Layout, make_layout

ACTIVATIONS = ("tanh", "relu", "sigmoid", "gelu")
INITS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal")
OPTIMIZERS = ("adam", "sgd")
VARIANTS = ("seed", "hyp_10_r", "hyp_10_f")
METRICS_NAME = "metrics"
"""Name of the data set that holds every state of every zoo without its weights."""

TWIN_EPOCHS = 25
"""Epochs of a sparse twin, each one state (the original's README)."""

Grid = tuple[tuple[str, tuple[Any, ...]], ...]
"""Hyperparameter name -> values, in the order of `GRID_KEYS`; the grid is their full product."""

GRID_KEYS = ("activation", "init", "dropout", "optimizer", "learning_rate", "weight_decay")


class UnknownZoo(ValueError):
    """No zoo has this name; the message lists the close ones."""


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
        architecture: key of layout.ARCHITECTURES.
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
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"zoo {self.name!r}: unknown architecture {self.architecture!r}; "
                f"known: {', '.join(ARCHITECTURES)}"
            )
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
        if self.scheduler != ("OneCycleLR" if self.architecture == "resnet18" else None):
            raise ValueError(
                f"zoo {self.name!r}: the scheduler is OneCycleLR for ResNet-18 and null for CNNs, "
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
        return self.architecture != "resnet18"

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


@dataclass(frozen=True)
class Union:
    """Several zoos read as one: a name without variant is the union of its variants."""

    name: str
    parts: tuple[str, ...]


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
    return Zoo(**{**values, "grid": _grid(**values["grid"])})


def normalize_name(name: str) -> str:
    """A name as the catalog has it: hyphens become underscores, letters small."""
    return name.strip().replace("-", "_").lower()


def is_zoo_name(name: str) -> bool:
    """Whether a zoo, and the folder that holds it, can have this name."""
    plain = name.replace("_", "")
    return name == normalize_name(name) and plain.isalnum() and plain.isascii()


def get_zoo(name: str) -> Zoo:
    """The zoo of this name; hyphens are accepted.

    Raises:
        UnknownZoo: no such zoo, or a union or twin zoo, which has no grid of its own.
    """
    key = normalize_name(name)
    if key in ZOOS:
        return ZOOS[key]
    if key in UNIONS:
        raise UnknownZoo(
            f"{key!r} is the union of {', '.join(UNIONS[key].parts)}: name one of these"
        )
    raise UnknownZoo(unknown_name(name, ZOOS))


def unknown_name(name: str, known: Iterable[str]) -> str:
    """One sentence for a name that nobody has, with the close ones."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(normalize_name(name), known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "`model-zoos list` shows them all."
    return f"there is no zoo named {name!r}; {hint}"


def list_zoos(
    pattern: str = "*",
    *,
    image_dataset: str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
) -> list[Zoo]:
    """Zoos whose name matches a shell pattern, in the order of the paper.

    Raises:
        ValueError: a filter that no zoo has, or nothing matches.
    """
    chosen = list(ZOOS.values())
    filters = {"image_dataset": image_dataset, "architecture": architecture, "variant": variant}
    for key, wanted in filters.items():
        if wanted is None:
            continue
        wanted = normalize_name(wanted)
        known = sorted({getattr(zoo, key) for zoo in ZOOS.values()})
        if wanted not in known:
            raise ValueError(f"no zoo has {key} {wanted!r}; known: {', '.join(known)}")
        chosen = [zoo for zoo in chosen if getattr(zoo, key) == wanted]
    chosen = [zoo for zoo in chosen if fnmatch.fnmatch(zoo.name, normalize_name(pattern))]
    if not chosen:
        given = ", ".join(f"{key} {value!r}" for key, value in filters.items() if value is not None)
        message = f"no zoo of the catalog matches {pattern!r}" + (f" with {given}" if given else "")
        name = normalize_name(pattern)
        if name in UNIONS:
            message += f": it is the union of {', '.join(UNIONS[name].parts)}"
        elif close := difflib.get_close_matches(name, list(ZOOS), n=3, cutoff=0.5):
            message += f"; did you mean {', '.join(close)}?"
        raise UnknownZoo(message)
    return chosen


def _digest(values: Mapping[str, Any]) -> str:
    """48 bits of SHA-256 over canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _grid(**values: Iterable[Any]) -> Grid:
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


# --- The zoos -------------------------------------------------------------------------------------


def _cnn_zoos(
    image_dataset: str,
    architecture: str,
    channels: int,
    *,
    seed_grid: Grid,
    hyp_grid: Grid,
    experiments: tuple[str, str, str],
    images: str | None = None,
    **common: Any,
) -> list[Zoo]:
    """The three variants over one image data set, as the original has them for every CNN."""
    stem = f"{image_dataset}_{architecture}"
    common = {
        "image_dataset": image_dataset,
        "images": images or image_dataset,
        "architecture": architecture,
        "channels": channels,
        "classes": 10,
        "published": True,
        **common,
    }
    seed, random, fixed = experiments
    hyp = {"grid": hyp_grid, "seeds": 10, "momentum": 0.9}
    return [
        Zoo(f"{stem}_seed", variant="seed", grid=seed_grid, seeds=1000, experiment=seed, **common),
        Zoo(
            f"{stem}_hyp_10_r",
            variant="hyp_10_r",
            random_seeds=True,
            experiment=random,
            **hyp,
            **common,
        ),
        Zoo(f"{stem}_hyp_10_f", variant="hyp_10_f", experiment=fixed, **hyp, **common),
    ]


def _seed_grid(activation: str, init: str, learning_rate: float, weight_decay: float) -> Grid:
    return _grid(
        activation=[activation],
        init=[init],
        dropout=[0.0],
        optimizer=["adam"],
        learning_rate=[learning_rate],
        weight_decay=[weight_decay],
    )


def _hyp_grid(
    learning_rate: list[float],
    weight_decay: list[float],
    dropout: tuple[float, ...] = (0.0, 0.5),
    optimizer: tuple[str, ...] = ("adam", "sgd"),
) -> Grid:
    # Written out, not ACTIVATIONS and INITS: what we learn to train later is not in the paper.
    return _grid(
        activation=["tanh", "relu", "sigmoid", "gelu"],
        init=["uniform", "normal", "kaiming_uniform", "kaiming_normal"],
        dropout=dropout,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )


def _resnet_zoo(image_dataset: str, classes: int, learning_rate: float, doi: str, **kw: Any) -> Zoo:
    return Zoo(
        name=f"{image_dataset}_resnet18",
        image_dataset=image_dataset,
        images=f"{image_dataset}/resnet18",
        architecture="resnet18",
        variant="seed",
        channels=3,
        classes=classes,
        grid=_grid(
            activation=["relu"],
            init=["kaiming_uniform"],
            dropout=[0.0],
            optimizer=["sgd"],
            learning_rate=[learning_rate],
            weight_decay=[5e-4],
        ),
        seeds=1000,
        momentum=0.9,
        scheduler="OneCycleLR",
        experiment=f"tune_zoo_{image_dataset.replace('_', '')}_resnet18_kaiming_uniform",
        doi=doi,
        published=True,
        **kw,
    )


def _experiments(stem: str, seed: str, plural: str = "s") -> tuple[str, str, str]:
    return (
        f"tune_zoo_{seed}",
        f"tune_zoo_{stem}_hyperparameter_10_random_seed{plural}",
        f"tune_zoo_{stem}_hyperparameter_10_fixed_seed{plural}",
    )


_ALL = [
    *_cnn_zoos(
        "mnist",
        "cnn_s",
        1,
        seed_grid=_seed_grid("tanh", "uniform", 3e-4, 0.0),
        hyp_grid=_hyp_grid([1e-3, 1e-4], [1e-3, 1e-4]),
        experiments=_experiments("mnist", "mnist_uniform"),
        doi="10.5281/zenodo.6632086",
    ),
    *_cnn_zoos(
        "fashion_mnist",
        "cnn_s",
        1,
        seed_grid=_seed_grid("tanh", "uniform", 3e-4, 0.0),
        hyp_grid=_hyp_grid([1e-3, 1e-4], [1e-3, 1e-4]),
        experiments=_experiments("f_mnist", "f_mnist_uniform"),
        doi="10.5281/zenodo.6632104",
    ),
    *_cnn_zoos(
        "svhn",
        "cnn_s",
        1,
        seed_grid=_seed_grid("tanh", "uniform", 3e-3, 0.0),
        hyp_grid=_hyp_grid(
            [1e-2, 1e-3, 1e-4], [0.0, 1e-3, 1e-1], dropout=(0.0, 0.3, 0.5), optimizer=("sgd",)
        ),
        experiments=_experiments("svhn", "svhn_uniform"),
        doi="10.5281/zenodo.6632120",
    ),
    *_cnn_zoos(
        "usps",
        "cnn_s",
        1,
        seed_grid=_seed_grid("tanh", "uniform", 3e-4, 1e-3),
        hyp_grid=_hyp_grid([1e-3, 1e-4], [1e-2, 1e-3]),
        experiments=_experiments("usps", "usps_uniform", plural=""),
        doi="10.5281/zenodo.6633626",
    ),
    *_cnn_zoos(
        "cifar10",
        "cnn_s",
        3,
        images="cifar10/cnn_s",
        seed_grid=_seed_grid("gelu", "kaiming_uniform", 1e-4, 1e-2),
        hyp_grid=_hyp_grid([1e-3], [1e-2, 1e-3]),
        experiments=_experiments("cifar10_small", "cifar10_uniform_small"),
        doi="10.5281/zenodo.6620868",
    ),
    *_cnn_zoos(
        "cifar10",
        "cnn_l",
        3,
        images="cifar10/cnn_l",
        seed_grid=_seed_grid("gelu", "kaiming_uniform", 1e-4, 1e-2),
        hyp_grid=_hyp_grid([1e-3], [1e-2, 1e-3]),
        experiments=_experiments("cifar10_large", "cifar10_uniform_large"),
        doi="10.5281/zenodo.6620868",
    ),
    _resnet_zoo("cifar10", 10, 0.05, "10.5281/zenodo.6974028", batch_size=256, epochs=50),
    *_cnn_zoos(
        "stl10",
        "cnn_s",
        3,
        images="stl10/cnn_s",
        seed_grid=_seed_grid("tanh", "kaiming_uniform", 1e-4, 1e-3),
        hyp_grid=_hyp_grid([1e-3, 1e-4], [1e-2, 1e-3]),
        experiments=_experiments("stl_small", "stl_small_uniform"),
        doi="10.5281/zenodo.6631783",
        doi_preprocessed="10.5281/zenodo.6634138",
    ),
    *_cnn_zoos(
        "stl10",
        "cnn_l",
        3,
        images="stl10/cnn_l",
        seed_grid=_seed_grid("tanh", "kaiming_uniform", 1e-4, 1e-3),
        hyp_grid=_hyp_grid([1e-3, 1e-4], [1e-2, 1e-3]),
        experiments=_experiments("stl_large", "stl_uniform_large"),
        doi="10.5281/zenodo.6631783",
        doi_preprocessed="10.5281/zenodo.6634138",
    ),
    _resnet_zoo("cifar100", 100, 0.1, "10.5281/zenodo.6977381", batch_size=128, epochs=60),
    _resnet_zoo("tiny_imagenet", 200, 0.1, "10.5281/zenodo.7023277", batch_size=128, epochs=60),
    Zoo(
        name="eurosat_cnn_s",
        image_dataset="eurosat",
        images="eurosat/cnn_s",
        architecture="cnn_s",
        variant="seed",
        channels=3,
        classes=10,
        grid=_seed_grid("gelu", "kaiming_uniform", 1e-4, 1e-2),
        seeds=1000,
        doi="10.5281/zenodo.8141666",
        note="added by the authors in 2023 without its training script: grid and transforms "
        "here are our choice (those of cifar10_cnn_s_seed)",
    ),
    Zoo(
        name="digits_cnn_s",
        image_dataset="digits",
        images="digits",
        architecture="cnn_s",
        variant="hyp_10_f",
        channels=1,
        classes=10,
        grid=_grid(
            activation=["tanh", "relu", "sigmoid", "gelu"],
            init=["uniform", "kaiming_uniform"],
            dropout=[0.0],
            optimizer=["adam", "sgd"],
            learning_rate=[3e-3, 3e-4],
            weight_decay=[1e-3],
        ),
        seeds=10,
        epochs=25,
        momentum=0.9,
        note="our own: scikit-learn's 8x8 digits resized to 28x28, no download needed",
    ),
]

ZOOS: dict[str, Zoo] = {zoo.name: zoo for zoo in _ALL}
"""Every zoo that has a grid, by name."""

UNIONS: dict[str, Union] = {
    stem: Union(stem, tuple(f"{stem}_{variant}" for variant in VARIANTS))
    for stem in dict.fromkeys(
        zoo.name.removesuffix("_seed") for zoo in _ALL if zoo.name.endswith("_seed")
    )
}
"""`mnist_cnn_s` and so on: the three variants of one architecture on one image data set."""

TWIN_DOIS = {
    "mnist_cnn_s_seed": "10.5281/zenodo.7023335",
    "svhn_cnn_s_seed": "10.5281/zenodo.7027566",
    "eurosat_cnn_s": "10.5281/zenodo.8141666",
}
"""DOIs of the published sparse twins, by dense zoo."""


def twin_name(name: str) -> str:
    """The name of the sparsified counterpart of a zoo or union."""
    return f"{name}_sparse"


def dense_name(name: str) -> str:
    """The zoo or union of which a name's twins are, by either method; of a dense one, itself."""
    return re.sub(r"_sparse(_magnitude)?\Z", "", name)


def parts_of(name: str) -> tuple[str, ...]:
    """The zoo directories that a name of the data set stands for: itself, or a union's parts."""
    dense = dense_name(name)
    if dense in UNIONS:
        return tuple(part + name.removeprefix(dense) for part in UNIONS[dense].parts)
    return (name,)


def config_names() -> list[str]:
    """Every name that load_dataset knows: zoos, unions, the twins of both, and `metrics`."""
    dense = [*ZOOS, *UNIONS]
    return [*dense, *(twin_name(name) for name in dense), METRICS_NAME]
