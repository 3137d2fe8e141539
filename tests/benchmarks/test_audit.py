"""verify: a healthy zoo passes, and whatever is changed in it afterwards is found."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from model_zoos.benchmarks.audit import Audit, audit_zoo, choose_states
from model_zoos.benchmarks.checks import (
    Check,
    Findings,
    ZooOnDisk,
    check_epochs,
    check_ids,
    first_equal,
)
from model_zoos.benchmarks.split_runs import assigned_in_runs
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.model_file import HEADER_KEY
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.splits import assign_splits
from model_zoos.builders.zoo_directory import CHECKPOINT, create_zoo, open_zoo
from model_zoos.errors import ZooNotFound
from model_zoos.generation.engines import ENGINES, reference
from model_zoos.generation.generate import begin, generate
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.options import METHODS, TrainOptions
from model_zoos.generation.sparsify import sparsify
from tests.shared import (
    HYPERPARAMETER_ZOO,
    LARGE_ZOO,
    SEED_ZOO,
    SHARED,
    grouped,
    needs_shared,
    raw_zoo_images,
)

NAME = "digits_cnn_s"
Tensors = dict[str, np.ndarray]
Change = Callable[[Tensors, dict[str, Any]], None]


@pytest.fixture
def home(digits_home: Path, tmp_path: Path) -> Path:
    """A copy of the zoo that may be spoilt."""
    shutil.copytree(digits_home / NAME, tmp_path / NAME)
    return tmp_path


def models(home: Path, name: str = NAME) -> list[Path]:
    return sorted((home / name / "models").glob("*.safetensors"))


def change(path: Path, how: Change) -> None:
    """Rewrite a model's file as somebody else might."""
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[HEADER_KEY])
    how(tensors, header)
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(header)})


def change_splits(home: Path, name: str, how: Callable[[dict[str, str]], None]) -> None:
    path = home / name / "splits.json"
    splits = json.loads(path.read_text())
    how(splits)
    path.write_text(json.dumps(splits))


def wrong(audit: Audit) -> dict[str, tuple[str, ...]]:
    return {check.name: check.offenders for check in audit.checks if check.wrong}


def learned(home: Path) -> Path:
    """A model that is neither diverged nor at the trivial rate."""

    def accuracy(path: Path) -> float:
        with safe_open(path, "np") as file:
            column = json.loads(file.metadata()[HEADER_KEY])["metrics"].index("test_acc")
            return file.get_tensor("metrics")[-1, column]

    return max(models(home), key=accuracy)


def test_a_healthy_zoo(digits_home: Path) -> None:
    audit = audit_zoo(NAME, digits_home, states=None)
    assert audit.good
    assert wrong(audit) == {}
    assert (audit.models, audit.states, audit.evaluated) == (20, 120, 120)
    assert audit.engine == audit.recorded_engine
    checked = {check.name: check.checked for check in audit.checks}
    # test and validation of all states, training images of the untrained ones
    assert checked["accuracy"] == checked["loss"] == 2 * 120 + 20
    assert checked["first weights"] == checked["files"] == checked["splits"] == 20
    some = audit_zoo(NAME, digits_home, states=30)
    assert some.good
    assert some.evaluated == 30
    assert some == audit_zoo(NAME, digits_home, states=30)


def test_samples_are_spread_over_the_models(digits_home: Path) -> None:
    rows = ZooOnDisk(open_zoo(digits_home, NAME)).states
    for states, each in ((20, 1), (60, 3)):
        chosen = choose_states(rows, states, seed=3)
        counts = np.unique(np.array(rows.model_id)[chosen], return_counts=True)[1]
        assert counts.tolist() == [each] * 20
    assert len(set(np.array(rows.epoch)[chosen])) == 6
    assert chosen.tolist() != choose_states(rows, 60, seed=4).tolist()


@pytest.mark.parametrize("values", [1, 2, 5, 1000])
@pytest.mark.parametrize("rows", [0, 1, 2, 60])
def test_the_first_of_equal_rows(rows: int, values: int) -> None:
    generator = np.random.default_rng(rows)
    columns = [generator.integers(values, size=rows) for _ in range(3)]
    first: dict[tuple, int] = {}
    expected = [first.setdefault(key, row) for row, key in enumerate(zip(*columns, strict=True))]
    assert first_equal(*columns).tolist() == expected


