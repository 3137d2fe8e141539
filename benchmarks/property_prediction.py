"""What weights tell about a model: its accuracy, epoch, gap and hyperparameters, by linear probes.

The protocol is the original's (code/model_definitions/def_downstream_module.py). Numbers: ridge
regression in closed form and float64 for each target, the strength among 17 chosen by R2 on the
validation split. Classes (activation, learning rate, ...): one linear softmax layer. Everything is
fitted on the train split and reported on the test split; splits are by model, and data in which a
model or its twins lie in two splits are refused. States with a weight above 5 in size are left out,
as the original's data sets leave them out: one model that explodes would outweigh all others in a
linear fit. Gradient-boosted trees (LightGBM) are the strong baseline of Unterthiner et al. 2020.

What is added: Kendall's tau; the accuracy of always answering the most frequent class; 95 %
bootstrap intervals over the test split's models, since the states of one model are not
independent. What differs: the offset is not regularised, unless that is asked for; the softmax
layer is scikit-learn's logistic regression where the original trained one with Adam.

Rows are sorted by model and epoch first, so that results do not depend on the order of the data.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import model_zoos

from ..builders.catalog import dense_name
from ..builders.layout import find_layout
from ..builders.splits import SPLITS
from ..errors import BoostingUnavailable, Leakage, TooFewModels
from .representations import REPRESENTATIONS, find_representation, represent

NUMBERS = ("test_acc", "epoch", "generalization_gap", "sparsity")
CLASSES = ("activation", "init", "optimizer", "dropout", "learning_rate", "weight_decay")
TARGETS = (*NUMBERS, *CLASSES)

STRENGTHS = (
    *(1e3, 3e2, 1e2, 3e1, 1e1, 3e0, 1e0, 3e-1, 1e-1),
    *(3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
)
"""The original's 17."""

MAX_WEIGHT = 5.0
"""The original's threshold (code/checkpoints_to_datasets/dataset_base.py, weight_threshold)."""

OFFSETS = ("free", "regularised")
"""How the ridge treats the offset: "regularised" as the original, as one more feature that is 1."""

LOGISTIC = {"C": 0.1, "solver": "lbfgs", "max_iter": 100}
"""Of scikit-learn's LogisticRegression, on standardised features in float32. The original's layer
is stopped after 50 epochs with a weight decay of 1e-6, hardly regularised; so is this one: with
more iterations or any C from 0.1 to 10 the accuracies of digits_cnn_s on test change by .03 or
less, and 51,000 rows take seconds."""

BOOSTING = {
    "n_estimators": 1000,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "colsample_bytree": 0.3,
    "deterministic": True,
    "force_col_wise": True,
    "random_state": 0,
    "verbosity": -1,
}
"""Of LightGBM; trees are added until the validation split has not gained for 50 of them."""
BOOSTING_PATIENCE = 50

RESAMPLES = 1000
"""Of the bootstrap."""

_BLOCK_BYTES = 64 << 20
"""Of float64 that a matrix is converted to at a time."""


@dataclass(frozen=True)
class Score:
    """How well one number is predicted from one representation.

    Attributes:
        target, representation: names.
        method: "ridge" or "boosting".
        strength: of the ridge penalty, chosen on validation; None for boosting.
        r2: by split; 1 is perfect, 0 is the split's mean, below 0 is worse than that.
        tau: Kendall's tau-b by split, in [-1, 1].
        r2_interval, tau_interval: 95 % bootstrap intervals on test, over models; NaN where too
            few models differ.
    """

    target: str
    representation: str
    method: str
    strength: float | None
    r2: Mapping[str, float]
    tau: Mapping[str, float]
    r2_interval: tuple[float, float]
    tau_interval: tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """How well one hyperparameter is recognised from one representation.

    Attributes:
        target, representation: names.
        method: "logistic" or "boosting".
        classes: number of them in train.
        accuracy: by split, share of states.
        majority: accuracy of always answering the train split's most frequent class.
        accuracy_interval: 95 % bootstrap interval on test, over models.
        unknown: states left out of this target because they do not have it.
    """

    target: str
    representation: str
    method: str
    classes: int
    accuracy: Mapping[str, float]
    majority: Mapping[str, float]
    accuracy_interval: tuple[float, float]
    unknown: int


