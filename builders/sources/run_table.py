"""A folder of checkpoints with a table that describes them: one row for each state.

    path,model_id,epoch,test_acc,activation,learning_rate,gpu
    runs/3/last.pt,3,50,0.981,relu,0.001,A100

The table is CSV, JSON lines or Parquet. `path` is the checkpoint's path in the folder; `model_id`
and `epoch` name the state; metrics and hyperparameters have the names of our columns. All other
columns are kept as texts in source.parquet beside zoo.json, a row for each state.

A fault in a row affects only this row: a missing file, tensors of another network, a second row of
the same epoch, a NaN metric. An empty cell is a value that was not measured or is not known. Two
rows of one file and epoch are joined if they have different metrics and do not contradict each
other.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import InvalidArgument, Unreadable
from ..architecture import canonical_name, find_architecture
from ..catalog import ELSEWHERE, IMAGE_FOLDER, UNKNOWN_IMAGES, config_names
from ..layers import looks_like_text, parse_text
from ..layout import Layout, find_layout, make_layout
from ..specification import Zoo
from .archive import blamed_on_the_file, shown
from .found import State
from .identify import specify_drawn
from .report import LeftOut, weights_fault
from .state_files import floats, largest_file, read_tensors, weights_of

FORM = "table"
"""The source format in zoo.json."""


class Entry(NamedTuple):
    """A row of the table: the state of a model.

    Attributes:
        epoch: its epoch.
        path: path of its checkpoint, as written in the table.
        metrics: the measured metrics, under our names.
        others: values of the columns that our rows do not have.
        row: its number in the table, starting at 1.
    """

    epoch: int
    path: str
    metrics: Mapping[str, float]
    others: Mapping[str, str]
    row: int


@dataclass(frozen=True)
class RunTable:
    """The content of a table, without the checkpoints.

    Attributes:
        folder: of the checkpoints.
        models: model id -> its states by epoch.
        names: model id -> name in the table.
        hyperparameters: model id -> hyperparameters of our rows; None where not known.
        left_out: rows that do not describe a state.
        remarks: facts on the columns that a user must know.
        count: number of states that the rows describe.
    """

    folder: Path
    models: Mapping[str, Sequence[Entry]]
    names: Mapping[str, str]
    hyperparameters: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[LeftOut]
    remarks: Sequence[str]
    count: int

    def part(self, ids: Sequence[str]) -> RunTable:
        """Return a part with some of the models, for another process."""
        return replace(
            self,
            models={model: self.models[model] for model in ids},
            names={model: self.names[model] for model in ids},
            hyperparameters={model: self.hyperparameters[model] for model in ids},
            left_out=(),
            remarks=(),
        )

    def states(
        self, model_id: str, layout: Layout, max_weight: float | None = None
    ) -> Iterator[State | LeftOut]:
        """Yield the states of one model by epoch, with one of them in memory at a time."""
        for entry in self.models[model_id]:
            try:
                yield self._state(entry, layout, max_weight)
            except Unreadable as error:
                yield LeftOut(self.names[model_id], entry.epoch, str(error))

    @blamed_on_the_file()
    def _state(self, entry: Entry, layout: Layout, max_weight: float | None) -> State:
        tensors = read_tensors(self._path(entry), largest_file(layout))
        weights = weights_of(tensors, layout)
        if fault := weights_fault(weights, max_weight):
            raise Unreadable(fault)
        return State(entry.epoch, weights, entry.metrics, {})

    def _path(self, entry: Entry) -> Path:
        root = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(root, entry.path))
        if os.path.commonpath((root, path)) != root:
            raise Unreadable(f"refused: the path {shown(entry.path, 200)} leaves the folder")
        if not os.path.isfile(path):
            raise Unreadable(
                f"missing file: there is no {shown(entry.path, 200)} in {self.folder.name}"
            )
        return Path(path)

    def sizes(self) -> list[tuple[str, int | None]]:
        """Return the path and the size in bytes of each checkpoint; None if it is missing."""

        def size(entry: Entry) -> int | None:
            try:
                return os.stat(self._path(entry)).st_size
            except (Unreadable, OSError, ValueError):
                return None

        entries = itertools.chain.from_iterable(self.models.values())
        return [(entry.path, size(entry)) for entry in entries]

    def layout(self, architecture: str) -> Layout:
        """Return the layout of the checkpoints.

        Args:
            architecture: name or text of the network. If a name leaves channels or classes open,
                those of the first readable checkpoint are taken.

        Raises:
            InvalidArgument: there is no such network.
            Unreadable: no checkpoint fits this network.
        """
        name = canonical_name(architecture)
        if looks_like_text(architecture):
            text = parse_text(architecture)
            return make_layout(name, text.channels, text.classes)
        reason = "it has no row that can be used"
        for entry in itertools.chain.from_iterable(self.models.values()):
            try:
                return self._layout_of(name, entry)
            except Unreadable as error:
                reason = str(error)
        raise Unreadable(f"no checkpoint is a {find_architecture(name).title}, the last: {reason}")

    @blamed_on_the_file()
    def _layout_of(self, name: str, entry: Entry) -> Layout:
        tensors = floats(read_tensors(self._path(entry), 1 << 30))
        return find_layout(name, sum(array.size for array in tensors.values()))

    def columns(self) -> pa.Table | None:
        """Return the columns that our rows do not have, a row for each state; None without any."""
        rows = [(i, entry) for i in sorted(self.models) for entry in self.models[i]]
        names = dict.fromkeys(name for _, entry in rows for name in entry.others)
        if not names:
            return None
        return pa.table(
            {
                "model_id": pa.array([model for model, _ in rows], pa.string()),
                "epoch": pa.array([entry.epoch for _, entry in rows], pa.int32()),
                **{
                    name: pa.array([entry.others.get(name) for _, entry in rows], pa.string())
                    for name in names
                },
            }
        )

    def specify(self, layout: Layout, name: str, images: str | None) -> Zoo:
        """Return the specification of the zoo.

        Args:
            layout: of its models.
            name: its name.
            images: key of the images on which they were trained; None if they are not known.
        """
        epochs = [entry.epoch for entries in self.models.values() for entry in entries]
        epochs += [model["epochs"] or 1 for model in self.hyperparameters.values()]
        images = images or UNKNOWN_IMAGES
        own = images.startswith(IMAGE_FOLDER)
        return specify_drawn(
            [*self.hyperparameters.values()],
            {
                "name": name,
                "image_dataset": Path(images).name if own else images.partition("/")[0],
                "images": images,
                "architecture": layout.architecture.name,
                "channels": layout.channels,
                "classes": layout.classes,
                "epochs": max(epochs),
                "note": "imported from checkpoints and a table; the rows say what each model has",
            },
        )


def check_name(name: str) -> str:
    """Return the name of a user's zoo; raise InvalidArgument if it is in the catalog."""
    if name in config_names() or name in ELSEWHERE:
        raise InvalidArgument(
            f"{name} is a zoo of the catalog: give this one another name", hint="--zoo NAME"
        )
    return name
