"""An interpreter for the few pickle instructions in torch's files, which calls nothing they name.

Python's unpickler calls what a pickle names. Even restricted to a list of names, it lets a file
exhaust memory (indices of its memo) or time (hashes of nested tuples). This interpreter knows 45
instructions and calls nothing but the functions in `_CALLS`. Tensors are plain records. Of all
other objects, such as those of numpy or of a user's configuration, or tensors of float8, only the
name of their class or function is kept.

Sources: Lib/pickletools.py for the instructions, torch/serialization.py for the names of storages,
and torch/_utils.py (`_rebuild_tensor_v2`) for the rest.
"""

from __future__ import annotations

import builtins
import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, NamedTuple, cast

from ...errors import Unreadable

STORAGES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "?",
    "torch.ComplexFloatStorage": "<c8",
    "torch.ComplexDoubleStorage": "<c16",
}
"""Storage class -> numpy type; "bf16", which numpy lacks, holds the upper half of a float32."""

_LONGEST_PATH = 4096
_BYTES_OF_CONTAINER = 8
_FEWEST_CONTAINERS = 50_000
"""A pickle may create one container (list, dictionary or tuple) for this many bytes, plus a fixed
allowance. torch's pickles have one for 12 bytes; an empty one takes one byte there, and 64 in
memory."""
_DEEPEST = 1000
"""Limit of nested marks; a mark begins the items of a container."""


class Storage(NamedTuple):
    """A storage that a file refers to.

    Attributes:
        kind: value of `STORAGES`; the name of the class if it is not among its keys.
        key: name in the file.
        length: number of elements.
    """

    kind: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset, shape and stride count elements, as in torch.as_strided.

    The values of a negative tensor are those of the storage with the opposite sign, which is how
    torch keeps the imaginary part of a conjugate.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False


class Record(dict[Any, Any]):
    """The attributes of an object of the paper's ModelDatasetBase, without its class."""


class _Name(str):
    """The name of a global in a pickle, as opposed to a text value."""


class Unread(str):
    """An object of which only the name of its class, or of the function that makes it, is kept."""


def unpickle(
    data: bytes, position: int = 0, storages: dict[str, Storage] | None = None
) -> tuple[object, int]:
    """Run the pickle that starts at `position`.

    Args:
        data: the bytes that hold it.
        position: where it starts.
        storages: receives every storage that the pickle refers to, by key.

    Returns:
        The object that it describes and the position after its end. The object is made of dict,
        list, tuple, str, bytes, int, float, bool, None, `Tensor`, `Record` and `Unread`; paths are
        texts.

    Raises:
        Unreadable: it has an unknown instruction, names a function of Python's library that
            runs code, or is malformed.
    """
    try:
        return _run(data, position, {} if storages is None else storages)
    except Unreadable:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error, MemoryError) as error:
        raise Unreadable(f"unreadable: a malformed pickle ({type(error).__name__})") from None


Take = Callable[[int], bytes]
"""Function that returns the next bytes of a pickle."""


def _number(take: Take, count: int, signed: bool = False) -> int:
    return int.from_bytes(take(count), "little", signed=signed)


