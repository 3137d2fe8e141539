"""The on-disk form of a zoo: `<root>/<zoo>/zoo.json`, `splits.json` and `models/`.

    zoo.json       the zoo's specification as used, layout, engine, versions, digest of the images
    splits.json    model id -> train, validation or test; grows, never changes
    published.json of a zoo that is published while it is made (pushing.py): which of its models are
                   on the Hub, and whether their files are still here
    models/        CNN zoos: <model_id>.safetensors, one file a model, all its states:
                     weights [S, N] float32, epoch [S] int32, metrics [S, M] float64;
                     twins also mean [S, N] and log_sigma2 [S, N]
                   ResNet zoos: <model_id>/epoch_0005.safetensors, one file a state, named tensors;
                     while a model trains also checkpoint.pt, from which it goes on

What is not a tensor lies in the file's header as JSON under the single key "model_zoos"
(safetensors writes several keys in random order, and the same model must give the same bytes). A
file appears by rename only when it is complete, so a killed run leaves no half file, and every file
is checked again when it is read: a faulty one raises `FaultyFile`, which costs no other file.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors.numpy import save

from ..errors import FaultyFile, FaultyZoo, ZooNotFound
from .atomic import write_atomically
from .catalog import dense_name
from .ledger import Published
from .model_file import (
    FORMAT,
    HEADER_KEY,
    MODEL_ID,
    ModelFile,
    _header_json,
    _json_bytes,
    _problem,
    read_model_file,
)
from .schema import METRICS
from .specification import Zoo, is_zoo_name, normalize_name, zoo_from_json
from .splits import SPLITS, assign_splits


@dataclass(frozen=True)
class ZooDirectory:
    """A zoo on disk.

    Attributes:
        path: the folder that holds zoo.json.
        zoo: its specification.
        info: all of zoo.json.
    """

    path: Path
    zoo: Zoo
    info: Mapping[str, Any] = field(repr=False)

    @property
    def parent_zoo(self) -> str | None:
        """The dense zoo whose sparse twins these are; None if they are none.

        zoo.json names it if the twins were made here; imported ones have the name of their zoo.
        """
        parent = self.info.get("parent")
        if isinstance(parent, str) and is_zoo_name(parent):
            return parent
        dense = dense_name(self.zoo.name)
        return dense if dense != self.zoo.name else None

    @property
    def models_path(self) -> Path:
        return self.path / "models"

    @property
    def kept_epochs(self) -> Sequence[int]:
        """Epochs of each model that are written: all, or (ResNet) those that zoo.json names."""
        first = 0 if self.zoo.keeps_epoch_0 else 1
        return self.info.get("keep_epochs") or range(first, self.zoo.epochs + 1)

    def state_path(self, model_id: str, epoch: int) -> Path:
        """The file that holds a model's state: its own (ResNet), or that of all its states."""
        if self.zoo.layout.architecture.file_per_state:
            return self.models_path / model_id / f"epoch_{epoch:04d}.safetensors"
        return self.models_path / f"{model_id}.safetensors"

    def splits(self) -> dict[str, str]:
        """Model id -> split, of every model that was ever planned.

        Raises:
            FaultyZoo: splits.json is not readable, or names a split that does not exist.
        """
        path = self.path / "splits.json"
        if not path.exists():
            return {}
        splits = _read_json(path)
        if not isinstance(splits, dict) or not set(splits.values()) <= set(SPLITS):
            raise FaultyZoo(f"{path}: expected model ids with a split each ({', '.join(SPLITS)})")
        return splits

    def add_splits(
        self,
        model_ids: Iterable[str],
        given: Mapping[str, str] | None = None,
        moved: Iterable[str] = (),
    ) -> dict[str, str]:
        """Write down the splits of new models; those of known models stay as they are.

        Safe when several processes plan at the same time.

        Args:
            model_ids: of the zoo.
            given: splits that are already decided: a parent's, or a published one.
            moved: models without a row here, for which `given` counts even if they are known.
        """
        with FileLock(self.path / ".lock"):
            existing, given = self.splits(), given or {}
            decided = {**given, **existing, **{model: given[model] for model in moved}}
            splits = assign_splits(decided, model_ids)
            if splits != existing:
                write_atomically(self.path / "splits.json", _json_bytes(splits))
        return splits

    def files(self) -> list[Path]:
        """All model files, sorted by model and epoch; no file is opened.

        Files of a freed model are about to be removed, and none of these.
        """
        found: list[Path] = []
        freed = self.published().freed
        with os.scandir(self.models_path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in freed:
                    continue
                if entry.is_dir():
                    found += Path(entry.path).glob("epoch_*.safetensors")
                elif entry.name.endswith(".safetensors"):
                    found.append(Path(entry.path))
        return sorted(found)

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every file: changes whenever the zoo does."""
        names = ("zoo.json", "splits.json", "published.json")
        paths = [*self.files(), *(self.path / name for name in names)]
        stats = ((path.name, path.stat()) for path in paths if path.exists())
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]

    def read(self, path: Path) -> ModelFile:
        """Read and check one model file, all but its weights.

        Raises:
            FaultyFile: truncated, not a model of this zoo, or wrong shapes or values.
        """
        return read_model_file(path, self.zoo)

    def scan(self) -> tuple[list[ModelFile], list[FaultyFile]]:
        """All good model files and what is wrong with the others."""
        good, faulty = [], []
        for path in self.files():
            try:
                good.append(self.read(path))
            except FaultyFile as error:
                faulty.append(error)
        return good, faulty

    def by_split(self) -> tuple[dict[str, list[ModelFile]], list[FaultyFile]]:
        """The good model files of each split, and what is wrong with the others.

        Raises:
            ZooNotFound: there is no model file, and none was freed.
            FaultyZoo: none of them can be used.
        """
        splits = self.splits()
        files: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
        good, faulty = self.scan()
        for states in good:
            if states.model_id in splits:
                files[splits[states.model_id]].append(states)
            else:
                faulty.append(FaultyFile(f"{states.path}: splits.json has no split for it"))
        # Read once more: a model that was freed meanwhile must not count twice, here and there.
        freed = self.published().freed
        files = {
            split: [states for states in found if states.model_id not in freed]
            for split, found in files.items()
        }
        if any(files.values()) or freed:
            return files, faulty
        if not faulty:
            raise ZooNotFound(f"{self.path} holds no finished model yet")
        raise FaultyZoo(
            f"{self.path}: none of its {len(faulty)} model files can be used, first {faulty[0]}"
        )

    def published(self) -> Published:
        """Which models are on the Hub; no repository ("") and no model where none was published.

        Raises:
            FaultyZoo: published.json is not readable as what it should be.
        """
        path = self.path / "published.json"
        if not path.exists():
            return Published("", {})
        found = _read_json(path)
        if (
            not isinstance(found, dict)
            or not isinstance(found.get("repo_id"), str)
            or not isinstance(found.get("models"), dict)
            or not set(found["models"].values()) <= {"here", "freed", "damaged"}
            or not all(MODEL_ID.fullmatch(model) for model in found["models"])
            or not isinstance(found.get("stopped"), str | None)
        ):
            raise FaultyZoo(
                f"{path}: expected a repo_id, and models that are 'here', 'freed' or 'damaged'"
            )
        return Published(found["repo_id"], found["models"], found.get("stopped"))

    def write_published(self, published: Published) -> None:
        """Write down which models are on the Hub, in place of what was known."""
        content = {"repo_id": published.repo_id, "models": dict(sorted(published.models.items()))}
        if published.stopped is not None:
            content["stopped"] = published.stopped
        write_atomically(self.path / "published.json", _json_bytes(content))

    def finished(self, model_id: str) -> bool:
        """Whether all its epochs that this zoo keeps are here and in order, or it was freed."""
        if model_id in self.published().freed:
            return True
        paths = dict.fromkeys(self.state_path(model_id, epoch) for epoch in self.kept_epochs)
        try:
            found = {int(epoch) for path in reversed(paths) for epoch in self.read(path).epochs}
        except FaultyFile:
            return False
        return found.issuperset(self.kept_epochs)

    def write_model(
        self,
        model_id: str,
        hyperparameters: Mapping[str, Any],
        epochs: Sequence[int] | np.ndarray,
        weights: np.ndarray,
        metrics: Mapping[str, np.ndarray],
        *,
        parent_model_id: str | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> list[Path]:
        """Write all given states of one model; its split is written down first if it has none.

        Args:
            model_id: names the file.
            hyperparameters: as `catalog.Model.hyperparameters`; absent keys are null in the rows.
            epochs: [S], increasing.
            weights: float32 [S, N].
            metrics: name -> [S]; names from schema.METRICS.
            parent_model_id: the dense model of a twin.
            extra: further tensors [S, N] of a twin: mean, log_sigma2.

        Returns:
            The paths written: one, or for ResNet-18 one for each state.

        Raises:
            ValueError: shapes, names or values that a reader would refuse.
        """
        epochs = np.asarray(epochs, np.int32)
        weights = np.ascontiguousarray(weights, np.float32)
        names = [name for name in METRICS if name in metrics]
        if unknown := set(metrics) - set(names):
            raise ValueError(f"unknown metrics {sorted(unknown)}; known: {', '.join(METRICS)}")
        table = np.empty((len(epochs), len(names)), np.float64)
        for column, name in enumerate(names):
            if np.shape(metrics[name]) != epochs.shape:
                raise ValueError(f"{name} of {model_id} must have one value for each epoch")
            table[:, column] = metrics[name]
        tensors = {name: np.asarray(value, np.float32) for name, value in (extra or {}).items()}
        plain = {  # numpy's numbers are as welcome as Python's
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in hyperparameters.items()
        }
        header = {
            "format": FORMAT,
            "zoo": self.zoo.name,
            "model_id": model_id,
            "parent_model_id": parent_model_id,
            "hyperparameters": plain,
            "metrics": names,
        }
        if problem := _problem(header, epochs, table, weights.shape, self.zoo):
            raise ValueError(f"model {model_id}: {problem}")
        if any(value.shape != weights.shape for value in tensors.values()):
            raise ValueError(f"model {model_id}: extra tensors must have the shape of the weights")
        if model_id not in self.splits():
            self.add_splits([model_id])
        if not self.zoo.layout.architecture.file_per_state:
            path = self.state_path(model_id, int(epochs[0]))
            tensors |= {"weights": weights, "epoch": epochs, "metrics": table}
            write_atomically(path, save(tensors, metadata={HEADER_KEY: _header_json(header)}))
            return [path]
        paths = []
        (self.models_path / model_id).mkdir(exist_ok=True)
        for row, epoch in enumerate(epochs):
            values = [None if math.isnan(value) else value for value in table[row].tolist()]
            state = {**header, "epoch": int(epoch), "values": values}
            named = {
                name: np.ascontiguousarray(tensor)
                for name, tensor in self.zoo.layout.to_state_dict(weights[row]).items()
            }
            path = self.state_path(model_id, int(epoch))
            write_atomically(path, save(named, metadata={HEADER_KEY: _header_json(state)}))
            paths.append(path)
        return paths


def create_zoo(root: str | os.PathLike[str], zoo: Zoo, **provenance: Any) -> ZooDirectory:
    """Create the directory of a zoo, or open it to continue.

    Args:
        root: folder of all zoos.
        zoo: specification.
        provenance: JSON values for zoo.json: engine, stream, images, source, versions. All but
            `versions` and the source's file name must be the same when a zoo is continued: one
            zoo, one way of making it.

    Raises:
        FaultyZoo: the directory holds a zoo that was made otherwise.
    """
    path = Path(root) / zoo.name
    (path / "models").mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    info = {
        "format": FORMAT,
        "zoo": zoo.to_json(),
        "layout": zoo.layout.to_json(),
        **provenance,
    }
    info = json.loads(_json_bytes(info))
    with FileLock(path / ".lock"):
        if not (path / "zoo.json").exists():
            write_atomically(path / "zoo.json", _json_bytes(info))
    found = _read_json(path / "zoo.json")
    for key in (*provenance, *info, *found):
        old, new = found.get(key), info.get(key)
        if key == "source" and old and new and old.get("sha256") != new.get("sha256"):
            raise FaultyZoo(
                f"{path} holds a zoo imported from {old.get('file')}, which is another source than "
                f"{new.get('file')}: give this one another name (--zoo) or folder (--out)"
            )
        if key == "versions" or old == new or (key == "source" and old and new):
            continue
        if isinstance(old, dict) and isinstance(new, dict):  # name the entry, not all of it
            key, old, new = next(
                (f"{key}.{k}", old.get(k), new.get(k))
                for k in (*new, *old)
                if old.get(k) != new.get(k)
            )
        raise FaultyZoo(
            f"{path} holds a zoo made with {key} = {old!r}, not {new!r}: "
            f"choose another output folder, or the same {key}"
        )
    return ZooDirectory(path, zoo, found)


def _remove_leftovers(path: Path) -> None:
    """Unfinished files of writers that were killed; a living one renames its within seconds."""
    with suppress(FileNotFoundError):  # another process removes a model that it has published
        for leftover in path.rglob(".*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > 3600:
                    leftover.unlink()


def refuse_zoo_as_root(root: str | os.PathLike[str]) -> None:
    """Say so where a zoo directory is given in place of the folder of all zoos.

    Raises:
        ZooNotFound: it is one.
    """
    if (Path(root) / "zoo.json").exists():
        raise ZooNotFound(f"{root} is itself a zoo: give the folder above it as data_dir")


def open_zoo(root: str | os.PathLike[str], name: str) -> ZooDirectory:
    """Open `<root>/<name>` for reading.

    Raises:
        ZooNotFound: no such directory.
        FaultyZoo: its zoo.json cannot be used.
    """
    path = Path(root) / normalize_name(name)
    if not (path / "zoo.json").exists():
        refuse_zoo_as_root(root)
        found = ", ".join(list_zoo_directories(root)) or "no zoo"
        raise ZooNotFound(
            f"there is no zoo {normalize_name(name)!r} in {Path(root)}, which has {found}: another "
            "folder is named by --data-dir (data_dir=) or MODEL_ZOOS_HOME; `model-zoos generate` "
            "makes zoos, `model-zoos download` fetches published ones"
        )
    info = _read_json(path / "zoo.json")
    if not isinstance(info, dict) or info.get("format") != FORMAT or "zoo" not in info:
        raise FaultyZoo(f"{path / 'zoo.json'}: expected a zoo in the format {FORMAT}")
    try:
        zoo = zoo_from_json(info["zoo"])
    except (ValueError, TypeError) as error:
        raise FaultyZoo(f"{path / 'zoo.json'}: {error}") from error
    if zoo.name != path.name:
        raise FaultyZoo(
            f"{path} holds the zoo {zoo.name!r}: a zoo's folder must have the zoo's name"
        )
    if not (path / "models").is_dir():
        raise FaultyZoo(f"{path} has no readable folder 'models'")
    return ZooDirectory(path, zoo, info)


def list_zoo_directories(root: str | os.PathLike[str]) -> list[str]:
    """Names of all zoos in a folder, sorted; a folder that no zoo can be named is none."""
    found = (path.parent.name for path in Path(root).glob("*/zoo.json"))
    return sorted(name for name in found if is_zoo_name(name))


# --- Reading and checking -------------------------------------------------------------------------


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FaultyZoo(f"{path}: not readable as JSON ({error})") from error


# --- Writing --------------------------------------------------------------------------------------
