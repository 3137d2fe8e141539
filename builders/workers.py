"""Worker processes: they end with their parent and leave Ctrl-C to it.

    pool = ProcessPoolExecutor(n, context, initializer=end_with_parent)
    with interrupts_held():
        futures = [pool.submit(...) for ...]       # the processes are started here

Without `end_with_parent`, the workers of a killed parent wait for work forever.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def end_with_parent() -> None:
    """End this worker process as soon as its parent ends for any reason.

    Modules imported so far live as long as the process, so the garbage collector skips them.
    """
    gc.freeze()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the context ends.

    Processes started within the context inherit the signal mask, so Ctrl-C never reaches them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep processes that are spawned within the context from running the user's script.

    A spawned process runs the file of `__main__` before its first task. Without a guard
    (`if __name__ == "__main__"`) that would start the work again in each process, and a script from
    standard input has no file. Use this only for tasks that do not need the script's definitions.
    """
    main = sys.modules["__main__"]
    before = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in before:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(main, name, value)
