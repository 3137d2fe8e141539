"""Model zoos as ordinary data sets.

    from datasets import load_dataset
    import model_zoos

    ds = load_dataset("model_zoos", "digits_cnn_s", split="train")
    net = model_zoos.instantiate(ds[0])          # a runnable torch.nn.Module
    w = model_zoos.weights(ds)                   # all weights as one tensor [rows, N]

Importing this module registers the name "model_zoos" with datasets. It imports neither torch nor
the rooms that need it; they are imported when a function is called.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import datasets.inspect
import datasets.load
import numpy as np

if "__path__" not in globals():  # a checkout, where this file is no package's __init__.py
    __path__ = [str(Path(__file__).resolve().parent)]

from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import get_zoo, list_zoos
from model_zoos.builders.dataset import ModelZoos, zoos_home
from model_zoos.builders.layout import find_layout
from model_zoos.builders.model_file import FORMAT
from model_zoos.builders.schema import row_schema
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import (
    FaultyFile,
    FaultyFilesWarning,
    FaultyZoo,
    HubFailed,
    UnknownZoo,
    ZooNotFound,
)

if TYPE_CHECKING:
    import torch

__version__ = "0.1.0"
__all__ = [
    "FaultyFile",
    "FaultyFilesWarning",
    "FaultyZoo",
    "HubFailed",
    "ModelZoos",
    "UnknownZoo",
    "Zoo",
    "ZooNotFound",
    "get_zoo",
    "instantiate",
    "layer",
    "list_zoos",
    "open_zoo",
    "weights",
    "zoos_home",
]


# --- Public functions -----------------------------------------------------------------------------


def instantiate(row: Mapping[str, Any]) -> torch.nn.Module:
    """The network that a row describes, in evaluation mode.

    Args:
        row: with the columns architecture, weights, activation and dropout.

    Returns:
        A module from images float32 [n, c, h, w], normalised as at training, to logits
        [n, classes].

    Raises:
        ValueError: a column is missing, or the weights are not those of the architecture.
    """
    _check_row(row, ("architecture", "weights", "activation"))
    import torch

    from model_zoos.generation.networks import build

    vector = torch.as_tensor(np.asarray(row["weights"], np.float32))
    if vector.ndim != 1:
        raise ValueError(f"expected one row, found weights of shape {tuple(vector.shape)}")
    layout = find_layout(row["architecture"], len(vector))
    module = build(layout, row["activation"], row.get("dropout") or 0.0)
    # torch's own names for buffers that are no weights (num_batches_tracked) keep their zeros.
    module.load_state_dict(layout.to_state_dict(vector), strict=False)
    return module.eval()


def layer(row: Mapping[str, Any], name: str) -> torch.Tensor:
    """One named tensor of a row, cut out without the rest.

    Args:
        row: with the columns architecture and weights, in any format of datasets.
        name: as in the state_dict of `instantiate(row)`, such as "layer1.0.conv1.weight" of
            ResNet-18 or "conv1.weight" of the CNNs.

    Returns:
        A float32 tensor of its own.

    Raises:
        ValueError: no such tensor, a column is missing, or the weights are not those of the
            architecture.

    Example:
        >>> model_zoos.layer(row, "fc.weight").shape  # doctest: +SKIP
        torch.Size([10, 512])
    """
    _check_row(row, ("architecture", "weights"))
    layout = find_layout(row["architecture"], len(row["weights"]))
    slots = {slot.name: slot for slot in layout.slots}
    if name not in slots:
        close = difflib.get_close_matches(name, slots, n=3, cutoff=0.5) or list(slots)[:3]
        raise ValueError(f"there is no tensor {name!r}; did you mean {', '.join(close)}?")
    import torch

    slot = slots[name]
    # Cut first: as a Python list one row of ResNet-18 takes a second to become an array.
    values = np.array(row["weights"][slot.slice], np.float32)
    return torch.from_numpy(values.reshape(slot.shape))


def _check_row(row: Any, columns: Sequence[str]) -> None:
    """Refuse what is no row, or lacks a column that is needed."""
    if not isinstance(row, Mapping) or isinstance(row.get("architecture"), list):
        raise ValueError("give one row of a data set, as ds[0], not several or the data set itself")
    for column in columns:
        if column not in row:
            raise ValueError(f"the row has no {column}: load it with columns that include it")
        if row[column] is None:
            raise ValueError(
                f"the row's {column} is not known: its source does not say it. If you know it, "
                f'give {{**row, "{column}": ...}}'
            )
    if row["architecture"] not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {row['architecture']!r}; known: {', '.join(ARCHITECTURES)}"
        )


def weights(dataset: datasets.Dataset) -> torch.Tensor:
    """All weights of a data set as one float32 tensor [rows, N], in the data set's row order.

    The tensor shares the memory of the data where that lies in one piece (it must then not be
    written to); otherwise it is copied once.

    Raises:
        ValueError: a data set without weights, or a streaming one.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"expected a datasets.Dataset, found {type(dataset).__name__}: name a split, and do "
            "not stream (a stream is read in batches: .with_format('arrow'))"
        )
    if "weights" not in dataset.column_names:
        raise ValueError("this data set has no weights: load it with them among `columns`")
    import torch

    column = dataset.data.column("weights")
    size = column.type.list_size
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks if len(chunk)]
    blocks = [values.reshape(-1, size) for values in flat]
    indices = None
    if dataset._indices is not None:  # unsigned: numpy would make differences floating-point
        indices = dataset._indices.column(0).to_numpy().astype(np.int64)
    if indices is None and len(blocks) == 1:
        with warnings.catch_warnings():  # memory-mapped arrays are read-only, which torch lacks
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(blocks[0])
    from concurrent.futures import ThreadPoolExecutor

    rows = len(column) if indices is None else len(indices)
    # numpy asks for huge pages, torch does not: half the time of this function.
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


def main() -> None:
    """The command `model-zoos`."""
    from model_zoos import cli

    cli.main()


# --- Registration with datasets -------------------------------------------------------------------


def _register() -> None:
    """Make `load_dataset("model_zoos", ...)` find the builder above.

    datasets 4 and later run no loading scripts and look for a bare name on the Hub only. Its module
    factory is wrapped: it answers for our name and passes everything else on.
    """
    original = datasets.load.dataset_module_factory
    if getattr(original, "knows_model_zoos", False):
        return
    # Part of the cache's path: data of another form is never taken from the cache.
    form = json.dumps([__version__, FORMAT, str(row_schema(1))])

    def dataset_module_factory(path: str, revision: Any = None, *args: Any, **kwargs: Any) -> Any:
        if path != "model_zoos":
            return original(path, revision, *args, **kwargs)
        return datasets.load.DatasetModule(
            module_path="model_zoos",
            hash=hashlib.sha256(form.encode()).hexdigest()[:16],
            # datasets keeps load_dataset's revision= to itself otherwise
            builder_kwargs={"revision": revision} if revision is not None else {},
        )

    dataset_module_factory.knows_model_zoos = True  # type: ignore[attr-defined]
    datasets.load.dataset_module_factory = dataset_module_factory
    datasets.inspect.dataset_module_factory = dataset_module_factory


_register()

if __name__ == "__main__":
    main()
