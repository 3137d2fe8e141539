"""Predict properties of a model from its weights by probes: accuracy, epoch, gap, hyperparameters.

The protocol is that of the paper's code (code/model_definitions/def_downstream_module.py). Numbers
are predicted by ridge regression in closed form and float64; its strength, among 17, is that with
the best R2 on validation. Classes (activation, learning rate, ...) are predicted by one linear
softmax layer. Probes are fitted on the train split and reported on the test split. Splits are by
model; data in which a model or its twins lie in two splits are refused. States with a weight above
5 in absolute value are left out, as in the paper's data sets: one model that explodes would
outweigh all others in a linear fit. Gradient-boosted trees (LightGBM) are the strong baseline of
Unterthiner et al. 2020. A user's own predictors are fitted and scored on the same rows and splits.
Targets are in targets.py.

Three things are added: Kendall's tau, the accuracy of always answering the most frequent class, and
95 % bootstrap intervals over the models of the test split. Two things differ: the offset is not
regularised, unless that is asked for, and the softmax layer is scikit-learn's logistic regression,
where the paper's code trains one with Adam.

Rows are first sorted by model and epoch, so results do not depend on the order of the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType

import numpy as np
from datasets import DatasetDict, load_dataset
from scipy.stats import kendalltau

from ..builders.arguments import check_kind
from ..builders.layout import Layout, find_layout
from ..builders.schema import HYPERPARAMETERS
from ..builders.splits import SPLITS, why_empty
from ..errors import InvalidArgument, NoRowsLeft, TooFewModels
from .bootstrap import Floats, number_intervals, r2, share_interval
from .logistic import Labels, labels_of, logistic, logistic_by_blocks
from .probes import (
    OFFSETS,
    Arrays,
    Predictions,
    Predictor,
    boosted_trees,
    import_lightgbm,
    predict_splits,
    ridge,
    standardise,
)
from .property_result import ClassScore, Result, Score
from .representations import (
    REPRESENTATIONS,
    Representation,
    find_representation,
    represent,
)
from .rows import (
    MAX_WEIGHT,
    Rows,
    read_rows,
    refuse_few_values,
    refuse_leakage,
    split_by_value,
    weights_length,
)
from .states import fingerprint, read_states
from .stored import Matrix, StoredMatrix, in_memory
from .targets import CLASS, NUMBER, TARGETS, Function, Target, add_values, find_targets
from .versions import matrix_threads, versions

PROBES = {"ridge", "logistic", "boosting"}
"""Methods of the protocol."""

MEMORY = 1 << 30
"""Limit in bytes of weights that are kept in memory. Those of a larger zoo are read from the cache
of datasets whenever they are needed."""

LAST = "last"
"""Value of epochs that selects the last state of each model."""


def predict_properties(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    representations: Sequence[str] = tuple(REPRESENTATIONS),
    targets: Iterable[str] | Mapping[str, str | Function] = tuple(TARGETS),
    epochs: Sequence[int] | str | None = None,
    max_weight: float = MAX_WEIGHT,
    offset: str = "free",
    split_by: str | None = None,
    boosting: bool = False,
    predictors: Mapping[str, Predictor] | None = None,
    standardised: bool = True,
    memory: int = MEMORY,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Benchmark a zoo, read through load_dataset.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        representations: keys of representations.REPRESENTATIONS, or "module:function".
        targets: what is predicted, see `targets.find_targets`; targets that are constant or absent
            are reported as not scored. A state that lacks one of the numbers is left out.
        epochs: epochs of the states that are used; "last" for each model's last, None for all.
        max_weight: states with a larger weight (in absolute value) are left out; above 0, and
            math.inf keeps all finite states.
        offset: one of `probes.OFFSETS`.
        split_by: hyperparameter, such as "seed"; all models with the same value are put into one
            split, and the weights are then kept in memory. None for the splits of the zoo.
        boosting: whether to fit gradient-boosted trees too, which takes minutes on weights.
        predictors: name -> your own predictor, `fit(x, y, validation_x, validation_y)` which
            returns `predict(x)`; see `probes.Predictor`. Each is fitted for each representation and
            target, and never sees the values of the test split.
        standardised: whether these predictors get float32 features standardised by their mean and
            standard deviation in train, or those of the representation unchanged.
        memory: limit in bytes of weights that are kept in memory. For larger zoos a representation
            gets some rows at a time; users' predictors and trees still get all of the features at
            once.
        on_progress: called with the name of the next step, the number of steps done, and of all
            steps; during a step with trees, their number is in its name.
    Raises:
        TooFewModels: one of the three splits has fewer than two usable states, there is no state
            of an epoch, or `split_by` has fewer than five values.
        Leakage: a model, or twins of one parent, in two splits.
        BoostingUnavailable: boosting was asked for without LightGBM.
        InvalidArgument: unknown representation, target, offset or hyperparameter; a predictor
            with the name of a probe, or one that does not return finite numbers.
    """
    own = _checked(predictors, epochs, offset, split_by, max_weight)
    if isinstance(representations, str):
        raise InvalidArgument(f"representations is a list: representations=[{representations!r}]")
    functions = {key: find_representation(key) for key in representations}
    wanted = find_targets(targets)
    if boosting:
        import_lightgbm()
    chosen = None if epochs is None or epochs == LAST else [int(epoch) for epoch in epochs]
    states = read_states(name, data_dir, on_bad_files="skip")
    if split_by is not None:  # before the weights are read
        refuse_few_values(states[split_by], split_by, name)
    digest = fingerprint(states)
    del states
    splits = _load(name, data_dir, wanted, chosen, epochs == LAST, split_by)
    splits, kinds = add_values(splits, wanted, name, data_dir)
    values_by_split: dict[str, int] = {}
    if split_by is not None:
        splits, values_by_split = split_by_value(splits, split_by, name)
    if why := why_empty({split: len(rows.unique("model_id")) for split, rows in splits.items()}):
        raise TooFewModels(f"{name} cannot be benchmarked: {why}")
    refuse_leakage(splits)
    given = _given(name, splits, kinds, max_weight, memory if split_by is None else math.inf)
    del splits  # frees the memory-mapped rows
    scores, class_scores = _scored(
        given, functions, own, offset, boosting, standardised, on_progress
    )
    return Result(
        zoo=name,
        models={split: int(given.rows[split].model[-1]) + 1 for split in SPLITS},
        states={split: len(given.rows[split].weights) for split in SPLITS},
        left_out=given.left_out,
        not_scored=given.not_scored,
        scores=scores,
        class_scores=class_scores,
        settings={
            "offset": offset,
            "max_weight": float(max_weight),
            "epochs": LAST if epochs == LAST else chosen,
            **({} if split_by is None else {"split_by": split_by}),
            "threads": matrix_threads(),
        },
        versions=versions(),
        digest=digest,
        values=values_by_split,
    )


