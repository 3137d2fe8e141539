"""Plan a zoo: which rank trains which models, how long it takes, how much disk it needs.

A ResNet-18 zoo of the paper takes 2.2 TB and hundreds of GPU hours. So the space is computed before
the first model is trained, and `model-zoos generate --plan` prints the whole plan.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..builders.phrases import byte_size, counted
from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import ZooDirectory
from ..errors import NotEnoughSpace

_HEADER_BYTES = 128
"""Bytes of a tensor's entry in a file's header, rounded up."""


@dataclass(frozen=True)
class Share:
    """The work of one rank.

    Attributes:
        rank: number of the rank, from 0.
        model_ids, seeds: ids and seeds of all its models.
        missing: number of its models to be trained, including unfinished ones.
        states: number of states to write.
        bytes: size of these states.
        seconds: time to train, evaluate and write; 0 if there is nothing to train, None if the
            speed is not known.
    """

    rank: int
    model_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    missing: int
    states: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """The work of `generate`, before it is done.

    Attributes:
        zoo, path: name and folder of the zoo.
        models, missing, states: numbers of all models, of models to train, of states to write.
        epochs: number of epochs that each model is trained for, up to the last one kept.
        kept_epochs: epochs of each model that are written.
        freeing: whether each model is published and deleted when it is finished.
        bytes_needed: disk space needed, including checkpoints of models in training; with
            `freeing`, the minimum.
        bytes_free: free disk space at the folder of the zoo.
        seconds_per_epoch: time of one epoch of one model; None if it is not known.
        source_of_seconds: origin of that time: "stated", "measured" or "unknown".
        shares: the share of each rank.
    """

    zoo: str
    path: str
    models: int
    missing: int
    states: int
    epochs: int
    kept_epochs: tuple[int, ...]
    freeing: bool
    bytes_needed: int
    bytes_free: int
    seconds_per_epoch: float | None
    source_of_seconds: str
    shares: tuple[Share, ...]

    @property
    def seconds(self) -> float | None:
        """Wall time in seconds until the last rank finishes; None if the speed is not known."""
        known = [share.seconds for share in self.shares if share.seconds is not None]
        return max(known) if len(known) == len(self.shares) else None

    def space(self) -> str:
        """Return a sentence about the disk space."""
        at_least = "at least " if self.freeing else ""
        return (
            f"{self.zoo}: {counted(self.missing, 'model')} to train, "
            f"{counted(self.states, 'state')} to write, needs {at_least}"
            f"{byte_size(self.bytes_needed)} of disk, {byte_size(self.bytes_free)} are free"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all attributes and `seconds` as JSON values."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}


def make_plan(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    seconds_per_epoch: float | None = None,
    source_of_seconds: str = "stated",
    *,
    staging: int = 0,
    freeing: bool = False,
    tensors: int = 1,
) -> Plan:
    """Plan a zoo, which may not exist yet; no model file is opened.

    Args:
        directory: directory of the zoo.
        shares: the models of each rank (`ranks.share_models`).
        seconds_per_epoch: time of one model on one rank; None if not known.
        source_of_seconds: "stated" or "measured".
        staging: disk space that publishing needs during training; 0 if nothing is published.
        freeing: whether models are deleted here when they are published.
        tensors: number of tensors of the weights' size in a state; 3 for variational twins.
    """
    kept = tuple(directory.kept_epochs)
    size = tensors * state_bytes(directory.zoo)
    freed = directory.published().freed
    planned, most = [], []
    for rank, models in enumerate(shares):
        absent = [
            0 if model.model_id in freed else _absent(directory, model, kept) for model in models
        ]
        missing = sum(states > 0 for states in absent)
        most.append(_most_at_once(directory, [states for states in absent if states]))
        planned.append(
            Share(
                rank=rank,
                model_ids=tuple(model.model_id for model in models),
                seeds=tuple(model.seed for model in models),
                missing=missing,
                states=sum(absent),
                bytes=sum(absent) * size,
                seconds=missing * kept[-1] * seconds_per_epoch
                if seconds_per_epoch
                else (None if missing else 0.0),
            )
        )
    active = sum(share.missing > 0 for share in planned)
    if freeing:
        needed = sum(most)
    else:
        needed = sum(share.bytes for share in planned) + active * _working_bytes(directory.zoo)
    return Plan(
        zoo=directory.zoo.name,
        path=str(directory.path),
        models=sum(len(models) for models in shares),
        missing=sum(share.missing for share in planned),
        states=sum(share.states for share in planned),
        epochs=kept[-1],
        kept_epochs=kept,
        freeing=freeing,
        bytes_needed=needed + staging,
        bytes_free=free_bytes(directory.path),
        seconds_per_epoch=seconds_per_epoch,
        source_of_seconds=source_of_seconds if seconds_per_epoch is not None else "unknown",
        shares=tuple(planned),
    )


def check_space(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    *,
    staging: int = 0,
    freeing: bool = False,
    tensors: int = 1,
) -> None:
    """Refuse to begin a run that does not fit this disk; arguments: see `make_plan`.

    Raises:
        NotEnoughSpace: the missing models need more space than is free.
    """
    plan = make_plan(directory, shares, staging=staging, freeing=freeing, tensors=tensors)
    if plan.bytes_needed > plan.bytes_free:
        hint = "make room, choose another folder (--out) or fewer models (--models)"
        if directory.zoo.layout.architecture.file_per_state:
            hint += f", keep fewer epochs (--keep-epochs 1,{directory.zoo.epochs})"
            if not freeing:
                hint += ", or publish models as they are finished (--push ORG/NAME --free)"
        raise NotEnoughSpace(f"{plan.space()} in {directory.path}", hint=hint)


def state_bytes(zoo: Zoo) -> int:
    """Return the disk space of one state: float32 weights, and its part of header or metrics."""
    entries = len(zoo.layout.slots) if zoo.layout.architecture.file_per_state else 1
    return 4 * zoo.layout.size + _HEADER_BYTES * entries


def model_bytes(directory: ZooDirectory) -> int:
    """Return the disk space of one model in training, including all states that are kept."""
    states = len(directory.kept_epochs) * state_bytes(directory.zoo)
    return states + _working_bytes(directory.zoo)


def _most_at_once(directory: ZooDirectory, absent: Sequence[int]) -> int:
    """Return the maximal disk space of a rank if each model is deleted when it is finished.

    Args:
        directory: directory of the zoo.
        absent: number of states not on disk, for each of its unfinished models in order.
    """
    size, kept = state_bytes(directory.zoo), len(directory.kept_epochs)
    most = made = 0
    for states in absent:
        most = max(most, states * size + _working_bytes(directory.zoo) - made)
        made += (kept - states) * size  # its existing states are deleted with it
    return most


def free_bytes(path: Path) -> int:
    """Return the free disk space at the place of a path, which may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _working_bytes(zoo: Zoo) -> int:
    """Return the size of a model's files in training: two checkpoints of ResNet-18 and a state."""
    return 5 * 4 * zoo.layout.size if zoo.layout.architecture.file_per_state else 0


def _absent(directory: ZooDirectory, model: Model, kept: Sequence[int]) -> int:
    """Return the number of a model's states that are not on disk."""
    if not directory.zoo.layout.architecture.file_per_state:
        return 0 if directory.state_path(model.model_id, kept[0]).exists() else len(kept)
    return sum(not directory.state_path(model.model_id, epoch).exists() for epoch in kept)
