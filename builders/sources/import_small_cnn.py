"""Import of the Small CNN Zoo: several processes import its models in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import InvalidArgument
from ..catalog import ELSEWHERE
from ..machine import cores
from ..model_file import Encoded, encode_model
from . import small_cnn_zoo
from .found import Description
from .given_splits import splits_of_file
from .import_job import ImportJob, Outcome
from .processes import BYTES_FOR_PROCESSES, Part, in_parts, started
from .report import Report
from .small_cnn_files import FILES
from .tarball import unpacked
from .write_model import write_model

_Part = Part[small_cnn_zoo.SmallCnnZoo]

CHUNK = 200
"""Number of models of the Small CNN Zoo that a process imports at a time."""

_MOST_READERS = 4
"""Maximum of processes started by default; each takes 150 MB."""


def import_tarball(job: ImportJob) -> list[Report]:
    """Import a Small CNN Zoo from an archive, which is unpacked into a temporary folder.

    Raises:
        Unreadable: the archive cannot be read or lacks a file; see also `import_small_cnn_zoo`.
    """
    with unpacked(job.path, FILES, job.root) as folder:
        return [_import_folder(job, folder)]


def import_small_cnn_zoo(job: ImportJob) -> list[Report]:
    """Import a Small CNN Zoo from the folder of its files.

    Raises:
        Unreadable: a file is malformed, or the files contradict each other.
    """
    return [_import_folder(job, job.path)]


def _import_folder(job: ImportJob, folder: Path) -> Report:
    size = (folder / "weights.npy").stat().st_size
    large = size > BYTES_FOR_PROCESSES
    workers = job.workers or (min(cores(), _MOST_READERS) if large else 1)
    with started(_import_part, workers) as run:  # while this process reads the table
        return _import_models(job, folder, run)


def _import_models(
    job: ImportJob, folder: Path, run: Callable[[Iterable[_Part]], Iterator[Outcome]]
) -> Report:
    data = small_cnn_zoo.read_small_cnn_zoo(folder)
    digest = hashlib.sha256()
    for name in ("metrics.csv.gz", "layout.csv"):
        digest.update((folder / name).read_bytes())
    given, facts, remarks = splits_of_file(job.splits, data.names, data.finals)
    digest.update("".join(facts.values()).encode())
    remarks += data.remarks
    about = {
        "file": job.path.resolve().name,
        "bytes": sum((folder / name).stat().st_size for name in FILES),
        "sha256": digest.hexdigest(),
        "form": small_cnn_zoo.FORM,
        **facts,
    }
    zoo = small_cnn_zoo.specify(data, job.name)
    published = ELSEWHERE.get(f"{zoo.image_dataset}_small_cnn")
    if published is not None:
        about |= {key: getattr(published, key) for key in ("title", "url", "cite", "licence")}
    directory = job.create(zoo, about)
    small_cnn_zoo.write_source_columns(data, directory.path)
    directory.add_splits(data.models, given)
    found = sum(map(data.count, data.models)) + len(data.left_out)
    begun = {path.stem for path in directory.files()}
    parts = in_parts(directory, data, CHUNK, job.max_weight, begun)
    return job.report(directory, about, run(parts), len(data.models), found, data.left_out, remarks)


def _import_part(part: _Part) -> Outcome:
    with part.data.opened() as opened:
        # First the headers of all models, then the weights: if they alternated, the weights would
        # evict the header code from the processor's cache.
        files = [_new_files(part, model_id, opened) for model_id in part.data.models]
        outcomes = [
            _import_model(part, model_id, opened, found)
            for model_id, found in zip(part.data.models, files, strict=True)
        ]
    return Outcome.of_all(outcomes)


def _new_files(part: _Part, model_id: str, opened: small_cnn_zoo.OpenWeights) -> list[Encoded]:
    """Return the files of a new model, with `opened.memory` in place of its weights.

    The weights of one model must be read and written before those of the next are read.

    Returns:
        The files; [] if the model has a file already, or cannot be written.
    """
    data, directory = part.data, part.directory
    if model_id in part.begun:
        return []
    rows, name = data.models[model_id], data.names[model_id]
    with suppress(InvalidArgument):  # write_model reports it
        files = encode_model(
            directory.zoo,
            model_id,
            data.hyperparameters[model_id],
            data.epochs[rows],
            opened.memory(model_id),
            {metric: column[rows] for metric, column in data.metrics.items()},
            original_name=name if name != model_id else None,
        )
        return list(files)
    return []


def _import_model(
    part: _Part,
    model_id: str,
    opened: small_cnn_zoo.OpenWeights,
    files: list[Encoded],
) -> Outcome:
    data, directory, zoo = part.data, part.directory, part.directory.zoo
    epochs = data.epochs[data.models[model_id]].tolist()
    # Nearly every model is new and complete: importing it state by state would take twice as long.
    if files and not any(opened.read(model_id, part.max_weight)):
        for file in files:
            directory.write_file(model_id, file)
        return Outcome([len(epochs)], [], [])
    shape = (zoo.architecture, zoo.channels, zoo.classes)
    description = Description(shape, data.hyperparameters[model_id], data.dataset)
    states = data.states(model_id, part.max_weight)
    return write_model(directory, model_id, data.names[model_id], description, epochs, states)
