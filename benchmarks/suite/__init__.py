"""The benchmark suite: a fixed protocol that measures how useful a zoo is, and compares results.

    result = run_suite("digits_cnn_s", "zoos")
    for table in result.tables(): ...
    compare(result, read_result(Path("other-suite.json")))

The modules are

    prediction      numbers of a model from its weights, in a zoo and across zoos; its predictors
    set_network     a network that reads weights as sets of units
    ties            the highest tau where the truth has ties
    sampling        new weights from the good models of a zoo
    novelty         their accuracy against their novelty
    tuning          the epochs that they save
    zoo             the zoo that is measured
    result          the numbers, their tables and their file
    comparison      two results side by side
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ...builders.names import normalize_name
from ...builders.splits import SPLITS
from ...errors import InvalidArgument, ModelZoosError
from ..states import fingerprint
from ..versions import versions
from .comparison import Comparison, compare
from .novelty import generation
from .prediction import Say, generalisation, property_prediction
from .result import PROTOCOL, Measure, Part, SuiteResult, read_result
from .tuning import fine_tuning
from .zoo import OpenZoo, Settings, open_zoo

__all__ = [
    "PARTS",
    "PROTOCOL",
    "Comparison",
    "Measure",
    "Part",
    "Settings",
    "SuiteResult",
    "compare",
    "read_result",
    "run_suite",
]

PARTS: Mapping[str, Callable[[OpenZoo, Sequence[OpenZoo], Say], Part]] = {
    "prediction": lambda zoo, others, say: property_prediction(zoo, say),
    "generalisation": generalisation,
    "generation": lambda zoo, others, say: generation(zoo, say),
    "fine-tuning": lambda zoo, others, say: fine_tuning(zoo, say),
}
"""The parts: functions of the zoo, of the zoos to test against, and of a callback for the name of
the next step. A part that cannot be measured raises a `ModelZoosError` that says why."""


def run_suite(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    against: Sequence[str] = (),
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    settings: Settings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> SuiteResult:
    """Measure a zoo by the suite. If a part cannot be measured, the reason is recorded.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        parts: keys of `PARTS`.
        against: other zoos of the same layout, for generalisation, without repetition.
        images_dir, download: see `model_zoos.load_images`. Without the images, generation and
            fine-tuning are not obtained.
        settings: seed and sizes. Results with other settings than the default ones cannot be
            compared with those of the default; a comparison reports it.
        on_progress: called with the next step, the number of parts done, and of all parts.

    Raises:
        ZooNotFound: a zoo is not there.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: unknown parts, `metrics`, or a zoo against itself.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise InvalidArgument(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    settings = settings or Settings()
    name, *against = map(normalize_name, (name, *against))
    if name in against:
        raise InvalidArgument(f"{name} cannot be tested against itself: name another zoo")
    zoo, *others = (
        open_zoo(one, data_dir, images_dir, download, settings)
        for one in dict.fromkeys((name, *against))
    )
    done: list[Part] = []
    for part in dict.fromkeys(parts):

        def say(step: str, part: str = part) -> None:
            if on_progress is not None:
                on_progress(f"{part}: {step}", len(done), len(parts))

        say("starting")
        began = time.perf_counter()
        try:
            found = PARTS[part](zoo, others, say)
        except ModelZoosError as error:
            found = Part(part, "", not_obtained={"all of it": str(error)})
        done.append(dataclasses.replace(found, seconds=time.perf_counter() - began))
    states = zoo.states
    of_split = {split: states["split"] == split for split in SPLITS}
    return SuiteResult(
        protocol=PROTOCOL,
        zoo=zoo.name,
        models={s: len(set(states.model[rows].tolist())) for s, rows in of_split.items()},
        states={s: int(rows.sum()) for s, rows in of_split.items()},
        digest=fingerprint(states),
        settings=dataclasses.asdict(settings),
        versions=versions(),
        parts=done,
    )
