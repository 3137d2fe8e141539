"""Track the training of blocks of models, and estimate the remaining time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence

import numpy as np

STEP = 3
"""Time of an image in training relative to evaluation, until it is measured."""

_EVALUATED, _TRAINED = 0, 1


class Track:
    """The progress of a block.

    The thread that trains it calls `begin` before each pass over a set of images and `end` after
    it; another thread calls `look`.

    Args:
        sizes: number of images by name of the set; "train" is one of them.
        epochs: number of epochs for which the block trains.
        cost: time of an image, relative to those of other blocks.
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
        """Begin a pass: an epoch of training, or an evaluation."""
        self._kind, self._began = int(trained), time.monotonic()
        self._size = self._sizes[name]

    def end(self) -> None:
        """The pass has ended."""
        self._measured[self._kind] += time.monotonic() - self._began
        self._finished[self._kind] += self._size
        self._size = 0

    def skip(self) -> None:
        """Count the block as done, since its models exist already."""
        self._finished[:], self.skipped = self.total, True

    def look(self, share: float) -> None:
        """Set `done` and `seconds`, given the share of images done in the running pass."""
        done, seconds = self._finished.copy(), self._measured.copy()
        if share > 0 and self._size:
            done[self._kind] += share * self._size
            seconds[self._kind] += time.monotonic() - self._began
        # The share is 0 for a moment after a pass ends.
        self.done, self.seconds = np.maximum(self.done, done), np.maximum(self.seconds, seconds)

    @property
    def states(self) -> float:
        """The number of states that exist; the running epoch counts by its share."""
        work = float(self.done @ (1, STEP))
        if work <= self._untrained:
            return work / self._untrained
        return 1 + (work - self._untrained) / self._epoch


def seconds_left(tracks: Sequence[Track], threads: int) -> float | None:
    """Return the time until all blocks are done; each thread takes the next block when it is free.

    The estimate uses the times measured so far for images in training and in evaluation. It is None
    before the first ones are measured.
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
