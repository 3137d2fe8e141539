"""Diversity: against plain formulas, and what happens to odd models and missing images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import model_zoos
from model_zoos.benchmarks.diversity import NEED_IMAGES, describe, diversity, linear_cka
from model_zoos.benchmarks.states import read_states, read_weights
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.schema import METRICS
from model_zoos.builders.zoo_directory import create_zoo, open_zoo
from model_zoos.generation.images import load_images
from tests.benchmarks.zoos import write_odd_zoos


def test_cka_is_the_papers_formula_and_knows_rotations() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((40, 7)), generator.standard_normal((40, 90)) + 5
    a, b = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    assert linear_cka(x, y) == pytest.approx(
        norm(b.T @ a) ** 2 / norm(a.T @ a) / norm(b.T @ b), 1e-5
    )
    rotation, _ = np.linalg.qr(generator.standard_normal((7, 7)))
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert np.isnan(linear_cka(x, np.ones((40, 3))))


def test_describe() -> None:
    found = describe(np.array([1.0, np.nan, 2.0, 3.0, 6.0]))
    assert found is not None
    assert (found.count, found.mean) == (4, 3)
    assert found.std == pytest.approx(np.std([1, 2, 3, 6]))
    assert found.quartiles == (1.75, 2.5, 3.75)
    assert describe(np.array([np.nan])) is None


def test_of_a_trained_zoo(digits_home: Path) -> None:
    found = diversity("digits_cnn_s", digits_home, run_models=4, images=50, epochs=2)
    assert [epoch.epoch for epoch in found.epochs] == [0, 1, 2, 3, 4, 5]
    assert [epoch.compared for epoch in found.epochs] == [20, 0, 0, 0, 0, 20]
    assert found.not_obtained == {}
    last = found.epochs[-1]
    assert (last.models, last.diverged, last.run, found.images) == (20, 0, 4, 50)
    states = read_states("digits_cnn_s", digits_home)
    rows, weights = read_weights(states, np.arange(20), [5], digits_home)
    assert last.accuracy.mean == pytest.approx(states["test_acc"][rows].mean())
    assert last.gap.mean == pytest.approx(states["generalization_gap"][rows].mean())
    wide = weights.astype(np.float64)
    pairs = [(i, j) for i in range(20) for j in range(i)]
    l2 = [np.linalg.norm(wide[i] - wide[j]) for i, j in pairs]
    cosine = [
        wide[i] @ wide[j] / np.linalg.norm(wide[i]) / np.linalg.norm(wide[j]) for i, j in pairs
    ]
    assert last.l2.count == 190
    assert last.l2.quartiles == pytest.approx(np.percentile(l2, (25, 50, 75)))
    assert last.cosine.mean == pytest.approx(np.mean(cosine))
    # The same models' answers, by the networks themselves.
    chosen = np.sort(np.random.default_rng(0).permutation(20)[:4])
    digits = load_images("digits")
    assert len(digits.test) >= 50
    indices = np.sort(np.random.default_rng(0).permutation(len(digits.test))[:50])
    pixels = digits.normalized("test")[indices]
    answers = []
    for model in chosen:
        row = rows[states.model[rows] == model][0]
        network = model_zoos.instantiate(
            {
                "architecture": "cnn_s",
                "activation": states["activation"][row],
                "weights": weights[rows == row][0],
            }
        )
        with torch.inference_mode():
            answers.append(network(pixels).argmax(1).numpy())
    same = [(answers[i] == answers[j]).mean() for i in range(4) for j in range(i)]
    assert last.agreement.mean == pytest.approx(np.mean(same))
    assert list(last.cka) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert 0 <= last.cka["conv1"].quartiles[0] <= last.cka["conv1"].quartiles[2] <= 1 + 1e-6
    again = diversity("digits_cnn_s", digits_home, run_models=4, images=50, epochs=2)
    assert json.dumps(dataclasses.asdict(again)) == json.dumps(dataclasses.asdict(found))


@pytest.mark.parametrize(("large", "said"), [(0, None), (1, "1 state with"), (5, "5 states with")])
def test_states_with_large_weights_are_counted(
    tmp_path: Path, large: int, said: str | None
) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    directory, generator = (
        create_zoo(tmp_path, zoo, engine="random values"),
        np.random.default_rng(0),
    )
    models = zoo.models(8)
    directory.add_splits(model.model_id for model in models)
    for number, model in enumerate(models):
        weights = generator.uniform(-1, 1, (2, zoo.layout.size)).astype(np.float32)
        if number < large:  # in the last epoch, of either sign; 5 itself is not above 5
            weights[1, number] = 6.0 * (-1) ** number
        weights[0, 0] = 5.0
        metrics = {name: generator.random(2) for name in METRICS[:6]}
        directory.write_model(
            model.model_id, model.hyperparameters(), np.arange(2), weights, metrics
        )
    found = diversity(zoo.name, tmp_path, run_models=2, images=10)
    assert [epoch.large for epoch in found.epochs] == [0, large]
    notes = found.tables()[1].notes
    assert any("with a weight above 5" in note for note in notes) == (said is not None)
    if said is not None:
        assert notes[-1].startswith(f"Included: {said}")


def test_diverged_models_and_missing_images(tmp_path: Path, monkeypatch: ...) -> None:
    write_odd_zoos(tmp_path)
    info = open_zoo(tmp_path, "odd").path / "zoo.json"
    info.write_text(info.read_text().replace('"images": "digits"', '"images": "mnist"'))
    monkeypatch.delenv("MODEL_ZOOS_IMAGES", raising=False)
    found = diversity("odd", tmp_path, images_dir=tmp_path / "nowhere")
    assert "MNIST" in found.not_obtained[NEED_IMAGES]
    assert [(e.models, e.diverged, e.compared) for e in found.epochs] == [
        (12, 0, 12),
        (11, 1, 11),
        (11, 1, 11),
    ]
    last = found.epochs[-1]
    assert last.l2.count == 55
    assert np.isfinite(last.l2.mean)
    assert last.agreement is None
    assert last.cka is None


def test_images_that_do_not_fit_are_not_run(tmp_path: Path) -> None:
    write_odd_zoos(tmp_path)
    digits = load_images("digits").subset(test=slice(5))
    small = dataclasses.replace(
        digits,
        **{
            split: dataclasses.replace(part, pixels=part.pixels[:, :, :20, :20])
            for split in ("train", "validation", "test")
            if (part := getattr(digits, split)) is not None
        },
    )
    found = diversity("odd", tmp_path, images=small)
    assert "takes images [1, 28, 28], found [1, 20, 20]" in found.not_obtained[NEED_IMAGES]
