"""The catalog: every zoo by name, with its grid, seeds, images and DOI; unions and twins.

The 27 zoos of the paper (Schuerholt et al., NeurIPS 2022, arXiv 2209.14764) have the settings of
its code (code/zoo_generators/). `eurosat_cnn_s` was published by the same authors in 2023 without
the script that made it; `digits_cnn_s`, `digits_mlp_seed`, `mnist_small_cnn_hyp` and
`mnist_lenet5_seed` are zoos of this package.

    >>> zoo = zoo_spec("mnist-cnn-s-seed")
    >>> len(zoo.models()), zoo.models()[0].learning_rate
    (1000, 0.0003)
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable

from ..errors import InvalidArgument, UnknownZoo, did_you_mean
from .names import METRICS_NAME, dense_name, normalize_name, twin_name
from .specification import GRID_KEYS, VARIANTS, Grid, Zoo, make_grid

TWIN_EPOCHS = 25
"""Epochs of a sparse twin, each of which is a state (README of the paper's code)."""


def zoo_spec(name: str) -> Zoo:
    """Return the specification of the zoo of this name; hyphens are accepted.

    Raises:
        UnknownZoo: no such zoo; or a union or twin zoo, which has no grid of its own.
    """
    key = normalize_name(name)
    if key in UNIONS:
        raise UnknownZoo(f"{key!r} is the union of {', '.join(UNIONS[key])}: name one of these")
    if key not in ZOOS:
        raise unknown_zoo(name, ZOOS)
    return ZOOS[key]


get_zoo = zoo_spec
"""The name that `zoo_spec` had in version 0.1."""


def unknown_zoo(name: str, known: Iterable[str], where: str = "") -> UnknownZoo:
    """Return the error for a name that no zoo has, with suggestions of similar names.

    Args:
        name: as the user wrote it.
        known: all existing names.
        where: text to append that begins with a full stop: a sentence on the places searched.
    """
    if (found := ELSEWHERE.get(normalize_name(name))) is not None:
        return UnknownZoo(
            f"{found.name} belongs to the {found.title} ({found.cite}; {found.licence}): its file "
            f"is {found.url}{where}",
            hint=f"fetch it, then: model-zoos import {found.url.rpartition('/')[2]}",
        )
    advice = did_you_mean(normalize_name(name), known, 5)
    return UnknownZoo(
        f"there is no zoo named {name!r}"
        + (f"; {advice}{where.removeprefix('.')}" if advice else where),
        hint=None if advice else "`model-zoos list` shows all zoos",
    )


def list_zoos(
    pattern: str = "*",
    *,
    image_dataset: str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
) -> list[Zoo]:
    """Return the zoos whose names match a shell pattern, in the order of the paper.

    Raises:
        ValueError: no zoo has the value that a filter asks for.
        UnknownZoo: no zoo matches.
    """
    chosen = list(ZOOS.values())
    filters = {"image_dataset": image_dataset, "architecture": architecture, "variant": variant}
    for key, wanted in filters.items():
        if wanted is None:
            continue
        wanted = normalize_name(wanted)
        known = sorted({getattr(zoo, key) for zoo in ZOOS.values()})
        if wanted not in known:
            names = ", ".join(repr(name) if " " in name else name for name in known)
            raise InvalidArgument(f"no zoo has {key} {wanted!r}; known: {names}")
        chosen = [zoo for zoo in chosen if getattr(zoo, key) == wanted]
    chosen = [zoo for zoo in chosen if fnmatch.fnmatch(zoo.name, normalize_name(pattern))]
    if not chosen:
        given = ", ".join(f"{key} {value!r}" for key, value in filters.items() if value is not None)
        message = f"no zoo of the catalog matches {pattern!r}" + (f" with {given}" if given else "")
        name = normalize_name(pattern)
        if name in UNIONS:
            message += f": it is the union of {', '.join(UNIONS[name])}"
        elif advice := did_you_mean(name, ZOOS, 3):
            message += f"; {advice}"
        parts = [zoo.name for zoo in ZOOS.values() if name in zoo.name]
        raise UnknownZoo(
            message,
            hint=f"model-zoos list '*{name}*'"
            if parts
            else "`model-zoos list --local` shows the zoos of a folder",
        )
    return chosen


# --- The zoos -------------------------------------------------------------------------------------


def _point(activation: str, init: str, rate: float, decay: float, optimizer: str = "adam") -> Grid:
    """Return a grid of one point, from a learning rate and a weight decay."""
    values = (activation, init, 0.0, optimizer, rate, decay)
    return tuple((key, (value,)) for key, value in zip(GRID_KEYS, values, strict=True))


def _product(
    rates: tuple[float, ...],
    decays: tuple[float, ...],
    dropout: tuple[float, ...] = (0.0, 0.5),
    optimizer: tuple[str, ...] = ("adam", "sgd"),
) -> Grid:
    """Return the grid of a variant hyp_10, from learning rates and weight decays."""
    # Written out instead of using ACTIVATIONS and INITS: the paper's zoos must never change.
    activation = ("tanh", "relu", "sigmoid", "gelu")
    init = ("uniform", "normal", "kaiming_uniform", "kaiming_normal")
    return tuple(zip(GRID_KEYS, (activation, init, dropout, optimizer, rates, decays), strict=True))


def _experiments(seed: str, stem: str, plural: str = "s") -> tuple[str, str, str]:
    """Return the names of the runs in the paper's code: variants seed, hyp_10_r, hyp_10_f."""
    hyp = f"tune_zoo_{stem}_hyperparameter_10"
    return f"tune_zoo_{seed}", f"{hyp}_random_seed{plural}", f"{hyp}_fixed_seed{plural}"


def _cnn_zoos(
    image_dataset: str,
    architecture: str,
    channels: int,
    doi: str,
    experiments: tuple[str, str, str],
    point: Grid,
    product: Grid,
    doi_preprocessed: str | None = None,
) -> list[Zoo]:
    """Return the three variants of a CNN on one image data set: seed, hyp_10_r, hyp_10_f."""
    stem = f"{image_dataset}_{architecture}"
    seed = Zoo(
        name=f"{stem}_seed",
        image_dataset=image_dataset,
        # Colour images have another size for each architecture.
        images=image_dataset if channels == 1 else f"{image_dataset}/{architecture}",
        architecture=architecture,
        variant="seed",
        channels=channels,
        classes=10,
        grid=point,
        seeds=1000,
        experiment=experiments[0],
        doi=doi,
        doi_preprocessed=doi_preprocessed,
        published=True,
    )
    hyp = dataclasses.replace(seed, grid=product, seeds=10, momentum=0.9)
    return [seed] + [
        dataclasses.replace(
            hyp,
            name=f"{stem}_{variant}",
            variant=variant,
            random_seeds=variant == "hyp_10_r",
            experiment=experiment,
        )
        for variant, experiment in zip(VARIANTS[1:], experiments[1:], strict=True)
    ]


def _resnet_zoo(
    image_dataset: str, classes: int, doi: str, rate: float, batch_size: int, epochs: int
) -> Zoo:
    return Zoo(
        name=f"{image_dataset}_resnet18",
        image_dataset=image_dataset,
        images=f"{image_dataset}/resnet18",
        architecture="resnet18",
        variant="seed",
        channels=3,
        classes=classes,
        grid=_point("relu", "kaiming_uniform", rate, 5e-4, "sgd"),
        seeds=1000,
        epochs=epochs,
        batch_size=batch_size,
        momentum=0.9,
        scheduler="OneCycleLR",
        experiment=f"tune_zoo_{image_dataset.replace('_', '')}_resnet18_kaiming_uniform",
        doi=doi,
        published=True,
    )


SMALL_CNN = "1x28x28 conv16k3s2 drop conv16k3s2 drop conv16k3s2 drop gap fc10"
LENET5 = "1x28x28 conv6k5p2 pool conv16k5 pool fc120 fc84 fc10"

# fmt: off
_ALL = [
    *_cnn_zoos(
        "mnist", "cnn_s", 1, "10.5281/zenodo.6632086", _experiments("mnist_uniform", "mnist"),
        _point("tanh", "uniform", 3e-4, 0.0), _product((1e-3, 1e-4), (1e-3, 1e-4)),
    ),
    *_cnn_zoos(
        "fashion_mnist", "cnn_s", 1, "10.5281/zenodo.6632104",
        _experiments("f_mnist_uniform", "f_mnist"),
        _point("tanh", "uniform", 3e-4, 0.0), _product((1e-3, 1e-4), (1e-3, 1e-4)),
    ),
    *_cnn_zoos(
        "svhn", "cnn_s", 1, "10.5281/zenodo.6632120", _experiments("svhn_uniform", "svhn"),
        _point("tanh", "uniform", 3e-3, 0.0),
        _product((1e-2, 1e-3, 1e-4), (0.0, 1e-3, 1e-1), (0.0, 0.3, 0.5), ("sgd",)),
    ),
    *_cnn_zoos(
        "usps", "cnn_s", 1, "10.5281/zenodo.6633626", _experiments("usps_uniform", "usps", ""),
        _point("tanh", "uniform", 3e-4, 1e-3), _product((1e-3, 1e-4), (1e-2, 1e-3)),
    ),
    *_cnn_zoos(
        "cifar10", "cnn_s", 3, "10.5281/zenodo.6620868",
        _experiments("cifar10_uniform_small", "cifar10_small"),
        _point("gelu", "kaiming_uniform", 1e-4, 1e-2), _product((1e-3,), (1e-2, 1e-3)),
    ),
    *_cnn_zoos(
        "cifar10", "cnn_l", 3, "10.5281/zenodo.6620868",
        _experiments("cifar10_uniform_large", "cifar10_large"),
        _point("gelu", "kaiming_uniform", 1e-4, 1e-2), _product((1e-3,), (1e-2, 1e-3)),
    ),
    _resnet_zoo("cifar10", 10, "10.5281/zenodo.6974028", 0.05, batch_size=256, epochs=50),
    *_cnn_zoos(
        "stl10", "cnn_s", 3, "10.5281/zenodo.6631783",
        _experiments("stl_small_uniform", "stl_small"),
        _point("tanh", "kaiming_uniform", 1e-4, 1e-3), _product((1e-3, 1e-4), (1e-2, 1e-3)),
        doi_preprocessed="10.5281/zenodo.6634138",
    ),
    *_cnn_zoos(
        "stl10", "cnn_l", 3, "10.5281/zenodo.6631783",
        _experiments("stl_uniform_large", "stl_large"),
        _point("tanh", "kaiming_uniform", 1e-4, 1e-3), _product((1e-3, 1e-4), (1e-2, 1e-3)),
        doi_preprocessed="10.5281/zenodo.6634138",
    ),
    _resnet_zoo("cifar100", 100, "10.5281/zenodo.6977381", 0.1, batch_size=128, epochs=60),
    _resnet_zoo("tiny_imagenet", 200, "10.5281/zenodo.7023277", 0.1, batch_size=128, epochs=60),
    Zoo(
        "eurosat_cnn_s", "eurosat", "eurosat/cnn_s", "cnn_s", "seed", channels=3, classes=10,
        grid=_point("gelu", "kaiming_uniform", 1e-4, 1e-2), seeds=1000,
        doi="10.5281/zenodo.8141666",
        note="added by the authors in 2023 without its training script: grid and transforms "
        "here are our choice (those of cifar10_cnn_s_seed)",
    ),
    Zoo(
        "digits_cnn_s", "digits", "digits", "cnn_s", "hyp_10_f", channels=1, classes=10,
        grid=make_grid(
            activation=["tanh", "relu", "sigmoid", "gelu"], init=["uniform", "kaiming_uniform"],
            dropout=[0.0], optimizer=["adam", "sgd"], learning_rate=[3e-3, 3e-4],
            weight_decay=[1e-3],
        ),
        seeds=10, epochs=25, momentum=0.9,
        note="our own: scikit-learn's 8x8 digits resized to 28x28, no download needed",
    ),
    Zoo(
        "digits_mlp_seed", "digits", "digits", "1x28x28 fc64 fc10", "seed", channels=1, classes=10,
        grid=_point("relu", "kaiming_uniform(bias=0)", 1e-3, 1e-4), seeds=300, epochs=25,
        note="our own: a multilayer perceptron on scikit-learn's digits, no download needed",
    ),
    Zoo(
        "mnist_small_cnn_hyp", "mnist", "mnist", SMALL_CNN, "hyp_10_r", channels=1, classes=10,
        grid=make_grid(
            activation=["relu", "tanh"],
            init=[
                "xavier_normal(bias=0)", "kaiming_normal(bias=0)", "orthogonal(bias=0)",
                "normal(std=0.1,bias=0)", "trunc_normal(std=0.1,bias=0)",
            ],
            dropout=[0.0, 0.35, 0.7], optimizer=["adam", "rmsprop", "sgd"],
            learning_rate=[5e-4, 5e-3, 5e-2], weight_decay=[1e-8, 1e-5, 1e-2],
        ),
        seeds=2, random_seeds=True, epochs=86, batch_size=64, momentum=0.0,
        note="our own: the network of the Small CNN Zoo (Unterthiner et al., 2020) with the ends "
        "and middles of its hyperparameters' ranges; batch size and deviations are our choice",
    ),
    Zoo(
        "mnist_lenet5_seed", "mnist", "mnist", LENET5, "seed", channels=1, classes=10,
        grid=_point("tanh", "xavier_uniform(bias=0)", 1e-3, 0.0), seeds=200, epochs=20,
        batch_size=32, scheduler="OneCycleLR",
        note="our own: LeNet-5 (LeCun et al., 1998) with max-pooling and full connections",
    ),
]
# fmt: on

ZOOS: dict[str, Zoo] = {zoo.name: zoo for zoo in _ALL}
"""Every zoo of the catalog by name."""

UNIONS: dict[str, tuple[str, ...]] = {
    stem: tuple(f"{stem}_{variant}" for variant in VARIANTS)
    for stem in (name.removesuffix("_seed") for name in ZOOS if name.endswith("_seed"))
    if all(f"{stem}_{variant}" in ZOOS for variant in VARIANTS)
}
"""Zoos that are read as one: `mnist_cnn_s` stands for the three variants, and so on."""

TWIN_DOIS = {
    "mnist_cnn_s_seed": "10.5281/zenodo.7023335",
    "svhn_cnn_s_seed": "10.5281/zenodo.7027566",
    "eurosat_cnn_s": "10.5281/zenodo.8141666",
}
"""Records of the original files of sparse twins on Zenodo, by dense zoo."""


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A zoo of another publication in its own format, which `import_zoo` reads.

    Attributes:
        name: name that an import gives it.
        image_dataset: image data set of its models.
        models, states: numbers of trained models and of states.
        url: address of its file.
        title: name of the collection that it belongs to.
        cite: what to cite.
        licence: its licence.
    """

    name: str
    image_dataset: str
    models: int
    states: int
    url: str
    title: str = "Small CNN Zoo"
    cite: str = (
        "T. Unterthiner, D. Keysers, S. Gelly, O. Bousquet, I. Tolstikhin: Predicting Neural "
        "Network Accuracy from Weights. arXiv:2002.11448, 2020"
    )
    licence: str = "CC BY 4.0"


_BUCKET = "https://storage.googleapis.com/gresearch/smallcnnzoo-dataset"

ELSEWHERE: dict[str, Elsewhere] = {
    zoo.name: zoo
    for zoo in (
        Elsewhere("mnist_small_cnn", "mnist", 30_000, 269_973, f"{_BUCKET}/mnist.tar.xz"),
        Elsewhere(
            "fashion_mnist_small_cnn", "fashion_mnist", 30_000, 270_000,
            f"{_BUCKET}/fashion_mnist.tar.xz",
        ),
        Elsewhere("cifar10_small_cnn", "cifar10", 30_000, 270_000, f"{_BUCKET}/cifar10.tar.xz"),
        Elsewhere("svhn_small_cnn", "svhn", 30_000, 269_892, f"{_BUCKET}/svhn_cropped.tar.xz"),
    )
}  # fmt: skip
"""The zoos of other publications by name. Their models are trained on grey images."""

IMAGE_SETS = frozenset(
    [
        *(zoo.images for zoo in ZOOS.values()),
        *(f"{zoo.image_dataset}/grey" for zoo in ELSEWHERE.values()),
    ]
)
"""Keys of the image data sets, with transforms, on which models of these zoos are trained."""

IMAGE_FOLDER = "folder/"
"""Prefix of the keys of a user's own images, which are read from a folder of image files."""

UNKNOWN_IMAGES = "unknown"
"""Key of the images of an imported zoo whose source does not name them."""


def has_images(name: str) -> bool:
    """Whether a name is an image data set of the catalog, with or without its transforms.

    >>> has_images("cifar10/cnn_s"), has_images("cifar10"), has_images("folder/mine")
    (True, True, False)
    """
    key = normalize_name(name)
    return key in IMAGE_SETS or key in {images.partition("/")[0] for images in IMAGE_SETS}


def parts_of(name: str) -> tuple[str, ...]:
    """Return the zoo directories that a name stands for: the parts of a union, or itself."""
    dense = dense_name(name)
    return tuple(part + name.removeprefix(dense) for part in UNIONS.get(dense, (dense,)))


def refuse_union(name: str) -> None:
    """Refuse a zoo's name that is a union's, since readers take it for the union's parts.

    Raises:
        InvalidArgument: it names a union, or the twins of a union.
    """
    parts = parts_of(name)
    if len(parts) > 1:
        raise InvalidArgument(
            f"a zoo cannot be named {name!r}, which stands for {', '.join(parts)} together. "
            "Choose another name"
        )


def config_names() -> list[str]:
    """Return every name that load_dataset knows: zoos, unions, the twins of both, `metrics`."""
    dense = [*ZOOS, *UNIONS]
    return [*dense, *(twin_name(name) for name in dense), METRICS_NAME]
