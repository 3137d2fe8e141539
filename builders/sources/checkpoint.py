"""torch's files without torch: a machine for the few pickle instructions that they need.

torch.save writes a zip with `data.pkl`, a pickle whose tensors refer to storages, and one raw file
for each storage (torch >= 1.6), or one stream of pickles and storages (before). Python's unpickler
calls what a pickle names, and even restricted to a list it lets a file exhaust memory (indices of
its memo) or time (hashes of nested tuples). This machine knows 40 instructions, calls nothing but
the functions in `_CALLS`, and makes tensors plain records, which become arrays only after their
sizes were checked against the bytes that exist.

Sources: Lib/pickletools.py for the instructions, torch/serialization.py (`_save`, `_legacy_save`)
and torch/_utils.py (`_rebuild_tensor_v2`) for the rest.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .archive import Member, Read, Unreadable, read_member, zip_members

STORAGES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "?",
}
"""Storage class -> numpy's type."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Storage(NamedTuple):
    """A file's storage: numpy type, key, elements."""

    kind: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view on a storage, in elements; as torch.as_strided describes one."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Record(dict):
    """The attributes of an object whose class we only stand in for (ModelDatasetBase)."""


class _Name(str):
    """A global of the closed list, not to be mistaken for a text."""


@dataclass(frozen=True)
class TorchFile:
    """What a file holds: `tree`, in which tensors are `Tensor`, and how to read a storage."""

    tree: Any
    storage: Callable[[Storage], bytes | memoryview]

    def array(self, tensor: Any) -> np.ndarray:
        """The values of a tensor, read-only.

        Raises:
            Unreadable: not a tensor, or one that claims more than its storage holds.
        """
        if type(tensor) is not Tensor:
            raise Unreadable(f"unreadable: expected a tensor, found {type(tensor).__name__}")
        (kind, _, count), offset, shape, stride = tensor
        elements = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if elements > count or (elements and last >= count):
            raise Unreadable(
                f"unreadable: a tensor of shape {_short(shape)} in a storage of {count} elements"
            )
        content = self.storage(tensor.storage)
        if len(content) != count * np.dtype(kind).itemsize:
            raise Unreadable(f"truncated: a storage of {count} elements has {len(content)} bytes")
        if not elements:
            return np.empty(0, kind).reshape(shape) if max(shape) < 2**20 else np.empty(0, kind)
        values = np.frombuffer(content, kind)
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        if stride == tuple(steps):
            return values[offset : offset + elements].reshape(shape)
        size = values.itemsize
        return np.lib.stride_tricks.as_strided(
            values[offset:], shape, tuple(size * step for step in stride), writeable=False
        )


def read_torch(read: Read, total: int) -> TorchFile:
    """Read a file that torch.save wrote, of any torch version.

    Args:
        read: reads the file.
        total: its bytes.

    Raises:
        Unreadable: empty, truncated, damaged, or a pickle that names something unknown.
    """
    if total and read(0, 2) != b"PK":
        if read(0, 1) == b"\x80":
            return _read_legacy(bytes(read(0, total)))
        raise Unreadable("unreadable: neither a zip nor a file of torch before 1.6")
    members: dict[str, Member] = {}
    for member in zip_members(read, total):
        members[member.name] = member
    prefix = next((name[:-8] for name in members if name.endswith("data.pkl")), None)
    if prefix is None:
        raise Unreadable("unreadable: a zip without data.pkl, not torch's")
    order = members.get(f"{prefix}byteorder")
    if order and read_member(read, order, 16) != b"little":
        raise Unreadable("unreadable: not in little-endian byte order")
    pickled = bytes(read_member(read, members[f"{prefix}data.pkl"], total))
    tree = _cached(pickled) if len(pickled) < 65536 else unpickle(pickled)[0]

    def storage(wanted: Storage) -> bytes | memoryview:
        member = members.get(f"{prefix}data/{wanted.key}")
        if member is None:
            raise Unreadable(f"truncated: it lacks the storage {wanted.key[:20]!r}")
        return read_member(read, member, total)

    return TorchFile(tree, storage)


def read_state_dict(content: bytes) -> dict[str, np.ndarray]:
    """A checkpoint: name -> array, in the file's order, read-only.

    Raises:
        Unreadable: as `read_torch`, or something else than a dictionary of tensors.
    """
    view = memoryview(content)  # 45 MB of ResNet-18 are not copied
    file = read_torch(lambda offset, count: view[offset : offset + count], len(view))
    if not isinstance(file.tree, dict) or len(file.tree) > 1000:  # ResNet-18 has 122 tensors
        raise Unreadable("unreadable: not the state_dict of a known architecture")
    return {str(name): file.array(tensor) for name, tensor in file.tree.items()}


