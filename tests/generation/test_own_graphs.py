"""Networks of one's own that are no sequence of layers: their module must be what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import model_zoos
from model_zoos.builders.architecture import ARCHITECTURES, Architecture
from model_zoos.builders.connections import CLASSES, IMAGES, Connection
from model_zoos.builders.layout import make_layout
from model_zoos.errors import InvalidArgument
from model_zoos.generation.networks import MODULES, instantiate

Make = Callable[[int, int], nn.Module]


class Residual(nn.Module):
    """tanh(stem(x)), to which a block is added, then an activation."""

    def __init__(
        self, channels: int, classes: int, order: str = "bc", head: str = "fc", bias: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        for name in order:
            setattr(self, name, nn.Conv2d(4, 4, 3, padding=1, bias=bias))
        setattr(self, head, nn.Linear(4, classes))
        self.head = getattr(self, head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = torch.tanh(self.stem(x))
        stream = torch.relu(stream + self.c(torch.relu(self.b(stream))))
        return self.head(stream.mean((2, 3)))


def architecture(**fields: Any) -> Architecture:
    given = {
        "engines": ("resnet",),
        "file_per_state": True,
        "keeps_epoch_0": False,
        "name": "residual",
        "title": "Residual",
        "image_size": 8,
        "graph": (
            Connection("stem", IMAGES, "stem", 4, 3, None, "tanh"),
            Connection("b", "stem", "b", 4, 3, None, "relu"),
            Connection("c", "b", "stem", 4, 3, None, "relu"),
            Connection("fc", "stem", CLASSES),
        ),
    }
    return Architecture(**{**given, **fields})


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(ARCHITECTURES, "residual", architecture())
    return make_layout("residual", 1, 3)


def plain(channels: int, classes: int) -> nn.Module:
    module = Residual(channels, classes)
    del module.head  # it is the module fc, under another name
    module.head = lambda x: module.fc(x)  # type: ignore[assignment]
    return module


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (None, "there is no module of the network residual"),
        (lambda *n: Residual(*n, order="cb"), r"has c.weight .* where its graph has b.weight"),
        (lambda *n: Residual(*n, head="last"), r"has last.weight .* where its graph has fc.weight"),
        (lambda *n: Residual(*n, bias=False), r"has c.weight .* where its graph has b.bias"),
        (Residual, r"has head.weight .* where its graph has no more tensors"),
    ],
)
def test_another_module_is_refused(
    make: Make | None, said: str, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is not None:
        monkeypatch.setitem(MODULES, "residual", make)
    with pytest.raises(InvalidArgument, match=said):
        instantiate(layout, "relu", np.zeros(layout.size, np.float32))


def test_units_are_scaled_only_as_all_activations_of_a_stream_allow(
    layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODULES, "residual", plain)
    weights = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    factors = model_zoos.random_factors(layout, "relu", 1, scales=3.0)
    assert (factors["stem"] == 1).all()  # tanh has no scales, relu no signs
    assert (factors["b"] != 1).all()
    images = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        before, after = (
            instantiate(layout, "relu", vector)(images)
            for vector in (weights, model_zoos.rescale(weights, layout, factors, "relu"))
        )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    for factor in (-np.ones(4), np.full(4, 2.0)):
        with pytest.raises(InvalidArgument, match="stem: these factors change the function"):
            model_zoos.rescale(weights, layout, {"stem": factor}, "relu")


@pytest.mark.parametrize(
    "fields", [{"engines": ("lanes",)}, {"file_per_state": False}, {"keeps_epoch_0": True}]
)
def test_a_graph_has_the_engine_of_graphs(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has a graph, whose engine is resnet alone"):
        architecture(**fields)
