"""Sparse twins of whole zoos: against the original's, their form, the same bytes, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from safetensors.numpy import load_file

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import make_layout
from model_zoos.builders.model_file import ModelFile
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.specification import Model
from model_zoos.builders.variational_dropout import kl_divergence, kl_weight, prune, sparsity
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo, open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument, NotEnoughSpace
from model_zoos.generation import plan
from model_zoos.generation import sparsify as sparsification
from model_zoos.generation.engines.reference import State, evaluate, train
from model_zoos.generation.engines.reference_twins import VariationalTwin
from model_zoos.generation.generate import generate
from model_zoos.generation.images import ImageData, Images, load_images
from model_zoos.generation.job import Progress, Work
from model_zoos.generation.options import TrainOptions, TwinOptions
from model_zoos.generation.ranks import Ranks
from model_zoos.generation.sparsify import magnitude_mask, sparsify, usable_parents
from tests.generation.test_generate import contents, with_grid
from tests.shared import CNN_S, SAME_SUMS, SEED_ZOO, SHARED, grouped, needs_shared, raw_zoo_images

ZOO = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)
SPARSE = "digits_cnn_s_sparse"


def states_of(directory: ZooDirectory) -> dict[str, ModelFile]:
    good, faulty = directory.scan()
    assert not faulty
    return {states.model_id: states for states in good}


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits").subset(train=slice(105))  # the last batch is smaller


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> ZooDirectory:
    """20 models with and without dropout, of which some are trained well enough to be twinned."""
    root = tmp_path_factory.mktemp("dense")
    generate(
        with_grid(ZOO, dropout=(0.0, 0.5)),
        root,
        digits,
        models=20,
        options=TrainOptions(engine="batched"),
    )
    return open_zoo(root, ZOO.name)


# --- The original's twins -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Published:
    """The original's dense models and their 12 twins, imported."""

    parents: ZooDirectory
    twins: dict[str, ModelFile]  # by parent
    images: ImageData
    epochs: int = 5

    def metric(self, name: str) -> np.ndarray:
        return np.stack([self.twins[parent].metrics[name] for parent in sorted(self.twins)])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = tmp_path_factory.mktemp("published")
    for name in (SEED_ZOO, "cnn_small_mnist_ard"):
        import_zoo(SHARED / "data" / "raw_zoos" / f"{name}.zip", root)
    twins = states_of(open_zoo(root, f"{SEED_ZOO}_sparse"))
    assert len(twins) == 12
    return Published(
        open_zoo(root, SEED_ZOO),
        {str(states.parent_model_id): states for states in twins.values()},
        raw_zoo_images(validation=False),
    )


def _assert_near(state: State, original: ModelFile) -> None:
    """What float32 noise leaves of it, where torch sums in another order than there."""
    published = original.weights([state.epoch])[0]
    if state.epoch == 0:
        assert state.weights.numpy().tobytes() == published.tobytes()
    differences = np.abs(state.weights.numpy() - published)
    assert np.quantile(differences, 0.95) < 5e-3
    assert abs((state.weights.numpy() == 0).mean() - (published == 0).mean()) < 0.02
    assert abs(state.metrics["test_acc"] - original.metrics["test_acc"][state.epoch]) < 0.01


@needs_shared
def test_the_originals_first_twin_is_repeated_bit_for_bit(published: Published) -> None:
    """Four of its six states; the slow test has all twins."""
    parents = states_of(published.parents)
    name, original = min(published.twins.items())
    start = parents[name].weights()[-1]
    values = {**original.hyperparameters, "scheduler": None, "momentum": None}
    run = train(
        Model(zoo="twins", **values),
        CNN_S,
        published.images,
        network=partial(VariationalTwin, parent=start),
    )
    for state in itertools.islice(run, 4):
        if not SAME_SUMS:
            _assert_near(state, original)
            continue
        assert state.weights.numpy().tobytes() == original.weights([state.epoch]).tobytes()
        for metric in ("train_acc", "test_acc"):
            assert state.metrics[metric] == original.metrics[metric][state.epoch]
    assert (state.weights == 0).float().mean() > 0.5


