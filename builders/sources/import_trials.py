"""Import of raw zoos: zips and folders of ray tune's trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import Unreadable
from ..names import twin_name
from ..phrases import counted
from ..specification import Zoo
from ..zoo_directory import ZooDirectory, open_zoo
from . import ray_tune, tarball
from .archive import Source, first_of, printable
from .found import Description
from .identify import in_grid, wrong_shape, zoos_of_trials
from .import_job import ImportJob, Outcome, file_facts
from .own import refuse_own_folder
from .processes import mapped
from .ray_tune import Trial
from .report import LeftOut, Report
from .write_model import differ, present_states, write_model

_ARCHIVES = (".zip", *tarball.SUFFIXES)
"""Suffixes of archives, which are not opened within a source."""


@dataclass(frozen=True)
class _Task:
    """What a process needs to import one trial."""

    source: Path
    directory: ZooDirectory
    trial: Trial
    description: Description
    max_weight: float | None


def import_trials(job: ImportJob) -> list[Report]:
    """Import each zoo among the trials of a zip or a folder.

    Raises:
        Unreadable: there are no trials, or none of the named zoo.
    """
    try:
        return _import_trials(job)
    except Unreadable:
        refuse_own_folder(job.path)
        raise


def _import_trials(job: ImportJob) -> list[Report]:
    stem = job.path.resolve().name if job.path.is_dir() else job.path.stem
    with Source(job.path) as source:
        passed_over: list[str] = []
        trials = ray_tune.find_trials(source.members(), stem, passed_over)
        remarks = []
        if count := len(source.skipped):
            remarks.append(
                f"{count} links or folders were not followed, as they lead out of the source, "
                "cannot be read, or lead to a folder that is read where it lies: "
                f"{first_of(source.skipped)}"
            )
        if count := len(passed_over):
            remarks.append(
                f"{counted(count, 'folder')} passed over, with a checkpoint but without its number "
                f"as name (checkpoint_NUMBER): {first_of(passed_over)}"
            )
        if not trials:
            if archives := [m.name for m in source.members() if m.name.endswith(_ARCHIVES)]:
                remarks.append(
                    f"it holds {counted(len(archives), 'archive')}, each of which is imported on "
                    f"its own: {first_of(archives)}"
                )
            raise Unreadable(
                "; ".join(
                    [
                        "holds no trial of ray tune (a folder with params.json and checkpoint_*): "
                        "expected the zip of a zoo, a folder of trials or a preprocessed "
                        "dataset_*.pt; a folder of checkpoints needs their table (table=)",
                        *remarks,
                    ]
                ),
                hint="--table names the table of a folder of checkpoints",
            )
        described: dict[str, Description | str] = {}
        for trial in trials:
            try:
                described[trial.folder] = ray_tune.describe(source, trial)
            except Unreadable as error:
                described[trial.folder] = str(error)
        remarks += _correct_classes(source, trials, described)
    about = _folder_facts(job.path, trials) if job.path.is_dir() else file_facts(job.path)
    reports = []
    for zoo, members in zoos_of_trials(trials, described, stem, job.name):
        reports.append(_import_zoo_of_trials(job, zoo, members, described, about, remarks))
        remarks = []
    return reports


def _folder_facts(path: Path, trials: Sequence[Trial]) -> dict[str, object]:
    """Return name and size of a folder of trials, and a digest of the sizes of its checkpoints."""
    sizes = [
        (trial.folder, [(n, member and member.size) for n, _, member in trial.checkpoints])
        for trial in trials
    ]
    total = sum(size or 0 for _, states in sizes for _, size in states)
    digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return {"file": path.resolve().name, "bytes": total, "sha256": digest}


def _correct_classes(
    source: Source, trials: Sequence[Trial], described: dict[str, Description | str]
) -> list[str]:
    """Correct the descriptions' classes to those of the checkpoints; return remarks on changes."""
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
    job: ImportJob,
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
        reason = found if isinstance(found, str) else wrong_shape(found, zoo)
        if reason is None and trial.model_id in tasks:
            first = printable(tasks[trial.model_id].trial.folder)
            reason = (
                f"repeated: {printable(trial.folder)} has the name of {first}, which came first"
            )
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
    outcomes = mapped(_import_trial, list(tasks.values()), size, job.workers)
    return job.report(directory, about, outcomes, len(tasks), states, left_out, remarks)


def _import_trial(task: _Task) -> Outcome:
    trial, description, directory = task.trial, task.description, task.directory
    others: set[str] = set()
    with Source(task.source) as source:
        try:
            found, remarks = ray_tune.results(source, trial, others)
        except Unreadable as error:
            return Outcome([0], trial.without(str(error)), [])
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
        present = present_states(directory, model_id)
        # Of two states with one epoch, the first counts.
        first = {epoch: m.metrics for epoch, m in zip(epochs[::-1], found[::-1], strict=True)}
        if any(differ(metrics, first.get(epoch)) for epoch, metrics in present.items()):
            # A folder is identified by names and sizes, which another run can share.
            reason = (
                "refused: the zoo has a model of this name with other metrics, from another "
                "source; import this one into another folder"
            )
            return Outcome([0], trial.without(reason), remarks)
        outcome = write_model(
            directory, model_id, name, description, epochs, states, present, remarks
        )
        return replace(outcome, others=frozenset(others))


def _given_splits(root: Path, zoo: Zoo, tasks: Mapping[str, _Task]) -> dict[str, str]:
    """Return the splits that are already fixed, since a twin lies in its parent's split.

    Twins or parents may be imported first. Only models of this import are considered, and only
    counterparts in the same folder.
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
