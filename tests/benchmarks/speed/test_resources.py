"""What the CUDA kernel takes of a GPU: texts of the compiler, occupancy, and what is refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_zoos.benchmarks.speed import resources
from model_zoos.benchmarks.speed.generation import training_operations
from model_zoos.errors import CudaUnavailable

# Of ptxas and nvdisasm 13.5, shortened.
LOG = """\
ptxas info    : 1518 bytes gmem, 1072 bytes cmem[4]
ptxas info    : Compiling entry function 'evaluate' for 'sm_80'
ptxas info    : Function properties for evaluate
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 105 registers, used 1 barriers, 456 bytes cmem[0]
ptxas info    : Compile time = 337.188 ms
ptxas info    : Compiling entry function 'train' for 'sm_80'
ptxas info    : Function properties for train
ptxas         .     24 bytes stack frame, 36 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 456 bytes cmem[0], 24 bytes cmem[2]
ptxas info    : Compile time = 1647.184 ms"""

CODE = """\
\t.target\tsm_90a

//--------------------- .debug_frame              --------------------------
\t.section\t.debug_frame,"",@progbits
        /*00c4*/ \t.dword\t(evaluate + $__internal_0_$__cuda_sm20_div_s64@srel)

//--------------------- .text.evaluate            --------------------------
\t.section\t.text.evaluate,"ax",@progbits
\t.align\t128
        .global         evaluate
