"""Speed of training networks in the text form, compared with the loop of the paper's code.

The comparison is the same as in generation.py, for dense models of four networks: the Small CNN
Zoo's, LeNet-5 with a padded first convolution, and two networks of linear layers.
"""

from __future__ import annotations

from typing import Any

from ...builders.architecture import find_architecture
from ...builders.layout import make_layout
from .generation import measure_layout, table
from .measure import Rounds, Samples

NETWORKS = (
    "1x28x28 conv16k3s2 conv16k3s2 conv16k3s2 gap fc10",
    "1x28x28 conv6k5p2 pool conv16k5 pool fc120 fc84 fc10",
    "1x28x28 fc64 fc10",
    "1x28x28 fc32:relu fc32:tanh fc10",
)

__all__ = ["NETWORKS", "measure", "table"]


def measure(rounds: Rounds = 5, samples: Samples = 1000) -> list[dict[str, Any]]:
    """Return the figures for each of `NETWORKS`."""
    layouts = [make_layout(text, find_architecture(text).channels or 1) for text in NETWORKS]
    return [measure_layout(layout, False, rounds, samples) for layout in layouts]
