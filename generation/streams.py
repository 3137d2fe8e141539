"""Random streams: every draw is a function of (model seed, purpose, epoch, step).

Initial weights and sample orders of a model come from torch's Mersenne twister, drawn in the order
of the paper's code. So every engine reproduces the draws of models of the paper's code that have no
dropout. The order: manual_seed, torch's default initialisation layer by layer, the zoo's
initialisation layer by layer, a sample order for the evaluation of the untrained model, then one
for each epoch.

Dropout masks come from Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", SC 2011). This generator is a function of a counter and a key, so that an engine
can make any mask at any time, in any order. Word `unit % 4` of

    counter  (unit // 4, purpose << 24 | sample, step % 2^32, step // 2^32)
    key      (seed % 2^32, seed // 2^32)

decides one unit: `sample` is the position in the batch, `step` counts optimizer steps from 0 over
all epochs, and `unit` numbers the outputs of all dropout layers of the network in forward order,
each in torch's order channel, row, column. A unit is kept if its word is at least
floor(rate * 2^32), and is then multiplied by float32(1) / float32(1 - rate); if not, it is 0. The
kernels of the engines lanes and cuda compute the same bits in C++.

The normal numbers of sparse twins (variational dropout) come from the same generator with another
purpose; `gaussian_noise` documents their order and formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..builders.layers import pooled_side
from ..builders.layout import Layout

if TYPE_CHECKING:
    import torch

DROPOUT, NOISE = 1, 2
"""Purposes of draws: dropout masks and variational dropout. augmentation.py has a third; all are
below 256."""


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Compute four random words for each counter.

    Args:
        counter: uint32 [..., 4].
        key: uint32 [..., 2], its leading axes broadcast against the counter's.

    Returns:
        uint32 [..., 4].
    """
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter).astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key).astype(np.uint64), -1, 0)
    for _ in range(10):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & low, (a >> 32) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def split_seed(seeds: np.ndarray) -> np.ndarray:
    """Return the Philox keys, uint32 [..., 2], of seeds [...]; negative seeds count modulo 2^64."""
    given = np.asarray(seeds)
    words = given.astype(np.int64).astype(np.uint64) if given.dtype.kind == "i" else given
    return np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], -1).astype(np.uint32)


def dropout_threshold(rates: np.ndarray) -> np.ndarray:
    """Return the smallest word that keeps a unit, uint32, for rates in [0, 1)."""
    return np.floor(np.asarray(rates, np.float64) * 2.0**32).astype(np.uint32)


def dropout_scale(rates: np.ndarray) -> np.ndarray:
    """Return the factor of a kept unit, float32."""
    return np.float32(1) / (1 - np.asarray(rates, np.float64)).astype(np.float32)


def dropout_shapes(layout: Layout) -> list[tuple[int, ...]]:
    """Return the shape of each output, (c, h, w) or (features,), that dropout follows."""
    shapes = []
    for layer, shape in zip(layout.architecture.layers, layout.outputs, strict=True):
        shape = (shape[0], *(pooled_side(layer, side) for side in shape[1:]))
        if layer.dropout:
            shapes.append(shape)
    return shapes


def dropout_masks(
    layout: Layout, seeds: np.ndarray | int, rates: np.ndarray | float, step: int, batch_size: int
) -> list[np.ndarray]:
    """Make the masks of one training step, which multiply the outputs before the dropout layers.

    Args:
        layout: of the architecture.
        seeds: a model's seed, or the seeds of models [P].
        rates: dropout rates in [0, 1), broadcast against the seeds.
        step: number of earlier optimizer steps, over all epochs.
        batch_size: number of samples in this batch.

    Returns:
        For each dropout layer float32 [P, batch_size, *shape]; without P for a single seed.
    """
    shapes = dropout_shapes(layout)
    if not shapes:
        return []
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    seeds = np.asarray(seeds)
    words = _words(DROPOUT, seeds, step, batch_size, ends[-1])
    rates = np.broadcast_to(rates, seeds.shape)[..., None, None]
    masks = np.where(words >= dropout_threshold(rates), dropout_scale(rates), np.float32(0))
    return [
        part.reshape(*seeds.shape, batch_size, *shape)
        for part, shape in zip(np.split(masks, ends[:-1], axis=-1), shapes, strict=True)
    ]


