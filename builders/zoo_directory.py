"""The directory of a zoo: `<root>/<zoo>/zoo.json`, `splits.json` and `models/`.

    zoo.json       specification, layout, engine, versions, and the digest of the images
    splits.json    model id -> train, validation or test; entries are added, never changed
    published.json only of a zoo whose models are published one by one (ledger.py)
    source.parquet  only in an imported zoo: columns of its source that rows do not have
    .manifest       content of the model files except weights, so that few are opened (manifest.py)
    models/         one file per model: <model_id>.safetensors. Architectures with `file_per_state`
                    have one file per state: <model_id>/epoch_0005.safetensors, and while a model
                    trains also checkpoint.pt, from which it resumes. See model_file.py

A file appears by rename only when it is complete, so that a killed run leaves no partial file.
Files are checked when they are read: a faulty one raises `FaultyFile` and does not affect others.
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

from ..errors import FaultyFile, FaultyZoo, UnreadableFile, ZooNotFound
from .architecture import find_architecture
from .atomic import json_bytes, write_atomically
from .catalog import refuse_union
from .files import Stamp, file_stamp
from .ledger import LEDGER, NOTHING, Published, read_ledger, write_ledger
from .manifest import clock, nothing_recorded, read_manifest, settled, write_manifest
from .model_file import FORMAT, Encoded, ModelFile, encode_model, read_model_file
from .names import dense_name, is_zoo_name, normalize_name, refuse_reserved
from .phrases import typed
from .specification import Zoo
from .splits import SPLITS, assign_splits
from .untrusted import read_json

SOURCE_COLUMNS = "source.parquet"
"""Name of the file with the columns of an import that rows do not have, all as texts: `model_id`,
`epoch` if it has a row per state instead of per model, then columns under the source's names."""

FINE_TUNING = "fine_tuning"
"""The engine in zoo.json of a zoo whose models started from given weights."""


CHECKPOINT = "checkpoint.pt"
"""Name of the file in a model's folder from which its training is resumed."""

REPLACING = ".replacing"
"""Name of an empty file in a model's folder: the model is being trained again, and the states of an
earlier run are kept until they are replaced."""

MAX_SOURCE_COLUMNS = 1 << 28
"""Limit of the size of `SOURCE_COLUMNS` in bytes."""