def _checked(
    predictors: Mapping[str, Predictor] | None,
    epochs: Sequence[int] | str | None,
    offset: str,
    split_by: str | None,
    max_weight: float,
) -> dict[str, Predictor]:
    """Check arguments of `predict_properties`, and return the predictors.

    Raises:
        InvalidArgument: one of them cannot be used.
    """
    check_kind(predictors, (Mapping, NoneType), "predictors must be {name: function}")
    own = dict(predictors or {})
    for name, fit in own.items():
        if not callable(fit):
            raise InvalidArgument(f"the predictor {name!r} is no function: {fit!r:.60}")
    if taken := sorted(PROBES & set(own)):
        raise InvalidArgument(f"a predictor cannot be named {taken[0]!r}: a probe has this name")
    if offset not in OFFSETS:
        raise InvalidArgument(f"unknown offset {offset!r}; known: {', '.join(OFFSETS)}")
    if split_by is not None and split_by not in HYPERPARAMETERS:
        raise InvalidArgument(
            f"unknown hyperparameter {split_by!r}; known: {', '.join(HYPERPARAMETERS)}"
        )
    if not max_weight > 0:
        raise InvalidArgument(
            f"max_weight must be above 0, found {max_weight}; {math.inf} keeps all states"
        )
    if isinstance(epochs, str) and epochs != LAST:
        raise InvalidArgument(f"epochs are a list of numbers or {LAST!r}, found {epochs!r}")
    return own


