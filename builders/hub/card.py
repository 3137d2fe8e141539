"""The card of a repository: README.md from dataset_card.md, the catalog and the files themselves.

    repository = read_repository("out")            # or a folder of the Hub, with its file system
    Path("out/README.md").write_text(render_card(repository, "me/model_zoos"))

Everything in the card follows from the folder's content, so that the same files give the same card
wherever they came from. The YAML at its top is what makes `load_dataset(repository, name)` work: it
says for each zoo, each union whose parts are all there, and `metrics`, which files are which split.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import FaultyZoo
from ..catalog import METRICS_NAME, UNIONS, dense_name, parts_of, twin_name
from ..schema import row_features
from ..specification import Zoo, zoo_from_json
from ..splits import SPLITS
from .names import DATA_FILE, METRICS_FILE, data_files

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from huggingface_hub import DatasetCardData

TEMPLATE = Path(__file__).resolve().parents[2] / "dataset_card.md"
"""Beside the rooms, in a checkout as in a wheel."""

PLACEHOLDER = "ORG/model_zoos"
"""Stands for the repository's name where that is not known yet."""

_FIGURE = re.compile(r"figures/([\w.-]+)\.(?:png|svg)")


@dataclass(frozen=True)
class PublishedZoo:
    """One zoo of a repository, as its files describe it.

    Attributes:
        zoo: specification.
        provenance: the rest of its zoo.json: engine, source, versions.
        models, states: by split, in the order of splits.SPLITS; only splits that are there.
        file_bytes: of its files in data/.
        test_acc: mean over the last states of all models; None where it was not measured.
    """

    zoo: Zoo
    provenance: Mapping[str, Any]
    models: Mapping[str, int]
    states: Mapping[str, int]
    file_bytes: int
    test_acc: float | None

    @property
    def name(self) -> str:
        return self.zoo.name

    @property
    def origin(self) -> str:
        """Where its models come from, as Markdown."""
        engine, source = self.provenance.get("engine"), self.provenance.get("source")
        if engine is None and source is None:
            return "trained elsewhere, written with model_zoos"
        if engine != "original":
            return f"made with model_zoos ({engine or 'engine unknown'})"
        file = f" `{source['file']}`" if isinstance(source, dict) and "file" in source else ""
        if self.zoo.doi:
            return f"published:{file} [{self.zoo.doi}](https://doi.org/{self.zoo.doi})"
        return f"imported:{file or ' source unknown'}"


@dataclass(frozen=True)
class Repository:
    """What a repository folder holds of ours.

    Attributes:
        zoos: sorted by name.
        figures: paths of images below figures/, sorted.
    """

    zoos: tuple[PublishedZoo, ...]
    figures: tuple[str, ...] = ()

    @cached_property
    def configs(self) -> dict[str, tuple[PublishedZoo, ...]]:
        """Name of each data set -> its parts: zoos, unions that are complete, `metrics`."""
        zoos = {zoo.name: zoo for zoo in self.zoos}
        unions = [*UNIONS, *(twin_name(name) for name in UNIONS)]
        complete = {name: parts_of(name) for name in unions if set(parts_of(name)) <= set(zoos)}
        return {
            **{name: (zoo,) for name, zoo in zoos.items()},
            **{name: tuple(zoos[part] for part in parts) for name, parts in complete.items()},
            METRICS_NAME: self.zoos,
        }


def read_repository(
    root: str | os.PathLike[str], filesystem: AbstractFileSystem | None = None
) -> Repository:
    """What is in a repository folder.

    Args:
        root: the folder; on the Hub `datasets/ORG/NAME` or `datasets/ORG/NAME@revision`.
        filesystem: that it lies on, such as huggingface_hub.HfFileSystem(); None for this machine.

    Raises:
        FaultyZoo: a zoo lacks some of its files: its build was not finished.
    """
    import fsspec

    filesystem = filesystem or fsspec.filesystem("file")
    base = filesystem._strip_protocol(os.fspath(root)).rstrip("/")
    found = filesystem.find(base, detail=True)
    return describe_repository(
        {path.removeprefix(f"{base}/"): int(info["size"]) for path, info in found.items()},
        lambda name: filesystem.open(f"{base}/{name}", "rb"),
        str(root),
    )


def describe_repository(
    sizes: Mapping[str, int], open_file: Callable[[str], Any], root: str
) -> Repository:
    """What some files make, wherever they lie: their names, and those below metrics/, are read.

    Files of other people, and what does not carry a zoo's specification, are passed over.

    Args:
        sizes: name in the repository -> bytes.
        open_file: gives a binary file for a name.
        root: what to call it in an error.

    Raises:
        FaultyZoo: a zoo lacks some of its files: its build was not finished.
    """
    file_bytes: dict[str, int] = {}
    tables: dict[str, dict[str, Any]] = {}
    for name, size in sorted(sizes.items()):
        if match := DATA_FILE.fullmatch(name):
            file_bytes[match["zoo"]] = file_bytes.get(match["zoo"], 0) + size
        elif match := METRICS_FILE.fullmatch(name):
            with open_file(name) as file:
                parquet = pq.ParquetFile(file)
                if b"model_zoos" in (parquet.schema_arrow.metadata or {}):
                    table = parquet.read(["model_id", "epoch", "test_acc"])
                    tables.setdefault(match["zoo"], {})[match["split"]] = table
    models, lacking = data_files(sizes)
    for zoo, by_split in sorted(tables.items()):
        for split in SPLITS:
            data, metrics = (zoo, split) in models, split in by_split
            rows_of = set(by_split[split]["model_id"].unique().to_pylist()) if metrics else set()
            apart = models.get((zoo, split)) or rows_of
            if data != metrics or (zoo, split) in lacking or apart != rows_of:
                raise FaultyZoo(
                    f"{root}: the zoo {zoo} lacks some of its files of the split {split}: "
                    "build it again to finish it"
                )
    zoos = [_published_zoo(by_split, file_bytes[zoo]) for zoo, by_split in sorted(tables.items())]
    figures = sorted(name for name in sizes if _FIGURE.fullmatch(name))
    return Repository(tuple(zoos), tuple(figures))