_OF_TWINS_OR_IMPORTS = {"parent", "sparsification", "source"}
"""Entries of zoo.json that dense zoos which were trained here lack."""


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
        """Name of the dense zoo of these sparse twins; None if they are not twins.

        zoo.json states it if this package made the twins. For imported twins it follows from the
        zoo's name. Earlier versions could train dense zoos with such names too.
        """
        parent = self.info.get("parent")
        if isinstance(parent, str) and is_zoo_name(parent):
            return parent
        trained_dense = self.info.get("engine") and not self.info.keys() & _OF_TWINS_OR_IMPORTS
        dense = dense_name(self.zoo.name)
        return dense if dense != self.zoo.name and not trained_dense else None

    @property
    def lists_models(self) -> bool:
        """Whether the specification lists the models, so that missing ones are known."""
        engine, source = self.info.get("engine"), self.info.get("source") or {}
        return bool(engine) and engine != FINE_TUNING and "form" not in source

    @cached_property
    def models_path(self) -> Path:
        """The folder of the model files."""
        return self.path / "models"

    @property
    def kept_epochs(self) -> Sequence[int]:
        """The epochs of each model that are written: those in zoo.json, or all by default."""
        first = 0 if self.zoo.keeps_epoch_0 else 1
        return self.info.get("keep_epochs") or range(first, self.zoo.epochs + 1)

    def state_path(self, model_id: str, epoch: int) -> Path:
        """Return the file that holds a state of a model."""
        if self.zoo.layout.architecture.file_per_state:
            return self.models_path / model_id / f"epoch_{epoch:04d}.safetensors"
        return self.models_path / f"{model_id}.safetensors"

    def splits(self) -> dict[str, str]:
        """Return model id -> split for every model that was ever planned.

        Raises:
            FaultyZoo: splits.json is not readable, or has an unknown split.
        """
        return dict(self._known_splits())

    def _known_splits(self) -> Mapping[str, str]:
        """Return `splits` without a copy; callers must not change it."""
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

        Several processes can call this at the same time.

        Args:
            model_ids: ids of models of the zoo.
            given: splits that are already fixed: a parent's, or one that came with the source.
            moved: models without a row here; `given` replaces their splits even if they are known.

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

        Files of freed models are left out, since they are about to be deleted.
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
                if entry.name.endswith(".safetensors"):  # even a folder: reading it fails
                    found.append(entry.name)
                else:
                    with suppress(OSError):  # not a folder, or not one of ours
                        states = fnmatch.filter(os.listdir(entry.path), "epoch_*.safetensors")
                        found += [f"{entry.name}/{state}" for state in states]
        return sorted(found, key=lambda name: name.split("/"))

    def stamps(self) -> dict[str, Stamp | None]:
        """Return path below models/ -> stamp of each of `files`; None for a broken link."""
        models = str(self.models_path)
        return {name: _stamp_or_none(f"{models}/{name}") for name in self._names()}

    def fingerprint(self) -> list[tuple[str, int, int, int]]:
        """Return name, size and times of every file; they change whenever the zoo does.

        The ctime is included because a copy can preserve the mtime.
        """
        stamps = self.stamps()
        for name in ("zoo.json", "splits.json", LEDGER):
            stamps[name] = _stamp_or_none(f"{self.path}/{name}")
        return [(name.rpartition("/")[2], *stamp[:3]) for name, stamp in stamps.items() if stamp]

    def read(self, path: Path) -> ModelFile:
        """Read and check one model file; see `read_model_file`."""
        return read_model_file(path, self.zoo)

    def scan(self, *, anew: bool = False) -> tuple[list[ModelFile], list[FaultyFile]]:
        """Return the readable model files, and the errors of the others.

        Good files that have not changed since an earlier scan are not opened; see manifest.py.

        Args:
            anew: open and check every file again.
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
        """Read all model files: the readable ones of each split, and the errors of the others.

        Raises:
            ZooNotFound: there is no model file, and none was freed.
            FaultyZoo: all files are unusable.
        """
        files: dict[str, list[ModelFile]] = {split: [] for split in SPLITS}
        good, faulty = self.scan()
        splits = self.splits()  # read later, as a model's split is recorded before its file appears
        for file in good:
            if file.model_id in splits:
                files[splits[file.model_id]].append(file)
            else:
                faulty.append(FaultyFile(f"{file.path}: splits.json has no split for it"))
        # Read again, so that a model freed in the meantime does not count twice, here and on the
        # Hub.
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
        """Replace the record of the models that are on the Hub."""
        write_ledger(self.path, published)

    def finished(self, model_id: str) -> bool:
        """Whether a model is complete here or was freed.

        Raises:
            UnreadableFile: see `complete`.
        """
        return model_id in self.published().freed or self.complete(model_id)

    def complete(self, model_id: str) -> bool:
        """Whether all epochs of a model that this zoo keeps are readable here, and of one run.

        Raises:
            UnreadableFile: the system cannot read a file, which may be in order.
        """
        paths = dict.fromkeys(self.state_path(model_id, epoch) for epoch in self.kept_epochs)
        per_state = self.zoo.layout.architecture.file_per_state
        if per_state and (self.models_path / model_id / REPLACING).exists():
            return False
        try:
            found = {int(epoch) for path in reversed(paths) for epoch in self.read(path).epochs}
        except UnreadableFile:
            raise
        except FaultyFile:
            return False
        return found.issuperset(self.kept_epochs)

    def in_training(self, model_id: str) -> bool:
        """Whether a model with a file for each state has been begun and is to be resumed."""
        folder = self.models_path / model_id
        return any((folder / name).exists() for name in (CHECKPOINT, REPLACING))

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
        """Write given states of one model, and record its split if it has none.

        Args:
            model_id: id of the model, which names its file.
            hyperparameters: see `Model.hyperparameters()`; absent keys are null in the rows.
            epochs: int [S], increasing.
            weights: float32 [S, N].
            metrics: name in schema.METRICS -> float64 [S]; masked entries (numpy.ma) are not
                measured.
            parent_model_id: id of the dense model of a twin.
            extra: further tensors [S, N] of a twin: mean, log_sigma2.
            original_name: name in the source of an import, if it could not be the id.

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
        """Write a file from `encode_model`, of a model whose split is recorded.

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
    """Return the stamp of a file; None if it has none, such as a broken link."""
    try:
        return file_stamp(path)
    except OSError:
        return None


def _stamp(path: Path) -> Stamp:
    """Return the stamp of a file, which changes whenever the file is replaced.

    Raises:
        FaultyZoo: the file cannot be read.
    """
    try:
        return file_stamp(path)
    except OSError as error:
        raise FaultyZoo(f"{path}: not readable ({error})") from error


@lru_cache(maxsize=8)
def _read_splits(path: Path, *stamp: int) -> Mapping[str, str]:
    """Read splits.json, cached by its stamp; a zoo of 20,000 models asks as many times."""
    splits = read_json(path)
    if not all(split in SPLITS for split in splits.values()):
        raise FaultyZoo(f"{path}: expected model ids with a split each ({', '.join(SPLITS)})")
    return splits


@lru_cache(maxsize=8)
def _read_ledger(folder: Path, *stamp: int) -> Published:
    """Read the ledger, cached by its stamp; it is needed for each model."""
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
            existing zoo, all except `versions` and the name of the source's file must be equal, so
            that all its models are made in the same way. An earlier version may have recorded fewer
            facts on the images. The zoo's note may differ; the existing one is kept.

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
    """Refuse what `create_zoo` would refuse, from the known provenance; write nothing.

    Returns:
        The directory; None if the zoo has none yet.

    Raises:
        FaultyZoo, ZooNotFound, InvalidArgument: see `create_zoo`.
    """
    path, begun = _place(root, zoo)
    if not begun:
        return None
    found, recorded = _read_info(path)
    _compare(path, found, _info(zoo, provenance), (*provenance, "format", "zoo", "layout"))
    return ZooDirectory(path, recorded, found)


def _place(root: str | os.PathLike[str], zoo: Zoo) -> tuple[Path, bool]:
    """Return the folder of a zoo and whether it has a zoo.json; refuse bad names of new zoos."""
    refuse_zoo_as_root(root)
    path = Path(root).expanduser() / zoo.name
    begun = (path / "zoo.json").exists()
    if not begun:
        refuse_reserved(zoo.name)
        refuse_union(zoo.name)
    return path, begun


def _info(zoo: Zoo, provenance: Mapping[str, object]) -> dict[str, Any]:
    """Return the content of zoo.json in the form in which JSON reads it."""
    made = {"format": FORMAT, "zoo": zoo.to_json(), "layout": zoo.layout.to_json(), **provenance}
    info: dict[str, Any] = json.loads(json_bytes(made))
    return info


def _compare(
    path: Path, found: Mapping[str, Any], info: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Compare entries of a zoo.json with those of a zoo to be made.

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
        if key == "zoo":  # the note does not say how models are made
            old, new = ({**values, "note": ""} for values in (found["zoo"], info["zoo"]))
        if key == "sparsification" and old and new:
            if "parents" not in old:  # an earlier version did not say how the parents were made
                new = {name: value for name, value in new.items() if name != "parents"}
            elif old["parents"] != new.get("parents"):
                raise FaultyZoo(_other_parents(path, old["parents"], new.get("parents")))
        if key == "versions" or old == new or (key == "images" and same_images(old, new)):
            continue
        if key == "source" and old and new:
            if info.get("engine") == FINE_TUNING:
                raise FaultyZoo(
                    f"{path} holds the result of another training, {_other_training(old, new)}: "
                    f"give another name or out, or delete {path} first"
                )
            if old.get("sha256") == new.get("sha256"):
                for term in ("licence", "cite"):  # given by a user for this source
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
        if isinstance(old, dict) and isinstance(new, dict):  # name only the entry that differs
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


def _other_parents(path: Path, old: object, new: object) -> str:
    """Return the error message for twins whose dense zoo was made again in another way."""
    before, now = (value if isinstance(value, dict) else {} for value in (old, new))
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    listed = (", ".join(f"{k} = {v.get(k)!r:.20}" for k in differ) for v in (before, now))
    return (
        f"{path} holds twins of other parents: their zoo was made with {next(listed)}, and the one "
        f"of this name has {next(listed)}. Choose another output folder for the twins of these "
        f"parents, or delete {path}"
    )


def _other_training(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return how the sources of two zoos differ whose models began with given weights."""
    if "weights_sha256" not in old:
        return "by an earlier version, which did not record from which weights"
    if old["weights_sha256"] != new.get("weights_sha256"):
        return "which began with other weights"
    return "with other hyperparameters, epochs or seeds"


