"""The GPU kernel: one block of threads trains one small network, epoch by epoch.

kernel.cu has the network, for a GPU and, in tests, for a processor; library.py compiles it for a
given network with NVRTC; population.py keeps the models and launches it. The kernel computes each
sum in the order of the lanes (../lanes) with the same arithmetic (../kernels). On a processor it
gives the same bits as the lanes. Whether a GPU does too, and how fast it is, was not yet measured.
"""

from __future__ import annotations

from .library import check as check_cuda
from .library import load as load_cuda
from .population import CudaPopulation, CudaWeights

__all__ = ["CudaPopulation", "CudaWeights", "check_cuda", "load_cuda"]
