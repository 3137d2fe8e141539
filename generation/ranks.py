"""The processes of one run of training: how they meet, share the models and join their results.

Commands whose processes never meet (`--rank`, SLURM arrays) share their work in builders/ranks.py.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

from ..builders.machine import cores
from ..builders.ranks import launched_rank
from ..builders.specification import Model, Zoo
from .engines import group_models
from .job import Summary

T = TypeVar("T")

SHARE = 16
"""Models that a rank takes at a time, if there are enough: a full block of the widest lanes."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share a run; one, unless a launcher started several."""

    index: int
    count: int
    local_count: int

    def cores(self) -> int:
        """Cores for this rank: its share of those that this machine's ranks may use."""
        return max(1, cores() // self.local_count)

    def gather(self, value: T) -> list[T]:
        """Wait until all ranks are here; return the values of all of them."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.gather(None)


def join_ranks(device: str) -> Ranks:
    """Meet the other ranks of this run, if a launcher started several. A second call is free."""
    count = launched_rank().count
    if count == 1:
        return Ranks(0, 1, 1)
    from accelerate import PartialState

    # Ranks meet at the end, when one may have been done for days: no time-out until then. Through
    # gloo: NCCL would busy a GPU while it waits, and lets no two ranks share one.
    state = PartialState(cpu=device == "cpu", backend="gloo", timeout=timedelta(days=365))
    # A group that is still there when Python shuts down can abort the process, its work done.
    atexit.register(_leave_ranks)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    return Ranks(state.process_index, state.num_processes, local)


def _leave_ranks() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def join_summaries(summaries: list[Summary]) -> Summary:
    """One summary of all ranks."""
    models = sum(summary.models for summary in summaries)
    total = sum((s.test_acc or 0.0) * s.models for s in summaries)
    pruned = sum((s.sparsity or 0.0) * s.models for s in summaries)
    of_twins = any(s.sparsity is not None for s in summaries)
    seconds = max(summary.seconds for summary in summaries)
    return dataclasses.replace(
        summaries[0],
        ranks=len(summaries),
        models=models,
        present=sum(summary.present for summary in summaries),
        states=sum(summary.states for summary in summaries),
        diverged=sum(summary.diverged for summary in summaries),
        test_acc=total / models if models else None,
        sparsity=pruned / models if of_twins else None,
        seconds=seconds,
        samples_per_second=sum(s.samples_per_second * s.seconds for s in summaries) / seconds,
    )


def share_models(zoo: Zoo, models: Sequence[Model], ranks: int) -> list[list[Model]]:
    """The models of each rank: full blocks in turn; single models if their states have files.

    Of fewer models than fill a block for each rank, the blocks are so small that no rank is idle:
    a block of the lanes takes as long as any other, however few models it has.
    """
    most = 1 if zoo.layout.architecture.file_per_state else SHARE
    groups = group_models(models, max(1, min(most, -(-len(models) // ranks))))
    return [[model for group in groups[rank::ranks] for model in group] for rank in range(ranks)]
