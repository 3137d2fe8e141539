"""Evaluation of vectors against the networks themselves, and as a command."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from safetensors.numpy import save_file
from typer.testing import CliRunner

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.cli import app
from model_zoos.errors import InvalidArgument
from model_zoos.generation.generate import generate
from model_zoos.weight_space.evaluation import evaluate
from model_zoos.weight_space.vector_files import read_activations, read_vectors

from .layouts import PLAIN, RESNET, random_weights


@pytest.fixture(scope="module")
def rows(digits_home: Path) -> Any:
    return load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home), split="test")


def by_torch(weights: Any, layout: Any, activation: str, images: Any, labels: Any) -> Any:
    row = {"architecture": layout.architecture.name, "activation": activation}
    with torch.inference_mode():
        logits = [model_zoos.instantiate({**row, "weights": w})(images) for w in weights]
    losses = [torch.nn.functional.cross_entropy(out, labels).item() for out in logits]
    return losses, [(out.argmax(1) == labels).double().mean().item() for out in logits]


@pytest.mark.parametrize("layout", [*PLAIN, RESNET], ids=str)
def test_as_torch(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks.
    monkeypatch.setattr("model_zoos.weight_space.evaluation._BLOCK_BYTES", 4 * 2 * layout.size)
    weights = 0.05 * np.abs(random_weights(layout, 5))
    side = layout.architecture.image_size or 8
    images = torch.randn(6, layout.channels, side, side)
    labels = torch.arange(6) % layout.classes
    row = {"architecture": layout.architecture.name, "activation": "relu"}
    loss, accuracy = evaluate(weights, row, (images, labels), engine="batched")
    expected = by_torch(weights, layout, "relu", images, labels)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-4)
    np.testing.assert_allclose(accuracy, expected[1])


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 vectors of a small network, mapped from a file of 31 MB, in blocks of 1 MB."""
    monkeypatch.setattr("model_zoos.weight_space.evaluation._BLOCK_BYTES", 1 << 20)
    layout = make_layout("1x4x4 fc4:relu fc2", 1, 2)
    written = np.lib.format.open_memmap(
        tmp_path / "many.npy", "w+", np.float32, (100_000, layout.size)
    )
    for start in range(0, len(written), 10_000):
        written[start : start + 10_000] = random_weights(layout, 10_000, seed=start)
    del written
    weights = np.load(tmp_path / "many.npy", mmap_mode="r")
    images, labels = torch.randn(7, 1, 4, 4), torch.arange(7) % 2
    row = {"architecture": layout.architecture.name, "activation": "relu"}
    tracemalloc.start()
    try:
        loss, accuracy = evaluate(weights, row, (images, labels), engine="batched")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20
    some = np.random.default_rng(0).choice(len(weights), 20)
    expected = by_torch(np.array(weights[some]), layout, "relu", images, labels)
    np.testing.assert_allclose(loss[some], expected[0], rtol=1e-4)
    np.testing.assert_allclose(accuracy[some], expected[1])


def test_recorded_accuracies_are_found_again(rows: Any) -> None:
    weights = model_zoos.weights(rows)
    for like in (rows, rows[0], rows.remove_columns("weights"), "digits_cnn_s"):
        activation = None if isinstance(like, Dataset) else rows["activation"]
        loss, accuracy = evaluate(weights, like, activation=activation)
        np.testing.assert_allclose(accuracy, rows["test_acc"], atol=1e-6)
        np.testing.assert_allclose(loss, rows["test_loss"], rtol=1e-4)
    images = model_zoos.load_images("digits").subset(validation=slice(50))
    seen: list[tuple[int, int]] = []
    _, accuracy = evaluate(
        weights[0].tolist(), rows[0], images, "validation", on_progress=lambda *n: seen.append(n)
    )
    assert accuracy.shape == (1,)
    assert seen == [(1, 1)]


def test_each_network_has_its_own_activation(rows: Any) -> None:
    weights = np.repeat(model_zoos.weights(rows)[:1].numpy(), 3, axis=0)
    names = ["relu", "tanh", "relu"]
    loss, _ = evaluate(weights, rows[0], activation=names)
    assert loss[0] == loss[2] != loss[1]
    mixed = rows.select(range(3)).map(lambda _, i: {"activation": names[i]}, with_indices=True)
    assert (evaluate(weights, mixed).loss == loss).all()
    with pytest.raises(InvalidArgument, match="3 rows with the activation relu, tanh"):
        evaluate(weights[:2], mixed)


def test_refusals(rows: Any) -> None:
    weights = model_zoos.weights(rows)
    unknown = {"architecture": "cnn_s", "activation": None}
    images = torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])
    for arguments, message in (
        ((weights, unknown, images), "a weight vector has no activation"),
        ((weights, rows[0], "cifar100"), "no image data set 'cifar100'"),
        ((weights, {**unknown, "activation": "tanh"}), "which images the networks saw"),
        ((weights[:, 1:], "digits_cnn_s"), "2,464 weights a model, found 2,463"),
        ((weights[None], "digits_cnn_s"), r"must be \[P, N\]"),
        ((weights, rows[0], (images[0], torch.tensor([0, 10]))), "labels are not all"),
        ((weights, rows[0], (images[0], images[1].double())), "found .*float32 and .*float64"),
        ((weights, rows[0], (images[0].byte(), images[1])), "found .*uint8 and .*int64"),
        ((weights, rows[0], images[:1]), "a pair of images and labels, found 1"),
        ((weights, rows[0], 5), "images must be a name such as 'mnist'.*, found int"),
        ((weights, rows[0], (images[0][:, :, 1:], images[1])), r"takes images \[1, 28, 28\]"),
        ((weights, rows[0], (images[0], images[1][:1])), "labels"),
        ((weights, rows[0], "digits", "tests"), "no split 'tests'"),
    ):
        with pytest.raises((InvalidArgument, OSError), match=message):
            evaluate(*arguments)


