"""Sparse twins: the sparsified counterparts of the models of a CNN zoo, linked to their parents.

There are two methods:

- *variational*: variational dropout, as in the paper's code (def_net_distillation.py,
  def_NN_experiment_distillation.py, train_mnist_sparse_vd.py). builders/variational_dropout.py has
  the formulas, and where that code departs from the publication of the method. A twin starts from
  the weights of its parent's last epoch with log_sigma2 = -10 and a fresh optimizer. It is trained
  for 25 epochs with its parent's hyperparameters. One optimizer trains weights and log_sigma2, so
  Adam's weight decay pulls both towards 0. Epoch 0 is the parent, already pruned where a weight is
  nearly 0.
- *magnitude*, for comparison: a share of the weights (not biases), those smallest in magnitude over
  all layers together, is set to 0. They stay 0 while the other weights are trained further (Han et
  al., "Learning both Weights and Connections for Efficient Neural Networks", 2015). Epoch 0 is the
  pruned parent before the first step. A parent has a twin for each level of sparsity.

Inconsistencies of the paper's code are kept: all twins have one seed, that of the zoo's first model
(its script takes the settings of the first trial for all), so that they see the images in one
order; `seed="parent"` gives each its parent's. Dropout models and CNN-l, which the paper's code
cannot load, are trained like the others.

Losses of our twins are cross entropies only. They are comparable with those of their parents, and
`instantiate(row)` reproduces them. Losses of imported twins also contain the divergence, as the
paper's code recorded them. train_loss and train_acc from epoch 1 on are running means in training
mode, with noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..builders.catalog import TWIN_EPOCHS
from ..builders.hyperparameters import MOMENTUM_OPTIMIZERS
from ..builders.layout import Layout
from ..builders.model_file import ModelFile
from ..builders.names import twin_name
from ..builders.specification import Model, Zoo
from ..builders.variational_dropout import LOG_SIGMA2_START, kl_weight, sparsity, weight_entries
from ..builders.zoo_directory import ZooDirectory
from ..errors import InvalidArgument
from .engines import choose_engine
from .generate import begin, check_images, run
from .images import IMAGE_SOURCES, ImageData
from .images.folder import PREFIX
from .job import Arrays, Job, Outcome, Progress, Summary, Tensors, Work
from .options import TrainOptions, TwinOptions, check_count
from .plan import check_space
from .ranks import join_ranks, share_models


@dataclass(frozen=True)
class Twin(Model):
    """The specification of a sparse twin: its parent's, but with its own seed and epochs.

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
        if len(self.parent) + len(suffix) > 200:  # longer than a model id can be
            return hashlib.sha256(self.parent.encode()).hexdigest()[:12] + suffix
        return self.parent + suffix

    def hyperparameters(self) -> dict[str, Any]:
        """Return the hyperparameters under the names of rows; epochs and seed are the twin's."""
        values = super().hyperparameters()
        del values["parent"], values["level"]
        return values


