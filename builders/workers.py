"""Worker processes: they end with their parent and leave Ctrl-C to it.

    pool = ProcessPoolExecutor(n, context, initializer=end_with_parent)
    with interrupts_held():
        futures = [pool.submit(...) for ...]       # the processes are started here

Without it, workers of a parent that is killed wait for work for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def end_with_parent() -> None:
    """Of this process, a worker: end it at once when its parent has ended, however that came."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end. Processes that are started meanwhile never hear it, from their
    first line on: they inherit the mask."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
