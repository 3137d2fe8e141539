"""How different the models of a zoo are: in accuracy, weights, predictions and activations.

For each epoch: accuracies and generalization gaps of all models; l2 distance and cosine of the
weights over pairs of some models; for fewer models, run on some test images, how often two of them
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
from scipy.spatial.distance import pdist

import model_zoos

from ..builders.architecture import ARCHITECTURES
from ..builders.layout import find_layout
from ..builders.zoo_directory import open_zoo
from ..errors import ImageFilesError
from ..generation.images import ImageData, load_images
from .states import StateTable, choose, read_states, read_weights, weights_size

MODELS = 200
"""Whose weights are compared: 19,900 pairs."""
RUN_MODELS = 20
"""That are run on images: 190 pairs."""
IMAGES = 256
NEED_IMAGES = "prediction agreement and linear CKA"
EPOCHS = 11
"""At which weights and predictions are compared, spread evenly."""


@dataclass(frozen=True)
class Distribution:
    """Of some numbers.

    Attributes:
        count: of them; those that are not defined are left out.
        mean, std: `std` around their own mean, of the population.
        quartiles: 25 %, median, 75 %, interpolated linearly.
    """

    count: int
    mean: float
    std: float
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class EpochDiversity:
    """The diversity of a zoo's models at one epoch; None is what was not measured there.

    Attributes:
        epoch: of the states.
        models: that have a state there which has not diverged.
        diverged: states left out.
        accuracy, gap: of all these models on test; shares of 1.
        sparsity: of all these models, if they are sparse twins.
        l2, cosine: of the weights, over pairs of `compared` models.
        compared: models whose weights were compared.
        agreement: share of images to which two models give the same answer, over pairs of `run`.
        cka: layer -> linear CKA of two models' activations, in [0, 1], over the same pairs; a
            model whose activations are constant has none.
        run: models that were run on images.
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


