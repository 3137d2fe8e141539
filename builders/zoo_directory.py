"""The directory of a zoo: `<root>/<zoo>/zoo.json`, `splits.json` and `models/`.

    zoo.json       specification, layout, engine, versions, and the digest of the images
    splits.json    model id -> train, validation or test; entries are added, never changed
    published.json only of a zoo whose models are published one by one (ledger.py)
    source.parquet only of an imported zoo: what its source says of models that no row has
    .manifest      what the model files hold besides weights, so that few are opened (manifest.py)
    models/        one file a model: <model_id>.safetensors. Architectures with `file_per_state`
                   have one file a state: <model_id>/epoch_0005.safetensors, and while a model
                   trains also checkpoint.pt, from which it resumes. model_file.py has the contents

A file appears by rename only when it is complete, so a killed run leaves no partial file. Files are
checked when they are read: a faulty one raises `FaultyFile` and does not affect the others.
"""

from __future__ import annotations

import fnmatch
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray

from ..errors import FaultyFile, FaultyZoo, ZooNotFound
from .architecture import find_architecture
from .atomic import json_bytes, write_atomically
from .catalog import dense_name, refuse_union
from .ledger import LEDGER, NOTHING, Published, read_ledger, write_ledger
from .machine import Stamp, file_stamp, typed
from .manifest import clock, nothing_recorded, read_manifest, settled, write_manifest
from .model_file import FORMAT, Encoded, ModelFile, encode_model, read_model_file
from .specification import Zoo, is_zoo_name, normalize_name, refuse_reserved
from .splits import SPLITS, assign_splits
from .untrusted import read_json

SOURCE_COLUMNS = "source.parquet"
"""Name of the file with the columns of an import that no row has, all texts: `model_id`, `epoch` if
there is a row for each state and not for each model, then the columns under the source's names."""

FINE_TUNING = "fine_tuning"
"""The engine in zoo.json of a zoo whose models began with given weights."""

MAX_SOURCE_COLUMNS = 1 << 28
"""Limit of the size of `SOURCE_COLUMNS` in bytes."""