@pytest.mark.slow
@needs_shared
@pytest.mark.skipif(not SAME_SUMS, reason="torch sums in another order here than there")
def test_all_of_the_originals_twins_are_repeated_bit_for_bit(
    tmp_path: Path, published: Published
) -> None:
    arguments = {"epochs": published.epochs, "engine": "reference"}
    summary = sparsify(published.parents, tmp_path, published.images, **grouped(**arguments))
    assert (summary.models, summary.left_out) == (12, {})
    noisy = np.isfinite(_noisy())
    for states in states_of(open_zoo(tmp_path, f"{SEED_ZOO}_sparse")).values():
        original = published.twins[str(states.parent_model_id)]
        assert states.weights().tobytes() == original.weights().tobytes()
        ours, theirs = load_file(states.path), load_file(original.path)
        assert ours["mean"].tobytes() == theirs["mean"].tobytes()
        assert np.array_equal(ours["log_sigma2"][:, noisy], theirs["log_sigma2"][:, noisy])
        for name in ("train_acc", "test_acc", "sparsity"):
            assert states.metrics[name].tolist() == original.metrics[name].tolist()
        same = {"batch_size", "learning_rate", "optimizer", "seed", "epochs", "activation", "init"}
        for name in same:
            assert states.hyperparameters[name] == original.hyperparameters[name], name
        # The original's losses hold the divergence, before the first epoch with a weight below 0.
        divergence = kl_divergence(ours["mean"], ours["log_sigma2"], CNN_S)
        for epoch in range(6):
            loss = states.metrics["test_loss"][epoch]
            loss += kl_weight(epoch, published.epochs) * divergence[epoch]
            assert loss == pytest.approx(original.metrics["test_loss"][epoch], rel=1e-5)


def _noisy() -> np.ndarray:
    values = np.ones(CNN_S.size)
    for name in ("fc1", "fc2"):
        values[CNN_S.layers[name]["bias"].slice] = np.nan
    return values


@pytest.mark.slow
@needs_shared
def test_a_population_has_the_originals_means(tmp_path: Path, published: Published) -> None:
    """Sparsity and accuracy with other noise: the original is one more draw of the same kind.

    Its 12 twins share one noise, so that their mean varies as such means do over seeds, which is
    more than the models' own spread tells: with its own engine and random stream another seed ends
    at a mean sparsity of 0.821, where the original's has 0.807. Measured: 2.4 at most.
    """
    found: dict[str, list[np.ndarray]] = {"sparsity": [], "test_acc": []}
    for seed in range(1, 17):
        root = tmp_path / str(seed)
        sparsify(
            published.parents,
            root,
            published.images,
            options=TrainOptions(engine="lanes"),
            twins=TwinOptions(epochs=5, seed=seed),
        )
        twins = states_of(open_zoo(root, f"{SEED_ZOO}_sparse")).values()
        assert {str(states.parent_model_id) for states in twins} == set(published.twins)
        for name, means in found.items():
            means.append(np.mean([states.metrics[name] for states in twins], 0))
    apart = []
    for name, means in found.items():
        expected = published.metric(name).mean(0)
        if name == "sparsity":
            assert (np.stack(means)[:, 0] == expected[0]).all()
        spread = np.std(means, 0, ddof=1)[1:] * np.sqrt(1 + 1 / len(means))
        apart += list(np.abs(np.mean(means, 0) - expected)[1:] / spread)
    assert len(apart) == 10
    assert max(apart) < 3, apart


