"""Compile the GPU kernel of one network with NVRTC, and launch it.

The compiler and the driver are called through cuda-bindings, which recent CUDA builds of torch
install together with NVRTC. A cubin is compiled at first use for the present GPU, in ten seconds
or, for networks of many layers, minutes, and cached (kernels/cache.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ....builders.layout import Layout
from ....errors import CudaUnavailable
from ..kernels import HEADERS, SizeLimits, architecture_header, without_kernel
from ..kernels.cache import cache_root, cached

FOLDER = Path(__file__).parent
THREADS = 256
"""Threads of a block. Chosen by calculation, not measured yet."""

OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    "--ftz=true",
    "--fmad=false",
    "--prec-div=true",
    "--prec-sqrt=true",
)
"""As in the lanes, the kernel alone decides on contractions, since the bits depend on them."""

LIMITS = SizeLimits(layers=16, weights=1_000_000, outputs=1_000_000, row=16_384)
"""Size limits of the networks that this engine trains. NVRTC takes minutes for more layers. Larger
networks do not fit shared memory: every block would read them from global memory, and stacked
products are faster."""

_building = threading.Lock()
"""Keeps the threads of a process from compiling the same kernel at the same time."""


class Facts(NamedTuple):
    """Facts that a kernel states about itself; kernel.cu lists them in this order.

    Attributes:
        span: length of a weight vector in the kernel's order, including gaps between tensors.
        together: samples that a block handles at a time.
        weights_in_shared, samples_in_shared: whether they are in shared memory, 0 or 1.
        shared_bytes: bytes of shared memory for each block.
        scratch_bytes: bytes of global memory for each block.
        threads: number of threads in a block.
        slice_images: number of images that a block evaluates.
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
        *((name, ctypes.c_void_p) for name in ("orders", "steps", "totals", "scratch", "losses")),
        *((name, ctypes.c_int64) for name in ("n", "batch_size", "before")),
        *((name, ctypes.c_int32) for name in ("optimizer", "dropout", "momenta", "models")),
        *((name, ctypes.c_int32) for name in ("first_model", "first_slice")),
    )


@dataclass(frozen=True)
class Source:
    """Everything that a kernel is compiled from.

    Attributes:
        kernel: content of kernel.cu.
        headers: name and text of its include files.
        options: options of the compiler.
    """

    kernel: str
    headers: tuple[tuple[str, str], ...]
    options: tuple[str, ...]

    @classmethod
    def read(
        cls,
        layout: Layout,
        activation: str,
        dropout: bool,
        architecture: str,
        shared_bytes: int,
        more: tuple[str, ...] = (),
    ) -> Source:
        """Return the source for one network and one GPU architecture.

        Args:
            layout, activation: of the network.
            dropout: whether the kernel supports dropout.
            architecture: of the GPU, such as "sm_90a".
            shared_bytes: bytes of shared memory that a block can use on it.
            more: further options of NVRTC.
        """
        included = [(path.name, path.read_text()) for path in (FOLDER / "scalars.hpp", *HEADERS)]
        header = architecture_header(layout, activation, dropout=dropout)
        return cls(
            kernel=(FOLDER / "kernel.cu").read_text(),
            headers=(*included, ("architecture.hpp", header)),
            options=(
                *(f"--gpu-architecture={architecture}", *OPTIONS, *more),
                *(f"-DTHREADS={THREADS}", f"-DSHARED_BYTES={shared_bytes}"),
            ),
        )

    def compile(self) -> tuple[bytes, str]:
        """Return the cubin, and the compiler's messages. No GPU is needed.

        Raises:
            CudaUnavailable: NVRTC is missing, or cannot compile the source.
        """
        nvrtc, version = _compiler()
        names, texts = zip(*self.headers, strict=True)
        program = _nvrtc(
            nvrtc.nvrtcCreateProgram(
                self.kernel.encode(),
                b"kernel.cu",
                len(names),
                [text.encode() for text in texts],
                [name.encode() for name in names],
            )
        )
        try:
            options = [option.encode() for option in self.options]
            [result] = nvrtc.nvrtcCompileProgram(program, len(options), options)
            # Bytearrays, since NVRTC writes into them, and Python shares short bytes objects.
            log = bytearray(_nvrtc(nvrtc.nvrtcGetProgramLogSize(program)))
            _nvrtc(nvrtc.nvrtcGetProgramLog(program, log))
            text = log.decode(errors="replace").strip("\0 \n")
            if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                lines = [line for line in text.splitlines() if "error" in line] or [text, result]
                raise CudaUnavailable(
                    f"NVRTC {version} cannot compile the kernel with {self.options[0]}: "
                    f"{str(lines[0]).strip()}"
                )
            cubin = bytearray(_nvrtc(nvrtc.nvrtcGetCUBINSize(program)))
            _nvrtc(nvrtc.nvrtcGetCUBIN(program, cubin))
        finally:
            _nvrtc(nvrtc.nvrtcDestroyProgram(program))
        return bytes(cubin), text


