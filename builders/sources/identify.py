"""Identification: which zoo the trials of a source, or a preprocessed file, belong to.

A zoo of the catalog is recognised by the name of the run, of the file, or by the name that the
caller gives. For other trials a specification is made of what their params.json say.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ...errors import Unreadable
from ..architecture import ARCHITECTURES, find_architecture
from ..catalog import (
    TWIN_DOIS,
    TWIN_EPOCHS,
    UNKNOWN_IMAGES,
    ZOOS,
    config_names,
    twin_name,
    zoo_spec,
)
from ..hyperparameters import ACTIVATIONS, INITS, MOMENTUM_OPTIMIZERS, OPTIMIZERS, SCHEDULE_NUMBERS
from ..machine import counted
from ..specification import (
    GRID_KEYS,
    MAX_EPOCHS,
    RESERVED_NAMES,
    Zoo,
    is_zoo_name,
    normalize_name,
)
from .ray_tune import Description, Trial

_T = TypeVar("_T")

_IMAGES = {
    "f_mnist": "fashion_mnist",
    "fashion_mnist": "fashion_mnist",
    "fashionmnist": "fashion_mnist",
    "fmnist": "fashion_mnist",
    "mnist": "mnist",
    "svhn": "svhn",
    "usps": "usps",
    "cifar100": "cifar100",
    "cifar10": "cifar10",
    "cifar": "cifar10",
    "stl": "stl10",
    "tinyimagenet": "tiny_imagenet",
    "tiny_imagenet": "tiny_imagenet",
    "eurosat": "eurosat",
}
"""Part of a name in the paper's code -> image data set. The first part that occurs decides."""

_WORDS = {word: a.name for a in ARCHITECTURES.values() for word in a.file_words}
_VARIANTS = {"seed": "seed", "hyp_rand": "hyp_10_r", "hyp_fix": "hyp_10_f"}
_PREPROCESSED = re.compile(
    rf"dataset_(.+?)(?:_({'|'.join(filter(None, _WORDS))}))?_({'|'.join(_VARIANTS)})\.pth?",
    re.IGNORECASE,
)


def zoo_of_file(name: str, architecture: str | None = None) -> str | None:
    """Return the catalog's zoo that the name of a preprocessed file stands for, or None.

    Args:
        name: `dataset_cifar_small_hyp_rand.pt`.
        architecture: architecture of its models, None if it is not known. A word in the name counts
            more.
    """
    match = _PREPROCESSED.fullmatch(name)
    if match is None:
        return None
    word = (match[2] or "").lower()
    wanted = (
        _image_dataset(match[1]),
        _WORDS[word] if word else architecture or _WORDS[word],
        _VARIANTS[match[3].lower()],
    )
    return next(
        (z.name for z in ZOOS.values() if (z.image_dataset, z.architecture, z.variant) == wanted),
        None,
    )


def zoos_of_trials(
    trials: Sequence[Trial],
    described: dict[str, Description | str],
    stem: str,
    name: str | None,
) -> list[tuple[Zoo, list[Trial]]]:
    """Return the zoos of a source with their trials, dense zoos before twins.

    Trials of one run belong together, also those whose params.json cannot be read.

    Args:
        trials: all trials of the source, at least one.
        described: folder of each trial -> its description, or why there is none; trials of a run
            that can be no zoo get the reason, if another run can.
        stem: name of the source, for runs without a name.
        name: name of the zoo as the caller gives it; None to recognise it.

    Raises:
        Unreadable: no trial can be used, or the trials do not fit the name.
    """
    runs: dict[str, list[Trial]] = {}
    for trial in trials:
        runs.setdefault(trial.run, []).append(trial)
    groups: dict[tuple[bool, str], list[Trial]] = {}
    nameless: list[Trial] = []
    for run, members in runs.items():
        good = _usable(members, described)
        if not good:
            nameless += members
            continue
        twin = _most_frequent(d.twin for d in good)
        experiment = _run_name(good, twin) or run.rpartition("/")[2] or stem
        # Under a given name belong all runs, whatever they were called.
        groups.setdefault((twin, name or experiment), []).extend(members)
    if not groups:
        reason = next(str(described[t.folder]) for t in trials)
        raise Unreadable(f"none of its {len(trials)} trials can be used, first: {reason}")
    if name is not None and name.endswith("_sparse") and not any(twin for twin, _ in groups):
        raise Unreadable(f"its trials are no sparse twins, as the name {name!r} says")
    zoos: list[tuple[Zoo, list[Trial]]] = []
    errors: list[Unreadable] = []
    for (twin, experiment), members in sorted(groups.items()):
        try:
            zoos.append((identify(_usable(members, described), twin, experiment, name), members))
        except Unreadable as error:
            errors.append(error)
            nameless += members
            for trial in members:
                if isinstance(described[trial.folder], Description):
                    described[trial.folder] = str(error)
    if not zoos:
        raise errors[0]
    zoos[0][1].extend(nameless)
    for _, members in zoos:
        members.sort(key=lambda trial: trial.folder)
    return zoos