@dataclass(frozen=True)
class ZooDirectory:
    """A zoo on disk.

    Attributes:
        path: folder that holds zoo.json.
        zoo: specification of the zoo.
        info: content of zoo.json.
    """

    path: Path
    zoo: Zoo
    info: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        return f"<ZooDirectory {self.zoo.name}: {self.zoo.model_count:,} models, {self.path}>"

    @property
    def parent_zoo(self) -> str | None:
        """Name of the dense zoo whose sparse twins these models are; None if they are not twins.

        zoo.json names it if the twins were made by this package. Imported ones have it in their
        zoo's name.
        """
        parent = self.info.get("parent")
        if isinstance(parent, str) and is_zoo_name(parent):
            return parent
        dense = dense_name(self.zoo.name)
        return dense if dense != self.zoo.name else None

    @property
    def lists_models(self) -> bool:
        """Whether the specification lists the models, so that it tells which are missing."""
        engine, source = self.info.get("engine"), self.info.get("source") or {}
        return bool(engine) and engine != FINE_TUNING and "form" not in source

    @cached_property
    def models_path(self) -> Path:
        """The folder of the model files."""
        return self.path / "models"

    @property
    def kept_epochs(self) -> Sequence[int]:
        """The epochs of each model that are written: those that zoo.json names, else all."""
        first = 0 if self.zoo.keeps_epoch_0 else 1
        return self.info.get("keep_epochs") or range(first, self.zoo.epochs + 1)

    def state_path(self, model_id: str, epoch: int) -> Path:
        """Return the file that holds a state of a model."""
        if self.zoo.layout.architecture.file_per_state:
            return self.models_path / model_id / f"epoch_{epoch:04d}.safetensors"
        return self.models_path / f"{model_id}.safetensors"

    def splits(self) -> dict[str, str]:
        """Return model id -> split, for every model that was ever planned.

        Raises:
            FaultyZoo: splits.json is not readable, or names a split that does not exist.
        """
        return dict(self._known_splits())

    def _known_splits(self) -> Mapping[str, str]:
        """Return `splits` without a copy, which callers must not change."""
        path = self._splits_path
        stamp = _stamp_or_none(path)
        if stamp is None and not os.path.lexists(path):
            return {}
        return _read_splits(path, *(stamp or _stamp(path)))

    @cached_property
    def _splits_path(self) -> Path:
        return self.path / "splits.json"

    def add_splits(
        self,
        model_ids: Iterable[str],
        given: Mapping[str, str] | None = None,
        moved: Iterable[str] = (),
    ) -> dict[str, str]:
        """Assign and record the splits of new models; known models keep theirs.

        Several processes can do this at the same time.

        Args:
            model_ids: ids of models of the zoo.
            given: splits that are already decided: a parent's, or one that came with the source.
            moved: models without a row here, for which `given` counts even if they are known.

        Returns:
            model id -> split, of all models.
        """
        with FileLock(self.path / ".lock"):
            existing, given = self.splits(), given or {}
            decided = {**given, **existing, **{model: given[model] for model in moved}}
            splits = assign_splits(decided, model_ids)
            if splits != existing:
                write_atomically(self.path / "splits.json", json_bytes(splits))
        return splits

    def files(self) -> list[Path]:
        """Return all model files, sorted by model and epoch, without opening any.

        Files of freed models are left out: they are about to be deleted.
        """
        return [self.models_path / name for name in self._names()]

    def _names(self) -> list[str]:
        """Return the paths of `files` below models/, with slashes."""
        found: list[str] = []
        freed = self.published().freed
        with os.scandir(self.models_path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in freed:
                    continue
                if entry.name.endswith(".safetensors"):  # whatever it is: reading it says more
                    found.append(entry.name)
                else:
                    with suppress(OSError):  # no folder, or none of ours
                        states = fnmatch.filter(os.listdir(entry.path), "epoch_*.safetensors")
                        found += [f"{entry.name}/{state}" for state in states]
        return sorted(found, key=lambda name: name.split("/"))

    def stamps(self) -> dict[str, Stamp | None]:
        """Return path below models/ -> stamp of each of `files`; None for one without (a link)."""
        models = str(self.models_path)
        return {name: _stamp_or_none(f"{models}/{name}") for name in self._names()}

    def fingerprint(self) -> list[tuple[str, int, int, int]]:
        """Return name, size and times of every file, which change whenever the zoo does.

        A copy that keeps the time of modification still changes that of the last change of status.
        """
        stamps = self.stamps()
        for name in ("zoo.json", "splits.json", LEDGER):
            stamps[name] = _stamp_or_none(f"{self.path}/{name}")
        return [(name.rpartition("/")[2], *stamp[:3]) for name, stamp in stamps.items() if stamp]

    def read(self, path: Path) -> ModelFile:
        """Read and check one model file; see `read_model_file`."""
        return read_model_file(path, self.zoo)

    def scan(self, *, anew: bool = False) -> tuple[list[ModelFile], list[FaultyFile]]:
        """Return the good model files, and the errors of the others.

        Good files that have not changed since an earlier scan are not opened; see manifest.py.

        Args:
            anew: open every file, and check it again.
        """
        stamps = self.stamps()
        recorded = nothing_recorded(stale=True)
        if not anew:
            recorded = read_manifest(self.path, self.zoo, stamps)
        now = clock(self.path) if len(recorded.files) < len(stamps) else 0
        good, faulty, new = [], [], {}
        for name, stamp in stamps.items():
            file = recorded.files.get(name)
            if file is None:
                try:
                    file = self.read(self.models_path / name)
                except FaultyFile as error:
                    faulty.append(error)
                    continue
                if settled(stamp, now):
                    new[name] = file
            good.append(file)
        if new or recorded.stale:
            write_manifest(self.path, self.zoo, recorded, new, stamps)
        return good, faulty

    def by_split(self) -> tuple[dict[str, list[ModelFile]], list[FaultyFile]]:
        """Read all model files: the good ones of each split, and the errors of the others.

        Raises:
            ZooNotFound: there is no model file, and none was freed.
            FaultyZoo: none of the files can be used.
        """
        splits = self.splits()
        files: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
        good, faulty = self.scan()
        for file in good:
            if file.model_id in splits:
                files[splits[file.model_id]].append(file)
            else:
                faulty.append(FaultyFile(f"{file.path}: splits.json has no split for it"))
        # Read once more: a model that was freed meanwhile must not count twice, here and there.
        freed = self.published().freed
        for split, found in files.items():
            files[split] = [file for file in found if file.model_id not in freed]
        if any(files.values()) or freed:
            return files, faulty
        if not faulty:
            raise ZooNotFound(
                f"{self.path} holds no finished model",
                hint="import it again, or delete it"
                if self.info.get("source")
                else "run the command that began it again, and it resumes",
            )
        raise FaultyZoo(
            f"{self.path}: none of its {len(faulty)} model files can be used, first {faulty[0]}"
        )

    def published(self) -> Published:
        """Return which models are on the Hub; see `read_ledger`."""
        path = self.path / LEDGER
        return _read_ledger(self.path, *_stamp(path)) if os.path.lexists(path) else NOTHING

    def write_published(self, published: Published) -> None:
        """Record which models are on the Hub, in place of what was known."""
        write_ledger(self.path, published)

    def finished(self, model_id: str) -> bool:
        """Whether all epochs of a model that this zoo keeps are readable here, or it was freed."""
        return model_id in self.published().freed or self.complete(model_id)

    def complete(self, model_id: str) -> bool:
        """Whether all epochs of a model that this zoo keeps are readable here."""
        paths = dict.fromkeys(self.state_path(model_id, epoch) for epoch in self.kept_epochs)
        try:
            found = {int(epoch) for path in reversed(paths) for epoch in self.read(path).epochs}
        except FaultyFile:
            return False
        return found.issuperset(self.kept_epochs)

    def write_model(
        self,
        model_id: str,
        hyperparameters: Mapping[str, object],
        epochs: ArrayLike,
        weights: NDArray[np.floating],
        metrics: Mapping[str, ArrayLike],
        *,
        parent_model_id: str | None = None,
        extra: Mapping[str, ArrayLike] | None = None,
        original_name: str | None = None,
    ) -> list[Path]:
        """Write the given states of one model, after recording its split if it has none.

        Args:
            model_id: id of the model, which names its file.
            hyperparameters: as `Model.hyperparameters()`; absent keys are null in the rows.
            epochs: int [S], increasing.
            weights: float32 [S, N].
            metrics: name in schema.METRICS -> float64 [S]; masked entries (numpy.ma) are not
                measured.
            parent_model_id: id of the dense model of a twin.
            extra: further tensors [S, N] of a twin: mean, log_sigma2.
            original_name: name in the source of an import, where it could not be the id.

        Returns:
            The paths written.

        Raises:
            InvalidArgument: shapes, names or values that a reader would refuse.
        """
        given = (hyperparameters, epochs, weights, metrics, parent_model_id, extra, original_name)
        files = encode_model(self.zoo, model_id, *given)
        if model_id not in self._known_splits():
            self.add_splits([model_id])
        return [self.write_file(model_id, file) for file in files]

    def write_file(self, model_id: str, file: Encoded) -> Path:
        """Write a file that `encode_model` returned, of a model whose split is recorded.

        Returns:
            Its path.
        """
        epoch, content = file
        path = self.state_path(model_id, epoch)
        if self.zoo.layout.architecture.file_per_state:
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, *content)
        return path