def check(layout: Layout, activations: Iterable[str], device: str | torch.device) -> None:
    """Refuse networks that the kernel does not train, and devices that it is not for.

    No kernel is built, and no GPU is needed to know.

    Raises:
        CudaUnavailable: the device is not a GPU, the networks are too large, or the kernel has no
            struct for an activation.
    """
    if torch.device(device).type != "cuda":
        raise CudaUnavailable(
            f"the engine cuda needs a CUDA device, and this run is on {str(device)!r}"
        )
    if (misfit := LIMITS.misfit(layout)) is not None:
        raise CudaUnavailable(f"the CUDA kernel trains networks of at most {misfit}")
    if (lacking := without_kernel(layout, activations)) is not None:
        raise CudaUnavailable(f"the CUDA kernel has no activation {lacking!r}")


def load(layout: Layout, activation: str, dropout: bool, device: torch.device) -> CudaKernel:
    """Return the kernel of one network on one GPU; compile it if it is not in the cache.

    Raises:
        CudaUnavailable: no GPU, no cuda-bindings, no NVRTC, a network that is too large.
    """
    if not torch.cuda.is_available():
        raise CudaUnavailable("torch finds no CUDA device")
    check(layout, [activation], device)
    index = torch.cuda.current_device() if device.index is None else device.index
    with _building:
        return _load(layout, activation, dropout, index)


@lru_cache
def _load(layout: Layout, activation: str, dropout: bool, index: int) -> CudaKernel:
    driver, (_, version) = _bindings("driver"), _compiler()
    torch.cuda.init()
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # this thread now has torch's context
        major, minor = torch.cuda.get_device_capability(index)
        architecture = f"sm_{major}{minor}" + "a" * (major >= 9)
        opt_in = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        shared_bytes = _driver(driver, driver.cuDeviceGetAttribute, opt_in, index)
        source = Source.read(layout, activation, dropout, architecture, shared_bytes)
        digest = hashlib.sha256(f"{version}\0{source}".encode()).hexdigest()
        name = f"{layout.architecture.file_name}_{activation}_{architecture}-{digest[:20]}"

        def build(folder: Path) -> Path:
            cubin, _ = source.compile()
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
        cubin: the result of `Source.compile`.
        index: index of the device, whose context must be the current one.
    """

    def __init__(self, driver: Any, cubin: bytes, index: int) -> None:  # noqa: ANN401
        self._driver, self._index = driver, index
        self._module = _driver(driver, driver.cuModuleLoadData, cubin)
        address, size = _driver(driver, driver.cuModuleGetGlobal, self._module, b"facts")
        numbers = (ctypes.c_int64 * (size // 8))()
        _driver(driver, driver.cuMemcpyDtoH, ctypes.addressof(numbers), address, size)
        self.facts = Facts(*numbers)
        self._functions = {}
        for name in ("train", "evaluate", "add_losses"):
            function = _driver(driver, driver.cuModuleGetFunction, self._module, name.encode())
            dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _driver(driver, driver.cuFuncSetAttribute, function, dynamic, self.facts.shared_bytes)
            self._functions[name] = function

    def launch(self, name: str, grid: tuple[int, int], arguments: Arguments) -> None:
        """Launch a function of the kernel after all that torch has launched on this device."""
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self._index):
            stream = torch.cuda.current_stream().cuda_stream
            _driver(
                self._driver,
                self._driver.cuLaunchKernel,
                self._functions[name],
                *(*grid, 1),
                *(self.facts.threads, 1, 1),
                self.facts.shared_bytes,
                stream,
                ctypes.addressof(pointers),
                0,
            )


def _bindings(name: str) -> Any:  # noqa: ANN401
    """Return a module of cuda-bindings, which has no types.

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
    """Return NVRTC and its version.

    Raises:
        CudaUnavailable: it is not installed.
    """
    nvrtc = _bindings("nvrtc")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-bindings finds no library
        package = "nvidia-cuda-nvrtc" + "-cu12" * (torch.version.cuda or "").startswith("12.")
        raise CudaUnavailable(
            f"the engine cuda needs NVRTC ({str(error).partition(':')[0]}): pip install {package}"
        ) from None
    return nvrtc, f"{major}.{minor}"


def _nvrtc(answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """Return the results of a call of NVRTC after its status."""
    result, *rest = answer
    if result.value:
        raise CudaUnavailable(f"NVRTC: {result.name}")
    return rest[0] if rest else None


def _driver(driver: Any, call: Any, *given: object) -> Any:  # noqa: ANN401
    """Return the results of a call of the driver after its status."""
    try:
        result, *rest = call(*given)
    except (RuntimeError, ValueError, KeyError) as error:  # a driver that cuda-bindings cannot use
        raise CudaUnavailable(f"{call.__name__}: {error}") from None
    if result.value:
        _, text = driver.cuGetErrorString(result)
        reason = (text or result.name.encode()).decode()
        raise CudaUnavailable(f"{call.__name__}: {reason}")
    return rest[0] if len(rest) == 1 else tuple(rest) or None
