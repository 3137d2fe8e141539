"""Trial folders of ray tune, the raw form of the paper's zoos.

    <experiment>/<trial>/params.json              flat keys: "model::nlin", "optim::lr", ...
                         result.json              one JSON object a line, with bare NaN
                         checkpoint_000005/checkpoints   a state_dict; also checkpoint_5/

These are the folders of ray 1.8 and the paper's trainables
(code/model_definitions/def_NN_experiment.py, def_NN_experiment_distillation.py); a zip holds the
same. Metrics are matched by `training_iteration`. A resumed trial repeats lines; the last of them
counts. From ray 2.7 on, checkpoint folders have numbers of their own, and each line names its
folder as `checkpoint_dir_name`. Tensors are taken by order and shape, since the numbers in their
names shift with dropout. Where the folders' names or the scripts' grids disagree with params.json,
params.json counts.

A twin's checkpoint (class CNN_ARD, def_net_distillation.py) has `log_sigma2` and `log_sigma2_bias`
for each weight and bias; builders/variational_dropout.py says which weights count in evaluation.
Its losses in result.json include the divergence times the factor of the epoch.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from json import JSONDecodeError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..architecture import ARCHITECTURES
from ..hyperparameters import MOMENTUM_OPTIMIZERS
from ..layout import Layout, make_layout
from ..untrusted import parse_json
from ..variational_dropout import prune
from .archive import Member, Source, blamed_on_the_file, printable, shown
from .checkpoint import read_state_dict
from .found import HYPERPARAMETER_KINDS, Description, State
from .names import last_folders, model_id_of
from .report import (
    REQUIRED_METRICS,
    LeftOut,
    drop_unusable,
    numbers,
    require_metrics,
    weights_fault,
    whole,
)

_CLASSES = {a.original_class: a for a in ARCHITECTURES.values() if a.original_class}
"""Architecture by `model::type`, which has the suffix _ARD for twins."""

PARAMS_KEYS = {
    "seed": "seed",
    "activation": "model::nlin",
    "init": "model::init_type",
    "dropout": "model::dropout",
    "optimizer": "optim::optimizer",
    "learning_rate": "optim::lr",
    "weight_decay": "optim::wd",
    "momentum": "optim::momentum",
    "batch_size": "training::batchsize",
    "epochs": "training::epochs_train",
    "scheduler": "optim::scheduler",
}
"""Hyperparameter -> its key in params.json."""

RESULT_KEYS = {
    **{name: name for name in (*REQUIRED_METRICS, "val_loss", "val_acc")},
    "sparsity_ratio": "sparsity",
}
"""Name of a metric in the paper's files -> column of the rows."""

# fmt: off
_BOOKKEEPING = frozenset({
    "agent_timesteps_total", "checkpoint_dir_name", "config", "custom_metrics", "date", "done",
    "episodes_total", "experiment_id", "experiment_tag", "hist_stats", "hostname",
    "iterations_since_restore", "node_ip", "perf", "pid", "should_checkpoint",
    "time_since_restore", "time_this_iter_s", "time_total_s", "timers", "timestamp",
    "timesteps_since_restore", "timesteps_this_iter", "timesteps_total", "training_iteration",
    "trial_id", "trial_name", "warmup_time",
})
# fmt: on
"""Keys that ray tune itself writes into each line of a result.json."""

_MOST_CLASSES = 10_000
_TRIED = 5
"""Number of checkpoints that are tried until one can be read."""

_MOST_OTHERS = 200
"""Maximum of names of further values that are listed."""

_CHECKPOINT = re.compile(r"checkpoint_(\d{1,8})")
_PARAMS_LIMIT = 1 << 20
_RESULT_LIMITS = 4 << 20, 64 << 10, 16 << 20
"""Limits of a result.json in bytes: any, per checkpoint, and in all. A line usually has 1 kB."""
_LINE_LIMIT = 1 << 18
_MOST_BAD_LINES = 1000
"""Number of unusable lines of a result.json after which the rest is not read."""


class Checkpoint(NamedTuple):
    """A folder of a trial that holds a state.

    Attributes:
        number: number in the folder's name; it is the epoch unless result.json has another.
        folder: the folder's name.
        member: its file; None if the folder lacks it.
    """

    number: int
    folder: str
    member: Member | None


