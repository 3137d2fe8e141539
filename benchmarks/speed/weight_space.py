"""Speed of typical uses of weights: evaluating many vectors, and views of 10,000 rows.

500 noisy copies of a trained CNN-s are scored on MNIST's 10,000 test images by `evaluate`, by
torch.func.vmap and by a loop over modules, and two ResNet-18 on 512 images of 32 x 32, with one
thread each. vmap and the loop score fewer vectors, since their time per vector is constant; both
use the fastest batch size from 32 to 10,000 here. The views of 10,000 rows of CNN-s are compared
with loops that do the same row by row. All figures are of processor time, which other programs on
the machine affect little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from ...builders.layout import Layout, make_layout
from ...generation.images import ImageData, load_images
from ...generation.networks import instantiate
from ...generation.streams import initial_weights
from ...weight_space.evaluation import evaluate
from ...weight_space.graph import to_graphs
from ...weight_space.layers import stacked_state_dict, to_layers
from ...weight_space.symmetry import permute, random_permutation
from ...weight_space.tokens import to_tokens
from ...weight_space.training import train
from .measure import Rounds, interleave, torch_threads

Folder = Annotated[Optional[Path], typer.Option(help="Folder of the image data sets.")]
Vectors = Annotated[int, typer.Option(help="Vectors that are evaluated.")]
Rows = Annotated[int, typer.Option(help="Rows of the views.")]

_FEW, _STACKED = 10, 25
_LOOP_BATCH, _VMAP_BATCH, _RESNET_BATCH = 1000, 50, 64
_WIDTH = 64


def measure(
    images_dir: Folder = None, vectors: Vectors = 500, rows: Rows = 10_000, rounds: Rounds = 3
) -> dict[str, Any]:
    """Return `networks_per_second` and `rows_per_second` by name, ratios, and the accuracies."""
    mnist = load_images("mnist", images_dir, progress=False)
    layout = make_layout("cnn_s", 1)
    row = {"architecture": "cnn_s", "activation": "tanh"}
    weights = _noisy(layout, mnist, row, vectors)
    test = mnist.normalized("test"), mnist.test.labels
    accuracy = evaluate(weights, row, test, threads=1).accuracy  # the kernel is built
    by_loop = _loop(layout, "tanh", weights[:_FEW], *test)
    resnet = make_layout("resnet18", 3)
    large = np.stack([initial_weights(resnet, "kaiming_uniform", seed)[0] for seed in (1, 2)])
    photos = torch.randn(512, 3, 32, 32), torch.arange(512) % 10
    of_resnet = {"architecture": "resnet18", "activation": "relu"}
    amounts = {
        "evaluate": vectors,
        "torch.func.vmap": _STACKED,
        "a loop over modules": _FEW,
        "ResNet-18: evaluate": 2,
        "ResNet-18: a loop over modules": 2,
    }
    work: dict[str, Callable[[], object]] = {
        "evaluate": lambda: evaluate(weights, row, test, threads=1),
        "torch.func.vmap": lambda: _vmap(layout, "tanh", weights[:_STACKED], *test),
        "a loop over modules": lambda: _loop(layout, "tanh", weights[:_FEW], *test),
        "ResNet-18: evaluate": lambda: evaluate(large, of_resnet, photos, threads=1),
        "ResNet-18: a loop over modules": lambda: _loop(
            resnet, "relu", large, *photos, batch=_RESNET_BATCH
        ),
    }
    views = _views(
        layout, np.random.default_rng(0).standard_normal((rows, layout.size), np.float32)
    )
    with torch_threads(1):
        clock = interleave(work | views, rounds, warm_up=True)
    seconds = {name: float(np.median(values)) for name, values in clock.cpu.items()}
    speeds = {name: amounts[name] / seconds[name] for name in work}
    return {
        "vectors": vectors,
        "rows": rows,
        "rounds": rounds,
        "networks_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
        "evaluate_to_loop": round(speeds["evaluate"] / speeds["a loop over modules"], 1),
        "evaluate_to_vmap": round(speeds["evaluate"] / speeds["torch.func.vmap"], 1),
        "resnet_to_loop": round(
            speeds["ResNet-18: evaluate"] / speeds["ResNet-18: a loop over modules"], 2
        ),
        "accuracy": round(float(accuracy.mean()), 4),
        "images_off_the_loop": int(np.abs(accuracy[:_FEW] - by_loop).max() * len(test[1]) + 0.5),
        "seconds_of_views": {name: round(seconds[name], 3) for name in views},
        "rows_per_second": {name: round(rows / seconds[name]) for name in views},
    }


def _noisy(
    layout: Layout, images: ImageData, row: dict[str, str], count: int
) -> NDArray[np.float32]:
    """Return noisy copies of a model trained for one epoch."""
    start, _ = initial_weights(layout, "xavier_uniform", 1)
    few = images.subset(train=slice(5000), validation=slice(1), test=slice(1))
    options: dict[str, Any] = {"optimizer": "adam", "batch_size": 10, "learning_rate": 1e-3}
    states = train(start, row, few, epochs=1, **options).weights
    noise = np.random.default_rng(0).standard_normal((count, layout.size), np.float32)
    return states[0, -1] + 0.02 * noise


def _loop(
    layout: Layout,
    activation: str,
    weights: NDArray[np.float32],
    images: torch.Tensor,
    labels: torch.Tensor,
    batch: int = _LOOP_BATCH,
) -> NDArray[np.float64]:
    """Return accuracies, computed one network at a time."""
    accuracies = []
    with torch.inference_mode():
        for vector in weights:
            network = instantiate(layout, activation, vector)
            logits = torch.cat([network(part) for part in images.split(batch)])
            torch.nn.functional.cross_entropy(logits, labels)
            accuracies.append((logits.argmax(1) == labels).double().mean().item())
    return np.array(accuracies)


def _vmap(
    layout: Layout,
    activation: str,
    weights: NDArray[np.float32],
    images: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Return accuracies of stacked networks."""
    network = instantiate(layout, activation, weights[0])
    tensors = stacked_state_dict(weights, layout)
    run = torch.vmap(
        lambda one, batch: torch.func.functional_call(network, one, (batch,)), in_dims=(0, None)
    )
    with torch.inference_mode():
        logits = torch.cat([run(tensors, batch) for batch in images.split(_VMAP_BATCH)], dim=1)
        torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels.expand(len(logits), -1))
        return (logits.argmax(2) == labels).double().mean(dim=1)


