"""On what a figure was measured: processor, cores, versions; no name of a host."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import datasets
import numpy as np
import torch


def machine() -> dict[str, str | int]:
    """What a reader needs to know beside a figure."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "datasets": datasets.__version__,
    }
