"""The resources of a GPU that the CUDA kernel needs, from its compiled code. Needs no GPU.

The kernel of each network is compiled for each architecture of GPUs with the options of the engine.
The compiler reports registers and spills; the disassembled code has the size, the instructions and
the kernel's facts about itself. The command fails if the kernel spills, needs more shared memory
than a block can have, does not fit on a multiprocessor, or needs a tenth more registers or code
than the committed figures.

No speed is measured. Instructions are counted in the code, although loops run some of them more
often than others. The cost of a sample is counted while the kernel runs on a processor. The bound
of model-samples per second is only calculated: the multiply-adds of a sample at the
single-precision peak of an H100 or H200, which no kernel reaches.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tests.generation.engines.cuda.emulated import count_a_step

from ...builders.layout import Layout, make_layout
from ...errors import CudaUnavailable
from ...generation.engines.cuda.library import Facts, Source
from .generation import training_operations
from .measure import markdown

BASELINE = Path(__file__).parents[1] / "results" / "cuda-resources.json"
GROWTH = 1.1
"""Limit of a kernel's registers and code bytes, as a multiple of the baseline's."""

FUNCTIONS = ("train", "evaluate")
PEAK = 132 * 128 * 1.98e9
"""Multiply-adds per second of an H100 or H200: multiprocessors, lanes of each, Hz."""


class Gpu(NamedTuple):
    """One architecture of GPUs.

    Attributes:
        architecture: its name for the compiler.
        block_bytes: bytes of shared memory that a block can have.
        shared_bytes: bytes of shared memory of a multiprocessor.
        threads: maximal number of threads on a multiprocessor.
    """

    architecture: str
    block_bytes: int
    shared_bytes: int
    threads: int


GPUS = (
    Gpu("sm_80", 166_912, 167_936, 2048),
    Gpu("sm_90a", 232_448, 233_472, 2048),
    Gpu("sm_100a", 232_448, 233_472, 2048),
    Gpu("sm_120a", 101_376, 102_400, 1536),
)
"""A100; H100 and H200; B200; RTX 50."""

COUNTED = ("multiply_adds", "loads", "stores")
"""The counted operations of a sample; see `count_sample`."""

QUARTER = 16_384
"""Registers of a quarter of a multiprocessor; a warp runs in one quarter."""

INSTALL = "pip install '.[gpu-check]'"
INSTRUCTION = 16
"""Bytes of an instruction."""


class Network(NamedTuple):
    """A network for which the kernel is compiled."""

    name: str
    layout: Layout
    activation: str
    dropout: bool = False


NETWORKS = (
    Network("CNN-s", make_layout("cnn_s", 1), "tanh"),
    Network("CNN-s, dropout", make_layout("cnn_s", 1), "tanh", True),
    Network("CNN-l", make_layout("cnn_l", 3), "gelu"),
    *(
        Network(text, make_layout(text, 1), "relu")
        for text in ("1x28x28 conv16k3s2 conv16k3s2 conv16k3s2 gap fc10", "1x28x28 fc64 fc10")
    ),
)


def measure(
    jobs: Annotated[
        int, typer.Option(help="Kernels compiled side by side. Each takes a core for seconds.")
    ] = os.cpu_count() or 1,
) -> dict[str, Any]:
    """Return the version of NVRTC (`nvrtc`), the figures of each network and GPU architecture
    (`kernels`), and what a training sample of each network takes (`samples`).

    Raises:
        CudaUnavailable: a package is missing, or the kernel cannot be compiled.
    """
    version = compiler_version()
    pairs = [(network, gpu) for network in NETWORKS for gpu in GPUS]
    with ThreadPoolExecutor(jobs) as threads:
        kernels = list(threads.map(lambda pair: measure_kernel(*pair), pairs))
        samples = list(threads.map(count_sample, NETWORKS))
    return {"nvrtc": version, "kernels": kernels, "samples": samples}


def count_sample(network: Network) -> dict[str, Any]:
    """Return the operations of a training sample, counted in the kernel on a processor."""
    counts = count_a_step(network.layout, network.activation, network.dropout)
    return {"network": network.name, **counts._asdict()}


def compiler_version() -> str:
    """Return the version of NVRTC.

    Raises:
        CudaUnavailable: it is missing, or nvdisasm is.
    """
    _disassembler()
    try:
        _, major, minor = _module("cuda.bindings.nvrtc").nvrtcVersion()
    except RuntimeError as error:  # of cuda.pathfinder
        raise CudaUnavailable(f"NVRTC is missing ({error}): {INSTALL}") from None
    return f"{major}.{minor}"


def measure_kernel(network: Network, gpu: Gpu) -> dict[str, Any]:
    """Return the figures of one kernel."""
    source = Source.read(
        *(network.layout, network.activation, network.dropout),
        architecture=gpu.architecture,
        shared_bytes=gpu.block_bytes,
        more=("--ptxas-options=-v",),
    )
    cubin, log = source.compile()
    code = disassemble(cubin)
    facts, compiled, instructions = read_facts(code), read_log(log), read_instructions(code)
    multiply_adds = training_operations(network.layout) // 2
    figures: dict[str, Any] = {
        "network": network.name,
        "architecture": gpu.architecture,
        "block_bytes": gpu.block_bytes,
        **{name: getattr(facts, name) for name in ("threads", "together", "shared_bytes")},
        "scratch_bytes": facts.scratch_bytes,
        "multiply_adds_per_model_sample": multiply_adds,
        "model_samples_per_second_at_fp32_peak": round(PEAK / multiply_adds),
    }
    for name in FUNCTIONS:
        count = instructions[name]
        figures[name] = {
            **compiled[name],
            "blocks": blocks_together(
                gpu,
                threads=facts.threads,
                registers=compiled[name]["registers"],
                shared_bytes=facts.shared_bytes,
            ),
            "code_bytes": INSTRUCTION * count.total(),
            "ffma": sum(count[word] for word in count if word.startswith("FFMA")),
            "lds": count["LDS"],
        }
    return figures


def blocks_together(gpu: Gpu, *, threads: int, registers: int, shared_bytes: int) -> int:
    """Return the number of blocks that a multiprocessor holds at a time.

    A warp gets its registers in units of 256. A block gets 1 kB of shared memory more than it
    requests, in units of 128 bytes.

    Args:
        threads: number of threads in a block.
        registers: number of registers of a thread.
        shared_bytes: bytes of shared memory that a block requests.
    """
    warps = -(-threads // 32)
    of_warp = _multiple(256, 32 * registers)
    return min(
        4 * (QUARTER // of_warp) // warps,
        gpu.threads // (32 * warps),
        gpu.shared_bytes // _multiple(128, shared_bytes + 1024),
    )


def read_log(text: str) -> dict[str, dict[str, int]]:
    """Return by function what ptxas -v prints: registers per thread, bytes of stack and spills."""
    found: dict[str, dict[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            name = entry[1]
            found[name] = {}
        elif sizes := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, stores, loads = map(int, sizes.groups())
            found[name] |= {"stack_bytes": stack, "spill_bytes": stores + loads}
        elif used := re.search(r"Used (\d+) registers", line):
            found[name]["registers"] = int(used[1])
    if any(len(found.get(name, {})) < 3 for name in FUNCTIONS):
        raise CudaUnavailable(f"ptxas does not say what the kernel takes: {text[:200]!r}")
    return found


def read_instructions(code: str) -> dict[str, Counter[str]]:
    """Return by function the counts of instructions (without suffixes) in disassembled code."""
    found: dict[str, Counter[str]] = {}
    name = ""
    for line in code.splitlines():
        if section := re.match(r"\s*\.section\s+(\S+?),", line):
            name = section[1].removeprefix(".text.") if ".text." in section[1] else ""
        elif name and (
            operation := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", line)
        ):
            found.setdefault(name, Counter())[operation[1]] += 1
    if not found.keys() >= set(FUNCTIONS):
        raise CudaUnavailable(f"nvdisasm shows no code of the kernel: {code[:200]!r}")
    return found


def read_facts(code: str) -> Facts:
    """Return the initial value of the kernel's `facts` from disassembled code."""
    _, _, data = code.partition("\nfacts:\n")
    read = bytearray()
    for line in data.splitlines():
        if not (row := re.match(r"\s*/\*[0-9a-f]+\*/\s+\.byte\s+(.*)", line)):
            break
        read += bytes(int(byte, 16) for byte in row[1].split(","))
    numbers = [int.from_bytes(read[at : at + 8], "little") for at in range(0, len(read), 8)]
    if len(numbers) != len(Facts._fields):
        raise CudaUnavailable(f"nvdisasm shows {len(numbers)} facts of the kernel")
    return Facts(*numbers)


