"""load_dataset("model_zoos", ...) in every mode that datasets has."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from datasets.inspect import get_dataset_config_names
from torch.utils.data import DataLoader

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.homes import open_parts
from model_zoos.builders.schema import COLUMNS
from model_zoos.builders.zoo_directory import create_zoo, open_zoo
from model_zoos.errors import FaultyFilesWarning, NoRowsLeft, UnknownZoo, ZooNotFound
from tests.zoos import random_zoo

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="session")
def union_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three variants of mnist_cnn_s, of two epochs, with random weights."""
    root = tmp_path_factory.mktemp("union")
    for variant, models in (("seed", 9), ("hyp_10_r", 8), ("hyp_10_f", 7)):
        zoo = dataclasses.replace(get_zoo(f"mnist_cnn_s_{variant}"), epochs=2)
        random_zoo(root, zoo, models)
    return root


def load(name: str, home: Path, **arguments: Any) -> Any:
    return load_dataset("model_zoos", name, data_dir=str(home), **arguments)


def test_every_row_is_the_state_on_disk(digits_home: Path) -> None:
    directory = open_zoo(digits_home, "digits_cnn_s")
    assigned, specifications = directory.splits(), directory.zoo.models(20)
    splits = load("digits_cnn_s", digits_home)
    assert [len(splits[split]) for split in SPLITS] == [14 * 6, 3 * 6, 3 * 6]
    rows = {
        (row["model_id"], row["epoch"]): (split, row) for split in SPLITS for row in splits[split]
    }
    assert len(rows) == 20 * 6
    by_id = {model.model_id: model for model in specifications}
    for path in directory.files():
        states = directory.read(path)
        model, weights = by_id[states.model_id], states.weights()
        for index, epoch in enumerate(states.epochs):
            split, row = rows[states.model_id, epoch]
            assert split == assigned[states.model_id]
            assert set(row) == set(COLUMNS)
            assert np.asarray(row["weights"], np.float32).tobytes() == weights[index].tobytes()
            metrics = {name: float(values[index]) for name, values in states.metrics.items()}
            for name, value in metrics.items():
                assert row[name] == np.float32(value)
            gap = np.float32(metrics["train_acc"] - metrics["test_acc"])
            assert row["generalization_gap"] == gap
            assert row["sparsity"] is None
            assert row["parent_model_id"] is None
            for name, value in model.hyperparameters().items():
                assert row[name] == value, name
            assert [row[name] for name in ("zoo", "image_dataset", "architecture", "variant")] == [
                "digits_cnn_s",
                "digits",
                "cnn_s",
                "hyp_10_f",
            ]


