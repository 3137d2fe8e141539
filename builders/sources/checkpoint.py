"""Read torch's files without torch.

torch.save writes a zip with `data.pkl`, a pickle whose tensors refer to storages, and one raw file
for each storage (torch >= 1.6), or one stream of pickles and storages (before). pickles.py
interprets the pickles and calls nothing that they name. Tensors are plain records at first. They
become arrays only after their sizes have been checked against the bytes that exist.

Source: torch/serialization.py (`_save`, `_legacy_save`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..tensor_file import widened
from .archive import Read, printable, read_member, shown, zip_members
from .pickles import STORAGES, Storage, Tensor, Unread, unpickle

_KINDS = frozenset(STORAGES.values())
"""Types of the tensors that are read."""

_BYTES = {kind: 2 if kind == "bf16" else np.dtype(kind).itemsize for kind in _KINDS} | {
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.storage.UntypedStorage": 1,
}
"""Type of a storage -> bytes of an element; also for types that are skipped."""

_STATE_DICTS = ("model_state_dict", "state_dict", "model", "model_state", "net", "network")
"""Keys under which training scripts keep a model's state_dict; used if several keys hold one."""

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""Magic number and version of torch's old form."""


_MOST_ELEMENTS = 1 << 40
_LARGEST_PICKLE = 1 << 21
"""Limit of a checkpoint's pickle in bytes. ResNet-18's has 20 kB, or 60 kB with an optimizer; a
list of 100,000 losses takes 1 MB."""
_BYTES_OF_STORAGE = 20
"""Minimum of the bytes that a storage takes in a pickle."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TorchFile:
    """The content of a torch file.

    Attributes:
        tree: the pickled object, in which each tensor is a `Tensor`.
        storage: function that reads the bytes of a storage.
    """

    tree: Any
    storage: Callable[[Storage], bytes | memoryview]

    def array(self, tensor: object) -> NDArray[Any]:
        """Return the values of a tensor, read-only.

        Raises:
            Unreadable: it is no tensor, or it claims more than its storage holds.
        """
        if not isinstance(tensor, Tensor):
            kind = printable(tensor) if isinstance(tensor, Unread) else type(tensor).__name__
            raise Unreadable(f"unreadable: expected a tensor, found {kind}")
        (kind, _, count), offset, shape, stride, negative = tensor
        if kind not in _KINDS:
            raise Unreadable(f"unreadable: a tensor of {printable(kind)}, expected float32")
        elements = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if elements > count or (elements and last >= count):
            raise Unreadable(
                f"unreadable: a tensor of shape {_short(shape)} in a storage of {count} elements "
                "(of an expanded tensor: save tensor.clone())"
            )
        content = self.storage(tensor.storage)
        if len(content) != count * _BYTES[kind]:
            raise Unreadable(f"truncated: a storage of {count} elements has {len(content)} bytes")
        values = np.frombuffer(content, "<u2" if kind == "bf16" else kind)
        if not elements:
            if math.prod(max(n, 1) for n in shape) > _MOST_ELEMENTS:
                raise Unreadable("unreadable: a tensor with absurd sizes")
            values = values[:0].reshape(shape)
        elif stride == tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
            values = values[offset : offset + elements].reshape(shape)
        else:
            steps = tuple(values.itemsize * step for step in stride)
            values = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
        if kind == "bf16":
            values = widened(values)
        return -values if negative else values


def read_torch(read: Read, total: int, largest_pickle: int) -> TorchFile:
    """Read a file that torch.save wrote, of any version of torch.

    Args:
        read: reads the file.
        total: bytes of the file.
        largest_pickle: maximum of bytes in its pickle; objects take up to 70 times as much memory.

    Raises:
        Unreadable: it is empty, truncated or damaged, or its pickle names something unknown.
    """
    if total and read(0, 2) != b"PK":
        if read(0, 1) == b"\x80":
            return _read_legacy(bytes(read(0, total)), largest_pickle)
        raise Unreadable("unreadable: neither a zip nor a file of torch before 1.6")
    entries = islice(zip_members(read, total), largest_pickle // _BYTES_OF_STORAGE)
    members = {member.name: member for member in entries}
    prefix = next((name[:-8] for name in members if name.endswith("data.pkl")), None)
    if prefix is None:
        raise Unreadable("unreadable: a zip without data.pkl, not torch's")
    order = members.get(f"{prefix}byteorder")
    if order and read_member(read, order, 16) != b"little":
        raise Unreadable("unreadable: not in little-endian byte order")
    found = members[f"{prefix}data.pkl"]
    if found.size > largest_pickle:
        raise Unreadable(
            f"too large: what it holds beside its tensors (data.pkl) has {found.size:,} bytes, "
            f"expected at most {largest_pickle:,}"
        )
    pickled = bytes(read_member(read, found, largest_pickle))
    tree = _unpickle_cached(pickled) if len(pickled) < 65536 else unpickle(pickled)[0]

    def storage(wanted: Storage) -> bytes | memoryview:
        return read_member(read, _find(members, f"{prefix}data/{wanted.key}", wanted), total)

    return TorchFile(tree, storage)


def read_state_dict(content: bytes) -> dict[str, NDArray[Any]]:
    """Read a checkpoint: a state_dict, alone or with an optimizer's and other values.

    Returns:
        Name -> array in the order of the file. The arrays are read-only. Tensors of types that
        numpy lacks are skipped.

    Raises:
        Unreadable: see `read_torch`; also if it holds no state_dict or several.
    """
    view = memoryview(content)  # so that 45 MB of ResNet-18 are not copied
    read: Read = lambda offset, count: view[offset : offset + count]  # noqa: E731
    file = read_torch(read, len(view), _LARGEST_PICKLE)
    tensors = _state_dict(file.tree)
    readable = [_is_readable(value) for value in tensors.values()]
    if any(readable) and not all(readable):
        tensors = {n: value for n, value in tensors.items() if not _is_passed_over(value)}
    arrays: dict[str, NDArray[Any]] = {}
    size = 0
    for name, tensor in tensors.items():
        arrays[name] = file.array(tensor)
        size += arrays[name].nbytes
        # Real tensors take at most the file's bytes; only many views of one storage exceed the
        # limit.
        if size > 4 * len(content):
            raise Unreadable(f"too large: its tensors have more than {4 * len(content):,} bytes")
    return arrays


def _is_readable(value: object) -> bool:
    return type(value) is Tensor and value.storage.kind in _KINDS


def _is_passed_over(value: object) -> bool:
    """Return whether a value is a tensor of a kind that is skipped: float8, sparse or quantized.

    If a network needs such a tensor, a later check reports that it is missing.
    """
    if type(value) is Tensor:
        return not _is_readable(value)
    return isinstance(value, Unread) and value.startswith("torch.")


def _state_dict(tree: object) -> dict[str, Any]:
    """Return the state_dict of a model within the content of a checkpoint."""
    if isinstance(tree, Unread):
        raise Unreadable(
            f"unreadable: it holds an object of {printable(tree)}, expected a state_dict: "
            "torch.save(model.state_dict(), ...) writes one"
        )
    for _ in range(3):  # Lightning and others nest it once, some twice
        if not isinstance(tree, dict) or len(tree) > 1000:  # ResNet-18 has 122 tensors
            kind = f"{len(tree):,}" if isinstance(tree, dict) else f"a {type(tree).__name__}"
            raise Unreadable(
                f"unreadable: expected a state_dict of at most 1,000 entries, found {kind}"
            )
        inner = {str(key): value for key, value in tree.items() if isinstance(value, dict)}
        names = [name for name in _STATE_DICTS if name in inner]
        # A tensor without axes, such as a loss, does not make a network.
        if not names and any(type(value) is Tensor and value.shape for value in tree.values()):
            break
        names = names or [
            name
            for name, value in inner.items()
            if any(map(_is_readable, value.values()))
            and all(_is_readable(tensor) or _is_passed_over(tensor) for tensor in value.values())
        ]
        if not inner:
            break
        if not names or (len(names) > 1 and names[0] not in _STATE_DICTS):
            keys = ", ".join(shown(key) for key in [*tree][:10])
            raise Unreadable(f"unreadable: expected a tensor or one state_dict, found {keys}")
        tree = inner[names[0]]
    return {str(name): tensor for name, tensor in cast("dict[Any, Any]", tree).items()}


def _read_legacy(content: bytes, largest_pickle: int) -> TorchFile:
    """Read a file of torch < 1.6: magic number, version, system, object, keys, storages."""
    seen: dict[str, Storage] = {}
    pickles = content[:largest_pickle]
    position, parts = 0, []
    for _ in range(5):
        part, position = unpickle(pickles, position, seen)
        parts.append(part)
        if parts[0] != _LEGACY[0]:
            raise Unreadable(
                "unreadable: a pickle that torch.save did not write, expected a state_dict that "
                "torch.save or safetensors wrote, or a .npz"
            )
    magic, version, system, tree, keys = parts
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version) != _LEGACY or not little or not isinstance(keys, list):
        raise Unreadable("unreadable: not torch's old form, version 1001, little-endian")
    found: dict[str, bytes] = {}
    for key in keys:
        if type(key) is not str or key not in seen:
            raise Unreadable("unreadable: a storage that no tensor refers to")
        kind, _, count = seen[key]
        if kind not in _BYTES:
            raise Unreadable(f"unreadable: a storage of {printable(kind)}, whose size is not known")
        start = position + 8
        position = start + count * _BYTES[kind]
        if position > len(content):
            raise Unreadable("truncated: its storages end too early")
        if int.from_bytes(content[start - 8 : start], "little") != count:
            raise Unreadable("unreadable: a storage of another size than its tensors claim")
        found[key] = content[start:position]
    return TorchFile(tree, lambda wanted: _find(found, wanted.key, wanted))


def _find(files: Mapping[str, _T], name: str, wanted: Storage) -> _T:
    if name not in files:
        raise Unreadable(f"truncated: it lacks the storage {wanted.key[:20]!r}")
    return files[name]


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) < 60 else f"{text[:60]}..."


@lru_cache(maxsize=8)
def _unpickle_cached(pickled: bytes) -> object:
    """Return `unpickle` of a checkpoint, cached: most states differ only in their storages."""
    return unpickle(pickled)[0]
