"""Import torchvision, also beside a torch build that its operators were not made for."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch


def import_torchvision() -> ModuleType:
    """torchvision, also beside a build of torch for which it was not compiled.

    The wheel of torchvision 0.28 fails to import beside the CPU build of torch, since its own
    operators cannot be loaded. The two whose schemas its Python code asks for are declared here
    (they stay without a kernel; nothing here calls them), then the import is tried again.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision")


_DECLARED: list[torch.library.Library] = []  # a schema lives as long as its library
