"""Import: turn the original files of a zoo into zoo directories, with a report on every state.

    >>> [report] = import_zoo("tune_zoo_mnist_uniform.zip", "zoos")
    >>> report.found == report.kept + len(report.left_out)
    True

A model is written once all its states have been read. A model that has every state of the source is
skipped, so that an interrupted import can be resumed, and the same source always gives the same
bytes. Large imports use several processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...errors import (
    FaultyFile,
    InvalidArgument,
    ModelZoosWarning,
    SourceNotFound,
    Unreadable,
    did_you_mean,
)
from ..catalog import ELSEWHERE, METRICS_NAME, ZOOS, twin_name
from ..machine import cores, counted, file_digest
from ..model_file import Encoded, ModelFile, encode_model
from ..specification import Zoo, is_zoo_name, normalize_name
from ..tensor_file import TensorFile
from ..workers import end_with_parent, interrupts_held, main_hidden
from ..zoo_directory import SOURCE_COLUMNS, ZooDirectory, create_zoo, open_zoo, remove_if_empty
from . import given_splits, preprocessed, ray_tune, run_table, small_cnn_zoo
from .archive import Source, printable
from .identify import identify, in_grid, misfit, zoo_of_file, zoos_of_trials
from .own import refuse_own_folder, refuse_zoo_directory
from .ray_tune import Description, State, Trial
from .report import LeftOut, Report
from .tarball import is_tarball, unpacked

_T = TypeVar("_T")
_R = TypeVar("_R")

_BYTES_FOR_PROCESSES = 1 << 30
"""Weights that one process reads in about the time that further processes take to start."""


@dataclass(frozen=True)
class _Table:
    """The arguments of `import_zoo` about a table."""

    path: Path
    architecture: str
    images: str | None
    rename: Mapping[str, str]
    constants: Mapping[str, str]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class _Import:
    """The arguments of `import_zoo`, checked."""

    path: Path
    root: Path
    name: str | None
    max_weight: float | None
    workers: int | None
    on_progress: Callable[[str, int, int], None] | None
    table: _Table | None = None
    splits: Path | None = None

    def create(self, zoo: Zoo, about: Mapping[str, object], **provenance: object) -> ZooDirectory:
        """Create the directory of a zoo, or open it where an import was interrupted."""
        return create_zoo(
            self.root,
            zoo,
            engine="original",
            source=about,
            max_weight=self.max_weight,
            **provenance,
        )

    def report(
        self,
        directory: ZooDirectory,
        about: Mapping[str, object],
        outcomes: Iterable[_Outcome],
        expected: int,
        found: int,
        left_out: Iterable[LeftOut],
        remarks: Iterable[str] = (),
    ) -> Report:
        """Run the outcomes of all models to their end, and write the report on them.

        Args:
            directory: the zoo.
            about: what the report says of the source.
            outcomes: outcomes of all models.
            expected: number of models.
            found: number of states of the zoo in the source.
            left_out: states that belong to none of the models.
            remarks: remarks that belong to none of the models.
        """
        name = directory.zoo.name
        kept: list[int] = []
        faults, notes, others = list(left_out), list(remarks), set[str]()
        for outcome in outcomes:
            kept += outcome.kept
            faults += outcome.left_out
            notes += outcome.remarks
            others |= outcome.others
            if self.on_progress is not None:
                self.on_progress(name, len(kept), expected)
        if others:
            names = ", ".join(map(printable, sorted(others)))
            notes.append(f"{len(others)} values in result.json that no row has: {names}")
        faults.sort()
        notes.sort()
        models = len(kept) - kept.count(0)
        report = Report(name, about, models, found, sum(kept), tuple(faults), tuple(notes))
        report.write(directory.path)
        if not models:
            remove_if_empty(directory)
        return report


@dataclass(frozen=True)
class _Outcome:
    """What became of the states of some models, or of one.

    Attributes:
        kept: number of kept states of each model.
        left_out: the other states.
        remarks: remarks on the models.
        others: names of measured values that no row has a column for.
    """

    kept: list[int]
    left_out: list[LeftOut]
    remarks: list[str]
    others: frozenset[str] = frozenset()

    @classmethod
    def of_all(cls, outcomes: Sequence[_Outcome]) -> _Outcome:
        """Return several outcomes as one, which goes from process to process in less time."""
        return cls(
            [kept for outcome in outcomes for kept in outcome.kept],
            [state for outcome in outcomes for state in outcome.left_out],
            [remark for outcome in outcomes for remark in outcome.remarks],
            frozenset().union(*(outcome.others for outcome in outcomes)),
        )


def import_zoo(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    name: str | None = None,
    *,
    table: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    images: str | None = None,
    rename: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    licence: str | None = None,
    cite: str | None = None,
    splits: str | os.PathLike[str] | None = None,
    max_weight: float | None = None,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Report]:
    """Turn the original files of a zoo into zoo directories. Call it again to resume an import.

    Args:
        source: path of a zip of trial folders, of a folder that holds trials at any depth, of a
            preprocessed `dataset_*.pt`, or of a folder or a .tar.xz of the Small CNN Zoo; with
            `table`, of a folder of checkpoints.
        root: folder of all zoos.
        name: name of the zoo; None to recognise it. Sparse twins get the name `<name>_sparse`.
        table: path of a table of the checkpoints (run_table.py); where there is no such file, it is
            looked for in the source.
        architecture: name or text of their network, which a table needs.
        images: key of the images that the models of a table were trained on, such as "digits".
        rename: name of a column in the table -> name of our column.
        constants: hyperparameters that all models of a table share: {"activation": "relu"}.
        licence, cite: of the checkpoints, for zoo.json and the card of a repository.
        splits: path of a file with the splits of the models (given_splits.py), for the Small CNN
            Zoo and for checkpoints with a table; None to assign them.
        max_weight: largest |w| of a state that is kept (5 in the paper's data sets); None for no
            limit.
        workers: number of processes; None for one, or for one a core if the import is large.
        on_progress: called with the name of the zoo, the number of finished models, and of all.

    Returns:
        The report on each zoo of the source, as in its import_report.json.

    Raises:
        FileNotFoundError: there is no such source.
        InvalidArgument: an argument cannot be used.
        Unreadable: the source cannot be read at all, holds no zoo, or not the one of this name.
        FaultyZoo: the directory holds a zoo that was made in another way.
    """
    path = Path(source)
    if not path.exists():
        raise SourceNotFound(
            f"{path}: there is no such file or folder",
            hint="`model-zoos download NAME` fetches one",
        )
    if name is not None:
        name = normalize_name(name)
        if not is_zoo_name(name) or name == METRICS_NAME:
            raise InvalidArgument(
                f"a zoo's name consists of small letters, digits and underscores, and is not "
                f"{METRICS_NAME!r}, found {name!r}"
            )
    if max_weight is not None and not 0 < max_weight < math.inf:
        raise InvalidArgument(f"the largest weight must be a number above 0, found {max_weight}")
    if workers is not None and workers < 1:
        raise InvalidArgument(f"the number of workers must be at least 1, found {workers}")
    facts = {"cite": cite, "licence": licence}
    described = _table(path, table, architecture, images, rename, constants, facts)
    job = _Import(
        path,
        Path(root),
        name,
        max_weight,
        workers,
        on_progress,
        described,
        Path(splits) if splits is not None else None,
    )
    try:
        if job.table is not None:
            return [_import_table(job, job.table)]
        refuse_zoo_directory(path)
        if is_tarball(path):
            with unpacked(path, small_cnn_zoo.FILES, job.root) as folder:
                return [_import_small_cnn_zoo(job, folder)]
        if path.is_dir() and small_cnn_zoo.is_small_cnn_zoo(path):
            return [_import_small_cnn_zoo(job, path)]
        if job.splits is not None:
            raise InvalidArgument(f"{path} is no source whose splits can be given")
        if path.is_file() and path.suffix in (".pt", ".pth"):
            return [_import_preprocessed(job)]
        try:
            return _import_trials(job)
        except Unreadable:
            refuse_own_folder(path)
            raise
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}", hint=error.hint) from None


def _table(
    source: Path,
    table: str | os.PathLike[str] | None,
    architecture: str | None,
    images: str | None,
    rename: Mapping[str, str] | None,
    constants: Mapping[str, str] | None,
    facts: Mapping[str, str | None],
) -> _Table | None:
    """Check the arguments about a table, and return them."""
    if table is None:
        for name, value in (
            ("architecture", architecture),
            ("images", images),
            ("rename", rename),
            ("constants", constants),
            *facts.items(),
        ):
            if value:
                raise InvalidArgument(f"{name} is for a folder of checkpoints with a table")
        return None
    if architecture is None:
        raise InvalidArgument(
            "a table needs the architecture of its models, such as '1x28x28 fc64 fc10'",
            hint="--architecture TEXT",
        )
    if not source.is_dir():
        raise InvalidArgument(f"{source}: a table describes a folder of checkpoints")
    path = Path(table)
    if not path.exists():
        path = source / path
    if not path.exists():
        raise SourceNotFound(f"{table}: there is no such table, nor in {source}")
    known = {key: text for key, text in facts.items() if text}
    _warn_of_images(images)
    return _Table(path, architecture, images, rename or {}, constants or {}, known)


# --- Raw zoos -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """What a process needs to import one trial."""

    source: Path
    directory: ZooDirectory
    trial: Trial
    description: Description
    max_weight: float | None


def _import_trials(job: _Import) -> list[Report]:
    stem = job.path.resolve().name if job.path.is_dir() else job.path.stem
    with Source(job.path) as source:
        trials = ray_tune.find_trials(source.members(), stem)
        remarks = []
        if count := len(source.skipped):
            remarks.append(
                f"{count} links or folders were not followed, as they lead out of the source, "
                "cannot be read, or lead to a folder that is read where it lies: "
                f"{_first_of(source.skipped)}"
            )
        if not trials:
            raise Unreadable(
                "; ".join(
                    [
                        "holds no trial of ray tune (a folder with params.json and checkpoint_*): "
                        "expected the zip of a zoo, a folder of trials or a preprocessed "
                        "dataset_*.pt; a folder of checkpoints needs their table (--table, table=)",
                        *remarks,
                    ]
                )
            )
        described: dict[str, Description | str] = {}
        for trial in trials:
            try:
                described[trial.folder] = ray_tune.describe(source, trial)
            except Unreadable as error:
                described[trial.folder] = str(error)
        remarks += _correct_classes(source, trials, described)
    about = _source_facts(job.path, trials)
    reports = []
    for zoo, members in zoos_of_trials(trials, described, stem, job.name):
        reports.append(_import_zoo_of_trials(job, zoo, members, described, about, remarks))
        remarks = []
    return reports


def _correct_classes(
    source: Source, trials: Sequence[Trial], described: dict[str, Description | str]
) -> list[str]:
    """Give descriptions as many classes as the checkpoints have; return remarks on these."""
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        if isinstance(found := described[trial.folder], Description):
            groups.setdefault((*found.shape, found.experiment, found.twin), []).append(trial)
    remarks = []
    for members in groups.values():
        found = described[members[0].folder]
        assert isinstance(found, Description)
        shape = ray_tune.true_shape(source, members, found)
        if shape == found.shape:
            continue
        remarks.append(
            f"the checkpoints of {len(members)} trials have {shape[2]} classes, though their "
            f"params.json say or mean {found.shape[2]}"
        )
        for trial in members:
            own = described[trial.folder]
            assert isinstance(own, Description)
            described[trial.folder] = replace(own, shape=shape)
    return remarks


def _import_zoo_of_trials(
    job: _Import,
    zoo: Zoo,
    trials: Sequence[Trial],
    described: Mapping[str, Description | str],
    about: Mapping[str, object],
    remarks: list[str],
) -> Report:
    directory = job.create(zoo, about)
    tasks: dict[str, _Task] = {}
    left_out: list[LeftOut] = []
    for trial in trials:
        found = described[trial.folder]
        reason = found if isinstance(found, str) else misfit(found, zoo)
        if reason is None and trial.model_id in tasks:
            reason = "repeated: another folder of this name came first"
        if not trial.checkpoints:
            remarks.append(f"{trial.name}: holds no checkpoint")
        elif isinstance(found, str) or reason is not None:
            left_out += trial.without(str(reason))
        else:
            tasks[trial.model_id] = _Task(job.path, directory, trial, found, job.max_weight)
    if outside := sum(not in_grid(task.description, zoo) for task in tasks.values()):
        remarks.append(
            f"{outside} of {len(tasks)} models have hyperparameters outside of the grid of "
            f"{zoo.name}; their rows say what they have"
        )
    given = _given_splits(job.root, zoo, tasks)
    directory.add_splits(tasks, given)
    if zoo.name.endswith("_sparse") and len(given) < len(tasks):
        remarks.append(
            f"{len(tasks) - len(given)} of {len(tasks)} twins have a parent that is not in "
            f"{zoo.name.removesuffix('_sparse')}"
        )
    states = sum(len(trial.checkpoints) for trial in trials)
    size = 4 * zoo.layout.size * sum(len(task.trial.checkpoints) for task in tasks.values())
    outcomes = _map(_import_trial, list(tasks.values()), size, job.workers)
    return job.report(directory, about, outcomes, len(tasks), states, left_out, remarks)


def _first_of(names: Sequence[str]) -> str:
    """Return the first names, for a remark."""
    return ", ".join(map(printable, names[:3])) + ", ..." * (len(names) > 3)


def _map(
    work: Callable[[_T], _R], tasks: Sequence[_T], size: int, workers: int | None
) -> Iterator[_R]:
    """Yield what the work makes of each task, in order.

    Args:
        work: a function of a module.
        tasks: its arguments.
        size: bytes of the weights of all tasks.
        workers: number of processes; None for one, or for one a core if there is much to do.
    """
    if workers is None:
        workers = cores() if size > _BYTES_FOR_PROCESSES else 1
    with _mapper(min(workers, len(tasks))) as mapper:
        yield from mapper(work, tasks)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that uses so many processes, or only this one if they are fewer than 2.

    The processes start at once and load this module, whatever this one does before it calls `map`.
    """
    if workers < 2:
        yield map
        return
    # Spawned: forking a process whose libraries run threads can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        try:
            with interrupts_held(), main_hidden():
                for _ in range(workers):
                    pool.submit(_nothing)  # which starts a process, as all others are busy
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _nothing() -> None:
    """The work of a process that is only to be started."""


def _import_trial(task: _Task) -> _Outcome:
    trial, description, directory = task.trial, task.description, task.directory
    others: set[str] = set()
    with Source(task.source) as source:
        try:
            found, remarks = ray_tune.results(source, trial, others)
        except Unreadable as error:
            return _Outcome([0], trial.without(str(error)), [])
        states = ray_tune.states(
            source,
            trial,
            found,
            directory.zoo.layout,
            twin=description.twin,
            max_weight=task.max_weight,
        )
        epochs = [-1 if measured.epoch is None else measured.epoch for measured in found]
        model_id, name = trial.model_id, trial.name
        present = _present(directory, model_id)
        # Of two states of an epoch the first counts.
        first = {epoch: m.metrics for epoch, m in zip(epochs[::-1], found[::-1], strict=True)}
        if any(_differ(metrics, first.get(epoch)) for epoch, metrics in present.items()):
            # A folder is known by names and sizes, which another run can have too.
            reason = (
                "refused: the zoo has a model of this name with other metrics, from another "
                "source; import this one into another folder"
            )
            return _Outcome([0], trial.without(reason), remarks)
        outcome = _write_model(
            directory, model_id, name, description, epochs, states, present, remarks
        )
        return replace(outcome, others=frozenset(others))


def _given_splits(root: Path, zoo: Zoo, tasks: Mapping[str, _Task]) -> dict[str, str]:
    """Return the splits that are decided already: a twin lies in its parent's split.

    Either of the two may be imported first. Only models that are imported now count, and only where
    the counterpart is in the same folder.
    """
    if zoo.name.endswith("_sparse"):
        dense = zoo.name.removesuffix("_sparse")
        if not (root / dense / "zoo.json").exists():
            return {}
        splits = open_zoo(root, dense).splits()
        parents = {name: task.description.parent for name, task in tasks.items()}
        return {model: splits[p] for model, p in parents.items() if p is not None and p in splits}
    if not (root / twin_name(zoo.name) / "zoo.json").exists():
        return {}
    twins = open_zoo(root, twin_name(zoo.name))
    splits = twins.splits()
    return {
        twin.parent_model_id: splits[twin.model_id]
        for twin in twins.scan()[0]
        if twin.parent_model_id is not None
        and twin.parent_model_id in tasks
        and twin.model_id in splits
    }


# --- Preprocessed data sets -----------------------------------------------------------------------


def _import_preprocessed(job: _Import) -> Report:
    data = preprocessed.read_datasets(job.path)
    size = data.size()
    shapes = {z.layout.size: (z.architecture, z.channels, z.classes) for z in ZOOS.values()}
    if size not in shapes:
        raise Unreadable(f"its states have {size:,} weights, as no architecture of the catalog has")
    left_out, descriptions = list(data.left_out), {}
    for model_id, rows in data.rows.items():
        try:
            found = ray_tune.hyperparameters(data.params[model_id])
        except Unreadable as error:
            left_out += [LeftOut(data.names[model_id], row.epoch, str(error)) for row in rows]
            continue
        descriptions[model_id] = Description(shapes[size], found, data.experiment)
    if not descriptions:
        raise Unreadable(f"none of its models can be used, first: {min(left_out).reason}")
    name = job.name or zoo_of_file(job.path.name, shapes[size][0])
    experiment = data.experiment or job.path.stem
    zoo = identify(list(descriptions.values()), False, experiment, name)
    about = _source_facts(job.path)
    directory = job.create(zoo, about)
    directory.add_splits(descriptions, {model: data.splits[model] for model in descriptions})
    outcomes = (
        _write_model(
            directory,
            model_id,
            data.names[model_id],
            description,
            [row.epoch for row in data.rows[model_id]],
            data.states(model_id, zoo.layout, job.max_weight),
        )
        for model_id, description in descriptions.items()
    )
    expected = len(descriptions)
    return job.report(directory, about, outcomes, expected, data.found, left_out, data.remarks)


# --- The Small CNN Zoo ---------------------------------------------------------------------------


def _import_small_cnn_zoo(job: _Import, folder: Path) -> Report:
    size = (folder / "weights.npy").stat().st_size
    large = size > _BYTES_FOR_PROCESSES
    workers = job.workers or (min(cores(), _MOST_READERS) if large else 1)
    with _mapper(workers) as mapper:  # whose processes start while this one reads the table
        return _import_small_cnns(job, folder, mapper)


def _import_small_cnns(
    job: _Import, folder: Path, mapper: Callable[..., Iterator[_Outcome]]
) -> Report:
    data = small_cnn_zoo.read_small_cnn_zoo(folder)
    digest = hashlib.sha256()
    for name in ("metrics.csv.gz", "layout.csv"):
        digest.update((folder / name).read_bytes())
    given, facts, remarks = _read_splits(job.splits, data.names, data.finals)
    digest.update("".join(facts.values()).encode())
    about = {
        "file": job.path.resolve().name,
        "bytes": sum((folder / name).stat().st_size for name in small_cnn_zoo.FILES),
        "sha256": digest.hexdigest(),
        "form": small_cnn_zoo.FORM,
        **facts,
    }
    zoo = small_cnn_zoo.specify(data, job.name)
    published = ELSEWHERE.get(f"{zoo.image_dataset}_small_cnn")
    if published is not None:
        about |= {key: getattr(published, key) for key in ("title", "url", "cite", "licence")}
    directory = job.create(zoo, about)
    small_cnn_zoo.write_source_columns(data, directory.path)
    directory.add_splits(data.models, given)
    found = sum(map(data.count, data.models)) + len(data.left_out)
    begun = {path.stem for path in directory.files()}
    parts = _parts(directory, data, _CHUNK, job.max_weight, begun)
    outcomes = mapper(_import_small_cnn_part, parts)
    return job.report(directory, about, outcomes, len(data.models), found, data.left_out, remarks)


_Data = TypeVar("_Data", small_cnn_zoo.SmallCnnZoo, run_table.RunTable)

_CHUNK = 200
"""Models of the Small CNN Zoo that a process imports at a time."""

_MOST_READERS = 4
"""Processes that are started for it without being asked for: each takes 150 MB."""


@dataclass(frozen=True)
class _Part(Generic[_Data]):
    """What a process needs to import some models of a source that has many.

    Attributes:
        directory: the zoo.
        data: what the source says of these models.
        max_weight: see `import_zoo`.
        begun: those that had a file when the import began.
    """

    directory: ZooDirectory
    data: _Data
    max_weight: float | None
    begun: frozenset[str]


def _parts(
    directory: ZooDirectory,
    data: _Data,
    size: int,
    max_weight: float | None,
    begun: Collection[str] = (),
) -> Iterator[_Part[_Data]]:
    """Yield the models of a source in parts of `size`."""
    ids = list(data.models)
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        yield _Part(directory, data.part(some), max_weight, frozenset(some).intersection(begun))


def _import_small_cnn_part(part: _Part[small_cnn_zoo.SmallCnnZoo]) -> _Outcome:
    with part.data.opened() as opened:
        # The headers of all models first, the weights after: by turns, the weights would drive what
        # makes the headers out of the processor's cache.
        files = [_new_files(part, model_id, opened) for model_id in part.data.models]
        outcomes = [
            _import_small_cnn(part, model_id, opened, found)
            for model_id, found in zip(part.data.models, files, strict=True)
        ]
    return _Outcome.of_all(outcomes)


def _new_files(
    part: _Part[small_cnn_zoo.SmallCnnZoo], model_id: str, opened: small_cnn_zoo.OpenWeights
) -> list[Encoded]:
    """Return the files of a new model, with `opened.memory` in place of its weights.

    The weights of one model must be read and written before those of the next are read.

    Returns:
        The files; [] if the model has a file already, or cannot be written.
    """
    data, directory = part.data, part.directory
    if model_id in part.begun:
        return []
    rows, name = data.models[model_id], data.names[model_id]
    with suppress(InvalidArgument):  # _write_model reports it
        files = encode_model(
            directory.zoo,
            model_id,
            data.hyperparameters[model_id],
            data.epochs[rows],
            opened.memory(model_id),
            {metric: column[rows] for metric, column in data.metrics.items()},
            original_name=name if name != model_id else None,
        )
        return list(files)
    return []


def _import_small_cnn(
    part: _Part[small_cnn_zoo.SmallCnnZoo],
    model_id: str,
    opened: small_cnn_zoo.OpenWeights,
    files: list[Encoded],
) -> _Outcome:
    data, directory, zoo = part.data, part.directory, part.directory.zoo
    epochs = data.epochs[data.models[model_id]].tolist()
    # Nearly every model is new and whole: state by state, it would take twice as long.
    if files and not any(opened.read(model_id, part.max_weight)):
        for file in files:
            directory.write_file(model_id, file)
        return _Outcome([len(epochs)], [], [])
    shape = (zoo.architecture, zoo.channels, zoo.classes)
    description = Description(shape, data.hyperparameters[model_id], data.dataset)
    states = data.states(model_id, part.max_weight)
    return _write_model(directory, model_id, data.names[model_id], description, epochs, states)


def _warn_of_images(images: str | None) -> None:
    """Warn if no images are named, or none that `verify` can load."""
    names = list(dict.fromkeys(zoo.images for zoo in ZOOS.values()))
    known = {name.partition("/")[0] for name in (*names, "folder")}
    if images is None:
        text = "the images that the models saw are not named, so that nothing can be verified"
    elif images.replace("-", "_").partition("/")[0] not in known:
        advice = did_you_mean(images, names) or f"known: {', '.join(names)}, folder/<folder>"
        text = f"no image data set {images!r} is known, so that nothing can be verified; {advice}"
    else:
        return
    warnings.warn(ModelZoosWarning(text, hint="--images NAME"), stacklevel=4)


def _read_splits(
    path: Path | None,
    names: Mapping[str, str],
    finals: Callable[[], Mapping[int, str | None]] | None,
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the split of each model that a file names, what zoo.json says of it, and remarks.

    Args:
        path: the file; None if there is none.
        names: model id -> name in the source.
        finals: returns the argument of `given_splits.by_order`; None where rows have no numbers.
    """
    remarks: list[str] = []
    if path is None:
        return {}, {}, remarks
    if not path.exists():
        raise SourceNotFound(f"{path}: there is no such file of splits")
    found = given_splits.read_splits(path)
    if isinstance(found, Mapping):
        splits = given_splits.by_name(found, names)
        if others := found.keys() - {*names, *names.values()}:
            unknown = counted(len(others), "unknown model")
            remarks.append(f"{path.name} names {unknown}: {_first_of(sorted(others))}")
        if splits and len(splits) < len(names):
            remarks.append(
                f"{path.name} does not name {len(names) - len(splits)} of {len(names)} models, "
                "which were assigned 70/15/15"
            )
    elif finals is not None:
        splits = given_splits.by_order(found, finals())
    else:
        raise Unreadable(f"{path.name} has numbers of rows, expected models by name")
    if not splits:
        raise Unreadable(f"{path.name} names none of its models")
    return splits, {"splits": file_digest(path, "sha256")}, remarks


# --- Checkpoints with a table ---------------------------------------------------------------------


def _import_table(job: _Import, table: _Table) -> Report:
    name = job.name or re.sub(r"[^a-z0-9]+", "_", normalize_name(job.path.resolve().name))
    name = name.strip("_")[:100]
    if not name:
        raise InvalidArgument(
            f"{job.path.resolve().name} cannot be a zoo's name: give another", hint="--zoo NAME"
        )
    name = run_table.check_name(name)
    data = run_table.read_run_table(table.path, job.path, table.rename, table.constants)
    layout = data.layout(table.architecture)
    sizes = data.sizes()
    columns = [sorted(table.rename.items()), sorted(table.constants.items())]
    given, facts, remarks = _read_splits(job.splits, data.names, None)
    of_source = json.dumps([file_digest(table.path, "sha256"), columns, sizes, facts])
    about = {
        "file": job.path.resolve().name,
        "bytes": sum(size or 0 for _, size in sizes),
        "sha256": hashlib.sha256(of_source.encode()).hexdigest(),
        "form": run_table.FORM,
        **facts,
        **table.facts,
    }
    zoo = data.specify(layout, name, table.images)
    epochs = {entry.epoch for entries in data.models.values() for entry in entries}
    directory = job.create(zoo, about, keep_epochs=sorted(epochs))
    if (others := data.columns()) is not None:
        pq.write_table(others, directory.path / SOURCE_COLUMNS)
    directory.add_splits(data.models, given)
    expected = len(data.models)
    parts = list(_parts(directory, data, max(1, min(20, expected // 64)), job.max_weight))
    size = sum(size or 0 for _, size in sizes)
    outcomes = _map(_import_of_table, parts, size, job.workers)
    remarks += data.remarks
    return job.report(directory, about, outcomes, expected, data.count, data.left_out, remarks)


def _import_of_table(part: _Part[run_table.RunTable]) -> _Outcome:
    directory, data, zoo = part.directory, part.data, part.directory.zoo
    shape = (zoo.architecture, zoo.channels, zoo.classes)
    outcomes = [
        _write_model(
            directory,
            model_id,
            data.names[model_id],
            Description(shape, data.hyperparameters[model_id], ""),
            [entry.epoch for entry in entries],
            data.states(model_id, zoo.layout, part.max_weight),
        )
        for model_id, entries in data.models.items()
    ]
    return _Outcome.of_all(outcomes)


# --- Writing --------------------------------------------------------------------------------------


def _write_model(
    directory: ZooDirectory,
    model_id: str,
    name: str,
    description: Description,
    found: Sequence[int],
    states: Iterable[State | LeftOut],
    present: Collection[int] | None = None,
    remarks: Sequence[str] = (),
) -> _Outcome:
    """Write the states of one model: each as soon as it is read, if it has a file of its own.

    Args:
        directory: the zoo.
        model_id: id of the model.
        name: what the source calls it.
        description: what the source says of the model.
        found: epochs of its states in the source.
        states: the states; none is read if an earlier run wrote them all.
        present: epochs that an earlier run wrote; None to look for them.
        remarks: remarks on the model.
    """
    present = set(_present(directory, model_id) if present is None else present)
    if len(set(found)) == len(found) and set(found) == present:
        return _Outcome([len(found)], [], list(remarks))
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
    return _Outcome([kept + write()], left_out, list(remarks))


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


def _present(directory: ZooDirectory, model_id: str) -> dict[int, dict[str, float]]:
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


def _differ(present: Mapping[str, float], found: Mapping[str, object] | None) -> bool:
    """Return whether two descriptions of a state disagree on a number that both have."""
    return found is not None and any(
        isinstance(value := found.get(name), int | float)
        and value != known
        and not (math.isnan(value) and math.isnan(known))
        for name, known in present.items()
    )


def _source_facts(path: Path, trials: Sequence[Trial] = ()) -> dict[str, object]:
    """Return name, size and digest of a source; for a folder those of its trials' sizes."""
    if path.is_dir():
        sizes = [
            (trial.folder, [(n, member and member.size) for n, _, member in trial.checkpoints])
            for trial in trials
        ]
        total = sum(size or 0 for _, states in sizes for _, size in states)
        digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        return {"file": path.resolve().name, "bytes": total, "sha256": digest}
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path, "sha256")}