@dataclass(frozen=True)
class Diversity:
    """The diversity of a zoo.

    Attributes:
        zoo: name.
        epochs: one entry for each epoch, ascending.
        models: in the zoo.
        images: number of test images that models were run on.
        seed: of the choice of models and images.
        not_obtained: measure -> why.
    """

    zoo: str
    epochs: tuple[EpochDiversity, ...]
    models: int
    images: int
    seed: int
    not_obtained: Mapping[str, str]


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
        states: of the zoo, if they have been read already.
        models: how many to compare in weights, at most (fewer of a wide architecture).
        run_models: how many of these to run on images, at most.
        images: how many test images of the zoo's image data set, or an image data set of your own.
        epochs: how many to compare weights and predictions at, at most.
        images_dir, download: as load_images; where there are none, what needs them is not
            obtained.
        seed: of the choice of models and images.
        on_progress: called with epochs done and epochs in all.

    Raises:
        ZooNotFound, FaultyZoo: there is nothing to read.
        ValueError: `metrics`, which has no weights.
    """
    states = states or read_states(name, data_dir)
    size = weights_size(name, data_dir)
    chosen, at = choose(states, size, models, epochs, seed)
    not_obtained: dict[str, str] = {}
    pixels = None
    if run_models >= 2:
        pixels = _test_images(
            states, size, data_dir, images, images_dir, download, seed, not_obtained
        )
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
            with np.errstate(divide="ignore", invalid="ignore"):
                measured["l2"] = describe(pdist(weights[there]))
                measured["cosine"] = describe(1 - pdist(weights[there], "cosine"))
            if pixels is not None:
                there &= np.isin(states.model[found], chosen[:run_models])
                measured |= _run(states, found[there], weights[there], pixels)
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


def describe(values: np.ndarray) -> Distribution | None:
    """The distribution of those values that are finite; None if there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return None
    low, median, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return Distribution(len(values), float(values.mean()), float(values.std()), (low, median, high))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of two models' activations on the same images.

    |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms, of columns less their means (Kornblith et al. 2019,
    section 3). It is 1 for activations that differ by a rotation, a scale and a shift.

    Args:
        x, y: [images, features]; the numbers of features may differ.

    Returns:
        A share of 1; NaN if the activations of one do not depend on the image.
    """
    return float(_cka(np.stack([_gram(x), _gram(y)]))[0])


def _gram(x: np.ndarray) -> np.ndarray:
    """Inner products of centred activations, float32 [images * images], of norm 1 or NaN."""
    x = x.reshape(len(x), -1).astype(np.float64)
    x = x - x.mean(axis=0)
    gram = (x @ x.T).reshape(-1)
    norm = np.linalg.norm(gram)
    # What rounding leaves of a constant is no activation.
    return (gram / norm if norm > 1e-12 else np.full_like(gram, np.nan)).astype(np.float32)


def _cka(grams: np.ndarray) -> np.ndarray:
    """For each pair of models: the inner product of their normed matrices."""
    products = grams @ grams.T
    return products[np.triu_indices(len(grams), 1)]


def _test_images(
    states: StateTable,
    size: int,
    data_dir: str | os.PathLike[str] | None,
    images: int | ImageData,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
    seed: int,
    not_obtained: dict[str, str],
) -> torch.Tensor | None:
    """Normalised test images, float32 [n, c, h, w]; None, with the reason noted, without any."""
    if any(activation is None for activation in states["activation"]):
        not_obtained[NEED_IMAGES] = "the source does not say the models' activation"
        return None
    if isinstance(images, ImageData):
        data = images
    else:
        directory = open_zoo(model_zoos.zoos_home(data_dir), states["zoo"][0])
        try:
            data = load_images(directory.zoo.images, images_dir, download=download, progress=False)
        except (ImageFilesError, ValueError) as error:
            not_obtained[NEED_IMAGES] = str(error)
            return None
        recorded = (directory.info.get("images") or {}).get("sha256")
        if recorded not in (None, data.digest()):
            not_obtained[NEED_IMAGES] = f"zoo.json names other images than these {data.name}"
            return None
        chosen = np.random.default_rng(seed).permutation(len(data.test))[:images]
        data = data.subset(train=slice(0), test=np.sort(chosen))
    architecture = states["architecture"][0]
    side = ARCHITECTURES[architecture].image_size
    shape, channels = tuple(data.test.pixels.shape[1:]), find_layout(architecture, size).channels
    if shape[0] != channels or side not in (None, shape[1]):
        not_obtained[NEED_IMAGES] = (
            f"the images of {data.name} are {'x'.join(map(str, shape))}, the models take "
            f"{channels}x{side or shape[1]}x{side or shape[2]}"
        )
        return None
    return data.normalized("test")


def _run(
    states: StateTable, rows: np.ndarray, weights: np.ndarray, pixels: torch.Tensor
) -> dict[str, Any]:
    answers: list[np.ndarray] = []
    grams: dict[str, list[np.ndarray]] = {}
    for row, vector in zip(rows, weights, strict=True):
        logits, activations = _activations(
            {
                "architecture": states["architecture"][row],
                "activation": states["activation"][row],
                "weights": vector,
            },
            pixels,
        )
        answers.append(logits.argmax(axis=1))
        for layer, values in activations.items():
            grams.setdefault(layer, []).append(_gram(values))
    cka = {layer: describe(_cka(np.stack(matrices))) for layer, matrices in grams.items()}
    return {
        "run": len(rows),
        "agreement": describe(1 - pdist(np.stack(answers), "hamming")) if answers else None,
        "cka": {layer: values for layer, values in cka.items() if values is not None},
    }


def _activations(
    row: Mapping[str, Any], pixels: torch.Tensor
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and what each layer hands on: after its activation; of ResNet-18 each stage."""
    network = model_zoos.instantiate(row)
    if layers := ARCHITECTURES[row["architecture"]].layers:
        modules = {
            layer.name: f"act{number}" if layer.activation else layer.name
            for number, layer in enumerate(layers, start=1)
        }
    else:
        modules = {stage: stage for stage in ("layer1", "layer2", "layer3", "layer4", "fc")}
    outputs: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Callable[[Any, Any, torch.Tensor], None]:
        return lambda module, inputs, output: outputs.update({layer: output.numpy()})

    for layer, module in modules.items():
        network.get_submodule(module).register_forward_hook(keep(layer))
    with torch.inference_mode():
        logits = network(pixels)
    return logits.numpy(), outputs
