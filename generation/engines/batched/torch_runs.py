"""How torch runs a step: its settings, and steps that are captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch


class CapturedStep:
    """A training step for batches of one size, captured once as a CUDA graph, then replayed.

    The graph reads its batch from its own tensors and changes the block's state in place. It is
    warmed up on a side stream, as torch requires; changes by the warm-up are undone.

    Args:
        step: function of a batch (x, labels).
        state: every tensor that a step changes.
        x, labels: a batch.
        memory: pool that all graphs share. They run one after another and leave nothing in it.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], None],
        state: list[torch.Tensor],
        x: torch.Tensor,
        labels: torch.Tensor,
        memory: object,
    ) -> None:
        self._batch = x.clone(), labels.clone()
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(*self._batch)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory):  # type: ignore[arg-type]
            step(*self._batch)

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        for own, new in zip(self._batch, (x, labels), strict=True):
            own.copy_(new)
        self._graph.replay()


@contextmanager
def run_settings(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set the device, thread count and float32 products within the context, then restore them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), _float32():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _float32() -> Iterator[None]:
    """Turn TF32 and bfloat16 in matrix products off within the context."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    precisions = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision
