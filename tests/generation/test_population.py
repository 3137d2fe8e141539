"""Generating zoos: content, resume after a kill, refusals."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.zoo_directory import FaultyZoo, open_zoo
from model_zoos.generation.engines import reference
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.population import Progress, generate

ZOO = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits").subset(train=slice(100))


def test_files_hold_what_the_engine_trained(tmp_path: Path, digits: ImageData) -> None:
    seen: list[Progress] = []
    summary = generate(ZOO, tmp_path, digits, models=3, processes=2, on_progress=seen.append)
    assert (summary.models, summary.present, summary.states) == (3, 0, 9)
    assert seen[-1] == Progress(3, 3, 9, 9)
    directory = open_zoo(tmp_path, ZOO.name)
    assert directory.info["images"]["sha256"] == digits.digest()
    assert directory.info["stream"] == "torch"
    good, faulty = directory.scan()
    assert not faulty
    by_id = {states.model_id: states for states in good}
    accuracies = []
    for model in ZOO.models(3):
        trained = list(reference.train(model, ZOO.layout, digits))
        states = by_id[model.model_id]
        assert states.hyperparameters == model.hyperparameters()
        assert (
            states.weights().tobytes()
            == torch.stack([s.weights for s in trained]).numpy().tobytes()
        )
        for name, values in states.metrics.items():
            assert values.tolist() == [state.metrics[name] for state in trained]
        accuracies.append(trained[-1].metrics["test_acc"])
    assert summary.test_acc == pytest.approx(np.mean(accuracies))


def test_only_what_is_missing_is_trained_and_no_split_moves(
    tmp_path: Path, digits: ImageData
) -> None:
    generate(ZOO, tmp_path, digits, models=2, processes=1)
    directory = open_zoo(tmp_path, ZOO.name)
    before = {path: path.stat().st_mtime_ns for path in directory.files()}
    splits = directory.splits()
    summary = generate(ZOO, tmp_path, digits, models=4, processes=1)
    assert (summary.models, summary.present) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {model: directory.splits()[model] for model in splits} == splits
    again = generate(ZOO, tmp_path, digits, models=4, processes=1)
    assert (again.models, again.present, again.test_acc) == (0, 4, None)


def test_a_diverged_model_is_kept_and_counted(tmp_path: Path, digits: ImageData) -> None:
    grid = dict(ZOO.grid) | {
        "activation": ("relu",),
        "init": ("uniform",),
        "optimizer": ("sgd",),
        "learning_rate": (1000.0,),
    }
    zoo = dataclasses.replace(ZOO, name="diverging", grid=tuple(grid.items()), seeds=1)
    summary = generate(zoo, tmp_path, digits, processes=1)
    assert (summary.models, summary.diverged) == (1, 1)
    [states], faulty = open_zoo(tmp_path, "diverging").scan()
    assert not faulty
    assert np.isnan(states.weights()[1:]).all()
    assert np.isnan(states.metrics["test_loss"][1:]).all()


def _start(root: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "model_zoos",
        "generate",
        "digits_cnn_s",
        "--models",
        "6",
        "--epochs",
        "2",
        "--processes",
        "2",
        "--out",
        str(root),
        "--quiet",
    ]
    return subprocess.Popen(command, start_new_session=True)


def _contents(root: Path) -> dict[str, bytes]:
    directory = open_zoo(root, "digits_cnn_s")
    return {path.name: path.read_bytes() for path in directory.files()}


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert _start(tmp_path / "undisturbed").wait() == 0
    chance = np.random.default_rng(0)
    for _ in range(5):
        process = _start(tmp_path / "killed")
        time.sleep(chance.uniform(3, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert _start(tmp_path / "killed").wait() == 0
    assert _contents(tmp_path / "killed") == _contents(tmp_path / "undisturbed")
    assert len(_contents(tmp_path / "killed")) == 6


def test_bad_arguments(tmp_path: Path, digits: ImageData) -> None:
    with pytest.raises(ValueError, match="unknown engine 'fast'"):
        generate(ZOO, tmp_path, digits, engine="fast")
    with pytest.raises(ValueError, match="at least 1"):
        generate(ZOO, tmp_path, digits, processes=0)
    with pytest.raises(ValueError, match=r"needs images of shape \(3, 28, 28\)"):
        generate(get_zoo("cifar10_cnn_s_seed"), tmp_path, digits)
    with pytest.raises(ValueError, match="not ResNet-18"):
        generate(get_zoo("cifar10_resnet18"), tmp_path, digits)
    assert list(tmp_path.iterdir()) == []


def test_other_images_do_not_continue_a_zoo(tmp_path: Path, digits: ImageData) -> None:
    generate(ZOO, tmp_path, digits, models=1, processes=1)
    with pytest.raises(FaultyZoo, match=r"made with images\.sha256"):
        generate(ZOO, tmp_path, digits.subset(train=slice(90)), models=1, processes=1)
