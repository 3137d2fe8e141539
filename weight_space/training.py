"""Train weight vectors of any origin further, as a population.

    states, metrics, _ = train(weights, like=rows, images="mnist", epochs=5, learning_rate=1e-3)

It uses the engines that train zoos, which run thousands of small networks together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..builders.arguments import require
from ..builders.hyperparameters import MOMENTUM_OPTIMIZERS
from ..builders.names import normalize_name
from ..builders.specification import GRID_KEYS, HYPERPARAMETER_CHECKS, Model, Zoo, make_grid
from ..builders.splits import METRIC_OF_SPLIT
from ..builders.zoo_directory import FINE_TUNING, create_zoo
from ..errors import InvalidArgument
from ..generation.fine_tuning import fine_tune
from ..generation.images import ImageData
from .networks import (
    Images,
    Like,
    Networks,
    as_block,
    as_vectors,
    find_images,
    read_networks,
    samples_of,
)

_FALL_BACK = {"weight_decay": 0.0, "dropout": 0.0, "momentum": 0.0, "init": None}
"""Hyperparameters with a default, for which `like` needs no value."""


class Training(NamedTuple):
    """The states of trained weight vectors.

    Attributes:
        weights: float32 [P, epochs + 1, N]; state 0 has the given weights.
        metrics: float64 [P, epochs + 1] by name: train_loss and train_acc, and those of val and
            test if the images have these splits. Losses are in nats, accuracies in [0, 1]. The
            training metrics of state 0 are measured in evaluation mode; later ones are running
            means over the epoch.
        path: the zoo directory, if one was written.
    """

    weights: NDArray[np.float32]
    metrics: dict[str, NDArray[np.float64]]
    path: Path | None


def train(
    weights: ArrayLike | torch.Tensor,
    like: Like,
    images: Images = None,
    *,
    epochs: int,
    learning_rate: ArrayLike | None = None,
    optimizer: str | Sequence[str] | None = None,
    batch_size: ArrayLike | None = None,
    weight_decay: ArrayLike | None = None,
    momentum: ArrayLike | None = None,
    dropout: ArrayLike | None = None,
    activation: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    seed: int | Sequence[int] = 0,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    out: str | os.PathLike[str] | None = None,
    name: str = "fine_tuned",
) -> Training:
    """Train weight vectors as networks on images, and return all their states.

    A hyperparameter is one value for all vectors, or one for each. By default it is that of
    `like`; weight decay, momentum and dropout are 0 if `like` does not state them.

    Args:
        weights: [P, N] or [N], numpy array, torch tensor or lists.
        like: see `evaluate`.
        images: see `evaluate`; a pair is a training set. They are not augmented.
        epochs: number of passes over the training images.
        learning_rate, optimizer, batch_size, weight_decay, momentum, dropout, activation: see
            `Model`.
        scheduler: learning rate schedule of all models; None for a constant rate.
        seed: seed of the dropout masks, and of a torch generator: in epoch e, the images come in
            its e-th permutation.
        images_dir, download: see `model_zoos.load_images`.
        engine, device, threads: see `evaluate`. ResNet-18 is trained with one model per thread.
        on_progress: called with the epochs done by all models, and the total number of their
            epochs.
        out: folder of zoos in which a zoo directory with all states is written too.
        name: name of that zoo.

    Raises:
        InvalidArgument: the arguments do not fit together, or a hyperparameter is not known.
        ImageFilesError: the images are missing, damaged, or not the original ones.
        FaultyZoo: the folder holds another zoo of this name.
    """
    vectors = as_vectors(weights)
    if epochs < 1 or not len(vectors):
        raise InvalidArgument(f"nothing to train: {len(vectors)} vectors for {epochs} epochs")
    given = {
        "activation": activation,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "dropout": dropout,
        "init": None,
    }
    networks = read_networks(like, tuple(vectors.shape), given, list(given))
    models = _models(networks, len(vectors), epochs, scheduler, seed)
    data = find_images(images, networks, images_dir, download)
    sets = {
        metric: samples_of(data, split, networks.layout)
        for split, metric in METRIC_OF_SPLIT.items()
        if getattr(data, split, None) is not None or split == "train"
    }
    zoo = None if out is None else _zoo(normalize_name(name), networks, models, data)
    states, metrics = fine_tune(
        as_block(vectors, np.arange(len(vectors))),
        networks.layout,
        models,
        sets,
        engine=engine,
        device=device,
        threads=threads,
        on_progress=on_progress,
    )
    if out is None or zoo is None:
        return Training(states, metrics, None)
    assert isinstance(data, ImageData)  # `_zoo` has refused other types
    directory = create_zoo(
        out,
        zoo,
        engine=FINE_TUNING,
        source={"file": "given weights"},
        images=data.provenance(),
    )
    first = 0 if zoo.keeps_epoch_0 else 1
    names = [f"row_{row:06d}" for row in range(len(models))]
    directory.add_splits(names)
    for row, model in enumerate(models):
        directory.write_model(
            names[row],
            model.hyperparameters(),
            np.arange(first, epochs + 1),
            states[row, first:],
            {key: values[row, first:] for key, values in metrics.items()},
        )
    return Training(states, metrics, directory.path)


def _models(
    networks: Networks, count: int, epochs: int, scheduler: str | None, seed: int | Sequence[int]
) -> list[Model]:
    """Return the hyperparameters of each vector.

    Raises:
        InvalidArgument: a hyperparameter is not known.
    """
    values = dict(networks.values)
    values["seed"] = np.array(seed, object)
    columns: dict[str, list[Any]] = {}
    for name, value in values.items():
        if value.ndim and len(value) != count:
            raise InvalidArgument(f"{name}: {len(value)} values, but {count} weight vectors")
        column = [_plain(one) for one in np.broadcast_to(value, count).tolist()]
        if name in _FALL_BACK:
            column = [_FALL_BACK[name] if one is None else one for one in column]
        elif None in column:
            raise InvalidArgument(
                f"a weight vector has no {name}, or NaN: give the argument `{name}`, one value for "
                "all vectors or one for each. A zoo as `like` says it only if it has a single one"
            )
        if name in ("learning_rate", "weight_decay", "dropout"):
            column = [float(one) for one in column]
        elif name == "batch_size":
            column = [int(one) if one == int(one) else one for one in column]
        for one in set(column) - {None} if name in HYPERPARAMETER_CHECKS else ():
            require(name, one, HYPERPARAMETER_CHECKS[name])
        columns[name] = column
    columns["momentum"] = [
        value if optimizer in MOMENTUM_OPTIMIZERS else None
        for value, optimizer in zip(columns["momentum"], columns["optimizer"], strict=True)
    ]
    return [
        Model(zoo="", epochs=epochs, scheduler=scheduler, **dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value of a row without numpy's types and NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value != value else value


def _zoo(name: str, networks: Networks, models: Sequence[Model], data: object) -> Zoo:
    """Return the specification of a zoo of these models.

    Raises:
        InvalidArgument: a zoo cannot have these models together, or the images have no name.
    """
    if not isinstance(data, ImageData):
        raise InvalidArgument("a zoo needs images with a name: give them as a name or ImageData")
    layout = networks.layout
    columns: dict[str, list[Any]] = {
        key: list(dict.fromkeys(getattr(model, key) for model in models))
        for key in (*GRID_KEYS, "batch_size", "momentum")
    }
    if None in columns["init"]:  # not known, but a grid needs one
        columns["init"] = ["uniform"]
    grid = make_grid(**{key: columns[key] for key in GRID_KEYS})
    momenta = [value for value in columns["momentum"] if value is not None]
    if len(columns["batch_size"]) > 1 or len(momenta) > 1:
        raise InvalidArgument("the models of a zoo have one batch_size and one momentum")
    try:
        return Zoo(
            name=name,
            image_dataset=data.name.partition("/")[0],
            images=data.name,
            architecture=layout.architecture.name,
            variant="fine_tuned",
            channels=layout.channels,
            classes=layout.classes,
            grid=grid,
            seeds=len(models),
            epochs=models[0].epochs,
            batch_size=columns["batch_size"][0],
            momentum=momenta[0] if momenta else None,
            scheduler=models[0].scheduler,
        )
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