def test_rows_are_sorted_by_model_and_epoch(digits_home: Path) -> None:
    rows = load("digits_cnn_s", digits_home, split="train", columns=["model_id", "epoch"])
    keys = list(zip(rows["model_id"], rows["epoch"], strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_streaming_equals_map(digits_home: Path, split: str) -> None:
    mapped = load("digits_cnn_s", digits_home, split=split)
    stream = load("digits_cnn_s", digits_home, split=split, streaming=True)
    assert stream.features == mapped.features
    assert list(stream) == list(mapped)


def test_split_slices(digits_home: Path) -> None:
    whole = load("digits_cnn_s", digits_home, split="train")
    assert list(load("digits_cnn_s", digits_home, split="train[:10%]")) == list(
        whole.select(range(round(len(whole) * 0.1)))
    )
    both = load("digits_cnn_s", digits_home, split="train+test[2:4]")
    assert len(both) == len(whole) + 2


def test_two_processes(digits_home: Path, tmp_path: Path) -> None:
    single = load("digits_cnn_s", digits_home, split="train", cache_dir=str(tmp_path / "1"))
    double = load(
        "digits_cnn_s", digits_home, split="train", num_proc=2, cache_dir=str(tmp_path / "2")
    )
    assert double.data.column("weights").num_chunks > 0
    assert list(double) == list(single)


def test_a_torch_data_loader_with_two_workers_sees_every_row_once(digits_home: Path) -> None:
    mapped = load("digits_cnn_s", digits_home, split="train")
    expected = sorted(zip(mapped["model_id"], mapped["epoch"], strict=True))
    for source in (
        mapped.with_format("torch"),
        load("digits_cnn_s", digits_home, split="train", streaming=True).with_format("torch"),
    ):
        loader = DataLoader(
            source.select_columns(["model_id", "epoch", "weights"]), batch_size=8, num_workers=2
        )
        seen = []
        for batch in loader:
            assert batch["weights"].dtype == torch.float32
            assert batch["weights"].shape[1:] == (2464,)
            seen += zip(batch["model_id"], batch["epoch"].tolist(), strict=True)
        assert sorted(seen) == expected


def test_generate_examples_is_what_a_plain_generator_based_builder_would_yield(
    digits_home: Path,
) -> None:
    builder = datasets.load_dataset_builder("model_zoos", "digits_cnn_s", data_dir=str(digits_home))
    assert isinstance(builder, datasets.GeneratorBasedBuilder)
    [generator] = [g for g in builder._split_generators(None) if g.name == "test"]
    rows = [row for _, row in builder._generate_examples(**generator.gen_kwargs)]
    assert rows == list(load("digits_cnn_s", digits_home, split="test"))


# --- columns= and filters= have the meaning that datasets' Parquet loader gives them --------------

FILTERS: dict[str, Any] = {
    "epoch": [("epoch", "==", 5)],
    "two": [("epoch", ">=", 2), ("optimizer", "==", "adam")],
    "or": [[("epoch", "==", 0)], [("learning_rate", "==", 3e-3), ("test_acc", ">", 0.5)]],
    "in": [("activation", "in", ["tanh", "gelu"])],
    "expression": pc.field("generalization_gap") > 0,
    "null": pc.field("momentum").is_null(),
}


@pytest.fixture(scope="session")
def parquet(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The training rows as a Parquet file, for datasets' own loader."""
    path = tmp_path_factory.mktemp("parquet") / "train.parquet"
    rows = load("digits_cnn_s", digits_home, split="train")
    pq.write_table(rows.with_format("arrow")[:], path)
    return str(path)


@pytest.mark.parametrize(
    "columns", [None, ["epoch", "test_acc"], ["weights"], ["test_acc", "epoch"]]
)
@pytest.mark.parametrize("filters", [None, *FILTERS])
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_filters_do_what_the_parquet_loader_does(
    digits_home: Path, parquet: str, columns: list[str] | None, filters: str | None, streaming: bool
) -> None:
    arguments: dict[str, Any] = {"split": "train", "streaming": streaming, "columns": columns}
    if filters is not None:
        arguments["filters"] = FILTERS[filters]
    ours = load("digits_cnn_s", digits_home, **arguments)
    theirs = load_dataset("parquet", data_files={"train": parquet}, **arguments)
    ours_rows, theirs_rows = list(ours), list(theirs)
    assert ours_rows == theirs_rows
    assert 0 < len(ours_rows) <= 84
    if columns is not None:
        assert set(ours_rows[0]) == set(columns)
        assert list(ours.features) == [name for name in COLUMNS if name in columns]
    assert filters is None or len(ours_rows) < 84


def test_weights_are_not_read_when_not_asked_for(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from model_zoos.builders.model_file import ModelFile

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were read")

    for method in ("weights", "mapped_weights"):
        monkeypatch.setattr(ModelFile, method, refuse)
    cache = str(tmp_path)
    rows = load("digits_cnn_s", digits_home, columns=["epoch", "test_acc"], cache_dir=cache)
    assert len(rows["train"]) == 84
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as raised:
        load("digits_cnn_s", digits_home, columns=["weights"], cache_dir=cache)
    assert "weights were read" in str(raised.value.__cause__)


def test_filters_that_match_nothing_in_a_split(digits_home: Path) -> None:
    [model] = set(
        load("digits_cnn_s", digits_home, split="test", columns=["model_id"])["model_id"][:1]
    )
    found = load("digits_cnn_s", digits_home, filters=[("model_id", "==", model)], split="test")
    assert len(found) == 6
    assert (
        list(
            load(
                "digits_cnn_s",
                digits_home,
                filters=[("model_id", "==", model)],
                split="train",
                streaming=True,
            )
        )
        == []
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_filters_that_leave_no_row_of_some_tables(tmp_path: Path, streaming: bool) -> None:
    """Rows are read in tables of some hundred; the first and a middle one are empty here."""
    directory = random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=99), 20)
    kept = [file.model_id for file in directory.by_split()[0]["train"]][5::6]
    rows = load(
        "digits_cnn_s",
        tmp_path,
        split="train",
        filters=[("model_id", "in", kept), ("epoch", ">", 97)],
        columns=["model_id", "epoch"],
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    expected = [{"model_id": model, "epoch": epoch} for model in kept for epoch in (98, 99)]
    assert list(rows) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_the_last_state_of_each_model(tmp_path: Path, streaming: bool) -> None:
    """Also of models that lack epochs, and where each state has a file."""
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=4)
    directory = random_zoo(tmp_path, zoo, 10)
    directory.write_model(
        "short",
        {"activation": "relu"},
        [0, 2],
        np.full((2, zoo.layout.size), [[1], [2]], np.float32),
        {"test_acc": np.array([0.1, 0.9])},
    )
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    rows = [
        row for part in load(zoo.name, tmp_path, final=True, **options).values() for row in part
    ]
    assert {row["model_id"]: row["epoch"] for row in rows} == {
        file.model_id: file.epochs[-1] for file in directory.scan()[0]
    }
    assert len(rows) == 11
    for row in rows:
        file = directory.read(directory.state_path(row["model_id"], 0))
        assert np.array_equal(np.array(row["weights"], np.float32), file.weights()[-1])
    planned = load(zoo.name, tmp_path, final=True, filters=[("epoch", "==", 4)], **options)
    found = {row["model_id"] for part in planned.values() for row in part}
    assert found == {row["model_id"] for row in rows} - {"short"}


def test_the_last_state_where_each_has_a_file(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("cifar10_resnet18"), epochs=3, seeds=2)
    directory = create_zoo(tmp_path, zoo)
    weights = np.zeros((3, zoo.layout.size), np.float32)
    for model, epochs in zip(zoo.models(), ([1, 2, 3], [1, 3]), strict=True):
        directory.write_model(model.model_id, {}, epochs, weights[: len(epochs)], {})
    rows = load(
        zoo.name, tmp_path, final=True, columns=["model_id", "epoch"], cache_dir=str(tmp_path / "c")
    )
    found = [row for part in rows.values() for row in part]
    assert sorted(row["model_id"] for row in found) == sorted(m.model_id for m in zoo.models())
    assert {row["epoch"] for row in found} == {3}


@pytest.mark.parametrize("streaming", [False, True])
def test_every_combination_of_arguments_gives_the_rows_that_plain_python_chooses(
    tmp_path: Path, streaming: bool
) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)
    directory = random_zoo(tmp_path, zoo, 8)
    directory.add_splits(["large"], {"large": "train"})
    directory.write_model("large", {}, [0, 2], np.full((2, zoo.layout.size), 7, np.float32), {})
    options: dict[str, Any] = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    bias = zoo.layout.slot("fc2.bias").slice
    every = list(load(zoo.name, tmp_path, **options))
    last = {row["model_id"]: row["epoch"] for row in every}
    assert last["large"] == 2
    for columns, final, filters, max_weight, tensors in itertools.product(
        (["weights"], ["epoch"], ["model_id", "weights"]),
        (False, True),
        (None, [("epoch", ">=", 2)]),
        (None, 5.0),
        (None, ["fc2.bias"]),
    ):
        if (tensors and "weights" not in columns) or not (streaming or final or max_weight):
            continue
        expected = [
            tuple(row[c][bias] if tensors and c == "weights" else row[c] for c in columns)
            for row in every
            if (not final or row["epoch"] == last[row["model_id"]])
            and (not filters or row["epoch"] >= 2)
            and (not max_weight or max(map(abs, row["weights"])) <= max_weight)
        ]
        given = {"columns": columns, "final": final, "filters": filters}
        given |= {"max_weight": max_weight, "tensors": tensors, "streaming": streaming}
        found = [
            tuple(row[column] for column in columns)
            for row in load(zoo.name, tmp_path, **given, **options)
        ]
        assert found == expected, given


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", [None, ["epoch", "model_id"]])
def test_states_with_large_weights_are_left_out(
    tmp_path: Path, streaming: bool, columns: list[str] | None
) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=4)
    directory = random_zoo(tmp_path, zoo, 10)
    extremes = np.zeros((6, zoo.layout.size), np.float32)
    extremes[range(1, 6), [0, -1, 7, 7, 7]] = [
        5.0,
        -5.0,
        np.nextafter(np.float32(5), np.float32(6)),
        np.nan,
        -np.inf,
    ]
    directory.write_model("mine", {}, range(6), extremes, {})
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    options |= {"columns": columns, "max_weight": 5}
    rows = [row for part in load(zoo.name, tmp_path, **options).values() for row in part]
    found = {(row["model_id"], row["epoch"]) for row in rows}
    expected = {
        (file.model_id, epoch)
        for file in directory.scan()[0]
        for epoch, vector in zip(file.epochs.tolist(), file.weights(), strict=True)
        if max(map(abs, vector.tolist())) <= 5 and not np.isnan(vector).any()
    }
    assert {epoch for model, epoch in expected if model == "mine"} == {0, 1, 2}
    assert found == expected
    assert len(rows) == len(found)
    assert set(rows[0]) == set(columns or COLUMNS)
    with pytest.raises(NoRowsLeft, match="max_weight=1e-09 leaves no row"):
        load(zoo.name, tmp_path, max_weight=1e-9, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(NoRowsLeft, match=r"no row in any split; its epochs are 0 to 5"):
        load(zoo.name, tmp_path, filters=[("epoch", "==", 25)], cache_dir=str(tmp_path / "cache"))


def test_a_split_that_has_no_rows_and_one_that_is_none(tmp_path: Path) -> None:
    directory = random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 9)
    model = next(name for name, split in directory.splits().items() if split == "train")
    filters = [("model_id", "==", model)]
    assert len(load("digits_cnn_s", tmp_path, split="train", filters=filters)) == 2
    with pytest.raises(NoRowsLeft, match=r"^filters=.* leaves no row in validation, test: name a"):
        load("digits_cnn_s", tmp_path, split="test", filters=filters)
    with pytest.raises(ValueError, match='Unknown split "tests"'):
        load("digits_cnn_s", tmp_path, split="tests", filters=filters)


def test_a_zoo_of_the_same_sizes_and_times_is_another(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    directory = random_zoo(tmp_path, zoo, 9)
    path = directory.files()[0]
    old, before = path.stat(), path.read_bytes()
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "filters": None}

    def first() -> bytes:
        parts = load(zoo.name, tmp_path, **options).values()
        rows = [r for part in parts for r in part if r["model_id"] == path.stem]
        return np.array([row["weights"] for row in rows], np.float32).tobytes()

    kept = first()
    file = directory.read(path)
    directory.write_model(
        path.stem, file.hyperparameters, file.epochs, file.weights()[::-1], dict(file.metrics)
    )
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert path.read_bytes() != before
    assert first() == directory.read(path).weights().tobytes() != kept


def test_bad_limits_of_weights(tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 9)
    for limit in (0, -1, float("nan"), "5"):
        with pytest.raises(ValueError, match="max_weight= must be a number above 0"):
            load("digits_cnn_s", tmp_path, max_weight=limit)
    with pytest.raises(ValueError, match="no weights for max_weight="):
        load("metrics", tmp_path, max_weight=5)


def test_a_zoo_that_cannot_be_used_costs_metrics_no_other(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    random_zoo(tmp_path, zoo, 9)
    create_zoo(tmp_path, dataclasses.replace(zoo, name="begun"))
    for name, file in (("broken", "zoo.json"), ("torn", "splits.json")):
        directory = random_zoo(tmp_path, dataclasses.replace(zoo, name=name), 3)
        (directory.path / file).write_text("{")
    damaged = random_zoo(tmp_path, dataclasses.replace(zoo, name="damaged"), 3)
    for path in damaged.files():
        path.write_bytes(b"")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    for streaming in (False, False, True):  # the second time from the cache
        with pytest.warns(FaultyFilesWarning) as said:
            rows = load("metrics", tmp_path, split="train", streaming=streaming, **options)
        assert set(rows["zoo"] if not streaming else (row["zoo"] for row in rows)) == {zoo.name}
        messages = sorted(str(warning.message) for warning in said)
        assert len(messages) == 3
        for message, part in zip(messages, ("broken", "torn", "damaged"), strict=True):
            assert str(tmp_path / part) in message
        assert messages[2].startswith("metrics: 1 zoo(s) left out: ")
        assert {warning.filename for warning in said} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FaultyFilesWarning)
        load("metrics", tmp_path, on_bad_files="skip", **options)
    with pytest.raises(model_zoos.FaultyZoo, match="broken"):
        load("metrics", tmp_path, on_bad_files="error", **options)
    for name in ("broken", "torn", zoo.name):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(ValueError, match="none of its 3 model files"):
        load("metrics", tmp_path, **options)


def test_a_number_finds_the_float32_next_to_it(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)
    directory = create_zoo(tmp_path, zoo)
    accuracies = np.array([0.05, 0.1, 0.3, 0.7])
    directory.write_model(
        "model",
        {"learning_rate": 0.1},
        range(4),
        np.zeros((4, zoo.layout.size), np.float32),
        {"test_acc": accuracies},
    )
    for filters, epochs in [
        ([("test_acc", "==", 0.05)], [0]),
        ([("test_acc", "!=", 0.1)], [0, 2, 3]),
        ([("test_acc", "in", [0.3, 0.7])], [2, 3]),
        ([("test_acc", "not in", (0.3,))], [0, 1, 3]),
        ([("test_acc", "<=", 0.1)], [0, 1]),
        ([("test_acc", "<", 0.7), ("learning_rate", "==", 0.1)], [0, 1, 2]),
        ([[("test_acc", ">=", 0.7)], [("test_acc", "==", np.float64(0.1))]], [1, 3]),
    ]:
        found = load("digits_cnn_s", tmp_path, split="train", filters=filters, streaming=True)
        assert [row["epoch"] for row in found] == epochs


def test_values_and_columns_of_any_kind(digits_home: Path, tmp_path: Path) -> None:
    """What holds several values is taken as they are; numpy's and pyarrow's single ones, too."""
    accuracy = 0.05
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)
    directory = create_zoo(tmp_path, zoo)
    weights = np.zeros((4, zoo.layout.size), np.float32)
    metrics = {"test_acc": np.array([accuracy, 0.1, 0.3, 0.7]), "test_loss": [1.0, 2, 3, np.inf]}
    directory.write_model("model", {"activation": "tanh"}, range(4), weights, metrics)
    options: dict[str, Any] = {"split": "train", "cache_dir": str(tmp_path / "cache")}

    def epochs(*filters: tuple[str, str, object]) -> list[int]:
        options["filters"] = list(filters)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            rows = list(load(zoo.name, tmp_path, streaming=True, **options))
            assert rows == list(load(zoo.name, tmp_path, **options))
        return [row["epoch"] for row in rows]

    for several in (
        np.array([accuracy, 0.7]),
        pd.Series([accuracy, 0.7]),
        pa.array([accuracy, 0.7]),
        [pa.scalar(accuracy), pa.scalar(0.7)],
        frozenset([accuracy, 0.7]),
        {accuracy: 1, 0.7: 2}.keys(),
    ):
        assert epochs(("test_acc", "in", several)) == [0, 3]
        assert epochs(("test_acc", "not in", several)) == [1, 2]
    assert epochs(("epoch", "in", range(1, 3))) == [1, 2]
    assert epochs(("activation", "in", np.array(["tanh"]))) == [0, 1, 2, 3]
    for operator, found in (("==", [0]), ("<=", [0]), (">", [1, 2, 3]), ("!=", [1, 2, 3])):
        assert epochs(("test_acc", operator, pa.scalar(accuracy))) == found
    assert epochs(("test_loss", "<", 1e300)) == [0, 1, 2]
    assert epochs(("test_loss", ">", 1e300)) == [3]
    options["filters"] = pc.field("sparsity").is_null() & ~pc.field("test_acc").is_null()
    assert len(load(zoo.name, tmp_path, **options)) == 4
    options["filters"] = [("epoch", "in", (number for number in (1, 2)))]
    stream = load(zoo.name, tmp_path, streaming=True, **options)
    for _ in range(2):  # although a generator can be read only once
        assert [row["epoch"] for row in stream] == [1, 2]
    options["filters"] = None
    for columns in (pd.Index(["epoch"]), np.array(["epoch"]), {"epoch"}, (c for c in ["epoch"])):
        rows = load(zoo.name, tmp_path, columns=columns, **options)
        assert rows.column_names == ["epoch"]
    scalars = {"max_weight": np.float32(5), "final": np.True_}
    assert load(zoo.name, tmp_path, **scalars, **options)["epoch"][:] == [3]
    assert len(load_dataset("model_zoos", Path("digits_cnn_s"), data_dir=tmp_path, **options)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": [("activation", "in", "tanh")]}, "'in' compares with a list of values, found"),
        ({"filters": [("activation", "not in", b"tanh")]}, "compares with a list of values, found"),
        ({"filters": [("epoch", "in", 1)]}, "'in' compares with a list of values, found 1"),
        ({"filters": [("epoch", "in", np.array(["1"]))]}, "holds numbers, found '1'"),
        ({"filters": [("seed", ">", 10**30)]}, "is no whole number of 64 bits"),
        ({"filters": [("seed", "in", [10**30])]}, "is no whole number of 64 bits"),
        ({"filters": [("sparsity", "==", None)]}, "field('sparsity').is_null(), rows with one by"),
        ({"filters": [(1, "==", 2)]}, "columns are given by their names, found 1"),
        ({"columns": [1]}, "columns= is a list of names, found [1]"),
        ({"columns": 5}, "columns= is a list of names, found 5"),
        ({"tensors": [1]}, "tensors= is a list of names, found [1]"),
        ({"repo": 5}, "repo= must be ORG/NAME or the path of a folder"),
        ({"max_weight": True}, "max_weight= must be a number above 0, found True"),
        ({"columns": ["epoch", "test_accuracy"]}, "no column 'test_accuracy'; did you mean"),
        ({"columns": []}, "columns= is a list"),
        ({"columns": "weights"}, "columns= is a list"),
        ({"filters": [("lr", "==", 1)]}, "lr"),
        ({"filters": [("weights", "==", 1)]}, "rows cannot be chosen by weights, but max_weight="),
        ({"filters": [("epoch", "==", "five")]}, "filters=[('epoch'"),
        (
            {"filters": ("epoch", "==", 1)},
            "it is a tuple. Give a list of (column, operator, value)",
        ),
        ({"filters": [("epoch", "==", "5")]}, "column 'epoch' holds numbers, found '5'"),
        ({"filters": [[("activation", "in", ["tanh", 3])]]}, "holds texts, found 3"),
        ({"final": "last"}, "final= must be True or False, found 'last'"),
        ({"filters": "epoch == 1"}, "Give a list of (column, operator, value)"),
        ({"filters": [("epoch", "==", 99)]}, "filters=[('epoch', '==', 99)] leaves no row"),
        ({"filters": pc.field("epoch") == 99}, "leaves no row"),
        (
            {"final": True, "filters": [("epoch", "==", 1)]},
            "final=True and filters=[('epoch', '==', 1)] leave no row",
        ),
        ({"on_bad_files": "ignore"}, "on_bad_files must be"),
        ({"data_files": __file__}, "data_dir="),
        ({"pixels": 28}, "load_dataset has no argument 'pixels'; known: name"),
        ({"epoch": 3}, 'no argument \'epoch\'; filters=[("epoch", "==", value)] chooses rows'),
        ({"filters": [("epoch", "=>", 3)]}, "unknown operator '=>'; known: =, ==, !=, <"),
        ({"filter": []}, "load_dataset has no argument 'filter'; did you mean filters?"),
    ],
)
def test_bad_arguments(digits_home: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=r".*") as raised:
        load("digits_cnn_s", digits_home, **arguments)
    assert message in f"{raised.value} {raised.value.__cause__}"


