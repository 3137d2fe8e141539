"""Operations on weights: forms that networks can read, symmetries, scores, combinations.

    layers          the tensors of each layer, and torch.func
    tokens          one token for each output channel
    graph           units as nodes, weights as edges
    symmetry        permutations of hidden units
    rescaling       signs and scales of hidden units
    matching        orders that make models similar: weight matching, canonical order
    augmentation    random symmetries of rows when they are read
    normalize       mean 0 and standard deviation 1
    trajectory      the states of each model in the order of epochs
    evaluation      loss and accuracy of weight vectors
    training        weight vectors trained further
    combining       new weights from those of several models

The names below are imported on first use, since some of the modules need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .augmentation import PermuteUnits
    from .evaluation import evaluate
    from .graph import Graphs, from_graphs, to_graphs
    from .layers import from_layers, stacked_state_dict, to_layers
    from .matching import canonical_order, match_models, weight_matching
    from .normalize import Standardizer
    from .rescaling import random_factors, rescale
    from .symmetry import compose, hidden_units, invert, permute, random_permutation
    from .tokens import Tokens, from_tokens, to_tokens, token_windows
    from .training import Training, train
    from .trajectory import Trajectories, epoch_windows, pairs, trajectories

__all__ = [
    "Graphs",
    "PermuteUnits",
    "Standardizer",
    "Tokens",
    "Training",
    "Trajectories",
    "canonical_order",
    "compose",
    "epoch_windows",
    "evaluate",
    "from_graphs",
    "from_layers",
    "from_tokens",
    "hidden_units",
    "invert",
    "match_models",
    "pairs",
    "permute",
    "random_factors",
    "random_permutation",
    "rescale",
    "stacked_state_dict",
    "to_graphs",
    "to_layers",
    "to_tokens",
    "token_windows",
    "train",
    "trajectories",
    "weight_matching",
]

_MODULES = {
    "augmentation": ("PermuteUnits",),
    "evaluation": ("evaluate",),
    "graph": (
        "Graphs",
        "from_graphs",
        "to_graphs",
    ),
    "layers": (
        "from_layers",
        "stacked_state_dict",
        "to_layers",
    ),
    "matching": (
        "canonical_order",
        "match_models",
        "weight_matching",
    ),
    "normalize": ("Standardizer",),
    "rescaling": (
        "random_factors",
        "rescale",
    ),
    "symmetry": (
        "compose",
        "hidden_units",
        "invert",
        "permute",
        "random_permutation",
    ),
    "tokens": (
        "Tokens",
        "from_tokens",
        "to_tokens",
        "token_windows",
    ),
    "training": (
        "Training",
        "train",
    ),
    "trajectory": (
        "Trajectories",
        "epoch_windows",
        "pairs",
        "trajectories",
    ),
}
"""The names of each module."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(importlib.import_module(f".{module}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
