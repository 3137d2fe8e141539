"""The CPU kernel: small networks trained many at a time, one model in each SIMD lane.

A small CNN cannot fill a processor core, and an array library that stacks models streams the
activations of all of them through memory at every operation. Here a *block* of models (16 with
AVX-512, 8 with AVX2) shares a core's vector registers, one model in each lane, and the whole
training step runs fused, sample by sample, with everything in the core's own cache. The sources are
in this folder, vectors.hpp (what a vector is), layers.hpp (one template for each kind of layer),
network.hpp (the network put together, its evaluation), dense.cpp and twins.cpp (training of dense
models and of sparse twins, a library each), and in ../kernels, which other engines share.

A model's weights depend on its own specification alone: they are the same to the bit in any lane,
beside any other models, for any number of threads, and in the AVX-512, AVX2 and portable builds on
x86 processors with fused multiply-add. (Without it the portable build rounds more often; and other
processors keep subnormal numbers, which the x86 builds take as zero.)

docs/generate.md has a table of how fast it is. A library is built in 1.5 seconds for each
architecture and activation.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from ....builders.layout import Layout
from ....errors import LanesUnavailable
from ..population import Scores
from .blocks import Blocks, LanesWeights
from .library import ISAS, LANES, chosen_isa, is_faster, load
from .twins import LanesTwins

__all__ = [
    "ISAS",
    "LanesPopulation",
    "LanesTwins",
    "LanesUnavailable",
    "LanesWeights",
    "block_size",
    "lanes_are_faster",
    "lanes_count",
]


def lanes_count(layout: Layout, activation: str = "tanh", isa: str = "auto") -> int:
    """Return how many models fill a block on this machine, after building or loading the kernel.

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
    """
    return load(layout, activation, isa).lanes_count()


def block_size() -> int:
    """Return how many models fill a block on this machine. No kernel is built.

    Raises:
        LanesUnavailable: no C++ compiler.
    """
    return LANES[chosen_isa()]


def lanes_are_faster(layout: Layout, activation: str = "tanh", kernel: str = "dense") -> bool:
    """Whether lanes are faster than the batched engine; if so, their kernel has been built too.

    `is_faster` has the rule.

    Args:
        layout: of an architecture with `layers`.
        activation: of the models that are trained first.
        kernel: what trains them, one of `library.KERNELS`.

    Raises:
        LanesUnavailable: as `lanes_count`.
    """
    return is_faster(layout) and load(layout, activation, kernel=kernel).weights_count() > 0


class LanesPopulation(Blocks):
    """Models in training that share architecture, activation, optimizer and batch size.

    Losses are in nats, accuracies shares of 1, both float64 [P]. A model that diverges
    continues with NaN weights and losses, as in torch, and does not disturb the others.

    Args:
        layout: of an architecture with `layers`.
        models: that share activation, optimizer and batch size; their rates and seeds may differ.
            Dropout masks are those of generation/streams.py.
        weights: initial weights, float32 [P, layout.size] in layout order.
        threads: blocks trained at a time; None for one on each core that this process may use.
        isa: "auto", "avx512", "avx2" or "portable".

    Raises:
        LanesUnavailable: no C++ compiler, or it cannot build the kernel for this machine.
        InvalidArgument: arguments of a wrong shape or out of range.
    """

    def train_epoch(
        self, images: ArrayLike, labels: ArrayLike, orders: ArrayLike, *more: float
    ) -> Scores:
        """Train every model for one epoch; see `Population.train_epoch`. `more` is empty."""
        return self._train(images, labels, orders, *more)
