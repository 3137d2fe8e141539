"""Speed of training populations, compared with the loop of the paper's code.

That loop is one plain torch module with torch's optimizer, batches of 10, one model at a time in
one thread (`reference.train_epoch`). Every engine does the same work: epochs over random images in
random orders, Adam, tanh networks without dropout. Figures are training images per second, counted
for every model that sees them.

Sparse twins are compared with another loop: plain torch modules with variational dropout, one at a
time, by the formulas of the paper's code (def_net_distillation.py) without its repeated
computations.

The share of peak compares the arithmetic of the networks (convolutions and products, forward and
backward, 2 operations per multiply-add; a twin's layer counts twice, for means and variances) with
the best single-precision matrix product that torch reaches in the same run on as many threads.

`--device cuda` measures dense models on a GPU: the loop with its module there, many models with
torch.func.vmap, and the engines batched and cuda. It has not been run yet, since there was no GPU.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from ...builders.architecture import find_architecture
from ...builders.catalog import zoo_spec
from ...builders.layout import Layout, make_layout
from ...builders.specification import Model
from ...builders.variational_dropout import LOG_SIGMA2_START
from ...errors import LanesUnavailable
from ...generation.engines.batched import BatchedPopulation
from ...generation.engines.cuda import CudaPopulation
from ...generation.engines.lanes import LanesPopulation, LanesTwins
from ...generation.engines.reference import Network, make_optimizer, train_epoch
from ...generation.engines.reference_twins import TwinLayer
from ...generation.networks import build, initialise
from ...generation.streams import initial_weights
from .measure import Clock, Rounds, Samples, interleave, markdown, torch_threads

MODEL = dataclasses.replace(zoo_spec("mnist_cnn_s_seed").models(1)[0], learning_rate=1e-3)
LAYOUTS = (make_layout("cnn_s", 1), make_layout("cnn_l", 3))
INIT = "kaiming_uniform"
LOOP = "original's loop, 1 thread"
PENALTY = 0.005
"""Factor of the divergence in a twin's loss."""


GPU_MODELS = (1, 132, 264, 1000, 4000)
"""Populations of the engine cuda: one, one and two for each multiprocessor of an H100, more."""

Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def measure(
    rounds: Rounds = 5, samples: Samples = 1000, device: Device = "cpu"
) -> list[dict[str, Any]]:
    """Return the figures of dense models, then of twins (on a CPU), for each of `LAYOUTS`."""
    return [
        measure_layout(layout, twins, rounds, samples, device)
        for twins in ((False, True) if device == "cpu" else (False,))
        for layout in LAYOUTS
    ]