def _usable(
    trials: Iterable[Trial], described: Mapping[str, Description | str]
) -> list[Description]:
    return [d for t in trials if isinstance(d := described[t.folder], Description)]


def identify(
    descriptions: Sequence[Description], twin: bool, experiment: str, name: str | None
) -> Zoo:
    """Return the specification of a zoo: the catalog's, or one made of the descriptions.

    Args:
        descriptions: those of its models, at least one.
        twin: whether the models are sparse twins.
        experiment: name of the run.
        name: name of the zoo as the caller gives it; None to recognise it.

    Raises:
        Unreadable: the models are not those of the zoo of this name, or they say too little.
    """
    shape = _most_frequent(d.shape for d in descriptions)
    fitting = [z for z in ZOOS.values() if (z.architecture, z.channels, z.classes) == shape]
    wanted = name.removesuffix("_sparse") if name is not None else None
    if wanted is not None and wanted in config_names():
        dense = zoo_spec(wanted)
        if dense not in fitting:
            raise Unreadable(
                f"its trials are {shape[0]} with {shape[1]} channels and {shape[2]} classes, "
                f"not those of {dense.name}"
            )
        run = _run_name(descriptions, twin)
        if _image_dataset(run) not in (UNKNOWN_IMAGES, dense.image_dataset):
            raise Unreadable(
                f"its run is named {run!r}, which is not trained on {dense.image_dataset} "
                f"as {dense.name} is: give it another name",
                hint="--zoo NAME",
            )
    else:
        known = [z for z in fitting if name is None and z.experiment == experiment]
        dense = known[0] if known else _specify(descriptions, shape, experiment, wanted)
    if not twin:
        return dense
    epochs = max((d.hyperparameters["epochs"] or 1 for d in descriptions), default=TWIN_EPOCHS)
    return dataclasses.replace(
        dense,
        name=twin_name(dense.name),
        epochs=epochs,
        doi=TWIN_DOIS.get(dense.name),
        doi_preprocessed=None,
        published=dense.name in TWIN_DOIS,
        note=f"sparse twins of {dense.name}",
    )


def _specify(
    descriptions: Sequence[Description],
    shape: tuple[str, int, int],
    experiment: str,
    name: str | None,
) -> Zoo:
    """Make a specification of what the trials' params.json say."""
    architecture, channels, classes = shape
    models = [d.hyperparameters for d in descriptions if d.shape == shape]
    grid = {key: sorted({m[key] for m in models if m[key] is not None}) for key in GRID_KEYS}
    if missing := [key for key, values in grid.items() if not values]:
        raise Unreadable(
            f"does not say the {', '.join(missing)} of its models: give it the name of the "
            "catalog's zoo that it is",
            hint="--zoo NAME",
        )
    seeds: dict[tuple[Any, ...], set[Any]] = {}
    for model in models:
        seeds.setdefault(tuple(model[key] for key in GRID_KEYS), set()).add(model["seed"])
    fixed = all(found == set(range(1, len(found) + 1)) for found in seeds.values())
    single = all(len(values) == 1 for values in grid.values())
    momenta = [model["momentum"] for model in models if model["momentum"] is not None]
    needs_momentum = any(optimizer in MOMENTUM_OPTIMIZERS for optimizer in grid["optimizer"])
    # With a name of the user's own, the run still says which images it was trained on.
    run = _most_frequent(d.parent_experiment if d.twin else d.experiment for d in descriptions)
    image_dataset = _image_dataset(run or experiment)
    trained_on = (image_dataset, architecture)
    images = {z.images for z in ZOOS.values() if (z.image_dataset, z.architecture) == trained_on}
    name = name or re.sub(r"[^a-z0-9]+", "_", normalize_name(experiment)).strip("_")[:100]
    if name in config_names() or name in RESERVED_NAMES or not is_zoo_name(name):
        raise Unreadable(
            f"its run is called {experiment!r:.100}: give the zoo a name", hint="--zoo NAME"
        )
    try:
        return Zoo.from_json(
            {
                "name": name,
                "image_dataset": image_dataset,
                "images": min(images, default=image_dataset),
                "architecture": architecture,
                "variant": "seed" if single else "hyp_10_f" if fixed else "hyp_10_r",
                "channels": channels,
                "classes": classes,
                "grid": grid,
                "seeds": max(map(len, seeds.values())),
                "random_seeds": not fixed,
                "epochs": max(
                    (m["epochs"] for m in models if 1 <= (m["epochs"] or 0) <= MAX_EPOCHS),
                    default=1,
                ),
                "batch_size": _most_frequent(model["batch_size"] or 1 for model in models),
                "momentum": _most_frequent(momenta) if momenta else 0.0 if needs_momentum else None,
                "scheduler": find_architecture(architecture).scheduler,
                "experiment": run or None,
                "note": "imported; grid and seeds are those found in the models' params.json",
            }
        )
    except ValueError as error:
        raise Unreadable(f"its models are none that a zoo can have: {error}") from None


