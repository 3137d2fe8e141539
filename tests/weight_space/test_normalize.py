"""Standardizers against numpy's and scikit-learn's, on maps and on streams, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.numpy import save_file
from sklearn.preprocessing import StandardScaler

import model_zoos
from model_zoos.errors import InvalidArgument, ModelZoosWarning
from model_zoos.weight_space.normalize import Standardizer

from .layouts import PLAIN, random_weights


@pytest.fixture(scope="module")
def splits(digits_home: Path) -> Any:
    return load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home))


def rows_of(weights: Any, layout: Any = PLAIN[0]) -> Dataset:
    return Dataset.from_dict(
        {"architecture": [layout.architecture.name] * len(weights), "weights": list(weights)}
    )


def test_per_element_as_scikit_learn(splits: Any) -> None:
    weights = model_zoos.weights(splits["train"]).numpy()
    standardizer = Standardizer.fit(splits["train"], per="element")
    expected = StandardScaler().fit(weights.astype(np.float64))
    np.testing.assert_allclose(standardizer.mean, expected.mean_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(standardizer.scale, expected.scale_, rtol=1e-9)
    assert standardizer.rows == len(weights)


@pytest.mark.parametrize("layout", PLAIN, ids=str)
def test_per_layer_as_numpy(layout: Any) -> None:
    weights = 3 + 0.5 * random_weights(layout, 30)
    standardizer = Standardizer.fit(rows_of(weights, layout), per="layer")
    for number, slots in enumerate(layout.layers.values()):
        columns = np.concatenate([weights[:, slot.slice] for slot in slots.values()], axis=1)
        assert standardizer.mean[number] == pytest.approx(columns.mean(dtype=np.float64), rel=1e-9)
        assert standardizer.scale[number] == pytest.approx(columns.std(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("per", ["layer", "element"])
def test_streams_numpy_torch_and_files(splits: Any, digits_home: Path, per: Any, tmp_path) -> None:
    stream = load_dataset(
        "model_zoos", "digits_cnn_s", data_dir=str(digits_home), split="train", streaming=True
    )
    standardizer = Standardizer.fit(stream, per=per)
    of_map = Standardizer.fit(splits["train"], per=per)
    np.testing.assert_allclose(standardizer.mean, of_map.mean, rtol=1e-9, atol=1e-12)
    weights = model_zoos.weights(splits["train"])
    normal = standardizer(weights)
    assert normal.dtype == torch.float32
    assert (normal.numpy() == standardizer(weights.numpy())).all()
    torch.testing.assert_close(
        standardizer.inverse(normal),
        weights,
        rtol=1e-5,
        atol=1e-6 * float(standardizer.scale.max()),
    )
    assert normal.mean().abs() < 1e-4
    assert abs(normal.square().mean() - 1) < 1e-3
    standardizer.save(tmp_path / "s.safetensors")
    loaded = Standardizer.load(tmp_path / "s.safetensors")
    assert (loaded.mean == standardizer.mean).all()
    assert (loaded.scale == standardizer.scale).all()
    assert loaded.layout == standardizer.layout
    assert (loaded.per, loaded.rows) == (per, len(weights))


def test_means_far_from_zero_keep_their_digits() -> None:
    """Sums of squares would lose them: the deviation is a millionth of the mean."""
    weights = (1000 + 0.001 * np.random.default_rng(0).standard_normal((3000, 2464))).astype("f4")
    found = Standardizer.fit(rows_of(weights), per="element")
    np.testing.assert_allclose(found.scale, weights.astype(np.float64).std(axis=0), rtol=1e-6)


def test_diverged_rows_and_constant_weights() -> None:
    weights = np.repeat(random_weights(PLAIN[0], 1), 5, axis=0)
    weights[1, 7], weights[3, 0] = np.nan, np.inf
    rows = list(weights)
    rows[4] = None
    with pytest.warns(ModelZoosWarning, match="3 rows left out"):
        standardizer = Standardizer.fit(rows_of(rows), per="element")
    assert (standardizer.rows, standardizer.left_out) == (2, 3)
    assert (standardizer.scale == 1).all()
    assert not standardizer(weights[0]).any()
    with pytest.raises(InvalidArgument, match="no rows with finite weights"):
        Standardizer.fit(rows_of([None, weights[1]]))


def test_refusals(splits: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="found 'model'"):
        Standardizer.fit(splits["train"], per="model")
    with pytest.raises(InvalidArgument, match="name a split"):
        Standardizer.fit(splits)
    with pytest.raises(InvalidArgument, match="has no architecture"):
        Standardizer.fit(splits["train"].select_columns("weights"))
    two = rows_of(random_weights(PLAIN[0], 1)), rows_of(random_weights(PLAIN[3], 1), PLAIN[3])
    with pytest.raises(InvalidArgument, match="rows of"):
        Standardizer.fit(Dataset.from_list([two[0][0], two[1][0]]))
    path = tmp_path / "other.safetensors"
    save_file({"mean": np.zeros(5)}, path)
    with pytest.raises(InvalidArgument, match=r"other\.safetensors was not written by"):
        Standardizer.load(path)
    Standardizer.fit(two[0]).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidArgument, match=r"other\.safetensors was not written by"):
        Standardizer.load(path)