def _stamp_or_none(path: str | Path) -> Stamp | None:
    """Return the stamp of a file; None if it has none, such as a link to nothing."""
    try:
        return file_stamp(path)
    except OSError:
        return None


def _stamp(path: Path) -> Stamp:
    """Return what changes whenever a file of the zoo is replaced.

    Raises:
        FaultyZoo: it cannot be looked at.
    """
    try:
        return file_stamp(path)
    except OSError as error:
        raise FaultyZoo(f"{path}: not readable ({error})") from error


@lru_cache(maxsize=8)
def _read_splits(path: Path, *stamp: int) -> Mapping[str, str]:
    """Read splits.json as it is at a moment; a zoo of 20,000 models is asked as many times."""
    splits = read_json(path)
    if not all(split in SPLITS for split in splits.values()):
        raise FaultyZoo(f"{path}: expected model ids with a split each ({', '.join(SPLITS)})")
    return splits


@lru_cache(maxsize=8)
def _read_ledger(folder: Path, *stamp: int) -> Published:
    """Read the ledger as it is at a moment; it is asked for each model."""
    return read_ledger(folder)


_ENTRIES: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("engine", "stream", "parent", "precision"), str, "a text"),
    (("images", "source", "versions", "sparsification", "layout"), dict, "a JSON object"),
    (("keep_epochs",), list, "a list"),
    (("compile",), bool, "true or false"),
)
"""Entries of zoo.json besides `format` and `zoo`, each of which can be absent or null."""


