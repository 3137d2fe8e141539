"""Training ResNet-18: against a plain torch loop, resume to the bit, what is kept, refusals.

The network is the real one; images are scikit-learn's digits at 14 x 14, so that a step is fast.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from torch.nn import functional

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hub import publisher
from model_zoos.builders.hub.incremental import PublishOptions, PushSummary
from model_zoos.builders.hub.publisher import HubPublisher
from model_zoos.builders.layout import Layout
from model_zoos.builders.specification import Model, Zoo, zoo_from_json
from model_zoos.builders.zoo_directory import CHECKPOINT, open_zoo
from model_zoos.errors import (
    CheckpointWarning,
    FaultyZoo,
    InvalidArgument,
    PublishingWarning,
    TrainingFailed,
    UnreadableFile,
)
from model_zoos.generation.augmentation import augmentation_draws
from model_zoos.generation.engines.checkpointed import resume, train_trajectory
from model_zoos.generation.engines.resnet import ResNetTraining, Stopped
from model_zoos.generation.generate import generate
from model_zoos.generation.images import ImageData, Images, load_images
from model_zoos.generation.job import Progress
from model_zoos.generation.options import TrainOptions
from model_zoos.generation.ranks import share_models
from model_zoos.generation.torchvision import import_torchvision
from tests.generation.test_augmentation import one_by_one
from tests.hub_server import Client, Hub
from tests.shared import SHARED, grouped, needs_shared

ZOO = zoo_from_json(
    {
        "name": "small_resnets",
        "image_dataset": "digits",
        "images": "digits",
        "architecture": "resnet18",
        "variant": "seed",
        "channels": 1,
        "classes": 10,
        "grid": {
            "activation": ["relu"],
            "init": ["kaiming_uniform"],
            "dropout": [0.0],
            "optimizer": ["sgd"],
            "learning_rate": [0.05],
            "weight_decay": [5e-4],
        },
        "seeds": 3,
        "epochs": 3,
        "batch_size": 8,
        "momentum": 0.9,
        "scheduler": "OneCycleLR",
    }
)


def small(images: Images) -> Images:
    return Images(images.pixels[..., ::2, ::2].contiguous(), images.labels)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    whole = load_images("digits").subset(train=slice(36), validation=slice(10), test=slice(40))
    return dataclasses.replace(
        whole,
        train=small(whole.train),
        validation=small(whole.validation),
        test=small(whole.test),
        augmentation=("random_crop_14_1", "horizontal_flip"),
    )


def contents(root: Path, name: str = ZOO.name) -> dict[str, bytes]:
    paths = open_zoo(root, name).files()
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Path:
    """One model, all epochs, never disturbed (never write to it)."""
    root = tmp_path_factory.mktemp("resnets")
    generate(ZOO, root, digits, models=1, options=TrainOptions(threads=1))
    return root


# --- Training -------------------------------------------------------------------------------------


def plain_loop(
    layout: Layout, model: Model, images: ImageData
) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """Learning rate, momentum and weights after each step, with torchvision's network in double."""
    torch.manual_seed(model.seed)  # the original's order of draws
    network = import_torchvision().models.resnet18(num_classes=10)
    network.conv1 = torch.nn.Conv2d(1, 64, 3, padding=1, bias=False)
    network.maxpool = torch.nn.Identity()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_uniform_(module.weight)
            if module.bias is not None:
                module.bias.data.fill_(0.01)
    torch.randperm(len(images.train))  # of the untrained model's evaluation
    network.double()
    steps = -(-len(images.train) // model.batch_size)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.05, epochs=model.epochs, steps_per_epoch=steps
    )
    for step in range(model.epochs * steps):
        if step % steps == 0:
            batches = torch.randperm(len(images.train)).split(model.batch_size)
        batch = batches[step % steps]
        draws = augmentation_draws(model.seed, step, len(batch))
        pixels = one_by_one(images.train.pixels[batch], images.augmentation, draws)
        optimizer.zero_grad()
        scores = functional.log_softmax(network(((pixels / 255 - 0.5) / 0.5).double()), 1)
        functional.nll_loss(scores, images.train.labels[batch]).backward()
        optimizer.step()
        schedule.step()
        group = optimizer.param_groups[0]
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        yield (group["lr"], group["momentum"]), layout.to_vector(state)


