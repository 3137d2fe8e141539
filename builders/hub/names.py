"""Names of the files in a repository.

data/<zoo>/<split>-00000-of-00003.parquet              all columns
data/<zoo>/<split>-<model_id>-00000-of-00005.parquet   the same, one model (ResNet-18 zoos)
metrics/<zoo>-<split>.parquet                          the same rows without weights
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..model_file import MODEL_ID
from ..splits import SPLITS

_OF = rf"(?P<zoo>[a-z0-9_]+){{}}(?P<split>{'|'.join(SPLITS)})"

DATA_FILE = re.compile(
    rf"data/{_OF.format('/')}(?:-(?P<model_id>{MODEL_ID.pattern}))?"
    r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet"
)

METRICS_FILE = re.compile(rf"metrics/{_OF.format('-')}\.parquet")


def data_file(zoo: str, split: str, number: int, count: int, model_id: str | None = None) -> str:
    """Name of a file of `DATA_FILE`: the rows of a split, or of one of its models, in `count`."""
    model = "" if model_id is None else f"-{model_id}"
    return f"data/{zoo}/{split}{model}-{number:05d}-of-{count:05d}.parquet"


def metrics_file(zoo: str, split: str) -> str:
    """Name of a file of `METRICS_FILE`."""
    return f"metrics/{zoo}-{split}.parquet"


def data_files(
    paths: Iterable[str],
) -> tuple[dict[tuple[str, str], set[str]], set[tuple[str, str]]]:
    """Which splits of zoos have files with weights.

    Args:
        paths: names of files in a repository; others are passed over.

    Returns:
        (zoo, split) -> the ids of the models that have files of their own (none of a CNN zoo), and
        those of these splits that lack files, or hold files of two builds.
    """
    numbers: dict[tuple[str, str, str | None], set[tuple[int, int]]] = {}
    for match in filter(None, map(DATA_FILE.fullmatch, paths)):
        key = (match["zoo"], match["split"], match["model_id"])
        numbers.setdefault(key, set()).add((int(match["number"]), int(match["count"])))
    found: dict[tuple[str, str], set[str]] = {}
    faulty = set()
    for (zoo, split, model), parts in numbers.items():
        found.setdefault((zoo, split), set()).update({model} - {None})
        if parts != {(number, len(parts)) for number in range(len(parts))}:
            faulty.add((zoo, split))
        if model is not None and (zoo, split, None) in numbers:
            faulty.add((zoo, split))
    return found, faulty


def whole_models(paths: Iterable[str], zoo: str) -> dict[str, str]:
    """The models of a zoo that have files of their own, all of them and in one split -> the split.

    Args:
        paths: names of all files in a repository.
        zoo: a ResNet-18 zoo.
    """
    files: dict[str, list[str]] = {}
    for match in filter(None, map(DATA_FILE.fullmatch, paths)):
        if match["zoo"] == zoo and match["model_id"] is not None:
            files.setdefault(match["model_id"], []).append(match.string)
    whole = {}
    for model, own in files.items():
        found, lacking = data_files(own)
        if len(found) == 1 and not lacking:
            [(_, whole[model])] = found
    return whole