@dataclass(frozen=True)
class Result:
    """The benchmark of one zoo.

    Attributes:
        zoo: name.
        models, states: by split, as used.
        left_out: states that cannot be used, by reason.
        not_scored: target -> why: it is constant or absent.
        scores: of numbers, one for each representation, method and target.
        class_scores: of classes.
        settings: offset, max_weight and epochs as given.
    """

    zoo: str
    models: Mapping[str, int]
    states: Mapping[str, int]
    left_out: Mapping[str, int]
    not_scored: Mapping[str, str]
    scores: Sequence[Score]
    class_scores: Sequence[ClassScore]
    settings: Mapping[str, Any] = field(default_factory=dict)


def predict_properties(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    representations: Sequence[str] = tuple(REPRESENTATIONS),
    targets: Sequence[str] = TARGETS,
    epochs: Sequence[int] | None = None,
    max_weight: float = MAX_WEIGHT,
    offset: str = "free",
    boosting: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Benchmark a zoo, read through load_dataset.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        representations: keys of representations.REPRESENTATIONS, or "module:function".
        targets: some of `TARGETS`; those that are constant or absent are reported as such.
        epochs: use only these; None for all.
        max_weight: states with a larger weight (in size) are left out; math.inf keeps all that
            are finite.
        offset: one of `OFFSETS`.
        boosting: also fit gradient-boosted trees, which takes minutes on weights.
        on_progress: called with what is done next, steps done, steps in all.

    Raises:
        TooFewModels: one of the three splits has fewer than two usable states.
        Leakage: a model, or twins of one parent, in two splits.
        BoostingUnavailable: boosting was asked for without LightGBM.
        ValueError: unknown representation, target or offset.
    """
    functions = {
        representation: find_representation(representation) for representation in representations
    }
    if unknown := [target for target in targets if target not in TARGETS]:
        raise ValueError(f"unknown target {unknown[0]!r}; known: {', '.join(TARGETS)}")
    if offset not in OFFSETS:
        raise ValueError(f"unknown offset {offset!r}; known: {', '.join(OFFSETS)}")
    if boosting:
        _import_lightgbm()
    columns = ["zoo", "model_id", "parent_model_id", "epoch", "architecture", "weights"]
    try:
        splits = load_dataset(
            "model_zoos",
            name,
            data_dir=None if data_dir is None else str(data_dir),
            columns=[*columns, *(target for target in targets if target not in columns)],
            filters=None if epochs is None else [("epoch", "in", [int(epoch) for epoch in epochs])],
        )
    except ValueError as error:
        if epochs is None or "leave no row" not in str(error):
            raise
        chosen = ", ".join(map(str, epochs))
        raise TooFewModels(
            f"{name} has no state of epoch {chosen} in one of {', '.join(SPLITS)}, or none at all"
        ) from None
    found = set().union(*(split.unique("epoch") for split in splits.values()))
    if absent := sorted(set(epochs or ()) - found):
        raise TooFewModels(f"{name} has no state of epoch {', '.join(map(str, absent))}")
    if missing := [split for split in SPLITS if split not in splits]:
        raise TooFewModels(
            f"{name} has no model in {', '.join(missing)}: the benchmark needs all three splits "
            "(about 7 models or more)"
        )
    refuse_leakage(splits)
    not_scored: dict[str, str] = {}
    for target in targets:
        absent = [s for s in SPLITS if splits[s].data.column(target).null_count == len(splits[s])]
        if absent:
            where = "" if len(absent) == len(SPLITS) else f" in {', '.join(absent)}"
            not_scored[target] = f"absent{where}"
    numbers = [t for t in targets if t in NUMBERS and t not in not_scored]
    labels = [t for t in targets if t in CLASSES and t not in not_scored]
    left_out: dict[str, int] = {}
    rows = {s: _read(splits[s], numbers, labels, max_weight, left_out) for s in SPLITS}
    layout = find_layout(splits["train"][0]["architecture"], rows["train"].weights.shape[1])
    del splits  # the memory-mapped rows are not needed any more
    for split in SPLITS:
        if len(rows[split].weights) < 2:
            count = len(rows[split].weights)
            raise TooFewModels(f"{name} has {count} usable states in {split}: too few")
    for target in [*numbers, *labels]:
        values = set(rows["train"].columns[target].tolist()) - {None}
        if len(values) < 2:
            value = next(iter(values), None)
            not_scored[target] = f"constant: {value}" if values else "absent in train"
    numbers = [target for target in numbers if target not in not_scored]
    labels = [target for target in labels if target not in not_scored]

    methods = 1 + boosting
    steps = len(functions) * (1 + (bool(numbers) + len(labels)) * methods)
    done = 0

    def say(what: str) -> None:
        nonlocal done
        if on_progress is not None:
            on_progress(what, done, steps)
        done += 1

    scores: list[Score] = []
    class_scores: list[ClassScore] = []
    for representation, function in functions.items():
        say(f"{representation}")
        features = {s: represent(representation, function, rows[s].weights, layout) for s in SPLITS}
        if numbers:
            say(f"{representation}: ridge")
            values = {s: rows[s].matrix(numbers) for s in SPLITS}
            for target, (strength, predicted) in zip(
                numbers, ridge(features, values, offset), strict=True
            ):
                scores.append(_score(target, representation, "ridge", strength, rows, predicted))
        if numbers and boosting:
            say(f"{representation}: boosted trees")
            for target in numbers:
                predicted = _boosted_numbers(features, {s: rows[s].columns[target] for s in SPLITS})
                scores.append(_score(target, representation, "boosting", None, rows, predicted))
        standardised = _standardise(features) if labels else {}
        for target in labels:
            for method, matrices, classify in (
                ("logistic", standardised, _logistic),
                ("boosting", features, _boosted_classes),
            )[:methods]:
                say(f"{representation}: {target}")
                class_scores.append(
                    _class_score(target, representation, method, rows, matrices, classify)
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
            "epochs": None if epochs is None else [int(epoch) for epoch in epochs],
        },
    )


def refuse_leakage(splits: Mapping[str, Dataset]) -> None:
    """Make sure that no model, and no family of a parent and its twins, lies in two splits.

    Args:
        splits: split -> rows with the columns zoo, model_id and parent_model_id.

    Raises:
        Leakage: names the first.
    """
    found: dict[tuple[str, str], str] = {}
    for split, dataset in splits.items():
        # By model, not by row: a zoo has 51 rows a model.
        table = dataset.data.table.select(["zoo", "model_id", "parent_model_id"])
        if dataset._indices is not None:
            table = table.take(dataset._indices.column(0))
        table = table.group_by(table.column_names).aggregate([])
        for row in table.to_pylist():
            zoo = dense_name(row["zoo"])
            family = (zoo, row["parent_model_id"] or row["model_id"])
            if found.setdefault(family, split) != split:
                kind = "a state of" if row["parent_model_id"] is None else "a twin of"
                raise Leakage(
                    f"{kind} the model {family[1]} of {zoo} lies in {split}, another one in "
                    f"{found[family]}: scores would be those of models seen in training. Splits "
                    "are by model, and a twin lies in its parent's (splits.json)"
                )


# --- Rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """The usable rows of a split, sorted by zoo, model and epoch.

    Attributes:
        weights: float32 [rows, N].
        columns: target -> [rows]: float64 for numbers, objects (None: unknown) for classes.
        model: int64 [rows], 0, 1, ...: rows of one model lie together.
    """

    weights: np.ndarray
    columns: Mapping[str, np.ndarray]
    model: np.ndarray

    def matrix(self, targets: Sequence[str]) -> np.ndarray:
        return np.stack([self.columns[target] for target in targets], axis=1)


def _read(
    dataset: Dataset,
    numbers: Sequence[str],
    labels: Sequence[str],
    max_weight: float,
    left_out: dict[str, int],
) -> _Rows:
    """Read one split and count what is left out."""
    plain = dataset.with_format("arrow")
    zoos, models = (plain[key].to_numpy(zero_copy_only=False) for key in ("zoo", "model_id"))
    # As float64 an accuracy keeps the bits of its float32.
    columns = {
        target: plain[target].to_numpy(zero_copy_only=False).astype(np.float64)
        for target in numbers
    }
    columns |= {target: np.array(plain[target].to_pylist(), dtype=object) for target in labels}
    names = np.char.add(np.char.add(zoos.astype(str), "/"), models.astype(str))
    order = np.lexsort((plain["epoch"].to_numpy(), names))
    matrix = model_zoos.weights(dataset).numpy()
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    kept = np.ones(len(matrix), bool)
    known = np.isfinite(np.stack([columns[t] for t in numbers] or [np.zeros(len(matrix))]))
    for reason, good in (
        ("weights not finite", np.isfinite(largest)),
        (f"a weight above {max_weight:g}", largest <= max_weight),
        ("target absent", known.all(axis=0)),
    ):
        left_out[reason] = left_out.get(reason, 0) + int((kept & ~good).sum())
        kept &= good
    order = order[kept[order]]
    if len(order) < len(matrix) or (order[1:] < order[:-1]).any():
        matrix = matrix[order]
    names = names[order]
    new = np.ones(len(names), bool)
    new[1:] = names[1:] != names[:-1]
    return _Rows(
        matrix,
        {target: column[order] for target, column in columns.items()},
        np.cumsum(new) - 1,
    )


# --- Numbers --------------------------------------------------------------------------------------


def ridge(
    features: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray], offset: str = "free"
) -> list[tuple[float, dict[str, np.ndarray]]]:
    """Ridge regression for all targets and strengths from one eigendecomposition.

    Minimises |y - X b - c|^2 + strength * |b|^2 (offset "regularised": + strength * c^2). With
    fewer rows than features it works on the rows' inner products instead, which gives the same
    predictions. Sums are in float64, block by block.

    Args:
        features: split -> [rows, d]; values: split -> float64 [rows, targets].
        offset: one of `OFFSETS`.

    Returns:
        For each target the strength with the best validation R2 (the largest of equals), and the
        predictions by split, float64 [rows].
    """
    free = offset == "free"
    train, y = features["train"], values["train"]
    rows, width = train.shape
    mean = train.mean(axis=0, dtype=np.float64) if free else np.zeros(width)
    y_mean = y.mean(axis=0) if free else np.zeros(y.shape[1])
    strengths = np.array(STRENGTHS)
    if primal := width + (not free) <= rows:
        size = width + (not free)
        gram, projected = np.zeros((size, size)), np.zeros((size, y.shape[1]))
        for block, x in _row_blocks(train, mean, free):
            gram += x.T @ x
            projected += x.T @ (y[block] - y_mean)
    else:
        kernels = {
            split: np.full((len(x), rows), 0.0 if free else 1.0) for split, x in features.items()
        }
        step = max(1, _BLOCK_BYTES // (8 * rows))
        for start in range(0, width, step):
            cut = slice(start, start + step)
            x = train[:, cut] - mean[cut]
            for split, kernel in kernels.items():
                kernel += (x if split == "train" else features[split][:, cut] - mean[cut]) @ x.T
        gram, projected = kernels["train"], y - y_mean
    eigenvalues, vectors = np.linalg.eigh(gram)
    scale = 1 / (np.maximum(eigenvalues, 0)[:, None] + strengths)  # [size, strengths]
    projected = vectors.T @ projected
    coefficients = vectors @ (scale[:, :, None] * projected[:, None]).reshape(len(scale), -1)
    predictions = {}
    for split, x in features.items():
        if primal:
            blocks = (block @ coefficients for _, block in _row_blocks(x, mean, free))
            flat = np.concatenate(list(blocks))
        else:
            flat = kernels[split] @ coefficients
        predictions[split] = flat.reshape(len(x), len(strengths), -1) + y_mean
    validation = np.nan_to_num(
        _r2(values["validation"][:, None], predictions["validation"]), nan=-np.inf
    )
    best = validation.argmax(axis=0)
    return [
        (float(strengths[i]), {split: p[:, i, target] for split, p in predictions.items()})
        for target, i in enumerate(best)
    ]


def _row_blocks(x: np.ndarray, mean: np.ndarray, free: bool) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows at a time as float64, less the mean; with a column of 1 unless `free`."""
    step = max(1, _BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, len(x), step):
        block = x[start : start + step] - mean
        yield (
            slice(start, start + step),
            block if free else np.column_stack([block, np.ones(len(block))]),
        )


def _r2(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """1 - residual / total sum of squares around the split's own mean, along the first axis."""
    residual = ((truth - prediction) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - residual / total


def _score(
    target: str,
    representation: str,
    method: str,
    strength: float | None,
    rows: Mapping[str, _Rows],
    predicted: Mapping[str, np.ndarray],
) -> Score:
    truth = {split: rows[split].columns[target] for split in SPLITS}
    r2_interval, tau_interval = _intervals(truth["test"], predicted["test"], rows["test"].model)
    return Score(
        target=target,
        representation=representation,
        method=method,
        strength=strength,
        r2={split: float(_r2(truth[split], predicted[split])) for split in SPLITS},
        tau={
            split: float(kendalltau(truth[split], predicted[split]).statistic) for split in SPLITS
        },
        r2_interval=r2_interval,
        tau_interval=tau_interval,
    )


def _intervals(
    truth: np.ndarray, prediction: np.ndarray, model: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bootstrap intervals of R2 and Kendall's tau-b over models, whose rows lie together."""
    weights = _resamples(int(model[-1]) + 1)
    starts = np.flatnonzero(np.diff(model, prepend=-1))
    centred = truth - truth.mean()
    parts = np.stack([np.ones(len(truth)), centred, centred**2, (truth - prediction) ** 2], axis=1)
    count, total, squares, residual = (weights @ np.add.reduceat(parts, starts)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - residual / (squares - total**2 / count)
        # tau-b is a ratio of sums over pairs of rows, so over pairs of models with their numbers.
        agree, in_truth, in_prediction = (
            ((weights @ pairs) * weights).sum(axis=1) for pairs in _pairs(truth, prediction, starts)
        )
        tau = agree / np.sqrt(in_truth * in_prediction)
    return _percentiles(r2), _percentiles(tau)


def _pairs(
    truth: np.ndarray, prediction: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over the pairs of rows of two models, each float64 [models, models].

    Concordant less discordant pairs, pairs that differ in truth, pairs that differ in prediction.
    """
    sums = np.empty((3, len(starts), len(starts)))
    ends = [*starts[1:], len(truth)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        a, b = (
            (v[start:end, None] > v).view(np.int8) - (v[start:end, None] < v).view(np.int8)
            for v in (truth, prediction)
        )
        for total, signs in zip(sums, (a * b, a * a, b * b), strict=True):
            total[number] = np.add.reduceat(signs.sum(axis=0, dtype=np.int64), starts)
    return sums[0], sums[1], sums[2]


def _resamples(models: int) -> np.ndarray:
    """How often each model is drawn, float64 [RESAMPLES, models]; the same at every call."""
    generator = np.random.default_rng(0)
    return generator.multinomial(models, np.full(models, 1 / models), RESAMPLES).astype(np.float64)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if len(values) < RESAMPLES / 2:
        return (np.nan, np.nan)
    low, high = np.percentile(values, (2.5, 97.5))
    return (float(low), float(high))


# --- Classes --------------------------------------------------------------------------------------

_Matrices = Mapping[str, np.ndarray]


def _standardise(features: _Matrices) -> dict[str, np.ndarray]:
    """Each feature less its mean in train, over its deviation there; float32."""
    train = features["train"]
    mean = train.mean(axis=0, dtype=np.float64)
    deviation = train.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1
    standardised = {split: np.empty(x.shape, np.float32) for split, x in features.items()}
    for split, x in features.items():
        for block, values in _row_blocks(x, mean, free=True):
            standardised[split][block] = values / deviation
    return standardised


def _class_score(
    target: str,
    representation: str,
    method: str,
    rows: Mapping[str, _Rows],
    matrices: _Matrices,
    classify: Callable[[_Matrices, _Matrices], dict[str, np.ndarray]],
) -> ClassScore:
    known = {
        split: np.array([value is not None for value in rows[split].columns[target]])
        for split in SPLITS
    }
    unknown = sum(int((~mask).sum()) for mask in known.values())
    if unknown:
        matrices = {split: matrices[split][known[split]] for split in SPLITS}
    values = {split: rows[split].columns[target][known[split]] for split in SPLITS}
    number = {value: i for i, value in enumerate(sorted(set(values["train"].tolist())))}
    # A class that train lacks is never answered: -1 is no class.
    codes = {split: np.array([number.get(v, -1) for v in values[split]]) for split in SPLITS}
    right = {split: answer == codes[split] for split, answer in classify(matrices, codes).items()}
    frequent = np.bincount(codes["train"]).argmax()
    model = rows["test"].model[known["test"]]
    present, model = np.unique(model, return_inverse=True)
    weights = _resamples(len(present))
    hits, count = (np.bincount(model, w) for w in (right["test"], np.ones(len(model))))
    return ClassScore(
        target=target,
        representation=representation,
        method=method,
        classes=len(number),
        accuracy={split: float(right[split].mean()) for split in SPLITS},
        majority={split: float((codes[split] == frequent).mean()) for split in SPLITS},
        accuracy_interval=_percentiles((weights @ hits) / (weights @ count)),
        unknown=unknown,
    )


def _logistic(features: _Matrices, codes: _Matrices) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():  # stopping early is the protocol
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(**LOGISTIC).fit(features["train"], codes["train"])
    return {split: fitted.predict(x) for split, x in features.items()}


# --- Boosted trees --------------------------------------------------------------------------------


def _import_lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its OpenMP library is missing
        raise BoostingUnavailable(
            f"boosted trees need LightGBM ({error}): pip install 'model_zoos[boosting]'"
        ) from error
    return lightgbm


def _boosted_numbers(features: _Matrices, values: _Matrices) -> dict[str, np.ndarray]:
    return _boosted(_import_lightgbm().LGBMRegressor, features, values)


def _boosted_classes(features: _Matrices, codes: _Matrices) -> dict[str, np.ndarray]:
    return _boosted(_import_lightgbm().LGBMClassifier, features, codes)


def _boosted(kind: Any, features: _Matrices, values: _Matrices) -> dict[str, np.ndarray]:
    stop = _import_lightgbm().early_stopping(BOOSTING_PATIENCE, verbose=False)
    # A class that train lacks can decide nothing.
    known = values["validation"] != -1 if values["validation"].dtype.kind == "i" else slice(None)
    fitted = kind(**BOOSTING).fit(
        features["train"],
        values["train"],
        eval_X=features["validation"][known],
        eval_y=values["validation"][known],
        callbacks=[stop],
    )
    return {split: fitted.predict(x) for split, x in features.items()}