@dataclass(frozen=True)
class Trial:
    """A folder of a source that holds one model.

    Attributes:
        folder: path in the source.
        name: last part of the path, as reports can show it.
        model_id: id of the model, see `model_id_of`.
        params, result: its files; None where they are missing.
        checkpoints: the states, sorted by number.
    """

    folder: str
    name: str
    model_id: str
    params: Member | None
    result: Member | None
    checkpoints: tuple[Checkpoint, ...]

    @property
    def run(self) -> str:
        """The parent folder, which the trials of one run of ray tune share."""
        return self.folder.rpartition("/")[0]

    def without(self, reason: str) -> list[LeftOut]:
        """Return all its states as left out for one reason."""
        return [LeftOut(self.name, checkpoint.number, reason) for checkpoint in self.checkpoints]


class Measured(NamedTuple):
    """A checkpoint with its values from result.json; None if no line belongs to it."""

    epoch: int | None
    checkpoint: Checkpoint
    metrics: dict[str, Any] | None


def find_trials(
    members: Iterable[Member], name: str, passed_over: list[str] | None = None
) -> list[Trial]:
    """Return all trials of a source, sorted by folder.

    Args:
        members: files of the source, and its folders of checkpoints.
        name: name of the source, for a trial that is the whole source.
        passed_over: receives the folders of checkpoints without a number, such as those of an
            unfinished copy: checkpoint_000001.part.
    """
    files: dict[str, dict[str, Member]] = {}
    found: dict[str, dict[tuple[int, str], Member | None]] = {}
    for member in members:
        folder, _, file = member.name.rpartition("/")
        above, _, last = folder.rpartition("/")
        if match := _CHECKPOINT.fullmatch(last):
            states = found.setdefault(above, {})
            if file == "checkpoints":
                states[int(match[1]), last] = member
            else:
                states.setdefault((int(match[1]), last), None)
        elif file in ("params.json", "result.json"):
            files.setdefault(folder, {})[file] = member
        elif file == "checkpoints" and last.startswith("checkpoint") and passed_over is not None:
            passed_over.append(folder)
    trials = []
    for folder in sorted(files.keys() | found.keys()):
        own, states = files.get(folder, {}), found.get(folder, {})
        last = folder.rpartition("/")[2] or name
        trials.append(
            Trial(
                folder=folder,
                name=printable(last),
                model_id=model_id_of(last),
                params=own.get("params.json"),
                result=own.get("result.json"),
                checkpoints=tuple(Checkpoint(*key, states[key]) for key in sorted(states)),
            )
        )
    return trials


@blamed_on_the_file()
def describe(source: Source, trial: Trial) -> Description:
    """Read and check the params.json of a trial.

    Raises:
        Unreadable: it is missing, is not JSON, or has an impossible value.
    """
    if ".." in trial.folder.split("/") or trial.folder.startswith("/"):
        raise Unreadable("refused: its path leaves the folder")
    if trial.params is None:
        raise Unreadable("missing params.json")
    params = _json(source.read(trial.params, _PARAMS_LIMIT), "params.json")
    if not isinstance(params, dict):
        raise Unreadable("wrong params.json: not a JSON object")
    kind = params.get("model::type")
    twin = isinstance(kind, str) and kind.endswith("_ARD")
    plain = kind.removesuffix("_ARD") if isinstance(kind, str) else ""
    if plain not in _CLASSES:
        known = ", ".join(_CLASSES)
        raise Unreadable(f"wrong params.json: model::type is {shown(kind)}, known: {known}")
    architecture = _CLASSES[plain]
    channels = params.get("model::channels_in")
    # The CNN classes ignore model::o_dim. It is wrong in some zoos, which `true_shape` finds.
    classes = 10 if architecture.layers else whole(params.get("model::o_dim"))
    if channels not in (1, 3):
        raise Unreadable(
            f"wrong params.json: model::channels_in is {shown(channels)}, expected 1 or 3"
        )
    if classes is None or not 1 <= classes <= _MOST_CLASSES:
        raise Unreadable(
            f"wrong params.json: model::o_dim is {shown(params.get('model::o_dim'))}, expected a "
            f"whole number from 1 to {_MOST_CLASSES:,}"
        )
    run, _ = last_folders(params.get("dataset::dump"))
    parent_experiment, parent = last_folders(params.get("training::init_checkpoint_path"))
    return Description(
        shape=(architecture.name, int(channels), classes),
        hyperparameters=hyperparameters(params),
        experiment=run,
        twin=twin,
        parent=model_id_of(parent) if parent and twin else None,
        parent_experiment=parent_experiment if twin else "",
    )


