"""How fast populations are trained, beside the original's loop.

The original's loop is one plain torch module with torch's optimizer, batches of 10, one model at a
time in one thread, as its code trains (and as engines/reference.py does). Every engine does the
same work: epochs over random images in random orders, Adam, dropout-free tanh networks. Rounds are
interleaved, so that a change of the machine's speed meets all alike; figures are medians over the
rounds, in training images seen by all models together, each second.

Sparse twins are measured in the same way against a loop of their own: plain torch modules with
variational dropout, one at a time, the original's formulas (its def_net_distillation.py) without
what it computes twice.

The share of peak compares the arithmetic of the networks (convolutions and products, forward and
backward, 2 operations a multiply-add; a twin's layer is two, of means and of variances) with the
best single-precision matrix product that torch reaches in the same run on the same number of
threads.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...builders.architecture import ARCHITECTURES
from ...builders.catalog import get_zoo
from ...builders.layout import Layout, make_layout
from ...builders.specification import Model
from ...generation.engines.batched import BatchedPopulation
from ...generation.engines.lanes import LanesPopulation, LanesTwins, LanesUnavailable
from ...generation.networks import build, initialise
from ...generation.streams import initial_weights

BATCH = 10
LAYOUTS = {"cnn_s": make_layout("cnn_s", 1), "cnn_l": make_layout("cnn_l", 3)}
LOOP = "original's loop, 1 thread"
KL_WEIGHT = 0.005


def measure(architecture: str, rounds: int, samples: int, twins: bool = False) -> dict[str, Any]:
    """Medians over some rounds of training.

    Args:
        architecture: "cnn_s" (1x28x28 images) or "cnn_l" (3x32x32).
        rounds: at least 1.
        samples: training images of an epoch; every model sees each once a round.
        twins: whether sparse twins are trained, else dense models.

    Returns:
        `model_samples_per_second` by engine, `ratio` to the original's loop (median over rounds of
        the rounds' own ratios), `gflops_per_second`, `sgemm_gflops_per_second` and `share_of_peak`.
    """
    layout = LAYOUTS[architecture]
    side = ARCHITECTURES[architecture].image_size
    generator = np.random.default_rng(0)
    images = generator.standard_normal((samples, layout.channels, side, side), np.float32)
    labels = generator.integers(0, layout.classes, samples)
    engines = dict((_twins if twins else _engines)(layout, images, labels))
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    peaks: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds + 1):
        for name, (models, work) in engines.items():
            start = time.perf_counter()
            work()
            speed = models * samples / (time.perf_counter() - start)
            if number > 0:  # the first round compiles and warms up
                speeds[name].append(speed)
        for threads, peak in peaks.items():
            peak.append(_sgemm_gflops(threads))
    loop = speeds[LOOP]
    operations = training_operations(layout) * (2 if twins else 1)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    gflops = {name: speed * operations / 1e9 for name, speed in medians.items()}
    peak = {threads: statistics.median(values) for threads, values in peaks.items()}
    return {
        "architecture": architecture,
        "twins": twins,
        "batch_size": BATCH,
        "optimizer": "adam",
        "samples": samples,
        "rounds": rounds,
        "operations_per_model_sample": operations,
        "sgemm_gflops_per_second": {str(k): round(value, 1) for k, value in peak.items()},
        "engines": {
            name: {
                "model_samples_per_second": round(medians[name]),
                "ratio": round(
                    statistics.median(a / b for a, b in zip(values, loop, strict=True)), 2
                ),
                "gflops_per_second": round(gflops[name], 2),
                "share_of_peak": round(gflops[name] / peak[2 if "2 threads" in name else 1], 3),
            }
            for name, values in speeds.items()
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table, as the README has it."""
    lines = [
        "| architecture | engine | model-samples / s | x original's loop | share of sgemm peak |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for result in results:
        title = ARCHITECTURES[result["architecture"]].title + " twins" * result["twins"]
        for name, figures in result["engines"].items():
            lines.append(
                f"| {title} | {name} | {figures['model_samples_per_second']:,} "
                f"| {figures['ratio']:.1f} | {figures['share_of_peak']:.0%} |"
            )
    return "\n".join(lines)


def training_operations(layout: Layout) -> int:
    """Floating-point operations of one image's forward and backward pass.

    A multiply-add counts as 2; forward, gradient of the weights, and (but for the first layer)
    gradient of the inputs. Activations, pooling and the optimizer are left out.
    """
    outputs = layout.outputs
    total = 0
    for number, (slots, out) in enumerate(zip(layout.layers.values(), outputs, strict=True)):
        products = slots["weight"].size * math.prod(out[1:])
        total += 2 * products * (3 if number else 2)
    return total


Work = tuple[int, Callable[[], object]]


def _engines(layout: Layout, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, Work]]:
    """Name, number of models and one epoch of training of each engine."""
    yield LOOP, (1, _original_loop(layout, images, labels))
    for name, models, population in _lanes(LanesPopulation, layout):
        yield name, (models, _epoch(population, images, labels, models))
    population = BatchedPopulation(layout, *_population(layout, 64), threads=1)
    yield "batched (torch, 64 models), 1 thread", (64, _epoch(population, images, labels, 64))
    if torch.cuda.is_available():
        population = BatchedPopulation(layout, *_population(layout, 1024), device="cuda")
        yield "batched (torch, 1024 models), CUDA", (1024, _epoch(population, images, labels, 1024))