# --- Names and places -----------------------------------------------------------------------------


def test_every_name_of_the_catalog_is_a_config() -> None:
    names = get_dataset_config_names("model_zoos")
    assert {"mnist_cnn_s_seed", "cifar10_cnn_l", "mnist_cnn_s_sparse", "metrics"} <= set(names)


def test_the_zoos_of_a_folder_are_configs(tmp_path: Path) -> None:
    mine = dataclasses.replace(get_zoo("digits_cnn_s"), name="mine", epochs=1)
    random_zoo(tmp_path, mine, 3)
    names = get_dataset_config_names("model_zoos", data_dir=str(tmp_path))
    assert names[0] == "mine"
    assert set(names[1:]) == set(get_dataset_config_names("model_zoos"))


def test_datasets_describes_zoos_that_are_here_and_those_that_are_not(tmp_path: Path) -> None:
    mine = dataclasses.replace(get_zoo("digits_cnn_s"), name="mine", doi=None, epochs=1)
    random_zoo(tmp_path, mine, 8)
    where: dict[str, Any] = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    infos = datasets.get_dataset_infos("model_zoos", **where)
    assert list(infos["metrics"].splits) == list(SPLITS)
    assert infos["mnist_cnn_s_seed"].splits == {}
    assert infos["mnist_cnn_s_seed"].features["weights"].length == 2464
    info = datasets.get_dataset_config_info("model_zoos", "mine", **where)
    assert (list(info.splits), info.license) == (list(SPLITS), "")
    assert datasets.get_dataset_split_names("model_zoos", "metrics", **where) == list(SPLITS)
    with pytest.raises(ZooNotFound, match="the zoo 'mnist_cnn_s_seed' is not in"):
        load_dataset("model_zoos", "mnist_cnn_s_seed", **where)


