"""Compiles the GPU kernel of one network with NVRTC, and launches it.

The compiler and the driver are reached through cuda-bindings, which CUDA builds of torch bring
along with NVRTC itself. A cubin is made at first use, in ten to twenty seconds, for the GPU at
hand, and kept (kernels/cache.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ....builders.layout import Layout
from ....errors import CudaUnavailable
from ..kernels import HEADERS, architecture_header
from ..kernels.cache import cache_root, cached

FOLDER = Path(__file__).parent
THREADS = 256
"""Of a block: a choice from the arithmetic alone, to be measured."""

OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    "--ftz=true",
    "--fmad=false",
    "--prec-div=true",
    "--prec-sqrt=true",
)
"""No contraction but the kernel's own, as in the lanes: the bits depend on it."""

MAX_WEIGHTS = 1_000_000
"""Of a network that this engine trains: the gradients of larger ones fill the GPU's caches."""

_building = threading.Lock()
"""So that the threads of a process do not compile the same kernel side by side."""


class Facts(NamedTuple):
    """What a kernel says of itself; kernel.cu lists them in this order.

    Attributes:
        span: numbers of a weight vector in the kernel's order, with those between the tensors.
        together: samples that a block works on at a time.
        weights_in_shared, samples_in_shared: what lies in shared memory, 0 or 1.
        shared_bytes: of shared memory for each block.
        scratch_bytes: of global memory for each block.
        threads: of a block.
        slice_images: that a block evaluates.
    """

    span: int
    together: int
    weights_in_shared: int
    samples_in_shared: int
    shared_bytes: int
    scratch_bytes: int
    threads: int
    slice_images: int


