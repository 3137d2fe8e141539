"""Trial folders of ray tune, the raw form of the paper's zoos.

    <experiment>/<trial>/params.json              flat keys: "model::nlin", "optim::lr", ...
                         result.json              one JSON object a line, with bare NaN
                         checkpoint_000005/checkpoints   a state_dict; also checkpoint_5/

These are the folders of ray 1.8 and the paper's trainables
(code/model_definitions/def_NN_experiment.py, def_NN_experiment_distillation.py); a zip holds the
same. Metrics are matched by `training_iteration`: a resumed trial repeats lines, of which the last
is right. Tensors are taken by order and shape: the numbers in their names shift with dropout. Where
the folders' names and the scripts' grids disagree with params.json, the latter is right.

A twin's checkpoint (class CNN_ARD, def_net_distillation.py) has `log_sigma2` and `log_sigma2_bias`
beside each weight and bias; builders/variational_dropout.py says which weights count in evaluation.
Its losses in result.json include the divergence, with the weight of their epoch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import Unreadable
from ..architecture import ARCHITECTURES
from ..hyperparameters import ACTIVATIONS, INITS, MOMENTUM_OPTIMIZERS, OPTIMIZERS
from ..layout import Layout
from ..model_file import MODEL_ID
from ..variational_dropout import prune
from .archive import Member, Source
from .checkpoint import read_state_dict
from .report import REQUIRED_METRICS, LeftOut, common_metrics, metrics_fault, weights_fault

_CLASSES = {a.original_class: a for a in ARCHITECTURES.values() if a.original_class}
"""Architecture by `model::type`, which has the suffix _ARD for twins."""

_COUNT: tuple[type, Callable[[Any], bool]] = int, lambda value: 1 <= value < 2**31
_RATE: tuple[type, Callable[[Any], bool]] = float, lambda value: 0 <= value < math.inf

_HYPERPARAMETERS: dict[str, tuple[str, type, Callable[[Any], bool]]] = {
    "seed": ("seed", int, lambda value: abs(value) < 2**63),
    "activation": ("model::nlin", str, lambda value: value in ACTIVATIONS),
    "init": ("model::init_type", str, lambda value: value in INITS),
    "dropout": ("model::dropout", float, lambda value: 0 <= value < 1),
    "optimizer": ("optim::optimizer", str, lambda value: value in OPTIMIZERS),
    "learning_rate": ("optim::lr", *_RATE),
    "weight_decay": ("optim::wd", *_RATE),
    "momentum": ("optim::momentum", *_RATE),
    "batch_size": ("training::batchsize", *_COUNT),
    "epochs": ("training::epochs_train", *_COUNT),
    "scheduler": ("optim::scheduler", str, lambda value: True),
}
"""Hyperparameter -> its key in params.json, its type, and the test that its values pass."""

METRICS = {
    **{name: name for name in (*REQUIRED_METRICS, "val_loss", "val_acc")},
    "sparsity_ratio": "sparsity",
}
"""Name of a metric in the paper's files -> column of the rows."""

_CHECKPOINT = re.compile(r"checkpoint_(\d{1,8})")
_PARAMS_LIMIT = 1 << 20
_RESULT_LIMIT = 64 << 20


@dataclass(frozen=True)
class Trial:
    """A folder of a source that holds one model.

    Attributes:
        folder: path in the source.
        name: last part of the path, which becomes the id of the model.
        params, result: its files; None where they are missing.
        checkpoints: epoch and file of each state, sorted by epoch; the file is None where its
            folder lacks it.
    """

    folder: str
    name: str
    params: Member | None
    result: Member | None
    checkpoints: tuple[tuple[int, Member | None], ...]

    @property
    def run(self) -> str:
        """The folder above, which the trials of one run of ray tune share."""
        return self.folder.rpartition("/")[0]

    def without(self, reason: str) -> list[LeftOut]:
        """Return all its states as left out for one reason."""
        return [LeftOut(self.name, epoch, reason) for epoch, _ in self.checkpoints]


