"""Which units of a network each tensor connects; graphs and symmetries are derived from it.

A *group* is a set of units that must be permuted together: those of one layer (the channels of a
convolution), or of one residual stream, which several layers write to. A permutation applies to
every tensor that writes or reads the group.

The groups follow from the connections of an architecture (connections.py) and the slots of a
layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from .connections import CLASSES, IMAGES
from .layout import Layout, Slot


@dataclass(frozen=True)
class Group:
    """Units that are permuted together.

    Attributes:
        units: number of units.
        activations: the activations of all connections that write to the group; see
            `Connection`. A stream has several if it passes one after each of its blocks.
        pool: whether the units are max-pooled after an activation.
    """

    units: int
    activations: frozenset[bool | str]
    pool: bool


@dataclass(frozen=True)
class Wire:
    """A tensor [target units, ...] or [target units, source units * places, ...].

    Attributes:
        slot: the tensor.
        target: the group of its first axis.
        source: the group of its second axis; None for a vector.
        scales: whether a factor of the target's units multiplies it. False where batch norm cancels
            the factor, and for batch-norm statistics.
        buffer: whether it is a statistic of a batch-norm layer.
    """

    slot: Slot
    target: str
    source: str | None = None
    scales: bool = True
    buffer: bool = False


@dataclass(frozen=True)
class Wiring:
    """The groups of a network in the order of computation, and all its wires.

    Attributes:
        groups: every group by name, from the images to the classes.
        wires: one for each slot of the layout, in the layout's order.
    """

    groups: dict[str, Group]
    wires: tuple[Wire, ...]

    @property
    def hidden(self) -> dict[str, Group]:
        """The groups whose units can be permuted."""
        return {n: group for n, group in self.groups.items() if n not in (IMAGES, CLASSES)}


@lru_cache(maxsize=64)
def wiring(layout: Layout) -> Wiring:
    """Return the groups of a layout, and which of them every tensor connects.

    Raises:
        InvalidArgument: the layout lacks tensors.
    """
    layout.require_all()
    connections = layout.architecture.connections
    groups = {IMAGES: Group(layout.channels, frozenset([False]), False)}
    wires = {}
    for one in connections:
        weight, *vectors = (
            slot for slot in layout.slots if slot.name.rpartition(".")[0] in (one.name, one.norm)
        )
        group = groups.get(one.target, Group(weight.shape[0], frozenset(), False))
        groups[one.target] = replace(
            group, activations=group.activations | {one.activation}, pool=group.pool or one.pool
        )
        wires[weight] = Wire(weight, one.target, one.source, scales=one.norm is None)
        for slot in vectors:
            buffer = slot.name.rpartition(".")[2].startswith("running_")
            wires[slot] = Wire(slot, one.target, scales=not buffer, buffer=buffer)
    return Wiring(groups, tuple(wires[slot] for slot in layout.slots))