def _views(layout: Layout, weights: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    """Return each view of all rows, and a loop that does the same row by row."""

    def orders() -> Any:
        return random_permutation(layout, np.random.default_rng(0), rows=len(weights))

    def one_order(generator: np.random.Generator) -> dict[str, NDArray[np.int64]]:
        names = list(layout.layers)[:-1]
        return {n: generator.permutation(layout.layers[n]["bias"].size) for n in names}

    generator = np.random.default_rng(0)
    return {
        "layers": lambda: to_layers(weights, layout),
        "layers, row by row": lambda: [_layers(layout, vector) for vector in weights],
        "tokens": lambda: to_tokens(weights, layout, _WIDTH),
        "tokens, row by row": lambda: np.stack([_tokens(layout, vector) for vector in weights]),
        "graphs": lambda: to_graphs(weights, layout),
        "graphs, row by row": lambda: [_graph(layout, vector) for vector in weights],
        "permutations": lambda: permute(weights, layout, orders()),
        "permutations, row by row": lambda: np.stack(
            [_permuted(layout, vector, one_order(generator)) for vector in weights]
        ),
    }


def _layers(
    layout: Layout, vector: NDArray[np.float32]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    pairs = []
    for slots in layout.layers.values():
        weight, bias = slots["weight"], slots["bias"]
        pairs.append((vector[weight.slice].reshape(weight.shape), vector[bias.slice]))
    return pairs


def _tokens(layout: Layout, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = []
    for weight, bias in _layers(layout, vector):
        rows = np.concatenate([weight.reshape(len(bias), -1), bias[:, None]], axis=1)
        pieces = -(-rows.shape[1] // _WIDTH)
        padded = np.pad(rows, [(0, 0), (0, pieces * _WIDTH - rows.shape[1])])
        parts.append(padded.reshape(-1, _WIDTH))
    return np.concatenate(parts)


def _graph(layout: Layout, vector: NDArray[np.float32]) -> tuple[Any, ...]:
    layers = _layers(layout, vector)
    width = max(w.shape[2] * w.shape[3] for w, _ in layers if w.ndim == 4)
    nodes, edges, sources, targets = [np.zeros(layout.channels, np.float32)], [], [], []
    start, before = 0, layout.channels
    for weight, bias in layers:
        kernels = weight.reshape(len(bias) * before, -1)
        edges.append(np.pad(kernels, [(0, 0), (0, max(width, 36) - kernels.shape[1])]))
        target, source = np.divmod(np.arange(len(bias) * before), before)
        sources.append(start + source)
        targets.append(start + before + target)
        nodes.append(bias)
        start, before = start + before, len(bias)
    return (
        np.concatenate(nodes),
        np.concatenate(edges),
        np.stack([np.concatenate(sources), np.concatenate(targets)]),
    )


def _permuted(
    layout: Layout, vector: NDArray[np.float32], orders: dict[str, NDArray[np.int64]]
) -> NDArray[np.float32]:
    parts, before = [], None
    names = list(layout.layers)
    for name, (weight, bias) in zip(names, _layers(layout, vector), strict=True):
        if before is not None:
            weight = weight.reshape(len(bias), len(before), -1)[:, before]
        before = orders.get(name, np.arange(len(bias)))
        parts += [weight[before].reshape(-1), bias[before]]
    return np.concatenate(parts)
