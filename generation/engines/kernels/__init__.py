"""What the kernels of the lanes and of CUDA have in common.

A kernel trains any sequence of layers: header.py writes one network as C++, places.hpp works out
where its numbers lie, elementwise.hpp has the activations, the loss and the optimizers, and
arithmetic.hpp the functions that they need. arguments.py checks what a kernel is given. The engines
differ in what one number is (a vector of many models, or one), and in the loops over the numbers of
a network.
"""

from __future__ import annotations

from pathlib import Path

from .arguments import (
    OPTIMIZERS,
    SizeLimits,
    check_orders,
    check_samples,
    pace_of_epoch,
    rates_of,
    weights_order,
)
from .header import architecture_header, without_kernel

FOLDER = Path(__file__).parent
HEADERS = tuple(FOLDER / name for name in ("places.hpp", "elementwise.hpp", "arithmetic.hpp"))
"""The sources that every kernel includes."""

__all__ = [
    "FOLDER",
    "HEADERS",
    "OPTIMIZERS",
    "SizeLimits",
    "architecture_header",
    "check_orders",
    "check_samples",
    "pace_of_epoch",
    "rates_of",
    "weights_order",
    "without_kernel",
]
