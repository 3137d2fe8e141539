"""Predict the accuracy of models from their weights by a graph network, beside ridge and trees.

The network ignores the order of hidden units: permuted models are the same graph. Rows, splits and
scores are the same as in `model-zoos benchmark`. Run it after `make demo`. Trees need
LightGBM: pip install 'model_zoos[boosting]'.
"""

import argparse
import copy
from importlib.util import find_spec

import torch
from torch import nn
from torch.nn.functional import gelu, mse_loss

import model_zoos
from model_zoos.benchmarks.property_prediction import predict_properties

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("zoos", nargs="?", default="demo/zoos", help="folder of zoo directories")
parser.add_argument("passes", nargs="?", default=30, type=int, help="over the training rows")
home, passes = vars(parser.parse_args()).values()
layout = model_zoos.zoo_spec("digits_cnn_s").layout
frame = model_zoos.to_graphs(torch.zeros(1, layout.size), layout)
source, target = frame.edge_index
kinds = torch.unique(frame.node_equal, return_inverse=True)[1]  # one for all units of a layer
layers = nn.functional.one_hot(frame.node_types).T.float()


class GraphNetwork(nn.Module):
    def __init__(self, width=32, steps=4):
        super().__init__()
        self.kind = nn.Embedding(len(kinds), width)
        self.layer = nn.Embedding(len(layers), width)
        self.bias, self.kernel = nn.Linear(1, width), nn.Linear(frame.edges.shape[-1], width)
        self.message = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(steps))
        self.update = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(steps))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(steps))
        self.head = nn.Sequential(nn.Linear(len(layers) * width, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, weights):
        graphs = model_zoos.to_graphs(weights, layout)
        nodes = self.kind(kinds) + self.bias(graphs.nodes)
        edges = self.layer(frame.edge_types) + self.kernel(graphs.edges)
        for message, update, norm in zip(self.message, self.update, self.norm, strict=True):
            ends = torch.cat([nodes[:, source] * edges, nodes[:, target] * edges], dim=-1)
            ahead, back = gelu(message(ends)).chunk(2, dim=-1)  # to the target, to the source
            inbox = torch.zeros_like(nodes).index_add(1, target, ahead / 8)
            outbox = torch.zeros_like(nodes).index_add(1, source, back / 8)
            nodes = norm(nodes + gelu(update(torch.cat([nodes, inbox, outbox], dim=-1))))
        means = layers @ nodes / layers.sum(dim=1, keepdim=True)
        return self.head(means.flatten(1)).squeeze(1)


def fit(x, y, validation_x, validation_y):
    torch.manual_seed(0)
    x, y, held_out, truth = map(torch.from_numpy, (x, y, validation_x, validation_y))
    network, least, best = GraphNetwork(), float("inf"), None
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(passes):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            mse_loss(network(x[batch]), y[batch].float()).backward()
            optimizer.step()
        with torch.no_grad():
            error = mse_loss(network(held_out), truth.float()).item()
        if error < least:
            least, best = error, copy.deepcopy(network)

    @torch.no_grad()
    def predict(x):
        return torch.cat([best(part) for part in torch.from_numpy(x).split(256)]).numpy()

    return predict


result = predict_properties(
    "digits_cnn_s",
    home,
    targets=["test_acc"],
    representations=["weights"],
    predictors={"graph network": fit},
    boosting=find_spec("lightgbm") is not None,
    standardised=False,
)
print(*(table.markdown() for table in result.tables()), sep="\n\n")
