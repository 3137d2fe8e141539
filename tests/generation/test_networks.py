"""The networks: what they compute, and how they start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.layout import make_layout
from model_zoos.errors import InvalidArgument
from model_zoos.generation.networks import (
    INIT_FUNCTIONS,
    build,
    initialise,
    instantiate,
    make_activation,
)

FUNCTIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "selu": functional.selu,
    "elu": functional.elu,
    "leaky_relu": functional.leaky_relu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "identity": lambda x: x,
}


def _cnn(state: dict[str, torch.Tensor], x: torch.Tensor, activation: str, pools: int):  # type: ignore[no-untyped-def]
    """The paper's CNN written out: three convolutions, the first `pools` with max-pooling."""
    act = FUNCTIONS[activation]
    for number in (1, 2, 3):
        x = functional.conv2d(x, state[f"conv{number}.weight"], state[f"conv{number}.bias"])
        x = act(functional.max_pool2d(x, 2) if number <= pools else x)
    x = act(functional.linear(x.flatten(1), state["fc1.weight"], state["fc1.bias"]))
    return functional.linear(x, state["fc2.weight"], state["fc2.bias"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("architecture", "channels", "size", "pools"),
    [("cnn_s", 1, 28, 2), ("cnn_s", 3, 28, 2), ("cnn_l", 3, 32, 3)],
)
def test_what_they_compute(
    architecture: str, channels: int, size: int, pools: int, activation: str
) -> None:
    module = build(make_layout(architecture, channels), activation, 0.5).eval()
    x = torch.randn(4, channels, size, size)
    expected = _cnn(module.state_dict(), x, activation, pools)
    assert torch.equal(module(x), expected)
    module.train()
    assert not torch.equal(module(x), expected)  # dropout is there and at work


@pytest.mark.parametrize("init", INIT_FUNCTIONS)
def test_initialisation(init: str) -> None:
    torch.manual_seed(0)
    module = build(make_layout("cnn_l", 3), "relu")
    initialise(module, init)
    weight = module.conv2.weight.detach()
    fan_in, fan_out = 16 * 9, 32 * 9
    deviation = {
        "uniform": (1 / 12) ** 0.5,
        "normal": 1.0,
        "kaiming_uniform": (2 / fan_in) ** 0.5,
        "kaiming_normal": (2 / fan_in) ** 0.5,
        "xavier_uniform": (2 / (fan_in + fan_out)) ** 0.5,
        "xavier_normal": (2 / (fan_in + fan_out)) ** 0.5,
        "orthogonal": (1 / fan_in) ** 0.5,  # 32 rows of length 1
        "trunc_normal": 0.8796,  # scipy.stats.truncnorm(-2, 2).std()
    }[init]
    assert float(weight.std()) == pytest.approx(deviation, rel=0.05)  # 4,608 weights
    assert float(weight.mean()) == pytest.approx(0.5 if init == "uniform" else 0, abs=0.06)
    assert torch.equal(module.fc1.bias, torch.full((20,), 0.01))


def test_bad_arguments() -> None:
    layout = make_layout("cnn_s", 1)
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        build(layout, "swish")
    with pytest.raises(ValueError, match="dropout must lie in"):
        build(layout, "relu", 1.0)
    with pytest.raises(ValueError, match="unknown init"):
        initialise(build(layout, "relu"), "ones")


def test_an_entry_that_names_no_class_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATIONS, "softsign", "SoftSign")
    with pytest.raises(InvalidArgument, match=r"\['softsign'\] is 'SoftSign', expected the name"):
        make_activation("softsign")


@pytest.mark.parametrize("kind", ["RReLU", "Softmax", "PReLU", "GLU", "Dropout", "Linear"])
def test_a_class_that_is_no_function_of_each_number(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIVATIONS, "own", kind)
    with pytest.raises(InvalidArgument, match="maps each number by itself"):
        make_activation("own")


def test_a_class_of_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_functions.py").write_text(
        "import torch\n"
        "class Sine(torch.nn.Module):\n    def forward(self, x): return torch.sin(30 * x)\n"
        "class Noise(torch.nn.Module):\n    def forward(self, x): return torch.rand_like(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ACTIVATIONS, "sine", "my_functions:Sine")
    layout = make_layout("2x1x1 fc16 fc1", 2, 1)
    weights = np.linspace(-1, 1, layout.size, dtype=np.float32)
    points = torch.linspace(-1, 1, 10).reshape(5, 2, 1, 1)
    first, bias, last, offset = (
        torch.as_tensor(tensor) for tensor in layout.to_state_dict(weights).values()
    )
    expected = torch.sin(30 * (points.flatten(1) @ first.T + bias)) @ last.T + offset
    assert torch.allclose(instantiate(layout, "sine", weights)(points), expected, atol=1e-5)
    for kind in ("my_functions:Noise", "my_functions:Absent", "no_such_module:Sine"):
        monkeypatch.setitem(ACTIVATIONS, "own", kind)
        with pytest.raises(InvalidArgument, match="or 'module:Class' for your own, that maps each"):
            make_activation("own")


@pytest.mark.parametrize("kind", ["Softsign", "Mish", "Hardswish", "LogSigmoid", "CELU", "ReLU6"])
def test_the_other_functions_of_torch_can_be_activations(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIVATIONS, "own", kind)
    state = torch.random.get_rng_state()
    assert type(make_activation("own")) is getattr(torch.nn, kind)
    assert torch.equal(torch.random.get_rng_state(), state)
