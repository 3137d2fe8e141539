"""A zoo of a network of one's own, all the way: trained, read, verified, pruned, published."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset

import model_zoos
from model_zoos.benchmarks.audit import audit_zoo
from model_zoos.benchmarks.diversity import diversity
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.report import make_report, write_report
from model_zoos.builders.catalog import ZOOS, zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.specification import Zoo, make_grid
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.generation.engines import choose_engine
from model_zoos.generation.generate import generate
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.options import TrainOptions, TwinOptions
from model_zoos.generation.sparsify import sparsify

TEXT = "1x28x28 conv6k5s3p1 drop conv8k3s2:relu drop gap fc6:identity fc10"
NAME = "digits_own"
ZOO = dataclasses.replace(
    zoo_spec("digits_cnn_s"),
    name=NAME,
    architecture=TEXT,
    grid=make_grid(
        activation=["silu", "softplus"], init=["orthogonal(bias=0)"], dropout=[0.1],
        optimizer=["adamw", "nesterov"], learning_rate=[3e-3], weight_decay=[1e-3],
    ),
    seeds=6, epochs=2, batch_size=100, scheduler="OneCycleLR",
)  # fmt: skip


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_images("digits")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, images: ImageData) -> Path:
    path = tmp_path_factory.mktemp("own") / "zoos"
    generate(ZOO, path, images, options=TrainOptions(engine="batched", threads=1))
    return path


def test_rows_run_in_a_process_that_has_nothing_else(home: Path, images: ImageData) -> None:
    repository = home.parent / "repository"
    build_folder([NAME], home, repository)
    assert len(list((repository / "layouts").iterdir())) == 1
    stream = load_dataset("parquet", data_files=f"{repository}/data/{NAME}/test*", streaming=True)
    row = next(iter(stream["train"]))
    assert row["architecture"] == TEXT
    arrays = home.parent / "images.npz"
    np.savez(arrays, x=images.normalized("test").numpy(), y=images.test.labels.numpy())
    (home.parent / "row.json").write_text(json.dumps(row))
    script = (
        "import json, numpy, torch, model_zoos\n"
        f"row = json.load(open({str(home.parent / 'row.json')!r}))\n"
        f"images = numpy.load({str(arrays)!r})\n"
        "out = model_zoos.instantiate(row)(torch.from_numpy(images['x'])).argmax(1).numpy()\n"
        "print((out == images['y']).mean(), model_zoos.layer(row, 'conv2.weight').shape)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    accuracy, shape = done.stdout.split(maxsplit=1)
    assert float(accuracy) == pytest.approx(row["test_acc"], abs=1e-6)
    assert shape.strip() == "torch.Size([8, 6, 3, 3])"
    card = (repository / "README.md").read_text()
    assert f"| `{NAME}` | {TEXT} | 720 |" in card
    assert "layouts/1x28x28-conv6k5s3p1-drop-conv8k3s2.relu-drop-gap" in card


def test_it_verifies_and_its_metrics_are_recomputed(home: Path, images: ImageData) -> None:
    audit = audit_zoo(NAME, home, states=None, images=images)
    assert audit.good, audit.tables()


def test_it_resumes(home: Path, images: ImageData) -> None:
    before = open_zoo(home, NAME)
    again = generate(ZOO, home, images, models=4)
    assert before.info["engine"] == again.engine == "batched"
    assert (again.models, again.present) == (0, 4)


@pytest.mark.parametrize("method", ["variational", "magnitude"])
def test_it_has_twins(home: Path, images: ImageData, method: str) -> None:
    options = TrainOptions(engine="batched", threads=1)
    twins = TwinOptions(method=method, epochs=1)
    summary = sparsify(open_zoo(home, NAME), home, images, models=2, options=options, twins=twins)
    assert summary.states > 0


def test_it_is_benchmarked_and_reported(home: Path, images: ImageData) -> None:
    rows = load_dataset("model_zoos", NAME, data_dir=str(home), split="train")
    assert set(rows["architecture"]) == {TEXT}
    assert torch.isfinite(model_zoos.weights(rows)).all()
    assert predict_properties(NAME, home, representations=["statistics"]).tables()
    assert diversity(NAME, home, images=images)
    page, *figures = write_report(make_report(NAME, home), home.parent / "report")
    assert TEXT in page.read_text()
    assert figures


def test_wide_convolutions_are_for_the_batched_engine(tmp_path: Path) -> None:
    text = "3x32x32 conv512k3p1 pool conv512k3p1 gap fc10"
    zoo = dataclasses.replace(ZOO, architecture=text, channels=3)
    assert choose_engine(zoo, tmp_path, TrainOptions(device="cpu"), ["relu"])[0].name == "batched"


@pytest.mark.parametrize(
    ("name", "size"),
    [("digits_mlp_seed", 50_890), ("mnist_small_cnn_hyp", 4_970), ("mnist_lenet5_seed", 61_706)],
)
def test_zoos_of_the_catalog(name: str, size: int) -> None:
    zoo = ZOOS[name]
    assert zoo.layout.size == size
    assert Zoo.from_json(json.loads(json.dumps(zoo.to_json()))) == zoo
    assert not zoo.published