def test_a_load_opens_each_zoo_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_zoos.builders import zoo_directory

    for name in ("one", "two"):
        random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), name=name, epochs=1), 8)
    opened: list[str] = []
    read = zoo_directory._read_info
    monkeypatch.setattr(
        zoo_directory, "_read_info", lambda path: opened.append(path.name) or read(path)
    )
    for name, zoos in (("one", ["one"]), ("metrics", ["one", "two"])):
        for streaming in (True, False):
            opened.clear()
            rows = load(name, tmp_path, streaming=streaming, cache_dir=str(tmp_path / "cache"))
            assert len({row["zoo"] for row in rows["train"]}) == len(zoos)
            assert opened == zoos


@pytest.mark.parametrize("name", ["digits-cnn-s", "Digits_CNN_s"])
def test_hyphens_and_capitals_are_accepted(digits_home: Path, name: str) -> None:
    assert len(load(name, digits_home, split="test")) == 18


def test_unknown_name_lists_the_close_ones(digits_home: Path) -> None:
    with pytest.raises(UnknownZoo, match=r"did you mean digits_cnn_s.*: digits_cnn_s"):
        load("digits_cnn", digits_home)
    with pytest.raises(ValueError, match="name a zoo"):
        load_dataset("model_zoos")


def test_names_and_folders_that_are_none(digits_home: Path) -> None:
    with pytest.raises(ValueError, match=r"name= must be the name of a zoo, found \["):
        load_dataset("model_zoos", ["digits_cnn_s"])
    with pytest.raises(ValueError, match=r"data_dir= must be the path of a folder.*, found \["):
        load_dataset("model_zoos", "digits_cnn_s", data_dir=[str(digits_home)])
    with pytest.raises(UnknownZoo, match="is the folder of a zoo: its name is digits_cnn_s"):
        load_dataset("model_zoos", digits_home / "digits_cnn_s")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for name, error in (
        ("digits_cnn_s", ZooNotFound),
        ("mnist_cnn_s", ZooNotFound),
        ("metrics", ZooNotFound),
        ("digits_cnn", UnknownZoo),
    ):
        with pytest.raises(error, match=f"{nowhere} .*, a folder that does not exist"):
            load(name, nowhere)
    with pytest.raises(ZooNotFound, match=f"{nowhere}, a folder that does not exist"):
        open_zoo(nowhere, "digits_cnn_s")


