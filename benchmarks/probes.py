"""Probes: ridge and logistic regression, boosted trees, and users' own predictors.

A probe is fitted on the train split, selects on validation, and predicts all three splits. Features
and values are given by split, as `represent` and `read_rows` return them. Ridge and logistic
regression (logistic.py) read features that stay on disk some rows at a time. All other predictors
get them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ..errors import BoostingUnavailable, InvalidArgument
from .bootstrap import r2
from .stored import BLOCK_BYTES, Matrix, StoredMatrix, row_blocks

STRENGTHS = (
    *(1e3, 3e2, 1e2, 3e1, 1e1, 3e0, 1e0, 3e-1, 1e-1),
    *(3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
)
"""Strengths of the ridge penalty: the 17 of the paper's code."""

OFFSETS = ("free", "regularised")
"""How ridge treats the offset. "regularised", as in the paper's code, makes it the coefficient of
one more feature that is always 1."""

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
"""Number of trees without a gain on validation after which no more are added."""

REPORTED_TREES = 25
"""Number of trees between two reports of progress."""

LARGE_GRAM = 4096
"""Number of features above which the eigenvectors are computed by the algorithm that needs least
memory: twice that of the Gram matrix, while numpy's needs five times as much."""

Matrices = Mapping[str, Matrix]
"""A matrix for each split."""

Arrays = Mapping[str, NDArray[Any]]
"""A matrix or a vector in memory for each split."""

Predictions = dict[str, NDArray[Any]]
"""A prediction for each row of each split."""

Predictor = Callable[
    [NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], Callable[[NDArray[Any]], ArrayLike]
]
"""`fit(x, y, validation_x, validation_y)`, which returns `predict(x)`.

x is [rows, d]. y is [rows]: float64 for a number; int64 for classes 0, 1, ..., and -1 (in
validation) for a class that train lacks. Predictions are [rows], of the same kind as y. All
predictors share these arrays, so they must not be changed."""


def predict_splits(name: str, fit: Predictor, features: Arrays, values: Arrays) -> Predictions:
    """Fit a predictor on train and validation, and predict all splits.

    Args:
        name: name of the predictor, for messages.
        fit: the predictor.
        features: split -> [rows, d].
        values: split -> [rows], as `Predictor` describes.

    Raises:
        InvalidArgument: it does not return a function, or the function does not predict a finite
            number for each row.
    """
    predict = fit(features["train"], values["train"], features["validation"], values["validation"])
    if not callable(predict):
        raise InvalidArgument(
            f"the predictor {name!r} must return a function that predicts, predict(x); it returned "
            f"{type(predict).__name__}"
        )
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
    features: Matrices, values: Arrays, offset: str = "free"
) -> list[tuple[float, Predictions]]:
    """Fit ridge regressions for all targets and strengths with one eigendecomposition.

    They minimise |y - X b - c|^2 + strength * |b|^2 (offset "regularised": + strength * c^2). If
    there are fewer rows than features, the inner products of the rows are decomposed instead of
    those of the features, which gives the same predictions. Sums are in float64, block by block.

    Args:
        features: split -> [rows, d].
        values: split -> float64 [rows, targets].
        offset: one of `OFFSETS`.

    Returns:
        For each target, the strength with the best validation R2 (the largest of equals), and the
        predictions by split, float64 [rows].
    """
    free = offset == "free"
    train, y = features["train"], values["train"]
    rows, width = train.shape
    primal = width + (not free) <= rows
    mean = _mean(train) if free and primal else np.zeros(width)
    y_mean = y.mean(axis=0) if free else np.zeros(y.shape[1])
    strengths = np.array(STRENGTHS)
    if primal:
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
            x = _columns(train, cut)
            mean = x.mean(axis=0, dtype=np.float64) if free else np.zeros(1)
            x = x - mean
            for split, kernel in kernels.items():
                kernel += (x if split == "train" else _columns(features[split], cut) - mean) @ x.T
        gram, projected = kernels["train"], y - y_mean
    if primal and len(gram) > LARGE_GRAM:
        # The transpose is the same matrix in LAPACK's order, so it is not copied.
        eigenvalues, vectors = scipy.linalg.eigh(gram.T, driver="evr", overwrite_a=True)
    else:
        eigenvalues, vectors = np.linalg.eigh(gram)
    del gram
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


