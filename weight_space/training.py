"""Train weight vectors of any origin further, as a population.

    states, metrics, _ = train(weights, like=rows, images="mnist", epochs=5, learning_rate=1e-3)

It uses the engines that train zoos, which run thousands of small networks together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..builders.arguments import require
from ..builders.hyperparameters import MOMENTUM_OPTIMIZERS, parse_scheduler
from ..builders.names import normalize_name
from ..builders.specification import GRID_KEYS, HYPERPARAMETER_CHECKS, Model, Zoo, make_grid
from ..builders.splits import METRIC_OF_SPLIT
from ..builders.zoo_directory import FINE_TUNING, check_zoo_directory, create_zoo
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

_FALL_BACK = {
    "weight_decay": 0.0,
    "dropout": 0.0,
    "momentum": 0.0,
    "init": None,
    "scheduler": None,
}
"""Hyperparameters with a default, for which `like` needs no value."""

AS_LIKE = "like"
"""The argument for the schedule of `like`, since None means a constant rate."""

_INIT_NOT_KNOWN = (
    "trained from given weights, whose initialisation is not known: the init of this grid only "
    "fills a place, and no row has it"
)
"""Note of a zoo whose grid needs an initialisation that nobody knows."""


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
    scheduler: str | None = AS_LIKE,
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
    `like`. If `like` does not state them, weight decay, momentum and dropout are 0 and the learning
    rate is constant.

    Args:
        weights: [P, N] or [N], numpy array, torch tensor or lists.
        like: see `evaluate`.
        images: see `evaluate`; a pair is a training set. They are not augmented.
        epochs: number of passes over the training images.
        learning_rate, optimizer, batch_size, weight_decay, momentum, dropout, activation: see
            `Model`.
        scheduler: learning rate schedule of all models; None for a constant rate, "like" for that
            of `like`.
        seed: seed of the dropout masks, and of a torch generator: in epoch e, the images come in
            its e-th permutation.
        images_dir, download: see `model_zoos.load_images`.
        engine, device, threads: see `evaluate`. ResNet-18 is trained with one model per thread.
        on_progress: called with the epochs done by all models, and the total number of their
            epochs.
        out: folder of zoos in which a zoo directory with all states is written too. The same call
            can be repeated; the result of another call is never overwritten.
        name: name of that zoo.

    Raises:
        InvalidArgument: the arguments do not fit together, or a hyperparameter is not known.
        ImageFilesError: the images are missing, damaged, or not the original ones.
        FaultyZoo: the folder holds another zoo of this name, such as the result of training from
            other weights.
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
        "scheduler": None if scheduler == AS_LIKE else scheduler,
    }
    names = [key for key in given if key != "scheduler" or scheduler is not None]
    networks = read_networks(like, tuple(vectors.shape), given, names)
    models = _models(networks, len(vectors), epochs, seed)
    data = find_images(images, networks, images_dir, download)
    sets = {
        metric: samples_of(data, split, networks.layout)
        for split, metric in METRIC_OF_SPLIT.items()
        if getattr(data, split, None) is not None or split == "train"
    }
    block = as_block(vectors, np.arange(len(vectors)))
    zoo: Zoo | None = None
    provenance: dict[str, Any] = {}
    if out is not None:
        zoo = _zoo(normalize_name(name), networks, models, data)
        assert isinstance(data, ImageData)  # `_zoo` has refused others
        provenance = {
            "engine": FINE_TUNING,
            "source": _source(block, models),
            "images": data.provenance(),
        }
        check_zoo_directory(out, zoo, **provenance)  # before hours of training
    states, metrics = fine_tune(
        block,
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
    directory = create_zoo(out, zoo, **provenance)
    first = 0 if zoo.keeps_epoch_0 else 1
    ids = [f"row_{row:06d}" for row in range(len(models))]
    directory.add_splits(ids)
    for row, model in enumerate(models):
        directory.write_model(
            ids[row],
            model.hyperparameters(),
            np.arange(first, epochs + 1),
            states[row, first:],
            {key: values[row, first:] for key, values in metrics.items()},
        )
    return Training(states, metrics, directory.path)


def _models(networks: Networks, count: int, epochs: int, seed: int | Sequence[int]) -> list[Model]:
    """Return the hyperparameters of each vector.

    Raises:
        InvalidArgument: a hyperparameter is not known.
    """
    values: dict[str, Any] = {"scheduler": np.array(None, object), **networks.values}
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
        for one in set(column) - {None} if name == "scheduler" else ():
            parse_scheduler(one)
        columns[name] = column
    columns["momentum"] = [
        value if optimizer in MOMENTUM_OPTIMIZERS else None
        for value, optimizer in zip(columns["momentum"], columns["optimizer"], strict=True)
    ]
    return [
        Model(zoo="", epochs=epochs, **dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value of a row without numpy's types and NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value != value else value


def _source(weights: NDArray[np.float32], models: Sequence[Model]) -> dict[str, str]:
    """Return the source in zoo.json: digests of what was trained, and with which hyperparameters.

    Earlier versions wrote no digests.
    """
    settings = json.dumps([model.hyperparameters() for model in models], sort_keys=True)
    return {
        "file": "given weights",
        "weights_sha256": hashlib.sha256(weights.astype("<f4", copy=False).data).hexdigest(),
        "models_sha256": hashlib.sha256(settings.encode()).hexdigest(),
    }


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
        for key in (*GRID_KEYS, "batch_size", "momentum", "scheduler")
    }
    inits = [value for value in columns["init"] if value is not None]
    columns["init"] = inits or ["uniform"]  # a grid has one, known or not
    grid = make_grid(**{key: columns[key] for key in GRID_KEYS})
    momenta = [value for value in columns["momentum"] if value is not None]
    if len(columns["batch_size"]) > 1 or len(momenta) > 1 or len(columns["scheduler"]) > 1:
        raise InvalidArgument(
            "the models of a zoo have one batch_size, one momentum and one scheduler: give each of "
            "these arguments a single value, or leave out `out`"
        )
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
            note="" if inits else _INIT_NOT_KNOWN,
        )
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
