"""States as columns: sorted, diverged ones known, the right weights in the right rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset

import model_zoos
from model_zoos.benchmarks import states as states_module
from model_zoos.benchmarks.states import choose, objects, read_states, read_weights
from tests.benchmarks.zoos import DIVERGED, write_odd_zoos


def test_columns_are_those_of_load_dataset(digits_home: Path) -> None:
    states = read_states("digits_cnn_s", digits_home)
    splits = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home))
    assert len(states) == sum(map(len, splits.values()))
    assert states.models == 20
    assert states.epochs.tolist() == [0, 1, 2, 3, 4, 5]
    assert not states.diverged.any()
    assert not states.twins
    for split, rows in splits.items():
        expected = {(row["model_id"], row["epoch"]): row for row in rows.remove_columns("weights")}
        mine = np.flatnonzero(states["split"] == split)
        assert len(mine) == len(expected)
        for row in mine:
            there = expected[states["model_id"][row], states["epoch"][row]]
            assert states["test_acc"][row] == np.float64(there["test_acc"])
            assert states["learning_rate"][row] == there["learning_rate"]


@pytest.mark.parametrize(
    "values", [["b", None, "a", "b"], [0.5, None, 0.5, -1.0], [None, None], [2**60 + 1, None], [7]]
)
def test_objects_are_those_of_arrow(values: list) -> None:
    column = pa.chunked_array([values[:2], values[2:]], pa.array(values).type)
    found = objects(column)
    assert found.dtype == object
    assert found.tolist() == column.to_pylist() == values
    assert len(set(map(id, found))) == len(set(values))


def test_weights_lie_in_the_rows_that_are_named(digits_home: Path) -> None:
    states = read_states("digits_cnn_s", digits_home)
    rows, weights = read_weights(states, [3, 11], [0, 5], digits_home)
    assert states.model[rows].tolist() == [3, 3, 11, 11]
    assert states["epoch"][rows].tolist() == [0, 5, 0, 5]
    for row, vector in zip(rows, weights, strict=True):
        [one] = [
            found
            for found in load_dataset(
                "model_zoos",
                "digits_cnn_s",
                data_dir=str(digits_home),
                split=states["split"][row],
                filters=[("model_id", "==", states["model_id"][row])],
            )
            if found["epoch"] == states["epoch"][row]
        ]
        assert vector.tobytes() == np.float32(one["weights"]).tobytes()
    rows, weights = read_weights(states, [], [0], digits_home)
    assert len(rows) == len(weights) == 0


def test_diverged_states_are_known_and_have_no_weights(tmp_path: Path) -> None:
    write_odd_zoos(tmp_path)
    states = read_states("odd", tmp_path)
    diverged = {
        (states["model_id"][r], states["epoch"][r]) for r in np.flatnonzero(states.diverged)
    }
    assert diverged == {(DIVERGED, 1), (DIVERGED, 2)}
    assert DIVERGED not in states["model_id"][states.final]
    assert len(states.final) == 11
    rows, weights = read_weights(states, np.arange(12), [0, 1, 2], tmp_path)
    assert len(rows) == 34
    assert np.isfinite(weights).all()
    assert read_states("odd_sparse", tmp_path).twins


def test_wide_weights_are_read_in_part(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = read_states("digits_cnn_s", digits_home)
    models, epochs = choose(states, 2464, 200, 11)
    assert sorted(models) == list(range(20))
    assert epochs.tolist() == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(states_module, "WEIGHTS_BYTES", 12 * 4 * 2464)
    models, epochs = choose(states, 2464, 200, 11)
    assert epochs.tolist() == [0, 2, 5]
    assert len(models) == 4
    assert (choose(states, 2464, 200, 11)[0] == models).all()


def test_metrics_have_no_weights(digits_home: Path) -> None:
    assert states_module.weights_size("digits_cnn_s", digits_home) == 2464
    with pytest.raises(ValueError, match="`metrics` has no weights"):
        states_module.weights_size("metrics", digits_home)
    with pytest.raises(model_zoos.ZooNotFound):
        read_states("mnist_cnn_s", digits_home)


def test_a_damaged_file_is_said(digits_home: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_home, tmp_path, dirs_exist_ok=True)
    path = sorted((tmp_path / "digits_cnn_s" / "models").iterdir())[4]
    os.truncate(path, 1000)
    with pytest.warns(model_zoos.FaultyFilesWarning, match=path.name):
        states = read_states("digits_cnn_s", tmp_path)
    assert states.models == 19
