"""Zoos for tests and measurements, made in no time: random weights and metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model_zoos.builders.schema import METRICS
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo


def random_zoo(root: Path, zoo: Zoo, models: int | None = None) -> ZooDirectory:
    """Write a zoo directory with the catalog's models, but random weights and metrics.

    Args:
        root: folder of all zoos.
        zoo: specification.
        models: number of models, the first ones of the zoo; None for all.
    """
    directory = create_zoo(root, zoo, engine="random values")
    generator = np.random.default_rng(0)
    specifications = zoo.models(models)
    directory.add_splits(model.model_id for model in specifications)
    epochs = np.arange(0 if zoo.keeps_epoch_0 else 1, zoo.epochs + 1)
    for model in specifications:
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            epochs,
            generator.standard_normal((len(epochs), zoo.layout.size), np.float32),
            {name: generator.random(len(epochs)) for name in METRICS[:6]},
        )
    return directory
