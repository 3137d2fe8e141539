"""The random zoo: all states of the first models of the catalog, reproducible to the byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.zoo_directory import open_zoo
from tests.shared import contents
from tests.zoos import random_zoo


@pytest.mark.parametrize("name", ["mnist_cnn_s_hyp_10_r", "cifar10_resnet18"])
def test_a_random_zoo_is_one_of_the_catalogs_models(tmp_path: Path, name: str) -> None:
    zoo = dataclasses.replace(zoo_spec(name), epochs=1)
    random_zoo(tmp_path, zoo, 2)
    directory = open_zoo(tmp_path, name)
    good, faulty = directory.scan()
    assert not faulty
    states = {}
    for file in good:
        states.setdefault(file.model_id, []).extend(int(epoch) for epoch in file.epochs)
        values = [file.weights(), *file.metrics.values()]
        assert all(np.isfinite(value).all() for value in values)
        assert len(file.metrics) == 6
    models = {model.model_id: list(directory.kept_epochs) for model in zoo.models(2)}
    assert states == models
    assert directory.splits().keys() == models.keys()
    assert directory.info["engine"] == "random values"


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    for folder in ("one", "two"):
        random_zoo(tmp_path / folder, zoo, 3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
