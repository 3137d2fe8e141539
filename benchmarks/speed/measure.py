"""Functions that all measurements share: rounds, medians, tables, peak memory, the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import datasets
import numpy as np
import torch
import typer

Models = Annotated[int, typer.Option(help="Number of models, with 51 CNN-s states each.")]
Rounds = Annotated[int, typer.Option(help="Rounds. The figures are medians over them.")]
Samples = Annotated[int, typer.Option(help="Training images of an epoch.")]


class Clock:
    """Measured seconds by name, one for each round.

    Attributes:
        wall: wall time.
        cpu: processor time of this process.
    """

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = defaultdict(list)
        self.cpu: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        start, cpu_start = time.perf_counter(), time.process_time()
        yield
        self.wall[name].append(time.perf_counter() - start)
        self.cpu[name].append(time.process_time() - cpu_start)

    def medians(self) -> dict[str, float]:
        """Return the median of the rounds' wall time by name."""
        return {name: statistics.median(values) for name, values in self.wall.items()}

    def speeds(self, amount: float, *, cpu: bool = False) -> dict[str, float]:
        """Return an amount per second of the median round, by name."""
        seconds = self.cpu if cpu else self.wall
        return {n: round(amount / statistics.median(v), 3) for n, v in seconds.items()}

    def ratio(self, slow: str, fast: str) -> float:
        """Return the ratio of two times: the median of the rounds' ratios."""
        pairs = zip(self.wall[slow], self.wall[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)


def interleave(
    work: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = False
) -> Clock:
    """Measure each work once per round, so that changes of the machine's speed affect all equally.

    Args:
        work: the measured functions, by name.
        rounds: number of rounds, at least 1.
        warm_up: whether to run one more round first, which does not count.
    """
    clock = Clock()
    for counts in (*[False] * warm_up, *[True] * rounds):
        for name, run in work.items():
            with (clock if counts else Clock()).time(name):
                run()
    return clock


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use this number of threads within the context; None leaves its setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(*arguments: str) -> dict[str, float]:
    """Run python with these arguments, and observe the memory of its processes through /proc.

    Returns:
        Maximum of resident `megabytes`, and `seconds`.
    """
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, *arguments])
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0
    return {"megabytes": round(peak / 1e6), "seconds": round(time.perf_counter() - start, 1)}


def _resident(pid: int) -> int:
    """Return the resident bytes of a process and of the processes that it started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * pages + sum(_resident(int(child)) for child in children)


def markdown(columns: Sequence[str], texts: int, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first columns are texts, and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def listing(figures: Mapping[str, object]) -> str:
    """Return the figures, one per line, for the terminal."""
    lines = []
    for key, value in figures.items():
        title = key.replace("_", " ")
        if not isinstance(value, Mapping):
            figure = f"{value:,}" if isinstance(value, int | float) else str(value or "-")
            lines.append(f"{title:75} {figure:>12}")
            continue
        lines += [f"{f'{title}: {name}':75} {figure:>12,}" for name, figure in value.items()]
    return "\n".join(lines)


def machine() -> dict[str, str | int]:
    """Return the facts on this machine that belong to a figure, without the name of the host."""
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
