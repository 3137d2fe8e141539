"""Plans: every model once, the bytes that really are written, refusal before a disk is full."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hub.incremental import STAGING_BYTES, PublishOptions
from model_zoos.builders.hub.publisher import HubPublisher
from model_zoos.builders.ledger import Published
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo, open_zoo
from model_zoos.errors import FaultyZoo, NotEnoughSpace
from model_zoos.generation.generate import generate, plan
from model_zoos.generation.images import IMAGE_SOURCES, ImageData, Images, load_images
from model_zoos.generation.measuring import measure_epoch
from model_zoos.generation.options import TrainOptions
from model_zoos.generation.plan import check_space

RESNET = get_zoo("cifar10_resnet18")


def begun(root: Path, keep_epochs: list[int] | None = None) -> ZooDirectory:
    """Create the directory of a zoo of ResNet-18 as a run on a CPU begins it."""
    made = {"engine": "resnet", "stream": "philox", "precision": "fp32", "compile": False}
    return create_zoo(root, RESNET, **made, keep_epochs=keep_epochs)


def test_a_plan_names_every_model_once(tmp_path: Path) -> None:
    whole = plan(RESNET, tmp_path / "zoos", ranks=32, seconds_per_epoch=10.0)
    assert (whole.models, whole.missing, whole.states) == (1000, 1000, 50_000)
    ids = [model for share in whole.shares for model in share.model_ids]
    assert sorted(ids) == sorted(model.model_id for model in RESNET.models())
    assert sum(share.states for share in whole.shares) == 50_000
    # 8 ranks have 32 models, the others 31: a model is never split.
    assert whole.seconds == 32 * 50 * 10
    assert 2.2e12 < whole.bytes_needed < 2.3e12
    assert whole.bytes_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert not (tmp_path / "zoos").exists()
    json.dumps(whole.to_json(), allow_nan=False)


def test_kept_epochs_cost_less(tmp_path: Path) -> None:
    some = plan(RESNET, tmp_path, seconds_per_epoch=1.0, options=TrainOptions(keep_epochs=[1, 25]))
    assert (some.states, some.epochs, some.kept_epochs) == (2000, 25, (1, 25))
    assert some.seconds == 1000 * 25
    unknown = plan(RESNET, tmp_path)
    assert (unknown.seconds, unknown.source_of_seconds) == (None, "unknown")


def test_models_that_are_freed_need_the_disk_of_one_a_rank(tmp_path: Path) -> None:
    kept, freed = (
        plan(RESNET, tmp_path, ranks=8, publisher=HubPublisher(PublishOptions("me/resnets", free)))
        for free in (False, True)
    )
    assert (kept.states, freed.states) == (50_000, 50_000)
    assert kept.bytes_needed == plan(RESNET, tmp_path, ranks=8).bytes_needed + STAGING_BYTES
    state = 4 * RESNET.layout.size
    # 50 states, the old and the new checkpoint of twice that and a state on its way, each rank.
    assert freed.bytes_needed == pytest.approx(8 * 55 * state + STAGING_BYTES, rel=0.001)
    assert "needs at least 20." in freed.space()
    directory = begun(tmp_path)
    first = RESNET.models()[0].model_id
    directory.write_published(Published("me/resnets", {first: "freed"}))
    assert plan(RESNET, tmp_path).states == 49_950
    # With nothing to train nothing is measured, which takes the time of some steps.
    nothing = plan(RESNET, tmp_path, models=1, measure=True)
    assert (nothing.missing, nothing.seconds, nothing.seconds_per_epoch) == (0, 0.0, None)


def test_a_plan_refuses_a_zoo_that_generate_would_refuse(tmp_path: Path) -> None:
    """Another specification or engine than the zoo was made with is said before any image is read,
    and nothing is written."""
    zoo, train = dataclasses.replace(get_zoo("digits_cnn_s"), seeds=4, epochs=1), slice(20)
    images, lanes = load_images("digits").subset(train=train), TrainOptions(engine="lanes")
    generate(zoo, tmp_path, images, models=1, options=lanes)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for changed, options, message in (
        (dataclasses.replace(zoo, seeds=8), TrainOptions(), r"zoo\.seeds = 4, not 8"),
        (dataclasses.replace(zoo, epochs=2), TrainOptions(), r"zoo\.epochs = 1, not 2"),
        (zoo, TrainOptions(engine="batched"), "engine = 'lanes', not 'batched'"),
    ):
        with pytest.raises(FaultyZoo, match=message):
            plan(changed, tmp_path, options=options)
        with pytest.raises(FaultyZoo, match=message):  # and not for images that are not there
            model_zoos.generate(changed, tmp_path, "folder/nowhere", options=options)
    for resumed in (zoo, dataclasses.replace(zoo, note="another")):
        assert plan(resumed, tmp_path, models=2, options=lanes).missing == 1
        assert plan(resumed, tmp_path, models=2).missing == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    begun(tmp_path, keep_epochs=[1, 10])
    (tmp_path / RESNET.name / "models" / "one").mkdir()
    for options, hint in (
        (TrainOptions(keep_epochs=[1]), "--keep-epochs 1,10 resumes this zoo"),
        (TrainOptions(precision="bf16"), "--precision fp32 resumes this zoo"),
        (TrainOptions(compile=True), "leaving out --compile resumes this zoo"),
    ):
        with pytest.raises(FaultyZoo) as caught:
            plan(RESNET, tmp_path, options=options)
        assert caught.value.hint == f"--out names another folder, {hint}"
    assert plan(RESNET, tmp_path).states == 2000


def test_a_plan_refuses_an_imported_zoo(tmp_path: Path) -> None:
    """Its models were not made by an engine, so that none of them can be added."""
    create_zoo(tmp_path, get_zoo("digits_cnn_s"), engine="original", source={"file": "zoo.zip"})
    with pytest.raises(FaultyZoo, match="engine = 'original', not 'lanes'"):
        plan(get_zoo("digits_cnn_s"), tmp_path)


def test_what_is_there_is_not_planned_again_and_sizes_are_those_of_files(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)
    generate(zoo, tmp_path, load_images("digits").subset(train=slice(20)), models=16)
    rest = plan(zoo, tmp_path, models=20, ranks=2)
    assert (rest.models, rest.missing, rest.states) == (20, 4, 12)
    written = sum(path.stat().st_size for path in open_zoo(tmp_path, zoo.name).files())
    before = plan(zoo, tmp_path / "elsewhere", models=16).bytes_needed
    assert before == pytest.approx(written, rel=0.05)


def test_a_zoo_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    directory = create_zoo(tmp_path, RESNET)
    models = RESNET.models()
    if shutil.disk_usage(tmp_path).free > 2.3e12:
        pytest.skip("this disk has room for a whole ResNet-18 zoo")
    with pytest.raises(NotEnoughSpace, match=r"needs 2\.2 TB of disk") as caught:
        check_space(directory, [models])
    assert "--keep-epochs 1,50" in str(caught.value.hint)
    small = create_zoo(tmp_path, get_zoo("digits_cnn_s"))  # some kB, which every disk has
    check_space(small, [small.zoo.models()[:1]])


def test_a_measured_epoch_of_a_resnet_is_positive(tmp_path: Path) -> None:
    one = measure_epoch(RESNET, IMAGE_SOURCES[RESNET.images], device="cpu", threads=1)
    assert one > 1


@pytest.mark.slow
def test_the_command_says_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_zoos", "generate", "cifar10_resnet18", "--plan"]
    more = ["--ranks", "8", "--seconds-per-epoch", "36", "--out", str(tmp_path / "zoos")]
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "2, 10, 18, ..., 994" in done.stdout
    assert "time: 62.5 h, of all ranks 500.0 h, at 36 seconds" in done.stdout
    assert "1,000 models to train, 50,000 states to write, needs 2.2 TB" in done.stdout
    as_json = subprocess.run(
        [*command, *more, "--json"], capture_output=True, text=True, check=True
    )
    assert len(json.loads(as_json.stdout)["shares"]) == 8
    assert not (tmp_path / "zoos").exists()


def test_a_plan_measures_models_that_train_side_by_side(tmp_path: Path) -> None:
    """From models that train together; nothing of it stays in the folder."""
    found = plan(get_zoo("digits_cnn_s"), tmp_path, models=10, measure=True)
    assert found.source_of_seconds == "measured"
    assert 0 < (found.seconds_per_epoch or 0) < 60
    assert found.seconds == pytest.approx(10 * 25 * (found.seconds_per_epoch or 0))
    assert not list(tmp_path.iterdir())
    values = get_zoo("digits_cnn_s").to_json() | {"name": "mine", "images": "folder/mine"}
    unknown = plan(Zoo.from_json(values), tmp_path, models=10, measure=True)
    assert (unknown.seconds, unknown.source_of_seconds) == (None, "unknown")
    images = load_images("digits")
    own = plan(Zoo.from_json(values), tmp_path, models=10, measure=True, images=images)
    assert own.source_of_seconds == "measured"
    assert (own.seconds or 0) > 0


@pytest.mark.parametrize("loaded", [False, True])
def test_a_plan_measures_networks_that_see_grey_images(tmp_path: Path, loaded: bool) -> None:
    """Their pixels have three channels, and the networks see the mean of them."""
    values = get_zoo("digits_cnn_s").to_json()
    values |= {"name": "grey", "image_dataset": "cifar10", "images": "cifar10/grey"}
    values |= {"architecture": "1x32x32 conv4k3s2 gap fc10", "seeds": 2, "epochs": 1}
    images = None
    if loaded:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
        part = Images(pixels, np.arange(20) % 10)
        images = ImageData("mine", part, None, part, (0.5,) * 3, (0.5,) * 3, grey=True)
        values |= {"images": "mine"}
    found = plan(Zoo.from_json(values), tmp_path, measure=True, images=images)
    assert found.source_of_seconds == "measured"
    assert (found.seconds or 0) > 0


def test_what_does_not_fit_on_the_disk_leaves_no_folder(tmp_path: Path) -> None:
    huge = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1_000_000, seeds=100)
    images = load_images("digits")
    with pytest.raises(NotEnoughSpace, match="TB"):
        generate(huge, tmp_path, images)
    assert not list(tmp_path.iterdir())