def disassemble(cubin: bytes) -> str:
    """Return nvdisasm's text of a cubin.

    Raises:
        CudaUnavailable: there is no nvdisasm.
    """
    program = _disassembler()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([program, path], capture_output=True, text=True, check=True)
    return done.stdout


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    columns = ("network", "GPU", "registers", "shared memory", "samples", "blocks")
    more = ("spills", "code", "FFMA", "LDS")
    rows = [
        (
            *(kernel["network"], kernel["architecture"], _both(kernel, "registers")),
            *(f"{kernel['shared_bytes']:,} B", str(kernel["together"]), _both(kernel, "blocks")),
            *(_both(kernel, "spill_bytes"), _both(kernel, "code_bytes")),
            *(f"{kernel['train'][name]:,}" for name in ("ffma", "lds")),
        )
        for kernel in figures["kernels"]
    ]
    counted = {sample["network"]: sample for sample in figures["samples"]}
    bounds = {
        kernel["network"]: (
            f"{kernel['multiply_adds_per_model_sample']:,}",
            *(f"{counted[kernel['network']][name]:,}" for name in COUNTED),
            f"{kernel['model_samples_per_second_at_fp32_peak']:,}",
        )
        for kernel in figures["kernels"]
    }
    titles = ("network", "multiply-adds", "run", "loads", "stores", "bound of model-samples / s")
    return "\n\n".join(
        [
            f"NVRTC {figures['nvrtc']}. Registers a thread, blocks a multiprocessor, bytes of"
            " spills and of code: of training / of evaluation. FFMA and LDS are counted in the code"
            " of training, each once, however often loops run it.",
            markdown((*columns, *more), 2, rows),
            "A model-sample: multiply-adds, forward and backward; how many of them the kernel runs"
            " (not those with zeros under a pool); its loads and stores of shared memory, as a"
            " processor runs it. The bound is arithmetic, not a measurement: the multiply-adds at"
            " the fp32 peak of an H100 or H200.",
            markdown(titles, 1, [(name, *bound) for name, bound in bounds.items()]),
        ]
    )


