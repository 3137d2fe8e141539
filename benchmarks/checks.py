"""The checks of `model-zoos verify` that need no weights, and the record of their results."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..builders.catalog import ZOOS
from ..builders.manifest import MANIFEST
from ..builders.model_file import ModelFile
from ..builders.names import twin_name
from ..builders.phrases import counted
from ..builders.schema import METRICS
from ..builders.splits import SHARES, SPLITS, assign_splits
from ..builders.zoo_directory import ZooDirectory, open_zoo
from ..errors import ZooNotFound
from .split_runs import assigned_in_runs
from .states import Column, objects, open_stream, read_table

_SHOWN = 10
"""Maximal number of offenders that a check names."""


@dataclass
class Check:
    """The result of one check.

    Attributes:
        name: name of the check.
        checked: number of models, states or recorded values that were checked.
        wrong: number of wrong ones.
        offenders: descriptions of the first ten of these.
        note: what a reader must know, such as what was not covered and why.
        undone: whether the check should have been made but could not be.
    """

    name: str
    checked: int = 0
    wrong: int = 0
    offenders: tuple[str, ...] = ()
    note: str = ""
    undone: bool = False

    def see(self, count: int = 1) -> None:
        """Count checked things."""
        self.checked += count

    def fail(self, offender: str) -> None:
        """Count one wrong thing, described in words."""
        self.wrong += 1
        self.offenders = (*self.offenders, offender)[:_SHOWN]

    def add(self, tallies: Iterable[Tally]) -> None:
        """Add the results of a zoo's shares."""
        found = list(tallies)
        self.checked += sum(tally.checked for tally in found)
        self.wrong += sum(tally.wrong for tally in found)
        rows = sorted((o for tally in found for o in tally.offenders), key=itemgetter(0))
        self.offenders = (*self.offenders, *(offender for _, offender in rows))[:_SHOWN]

    def remark(self, text: str, undone: bool = False) -> None:
        """Add to the note; with `undone`, record that the check could not be made."""
        self.note = f"{self.note}; {text}" if self.note else text
        self.undone |= undone


@dataclass
class Tally:
    """The result of one check for the rows of one share of a zoo.

    Attributes:
        checked, wrong: see `Check`.
        offenders: the first ten by row, each with the number of the row and a description.
    """

    checked: int = 0
    wrong: int = 0
    offenders: list[tuple[int, str]] = field(default_factory=list)

    def see(self) -> None:
        """Count one checked thing."""
        self.checked += 1

    def fail(self, row: int, offender: str) -> None:
        """Count one wrong thing of a row, described in words."""
        self.wrong += 1
        insort(self.offenders, (row, offender), key=itemgetter(0))
        del self.offenders[_SHOWN:]


class Findings(dict[str, Check]):
    """The checks by name, in the order in which they are first named."""

    def __missing__(self, name: str) -> Check:
        return self.setdefault(name, Check(name))


@dataclass(frozen=True)
class States:
    """All columns of a zoo's rows except the weights, in the order of the stream.

    Attributes:
        split, model_id, parent_model_id, activation, init: texts [rows]; None where absent.
        epoch: int64 [rows].
        seed: whole numbers [rows]; None where absent.
        metrics: name of `METRICS` -> Arrow's float32 [rows].
    """

    split: Column
    model_id: Column
    parent_model_id: Column
    epoch: NDArray[np.int64]
    activation: Column
    init: Column
    seed: Column
    metrics: Mapping[str, pa.ChunkedArray]

    def __len__(self) -> int:
        return len(self.epoch)

    def title(self, row: int) -> str:
        """Return a state's name in messages."""
        return f"{self.model_id[row]} epoch {self.epoch[row]}"

    def metric(self, name: str, row: int) -> float | None:
        """Return one value of a metric; None if it is absent."""
        return self.metrics[name][row].as_py()


