"""The activations, initialisations and optimizers that models of a zoo can have, by name.

A new activation is one more entry here, and one struct in generation/engines/lanes/layers.hpp where
speed matters. What torch calls each of them is found by generation/networks.py; each engine has its
own step of each optimizer, and a test compares the tables.
"""

ACTIVATIONS = {
    "tanh": "Tanh",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "gelu": "GELU",
    "selu": "SELU",
}
"""Activation -> its class in torch.nn."""

INITS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal")
"""Initialisations, which are functions of torch.nn.init."""

OPTIMIZERS = ("adam", "sgd")

MOMENTUM_OPTIMIZERS = ("sgd",)
"""The optimizers that have a momentum."""
