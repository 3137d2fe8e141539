"""How far the training of blocks of models is, and how long the rest will take."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence

import numpy as np

STEP = 3
"""Time of an image in training relative to its evaluation, until it is measured."""

_EVALUATED, _TRAINED = 0, 1


class Track:
    """How far a block is.

    The thread that trains it calls `begin` before each pass over a set of images and `end` after
    it; another thread calls `look`.

    Args:
        sizes: number of images by name of the set; "train" is one of them.
        epochs: that the block trains for.
        cost: of an image, relative to those of other blocks.
    """

    def __init__(self, sizes: Mapping[str, int], epochs: int, cost: int = 1) -> None:
        self._sizes = sizes
        images, trained = sum(sizes.values()), sizes["train"]
        self.cost = cost
        self.total = np.array([images + epochs * (images - trained), epochs * trained], float)
        self.done, self.seconds = np.zeros(2), np.zeros(2)
        self._untrained, self._epoch = images, images - trained + STEP * trained
        self._finished, self._measured = np.zeros(2), np.zeros(2)
        self._kind, self._size, self._began = _EVALUATED, 0, 0.0
        self.skipped = False

    def begin(self, name: str, trained: bool = False) -> None:
        """A pass begins: an epoch of training, or an evaluation."""
        self._kind, self._began = int(trained), time.monotonic()
        self._size = self._sizes[name]

    def end(self) -> None:
        """The pass has ended."""
        self._measured[self._kind] += time.monotonic() - self._began
        self._finished[self._kind] += self._size
        self._size = 0

    def skip(self) -> None:
        """The models of the block are there already."""
        self._finished[:], self.skipped = self.total, True

    def look(self, share: float) -> None:
        """Set `done` and `seconds`, where the running pass has done this share of its images."""
        done, seconds = self._finished.copy(), self._measured.copy()
        if share > 0 and self._size:
            done[self._kind] += share * self._size
            seconds[self._kind] += time.monotonic() - self._began
        # A pass that has just ended shows a share of 0 for a moment.
        self.done, self.seconds = np.maximum(self.done, done), np.maximum(self.seconds, seconds)

    @property
    def states(self) -> float:
        """States that are there, the running epoch by its share."""
        work = float(self.done @ (1, STEP))
        if work <= self._untrained:
            return work / self._untrained
        return 1 + (work - self._untrained) / self._epoch


def seconds_left(tracks: Sequence[Track], threads: int) -> float | None:
    """The time until all blocks are done, if each thread begins the next one when it is free.

    An image in training and an evaluated one take as long as they have taken so far. None before
    the first ones are done.
    """
    measured = [track for track in tracks if not track.skipped]
    images = sum((track.done * track.cost for track in measured), np.zeros(2))
    seconds = sum((track.seconds for track in measured), np.zeros(2))
    if not images.any():
        return None
    rates = seconds / np.maximum(images, 1)
    if not images[_TRAINED]:
        rates[_TRAINED] = STEP * rates[_EVALUATED]
    free = [0.0] * threads
    for track in tracks:
        left = float((track.total - track.done) @ rates) * track.cost
        heapq.heapreplace(free, free[0] + left)
    return max(free)
