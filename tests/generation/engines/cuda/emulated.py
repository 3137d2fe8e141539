"""The CUDA kernel on a processor: compiled by a C++ compiler, a thread for each CUDA thread."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from model_zoos.builders.layout import Layout
from model_zoos.generation.engines import cuda, kernels
from model_zoos.generation.engines.cuda import library
from model_zoos.generation.engines.cuda.library import Arguments, Facts

HERE = Path(__file__).parent
CUDA = Path(cuda.__file__).parent
FLAGS = ("-std=c++20", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
WHOLE = 232_448
"""Bytes of shared memory that a block can have on an H100."""


def compile_kernel(
    folder: Path, layout: Layout, activation: str, dropout: bool, source: str, *flags: str,
    threads: int = 3, shared_bytes: int = WHOLE, counted: bool = False,
) -> Path:  # fmt: skip
    """Compile `source`, which includes the kernel, in a folder of its own.

    Args:
        flags: of the compiler.
        threads: of a block.
        shared_bytes: of shared memory that a block can have.
        counted: count what the kernel does.
    """
    header = kernels.architecture_header(layout, activation, dropout=dropout)
    (folder / "architecture.hpp").write_text(header)
    includes = [f"-I{path}" for path in (folder, CUDA, kernels.FOLDER, HERE)]
    definitions = [f"-DTHREADS={threads}", f"-DSHARED_BYTES={shared_bytes}"]
    command = ["c++", *FLAGS, *flags, *includes, *definitions]
    objects = [HERE / source]
    more = [HERE / "emulator.cpp"]
    if counted:
        objects, more = [folder / "kernel.o"], [*more, HERE / "counts.cpp"]
        hooked = ["-DCOUNTED", "-fsanitize=thread", "-c", HERE / source, "-o", *objects]
        subprocess.run([*command, *hooked], check=True)
    result = folder / "kernel"
    subprocess.run([*command, *objects, *more, "-o", result], check=True)
    return result


class StepCounts(NamedTuple):
    """What the kernel does for a sample in a training step, by all threads of a block.

    Attributes:
        multiply_adds: fused ones.
        loads, stores: of shared memory, one for each access of up to 16 bytes.
    """

    multiply_adds: int
    loads: int
    stores: int


def count_a_step(layout: Layout, activation: str, dropout: bool) -> StepCounts:
    """Count what a step of ten samples does, with the threads and the memory of an H100."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_kernel(
            *(Path(folder), layout, activation, dropout, "program.cpp", "-O2", "-march=native"),
            threads=library.THREADS, counted=True,
        )  # fmt: skip
        done = subprocess.run([program], capture_output=True, text=True, check=True)
    return StepCounts(*map(int, done.stdout.split()))


class EmulatedKernel:
    """See population.Kernel."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        count = len(Facts._fields)
        self.facts = Facts(*(ctypes.c_int64 * count).in_dll(library, "facts"))

    def launch(self, name: str, grid: tuple[int, int], arguments: Arguments) -> None:
        self._library[f"launch_{name}"](ctypes.byref(arguments), *grid)


class Emulator:
    """Makes kernels; what `CudaPopulation` takes as `load`.

    Args:
        threads: of a block.
        shared_bytes: of shared memory that a block can have.
    """

    def __init__(self, threads: int = 3, shared_bytes: int = WHOLE) -> None:
        self.threads, self.shared_bytes = threads, shared_bytes

    def __call__(
        self, layout: Layout, activation: str, dropout: bool, device: torch.device
    ) -> EmulatedKernel:
        return _emulated(layout, activation, dropout, self.threads, self.shared_bytes)


@lru_cache
def _emulated(
    layout: Layout, activation: str, dropout: bool, threads: int, shared_bytes: int
) -> EmulatedKernel:
    with tempfile.TemporaryDirectory() as folder:
        path = compile_kernel(
            *(Path(folder), layout, activation, dropout, "emulated.cpp"),
            *("-O1", "-march=native", "-fPIC", "-shared"),
            threads=threads, shared_bytes=shared_bytes,
        )  # fmt: skip
        return EmulatedKernel(ctypes.CDLL(str(path)))
