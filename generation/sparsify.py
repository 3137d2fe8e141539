"""Sparse twins: the sparsified counterpart of every model of a CNN zoo, linked to its parent.

Two methods:

- *variational*: variational dropout as the original made its twins (def_net_distillation.py,
  def_NN_experiment_distillation.py, train_mnist_sparse_vd.py); formulas and what the original
  departs from are in builders/variational_dropout.py. A twin starts from the weights of its
  parent's last epoch with log_sigma2 = -10 and a fresh optimizer, and is trained for 25 epochs with
  its parent's hyperparameters; one optimizer has both, so that Adam's weight decay pulls log_sigma2
  towards 0 as it does weights. Epoch 0 is the parent, pruned already where a weight is nearly 0.
- *magnitude*, for comparison: the share of weights (not biases) that are smallest in magnitude,
  over all layers of the network together, is set to 0 and stays 0 while the others are trained on
  (Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015). Epoch 0
  is the pruned parent before the first step. A parent has a twin for each level of sparsity.

Where the original is inconsistent it is followed: all twins have one seed, that of the zoo's first
model (its script takes the settings of the first trial for all), so that they see the images in one
order; `seed="parent"` gives each its parent's. Dropout models and CNN-l, which the original's code
cannot load, are trained as the others.

Losses of our twins are cross entropies alone, comparable with those of their parents and repeated
by `instantiate(row)`. Losses of imported twins hold the divergence too, as the original recorded
them. train_loss and train_acc of epoch 1 on are running means in training mode, with noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..builders.catalog import TWIN_EPOCHS, twin_name
from ..builders.layout import Layout
from ..builders.model_file import ModelFile
from ..builders.specification import Model, Zoo
from ..builders.variational_dropout import LOG_SIGMA2_START, kl_weight, sparsity, weight_entries
from ..builders.zoo_directory import ZooDirectory
from .engines import reference
from .engines.registry import check_training, choose_engine
from .generate import check_images, run
from .images import IMAGE_SOURCES, ImageData
from .job import (
    STREAMS,
    Job,
    Outcome,
    Population,
    Progress,
    Summary,
    begin,
    engine_arguments,
    population_class,
)

METHODS = ("variational", "magnitude")
LEVELS = (0.5, 0.8, 0.9)
"""Shares of pruned weights that magnitude pruning gives its twins by default."""


@dataclass(frozen=True)
class Twin(Model):
    """The specification of a sparse twin: its parent's, with its own seed and epochs.

    Attributes:
        parent: the parent's model id.
        level: share of weights that magnitude pruning prunes; None for variational dropout.
    """

    parent: str
    level: float | None = None

    @cached_property
    def model_id(self) -> str:
        """The parent's id, `_sparse`, and the level if there is one."""
        suffix = "_sparse" if self.level is None else f"_sparse_{self.level:g}"
        if len(self.parent) + len(suffix) > 200:  # more than a model id can have
            return hashlib.sha256(self.parent.encode()).hexdigest()[:12] + suffix
        return self.parent + suffix

    def hyperparameters(self) -> dict[str, Any]:
        """As a row of the data set names them; the epochs and the seed are the twin's."""
        values = super().hyperparameters()
        del values["parent"], values["level"]
        return values