@pytest.mark.parametrize(
    ("precision", "steps"),
    [pytest.param("double", 20, marks=pytest.mark.slow), ("single", 3)],
)
def test_first_steps_are_those_of_a_plain_torch_loop(
    digits: ImageData, precision: str, steps: int
) -> None:
    """20 steps in double precision, in float32 as many as its noise stays small.

    Early training of a ResNet-18 amplifies differences several times a step: two plain float32
    loops that differ in the order of memory are 1e-6 apart after 2 steps and 0.1 after 10.
    """
    model = dataclasses.replace(ZOO.models(1)[0], epochs=5)

    class Double(ResNetTraining):
        def _input(self, pixels: torch.Tensor) -> torch.Tensor:
            return super()._input(pixels).double()

    kind = Double if precision == "double" else ResNetTraining
    training = kind(model, ZOO.layout, digits, threads=1)
    if precision == "double":
        training.network.double()
    expected = plain_loop(ZOO.layout, model, digits)
    rates = []

    def on_step(images: int) -> bool:
        rate, weights = next(expected)
        group = training.optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == rate  # to the last bit
        difference = np.abs(training.weights() - weights).max()
        assert difference < (1e-5 if precision == "double" else 1e-4 * 10 ** len(rates))
        rates.append(rate)
        return len(rates) < steps

    while len(rates) < steps:
        with suppress(Stopped):
            training.train_epoch(on_step)
    assert len(set(rates)) == steps


def test_a_models_states_hold_what_was_measured(home: Path, digits: ImageData) -> None:
    stream = load_dataset("model_zoos", ZOO.name, data_dir=str(home), split="train", streaming=True)
    rows = list(stream.with_format("numpy"))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        network = model_zoos.instantiate(row)
        for split, name in (("validation", "val"), ("test", "test")):
            with torch.no_grad():
                logits = network(digits.normalized(split))
            labels = getattr(digits, split).labels
            assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(
                float(row[f"{name}_acc"]), abs=1e-7
            )
            assert functional.cross_entropy(logits, labels).item() == pytest.approx(
                float(row[f"{name}_loss"]), rel=1e-4
            )
        assert float(row["train_loss"]) > 0
        assert (row["scheduler"], row["learning_rate"]) == ("OneCycleLR", 0.05)
    assert not list(home.rglob(CHECKPOINT))
    info = open_zoo(home, ZOO.name).info
    assert (info["engine"], info["precision"], info["keep_epochs"]) == ("resnet", "fp32", None)


def test_the_network_has_the_originals_names_and_a_row_its_layers(home: Path) -> None:
    # Not with_format: also a row of Python lists can be cut.
    [row] = load_dataset(
        *("model_zoos", ZOO.name),
        data_dir=str(home), split="train", streaming=True, filters=[("epoch", "==", 2)],
        columns=["architecture", "activation", "weights"],
    ).with_format("numpy")  # fmt: skip
    network = model_zoos.instantiate(row)
    original = import_torchvision().models.resnet18(num_classes=10).state_dict()
    assert list(network.state_dict()) == list(original)
    assert len(original) == 122
    for name in ("conv1.weight", "layer1.0.conv1.weight", "bn1.running_var", "fc.bias"):
        found = model_zoos.layer(row, name)
        assert torch.equal(found, network.state_dict()[name])
    as_list = {**row, "weights": row["weights"].tolist()}
    assert torch.equal(model_zoos.layer(as_list, "fc.weight"), network.fc.weight)
    with pytest.raises(ValueError, match=r"no tensor 'layer1\.conv1\.weight'; did you mean layer"):
        model_zoos.layer(row, "layer1.conv1.weight")


