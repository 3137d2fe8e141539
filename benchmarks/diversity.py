"""How different the models of a zoo are: in accuracy, weights, predictions and activations.

For each epoch: accuracies and generalization gaps of all models; l2 distance and cosine of the
weights over pairs of some models; and for fewer models, run on some test images, how often pairs
give the same answer, and linear CKA of their activations, layer by layer (Kornblith et al. 2019,
"Similarity of Neural Network Representations Revisited", section 3).

States that have diverged (NaN or infinite losses or weights) are left out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from ..builders.homes import zoos_home
from ..builders.layout import Layout, find_layout
from ..builders.phrases import counted
from ..builders.zoo_directory import open_zoo
from ..errors import ImageFilesError, InvalidArgument
from ..generation.images import ImageData
from ..generation.networks import instantiate
from ..weight_space.networks import samples_of
from .evaluation import zoo_images
from .rows import MAX_WEIGHT, largest_weights
from .states import StateTable, choose, read_states, read_weights, weights_size
from .tables import Table, number

MODELS = 200
"""Number of models whose weights are compared: 19,900 pairs."""

RUN_MODELS = 20
"""Number of models that are run on images: 190 pairs."""

IMAGES = 256
"""Number of test images on which models are run."""

EPOCHS = 11
"""Number of epochs at which weights and predictions are compared, spread evenly."""

NEED_IMAGES = "prediction agreement and linear CKA"


@dataclass(frozen=True)
class Distribution:
    """A summary of some numbers.

    Attributes:
        count: number of values; undefined ones are left out.
        mean, std: their mean, and the (population) standard deviation.
        quartiles: 25 %, median and 75 %, interpolated linearly.
    """

    count: int
    mean: float
    std: float
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class EpochDiversity:
    """The diversity of a zoo's models at one epoch; None for what was not measured there.

    Attributes:
        epoch: the epoch.
        models: number of models whose state there has not diverged.
        diverged: number of states left out.
        accuracy, gap: test accuracy and generalization gap of all these models, as shares of 1.
        sparsity: sparsity of all these models, if they are sparse twins.
        l2, cosine: distance and cosine of weights, over pairs of `compared` models.
        compared: number of models whose weights were compared.
        agreement: share of images to which two models give the same answer, over pairs of `run`
            models.
        cka: layer -> linear CKA of two models' activations, in [0, 1], over the same pairs. It is
            undefined for a model whose activations are constant.
        run: number of models that were run on images.
        large: number of compared models that have a weight above `MAX_WEIGHT` there.
    """

    epoch: int
    models: int
    diverged: int
    accuracy: Distribution | None
    gap: Distribution | None
    sparsity: Distribution | None = None
    l2: Distribution | None = None
    cosine: Distribution | None = None
    compared: int = 0
    agreement: Distribution | None = None
    cka: Mapping[str, Distribution] | None = None
    run: int = 0
    large: int = 0


@dataclass(frozen=True)
class Diversity:
    """The diversity of a zoo.

    Attributes:
        zoo: name.
        epochs: one entry for each epoch, ascending.
        models: number of models in the zoo.
        images: number of test images on which models were run.
        seed: seed of the choice of models and images.
        not_obtained: measure -> why it could not be obtained.
    """

    zoo: str
    epochs: tuple[EpochDiversity, ...]
    models: int
    images: int
    seed: int
    not_obtained: Mapping[str, str]

    def tables(self) -> list[Table]:
        """Return tables of accuracies, of pairs, and of CKA where there is any."""
        epochs = [epoch for epoch in self.epochs if epoch.compared]
        accuracy = Table(
            "Accuracy over all models that have not diverged, by epoch",
            ("epoch", "models", "diverged", "mean test accuracy", "median", "mean gap", "median"),
            tuple(
                (
                    *(str(e.epoch), f"{e.models:,}", f"{e.diverged:,}"),
                    *(_mean(e.accuracy), _quartiles(e.accuracy), _mean(e.gap), _quartiles(e.gap)),
                )
                for e in (epochs or self.epochs[-1:])
            ),
            (
                "Shares of 1, ± the standard deviation and [quartiles]; gap is train less test "
                "accuracy.",
                "How to read: a mean far from the median, or quartiles far apart, say that some "
                "models learn and others do not.",
            ),
        )
        pairs = max((e.l2.count for e in epochs if e.l2), default=0)
        compared = max((e.compared for e in epochs), default=0)
        run = max((e.run for e in epochs), default=0)
        large = sum(e.large for e in epochs)
        included = (
            f"Included: {counted(large, 'state')} with a weight above {MAX_WEIGHT:g}, which can "
            "make distances large."
        )
        similarity = Table(
            "Weights and predictions of pairs of models, by epoch",
            ("epoch", "l2 distance", "cosine", "same answer"),
            tuple(
                (str(e.epoch), _quartiles(e.l2, 1), _quartiles(e.cosine), _quartiles(e.agreement))
                for e in epochs
            ),
            (
                f"Median [quartiles] over up to {pairs:,} pairs of {compared:,} models (weights), "
                f"and over pairs of {run:,} models on {self.images:,} test images (answers).",
                "How to read: a small distance and a cosine near 1 mean alike weights, the last "
                "column alike functions; models at chance can agree by always giving one answer.",
                *([included] if large else []),
            ),
        )
        layers = tuple(dict.fromkeys(layer for epoch in epochs for layer in epoch.cka or ()))
        cka = Table(
            "Linear CKA of activations of pairs of models, by epoch and layer",
            ("epoch", *layers),
            tuple(
                (str(e.epoch), *(_quartiles((e.cka or {}).get(layer)) for layer in layers))
                for e in epochs
            ),
            (
                "Median [quartiles] over the same pairs; constant activations have none.",
                "How to read: 1 means the same representation of the images up to rotation and "
                "scale, and values near 0 mean unrelated ones.",
            ),
        )
        return [accuracy, similarity, *([cka] if layers else [])]


def _mean(values: Distribution | None) -> str:
    return "-" if values is None else f"{number(values.mean)} ± {number(values.std)}"


def _quartiles(values: Distribution | None, digits: int = 3) -> str:
    if values is None:
        return "-"
    low, median, high = (number(quartile, digits) for quartile in values.quartiles)
    return f"{median} [{low}, {high}]"


def diversity(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    states: StateTable | None = None,
    models: int = MODELS,
    run_models: int = RUN_MODELS,
    images: int | ImageData = IMAGES,
    epochs: int = EPOCHS,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Diversity:
    """Measure how different the models of a zoo are.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        states: all states of the zoo, if they have been read already.
        models: maximal number of models whose weights are compared (fewer for wide architectures).
        run_models: maximal number of these that are run on images.
        images: number of test images of the zoo's image data set, or images of your own.
        epochs: maximal number of epochs at which weights and predictions are compared.
        images_dir, download: see `images.load_images`. Measures that need images are not obtained
            without them.
        seed: seed of the choice of models and images.
        on_progress: called with the number of epochs done, and of all epochs.

    Raises:
        ZooNotFound: the zoo is not there.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: `metrics`, which has no weights.
    """
    states = states or read_states(name, data_dir)
    layout = find_layout(states["architecture"][0], weights_size(name, data_dir))
    chosen, at = choose(states, layout.size, models, epochs, seed)
    not_obtained: dict[str, str] = {}
    pixels = None
    if run_models >= 2:
        try:
            pixels = _test_images(states, layout, data_dir, images, images_dir, download, seed)
        except (ImageFilesError, ValueError) as error:
            not_obtained[NEED_IMAGES] = str(error)
    found, weights = read_weights(states, chosen, at, data_dir)
    found, weights = found[~states.diverged[found]], weights[~states.diverged[found]]
    results = []
    for epoch in states.epochs:
        rows = np.flatnonzero(states["epoch"] == epoch)
        good = rows[~states.diverged[rows]]
        measured: dict[str, Any] = {}
        if epoch in at:
            there = states["epoch"][found] == epoch
            measured["compared"] = int(there.sum())
            measured["large"] = int((largest_weights(weights[there]) > MAX_WEIGHT).sum())
            with np.errstate(divide="ignore", invalid="ignore"):
                measured["l2"] = describe(pdist(weights[there]))
                measured["cosine"] = describe(1 - pdist(weights[there], "cosine"))
            if pixels is not None:
                there &= np.isin(states.model[found], chosen[:run_models])
                measured |= _run(layout, states["activation"][found[there]], weights[there], pixels)
            if on_progress is not None:
                on_progress(int(np.searchsorted(at, epoch)) + 1, len(at))
        results.append(
            EpochDiversity(
                epoch=int(epoch),
                models=len(good),
                diverged=len(rows) - len(good),
                accuracy=describe(states["test_acc"][good]),
                gap=describe(states["generalization_gap"][good]),
                sparsity=describe(states["sparsity"][good]),
                **measured,
            )
        )
    return Diversity(
        zoo=name,
        epochs=tuple(results),
        models=states.models,
        images=0 if pixels is None else len(pixels),
        seed=seed,
        not_obtained=not_obtained,
    )


def describe(values: NDArray[np.floating]) -> Distribution | None:
    """Return the distribution of the finite values; None if there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return None
    low, median, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return Distribution(len(values), float(values.mean()), float(values.std()), (low, median, high))