def standardise(features: Matrices) -> dict[str, Matrix]:
    """Standardise each feature by its mean and standard deviation in train, as float32.

    A constant feature becomes 0. Features on disk stay there and are standardised when they are
    read.
    """
    train = features["train"]
    mean = _mean(train)
    blocks = _row_blocks(train, mean, free=True)
    squares = _summed(np.square(values, out=values) for _, values in blocks)
    deviation = np.sqrt(squares / len(train))
    deviation[deviation == 0] = 1
    standardised: dict[str, Matrix] = {}
    for split, x in features.items():
        if isinstance(x, StoredMatrix):
            scale = mean.astype(np.float32), (1 / deviation).astype(np.float32)
            standardised[split] = replace(x, scale=scale)
            continue
        standardised[split] = scaled = np.empty(x.shape, np.float32)
        for block, values in _row_blocks(x, mean, free=True):
            scaled[block] = values / deviation
    return standardised


def boosted_trees(
    x: NDArray[Any],
    y: NDArray[Any],
    validation_x: NDArray[Any],
    validation_y: NDArray[Any],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Fit gradient-boosted trees (LightGBM), a `Predictor` of numbers and of classes.

    Args:
        x, y, validation_x, validation_y: see `Predictor`.
        on_progress: called at intervals with the number of fitted trees, and their limit.

    Raises:
        BoostingUnavailable: LightGBM is not installed.
    """
    lightgbm = import_lightgbm()
    classes = y.dtype.kind == "i"
    kind = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
    # A class that train lacks must not decide when to stop.
    known = validation_y != -1 if classes else np.ones(len(validation_y), bool)
    if not known.any():  # with few models; early stopping is impossible
        validation_x, validation_y, known = x, y, np.ones(len(y), bool)
    fitted = kind(**BOOSTING).fit(
        x,
        y,
        eval_X=validation_x[known],
        eval_y=validation_y[known],
        callbacks=[
            lightgbm.early_stopping(BOOSTING_PATIENCE, verbose=False),
            report_trees(on_progress),
        ],
    )
    return fitted.predict


def report_trees(on_progress: Callable[[int, int], None]) -> Callable[[Any], None]:
    """Return a callback for LightGBM that reports the number of fitted trees and their limit."""

    def report(state: Any) -> None:  # noqa: ANN401  # lightgbm.callback.CallbackEnv
        if (state.iteration + 1) % REPORTED_TREES == 0:
            on_progress(state.iteration + 1, state.end_iteration)

    return report


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
    x: Matrix, mean: NDArray[np.float64], free: bool
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield some rows at a time as float64, centred; with a column of 1 unless `free`."""
    start = 0
    for rows in row_blocks(x, max(1, BLOCK_BYTES // (8 * x.shape[1]))):
        block = rows - mean
        yield (
            slice(start, start + len(block)),
            block if free else np.column_stack([block, np.ones(len(block))]),
        )
        start += len(block)


def _mean(x: Matrix) -> NDArray[np.float64]:
    """Return the mean of each feature in float64; the bits are the same on disk and in memory."""
    if not isinstance(x, StoredMatrix):
        return np.asarray(x.mean(axis=0, dtype=np.float64))
    return _summed(values for _, values in _row_blocks(x, np.zeros(1), free=True)) / len(x)


def _summed(blocks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of each column over all blocks, at least one.

    Rows are added one by one, so that the size of blocks changes no bit. Blocks are overwritten.
    """
    total = np.zeros(1)
    for values in blocks:
        values[0] += total
        total = values.sum(axis=0)
    return total


def _columns(x: Matrix, cut: slice) -> NDArray[Any]:
    return x.columns(cut) if isinstance(x, StoredMatrix) else x[:, cut]