@pytest.mark.slow
def test_bf16_trains_float32_weights_nearby(tmp_path: Path, home: Path, digits: ImageData) -> None:
    summary = generate(
        ZOO,
        tmp_path,
        digits,
        models=1,
        options=TrainOptions(threads=1, precision="bf16", keep_epochs=[1]),
    )
    assert (summary.models, summary.states, summary.diverged) == (1, 1, 0)
    directory = open_zoo(tmp_path, ZOO.name)
    assert directory.info["precision"] == "bf16"
    [other] = directory.scan()[0]
    exact = open_zoo(home, ZOO.name).scan()[0][0]
    assert not np.array_equal(other.weights(), exact.weights())
    assert other.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.1)


# --- Resume ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stopped_within_an_epoch_it_goes_on_to_the_same_bytes(
    tmp_path: Path, home: Path, digits: ImageData
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.states >= 1 and progress.samples > 36 + 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(
            ZOO, tmp_path, digits, models=1, on_progress=interrupt, options=TrainOptions(threads=1)
        )
    assert list(tmp_path.rglob(CHECKPOINT))
    begun = contents(tmp_path)
    assert 1 <= len(begun) < 3
    summary = generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1))
    assert (summary.models, summary.states) == (1, 3 - len(begun))
    assert contents(tmp_path) == contents(home)
    assert not list(tmp_path.rglob(CHECKPOINT))
    # Killed after the last state, a model leaves its checkpoint to the next run.
    [model] = ZOO.models(1)
    (tmp_path / ZOO.name / "models" / model.model_id / CHECKPOINT).write_bytes(b"left")
    assert generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1)).models == 0
    assert not list(tmp_path.rglob(CHECKPOINT))


def test_a_checkpoint_that_cannot_be_used(tmp_path: Path, home: Path, digits: ImageData) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    directory = open_zoo(tmp_path, ZOO.name)
    model = ZOO.models(1)[0]
    training = ResNetTraining(model, ZOO.layout, digits, threads=1)
    training.epoch = 2
    snapshot = training.snapshot()
    path = directory.models_path / model.model_id / CHECKPOINT
    torch.save(snapshot, path)
    assert resume(training, directory, path)
    with pytest.warns(CheckpointWarning, match="begun with 1 threads, resumed with 2"):
        assert resume(ResNetTraining(model, ZOO.layout, digits, threads=2), directory, path)
    os.truncate(directory.state_path(model.model_id, 2), 1000)
    with pytest.warns(CheckpointWarning, match=r"epoch_0002\.safetensors: unreadable"):
        assert not resume(training, directory, path)
    directory.state_path(model.model_id, 2).unlink()
    torch.save(snapshot | {"model_id": "0" * 12, "epoch": 1}, path)
    with pytest.warns(CheckpointWarning, match="a snapshot of the model '000000000000'"):
        assert not resume(training, directory, path)
    os.truncate(path, 1_000_000)
    with (
        pytest.warns(CheckpointWarning, match="starts again from the beginning"),
        pytest.warns(CheckpointWarning, match=r"2 of 3 states are good.*epoch_0002"),
    ):
        generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1))
    assert contents(tmp_path) == contents(home)


