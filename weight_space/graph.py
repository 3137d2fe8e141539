"""Networks as graphs: a node for each unit, an edge for each pair of units that weights connect.

    graphs = to_graphs(weights, layout)          # of all rows at once
    graphs.nodes                                 # [rows, nodes, 1]: biases
    graphs.edges                                 # [rows, edges, K]: kernels, padded with zeros
    data = graphs.to_pyg()                       # a list of torch_geometric.data.Data

The nodes are the channels of the images, then the units of each layer; channels are the units of a
convolution. An edge runs from a unit to a unit of the next layer, and carries all weights between
them: the kernel of a convolution, or the weights at all places of a channel where an image is
flattened. After Kofinas et al. 2024 ("Graph Neural Networks for Learning Equivariant
Representations of Neural Networks", ICLR) and Zhou et al. 2024 ("Universal Neural Functionals").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..builders.layout import Layout
from ..errors import InvalidArgument
from .arrays import check_vectors, concatenate, constant, zeros

if TYPE_CHECKING:
    import torch

    from .arrays import Array


@dataclass(frozen=True, eq=False)
class Graphs:
    """Networks of one layout as graphs: numpy arrays or torch tensors, as the weights were.

    Attributes:
        layout: layout of the networks.
        nodes: [..., V, 1], the bias of each unit; 0 for the channels of the images.
        edges: [..., E, K], the weights of each edge, padded with zeros to the largest number.
        edge_index: int64 [2, E], source and target of each edge.
        node_types: int64 [V], 0 for the images, then the number of the layer from 1.
        edge_types: int64 [E], number of the layer from 0.
        node_positions: int64 [V], number of the unit in its layer.
        edge_mask: bool [E, K], True where an edge has a weight and False where it is padded.
        node_equal: int64 [V], for embeddings of nodes: one number for all units of a hidden layer,
            which can be interchanged, and one for each input and output, which cannot.
    """

    layout: Layout = field(repr=False)
    nodes: Any
    edges: Any
    edge_index: Any
    node_types: Any
    edge_types: Any
    node_positions: Any
    edge_mask: Any
    node_equal: Any

    def to_pyg(self) -> list[Any]:
        """Return a torch_geometric.data.Data for each row.

        It has x, edge_index, edge_attr, node_type, edge_type, pos [V, 2] (layer and unit) and
        edge_mask; a DataLoader of torch_geometric makes batches of them.

        Raises:
            InvalidArgument: torch_geometric is not installed.
        """
        try:
            from torch_geometric.data import Data
        except ImportError:
            raise InvalidArgument(
                "to_pyg needs the package torch_geometric", hint="pip install torch_geometric"
            ) from None
        import torch

        names = ("edge_index", "node_types", "edge_types", "node_positions", "edge_mask")
        index, nodes, edges, positions, mask = (torch.as_tensor(getattr(self, n)) for n in names)
        shape = self.nodes.shape
        return [
            Data(
                x=x,
                edge_index=index,
                edge_attr=attributes,
                node_type=nodes,
                edge_type=edges,
                pos=torch.stack([nodes, positions], dim=1),
                edge_mask=mask,
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
        weights: [..., N], numpy array or torch tensor, through which gradients flow.
        layout: layout of a plain sequence of layers.

    Raises:
        InvalidArgument: the vectors have another length, or the architecture is no plain sequence
            of layers.
    """
    check_vectors(weights, layout)
    frame = _frame(layout)
    lead: tuple[int, ...] = tuple(weights.shape[:-1])
    width = frame["edge_mask"].shape[1]
    edges = zeros((*lead, frame["edge_index"].shape[1], width), weights)
    biases = [zeros((*lead, layout.channels), weights)]
    before, start = layout.channels, 0
    for slots in layout.layers.values():
        units = slots["bias"].size
        # [out, in, places], in the order of the edges
        weight = weights[..., slots["weight"].slice].reshape((*lead, units * before, -1))
        cast(Any, edges)[..., start : start + units * before, : weight.shape[-1]] = weight
        biases.append(weights[..., slots["bias"].slice])
        before, start = units, start + units * before
    nodes = concatenate(biases)[..., None]
    return Graphs(
        layout, nodes, edges, **{name: constant(array, weights) for name, array in frame.items()}
    )


def from_graphs(graphs: Graphs) -> NDArray[np.generic] | torch.Tensor:
    """Return the weight vectors [..., N] of graphs: the inverse of `to_graphs`."""
    layout, parts = graphs.layout, []
    lead: tuple[int, ...] = tuple(graphs.nodes.shape[:-2])
    before, node, edge = layout.channels, layout.channels, 0
    for slots in layout.layers.values():
        weight, units = slots["weight"], slots["bias"].size
        count = units * before
        kernels = graphs.edges[..., edge : edge + count, : weight.size // count]
        parts.append(kernels.reshape((*lead, weight.size)))
        parts.append(graphs.nodes[..., node : node + units, 0])
        before, node, edge = units, node + units, edge + count
    return cast(Any, concatenate(parts))


@lru_cache(maxsize=16)
def _frame(layout: Layout) -> dict[str, NDArray[Any]]:
    """Return the arrays of `Graphs` that do not depend on the weights."""
    if not layout.architecture.layers:
        title = layout.architecture.title
        raise InvalidArgument(f"graphs are for plain sequences of layers, not {title}")
    counts = [layout.channels, *(slots["bias"].size for slots in layout.layers.values())]
    starts = np.cumsum([0, *counts])
    places = [
        slots["weight"].size // (counts[i] * counts[i + 1])
        for i, slots in enumerate(layout.layers.values())
    ]
    sources, targets, types = [], [], []
    for number, (before, units) in enumerate(pairwise(counts)):
        target, source = np.divmod(np.arange(units * before), before)
        sources.append(starts[number] + source)
        targets.append(starts[number + 1] + target)
        types.append(np.full(units * before, number))
    edge_types = np.concatenate(types)
    node_types = np.repeat(np.arange(len(counts)), counts)
    hidden = (node_types > 0) & (node_types < len(counts) - 1)
    equal = np.where(hidden, node_types, len(counts) + np.arange(len(node_types)))
    return {
        "edge_index": np.stack([np.concatenate(sources), np.concatenate(targets)]),
        "node_types": node_types,
        "edge_types": edge_types,
        "node_positions": np.concatenate([np.arange(count) for count in counts]),
        "edge_mask": np.arange(max(places)) < np.array(places)[edge_types][:, None],
        "node_equal": equal,
    }