def measure_layout(
    layout: Layout, twins: bool, rounds: int, samples: int, device: str = "cpu"
) -> dict[str, Any]:
    """Return the figures of one architecture; `samples` is the number of images in an epoch."""
    side = layout.architecture.image_size or 0
    generator = np.random.default_rng(0)
    images = generator.standard_normal((samples, layout.channels, side, side), np.float32)
    labels = generator.integers(0, layout.classes, samples)
    kinds = _engines(layout, twins) if device == "cpu" else _gpu_engines(layout, device)
    engines = {engine.name: engine for engine in kinds}
    work = {name: engine.epoch(images, labels) for name, engine in engines.items()}
    peaks: dict[int, list[float]] = {1: [], 2: []}
    for threads, speeds in peaks.items():
        work[f"sgemm {threads}"] = partial(_measure_sgemm, threads, speeds, device)
    clock = interleave(work, rounds, warm_up=True)
    peak = {threads: statistics.median(speeds) for threads, speeds in peaks.items()}
    operations = training_operations(layout) * (2 if twins else 1)
    results = {}
    for name, engine in engines.items():
        speed = engine.models * samples / clock.medians()[name]
        results[name] = {
            "model_samples_per_second": round(speed),
            "ratio": round(clock.ratio(LOOP, name) * engine.models, 2),
            "gflops_per_second": round(speed * operations / 1e9, 2),
            "share_of_peak": round(speed * operations / 1e9 / peak[engine.threads], 3),
        }
    return {
        "architecture": layout.architecture.name,
        "twins": twins,
        "batch_size": MODEL.batch_size,
        "optimizer": MODEL.optimizer,
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "samples": samples,
        "rounds": rounds,
        "operations_per_model_sample": operations,
        "sgemm_gflops_per_second": {str(threads): round(peak[threads], 1) for threads in peak},
        "engines": results,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures as the Markdown table of the documentation."""
    titles = ("architecture", "engine", "model-samples / s", "x original's loop")
    rows = [
        (
            find_architecture(result["architecture"]).title + " twins" * result["twins"],
            name,
            f"{figures['model_samples_per_second']:,}",
            f"{figures['ratio']:.1f}",
            f"{figures['share_of_peak']:.0%}",
        )
        for result in results
        for name, figures in result["engines"].items()
    ]
    return markdown((*titles, "share of sgemm peak"), 2, rows)


def training_operations(layout: Layout) -> int:
    """Return the floating-point operations of one image's forward and backward pass.

    A multiply-add counts as 2. There are the forward pass, the gradient of the weights and, except
    for the first layer, the gradient of the inputs. Activations, pooling and the optimizer are left
    out.
    """
    total = 0
    for number, (slots, out) in enumerate(zip(layout.layers.values(), layout.outputs, strict=True)):
        total += 2 * slots["weight"].size * math.prod(out[1:]) * (3 if number else 2)
    return total


@dataclasses.dataclass(frozen=True)
class _Engine:
    """One measured way to train: its name, and the numbers of models and threads."""

    name: str
    models: int
    threads: int
    epoch: Callable[[NDArray[np.float32], NDArray[np.int64]], Callable[[], object]]
    """Function from images and labels to a function that trains an epoch."""


def _engines(layout: Layout, twins: bool) -> Iterator[_Engine]:
    yield _Engine(LOOP, 1, 1, partial(_plain_loop, layout, twins))
    for isa, threads in (("avx512", 1), ("avx512", 2), ("avx2", 1)):
        count = threads * (16 if isa == "avx512" else 8)
        name = f"lanes ({isa}), {threads} thread{'s' * (threads > 1)}"
        models, weights = _models(layout, count)
        try:
            population: LanesPopulation | LanesTwins = (
                LanesTwins(
                    layout,
                    models,
                    weights,
                    log_sigma2=np.full_like(weights, LOG_SIGMA2_START),
                    isa=isa,
                    threads=threads,
                )
                if twins
                else LanesPopulation(layout, models, weights, isa=isa, threads=threads)
            )
        except LanesUnavailable as error:
            warnings.warn(f"{name} not measured: {error}", stacklevel=2)
            continue
        yield _Engine(name, count, threads, partial(_train, population, PENALTY if twins else None))
    if twins:
        return
    stacked = BatchedPopulation(layout, *_models(layout, 64), threads=1)
    yield _Engine("batched (torch, 64 models), 1 thread", 64, 1, partial(_train, stacked, None))


def _gpu_engines(layout: Layout, device: str) -> Iterator[_Engine]:
    yield _Engine(LOOP, 1, 1, partial(_plain_loop, layout, False, device=device))
    yield _Engine("torch.func.vmap, 64 models", 64, 1, partial(_vmapped, layout, 64, device=device))
    stacked = BatchedPopulation(layout, *_models(layout, 1024), device=device)
    yield _Engine("batched, 1024 models", 1024, 1, partial(_train, stacked, None))
    for count in GPU_MODELS:
        fused = CudaPopulation(layout, *_models(layout, count), device=device)
        yield _Engine(f"cuda, {count} models", count, 1, partial(_train, fused, None))


def _models(layout: Layout, count: int) -> tuple[list[Model], NDArray[np.float32]]:
    """Return models and their initial weights."""
    weights = [initial_weights(layout, INIT, seed)[0] for seed in range(count)]
    return [dataclasses.replace(MODEL, seed=seed) for seed in range(count)], np.stack(weights)


def _train(
    population: LanesPopulation | LanesTwins | BatchedPopulation | CudaPopulation,
    penalty: float | None,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Callable[[], object]:
    generator = np.random.default_rng(1)
    orders = np.stack([generator.permutation(len(images)) for _ in range(population.models)])
    more = () if penalty is None else (penalty,)
    return lambda: population.train_epoch(images, labels, orders, *more)


def _plain_loop(
    layout: Layout,
    twin: bool,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    device: str = "cpu",
) -> Callable[[], object]:
    x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    module = build(layout, MODEL.activation)
    initialise(module, INIT)
    module.to(device)
    network = (_Twin if twin else Network)(module, MODEL, layout, "torch")
    optimizer = make_optimizer(MODEL, module)

    def epoch() -> None:
        with torch_threads(1):
            train_epoch(network, optimizer, x, y, MODEL.batch_size, 1)

    return epoch


def _vmapped(
    layout: Layout,
    count: int,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    device: str,
) -> Callable[[], object]:
    """Train many models with torch.func.vmap, each on its own images, with one optimizer."""
    x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    modules = [build(layout, MODEL.activation).to(device) for _ in range(count)]
    parameters, buffers = stack_module_state(modules)
    optimizer = torch.optim.Adam(parameters.values(), lr=MODEL.learning_rate)

    def loss(
        own: dict[str, torch.Tensor], batch: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        return functional.cross_entropy(functional_call(modules[0], (own, buffers), batch), target)

    gradients = vmap(grad(loss))

    def epoch() -> None:
        orders = torch.stack([torch.randperm(len(y), device=device) for _ in range(count)])
        for batch in orders.split(MODEL.batch_size, dim=1):
            for name, gradient in gradients(dict(parameters), x[batch], y[batch]).items():
                parameters[name].grad = gradient
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize(device)

    return epoch


class _Twin(Network):
    """A twin trained by variational dropout with a constant factor of the divergence."""

    def __init__(self, module: nn.Module, model: Model, layout: Layout, stream: str) -> None:
        super().__init__(module, model, layout, stream)
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                setattr(module, name, _TwinLayer(layer))

    def penalty(self, epoch: int) -> torch.Tensor:
        layers = [layer for layer in self.module.children() if isinstance(layer, _TwinLayer)]
        return PENALTY * torch.stack([layer.divergence() for layer in layers]).sum()


class _TwinLayer(TwinLayer):
    """A layer that computes each log_alpha once per step; the paper's code repeats it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.known: dict[int, torch.Tensor] = {}
        return super().forward(x)

    def _log_alpha(self, mean: torch.Tensor, log_sigma2: torch.Tensor) -> torch.Tensor:
        if id(mean) not in self.known:
            self.known[id(mean)] = super()._log_alpha(mean, log_sigma2)
        return self.known[id(mean)]


def _measure_sgemm(threads: int, speeds: list[float], device: str, repeats: int = 8) -> None:
    """Append the best of some matrix products in GFLOP a second: the most this machine reaches."""
    size = 1024 if device == "cpu" else 8192
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    clock = Clock()
    with torch_threads(threads):
        for _ in range(repeats):
            with clock.time("sgemm"):
                a @ b
                if device != "cpu":
                    torch.cuda.synchronize(device)
    speeds.append(2 * size**3 / min(clock.wall["sgemm"]) / 1e9)