def sparsify(
    parents: ZooDirectory,
    root: str | os.PathLike[str],
    images: ImageData,
    *,
    models: int | None = None,
    method: str = "variational",
    levels: Sequence[float] = LEVELS,
    epochs: int = TWIN_EPOCHS,
    seed: int | str = "first",
    engine: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train the twins of a zoo, or of its first `models`, into `<root>/<zoo>_sparse/`.

    Those of magnitude pruning go to `<zoo>_sparse_magnitude`. Every twin lies in the split of its
    parent. A parent that cannot have a twin (it diverged, is unfinished, unreadable, or does not
    say how it was trained) is left out and named in the summary.

    Args:
        parents: the dense zoo, generated or imported.
        root: folder of all zoos.
        images: that the parents were trained on.
        models: how many parents; None for all. The first n are those of the zoo's grid.
        method: one of `METHODS`.
        levels: shares of weights that magnitude pruning prunes, each in (0, 1).
        epochs: of every twin.
        seed: of all twins: a number, or "first" for that of the zoo's first model as the original
            has it; or "parent": each twin has its parent's.
        engine, threads, device, on_progress: as in population.generate. Magnitude pruning has no
            lanes.

    Raises:
        ValueError: a zoo of ResNet-18, an unknown method or engine, a level, seed or number out of
            range, images on which the parents were not trained, or no parent that could have twins.
        FaultyZoo: the folder holds a zoo of this name that was made otherwise.
        TrainingFailed: a worker was killed or could not write.
    """
    check_request(parents, models, method, levels, epochs, seed, engine, threads, device)
    zoo = twin_zoo(parents.zoo, method, epochs)
    _compare_images(parents, images)
    check_images(zoo, images)
    engine, device = choose_engine(zoo, root, engine, device, lanes=method == "variational")
    seeds = parents.zoo.models(1)[0].seed if seed == "first" else seed
    good, left_out = usable_parents(parents, models)
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*left_out.items()][:3])
        raise ValueError(f"{parents.path} has no model that could have a twin ({reasons})")
    twins = [
        _twin(states, zoo, states.hyperparameters["seed"] if seeds == "parent" else seeds, level)
        for level in (map(float, levels) if method == "magnitude" else [None])
        for states in good
    ]
    directory = begin(
        root,
        zoo,
        engine,
        images,
        parent=parents.zoo.name,
        sparsification={"method": method, "seed": seeds},
    )
    splits = parents.splits()
    directory.add_splits(
        (twin.model_id for twin in twins),
        given={twin.model_id: splits[twin.parent] for twin in twins if twin.parent in splits},
    )
    kind = _VariationalTwins if method == "variational" else _MagnitudeTwins
    job = kind(directory, images, parents)
    summary = run(job, twins, engine, threads, device, on_progress)
    return dataclasses.replace(summary, left_out=left_out)


def check_request(
    parents: ZooDirectory,
    models: int | None,
    method: str,
    levels: Sequence[float],
    epochs: int,
    seed: int | str,
    engine: str,
    threads: int | None,
    device: str | None,
) -> None:
    """What is wrong with the arguments of `sparsify`, as far as it shows without images.

    Raises:
        ValueError: as `sparsify`.
    """
    check_zoo(parents.zoo)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if method == "magnitude":
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"sparsity must lie between 0 and 1, found {list(levels)}")
        if engine == "lanes":
            raise ValueError("the lane kernel has no magnitude pruning: use batched or reference")
    if epochs < 1:
        raise ValueError(f"the number of epochs must be at least 1, found {epochs}")
    if models is not None and models < 1:
        raise ValueError(f"the number of models must be at least 1, found {models}")
    if seed not in ("first", "parent") and not (type(seed) is int and -(2**63) <= seed < 2**63):
        raise ValueError(f"seed must be a number, 'first' or 'parent', found {seed!r}")
    if parents.parent_zoo is not None:
        raise ValueError(f"{parents.path} holds sparse twins: name the dense zoo")
    check_training(parents.zoo, engine, threads, device)


def check_zoo(zoo: Zoo) -> None:
    """Refuse a zoo whose models cannot have twins.

    Raises:
        ValueError: as `sparsify`.
    """
    if zoo.layout.architecture.file_per_state:
        raise ValueError(f"{zoo.name}: sparse twins are made of CNN-s and CNN-l, not of ResNet-18")


def twin_zoo(zoo: Zoo, method: str = "variational", epochs: int = TWIN_EPOCHS) -> Zoo:
    """The specification of a zoo's twins."""
    name = twin_name(zoo.name)
    return dataclasses.replace(
        zoo,
        name=name if method == "variational" else f"{name}_{method}",
        epochs=epochs,
        doi=None,
        doi_preprocessed=None,
        published=False,
        note=f"sparse twins of {zoo.name}",
    )


def image_name(parents: ZooDirectory) -> str:
    """Which images the models of a zoo were trained on, a key of `IMAGE_SOURCES`.

    Raises:
        ValueError: its zoo.json does not say it.
    """
    name = parents.zoo.images
    if name not in IMAGE_SOURCES:
        raise ValueError(
            f"{parents.path / 'zoo.json'} does not say which images its models were trained on: "
            f"its zoo has images = {name!r}, known are {', '.join(IMAGE_SOURCES)}. A zoo imported "
            "under a name of the catalog (--zoo) knows them; from Python, "
            "model_zoos.generation.sparsify.sparsify takes any images"
        )
    return name


def usable_parents(
    parents: ZooDirectory, models: int | None = None
) -> tuple[list[ModelFile], dict[str, str]]:
    """The models that can have twins, in the order of the zoo's grid, others by name behind them.

    Args:
        models: look at the first so many only.

    Returns:
        Their states, and for each of the others its model id (or the name of its file) and what
        is wrong with it.
    """
    found = parents.scan()[0]
    by_id = {states.model_id: states for states in found}
    wrong = {path.stem: "its file cannot be read" for path in parents.files()}
    known = {*by_id, *wrong, *parents.splits()}
    if parents.zoo.models(1)[0].model_id in known:  # a zoo of our own, not an imported one
        places = {model.model_id: place for place, model in enumerate(parents.zoo.models())}
    else:
        places = {}
    good, left_out = [], {}
    for name in sorted(known, key=lambda name: (places.get(name, len(places)), name))[:models]:
        if name in by_id:
            reason = _unusable(by_id[name])
        else:
            reason = wrong.get(name, "it is not trained yet")
        if reason is None:
            good.append(by_id[name])
        else:
            left_out[name] = reason
    return good, left_out


def magnitude_mask(weights: np.ndarray, layout: Layout, level: float) -> np.ndarray:
    """Which weights magnitude pruning prunes: bool [N] of weights [N].

    The round(level * weights) smallest over all layers together, the first of equals; no biases.
    """
    entries = np.flatnonzero(weight_entries(layout))
    order = np.argsort(np.abs(weights[entries]), kind="stable")
    mask = np.zeros(layout.size, bool)
    mask[entries[order[: round(level * len(entries))]]] = True
    return mask


def _twin(parent: ModelFile, zoo: Zoo, seed: Any, level: float | None) -> Twin:
    names = [field.name for field in dataclasses.fields(Model)]
    values = {name: parent.hyperparameters.get(name) for name in names}
    values |= {"zoo": zoo.name, "epochs": zoo.epochs, "seed": seed}
    return Twin(**values, parent=parent.model_id, level=level)


def _unusable(states: ModelFile) -> str | None:
    """Why a model cannot have a twin; None if it can."""
    hyperparameters = states.hyperparameters
    # Only sgd has a momentum, only ResNet-18 a scheduler; the twin has epochs and perhaps a seed.
    needed = {field.name for field in dataclasses.fields(Model)}
    needed -= {"zoo", "momentum", "scheduler", "epochs"}
    needed |= {"momentum"} if hyperparameters.get("optimizer") == "sgd" else set()
    if missing := sorted(name for name in needed if hyperparameters.get(name) is None):
        return f"it does not say its {', '.join(missing)}"
    last = hyperparameters.get("epochs") or states.zoo.epochs
    if states.epochs[-1] < last:
        return f"it is unfinished: epoch {states.epochs[-1]} of {last} is its last"
    if not np.isfinite(_last_weights(states)).all():
        return "it diverged: its last weights are not finite"
    return None


def _last_weights(states: ModelFile) -> np.ndarray:
    return states.weights([len(states.epochs) - 1])[0]


def _compare_images(parents: ZooDirectory, images: ImageData) -> None:
    expected = (parents.info.get("images") or {}).get("sha256")
    if expected is not None and expected != images.digest():
        raise ValueError(
            f"{parents.path}: its models were trained on other images than these "
            f"({images.name}): their digest is {expected[:12]}..., not {images.digest()[:12]}..."
        )


# --- Jobs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Twins(Job):
    """Twins of one dense zoo."""

    parents: ZooDirectory

    def parent(self, twin: Twin) -> np.ndarray:
        """The parent's last weights, float32 [N]."""
        path = self.parents.models_path / f"{twin.parent}.safetensors"
        return _last_weights(self.parents.read(path))

    def write(  # type: ignore[override]
        self, model: Twin, tensors: Mapping[str, np.ndarray], metrics: Mapping[str, np.ndarray]
    ) -> Outcome:
        extra = dict(tensors)
        weights = extra.pop("weights")
        shares = sparsity(weights, self.directory.zoo.layout)
        self.directory.write_model(
            model.model_id,
            model.hyperparameters(),
            np.arange(len(weights)),
            weights,
            {**metrics, "sparsity": shares},
            parent_model_id=model.parent,
            extra=extra,
        )
        return Outcome(
            test_acc=float(metrics["test_acc"][-1]),
            diverged=not all(np.isfinite(values[-1]).all() for values in tensors.values()),
            states=len(weights),
            epochs=len(weights) - 1,
            sparsity=float(shares[-1]),
        )


class _VariationalTwins(_Twins):
    def population(
        self, engine: str, models: Sequence[Twin], initial: np.ndarray, **options: Any
    ) -> Population:
        weights = np.stack([self.parent(twin) for twin in models])
        if engine == "lanes":
            from .engines.lanes import LanesTwins as Twins
        else:
            from .engines.batched_twins import BatchedTwins as Twins
        return Twins(
            self.directory.zoo.layout,
            weights=weights,
            log_sigma2=np.full_like(weights, LOG_SIGMA2_START),
            **options,
            **engine_arguments(models),
        )

    def train_epoch(
        self, population: Any, images: Any, labels: Any, orders: Any, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        weight = kl_weight(epoch, self.directory.zoo.epochs)
        return population.train_epoch(images, labels, orders, weight)

    def tensors(self, population: Any) -> dict[str, np.ndarray]:
        return {
            "weights": population.weights,
            "mean": population.mean,
            "log_sigma2": population.log_sigma2,
        }

    def trajectory(self, model: Twin) -> Iterator[reference.State]:
        from .engines.reference_twins import VariationalTwin

        network = partial(VariationalTwin, parent=self.parent(model))
        layout = self.directory.zoo.layout
        return reference.train(model, layout, self.images, STREAMS["reference"], network)


class _MagnitudeTwins(_Twins):
    def population(
        self, engine: str, models: Sequence[Twin], initial: np.ndarray, **options: Any
    ) -> Population:
        weights = np.stack([self.parent(twin) for twin in models])
        pruned = np.stack([self._mask(twin, w) for twin, w in zip(models, weights, strict=True)])
        return population_class(engine)(
            self.directory.zoo.layout,
            weights=weights,
            pruned=pruned,
            **options,
            **engine_arguments(models),
        )

    def trajectory(self, model: Twin) -> Iterator[reference.State]:
        from .engines.reference_twins import PrunedTwin

        parent = self.parent(model)
        network = partial(PrunedTwin, parent=parent, pruned=self._mask(model, parent))
        layout = self.directory.zoo.layout
        return reference.train(model, layout, self.images, STREAMS["reference"], network)

    def _mask(self, twin: Twin, weights: np.ndarray) -> np.ndarray:
        assert twin.level is not None
        return magnitude_mask(weights, self.directory.zoo.layout, twin.level)
