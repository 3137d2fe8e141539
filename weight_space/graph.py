"""Networks as graphs: a node for each unit, an edge for each pair of units that weights connect.

    graphs = to_graphs(weights, layout)          # of all rows at once
    graphs.nodes                                 # [rows, nodes, F]: biases
    graphs.edges                                 # [rows, edges, K]: kernels, padded with zeros
    data = graphs.to_pyg()                       # a list of torch_geometric.data.Data

The nodes are the channels of the images, then the units of each group of the wiring: those of a
layer (for a convolution, its channels), or of a residual stream. A node carries the numbers that
belong to one unit: biases, and weights and statistics of batch-norm layers. An edge runs from a
unit to another one that reads it, and carries all weights of one layer between them: the kernel of
a convolution, or, where an image is flattened, the weights at all positions of a channel. If
several layers connect the same units, each has an edge. After Kofinas et al. 2024 ("Graph Neural
Networks for Learning Equivariant Representations of Neural Networks", ICLR) and Zhou et al. 2024
("Universal Neural Functionals").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..builders.arguments import check_kind
from ..builders.connections import CLASSES
from ..builders.layout import Layout
from ..builders.wiring import Wire, wiring
from ..errors import InvalidArgument
from .arrays import check_vectors, concatenate, constant, zeros

if TYPE_CHECKING:
    import torch

    from .arrays import Array


@dataclass(frozen=True, eq=False)
class Graphs:
    """Networks of one layout as graphs: numpy arrays or torch tensors, like the weights.

    Attributes:
        layout: layout of the networks.
        nodes: [..., V, F], the numbers of each unit in the order of the layout, padded with zeros.
            In a plain sequence of layers they are the bias; the images' channels have none.
        edges: [..., E, K], the weights of each edge, padded with zeros to the largest number.
        edge_index: int64 [2, E], source and target of each edge.
        node_types: int64 [V], 0 for the images, then the index of the group from 1.
        edge_types: int64 [E], index from 0 of the layer among those with edges.
        node_positions: int64 [V], index of the unit in its group.
        node_mask: bool [V, F], True for a number of the node, False for padding.
        edge_mask: bool [E, K], True for a weight of the edge, False for padding.
        node_equal: int64 [V], for embeddings of nodes: the same number for all units of a hidden
            group, which can be permuted, and different ones for all inputs and outputs.
    """

    layout: Layout = field(repr=False)
    nodes: Any
    edges: Any
    edge_index: Any
    node_types: Any
    edge_types: Any
    node_positions: Any
    node_mask: Any
    edge_mask: Any
    node_equal: Any

    def to_pyg(self) -> list[Any]:
        """Return a torch_geometric.data.Data for each row.

        It has x, edge_index, edge_attr, node_type, node_equal, edge_type, pos [V, 2] (group and
        unit), node_mask and edge_mask; a DataLoader of torch_geometric makes batches of them. All
        rows share the tensors that are equal for them: replace such a tensor, do not change it.

        Raises:
            InvalidArgument: torch_geometric is not installed.
        """
        try:
            from torch_geometric.data import Data
        except ImportError:
            raise InvalidArgument(
                "to_pyg needs the package torch_geometric", hint="pip install 'model_zoos[graphs]'"
            ) from None
        import torch

        index, nodes, equal, edges, positions = (
            torch.as_tensor(array)
            for array in (
                self.edge_index,
                self.node_types,
                self.node_equal,
                self.edge_types,
                self.node_positions,
            )
        )
        masks = [torch.as_tensor(mask) for mask in (self.node_mask, self.edge_mask)]
        shape = self.nodes.shape
        return [
            Data(
                x=x,
                edge_index=index,
                edge_attr=attributes,
                node_type=nodes,
                node_equal=equal,
                edge_type=edges,
                pos=torch.stack([nodes, positions], dim=1),
                node_mask=masks[0],
                edge_mask=masks[1],
            )
            for x, attributes in zip(
                torch.as_tensor(self.nodes).reshape(-1, *shape[-2:]),
                torch.as_tensor(self.edges).reshape(-1, *self.edges.shape[-2:]),
                strict=True,
            )
        ]


def to_graphs(weights: Array, layout: Layout) -> Graphs:
    """Return weight vectors as graphs.

    Args:
        weights: [..., N], numpy array or torch tensor; gradients flow through tensors.
        layout: layout of the weights.

    Raises:
        InvalidArgument: the vectors have another length.
    """
    check_vectors(weights, layout)
    frame: dict[str, NDArray[Any]] = _frame(layout)
    lead: tuple[int, ...] = tuple(weights.shape[:-1])
    nodes: Any = zeros((*lead, *frame["node_mask"].shape), weights)
    edges: Any = zeros((*lead, *frame["edge_mask"].shape), weights)
    for wire, rows, columns in _places(layout):
        part: Any = weights[..., wire.slot.slice]
        if wire.source is None:
            nodes[..., rows, columns.start] = part
        else:
            shape = (*lead, rows.stop - rows.start, columns.stop)
            edges[..., rows, columns] = part.reshape(shape)
    own = {name: constant(array.copy(), weights) for name, array in frame.items()}
    return Graphs(layout, nodes, edges, **own)


def from_graphs(graphs: Graphs) -> NDArray[np.generic] | torch.Tensor:
    """Return the weight vectors [..., N] of graphs: the inverse of `to_graphs`."""
    check_kind(graphs, Graphs, "graphs must be what to_graphs returns")
    lead: tuple[int, ...] = tuple(graphs.nodes.shape[:-2])
    parts = [
        (graphs.nodes if wire.source is None else graphs.edges)[..., rows, columns].reshape(
            (*lead, wire.slot.size)
        )
        for wire, rows, columns in _places(graphs.layout)
    ]
    return cast(Any, concatenate(parts))


@lru_cache(maxsize=16)
def _places(layout: Layout) -> list[tuple[Wire, slice, slice]]:
    """Return each tensor's rows and columns: in `nodes` for a vector, in `edges` for others."""
    net, places, edge = wiring(layout), [], 0
    counts = [group.units for group in net.groups.values()]
    starts = dict(zip(net.groups, np.cumsum([0, *counts]).tolist(), strict=False))
    vectors = dict.fromkeys(net.groups, 0)
    for wire in net.wires:
        units = net.groups[wire.target].units
        if wire.source is None:
            column, start = vectors[wire.target], starts[wire.target]
            places.append((wire, slice(start, start + units), slice(column, column + 1)))
            vectors[wire.target] += 1
        else:
            count = units * net.groups[wire.source].units
            places.append((wire, slice(edge, edge + count), slice(0, wire.slot.size // count)))
            edge += count
    return places


@lru_cache(maxsize=16)
def _frame(layout: Layout) -> dict[str, NDArray[Any]]:
    """Return the arrays of `Graphs` that do not depend on the weights."""
    groups, places = wiring(layout).groups, _places(layout)
    counts = [group.units for group in groups.values()]
    starts = dict(zip(groups, np.cumsum([0, *counts]).tolist(), strict=False))
    node_types = np.repeat(np.arange(len(counts)), counts)
    hidden = (node_types > 0) & (node_types != list(groups).index(CLASSES))
    vectors = [p for p in places if p[0].source is None]
    weights = [p for p in places if p[0].source is not None]
    node_mask = np.zeros((len(node_types), max(columns.stop for _, _, columns in vectors)), bool)
    for _, rows, columns in vectors:
        node_mask[rows, columns] = True
    sources, targets = [], []
    for wire, rows, _ in weights:
        before = groups[str(wire.source)].units
        target, source = np.divmod(np.arange(rows.stop - rows.start), before)
        sources.append(starts[str(wire.source)] + source)
        targets.append(starts[wire.target] + target)
    edge_types = np.repeat(
        np.arange(len(weights)), [rows.stop - rows.start for _, rows, _ in weights]
    )
    widths = np.array([columns.stop for _, _, columns in weights])
    return {
        "edge_index": np.stack([np.concatenate(sources), np.concatenate(targets)]),
        "node_types": node_types,
        "edge_types": edge_types,
        "node_positions": np.concatenate([np.arange(count) for count in counts]),
        "node_mask": node_mask,
        "edge_mask": np.arange(widths.max()) < widths[edge_types][:, None],
        "node_equal": np.where(hidden, node_types, len(counts) + np.arange(len(node_types))),
    }