@dataclass(frozen=True)
class Description:
    """What the source says of one model.

    Attributes:
        shape: name of the architecture, channels and classes.
        hyperparameters: as in `Model.hyperparameters`; None where the source does not say.
        experiment: name of the run, "" if it is not known.
        twin: whether the model is a sparse twin.
        parent, parent_experiment: of a twin, the id of the dense model and the name of its run.
    """

    shape: tuple[str, int, int]
    hyperparameters: Mapping[str, Any]
    experiment: str
    twin: bool = False
    parent: str | None = None
    parent_experiment: str = ""


@dataclass(frozen=True)
class State:
    """One state that can become a row.

    Attributes:
        epoch: epoch of training.
        weights: float32 [N]; those of a twin are pruned.
        metrics: name in schema.METRICS -> value.
        extra: `mean` and `log_sigma2` of a twin, float32 [N]; else empty.
    """

    epoch: int
    weights: NDArray[np.float32]
    metrics: Mapping[str, float]
    extra: Mapping[str, NDArray[np.float32]]


def find_trials(members: Iterable[Member], name: str) -> list[Trial]:
    """Return all trials of a source, sorted by folder.

    Args:
        members: files of the source.
        name: name of the source, for a trial that is the whole source.
    """
    files: dict[str, dict[str, Member]] = {}
    checkpoints: dict[str, dict[tuple[int, str], Member | None]] = {}
    for member in members:
        folder, _, file = member.name.rpartition("/")
        above, _, last = folder.rpartition("/")
        if file in ("params.json", "result.json") and not _CHECKPOINT.fullmatch(last):
            files.setdefault(folder, {})[file] = member
        elif match := _CHECKPOINT.fullmatch(last):
            key = (int(match[1]), last)
            found = checkpoints.setdefault(above, {})
            if file == "checkpoints":
                found[key] = member
            else:
                found.setdefault(key, None)
    trials = []
    for folder in sorted(files.keys() | checkpoints.keys()):
        own, states = files.get(folder, {}), checkpoints.get(folder, {})
        trials.append(
            Trial(
                folder=folder,
                name=folder.rpartition("/")[2] or name,
                params=own.get("params.json"),
                result=own.get("result.json"),
                checkpoints=tuple((key[0], states[key]) for key in sorted(states)),
            )
        )
    return trials


def describe(source: Source, trial: Trial) -> Description:
    """Read and check the params.json of a trial.

    Raises:
        Unreadable: it is missing, is not JSON, or has a value that no model can have; or the name
            of the folder cannot name a model.
    """
    if ".." in trial.folder.split("/") or trial.folder.startswith("/") or "\\" in trial.folder:
        raise Unreadable("refused: its path leaves the folder")
    if not MODEL_ID.fullmatch(trial.name):
        raise Unreadable("refused: its folder's name cannot name a model")
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
        raise Unreadable(f"wrong params.json: model::type is {kind!r:.40}, known: {known}")
    architecture = _CLASSES[plain]
    channels = params.get("model::channels_in")
    # The CNN classes ignore model::o_dim, which is wrong in some zoos.
    classes = 10 if architecture.layers else params.get("model::o_dim")
    if channels not in (1, 3) or type(classes) is not int or not 1 <= classes <= 10_000:
        raise Unreadable("wrong params.json: model::channels_in or model::o_dim")
    run, _ = last_folders(params.get("dataset::dump"))
    parent_experiment, parent = last_folders(params.get("training::init_checkpoint_path"))
    return Description(
        shape=(architecture.name, int(channels), classes),
        hyperparameters=hyperparameters(params),
        experiment=run,
        twin=twin,
        parent=parent or None if twin else None,
        parent_experiment=parent_experiment if twin else "",
    )