_VALUES: Mapping[int, Callable[[Take], object]] = {
    0x4D: lambda take: _number(take, 2),  # BININT2
    0x4A: lambda take: _number(take, 4, signed=True),  # BININT
    0x8A: lambda take: _number(take, take(1)[0], signed=True),  # LONG1
    0x47: lambda take: struct.unpack(">d", take(8))[0],  # BINFLOAT
    0x58: lambda take: take(_number(take, 4)).decode(),  # BINUNICODE
    0x8C: lambda take: take(take(1)[0]).decode(),  # SHORT_BINUNICODE
    0x42: lambda take: take(_number(take, 4)),  # BINBYTES
    0x43: lambda take: take(take(1)[0]),  # SHORT_BINBYTES
    0x29: lambda take: (),  # EMPTY_TUPLE
    0x5D: lambda take: [],  # EMPTY_LIST
    0x7D: lambda take: {},  # EMPTY_DICT
    0x8F: lambda take: Unread("builtins.set"),  # EMPTY_SET
    0x8B: lambda take: _number(take, _number(take, 4), signed=True),  # LONG4
    0x89: lambda take: False,  # NEWFALSE
    0x88: lambda take: True,  # NEWTRUE
    0x4E: lambda take: None,  # NONE
}
"""Instructions that push a value."""
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
"""Instructions that make a tuple of the top values: TUPLE1, TUPLE2, TUPLE3."""
_CONTAINERS = frozenset({0x5D, 0x7D, *_TUPLES, 0x74, 0x52})
"""Instructions that make a container: EMPTY_LIST, EMPTY_DICT, the tuples, REDUCE."""
_SKIPPED = {0x80: 1, 0x95: 8}
"""Instructions without effect here -> number of bytes that follow: PROTO, FRAME."""


def _run(data: bytes, at: int, storages: dict[str, Storage]) -> tuple[object, int]:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: list[Any] = []  # picklers number its entries 0, 1, 2, ...
    end = len(data)
    budget = 2 * end + 1000  # a pickle that writes out its values needs at most one per byte
    containers = end // _BYTES_OF_CONTAINER + _FEWEST_CONTAINERS

    def pay(values: Sized) -> None:
        nonlocal budget
        budget -= len(values)
        if budget < 0:
            raise Unreadable("too large: its pickle uses the same values again and again")

    def take(count: int) -> bytes:
        nonlocal at
        if count > end - at:
            raise Unreadable("truncated: its pickle ends too early")
        at += count
        return data[at - count : at]

    def remember(index: int) -> None:
        if index == len(memo):
            memo.append(stack[-1])
        elif index > len(memo):
            raise _malformed("pickle (memo out of order)")
        else:
            memo[index] = stack[-1]

    while True:
        if at >= end:
            raise Unreadable("truncated: its pickle ends too early")
        code = data[at]
        at += 1
        if code in _CONTAINERS:
            containers -= 1
            if containers < 0:
                raise Unreadable("too large: its pickle holds too many lists and dictionaries")
        if code == 0x71:  # BINPUT
            remember(data[at])
            at += 1
        elif code == 0x68:  # BINGET
            stack.append(memo[data[at]])
            at += 1
        elif code == 0x4B:  # BININT1
            stack.append(data[at])
            at += 1
        elif code in _VALUES:
            stack.append(_VALUES[code](take))
        elif code in _TUPLES:
            count = _TUPLES[code]
            if len(stack) < count:
                raise IndexError
            stack[-count:] = [tuple(stack[-count:])]
        elif code == 0x72:  # LONG_BINPUT
            remember(_number(take, 4))
        elif code == 0x6A:  # LONG_BINGET
            stack.append(memo[_number(take, 4)])
        elif code == 0x94:  # MEMOIZE
            memo.append(stack[-1])
        elif code == 0x28:  # MARK
            if len(below) == _DEEPEST:
                raise Unreadable("too large: its pickle nests too many lists and dictionaries")
            below.append(stack)
            stack = []
        elif code == 0x74:  # TUPLE
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif code == 0x51:  # BINPERSID
            stack.append(_persistent(stack.pop(), storages))
        elif code == 0x52:  # REDUCE
            arguments, name = stack.pop(), stack.pop()
            if type(name) not in (_Name, Unread) or type(arguments) is not tuple:
                raise Unreadable("unreadable: a pickle that calls what is no function")
            pay(arguments)
            if name not in _CALLS:
                stack.append(Unread(name))
                continue
            if arguments and isinstance(arguments[0], list | tuple | dict):
                pay(arguments[0])
            stack.append(_CALLS[name](*arguments))
            if isinstance(stack[-1], str):
                pay(stack[-1])
        elif code == 0x61:  # APPEND
            value = stack.pop()
            _extend(stack[-1], [value])
        elif code == 0x65:  # APPENDS
            items, stack = stack, below.pop()
            _extend(stack[-1], items)
        elif code == 0x90:  # ADDITEMS
            items, stack = stack, below.pop()
            if type(stack[-1]) is not Unread:
                raise _malformed("pickle (set)")
        elif code == 0x91:  # FROZENSET
            items, stack = stack, below.pop()
            stack.append(Unread("builtins.frozenset"))
        elif code == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [(key, value)])
        elif code == 0x75:  # SETITEMS
            items, stack = stack, below.pop()
            _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif code == 0x63:  # GLOBAL
            line = data.index(b"\n", at, at + 256)
            stop = data.index(b"\n", line + 1, line + 257)
            stack.append(_name(data[at:line].decode(), data[line + 1 : stop].decode()))
            at = stop + 1
        elif code == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            if type(name) is not str or type(module) is not str:
                raise _malformed("pickle (name)")
            stack.append(_name(module, name))
        elif code == 0x81:  # NEWOBJ
            arguments, name = stack.pop(), stack.pop()
            if type(name) not in (_Name, Unread) or name in _CALLS or type(arguments) is not tuple:
                raise Unreadable("unreadable: a pickle that makes an unknown object")
            stack.append(Record() if name == _DATASET and not arguments else Unread(name))
        elif code == 0x62:  # BUILD
            state = stack.pop()
            if type(stack[-1]) is Record and type(state) is dict:
                pay(state)
                _set_items(stack[-1], state.items())
            # Not needed: attributes of a state_dict (_metadata), or of an unread object.
            elif type(stack[-1]) not in (dict, Unread):
                raise Unreadable("unreadable: a pickle that changes an unknown object")
        elif code == 0x30:  # POP
            stack.pop()
        elif code in _SKIPPED:
            take(_SKIPPED[code])
        elif code == 0x2E:  # STOP
            return stack.pop(), at
        else:
            raise Unreadable(f"unreadable: the pickle instruction {code:#x} is not known here")