def hyperparameters(params: Mapping[str, object]) -> dict[str, Any]:
    """Return hyperparameters under the names of the rows, from the flat keys of params.json.

    Raises:
        Unreadable: a value is impossible for a model.
    """
    values: dict[str, Any] = {}
    for name, (kind, is_possible) in HYPERPARAMETER_KINDS.items():
        key = PARAMS_KEYS[name]
        value = params.get(key)
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        elif kind is int and (number := whole(value)) is not None:
            value = number
        if value is not None and (type(value) is not kind or not is_possible(value)):
            raise Unreadable(f"wrong params.json: {key} is {shown(value)}")
        values[name] = value
    if values["optimizer"] is not None and values["optimizer"] not in MOMENTUM_OPTIMIZERS:
        values["momentum"] = None  # see specification.Model
    return values


def true_shape(
    source: Source, trials: Iterable[Trial], description: Description
) -> tuple[str, int, int]:
    """Return the shape of models, with the number of classes that their checkpoints have.

    Args:
        source: the source.
        trials: trials of this description. Some of their checkpoints are read; one with the
            description's classes decides.
        description: content of their params.json.
    """
    name, channels, _ = description.shape
    one, two = (make_layout(name, channels, classes).size for classes in (1, 2))
    found = description.shape
    members = (c.member for t in trials for c in t.checkpoints if c.member is not None)
    for member in islice(members, _TRIED):
        try:
            with blamed_on_the_file():
                tensors = read_state_dict(source.read(member, 32 * two + (1 << 20)))
                if description.twin:
                    tensors = {k: v for k, v in tensors.items() if "log_sigma2" not in k}
                size = sum(t.size for t in tensors.values() if t.dtype.kind == "f")
                shape = (name, channels, (size - one) // (two - one) + 1)
                if not 1 <= shape[2] <= _MOST_CLASSES:
                    continue
                make_layout(*shape).to_vector(tensors)  # raises ValueError if they do not fit
        except Unreadable:
            continue
        if shape == description.shape:
            return shape
        found = shape
    return found


@blamed_on_the_file()
def results(
    source: Source, trial: Trial, others: set[str] | None = None
) -> tuple[list[Measured], list[str]]:
    """Read the result.json of a trial.

    Args:
        source: the source.
        trial: the trial.
        others: receives the names of measured values that no row has a column for.

    Returns:
        The trial's checkpoints by epoch, and remarks on unusable lines. Of two checkpoints with the
        same epoch the first counts: it is the one that the later line names.

    Raises:
        Unreadable: there is no result.json, or it cannot be read at all.
    """
    if trial.result is None:
        raise Unreadable("missing metrics: there is no result.json")
    base, each, most = _RESULT_LIMITS
    content = source.read(trial.result, min(base + each * len(trial.checkpoints), most))
    numbers = {checkpoint.number for checkpoint in trial.checkpoints}
    # Lines by the folder that they name, and by training_iteration.
    of_folder: dict[int, tuple[int, dict[str, Any]]] = {}
    of_iteration: dict[int, tuple[int, dict[str, Any]]] = {}
    bad, first = 0, ""
    for number, line in enumerate(io.BytesIO(content), start=1):
        if line.isspace():
            continue
        try:
            iteration, folder, metrics, names = _line(line, f"line {number} of result.json")
        except Unreadable as error:
            bad, first = bad + 1, first or str(error)
            if bad == _MOST_BAD_LINES:
                first += f", and line {number} is the last that was read"
                break
            continue
        if others is not None and len(others) < _MOST_OTHERS:
            others.update(names)
        for lines, about in ((of_folder, folder), (of_iteration, iteration)):
            if about in numbers:
                lines.pop(about, None)  # moves the entry to the end
                lines[about] = iteration, metrics
    # In a file of ray >= 2.7 every line names its folder; a few odd lines do not make it one.
    named = 2 * len(of_folder) >= max(1, len(numbers))
    lines = of_folder if named else of_iteration
    places = {about: place for place, about in enumerate(lines)}

    def measured(checkpoint: Checkpoint) -> Measured:
        unknown = (None if named else checkpoint.number, None)
        epoch, metrics = lines.get(checkpoint.number, unknown)
        return Measured(epoch, checkpoint, metrics)

    found = sorted(
        map(measured, trial.checkpoints),
        key=lambda m: (m.epoch is None, m.epoch or 0, -places.get(m.checkpoint.number, 0)),
    )
    remarks = drop_unusable((m.epoch or 0, m.metrics) for m in found if m.metrics is not None)
    if bad:
        remarks.append(first if bad == 1 else f"{first}, and {bad - 1} further lines")
    return found, [f"{trial.name}: {remark}" for remark in remarks]


def _line(line: bytes, what: str) -> tuple[int, int | None, dict[str, Any], list[str]]:
    """Return the training_iteration of a line, the number of the checkpoint that it names, its
    metrics, and the names of its other measured values."""
    if len(line) > _LINE_LIMIT:
        raise Unreadable(f"too large: {what} has more than {_LINE_LIMIT:,} bytes")
    values = _json(line, what)
    iteration = whole(values.get("training_iteration")) if isinstance(values, dict) else None
    if not isinstance(values, dict) or iteration is None or not 0 <= iteration < 2**31:
        raise Unreadable(f"{what} has no training_iteration")
    folder = values.get("checkpoint_dir_name")
    match = _CHECKPOINT.fullmatch(folder) if isinstance(folder, str) else None
    metrics = {ours: values.get(theirs) for theirs, ours in RESULT_KEYS.items()}
    others = [name for name in values if name not in RESULT_KEYS and name not in _BOOKKEEPING]
    return iteration, int(match[1]) if match else None, metrics, others


def states(
    source: Source,
    trial: Trial,
    found: Iterable[Measured],
    layout: Layout,
    *,
    twin: bool = False,
    max_weight: float | None = None,
) -> Iterator[State | LeftOut]:
    """Yield the states of a trial by epoch, with one of them in memory at a time.

    Args:
        source: the source.
        trial: the trial.
        found: its checkpoints, from `results`.
        layout: layout that the checkpoints must have.
        twin: whether they also hold log_sigma2.
        max_weight: see `report.weights_fault`.
    """
    last = -1
    for measured in found:
        epoch = measured.checkpoint.number if measured.epoch is None else measured.epoch
        try:
            if measured.checkpoint.member is None:
                raise Unreadable("missing file: the folder has no file 'checkpoints'")
            if measured.epoch == last:
                raise Unreadable("repeated: another folder holds the same epoch")
            state = _state(source, measured, epoch, layout, twin, max_weight)
        except Unreadable as error:
            yield LeftOut(trial.name, epoch, str(error))
            continue
        last = epoch
        yield state
        del state  # before the next is read


@blamed_on_the_file()
def _state(
    source: Source,
    measured: Measured,
    epoch: int,
    layout: Layout,
    twin: bool,
    max_weight: float | None,
) -> State:
    """Read and check one state."""
    assert measured.checkpoint.member is not None
    content = source.read(measured.checkpoint.member, 16 * layout.size + (1 << 20))
    weights, extra = _weights(content, layout, twin)
    for values, largest in [(weights, max_weight), *((v, None) for v in extra.values())]:
        if fault := weights_fault(values, largest):
            raise Unreadable(fault)
    if measured.metrics is None:
        what = "names its folder" if measured.epoch is None else "has its training_iteration"
        raise Unreadable(f"missing metrics: no line of result.json {what}")
    require_metrics(measured.metrics, REQUIRED_METRICS)
    return State(epoch, weights, numbers(measured.metrics), extra)


def _weights(
    content: bytes, layout: Layout, twin: bool
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Return the flat weights of a checkpoint, and for a twin its mean and log_sigma2."""
    tensors = read_state_dict(content)
    try:
        if not twin:
            return layout.to_vector(tensors), {}
        mean = layout.to_vector({k: v for k, v in tensors.items() if "log_sigma2" not in k})
        log_sigma2 = layout.to_vector({k: v for k, v in tensors.items() if "log_sigma2" in k})
    except ValueError as error:
        raise Unreadable(f"wrong shape: {error!s:.300}") from None
    return prune(mean, log_sigma2, layout), {"mean": mean, "log_sigma2": log_sigma2}


def _json(content: bytes, what: str) -> object:
    try:
        return parse_json(content)
    except UnicodeDecodeError:
        raise Unreadable(f"unreadable: {what} is not UTF-8") from None
    except JSONDecodeError:
        raise Unreadable(f"unreadable: {what} is cut or no JSON") from None
    except ValueError as error:
        raise Unreadable(f"unreadable: {what}: {error}") from None