def specify_drawn(models: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> Zoo:
    """Return the specification of a zoo whose hyperparameters form no grid.

    Its grid has the most frequent value of each: each row says what its model has.

    Args:
        models: hyperparameters of each model, under the names of the rows; None where not known.
        fields: further fields of the zoo, which count more than those made here.
    """

    def usual(key: str, good: Callable[[Any], bool], default: object) -> object:
        counts = Counter(model.get(key) for model in models if good(model.get(key)))
        return counts.most_common(1)[0][0] if counts else default

    def median(key: str, default: float) -> float:
        found = [model[key] for model in models if model.get(key) is not None]
        return float(np.median(found)) if found else default

    optimizer = str(usual("optimizer", OPTIMIZERS.__contains__, "adam"))
    momentum = 0.9 if OPTIMIZERS[optimizer].momentum == "above 0" else 0.0
    grid = {
        "activation": [usual("activation", ACTIVATIONS.__contains__, "relu")],
        "init": [usual("init", INITS.__contains__, "normal")],
        "dropout": [usual("dropout", _is_share, 0.0)],
        "optimizer": [optimizer],
        "learning_rate": [median("learning_rate", 1e-3)],
        "weight_decay": [median("weight_decay", 0.0)],
    }
    single = all(len({model.get(key) for model in models}) == 1 for key in GRID_KEYS)
    return Zoo.from_json(
        {
            "variant": "seed" if single else "random",
            "seeds": min(len(models), 100_000),
            "random_seeds": True,
            "batch_size": usual("batch_size", lambda value: value is not None, 10),
            "momentum": usual("momentum", _is_share, momentum),
            "scheduler": usual("scheduler", (None, *SCHEDULE_NUMBERS).__contains__, None),
            **fields,
            "grid": {**grid, **fields.get("grid", {})},
        }
    )


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 <= value < 1


def misfit(description: Description, zoo: Zoo) -> str | None:
    """Return why a trial is not a model of a zoo, or None."""
    expected = (zoo.architecture, zoo.channels, zoo.classes, zoo.name.endswith("_sparse"))
    found = (*description.shape, description.twin)
    if found != expected:
        return f"wrong shape: params.json says {_told(*found)}; the zoo has {_told(*expected)}"
    return None


def _told(architecture: str, channels: int, classes: int, twin: bool) -> str:
    kind = "sparse twins" if twin else "dense"
    return f"{architecture}, {counted(channels, 'channel')}, {classes} classes, {kind}"


def in_grid(description: Description, zoo: Zoo) -> bool:
    """Whether the hyperparameters that are known lie in the grid of a zoo."""
    found = description.hyperparameters
    return all(found[key] is None or found[key] in values for key, values in zoo.grid)


def _run_name(descriptions: Sequence[Description], twin: bool) -> str:
    return _most_frequent(d.parent_experiment if twin else d.experiment for d in descriptions)


def _image_dataset(experiment: str) -> str:
    plain = normalize_name(experiment)
    return next((images for part, images in _IMAGES.items() if part in plain), UNKNOWN_IMAGES)


def _most_frequent(values: Iterable[_T]) -> _T:
    """Return the most frequent value; among equally frequent ones, the first in their order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], str(value)))
