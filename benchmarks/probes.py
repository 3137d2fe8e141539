"""Probes: ridge and logistic regression, boosted trees, and predictors of one's own.

A probe is fitted on the train split, what it selects is selected on validation, and it predicts all
three splits. Features and values are given by split, as `represent` and `read_rows` make them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ..errors import BoostingUnavailable, InvalidArgument
from .bootstrap import r2

STRENGTHS = (
    *(1e3, 3e2, 1e2, 3e1, 1e1, 3e0, 1e0, 3e-1, 1e-1),
    *(3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
)
"""Strengths of the ridge penalty: the 17 of the paper's code."""

OFFSETS = ("free", "regularised")
"""How the ridge treats the offset. "regularised", as in the paper's code, takes it as the
coefficient of one more feature, which is 1."""

LOGISTIC: dict[str, Any] = {"C": 0.1, "solver": "lbfgs", "max_iter": 100}
"""Arguments of scikit-learn's LogisticRegression, on standardised features in float32. The layer in
the paper's code stops after 50 epochs with a weight decay of 1e-6, which hardly regularises. More
iterations or any C from 0.1 to 10 change the test accuracies of digits_cnn_s by .03 or less, and
with these 51,000 rows take seconds."""

BOOSTING: dict[str, Any] = {
    "n_estimators": 1000,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "colsample_bytree": 0.3,
    "deterministic": True,
    "force_col_wise": True,
    "random_state": 0,
    "verbosity": -1,
}
"""Arguments of LightGBM."""

BOOSTING_PATIENCE = 50
"""Trees without a gain on the validation split after which no more are added."""

BLOCK_BYTES = 64 << 20
"""Limit of the float64 that a matrix is converted to at a time."""

Matrices = Mapping[str, NDArray[Any]]
"""A matrix or a vector for each split."""

Predictions = dict[str, NDArray[Any]]
"""A prediction for each row of each split."""

Predictor = Callable[
    [NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], Callable[[NDArray[Any]], ArrayLike]
]
"""`fit(x, y, validation_x, validation_y)`, which returns `predict(x)`.

x is [rows, d]; y is [rows], float64 of a number, or int64 of classes 0, 1, ..., of which -1 (in
validation) is one that train lacks. Predictions are [rows], of the same kind as y. Other predictors
see the same arrays, so they must not be changed."""


def predict_splits(name: str, fit: Predictor, features: Matrices, values: Matrices) -> Predictions:
    """Fit a predictor on train and validation, and predict all splits.

    Args:
        name: name of the predictor, for messages.
        fit: the predictor.
        features: split -> [rows, d].
        values: split -> [rows], as `Predictor` describes.

    Raises:
        InvalidArgument: what it predicts are not finite numbers, one for each row.
    """
    predict = fit(features["train"], values["train"], features["validation"], values["validation"])
    predicted = {split: np.asarray(predict(x)) for split, x in features.items()}
    for split, found in predicted.items():
        if found.shape != (rows := (len(features[split]),)) or found.dtype.kind not in "fiu":
            raise InvalidArgument(
                f"the predictor {name!r} must return a number for each row, {list(rows)}; found "
                f"{found.dtype} {list(found.shape)}"
            )
        if not np.isfinite(found).all():
            raise InvalidArgument(f"the predictor {name!r} returned NaN or infinity in {split}")
    return predicted


def ridge(
    features: Matrices, values: Matrices, offset: str = "free"
) -> list[tuple[float, Predictions]]:
    """Fit ridge regressions for all targets and strengths with one eigendecomposition.

    They minimise |y - X b - c|^2 + strength * |b|^2 (offset "regularised": + strength * c^2). With
    fewer rows than features the inner products of the rows are decomposed instead of those of the
    features, which gives the same predictions. Sums are in float64, block by block.

    Args:
        features: split -> [rows, d].
        values: split -> float64 [rows, targets].
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
        step = max(1, BLOCK_BYTES // (8 * rows))
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

    def predict(split: str, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        if not primal:
            return kernels[split] @ coefficients
        blocks = _row_blocks(features[split], mean, free)
        return np.concatenate([block @ coefficients for _, block in blocks])

    candidates = predict("validation", coefficients).reshape(-1, len(strengths), y.shape[1])
    scores = np.nan_to_num(r2(values["validation"][:, None], candidates + y_mean), nan=-np.inf)
    best = scores.argmax(axis=0)
    targets = range(y.shape[1])
    chosen = coefficients.reshape(len(scale), len(strengths), -1)[:, best, targets]
    predictions = {split: predict(split, chosen) + y_mean for split in features}
    return [
        (float(strengths[best[i]]), {split: p[:, i] for split, p in predictions.items()})
        for i in targets
    ]


def standardise(features: Matrices) -> Predictions:
    """Return each feature less its mean in train, over its deviation there; float32."""
    train = features["train"]
    mean = train.mean(axis=0, dtype=np.float64)
    squares = np.zeros(train.shape[1])
    for _, values in _row_blocks(train, mean, free=True):
        values *= values
        values[0] += squares  # summed row after row, so blocks do not change a bit
        squares = values.sum(axis=0)
    deviation = np.sqrt(squares / len(train))
    deviation[deviation == 0] = 1
    standardised = {split: np.empty(x.shape, np.float32) for split, x in features.items()}
    for split, x in features.items():
        for block, values in _row_blocks(x, mean, free=True):
            standardised[split][block] = values / deviation
    return standardised


def logistic(
    x: NDArray[Any], y: NDArray[Any], validation_x: NDArray[Any], validation_y: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Fit a logistic regression, a `Predictor` of classes; features should be standardised."""
    with warnings.catch_warnings():  # stopping early is the protocol
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(**LOGISTIC).fit(x, y).predict


def boosted_trees(
    x: NDArray[Any], y: NDArray[Any], validation_x: NDArray[Any], validation_y: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Fit gradient-boosted trees (LightGBM), a `Predictor` of numbers and of classes.

    Raises:
        BoostingUnavailable: LightGBM is not installed.
    """
    lightgbm = import_lightgbm()
    classes = y.dtype.kind == "i"
    kind = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
    # A class that train lacks must not decide when to stop.
    known = validation_y != -1 if classes else np.ones(len(validation_y), bool)
    if not known.any():  # of few models: nothing says when to stop
        validation_x, validation_y, known = x, y, np.ones(len(y), bool)
    fitted = kind(**BOOSTING).fit(
        x,
        y,
        eval_X=validation_x[known],
        eval_y=validation_y[known],
        callbacks=[lightgbm.early_stopping(BOOSTING_PATIENCE, verbose=False)],
    )
    return fitted.predict


def import_lightgbm() -> ModuleType:
    """Import LightGBM, an optional dependency.

    Raises:
        BoostingUnavailable: it is not installed, or cannot be loaded.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its OpenMP library is missing
        raise BoostingUnavailable(
            f"boosted trees need LightGBM ({error})", hint="pip install 'model_zoos[boosting]'"
        ) from error
    return lightgbm


def _row_blocks(
    x: NDArray[Any], mean: NDArray[np.float64], free: bool
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield some rows at a time as float64, less the mean; with a column of 1 unless `free`."""
    step = max(1, BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, len(x), step):
        block = x[start : start + step] - mean
        yield (
            slice(start, start + step),
            block if free else np.column_stack([block, np.ones(len(block))]),
        )