# --- What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine", ["lanes", "batched", pytest.param("reference", marks=pytest.mark.slow)]
)
def test_every_engine_trains_twins(
    tmp_path: Path, digits: ImageData, dense: ZooDirectory, engine: str
) -> None:
    seen: list[Progress] = []
    arguments = {"models": 4, "epochs": 2, "engine": engine, "threads": 2}
    summary = sparsify(dense, tmp_path, digits, on_progress=seen.append, **grouped(**arguments))
    assert (summary.models, summary.present, summary.states) == (4, 0, 12)
    assert seen[-1] == Progress(4, 4, 12, 12, 4 * 2 * 105)
    directory = open_zoo(tmp_path, SPARSE)
    assert directory.zoo.epochs == 2
    assert directory.info["engine"] == engine
    assert directory.info["parent"] == ZOO.name
    made = {"epochs": 2, "engine": "batched", "stream": "philox", "source": None}
    expected = {"method": "variational", "seed": 1, "parents": made}
    assert directory.info["sparsification"] == expected
    twins, parents = states_of(directory), states_of(dense)
    splits, dense_splits = directory.splits(), dense.splits()
    assert len({states.hyperparameters["dropout"] for states in twins.values()}) == 2
    shares = []
    for name, states in twins.items():
        parent = parents[str(states.parent_model_id)]
        assert name == f"{parent.model_id}_sparse"
        assert splits[name] == dense_splits[parent.model_id]
        assert states.epochs.tolist() == [0, 1, 2]
        expected = {**parent.hyperparameters, "epochs": 2, "seed": 1}
        assert states.hyperparameters == expected
        file, weights = load_file(states.path), states.weights()
        assert file["mean"][0].tobytes() == parent.weights()[-1].tobytes()
        assert (file["log_sigma2"][0] == -10).all()
        assert (file["log_sigma2"][2] != -10).any()
        pruned = prune(file["mean"], file["log_sigma2"], CNN_S)
        assert (pruned != weights).mean() < 1e-4  # the last digit of a logarithm may decide
        assert states.metrics["sparsity"] == pytest.approx(sparsity(weights, CNN_S))
        row = {"architecture": "cnn_s", "weights": weights[-1], "activation": "tanh"}
        network = model_zoos.instantiate({**row, **expected, "weights": weights[-1].tolist()})
        loss, accuracy = evaluate(network, digits.normalized("test"), digits.test.labels, 360)
        assert states.metrics["test_acc"][-1] == pytest.approx(accuracy, abs=0.01)
        assert states.metrics["test_loss"][-1] == pytest.approx(loss, rel=1e-3)
        shares.append(states.metrics["sparsity"][-1])
    assert summary.sparsity == pytest.approx(np.mean(shares))
    assert 0 < summary.sparsity < 0.5


def test_twins_join_their_parents_without_a_miss(
    tmp_path: Path, digits: ImageData, dense: ZooDirectory
) -> None:
    shutil.copytree(dense.path, tmp_path / ZOO.name)
    sparsify(
        open_zoo(tmp_path, ZOO.name),
        tmp_path,
        digits,
        options=TrainOptions(engine="lanes"),
        twins=TwinOptions(epochs=2),
    )
    joined = 0
    for split in ("train", "validation", "test"):
        found = [
            load_dataset("model_zoos", name, data_dir=str(tmp_path), split=split)
            for name in (ZOO.name, SPARSE)
        ]
        parents = {row["model_id"]: row for row in found[0] if row["epoch"] == ZOO.epochs}
        for row in found[1]:
            parent = parents[row["parent_model_id"]]
            if row["epoch"] == 0:
                joined += 1
                kept = np.array(row["weights"]) != 0
                assert (np.array(row["weights"])[kept] == np.array(parent["weights"])[kept]).all()
                assert row["sparsity"] < 0.05
    assert joined == 20


@pytest.mark.parametrize(
    "engine",
    ["batched", *(pytest.param(e, marks=pytest.mark.slow) for e in ("lanes", "reference"))],
)
def test_cnn_l_with_dropout(tmp_path: Path, engine: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.randint(0, 10, (count,), generator=generator))

    data = ImageData("noise", images(25), None, images(8), (0.5,) * 3, (0.5,) * 3)
    zoo = with_grid(
        dataclasses.replace(get_zoo("cifar10_cnn_l_seed"), name="large", epochs=1, seeds=2),
        dropout=(0.5,),
    )
    generate(zoo, tmp_path, data, options=TrainOptions(engine="batched"))
    summary = sparsify(
        open_zoo(tmp_path, "large"),
        tmp_path,
        data,
        options=TrainOptions(engine=engine),
        twins=TwinOptions(epochs=1),
    )
    assert (summary.models, summary.diverged) == (2, 0)
    layout = make_layout("cnn_l", 3)
    for states in states_of(open_zoo(tmp_path, "large_sparse")).values():
        assert states.weights().shape == (2, layout.size)
        assert states.hyperparameters["dropout"] == 0.5