def test_a_zoo_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ZooNotFound) as raised:
        load("mnist_cnn_s_seed", tmp_path)
    message = str(raised.value)
    assert f"model-zoos generate mnist_cnn_s_seed --out {tmp_path}" in str(raised.value.hint)
    assert "model-zoos" not in message
    assert "https://doi.org/10.5281/zenodo.6632086" in message
    assert str(tmp_path) in message
    assert "MODEL_ZOOS_HOME" in message
    with pytest.raises(ZooNotFound) as raised:
        load("mnist_cnn_s_seed_sparse", tmp_path)
    assert "generate" not in f"{raised.value} {raised.value.hint}"
    assert "model-zoos sparsify mnist_cnn_s_seed" in str(raised.value.hint)
    assert "https://doi.org/10.5281/zenodo.7023335" in str(raised.value)
    with pytest.raises(ZooNotFound, match="'digits_cnn_s_sparse_magnitude' is not in") as raised:
        load("digits_cnn_s_sparse_magnitude", tmp_path)
    assert "sparsify digits_cnn_s" in str(raised.value.hint)
    assert "--method magnitude" in str(raised.value.hint)
    with pytest.raises(ZooNotFound, match="there is no zoo in"):
        load("metrics", tmp_path)


def test_a_folder_too_deep_is_noticed(digits_home: Path) -> None:
    with pytest.raises(ZooNotFound, match="is itself a zoo: give the folder above"):
        load("digits_cnn_s", digits_home / "digits_cnn_s")


