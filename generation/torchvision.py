"""Import torchvision, even if its operators were not compiled for the installed torch."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import torch

from ..errors import TorchvisionUnavailable

_declared: list[torch.library.Library] = []  # a schema exists as long as its library
_importing = threading.Lock()  # threads that build networks may all be the first to need it


def import_torchvision() -> ModuleType:
    """Return torchvision, repaired if its import fails.

    The wheel of torchvision 0.28 cannot be imported with the CPU build of torch, since its
    operators cannot be loaded. Its Python code needs the schemas of two operators. They are
    declared here, without kernels since nothing here calls them, and the import is retried.

    Raises:
        TorchvisionUnavailable: it is not installed, or the repair fails.
    """
    try:
        with _importing:
            return _import()
    except Exception as error:  # a build for another torch can raise any class
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TorchvisionUnavailable(
            f"this needs torchvision, which cannot be imported beside torch {torch.__version__} "
            f"({reason:.300})",
            hint="pip install torchvision, from the package index that torch came from",
        ) from error


def _import() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for module in [m for m in [*sys.modules] if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision")