def _read_legacy(content: bytes) -> TorchFile:
    """torch before 1.6: magic number, version, system, object, keys of storages, storages."""
    seen: dict[str, Storage] = {}
    position, parts = 0, []
    for _ in range(5):
        part, position = unpickle(content, position, seen)
        parts.append(part)
    magic, version, system, tree, keys = parts
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version, little) != (_LEGACY_MAGIC, 1001, True) or not isinstance(keys, list):
        raise Unreadable("unreadable: not torch's old form, version 1001, little-endian")
    found: dict[str, bytes] = {}
    for key in keys:
        if type(key) is not str or key not in seen:
            raise Unreadable("unreadable: a storage that no tensor refers to")
        kind, _, count = seen[key]
        start, size = position + 8, count * np.dtype(kind).itemsize
        position = start + size
        if position > len(content):
            raise Unreadable("truncated: its storages end too early")
        if int.from_bytes(content[start - 8 : start], "little") != count:
            raise Unreadable("unreadable: a storage of another size than its tensors claim")
        found[key] = content[start:position]

    def storage(wanted: Storage) -> bytes:
        if wanted.key not in found:
            raise Unreadable(f"truncated: it lacks the storage {wanted.key[:20]!r}")
        return found[wanted.key]

    return TorchFile(tree, storage)


# --- The machine ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _cached(pickled: bytes) -> Any:
    """States of one zoo differ in their storages only: mostly one pickle for all of them."""
    return unpickle(pickled)[0]


def unpickle(
    data: bytes, position: int = 0, storages: dict[str, Storage] | None = None
) -> tuple[Any, int]:
    """Run the pickle that starts at `position`.

    Args:
        storages: gets every storage that the pickle refers to, by key.

    Returns:
        What it describes, made of dict, list, tuple, str, bytes, int, float, bool, None, `Tensor`
        and `Record` (paths are texts), and the position behind it.

    Raises:
        Unreadable: an unknown instruction or name, or anything malformed.
    """
    try:
        return _run(data, position, {} if storages is None else storages)
    except Unreadable:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error, MemoryError) as error:
        raise Unreadable(f"unreadable: a malformed pickle ({type(error).__name__})") from None


def _run(data: bytes, at: int, storages: dict[str, Storage]) -> tuple[Any, int]:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: list[Any] = []  # picklers number it 0, 1, 2, ...
    end = len(data)

    def take(count: int) -> bytes:
        nonlocal at
        if count > end - at:
            raise Unreadable("truncated: its pickle ends too early")
        at += count
        return data[at - count : at]

    def remember(index: int) -> None:
        if index == len(memo):
            memo.append(stack[-1])
        else:
            if index > len(memo):
                raise Unreadable("unreadable: a malformed pickle (memo out of order)")
            memo[index] = stack[-1]

    while True:
        if at >= end:
            raise Unreadable("truncated: its pickle ends too early")
        code = data[at]
        at += 1
        if code == 0x71:  # BINPUT
            remember(data[at])
            at += 1
        elif code == 0x68:  # BINGET
            stack.append(memo[data[at]])
            at += 1
        elif code == 0x4B:  # BININT1
            stack.append(data[at])
            at += 1
        elif code == 0x72:  # LONG_BINPUT
            remember(int.from_bytes(take(4), "little"))
        elif code == 0x6A:  # LONG_BINGET
            stack.append(memo[int.from_bytes(take(4), "little")])
        elif code == 0x94:  # MEMOIZE
            memo.append(stack[-1])
        elif code == 0x58:  # BINUNICODE
            stack.append(take(int.from_bytes(take(4), "little")).decode())
        elif code == 0x8C:  # SHORT_BINUNICODE
            stack.append(take(take(1)[0]).decode())
        elif code == 0x28:  # MARK
            below.append(stack)
            stack = []
        elif code == 0x74:  # TUPLE
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif code == 0x51:  # BINPERSID
            stack.append(_storage(stack.pop(), storages))
        elif code == 0x52:  # REDUCE
            arguments = stack.pop()
            name = stack.pop()
            if type(name) is not _Name or type(arguments) is not tuple:
                raise Unreadable("unreadable: a pickle that calls what is no function")
            stack.append(_CALLS[name](*arguments))
        elif code == 0x85:  # TUPLE1
            stack[-1:] = [(stack[-1],)]
        elif code == 0x86:  # TUPLE2
            stack[-2:] = [(stack[-2], stack[-1])]
        elif code == 0x87:  # TUPLE3
            stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
        elif code == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif code == 0x89:  # NEWFALSE
            stack.append(False)
        elif code == 0x88:  # NEWTRUE
            stack.append(True)
        elif code == 0x4E:  # NONE
            stack.append(None)
        elif code == 0x4D:  # BININT2
            stack.append(int.from_bytes(take(2), "little"))
        elif code == 0x4A:  # BININT
            stack.append(int.from_bytes(take(4), "little", signed=True))
        elif code == 0x8A:  # LONG1
            stack.append(int.from_bytes(take(take(1)[0]), "little", signed=True))
        elif code == 0x47:  # BINFLOAT
            stack.append(struct.unpack(">d", take(8))[0])
        elif code == 0x5D:  # EMPTY_LIST
            stack.append([])
        elif code == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif code == 0x61:  # APPEND
            value = stack.pop()
            _list(stack[-1]).append(value)
        elif code == 0x65:  # APPENDS
            items, stack = stack, below.pop()
            _list(stack[-1]).extend(items)
        elif code == 0x73:  # SETITEM
            value = stack.pop()
            key = stack.pop()
            _set_items(stack[-1], [key, value])
        elif code == 0x75:  # SETITEMS
            items, stack = stack, below.pop()
            _set_items(stack[-1], items)
        elif code == 0x63:  # GLOBAL
            line = data.index(b"\n", at, at + 256)
            stop = data.index(b"\n", line + 1, line + 257)
            stack.append(_name(data[at:line].decode(), data[line + 1 : stop].decode()))
            at = stop + 1
        elif code == 0x93:  # STACK_GLOBAL
            name = stack.pop()
            module = stack.pop()
            if type(name) is not str or type(module) is not str:
                raise Unreadable("unreadable: a malformed pickle (name)")
            stack.append(_name(module, name))
        elif code == 0x81:  # NEWOBJ
            arguments = stack.pop()
            name = stack.pop()
            if type(name) is not _Name or name != _DATASET or arguments != ():
                raise Unreadable("unreadable: a pickle that makes an unknown object")
            stack.append(Record())
        elif code == 0x62:  # BUILD
            state = stack.pop()
            if type(stack[-1]) is Record:
                _set_items(stack[-1], [x for item in state.items() for x in item])
            elif type(stack[-1]) is not dict:  # attributes of a state_dict (_metadata): not needed
                raise Unreadable("unreadable: a pickle that changes an unknown object")
        elif code == 0x42:  # BINBYTES
            stack.append(take(int.from_bytes(take(4), "little")))
        elif code == 0x43:  # SHORT_BINBYTES
            stack.append(take(take(1)[0]))
        elif code == 0x30:  # POP
            stack.pop()
        elif code == 0x80:  # PROTO
            take(1)
        elif code == 0x95:  # FRAME
            take(8)
        elif code == 0x2E:  # STOP
            return stack.pop(), at
        else:
            raise Unreadable(f"unreadable: the pickle instruction {code:#x} is not known here")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Unreadable("unreadable: a malformed pickle (list)")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) not in (dict, Record) or len(items) % 2:
        raise Unreadable("unreadable: a malformed pickle (dict)")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of nested tuples can take for ever.
        if type(key) is not str and type(key) is not int:
            raise Unreadable(f"unreadable: a {type(key).__name__} as key of a dictionary")
        target[key] = value