def test_unions_are_their_parts_one_after_the_other(union_home: Path) -> None:
    union = load("mnist_cnn_s", union_home)
    parts = [load(f"mnist_cnn_s_{v}", union_home) for v in ("seed", "hyp_10_r", "hyp_10_f")]
    for split in SPLITS:
        expected = [row for part in parts for row in part[split]]
        assert list(union[split]) == expected
    assert sum(len(split) for split in union.values()) == (9 + 8 + 7) * 3


def test_a_union_lacking_a_part_names_it(union_home: Path, tmp_path: Path) -> None:
    shutil.copytree(union_home, tmp_path / "zoos")
    shutil.rmtree(tmp_path / "zoos" / "mnist_cnn_s_hyp_10_f")
    with pytest.raises(ZooNotFound, match="mnist_cnn_s_hyp_10_f of 'mnist_cnn_s' is not in"):
        load("mnist_cnn_s", tmp_path / "zoos")


def test_metrics_are_every_state_without_weights(union_home: Path, tmp_path: Path) -> None:
    shutil.copytree(union_home, tmp_path / "zoos")
    random_zoo(tmp_path / "zoos", dataclasses.replace(get_zoo("cifar10_cnn_l_seed"), epochs=1), 10)
    metrics = load("metrics", tmp_path / "zoos")
    assert "weights" not in metrics["train"].column_names
    assert set(metrics["train"].column_names) == set(COLUMNS) - {"weights"}
    total = sum(len(split) for split in metrics.values())
    assert total == (9 + 8 + 7) * 3 + 10 * 2
    # Tables go over the ends of zoos: small ones do not cost a table for each model.
    stream = load("metrics", tmp_path / "zoos", split="train", streaming=True)
    assert stream.num_shards <= 17
    assert list(stream) == list(metrics["train"])
    zoos = {zoo for split in metrics.values() for zoo in split["zoo"]}
    assert zoos == {
        "mnist_cnn_s_seed",
        "mnist_cnn_s_hyp_10_r",
        "mnist_cnn_s_hyp_10_f",
        "cifar10_cnn_l_seed",
    }


