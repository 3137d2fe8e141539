"""The networks of the zoos as torch modules, and their initialisation.

CNN-s and CNN-l follow the classes CNN and CNN3 of the paper's code (model_definitions/def_net.py).
ResNet-18 is torchvision's with a 3x3 stem and no max-pool. Layers have readable names (`conv1`,
`fc2`); `Layout.original_names` returns those of the paper's code.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from ..builders import hyperparameters
from ..builders.layout import Layout
from ..errors import InvalidArgument


def _trunc_normal(tensor: torch.Tensor, std: float = 1.0) -> torch.Tensor:
    """Draw torch's truncated normal, cut at 2 `std`; torch's default cuts at the value 2."""
    return nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


INIT_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    name: getattr(nn.init, f"{name}_") for name in hyperparameters.INITS
} | {"trunc_normal": _trunc_normal}
"""The function of each initialisation, which fills a tensor in place."""


def build(layout: Layout, activation: str, dropout: float = 0.0) -> nn.Module:
    """Make a network with torch's default initialisation, drawn from torch's global stream.

    Args:
        layout: has the architecture, input channels and classes.
        activation: key of hyperparameters.ACTIVATIONS; ResNet-18 always has relu.
        dropout: rate. As in the paper's code, there are Dropout modules only if it is above 0.

    Returns:
        A module from images float32 [n, channels, h, w] to logits [n, classes].

    Raises:
        InvalidArgument: an unknown activation, a dropout rate outside [0, 1), or an entry of
            `MODULES` whose module has other tensors than the layout.
    """
    make_activation(activation)  # refuses an unknown one
    if not 0 <= dropout < 1:
        raise InvalidArgument(f"dropout must lie in [0, 1), found {dropout}")
    if not layout.architecture.layers:
        return _own_module(layout)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number, layer in enumerate(layout.architecture.layers, start=1):
        out, features, *_ = layout.layers[layer.name]["weight"].shape
        if layer.kernel is not None:
            modules[layer.name] = nn.Conv2d(
                features, out, layer.kernel, layer.stride, layer.padding
            )
        else:
            if "flatten" not in modules:
                modules["flatten"] = nn.Flatten()
            modules[layer.name] = nn.Linear(features, out)
        if layer.pool:
            modules[f"pool{number}"] = nn.MaxPool2d(2)
        if own := layer.activation_of(activation):
            modules[f"act{number}"] = make_activation(own)
        if layer.dropout and dropout > 0:
            modules[f"drop{number}"] = nn.Dropout(dropout)
        if layer.gap:
            modules[f"gap{number}"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(modules)


def _own_module(layout: Layout) -> nn.Module:
    """Make the module of an architecture with a graph, after comparing its tensors with the graph.

    Weights are read by the order of the tensors and loaded by their names, so both must agree.
    """
    name = layout.architecture.name
    if name not in MODULES:
        raise InvalidArgument(
            f"there is no module of the network {name}: its graph names the tensors, and "
            "model_zoos.generation.networks.MODULES must have a function that makes it"
        )
    module = MODULES[name](layout.channels, layout.classes)
    tensors = module.state_dict().items()
    found = [(key, tuple(t.shape)) for key, t in tensors if t.is_floating_point()]
    for has, expected in zip_longest(found, ((s.name, s.shape) for s in layout.slots)):
        if has != expected:
            theirs, ours = (f"{t[0]} {t[1]}" if t else "no more tensors" for t in (has, expected))
            raise InvalidArgument(
                f"the module of the network {name} has {theirs} where its graph has {ours}: both "
                "must have the same tensors in the same order, that of the module's state_dict"
            )
    return module


def instantiate(
    layout: Layout, activation: str, weights: ArrayLike, dropout: float = 0.0
) -> nn.Module:
    """Make a network with given weights, in evaluation mode.

    Args:
        layout: layout of the weights.
        activation: key of `ACTIVATIONS`.
        weights: float32 [N].
        dropout: rate; see `build`.

    Raises:
        InvalidArgument: the weights lack some tensors; also everything that `build` raises.
    """
    layout.require_all()
    module = build(layout, activation, dropout)
    vector = torch.as_tensor(np.asarray(weights, np.float32))
    # Buffers without weights (num_batches_tracked) stay 0.
    module.load_state_dict(layout.to_state_dict(vector), strict=False)
    return module.eval()


def make_activation(name: str) -> nn.Module:
    """Make the module of an activation of hyperparameters.ACTIVATIONS.

    Raises:
        InvalidArgument: an unknown activation, or its entry does not name a class that maps each
            number separately, always in the same way.
    """
    hyperparameters.check_activation(name)
    kind = hyperparameters.ACTIVATIONS[name]
    if not _maps_numbers(kind):
        raise InvalidArgument(
            f"ACTIVATIONS[{name!r}] is {kind!r}, expected the name of a class of torch.nn, such as "
            "'Softsign', or 'module:Class' for your own, that maps each number by itself, without "
            "parameters and without chance"
        )
    return _module_of(kind)


def _module_of(kind: str) -> nn.Module:
    """Make the module of a value of `ACTIVATIONS`: "Tanh" of torch.nn, or "module:Class"."""
    source, _, name = kind.rpartition(":")
    module: nn.Module = getattr(importlib.import_module(source or "torch.nn"), name)()
    return module


@lru_cache
def _maps_numbers(kind: str) -> bool:
    """Whether there is such a class, and it maps each number separately, in both modes equally."""
    numbers = torch.linspace(-3, 3, 24)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = _module_of(kind)
            results = [
                module.train(training)(numbers.reshape(shape)).flatten()
                for training in (True, True, False)
                for shape in ((24,), (2, 3, 4))
            ]
        except Exception:
            return False
    same = all(
        result.shape == numbers.shape and torch.allclose(result, results[0]) for result in results
    )
    return same and not module.state_dict()


def initialise(module: nn.Module, init: str) -> None:
    """Draw new weights for all convolutions and linear layers, and set their biases to 0.01.

    An initialisation can name another constant for the biases: "normal(std=0.1, bias=0)". The draws
    come from torch's global stream, layer by layer. In the paper's code, torch's default
    initialisation draws first, so the draws are the same only after those of `build`.

    Args:
        module: changed in place.
        init: key of `INIT_FUNCTIONS`, with its numbers in brackets where they are not torch's.

    Raises:
        InvalidArgument: an unknown initialisation.
    """
    name, numbers = hyperparameters.parse_init(init)
    bias = numbers.pop("bias", hyperparameters.BIAS)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            INIT_FUNCTIONS[name](layer.weight, **numbers)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)


def init_numbers(init: str) -> tuple[str, dict[str, float]]:
    """Return the name and all parameters of an initialisation, including default values.

    Raises:
        InvalidArgument: an unknown initialisation.
    """
    name, numbers = hyperparameters.parse_init(init)
    torchs = inspect.signature(INIT_FUNCTIONS[name]).parameters
    known = hyperparameters.INITS[name]
    defaults = {key: torchs[key].default for key in known if key != "bias"}
    return name, {"bias": hyperparameters.BIAS, **defaults, **numbers}


def _resnet18(channels: int, classes: int) -> nn.Module:
    from .torchvision import import_torchvision

    module = import_torchvision().models.resnet18(num_classes=classes)
    module.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    module.maxpool = nn.Identity()
    return module


MODULES = {"resnet18": _resnet18}
"""Architecture -> function that makes its module from the numbers of channels and classes, for
architectures that are not a plain sequence of layers."""
