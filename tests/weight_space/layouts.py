"""The layouts that every test of this folder walks: all kinds of networks, and their weights."""

from __future__ import annotations

import numpy as np
import torch

import model_zoos
from model_zoos.builders.layout import Layout, make_layout

PLAIN = [
    make_layout("cnn_s", 1),
    make_layout("cnn_s", 3, 7),
    make_layout("cnn_l", 3),
    make_layout("1x28x28 conv16k3s2 gap fc10", 1),
    make_layout("1x28x28 conv6k5p2 pool conv16k5 pool fc12 fc10", 1),
    make_layout("3x8x8 fc5:relu fc3", 3, 3),
]
RESNET = make_layout("resnet18", 3)
ALL = [*PLAIN, RESNET]
KINDS = ["numpy", "torch"]


def random_weights(layout: Layout, rows: int, kind: str = "numpy", seed: int = 0) -> ...:
    """Normal float32 [rows, N]; fewer rows of large networks."""
    rows = min(rows, 2) if layout.size > 10**6 else rows
    values = np.random.default_rng(seed).standard_normal((rows, layout.size), np.float32)
    return values if kind == "numpy" else torch.from_numpy(values)


def resnet_weights(generator: np.random.Generator) -> np.ndarray:
    """float32 [N] of a ResNet-18 as a trained one could be: scaled weights, positive variances."""
    parts = []
    for slot in RESNET.slots:
        values = generator.standard_normal(slot.size)
        if slot.name.endswith("running_var"):
            values = 0.5 + np.abs(values)
        elif len(slot.shape) > 1:
            values *= (2 / (slot.size / slot.shape[0])) ** 0.5
        parts.append(values.astype(np.float32))
    return np.concatenate(parts)


def logits(weights: np.ndarray, architecture: str, activation: str, images: torch.Tensor) -> ...:
    """What a network of these weights gives for images."""
    row = {"architecture": architecture, "activation": activation, "weights": weights}
    with torch.inference_mode():
        return model_zoos.instantiate(row)(images)
