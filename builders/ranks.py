"""The ranks of a command: processes that share its work and never wait for each other.

Ranks that train wait for each other at the end: generation/ranks.py.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidArgument
from .machine import cores


@dataclass(frozen=True)
class Rank:
    """One of the processes that share the work of a command.

    Attributes:
        index: its number, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidArgument(f"the number of ranks must be at least 1, found {self.count}")
        if not 0 <= self.index < self.count:
            raise InvalidArgument(
                f"of {self.count} ranks the number is 0 to {self.count - 1}, found {self.index}",
                hint=f"sbatch --array=0-{self.count - 1} numbers the tasks of an array in this way",
            )

    def __str__(self) -> str:
        return f"rank-{self.index}-of-{self.count}"


ALONE = Rank()
"""The rank of a process that does all the work."""


def launched_rank() -> Rank:
    """Return the rank that torchrun or accelerate gave this process; `ALONE` without a launcher.

    Raises:
        InvalidArgument: RANK and WORLD_SIZE do not name a rank, or one of them is missing.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        index, count = map(int, texts)
    except ValueError:
        raise InvalidArgument(f"RANK and WORLD_SIZE must be numbers, found {texts}") from None
    absent = [name for name in ("RANK", "WORLD_SIZE") if name not in os.environ]
    if len(absent) == 1 and (index, count) != (0, 1):  # this would do another rank's work, or none
        found = f"WORLD_SIZE is {count}" if absent == ["RANK"] else f"RANK is {index}"
        raise InvalidArgument(
            f"{found}, but {absent[0]} is not set: set both of these variables, as torchrun and "
            "accelerate launch do, or neither"
        )
    return Rank(index, count) if count > 1 else ALONE


def find_rank(index: int | None, count: int | None) -> Rank:
    """Return the given rank, else the launcher's.

    Raises:
        InvalidArgument: only one of the two is given, or no such rank exists.
    """
    if index is None and count is None:
        return launched_rank()
    if index is None or count is None:
        raise InvalidArgument(
            "a rank and the number of ranks go together", hint="--rank R --ranks N"
        )
    return Rank(index, count)


def rank_cores() -> int:
    """Return the cores for this process: a launched rank's share of its machine's cores."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launched_rank().count))
    return max(1, cores() // local)


def deal(costs: Sequence[float], loads: list[float]) -> list[int]:
    """Deal pieces of work evenly: the largest first, each to the rank with the least work so far.

    Args:
        costs: the cost of each piece.
        loads: the work of each rank so far, to which its pieces are added.

    Returns:
        The rank of each piece, which depends on the arguments alone.
    """
    owners = [0] * len(costs)
    heap = [(load, rank) for rank, load in enumerate(loads)]
    heapq.heapify(heap)
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        load, rank = heapq.heappop(heap)
        owners[piece] = rank
        loads[rank] = load + costs[piece]
        heapq.heappush(heap, (loads[rank], rank))
    return owners