def create_zoo(root: str | os.PathLike[str], zoo: Zoo, **provenance: object) -> ZooDirectory:
    """Create the directory of a zoo, or open an existing one to add models to it.

    Args:
        root: folder of all zoos.
        zoo: specification of the zoo.
        provenance: JSON values for zoo.json: engine, stream, images, source, versions. In an
            existing zoo all but `versions` and the name of the source's file must be the same, so
            that all its models are made in the same way. Of the images, an earlier version may
            have said less. The zoo's note may differ, and the one that is there is kept.

    Raises:
        FaultyZoo: the directory holds a zoo that was made in another way.
        ZooNotFound: root is itself a zoo directory, or a folder that `build` wrote.
        InvalidArgument: a new zoo has a reserved name, or that of a union.
    """
    path, _ = _place(root, zoo)
    (path / "models").mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    info = _info(zoo, provenance)
    with FileLock(path / ".lock"):
        if not (path / "zoo.json").exists():
            write_atomically(path / "zoo.json", json_bytes(info))
    found, recorded = _read_info(path)
    _compare(path, found, info, (*provenance, *info, *found))
    return ZooDirectory(path, recorded, found)


def check_zoo_directory(
    root: str | os.PathLike[str], zoo: Zoo, **provenance: object
) -> ZooDirectory | None:
    """Refuse what `create_zoo` would refuse, as far as the provenance is known. Nothing is written.

    Returns:
        The directory; None if the zoo has none yet.

    Raises:
        FaultyZoo, ZooNotFound, InvalidArgument: as `create_zoo`.
    """
    path, begun = _place(root, zoo)
    if not begun:
        return None
    found, recorded = _read_info(path)
    _compare(path, found, _info(zoo, provenance), (*provenance, "format", "zoo", "layout"))
    return ZooDirectory(path, recorded, found)


def _place(root: str | os.PathLike[str], zoo: Zoo) -> tuple[Path, bool]:
    """Return the folder of a zoo and whether it has a zoo.json; refuse names of new zoos."""
    refuse_zoo_as_root(root)
    path = Path(root).expanduser() / zoo.name
    begun = (path / "zoo.json").exists()
    if not begun:
        refuse_reserved(zoo.name)
        refuse_union(zoo.name)
    return path, begun


def _info(zoo: Zoo, provenance: Mapping[str, object]) -> dict[str, Any]:
    """Return the content of zoo.json, as JSON gives it back."""
    made = {"format": FORMAT, "zoo": zoo.to_json(), "layout": zoo.layout.to_json(), **provenance}
    info: dict[str, Any] = json.loads(json_bytes(made))
    return info