def _resuming(key: str, value: object, engines: Sequence[str]) -> str:
    """Return which option of `generate` matches a value of zoo.json; "" if there is none."""
    if (key, value) in (("keep_epochs", None), ("compile", False)):
        return f"leaving out --{key.replace('_', '-')}"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if key == "engine" and value not in engines:
        return ""  # an import, for example
    if key not in ("zoo.epochs", "engine", "precision", "keep_epochs") or not value:
        return ""
    return f"--{key.removeprefix('zoo.').replace('_', '-')} {value}"


def same_images(one: object, other: object) -> bool:
    """Whether two entries `images` of zoo.json describe the same images.

    Earlier versions did not write all keys; the missing values follow from the digest.
    """
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one == other
    shared = one.keys() & other.keys()
    return "sha256" in shared and all(one[key] == other[key] for key in shared)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    """Return the keys whose values differ."""
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


def remove_if_empty(directory: ZooDirectory) -> None:
    """Delete the description of a zoo without models, so that another attempt starts fresh."""
    with suppress(OSError):  # there are models, or another process is at work
        (directory.path / "models").rmdir()
        for name in ("zoo.json", "splits.json"):
            (directory.path / name).unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Delete unfinished files of killed writers; a running writer renames its within seconds."""
    with suppress(FileNotFoundError):  # another process deletes a model that it has published
        for leftover in path.rglob(".*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > 3600:
                    leftover.unlink()


def built_zoos(folder: Path) -> list[str]:
    """Return the zoos whose rows are Parquet files of a repository folder (hub/names.py)."""
    return sorted({path.parent.name for path in folder.glob("data/*/*-of-*.parquet")})


def refuse_zoo_as_root(root: str | os.PathLike[str]) -> None:
    """Refuse a folder that is not a folder of zoos.

    Raises:
        ZooNotFound: `root` is a zoo directory or a built repository folder.
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
        FaultyZoo: it cannot be read, or one of its entries is invalid.
    """
    info = read_json(path / "zoo.json")
    try:
        return info, _check_info(info)
    except ValueError as error:
        raise FaultyZoo(f"{path / 'zoo.json'}: {error}") from error


def _check_info(info: Mapping[str, Any]) -> Zoo:
    """Return the zoo that a zoo.json specifies.

    Raises:
        ValueError: it specifies none.
    """
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


def has_zoo(root: Path, name: str) -> bool:
    """Whether a folder holds a zoo directory of this name; False for a path."""
    return Path(name).name == name and (root / name / "zoo.json").exists()


def list_zoo_directories(root: str | os.PathLike[str]) -> list[str]:
    """Return the names of all zoos in a folder, sorted; other folders are ignored."""
    found = (path.parent.name for path in Path(root).expanduser().glob("*/zoo.json"))
    return sorted(name for name in found if is_zoo_name(name))
