"""What rows hold: the layout, named tensors and weights. torch is imported only when needed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidArgument
from .layout import Layout, find_layout

if TYPE_CHECKING:
    import datasets
    import torch


def check_row(row: Mapping[str, object], columns: Sequence[str]) -> Mapping[str, Any]:
    """Return a row after checking that it is one and has the required columns.

    Args:
        row: a row in any format of datasets, or of pandas.
        columns: the columns that must be there and must not be null.

    Returns:
        The row. Unknown values are None, also where a format has NaN for null.

    Raises:
        InvalidArgument: it is not a row, or a column is missing or null.
    """
    if not isinstance(row, Mapping) and hasattr(row, "keys"):  # a Series of pandas
        row = dict(row)
    if not isinstance(row, Mapping) or not isinstance(row.get("architecture", ""), str | NoneType):
        raise InvalidArgument(
            "give one row of a data set, as ds[0], not several or the data set itself"
        )
    values = {column: None if _is_null(value) else value for column, value in row.items()}
    for column in columns:
        if column not in values:
            raise InvalidArgument(f"the row has no {column}: load it with columns that include it")
        if values[column] is None:
            raise InvalidArgument(
                f"the row's {column} is not known: its source does not state it. If you know it, "
                f'give {{**row, "{column}": ...}}'
            )
    return values


def _is_null(value: object) -> bool:
    """Whether a value of a row is None, or the NaN or NA that formats have in its place."""
    if value is None or isinstance(value, str | Sequence) or np.ndim(cast(Any, value)):
        return value is None
    try:
        return bool(value != value)
    except TypeError:  # NA of pandas
        return True


def layout_of(row: Mapping[str, object]) -> Layout:
    """Return where each named tensor of a row lies in its weights.

    Args:
        row: a row with the columns architecture and weights, in any format of datasets. One that
            was loaded with `tensors=` needs the columns tensors and layout_size too.

    Returns:
        The layout of all tensors that the row holds.

    Raises:
        InvalidArgument: it is not one row, or lacks one of the columns.
        ValueError: the architecture is unknown, or has another number of weights.

    Example:
        >>> model_zoos.layout_of(row).size  # doctest: +SKIP
        2464
    """
    checked = check_row(row, ("architecture", "weights"))
    vector = checked["weights"]
    if getattr(vector, "ndim", 1) != 1:
        raise InvalidArgument(f"expected one row, found weights of shape {tuple(vector.shape)}")
    if isinstance(vector, str | bytes | Mapping) or not hasattr(vector, "__len__"):
        raise InvalidArgument(f"a row's weights must be a vector of numbers, found {vector!r:.80}")
    return layout_of_columns(checked, len(vector))


def layout_of_columns(values: Mapping[str, Any], size: int) -> Layout:
    """Return the layout of weights [size] by the other columns of their row.

    Raises:
        InvalidArgument: the tensors that the row names do not have this many weights.
        ValueError: the architecture is unknown, or has another number of weights.
    """
    names = values.get("tensors")
    if names is None:
        return find_layout(values["architecture"], size)
    length = check_row(values, ("layout_size",))["layout_size"]
    layout = find_layout(values["architecture"], int(length))
    names = [str(name) for name in names]
    chosen = layout.choose(names)
    if [slot.name for slot in chosen.slots] != names or chosen.size != size:
        raise InvalidArgument(f"{size:,} weights are not the tensors {names!r:.200} of {layout}")
    return chosen


def dropout_of(row: Mapping[str, object]) -> float:
    """Return the dropout rate of a row, 0 where it is not known.

    Raises:
        InvalidArgument: it is not a number.
    """
    rate = row.get("dropout")
    if rate is None:
        return 0.0
    try:
        return float(cast(Any, rate) * 1.0)  # numbers of any library, but no text
    except (TypeError, ValueError):
        raise InvalidArgument(f"dropout must be a number in [0, 1), found {rate!r:.80}") from None


def layer(row: Mapping[str, object], name: str) -> torch.Tensor:
    """Return one named tensor of a row without converting the others.

    Args:
        row: a row with the columns architecture and weights, in any format of datasets.
        name: name in the state_dict of `instantiate(row)`, such as "layer1.0.conv1.weight" of
            ResNet-18 or "conv1.weight" of the CNNs.

    Returns:
        A float32 tensor with memory of its own.

    Raises:
        InvalidArgument: no such tensor, or the row does not hold it; also everything that
            `layout_of` raises.

    Example:
        >>> model_zoos.layer(row, "fc.weight").shape  # doctest: +SKIP
        torch.Size([10, 512])
    """
    slot, vector = layout_of(row).slot(name), check_row(row, ("weights",))["weights"]
    import torch

    # Cut first: as a Python list, one row of ResNet-18 takes a second to become an array.
    return torch.from_numpy(as_vector(vector[slot.slice]).reshape(slot.shape))


def as_vector(values: ArrayLike) -> NDArray[np.float32]:
    """Return weights as a new vector, float32 [N].

    Raises:
        InvalidArgument: the values are not numbers, or not a single vector.
    """
    try:
        vector = np.array(values, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"a row's weights must be a vector of numbers ({error})") from None
    if vector.ndim != 1:
        raise InvalidArgument(f"a row's weights must be one vector, found {list(vector.shape)}")
    return vector


def weights(dataset: datasets.Dataset) -> torch.Tensor:
    """Return all weights of a data set as one float32 tensor [rows, N], in the order of its rows.

    The tensor shares the memory of the data where that is contiguous; do not write to it then.
    Where it is not contiguous, the weights are copied once.

    Raises:
        InvalidArgument: a data set without weights or a streaming one, rows whose weights are null,
            or weights of several lengths.
    """
    if isinstance(dataset, Mapping) and "weights" in dataset:
        raise InvalidArgument(
            'this is a row, not a data set: torch.as_tensor(row["weights"]) makes a tensor of its '
            "weights, and layer(row, name) returns one of its tensors"
        )
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise InvalidArgument(
            f"expected a datasets.Dataset, found {type(dataset).__name__}: name a split, and do "
            "not stream (a stream is read in batches: .with_format('arrow'))"
        )
    if "weights" not in dataset.column_names:
        raise InvalidArgument("this data set has no weights: load it with them among `columns`")
    import torch

    column, indices = dataset.data.column("weights"), None
    if dataset._indices is not None:  # unsigned: numpy would make differences floating-point
        indices = dataset._indices.column(0).to_numpy().astype(np.int64)
    if column.null_count:  # flatten() would skip null rows
        if indices is None or (nulls := column.is_null().to_numpy()[indices].sum()):
            found = column.null_count if indices is None else nulls
            raise InvalidArgument(f"{found} rows of this data set have no weights: filter them out")
        column, indices = column.take(pa.array(indices)), None
    blocks = weight_blocks(column)
    size = blocks[0].shape[1] if blocks else max(0, getattr(column.type, "list_size", 0))
    if indices is None and len(blocks) == 1:
        with warnings.catch_warnings():  # torch warns of memory-mapped arrays, which are read-only
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(blocks[0])
    rows = len(column) if indices is None else len(indices)
    # numpy asks for huge pages and torch does not, which halves the time of this function.
    target = np.empty((rows, size), np.float32)
    starts = np.cumsum([0, *(len(block) for block in blocks)])

    def copy(number: int) -> None:
        start, stop = starts[number], starts[number + 1]
        if indices is None:
            target[start:stop] = blocks[number]
        else:
            wanted = np.flatnonzero((indices >= start) & (indices < stop))
            target[wanted] = blocks[number][indices[wanted] - start]

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        list(threads.map(copy, range(len(blocks))))
    return torch.from_numpy(target)


def weight_blocks(column: pa.ChunkedArray) -> list[NDArray[np.float32]]:
    """Return the chunks of a column as arrays [rows, N]: lists without nulls, all of one length N.

    Raises:
        InvalidArgument: the column holds anything else, lists of several lengths, or null weights.
    """
    kind = column.type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in lists) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise InvalidArgument(f"the weights of this data set are {kind}, expected lists of numbers")
    lengths: set[int] = set()
    blocks = []
    for chunk in column.chunks:
        if not len(chunk):
            continue
        flat = chunk.flatten()
        if flat.null_count:
            raise InvalidArgument(f"{flat.null_count} weights of this data set are null")
        lengths.update(pc.unique(pc.list_value_length(chunk)).to_pylist())
        if len(lengths) > 1:
            few = ", ".join(map(str, sorted(lengths)[:5]))
            raise InvalidArgument(
                f"the weights of this data set have several lengths ({few}): choose the rows of "
                "one architecture"
            )
        blocks.append(np.asarray(flat.to_numpy(), np.float32).reshape(len(chunk), -1))
    return blocks
