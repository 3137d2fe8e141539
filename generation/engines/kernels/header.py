"""Writes one network as the C++ header that every kernel includes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ....builders.hyperparameters import check_activation
from ....builders.layout import Layout
from ....errors import InvalidArgument


def architecture_header(layout: Layout, activation: str, *, dropout: bool = True) -> str:
    """architecture.hpp: the image, the layers and the activation that places.hpp reads.

    Args:
        dropout: False for a kernel of models without dropout, which needs less memory.

    Raises:
        InvalidArgument: an architecture that is no sequence of layers, or an unknown activation.
    """
    spec = layout.architecture
    if not spec.layers:
        raise InvalidArgument(f"a kernel trains sequences of layers, which {spec.title} is not")
    check_activation(activation)
    rows, own = [], []
    for number, layer in enumerate(spec.layers):
        out = layout.layers[layer.name]["weight"].shape[0]
        flags = [layer.pool, bool(layer.activation), layer.dropout and dropout]
        values = ", ".join(str(flag).lower() for flag in flags)
        if (layer.stride, layer.padding, layer.gap) != (1, 0, False):
            values += f", {layer.stride}, {layer.padding}, {str(layer.gap).lower()}"
        rows.append(f"    {{{out}, {layer.kernel or 0}, {values}}},  // {layer.name}")
        if isinstance(layer.activation, str):
            own.append(f"template <> struct Own<{number}> {{")
            own.append(f"  using type = activations::{layer.activation};\n}};")
    return "\n".join(
        [
            f"// {spec.title}, written by header.py.",
            f"constexpr int kChannels = {layout.channels}, kSide = {spec.image_size};",
            f"using Activation = activations::{activation};",
            "constexpr Layer kLayers[] = {",
            *rows,
            "};",
            *own,
            "",
        ]
    )


def without_kernel(layout: Layout, activations: Iterable[str]) -> str | None:
    """Return the first activation that no kernel has, of some networks or of single layers."""
    own = (layer.activation for layer in layout.architecture.layers)
    wanted = (*activations, *(name for name in own if isinstance(name, str)))
    return next((name for name in wanted if name not in _kernel_activations()), None)


@lru_cache
def _kernel_activations() -> frozenset[str]:
    """Return the names of the structs that elementwise.hpp has for activations."""
    source = (Path(__file__).parent / "elementwise.hpp").read_text()
    _, _, part = source.partition("namespace activations {")
    part, _, _ = part.partition("}  // namespace activations")
    return frozenset(re.findall(r"^struct (\w+)", part, re.MULTILINE))
