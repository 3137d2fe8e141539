"""From a published file to zoo directories, with an account of every state.

    >>> [report] = import_zoo("tune_zoo_mnist_uniform.zip", "zoos")
    >>> report.found == report.kept + len(report.left_out)
    True

A model is written when all its states were read; one that is already there with every state that
the source has is skipped, so that an import that was killed goes on where it was, and the same
source always gives the same bytes. Trials are shared out among processes when there are many.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FaultyFile, Unreadable
from ..atomic import write_atomically
from ..catalog import METRICS_NAME, ZOOS, twin_name
from ..specification import Zoo, is_zoo_name, normalize_name
from ..workers import end_with_parent, interrupts_held
from ..zoo_directory import ZooDirectory, create_zoo, open_zoo
from . import preprocessed, ray_tune
from .archive import Source
from .identify import _in_grid, _misfit, _zoo, _zoos_of, zoo_of_file
from .ray_tune import Description, State, Trial
from .report import LeftOut, Report

REPORT = "import_report.json"

_BYTES_FOR_PROCESSES = 1 << 30
"""Weights that one process reads in about as long as the others take to start."""


@dataclass(frozen=True)
class _Task:
    """What a process needs to import one trial."""

    source: Path
    directory: ZooDirectory
    trial: Trial
    description: Description
    max_weight: float | None


@dataclass(frozen=True)
class _Outcome:
    """What became of one trial: kept states, the others, remarks."""

    kept: int
    left_out: list[LeftOut]
    remarks: list[str]


def import_zoo(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    name: str | None = None,
    *,
    max_weight: float | None = None,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Report]:
    """Turn a published file into zoo directories; run again after an interruption, it goes on.

    Args:
        source: a zip of trial folders, a folder that holds some at any depth, or a preprocessed
            `dataset_*.pt`.
        root: folder of all zoos.
        name: of the zoo; None to recognise it. Twins go to `<name>_sparse`.
        max_weight: leave out states with a larger |w| (the original's data sets: 5).
        workers: processes; None for one, or for as many as there are cores where it pays.
        on_progress: called with the zoo's name, trials done and trials in all.

    Returns:
        One report for each zoo that the source holds, as in its import_report.json.

    Raises:
        ValueError: the source cannot be read at all, or holds no zoo, or not that of this name.
        FaultyZoo: the directory holds a zoo that was made otherwise.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file or folder; `model-zoos download NAME` fetches one"
        )
    if name is not None:
        name = normalize_name(name)
        if not is_zoo_name(name) or name == METRICS_NAME:
            raise ValueError(
                f"a zoo's name is made of small letters, digits and underscores, and is not "
                f"{METRICS_NAME!r}, found {name!r}"
            )
    if max_weight is not None and not 0 < max_weight < math.inf:
        raise ValueError(f"the largest weight must be a number above 0, found {max_weight}")
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1, found {workers}")
    try:
        if path.is_file() and path.suffix in (".pt", ".pth"):
            return [_import_preprocessed(path, Path(root), name, max_weight, on_progress)]
        return _import_trials(path, Path(root), name, max_weight, workers, on_progress)
    except Unreadable as error:
        raise ValueError(f"{path}: {error}") from None


# --- Raw zoos -------------------------------------------------------------------------------------