def test_a_zoo_of_ones_own(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), name="my_zoo", epochs=1)
    random_zoo(tmp_path, zoo, 8)
    rows = load("my_zoo", tmp_path)
    assert {row["zoo"] for split in rows.values() for row in split} == {"my_zoo"}


def test_where_zoos_are_looked_for(
    digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooNotFound, match=r"is not in .*zoos"):
        load_dataset("model_zoos", "digits_cnn_s")
    shutil.copytree(digits_home, tmp_path / "zoos")
    assert len(load_dataset("model_zoos", "digits_cnn_s", split="test")) == 18
    monkeypatch.setenv("MODEL_ZOOS_HOME", str(tmp_path / "nothing"))
    with pytest.raises(ZooNotFound, match="nothing"):
        load_dataset("model_zoos", "digits_cnn_s")
    monkeypatch.setenv("MODEL_ZOOS_HOME", str(digits_home))
    assert len(load_dataset("model_zoos", "digits_cnn_s", split="test")) == 18


def test_a_stream_survives_a_change_of_folder(
    digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits_home, tmp_path / "zoos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    stream = load("digits_cnn_s", Path("zoos"), split="test", streaming=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(list(stream)) == 18


def test_a_working_directory_full_of_other_files(
    digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_zoos").mkdir()
    (tmp_path / "model_zoos" / "model_zoos.py").write_text("raise SystemExit('executed')")
    (tmp_path / "model_zoos" / "data.csv").write_text("a,b\n1,2\n")
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    assert len(load("digits_cnn_s", digits_home, split="test")) == 18
    # Other names go where they always went.
    assert load_dataset("csv", data_files="train.csv", split="train")[0] == {"a": 1, "b": 2}


# --- The cache follows the zoo --------------------------------------------------------------------


def test_a_changed_zoo_is_read_again(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    directory = random_zoo(tmp_path, zoo, 10)
    first = load("digits_cnn_s", tmp_path)
    assert load("digits_cnn_s", tmp_path)["train"].cache_files == first["train"].cache_files
    random_zoo(tmp_path, zoo, 13)
    assert sum(map(len, load("digits_cnn_s", tmp_path).values())) == 26
    directory.files()[0].unlink()
    assert sum(map(len, load("digits_cnn_s", tmp_path).values())) == 24


@pytest.mark.parametrize(
    "arguments", [{}, {"filters": [("epoch", ">=", 0)]}, {"tensors": ["fc2.bias"]}]
)
@pytest.mark.parametrize("listed", ["from the files", "from the manifest"])
def test_a_stream_never_pairs_epochs_with_the_weights_of_others(
    tmp_path: Path, arguments: dict[str, Any], listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is replaced after it was listed, by one with as many states or fewer or more."""
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=9)
    directory = create_zoo(tmp_path, zoo)
    directory.add_splits(["one"], {"one": "train"})
    if listed == "from the manifest":
        monkeypatch.setattr("model_zoos.builders.manifest._CLOCK_STEP", 0)

    def write(epochs: list[int], accuracies: list[float]) -> None:
        weights = np.repeat(np.array(epochs, np.float32)[:, None], zoo.layout.size, 1)
        directory.write_model("one", {"seed": 1}, epochs, weights, {"test_acc": accuracies})

    def pairs(stream: Any) -> list[tuple[int, float, float]]:
        return [(row["epoch"], row["weights"][0], round(row["test_acc"], 3)) for row in stream]

    wanted = ["epoch", "weights", "test_acc"]
    for epochs, accuracies in (
        ([4, 5], [0.1, 0.2]),
        ([0, 1], [0.1, 0.3]),
        ([1], [0.1]),
        ([0], [0]),
    ):
        write([0, 1], [0.1, 0.2])
        directory.scan()
        stream = load(
            zoo.name, tmp_path, split="train", streaming=True, columns=wanted, **arguments
        )
        assert pairs(stream) == [(0, 0, 0.1), (1, 1, 0.2)]
        write([0, 1], [0.1, 0.2])  # the same states in another file
        assert pairs(stream) == [(0, 0, 0.1), (1, 1, 0.2)]
        write(epochs, accuracies)
        with pytest.raises(
            model_zoos.FaultyFile, match=r"one\.safetensors has changed since it was"
        ):
            pairs(stream)
    directory.state_path("one", 0).unlink()
    with pytest.raises(model_zoos.FaultyFile, match="no such file"):
        pairs(stream)


def test_a_file_that_is_replaced_while_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    directory = random_zoo(tmp_path, zoo, 1)
    [file], _ = directory.scan()
    opened = pa.memory_map

    def replaced(path: str) -> pa.MemoryMappedFile:
        random_zoo(tmp_path, zoo, 1)
        return opened(path)

    monkeypatch.setattr(pa, "memory_map", replaced)
    with pytest.raises(model_zoos.FaultyFile, match="replaced while it was read"):
        file.mapped_weights()


def test_faulty_files_are_left_out_and_counted_also_from_the_cache(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    directory = random_zoo(tmp_path, zoo, 12)
    broken, orphan = directory.files()[3], directory.files()[5]
    os.truncate(broken, 1000)
    splits = json.loads((directory.path / "splits.json").read_text())
    del splits[orphan.stem]
    (directory.path / "splits.json").write_text(json.dumps(splits))
    for streaming in (False, False, True):
        with pytest.warns(
            model_zoos.FaultyFilesWarning, match=r"2 model file\(s\) left out"
        ) as said:
            rows = load("digits_cnn_s", tmp_path, streaming=streaming)
        assert len(said) == 1
        assert str(said[0].message).count("left out") == 1
        assert broken.name in str(said[0].message)
        assert f"{orphan}: splits.json has no split for it" in str(said[0].message)
        assert sum(len(list(split)) for split in rows.values()) == 20
    with pytest.raises(model_zoos.FaultyFile, match="truncated"):
        load("digits_cnn_s", tmp_path, on_bad_files="error")
    assert len(load("digits_cnn_s", tmp_path, on_bad_files="skip")) == 3


def test_a_zoo_of_which_nothing_can_be_used(tmp_path: Path) -> None:
    directory = random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 7)
    (directory.path / "splits.json").unlink()
    with pytest.raises(model_zoos.FaultyZoo, match=r"none of its 7 model files.*splits\.json"):
        load("digits_cnn_s", tmp_path)


def test_a_copied_folder_does_not_disturb_metrics(tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 7)
    shutil.copytree(tmp_path / "digits_cnn_s", tmp_path / "digits_cnn_s-backup")
    assert sum(map(len, load("metrics", tmp_path).values())) == 14


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder(tmp_path: Path) -> None:
    directory = random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 7)
    directory.models_path.chmod(0)
    try:
        with pytest.raises(PermissionError, match="models"):
            load("digits_cnn_s", tmp_path)
    finally:
        directory.models_path.chmod(0o755)


def test_a_folder_beside_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may look into every folder, so the system's answer is made here."""
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), name="my_own", epochs=1)
    random_zoo(tmp_path / "other", zoo, 1)
    (tmp_path / "closed").mkdir()
    answer = os.stat

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if not isinstance(path, int) and "closed/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return answer(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ZooNotFound, match=r"but in .*other"):
        open_parts("my_own", tmp_path)


@pytest.mark.parametrize("spoil", ["a file", "a loop of links"])
def test_a_models_folder_that_cannot_be_read(tmp_path: Path, spoil: str) -> None:
    directory = random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 7)
    shutil.rmtree(directory.models_path)
    if spoil == "a file":
        directory.models_path.write_text("")
    else:
        directory.models_path.symlink_to(directory.models_path)
    with pytest.raises(ValueError, match="has no readable folder 'models'"):
        load("digits_cnn_s", tmp_path)


def test_a_small_zoo_without_a_test_model_has_no_test_split(tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 1)
    assert list(load("digits_cnn_s", tmp_path)) == ["train"]
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"validation and test have no model: .*, here 1/0/0"):
            load("digits_cnn_s", tmp_path, split="validation", streaming=streaming)
        with pytest.raises(ValueError, match=r"\['train'\]\.?\Z"):
            load("digits_cnn_s", tmp_path, split="exam", streaming=streaming)