def _extend(target: object, items: list[Any]) -> None:
    if type(target) is list:
        target.extend(items)
    elif type(target) is not Unread:
        raise _malformed("pickle (list)")


def _set_items(target: object, items: Iterable[tuple[Any, Any]]) -> None:
    if type(target) is Unread:
        return
    if type(target) is not dict and type(target) is not Record:
        raise _malformed("pickle (dict)")
    for key, value in items:
        if isinstance(key, Unread | _Name):
            continue
        # The hash of nested or long tuples can take extremely long.
        flat = key if type(key) is tuple and len(key) <= _LONGEST_KEY else (key,)
        if any(type(part) not in _KEYS for part in flat):
            raise Unreadable(f"unreadable: a {type(key).__name__} as key of a dictionary")
        target[key] = value


def _malformed(what: str) -> Unreadable:
    return Unreadable(f"unreadable: a malformed {what}")


def _name(module: str, name: str) -> _Name:
    # Pickles of protocol 2, which torch.save writes, have the names of Python 2.
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    module = _MOVED.get(module, module)
    full = f"{module}.{name}"
    of_python = module.partition(".")[0] in sys.stdlib_module_names
    if of_python and full not in _CALLS and full not in _DATA and module not in _DATA_MODULES:
        raise Unreadable(f"unreadable: its pickle names {full[:80]!r}, which is no data; refused")
    return _Name(full)