@pytest.mark.parametrize("spoilt", [1, 3])
def test_good_states_stay_until_their_epochs_are_trained_again(
    spoilt: int, tmp_path: Path, home: Path, digits: ImageData
) -> None:
    """A finished model has no checkpoint: one damaged state must not cost the others."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    directory, [model] = open_zoo(tmp_path, ZOO.name), ZOO.models(1)
    os.truncate(directory.state_path(model.model_id, spoilt), 1000)
    steps = []

    def on_step(images: int) -> bool:
        steps.append(images)
        return sum(steps) <= 36 + 8

    with (
        pytest.warns(CheckpointWarning, match=rf"2 of 3 .*epoch_000{spoilt}") as caught,
        pytest.raises(Stopped),
    ):
        train_trajectory(directory, model, digits, threads=1, on_step=on_step)
    assert len(caught) == 1
    assert len(directory.scan()[0]) == (3 if spoilt == 1 else 2)
    assert not directory.complete(model.model_id)  # the others may be of a run that differs
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        summary = generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1))
    assert (summary.models, summary.present) == (1, 0)
    assert contents(tmp_path) == contents(home)
    assert [path.suffix for path in (directory.models_path / model.model_id).iterdir()] == [
        ".safetensors"
    ] * 3
    assert directory.complete(model.model_id)


@pytest.mark.parametrize("name", ["epoch_0002.safetensors", CHECKPOINT])
def test_a_file_that_the_system_cannot_read_is_not_replaced(
    name: str, tmp_path: Path, home: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    directory, [model] = open_zoo(tmp_path, ZOO.name), ZOO.models(1)
    if name == CHECKPOINT:
        directory.state_path(model.model_id, 3).unlink()
        (directory.models_path / model.model_id / CHECKPOINT).write_bytes(b"in order")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*_0*.safetensors")}
    opened, loaded = os.open, torch.load

    def fails(path: Any) -> None:
        if str(path).endswith(name):
            raise OSError(errno.EIO, "Input/output error", str(path))

    def open_file(path: Any, *arguments: Any, **options: Any) -> int:
        fails(path)
        return opened(path, *arguments, **options)

    def load(path: Any, *arguments: Any, **options: Any) -> Any:
        fails(path)
        return loaded(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(UnreadableFile, match=rf"{name}: the system cannot read .*Input/output"):
        generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before


# --- What is kept ---------------------------------------------------------------------------------


def test_only_some_epochs_are_kept(tmp_path: Path, home: Path, digits: ImageData) -> None:
    summary = generate(
        ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1, keep_epochs=[2])
    )
    assert (summary.models, summary.states) == (1, 1)
    [(name, content)] = contents(tmp_path).items()
    assert content == contents(home)[name]
    assert name.endswith("epoch_0002.safetensors")
    directory = open_zoo(tmp_path, ZOO.name)
    assert directory.info["keep_epochs"] == [2]
    assert directory.finished(name.partition("/")[0])
    # As begun, if nothing else is said; and never otherwise.
    assert generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1)).present == 1
    with pytest.raises(FaultyZoo, match=r"keep_epochs = \[2\], not \[1, 2\]"):
        generate(
            ZOO, tmp_path, digits, models=1, options=TrainOptions(threads=1, keep_epochs=[1, 2])
        )


def test_images_seen_otherwise_do_not_continue_a_zoo(home: Path, digits: ImageData) -> None:
    plain = dataclasses.replace(digits, augmentation=())
    with pytest.raises(FaultyZoo, match="augmentation"):
        generate(ZOO, home, plain, models=1)


def test_ranks_take_single_models_in_turn() -> None:
    models = get_zoo("cifar10_resnet18").models()
    shares = share_models(get_zoo("cifar10_resnet18"), models, 32)
    assert sorted(m.seed for share in shares for m in share) == list(range(1, 1001))
    assert {len(share) for share in shares} == {31, 32}
    assert [model.seed for model in shares[3]][:2] == [4, 36]


# --- Published while it is made -------------------------------------------------------------------

PUSH = """
import dataclasses, datasets, shutil, torch, warnings
import model_zoos
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import PublishingWarning
from model_zoos.builders.hub import publisher
from model_zoos.generation import generate, plan
from model_zoos.generation.images import ImageData
from model_zoos.generation.options import TrainOptions

publisher.PUSH_SECONDS = 0.5
zoo, images = dataclasses.replace(zoo, epochs=1), images
waits = []

def free_bytes(directory):  # room for one model, with those that are finished
    models = [p for p in directory.path.glob("models/*/epoch_0001.safetensors")]
    waits.append(len(models))
    return room if len(models) < 1 else 0

