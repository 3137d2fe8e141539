"""Small zoos with the oddities that a figure must survive: diverged, exploded and sparse models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model_zoos.builders.specification import zoo_from_json
from model_zoos.builders.zoo_directory import create_zoo

ODD = {
    "name": "odd",
    "image_dataset": "digits",
    "images": "digits",
    "architecture": "cnn_s",
    "variant": "hyp_10_f",
    "channels": 1,
    "classes": 10,
    "grid": {
        "activation": ["tanh", "relu"],
        "init": ["normal"],
        "dropout": [0.0],
        "optimizer": ["adam"],
        "learning_rate": [1e-3, 1.0],
        "weight_decay": [0.0],
    },
    "seeds": 3,
    "epochs": 2,
}
DIVERGED, EXPLODED = "model_03", "model_05"


def write_odd_zoos(root: Path) -> None:
    """The zoo `odd`, 12 models of 3 states of random numbers, and its twins `odd_sparse`.

    DIVERGED has NaN weights and losses from epoch 1 on, EXPLODED weights of 1e6 there.
    """
    generator = np.random.default_rng(0)
    zoo = zoo_from_json(ODD)
    dense = create_zoo(root, zoo)
    twins = create_zoo(root, zoo_from_json({**ODD, "name": "odd_sparse"}))
    for number, model in enumerate(zoo.models()):
        name = f"model_{number:02d}"
        weights = 0.3 * generator.standard_normal((3, zoo.layout.size)).astype(np.float32)
        losses, accuracies = generator.uniform(1, 2, 3), generator.uniform(0.1, 0.9, 3)
        if name == DIVERGED:
            weights[1:], losses[1:] = np.nan, np.nan
        if name == EXPLODED:
            weights[1:] *= 1e6
        metrics = {"train_loss": losses, "test_loss": losses}
        metrics |= {"train_acc": accuracies, "test_acc": 0.9 * accuracies}
        dense.write_model(name, model.hyperparameters(), [0, 1, 2], weights, metrics)
        if name not in (DIVERGED, EXPLODED):
            pruned = np.where(generator.uniform(size=weights.shape) < 0.5, 0, weights)
            twins.write_model(
                f"twin_{number:02d}",
                model.hyperparameters(),
                [0, 1, 2],
                pruned,
                {**metrics, "sparsity": np.array([0.0, 0.4, 0.5])},
                parent_model_id=name,
            )
