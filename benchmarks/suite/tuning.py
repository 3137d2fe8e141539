"""Epochs that new weights save, compared with training from the initialisation.

New weights and fresh initialisations are trained equally, for some epochs. The goal is the mean
accuracy of the fresh models after the last epoch. A new vector saves the epochs between the first
one at which it reaches the goal and the last. Some fresh models happen to reach their mean early
and thus save epochs too: their savings are the reference.
"""

from __future__ import annotations

import math

import numpy as np

from ...errors import InvalidArgument
from ...generation.streams import initial_weights
from ...weight_space.training import train
from .novelty import samples_that_fit
from .prediction import Say
from .result import Measure, Part, mean_of
from .sampling import about_copies, about_variances, distinct, last_states, sample
from .zoo import OpenZoo

TUNED = ("noise 0.5", "soup of 2, matched", "density of weights", "density in a subspace")
"""Methods whose weights are trained; keys of `SAMPLERS`."""

FRESH = "initialisation"

SEED = 1 << 20
"""Seed of the first vector; far above the seeds of zoos, whose models must not be repeated."""

NEEDED = ("init", "optimizer", "learning_rate", "batch_size")
"""Hyperparameters that training needs."""

COMMON = ("activation", "optimizer", "learning_rate", "weight_decay", "dropout", "init")
"""Hyperparameters that models must share so that their epochs can be compared."""


def fine_tuning(zoo: OpenZoo, say: Say) -> Part:
    """Train new weights and fresh initialisations, and compare their epochs."""
    say("reading")
    last, settings, states = last_states(zoo), zoo.settings, zoo.states
    data = zoo.images
    count, epochs = samples_that_fit(zoo, settings.tuned), settings.tuned_epochs
    best = last.rows[last.good[0]]
    known = {name: states[name][best] for name in (*COMMON, "batch_size", "momentum")}
    if unknown := [name for name in NEEDED if known[name] is None]:
        raise InvalidArgument(f"the source does not say the models' {', '.join(unknown)}")
    seeds = [SEED + number for number in range(count)]
    starts = [np.stack([initial_weights(zoo.layout, known["init"], seed)[0] for seed in seeds])]
    starts += [sample(zoo, method, last, count) for method in TUNED]
    methods = (FRESH, *TUNED)
    _, metrics, _ = train(
        np.concatenate(starts),
        {"architecture": states["architecture"][best], **known},
        data,
        epochs=epochs,
        seed=seeds * len(methods),
        on_progress=lambda done, total: say(f"{done} of {total} epochs of models"),
    )
    accuracy = metrics["test_acc"].reshape(len(methods), count, epochs + 1)
    goal = float(accuracy[0, :, -1].mean())
    alike = ~states.diverged
    for name in COMMON:
        alike &= states[name] == known[name]
    curve = {
        epoch: states["test_acc"][alike & (states["epoch"] == epoch)].mean()
        for epoch in np.unique(states["epoch"][alike]).tolist()
    }
    measures: list[Measure] = []
    counts = {method: distinct(vectors) for method, vectors in zip(methods, starts, strict=True)}
    for method, found in zip(methods, accuracy, strict=True):
        of, differ = (method,), counts[method]
        measures += [mean_of(of, f"epoch {e}", found[:, e], differ) for e in range(epochs + 1)]
        there = found >= goal
        reached = there.any(axis=1)
        saved = np.where(reached, epochs - there.argmax(axis=1), 0).astype(np.float64)
        measures.append(mean_of(of, "epochs saved", saved, differ))
        measures.append(Measure(of, "reached by", float(reached.mean())))
        worth = (epoch for epoch, mean in curve.items() if mean >= found[:, -1].mean())
        measures.append(Measure(of, "zoo's epoch", float(next(worth, math.nan))))
    return Part(
        "fine-tuning",
        f"test accuracy of {count} vectors of each method by epoch, and epochs saved",
        ("start",),
        measures,
        {
            "vectors": count,
            "epochs": epochs,
            "hyperparameters": {k: v for k, v in known.items() if v is not None},
            "models alike": len(set(states.model[alike])),
            "good": settings.good,
            "sampled from": len(last.good),
            **about_variances(zoo.layout),
        },
        [
            f"epochs saved: of {epochs}, before the mean accuracy {goal:.3f} of fresh models is "
            "reached; 0 for vectors that do not reach it, so that no mean is negative. Compare "
            f"with the row {FRESH}: by chance, fresh models save some too.",
            "zoo's epoch: the first at which the zoo's own models of these hyperparameters are as "
            "accurate as the vectors in the end; - if they never are.",
            *about_copies({method: (differ, count) for method, differ in counts.items()}),
        ],
    )
