"""The processes of one training run: they meet, share the models and join their results.

Commands whose processes never meet (`--rank`, SLURM arrays) use builders/ranks.py.
"""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

from ..builders.ranks import launched_rank, rank_cores
from ..builders.specification import Model, Zoo
from .engines import group_models
from .job import Summary

T = TypeVar("T")

SHARE = 16
"""Maximum number of models that a rank takes at a time: a full block of the widest lanes."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share a run; only one if no launcher started several."""

    index: int
    count: int

    def cores(self) -> int:
        """Number of cores for this rank: its share of the cores of this machine's ranks."""
        return rank_cores()

    def gather(self, value: T) -> list[T]:
        """Wait until all ranks call this; return their values in the order of ranks."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def wait(self) -> None:
        """Wait until all ranks call this."""
        self.gather(None)


def join_ranks(device: str) -> Ranks:
    """Connect to the other ranks of this run, if a launcher started several; cheap to repeat."""
    count = launched_rank().count
    if count == 1:
        return Ranks(0, 1)
    from accelerate import PartialState

    # Ranks meet at the end, when some may have been finished for days, so there is no time-out.
    # They use gloo: NCCL would keep a GPU busy while it waits, and no two ranks could share one.
    state = PartialState(cpu=device == "cpu", backend="gloo", timeout=timedelta(days=365))
    # A group that still exists when Python shuts down can abort the process after its work.
    atexit.register(_leave_ranks)
    return Ranks(state.process_index, state.num_processes)


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
    """Return the models of each rank: full blocks in turn, or single models with state files.

    If the models do not fill a block for each rank, the blocks are smaller, so that no rank is
    idle. A block of the lanes takes equally long however few models it has.
    """
    most = 1 if zoo.layout.architecture.file_per_state else SHARE
    groups = group_models(models, max(1, min(most, -(-len(models) // ranks))))
    return [[model for group in groups[rank::ranks] for model in group] for rank in range(ranks)]