def gaussian_noise(
    layout: Layout, seeds: np.ndarray | int, step: int, batch_size: int
) -> list[np.ndarray]:
    """Make the normal numbers of one training step of sparse twins, one for each layer output.

    They are standard normal. `unit` numbers the outputs of all layers *before pooling* in forward
    order, each in the order row, column, channel, which the lane kernel needs. Words (4j, 4j + 1)
    give units 4j and 4j + 1, words (4j + 2, 4j + 3) give units 4j + 2 and 4j + 3, by Box and Muller
    ("A note on the generation of random normal deviates", 1958):

        u = (float32(word >> 8) + 0.5) * 2^-24, rounded to float32 after the addition
        cos(2 pi u1) sqrt(-2 ln u0)  and  sin(2 pi u1) sqrt(-2 ln u0)

    in double precision, rounded to float32 at the end. The lane kernel computes them in single
    precision, and its numbers differ from these by less than 1e-6.

    Args:
        layout: of the architecture.
        seeds: a model's seed, or the seeds of models [P].
        step: number of earlier optimizer steps, over all epochs.
        batch_size: number of samples in this batch.

    Returns:
        For each layer float32 [P, batch_size, channels, rows, columns]; for linear layers
        [P, batch_size, features]. Without P for a single seed.
    """
    outputs = layout.outputs
    ends = np.cumsum([math.prod(shape) for shape in outputs])
    seeds = np.asarray(seeds)
    words = _words(NOISE, seeds, step, batch_size, 4 * -(-ends[-1] // 4))
    uniform = ((words >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24)
    radius = np.sqrt(-2 * np.log(uniform[..., 0::2], dtype=np.float64))
    angle = 2 * np.pi * uniform[..., 1::2].astype(np.float64)
    normals = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], -1).astype(np.float32)
    normals = normals.reshape(*words.shape)[..., : ends[-1]]
    return [
        np.moveaxis(
            part.reshape(*seeds.shape, batch_size, *shape[1:], shape[0]), -1, seeds.ndim + 1
        )
        for part, shape in zip(np.split(normals, ends[:-1], axis=-1), outputs, strict=True)
    ]


def _words(purpose: int, seeds: np.ndarray, step: int, batch_size: int, units: int) -> np.ndarray:
    """Return the words of a step's units, uint32 [*seeds.shape, batch_size, units]."""
    sample, block = np.meshgrid(
        np.arange(batch_size), np.arange(-(-units // 4)), indexing="ij", copy=False
    )
    counter = np.stack(
        [
            block,
            sample | purpose << 24,
            np.full_like(block, step % 2**32),
            np.full_like(block, step >> 32),
        ],
        axis=-1,
    ).astype(np.uint32)
    words = philox(counter, split_seed(seeds)[..., None, None, :])
    return words.reshape(*seeds.shape, batch_size, -1)[..., :units]


def initial_weights(layout: Layout, init: str, seed: int) -> tuple[np.ndarray, torch.Generator]:
    """Draw a model's untrained weights.

    torch's global stream is used and restored: call this from one thread at a time.

    Args:
        layout: of the architecture.
        init: key of `networks.INIT_FUNCTIONS`, with its numbers in brackets: "normal(std=0.1)".
        seed: the model's seed.

    Returns:
        The weights, float32 [N] in layout order, and a generator in the state after these draws,
        for `SampleOrders`.
    """
    import torch

    from .networks import build, initialise

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Activation and dropout modules draw nothing when a network is built.
        module = build(layout, "relu")
        initialise(module, init)
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
    return layout.to_vector({k: v.detach() for k, v in module.state_dict().items()}), generator


class SampleOrders:
    """The order in which a model sees its training images, epoch by epoch.

    Args:
        generator: the model's stream after its initial weights; it is not changed.
        samples: number of training images, n.

    Example:
        >>> _, generator = initial_weights(layout, "uniform", seed=1)  # doctest: +SKIP
        >>> SampleOrders(generator, 50_000).epoch(1)  # doctest: +SKIP
    """

    def __init__(self, generator: torch.Generator, samples: int) -> None:
        self._start = generator.get_state()
        self._samples = samples
        self._rewind()

    def _rewind(self) -> None:
        import torch

        self._generator = torch.Generator()
        self._generator.set_state(self._start)
        self._next = 0

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch, int64 [n]; epoch 0 is the untrained model's evaluation.

        Epochs can be requested in any order. In increasing order, each costs one permutation.
        """
        import torch

        if epoch < self._next:
            self._rewind()
        while self._next <= epoch:
            order = torch.randperm(self._samples, generator=self._generator)
            self._next += 1
        return order.numpy()


def sample_orders(models: Sequence[SampleOrders], epoch: int) -> np.ndarray:
    """Return the orders of several models in one epoch, int64 [P, n].

    One thread takes 0.2 ms for 50,000 images, a two-thousandth of the time in which the lane kernel
    trains on them. With torch's worker threads it can take up to 6 ms (measured).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return np.stack([model.epoch(epoch) for model in models])
    finally:
        torch.set_num_threads(threads)