def _compare(
    path: Path, found: Mapping[str, Any], info: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Compare entries of a zoo.json with those that a zoo shall have.

    Args:
        path: folder of the zoo.
        found: content of its zoo.json.
        info: what `create_zoo` would write.
        keys: the entries, in the order in which a difference is reported.

    Raises:
        FaultyZoo: one of them differs.
    """
    for key in keys:
        old, new = found.get(key), info.get(key)
        if key == "zoo":  # its note says nothing about how models are made
            old, new = ({**values, "note": ""} for values in (found["zoo"], info["zoo"]))
        if key == "versions" or old == new or (key == "images" and same_images(old, new)):
            continue
        if key == "source" and old and new:
            if info.get("engine") == FINE_TUNING:
                raise FaultyZoo(
                    f"{path} holds the result of another training, {_other_training(old, new)}: "
                    f"give another name or out, or delete {path} first"
                )
            if old.get("sha256") == new.get("sha256"):
                for term in ("licence", "cite"):  # which somebody gave for this source
                    if old.get(term) and new.get(term) not in (None, old[term]):
                        raise FaultyZoo(
                            f"{path / 'zoo.json'} has another {term}, {old[term]!r:.100}: change "
                            "it in this file, or import without it"
                        )
                continue
            differ = _differences(old, new) - {"sha256", "file"}
            differ = differ or _differences(found["zoo"], info["zoo"]) - {"grid"}
            differ |= _differences(found["zoo"]["grid"], info["zoo"]["grid"])
            listed = ", ".join(sorted(differ)) or "files, renamed columns or constants"
            if old.get("file") != new.get("file"):
                how = f"which is another source than {new.get('file')}, as they differ in {listed}"
            elif differ == {"bytes"}:
                how = (
                    f"which has changed since: it had {old.get('bytes')} bytes, and has "
                    f"{new.get('bytes')}"
                )
            else:
                how = f"in another way: they differ in {listed}"
            raise FaultyZoo(
                f"{path} holds a zoo imported from {old.get('file')}, {how}. "
                f"Import {new.get('file')} under another name or into another folder, or delete "
                f"{path} first",
                hint="--zoo names it, --out is the folder",
            )
        if isinstance(old, dict) and isinstance(new, dict):  # name the entry, not all of it
            key, old, new = next(
                (f"{key}.{k}", old.get(k), new.get(k))
                for k in (*new, *old)
                if old.get(k) != new.get(k)
            )
        if not any((path / "models").glob("*")):  # or there is no such folder
            raise FaultyZoo(
                f"{path} was begun with {key} = {old!r}, not {new!r}, and holds no finished model: "
                "delete it if nothing is at work there, or choose another output folder"
            )
        how, same = f"made with {key} = {old!r}, not {new!r}", f"the same {key}"
        if key == "images.sha256":
            how = f"trained on other images (SHA-256 {old!s:.8}, not {new!s:.8})"
            same = "the images as they were"
        resuming = _resuming(key, old, find_architecture(info["zoo"]["architecture"]).engines)
        raise FaultyZoo(
            f"{path} holds a zoo {how}: choose another output folder, or {same}",
            hint="--out names another folder" + f", {resuming} resumes this zoo" * bool(resuming),
        )


def _other_training(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return how the sources of two zoos differ whose models began with given weights."""
    if "weights_sha256" not in old:
        return "by an earlier version, which did not record from which weights"
    if old["weights_sha256"] != new.get("weights_sha256"):
        return "which began with other weights"
    return "with other hyperparameters, epochs or seeds"


def _resuming(key: str, value: object, engines: Sequence[str]) -> str:
    """Return what to do to the options of `generate` for a value of zoo.json; "" for nothing."""
    if (key, value) in (("keep_epochs", None), ("compile", False)):
        return f"leaving out --{key.replace('_', '-')}"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if key == "engine" and value not in engines:
        return ""  # such as that of an import
    if key not in ("zoo.epochs", "engine", "precision", "keep_epochs") or not value:
        return ""
    return f"--{key.removeprefix('zoo.').replace('_', '-')} {value}"


def same_images(one: object, other: object) -> bool:
    """Whether two entries `images` of zoo.json are of the same images.

    Earlier versions did not write all keys, whose values follow from the digest.
    """
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one == other
    shared = one.keys() & other.keys()
    return "sha256" in shared and all(one[key] == other[key] for key in shared)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    """Return the keys whose values differ."""
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


def remove_if_empty(directory: ZooDirectory) -> None:
    """Delete the description of a zoo without models, so that another attempt can begin anew."""
    with suppress(OSError):  # there are models, or somebody else is at work
        (directory.path / "models").rmdir()
        for name in ("zoo.json", "splits.json"):
            (directory.path / name).unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Delete the unfinished files of killed writers; a living one renames its within seconds."""
    with suppress(FileNotFoundError):  # another process deletes a model that it has published
        for leftover in path.rglob(".*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > 3600:
                    leftover.unlink()


def built_zoos(folder: Path) -> list[str]:
    """Return the zoos whose rows are Parquet files of a repository folder (hub/names.py)."""
    return sorted({path.parent.name for path in folder.glob("data/*/*-of-*.parquet")})


def refuse_zoo_as_root(root: str | os.PathLike[str]) -> None:
    """Refuse what was given in place of the folder of all zoos.

    Raises:
        ZooNotFound: `root` is a zoo directory, or a repository folder that was built.
    """
    root = Path(root).expanduser()
    if (root / "zoo.json").exists():
        raise ZooNotFound(f"{root} is itself a zoo: give the folder above it as data_dir")
    if (built := built_zoos(root)) and not list_zoo_directories(root):
        raise ZooNotFound(
            f"`model-zoos build` wrote {root}, which holds {', '.join(built)} as Parquet files: "
            f'load_dataset("{root}", "{built[0]}") loads one. data_dir is a folder of zoo '
            "directories, as `model-zoos generate` and `import` write them; repo= or the variable "
            "MODEL_ZOOS_REPO names such a repository folder",
            hint=f"MODEL_ZOOS_REPO={typed(root)} model-zoos benchmark {built[0]}",
        )


def open_zoo(root: str | os.PathLike[str], name: str) -> ZooDirectory:
    """Open the zoo directory `<root>/<name>`.

    Raises:
        ZooNotFound: there is no such directory.
        FaultyZoo: its zoo.json cannot be used.
    """
    root = Path(root).expanduser()
    path = root / normalize_name(name)
    if not (path / "zoo.json").exists():
        refuse_zoo_as_root(root)
        found = ", ".join(list_zoo_directories(root)) or "no zoo"
        has = f"which has {found}" if root.exists() else "a folder that does not exist"
        raise ZooNotFound(
            f"there is no zoo {normalize_name(name)!r} in {root}, {has}",
            hint="--data-dir or MODEL_ZOOS_HOME names another folder; `model-zoos generate` makes "
            "zoos, `model-zoos download` fetches original ones",
        )
    info, zoo = _read_info(path)
    if zoo.name != path.name:
        raise FaultyZoo(
            f"{path} holds the zoo {zoo.name!r}: a zoo's folder must have the zoo's name"
        )
    if not (path / "models").is_dir():
        raise FaultyZoo(f"{path} has no readable folder 'models'")
    return ZooDirectory(path, zoo, info)


def _read_info(path: Path) -> tuple[dict[str, Any], Zoo]:
    """Return the content of zoo.json, and the zoo that it specifies.

    Raises:
        FaultyZoo: it cannot be read, or one of its entries is not what its readers expect.
    """
    info = read_json(path / "zoo.json")
    try:
        return info, _check_info(info)
    except ValueError as error:
        raise FaultyZoo(f"{path / 'zoo.json'}: {error}") from error


def _check_info(info: Mapping[str, Any]) -> Zoo:
    """Return the zoo that a zoo.json specifies, or raise ValueError."""
    if info.get("format") != FORMAT or "zoo" not in info:
        raise ValueError(f"expected a zoo in the format {FORMAT}")
    for keys, kind, expected in _ENTRIES:
        for key in keys:
            if not isinstance(info.get(key), kind | None):
                raise ValueError(f"{key} must be {expected}, found {info[key]!r:.60}")
    zoo, kept = Zoo.from_json(info["zoo"]), info.get("keep_epochs")
    if kept and (
        not all(type(epoch) is int and 0 <= epoch <= zoo.epochs for epoch in kept)
        or len(set(kept)) < len(kept)
    ):
        raise ValueError(f"keep_epochs must be epochs up to {zoo.epochs}, found {kept!r:.60}")
    return zoo


def list_zoo_directories(root: str | os.PathLike[str]) -> list[str]:
    """Return the names of all zoos in a folder, sorted; folders with other names are no zoos."""
    found = (path.parent.name for path in Path(root).expanduser().glob("*/zoo.json"))
    return sorted(name for name in found if is_zoo_name(name))