publisher.free_bytes = free_bytes
room = plan.model_bytes(generate.ZooDirectory(path, zoo, {}))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    summary = generate.generate(
        zoo, path.parent, images, options=TrainOptions(threads=1),
        publisher=publisher.HubPublisher(publisher.PublishOptions("me/resnets", free=True)),
    )
result = {
    "summary": dataclasses.asdict(summary),
    "waits": waits,
    "warnings": [str(w.message) for w in caught if w.category is PublishingWarning],
    "here": [p.name for p in path.glob("models/*")],
    "again": generate.generate(
        zoo, path.parent, images, options=TrainOptions(threads=1)
    ).present,
}
"""


def test_what_can_never_be_published_is_tried_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    directory = open_zoo(tmp_path, ZOO.name)
    calls = []

    def refuse(*_: Any, **__: Any) -> PushSummary:
        calls.append(len(calls))
        raise InvalidArgument("it has another zoo of this name")

    monkeypatch.setattr(publisher, "push_models", refuse)
    monkeypatch.setattr(publisher, "PUSH_SECONDS", 0.05)
    own = HubPublisher(PublishOptions("me/x", free=True))

    def train() -> None:
        with own.while_training(directory):
            time.sleep(1)
            assert len(calls) == 1
            # Whoever waits for room waits no more, on this rank or another.
            with pytest.raises(TrainingFailed, match=r"no room .*it has another zoo"):
                own.wait_for_room(directory, 1 << 62, threading.Event())

    with warnings.catch_warnings(record=True) as caught, pytest.raises(ValueError, match="another"):
        train()  # at its end it is tried again
    [warning] = [str(w.message) for w in caught if w.category is PublishingWarning]
    assert warning == (
        "nothing more is published, training continues: it has another zoo of this name"
    )
    assert len(calls) == 2


@pytest.mark.slow
def test_models_are_published_and_freed_while_others_train(
    tmp_path: Path, digits: ImageData
) -> None:
    expected = tmp_path / "kept"
    zoo = dataclasses.replace(ZOO, epochs=1)
    generate(zoo, expected, digits, options=TrainOptions(threads=1))
    name = "me/resnets"
    with Hub(tmp_path / "hub") as hub, Client(hub.endpoint, tmp_path / "c", token="hf_x") as client:
        done = client.run(PUSH, zoo=zoo, images=digits, path=tmp_path / "freed" / zoo.name)
        summary = done["summary"]
        assert (summary["models"], summary["published"], summary["freed"]) == (3, 3, 3)
        assert done["here"] == []
        assert done["again"] == 3
        # Each had to wait for the one before, which was published meanwhile.
        assert {0, 1} == set(done["waits"])
        assert len(done["warnings"]) == 2
        assert summary["left_out"] == {}
        assert "a model waits until" in done["warnings"][0]
        assert [m for m in hub.repos[name].messages if m.startswith("Publish the model")]
        found = client.run(
            "from datasets import load_dataset\n"
            "rows = load_dataset(repo, zoo, split='train', streaming=True).with_format('numpy')\n"
            "result = {row['model_id']: row['weights'].tobytes() for row in rows}",
            repo=name,
            zoo=zoo.name,
        )
        for model, weights in found.items():
            [states] = [s for s in open_zoo(expected, zoo.name).scan()[0] if s.model_id == model]
            assert states.weights().tobytes() == weights


# --- What cannot be done --------------------------------------------------------------------------


def test_bad_requests(tmp_path: Path, digits: ImageData) -> None:
    def zoo(**grid: tuple[Any, ...]) -> Zoo:
        return dataclasses.replace(ZOO, grid=tuple((k, grid.get(k, v)) for k, v in ZOO.grid))

    for arguments, message in (
        ({"engine": "lanes"}, "unknown engine 'lanes' for ResNet-18; known: auto, resnet"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"keep_epochs": [0, 1]}, "increasing whole numbers from 1 on, found 0, 1"),
        ({"keep_epochs": [2, 1]}, "increasing whole numbers"),
        ({"keep_epochs": []}, "found none"),
        ({"keep_epochs": [4]}, "increasing numbers from 1 to 3, found 4"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(ZOO, tmp_path, digits, **grouped(**arguments))
    with pytest.raises(ValueError, match="the grid of ResNet-18 must have the activation relu"):
        generate(zoo(activation=("tanh",)), tmp_path, digits)
    with pytest.raises(ValueError, match="the grid of ResNet-18 must have the activation relu"):
        generate(zoo(dropout=(0.5,)), tmp_path, digits)
    with pytest.raises(ValueError, match=r"needs images of shape \(3, 14, 14\)"):
        generate(get_zoo("cifar10_resnet18"), tmp_path, digits)
    tiny = Images(digits.train.pixels[..., :8, :8], digits.train.labels)
    test = Images(digits.test.pixels[..., :8, :8], digits.test.labels)
    with pytest.raises(ValueError, match="at least 9 x 9 pixels"):
        generate(ZOO, tmp_path, dataclasses.replace(digits, train=tiny, test=test, validation=None))
    with pytest.raises(ValueError, match="for ResNet-18 only, and digits_cnn_s is a zoo of CNN-s"):
        generate(
            get_zoo("digits_cnn_s"),
            tmp_path,
            load_images("digits"),
            options=TrainOptions(precision="bf16"),
        )
    with pytest.raises(
        ValueError,
        match=r"\(ResNet-18\) are published model by model",
    ):
        generate(
            get_zoo("digits_cnn_s"),
            tmp_path,
            load_images("digits"),
            publisher=HubPublisher(PublishOptions("me/digits")),
        )
    assert list(tmp_path.iterdir()) == []


# --- Real images, real kills ----------------------------------------------------------------------


@pytest.fixture
def cifar_home(tmp_path: Path) -> Path:
    """160 + 50 images of the CIFAR-10 sample, and a zoo's JSON file that names them."""
    with zipfile.ZipFile(SHARED / "data" / "samples" / "cifar-10-jpg-sample.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        kept: dict[str, int] = {}
        for name in sorted(names):
            folder = name.rpartition("/")[0]
            kept[folder] = kept.get(folder, 0) + 1
            if kept[folder] <= (16 if "/train/" in name else 5):
                archive.extract(name, tmp_path)
    values = ZOO.to_json() | {
        "name": "cifar_sample",
        "images": "folder/cifar-10-jpg-sample",
        "channels": 3,
        "epochs": 2,
        "seeds": 2,
        "batch_size": 16,
        "grid": {**dict(ZOO.grid), "learning_rate": [0.005]},  # 0.05 learns nothing in 20 steps
    }
    (tmp_path / "cifar_sample.json").write_text(json.dumps(values))
    return tmp_path


def command(home: Path, out: str, *launcher: str) -> list[str]:
    return [
        *(sys.executable, "-m", *launcher, "model_zoos", "generate"),
        *(str(home / "cifar_sample.json"), "--out", str(home / out), "--threads", "1"),
        *("--images-dir", str(home), "--json"),
    ]


TWO_RANKS = ("torch.distributed.run", "--nproc_per_node=2", "-m")


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a command and, of torchrun, the ranks, which it starts in sessions of their own."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for pid in (process.pid, *map(int, found.stdout.split())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@needs_shared
def test_killed_and_resumed_on_one_and_two_ranks(cifar_home: Path) -> None:
    done = subprocess.run(command(cifar_home, "whole"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["models"], summary["states"], summary["diverged"]) == (2, 4, 0)
    expected = contents(cifar_home / "whole", "cifar_sample")
    good, faulty = open_zoo(cifar_home / "whole", "cifar_sample").scan()
    assert not faulty
    losses = [float(states.metrics["train_loss"][0]) for states in good]
    assert losses[1] < losses[0]
    assert losses[3] < losses[2]

    for out, launcher in (("killed", ()), ("two", TWO_RANKS)):
        process = subprocess.Popen(command(cifar_home, out, *launcher))
        deadline = time.monotonic() + 500
        while not list((cifar_home / out).rglob(CHECKPOINT)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # into the second epoch
        kill_all(process)
        assert list((cifar_home / out).rglob(CHECKPOINT))
        assert len(contents(cifar_home / out, "cifar_sample")) < 4
        subprocess.run(command(cifar_home, out, *launcher), check=True, stdout=subprocess.DEVNULL)
        assert contents(cifar_home / out, "cifar_sample") == expected


@pytest.mark.slow
@needs_shared
def test_two_ranks_publish_what_they_train_killed_and_resumed(cifar_home: Path) -> None:
    done = subprocess.run(command(cifar_home, "whole"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    good, _ = open_zoo(cifar_home / "whole", "cifar_sample").scan()
    expected = {(states.model_id, int(states.epochs[0])): states.weights()[0] for states in good}
    with (
        Hub(cifar_home / "hub") as hub,
        Client(hub.endpoint, cifar_home / "client", token="hf_x") as client,
    ):
        push = [*command(cifar_home, "two", *TWO_RANKS), "--push", "me/cifar", "--free"]
        process = subprocess.Popen(push, env=client.environment)
        deadline = time.monotonic() + 500
        while not list((cifar_home / "two").rglob(CHECKPOINT)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        kill_all(process)
        done = subprocess.run(
            push, env=client.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["published"], summary["freed"], summary["left_out"]) == (2, 2, {})
        assert not list((cifar_home / "two" / "cifar_sample" / "models").iterdir())
        rows = client.run(
            "from datasets import load_dataset\n"
            "result = [(row['model_id'], row['epoch'], row['weights'])\n"
            "          for rows in load_dataset(repo, 'cifar_sample', streaming=True).values()\n"
            "          for row in rows.with_format('numpy')]",
            repo="me/cifar",
        )
    assert len(rows) == len(expected) == 4
    for model, epoch, weights in rows:
        assert np.array_equal(weights, expected[model, int(epoch)])


STREAMED = """
import sys
import numpy as np, torch
from datasets import load_dataset
import model_zoos

images, labels = (torch.from_numpy(np.load(path)) for path in sys.argv[2:4])

def difference(row):
    network = model_zoos.instantiate(row)
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in images.split(10)])
    return abs(float((found == labels).double().mean()) - float(row["test_acc"]))

stream = load_dataset(
    "model_zoos", "small_resnets", data_dir=sys.argv[1], split="train", streaming=True
)
differences = list(map(difference, stream.with_format("numpy")))
assert len(differences) == 3
assert max(differences) < 1e-6
[memory] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(memory.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_states_stream_in_little_memory(tmp_path: Path, home: Path, digits: ImageData) -> None:
    np.save(tmp_path / "images.npy", digits.normalized("test").numpy())
    np.save(tmp_path / "labels.npy", digits.test.labels.numpy())
    done = subprocess.run(
        [
            *(sys.executable, "-c", STREAMED, str(home)),
            *(str(tmp_path / "images.npy"), str(tmp_path / "labels.npy")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600_000  # kB, of which torch and datasets are 315,000


@pytest.mark.slow
def test_compiled_training_is_close(tmp_path: Path, home: Path, digits: ImageData) -> None:
    generate(
        ZOO,
        tmp_path,
        digits,
        models=1,
        options=TrainOptions(threads=1, compile=True, keep_epochs=[1]),
    )
    [found] = open_zoo(tmp_path, ZOO.name).scan()[0]
    expected = open_zoo(home, ZOO.name).scan()[0][0]
    assert found.metrics["train_loss"] == pytest.approx(expected.metrics["train_loss"], rel=0.02)