def faults(figures: Mapping[str, Any], baseline: Mapping[str, Any] | None = None) -> list[str]:
    """Return the reasons for which the command fails, as sentences.

    Args:
        figures: the result of `measure`.
        baseline: earlier figures; by default those of `BASELINE`. Growth of a kernel without
            earlier figures is not checked.
    """
    if baseline is None:
        baseline = json.loads(BASELINE.read_text())["results"] if BASELINE.exists() else {}
    before = {_key(kernel): kernel for kernel in baseline.get("kernels", ())}
    compilers = f"NVRTC {baseline.get('nvrtc')} before, {figures['nvrtc']} now"
    return [
        f"{kernel['network']} on {kernel['architecture']}: {fault}"
        for kernel in figures["kernels"]
        for fault in _faults_of(kernel, before.get(_key(kernel)), compilers)
    ]


def _faults_of(
    kernel: Mapping[str, Any], before: Mapping[str, Any] | None, compilers: str
) -> Iterator[str]:
    shared, most = kernel["shared_bytes"], kernel["block_bytes"]
    if shared > most:
        yield f"a block asks for {shared:,} bytes of shared memory and can have {most:,}"
    for name in FUNCTIONS:
        now = kernel[name]
        if now["spill_bytes"]:
            yield f"{name} spills {now['spill_bytes']:,} bytes"
        if now["blocks"] < 1:
            yield f"no block of {name} fits on a multiprocessor ({now['registers']} registers)"
        for figure, title in (("registers", "registers"), ("code_bytes", "bytes of code")):
            if before is not None and now[figure] > GROWTH * before[name][figure]:
                grown = f"{now[figure]:,} {title} instead of {before[name][figure]:,}"
                yield f"{name} has {grown} ({compilers})"


def _key(kernel: Mapping[str, Any]) -> tuple[str, str]:
    return kernel["network"], kernel["architecture"]


def _both(kernel: Mapping[str, Any], figure: str) -> str:
    return " / ".join(f"{kernel[name][figure]:,}" for name in FUNCTIONS)


def _multiple(unit: int, number: int) -> int:
    """Round up to a multiple."""
    return -(-number // unit) * unit


def _module(name: str) -> Any:
    """Return a module of a package that only this command needs.

    Raises:
        CudaUnavailable: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CudaUnavailable(f"{error}: {INSTALL}") from None


def _disassembler() -> str:
    program: str | None = _module("cuda.pathfinder").find_nvidia_binary_utility("nvdisasm")
    if program is None:
        raise CudaUnavailable(f"nvdisasm is missing: {INSTALL}")
    return program