# --- The same bytes, however it is done -----------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, digits: ImageData, dense: ZooDirectory
) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    sparsify(
        dense,
        root,
        digits,
        options=TrainOptions(engine="lanes", threads=1),
        twins=TwinOptions(epochs=2),
    )
    return contents(root, SPARSE)


def test_any_number_of_twins_threads_and_order(
    tmp_path: Path, digits: ImageData, dense: ZooDirectory, undisturbed: dict[str, bytes]
) -> None:
    assert len(undisturbed) == 20
    arguments: dict[str, Any] = {"epochs": 2, "engine": "lanes"}
    for models in (1, 5, None):
        summary = sparsify(
            dense, tmp_path, digits, models=models, **grouped(**arguments, threads=2)
        )
        files = contents(tmp_path, SPARSE)
        assert len(files) == (models or 20)
        assert {name: undisturbed[name] for name in files} == files
    assert (summary.models, summary.present) == (15, 5)
    for name in random.Random(0).sample(sorted(undisturbed), 7):
        (tmp_path / SPARSE / "models" / name).unlink()
    splits = open_zoo(tmp_path, SPARSE).splits()
    assert sparsify(dense, tmp_path, digits, **grouped(**arguments)).models == 7
    assert contents(tmp_path, SPARSE) == undisturbed
    assert open_zoo(tmp_path, SPARSE).splits() == splits


def _command(root: Path, *more: str) -> list[str]:
    return [
        *("sparsify", "digits_cnn_s", "--epochs", "3", "--engine", "lanes"),
        *("--data-dir", str(root), "--quiet", *more),
    ]


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("command")
    generate(with_grid(ZOO, dropout=(0.0, 0.5)), root, load_images("digits"), models=48)
    subprocess.run([sys.executable, "-m", "model_zoos", *_command(root)], check=True)
    return root, contents(root, SPARSE)