def _import_trials(
    path: Path,
    root: Path,
    name: str | None,
    max_weight: float | None,
    workers: int | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> list[Report]:
    stem = path.resolve().name if path.is_dir() else path.stem
    with Source(path) as source:
        trials = ray_tune.find_trials(source.members(), stem)
        if not trials:
            raise Unreadable(
                "holds no trial of ray tune (a folder with params.json and checkpoint_*): expected "
                "a published zip, a folder of trials or a preprocessed dataset_*.pt"
            )
        described: dict[str, Description | str] = {}
        for trial in trials:
            try:
                described[trial.folder] = ray_tune.describe(source, trial)
            except Unreadable as error:
                described[trial.folder] = str(error)
    about = _about(path, trials)
    reports = []
    for zoo, members in _zoos_of(trials, described, stem, name):
        directory = create_zoo(root, zoo, engine="original", source=about, max_weight=max_weight)
        tasks, left_out, remarks = [], [], []
        names: set[str] = set()
        for trial in members:
            description = described[trial.folder]
            reason = _misfit(description, zoo)
            if reason is None and trial.name in names:
                reason = "repeated: another folder of this name came first"
            if not trial.checkpoints:
                remarks.append(f"{trial.name}: holds no checkpoint")
            elif isinstance(description, str) or reason is not None:
                left_out += trial.without(str(reason))
            else:
                names.add(trial.name)
                tasks.append(_Task(path, directory, trial, description, max_weight))
        if outside := sum(not _in_grid(task.description, zoo) for task in tasks):
            remarks.append(
                f"{outside} of {len(tasks)} models have hyperparameters outside of the grid of "
                f"{zoo.name}; their rows say what they have"
            )
        given = _given_splits(root, zoo, tasks)
        directory.add_splits(names, given)
        if zoo.name.endswith("_sparse") and len(given) < len(names):
            remarks.append(
                f"{len(names) - len(given)} of {len(names)} twins have a parent that is not in "
                f"{zoo.name.removesuffix('_sparse')}"
            )
        kept, models = 0, 0
        for number, outcome in enumerate(_run(tasks, workers), start=1):
            kept += outcome.kept
            models += outcome.kept > 0
            left_out += outcome.left_out
            remarks += outcome.remarks
            if on_progress is not None:
                on_progress(zoo.name, number, len(tasks))
        report = Report(
            zoo=zoo.name,
            source=about,
            models=models,
            found=sum(len(trial.checkpoints) for trial in members),
            kept=kept,
            left_out=tuple(sorted(left_out)),
            remarks=tuple(sorted(remarks)),
        )
        _write_report(directory, report)
        reports.append(report)
    return reports


def _run(tasks: Sequence[_Task], workers: int | None) -> Iterator[_Outcome]:
    size = sum(4 * len(t.trial.checkpoints) * t.directory.zoo.layout.size for t in tasks)
    if workers is None:
        workers = (os.cpu_count() or 1) if size > _BYTES_FOR_PROCESSES else 1
    workers = min(workers, len(tasks))
    if workers < 2:
        yield from map(_import_trial, tasks)
        return
    # Spawned: forking a process whose libraries run threads can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        try:
            with interrupts_held():
                outcomes = pool.map(_import_trial, tasks, chunksize=1)
            yield from outcomes
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _import_trial(task: _Task) -> _Outcome:
    trial, description, zoo = task.trial, task.description, task.directory.zoo
    found = [epoch for epoch, _ in trial.checkpoints]
    present = _present(task.directory, trial.name)
    with Source(task.source) as source:
        try:
            lines, remarks = ray_tune.results(source, trial)
        except Unreadable as error:
            return _Outcome(0, trial.without(str(error)), [])
        if len(set(found)) == len(found) and set(found) == present:
            return _Outcome(len(found), [], remarks)
        states = ray_tune.states(
            source, trial, lines, zoo.layout, twin=description.twin, max_weight=task.max_weight
        )
        return _write_states(
            task.directory,
            trial.name,
            description.hyperparameters,
            states,
            present,
            parent=description.parent,
            remarks=remarks,
        )


def _write_states(
    directory: ZooDirectory,
    model_id: str,
    hyperparameters: Mapping[str, Any],
    states: Iterable[State | LeftOut],
    present: set[int],
    *,
    parent: str | None = None,
    remarks: Sequence[str] = (),
) -> _Outcome:
    """Write one model: all its states at once, or for ResNet-18 each as soon as it was read."""
    left_out: list[LeftOut] = []
    pending: list[State] = []
    kept = 0

    def write() -> int:
        epochs = [state.epoch for state in pending]
        if not epochs or set(epochs) <= present:
            return len(epochs)  # left untouched, so that data sets in the cache stay valid
        try:
            directory.write_model(
                model_id,
                hyperparameters,
                epochs,
                _stacked([state.weights for state in pending]),
                {n: np.array([s.metrics[n] for s in pending]) for n in pending[0].metrics},
                parent_model_id=parent,
                extra={n: np.stack([s.extra[n] for s in pending]) for n in pending[0].extra},
            )
        except ValueError as error:
            left_out.extend(LeftOut(model_id, epoch, f"refused: {error}") for epoch in epochs)
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
    kept += write()
    return _Outcome(kept, left_out, list(remarks))


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """np.stack, without a copy of a single row."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _present(directory: ZooDirectory, model_id: str) -> set[int]:
    """Epochs of a model that an earlier run wrote."""
    path = directory.models_path / model_id
    files = (
        sorted(path.glob("epoch_*.safetensors"))
        if path.is_dir()
        else [path.with_name(f"{model_id}.safetensors")]
    )
    epochs: set[int] = set()
    for file in files:
        try:
            epochs.update(directory.read(file).epochs.tolist())
        except FaultyFile:
            continue
    return epochs


# --- Which zoo it is ------------------------------------------------------------------------------


def _given_splits(root: Path, zoo: Zoo, tasks: Sequence[_Task]) -> dict[str, str]:
    """Splits that are decided already: a twin lies where its parent lies, and the other way round.

    Only of models that are imported now, and only where the counterpart is in the same folder.
    """
    if zoo.name.endswith("_sparse"):
        dense = zoo.name.removesuffix("_sparse")
        if not (root / dense / "zoo.json").exists():
            return {}
        splits = open_zoo(root, dense).splits()
        parents = {t.trial.name: t.description.parent for t in tasks}
        return {model: splits[p] for model, p in parents.items() if p is not None and p in splits}
    if not (root / twin_name(zoo.name) / "zoo.json").exists():
        return {}
    twins = open_zoo(root, twin_name(zoo.name))
    splits, wanted = twins.splits(), {task.trial.name for task in tasks}
    return {
        states.parent_model_id: splits[states.model_id]
        for states in twins.scan()[0]
        if states.parent_model_id in wanted and states.model_id in splits
    }


# --- Preprocessed data sets -----------------------------------------------------------------------


def _import_preprocessed(
    path: Path,
    root: Path,
    name: str | None,
    max_weight: float | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> Report:
    data = preprocessed.read_datasets(path)
    left_out, descriptions = list(data.left_out), {}
    size = data.size()
    layouts = {(z.architecture, z.channels, z.classes): z.layout for z in ZOOS.values()}
    shape = next((shape for shape, layout in layouts.items() if layout.size == size), None)
    if shape is None:
        raise Unreadable(f"its states have {size:,} weights, as no architecture of the catalog has")
    for model_id, rows in data.rows.items():
        try:
            hyperparameters = ray_tune.hyperparameters(data.params[model_id])
        except Unreadable as error:
            left_out += [LeftOut(model_id, row.epoch, str(error)) for row in rows]
            continue
        descriptions[model_id] = Description(
            *shape, hyperparameters, data.experiment, twin=False, parent=None, parent_experiment=""
        )
    if not descriptions:
        raise Unreadable(f"none of its models can be used, first: {min(left_out).reason}")
    experiment = data.experiment or path.stem
    name = name or zoo_of_file(path.name, shape[0])
    zoo = _zoo(list(descriptions.values()), False, experiment, name)
    about = _about(path)
    directory = create_zoo(root, zoo, engine="original", source=about, max_weight=max_weight)
    directory.add_splits(descriptions, {model: data.splits[model] for model in descriptions})
    kept, models = 0, 0
    for number, (model_id, description) in enumerate(descriptions.items(), start=1):
        present = _present(directory, model_id)
        epochs = [row.epoch for row in data.rows[model_id]]
        if len(set(epochs)) == len(epochs) and set(epochs) == present:
            outcome = _Outcome(len(epochs), [], [])
        else:
            states = data.states(model_id, zoo.layout, max_weight)
            outcome = _write_states(
                directory, model_id, description.hyperparameters, states, present
            )
        kept += outcome.kept
        models += outcome.kept > 0
        left_out += outcome.left_out
        if on_progress is not None:
            on_progress(zoo.name, number, len(descriptions))
    report = Report(zoo.name, about, models, data.found, kept, tuple(sorted(left_out)))
    _write_report(directory, report)
    return report


# --- The account ----------------------------------------------------------------------------------


def _about(path: Path, trials: Sequence[Trial] = ()) -> dict[str, Any]:
    """Name, size and digest of a source; of a folder, the digest of its trials' names and sizes."""
    if path.is_dir():
        sizes = [
            (trial.folder, [(epoch, member and member.size) for epoch, member in trial.checkpoints])
            for trial in trials
        ]
        digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        total = sum(size or 0 for _, states in sizes for _, size in states)
        return {"file": path.resolve().name, "bytes": total, "sha256": digest}
    with path.open("rb") as file:
        digest = _file_digest(file)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _file_digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _write_report(directory: ZooDirectory, report: Report) -> None:
    path = directory.path / REPORT
    content = json.dumps(report.to_json(), indent=1) + "\n"
    if path.exists() and path.read_text() == content:
        return
    write_atomically(path, content.encode())