@dataclass(frozen=True)
class _Given:
    """What is given to probes.

    Attributes:
        rows: the usable rows by split.
        layout: layout of their weights.
        numbers: targets that are numbers.
        labels: target that is a class -> its classes.
        left_out: reason -> number of states that cannot be used.
        not_scored: target -> reason.
    """

    rows: Mapping[str, Rows]
    layout: Layout
    numbers: Sequence[str]
    labels: Mapping[str, Labels]
    left_out: Mapping[str, int]
    not_scored: Mapping[str, str]


def _given(
    zoo: str, splits: DatasetDict, kinds: Mapping[str, str], max_weight: float, memory: float
) -> _Given:
    """Read the usable rows, and find the targets that can be scored.

    Args:
        zoo: name, for messages.
        splits: rows with weights and a column for each target.
        kinds: target -> "number" or "class".
        max_weight, memory: see `predict_properties`.

    Raises:
        TooFewModels: a split has fewer than two usable states.
    """
    not_scored: dict[str, str] = {}
    for target in kinds:
        columns = {split: splits[split].with_format("arrow")[target] for split in SPLITS}
        absent = [split for split in SPLITS if columns[split].null_count == len(splits[split])]
        if absent:
            where = "" if len(absent) == len(SPLITS) else f" in {', '.join(absent)}"
            not_scored[target] = f"absent{where}"

    def scored(kind: str) -> list[str]:
        return [t for t, its_kind in kinds.items() if its_kind == kind and t not in not_scored]

    left_out: dict[str, int] = {}
    stored = sum(4 * len(rows) * weights_length(rows) for rows in splits.values()) > memory
    numbers, classes = scored(NUMBER), scored(CLASS)
    rows = {
        split: read_rows(splits[split], numbers, classes, max_weight, left_out, stored=stored)
        for split in SPLITS
    }
    for split in SPLITS:
        if (count := len(rows[split].weights)) < 2:
            raise TooFewModels(
                f"{zoo} has {count} usable states in {split}, and each split needs 2 or more: use "
                "more models, more epochs, or a larger max_weight"
            )
    for target, column in rows["train"].columns.items():
        values = set(column.tolist()) - {None}
        if len(values) < 2:
            value = next(iter(values), None)
            not_scored[target] = f"constant: {value}" if values else "absent in train"
    return _Given(
        rows=rows,
        layout=find_layout(splits["train"][0]["architecture"], rows["train"].weights.shape[1]),
        numbers=scored(NUMBER),
        labels={t: labels_of({s: rows[s].columns[t] for s in SPLITS}) for t in scored(CLASS)},
        left_out=left_out,
        not_scored={target: not_scored[target] for target in kinds if target in not_scored},
    )