def write(kind: str, folder: Path, weights: np.ndarray) -> Path:
    path = folder / f"vectors.{kind}"
    if kind == "npy":
        np.save(path, weights)
    elif kind == "safetensors":
        save_file({"weights": weights, "epoch": np.arange(len(weights))}, path)
    else:
        column = pa.FixedSizeListArray.from_arrays(weights.reshape(-1), weights.shape[1])
        pq.write_table(pa.table({"weights": column}), path)
    return path


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_the_command(rows: Any, tmp_path: Path, kind: str) -> None:
    weights = model_zoos.weights(rows).numpy()
    empty = ["evaluate", str(write(kind, tmp_path, weights[:0])), "--like", "digits_cnn_s"]
    with pytest.raises(InvalidArgument, match="no rows, expected one for each network"):
        CliRunner().invoke(app, empty, catch_exceptions=False)
    path = write(kind, tmp_path, weights)
    assert np.concatenate(list(read_vectors(path))).tobytes() == weights.tobytes()
    options = ["evaluate", str(path), "--like", "digits_cnn_s", "--activation", "tanh"]
    done = CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    expected = evaluate(weights, "digits_cnn_s", activation="tanh")
    np.testing.assert_allclose(result["accuracy"], expected.accuracy)
    np.testing.assert_allclose(result["loss"], expected.loss)
    assert (result["images"], result["split"]) == ("digits", "test")
    shown = CliRunner().invoke(app, options, catch_exceptions=False).stdout
    assert f"{expected.accuracy.max():.4f}" in shown
    assert not CliRunner().invoke(app, [*options, "--quiet"], catch_exceptions=False).stdout


def table_of(rows: Any, **columns: Any) -> pa.Table:
    weights = model_zoos.weights(rows).numpy()
    column = pa.FixedSizeListArray.from_arrays(weights.reshape(-1), weights.shape[1])
    return pa.table({"weights": column, **columns})


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_rows_of_a_file_have_their_own_activation(
    rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    """The digits with all their activations, in several blocks; the expected ones are recorded."""
    monkeypatch.setattr("model_zoos.weight_space.vector_files._BLOCK_BYTES", 4 * 2464 * 5)
    home = tmp_path / "zoos"
    grid = model_zoos.zoo_spec("digits_cnn_s").grid
    grid = tuple((k, v if k == "activation" else v[:1]) for k, v in grid)
    zoo = dataclasses.replace(model_zoos.zoo_spec("digits_cnn_s"), grid=grid, epochs=1, seeds=1)
    images = model_zoos.load_images("digits")
    generate(dataclasses.replace(zoo, name="mixed"), home, images)
    mixed = concatenate_datasets(
        list(load_dataset("model_zoos", "mixed", data_dir=str(home)).values())
    ).shuffle(seed=1)
    names = mixed["activation"]
    assert len(set(names)) == 4
    path = tmp_path / "mixed.parquet"
    architecture = pa.array(mixed["architecture"])
    table = table_of(mixed, activation=pa.array(names).cast(kind), architecture=architecture)
    pq.write_table(table, path)
    options = ["evaluate", str(path), "--like", "digits_cnn_s"]
    done = CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    np.testing.assert_allclose(result["accuracy"], mixed["test_acc"], atol=1e-6)
    np.testing.assert_allclose(result["loss"], mixed["test_loss"], rtol=1e-4)
    with pytest.raises(InvalidArgument, match=r"has .*relu.*contradicts the activation tanh"):
        CliRunner().invoke(app, [*options, "--activation", "tanh"], catch_exceptions=False)
    one = mixed.filter(lambda row: row["activation"] == "gelu")
    pq.write_table(table_of(one, activation=one["activation"]), path)
    for more in ([], ["--activation", "gelu"]):
        done = CliRunner().invoke(app, [*options, *more, "--json"], catch_exceptions=False)
        np.testing.assert_allclose(json.loads(done.stdout)["accuracy"], one["test_acc"], atol=1e-6)


def test_columns_that_contradict_or_cannot_be_used(rows: Any, tmp_path: Path) -> None:
    zoo, path, few = (
        model_zoos.zoo_spec("digits_cnn_s"),
        tmp_path / "few.parquet",
        rows.select([0, 1]),
    )
    for columns, message in (
        ({"activation": ["relu", "swish"]}, "activation has 'swish'; known: "),
        ({"activation": ["relu", None]}, "1 of its 2 rows have no activation"),
        ({"activation": [1, 2]}, "activation has the type int64, expected string"),
        ({"architecture": ["cnn_s", "cnn_l"]}, "has cnn_l, but digits_cnn_s has"),
        ({"architecture": ["cnn_s", "cnn_x"]}, "cnn_x"),
    ):
        pq.write_table(table_of(few, **columns), path)
        with pytest.raises(InvalidArgument, match=message) as raised:
            read_activations(path, zoo)
        assert str(path) in str(raised.value)
    for columns in ({}, {"activation": pa.array([None, None], pa.string())}):
        pq.write_table(table_of(few, **columns), path)
        assert read_activations(path, zoo, "tanh") is None


def test_faulty_files(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"weight": [[1.0]]}), tmp_path / "other.parquet")
    save_file({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path / "two.safetensors")
    (tmp_path / "weights.pt").touch()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InvalidArgument, match=path.name):
            list(read_vectors(path))
    for kind in ("npy", "safetensors", "parquet"):
        with pytest.raises(FileNotFoundError) as raised:
            list(read_vectors(tmp_path / f"missing.{kind}"))
        assert raised.value.filename == str(tmp_path / f"missing.{kind}")
