"""What the files of a repository contain, in a folder or on the Hub: zoos and figures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import FaultyZoo
from ..catalog import UNIONS, ZOOS, parts_of
from ..files import files_below
from ..names import METRICS_NAME, dense_name, twin_name
from ..specification import Zoo
from ..splits import SPLITS
from ..untrusted import printable
from .checked import Fault, last_rows, naming, read_metrics
from .names import DATA_FILE, FIGURE, METRICS_FILE, data_files, matches


@dataclass(frozen=True)
class ZooEntry:
    """One zoo of a repository, as its files describe it.

    Attributes:
        zoo: specification.
        provenance: the rest of its zoo.json: engine, source, versions.
        models, states: numbers by split, in the order of SPLITS; only splits that have files.
        file_bytes: size of its files with weights.
        test_acc: mean over the last states of all models; None if it was not measured.
        digest: SHA-256 over the files with metrics and over the names and sizes of those with
            weights; "" if the files are not in a folder.
    """

    zoo: Zoo
    provenance: Mapping[str, object]
    models: Mapping[str, int]
    states: Mapping[str, int]
    file_bytes: int
    test_acc: float | None
    digest: str = ""

    @property
    def name(self) -> str:
        """Name of the zoo."""
        return self.zoo.name

    @property
    def origin(self) -> str:
        """Where its models come from, as Markdown."""
        engine, source = self.provenance.get("engine"), self.provenance.get("source")
        if not self._is_made_or_imported:
            return "trained elsewhere, written with model_zoos"
        if engine != "original":
            return f"made with model_zoos ({engine or 'engine unknown'!s:.100})"
        name = source.get("file") if isinstance(source, dict) else None
        file = f" `{name:.300}`" if isinstance(name, str) else ""
        if self.zoo.doi:
            return f"original:{file} [{self.zoo.doi}](https://doi.org/{self.zoo.doi})"
        return f"imported:{file or ' source unknown'}"

    @property
    def _is_made_or_imported(self) -> bool:
        return any(self.provenance.get(key) is not None for key in ("engine", "source"))

    @property
    def maker(self) -> str:
        """Who made the zoo.

        "paper": imported from the files of the paper's authors. "catalog": made with model_zoos
        from a specification of its catalog. "own": the repository's authors made or imported it.
        """
        known = ZOOS.get(dense_name(self.name))
        if self.provenance.get("engine") == "original":
            return "paper" if self.zoo.doi or (known and known.doi) else "own"
        return "catalog" if known and self._is_made_or_imported else "own"

    @property
    def images(self) -> Mapping[str, Any]:
        """What its zoo.json says about its images; at least their `name`."""
        found = self.provenance.get("images")
        about = found if isinstance(found, dict) else {}
        name = about.get("name")
        return {**about, "name": name if isinstance(name, str) else self.zoo.images}

    @property
    def terms(self) -> tuple[str, ...]:
        """The known terms of its source: the licence, and what to cite."""
        source = self.provenance.get("source")
        if not isinstance(source, dict):
            return ()
        texts = ((key, source.get(key)) for key in ("licence", "cite"))
        return tuple(f"{key}: {printable(x)[:500]}" for key, x in texts if isinstance(x, str))


@dataclass(frozen=True)
class Contents:
    """The zoos and figures of a repository.

    Attributes:
        zoos: sorted by name.
        figures: paths of images below figures/, sorted.
    """

    zoos: tuple[ZooEntry, ...]
    figures: tuple[str, ...] = ()

    @property
    def follows_paper(self) -> bool:
        """Whether some zoo is the paper's or the catalog's, so that users should cite the paper."""
        return any(zoo.maker != "own" for zoo in self.zoos)

    @cached_property
    def configs(self) -> dict[str, tuple[ZooEntry, ...]]:
        """Name of each config -> its zoos: one zoo, a union with all its parts, or `metrics`."""
        zoos = {zoo.name: zoo for zoo in self.zoos}
        unions = [*UNIONS, *(twin_name(name) for name in UNIONS)]
        complete = {name: parts_of(name) for name in unions if set(parts_of(name)) <= set(zoos)}
        return {
            **{name: (zoo,) for name, zoo in zoos.items()},
            **{name: tuple(zoos[part] for part in parts) for name, parts in complete.items()},
            METRICS_NAME: self.zoos,
        }


def read_contents(folder: str | os.PathLike[str]) -> Contents:
    """Read what a repository folder contains.

    Raises:
        FaultyZoo: a zoo lacks some of its files: its build was interrupted.
    """
    folder = Path(folder)
    files = files_below(folder)
    sizes = {name: path.stat().st_size for name, path in files.items() if path.is_file()}
    contents = describe_contents(sizes, lambda name: files[name].open("rb"), str(folder))
    zoos = tuple(replace(zoo, digest=_digest(zoo.name, files, sizes)) for zoo in contents.zoos)
    return replace(contents, zoos=zoos)


def _digest(zoo: str, files: Mapping[str, Path], sizes: Mapping[str, int]) -> str:
    digest = hashlib.sha256()
    for match in matches(DATA_FILE, sorted(sizes)):
        if match["zoo"] == zoo:
            digest.update(f"{match.string} {sizes[match.string]}\n".encode())
    for match in matches(METRICS_FILE, sorted(sizes)):
        if match["zoo"] == zoo:
            digest.update(files[match.string].read_bytes())
    return digest.hexdigest()


def describe_contents(
    sizes: Mapping[str, int], open_file: Callable[[str], IO[bytes]], root: str
) -> Contents:
    """Describe files in any place by their names, sizes, and the content of those below metrics/.

    Other people's files, and Parquet files without a zoo's specification, are ignored.

    Args:
        sizes: name in the repository -> bytes.
        open_file: opens the file of a name.
        root: name of the folder or repository, for messages.

    Raises:
        FaultyZoo: a zoo lacks some of its files, since its build was interrupted, or a file below
            metrics/ cannot be used.
    """
    file_bytes: dict[str, int] = {}
    for match in matches(DATA_FILE, sizes):
        file_bytes[match["zoo"]] = file_bytes.get(match["zoo"], 0) + sizes[match.string]
    tables: dict[str, dict[str, pa.Table]] = {}
    described: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for match in matches(METRICS_FILE, sorted(sizes)):
        with naming(f"{root}: {match.string}"), open_file(match.string) as file:
            table, about = read_metrics(file, ["model_id", "epoch", "test_acc"])
        if about:
            tables.setdefault(match["zoo"], {})[match["split"]] = table
            described.setdefault(match["zoo"], (f"{root}: {match.string}", about))
    models, faulty = data_files(sizes)
    for zoo, by_split in sorted(tables.items()):
        for split in SPLITS:
            has_data, has_metrics = (zoo, split) in models, split in by_split
            rows_of = set(by_split[split]["model_id"].to_pylist()) if has_metrics else set()
            own_files = models.get((zoo, split)) or rows_of
            if has_data != has_metrics or (zoo, split) in faulty or own_files != rows_of:
                raise FaultyZoo(
                    f"{root}: the zoo {zoo} lacks some of its files of the split {split}: "
                    "build it again to finish it"
                )
    zoos = []
    for zoo, by_split in sorted(tables.items()):
        name, about = described[zoo]
        with naming(name):
            zoos.append(_zoo_entry(zoo, about, by_split, file_bytes[zoo]))
    figures = sorted(name for name in sizes if FIGURE.fullmatch(name))
    return Contents(tuple(zoos), tuple(figures))


def _zoo_entry(
    name: str, about: Mapping[str, Any], tables: Mapping[str, pa.Table], file_bytes: int
) -> ZooEntry:
    zoo = Zoo.from_json(about.get("zoo"))
    if zoo.name != name:
        raise Fault(f"it describes the zoo {zoo.name:.100}")
    tables = {split: tables[split] for split in SPLITS if split in tables}
    models: dict[str, int] = {}
    accuracies = []
    for split, table in tables.items():
        last = last_rows(table)
        models[split] = len(last)
        accuracies.append(pc.drop_null(table["test_acc"].take(last)).to_numpy())
    # Sorted, so that the same numbers give the same sum.
    accuracy = np.sort(np.concatenate(accuracies).astype(np.float64))
    return ZooEntry(
        zoo=zoo,
        provenance={key: value for key, value in about.items() if key != "zoo"},
        models=models,
        states={split: len(table) for split, table in tables.items()},
        file_bytes=file_bytes,
        test_acc=float(accuracy.mean()) if len(accuracy) else None,
    )
