"""Checkpoints of a user's own training code: torch, safetensors or numpy files as weight vectors.

They hold the tensors of a known network, under any names. Tensors are matched by name if the names
are ours. If not, they are matched by their order in the file, unless that is an alphabetical order
with layers.10 before layers.2; then by shape. The reason: safetensors sorts names, and some
frameworks put a bias before its weight.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format as npy
from numpy.typing import NDArray

from ...errors import Unreadable
from ..layout import Layout, Slot
from ..phrases import few
from ..tensor_file import TensorFile
from ..untrusted import read_plain
from .archive import printable, read_member, zip_members
from .checkpoint import read_state_dict

Arrays = Mapping[str, NDArray[Any]]

_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)*")
"""Prefixes that DataParallel and torch.compile put before a name."""

_MOST_TENSORS = 1000
_BASE_BYTES = 16 << 20


def largest_file(layout: Layout) -> int:
    """Return the limit of a checkpoint's bytes: weights in float64 with an optimizer and an
    average, and whatever else a script saved."""
    return _BASE_BYTES + 64 * layout.size


def read_tensors(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    """Read the tensors of a checkpoint, by name in the order of the file.

    Args:
        path: a file with a suffix of `READERS`.
        limit: maximum of its bytes.

    Raises:
        Unreadable: it has another suffix, is larger, or is malformed.
        OSError: it cannot be read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(
            f"unreadable: {printable(path.name)} is none of {', '.join(READERS)}, by its name"
        )
    if (size := os.stat(path).st_size) > limit:
        raise Unreadable(
            f"too large: {size:,} bytes, expected at most {limit:,} (of a view, torch.save writes "
            "the whole tensor: save tensor.clone())"
        )
    if size == 0:
        raise Unreadable("empty file")
    return reader(path, limit)