def sparsify(
    parents: ZooDirectory,
    root: str | os.PathLike[str],
    images: ImageData,
    *,
    models: int | None = None,
    twins: TwinOptions = TwinOptions(),  # noqa: B008  # frozen
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train the twins of a zoo, or of its first `models`, into `<root>/<zoo>_sparse/`.

    Twins by magnitude pruning are written to `<zoo>_sparse_magnitude`. Every twin is in the split
    of its parent. A parent that cannot have a twin (it diverged, is unfinished or unreadable, or
    lacks facts on its training) is left out and named in the summary.

    Args:
        parents: the dense zoo, generated or imported.
        root: folder of all zoos.
        images: the images on which the parents were trained.
        models: number of parents; None for all. The first n are those of the zoo's grid.
        twins: method, levels of sparsity, epochs and seed.
        options: engine, threads and device, as in `generate`. Lanes do not support magnitude
            pruning.
        on_progress: called about five times a second.

    Raises:
        InvalidArgument: the zoo cannot have twins, options or images do not fit it, or none of
            its models can have a twin.
        FaultyZoo: the folder holds a zoo of this name that was made in another way, or twins of
            parents that were.
        NotEnoughSpace: the missing twins do not fit on the disk.
        TrainingFailed: a worker was killed or could not write.
    """
    check_sparsify(parents, models, twins, options)
    zoo = twin_zoo(parents.zoo, twins.method, twins.epochs)
    _compare_images(parents, images)
    check_images(zoo, images)
    kind = _VariationalTwins if twins.method == "variational" else _MagnitudeTwins
    seed = parents.zoo.models(1)[0].seed if twins.seed == "first" else twins.seed
    # Rank 0 decides for all: of a zoo that is still growing, each would find other parents.
    ranks = join_ranks(options.chosen_device)
    found = usable_parents(parents, models) if ranks.index == 0 else ([], {})
    good, left_out = ranks.gather(found)[0]
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*left_out.items()][:3])
        raise InvalidArgument(
            f"{parents.path} has no model that can have a twin: {reasons or 'it holds no model'}",
            hint="if a table lacks hyperparameters, delete the zoo and import it again with "
            "--constant NAME=VALUE"
            if left_out
            else None,
        )
    activations = [*dict.fromkeys(str(states.hyperparameters["activation"]) for states in good)]
    engine, device = choose_engine(zoo, root, options, activations, kind.method)
    specifications = [
        _twin(states, zoo, seed if isinstance(seed, int) else states.hyperparameters["seed"], level)
        for level in (map(float, twins.levels) if twins.method == "magnitude" else [None])
        for states in good
    ]
    check_space(  # before there is a folder
        ZooDirectory(Path(root).expanduser() / zoo.name, zoo, {}),
        share_models(zoo, specifications, ranks.count),
        tensors=kind.tensors_a_state,
    )
    directory = begin(
        root,
        zoo,
        engine,
        images,
        parent=parents.zoo.name,
        sparsification={"method": twins.method, "seed": seed, "parents": _how_made(parents)},
    )
    splits = parents.splits()
    directory.add_splits(
        (twin.model_id for twin in specifications),
        given={
            twin.model_id: splits[twin.parent] for twin in specifications if twin.parent in splits
        },
    )
    work = Work(kind(directory, images, parents), 0, device, on_progress)
    return dataclasses.replace(run(work, specifications, engine, options), left_out=left_out)


def check_sparsify(
    parents: ZooDirectory, models: int | None, twins: TwinOptions, options: TrainOptions
) -> None:
    """Refuse arguments of `sparsify` that cannot work, as far as they can be checked without
    images.

    Raises:
        InvalidArgument: see `sparsify`.
    """
    check_zoo(parents.zoo)
    if twins.method == "magnitude" and options.engine == "lanes":
        raise InvalidArgument("the lane kernel has no magnitude pruning: use batched or reference")
    check_count("models", models)
    if parents.parent_zoo is not None:
        raise InvalidArgument(f"{parents.path} holds sparse twins: name the dense zoo")
    options.check(parents.zoo)


def check_zoo(zoo: Zoo) -> None:
    """Refuse a zoo whose models cannot have twins.

    Raises:
        InvalidArgument: its models cannot have twins.
    """
    architecture = zoo.layout.architecture
    if not architecture.layers:
        raise InvalidArgument(
            f"{zoo.name}: sparse twins are made of networks that are a sequence of layers, not of "
            f"{architecture.title}"
        )


def twin_zoo(zoo: Zoo, method: str = "variational", epochs: int = TWIN_EPOCHS) -> Zoo:
    """Return the specification of a zoo's twins."""
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
    """Return the name, for `load_images`, of the images on which the models of a zoo were trained.

    Raises:
        ValueError: its zoo.json does not state it.
    """
    name = parents.zoo.images
    if name not in IMAGE_SOURCES and not name.startswith(PREFIX):
        raise InvalidArgument(
            f"{parents.path / 'zoo.json'} does not say which images its models were trained on: "
            f"its zoo has images = {name!r}, known are {', '.join(IMAGE_SOURCES)}. A zoo imported "
            "under a name of the catalog knows them; from Python, "
            "model_zoos.sparsify(..., images=...) takes any images",
            hint="model-zoos import SOURCE --zoo NAME, with a name of the catalog",
        )
    return name


def usable_parents(
    parents: ZooDirectory, models: int | None = None
) -> tuple[list[ModelFile], dict[str, str]]:
    """Return the models that can have twins in the order of the zoo's grid, then others by name.

    Args:
        parents: the zoo.
        models: number of models to consider, from the first; None for all.

    Returns:
        Their states; and for each of the others, its model id (or the name of its file) and what is
        wrong with it.
    """
    found = parents.scan()[0]
    by_id = {states.model_id: states for states in found}
    wrong = {path.stem: "its file cannot be read" for path in parents.files()}
    known = {*by_id, *wrong, *parents.splits()}
    if parents.zoo.models(1)[0].model_id in known:  # one of our zoos, not an imported one
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
    """Return which weights magnitude pruning prunes: bool [N] for weights [N].

    They are the round(level * weights) smallest over all layers, the first of equals; no biases.
    """
    entries = np.flatnonzero(weight_entries(layout))
    order = np.argsort(np.abs(weights[entries]), kind="stable")
    mask = np.zeros(layout.size, bool)
    mask[entries[order[: round(level * len(entries))]]] = True
    return mask


def _how_made(parents: ZooDirectory) -> dict[str, Any]:
    """What tells a dense zoo from another one of the same name and models, in the twins' zoo.json.

    Grid and images are compared already, as entries of the twins' own zoo.json.
    """
    source = parents.info.get("source") or {}
    made = {name: parents.info.get(name) for name in ("engine", "stream")}
    return {"epochs": parents.zoo.epochs, **made, "source": source.get("sha256")}


def _twin(parent: ModelFile, zoo: Zoo, seed: int, level: float | None) -> Twin:
    names = [field.name for field in dataclasses.fields(Model)]
    values: dict[str, Any] = {name: parent.hyperparameters.get(name) for name in names}
    values |= {"zoo": zoo.name, "epochs": zoo.epochs, "seed": seed}
    return Twin(**values, parent=parent.model_id, level=level)


def _unusable(states: ModelFile) -> str | None:
    """Return why a model cannot have a twin; None if it can."""
    hyperparameters = states.hyperparameters
    # Not every model has a momentum and a scheduler; the twin has epochs and perhaps a seed.
    needed = {field.name for field in dataclasses.fields(Model)}
    needed -= {"zoo", "momentum", "scheduler", "epochs"}
    needed |= {"momentum"} if hyperparameters.get("optimizer") in MOMENTUM_OPTIMIZERS else set()
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
        raise InvalidArgument(
            f"{parents.path}: its models were trained on other images than these "
            f"({images.name}): their digest is {expected[:12]}..., not {images.digest()[:12]}..."
        )


# --- Jobs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Twins(Job):
    """Twins of one dense zoo.

    Attributes:
        parents: the dense zoo.
        tensors_a_state: how many tensors [N] a state has on disk.
    """

    parents: ZooDirectory
    tensors_a_state: ClassVar[int] = 1

    def start(
        self, models: Sequence[Model], drawn: NDArray[np.float32]
    ) -> dict[str, NDArray[np.generic]]:
        """Return the parents' last weights."""
        vectors = []
        for twin in models:
            assert isinstance(twin, Twin)
            path = self.parents.models_path / f"{twin.parent}.safetensors"
            vectors.append(_last_weights(self.parents.read(path)))
        return {"weights": np.stack(vectors)}

    def write(
        self, model: Model, tensors: Arrays, metrics: Mapping[str, NDArray[np.float64]]
    ) -> Outcome:
        assert isinstance(model, Twin)
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
    method: ClassVar[str] = "variational"
    tensors_a_state: ClassVar[int] = 3

    def start(
        self, models: Sequence[Model], drawn: NDArray[np.float32]
    ) -> dict[str, NDArray[np.generic]]:
        start = super().start(models, drawn)
        return {**start, "log_sigma2": np.full_like(start["weights"], LOG_SIGMA2_START)}

    def epoch_arguments(self, epoch: int) -> tuple[float, ...]:
        return (kl_weight(epoch, self.directory.zoo.epochs),)

    def tensors(self, population: Tensors) -> Arrays:
        names = ("weights", "mean", "log_sigma2")
        return {name: getattr(population, name) for name in names}


class _MagnitudeTwins(_Twins):
    method: ClassVar[str] = "magnitude"

    def start(
        self, models: Sequence[Model], drawn: NDArray[np.float32]
    ) -> dict[str, NDArray[np.generic]]:
        start = super().start(models, drawn)
        layout = self.directory.zoo.layout
        masks = []
        for twin, weights in zip(models, start["weights"], strict=True):
            assert isinstance(twin, Twin)
            assert twin.level is not None
            masks.append(magnitude_mask(weights, layout, twin.level))
        return {**start, "pruned": np.stack(masks)}
