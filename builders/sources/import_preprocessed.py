"""Import of a preprocessed `dataset_*.pt`."""

from __future__ import annotations

from pathlib import Path

from ...errors import Unreadable
from ..catalog import ZOOS
from . import preprocessed, ray_tune
from .found import Description
from .identify import identify, zoo_of_file
from .import_job import ImportJob, file_facts
from .report import LeftOut, Report
from .write_model import write_model


def is_preprocessed(path: Path) -> bool:
    """Whether a path's name is that of a preprocessed data set."""
    return path.is_file() and path.suffix in (".pt", ".pth")


def import_preprocessed(job: ImportJob) -> list[Report]:
    """Import the states of a file with the splits that it holds.

    Raises:
        Unreadable: the file cannot be read, or no architecture of the catalog fits its states.
    """
    data = preprocessed.read_datasets(job.path)
    size = data.size()
    shapes = {z.layout.size: (z.architecture, z.channels, z.classes) for z in ZOOS.values()}
    if size not in shapes:
        raise Unreadable(f"its states have {size:,} weights, as no architecture of the catalog has")
    left_out, descriptions = list(data.left_out), {}
    for model_id, rows in data.rows.items():
        try:
            found = ray_tune.hyperparameters(data.params[model_id])
        except Unreadable as error:
            left_out += [LeftOut(data.names[model_id], row.epoch, str(error)) for row in rows]
            continue
        descriptions[model_id] = Description(shapes[size], found, data.experiment)
    if not descriptions:
        raise Unreadable(f"none of its models can be used, first: {min(left_out).reason}")
    name = job.name or zoo_of_file(job.path.name, shapes[size][0])
    experiment = data.experiment or job.path.stem
    zoo = identify(list(descriptions.values()), False, experiment, name)
    about = file_facts(job.path)
    directory = job.create(zoo, about)
    directory.add_splits(descriptions, {model: data.splits[model] for model in descriptions})
    outcomes = (
        write_model(
            directory,
            model_id,
            data.names[model_id],
            description,
            [row.epoch for row in data.rows[model_id]],
            data.states(model_id, zoo.layout, job.max_weight),
        )
        for model_id, description in descriptions.items()
    )
    expected = len(descriptions)
    return [job.report(directory, about, outcomes, expected, data.found, left_out, data.remarks)]
