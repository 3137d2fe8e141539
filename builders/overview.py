"""Overview of a zoo: its models, states and accuracies, from a folder or a repository."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .homes import open_parts, zoos_home
from .names import normalize_name
from .phrases import byte_size, few
from .splits import SPLITS
from .untrusted import open_plain
from .zoo_directory import SOURCE_COLUMNS, ZooDirectory, has_zoo, open_zoo

_QUANTILES = (0, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True)
class Overview:
    """Counts, accuracies and origin of one zoo.

    Attributes:
        zoo: its name.
        where: its folder, or its repository.
        models: number of models.
        specified: number of models that its specification lists; for twins, the number of model
            files of the dense zoo in the same folder times the number of sparsity levels; None if
            not known.
        incomplete: number of models that lack some of the epochs that the zoo keeps.
        states: number of states.
        epochs: the first and the last epoch; None if there is no state.
        splits: number of models in each split.
        accuracies: minimum, quartiles and maximum of the models' test accuracy at their last epoch;
            None if it was not measured.
        size: bytes of its files here; None for a repository.
        engine: the engine that trained it, or the file that it was imported from.
        left_out: reasons of the model files that cannot be read.
        more_columns: names of the columns of its source that no row has (source_columns.py); () for
            a repository.
    """

    zoo: str
    where: str
    models: int
    specified: int | None
    incomplete: int
    states: int
    epochs: tuple[int, int] | None
    splits: Mapping[str, int]
    accuracies: tuple[float, ...] | None
    size: int | None = None
    engine: str | None = None
    left_out: tuple[str, ...] = ()
    more_columns: tuple[str, ...] = ()

    def facts(self) -> dict[str, str]:
        """Return the attributes in words, for a table."""
        models = f"{self.models:,}"
        if self.specified is not None and self.specified != self.models:
            models += f" of {self.specified:,}"
        facts = {"models": models, "states": f"{self.states:,}"}
        if self.incomplete:
            facts["models that lack epochs"] = f"{self.incomplete:,}"
        if self.epochs:
            facts["epochs"] = f"{self.epochs[0]} to {self.epochs[1]}"
        facts["train / validation / test"] = " / ".join(f"{self.splits[s]:,}" for s in SPLITS)
        if self.accuracies:
            low, *quartiles, high = (f"{value:.3f}" for value in self.accuracies)
            facts["test accuracy, last epoch"] = f"{low} to {high}"
            facts["test accuracy, quartiles"] = ", ".join(quartiles)
        if self.size is not None:
            facts["files"] = byte_size(self.size)
        if self.engine:
            facts["made by"] = self.engine
        if self.more_columns:
            facts["columns beside the rows"] = few(self.more_columns, 5)
        if self.left_out:
            facts["model files left out"] = f"{len(self.left_out):,}"
        return facts


def overview(
    name: str, data_dir: str | os.PathLike[str] | None = None, repo: str | None = None
) -> list[Overview]:
    """Return the overview of a zoo, of each part of a union, or of twins.

    Args:
        name: as in `load_dataset`.
        data_dir: folder of zoo directories; default MODEL_ZOOS_HOME, else ./zoos.
        repo: repository on the Hub, or built folder, to read instead; only its metrics are read.

    Raises:
        ZooNotFound, UnknownZoo, FaultyZoo, HubFailed: see `load_dataset`.
    """
    if repo is None:
        return [
            _of_directory(part) for part in open_parts(normalize_name(name), zoos_home(data_dir))
        ]
    import datasets

    rows = datasets.load_dataset(
        "model_zoos",
        name,
        repo=repo,
        data_dir=os.devnull,  # read nothing from a folder
        columns=["zoo", "model_id", "epoch", "test_acc"],
    )
    found: dict[str, dict[str, dict[int, float]]] = {}
    splits: dict[str, dict[str, str]] = {}
    for split, part in rows.items():
        for batch in part.with_format("arrow").iter(batch_size=10_000):
            for zoo, model, epoch, accuracy in zip(*batch.to_pydict().values(), strict=True):
                states = found.setdefault(zoo, {}).setdefault(model, {})
                states[epoch] = np.nan if accuracy is None else accuracy
                splits.setdefault(zoo, {})[model] = split
    return [_overview(zoo, repo, models, splits[zoo]) for zoo, models in found.items()]


def _of_directory(directory: ZooDirectory) -> Overview:
    files, faulty = directory.by_split()
    info, kept = directory.info, set(directory.kept_epochs)
    models: dict[str, dict[int, float]] = {}
    splits = {}
    for split, found in files.items():
        for file in found:
            accuracy = file.metrics.get("test_acc", np.full(len(file.epochs), np.nan))
            measured = np.ma.filled(accuracy, np.nan)
            states = zip(file.epochs.tolist(), measured.tolist(), strict=True)
            models.setdefault(file.model_id, {}).update(states)
            splits[file.model_id] = split
    source = info.get("source") or {}
    if not directory.lists_models and not info.get("keep_epochs"):
        kept = set().union(*models.values())
    return dataclasses.replace(
        _overview(directory.zoo.name, str(directory.path), models, splits),
        specified=_specified(directory),
        incomplete=sum(not kept <= states.keys() for states in models.values()),
        size=sum(stamp[0] for stamp in directory.stamps().values() if stamp),
        engine=f"import of {source['file']}" if "file" in source else info.get("engine"),
        left_out=tuple(map(str, faulty)),
        more_columns=_more_columns(directory),
    )


def _more_columns(directory: ZooDirectory) -> tuple[str, ...]:
    """Return the names of the columns of a zoo's source; () if there are none or no readable file.

    A damaged file costs only these names here; whoever reads the columns gets the error.
    """
    try:
        with open_plain(directory.path / SOURCE_COLUMNS) as file:
            names = pq.read_schema(file).names
    except (OSError, pa.ArrowException):
        return ()
    return tuple(name for name in names if name not in ("model_id", "epoch"))


def _specified(directory: ZooDirectory) -> int | None:
    """Return the number of models that a complete zoo has; None if it is not known."""
    if not directory.lists_models:
        return None
    parent, root = directory.parent_zoo, directory.path.parent
    if parent is None:
        return directory.zoo.model_count
    if not has_zoo(root, parent):
        return None
    return len(open_zoo(root, parent).files()) * max(1, len(twin_levels(directory)))


def twin_levels(directory: ZooDirectory) -> list[str]:
    """Return the sparsity levels of a zoo's twins, sorted; [] if its model ids name none.

    The model id of a twin made by magnitude pruning ends in `_sparse_` and the level.
    """
    names = (name.rpartition("_sparse_")[2] for name in directory.splits() if "_sparse_" in name)
    return sorted(set(names))


def _overview(
    zoo: str,
    where: str,
    models: Mapping[str, Mapping[int, float]],
    splits: Mapping[str, str],
) -> Overview:
    """Return an overview from the test accuracy of each model at each epoch."""
    last = np.array([states[max(states)] for states in models.values()])
    last = last[np.isfinite(last)]
    epochs = [epoch for states in models.values() for epoch in states]
    return Overview(
        zoo=zoo,
        where=where,
        models=len(models),
        specified=None,
        incomplete=0,
        states=len(epochs),
        epochs=(min(epochs), max(epochs)) if epochs else None,
        splits={split: list(splits.values()).count(split) for split in SPLITS},
        accuracies=tuple(np.quantile(last, _QUANTILES).tolist()) if len(last) else None,
    )
