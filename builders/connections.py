"""The layers of a network as connections between groups of units, stated as data."""

from __future__ import annotations

from dataclasses import dataclass

from .layers import Shape

IMAGES, CLASSES = "images", "classes"
"""The groups at the ends of a network, whose units have a fixed order."""

_NORM_ROLES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Connection:
    """A layer with weights, from one group of units to another.

    Attributes:
        name: prefix of its tensors' names.
        source, target: the groups. Connections that write to the same target are summed.
        out: number of units of the target; None for the number of classes.
        kernel: side of a convolution's square kernel; None for a linear layer. Where a linear layer
            reads a flattened image, each channel has one weight for each of its positions.
        norm: name of the batch-norm layer that follows. The layer has no bias then.
        activation: what follows the sum in the target: True for the model's activation, the name
            of another activation, False for none.
        pool: whether the target is max-pooled.
    """

    name: str
    source: str
    target: str
    out: int | None = None
    kernel: int | None = None
    norm: str | None = None
    activation: bool | str = False
    pool: bool = False


def connection_shapes(
    connections: tuple[Connection, ...], channels: int, classes: int
) -> list[tuple[str, Shape]]:
    """Return names and shapes of the tensors of connections, as torch's state_dict has them.

    Raises:
        ValueError: a connection reads a group that no earlier one writes, or two connections of
            different width write to the same group.
    """
    widths, shapes = {IMAGES: channels}, []
    for one in connections:
        width = classes if one.out is None else one.out
        if one.source not in widths or widths.setdefault(one.target, width) != width:
            raise ValueError(f"{one.name} does not fit the groups {widths}")
        places = () if one.kernel is None else (one.kernel, one.kernel)
        shapes.append((f"{one.name}.weight", (width, widths[one.source], *places)))
        if one.norm is None:
            shapes.append((f"{one.name}.bias", (width,)))
        else:
            shapes += [(f"{one.norm}.{role}", (width,)) for role in _NORM_ROLES]
    return shapes
