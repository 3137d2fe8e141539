"""Summaries of test accuracy by epoch, computed a second time with Python's own statistics."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import model_zoos
from model_zoos.benchmarks.epochs import describe_accuracies, summarise, to_text
from model_zoos.builders.schema import METRICS
from model_zoos.builders.zoo_directory import create_zoo
from model_zoos.errors import InvalidArgument, ZooNotFound
from model_zoos.generation.images import load_images

FIVE = {"5": 0, "25": 4, "50": 9, "75": 14, "95": 18}
"""Places of percentiles among those that divide the values into 20 parts."""


def test_a_trained_zoo(digits_home: Path) -> None:
    found = summarise("digits_cnn_s", digits_home, command="model-zoos generate digits_cnn_s")
    files = [load_file(path) for path in (digits_home / "digits_cnn_s" / "models").iterdir()]
    assert (found["models"], found["states"], found["diverged_states"]) == (20, 20 * 6, 0)
    assert found["of"] == model_zoos.get_zoo("digits_cnn_s").model_count
    info = json.loads((digits_home / "digits_cnn_s" / "zoo.json").read_text())
    assert all(found[key] == info[key] for key in ("engine", "versions", "images"))
    assert found["made_by"] == "model-zoos generate digits_cnn_s"

    labels = Counter(load_images("digits").test.labels.tolist())
    trivial = max(labels.values()) / labels.total()
    assert found["trivial_rate"] == round(trivial, 4)
    assert found["test_images"] == labels.total()
    column = METRICS.index("test_acc")
    curves = [file["metrics"][:, column].tolist() for file in files]
    stuck = sum(max(curve) < trivial + 0.5 / labels.total() for curve in curves)
    assert found["never_left"] == stuck / 20

    assert [epoch["epoch"] for epoch in found["test_acc"]] == list(range(6))
    for epoch, values in zip(found["test_acc"], zip(*curves, strict=True), strict=True):
        assert epoch["models"] == 20
        assert epoch["mean"] == pytest.approx(statistics.fmean(values), abs=6e-5)
        assert epoch["std"] == pytest.approx(statistics.pstdev(values), abs=6e-5)
        parts = statistics.quantiles(values, n=20, method="inclusive")
        expected = {name: parts[place] for name, place in FIVE.items()}
        expected |= {"0": min(values), "100": max(values)}
        assert epoch["quantiles"] == pytest.approx(expected, abs=6e-5)


def small_zoo(root: Path, curves: list[list[float]], **provenance: Any) -> None:
    """Write digits_cnn_s with the given test accuracies; NaN goes with a NaN loss."""
    zoo = model_zoos.get_zoo("digits_cnn_s")
    directory = create_zoo(root, zoo, engine="by hand", **provenance)
    models = zoo.models(len(curves))
    directory.add_splits(model.model_id for model in models)
    for model, curve in zip(models, curves, strict=True):
        accuracies = np.array(curve)
        metrics = {name: np.full(len(curve), 0.5) for name in METRICS[:6]}
        metrics["test_acc"] = np.abs(accuracies)
        metrics["test_loss"] = np.where(np.signbit(accuracies), np.nan, 1.0)
        weights = np.zeros((len(curve), zoo.layout.size), np.float32)
        directory.write_model(
            model.model_id, model.hyperparameters(), np.arange(len(curve)), weights, metrics
        )


def test_models_at_the_trivial_rate_and_diverged_ones_are_kept(tmp_path: Path) -> None:
    labels = Counter(load_images("digits").test.labels.tolist())
    rate, image = max(labels.values()) / labels.total(), 1 / labels.total()
    curves = [
        [rate - image, rate, rate],  # never leaves
        [rate, rate + image, rate],  # leaves once
        [0.1, 0.5, 0.9],
        [0.05, -rate, -rate],  # diverged (marked by the sign), and never leaves
    ]
    small_zoo(tmp_path, curves)
    found = summarise("digits_cnn_s", tmp_path)
    assert (found["models"], found["states"], found["diverged_states"]) == (4, 12, 2)
    assert found["never_left"] == 0.5
    assert found["grid_points"] == 4
    last = found["test_acc"][-1]
    assert (last["epoch"], last["models"]) == (2, 4)
    assert last["quantiles"]["50"] == round(rate, 4)
    assert last["quantiles"]["100"] == 0.9
    assert found["images"] is None
    assert found["made_by"] is None


def test_other_images_and_no_zoo(tmp_path: Path) -> None:
    small_zoo(tmp_path, [[0.1, 0.2]], images={"name": "digits", "sha256": "0" * 64})
    with pytest.raises(InvalidArgument, match="names other images"):
        summarise("digits_cnn_s", tmp_path)
    with pytest.raises(ZooNotFound):
        summarise("mnist_cnn_s_seed", tmp_path)


@pytest.mark.parametrize("count", [20, 64, 97, 640])
@pytest.mark.parametrize("percent", [25, 50, 75])
def test_intervals_hold_a_quantile_with_95_percent(count: int, percent: int) -> None:
    found = describe_accuracies(np.random.default_rng(0).permutation(count).astype(float))
    low, high = map(int, found["intervals"][str(percent)])  # ranks, from 0
    share = percent / 100

    def covered(low: int, high: int) -> float:
        """The probability that more than `low` and at most `high` values lie below the quantile."""
        return sum(
            math.comb(count, k) * share**k * (1 - share) ** (count - k)
            for k in range(low + 1, high + 1)
        )

    assert 0.95 <= covered(low, high) < 0.985
    assert covered(low + 1, high - 1) < 0.95


@pytest.mark.parametrize("values", [[0.25], [0.25, np.nan], [0.1, 0.1, 0.1]])
def test_few_values(values: list[float]) -> None:
    found = describe_accuracies(np.array(values))
    assert found["models"] == sum(np.isfinite(values))
    assert found["std"] == 0
    assert set(found["quantiles"].values()) == {values[0]}
    assert found["intervals"] == dict.fromkeys(("25", "50", "75"), [values[0]] * 2)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_the_text_is_json_with_a_line_for_each_epoch(epochs: int) -> None:
    records = [{"epoch": epoch, **describe_accuracies(np.arange(5.0))} for epoch in range(epochs)]
    summary = {"zoo": "z", "images": {"name": "x"}, "test_acc": records}
    text = to_text(summary)
    assert json.loads(text) == summary
    assert sum('"epoch"' in line for line in text.splitlines()) == epochs