@pytest.mark.slow
def test_two_ranks_give_the_same_bytes(
    tmp_path: Path, by_command: tuple[Path, dict[str, bytes]]
) -> None:
    root, expected = by_command
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "-m", "model_zoos", *_command(root, "--out", str(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path, SPARSE) == expected


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(
    tmp_path: Path, by_command: tuple[Path, dict[str, bytes]]
) -> None:
    root, expected = by_command
    chance, begun, models = random.Random(0), 0, tmp_path / SPARSE / "models"
    for number in range(5):
        more = ("--out", str(tmp_path), "--threads", str(1 + number % 2))
        process = subprocess.Popen(
            [sys.executable, "-m", "model_zoos", *_command(root, *more)], start_new_session=True
        )
        before = len(list(models.glob("*.safetensors")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(models.glob("*.safetensors"))) > before:
                time.sleep(chance.uniform(0, 0.3))
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = contents(tmp_path, SPARSE)
        begun += 0 < len(found) < 48
        assert found.items() <= expected.items()
        if len(found) > 24:  # every kill shall meet a run at work
            for name in chance.sample(sorted(found), 20):
                (models / name).unlink()
    assert begun > 0
    command = _command(root, "--out", str(tmp_path))
    subprocess.run([sys.executable, "-m", "model_zoos", *command], check=True)
    assert contents(tmp_path, SPARSE) == expected


# --- Seeds ----------------------------------------------------------------------------------------


def test_a_seed_for_all_or_the_parents(
    tmp_path: Path, digits: ImageData, dense: ZooDirectory
) -> None:
    found = {}
    for seed in ("first", 1, 7, "parent"):
        root = tmp_path / str(seed)
        sparsify(
            dense,
            root,
            digits,
            models=4,
            options=TrainOptions(engine="batched"),
            twins=TwinOptions(epochs=1, seed=seed),
        )
        found[seed] = states_of(open_zoo(root, SPARSE))
    seeds = {
        seed: {states.hyperparameters["seed"] for states in twins.values()}
        for seed, twins in found.items()
    }
    assert (seeds["first"], seeds[1], seeds[7]) == ({1}, {1}, {7})
    parents = states_of(dense)
    for name, states in found["parent"].items():
        seed = parents[str(states.parent_model_id)].hyperparameters["seed"]
        assert states.hyperparameters["seed"] == seed
        same = found["first"][name].weights()[1] == states.weights()[1]
        assert same.all() == (seed == 1)
        assert not (found[7][name].weights()[1] == states.weights()[1]).all()
    with pytest.raises(FaultyZoo, match=r"sparsification\.seed = 1, not 7"):
        sparsify(
            dense,
            tmp_path / "1",
            digits,
            models=9,
            options=TrainOptions(engine="batched"),
            twins=TwinOptions(epochs=1, seed=7),
        )


# --- Parents that have no twin --------------------------------------------------------------------


def test_parents_that_cannot_have_twins_are_reported(tmp_path: Path, digits: ImageData) -> None:
    zoo = dataclasses.replace(ZOO, name="mixed", epochs=1)
    directory = create_zoo(tmp_path, zoo, engine="original")
    weights = np.random.default_rng(0).normal(0, 0.1, (2, CNN_S.size)).astype(np.float32)
    metrics = {"test_acc": np.array([0.1, 0.2])}
    values = {**zoo.models(1)[0].hyperparameters(), "epochs": 1}
    good = {"batch_size": 10, "scheduler": None, **values}

    def write(name: str, epochs: list[int], **changes: Any) -> None:
        chosen = {key: v[: len(epochs)] for key, v in metrics.items()}
        own = changes.pop("weights", weights)[: len(epochs)]
        directory.write_model(name, {**good, **changes}, epochs, own, chosen)

    write("sound", [0, 1])
    write("unfinished", [0])
    diverged = weights.copy()
    diverged[1, 100] = np.nan
    write("diverged", [0, 1], weights=diverged)
    write("silent", [0, 1], activation=None)
    write("cut", [0, 1])
    os.truncate(directory.models_path / "cut.safetensors", 500)
    directory.add_splits(["planned"])
    directory = open_zoo(tmp_path, "mixed")
    found, left_out = usable_parents(directory)
    assert [states.model_id for states in found] == ["sound"]
    summary = sparsify(
        directory,
        tmp_path,
        digits,
        options=TrainOptions(engine="batched"),
        twins=TwinOptions(epochs=1),
    )
    assert summary.left_out == left_out
    assert summary.left_out == {
        "cut": "its file cannot be read",
        "diverged": "it diverged: its last weights are not finite",
        "planned": "it is not trained yet",
        "silent": "it does not say its activation",
        "unfinished": "it is unfinished: epoch 0 of 1 is its last",
    }
    assert list(states_of(open_zoo(tmp_path, "mixed_sparse"))) == ["sound_sparse"]
    (directory.models_path / "sound.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model that can have a twin: cut: its file"):
        sparsify(
            directory,
            tmp_path,
            digits,
            options=TrainOptions(engine="batched"),
            twins=TwinOptions(epochs=1),
        )


# --- Parents that were made anew ------------------------------------------------------------------


ONE = TwinOptions(epochs=1)
ALONE = TrainOptions(engine="batched", threads=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Path:
    """Two models of two epochs, and a twin of the first (never write to it)."""
    root = tmp_path_factory.mktemp("tiny")
    zoo = with_grid(ZOO, dropout=(0.0,))
    generate(zoo, root, digits, models=2, options=ALONE)
    sparsify(open_zoo(root, ZOO.name), root, digits, models=1, twins=ONE, options=ALONE)
    return root


@pytest.mark.parametrize(("key", "value"), [("epochs", 3), ("engine", "lanes")])
def test_twins_of_parents_that_were_made_anew_are_refused(
    key: str, value: object, tiny: Path, tmp_path: Path, digits: ImageData
) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    parents = open_zoo(tmp_path, ZOO.name)
    if key == "epochs":
        shutil.rmtree(parents.path)
        longer = dataclasses.replace(with_grid(ZOO, dropout=(0.0,)), epochs=3)
        generate(longer, tmp_path, digits, models=2, options=ALONE)
    else:  # the ids are the same
        change_json(parents.path / "zoo.json", lambda info: info.update(engine=value))
    before = contents(tmp_path, SPARSE)
    with pytest.raises(FaultyZoo, match=rf"twins of other parents: .*{key} = .*{key} = '?{value}"):
        sparsify(open_zoo(tmp_path, ZOO.name), tmp_path, digits, twins=ONE, options=ALONE)
    assert contents(tmp_path, SPARSE) == before


def change_json(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    how(values)
    path.write_text(json.dumps(values))


def test_twins_of_an_earlier_version_are_resumed(
    tiny: Path, tmp_path: Path, digits: ImageData
) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    path = tmp_path / SPARSE / "zoo.json"
    change_json(path, lambda info: info["sparsification"].pop("parents"))
    before = path.read_bytes()
    summary = sparsify(open_zoo(tmp_path, ZOO.name), tmp_path, digits, twins=ONE, options=ALONE)
    assert (summary.models, summary.present) == (1, 1)
    assert path.read_bytes() == before


# --- Ranks and disk -------------------------------------------------------------------------------


def test_rank_0_decides_which_parents_have_twins(
    tiny: Path, tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second rank may find other parents, if the zoo is still growing."""
    parents = open_zoo(tiny, ZOO.name)
    first = pickle.loads(pickle.dumps(usable_parents(parents)))  # as ranks send it
    gone = first[0][0].model_id
    looked = []

    class Second(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [first, value]

    def stop(work: Work, models: Sequence[Model], *_: object) -> None:
        looked.extend(models)
        raise InterruptedError

    monkeypatch.setattr(sparsification, "join_ranks", lambda device: Second(1, 2))
    monkeypatch.setattr(sparsification, "usable_parents", lambda *_: pytest.fail("not asked"))
    monkeypatch.setattr(sparsification, "run", stop)
    with pytest.raises(InterruptedError):
        sparsify(parents, tmp_path, digits, twins=ONE, options=ALONE)
    assert [twin.parent for twin in looked] == [states.model_id for states in first[0]]
    assert gone in [twin.parent for twin in looked]


@pytest.mark.parametrize(("method", "tensors"), [("variational", 3), ("magnitude", 1)])
def test_twins_that_do_not_fit_on_the_disk_are_refused(
    method: str,
    tensors: int,
    tiny: Path,
    tmp_path: Path,
    digits: ImageData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = open_zoo(tiny, ZOO.name)
    needed = 2 * 2 * tensors * plan.state_bytes(parents.zoo)
    twins = TwinOptions(method=method, levels=[0.5], epochs=1)
    monkeypatch.setattr(plan, "free_bytes", lambda path: needed - 1)
    with pytest.raises(NotEnoughSpace, match="2 models to train, 4 states"):
        sparsify(parents, tmp_path, digits, twins=twins, options=ALONE)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(plan, "free_bytes", lambda path: needed)
    monkeypatch.setattr(sparsification, "run", lambda *_: pytest.skip("it fits"))
    with pytest.raises(pytest.skip.Exception, match="it fits"):
        sparsify(parents, tmp_path, digits, twins=twins, options=ALONE)


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels", [np.array([0.5, 0.9]), iter([0.5, 0.9]), [np.float64(0.5), 0.9], (0.5, 0.9)]
)
def test_numbers_of_any_kind_are_options(levels: Any) -> None:
    found = TwinOptions("magnitude", levels, epochs=np.int64(2), seed=np.int64(3))  # type: ignore[arg-type]
    assert found == TwinOptions("magnitude", (0.5, 0.9), epochs=2, seed=3)
    assert [type(v) for v in (*found.levels, found.epochs, found.seed)] == [float, float, int, int]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0.5}, r"list of numbers .*found 0\.5"),
        ({"levels": None}, "list of numbers .*found None"),
        ({"levels": ("0.5",)}, "list of numbers"),
        ({"levels": [True]}, "list of numbers"),
        ({"levels": []}, "between 0 and 1"),
        ({"levels": [float("nan")]}, "between 0 and 1"),
        ({"levels": [0.5, 0.5]}, "must differ"),
        ({"levels": [1 / 3]}, r"at most six digits.*write 0\.333333"),
        ({"seed": True}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"seed": np.array([1, 2])}, "seed must be"),
        ({"epochs": None}, "epochs"),
        ({"method": ["magnitude"]}, "unknown method"),
    ],
)
def test_options_that_twins_cannot_have(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        TwinOptions(**{"method": "magnitude", **arguments})


# --- Magnitude pruning ----------------------------------------------------------------------------


def test_the_smallest_weights_of_all_layers_together_are_pruned() -> None:
    weights = np.random.default_rng(0).normal(0, 1, CNN_S.size).astype(np.float32)
    mask = magnitude_mask(weights, CNN_S, 0.8)
    entries = np.ones(CNN_S.size, bool)
    for slots in CNN_S.layers.values():
        entries[slots["bias"].slice] = False
    assert not mask[~entries].any()
    assert mask.sum() == round(0.8 * 2416)
    assert np.abs(weights[mask]).max() <= np.abs(weights[entries & ~mask]).min()


@pytest.mark.parametrize("engine", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
def test_magnitude(tmp_path: Path, digits: ImageData, dense: ZooDirectory, engine: str) -> None:
    arguments: dict[str, Any] = {"method": "magnitude", "epochs": 2, "models": 3, "engine": engine}
    first = sparsify(dense, tmp_path, digits, **grouped(**arguments, levels=[0.5]))
    assert (first.models, first.sparsity) == (3, pytest.approx(0.5))
    summary = sparsify(dense, tmp_path, digits, **grouped(**arguments, levels=[0.5, 0.9]))
    assert (summary.models, summary.present) == (3, 3)
    assert summary.engine == ("batched" if engine == "auto" else engine)
    directory, parents = open_zoo(tmp_path, f"{SPARSE}_magnitude"), states_of(dense)
    twins = states_of(directory)
    assert len(twins) == 6
    for name, states in twins.items():
        parent, _, level = name.rpartition("_sparse_")
        assert states.parent_model_id == parent
        assert directory.splits()[name] == dense.splits()[parent]
        start = parents[parent].weights()[-1]
        mask = magnitude_mask(start, CNN_S, float(level))
        weights = states.weights()
        assert not weights[:, mask].any()
        assert (weights[0, ~mask] == start[~mask]).all()
        assert (weights[2, ~mask] != start[~mask]).any()
        assert states.metrics["sparsity"] == pytest.approx([float(level)] * 3, abs=1e-3)


# --- What cannot be done --------------------------------------------------------------------------


def test_bad_arguments(tmp_path: Path, digits: ImageData, dense: ZooDirectory) -> None:
    def refused(match: str, images: ImageData = digits, **arguments: Any) -> None:
        with pytest.raises(ValueError, match=match):
            sparsify(dense, tmp_path, images, **grouped(**arguments))

    refused("unknown method 'random'", method="random")
    refused("unknown engine 'fast'", engine="fast")
    refused("no magnitude pruning", method="magnitude", engine="lanes")
    refused(r"between 0 and 1, found \[1.5\]", method="magnitude", levels=[1.5])
    refused("at most six digits", method="magnitude", levels=[0.1234567])
    refused("number of epochs must be a whole number from 1 on", epochs=0)
    refused("number of models must be a whole number from 1 on", models=0)
    refused("'first' or 'parent', found 'mine'", seed="mine")
    refused("were trained on other images than these", digits.subset(train=slice(90)))
    assert list(tmp_path.iterdir()) == []
    sparsify(
        dense,
        tmp_path,
        digits,
        models=1,
        options=TrainOptions(engine="batched"),
        twins=TwinOptions(epochs=1),
    )
    resnets = create_zoo(tmp_path, get_zoo("cifar10_resnet18"))
    with pytest.raises(
        ValueError, match="networks that are a sequence of layers, not of ResNet-18"
    ):
        sparsify(resnets, tmp_path, digits)
    with pytest.raises(ValueError, match="holds sparse twins: name the dense zoo"):
        sparsify(open_zoo(tmp_path, SPARSE), tmp_path, digits, twins=TwinOptions(epochs=1))
