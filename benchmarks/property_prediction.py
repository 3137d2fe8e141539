"""What weights tell about a model: its accuracy, epoch and generalization gap, by linear probes.

The protocol is the original's (code/model_definitions/def_downstream_module.py): closed-form ridge
regression in float64 for each target, the strength among 17 chosen by R2 on the validation split,
R2 reported on the test split. Splits are by model, so no state of a test model was seen before.
States with a weight above 5 in size are left out, as the original's data sets leave them out: one
model that explodes would outweigh all others in a linear fit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, load_dataset

import model_zoos

from ..builders.layout import Layout, find_layout
from ..builders.splits import SPLITS
from .representations import REPRESENTATIONS

TARGETS = ("test_acc", "epoch", "generalization_gap")
STRENGTHS = (
    *(1e3, 3e2, 1e2, 3e1, 1e1, 3e0, 1e0, 3e-1, 1e-1),
    *(3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
)
"""The original's 17."""

MAX_WEIGHT = 5.0
"""The original's threshold (code/checkpoints_to_datasets/dataset_base.py, weight_threshold)."""


@dataclass(frozen=True)
class Score:
    """How well one target is predicted from one representation.

    Attributes:
        target, representation: names.
        strength: of the ridge penalty, chosen on validation.
        r2: by split; 1 is perfect, 0 is the split's mean, below 0 is worse than that.
    """

    target: str
    representation: str
    strength: float
    r2: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """The benchmark of one zoo.

    Attributes:
        zoo: name.
        models, states: by split, as used.
        left_out: states that cannot be used, by reason.
        scores: one for each representation and target.
    """

    zoo: str
    models: Mapping[str, int]
    states: Mapping[str, int]
    left_out: Mapping[str, int]
    scores: Sequence[Score]


class TooFewModels(ValueError):
    """A split is missing or holds too little for a score."""


def predict_properties(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    representations: Sequence[str] = tuple(REPRESENTATIONS),
    targets: Sequence[str] = TARGETS,
    max_weight: float = MAX_WEIGHT,
) -> Result:
    """Benchmark a zoo, read through load_dataset.

    Args:
        name: any config of the data set with weights.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        representations: keys of representations.REPRESENTATIONS.
        targets: numeric columns.
        max_weight: states with a larger weight (in size) are left out; math.inf keeps all that
            are finite.

    Raises:
        TooFewModels: one of the three splits has fewer than two usable states.
        ValueError: unknown representation.
    """
    for representation in representations:
        if representation not in REPRESENTATIONS:
            raise ValueError(
                f"unknown representation {representation!r}; known: {', '.join(REPRESENTATIONS)}"
            )
    columns = ["model_id", "architecture", "weights", *targets]
    splits = load_dataset(
        "model_zoos", name, data_dir=None if data_dir is None else str(data_dir), columns=columns
    )
    if missing := [split for split in SPLITS if split not in splits]:
        raise TooFewModels(
            f"{name} has no model in {', '.join(missing)}: the benchmark needs all three splits "
            "(about 7 models or more)"
        )
    matrices, values, models = {}, {}, {}
    left_out: dict[str, int] = {}
    layout: Layout | None = None
    for split in SPLITS:
        matrix, table, kept = _read(splits[split], targets, max_weight, left_out)
        layout = layout or find_layout(splits[split][0]["architecture"], matrix.shape[1])
        matrices[split], values[split] = matrix, table
        models[split] = len(set(np.asarray(splits[split]["model_id"])[kept]))
        if len(matrix) < 2:
            raise TooFewModels(f"{name} has {len(matrix)} usable states in {split}: too few")
    assert layout is not None
    scores = []
    for representation in representations:
        features = {
            split: REPRESENTATIONS[representation](matrices[split], layout) for split in SPLITS
        }
        scores += [
            Score(target, representation, strength, r2)
            for target, (strength, r2) in zip(targets, _ridge(features, values), strict=True)
        ]
    return Result(
        zoo=name,
        models=models,
        states={split: len(matrices[split]) for split in SPLITS},
        left_out=left_out,
        scores=scores,
    )


def _read(
    dataset: Dataset, targets: Sequence[str], max_weight: float, left_out: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights float32 [rows, N], targets float64 [rows, targets], and which rows were kept."""
    matrix = model_zoos.weights(dataset).numpy()
    plain = dataset.with_format("arrow")
    table = np.stack(
        [plain[target].to_numpy(zero_copy_only=False).astype(np.float64) for target in targets],
        axis=1,
    )
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    kept = np.ones(len(matrix), bool)
    for reason, good in (
        ("weights not finite", np.isfinite(largest)),
        (f"a weight above {max_weight:g}", largest <= max_weight),
        ("target absent", np.isfinite(table).all(axis=1)),
    ):
        left_out[reason] = left_out.get(reason, 0) + int((kept & ~good).sum())
        kept &= good
    return (matrix if kept.all() else matrix[kept]), table[kept], kept


def _ridge(
    features: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> list[tuple[float, dict[str, float]]]:
    """Ridge with an intercept for all targets and strengths from one eigendecomposition.

    Minimises |y - X b - c|^2 + strength * |b|^2. With fewer rows than features it works on the
    rows' inner products instead, which gives the same predictions.

    Args:
        features: split -> [rows, d]; values: split -> float64 [rows, targets].

    Returns:
        For each target the strength with the best validation R2, and R2 by split.
    """
    x_mean = features["train"].mean(axis=0, dtype=np.float64)
    y_mean = values["train"].mean(axis=0)
    centred = {split: features[split] - x_mean for split in SPLITS}
    x, y = centred["train"], values["train"] - y_mean
    primal = x.shape[1] <= x.shape[0]
    eigenvalues, vectors = np.linalg.eigh(x.T @ x if primal else x @ x.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    projected = vectors.T @ (x.T @ y if primal else y)
    predictors = {
        split: (centred[split] if primal else centred[split] @ x.T) @ vectors for split in SPLITS
    }
    best: list[tuple[float, dict[str, float]]] = [(np.nan, {"validation": -np.inf})] * y.shape[1]
    for strength in STRENGTHS:
        coefficients = projected / (eigenvalues + strength)[:, None]
        scores = {
            split: _r2(values[split], predictors[split] @ coefficients + y_mean) for split in SPLITS
        }
        for target in range(y.shape[1]):
            if scores["validation"][target] > best[target][1]["validation"]:
                r2 = {split: float(scores[split][target]) for split in SPLITS}
                best[target] = (strength, r2)
    return best


def _r2(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """1 - residual / total sum of squares around the split's own mean, for each column."""
    residual = ((truth - prediction) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - residual / total
