"""The on-disk form: round trips, faulty files, interrupted and concurrent writers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.publish import folder_files
from model_zoos.builders.ledger import Published
from model_zoos.builders.model_file import HEADER_KEY
from model_zoos.builders.rows import states_table
from model_zoos.builders.schema import METRICS, row_schema
from model_zoos.builders.zoo_directory import (
    ZooDirectory,
    built_zoos,
    create_zoo,
    list_zoo_directories,
    open_zoo,
    remove_if_empty,
)
from model_zoos.errors import FaultyFile, FaultyZoo, InvalidArgument, ZooNotFound
from tests.zoos import random_zoo

DIGITS = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)


@pytest.fixture
def directory(tmp_path: Path) -> ZooDirectory:
    return random_zoo(tmp_path, DIGITS, 5)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_model_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = create_zoo(tmp_path_factory.mktemp("zoo"), DIGITS)
    epochs = sorted(data.draw(st.sets(st.integers(0, 99), min_size=1, max_size=5)))
    weights = np.random.default_rng(0).standard_normal((len(epochs), 2464), np.float32)
    weights[0, :3] = [np.nan, np.inf, -0.0]  # a diverged model is kept as it is
    names = data.draw(st.sets(st.sampled_from(METRICS)))
    metrics = {
        name: np.array(
            [
                data.draw(st.floats(0, 1) if "acc" in name or name == "sparsity" else st.floats())
                for _ in epochs
            ]
        )
        for name in names
    }
    hyperparameters = {"seed": data.draw(st.integers(0, 2**63 - 1)), "momentum": None}
    parent = data.draw(st.none() | st.just("parent"))
    [path] = directory.write_model(
        "model", hyperparameters, epochs, weights, metrics, parent_model_id=parent
    )
    states = open_zoo(directory.path.parent, DIGITS.name).read(path)
    assert states.model_id == "model"
    assert states.parent_model_id == parent
    assert states.hyperparameters == hyperparameters
    assert states.epochs.tolist() == epochs
    assert states.weights().tobytes() == weights.tobytes()
    rows = data.draw(st.lists(st.sampled_from(range(len(epochs))), min_size=1, unique=True))
    assert states.weights(rows).tobytes() == weights[rows].tobytes()
    assert set(states.metrics) == names
    for name in names:
        assert states.metrics[name].tobytes() == metrics[name].tobytes()


def test_resnet_states_have_a_file_each_with_named_tensors(tmp_path: Path) -> None:
    import torch

    from model_zoos.generation.networks import build

    zoo = get_zoo("cifar10_resnet18")
    directory = create_zoo(tmp_path, zoo)
    weights = np.random.default_rng(0).standard_normal((2, zoo.layout.size), np.float32)
    model = zoo.models(1)[0]
    paths = directory.write_model(
        model.model_id,
        model.hyperparameters(),
        [4, 5],
        weights,
        {"test_acc": np.array([0.1, 0.2]), "test_loss": np.array([math.nan, 1.0])},
    )
    assert [path.relative_to(directory.models_path).as_posix() for path in paths] == [
        f"{model.model_id}/epoch_0004.safetensors",
        f"{model.model_id}/epoch_0005.safetensors",
    ]
    module = build(zoo.layout, "relu")
    named = {name: torch.from_numpy(value) for name, value in load_file(paths[1]).items()}
    missing, unexpected = module.load_state_dict(named, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name for name in missing)
    good, faulty = open_zoo(tmp_path, zoo.name).scan()
    assert not faulty
    assert [states.epochs.tolist() for states in good] == [[4], [5]]
    assert good[1].weights().tobytes() == weights[1].tobytes()
    assert good[1].metrics["test_acc"].tolist() == [0.2]
    assert math.isnan(good[0].metrics["test_loss"][0])


def test_a_state_whose_file_names_another_epoch_is_left_out(tmp_path: Path) -> None:
    zoo = get_zoo("cifar10_resnet18")
    directory = create_zoo(tmp_path, zoo)
    weights = np.zeros((2, zoo.layout.size), np.float32)
    first, second = directory.write_model("a", {}, [1, 2], weights, {"test_acc": [0.1, 0.2]})
    for name in ("epoch_0003", "epoch_2", "epoch_00002"):
        shutil.copy(second, second.with_name(f"{name}.safetensors"))
    second.rename(second.with_name("epoch_0009.safetensors"))
    good, faulty = directory.scan()
    assert [states.path for states in good] == [first]
    assert len(faulty) == 4
    assert all("holds epoch 2: file and header disagree" in str(error) for error in faulty)


@pytest.mark.parametrize("name", [DIGITS.name, "cifar10_resnet18"])
def test_metrics_that_were_not_measured_everywhere(tmp_path: Path, name: str) -> None:
    """Masked is not measured, NaN is the loss of a diverged model; what is nowhere is not named."""
    zoo = DIGITS if name == DIGITS.name else get_zoo(name)
    directory = create_zoo(tmp_path, zoo)
    metrics = {
        "test_acc": np.array([0.25, 0.5, 0.75]),
        "train_acc": np.ma.array([0, 7, 1], mask=[0, 1, 0]),
        "val_acc": np.ma.array([0.25, 7.0, 0.75], mask=[0, 1, 0]),
        "train_loss": np.array([math.inf, 1.0, math.nan]),
        "val_loss": np.ma.array([math.nan, 1.0, math.nan], mask=[0, 1, 1]),
        "sparsity": np.ma.masked_all(3),
    }
    weights = np.zeros((3, zoo.layout.size), np.float32)
    directory.write_model("a", {}, [1, 2, 3], weights, metrics, original_name="a:b")
    good, faulty = directory.scan()
    assert not faulty
    assert {states.original_name for states in good} == {"a:b"}
    names = ["test_acc", "val_acc", "train_loss", "val_loss", "sparsity"]
    table = states_table(good, row_schema(None, names))
    assert table["test_acc"].to_pylist() == [0.25, 0.5, 0.75]
    assert table["val_acc"].to_pylist() == [0.25, None, 0.75]
    assert str(table["train_loss"].to_pylist()) == "[inf, 1.0, nan]"
    assert str(table["val_loss"].to_pylist()) == "[nan, None, None]"
    assert table["sparsity"].to_pylist() == [None] * 3
    assert not any("sparsity" in states.metrics for states in good)
    with pytest.raises(InvalidArgument, match=r"val_acc must lie in \[0, 1\]"):
        directory.write_model("b", {}, [1, 2, 3], weights, {"val_acc": np.array([0, 1, math.nan])})


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        directory = random_zoo(tmp_path / name, DIGITS, 3)
        contents.append([path.read_bytes() for path in directory.files()])
    assert contents[0] == contents[1]


# --- Faulty files: each costs itself only ---------------------------------------------------------


def _rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Read a model file, change header and tensors, write it back."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(header)})


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated": ("truncated", lambda p: os.truncate(p, p.stat().st_size - 1)),
    "half": ("truncated", lambda p: os.truncate(p, p.stat().st_size // 2)),
    "empty": ("truncated", lambda p: os.truncate(p, 0)),
    "other bytes": ("not safetensors", lambda p: p.write_bytes(b"PK\x03\x04" * 100) and None),
    "no header": (
        "not a model of a zoo",
        lambda p: save_file(load_file(p), p),
    ),
    "other zoo": (
        "belongs to the zoo 'mnist'",
        lambda p: _rewrite(p, lambda h, t: h.update(zoo="mnist")),
    ),
    "wrong shape": (
        r"weights have shape \(4, 2463\)",
        lambda p: _rewrite(p, lambda h, t: t.update(weights=t["weights"][:, 1:].copy())),
    ),
    "a row too few": (
        r"weights have shape \(3, 2464\)",
        lambda p: _rewrite(p, lambda h, t: t.update(weights=t["weights"][1:].copy())),
    ),
    "half precision": (
        "weights are F16",
        lambda p: _rewrite(p, lambda h, t: t.update(weights=t["weights"].astype(np.float16))),
    ),
    "NaN accuracy": (
        r"test_acc must lie in \[0, 1\]",
        lambda p: _rewrite(p, lambda h, t: t["metrics"].__setitem__((1, 5), np.nan)),
    ),
    "accuracy in percent": (
        r"train_acc must lie in \[0, 1\]",
        lambda p: _rewrite(p, lambda h, t: t["metrics"].__setitem__((0, 1), 98.0)),
    ),
    "epochs repeated": (
        "epochs must be increasing",
        lambda p: _rewrite(p, lambda h, t: t["epoch"].__setitem__(1, 0)),
    ),
    "metrics of another shape": (
        "metrics are float64",
        lambda p: _rewrite(p, lambda h, t: t.update(metrics=t["metrics"][:, 1:].copy())),
    ),
    "unknown metric": (
        "unknown or repeated metrics",
        lambda p: _rewrite(p, lambda h, t: h.update(metrics=["loss", *h["metrics"][1:]])),
    ),
    "infinite learning rate": (
        "learning_rate must be a finite double",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(learning_rate=math.inf)),
    ),
    "seed as text": (
        "seed must be a finite int64",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(seed="1")),
    ),
    "renamed": (
        "file and header disagree",
        lambda p: _rewrite(p, lambda h, t: h.update(model_id="somebody")),
    ),
    "number beyond float64": (
        "no JSON object 'model_zoos'",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(learning_rate=10**400)),
    ),
    "number beyond 64 bits": (
        "no JSON object 'model_zoos'",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(learning_rate=10**20)),
    ),
    "number that no float64 is": (
        "learning_rate must be a finite double",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(learning_rate=2**53 + 1)),
    ),
    "half a character": (
        "no JSON object 'model_zoos'",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(scheduler="\ud800")),
    ),
    "long text": (
        "scheduler must be a finite string",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(scheduler="x" * 10**6)),
    ),
    "list for a text": (
        "activation must be a finite string",
        lambda p: _rewrite(p, lambda h, t: h["hyperparameters"].update(activation=["tanh"])),
    ),
    "long header": ("no header of safetensors", lambda p: _write_header(p, b" " * (5 << 20))),
    "deep header": ("nested too deeply", lambda p: _write_header(p, b"[" * 10**5)),
    "many dimensions": (
        "its offsets are not those of its shape",
        lambda p: _write_header(
            p,
            b'{"x":{"dtype":"F32","data_offsets":[0,0],"shape":[%s0]}}' % (b"%d," % 2**62 * 10**5),
        ),
    ),
    "terabytes of epochs": (
        "epoch has more than",
        lambda p: _sparse(p, {"weights": [2**36, 1], "epoch": [2**36], "metrics": [2**36, 0]}),
    ),
    "named tensors": (
        "there is no tensor 'epoch'",
        lambda p: save_file(
            {"conv1.weight": np.zeros((8, 1, 5, 5), np.float32)}, p, metadata={HEADER_KEY: "{}"}
        ),
    ),
    "a folder": ("no plain file", lambda p: (p.unlink(), p.mkdir())[1]),
    "a pipe": ("no plain file", lambda p: (p.unlink(), os.mkfifo(p))[1]),
    "a device": ("no plain file", lambda p: (p.unlink(), p.symlink_to("/dev/zero"))[1]),
    "a link to itself": ("unreadable", lambda p: (p.unlink(), p.symlink_to(p))[1]),
    "a link to nothing": ("no such file", lambda p: (p.unlink(), p.symlink_to("nothing"))[1]),
}


def _write_header(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _sparse(path: Path, shapes: dict[str, list[int]]) -> None:
    """Write a file whose tensors are holes, which take no room on the disk."""
    entries: dict[str, Any] = {"__metadata__": {HEADER_KEY: "{}"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries).encode()
    _write_header(path, header)
    os.truncate(path, 8 + len(header) + begin)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_costs_no_other(directory: ZooDirectory, fault: str) -> None:
    message, spoil = FAULTS[fault]
    path = directory.files()[2]
    spoil(path)
    with pytest.raises(FaultyFile, match=message) as raised:
        directory.read(path)
    assert str(path) in str(raised.value)
    good, faulty = directory.scan()
    assert [states.path for states in good] == [p for p in directory.files() if p != path]
    assert [str(error) for error in faulty] == [str(raised.value)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_of_a_file_does_more_than_fault_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "mutations"
    if not root.exists():
        random_zoo(root, DIGITS, 1)
    directory = open_zoo(root, DIGITS.name)
    [path] = [p for p in directory.files() if len(p.stem) == 12]
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, 1200) | st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    mutated = path.with_name("mutated.safetensors")
    mutated.write_bytes(content)
    names = []
    with contextlib.suppress(FaultyFile):  # any other error fails the test
        states = directory.read(mutated)
        names.append(states.path)
        assert states.weights().shape == (len(states.epochs), 2464)
    assert names in ([], [mutated])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.zeros((2, 2465), np.float32)}, "weights have shape"),
        ({"epochs": [1, 1]}, "increasing"),
        ({"epochs": [-1, 1]}, "increasing"),
        ({"metrics": {"test_acc": np.array([0.1, np.nan])}}, r"lie in \[0, 1\]"),
        ({"metrics": {"test_acc": np.array([0.1])}}, "one value for each epoch"),
        ({"metrics": {"f1": np.array([0.1, 0.2])}}, "unknown metrics"),
        ({"hyperparameters": {"lr": 1.0}}, "hyperparameters must be among"),
        ({"model_id": "../escape"}, "model_id must be"),
        ({"model_id": ".hidden"}, "model_id must be"),
        ({"model_id": "a/b"}, "model_id must be"),
        ({"model_id": "x" * 300}, "model_id must be"),
        ({"model_id": ""}, "model_id must be"),
        ({"extra": {"mean": np.zeros((1, 2464))}}, "extra tensors"),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    directory = create_zoo(tmp_path, DIGITS)
    arguments: dict[str, Any] = {
        "model_id": "model",
        "hyperparameters": {},
        "epochs": [0, 1],
        "weights": np.zeros((2, 2464), np.float32),
        "metrics": {},
    }
    with pytest.raises(ValueError, match=message):
        directory.write_model(**{**arguments, **change})
    assert directory.files() == []
    assert directory.splits() == {}


def test_numpys_numbers_are_welcome(tmp_path: Path) -> None:
    directory = create_zoo(tmp_path, DIGITS)
    values = {"seed": np.int64(3), "learning_rate": np.float32(0.5), "epochs": np.int32(2)}
    [path] = directory.write_model("model", values, [0], np.zeros((1, 2464), np.float32), {})
    found = directory.read(path).hyperparameters
    assert found == {"seed": 3, "learning_rate": 0.5, "epochs": 2}


# --- The directory itself -------------------------------------------------------------------------


def test_a_zoo_is_not_continued_in_another_way(directory: ZooDirectory) -> None:
    root = directory.path.parent
    assert create_zoo(root, DIGITS, engine="random values", versions={"torch": "3"}) == directory
    with pytest.raises(FaultyZoo, match="made with engine = 'random values', not 'reference'"):
        create_zoo(root, DIGITS, engine="reference")
    with pytest.raises(FaultyZoo, match=r"zoo\.epochs = 3, not 4") as raised:
        create_zoo(root, dataclasses.replace(DIGITS, epochs=4), engine="random values")
    assert raised.value.hint == "--out names another folder, --epochs 3 resumes this zoo"


def test_images_of_which_an_earlier_version_said_less_are_the_same(tmp_path: Path) -> None:
    images = {"name": "folder/mine", "sha256": "0" * 64, "verified": False}
    more = {"shape": [1, 28, 28], "mean": [0.5], "std": [0.5], "sizes": [4, None, 4]}
    create_zoo(tmp_path, DIGITS, images=images)
    content = (tmp_path / DIGITS.name / "zoo.json").read_bytes()
    assert create_zoo(tmp_path, DIGITS, images=images | more).info["images"] == images
    assert (tmp_path / DIGITS.name / "zoo.json").read_bytes() == content
    for other in ({"sha256": "1" * 64}, {"name": "mine"}, {"verified": True}):
        [key] = other
        with pytest.raises(FaultyZoo, match=rf"begun with images\.{key} = "):
            create_zoo(tmp_path, DIGITS, images=images | more | other)
    for least in (None, {}, {"name": "folder/mine"}):
        with pytest.raises(FaultyZoo, match="begun with images"):
            create_zoo(tmp_path, DIGITS, images=least)
    create_zoo(tmp_path / "new", DIGITS, images=images | more)
    with pytest.raises(FaultyZoo, match=r"begun with images\.mean = "):
        create_zoo(tmp_path / "new", DIGITS, images=images | more | {"mean": [0.1]})


def test_a_model_that_lacks_epochs_is_not_finished(directory: ZooDirectory) -> None:
    model = directory.scan()[0][0]
    assert directory.finished(model.model_id)
    for count, finished in ((3, False), (4, True)):
        directory.write_model(
            model.model_id, {}, range(count), np.zeros((count, 2464), np.float32), {}
        )
        assert directory.finished(model.model_id) == finished
    assert not directory.finished("nobody")


def test_too_many_open_files_are_not_the_files_fault(directory: ZooDirectory) -> None:
    resource = pytest.importorskip("resource")
    path = directory.files()[0]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            directory.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_cannot_be_opened(directory: ZooDirectory) -> None:
    root = directory.path.parent
    with pytest.raises(ZooNotFound, match="no zoo 'mnist_cnn_s'"):
        open_zoo(root, "mnist_cnn_s")
    directory.path.rename(root / "renamed")
    with pytest.raises(FaultyZoo, match="must have the zoo's name"):
        open_zoo(root, "renamed")
    (root / "renamed" / "zoo.json").write_text('{"format": "other"}')
    with pytest.raises(FaultyZoo, match="in the format model_zoos/1"):
        open_zoo(root, "renamed")
    (root / "renamed" / "zoo.json").write_text("{")
    with pytest.raises(FaultyZoo, match="not readable as JSON"):
        open_zoo(root, "renamed")


ODD_VALUES: list[Any] = [
    None, True, -1, 2**31, 2**63, 10**20, 10**400, 1e308, math.nan, math.inf, "", "\ud800", "\0",
    "x" * 20_000, [], [[]], ["a"], {}, {"a": 1},
]  # fmt: skip
"""JSON values; none of them is one that every place accepts."""


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value, at all depths."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found


@pytest.mark.parametrize("name", ["zoo.json", "splits.json", "published.json"])
def test_no_json_value_does_more_than_fault_the_zoo(directory: ZooDirectory, name: str) -> None:
    """Every value of each file is replaced by each odd one in turn."""
    models = {path.stem: "here" for path in directory.files()}
    directory.write_published(Published("somebody/zoos", models))
    path = directory.path / name
    content = json.loads(path.read_text())
    refused = 0
    for number in range(len(_places(content))):
        for odd in ODD_VALUES:
            changed = json.loads(json.dumps(content))
            container, key = _places(changed)[number]
            container[key] = odd
            path.write_text(json.dumps(changed))
            try:
                opened = open_zoo(directory.path.parent, DIGITS.name)
                opened.by_split()
                assert opened.kept_epochs
                assert repr(opened)
            except FaultyZoo:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["zoo.json", "splits.json", "published.json"])
@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 10**6, b'{"a":' * 10**5, b"[1]", b"", b"{" + b" " * (17 << 20) + b"}"],
    ids=["no UTF-8", "deep", "deep objects", "a list", "empty", "long"],
)
def test_no_content_does_more_than_fault_the_zoo(
    directory: ZooDirectory, name: str, content: bytes
) -> None:
    (directory.path / name).write_bytes(content)
    with pytest.raises(FaultyZoo, match=name):
        open_zoo(directory.path.parent, DIGITS.name).by_split()


@pytest.mark.parametrize("name", ["zoo.json", "splits.json", "published.json", "models"])
@pytest.mark.parametrize("what", ["pipe", "folder", "zero", "loop"])
def test_what_is_no_plain_file_is_refused_at_once(
    directory: ZooDirectory, name: str, what: str
) -> None:
    path = directory.path / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "zero" else path)
    with pytest.raises((FaultyZoo, ZooNotFound)):
        open_zoo(directory.path.parent, DIGITS.name).by_split()


def test_files_have_the_permissions_of_the_umask(directory: ZooDirectory) -> None:
    before = os.umask(0o027)
    try:
        [path] = directory.write_model("later", {}, [0], np.zeros((1, 2464), np.float32), {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_bad_splits_are_named(directory: ZooDirectory) -> None:
    (directory.path / "splits.json").write_text('{"a": "exam"}')
    with pytest.raises(FaultyZoo, match=r"splits\.json: expected model ids"):
        directory.splits()


def test_a_model_that_appears_while_files_are_listed(
    directory: ZooDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = ZooDirectory.scan

    def scan_later(self: ZooDirectory) -> Any:
        weights = np.zeros((1, self.zoo.layout.size), np.float32)
        self.write_model("new", {}, [0], weights, {})
        return scan(self)

    monkeypatch.setattr(ZooDirectory, "scan", scan_later)
    files, faulty = directory.by_split()
    assert "new" in {file.model_id for found in files.values() for file in found}
    assert faulty == []


def test_concurrent_planning_agrees(tmp_path: Path) -> None:
    directory = create_zoo(tmp_path, DIGITS)
    ids = [f"{i:012x}" for i in range(200)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: directory.add_splits(ids), range(16)))
    assert all(result == results[0] for result in results)
    assert directory.splits() == results[0]


def test_a_later_model_moves_no_split(directory: ZooDirectory) -> None:
    before = directory.splits()
    directory.write_model("later", {}, [0], np.zeros((1, 2464), np.float32), {})
    after = directory.splits()
    assert set(after) == {*before, "later"}
    assert {model: after[model] for model in before} == before


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    code = (
        "import sys, dataclasses; from pathlib import Path\n"
        "from tests.zoos import random_zoo\n"
        "from model_zoos.builders.catalog import get_zoo\n"
        "zoo = dataclasses.replace(get_zoo('mnist_cnn_s_seed'), epochs=3)\n"
        "random_zoo(Path(sys.argv[1]), zoo)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    models = tmp_path / "mnist_cnn_s_seed" / "models"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(models.glob("*.safetensors"))) < 20:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    good, faulty = open_zoo(tmp_path, "mnist_cnn_s_seed").scan()
    assert 20 <= len(good) < 1000
    assert faulty == []


@pytest.mark.parametrize("name", ["default", "metrics"])
def test_a_new_zoo_has_no_reserved_name(tmp_path: Path, name: str) -> None:
    """A repository with a config `default` of its own could not be loaded by datasets."""
    zoo = dataclasses.replace(DIGITS, name=name)
    with pytest.raises(InvalidArgument, match=f"a zoo cannot be named '{name}': .* Choose anothe"):
        create_zoo(tmp_path, zoo)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mnist_cnn_s", "mnist_cnn_s_sparse"])
def test_a_new_zoo_has_no_name_of_a_union(tmp_path: Path, name: str) -> None:
    """Readers take it for the parts of the union, and would never find the zoo."""
    zoo = dataclasses.replace(DIGITS, name=name)
    with pytest.raises(InvalidArgument, match=f"cannot be named '{name}', which stands for mnist_"):
        create_zoo(tmp_path, zoo)
    with pytest.raises(InvalidArgument, match=f"cannot be named '{name}', which stands for mnist_"):
        model_zoos.generate(zoo, tmp_path)
    assert not list(tmp_path.iterdir())
    twins = dataclasses.replace(DIGITS, name=f"{DIGITS.name}_sparse")
    assert create_zoo(tmp_path, twins).parent_zoo == DIGITS.name


def test_the_folder_of_zoos_can_be_in_ones_own_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1)
    model_zoos.generate(zoo, "~/zoos", "digits", models=1)
    assert open_zoo("~/zoos", "digits_cnn_s").path == tmp_path / "zoos" / "digits_cnn_s"
    assert list_zoo_directories("~/zoos") == ["digits_cnn_s"]
    assert not (tmp_path / "~").exists()


def test_an_attempt_without_models_does_not_block_another(tmp_path: Path) -> None:
    zoo = get_zoo("digits_cnn_s")
    empty = create_zoo(tmp_path, zoo, engine="lanes")
    other = dataclasses.replace(zoo, epochs=3)
    with pytest.raises(FaultyZoo, match="holds no finished model: delete it"):
        create_zoo(tmp_path, other, engine="lanes")
    remove_if_empty(empty)
    assert list_zoo_directories(tmp_path) == []
    random_zoo(tmp_path, other, 1)
    remove_if_empty(open_zoo(tmp_path, zoo.name))  # it has a model
    assert len(open_zoo(tmp_path, zoo.name).files()) == 1


def test_a_built_folder_is_no_folder_of_zoos(tmp_path: Path) -> None:
    random_zoo(tmp_path / "zoos", dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 9)
    folder = tmp_path / "built"
    build_folder(["digits_cnn_s"], tmp_path / "zoos", folder, workers=1)
    assert built_zoos(folder) == ["digits_cnn_s"]
    with pytest.raises(ZooNotFound, match=r'load_dataset\(".*built", "digits_cnn_s"\) loads'):
        datasets.load_dataset("model_zoos", "digits_cnn_s", data_dir=str(folder))
    assert set(datasets.load_dataset(str(folder), "digits_cnn_s", cache_dir=str(tmp_path / "c")))
    with pytest.raises(InvalidArgument, match=r"zoo directories \(digits_cnn_s\): build into"):
        build_folder(["digits_cnn_s"], tmp_path / "zoos", tmp_path / "zoos", workers=1)
    shutil.copytree(folder, tmp_path / "zoos", dirs_exist_ok=True)  # as earlier versions let it be
    build_folder(["digits_cnn_s"], tmp_path / "zoos", tmp_path / "zoos", workers=1)
    with pytest.raises(InvalidArgument, match="keep these, and build into a folder of its own"):
        folder_files(tmp_path / "zoos")
    random_zoo(tmp_path / "zoos", dataclasses.replace(get_zoo("mnist_cnn_s_seed"), epochs=1), 1)
    assert len(list_zoo_directories(tmp_path / "zoos")) == 2  # both kinds in one folder
