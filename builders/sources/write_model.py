"""Write the states of a model that an import reads, beside those that an earlier run wrote."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import FaultyFile
from ..model_file import ModelFile
from ..tensor_file import TensorFile
from ..zoo_directory import ZooDirectory
from .found import Description, State
from .import_job import Outcome
from .report import LeftOut


def write_model(
    directory: ZooDirectory,
    model_id: str,
    name: str,
    description: Description,
    found: Sequence[int],
    states: Iterable[State | LeftOut],
    present: Collection[int] | None = None,
    remarks: Sequence[str] = (),
) -> Outcome:
    """Write the states of one model: those with their own files as soon as they are read.

    Args:
        directory: the zoo.
        model_id: id of the model.
        name: its name in the source.
        description: the source's description of the model.
        found: epochs of its states in the source.
        states: the states; none is read if an earlier run wrote them all.
        present: epochs that an earlier run wrote; None to search for them.
        remarks: remarks on the model.
    """
    present = set(present_states(directory, model_id) if present is None else present)
    if len(set(found)) == len(found) and set(found) == present:
        return Outcome([len(found)], [], list(remarks))
    left_out: list[LeftOut] = []
    pending: list[State] = []
    kept = 0

    def write() -> int:
        epochs = [state.epoch for state in pending]
        if not epochs or set(epochs) <= present:
            return len(epochs)  # left untouched, so that data sets in the cache stay valid
        if present.difference(epochs) and not directory.zoo.layout.architecture.file_per_state:
            pending.extend(_states_here(directory, model_id, set(epochs)))
            pending.sort(key=lambda state: state.epoch)
        rows = [state.weights for state in pending]
        metrics = {metric for state in pending for metric in state.metrics}
        try:
            directory.write_model(
                model_id,
                description.hyperparameters,
                [state.epoch for state in pending],
                rows[0][None] if len(rows) == 1 else np.stack(rows),  # no copy of 45 MB
                {metric: _column(pending, metric) for metric in metrics},
                parent_model_id=description.parent,
                extra={n: np.stack([s.extra[n] for s in pending]) for n in pending[0].extra},
                original_name=name if name != model_id else None,
            )
        except ValueError as error:
            left_out.extend(LeftOut(name, epoch, f"refused: {error}") for epoch in epochs)
            return 0
        return len(epochs)

    for state in states:
        if isinstance(state, LeftOut):
            left_out.append(state)
            continue
        pending.append(state)
        if directory.zoo.layout.architecture.file_per_state:
            kept += write()
            pending.clear()
            del state  # while the next is read
    return Outcome([kept + write()], left_out, list(remarks))


def _states_here(directory: ZooDirectory, model_id: str, without: set[int]) -> Iterator[State]:
    """Yield the states that an earlier run wrote, and that this source does not have any more."""
    path = directory.state_path(model_id, 0)
    file = directory.read(path)
    with TensorFile(path) as tensors:
        extra = {n: tensors.read(n) for n in ("mean", "log_sigma2") if n in tensors.tensors}
    for row, (epoch, weights) in enumerate(zip(file.epochs.tolist(), file.weights(), strict=True)):
        if epoch not in without:
            metrics = _metrics(file, row)
            yield State(epoch, weights, metrics, {n: values[row] for n, values in extra.items()})


def _column(states: Sequence[State], metric: str) -> NDArray[np.float64]:
    """Return a metric of all states, masked where it was not measured."""
    values = np.array([state.metrics.get(metric, math.nan) for state in states])
    absent = [metric not in state.metrics for state in states]
    return np.ma.array(values, mask=absent) if any(absent) else values


def present_states(directory: ZooDirectory, model_id: str) -> dict[int, dict[str, float]]:
    """Return epoch -> metrics of the states of a model that an earlier run wrote."""
    files = [directory.state_path(model_id, 0)]
    present: dict[int, dict[str, float]] = {}
    if directory.zoo.layout.architecture.file_per_state:
        files = list(files[0].parent.glob("epoch_*.safetensors"))
    elif not files[0].exists():  # which is soon known
        return present
    for path in files:
        try:
            file = directory.read(path)
        except FaultyFile:
            continue
        present.update(
            (epoch, _metrics(file, row)) for row, epoch in enumerate(file.epochs.tolist())
        )
    return present


def _metrics(file: ModelFile, row: int) -> dict[str, float]:
    """Return the metrics that were measured of a state of a file."""
    return {
        name: float(values[row])
        for name, values in file.metrics.items()
        if values[row] is not np.ma.masked
    }


def differ(present: Mapping[str, float], found: Mapping[str, object] | None) -> bool:
    """Return whether two descriptions of a state disagree on a number that both have."""
    return found is not None and any(
        isinstance(value := found.get(name), int | float)
        and value != known
        and not (math.isnan(value) and math.isnan(known))
        for name, known in present.items()
    )
