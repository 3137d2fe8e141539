"""Names of files: what is written is recognised, and what is incomplete is noticed."""

from __future__ import annotations

import pytest

from model_zoos.builders.hub.names import (
    DATA_FILE,
    FILES,
    data_file,
    data_files,
    layout_file,
    metrics_file,
    model_of,
    whole_models,
    zoo_of,
)
from tests.shared import CNN_S

ZOO, MODEL = "cifar10_resnet18", "0123456789ab"


def test_a_name_is_read_as_it_was_written() -> None:
    for model in (None, MODEL):
        name = data_file(ZOO, "validation", 3, 12, model)
        match = DATA_FILE.fullmatch(name)
        assert match is not None
        expected = {"zoo": ZOO, "split": "validation", "number": "00003", "count": "00012"}
        assert match.groupdict() == {**expected, "model_id": model}
        assert (zoo_of(name), model_of(name)) == (ZOO, model)
    metrics = metrics_file(ZOO, "test")
    assert (zoo_of(metrics), model_of(metrics)) == (ZOO, None)
    ours = [name, metrics, layout_file(CNN_S), "figures/a-b.svg", "README.md"]
    assert layout_file(CNN_S) == "layouts/cnn_s-2464.json"
    for path in ours:
        assert sum(pattern.fullmatch(path) is not None for pattern in FILES) == 1


@pytest.mark.parametrize(
    "path",
    [
        "data/Zoo/train-00000-of-00001.parquet",
        f"data/{ZOO}/dev-00000-of-00001.parquet",
        f"data/{ZOO}/train-0-of-1.parquet",
        f"metrics/{ZOO}.parquet",
        "figures/a/b.png",
        "notes.txt",
    ],
)
def test_other_names_are_not_ours(path: str) -> None:
    assert not any(pattern.fullmatch(path) for pattern in FILES)
    assert data_files([path]) == ({}, set())


def test_incomplete_splits_and_models_are_noticed() -> None:
    whole = [data_file(ZOO, "train", number, 2, MODEL) for number in range(2)]
    key = (ZOO, "train")
    assert data_files(whole) == ({key: {MODEL}}, set())
    assert whole_models(whole, ZOO) == {MODEL: "train"}
    assert whole_models(whole, "other") == {}
    for lacking in (whole[:1], [whole[0], data_file(ZOO, "train", 1, 3, MODEL)]):
        assert data_files(lacking) == ({key: {MODEL}}, {key})
        assert whole_models(lacking, ZOO) == {}
    twice = [*whole, data_file(ZOO, "test", 0, 1, MODEL)]
    assert whole_models(twice, ZOO) == {}
    shared = [*whole, data_file(ZOO, "train", 0, 1)]
    assert data_files(shared) == ({key: {MODEL}}, {key})
