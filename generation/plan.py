"""Plan a zoo: which rank trains which models, how long it takes, how much disk it needs.

A ResNet-18 zoo of the paper is 2.2 TB and hundreds of GPU hours. So the space is computed before
the first model is trained, and `model-zoos generate --plan` says all of it without training.
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
"""A tensor's entry in a file's header, rounded up."""


@dataclass(frozen=True)
class Share:
    """What one rank does.

    Attributes:
        rank: number of the rank, from 0.
        model_ids, seeds: ids and seeds of all its models.
        missing: how many of them are to be trained, those that were begun included.
        states: number of states to write.
        bytes: size of these states.
        seconds: time to train, evaluate and write; None if the speed is not known, except that
            nothing to train takes no time.
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
    """What `generate` would do.

    Attributes:
        zoo, path: name and folder.
        models, missing, states: numbers of all models, of models to train, of states to write.
        epochs: number of epochs that each model is trained for, up to the last that is kept.
        kept_epochs: epochs that are written of each model.
        freeing: whether each model is published and deleted when it is finished.
        bytes_needed: disk space needed, checkpoints of models in training included; with `freeing`,
            the least that is needed.
        bytes_free: free disk space where the zoo lies or will lie.
        seconds_per_epoch: time of one epoch of one model; None if it is not known.
        source_of_seconds: where that time is from: "stated", "measured" or "unknown".
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
        """Until the last rank has ended; None if the speed is not known."""
        known = [share.seconds for share in self.shares if share.seconds is not None]
        return max(known) if len(known) == len(self.shares) else None

    def space(self) -> str:
        """One sentence about the disk."""
        at_least = "at least " if self.freeing else ""
        return (
            f"{self.zoo}: {counted(self.missing, 'model')} to train, "
            f"{counted(self.states, 'state')} to write, needs {at_least}"
            f"{byte_size(self.bytes_needed)} of disk, {byte_size(self.bytes_free)} are free"
        )

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "seconds": self.seconds}


def make_plan(
    directory: ZooDirectory,
    shares: Sequence[Sequence[Model]],
    seconds_per_epoch: float | None = None,
    source_of_seconds: str = "stated",
    *,
    staging: int = 0,
    freeing: bool = False,
) -> Plan:
    """Plan a zoo, which need not exist yet; no model file is opened.

    Args:
        directory: of the zoo.
        shares: the models of each rank (`ranks.share_models`).
        seconds_per_epoch: of one model on one rank; None if not known.
        source_of_seconds: "stated" or "measured".
        staging: disk space that publishing needs, while models train; 0 if nothing is published.
        freeing: models are deleted here when they are published.
    """
    kept = tuple(directory.kept_epochs)
    size = state_bytes(directory.zoo)
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
) -> None:
    """Refuse to begin what cannot be finished on this disk; arguments as of `make_plan`.

    Raises:
        NotEnoughSpace: less is free than the missing models need.
    """
    plan = make_plan(directory, shares, staging=staging, freeing=freeing)
    if plan.bytes_needed > plan.bytes_free:
        hint = "make room, choose another folder (--out) or fewer models (--models)"
        if directory.zoo.layout.architecture.file_per_state:
            hint += f", keep fewer epochs (--keep-epochs 1,{directory.zoo.epochs})"
            if not freeing:
                hint += ", or publish models as they are finished (--push ORG/NAME --free)"
        raise NotEnoughSpace(f"{plan.space()} in {directory.path}", hint=hint)


def state_bytes(zoo: Zoo) -> int:
    """Disk of one state: float32 weights, and its part of the header or metrics."""
    entries = len(zoo.layout.slots) if zoo.layout.architecture.file_per_state else 1
    return 4 * zoo.layout.size + _HEADER_BYTES * entries


def model_bytes(directory: ZooDirectory) -> int:
    """Disk that one model takes while it is trained, all the states that are kept included."""
    states = len(directory.kept_epochs) * state_bytes(directory.zoo)
    return states + _working_bytes(directory.zoo)


def _most_at_once(directory: ZooDirectory, absent: Sequence[int]) -> int:
    """Disk that a rank needs at most at one time, if each model is deleted when it is finished.

    Args:
        absent: states that are not on disk, of each of its unfinished models in turn.
    """
    size, kept = state_bytes(directory.zoo), len(directory.kept_epochs)
    most = made = 0
    for states in absent:
        most = max(most, states * size + _working_bytes(directory.zoo) - made)
        made += (kept - states) * size  # what is there already is deleted with it
    return most


def free_bytes(path: Path) -> int:
    """Disk that is free where a path lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _working_bytes(zoo: Zoo) -> int:
    """Files of a model in training: a ResNet-18's old and new checkpoint, and a state."""
    return 5 * 4 * zoo.layout.size if zoo.layout.architecture.file_per_state else 0


def _absent(directory: ZooDirectory, model: Model, kept: Sequence[int]) -> int:
    """Number of a model's states that are not on disk."""
    if not directory.zoo.layout.architecture.file_per_state:
        return 0 if directory.state_path(model.model_id, kept[0]).exists() else len(kept)
    return sum(not directory.state_path(model.model_id, epoch).exists() for epoch in kept)