def hyperparameters(params: Mapping[str, object]) -> dict[str, Any]:
    """Return hyperparameters under the names of the rows, from the flat keys of params.json.

    Raises:
        Unreadable: a value that no model can have.
    """
    values: dict[str, Any] = {}
    for name, (key, kind, is_possible) in _HYPERPARAMETERS.items():
        value = params.get(key)
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if value is not None and (type(value) is not kind or not is_possible(value)):
            raise Unreadable(f"wrong params.json: {key} is {value!r:.40}")
        values[name] = value
    if values["optimizer"] is not None and values["optimizer"] not in MOMENTUM_OPTIMIZERS:
        values["momentum"] = None  # see specification.Model
    return values


def results(source: Source, trial: Trial) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Read the result.json of a trial.

    Returns:
        Metrics by training_iteration under the names of the rows, and remarks on lines that could
        not be used.

    Raises:
        Unreadable: there is no result.json, or it cannot be read at all.
    """
    if trial.result is None:
        raise Unreadable("missing metrics: there is no result.json")
    content = source.read(trial.result, _RESULT_LIMIT)
    found: dict[int, dict[str, Any]] = {}
    remarks = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = _json(line, f"line {number} of result.json")
            if not isinstance(values, dict) or type(values.get("training_iteration")) is not int:
                raise Unreadable(f"line {number} of result.json has no training_iteration")
        except Unreadable as error:
            remarks.append(f"{trial.name}: {error}")
        else:
            found[values["training_iteration"]] = {
                ours: values.get(theirs) for theirs, ours in METRICS.items()
            }
    return found, remarks


def states(
    source: Source,
    trial: Trial,
    lines: Mapping[int, Mapping[str, Any]],
    layout: Layout,
    *,
    twin: bool = False,
    max_weight: float | None = None,
) -> Iterator[State | LeftOut]:
    """Yield the states of a trial by epoch, with one of them in memory at a time.

    Args:
        source: the source.
        trial: the trial.
        lines: metrics by epoch, from `results`.
        layout: layout that the checkpoints must have.
        twin: whether they hold log_sigma2 as well.
        max_weight: see `report.weights_fault`.
    """
    names = (*REQUIRED_METRICS, *common_metrics(lines.values()))
    limit = 16 * layout.size + (1 << 20)
    last = -1
    for epoch, member in trial.checkpoints:
        try:
            if member is None:
                raise Unreadable("missing file: the folder has no file 'checkpoints'")
            if epoch == last:
                raise Unreadable("repeated: another folder holds the same epoch")
            weights, extra = _weights(source.read(member, limit), layout, twin)
            for values, largest in [(weights, max_weight), *((v, None) for v in extra.values())]:
                if fault := weights_fault(values, largest):
                    raise Unreadable(fault)
            if fault := metrics_fault(lines.get(epoch), names):
                raise Unreadable(fault)
        except Unreadable as error:
            yield LeftOut(trial.name, epoch, str(error))
            continue
        last = epoch
        metrics = {name: float(lines[epoch][name]) for name in names}
        yield State(epoch, weights, metrics, extra)
        del weights, extra, values  # while the next is read


def _weights(
    content: bytes, layout: Layout, twin: bool
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Return the flat weights of a checkpoint, and of a twin its mean and log_sigma2."""
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
        return json.loads(content.decode())
    except UnicodeDecodeError:
        raise Unreadable(f"unreadable: {what} is not UTF-8") from None
    except (ValueError, RecursionError):
        raise Unreadable(f"unreadable: {what} is cut or no JSON") from None


def last_folders(path: object) -> tuple[str, str]:
    """Return the last two parts of a path of any system, "" where there is none.

    Those of a checkpoint's path are those of its trial.
    """
    if not isinstance(path, str):
        return "", ""
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    while parts and (parts[-1] == "checkpoints" or _CHECKPOINT.fullmatch(parts[-1])):
        parts.pop()
    return (["", "", *parts][-2], ["", *parts][-1])
