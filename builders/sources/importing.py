"""Import the original files of a zoo into zoo directories, with a report on every state.

    >>> [report] = import_zoo("tune_zoo_mnist_uniform.zip", "zoos")
    >>> report.found == report.kept + len(report.left_out)
    True

A model is written once all its states have been read. A model that already has every state of the
source is skipped, so that an interrupted import can be resumed. The same source always gives the
same bytes. Large imports use several processes.

A new source format is one more entry of `FORMS`, before the last. Checkpoints with a table, which
the caller names, are imported by import_table.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidArgument, SourceNotFound, Unreadable
from ..names import is_zoo_name, normalize_name, refuse_reserved, refuse_twin_name
from .import_job import ImportJob
from .import_preprocessed import import_preprocessed, is_preprocessed
from .import_small_cnn import import_small_cnn_zoo, import_tarball
from .import_table import import_table, table_options
from .import_trials import import_trials
from .own import refuse_zoo_directory
from .report import Report
from .small_cnn_zoo import is_small_cnn_zoo
from .tarball import is_tarball


@dataclass(frozen=True)
class Form:
    """A source format that needs no table.

    Attributes:
        fits: whether an existing path is a source of this format.
        run: imports it.
        has_splits: whether the splits of its models can be given as a file.
    """

    fits: Callable[[Path], bool]
    run: Callable[[ImportJob], list[Report]]
    has_splits: bool = False


FORMS: Sequence[Form] = (
    Form(is_tarball, import_tarball, has_splits=True),
    Form(is_small_cnn_zoo, import_small_cnn_zoo, has_splits=True),
    Form(is_preprocessed, import_preprocessed),
    Form(Path.exists, import_trials),
)
"""The first format that fits is used; the last one raises the error that says what was expected."""


def import_zoo(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    name: str | None = None,
    *,
    table: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    images: str | None = None,
    rename: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    licence: str | None = None,
    cite: str | None = None,
    splits: str | os.PathLike[str] | None = None,
    max_weight: float | None = None,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Report]:
    """Turn the original files of a zoo into zoo directories. Call it again to resume an import.

    Args:
        source: path of a zip of trial folders, of a folder that holds trials at any depth, of a
            preprocessed `dataset_*.pt`, or of a folder or a .tar.xz of the Small CNN Zoo; with
            `table`, of a folder of checkpoints.
        root: folder of all zoos.
        name: name of the zoo; None to recognise it. Sparse twins get the name `<name>_sparse`.
        table: path of a table of the checkpoints (run_table.py); if there is no such file, it is
            searched for in the source.
        architecture: name or text of the network, which a table needs.
        images: key of the images on which the models of a table were trained, such as "digits".
        rename: name of a column in the table -> name of our column.
        constants: hyperparameters that all models of a table share: {"activation": "relu"}.
        licence, cite: of the checkpoints, for zoo.json and the card of a repository.
        splits: path of a file with the splits of the models (given_splits.py), for the Small CNN
            Zoo and for checkpoints with a table; None to assign them.
        max_weight: largest |w| of a state that is kept (5 in the paper's data sets); None for no
            limit.
        workers: number of processes; None for one, or one per core if the import is large.
        on_progress: called with the zoo's name, the number of finished models, and their total.

    Returns:
        The report on each zoo of the source, as in its import_report.json.

    Raises:
        FileNotFoundError: there is no such source.
        InvalidArgument: an argument cannot be used.
        Unreadable: the source cannot be read at all, or does not hold the named zoo or any zoo.
        FaultyZoo: the directory holds a zoo that was made in another way.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise SourceNotFound(
            f"{path}: there is no such file or folder",
            hint="`model-zoos download NAME` fetches one",
        )
    if name is not None:
        name = normalize_name(name)
        if not is_zoo_name(name):
            raise InvalidArgument(
                f"a zoo's name consists of small letters, digits and underscores, found {name!r}"
            )
        refuse_reserved(name)
    if max_weight is not None and not 0 < max_weight < math.inf:
        raise InvalidArgument(f"the largest weight must be a number above 0, found {max_weight}")
    if workers is not None and workers < 1:
        raise InvalidArgument(f"the number of workers must be at least 1, found {workers}")
    facts = {"cite": cite, "licence": licence}
    options = table_options(
        path,
        table,
        architecture=architecture,
        images=images,
        rename=rename,
        constants=constants,
        facts=facts,
    )
    job = ImportJob(
        path,
        Path(root).expanduser(),
        name,
        max_weight,
        workers,
        on_progress,
        Path(splits) if splits is not None else None,
    )
    try:
        if options is not None:
            if name is not None and not (job.root / name / "zoo.json").exists():
                refuse_twin_name(name)
            return [import_table(job, options)]
        refuse_zoo_directory(path)
        form = next(form for form in FORMS if form.fits(path))
        if job.splits is not None and not form.has_splits:
            raise InvalidArgument(
                f"{path}: splits can be given for the Small CNN Zoo and for checkpoints with a "
                "table alone, leave them out"
            )
        return form.run(job)
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}", hint=error.hint) from None
