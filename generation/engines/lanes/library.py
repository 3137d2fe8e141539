"""Compile a kernel for one architecture and activation with the system's C++ compiler.

A library is built at first use, in a few seconds, and cached (kernels/cache.py) under a digest of
the sources, the generated header, the flags and everything that the compiler states about itself
and this processor. Environment variables: `CXX` (a compiler, possibly with arguments),
`MODEL_ZOOS_CACHE` (the folder), `MODEL_ZOOS_ISA` (avx512, avx2 or portable instead of the best).
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....builders.layout import Layout
from ....errors import InvalidArgument, LanesUnavailable
from .. import kernels
from ..kernels.cache import cache_root, cached

FOLDER = Path(__file__).parent
KERNELS = {"dense": "dense.cpp", "twins": "twins.cpp"}
"""Name of each kernel -> its source file."""

HEADERS = (
    *(FOLDER / name for name in ("network.hpp", "layers.hpp", "vectors.hpp")),
    *kernels.HEADERS,
)
ISAS = {
    "avx512": ("AVX512F", "AVX512DQ", "AVX512BW", "AVX512VL", "AVX2", "FMA"),
    "avx2": ("AVX2", "FMA"),
    "portable": (),
}
"""Instruction set -> its requirements, as names of gcc's and clang's macros; best first."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
"""No -ffast-math, and contractions only where the kernel asks for them: the bits depend on both."""


LIMITS = kernels.SizeLimits(layers=32, weights=4_000_000, outputs=1_000_000, row=16_384)
"""Size limits of the networks that this kernel trains. Beyond them, a block needs gigabytes of
memory, megabytes of stack, or minutes to compile."""

_building: dict[str, threading.Lock] = {}
"""Name of a kernel -> its lock: threads can compile several kernels at once, but none twice."""


def load(layout: Layout, activation: str, isa: str = "auto", kernel: str = "dense") -> ctypes.CDLL:
    """Return one of `KERNELS` as a library; compile it if it is not in the cache.

    Raises:
        LanesUnavailable: no compiler, an instruction set missing on this machine, a failed build.
        ValueError: an unknown instruction set or activation, or an architecture without lanes.
    """
    header = kernels.architecture_header(layout, activation)
    check(layout, [activation])
    compiler = _compiler()
    native, macros = _describe(compiler)
    isa = chosen_isa(isa)
    flags = (*FLAGS, "-ffp-contract=off", *_isa_flags(isa, native))
    source = FOLDER / KERNELS[kernel]
    sources = [path.read_text() for path in (source, *HEADERS)]
    digest = hashlib.sha256("\0".join([*sources, header, *flags, *compiler, macros]).encode())
    shape = f"{layout.architecture.file_name}_{layout.channels}_{layout.classes}"
    name = f"{shape}_{activation}_{isa}_{kernel}-{digest.hexdigest()[:20]}"
    with _building.setdefault(name, threading.Lock()):
        library = _open(cache_root(), name, header, (*compiler, *flags), source)
    _describe_functions(library, kernel)
    return library


def check(layout: Layout, activations: Iterable[str]) -> None:
    """Refuse networks that the kernel does not train. No kernel is built.

    Raises:
        LanesUnavailable: they are too large, or the kernel has no struct for an activation.
    """
    if (misfit := LIMITS.misfit(layout)) is not None:
        raise LanesUnavailable(f"the lane kernel trains networks of at most {misfit}")
    if (lacking := kernels.without_kernel(layout, activations)) is not None:
        raise LanesUnavailable(f"the lane kernel has no activation {lacking!r}")


def usable_isas() -> list[str]:
    """Return the instruction sets that this processor and compiler support, best first.

    Raises:
        LanesUnavailable: no compiler.
    """
    _, macros = _describe(_compiler())
    defined = {line.split()[1].strip("_") for line in macros.splitlines() if line}
    return [name for name, needed in ISAS.items() if defined.issuperset(needed)]


def chosen_isa(isa: str = "auto") -> str:
    """Return the instruction set that the argument or `MODEL_ZOOS_ISA` names; else the best one.

    Raises:
        InvalidArgument: it is unknown.
        LanesUnavailable: no compiler, or this machine lacks it.
    """
    if isa == "auto":
        isa = os.environ.get("MODEL_ZOOS_ISA") or "auto"
    if isa != "auto" and isa not in ISAS:
        raise InvalidArgument(f"unknown instruction set {isa!r}; known: auto, {', '.join(ISAS)}")
    usable = usable_isas()
    if isa == "auto":
        return usable[0]
    if isa not in usable:
        raise LanesUnavailable(f"this processor has no {isa}")
    return isa


