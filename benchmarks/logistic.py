"""Logistic regression of classes: scikit-learn's, and one whose features stay on disk.

The latter minimises the same loss by the same method, L-BFGS, with sums in float64 over blocks of
rows. One thread per target minimises, and the threads wait for each other, so that one pass over
the features serves a step of all targets.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .probes import Arrays
from .stored import StoredMatrix

C = 0.1
"""Inverse strength of the penalty, on standardised features. The layer in the paper's code stops
after 50 epochs with a weight decay of 1e-6, which is hardly a regularisation. Any C from 0.1 to 10
changes the test accuracies of digits_cnn_s by at most .03."""

STEPS = 100
"""Limit of the steps. More steps change the test accuracies of digits_cnn_s by at most .03."""

TOLERANCE = 1e-4
"""Largest gradient at which LogisticRegression stops by default."""

BLOCK_BYTES = 4 << 20
"""Number of features that are read at a time, so that they stay in the processor's cache."""

Floats = NDArray[np.float64]
Evaluated = tuple[float, Floats]


@dataclass(frozen=True)
class Labels:
    """The classes of one target.

    Attributes:
        classes: number of classes in train.
        known: split -> whether a row has the target, bool [rows].
        codes: split -> class of each row that has the target: 0, 1, ... in the order of the values,
            or -1 for a value that train lacks; int64.
    """

    classes: int
    known: Mapping[str, NDArray[np.bool_]]
    codes: Mapping[str, NDArray[np.int64]]

    def select(self, matrices: Arrays) -> Arrays:
        """Return the features of the rows that have the target."""
        known = self.known
        return {s: x if known[s].all() else x[known[s]] for s, x in matrices.items()}


def labels_of(column: Mapping[str, NDArray[Any]]) -> Labels:
    """Return the labels of a target from its values by split, None where unknown."""
    known = {s: np.array([value is not None for value in values]) for s, values in column.items()}
    found = {split: values[known[split]].tolist() for split, values in column.items()}
    code = {value: number for number, value in enumerate(sorted(set(found["train"])))}
    codes = {
        s: np.array([code.get(v, -1) for v in values], np.int64) for s, values in found.items()
    }
    return Labels(len(code), known, codes)


@dataclass(frozen=True)
class _Problem:
    """One regression.

    Attributes:
        codes: class of each row, 0, 1, ...; -1 for a row that is left out.
        columns: its columns in the matrix of all coefficients; two classes share one column.
        rows: number of rows that count.
    """

    codes: NDArray[np.int64]
    columns: slice
    rows: int

    def block(self, scores: NDArray[Any], start: int) -> Evaluated:
        """Return the summed loss of some rows, and its gradient by scores, [rows, columns]."""
        codes = self.codes[start : start + len(scores)]
        scores = scores[:, self.columns]
        known = codes >= 0
        if scores.shape[1] == 1:
            right = (codes == 1)[:, None]
            losses = np.logaddexp(0, np.where(right, -scores, scores))[:, 0]
            gradient = expit(scores) - right
        else:
            places = np.arange(len(codes)), codes
            losses = logsumexp(scores, axis=1) - scores[places]
            gradient = softmax(scores, axis=1)
            gradient[places] -= 1
        return float(losses[known].sum()), gradient * known[:, None]