def flip(epoch: int, weight: int, bit: int) -> Change:
    def how(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["weights"].view(np.uint32)[epoch, weight] ^= 1 << bit

    return how


def test_a_flipped_bit_that_changes_the_accuracy(home: Path) -> None:
    path = learned(home)
    change(path, flip(4, 2463, 30))  # the last bias becomes huge or tiny
    found = wrong(audit_zoo(NAME, home, states=None))
    assert set(found) == {"accuracy", "loss"}
    assert all(f"{path.stem} epoch 4: " in offender for offender in found["accuracy"])


def test_a_flipped_bit_that_changes_the_loss_alone(home: Path) -> None:
    path = learned(home)
    change(path, flip(4, 2463, 12))
    audit = audit_zoo(NAME, home, states=None)
    if not audit.to_the_bit:
        pytest.skip("the lanes engine cannot run here")
    found = wrong(audit)
    assert set(found) == {"loss"}
    assert f"{path.stem} epoch 4: test_loss is recorded as" in found["loss"][0]


def test_states_under_each_others_epoch(home: Path) -> None:
    path = learned(home)

    def exchange(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["weights"][[2, 5]] = tensors["weights"][[5, 2]]

    change(path, exchange)
    found = wrong(audit_zoo(NAME, home, states=None))
    assert set(found) == {"accuracy", "loss"}
    said = " ".join(found["loss"])
    assert f"{path.stem} epoch 2" in said
    assert f"{path.stem} epoch 5" in said


def test_a_wrong_number_of_an_epoch(home: Path) -> None:
    def later(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["epoch"][-1] = 7

    def without(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors.update({name: np.delete(values, 3, axis=0) for name, values in tensors.items()})

    change(models(home)[0], later)
    change(models(home)[1], without)
    found = wrong(audit_zoo(NAME, home, states=0))
    assert sorted(found["epochs"]) == sorted(
        [
            f"{models(home)[0].stem}: has epoch 7, the zoo has 5",
            f"{models(home)[1].stem}: lacks epoch 3",
        ]
    )
    assert set(found) == {"epochs"}


def test_epochs_of_a_zoo_with_a_file_for_each_state(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("cifar10_resnet18"), name="resnets", epochs=3, seeds=2)
    made = {"engine": "resnet", "keep_epochs": [1, 3], "precision": "fp32", "compile": False}
    directory = create_zoo(tmp_path, zoo, **made)
    first, second = zoo.models()
    directory.add_splits(model.model_id for model in (first, second))
    metrics = {name: np.full(2, 0.5) for name in ("test_loss", "test_acc")}
    for model in (first, second):
        zeros = np.zeros((2, zoo.layout.size), np.float32)
        directory.write_model(model.model_id, model.hyperparameters(), [1, 3], zeros, metrics)

    def epochs() -> Check:
        findings = Findings()
        check_epochs(ZooOnDisk(open_zoo(tmp_path, "resnets")), findings)
        check_ids(ZooOnDisk(open_zoo(tmp_path, "resnets")), findings)
        assert not findings["ids"].wrong
        return findings["epochs"]

    assert (epochs().wrong, epochs().note) == (0, "")
    directory.state_path(second.model_id, 3).unlink()
    assert epochs().offenders == (f"{second.model_id}: lacks epoch 3",)
    (directory.models_path / second.model_id / CHECKPOINT).write_bytes(b"")
    found = epochs()
    assert found.wrong == 0
    assert found.note.startswith("1 model still in training")


def test_swapped_splits(home: Path) -> None:
    splits = json.loads((home / NAME / "splits.json").read_text())
    one = next(model for model, split in splits.items() if split == "train")
    two = next(model for model, split in splits.items() if split == "test")

    def move(splits: dict[str, str]) -> None:
        splits[one] = "test"

    def swap(splits: dict[str, str]) -> None:
        splits.update({one: "test", two: "train"})

    for how in (swap, move):
        change_splits(home, NAME, how)
        found = wrong(audit_zoo(NAME, home, states=0))
        assert set(found) == {"splits"}
        assert "not those that the models' ids give" in found["splits"][0]
    change_splits(home, NAME, lambda splits: splits.update(dict.fromkeys(splits, "train")))
    assert "20 of 20 models are train, not 70%" in wrong(audit_zoo(NAME, home, states=0))["splits"]
    change_splits(home, NAME, lambda splits: splits.pop(one) and None)
    found = wrong(audit_zoo(NAME, home, states=0))
    assert found["files"] == (f"{one}: splits.json has no split for it",)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=5), st.integers(0, 99))
def test_splits_of_a_zoo_made_in_several_runs(runs: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    order = [f"{number:012x}" for number in generator.integers(0, 2**40, sum(runs))]
    splits: dict[str, str] = {}
    for end in np.cumsum(runs):
        splits = assign_splits(splits, order[:end])
    assert assigned_in_runs(splits, order)
    assert not assigned_in_runs({**splits, order[0]: _other(splits[order[0]])}, order)


def _other(split: str) -> str:
    return "test" if split == "train" else "train"


def test_most_exchanges_of_two_splits_are_found() -> None:
    """Some can be explained by two runs; of one run they are few."""
    generator = np.random.default_rng(0)
    order = [f"{number:012x}" for number in generator.integers(0, 2**40, 40)]
    splits = assign_splits({}, order)
    train, test = ([m for m in order if splits[m] == s] for s in ("train", "test"))
    found = [
        not assigned_in_runs({**splits, a: "test", b: "train"}, order) for a in train for b in test
    ]
    assert np.mean(found) > 0.95


def test_other_damage(home: Path) -> None:
    source, *others = models(home)
    a, b, c, d, e = others[:5]

    def not_a_number(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["weights"][1, 7] = np.nan

    def other_seed(tensors: Tensors, header: dict[str, Any]) -> None:
        header["hyperparameters"]["seed"] += 1

    with safe_open(source, "np") as file:
        copied = file.get_tensor("weights")

    def copy(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["weights"][3] = copied[3]

    def other_start(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["weights"][0, 5] += 1e-3

    change(a, not_a_number)
    change(b, other_seed)
    change(c, copy)
    change(d, other_start)
    e.write_bytes(e.read_bytes()[:-100])
    found = wrong(audit_zoo(NAME, home, states=0))
    assert set(found) == {"finite", "ids", "duplicates", "first weights", "files"}
    assert found["finite"][0].startswith(f"{a.stem} epoch 1: 1 weights are NaN")
    assert found["ids"] == (f"{b.stem}: its hyperparameters have another id",)
    assert found["duplicates"][0].split(": ")[0] in (
        f"{c.stem} epoch 3",
        f"{source.stem} epoch 3",
    )
    assert {line.split()[0] for line in found["first weights"]} == {b.stem, d.stem}
    assert str(e) in found["files"][0]


def test_zoo_json(home: Path) -> None:
    path = home / NAME / "zoo.json"
    info = json.loads(path.read_text())
    info["layout"]["tensors"][0]["offset"] = 1
    info["zoo"]["image_dataset"] = "mnist"
    path.write_text(json.dumps(info))
    assert len(wrong(audit_zoo(NAME, home, states=0))["layout"]) == 2


def test_images_that_the_models_did_not_see(home: Path) -> None:
    fewer = load_images("digits").subset(test=slice(50))
    audit = audit_zoo(NAME, home, images=fewer)
    assert wrong(audit) == {}
    assert not audit.good
    assert audit.evaluated == 0
    undone = {check.name: check.note for check in audit.checks if check.undone}
    assert set(undone) == {"accuracy", "loss"}
    assert "zoo.json names other images" in undone["accuracy"]
    assert audit_zoo(NAME, home, images=fewer, states=0).good
    path = home / NAME / "zoo.json"
    info = json.loads(path.read_text())
    info["zoo"]["images"] = "mnist"
    path.write_text(json.dumps(info))
    checks = audit_zoo(NAME, home, images_dir=home).checks
    note, other = (check.note for check in checks if check.undone)
    assert other == "not checked, as the accuracy"  # one reason is said once
    assert "train-images-idx3-ubyte" in note


@pytest.mark.slow
@needs_shared
def test_images_that_are_not_the_published_files(tmp_path: Path) -> None:
    """The digest in zoo.json decides: a zoo can be verified on the files that it was made from."""
    name, folder = "usps_cnn_s_seed", SHARED / "data"
    with pytest.warns(UserWarning, match=r"usps\.bz2 has MD5"):
        images = load_images("usps", folder, allow_unverified=True)
    assert not images.verified
    zoo = dataclasses.replace(get_zoo(name), epochs=1)
    generate(zoo, tmp_path, images, models=2)
    audit = audit_zoo(name, tmp_path, images_dir=folder)
    assert (audit.good, audit.evaluated) == (True, 4)
    path = tmp_path / name / "zoo.json"
    path.write_text(path.read_text().replace(images.digest(), "0" * 64))
    audit = audit_zoo(name, tmp_path, images_dir=folder)
    assert {check.name for check in audit.checks if check.undone} == {"accuracy", "loss"}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ZooNotFound, match="no zoo 'digits_cnn_s'"):
        audit_zoo(NAME, tmp_path)
    with pytest.raises(ValueError, match="states must be 0 or more"):
        audit_zoo(NAME, tmp_path, states=-1)


@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_the_other_engines(engine: str, tmp_path: Path) -> None:
    images = load_images("digits").subset(train=slice(40), test=slice(60), validation=slice(30))
    zoo = dataclasses.replace(get_zoo(NAME), epochs=1)
    if engine == "batched":
        generate(zoo, tmp_path, images, models=2, options=TrainOptions(engine=engine, threads=1))
    else:  # as `generate` does it, without its processes
        directory = begin(tmp_path, zoo, ENGINES[engine], images)
        directory.add_splits(model.model_id for model in zoo.models(2))
        for model in zoo.models(2):
            states = list(reference.train(model, zoo.layout, images))
            directory.write_model(
                model.model_id,
                model.hyperparameters(),
                [state.epoch for state in states],
                np.stack([state.weights.numpy() for state in states]),
                {n: np.array([s.metrics[n] for s in states]) for n in states[0].metrics},
            )
    audit = audit_zoo(NAME, tmp_path, images=images)
    assert audit.good
    assert audit.engine == engine
    assert audit.evaluated == 4
    assert audit.to_the_bit == (engine == "reference" and platform.machine() == "x86_64")
    change(models(tmp_path)[0], flip(1, 2463, 30))
    assert not audit_zoo(NAME, tmp_path, images=images).good


# --- Twins made here ------------------------------------------------------------------------------

TWINS = {"variational": f"{NAME}_sparse", "magnitude": f"{NAME}_sparse_magnitude"}


@pytest.fixture(scope="module")
def twins_home(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo and twins of four of its models by both methods (never write to it)."""
    root = tmp_path_factory.mktemp("twins")
    shutil.copytree(digits_home / NAME, root / NAME)
    parents, images = open_zoo(root, NAME), load_images("digits")
    for method in METHODS:
        arguments = {"models": 4, "epochs": 2, "levels": [0.5, 0.9], "threads": 2}
        sparsify(parents, root, images, **grouped(**arguments, method=method))
    return root


@pytest.mark.parametrize("method", METHODS)
def test_healthy_twins(method: str, twins_home: Path) -> None:
    audit = audit_zoo(TWINS[method], twins_home, states=None)
    assert wrong(audit) == {}
    assert audit.good
    twins = 4 if method == "variational" else 8
    assert (audit.models, audit.evaluated) == (twins, 3 * twins)
    assert audit.engine == audit.recorded_engine
    checked = {check.name: check.checked for check in audit.checks}
    assert checked["accuracy"] == checked["loss"] == 2 * 3 * twins + twins
    assert checked["first weights"] == checked["parents"] == twins


@pytest.mark.slow
def test_twins_of_the_reference_engine(digits_home: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_home / NAME, tmp_path / NAME)
    for method in METHODS:
        arguments = {"models": 1, "epochs": 1, "levels": [0.8], "engine": "reference"}
        sparsify(
            open_zoo(tmp_path, NAME),
            tmp_path,
            load_images("digits"),
            **grouped(**arguments, method=method),
        )
        audit = audit_zoo(TWINS[method], tmp_path)
        assert wrong(audit) == {}
        assert audit.to_the_bit == (method == "magnitude" and platform.machine() == "x86_64")


@pytest.mark.parametrize("method", METHODS)
def test_damaged_twins(method: str, twins_home: Path, tmp_path: Path) -> None:
    name = TWINS[method]
    shutil.copytree(twins_home, tmp_path, dirs_exist_ok=True)
    paths, splits = models(tmp_path, name), open_zoo(tmp_path, name).splits()
    parents = {s.model_id: s.parent_model_id for s in open_zoo(tmp_path, name).scan()[0]}
    one, another = next(
        (a, b)
        for a in paths
        for b in paths
        if parents[a.stem] != parents[b.stem] and splits[a.stem] == splits[b.stem]
    )
    second, third = [path for path in paths if path != one][:2]

    def exchanged(tensors: Tensors, header: dict[str, Any]) -> None:
        header["parent_model_id"] = parents[another.stem]

    def faster(tensors: Tensors, header: dict[str, Any]) -> None:
        header["hyperparameters"]["learning_rate"] *= 2

    def better(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors["metrics"][2, header["metrics"].index("test_loss")] *= 0.99

    change(one, exchanged)
    change(second, faster)
    change(third, better)
    found = wrong(audit_zoo(name, tmp_path, states=None))
    assert set(found) == {"parents", "first weights", "loss"}
    assert f"{second.stem}: its learning_rate is " in " ".join(found["parents"])
    assert {line.split()[0].rstrip(":") for line in found["parents"]} <= {one.stem, second.stem}
    assert [line.split()[0] for line in found["first weights"]] == [one.stem]
    [loss] = found["loss"]
    assert loss.startswith(f"{third.stem} epoch 2: test_loss is recorded as")


# --- Zoos of the original's own code --------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    for name in (SEED_ZOO, HYPERPARAMETER_ZOO, LARGE_ZOO, "cnn_small_mnist_ard"):
        import_zoo(SHARED / "data" / "raw_zoos" / f"{name}.zip", root)
    return root


def images_of(name: str) -> ImageData:
    large = name == LARGE_ZOO
    return raw_zoo_images(validation=large or name == HYPERPARAMETER_ZOO, large=large)


@needs_shared
@pytest.mark.parametrize(
    ("name", "states"),
    [(SEED_ZOO, 108), (HYPERPARAMETER_ZOO, 199), (LARGE_ZOO, 20), (f"{SEED_ZOO}_sparse", 72)],
)
def test_what_the_originals_code_recorded(name: str, states: int, imported: Path) -> None:
    audit = audit_zoo(name, imported, images=images_of(name), states=None)
    assert wrong(audit) == {}
    assert audit.good
    assert audit.evaluated == states
    assert not audit.to_the_bit
    notes = {check.name: check.note for check in audit.checks}
    assert "no digest of the images" in notes["accuracy"]
    assert ("not compared" in notes["loss"]) == name.endswith("_sparse")


@needs_shared
def test_twins(imported: Path, tmp_path: Path) -> None:
    name = f"{SEED_ZOO}_sparse"
    shutil.copytree(imported, tmp_path, dirs_exist_ok=True)
    a, b, c = models(tmp_path, name)[:3]
    splits = json.loads((tmp_path / name / "splits.json").read_text())
    moved = next(m for m, s in splits.items() if s == "train" and m not in (a.stem, b.stem))
    change_splits(tmp_path, name, lambda splits: splits.update({moved: "test"}))

    def regrown(tensors: Tensors, header: dict[str, Any]) -> None:
        zeros = np.flatnonzero(tensors["weights"][5] == 0)
        tensors["weights"][5, zeros[0]] = 1e-6

    def orphan(tensors: Tensors, header: dict[str, Any]) -> None:
        header["parent_model_id"] = "nobody"

    change(a, regrown)
    change(b, orphan)
    found = wrong(audit_zoo(name, tmp_path, images=images_of(name), states=0))
    assert set(found) == {"parents", "sparsity"}
    assert found["sparsity"][0].startswith(f"{a.stem} epoch 5: recorded 0.8")
    assert set(found["parents"]) == {
        f"{moved}: lies in test, its parent in train",
        f"{b.stem}: its parent nobody is not in {SEED_ZOO}",
    }
    shutil.rmtree(tmp_path / SEED_ZOO)
    audit = audit_zoo(name, tmp_path, states=0)
    assert set(wrong(audit)) == {"sparsity"}
    [parents] = [check for check in audit.checks if check.name == "parents"]
    assert parents.undone
    assert "is not here" in parents.note
    assert f"folder into {tmp_path}, then verify again" in parents.note
    assert c.exists()


def test_bits_are_not_compared_across_processors(tmp_path: Path) -> None:
    """torch sums in other orders on other processors, so the reference engine's losses differ."""
    images = load_images("digits").subset(train=slice(40), test=slice(60), validation=slice(30))
    zoo = dataclasses.replace(get_zoo(NAME), epochs=1)
    generate(zoo, tmp_path, images, models=1, options=TrainOptions(engine="reference", threads=1))
    assert audit_zoo(NAME, tmp_path, images=images).to_the_bit
    path = tmp_path / NAME / "zoo.json"
    info = json.loads(path.read_text())
    info["versions"]["cpu"] = "another one"
    path.write_text(json.dumps(info))
    audit = audit_zoo(NAME, tmp_path, images=images)
    assert audit.good
    assert not audit.to_the_bit