def is_faster(layout: Layout) -> bool:
    """Whether lanes train a network faster than the batched engine on this processor.

    Measured on one core with AVX2 (8 lanes, 512 KiB of L2), batches of 10 and 128, against the
    batched engine: 2.6 to 15 times as fast for linear layers of up to 4 million weights, 8 for
    CNN-s, 3 to 4 for LeNet-5, 1.3 for convolutions of 64 channels, 0.7 for those of 128. Weights of
    a linear layer are read once for many samples, but those of a convolution for every band of
    rows. If those of a block are several times the core's cache, there is no gain.

    Raises:
        LanesUnavailable: no compiler.
    """
    lanes = LANES[chosen_isa()]
    convolutions = [
        math.prod(slots["weight"].shape)
        for slots in layout.layers.values()
        if len(slots["weight"].shape) == 4
    ]
    return 4 * lanes * max(convolutions, default=0) <= CACHES * _cache_of_a_core()


LANES = {"avx512": 16, "avx2": 8, "portable": 4}
"""Number of models in a block (vectors.hpp)."""

CACHES = 4
"""Lanes are chosen while a block's convolution weights take at most this many times a core's L2."""


def _cache_of_a_core() -> int:
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (AttributeError, ValueError, OSError):
        size = 0
    return size if size > 0 else 1 << 20


def _isa_flags(isa: str, native: tuple[str, ...]) -> tuple[str, ...]:
    if isa == "portable":
        return native
    flags = [f"-DLANES_{isa.upper()}", *(f"-m{need.lower()}" for need in ISAS[isa])]
    return (*flags, "-mprefer-vector-width=512") if isa == "avx512" else tuple(flags)


def _compiler() -> tuple[str, ...]:
    chosen = tuple(shlex.split(os.environ.get("CXX", "")))
    if chosen:
        return chosen
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return (name,)
    raise LanesUnavailable("found no C++ compiler (c++, g++, clang++); set CXX to name one")


@lru_cache
def _describe(compiler: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the flag for this exact processor, if there is one, and all predefined macros."""
    if platform.system() == "Windows":
        raise LanesUnavailable("the lane kernel is not built on Windows")
    error = ""
    for native in (("-march=native",), ()):
        try:
            done = subprocess.run(
                [*compiler, *native, "-dM", "-E", "-x", "c++", os.devnull],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as failure:
            raise LanesUnavailable(
                f"cannot run {compiler[0]} as C++ compiler ({failure.strerror}): set CXX to another"
            ) from None
        if done.returncode == 0:
            return native, done.stdout
        error = _first_line(done.stderr)
    raise LanesUnavailable(f"{compiler[0]} does not work: {error}")


@lru_cache
def _open(
    root: Path, name: str, header: str, command: tuple[str, ...], source: Path
) -> ctypes.CDLL:
    """Load a library from the cache, or compile it."""
    try:
        return cached(
            root / "lanes",
            name,
            ".so",
            lambda folder: _build(folder, header, command, source),
            lambda path: ctypes.CDLL(str(path)),
        )
    except OSError as failure:
        raise LanesUnavailable(f"cannot build the kernel: {failure}") from None


def _build(folder: Path, header: str, command: tuple[str, ...], source: Path) -> Path:
    """Compile a library in a folder."""
    (folder / "architecture.hpp").write_text(header)
    built = folder / "kernel.so"
    done = subprocess.run(
        [*command, f"-I{folder}", f"-I{kernels.FOLDER}", str(source), "-o", str(built)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LanesUnavailable(f"{command[0]} failed: {_first_line(done.stderr)}")
    return built


def _describe_functions(library: ctypes.CDLL, kernel: str) -> None:
    pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    train: list[Any] = [
        pointer,
        pointer,
        int32,
        int32,
        *[pointer] * 3,
        *[int64] * 3,
        *[pointer] * 3,
    ]
    sample: list[Any] = [pointer, ctypes.c_uint64, ctypes.c_uint32, pointer]
    library.evaluate.argtypes = [pointer, pointer, pointer, int64, pointer]
    if kernel == "dense":
        library.train.argtypes = train
        library.dropout_masks.argtypes = sample
    else:
        library.train.argtypes = [*train, ctypes.c_float]
        library.prune.argtypes = [pointer, pointer]
        library.prune.restype = None
        library.gaussian_noise.argtypes = sample


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["?"]
    return lines[0].strip()
