"""New models from the models of a zoo, without training: sampled, averaged, put together.

- Kernel density over the weights of the best 30 % of models, sampled as new models. After
  Schuerholt et al. 2022 ("Hyper-Representations as Generative Models", NeurIPS). Their code
  (sample_finetune_auxiliaries.py, "S_KDE") fits a Gaussian kernel of bandwidth 0.002 to each
  dimension by itself, but of a learned representation, and draws each dimension with the same
  random state, so that all dimensions of a sample come from one and the same model.
  Published for the density of weights (project page of that paper, accuracy without training, %):
  MNIST 63.2, SVHN 10.1, CIFAR-10 15.5, STL-10 12.7. We have not seen the code of that baseline;
  both readings are measured here, `joint` and `independent`. Other differences: final states only
  where theirs are of many epochs, and fewer models in a small zoo.
- Uniform soup: the mean of the weights (Wortsman et al. 2022, "Model soups", section 2).
- Ensemble: the mean of the models' probabilities (Lakshminarayanan et al. 2017).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import KernelDensity

import model_zoos

from ..builders.layout import Layout, find_layout
from ..builders.zoo_directory import open_zoo
from ..generation.engines import evaluate as score
from ..generation.images import ImageData, load_images
from .diversity import Distribution, describe
from .states import read_states, read_weights, weights_size

BEST = 0.3
"""Share of models that the density is fitted to (the original's quantile is 0.7)."""

BANDWIDTH = 0.002
"""The original's, in units of weights."""


@dataclass(frozen=True)
class Combined:
    """Test accuracies, shares of 1, of new models beside those that they were made from.

    Attributes:
        zoo: name.
        activation: of the models; the most frequent one of the zoo.
        models: final states of the train split with this activation, diverged ones left out.
        best: how many of them are the best 30 %, by test accuracy as in the original. They are
            chosen on the images that all are evaluated on, which flatters them.
        bandwidth: of the density.
        zoo_accuracy: of all these models, as recorded.
        best_accuracy: of the best, on the images that the new models are evaluated on.
        joint: of samples whose weights all come from one model, plus noise.
        independent: of samples, each weight of which is drawn by itself.
        soup: of the mean of the best models' weights.
        ensemble: of the mean of the best models' probabilities.
    """

    zoo: str
    activation: str
    models: int
    best: int
    bandwidth: float
    zoo_accuracy: Distribution | None
    best_accuracy: Distribution | None
    joint: Distribution | None
    independent: Distribution | None
    soup: float
    ensemble: float


def sample_kernel_density(
    weights: np.ndarray,
    count: int,
    *,
    bandwidth: float = BANDWIDTH,
    independent: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """Weights of new models, drawn from a Gaussian kernel density over the weights of some.

    Args:
        weights: float32 [models, N].
        count: of samples.
        bandwidth: standard deviation of each kernel, in units of weights.
        independent: a density of each weight by itself, so that a sample mixes all models;
            otherwise one density of whole vectors, so that a sample is one model plus noise.
        seed: of the draws.

    Returns:
        float32 [count, N].

    Raises:
        ValueError: weights that are not finite or not a matrix, or bandwidth not above 0.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or not len(weights) or not np.isfinite(weights).all():
        raise ValueError("weights must be a matrix [models, N] of finite numbers")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be above 0, found {bandwidth}")
    state = np.random.RandomState(seed)  # scikit-learn takes no Generator
    density = KernelDensity(kernel="gaussian", bandwidth=bandwidth)
    columns = weights.T[:, :, None] if independent else [weights]
    samples = [density.fit(column).sample(count, random_state=state) for column in columns]
    return np.concatenate(samples, axis=1).astype(np.float32)


def uniform_soup(weights: np.ndarray) -> np.ndarray:
    """The mean of models' weights, float32 [N], of [models, N] (Wortsman et al. 2022)."""
    return np.asarray(weights).mean(axis=0, dtype=np.float64).astype(np.float32)


def ensemble_probabilities(
    weights: np.ndarray, layout: Layout, activation: str, pixels: torch.Tensor
) -> np.ndarray:
    """The mean of models' probabilities (Lakshminarayanan et al. 2017, section 2.4).

    Args:
        weights: float32 [models, N].
        layout, activation: of the models.
        pixels: normalised images, float32 [n, c, h, w].

    Returns:
        float64 [n, classes].
    """
    total = np.zeros((len(pixels), layout.classes))
    row = {"architecture": layout.architecture.name, "activation": activation}
    for vector in weights:
        network = model_zoos.instantiate({**row, "weights": vector})
        with torch.inference_mode():
            logits = torch.cat([network(part) for part in pixels.split(1000)])
            total += logits.double().softmax(dim=1).numpy()
    return total / len(weights)


def combine_models(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    samples: int = 50,
    bandwidth: float = BANDWIDTH,
    images: ImageData | None = None,
    images_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Combined:
    """Make new models from a zoo's best final states and evaluate them on all test images.

    Args:
        name: a zoo of CNNs.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        samples: drawn from the density, in each of the two ways.
        bandwidth: of the density.
        images: that the models saw; by default the zoo's image data set is loaded.
        images_dir: as load_images.
        seed: of the draws.
        on_progress: called with what is done next.

    Raises:
        ImageFilesError: the images are not there.
        ValueError: `metrics`; ResNet-18; fewer than two models to fit to, or unknown activation.
    """
    say = on_progress or (lambda what: None)
    say("reading")
    states = read_states(name, data_dir)
    layout = find_layout(states["architecture"][0], weights_size(name, data_dir))
    rows = states.final[states["split"][states.final] == "train"]
    known = Counter(activation for activation in states["activation"][rows] if activation)
    if not known:
        raise ValueError(f"{name}: no final state of the train split has a known activation")
    activation = known.most_common(1)[0][0]
    rows = rows[states["activation"][rows] == activation]
    rows, weights = read_weights(
        states, np.unique(states.model[rows]), [int(states.epochs[-1])], data_dir
    )
    accuracies = states["test_acc"][rows]
    best = accuracies >= np.quantile(accuracies, 1 - BEST)
    if best.sum() < 2:
        raise ValueError(f"{name}: {best.sum()} models are too few for a density")
    if images is None:
        zoo = open_zoo(model_zoos.zoos_home(data_dir), states["zoo"][0]).zoo
        images = load_images(zoo.images, images_dir, progress=False)
    pixels, labels = images.normalized("test"), images.test.labels

    def evaluate(vectors: np.ndarray) -> np.ndarray:
        return score(vectors, layout, activation, pixels, labels, engine="batched")[1]

    drawn = {}
    for independent in (False, True):
        say("sampling weights by themselves" if independent else "sampling models")
        vectors = sample_kernel_density(
            weights[best], samples, bandwidth=bandwidth, independent=independent, seed=seed
        )
        drawn[independent] = describe(evaluate(vectors))
    say("soup and ensemble")
    probabilities = ensemble_probabilities(weights[best], layout, activation, pixels)
    return Combined(
        zoo=name,
        activation=activation,
        models=len(rows),
        best=int(best.sum()),
        bandwidth=bandwidth,
        zoo_accuracy=describe(accuracies),
        best_accuracy=describe(evaluate(weights[best])),
        joint=drawn[False],
        independent=drawn[True],
        soup=float(evaluate(uniform_soup(weights[best])[None])[0]),
        ensemble=float((probabilities.argmax(axis=1) == labels.numpy()).mean()),
    )