def first_equal(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for each row, the first row that equals it in all columns, [rows]."""
    order = np.lexsort(columns)  # stable, so the first of equal rows stays first
    new = np.zeros(len(order), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[order[1:]] != column[order[:-1]]
    first = np.empty_like(order)
    first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return first


class ZooOnDisk:
    """A zoo with everything that the checks need.

    Attributes:
        directory: the zoo directory.
        good, faulty: its readable model files, and the errors of the others.
        recorded: the manifest's record of the readable files, from which the states are taken.
        splits: model id -> split.
        generated: whether this package trained the models, so that ids, epochs and first weights
            are known.
        penalised: whether these are imported twins, whose losses include the divergence term.
    """

    def __init__(self, directory: ZooDirectory) -> None:
        self.directory = directory
        self.splits = directory.splits()
        self.good, self.faulty = directory.scan(anew=True)
        self.recorded = directory.scan()[0]
        architecture = directory.zoo.layout.architecture
        engine = directory.info.get("engine")
        self.generated = engine in architecture.engines
        twins = directory.parent_zoo is not None
        self.penalised = twins and "sparsification" not in directory.info

    @cached_property
    def states(self) -> States:
        """Every state, without weights."""
        names = ("model_id", "parent_model_id", "epoch", "activation", "init", "seed")
        table, split = read_table(
            open_stream(self.directory.zoo.name, self.directory.path.parent, [*names, *METRICS])
        )
        columns: dict[str, Column] = {name: objects(table[name]) for name in names}
        columns["epoch"] = table["epoch"].to_numpy()
        metrics = {name: table[name] for name in METRICS}
        return States(split=split, **columns, metrics=metrics)


# --- The checks -----------------------------------------------------------------------------------


def check_files(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check that every model file is readable, and its model has a split."""
    findings["files"].see(len(zoo.good) + len(zoo.faulty))
    for error in zoo.faulty:
        findings["files"].fail(str(error))
    recorded = {file.path: _content(file) for file in zoo.recorded}
    for file in zoo.good:
        if recorded.get(file.path, found := _content(file)) != found:
            findings["files"].fail(f"{file.path}: {MANIFEST} says something else of it: delete it")
    present = {file.model_id for file in zoo.good}
    for model in sorted(present - set(zoo.splits)):
        findings["files"].fail(f"{model}: splits.json has no split for it")
    freed = zoo.directory.published().freed
    if absent := len(set(zoo.splits) - present - freed):
        models = counted(absent, "model")
        findings["files"].remark(f"splits.json names {models} without a readable file")


def _content(file: ModelFile) -> tuple[object, ...]:
    """Return the content of a model file except its weights, in a form that can be compared."""
    metrics = {
        name: (np.ma.getdata(values).tobytes(), np.ma.getmaskarray(values).tobytes())
        for name, values in file.metrics.items()
    }
    names = (file.model_id, file.parent_model_id, file.original_name)
    return (*names, file.hyperparameters, file.epochs.tobytes(), metrics)


def check_layout(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check zoo.json: the layout of its architecture, and the specification in the catalog."""
    found = zoo.directory.zoo
    findings["layout"].see()
    if zoo.directory.info.get("layout") != found.layout.to_json():
        findings["layout"].fail(
            "zoo.json: the tensors of `layout` are not those of its architecture"
        )
    if found.name in ZOOS:
        for key in ("image_dataset", "images", "architecture", "variant", "channels", "classes"):
            here, there = getattr(found, key), getattr(ZOOS[found.name], key)
            if here != there:
                findings["layout"].fail(f"zoo.json: {key} is {here!r}, in the catalog {there!r}")


def check_ids(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check that no state is repeated, and that generated ids follow from the hyperparameters."""
    states = zoo.states
    findings["ids"].see(len(states))
    number = np.unique(states.model_id, return_inverse=True)[1]
    first = first_equal(number, states.epoch)
    for row in np.flatnonzero(first != np.arange(len(states))).tolist():
        findings["ids"].fail(f"{states.title(row)}: there are two of it")
    if not zoo.generated or zoo.directory.parent_zoo is not None:
        return
    known = {model.model_id: model for model in zoo.directory.zoo.models()}
    for file in zoo.good:
        model = known.get(file.model_id)
        if model is None:
            findings["ids"].fail(f"{file.model_id}: no model of this zoo has this id")
        elif dict(file.hyperparameters) != model.hyperparameters():
            findings["ids"].fail(f"{file.model_id}: its hyperparameters have another id")


def check_epochs(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check that no model has an epoch that its zoo lacks, and generated models have them all.

    A model that is still in training, as its checkpoint shows, may lack some.
    """
    found = zoo.directory.zoo
    epochs: dict[str, set[int]] = defaultdict(set)
    for model, epoch in zip(zoo.states.model_id, zoo.states.epoch.tolist(), strict=True):
        epochs[model].add(epoch)
    complete = set(zoo.directory.kept_epochs)
    partial = training = 0
    for model, present in epochs.items():
        findings["epochs"].see()
        if outside := present - set(range(found.epochs + 1)):
            findings["epochs"].fail(
                f"{model}: has epoch {max(outside)}, the zoo has {found.epochs}"
            )
        elif missing := complete - present:
            if zoo.generated and zoo.directory.in_training(model):
                training += 1
            elif zoo.generated:
                findings["epochs"].fail(f"{model}: lacks epoch {min(missing)}")
            else:
                partial += 1
    if partial:  # import_report.json names what an import left out
        models = counted(partial, "model")
        findings["epochs"].remark(f"{models} without all of them, as their source may have it")
    if training:
        findings["epochs"].remark(
            f"{counted(training, 'model')} still in training: the command that began the zoo "
            "resumes it"
        )


def check_splits(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check that each model lies in one split, and that shares and splits are as assigned."""
    directory, splits = zoo.directory, zoo.splits
    findings["splits"].see(len(splits))
    found: dict[str, str] = {}
    for model, split in zip(zoo.states.model_id, zoo.states.split, strict=True):
        if found.setdefault(model, split) != split:
            findings["splits"].fail(f"{model}: has states in {found[model]} and in {split}")
    if directory.parent_zoo is not None:
        return  # a twin lies in its parent's split, which `check_parents` checks
    source = directory.info.get("source") or {}
    if "splits" in source or str(source.get("file", "")).endswith((".pt", ".pth")):
        findings["splits"].remark("those of the original file: nothing to compute them from")
        return
    counts = {split: list(splits.values()).count(split) for split in SPLITS}
    for split, share in SHARES.items():
        if abs(counts[split] - share * len(splits)) > 1 + 1e-9:
            findings["splits"].fail(
                f"{counts[split]} of {len(splits)} models are {split}, not {share:.0%}"
            )
    right = None
    if zoo.generated:
        order = [m.model_id for m in directory.zoo.models() if m.model_id in splits]
        if len(order) == len(splits):
            right = assigned_in_runs(splits, order)
    elif source and not (directory.path.parent / twin_name(directory.zoo.name)).exists():
        right = splits == assign_splits({}, splits)
    if right is None:
        findings["splits"].remark("shares only: nothing says in which order they were assigned")
    elif not right:
        expected = assign_splits({}, splits)
        others = [model for model in splits if splits[model] != expected[model]]
        findings["splits"].fail(
            f"not those that the models' ids give: against one run {len(others)} differ, first "
            f"{others[0]}, which is {splits[others[0]]}, expected {expected[others[0]]}"
        )


def check_parents(zoo: ZooOnDisk, findings: Findings) -> None:
    """Check that a twin has a parent in the dense zoo, shares its split, and is trained like it."""
    states, dense = zoo.states, zoo.directory.parent_zoo
    parents = dict(zip(states.model_id, states.parent_model_id, strict=True))
    if dense is None:
        for model, parent in parents.items():
            if parent is not None:
                findings["parents"].see()
                findings["parents"].fail(f"{model}: has a parent, but this is no zoo of twins")
        return
    findings["parents"].see(len(parents))
    try:
        dense_directory = open_zoo(zoo.directory.path.parent, dense)
    except ZooNotFound:
        findings["parents"].remark(
            f"{dense} is not here: parents and their splits are not checked. Move or link its "
            f"folder into {zoo.directory.path.parent}, then verify again",
            undone=True,
        )
        dense_directory = None
    dense_splits: Mapping[str, str] = {}
    present: dict[str | None, ModelFile] = {}
    if dense_directory is not None:
        dense_splits = dense_directory.splits()
        # If a model has one file per state, the last one is kept.
        present = {file.model_id: file for file in dense_directory.scan(anew=True)[0]}
    for model, parent in parents.items():
        if parent is None:
            findings["parents"].fail(f"{model}: has no parent")
        elif dense_directory is None:
            continue
        elif parent not in present:
            findings["parents"].fail(f"{model}: its parent {parent} is not in {dense}")
        elif zoo.splits[model] != dense_splits.get(parent):
            findings["parents"].fail(
                f"{model}: lies in {zoo.splits[model]}, its parent in {dense_splits.get(parent)}"
            )
    if "sparsification" in zoo.directory.info:
        for file in zoo.good:
            if file.parent_model_id in present:
                _check_twin(zoo.directory, file, present[file.parent_model_id], findings)


def _check_twin(
    directory: ZooDirectory, twin: ModelFile, parent: ModelFile, findings: Findings
) -> None:
    """Check that a twin made here is trained like its parent and starts from its pruned weights."""
    seed = (directory.info["sparsification"] or {}).get("seed")
    expected = {**parent.hyperparameters, "epochs": directory.zoo.epochs}
    if seed != "parent":
        expected["seed"] = seed
    for name, value in twin.hyperparameters.items():
        if value != expected.get(name):
            findings["parents"].fail(
                f"{twin.model_id}: its {name} is {value!r}, as a twin of {parent.model_id} it "
                f"would be {expected.get(name)!r}"
            )
    if twin.epochs[0] != 0:
        return
    findings["first weights"].see()
    first, last = twin.weights([0])[0], parent.weights([len(parent.epochs) - 1])[0]
    if other := int(((first != 0) & (first != last)).sum()):
        findings["first weights"].fail(
            f"{twin.model_id} epoch 0: {other} weights are neither 0 nor the last ones of its "
            f"parent {parent.model_id}"
        )


CHECKS = (check_files, check_layout, check_ids, check_epochs, check_splits, check_parents)
"""All checks, in the order of the result."""