def _name(module: str, name: str) -> _Name:
    full = f"{module}.{name}"
    if full not in _CALLS and full not in STORAGES and full != _DATASET:
        raise Unreadable(
            f"unreadable: its pickle names {full[:80]!r}, which no checkpoint needs; refused"
        )
    return _Name(full)


def _storage(reference: Any, storages: dict[str, Storage]) -> Storage:
    """From a persistent id: ("storage", class, key, device, elements[, view])."""
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise Unreadable("unreadable: a malformed pickle (storage)")
    _, kind, key, _, count = reference[:5]
    if type(kind) is not _Name or kind not in STORAGES or type(key) is not str:
        raise Unreadable("unreadable: a malformed pickle (storage)")
    if type(count) is not int or count < 0 or reference[5:] not in ((), (None,)):
        raise Unreadable("unreadable: a malformed pickle (storage)")
    storage = Storage(STORAGES[kind], key, count)
    if storages.setdefault(key, storage) != storage:
        raise Unreadable("unreadable: two tensors disagree on their storage")
    return storage


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    numbers = (offset, *_sizes(shape), *_sizes(stride))
    if type(storage) is not Storage or len(shape) != len(stride) or len(shape) > 16:
        raise Unreadable("unreadable: a malformed tensor")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
        raise Unreadable("unreadable: a tensor with absurd sizes")
    return Tensor(storage, offset, shape, stride)


def _sizes(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise Unreadable("unreadable: a malformed tensor")
    return value


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise Unreadable("unreadable: a malformed parameter")
    return tensor


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in arguments[0] if arguments else ():
        _set_items(result, list(pair))
    return result


def _path(*parts: Any) -> str:
    if not all(type(part) is str for part in parts):
        raise Unreadable("unreadable: a malformed path")
    return "/".join(part.rstrip("/\\") for part in parts)


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) < 60 else f"{text[:60]}..."


_DATASET = "checkpoints_to_datasets.dataset_base.ModelDatasetBase"
_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes: _sizes(sizes),
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib.PureWindowsPath": _path,
}
