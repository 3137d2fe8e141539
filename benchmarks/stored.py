"""Weights that stay on disk: a matrix in a data set's Arrow files, read some rows at a time.

A memory map counts as memory of the process once it is read. So a file is mapped when its rows are
needed and released with the next file; the cache of datasets has files of 500 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset
from datasets.table import MemoryMappedTable
from numpy.typing import NDArray

from ..builders.access import weight_blocks
from ..errors import InvalidArgument

BLOCK_BYTES = 64 << 20
"""Limit of the float64 numbers that a matrix is converted to at a time."""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """The weights of some rows of a data set, float32 [rows, N], which are read when used.

    Attributes:
        files: Arrow files of the data set.
        pieces: index of the file of each record batch, in the order of the rows.
        starts: index of the first row of each record batch, then the number of rows.
        rows: indices of the rows that the matrix has, in its order.
        width: length of a weight vector.
        scale: None, or the means that are subtracted from a row and the factors with which it is
            then multiplied, float32 [N] each.
    """

    files: tuple[str, ...]
    pieces: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    width: int
    scale: tuple[NDArray[np.float32], NDArray[np.float32]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> StoredMatrix:
        """Return the weights of a data set from load_dataset.

        Raises:
            InvalidArgument: some rows of the data set are not in its files, or rows were selected.
        """
        files = tuple(str(file["filename"]) for file in dataset.cache_files)
        counts, pieces = [], []
        for number, file in enumerate(files):
            for batch in MemoryMappedTable.from_file(file).table["weights"].chunks:
                if len(batch):
                    counts.append(len(batch))
                    pieces.append(number)
        if sum(counts) != len(dataset) or dataset._indices is not None:
            raise InvalidArgument("expected a data set as load_dataset returns it")
        return cls(
            files,
            np.array(pieces, np.int64),
            np.cumsum([0, *counts]),
            np.arange(len(dataset)),
            dataset.features["weights"].length,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length of a weight vector."""
        return len(self.rows), self.width

    def select(self, rows: NDArray[Any]) -> StoredMatrix:
        """Return some of the rows, given indices or a mask [rows]."""
        return replace(self, rows=self.rows[rows])

    def blocks(self, step: int) -> Iterator[NDArray[np.float32]]:
        """Yield `step` rows at a time. The next block overwrites a block."""
        block = np.empty((min(step, len(self)), self.width), np.float32)
        batch = np.searchsorted(self.starts, self.rows, side="right") - 1
        ends: list[int] = (np.flatnonzero(np.diff(batch, append=-1)) + 1).tolist()
        opened, filled, start = -1, 0, 0
        batches: list[NDArray[np.float32]] = []
        for end in ends:  # rows of one record batch
            number = int(self.pieces[batch[start]])
            if number != opened:
                batches = []  # releases the last file before the next is mapped
                table = MemoryMappedTable.from_file(self.files[number]).table
                batches, opened = weight_blocks(table["weights"]), number
            first = np.searchsorted(self.pieces, number)
            values = batches[batch[start] - first]
            while start < end:
                taken = min(end - start, len(block) - filled)
                wanted = self.rows[start : start + taken] - self.starts[batch[start]]
                values.take(wanted, axis=0, out=block[filled : filled + taken], mode="clip")
                filled += taken
                start += taken
                if filled == len(block) or start == len(self):
                    yield self._scale(block[:filled])
                    filled = 0

    def columns(self, cut: slice) -> NDArray[np.float32]:
        """Return some columns of all rows."""
        found = np.empty((len(self), len(range(*cut.indices(self.width)))), np.float32)
        start = 0
        for block in self.blocks(max(1, BLOCK_BYTES // (4 * self.width))):
            found[start : start + len(block)] = block[:, cut]
            start += len(block)
        return found

    def whole(self) -> NDArray[np.float32]:
        """Return the matrix in memory."""
        return self.columns(slice(None))

    def _scale(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scale is not None:
            block -= self.scale[0]
            block *= self.scale[1]
        return block


Matrix: TypeAlias = "NDArray[Any] | StoredMatrix"
"""Numbers [rows, d], in memory or on disk."""


def row_blocks(x: Matrix, step: int) -> Iterator[NDArray[Any]]:
    """Yield `step` rows of a matrix at a time. Use a block before requesting the next one."""
    if isinstance(x, StoredMatrix):
        yield from x.blocks(step)
    else:
        for start in range(0, len(x), step):
            yield x[start : start + step]


def in_memory(x: Matrix) -> NDArray[Any]:
    """Return a matrix as an array."""
    return x.whole() if isinstance(x, StoredMatrix) else x
