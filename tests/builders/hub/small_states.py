"""A zoo whose models have a file for each state, like ResNet-18, but of 31 kB each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from model_zoos.builders.architecture import ARCHITECTURES, Architecture, Layer
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import open_zoo
from tests.zoos import random_zoo

NAME = "small_states"

LINEAR = Architecture(
    name="linear",
    title="Linear",
    image_size=28,
    layers=(Layer("fc", 10, activation=False),),
    keeps_epoch_0=False,
    file_per_state=True,
    row_group_bytes=1,
    shard_bytes=31_400,  # a shard for each state
)


def register() -> None:
    """Add the architecture to the table, for this process."""
    ARCHITECTURES["linear"] = LINEAR


def unregister() -> None:
    """Take it out again, for the tests that look at the whole table."""
    ARCHITECTURES.pop("linear", None)


def small_zoo() -> Zoo:
    """Its specification: two epochs."""
    return dataclasses.replace(zoo_spec("digits_cnn_s"), name=NAME, architecture="linear", epochs=2)


def make(root: Path, models: int = 3) -> list[str]:
    """Write the zoo; return the ids of its models, sorted."""
    directory = random_zoo(root, small_zoo(), models)
    return sorted(path.name for path in directory.models_path.iterdir())


def train_again(root: Path, model: str, seed: int = 1, epochs: tuple[int, ...] = (1, 2)) -> None:
    """Replace states of a model by others of the same size."""
    directory, generator = open_zoo(root, NAME), np.random.default_rng(seed)
    for epoch in epochs:
        old = directory.read(directory.state_path(model, epoch))
        weights = generator.standard_normal((1, directory.zoo.layout.size), np.float32)
        metrics = dict(old.metrics)
        directory.write_model(model, old.hyperparameters, [epoch], weights, metrics)


def weights_of(root: Path, model: str) -> dict[int, bytes]:
    """Epoch -> bytes of the weights of all states that are here and readable."""
    directory = open_zoo(root, NAME)
    found = {}
    for epoch in directory.kept_epochs:
        if (path := directory.state_path(model, epoch)).exists():
            found[epoch] = directory.read(path).weights().tobytes()
    return found