def _published_zoo(tables: Mapping[str, Any], file_bytes: int) -> PublishedZoo:
    first = next(iter(tables.values()))
    about = json.loads(first.schema.metadata[b"model_zoos"])
    models, states, last = {}, {}, []
    for split in SPLITS:
        if split not in tables:
            continue
        table = tables[split]
        ends = table.group_by("model_id", use_threads=False).aggregate([("epoch", "max")])
        ends = ends.rename_columns({"epoch_max": "epoch"})
        ends = ends.join(table, ["model_id", "epoch"], join_type="inner", use_threads=False)
        models[split], states[split] = len(ends), len(table)
        last.append(pc.drop_null(ends["test_acc"]).to_numpy())
    accuracies = np.sort(np.concatenate(last).astype(np.float64))  # a sum in a fixed order
    return PublishedZoo(
        zoo=zoo_from_json(about["zoo"]),
        provenance={key: value for key, value in about.items() if key != "zoo"},
        models=models,
        states=states,
        file_bytes=file_bytes,
        test_acc=float(accuracies.mean()) if len(accuracies) else None,
    )


def card_data(repository: Repository) -> DatasetCardData:
    """The YAML at the top of the card.

    It names no numbers of rows: datasets would compare them with what `filters=` leaves.
    """
    import datasets
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    states = sum(sum(zoo.states.values()) for zoo in repository.zoos)
    images = sorted({zoo.zoo.image_dataset for zoo in repository.zoos})
    data = DatasetCardData(
        pretty_name="Model Zoos",
        license="cc-by-4.0",
        task_categories=["other", "feature-extraction"],
        tags=[
            "model-zoo",
            "weight-space-learning",
            "neural-network-weights",
            "hyper-representations",
            "arxiv:2209.14764",
            *(name.replace("_", "-") for name in images),
        ],
        size_categories=[size_category(states)],
    )
    configs, infos = {}, {}
    for name, parts in repository.configs.items():
        metrics = name == METRICS_NAME
        splits = [split for split in SPLITS if any(split in part.states for part in parts)]
        configs[name] = {
            "data_files": [
                {
                    "split": split,
                    "path": f"metrics/*-{split}.parquet"
                    if metrics
                    else [f"data/{p.name}/{split}-*.parquet" for p in parts if split in p.states],
                }
                for split in splits
            ]
        }
        if metrics:
            configs[name]["default"] = True
        size = None if metrics else parts[0].zoo.layout.size
        infos[name] = datasets.DatasetInfo(features=row_features(size))
    MetadataConfigs(configs).to_dataset_card_data(data)
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data


def size_category(rows: int) -> str:
    """The Hub's id of a data set's size: `1K<n<10K`."""
    steps = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B")
    for power, step in enumerate(steps, start=3):
        if rows < 10**power:
            return f"n<{step}" if power == 3 else f"{steps[power - 4]}<n<{step}"
    return "10B<n<100B"


def render_card(repository: Repository, repo_id: str = PLACEHOLDER) -> str:
    """README.md of a repository: YAML, then the text of dataset_card.md, filled in.

    Args:
        repository: as `read_repository` found it.
        repo_id: that the examples name.

    Raises:
        ValueError: a repository without zoos.
    """
    from huggingface_hub import DatasetCard

    if not repository.zoos:
        raise ValueError("a card describes at least one zoo: build one first")
    cnns = [zoo for zoo in repository.zoos if not zoo.zoo.layout.architecture.file_per_state]
    example = (cnns or list(repository.zoos))[0]
    card = DatasetCard.from_template(
        card_data(repository),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        example=example.name,
        example_split=next(iter(example.states)),
        example_epoch=example.zoo.epochs,
        zoo_table=_zoo_table(repository.zoos),
        unions={
            name: [part.name for part in parts]
            for name, parts in repository.configs.items()
            if len(parts) > 1 and name != METRICS_NAME
        },
        notes=[(zoo.name, zoo.zoo.note) for zoo in repository.zoos if zoo.zoo.note],
        figures=[(path, Path(path).stem.replace("-", " ")) for path in repository.figures],
        has_cnn=bool(cnns),
        resnet=next((zoo.name for zoo in repository.zoos if zoo not in cnns), None),
        has_twins=any(dense_name(zoo.name) != zoo.name for zoo in repository.zoos),
    )
    return str(card).rstrip() + "\n"


def _zoo_table(zoos: Sequence[PublishedZoo]) -> str:
    rows = [
        "| config | architecture | weights | models (train / val / test) | states | size | "
        "test accuracy | origin |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for zoo in zoos:
        models = " / ".join(f"{zoo.models.get(split, 0):,}" for split in SPLITS)
        accuracy = "-" if zoo.test_acc is None else f"{zoo.test_acc:.1%}"
        rows.append(
            f"| `{zoo.name}` | {zoo.zoo.layout.architecture.title} | "
            f"{zoo.zoo.layout.size:,} | {models} | {sum(zoo.states.values()):,} | "
            f"{_size(zoo.file_bytes)} | {accuracy} | {zoo.origin} |"
        )
    return "\n".join(rows)


def _size(count: int) -> str:
    """1.2 MB, 3.4 GB; powers of 1000, as the Hub counts."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"
