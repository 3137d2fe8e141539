"""The CPU kernel: small CNNs trained many at a time, one model in each SIMD lane.

A small CNN cannot fill a processor core, and an array library that stacks models streams the
activations of all of them through memory at every operation. Here a *block* of models (16 with
AVX-512, 8 with AVX2) shares a core's vector registers, one model in each lane, and the whole
training step runs fused, sample by sample, with everything in the core's own cache. The sources are
in this folder: vectors.hpp (arithmetic), layers.hpp (one template for each kind of layer),
network.hpp (the network put together, its evaluation), dense.cpp and twins.cpp (training of dense
models and of sparse twins, a library each).

A model's weights depend on its own specification alone: they are the same to the bit in any lane,
beside any other models, for any number of threads, and in the AVX-512, AVX2 and portable builds on
x86 processors with fused multiply-add. (Without it the portable build rounds more often; and other
processors keep subnormal numbers, which the x86 builds take as zero.)

Measured: one core trains 142,000 CNN-s model-samples a second (the original's loop: 4,750) and
21,300 of CNN-l (2,800), 30 and 7.5 times as many, two cores twice that; dense.cpp has the table. A
library is built in 1.5 seconds for each architecture and activation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....builders.layout import Layout
from ....errors import LanesUnavailable
from .blocks import Blocks
from .library import ISAS, load
from .twins import LanesTwins

__all__ = ["ISAS", "LanesPopulation", "LanesTwins", "LanesUnavailable", "lanes_count"]


def lanes_count(layout: Layout, activation: str = "tanh", isa: str = "auto") -> int:
    """How many models fill a block on this machine; the kernel is built to find out that it can be.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
    """
    return load(layout, activation, isa).lanes_count()


class LanesPopulation(Blocks):
    """Models in training that share architecture, activation, optimizer and batch size.

    Losses are in nats, accuracies shares of 1, both float64 [P]. A model that diverges goes on with
    NaN weights and losses, as in torch, and does not disturb the others.

    Args:
        layout: of CNN-s or CNN-l.
        activation: of catalog.ACTIVATIONS; gelu is the exact one.
        optimizer: "adam" or "sgd", with torch's meaning and defaults.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        weights: initial weights, float32 [P, layout.size] in layout order.
        seeds: of the dropout masks, integers [P]. This and the following may also be one number.
        learning_rate: [P].
        weight_decay: added to the gradient as L2 term, [P].
        momentum: of sgd, [P]; adam ignores it.
        dropout: rates in [0, 1), [P]; masks as generation/streams.py defines them.
        threads: blocks trained at a time; by default one for each core this process may use.
        isa: "auto", "avx512", "avx2" or "portable".

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        ValueError: arguments of a wrong shape or out of range.
    """

    kernel, parameters = "dense", 1

    def train_epoch(self, images: Any, labels: Any, orders: Any) -> tuple[np.ndarray, np.ndarray]:
        """Train every model for one epoch.

        Args:
            images: float32 [n, channels, h, w], normalised.
            labels: integers [n] in [0, classes).
            orders: which images each model sees, in its order: integers [P, m] in [0, n),
                usually permutations.

        Returns:
            Loss and accuracy of each model, means over its samples as they were trained on.
        """
        return self._train(images, labels, orders)
