"""A network that reads weights as sets of units: its predictions do not depend on their order.

Each unit has a vector, initially computed from its bias. Two connected units send messages to each
other, computed from the kernel between them and from both vectors. A unit takes the mean of its
messages, and the prediction is made from the mean vector of each layer. Therefore neither depends
on the order of hidden units (Zaheer et al. 2017, "Deep Sets"; for networks Navon et al. 2023,
"Equivariant Architectures for Learning in Deep Weight Spaces", and Kofinas et al. 2024, "Graph
Neural Networks for Learning Equivariant Representations of Neural Networks").

    predict = fit(weights, values, validation_weights, validation_values, layout)
    predict(weights)                        # float64 [rows, targets]

Draws are seeded: the same number of threads gives the same predictions.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import gelu, mse_loss

from ...builders.layout import Layout
from ...weight_space.graph import Graphs, to_graphs

WIDTH = 32
"""Length of a unit's vector."""

STEPS = 2
"""Number of rounds in which units exchange messages."""

BATCH = 128
"""Number of networks in a training step."""

PASS_ROWS = (4096, 8192)
"""Minimum and maximum of rows in a pass; rows are repeated, or newly drawn for each pass."""

PATIENCE = 4
"""Number of passes without a lower validation error after which training stops."""

RATE = 1e-3
"""Learning rate at the start, which falls to 0 along a cosine."""

SETTINGS = {
    "width": WIDTH,
    "steps": STEPS,
    "batch": BATCH,
    "rows a pass": list(PASS_ROWS),
    "patience": PATIENCE,
    "learning rate": RATE,
}


class SetNetwork(nn.Module):
    """The network.

    Args:
        graphs: any networks of the layout.
        outputs: number of values to predict.
    """

    def __init__(self, graphs: Graphs, outputs: int) -> None:
        super().__init__()
        types, ends = graphs.node_types, graphs.edge_index
        self.units = torch.bincount(types).tolist()
        self.groups = list(itertools.accumulate([0, *self.units]))
        edges = torch.bincount(graphs.edge_types).tolist()
        self.wires = list(itertools.accumulate([0, *edges]))
        # An edge's index is target * units of the source + source, in each wire.
        self.sources, self.targets = (types[end[self.wires[:-1]]].tolist() for end in ends)
        width = WIDTH
        self.unit = nn.Linear(graphs.nodes.shape[-1], width)
        kinds, self.kind = torch.unique(graphs.node_equal, return_inverse=True)
        self.embedding = nn.Embedding(len(kinds), width)
        self.kernels = nn.ModuleList(nn.Linear(graphs.edges.shape[-1], width) for _ in self.sources)
        steps = range(STEPS)
        self.ahead = nn.ModuleList(nn.Linear(width, width) for _ in steps)
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in steps)
        self.update = nn.ModuleList(nn.Linear(3 * width, width) for _ in steps)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in steps)
        self.head = nn.Sequential(
            nn.Linear(len(self.units) * width, 64), nn.GELU(), nn.Linear(64, outputs)
        )

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return predictions [rows, outputs] from nodes [rows, V, F] and edges [rows, E, K]."""
        h = self.unit(nodes) + self.embedding(self.kind)
        kernels = [
            kernel(edges[:, first:last]).unflatten(1, (self.units[target], self.units[source]))
            for kernel, first, last, source, target in zip(
                self.kernels, self.wires, self.wires[1:], self.sources, self.targets, strict=False
            )
        ]
        for ahead, back, update, norm in zip(
            self.ahead, self.back, self.update, self.norm, strict=True
        ):
            from_source, from_target = (f(h).split(self.units, dim=1) for f in (ahead, back))
            inbox = [torch.zeros_like(one) for one in from_source]
            outbox = [torch.zeros_like(one) for one in from_source]
            for kernel, source, target in zip(kernels, self.sources, self.targets, strict=True):
                message = gelu(
                    kernel + from_source[source][:, None] + from_target[target][:, :, None]
                )
                inbox[target] = inbox[target] + message.mean(dim=2)
                outbox[source] = outbox[source] + message.mean(dim=1)
            news = torch.cat([h, torch.cat(inbox, dim=1), torch.cat(outbox, dim=1)], dim=-1)
            h = norm(h + gelu(update(news)))
        means = [group.mean(dim=1) for group in h.split(self.units, dim=1)]
        return self.head(torch.cat(means, dim=1))


def fit(
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    validation_x: NDArray[np.float32],
    validation_y: NDArray[np.float64],
    layout: Layout,
    *,
    passes: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Fit one network for all targets, and return the one with the least validation error.

    Args:
        x, validation_x: weights, [rows, N].
        y, validation_y: values, [rows, targets].
        layout: layout of the weights.
        passes: maximal number of passes over the training rows.
        seed: seed of the initialisation and of the order of the rows.
        on_progress: called with the number of passes done, and of all.

    Returns:
        A function from weights [rows, N] to predictions, float64 [rows, targets].
    """
    scale = np.ones(layout.size, np.float32)
    for slot in layout.slots:  # scale each tensor to a root mean square of 1 in train
        part = x[:, slot.slice]
        square = float(np.mean([np.square(row, dtype=np.float64).mean() for row in part]))
        scale[slot.slice] = 1 / np.sqrt(square) if square > 0 else 1
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    deviation[deviation == 0] = 1

    def inputs(rows: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        graphs = to_graphs(torch.from_numpy(rows * scale), layout)
        return graphs.nodes, graphs.edges

    def outputs(network: SetNetwork, rows: NDArray[np.float32]) -> torch.Tensor:
        blocks = range(0, len(rows), 2 * BATCH)
        with torch.inference_mode():
            return torch.cat([network(*inputs(rows[i : i + 2 * BATCH])) for i in blocks])

    def wanted(values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(((values - mean) / deviation).astype(np.float32))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SetNetwork(to_graphs(torch.from_numpy(x[:1] * scale), layout), y.shape[1])
    generator = np.random.default_rng(seed)
    truth, held_out = wanted(y), wanted(validation_y)
    optimizer: Any = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    size = int(np.clip(len(x), *PASS_ROWS))
    batches = -(-size // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, passes * batches)
    best, least, since = copy.deepcopy(network), float("inf"), 0
    for number in range(passes):
        orders = [generator.permutation(len(x)) for _ in range(-(-size // len(x)))]
        order = np.concatenate(orders)[:size]
        for start in range(0, len(order), BATCH):
            rows = np.sort(order[start : start + BATCH])
            optimizer.zero_grad()
            mse_loss(network(*inputs(x[rows])), truth[rows]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        error = float(mse_loss(outputs(network, validation_x), held_out))
        if on_progress is not None:
            on_progress(number + 1, passes)
        since += 1
        if error < least:
            best, least, since = copy.deepcopy(network), error, 0
        if since == PATIENCE:
            break
    return lambda rows: outputs(best, rows).double().numpy() * deviation + mean