def _persistent(reference: object, storages: dict[str, Storage]) -> Storage | _Name:
    """Return what a persistent id names: ("storage", class, key, device, elements[, view]), or
    ("module", class, file, source) in torch's old form."""
    if type(reference) is tuple and len(reference) == 4:
        word, kind, *_ = reference
        if word == "module" and type(kind) is _Name:
            return kind
    if type(reference) is not tuple or len(reference) not in (5, 6):
        raise _malformed("pickle (storage)")
    word, kind, key, _, count, *view = reference
    good = word == "storage" and type(kind) is _Name and type(key) is str
    if not good or type(count) is not int or count < 0 or view not in ([], [None]):
        raise _malformed("pickle (storage)")
    storage = Storage(STORAGES.get(kind, str(kind)), key, count)
    if storages.setdefault(key, storage) != storage:
        raise Unreadable("unreadable: two tensors disagree on their storage")
    return storage


def _tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    shape, stride = _sizes(shape), _sizes(stride)
    if type(storage) is not Storage or len(shape) != len(stride) or len(shape) > 16:
        raise _malformed("tensor")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *shape, *stride)):
        raise Unreadable("unreadable: a tensor with absurd sizes")
    negative = isinstance(metadata, dict) and metadata.get("neg") is True
    return Tensor(storage, cast(int, offset), shape, stride, negative)


def _sizes(value: object) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise _malformed("tensor")
    return value


def _parameter(tensor: object, *_: object) -> Tensor:
    if type(tensor) is not Tensor:
        raise _malformed("parameter")
    return tensor


def _of_subclass(function: object, _: object, arguments: object, *__: object) -> object:
    """Return a tensor of a subclass, or with extra attributes, as a plain tensor."""
    if function != "torch._utils._rebuild_tensor_v2" or type(arguments) is not tuple:
        return Unread("torch._tensor._rebuild_from_type_v2")
    return _tensor(*arguments)


def _dictionary(*arguments: dict[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for items in arguments[:1]:
        _set_items(result, items.items() if isinstance(items, dict) else items)
    return result


def _path(*parts: object) -> str:
    texts = [part for part in parts if type(part) is str]
    if len(texts) < len(parts):
        raise _malformed("path")
    if sum(map(len, texts)) > _LONGEST_PATH:
        raise Unreadable(f"too large: a path of more than {_LONGEST_PATH:,} characters")
    return "/".join(text.rstrip("/\\") for text in texts)


_KEYS = (str, int, float, bool, type(None))
"""Types of the keys of a dictionary, or of the parts of a key that is a tuple."""
_LONGEST_KEY = 8
"""Parts of a key that is a tuple."""

_MOVED = {"pathlib._local": "pathlib", "_pydatetime": "datetime", "_pydecimal": "decimal"}
"""Module in some version of Python -> module that has the same classes in all versions."""

_DATA_MODULES = frozenset(
    {
        *("argparse", "array", "collections", "dataclasses", "datetime", "decimal", "enum"),
        *("fractions", "ipaddress", "numbers", "pathlib", "string", "typing", "uuid", "zoneinfo"),
    }
)
"""Modules of Python's library whose objects are data, which is skipped."""

_DATA = frozenset(
    {
        # The types in builtins make data; getattr, a function there, names a nested class.
        *(f"builtins.{name}" for name, value in vars(builtins).items() if isinstance(value, type)),
        *("builtins.getattr", "builtins.iter", "builtins.Ellipsis", "builtins.NotImplemented"),
        *("types.SimpleNamespace", "types.MappingProxyType", "types.NoneType", "time.struct_time"),
        *("functools.partial", "operator.itemgetter", "operator.attrgetter", "random.Random"),
        *("logging.getLogger", "logging.Logger", "re._compile", "_codecs.encode"),
        *("copyreg._reconstructor", "copyreg.__newobj__"),
    }
)
"""Further names of Python's library that a pickle may contain; their objects are skipped too. Any
other name, such as os.system, is a function that runs code, or a class that nobody saves with
weights. A file with such a name is refused, although nothing that it names would be called."""

_DATASET = "checkpoints_to_datasets.dataset_base.ModelDatasetBase"
_CALLS: Mapping[str, Callable[..., object]] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.Size": lambda sizes: _sizes(sizes),
    **{
        f"pathlib.{kind}": _path
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}
"""The functions that a pickle may call."""
