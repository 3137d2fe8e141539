"""Names of the files in a repository.

README.md                                              the card
data/<zoo>/<split>-00000-of-00003.parquet              rows with all columns
data/<zoo>/<split>-<model_id>-00000-of-00005.parquet   the same, of one model (ResNet-18 zoos)
metrics/<zoo>-<split>.parquet                          the same rows without weights
layouts/<architecture>-<weights>.json                  where each tensor lies in a row's weights
sources/<zoo>.parquet                                  what the source of an import says besides
figures/<name>.png, .svg                               images that the card shows

A repository folder also has `.build/` and croissant.json, which are never published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from ..layout import Layout
from ..model_file import MODEL_ID
from ..splits import SPLITS

CARD = "README.md"
CROISSANT = "croissant.json"
"""The description of a folder for readers of Croissant; the Hub generates its own."""

BUILD_FOLDER = ".build"
"""State of the builds and publications of a repository folder."""

_ROWS = rf"(?P<zoo>[a-z0-9_]+){{}}(?P<split>{'|'.join(SPLITS)})"

DATA_FILE = re.compile(
    rf"data/{_ROWS.format('/')}(?:-(?P<model_id>{MODEL_ID.pattern}))?"
    r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet"
)
METRICS_FILE = re.compile(rf"metrics/{_ROWS.format('-')}\.parquet")
FIGURE = re.compile(r"figures/[\w.-]+\.(?:png|svg)")
FILES = (
    DATA_FILE,
    METRICS_FILE,
    FIGURE,
    re.compile(r"layouts/[\w.-]+\.json"),
    re.compile(r"sources/[a-z0-9_]+\.parquet"),
    re.compile(re.escape(CARD)),
)
"""The form of every file of a built repository."""

MAX_FAULTS = 100
"""Limit of the faults that are listed."""

_ANY_DATA_FILE = re.compile(r"data/(?P<zoo>[a-z0-9_]+)/.*\.parquet")


def data_file(zoo: str, split: str, number: int, count: int, model_id: str | None = None) -> str:
    """Return the name of file `number` of `count` with the rows of a split, or of one model."""
    model = "" if model_id is None else f"-{model_id}"
    return f"data/{zoo}/{split}{model}-{number:05d}-of-{count:05d}.parquet"


def metrics_file(zoo: str, split: str) -> str:
    """Return the name of the file with the rows of a split without weights."""
    return f"metrics/{zoo}-{split}.parquet"


def layout_file(layout: Layout) -> str:
    """Return the name of a layout's file, such as `layouts/cnn_s-2464.json`."""
    return f"layouts/{layout.architecture.file_name}-{layout.size}.json"


def source_file(zoo: str) -> str:
    """Return the name of the file with the columns of an import that no row has."""
    return f"sources/{zoo}.parquet"


def zoo_of(path: str) -> str | None:
    """Return the zoo whose rows a file holds; None for any other file."""
    match = _ANY_DATA_FILE.fullmatch(path) or METRICS_FILE.fullmatch(path)
    return match and match["zoo"]


def model_of(path: str) -> str | None:
    """Return the model that a file holds alone; None for a file of several models or no rows."""
    match = DATA_FILE.fullmatch(path)
    return match and match["model_id"]


def matches(pattern: re.Pattern[str], paths: Iterable[str]) -> Iterator[re.Match[str]]:
    """Yield the match of each name that has the form of a pattern, such as DATA_FILE."""
    return filter(None, map(pattern.fullmatch, paths))


def data_files(
    paths: Iterable[str],
) -> tuple[dict[tuple[str, str], set[str]], set[tuple[str, str]]]:
    """Return the splits of zoos that have files with weights.

    Args:
        paths: names of files in a repository; those with another form are ignored.

    Returns:
        (zoo, split) -> ids of the models that have files of their own (empty for a CNN zoo), and
        the set of splits that lack files or mix files of two builds.
    """
    found: dict[tuple[str, str], set[str]] = {}
    faulty = set()
    groups = _groups(paths)
    for (zoo, split, model), complete in groups.items():
        models = found.setdefault((zoo, split), set())
        if model is not None:
            models.add(model)
        if not complete or (model is not None and (zoo, split, None) in groups):
            faulty.add((zoo, split))
    return found, faulty


def whole_models(paths: Iterable[str], zoo: str) -> dict[str, str]:
    """Return the models of a zoo that have all their own files, in one split.

    Args:
        paths: names of all files in a repository.
        zoo: name of a zoo whose models have files of their own.

    Returns:
        model id -> split.
    """
    groups = {key[1:]: complete for key, complete in _groups(paths).items() if key[0] == zoo}
    splits = Counter(model for _, model in groups)
    return {
        model: split
        for (split, model), complete in groups.items()
        if model is not None and complete and splits[model] == 1
    }


def faults(paths: Iterable[str], zoo: str) -> list[str]:
    """Return what is wrong with the files of a zoo that are incomplete or from two builds.

    Args:
        paths: names of all files in a repository.
        zoo: name of the zoo.

    Returns:
        One phrase for each fault, at most `MAX_FAULTS`.
    """
    paths = [path for path in paths if zoo_of(path) == zoo]
    groups = _numbers(paths)
    found: list[str] = []
    for (_, split, model), parts in sorted(groups.items(), key=str):
        if len(found) < MAX_FAULTS and not _is_whole(parts):
            counts = sorted({count for _, count in parts})
            if len(counts) > 1:
                first, second = (data_file(zoo, split, 0, count, model) for count in counts[:2])
                found.append(f"{first} and {second} are of two builds")
            absent = (n for n in range(counts[0]) if (n, counts[0]) not in parts)
            names = [data_file(zoo, split, n, counts[0], model) for n in islice(absent, MAX_FAULTS)]
            found += [f"{name} is missing" for name in names]
        if model is not None and (zoo, split, None) in groups:
            found.append(f"{split} has files that models share beside files of the model {model}")
    with_weights = {split for _, split, _ in groups}
    for match in matches(METRICS_FILE, paths):
        if match["split"] not in with_weights:
            found.append(f"data/{zoo}/{match['split']}-*.parquet are missing")
    return found[:MAX_FAULTS]


def _groups(paths: Iterable[str]) -> dict[tuple[str, str, str | None], bool]:
    """Return (zoo, split, model or None) -> whether the names include all its data files."""
    return {key: _is_whole(parts) for key, parts in _numbers(paths).items()}


def _numbers(paths: Iterable[str]) -> dict[tuple[str, str, str | None], set[tuple[int, int]]]:
    """Return (zoo, split, model or None) -> number and count of each of its data files."""
    numbers: dict[tuple[str, str, str | None], set[tuple[int, int]]] = {}
    for match in matches(DATA_FILE, paths):
        key = (match["zoo"], match["split"], match["model_id"])
        numbers.setdefault(key, set()).add((int(match["number"]), int(match["count"])))
    return numbers


def _is_whole(parts: set[tuple[int, int]]) -> bool:
    return parts == {(number, len(parts)) for number in range(len(parts))}
