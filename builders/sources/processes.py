"""Share the work of an import among processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from ..machine import cores
from ..workers import end_with_parent, interrupts_held, main_hidden
from ..zoo_directory import ZooDirectory

BYTES_FOR_PROCESSES = 1 << 30
"""Bytes of weights that one process reads in the time that further processes take to start."""

T = TypeVar("T")
R = TypeVar("R")


class Divisible(Protocol):
    """A source's data on its models, by id, which can be divided by models."""

    @property
    def models(self) -> Mapping[str, object]: ...

    def part(self: T, ids: Sequence[str]) -> T: ...


Data = TypeVar("Data", bound=Divisible)


@dataclass(frozen=True)
class Part(Generic[Data]):
    """What a process needs to import some of a source's models.

    Attributes:
        directory: the zoo.
        data: the source's data on these models.
        max_weight: see `import_zoo`.
        begun: the models that had a file when the import began.
    """

    directory: ZooDirectory
    data: Data
    max_weight: float | None
    begun: frozenset[str]


def in_parts(
    directory: ZooDirectory,
    data: Data,
    size: int,
    max_weight: float | None,
    begun: Collection[str] = (),
) -> Iterator[Part[Data]]:
    """Yield the models of a source in parts of `size`."""
    ids = list(data.models)
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        yield Part(directory, data.part(some), max_weight, frozenset(some).intersection(begun))


def mapped(
    work: Callable[[T], R], tasks: Sequence[T], size: int, workers: int | None
) -> Iterator[R]:
    """Yield the result of the work for each task, in order.

    Args:
        work: a function of a module.
        tasks: its arguments.
        size: bytes of the weights of all tasks.
        workers: number of processes; None for one, or one per core if there is much to do.
    """
    if workers is None:
        workers = cores() if size > BYTES_FOR_PROCESSES else 1
    with started(work, min(workers, len(tasks))) as run:
        yield from run(tasks)


@contextmanager
def started(work: Callable[[T], R], workers: int) -> Iterator[Callable[[Iterable[T]], Iterator[R]]]:
    """Yield a function from tasks to the result of each, in order.

    `workers` processes start at once and load the work's module while the caller prepares the
    tasks. With fewer than 2, this process does the work.
    """
    if workers < 2:
        yield partial(map, work)
        return
    # Spawned: forking a process whose libraries run threads can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        try:
            with interrupts_held(), main_hidden():
                for _ in range(workers):
                    pool.submit(_load, work)  # starts a process, since all others are busy
            yield partial(pool.map, work)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _load(work: Callable[..., object]) -> None:
    """Do nothing: a process that receives this has loaded the work's module."""
