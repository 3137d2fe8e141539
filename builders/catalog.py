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

import difflib
import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownZoo
from .specification import VARIANTS, Grid, Zoo, make_grid, normalize_name

METRICS_NAME = "metrics"
"""Name of the data set that holds every state of every zoo without its weights."""

TWIN_EPOCHS = 25
"""Epochs of a sparse twin, each one state (the original's README)."""


@dataclass(frozen=True)
class Union:
    """Several zoos read as one: a name without variant is the union of its variants."""

    name: str
    parts: tuple[str, ...]


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
    return make_grid(
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
    return make_grid(
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
        grid=make_grid(
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
        grid=make_grid(
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
