"""The environment of a result: versions of packages, processor, and threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from threadpoolctl import threadpool_info

from ..generation.engines.reference import cpu_kind

_PACKAGES = ("model_zoos", "torch", "numpy", "scipy", "scikit-learn", "lightgbm", "datasets")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed, and the processor."""
    found = {"python": platform.python_version(), "cpu": cpu_kind()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # LightGBM, or a checkout without installation
            continue
    return found


def matrix_threads() -> int | None:
    """Return the number of threads of matrix products, on which their last bits depend.

    None if their library is not known.
    """
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=None)
