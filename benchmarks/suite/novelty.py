"""Accuracy of new weights against their novelty, their difference from the sampled models.

Novelty has two measures. One is the distance to the nearest model of the train split, relative to
the median distance between the sampled models: 0 is a copy. The other is the overlap of wrong
predictions with that model, intersection over union, which is 1 for the same errors (Wang et al.
2024, "Neural Network Diffusion", equation 7; they use the model with the largest overlap). New
weights are useful if they are as accurate as trained models, equally far from the nearest one, and
make other errors.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from ...errors import TooFewModels
from ...generation.networks import instantiate
from ...weight_space.evaluation import evaluate
from ...weight_space.networks import samples_of
from .prediction import Say
from .result import Measure, Part, mean_of
from .sampling import (
    SAMPLERS,
    LastStates,
    Weights,
    about_copies,
    about_variances,
    distinct,
    last_states,
    read_last,
    sample,
)
from .zoo import OpenZoo

IMAGES = 2000
"""Maximal number of test images on which errors are compared."""

_BATCH = 500
"""Number of images that a network processes at a time."""

_PAIRS = 200
"""Maximal number of models between which the median distance is computed."""


def generation(zoo: OpenZoo, say: Say) -> Part:
    """Sample new weights from the good models, and measure accuracy and novelty."""
    say("reading")
    last = last_states(zoo)
    data = zoo.images  # loaded first, since all that follows needs them
    settings = zoo.settings
    count = samples_that_fit(zoo, settings.samples)
    unit = float(np.median(pdist(last.good_weights[:_PAIRS])))
    if not unit > 0:
        raise TooFewModels("the good models of train have the same weights")
    not_obtained: dict[str, str] = {}
    pixels, labels = samples_of(data, "test", zoo.layout)
    order = np.random.default_rng(settings.seed).permutation(len(pixels))[:IMAGES]
    chosen = torch.from_numpy(np.sort(order))
    pixels, truth = pixels[chosen], labels[chosen].numpy()
    like = {"architecture": zoo.states["architecture"][0], "activation": last.activation}
    errors_of: dict[int, NDArray[np.bool_]] = {}

    def errors(activation: str, vector: Weights) -> NDArray[np.bool_]:
        network = instantiate(zoo.layout, activation, vector)
        with torch.inference_mode():
            answers = [network(part).argmax(dim=1) for part in pixels.split(_BATCH)]
        return torch.cat(answers).numpy() != truth

    def measure(method: str, new: Weights, own: NDArray[np.int64] | None = None) -> list[Measure]:
        """Measure new weights; `own` are their indices in train, which are left out."""
        of = (method,)
        distances, overlaps = [], []
        for number, vector in enumerate(new):
            away = np.linalg.norm(last.weights - vector, axis=1)
            if own is not None:
                away[own[number]] = np.inf
            nearest = int(away.argmin())
            distances.append(away[nearest] / unit)
            if nearest not in errors_of:
                activation = zoo.states["activation"][last.rows[nearest]]
                errors_of[nearest] = errors(activation, last.weights[nearest])
            wrong, theirs = errors(last.activation, vector), errors_of[nearest]
            union = (wrong | theirs).sum()
            overlaps.append((wrong & theirs).sum() / union if union else np.nan)
        loss, accuracy = evaluate(new, like, data, "test")
        if faulty := int((~np.isfinite(loss)).sum()):
            not_finite.append(
                f"{method}: {faulty} of {len(new)} vectors have outputs that are not finite; their "
                "accuracy and their errors say nothing."
            )
        differ = distinct(new)
        counts[method] = differ, len(new)
        return [
            mean_of(of, "accuracy", accuracy, differ),
            Measure(of, "best", float(accuracy.max())),
            mean_of(of, "distance", np.array(distances), differ),
            mean_of(of, "overlap of errors", np.array(overlaps), differ),
        ]

    measures: list[Measure] = []
    counts: dict[str, tuple[int, int]] = {}
    not_finite: list[str] = []
    say("trained models")
    own = last.good[:count]
    measures += measure("trained, of train", last.weights[own], own)
    trained = _good_of_test(zoo, last)[:count]
    if len(trained):
        measures += measure("trained, of test", trained)
    else:
        not_obtained["trained, of test"] = "no model of the test split is as good"
    for method in SAMPLERS:
        say(method)
        measures += measure(method, sample(zoo, method, last, count))
    return Part(
        "generation",
        "accuracy on the test images against novelty",
        ("weights",),
        measures,
        {
            "good": settings.good,
            "sampled from": len(last.good),
            "train models": len(last.rows),
            "activation": last.activation,
            "chosen by": last.chosen_by,
            "samples": count,
            "images": len(truth),
            **about_variances(zoo.layout),
        },
        [
            f"{count} vectors of each method, from the {len(last.good)} best {last.activation} "
            f"models of train; {len(last.rows):,} of {last.models:,} have a usable last state.",
            f"distance: to the nearest model of train, over the median distance between the models "
            f"sampled from ({unit:.3g}). overlap of errors: with that model.",
            *about_copies(counts),
            *not_finite,
        ],
        not_obtained,
    )


def samples_that_fit(zoo: OpenZoo, wanted: int) -> int:
    """Return the number of vectors of each method that fit into memory, at least 2."""
    most = zoo.settings.weights_bytes // (16 * len(SAMPLERS) * zoo.layout.size)
    return max(2, min(wanted, most))


def _good_of_test(zoo: OpenZoo, last: LastStates) -> Weights:
    """Return the last states of the test split that are as good as the sampled ones."""
    rows, weights = read_last(zoo, "test")
    states = zoo.states
    as_good = states[last.chosen_by][rows] >= last.least
    return weights[as_good & (states["activation"][rows] == last.activation)]
