"""Given weights in training, against plain loops over torch's own modules and optimizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset

import model_zoos
from model_zoos.benchmarks.audit import audit_zoo
from model_zoos.builders.overview import overview
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument
from model_zoos.generation.images import ImageData, Images
from model_zoos.generation.networks import instantiate
from model_zoos.weight_space.training import train

from .layouts import PLAIN, RESNET, random_weights, resnet_weights

OPTIMIZERS = {
    "adam": lambda p, lr, decay: torch.optim.Adam(p, lr=lr, weight_decay=decay),
    "adamw": lambda p, lr, decay: torch.optim.AdamW(p, lr=lr, weight_decay=decay),
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=decay),
}


def samples(layout: Any, count: int = 24, side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = layout.architecture.image_size or side
    images = torch.randn(count, layout.channels, side, side, generator=generator)
    return images, torch.randint(layout.classes, (count,), generator=generator)


def by_torch(
    weights: Any, layout: Any, activation: str, make: Any, rate: float, epochs: int, seed: int
) -> Any:
    """Weights and training metrics after each epoch of a plain loop, batches of 10."""
    images, labels = samples(layout)
    module = instantiate(layout, activation, weights).train()
    optimizer = make(module.parameters(), rate, 1e-3)
    generator = torch.Generator().manual_seed(seed)
    states, losses = [], []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        states.append(layout.to_vector({k: v.detach() for k, v in module.state_dict().items()}))
        losses.append(total / len(labels))
    return np.stack(states), losses


@pytest.mark.parametrize("engine", ["auto", "batched", "reference"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_as_a_loop_over_torch(optimizer: str, engine: str) -> None:
    """Vectors with activations, rates and seeds of their own."""
    layout = PLAIN[0] if engine == "auto" else PLAIN[3]
    weights = 0.1 * random_weights(layout, 3)
    activations, rates, seeds = ["relu", "tanh", "relu"], [1e-3, 2e-3, 3e-3], [5, 6, 7]
    states, metrics, path = train(
        weights,
        {"architecture": layout.architecture.name},
        samples(layout),
        epochs=2,
        learning_rate=rates,
        optimizer=optimizer,
        batch_size=10,
        weight_decay=1e-3,
        momentum=0.9,
        activation=activations,
        seed=seeds,
        engine=engine,
    )
    assert path is None
    assert states.shape == (3, 3, layout.size)
    assert (states[:, 0] == weights).all()
    for row in range(3):
        given = (activations[row], OPTIMIZERS[optimizer], rates[row], 2, seeds[row])
        expected, losses = by_torch(weights[row], layout, *given)
        np.testing.assert_allclose(states[row, 1:], expected, atol=2e-4)
        np.testing.assert_allclose(metrics["train_loss"][row, 1:], losses, rtol=1e-3)
    like = {"architecture": layout.architecture.name, "activation": "relu"}
    scores = model_zoos.evaluate(weights[::2], like, samples(layout))
    np.testing.assert_allclose(metrics["train_acc"][::2, 0], scores.accuracy)


def test_resnet_as_a_loop_over_torch() -> None:
    """Batch-norm statistics are trained along."""
    weights = resnet_weights(np.random.default_rng(0))
    states, metrics, _ = train(
        weights,
        {"architecture": "resnet18", "activation": "relu"},
        samples(RESNET),
        epochs=1,
        learning_rate=0.01,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=1e-3,
        batch_size=10,
        seed=3,
    )
    expected, losses = by_torch(weights, RESNET, "relu", OPTIMIZERS["sgd"], 0.01, 1, 3)
    assert (states[0, 1] != weights).mean() > 0.99
    np.testing.assert_allclose(states[0, 1:], expected, atol=2e-3)
    np.testing.assert_allclose(metrics["train_loss"][0, 1:], losses, rtol=1e-3)


def test_rows_of_a_zoo_are_trained_as_they_were(digits_home: Path, tmp_path: Path) -> None:
    """Hyperparameters from the rows, images from the zoo, and the states as a zoo to be loaded."""
    rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home), split="test")
    rows = rows.filter(lambda row: row["epoch"] == 5)
    assert len(set(rows["activation"])) > 1
    done: list[tuple[int, int]] = []
    weights = model_zoos.weights(rows)
    states, metrics, path = train(
        weights,
        rows,
        epochs=2,
        learning_rate=1e-3,
        batch_size=64,
        on_progress=lambda *numbers: done.append(numbers),
        out=tmp_path,
        name="further",
    )
    np.testing.assert_allclose(metrics["test_acc"][:, 0], rows["test_acc"], atol=1e-6)
    assert set(metrics) == {f"{s}_{m}" for s in ("train", "val", "test") for m in ("loss", "acc")}
    assert metrics["train_loss"][:, 2].mean() < metrics["train_loss"][:, 0].mean()
    assert done[-1] == (2 * len(rows), 2 * len(rows))
    assert path == tmp_path / "further"
    audit = audit_zoo("further", tmp_path, states=None)
    assert audit.verdict == "good"
    assert audit.evaluated == audit.states == 3 * len(rows)
    assert not any(check.note for check in audit.checks if check.name == "accuracy")
    [part] = overview("further", tmp_path)
    assert (part.models, part.specified) == (len(rows), None)
    splits = load_dataset("model_zoos", "further", data_dir=str(tmp_path))
    assert sum(map(len, splits.values())) == 3 * len(rows)
    for split in splits.values():
        for row in split.select_columns(["model_id", "epoch", "activation", "test_acc", "weights"]):
            number = int(row["model_id"].removeprefix("row_"))
            assert row["activation"] == rows["activation"][number]
            assert row["test_acc"] == np.float32(metrics["test_acc"][number, row["epoch"]])
            assert (np.float32(row["weights"]) == states[number, row["epoch"]]).all()


def own_images() -> ImageData:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 1, 28, 28), np.uint8)
    part = Images(torch.from_numpy(pixels), torch.from_numpy(rng.integers(0, 10, 30)))
    return ImageData("own", part, None, part, (0.5,), (0.5,))


def test_the_schedule_is_that_of_like() -> None:
    weights = 0.1 * random_weights(PLAIN[0], 2)
    row = {"architecture": "cnn_s", "activation": "tanh", "optimizer": "adam", "batch_size": 8}
    row |= {"learning_rate": 1e-2}

    def last(like: dict[str, Any], **schedule: Any) -> Any:
        return train(weights, like, own_images(), epochs=2, **schedule).weights[:, -1]

    cosine = last(row, scheduler="cosine")
    constant = last(row)
    assert (last(row | {"scheduler": "cosine"}) == cosine).all()
    assert (last(row | {"scheduler": "cosine"}, scheduler=None) == constant).all()
    assert not (cosine == constant).all()
    with pytest.raises(InvalidArgument, match="unknown scheduler 'plateau'; known: OneCycleLR"):
        last(row | {"scheduler": "plateau"})


def test_a_result_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 0.1 * random_weights(PLAIN[0], 2)
    like = {"architecture": "cnn_s", "activation": "tanh", "optimizer": "adam", "batch_size": 8}
    given: Any = {"epochs": 1, "learning_rate": 1e-3, "out": tmp_path, "name": "once"}
    states, _, path = train(weights, like, own_images(), **given)
    assert path is not None
    zoo = open_zoo(tmp_path, "once").zoo
    assert dict(zoo.grid)["init"] == ("uniform",)  # a grid has one
    assert "whose initialisation is not known" in zoo.note
    again = train(weights, like, own_images(), **given)
    assert (again.weights == states).all()
    named = train(weights, like | {"init": "normal"}, own_images(), **given | {"name": "named"})
    assert named.path is not None
    about = open_zoo(tmp_path, "named").zoo
    assert (dict(about.grid)["init"], about.note) == (("normal",), "")

    monkeypatch.setattr("model_zoos.weight_space.training.fine_tune", None)  # all is said before it
    for vectors, change, message in (
        (weights / 2, {}, "once holds the result of another training, which began with other w"),
        (weights[:1], {}, "which began with other weights: give another name or out, or delete"),
        (weights, {"seed": 1}, "with other hyperparameters, epochs or seeds"),
        (weights, {"epochs": 2}, "with other hyperparameters, epochs or seeds"),
    ):
        with pytest.raises(FaultyZoo, match=message):
            train(vectors, like, own_images(), **given | change)
    info = json.loads((path / "zoo.json").read_text())
    info["source"] = {"file": "given weights"}  # as earlier versions wrote it
    (path / "zoo.json").write_text(json.dumps(info))
    rows = load_dataset("model_zoos", "once", data_dir=str(tmp_path), split="train")
    assert set(rows["init"]) == {None}
    with pytest.raises(FaultyZoo, match="by an earlier version, which did not record from which"):
        train(weights, like, own_images(), **given)


def test_a_vector_is_trained_alike_in_any_company() -> None:
    layout = PLAIN[0]
    weights = 0.1 * random_weights(layout, 40)
    images = own_images()
    like = {"architecture": "cnn_s", "activation": "tanh", "optimizer": "adam", "batch_size": 8}
    options: Any = {"epochs": 1, "learning_rate": 1e-3, "dropout": 0.3, "seed": 4}
    states, metrics, _ = train(weights, like, images, **options)
    one, own, _ = train(torch.from_numpy(weights[17]), like, images, **options)
    assert sorted(metrics) == ["test_acc", "test_loss", "train_acc", "train_loss"]
    np.testing.assert_allclose(one[0], states[17], atol=1e-6)
    np.testing.assert_allclose(own["test_loss"][0], metrics["test_loss"][17], rtol=1e-5)


def test_refusals(tmp_path: Path) -> None:
    layout = PLAIN[0]
    weights, images = random_weights(layout, 2), samples(layout)
    row = {"architecture": "cnn_s", "activation": "relu", "optimizer": "adam", "batch_size": 8}
    for like, change, message in (
        (row, {}, "a weight vector has no learning_rate, or NaN"),
        (
            {"architecture": "cnn_s"},
            {"learning_rate": 0.1},
            "a weight vector has no activation",
        ),
        (row, {"learning_rate": [0.1] * 3}, "learning_rate: 3 values, but 2 weight vectors"),
        (row, {"learning_rate": 0.1, "seed": [1]}, "seed: 1 values, but 2 weight vectors"),
        (row, {"learning_rate": 0.1, "epochs": 0}, "nothing to train"),
        (row, {"learning_rate": 0.1, "engine": "none"}, "unknown engine 'none'"),
        (row, {"learning_rate": 0.1, "optimizer": "none"}, "optimizer must be one of adam, sgd"),
        (row, {"learning_rate": -1}, "learning_rate must be a finite number >= 0, found -1"),
        (row, {"learning_rate": [0.1, float("inf")]}, "learning_rate must be a finite number"),
        (row, {"learning_rate": float("nan")}, "has no learning_rate, or NaN"),
        (row, {"learning_rate": 0.1, "weight_decay": -3.0}, "weight_decay must be a finite"),
        (row, {"learning_rate": 0.1, "dropout": 1.0}, r"dropout must be a number in \[0, 1\)"),
        (row, {"learning_rate": 0.1, "batch_size": 0}, "batch_size must be a whole number from 1"),
        (row, {"learning_rate": 0.1, "out": tmp_path}, "a zoo needs images with a name"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            train(weights, like, images, **{"epochs": 1, **change})
    assert not list(tmp_path.iterdir())