def logistic(
    x: NDArray[Any], y: NDArray[Any], validation_x: NDArray[Any], validation_y: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Fit a logistic regression, a `Predictor` of classes; features should be standardised."""
    with warnings.catch_warnings():  # the protocol limits the steps
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=C, solver="lbfgs", max_iter=STEPS).fit(x, y).predict


def logistic_by_blocks(
    features: Mapping[str, StoredMatrix], targets: Mapping[str, Labels]
) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Fit several logistic regressions on train, and predict all splits.

    Args:
        features: split -> [rows, d], standardised.
        targets: target -> labels.

    Returns:
        target -> split -> classes of the rows that have the target, int64.
    """
    train = features["train"]
    width = train.width
    problems, end = [], 0
    for target in targets.values():
        start, known = end, target.known["train"]
        end += target.classes if target.classes > 2 else 1
        codes = np.full(len(known), -1)
        codes[known] = target.codes["train"]
        problems.append(_Problem(codes, slice(start, end), int(known.sum())))
    step = max(1, BLOCK_BYTES // (4 * width))

    def evaluate(points: Mapping[int, Floats]) -> dict[int, Evaluated]:
        coefficients = np.zeros((width + 1, end))
        for number, point in points.items():
            columns = problems[number].columns
            coefficients[:, columns] = point.reshape(width + 1, -1)
        weights, offset = coefficients[:-1].astype(np.float32), coefficients[-1]
        losses, gradient, start = dict.fromkeys(points, 0.0), np.zeros((width + 1, end)), 0
        for block in train.blocks(step):
            scores = block @ weights + offset
            by_score = np.zeros((len(block), end), np.float32)
            for number in points:
                loss, by_score[:, problems[number].columns] = problems[number].block(scores, start)
                losses[number] += loss
            gradient[:-1] += block.T @ by_score
            gradient[-1] += by_score.sum(axis=0, dtype=np.float64)
            start += len(block)
        found = {}
        for number, loss in losses.items():
            problem = problems[number]
            own, penalty = coefficients[:-1, problem.columns], 1 / (C * problem.rows)
            by_point = gradient[:, problem.columns] / problem.rows
            by_point[:-1] += penalty * own
            value = loss / problem.rows + penalty / 2 * float((own**2).sum())
            found[number] = value, by_point.ravel()
        return found

    sizes = [(width + 1) * (p.columns.stop - p.columns.start) for p in problems]
    points = _minimise_together(evaluate, sizes)
    coefficients = np.column_stack([point.reshape(width + 1, -1) for point in points])
    weights, offset = coefficients[:-1].astype(np.float32), coefficients[-1]
    predicted: dict[str, dict[str, NDArray[np.int64]]] = {name: {} for name in targets}
    for split, x in features.items():
        scores = np.concatenate([block @ weights + offset for block in x.blocks(step)])
        for (name, target), problem in zip(targets.items(), problems, strict=True):
            own = scores[target.known[split], problem.columns]
            answer = own[:, 0] > 0 if own.shape[1] == 1 else own.argmax(axis=1)
            predicted[name][split] = answer.astype(np.int64)
    return predicted


def _minimise_together(
    evaluate: Callable[[Mapping[int, Floats]], dict[int, Evaluated]],
    sizes: Sequence[int],
) -> list[Floats]:
    """Minimise functions that are evaluated together, each by L-BFGS from zeros.

    Args:
        evaluate: index of the function -> point, to value and gradient.
        sizes: number of variables of each function.
    """
    asked: SimpleQueue[tuple[int, Floats | None]] = SimpleQueue()
    answers: list[SimpleQueue[Evaluated]] = [SimpleQueue() for _ in sizes]
    found: dict[int, Floats] = {}
    options = {
        "maxiter": STEPS,
        "maxls": 50,
        "gtol": TOLERANCE,
        "ftol": 64 * np.finfo(float).eps,
    }

    def run(number: int) -> None:
        def loss(point: Floats) -> Evaluated:
            asked.put((number, point.copy()))
            return answers[number].get()

        start = np.zeros(sizes[number])
        try:
            solution = minimize(loss, start, method="L-BFGS-B", jac=True, options=options)
            found[number] = solution.x
        finally:
            asked.put((number, None))

    for number in range(len(sizes)):  # daemons, so that they end with an interrupted process
        threading.Thread(target=run, args=(number,), daemon=True).start()
    running, waiting = len(sizes), dict[int, Floats]()
    while running:
        number, point = asked.get()
        if point is None:
            running -= 1
        else:
            waiting[number] = point
        if waiting and len(waiting) == running:
            for number, answer in evaluate(waiting).items():
                answers[number].put(answer)
            waiting = {}
    return [found[number] for number in range(len(sizes))]