def _read_torch(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    return read_state_dict(read_plain(path, limit))


def _read_safetensors(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.tensors}


def _read_npz(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    view = memoryview(read_plain(path, limit))
    arrays: dict[str, NDArray[Any]] = {}
    left = limit
    for member in zip_members(lambda offset, count: view[offset : offset + count], len(view)):
        content = bytes(read_member(lambda o, n: view[o : o + n], member, left))
        left -= len(content)
        arrays[member.name.removesuffix(".npy")] = _array(member.name, content)
        if len(arrays) > _MOST_TENSORS:
            raise Unreadable(f"too large: it has more than {_MOST_TENSORS:,} arrays")
    return arrays


def _array(name: str, content: bytes) -> NDArray[Any]:
    """Return the array of a .npy file, whose header is not trusted."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.kind not in "fiub":
        raise Unreadable(f"refused: {printable(name)} holds {printable(str(dtype))}, not numbers")
    rest = content[file.tell() :]
    if len(rest) != math.prod(shape) * dtype.itemsize:
        raise Unreadable(f"truncated: {printable(name)} has not the bytes of its shape")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")


READERS: Mapping[str, Callable[[Path, int], dict[str, NDArray[Any]]]] = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _read_torch),
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
"""Suffix of a checkpoint -> function that reads it, up to a limit of bytes."""


# --- From tensors to a vector ---------------------------------------------------------------------


def floats(tensors: Arrays) -> dict[str, NDArray[Any]]:
    """Return the tensors that are weights, without prefixes of wrappers. Integer tensors, such as
    the steps that batch norm counts, are left out.

    Raises:
        Unreadable: two tensors have the same name without the prefixes.
    """
    found = {}
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            plain = name[_WRAPPERS.match(name).end() :]  # type: ignore[union-attr]
            if plain in found:
                raise Unreadable(f"unreadable: two tensors are named {printable(plain)}")
            found[plain] = array
    return found


def weights_of(tensors: Arrays, layout: Layout) -> NDArray[np.float32]:
    """Return the weight vector of a checkpoint, float32 [N].

    Args:
        tensors: its tensors, in the order of the file.
        layout: of the network that they must fit.

    Raises:
        Unreadable: they do not fit this network, or fit in several ways.
    """
    found = floats(tensors)
    placed = _by_name(found, layout) or _by_order(found, layout) or _by_shape(found, layout)
    if placed is None:
        raise Unreadable(f"wrong shape: not a {layout}: {_difference(found, layout)}")
    vector = np.empty(layout.size, np.float32)
    with np.errstate(over="ignore"):  # an infinite weight is found in a later check
        for slot, array in placed:
            vector[slot.slice] = array.reshape(-1)
    return vector


_SHOWN = 12
"""Number of tensors that a message lists."""


def _difference(found: Arrays, layout: Layout) -> str:
    """Return how the shapes of a checkpoint's tensors differ from those of a layout."""
    lacking = Counter(slot.shape for slot in layout.slots)
    besides = []
    for name, array in found.items():
        if lacking[array.shape]:
            lacking[array.shape] -= 1
        else:
            besides.append(f"{printable(name)} {array.shape}")
    parts = []
    if lacks := [str(shape) for shape in lacking.elements()]:
        parts.append(f"it lacks tensors of the shapes {few(lacks, _SHOWN)}")
    if besides:
        parts.append(f"it has besides {few(besides, _SHOWN)}")
    return "; ".join(parts) or "save its tensors in the order of the layers"


Placed = list[tuple[Slot, NDArray[Any]]]


def _by_name(tensors: Arrays, layout: Layout) -> Placed | None:
    """Match tensors that have our names, with or without a common prefix."""
    first = layout.slots[0].name
    for name in tensors:
        prefix = name.removesuffix(first)
        if name.endswith(first) and (not prefix or prefix.endswith(".")):
            wanted = {prefix + slot.name: slot for slot in layout.slots}
            if wanted.keys() == tensors.keys() and all(
                tensors[name].shape == slot.shape for name, slot in wanted.items()
            ):
                return [(slot, tensors[name]) for name, slot in wanted.items()]
    return None


def _by_order(tensors: Arrays, layout: Layout) -> Placed | None:
    """Match tensors in the order of the file, unless it is alphabetical with layer 10 before
    layer 2."""
    arrays = [*tensors.values()]
    if [array.shape for array in arrays] != [slot.shape for slot in layout.slots]:
        return None
    modules = [name.rpartition(".")[0] for name in tensors]
    if modules == sorted(modules) and modules != sorted(modules, key=_with_numbers):
        return None
    return list(zip(layout.slots, arrays, strict=True))


def _with_numbers(name: str) -> list[tuple[str, int]]:
    """Return a name as a sorting key that compares the numbers in it as numbers."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _by_shape(tensors: Arrays, layout: Layout) -> Placed | None:
    """Match modules by the shapes of their tensors.

    Modules of equal shapes are taken in the order of the numbers in their names.

    Raises:
        Unreadable: the names of such modules differ in more than numbers.
    """
    if not layout.architecture.layers:
        return None
    modules: dict[str, dict[tuple[int, ...], NDArray[Any]]] = defaultdict(dict)
    for name, array in tensors.items():
        modules[name.rpartition(".")[0]][array.shape] = array
    if sum(map(len, modules.values())) != len(tensors):
        return None
    named: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, arrays in modules.items():
        named[tuple(sorted(arrays))].append(name)
    placed: Placed = []
    for slots in layout.layers.values():
        names = named[tuple(sorted(slot.shape for slot in slots.values()))]
        if not names:
            return None
        if len({re.sub(r"\d+", "0", name) for name in names}) > 1:
            raise Unreadable(
                f"wrong shape: the order of {printable(names[0])} and {printable(names[1])}, which "
                "have one shape, cannot be told: save the tensors in the order of the layers"
            )
        names.sort(key=_with_numbers)
        module = modules[names.pop(0)]
        placed += [(slot, module[slot.shape]) for slot in slots.values()]
    return None if any(named.values()) else placed