def _scored(
    given: _Given,
    functions: Mapping[str, Representation],
    own: Mapping[str, Predictor],
    offset: str,
    boosting: bool,
    standardised: bool,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[list[Score], list[ClassScore]]:
    """Fit every method to every target from every representation; return the scores.

    Args:
        given: rows and targets.
        functions: representations by name.
        own: the user's predictors.
        offset, boosting, standardised, on_progress: see `predict_properties`.
    """
    rows, numbers, labels = given.rows, given.numbers, given.labels
    trees: dict[str, Predictor] = {}
    if boosting:
        trees["boosting"] = partial(boosted_trees, on_progress=lambda *trees: say_trees(*trees))
    fits = len(numbers) * len({**own, **trees}) + len(labels) * len({"logistic", *own, *trees})
    steps = len(functions) * (1 + bool(numbers) + fits)
    done, step = 0, ""

    def say(what: str) -> None:
        nonlocal done, step
        if on_progress is not None:
            on_progress(what, done, steps)
        done, step = done + 1, what

    def say_trees(trees: int, limit: int) -> None:
        if on_progress is not None:
            on_progress(f"{step}, {trees} of up to {limit} trees", done - 1, steps)

    scores: list[Score] = []
    class_scores: list[ClassScore] = []
    for representation, function in functions.items():
        say(representation)
        features = {
            s: represent(representation, function, rows[s].weights, given.layout) for s in SPLITS
        }
        if numbers:
            say(f"{representation}: ridge")
            best = ridge(features, {s: rows[s].matrix(numbers) for s in SPLITS}, offset)
            for target, (strength, predicted) in zip(numbers, best, strict=True):
                scores.append(_score(target, representation, "ridge", strength, rows, predicted))
        scaled = standardise(features) if labels or (own and standardised) else features
        on_disk = {s: x for s, x in scaled.items() if isinstance(x, StoredMatrix)}
        seen = _seen_by(
            (() if on_disk else ("logistic",), scaled),
            (trees, features),
            (own, scaled if standardised else features),
        )
        for method, fit in {**trees, **own}.items():
            for target in numbers:
                say(f"{representation}: {target} by {method}")
                truth = {split: rows[split].columns[target] for split in SPLITS}
                predicted = predict_splits(method, fit, seen[method], truth)
                scores.append(_score(target, representation, method, None, rows, predicted))
        together: Mapping[str, Predictions] = {}
        for target, of_target in labels.items():
            for method, fit in {"logistic": logistic, **trees, **own}.items():
                what = target if method in seen else "all classes"
                say(f"{representation}: {what} by {method}")
                if method in seen:
                    inputs = of_target.select(seen[method])
                    answers = predict_splits(method, fit, inputs, of_target.codes)
                else:
                    together = together or logistic_by_blocks(on_disk, labels)
                    answers = together[target]
                class_scores.append(
                    _class_score(target, representation, method, rows, of_target, answers)
                )
    return scores, class_scores


def _seen_by(*given: tuple[Iterable[str], Mapping[str, Matrix]]) -> dict[str, Arrays]:
    """Return what each method sees by split, in memory.

    Args:
        given: names of methods, and what they see by split, which is read if there are any.
    """
    seen: dict[str, Arrays] = {}
    for methods, matrices in given:
        if names := list(methods):
            whole: Arrays = {split: in_memory(x) for split, x in matrices.items()}
            seen |= dict.fromkeys(names, whole)
    return seen


def _load(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    targets: Sequence[Target],
    epochs: Sequence[int] | None,
    final: bool,
    split_by: str | None,
) -> DatasetDict:
    """Load the three splits of a zoo, with `split_by` among the columns, or raise TooFewModels."""
    columns = ["zoo", "model_id", "parent_model_id", "epoch", "architecture", "weights"]
    columns += [column for target in targets for column in target.columns]
    try:
        splits = load_dataset(
            "model_zoos",
            name,
            data_dir=None if data_dir is None else str(data_dir),
            columns=list(dict.fromkeys([*columns, *filter(None, [split_by])])),
            filters=None if epochs is None else [("epoch", "in", list(epochs))],
            final=final,
        )
    except NoRowsLeft as error:
        chosen = ", ".join(map(str, epochs or ()))
        raise TooFewModels(
            f"{name} has no state of epoch {chosen} in at least one of the splits "
            f"{', '.join(SPLITS)}: choose other epochs"
        ) from error
    found = set().union(*(split.unique("epoch") for split in splits.values()))
    if absent := sorted(set(epochs or ()) - found):
        raise TooFewModels(f"{name} has no state of epoch {', '.join(map(str, absent))}")
    return splits


def _score(
    target: str,
    representation: str,
    method: str,
    strength: float | None,
    rows: Mapping[str, Rows],
    predicted: Predictions,
) -> Score:
    truth: dict[str, Floats] = {split: rows[split].columns[target] for split in SPLITS}
    intervals = number_intervals(truth["test"], predicted["test"], rows["test"].model)
    return Score(
        target=target,
        representation=representation,
        method=method,
        strength=strength,
        r2={s: float(r2(truth[s], predicted[s])) for s in SPLITS},
        tau={s: float(kendalltau(truth[s], predicted[s]).statistic) for s in SPLITS},
        r2_interval=intervals[0],
        tau_interval=intervals[1],
    )


def _class_score(
    target: str,
    representation: str,
    method: str,
    rows: Mapping[str, Rows],
    labels: Labels,
    answers: Predictions,
) -> ClassScore:
    codes = labels.codes
    right = {split: answer == codes[split] for split, answer in answers.items()}
    frequent = np.bincount(codes["train"]).argmax()
    return ClassScore(
        target=target,
        representation=representation,
        method=method,
        classes=labels.classes,
        accuracy={split: float(right[split].mean()) for split in SPLITS},
        majority={split: float((codes[split] == frequent).mean()) for split in SPLITS},
        accuracy_interval=share_interval(right["test"], rows["test"].model[labels.known["test"]]),
        unknown=sum(int((~mask).sum()) for mask in labels.known.values()),
    )