def test_epochs_of_an_error_are_those_that_are_there(tmp_path: Path) -> None:
    zoo = get_zoo("digits_cnn_s")
    directory = create_zoo(tmp_path, zoo)
    directory.write_model("one", {}, [0, 2, 5], np.zeros((3, zoo.layout.size), np.float32), {})
    with pytest.raises(NoRowsLeft, match=r"its epochs are 0, 2, 5\Z"):
        load(zoo.name, tmp_path, filters=[("epoch", "==", 25)])


# --- ResNet rows ----------------------------------------------------------------------------------


def test_resnet_rows_stream_one_by_one(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("cifar10_resnet18"), epochs=2)
    directory = random_zoo(tmp_path, zoo, 2)
    stream = load("cifar10_resnet18", tmp_path, split="train", streaming=True)
    tables = list(stream.with_format("arrow").iter(batch_size=1))
    assert [table["epoch"].to_pylist() for table in tables] == [[1], [2], [1], [2]]
    path = next(p for p in directory.files() if p.parent.name == tables[0]["model_id"][0].as_py())
    flat = tables[0]["weights"].combine_chunks().flatten().to_numpy()
    assert flat.tobytes() == directory.read(path).weights().tobytes()
    assert isinstance(tables[0].schema.field("weights").type, pa.FixedSizeListType)