def linear_cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Return the linear CKA of two models' activations on the same images.

    It is |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms of centred columns (Kornblith et al. 2019,
    section 3), and 1 for activations that differ by a rotation, a scale and a shift.

    Args:
        x, y: [images, features]; the numbers of features may differ.

    Returns:
        A share of 1; NaN if one model's activations do not depend on the image.
    """
    return float(_cka(np.stack([_gram(x), _gram(y)]))[0])


def _gram(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return inner products of centred activations, [images * images], with norm 1, or NaN."""
    x = x.reshape(len(x), -1).astype(np.float64)
    x = x - x.mean(axis=0)
    gram = (x @ x.T).reshape(-1)
    norm = np.linalg.norm(gram)
    # Rounding leaves small differences even if the activation is constant.
    return (gram / norm if norm > 1e-12 else np.full_like(gram, np.nan)).astype(np.float32)


def _cka(grams: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each pair of models the inner product of their normalised matrices."""
    products = grams @ grams.T
    return products[np.triu_indices(len(grams), 1)]


def _test_images(
    states: StateTable,
    layout: Layout,
    data_dir: str | os.PathLike[str] | None,
    images: int | ImageData,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
    seed: int,
) -> torch.Tensor:
    """Return normalised images for the models; an error says why there are none.

    Raises:
        ImageFilesError: the image files are missing or cannot be used.
        ValueError: the activation is not known, or the images do not fit.
    """
    if any(activation is None for activation in states["activation"]):
        raise InvalidArgument("the source does not say the models' activation")
    if isinstance(images, ImageData):
        data = images
    else:
        directory = open_zoo(zoos_home(data_dir), states["zoo"][0])
        data = zoo_images(directory, None, images_dir, download)
        chosen = np.random.default_rng(seed).permutation(len(data.test))[:images]
        data = data.subset(train=slice(1), test=np.sort(chosen))
    return samples_of(data, "test", layout)[0]


def _run(
    layout: Layout,
    activations: NDArray[np.object_],
    weights: NDArray[np.float32],
    pixels: torch.Tensor,
) -> dict[str, Any]:
    """Run models on images, and return the fields of `EpochDiversity` that depend on it."""
    answers: list[NDArray[np.int64]] = []
    grams: dict[str, list[NDArray[np.float32]]] = {}
    for activation, vector in zip(activations, weights, strict=True):
        logits, outputs = _outputs(instantiate(layout, activation, vector), layout, pixels)
        answers.append(logits.argmax(axis=1))
        for layer, values in outputs.items():
            grams.setdefault(layer, []).append(_gram(values))
    cka = {layer: describe(_cka(np.stack(matrices))) for layer, matrices in grams.items()}
    return {
        "run": len(weights),
        "agreement": describe(1 - pdist(np.stack(answers), "hamming")) if answers else None,
        "cka": {layer: values for layer, values in cka.items() if values is not None},
    }


def _outputs(
    network: torch.nn.Module, layout: Layout, pixels: torch.Tensor
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Return logits, and the output of each layer (after its activation) or of each stage."""
    if layers := layout.architecture.layers:
        modules = {
            layer.name: f"act{number}" if layer.activation else layer.name
            for number, layer in enumerate(layers, start=1)
        }
    else:  # the stages of a residual network
        modules = {stage: stage for stage in ("layer1", "layer2", "layer3", "layer4", "fc")}
    outputs: dict[str, NDArray[np.float32]] = {}

    def keep(layer: str) -> Callable[[torch.nn.Module, object, torch.Tensor], None]:
        return lambda module, inputs, output: outputs.update({layer: output.numpy()})

    for layer, module in modules.items():
        network.get_submodule(module).register_forward_hook(keep(layer))
    with torch.inference_mode():
        logits = network(pixels)
    return logits.numpy(), outputs
