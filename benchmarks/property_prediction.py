"""Predict properties of a model from its weights by probes: accuracy, epoch, gap, hyperparameters.

The protocol is that of the paper's code (code/model_definitions/def_downstream_module.py). Numbers
are predicted by ridge regression in closed form and float64; its strength, among 17, is that with
the best R2 on validation. Classes (activation, learning rate, ...) are predicted by one linear
softmax layer. Probes are fitted on the train split and reported on the test split. Splits are by
model; data in which a model or its twins lie in two splits are refused. States with a weight above
5 in absolute value are left out, as in the paper's data sets: one model that explodes would
outweigh all others in a linear fit. Gradient-boosted trees (LightGBM) are the strong baseline of
Unterthiner et al. 2020. A user's own predictors are fitted and scored on the same rows and splits.
A new target is one more entry of `TARGETS`.

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
from dataclasses import dataclass, field
from functools import partial
from types import NoneType
from typing import Any

import numpy as np
from datasets import DatasetDict, load_dataset
from scipy.stats import kendalltau

from ..builders.arguments import check_kind
from ..builders.layout import find_layout
from ..builders.phrases import counted
from ..builders.schema import HYPERPARAMETERS
from ..builders.splits import SPLITS, why_empty
from ..errors import InvalidArgument, NoRowsLeft, TooFewModels
from .bootstrap import FEWEST_MODELS, Floats, Interval, number_intervals, r2, share_interval
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
from .representations import REPRESENTATIONS, find_representation, represent
from .rows import (
    LARGE_WEIGHT,
    MAX_WEIGHT,
    WHY_LEFT_OUT,
    Rows,
    read_rows,
    refuse_few_values,
    refuse_leakage,
    split_by_value,
    weights_length,
)
from .states import fingerprint, read_states
from .stored import Matrix, StoredMatrix, in_memory
from .tables import Table, interval, number
from .versions import matrix_threads, versions

TARGETS: Mapping[str, str] = {
    "test_acc": "number",
    "epoch": "number",
    "generalization_gap": "number",
    "sparsity": "number",
    "activation": "class",
    "init": "class",
    "optimizer": "class",
    "dropout": "class",
    "learning_rate": "class",
    "weight_decay": "class",
}
"""Columns that are predicted, and whether as a number (ridge) or as a class (logistic)."""

NUMBERS = tuple(target for target, kind in TARGETS.items() if kind == "number")

PROBES = {"ridge", "logistic", "boosting"}
"""Methods of the protocol."""

FEW_MODELS = 30
"""With fewer test models, scores are too uncertain for comparison with those of papers."""

FEW_VALUES = 10
"""With fewer test values of the hyperparameter that splits were made by, a note says so."""

NO_INTERVAL = f"There is no interval for fewer than {FEWEST_MODELS} test models that differ."

MEMORY = 1 << 30
"""Limit in bytes of weights that are kept in memory. Those of a larger zoo are read from the cache
of datasets whenever they are needed."""

KEEP_ALL = (
    "To keep them: model-zoos benchmark NAME --max-weight inf (in Python: max_weight=math.inf)."
)


@dataclass(frozen=True)
class Score:
    """How well one number is predicted from one representation.

    Attributes:
        target, representation: names.
        method: "ridge", "boosting" or the name of a user's predictor.
        strength: strength of the ridge penalty, chosen on validation; None for other methods.
        r2: R2 by split: 1 is perfect, 0 equals predicting the split's mean, below 0 is worse.
        tau: Kendall's tau-b by split, in [-1, 1].
        r2_interval, tau_interval: 95 % bootstrap intervals on test, over models; NaN with fewer
            than FEWEST_MODELS, or if too few of them differ.
    """

    target: str
    representation: str
    method: str
    strength: float | None
    r2: Mapping[str, float]
    tau: Mapping[str, float]
    r2_interval: Interval
    tau_interval: Interval


@dataclass(frozen=True)
class ClassScore:
    """How well one hyperparameter is recognised from one representation.

    Attributes:
        target, representation: names.
        method: "logistic", "boosting" or the name of a user's predictor.
        classes: number of classes in train.
        accuracy: accuracy by split, a share of states.
        majority: accuracy of always answering the train split's most frequent class.
        accuracy_interval: 95 % bootstrap interval on test, over models.
        unknown: number of states left out of this target because they do not have it.
    """

    target: str
    representation: str
    method: str
    classes: int
    accuracy: Mapping[str, float]
    majority: Mapping[str, float]
    accuracy_interval: Interval
    unknown: int


@dataclass(frozen=True)
class Result:
    """The benchmark of one zoo.

    Attributes:
        zoo: name.
        models, states: numbers of models and states used, by split.
        left_out: reason -> number of states that cannot be used.
        not_scored: target -> reason: it is constant or absent.
        scores: scores of numbers, one for each representation, method and target.
        class_scores: scores of classes.
        settings: offset, max_weight and epochs as given, split_by if it was given, and the number
            of threads of matrix products, on which the last digits depend.
        versions: package -> version, and the processor; empty in results that lack them.
        digest: SHA-256 of all states of the zoo without their weights (`fingerprint`), including
            unused ones; None in results that lack it.
        values: number of values of the hyperparameter `split_by`, by split; empty without it and
            in results that lack it.
    """

    zoo: str
    models: Mapping[str, int]
    states: Mapping[str, int]
    left_out: Mapping[str, int]
    not_scored: Mapping[str, str]
    scores: Sequence[Score]
    class_scores: Sequence[ClassScore]
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    values: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """Return a result from the JSON of `model-zoos benchmark`, which has None for each NaN."""
        scores = [Score(**score) for score in values["scores"]]
        class_scores = [ClassScore(**score) for score in values["class_scores"]]
        return cls(**{**values, "scores": scores, "class_scores": class_scores})

    def tables(self) -> list[Table]:
        """Return a table of numbers, one of classes, and one of the rows that were used."""
        tables, names = [], ("target", "from", "by")

        def add(title: str, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> None:
            unknown = any(row[columns.index("[95 %]")] == "-" for row in rows)
            models = self.models["test"]
            title = f"{self.zoo}: {title} with 95 % intervals over the test models"
            if models < FEW_MODELS:  # in the title, so that it is read before the numbers
                title += f". {counted(models, 'model')}: too few to compare with scores of papers"
            less = ("penalty", "R2 train", "train", "R2 validation", "validation")
            shown = tuple(name for name in less if name in columns)
            notes = (NO_INTERVAL,) * unknown + self._few_values()
            tables.append(Table(title, columns, rows, notes, secondary=shown))

        if self.scores:
            columns = (
                *(*names, "penalty"),
                *(*(f"R2 {split}" for split in SPLITS), "[95 %]", "tau test", "[95 %]"),
            )
            rows = tuple(
                (
                    *(score.target, score.representation, _method(score), _penalty(score)),
                    *(number(score.r2[split]) for split in SPLITS),
                    interval(score.r2_interval),
                    number(score.tau["test"]),
                    interval(score.tau_interval),
                )
                for score in self.scores
            )
            add("numbers, R2 and Kendall's tau", columns, rows)
        if self.class_scores:
            columns = (*names, "classes", *SPLITS, "[95 %]", "most frequent class, test")
            rows = tuple(
                (
                    *(score.target, score.representation, _method(score), str(score.classes)),
                    *(number(score.accuracy[split]) for split in SPLITS),
                    interval(score.accuracy_interval),
                    number(score.majority["test"]),
                )
                for score in self.class_scores
            )
            add("classes, accuracy", columns, rows)
        return [*tables, self._used()]

    def _few_values(self) -> tuple[str, ...]:
        """Return a note that the intervals are over models of a few values of `split_by`."""
        count, by = self.values.get("test", FEW_VALUES), self.settings.get("split_by")
        if count >= FEW_VALUES:
            return ()
        return (
            f"The intervals are over models of {counted(count, 'value')} of {by} and say nothing "
            "about others.",
        )

    def _used(self) -> Table:
        left_out = [f"{count:,} states ({why})" for why, count in self.left_out.items() if count]
        not_scored = [f"{target} ({why})" for target, why in self.not_scored.items()]
        large = any(count and why.startswith(LARGE_WEIGHT) for why, count in self.left_out.items())
        notes = [
            f"Left out: {', '.join(left_out) or 'none'}.",
            *([f"{WHY_LEFT_OUT} {KEEP_ALL.replace('NAME', self.zoo)}"] if large else []),
            f"Not scored: {', '.join(not_scored) or 'none'}.",
        ]
        counts = {"models": self.models, "states": self.states}
        by = self.settings.get("split_by")
        if self.values:
            counts = {f"values of {by}": self.values, **counts}
        return Table(
            f"{self.zoo}: rows that were used" + (f", split by {by}" if by else ""),
            ("number of", *SPLITS),
            tuple((what, *(f"{n[split]:,}" for split in SPLITS)) for what, n in counts.items()),
            tuple(notes),
        )


def _method(score: Score | ClassScore) -> str:
    return "trees" if score.method == "boosting" else score.method


def _penalty(score: Score) -> str:
    """Return the strength of the ridge penalty without an exponent, "-" for other methods."""
    return "-" if score.strength is None else np.format_float_positional(score.strength, trim="-")


# --- The benchmark --------------------------------------------------------------------------------


LAST = "last"
"""Value of epochs that selects the last state of each model."""


def predict_properties(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    representations: Sequence[str] = tuple(REPRESENTATIONS),
    targets: Sequence[str] = tuple(TARGETS),
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
        targets: keys of `TARGETS`; those that are constant or absent are reported as not scored.
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
    check_kind(predictors, (Mapping, NoneType), "predictors must be {name: function}")
    own = dict(predictors or {})
    for name_of, fit in own.items():
        if not callable(fit):
            raise InvalidArgument(f"the predictor {name_of!r} is no function: {fit!r:.60}")
    if taken := sorted(PROBES & set(own)):
        raise InvalidArgument(f"a predictor cannot be named {taken[0]!r}: a probe has this name")
    for what, names in (("targets", targets), ("representations", representations)):
        if isinstance(names, str):
            raise InvalidArgument(f"{what} is a list of names: {what}=[{names!r}]")
    functions = {key: find_representation(key) for key in representations}
    for what, given, known in (
        ("target", targets, TARGETS),
        ("offset", [offset], OFFSETS),
        ("hyperparameter", filter(None, [split_by]), HYPERPARAMETERS),
    ):
        if unknown := [value for value in given if value not in known]:
            raise InvalidArgument(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    if not max_weight > 0:
        raise InvalidArgument(
            f"max_weight must be above 0, found {max_weight}; {math.inf} keeps all states"
        )
    if boosting:
        import_lightgbm()
    if isinstance(epochs, str) and epochs != LAST:
        raise InvalidArgument(f"epochs are a list of numbers or {LAST!r}, found {epochs!r}")
    final = epochs == LAST
    chosen = None if epochs is None or final else [int(epoch) for epoch in epochs]
    states = read_states(name, data_dir, on_bad_files="skip")
    if split_by is not None:  # before the weights are read
        refuse_few_values(states[split_by], split_by, name)
    digest = fingerprint(states)
    del states
    splits = _load(name, data_dir, targets, chosen, final, split_by)
    values_by_split: dict[str, int] = {}
    if split_by is not None:
        splits, values_by_split = split_by_value(splits, split_by, name)
    if why := why_empty({split: len(rows.unique("model_id")) for split, rows in splits.items()}):
        raise TooFewModels(f"{name} cannot be benchmarked: {why}")
    refuse_leakage(splits)
    not_scored: dict[str, str] = {}
    for target in targets:
        columns = {split: splits[split].with_format("arrow")[target] for split in SPLITS}
        absent = [split for split in SPLITS if columns[split].null_count == len(splits[split])]
        if absent:
            where = "" if len(absent) == len(SPLITS) else f" in {', '.join(absent)}"
            not_scored[target] = f"absent{where}"

    def scored(kind: str) -> list[str]:
        return [t for t in targets if TARGETS[t] == kind and t not in not_scored]

    left_out: dict[str, int] = {}
    kinds = (scored("number"), scored("class"))
    size = sum(4 * len(split) * weights_length(split) for split in splits.values())
    stored = size > memory and split_by is None
    rows = {s: read_rows(splits[s], *kinds, max_weight, left_out, stored=stored) for s in SPLITS}
    layout = find_layout(splits["train"][0]["architecture"], rows["train"].weights.shape[1])
    del splits  # frees the memory-mapped rows
    for split in SPLITS:
        if (count := len(rows[split].weights)) < 2:
            raise TooFewModels(
                f"{name} has {count} usable states in {split}, and each split needs 2 or more: use "
                "more models, more epochs, or a larger max_weight"
            )
    for target, column in rows["train"].columns.items():
        values = set(column.tolist()) - {None}
        if len(values) < 2:
            value = next(iter(values), None)
            not_scored[target] = f"constant: {value}" if values else "absent in train"
    numbers, classes = scored("number"), scored("class")
    labels = {target: labels_of({s: rows[s].columns[target] for s in SPLITS}) for target in classes}

    trees: dict[str, Predictor] = {}
    if boosting:
        trees["boosting"] = partial(boosted_trees, on_progress=lambda *trees: say_trees(*trees))
    fits = len(numbers) * len(own | trees) + len(classes) * len({"logistic", *own, *trees})
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
        features = {s: represent(representation, function, rows[s].weights, layout) for s in SPLITS}
        if numbers:
            say(f"{representation}: ridge")
            best = ridge(features, {s: rows[s].matrix(numbers) for s in SPLITS}, offset)
            for target, (strength, predicted) in zip(numbers, best, strict=True):
                scores.append(_score(target, representation, "ridge", strength, rows, predicted))
        scaled = standardise(features) if classes or (own and standardised) else features
        on_disk = {s: x for s, x in scaled.items() if isinstance(x, StoredMatrix)}
        seen = _seen_by(
            (() if on_disk else ("logistic",), scaled),
            (trees, features),
            (own, scaled if standardised else features),
        )
        for method, fit in (trees | own).items():
            for target in numbers:
                say(f"{representation}: {target} by {method}")
                truth = {split: rows[split].columns[target] for split in SPLITS}
                predicted = predict_splits(method, fit, seen[method], truth)
                scores.append(_score(target, representation, method, None, rows, predicted))
        together: Mapping[str, Predictions] = {}
        for target in classes:
            of_target = labels[target]
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
    return Result(
        zoo=name,
        models={split: int(rows[split].model[-1]) + 1 for split in SPLITS},
        states={split: len(rows[split].weights) for split in SPLITS},
        left_out=left_out,
        not_scored={target: not_scored[target] for target in targets if target in not_scored},
        scores=scores,
        class_scores=class_scores,
        settings={
            "offset": offset,
            "max_weight": float(max_weight),
            "epochs": LAST if final else chosen,
            **({} if split_by is None else {"split_by": split_by}),
            "threads": matrix_threads(),
        },
        versions=versions(),
        digest=digest,
        values=values_by_split,
    )


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
    targets: Sequence[str],
    epochs: Sequence[int] | None,
    final: bool,
    split_by: str | None,
) -> DatasetDict:
    """Load the three splits of a zoo, with `split_by` among the columns, or raise TooFewModels."""
    columns = ("zoo", "model_id", "parent_model_id", "epoch", "architecture", "weights")
    try:
        splits = load_dataset(
            "model_zoos",
            name,
            data_dir=None if data_dir is None else str(data_dir),
            columns=list(dict.fromkeys([*columns, *targets, *filter(None, [split_by])])),
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