def _twins(layout: Layout, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, Work]]:
    """As `_engines`, of sparse twins."""
    yield LOOP, (1, _original_loop(layout, images, labels, twin=True))

    def start(
        layout: Layout, models: Sequence[Model], weights: np.ndarray, **options: Any
    ) -> LanesTwins:
        return LanesTwins(layout, models, weights, log_sigma2=np.full_like(weights, -10), **options)

    for name, models, population in _lanes(start, layout):
        yield name, (models, _epoch(population, images, labels, models, KL_WEIGHT))


def _lanes(
    start: Callable[..., Any], layout: Layout
) -> Iterator[tuple[str, int, LanesPopulation | LanesTwins]]:
    for isa, threads in (("avx512", 1), ("avx512", 2), ("avx2", 1)):
        models = threads * (16 if isa == "avx512" else 8)
        name = f"lanes ({isa}), {threads} thread{'s' * (threads > 1)}"
        try:
            yield (
                name,
                models,
                start(layout, *_population(layout, models), isa=isa, threads=threads),
            )
        except LanesUnavailable as error:
            warnings.warn(f"{name} not measured: {error}", stacklevel=2)


def _population(layout: Layout, models: int) -> tuple[list[Model], np.ndarray]:
    """Models and what they start from."""
    first = dataclasses.replace(get_zoo("mnist_cnn_s_seed").models(1)[0], learning_rate=1e-3)
    weights = [initial_weights(layout, "kaiming_uniform", seed)[0] for seed in range(models)]
    return [dataclasses.replace(first, seed=seed) for seed in range(models)], np.stack(weights)


def _epoch(
    population: Any, images: np.ndarray, labels: np.ndarray, models: int, *more: float
) -> Callable[[], object]:
    generator = np.random.default_rng(1)
    orders = np.stack([generator.permutation(len(images)) for _ in range(models)])
    return lambda: population.train_epoch(images, labels, orders, *more)


def _original_loop(
    layout: Layout, images: np.ndarray, labels: np.ndarray, twin: bool = False
) -> Callable[[], object]:
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    module = build(layout, "tanh")
    initialise(module, "kaiming_uniform")
    noisy = _make_noisy(module) if twin else []
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def epoch() -> None:
        with _threads(1):
            total, correct = 0.0, 0
            for batch in torch.randperm(len(y)).split(BATCH):
                optimizer.zero_grad()
                logits = module(x[batch])
                loss = functional.cross_entropy(logits, y[batch])
                if twin:
                    loss = loss + KL_WEIGHT * sum(layer.divergence for layer in noisy)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
                correct += int((logits.argmax(1) == y[batch]).sum())

    return epoch


class _NoisyLayer(nn.Module):
    """A convolution or linear layer trained by variational dropout.

    `divergence` is that of its weights from the prior at the last forward pass.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.convolution = isinstance(layer, nn.Conv2d)
        self.weight, self.bias = layer.weight, layer.bias
        self.log_sigma2 = nn.Parameter(torch.full_like(layer.weight, -10))
        self.log_sigma2_bias = nn.Parameter(torch.full_like(layer.bias, -10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, self.divergence = self._variance(self.weight, self.log_sigma2)
        if self.convolution:
            bias_variance, divergence = self._variance(self.bias, self.log_sigma2_bias)
            self.divergence = self.divergence + divergence
            mean = functional.conv2d(x, self.weight, self.bias)
            spread = functional.conv2d(x * x, variance, bias_variance)
        else:
            mean = functional.linear(x, self.weight, self.bias)
            spread = functional.linear(x * x, variance)
        return mean + torch.sqrt(spread + 1e-15) * torch.randn_like(mean)

    def _variance(self, mean: torch.Tensor, log_sigma2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        bound = 8 if self.convolution else 10
        free = log_sigma2 - 2 * torch.log(torch.abs(mean) + 1e-15)
        log_alpha = torch.clamp(free, -bound, bound)
        k1, k2, k3 = 0.63576, 1.8732, 1.48695
        shares = k1 * torch.sigmoid(k2 + k3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha))
        return torch.exp(log_alpha) * mean * mean, -(shares - k1).sum()


def _make_noisy(module: nn.Module) -> list[_NoisyLayer]:
    """Puts a noisy layer in place of each layer with weights."""
    layers = []
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.Conv2d, nn.Linear)):
                layers.append(_NoisyLayer(child))
                setattr(parent, name, layers[-1])
    return layers


def _sgemm_gflops(threads: int, size: int = 1024, repeats: int = 8) -> float:
    """Best of some matrix products: the most that this machine shows."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = math.inf
    with _threads(threads):
        for _ in range(repeats):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
