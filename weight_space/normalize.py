"""Standardise weights to mean 0 and standard deviation 1, for each layer or each element.

standardizer = Standardizer.fit(dataset, per="layer")
normal = standardizer(weights)               # numpy or torch, [..., N]
weights = standardizer.inverse(normal)
standardizer.save("standardizer.safetensors")
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import datasets
import numpy as np
from numpy.typing import NDArray

from ..builders.access import layout_of_columns, weight_blocks
from ..builders.layout import Layout, make_layout
from ..builders.schema import CHOICE
from ..builders.tensor_file import TensorFile
from ..errors import InvalidArgument, ModelZoosWarning
from .arrays import check_vectors, constant

if TYPE_CHECKING:
    from .arrays import Array

Per = Literal["layer", "element"]

_HEADER = "model_zoos.standardizer"
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Subtracts the means of weights and divides by their standard deviations.

    Attributes:
        layout: layout of the weights.
        per: "layer" for one mean and deviation per layer, with biases and weights together;
            "element" for one of each per weight.
        mean, scale: float64, [layers] or [N]. The scale is 1 for weights that do not vary.
        rows: number of rows used to compute them.
        left_out: number of rows that were left out because weights are missing or not finite.
    """

    layout: Layout
    per: Per
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    rows: int
    left_out: int = 0

    @classmethod
    def fit(
        cls, dataset: datasets.Dataset | datasets.IterableDataset, per: Per = "layer"
    ) -> Standardizer:
        """Measure the weights of a data set in one pass, in batches of bounded memory.

        Args:
            dataset: rows of one architecture with the columns architecture and weights. Rows whose
                weights are null or not finite are left out with a warning.
            per: "layer" or "element".

        Raises:
            InvalidArgument: another value of `per`, no usable rows, or rows of several
                architectures.
        """
        if per not in ("layer", "element"):
            raise InvalidArgument(f'per must be "layer" or "element", found {per!r}')
        layout: Layout | None = None
        rows = left_out = 0
        mean = squares = np.zeros(1)
        for about, batch, lost in _batches(dataset):
            left_out += lost
            if not len(batch):
                continue
            found = layout_of_columns(about, batch.shape[1])
            if layout not in (None, found):
                raise InvalidArgument(f"the data set has rows of {layout} and of {found}")
            layout = found
            # Moments of the batch are merged with those so far (Chan et al. 1979), which is as
            # exact as two passes.
            own = batch.mean(axis=0, dtype=np.float64)
            spread = np.square(batch - own).sum(axis=0)
            total = rows + len(batch)
            delta = own - mean
            mean = mean + delta * (len(batch) / total)
            squares = squares + spread + np.square(delta) * (rows * len(batch) / total)
            rows = total
        if layout is None or not rows:
            raise InvalidArgument(f"the data set has no rows with finite weights ({left_out} rows)")
        if left_out:
            message = f"{left_out} rows left out: their weights are missing or not finite"
            warnings.warn(ModelZoosWarning(message), stacklevel=2)
        variance = squares / rows
        if per == "layer":
            sizes = _sizes(layout, per)
            starts = np.cumsum([0, *sizes[:-1]])
            joint = np.add.reduceat(mean, starts) / sizes
            spread = variance + np.square(mean - np.repeat(joint, sizes))
            mean, variance = joint, np.add.reduceat(spread, starts) / sizes
        scale = np.sqrt(variance)
        # Rounding leaves a small deviation even for weights that are all equal.
        scale[scale <= 1e-12 * np.abs(mean)] = 1
        return cls(layout, per, mean, scale, rows, left_out)

    def __call__(self, weights: Array) -> Array:
        """Return (weights - mean) / scale, [..., N], in the kind and type of the argument."""
        mean, scale = self._like(weights)
        return cast("Array", (cast(Any, weights) - mean) / scale)

    def inverse(self, weights: Array) -> Array:
        """Undo `__call__`, up to rounding: return weights * scale + mean, [..., N]."""
        mean, scale = self._like(weights)
        return cast("Array", cast(Any, weights) * scale + mean)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: mean and scale, and the layout in its header."""
        from safetensors.numpy import save_file

        about = {
            "architecture": self.layout.architecture.name,
            "channels": self.layout.channels,
            "classes": self.layout.classes,
            "per": self.per,
            "rows": self.rows,
            "left_out": self.left_out,
        }
        if self.layout.whole is not None:
            about["tensors"] = [slot.name for slot in self.layout.slots]
        tensors = {"mean": self.mean, "scale": self.scale}
        save_file(tensors, path, metadata={_HEADER: json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Standardizer:
        """Read a file that `save` wrote.

        Raises:
            InvalidArgument: it is not such a file.
            OSError: the file cannot be read.
        """
        try:
            with TensorFile(path) as file:
                about = json.loads(file.metadata[_HEADER])
                layout = make_layout(about["architecture"], about["channels"], about["classes"])
                layout = layout.choose(about["tensors"]) if "tensors" in about else layout
                count = len(_sizes(layout, about["per"]))
                for name in ("mean", "scale"):
                    found = (file.tensors[name].dtype, file.tensors[name].shape)
                    if found != ("F64", (count,)):
                        raise ValueError(f"{name} is {found}, expected float64 [{count}]")
                mean, scale = file.read("mean"), file.read("scale")
            rows, left_out = int(about["rows"]), int(about["left_out"])
        except (KeyError, TypeError, ValueError) as error:
            lacks = "it has no " if isinstance(error, KeyError) else ""
            raise InvalidArgument(
                f"{path} was not written by Standardizer.save: {lacks}{error}"
            ) from None
        return cls(layout, about["per"], mean, scale, rows, left_out)

    def _like(self, weights: Array) -> tuple[Array, Array]:
        """Return mean and scale of each element, as an array or tensor like the weights."""
        check_vectors(weights, self.layout)
        sizes = _sizes(self.layout, self.per)
        return (
            constant(np.repeat(self.mean, sizes), weights, same_type=True),
            constant(np.repeat(self.scale, sizes), weights, same_type=True),
        )


def _sizes(layout: Layout, per: str) -> NDArray[np.int64]:
    """Return the number of elements of the vector that share each mean."""
    if per == "element":
        return np.ones(layout.size, np.int64)
    if per != "layer":
        raise InvalidArgument(f'per must be "layer" or "element", found {per!r}')
    return np.array([sum(slot.size for slot in slots.values()) for slots in layout.layers.values()])


def _batches(
    dataset: datasets.Dataset | datasets.IterableDataset,
) -> Iterator[tuple[dict[str, Any], NDArray[np.float32], int]]:
    """Yield for each batch its row for the layout, finite weights, and the number of other rows."""
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise InvalidArgument(
            f"expected a datasets.Dataset or IterableDataset, found {type(dataset).__name__}: "
            "name a split"
        )
    for column in ("architecture", "weights"):
        if dataset.column_names is not None and column not in dataset.column_names:
            raise InvalidArgument(f"this data set has no {column}: load it among `columns`")
    length = getattr(dataset.features["weights"], "length", -1) if dataset.features else -1
    size = min(1024, max(1, _BATCH_BYTES // (4 * length))) if length > 0 else 16
    for table in dataset.with_format("arrow").iter(batch_size=size):
        names = table["architecture"].unique().to_pylist()
        if len(names) != 1:
            raise InvalidArgument(f"the data set has rows of {' and of '.join(map(str, names))}")
        about = table.select([c for c in ("architecture", *CHOICE) if c in table.column_names])
        choices = {str(row): row for row in about.to_pylist()}
        if len(choices) != 1:
            raise InvalidArgument("the data set has rows of several choices of tensors")
        blocks = weight_blocks(table["weights"].drop_null())
        weights = np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)
        finite = np.isfinite(weights).all(axis=1)
        yield next(iter(choices.values())), weights[finite], len(table) - int(finite.sum())