evaluate:
.text.evaluate:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 BRA `(.L_x_1) ;
.L_x_1:
        /*0020*/                   LDS.128 R20, [R68+0x1d0] ;

//--------------------- .text.train               --------------------------
\t.section\t.text.train,"ax",@progbits
\t.sectioninfo\t@"SHI_REGISTERS=117"
train:
.text.train:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDS.U8 R7, [R4] ;
        /*0020*/              @UP1 UMOV UR4, 0x400 ;
        /*2bf0*/                   LDS R20, [R68+0x50b0] ;
        /*2c00*/                   FFMA.FTZ R26, R47, R32.reuse, R88 ;
        /*2c10*/              @!PT FFMA2 R26, R47, R32, R88 ;
        /*1cf70*/                  NOP;

//--------------------- .nv.global.init           --------------------------
\t.section\t.nv.global.init,"aw",@progbits
        /*0008*/ \t.byte\t0x20, 0xe2, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
\t.type\t\tfacts,@object
\t.size\t\tfacts,(_ZN8networks11ConvolutionILi1EE6kernelE - facts)
facts:
        /*0010*/ \t.byte\t0xa4, 0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
        /*0020*/ \t.byte\t0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
        /*0030*/ \t.byte\t0xc0, 0x30, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
        /*0040*/ \t.byte\t0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00
\t.type\t\t_ZN8networks11ConvolutionILi1EE6kernelE,@object
"""  # noqa: E501
SM_80, SM_90, _, SM_120 = resources.GPUS


def test_the_log_of_the_compiler_is_read() -> None:
    assert resources.read_log(LOG) == {
        "evaluate": {"stack_bytes": 0, "spill_bytes": 0, "registers": 105},
        "train": {"stack_bytes": 24, "spill_bytes": 64, "registers": 128},
    }


def test_the_code_is_read() -> None:
    instructions = resources.read_instructions(CODE)
    assert instructions == {
        "evaluate": {"LDC": 1, "BRA": 1, "LDS": 1},
        "train": {"LDC": 1, "LDS": 2, "UMOV": 1, "FFMA": 1, "FFMA2": 1, "NOP": 1},
    }


def test_the_facts_of_the_kernel_are_read() -> None:
    facts = resources.read_facts(CODE)
    assert (facts.span, facts.together, facts.shared_bytes) == (2468, 6, 78_016)
    assert (facts.scratch_bytes, facts.threads, facts.slice_images) == (0, 256, 512)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (resources.read_log, ""),
        (resources.read_log, LOG.replace("spill stores", "stores")),
        (resources.read_log, LOG.partition("'train'")[0]),
        (resources.read_instructions, ""),
        (resources.read_instructions, CODE.replace(".text.train", ".text.other")),
        (resources.read_facts, CODE.replace("facts:", "other:")),
        (resources.read_facts, CODE.partition("        /*0040*/")[0]),
    ],
)
def test_another_text_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(CudaUnavailable, match=r"^(ptxas|nvdisasm) "):
        read(text)


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared_bytes", "blocks"),
    [
        # Of the CUDA Best Practices Guide: 37 registers allow 48 warps of 64.
        (SM_90, 128, 37, 0, 12),
        (SM_90, 320, 37, 0, 4),
        # Registers: 128 are the most for two blocks of 256 threads, 255 for one. 160 are 5,120 a
        # warp: three in each quarter, though four quarters together would have them for 12.8.
        (SM_90, 256, 128, 0, 2),
        (SM_90, 256, 129, 0, 1),
        (SM_90, 256, 255, 0, 1),
        (SM_90, 32, 160, 0, 12),
        (SM_90, 512, 255, 0, 0),
        # Threads.
        (SM_80, 256, 32, 0, 8),
        (SM_120, 256, 32, 0, 6),
        # Shared memory: half of it without 1 kB, and a byte more.
        (SM_80, 256, 64, 82_944, 2),
        (SM_80, 256, 64, 82_945, 1),
        (SM_90, 256, 64, 115_712, 2),
        (SM_90, 256, 64, 115_713, 1),
        (SM_90, 256, 64, 232_448, 1),
        (SM_120, 256, 64, 101_376, 1),
        (SM_120, 256, 64, 101_377, 0),
    ],
)
def test_how_many_blocks_a_multiprocessor_holds(
    gpu: resources.Gpu, threads: int, registers: int, shared_bytes: int, blocks: int
) -> None:
    found = resources.blocks_together(
        gpu, threads=threads, registers=registers, shared_bytes=shared_bytes
    )
    assert found == blocks


@pytest.mark.parametrize("gpu", resources.GPUS)
def test_a_block_can_have_all_but_a_kilobyte(gpu: resources.Gpu) -> None:
    assert gpu.block_bytes == gpu.shared_bytes - 1024


# --- What the command fails for -------------------------------------------------------------------

FUNCTION = {"registers": 100, "spill_bytes": 0, "blocks": 2, "code_bytes": 100_000}
FIGURES: dict[str, Any] = {
    "nvrtc": "13.5",
    "kernels": [
        {
            "network": "CNN-s",
            "architecture": "sm_90a",
            "shared_bytes": 100_000,
            "block_bytes": 232_448,
            "train": {**FUNCTION},
            "evaluate": {**FUNCTION},
        }
    ],
}


def changed(function: str | None, figure: str, value: int) -> dict[str, Any]:
    figures = copy.deepcopy(FIGURES)
    [kernel] = figures["kernels"]
    (kernel[function] if function else kernel)[figure] = value
    return figures


@pytest.mark.parametrize(
    ("function", "figure", "value", "message"),
    [
        ("train", "spill_bytes", 8, "train spills 8 bytes"),
        ("evaluate", "spill_bytes", 1200, "evaluate spills 1,200 bytes"),
        (
            *(None, "shared_bytes", 232_449),
            "a block asks for 232,449 bytes of shared memory and can have 232,448",
        ),
        ("train", "blocks", 0, "no block of train fits on a multiprocessor (100 registers)"),
        (
            *("evaluate", "registers", 111),
            "evaluate has 111 registers instead of 100 (NVRTC 13.4 before, 13.5 now)",
        ),
        (
            *("train", "code_bytes", 110_001),
            "train has 110,001 bytes of code instead of 100,000 (NVRTC 13.4 before, 13.5 now)",
        ),
    ],
)
def test_faults_are_named(function: str | None, figure: str, value: int, message: str) -> None:
    before = FIGURES | {"nvrtc": "13.4"}
    found = resources.faults(changed(function, figure, value), before)
    assert found == [f"CNN-s on sm_90a: {message}"]


def test_what_has_grown_little_or_is_new_passes() -> None:
    assert resources.faults(FIGURES, FIGURES) == []
    assert resources.faults(changed("train", "registers", 110), FIGURES) == []
    assert resources.faults(changed("train", "code_bytes", 110_000), FIGURES) == []
    assert resources.faults(FIGURES, changed("train", "registers", 200)) == []
    assert resources.faults(changed("train", "registers", 200), {}) == []
    other = copy.deepcopy(FIGURES)
    other["kernels"][0]["architecture"] = "sm_80"
    assert resources.faults(changed("train", "registers", 200), other) == []


def test_the_committed_figures_are_those_of_the_kernels() -> None:
    figures = json.loads(resources.BASELINE.read_text())["results"]
    assert [(kernel["network"], kernel["architecture"]) for kernel in figures["kernels"]] == [
        (network.name, gpu.architecture) for network in resources.NETWORKS for gpu in resources.GPUS
    ]
    lines = resources.table(figures).splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(figures["kernels"]) + 4 + len(
        resources.NETWORKS
    )


@pytest.mark.slow
def test_the_whole(tmp_path: Path) -> None:
    try:
        version = resources.compiler_version()
    except CudaUnavailable as reason:
        pytest.skip(str(reason))
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "model_zoos.benchmarks.speed", "resources", "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    figures = json.loads(out.read_text())["results"]
    assert figures["nvrtc"] == version
    for kernel in figures["kernels"]:
        train = kernel["train"]
        assert 0 < train["ffma"] + train["lds"] < train["code_bytes"] / 16
        assert 0 < kernel["shared_bytes"] <= kernel["block_bytes"]
        assert 32 < train["registers"] <= 255
    assert resources.table(figures) in done.stdout
    assert not done.stderr
    assert done.returncode == 0


@pytest.mark.slow
def test_the_kernel_runs_fewer_multiply_adds_than_the_network_has() -> None:
    """Under a pooling window three gradients of four are zero, and take no part in the weights'."""
    network = resources.NETWORKS[0]
    counted = resources.count_sample(network)
    arithmetic = training_operations(network.layout) / 2
    assert arithmetic / 2 < counted["multiply_adds"] < arithmetic
    assert 0 < counted["stores"] < counted["loads"]
