"""Import of a folder of checkpoints with a table."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from ...errors import (
    FaultyZoo,
    InvalidArgument,
    ModelZoosWarning,
    SourceNotFound,
    ZooNotFound,
    did_you_mean,
)
from ..catalog import IMAGE_FOLDER, ZOOS
from ..files import file_digest
from ..names import normalize_name
from ..zoo_directory import SOURCE_COLUMNS, open_zoo
from .found import Description
from .given_splits import splits_of_file
from .import_job import ImportJob, Outcome
from .processes import Part, in_parts, mapped
from .read_run_table import read_run_table
from .report import Report
from .run_table import FORM, RunTable, check_name
from .write_model import write_model


@dataclass(frozen=True)
class TableOptions:
    """The arguments of `import_zoo` about a table."""

    path: Path
    architecture: str
    images: str | None
    rename: Mapping[str, str]
    constants: Mapping[str, str]
    facts: Mapping[str, str]


def table_options(
    source: Path,
    table: str | os.PathLike[str] | None,
    *,
    architecture: str | None,
    images: str | None,
    rename: Mapping[str, str] | None,
    constants: Mapping[str, str] | None,
    facts: Mapping[str, str | None],
) -> TableOptions | None:
    """Check the arguments about a table, and return them."""
    if table is None:
        for name, value in (
            ("architecture", architecture),
            ("images", images),
            ("rename", rename),
            ("constants", constants),
            *facts.items(),
        ):
            if value:
                raise InvalidArgument(f"{name} is for a folder of checkpoints with a table")
        return None
    if architecture is None:
        raise InvalidArgument(
            "a table needs the architecture of its models, such as '1x28x28 fc64 fc10'",
            hint="--architecture TEXT",
        )
    if not source.is_dir():
        raise InvalidArgument(f"{source}: a table describes a folder of checkpoints")
    path = Path(table).expanduser()
    if not path.exists():
        path = source / path
    if not path.exists():
        raise SourceNotFound(f"{table}: there is no such table, nor in {source}")
    known = {key: text for key, text in facts.items() if text}
    _warn_of_images(images)
    return TableOptions(path, architecture, images, rename or {}, constants or {}, known)


def _warn_of_images(images: str | None) -> None:
    """Warn if the images are not named, or `verify` cannot load them."""
    names = list(dict.fromkeys(zoo.images for zoo in ZOOS.values()))
    known = {name.partition("/")[0] for name in (*names, IMAGE_FOLDER)}
    if images is None:
        text = "the images that the models saw are not named, so that nothing can be verified"
    elif images.replace("-", "_").partition("/")[0] not in known:
        advice = did_you_mean(images, names) or (
            f"known: {', '.join(names)}. A folder of images of your own is {IMAGE_FOLDER}{images}"
        )
        text = f"no image data set {images!r} is known, so that nothing can be verified; {advice}"
    else:
        return
    warnings.warn(ModelZoosWarning(text, hint="--images NAME"), stacklevel=4)


def import_table(job: ImportJob, table: TableOptions) -> Report:
    """Import the checkpoints that a table names.

    Raises:
        InvalidArgument: an argument does not fit the table, or no zoo can have the folder's name.
        Unreadable: the table cannot be used, or no checkpoint fits the architecture.
    """
    name = job.name or re.sub(r"[^a-z0-9]+", "_", normalize_name(job.path.resolve().name))
    name = name.strip("_")[:100]
    if not name:
        raise InvalidArgument(
            f"{job.path.resolve().name} cannot be a zoo's name: give another", hint="--zoo NAME"
        )
    name = check_name(name)
    data = read_run_table(table.path, job.path, table.rename, table.constants)
    layout = data.layout(table.architecture)
    sizes = data.sizes()
    columns = [sorted(table.rename.items()), sorted(table.constants.items())]
    given, facts, remarks = splits_of_file(job.splits, data.names, None)
    of_source = json.dumps([file_digest(table.path, "sha256"), columns, sizes, facts])
    about = {
        "file": job.path.resolve().name,
        "bytes": sum(size or 0 for _, size in sizes),
        "sha256": hashlib.sha256(of_source.encode()).hexdigest(),
        "form": FORM,
        **facts,
        **table.facts,
    }
    zoo = data.specify(layout, name, table.images)
    with suppress(ZooNotFound, FaultyZoo):  # create_zoo will raise it
        begun = open_zoo(job.root, name).zoo
        if zoo == replace(begun, image_dataset=zoo.image_dataset):
            zoo = begun  # earlier versions called all folders of images "folder"
    epochs = {entry.epoch for entries in data.models.values() for entry in entries}
    directory = job.create(zoo, about, keep_epochs=sorted(epochs))
    if (others := data.columns()) is not None:
        pq.write_table(others, directory.path / SOURCE_COLUMNS)
    directory.add_splits(data.models, given)
    expected = len(data.models)
    parts = list(in_parts(directory, data, max(1, min(20, expected // 64)), job.max_weight))
    size = sum(size or 0 for _, size in sizes)
    outcomes = mapped(_import_part, parts, size, job.workers)
    remarks += data.remarks
    return job.report(directory, about, outcomes, expected, data.count, data.left_out, remarks)


def _import_part(part: Part[RunTable]) -> Outcome:
    directory, data, zoo = part.directory, part.data, part.directory.zoo
    shape = (zoo.architecture, zoo.channels, zoo.classes)
    outcomes = [
        write_model(
            directory,
            model_id,
            data.names[model_id],
            Description(shape, data.hyperparameters[model_id], ""),
            [entry.epoch for entry in entries],
            data.states(model_id, zoo.layout, part.max_weight),
        )
        for model_id, entries in data.models.items()
    ]
    return Outcome.of_all(outcomes)