class Arguments(ctypes.Structure):
    """The kernel's `Arguments`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("parameters", "rates", "images", "labels")),
        *((name, ctypes.c_void_p) for name in ("orders", "steps", "totals", "scratch")),
        *((name, ctypes.c_int64) for name in ("n", "batch_size", "before")),
        *((name, ctypes.c_int32) for name in ("optimizer", "dropout", "momenta", "first")),
    )


def compile_cubin(
    layout: Layout,
    activation: str,
    dropout: bool,
    *,
    architecture: str,
    shared_bytes: int,
    more: tuple[str, ...] = (),
) -> tuple[bytes, str]:
    """Compile the kernel of one network. No GPU is needed.

    Args:
        layout, activation: of the network.
        dropout: whether units can be dropped.
        architecture: of the GPU, such as "sm_90a".
        shared_bytes: of shared memory that a block can have on it.
        more: further options of NVRTC.

    Returns:
        The cubin, and what the compiler says.

    Raises:
        CudaUnavailable: there is no NVRTC, or it refuses.
    """
    nvrtc, _ = _compiler()
    headers = {path.name: path.read_text() for path in (FOLDER / "scalars.hpp", *HEADERS)}
    headers["architecture.hpp"] = architecture_header(layout, activation, dropout=dropout)
    options = [
        *(f"--gpu-architecture={architecture}", *OPTIONS, *more),
        *(f"-DTHREADS={THREADS}", f"-DSHARED_BYTES={shared_bytes}"),
    ]
    program = _nvrtc(
        nvrtc.nvrtcCreateProgram(
            (FOLDER / "kernel.cu").read_bytes(),
            b"kernel.cu",
            len(headers),
            [text.encode() for text in headers.values()],
            [name.encode() for name in headers],
        )
    )
    [result] = nvrtc.nvrtcCompileProgram(
        program, len(options), [option.encode() for option in options]
    )
    log = b" " * _nvrtc(nvrtc.nvrtcGetProgramLogSize(program))
    _nvrtc(nvrtc.nvrtcGetProgramLog(program, log))
    text = log.decode(errors="replace").strip("\0 \n")
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        lines = [line for line in text.splitlines() if "error" in line] or [text or str(result)]
        raise CudaUnavailable(f"NVRTC cannot compile the kernel: {lines[0].strip()}")
    cubin = b" " * _nvrtc(nvrtc.nvrtcGetCUBINSize(program))
    _nvrtc(nvrtc.nvrtcGetCUBIN(program, cubin))
    _nvrtc(nvrtc.nvrtcDestroyProgram(program))
    return cubin, text


def load(layout: Layout, activation: str, dropout: bool, device: torch.device) -> CudaKernel:
    """The kernel of one network on one GPU; compiled if it is not in the cache.

    Raises:
        CudaUnavailable: no GPU, no cuda-bindings, no NVRTC, a network that is too large.
    """
    if not torch.cuda.is_available():
        raise CudaUnavailable("torch finds no CUDA device")
    if layout.size > MAX_WEIGHTS:
        raise CudaUnavailable(
            f"the CUDA kernel trains networks of at most {MAX_WEIGHTS:,} weights; "
            f"{layout.architecture.title:.100} has {layout.size:,}"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    with _building:
        return _load(layout, activation, dropout, index)


@lru_cache
def _load(layout: Layout, activation: str, dropout: bool, index: int) -> CudaKernel:
    driver, (_, version) = _bindings("driver"), _compiler()
    torch.cuda.init()
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # this thread has torch's context now
        major, minor = torch.cuda.get_device_capability(index)
        architecture = f"sm_{major}{minor}" + "a" * (major >= 9)
        opt_in = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        shared_bytes = _driver(driver, driver.cuDeviceGetAttribute(opt_in, index))
        header = architecture_header(layout, activation, dropout=dropout)
        sources = [path.read_text() for path in (*sorted(FOLDER.glob("*.[ch]*")), *HEADERS)]
        facts = (*OPTIONS, str(THREADS), str(shared_bytes), version)
        digest = hashlib.sha256("\0".join([*sources, header, *facts]).encode()).hexdigest()
        name = f"{layout.architecture.file_name}_{activation}_{architecture}-{digest[:20]}"

        def build(folder: Path) -> Path:
            cubin, _ = compile_cubin(
                *(layout, activation, dropout),
                architecture=architecture,
                shared_bytes=shared_bytes,
            )
            (folder / "kernel.cubin").write_bytes(cubin)
            return folder / "kernel.cubin"

        try:
            cubin = cached(cache_root() / "cuda", name, ".cubin", build, Path.read_bytes)
        except OSError as failure:
            raise CudaUnavailable(f"cannot build the kernel: {failure}") from None
        return CudaKernel(driver, cubin, index)


class CudaKernel:
    """A kernel in the memory of a GPU; see population.Kernel.

    Args:
        driver: cuda.bindings.driver.
        cubin: of `compile_cubin`.
        index: of the device, whose context must be the current one.
    """

    def __init__(self, driver: Any, cubin: bytes, index: int) -> None:  # noqa: ANN401
        self._driver, self._index = driver, index
        self._module = _driver(driver, driver.cuModuleLoadData(cubin))
        address, size = _driver(driver, driver.cuModuleGetGlobal(self._module, b"facts"))
        numbers = (ctypes.c_int64 * (size // 8))()
        _driver(driver, driver.cuMemcpyDtoH(ctypes.addressof(numbers), address, size))
        self.facts = Facts(*numbers)
        self._functions = {}
        for name in ("train", "evaluate"):
            function = _driver(driver, driver.cuModuleGetFunction(self._module, name.encode()))
            dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _driver(driver, driver.cuFuncSetAttribute(function, dynamic, self.facts.shared_bytes))
            self._functions[name] = function

    def launch(self, name: str, grid: tuple[int, int], arguments: Arguments) -> None:
        """Start "train" or "evaluate" behind whatever torch has started on this device."""
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self._index):
            stream = torch.cuda.current_stream().cuda_stream
            _driver(
                self._driver,
                self._driver.cuLaunchKernel(
                    self._functions[name],
                    *(*grid, 1),
                    *(self.facts.threads, 1, 1),
                    self.facts.shared_bytes,
                    stream,
                    ctypes.addressof(pointers),
                    0,
                ),
            )


def _bindings(name: str) -> Any:  # noqa: ANN401
    """A module of cuda-bindings, which has no types.

    Raises:
        CudaUnavailable: it is not installed.
    """
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        raise CudaUnavailable(
            f"the engine cuda needs the package cuda-bindings ({error}): pip install cuda-bindings"
        ) from None


def _compiler() -> tuple[Any, str]:
    """NVRTC and its version.

    Raises:
        CudaUnavailable: it is not installed.
    """
    nvrtc = _bindings("nvrtc")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-bindings finds no library
        raise CudaUnavailable(
            f"the engine cuda needs NVRTC ({str(error).splitlines()[0]}): "
            "pip install nvidia-cuda-nvrtc"
        ) from None
    return nvrtc, f"{major}.{minor}"


def _nvrtc(answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """What a call of NVRTC returns behind its result."""
    result, *rest = answer
    if result.value:
        raise CudaUnavailable(f"NVRTC: {result.name}")
    return rest[0] if rest else None


def _driver(driver: Any, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """What a call of the driver returns behind its result."""
    result, *rest = answer
    if result.value:
        _, text = driver.cuGetErrorString(result)
        raise CudaUnavailable(f"CUDA: {(text or result.name.encode()).decode()}")
    return rest[0] if len(rest) == 1 else tuple(rest) or None
