"""Predict numbers of a model from its weights: within a zoo, and from one zoo to another.

Predictors are fitted on the train split, select on validation, and are scored on the test split by
R2 and Kendall's tau-b with intervals over models. They are ridge regression (`probes.ridge`),
gradient-boosted trees (LightGBM, Ke et al. 2017), and the set network. Each uses the
representations that it can read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from ...builders.machine import cores
from ...builders.splits import SPLITS
from ...errors import BoostingUnavailable, InvalidArgument, ModelZoosError
from ..bootstrap import Floats, number_intervals, r2
from ..probes import import_lightgbm, report_trees, ridge
from . import set_network
from .result import Measure, Part
from .ties import tau_ceiling
from .zoo import OpenZoo

Say = Callable[[str], None]
Matrices = Mapping[str, NDArray[Any]]

TREES: dict[str, Any] = {
    "n_estimators": 800,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "max_bin": 127,
    "deterministic": True,
    "force_col_wise": True,
    "random_state": 0,
    "verbosity": -1,
}
"""Arguments of LightGBM; with these, 30,000 rows of W take minutes on two cores."""

TREE_FEATURES = 250
"""Maximal number of features offered to each tree, besides the limit of the share `TREE_SHARE`."""

TREE_SHARE = 0.3

TREE_PATIENCE = 40
"""Number of trees without a gain on validation after which no more are added."""

NETWORK_WEIGHTS = 200_000
"""Longest weight vector on which the set network is fitted."""

RIDGE, TREES_NAME, NETWORK = "ridge", "trees", "set network"
STATISTICS, WEIGHTS = "s(W)", "W"
CEILING = "highest without ties"


def property_prediction(zoo: OpenZoo, say: Say) -> Part:
    """Predict accuracy, epoch, gap and sparsity from W and from s(W)."""
    say("reading")
    used, states = zoo.used, zoo.states
    rows = {split: zoo.rows_of(split) for split in SPLITS}
    values = _values(zoo, rows, used.targets)
    measures: list[Measure] = []
    not_obtained: dict[str, str] = dict(used.not_scored)
    model = _numbers(states.model[used.rows[rows["test"]]])

    def add(representation: str, method: str, predicted: NDArray[np.float64]) -> None:
        for number, target in enumerate(used.targets):
            truth, found = values["test"][:, number], predicted[:, number]
            measures.extend(_scores((target, representation, method), "", truth, found, model))

    inputs: dict[str, NDArray[Any]] = {STATISTICS: used.statistics}
    if used.weights is not None:
        inputs[WEIGHTS] = used.weights
    else:
        size = zoo.layout.size
        not_obtained[WEIGHTS] = f"{len(used.rows):,} states of {size:,} weights are too many"
    for representation, matrix in inputs.items():
        features = {split: matrix[rows[split]] for split in SPLITS}
        for method, fit in PREDICTORS.items():
            say(doing := f"{representation}: {method}")
            try:
                predicted = fit(features, values, partial(_say_more, say, doing))
            except BoostingUnavailable as error:
                not_obtained[method] = f"{error}; {error.hint}"
            else:
                add(representation, method, predicted)
        if representation == WEIGHTS:
            say(f"{WEIGHTS}: {NETWORK}")
            try:
                add(WEIGHTS, NETWORK, _set_network(zoo, features, values, say))
            except InvalidArgument as error:
                not_obtained[NETWORK] = str(error)
    for number, target in enumerate(used.targets):
        of = (target, "", CEILING)
        measures.append(Measure(of, "tau", tau_ceiling(values["test"][:, number])))
    order = {target: number for number, target in enumerate(used.targets)}
    counts = {split: _models(zoo, rows[split]) for split in SPLITS}
    return Part(
        "prediction",
        "R2 and Kendall's tau-b of numbers that are predicted, on test",
        ("target", "from", "by"),
        sorted(measures, key=lambda measure: order[measure.of[0]]),
        {
            "epochs": list(used.epochs),
            "models": counts,
            "states": {split: len(rows[split]) for split in SPLITS},
            "trees": {**TREES, "features": TREE_FEATURES, "share": TREE_SHARE},
            "set network": {**set_network.SETTINGS, "passes": zoo.settings.network_passes},
        },
        [_left_out(used.left_out)],
        not_obtained,
    )


def generalisation(zoo: OpenZoo, others: Sequence[OpenZoo], say: Say) -> Part:
    """Predict models of other zoos with fits on this zoo, and with fits on the other zoo itself."""
    if not others:
        raise InvalidArgument("no other zoo is given: `against` names one of the same layout")
    measures: list[Measure] = []
    not_obtained: dict[str, str] = {}
    left_out: list[str] = []
    for other in others:
        try:
            if other.layout != zoo.layout:
                raise InvalidArgument(f"its layout is {other.layout}, not {zoo.layout}")
            targets = [target for target in zoo.used.targets if target in other.used.targets]
            if not targets:
                raise InvalidArgument("the two zoos have no number in common that varies")
        except ModelZoosError as error:
            not_obtained[other.name] = str(error)
            continue
        epochs = f"{len(other.used.epochs)} of {len(other.states.epochs)} epochs"
        left_out.append(f"{other.name}: {epochs} are used. {_left_out(other.used.left_out)}")
        test = other.rows_of("test")
        model = _numbers(other.states.model[other.used.rows[test]])
        truth = _values(other, {"test": test}, targets)["test"]
        for name, source in (("", zoo), (" own", other)):
            rows = {split: source.rows_of(split) for split in ("train", "validation")}
            values = _values(source, rows, targets)
            features = {split: source.used.statistics[rows[split]] for split in rows}
            features["test"] = other.used.statistics[test]
            for method, fit in PREDICTORS.items():
                say(doing := f"{method} fitted on {source.name}, tested on {other.name}")
                try:
                    predicted = fit(features, values, partial(_say_more, say, doing))
                except BoostingUnavailable as error:
                    not_obtained[method] = f"{error}; {error.hint}"
                    continue
                for number, target in enumerate(targets):
                    of = (other.name, target, method)
                    found = predicted[:, number]
                    measures += _scores(of, name, truth[:, number], found, model)
    return Part(
        "generalisation",
        f"R2 and tau on the test split of others, from s(W), fitted on {zoo.name}",
        ("tested on", "target", "by"),
        measures,
        {
            "against": {
                other.name: list(other.used.epochs)
                for other in others
                if other.name not in not_obtained
            }
        },
        [*left_out, "R2 own, tau own: fitted on the other zoo itself, which is the reference."],
        not_obtained,
    )


# --- Predictors -----------------------------------------------------------------------------------


def fit_ridge(features: Matrices, values: Matrices, say: Say) -> NDArray[np.float64]:
    """Fit ridge regressions, and return the predictions for test, [rows, targets]."""
    return np.stack([found["test"] for _, found in ridge(features, values)], axis=1)


def fit_trees(features: Matrices, values: Matrices, say: Say) -> NDArray[np.float64]:
    """Fit gradient-boosted trees for each target, and return the predictions for test.

    Raises:
        BoostingUnavailable: LightGBM is not installed.
    """
    lightgbm = import_lightgbm()
    share = min(TREE_SHARE, TREE_FEATURES / features["train"].shape[1])
    predicted: list[NDArray[np.float64]] = []
    targets = values["train"].shape[1]

    def show(trees: int, limit: int) -> None:
        say(f"target {len(predicted) + 1} of {targets}, {trees} of up to {limit} trees")

    for y, held_out in zip(values["train"].T, values["validation"].T, strict=True):
        stop = lightgbm.early_stopping(TREE_PATIENCE, verbose=False)
        trees = lightgbm.LGBMRegressor(**TREES, colsample_bytree=share, n_jobs=cores())
        trees.fit(
            features["train"],
            y,
            eval_X=features["validation"],
            eval_y=held_out,
            callbacks=[stop, report_trees(show)],
        )
        predicted.append(trees.predict(features["test"]))
    return np.stack(predicted, axis=1)


def _say_more(say: Say, doing: str, more: str) -> None:
    """Say how far a step is."""
    say(f"{doing}, {more}")


PREDICTORS: Mapping[str, Callable[[Matrices, Matrices, Say], NDArray[np.float64]]] = {
    RIDGE: fit_ridge,
    TREES_NAME: fit_trees,
}
"""Predictors for any features: from features and values by split to predictions for test. The
callback receives their progress."""


def _set_network(
    zoo: OpenZoo, weights: Matrices, values: Matrices, say: Say
) -> NDArray[np.float64]:
    if zoo.layout.size > NETWORK_WEIGHTS:
        raise InvalidArgument(
            f"it takes up to {NETWORK_WEIGHTS:,} weights, found {zoo.layout.size:,}"
        )
    predict = set_network.fit(
        weights["train"],
        values["train"],
        weights["validation"],
        values["validation"],
        zoo.layout,
        passes=zoo.settings.network_passes,
        seed=zoo.settings.seed,
        on_progress=lambda done, total: say(f"{WEIGHTS}: {NETWORK}, pass {done} of {total}"),
    )
    return predict(weights["test"])


# --- Scores ---------------------------------------------------------------------------------------


def _values(
    zoo: OpenZoo, rows: Mapping[str, NDArray[np.int64]], targets: Sequence[str]
) -> dict[str, Floats]:
    """Return the values of targets by split, [rows, targets]."""
    return {
        split: np.stack([zoo.states[target][zoo.used.rows[some]] for target in targets], axis=1)
        for split, some in rows.items()
    }


def _scores(
    of: tuple[str, ...], suffix: str, truth: Floats, predicted: Floats, model: NDArray[np.int64]
) -> list[Measure]:
    intervals = number_intervals(truth, predicted, model)
    constant = np.ptp(truth) == 0 or np.ptp(predicted) == 0
    tau = math.nan if constant else float(kendalltau(truth, predicted).statistic)
    return [
        Measure(of, f"R2{suffix}", float(r2(truth, predicted)), intervals[0]),
        Measure(of, f"tau{suffix}", tau, intervals[1]),
    ]


def _numbers(model: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return indices of models without gaps, as intervals need them."""
    return np.unique(model, return_inverse=True)[1]


def _models(zoo: OpenZoo, rows: NDArray[np.int64]) -> int:
    return len(np.unique(zoo.states.model[zoo.used.rows[rows]]))


def _left_out(counts: Mapping[str, int]) -> str:
    """Return a sentence on the states that were left out."""
    said = [f"{count:,} states ({why})" for why, count in counts.items()]
    return f"Left out: {', '.join(said) or 'none'}."
