"""Graphs hold every weight once, and permuted networks are the same graphs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from model_zoos.builders.wiring import wiring
from model_zoos.errors import InvalidArgument
from model_zoos.weight_space.graph import from_graphs, to_graphs
from model_zoos.weight_space.symmetry import permute, random_permutation

from .layouts import ALL, KINDS, PLAIN, RESNET, random_weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ALL, ids=str)
def test_there_and_back(layout: Any, kind: str) -> None:
    weights = random_weights(layout, 3, kind)
    graphs = to_graphs(weights, layout)
    back = from_graphs(graphs)
    assert type(back) is type(weights) is type(graphs.edge_index)
    assert np.asarray(back).tobytes() == np.asarray(weights).tobytes()
    edges, mask = np.asarray(graphs.edges), np.asarray(graphs.edge_mask)
    assert mask.sum() + np.asarray(graphs.node_mask).sum() == layout.size
    assert not edges[:, ~mask].any()
    one = to_graphs(weights[1], layout)
    assert (one.edges == graphs.edges[1]).all()
    assert (one.nodes == graphs.nodes[1]).all()


@pytest.mark.parametrize("layout", PLAIN, ids=str)
def test_an_edge_is_the_kernel_between_its_units(layout: Any) -> None:
    [weights] = random_weights(layout, 1)
    graphs = to_graphs(weights, layout)
    names, tensors = list(layout.layers), layout.to_state_dict(weights)
    generator = np.random.default_rng(0)
    for edge in generator.choice(len(graphs.edges), min(50, len(graphs.edges)), replace=False):
        source, target = graphs.edge_index[:, edge]
        layer = graphs.edge_types[edge]
        assert graphs.node_types[source] == layer
        assert graphs.node_types[target] == layer + 1
        before = int((graphs.node_types == layer).sum())
        weight = tensors[f"{names[layer]}.weight"]
        # A flattened image holds all places of a channel together.
        rows = weight.reshape(len(weight), before, -1)
        kernel = rows[graphs.node_positions[target], graphs.node_positions[source]]
        assert (graphs.edges[edge][graphs.edge_mask[edge]] == kernel.reshape(-1)).all()
    for node in generator.choice(len(graphs.nodes), 10):
        layer = graphs.node_types[node]
        bias = tensors[f"{names[layer - 1]}.bias"] if layer else np.zeros(layout.channels)
        assert graphs.nodes[node, 0] == bias[graphs.node_positions[node]]


@pytest.mark.parametrize("layout", ALL, ids=str)
def test_a_permuted_network_is_the_same_graph(layout: Any) -> None:
    """The isomorphism that the orders of units say, which keeps `node_equal`."""
    [weights, *_] = random_weights(layout, 1)
    orders = random_permutation(layout, np.random.default_rng(1))
    one, other = to_graphs(weights, layout), to_graphs(permute(weights, layout, orders), layout)
    moved, start = [], 0  # node of `one` that each node of `other` is
    for name, group in wiring(layout).groups.items():
        moved.append(start + orders.get(name, np.arange(group.units)))
        start += group.units
    moved = np.concatenate(moved)
    assert (one.node_equal[moved] == one.node_equal).all()
    assert (other.nodes == one.nodes[moved]).all()
    # An edge is named by its layer and its ends: streams have edges of several layers.
    ends = np.concatenate([one.edge_types[None], one.edge_index])
    size = (len(one.edges), start, start)
    keys = np.ravel_multi_index(tuple(ends), size)
    wanted = np.ravel_multi_index((ends[0], *moved[other.edge_index]), size)
    order = np.argsort(keys)
    same = order[np.searchsorted(keys[order], wanted)]
    assert (keys[same] == wanted).all()
    assert (other.edges == one.edges[same]).all()


def test_residual_streams_are_nodes_once() -> None:
    """Two layers that write to one stream have edges to the same units, whose norms lie there."""
    weights = random_weights(RESNET, 1)[0]
    graphs, tensors = to_graphs(weights, RESNET), RESNET.to_state_dict(weights)
    groups = list(wiring(RESNET).groups)
    assert len(graphs.nodes) == 3 + 3 * 64 + 3 * 128 + 3 * 256 + 3 * 512 + 10
    stream = graphs.nodes[graphs.node_types == groups.index("layer2.0.conv2")]
    roles = ("weight", "bias", "running_mean", "running_var")
    writers = ("layer2.0.bn2", "layer2.0.downsample.1", "layer2.1.bn2")
    expected = [tensors[f"{name}.{role}"] for name in writers for role in roles]
    assert (stream == np.stack(expected, axis=1)).all()


def test_gradients_and_refusals() -> None:
    weights = random_weights(PLAIN[0], 2, "torch").requires_grad_()
    from_graphs(to_graphs(weights, PLAIN[0])).square().sum().backward()
    assert torch.equal(weights.grad, 2 * weights.detach())
    with pytest.raises(InvalidArgument, match="2,464"):
        to_graphs(np.zeros(3), PLAIN[0])


def test_torch_geometric() -> None:
    """Messages in a batch of graphs are sums over the edges of each row."""
    pytest.importorskip("torch_geometric")
    from torch_geometric.data import Batch
    from torch_geometric.nn import SimpleConv

    weights = random_weights(PLAIN[0], 3)
    graphs = to_graphs(weights, PLAIN[0])
    batch = Batch.from_data_list(graphs.to_pyg())
    assert batch.num_graphs == 3
    found = SimpleConv()(batch.x, batch.edge_index).reshape(3, -1, batch.x.shape[1])
    source, target = graphs.edge_index
    for row in range(3):
        expected = np.zeros_like(graphs.nodes[row])
        np.add.at(expected, target, graphs.nodes[row][source])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        edges = batch.edge_attr[batch.batch[batch.edge_index[0]] == row]
        np.testing.assert_array_equal(edges, graphs.edges[row])
        equal = batch.node_equal[batch.batch == row]
        np.testing.assert_array_equal(equal, graphs.node_equal)


def test_without_torch_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    graphs = to_graphs(random_weights(PLAIN[0], 1), PLAIN[0])
    with pytest.raises(InvalidArgument, match="needs the package torch_geometric"):
        graphs.to_pyg()
