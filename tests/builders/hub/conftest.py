"""A folder of zoos, published to the Hub of tests, and a client that reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_zoos.builders.catalog import zoo_spec
from tests.builders.hub.folders import ME, PUBLISH, UNION, write_folder
from tests.hub_server import Client, Hub
from tests.zoos import random_zoo


@pytest.fixture(scope="module")
def plain(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client with datasets alone."""
    folder = tmp_path_factory.mktemp("plain")
    with Client(hub.endpoint, folder, without=("model_zoos",)) as client:
        yield client


@pytest.fixture(scope="module")
def home(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zoo directories: digits_cnn_s, and a union of three."""
    root = tmp_path_factory.mktemp("zoos")
    (root / "digits_cnn_s").symlink_to(digits_home / "digits_cnn_s")
    for variant, models in (("seed", 9), ("hyp_10_r", 8), ("hyp_10_f", 7)):
        zoo = dataclasses.replace(zoo_spec(f"mnist_cnn_s_{variant}"), epochs=2)
        random_zoo(root, zoo, models)
    return root


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder"), home, ["digits_cnn_s", *UNION], shards=2)


@pytest.fixture(scope="module")
def published(hub: Hub, writer: Client, folder: Path) -> str:
    """Name of a repository that holds all of `folder`."""
    writer.run(PUBLISH, folder=str(folder), repo_id=ME, arguments={})
    return ME
