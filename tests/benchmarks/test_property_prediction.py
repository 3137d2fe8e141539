"""The first benchmark: ridge against scikit-learn's, protocol, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from model_zoos.benchmarks.property_prediction import (
    STRENGTHS,
    TooFewModels,
    _ridge,
    predict_properties,
)
from model_zoos.benchmarks.speed.loading import random_zoo
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.zoo_directory import create_zoo

SPLITS = ("train", "validation", "test")


def test_the_17_strengths_of_the_original() -> None:
    assert len(STRENGTHS) == 17
    assert STRENGTHS[:4] == (1e3, 3e2, 1e2, 3e1)
    assert STRENGTHS[-2:] == (3e-5, 1e-5)


@pytest.mark.parametrize("columns", [5, 80])  # fewer and more columns than rows
def test_ridge_is_scikit_learns(columns: int) -> None:
    generator = np.random.default_rng(columns)
    truth = generator.standard_normal((columns, 2))
    features, values = {}, {}
    for split, rows in zip(SPLITS, (40, 20, 30), strict=True):
        features[split] = (generator.standard_normal((rows, columns)) + 3).astype(np.float32)
        values[split] = features[split] @ truth + 5 + generator.standard_normal((rows, 2))
    for target, (strength, r2) in enumerate(_ridge(features, values)):
        scores = {}
        for candidate in STRENGTHS:
            model = Ridge(candidate, solver="svd").fit(
                features["train"].astype(np.float64), values["train"][:, target]
            )
            scores[candidate] = {
                split: r2_score(values[split][:, target], model.predict(features[split]))
                for split in SPLITS
            }
        best = max(STRENGTHS, key=lambda candidate: scores[candidate]["validation"])
        assert strength == best
        for split in SPLITS:
            assert r2[split] == pytest.approx(scores[best][split], abs=1e-8)


def test_a_zoo_is_benchmarked(digits_home: Path) -> None:
    result = predict_properties("digits_cnn_s", digits_home)
    assert result.models == {"train": 14, "validation": 3, "test": 3}
    # 120 states, of which some explode (relu from uniform weights, sgd at 3e-3).
    assert sum(result.states.values()) + sum(result.left_out.values()) == 120
    assert result.left_out["a weight above 5"] > 0
    assert [(score.representation, score.target) for score in result.scores] == [
        (representation, target)
        for representation in ("weights", "statistics")
        for target in ("test_acc", "epoch", "generalization_gap")
    ]
    assert all(score.strength in STRENGTHS for score in result.scores)
    assert all(score.r2["train"] <= 1 for score in result.scores)
    assert predict_properties("digits_cnn_s", digits_home) == result


def test_states_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)
    directory = create_zoo(tmp_path, zoo)
    generator = np.random.default_rng(0)
    models = zoo.models(12)
    directory.add_splits(model.model_id for model in models)
    for number, model in enumerate(models):
        weights = generator.uniform(-1, 1, (4, 2464)).astype(np.float32)
        metrics = {"train_acc": generator.random(4), "test_acc": generator.random(4)}
        if number == 0:
            weights[2:] = np.nan
        elif number == 1:
            weights[1, 5] = np.inf
        elif number == 2:
            weights[0, 5] = -3e38  # large, but finite
            del metrics["train_acc"]
        elif number == 3:
            weights[3, 5] = 5.5
        directory.write_model(model.model_id, {}, range(4), weights, metrics)
    result = predict_properties("digits_cnn_s", tmp_path)
    assert result.left_out == {"weights not finite": 3, "a weight above 5": 2, "target absent": 3}
    assert sum(result.states.values()) == 12 * 4 - 8
    assert sum(result.models.values()) == 11
    result = predict_properties("digits_cnn_s", tmp_path, max_weight=np.inf)
    assert result.left_out == {"weights not finite": 3, "a weight above inf": 0, "target absent": 4}


def test_a_zoo_that_is_too_small(tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 2)
    with pytest.raises(TooFewModels, match="no model in validation, test"):
        predict_properties("digits_cnn_s", tmp_path)
    with pytest.raises(ValueError, match="unknown representation 'pixels'"):
        predict_properties("digits_cnn_s", tmp_path, representations=["pixels"])
