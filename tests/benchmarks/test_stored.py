"""Weights that stay on disk: the same matrix, the same scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from model_zoos.benchmarks import logistic, probes, stored
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.property_result import Result
from model_zoos.benchmarks.stored import StoredMatrix
from model_zoos.builders.catalog import zoo_spec
from model_zoos.errors import InvalidArgument
from tests.zoos import random_zoo

ZOO = "digits_cnn_s"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored")
    random_zoo(root, dataclasses.replace(zoo_spec(ZOO), epochs=12), 24)
    return root


@pytest.fixture(scope="module")
def train(root: Path, tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """The train split, in several files of several record batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "MAX_SHARD_SIZE", "700KB")
        patch.setattr(datasets.config, "DEFAULT_MAX_BATCH_SIZE", 7)
        cache = str(tmp_path_factory.mktemp("cache"))
        splits = datasets.load_dataset("model_zoos", ZOO, data_dir=str(root), cache_dir=cache)
    assert len(splits["train"].cache_files) > 1
    return splits["train"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_rows_in_any_order(data: st.DataObject, train: datasets.Dataset) -> None:
    expected = np.array(train["weights"], np.float32)
    matrix = StoredMatrix.of(train)
    assert matrix.shape == expected.shape
    rows = data.draw(st.lists(st.integers(0, len(train) - 1), max_size=60))
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    step = data.draw(st.integers(1, 70))
    chosen = matrix.select(np.array(rows, np.int64)).select(np.array(mask, bool))
    expected = expected[np.array(rows, np.int64)[np.array(mask, bool)]]
    blocks = [block.copy() for block in chosen.blocks(step)]
    assert [len(block) for block in blocks[:-1]] == [step] * (len(blocks) - 1)
    assert np.concatenate([np.zeros((0, 2464), np.float32), *blocks]).tobytes() == (
        expected.tobytes()
    )
    assert chosen.columns(slice(3, 90)).tobytes() == expected[:, 3:90].tobytes()
    assert chosen.whole().tobytes() == expected.tobytes()


def test_only_a_data_set_as_it_was_loaded(train: datasets.Dataset) -> None:
    for other in (train.select([3, 1]), datasets.Dataset.from_dict({"weights": [[1.0]]})):
        with pytest.raises(InvalidArgument, match="as load_dataset returns it"):
            StoredMatrix.of(other)


@pytest.mark.parametrize("offset", probes.OFFSETS)
@pytest.mark.parametrize("width", [20, 2464], ids=["more rows", "fewer rows than features"])
def test_the_ridge_reads_the_same_bits(width: int, offset: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(width)
    weights = generator.standard_normal((300, width)).astype(np.float32)
    data = datasets.Dataset.from_generator(
        lambda: ({"weights": row} for row in weights),
        features=datasets.Features({"weights": datasets.List(datasets.Value("float32"), width)}),
        cache_dir=str(tmp_path),
    )
    matrix = StoredMatrix.of(data)
    rows = np.array_split(generator.permutation(len(weights)), 3)
    values = {s: generator.random((len(r), 2)) for s, r in zip(SPLITS, rows, strict=True)}
    on_disk = {s: matrix.select(r) for s, r in zip(SPLITS, rows, strict=True)}
    in_memory = {s: x.whole() for s, x in on_disk.items()}
    for ours, expected in zip(
        probes.ridge(on_disk, values, offset), probes.ridge(in_memory, values, offset), strict=True
    ):
        assert ours[0] == expected[0]
        for split in SPLITS:
            assert ours[1][split].tobytes() == expected[1][split].tobytes()
    scaled = probes.standardise(on_disk)
    for split, matrix_in_memory in probes.standardise(in_memory).items():
        found = stored.in_memory(scaled[split])
        np.testing.assert_allclose(found, stored.in_memory(matrix_in_memory), rtol=1e-5, atol=1e-5)


def test_classes_are_those_of_scikit_learn(train: datasets.Dataset) -> None:
    """Of two, three and five classes, one of them unknown for some rows, fitted together."""
    matrix = StoredMatrix.of(train)
    generator = np.random.default_rng(5)
    rows = np.array_split(generator.permutation(len(train)), 3)
    on_disk = probes.standardise({s: matrix.select(r) for s, r in zip(SPLITS, rows, strict=True)})
    x = {s: stored.in_memory(features).astype(np.float64) for s, features in on_disk.items()}
    labels, values = {}, {}
    for classes in (2, 3, 5):
        column = {}
        for split in SPLITS:
            column[split] = generator.integers(classes, size=len(x[split])).astype(object)
            if classes == 3:
                column[split][::4] = None
        values[classes] = column
        labels[str(classes)] = logistic.labels_of(column)
    found = logistic.logistic_by_blocks(on_disk, labels)
    for classes, column in values.items():
        known = {s: np.array([v is not None for v in column[s]]) for s in SPLITS}
        model = LogisticRegression(C=logistic.C, max_iter=logistic.STEPS)
        model.fit(x["train"][known["train"]], column["train"][known["train"]].astype(int))
        for split in SPLITS:
            expected = model.predict(x[split][known[split]])
            ours = found[str(classes)][split]
            assert len(ours) == len(expected)
            assert (ours != expected).mean() <= 0.03


def test_one_failure_ends_all_minimisers(train: datasets.Dataset, tmp_path: Path) -> None:
    class Broken(StoredMatrix):
        def blocks(self, step: int):
            raise OSError("disk")

    matrix = Broken(**vars(StoredMatrix.of(train)))
    column = np.array([number % 3 for number in range(len(train))], object)
    labels = {"three": logistic.labels_of(dict.fromkeys(SPLITS, column))}
    with pytest.raises(OSError, match="disk"):
        logistic.logistic_by_blocks(dict.fromkeys(SPLITS, matrix), labels)


def test_a_benchmark_on_disk_has_the_scores_of_one_in_memory(root: Path) -> None:
    """Rows are left out, so that those on disk are not all."""
    results: list[Result] = []
    for memory in (1 << 30, 0):
        results.append(
            predict_properties(
                ZOO, root, max_weight=3.9, memory=memory, targets=["test_acc", "epoch", "init"]
            )
        )
    in_memory, on_disk = results
    assert sum(on_disk.left_out.values()) > 0
    assert on_disk.scores == in_memory.scores
    for ours, expected in zip(on_disk.class_scores, in_memory.class_scores, strict=True):
        assert ours.accuracy == pytest.approx(expected.accuracy, abs=0.03)
    assert dataclasses.replace(on_disk, class_scores=()) == dataclasses.replace(
        in_memory, class_scores=()
    )
