"""Recognise which zoo the trials or the file of a source belong to."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import Unreadable
from ..architecture import find_architecture
from ..catalog import TWIN_DOIS, TWIN_EPOCHS, ZOOS, config_names, get_zoo, twin_name
from ..specification import Zoo, is_zoo_name, normalize_name, zoo_from_json
from . import preprocessed
from .ray_tune import Description, Trial


def _zoos_of(
    trials: Sequence[Trial],
    described: Mapping[str, Description | str],
    stem: str,
    name: str | None,
) -> list[tuple[Zoo, list[Trial]]]:
    """The zoos of a source with their trials, dense ones before twins.

    Trials of one run belong together, also those whose params.json cannot be read.
    """
    runs: dict[str, list[Trial]] = {}
    for trial in trials:
        runs.setdefault(trial.run, []).append(trial)
    groups: dict[tuple[bool, str], list[Trial]] = {}
    nameless: list[Trial] = []
    for run, members in runs.items():
        good = [d for t in members if isinstance(d := described[t.folder], Description)]
        if not good:
            nameless += members
            continue
        twin = _most([d.twin for d in good])
        experiment = _most([d.parent_experiment if twin else d.experiment for d in good])
        groups.setdefault((twin, experiment or run.rpartition("/")[2] or stem), []).extend(members)
    if not groups:
        reason = next(str(described[t.folder]) for t in trials)
        raise Unreadable(f"none of its {len(trials)} trials can be used, first: {reason}")
    if name is not None:  # all of them, whatever their runs were called
        joined: dict[tuple[bool, str], list[Trial]] = {}
        for (twin, _), members in groups.items():
            joined.setdefault((twin, name), []).extend(members)
        groups = joined
        if name.endswith("_sparse") and not any(twin for twin, _ in groups):
            raise Unreadable(f"its trials are no sparse twins, as the name {name!r} says")
    groups[min(groups)].extend(nameless)
    found = []
    for (twin, experiment), members in sorted(groups.items()):
        good = [d for t in members if isinstance(d := described[t.folder], Description)]
        found.append((_zoo(good, twin, experiment, name), sorted(members, key=lambda t: t.folder)))
    return found


def _zoo(descriptions: list[Description], twin: bool, experiment: str, name: str | None) -> Zoo:
    """The specification: the catalog's where the name is known, else made from what was found."""
    shape = _most([(d.architecture, d.channels, d.classes) for d in descriptions])
    fitting = [z for z in ZOOS.values() if (z.architecture, z.channels, z.classes) == shape]
    dense_name = name.removesuffix("_sparse") if name is not None else None
    if dense_name in config_names():
        dense = get_zoo(str(dense_name))
        if dense not in fitting:
            raise Unreadable(
                f"its trials are {shape[0]} with {shape[1]} channels and {shape[2]} classes, "
                f"not those of {dense.name}"
            )
        run = _most([d.parent_experiment if twin else d.experiment for d in descriptions])
        if _image_dataset(run) not in ("unknown", dense.image_dataset):
            raise Unreadable(
                f"its run is named {run!r}, which is not trained on {dense.image_dataset} "
                f"as {dense.name} is: give it another name with --zoo"
            )
    else:
        known = [z for z in fitting if name is None and z.experiment == experiment]
        dense = known[0] if known else _made(descriptions, shape, experiment, dense_name)
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


def _made(
    descriptions: list[Description], shape: tuple[str, int, int], experiment: str, name: str | None
) -> Zoo:
    """A specification from what the trials' params.json say."""
    architecture, channels, classes = shape
    fitting = [
        d.hyperparameters for d in descriptions if (d.architecture, d.channels, d.classes) == shape
    ]
    grid_keys = ("activation", "init", "dropout", "optimizer", "learning_rate", "weight_decay")
    grid = {key: sorted({h[key] for h in fitting if h[key] is not None}) for key in grid_keys}
    if missing := [key for key, values in grid.items() if not values]:
        raise Unreadable(
            f"does not say the {', '.join(missing)} of its models: name the catalog's zoo that it "
            "is with --zoo"
        )
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for h in fitting:
        seeds.setdefault(tuple(h[key] for key in grid_keys), set()).add(h["seed"])
    fixed = all(found == set(range(1, len(found) + 1)) for found in seeds.values())
    single = all(len(values) == 1 for values in grid.values())
    momenta = [h["momentum"] for h in fitting if h["momentum"] is not None]
    # With a name of the user's own, the run still says which images it saw.
    run = _most([d.parent_experiment if d.twin else d.experiment for d in descriptions])
    image_dataset = _image_dataset(run or experiment)
    images = {
        zoo.images
        for zoo in ZOOS.values()
        if (zoo.image_dataset, zoo.architecture) == (image_dataset, architecture)
    }
    name = name or re.sub(r"[^a-z0-9]+", "_", normalize_name(experiment)).strip("_")[:100]
    if name in config_names() or not is_zoo_name(name):
        raise Unreadable(f"its run is called {experiment!r:.100}: give the zoo a name with --zoo")
    return zoo_from_json(
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
            "epochs": max((h["epochs"] or 1 for h in fitting), default=1),
            "batch_size": _most([h["batch_size"] or 1 for h in fitting]),
            "momentum": _most(momenta) if momenta else 0.0 if "sgd" in grid["optimizer"] else None,
            "scheduler": find_architecture(architecture).schedulers[0],
            "experiment": run or None,
            "note": "imported; grid and seeds are those found in the models' params.json",
        }
    )


def _misfit(description: Description | str, zoo: Zoo) -> str | None:
    """Why a trial is no model of its zoo."""
    if isinstance(description, str):
        return description
    twin = zoo.name.endswith("_sparse")
    expected = (zoo.architecture, zoo.channels, zoo.classes, twin)
    found = (description.architecture, description.channels, description.classes, description.twin)
    if found != expected:
        return f"wrong shape: params.json says {found}, the zoo has {expected}"
    return None


IMAGES = {  # by what the original's experiments are called
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


def _in_grid(description: Description, zoo: Zoo) -> bool:
    found = description.hyperparameters
    return all(found[key] is None or found[key] in values for key, values in zoo.grid)


def _image_dataset(experiment: str) -> str:
    plain = normalize_name(experiment)
    return next((images for part, images in IMAGES.items() if part in plain), "unknown")


def _most(values: Sequence[Any]) -> Any:
    """The most frequent value, the smallest of several."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], str(value)))


def zoo_of_file(name: str, architecture: str | None = None) -> str | None:
    """The catalog's zoo that a preprocessed file's name stands for, or None.

    Args:
        name: of the file.
        architecture: of its models, where that is known.
    """
    said = preprocessed.file_zoo(name, IMAGES)
    if said is None:
        return None
    image_dataset, said_architecture, variant = said
    wanted = said_architecture or architecture or "cnn_s"
    for zoo in ZOOS.values():
        if (zoo.image_dataset, zoo.architecture, zoo.variant) == (image_dataset, wanted, variant):
            return zoo.name
    return None
