"""Generating zoos: content, the same bytes however it is done, resume, ranks, refusals."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import create_zoo, open_zoo
from model_zoos.errors import (
    AlreadyRunningWarning,
    FaultyZoo,
    InvalidArgument,
    LanesUnavailable,
    SlowEngineWarning,
)
from model_zoos.generation.engines import group_models, reference
from model_zoos.generation.engines.epoch_loop import TOGETHER
from model_zoos.generation.engines.lanes import lanes_count
from model_zoos.generation.generate import generate, plan
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.job import Progress
from model_zoos.generation.options import TrainOptions, TwinOptions
from model_zoos.generation.ranks import SHARE, share_models
from tests import documents
from tests.shared import grouped

ZOO = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=2)


def with_grid(zoo: Zoo, **changes: tuple[Any, ...]) -> Zoo:
    return dataclasses.replace(
        zoo, grid=tuple((key, changes.get(key, values)) for key, values in zoo.grid)
    )


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits").subset(train=slice(105))  # the last batch is smaller


def contents(root: Path, name: str = "digits_cnn_s") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in open_zoo(root, name).files()}


# --- What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine", ["lanes", "batched", pytest.param("reference", marks=pytest.mark.slow)]
)
def test_every_engine_trains_the_models_of_the_catalog(
    tmp_path: Path, digits: ImageData, engine: str
) -> None:
    seen: list[Progress] = []
    summary = generate(
        ZOO,
        tmp_path,
        digits,
        models=5,
        on_progress=seen.append,
        options=TrainOptions(engine=engine, threads=2),
    )
    assert (summary.models, summary.present, summary.states) == (5, 0, 15)
    assert seen[-1] == Progress(5, 5, 15, 15, 5 * 2 * 105)
    directory = open_zoo(tmp_path, ZOO.name)
    assert directory.info["engine"] == engine
    assert directory.info["stream"] == ("torch" if engine == "reference" else "philox")
    assert directory.info["images"]["sha256"] == digits.digest()
    good, faulty = directory.scan()
    assert not faulty
    by_id = {states.model_id: states for states in good}
    accuracies = []
    for model in ZOO.models(5):
        trained = list(reference.train(model, ZOO.layout, digits))
        expected = torch.stack([state.weights for state in trained]).numpy()
        states = by_id[model.model_id]
        assert states.hyperparameters == model.hyperparameters()
        assert states.weights()[0].tobytes() == expected[0].tobytes()
        if engine == "reference":
            assert states.weights().tobytes() == expected.tobytes()
        for name, values in states.metrics.items():
            recorded = [state.metrics[name] for state in trained]
            if engine == "reference":
                assert values.tolist() == recorded
            elif model.optimizer == "adam" or model.init != "uniform":  # others explode
                # 22 steps of float32: a few of 360 test images may fall to the other side.
                assert values == pytest.approx(recorded, abs=0.02, rel=0.02)
        accuracies.append(states.metrics["test_acc"][-1])
    assert summary.test_acc == pytest.approx(np.mean(accuracies))


@pytest.mark.parametrize("engine", ["lanes", "batched"])
def test_dropout_is_that_of_the_reference_engine_on_the_same_stream(
    tmp_path: Path, digits: ImageData, engine: str
) -> None:
    zoo = with_grid(
        dataclasses.replace(ZOO, epochs=1),
        dropout=(0.3, 0.5), init=("kaiming_uniform",), optimizer=("adam",), activation=("tanh",),
    )  # fmt: skip
    generate(zoo, tmp_path, digits, models=4, options=TrainOptions(engine=engine))
    directory = open_zoo(tmp_path, zoo.name)
    found = {states.model_id: states.weights() for states in directory.scan()[0]}
    for model in zoo.models(4):
        one, other = (
            [s.weights.numpy() for s in reference.train(model, zoo.layout, digits, stream)]
            for stream in ("philox", "torch")
        )
        assert found[model.model_id] == pytest.approx(np.stack(one), abs=2e-4)
        assert np.abs(one[1] - other[1]).max() > 2e-3  # the masks do matter


@pytest.mark.parametrize("engine", ["lanes", "batched", "reference"])
def test_a_diverged_model_is_kept_and_counted(
    tmp_path: Path, digits: ImageData, engine: str
) -> None:
    zoo = with_grid(
        dataclasses.replace(ZOO, name="diverging", seeds=1),
        activation=("relu",), init=("uniform",), optimizer=("sgd",), learning_rate=(1000.0,),
    )  # fmt: skip
    summary = generate(zoo, tmp_path, digits, options=TrainOptions(engine=engine))
    assert (summary.models, summary.diverged) == (1, 1)
    [states], faulty = open_zoo(tmp_path, "diverging").scan()
    assert not faulty
    assert np.isnan(states.weights()[1:]).all()
    assert np.isnan(states.metrics["test_loss"][1:]).all()


def test_blocks_hold_what_can_be_trained_side_by_side() -> None:
    models = get_zoo("svhn_cnn_s_hyp_10_r").models(1000)
    blocks = group_models(models, 16)
    assert sorted(m.model_id for b in blocks for m in b) == sorted(m.model_id for m in models)
    for block in blocks:
        assert 1 <= len(block) <= 16
        assert len({(m.activation, m.optimizer, m.dropout > 0) for m in block}) == 1
    assert len({m.dropout for m in models}) == 3


def test_the_page_says_which_models_train_together_in_the_words_of_the_message() -> None:
    page = " ".join((documents.ROOT / "docs/generate.md").read_text().split())
    assert TOGETHER in page
    # The share of the lanes that the page states, of 16 lanes.
    grid = get_zoo("mnist_cnn_s_hyp_10_f")
    assert [len(group_models(grid.models(count), 16)) for count in (64, 256)] == [16, 16]


@pytest.mark.parametrize(
    ("models", "activations", "said"),
    [(1, 1, "full with 1 model: "), (2, 2, "full with 2 models: "), (32, 2, None)],
)
def test_how_full_the_lanes_are_is_said_once(
    tmp_path: Path, digits: ImageData, models: int, activations: int, said: str | None
) -> None:
    names = ("tanh", "relu")[:activations]
    zoo = dataclasses.replace(
        with_grid(ZOO, activation=names, optimizer=("adam",), learning_rate=(0.003,)),
        epochs=1,
        seeds=16,
    )
    remarks: list[str] = []
    for _ in range(2):  # the second time there is nothing to train, and nothing to say
        generate(
            zoo,
            tmp_path,
            digits,
            models=models,
            options=TrainOptions(engine="lanes"),
            on_progress=lambda progress: remarks.append(progress.remark),
        )
    found = [remark for remark in remarks if remark]
    if said is None:
        assert not found
    else:
        [remark] = found
        assert said + TOGETHER in remark
        lanes = lanes_count(zoo.layout, "tanh")
        blocks = len(group_models(zoo.models(models), lanes))
        assert remark.startswith(f"the lanes are {models / (blocks * lanes):.0%} full")
        counts = range(models, zoo.model_count + 1)
        as_long = [n for n in counts if len(group_models(zoo.models(n), lanes)) == blocks]
        assert remark.endswith(f"Up to {as_long[-1]} models would take as long")


def test_no_more_models_are_promised_to_take_as_long_than_do(
    tmp_path: Path, digits: ImageData
) -> None:
    """The next model of a grid can need lanes of its own, however many of the others are free."""
    zoo = dataclasses.replace(ZOO, epochs=1)
    lanes, remarks = lanes_count(zoo.layout, "tanh"), set[str]()
    needed = [len(group_models(zoo.models(n), lanes)) for n in range(1, 9)]
    models = next(n for n in range(1, 8) if needed[n] > needed[n - 1])  # one more is a block more
    generate(
        zoo,
        tmp_path,
        digits.subset(train=slice(20)),
        models=models,
        options=TrainOptions(engine="lanes"),
        on_progress=lambda progress: remarks.add(progress.remark),
    )
    [remark] = filter(None, remarks)
    assert remark.endswith(TOGETHER)


def test_options_of_resnet_say_what_they_are_for() -> None:
    mlp = get_zoo("digits_mlp_seed")
    for options, named in (
        (TrainOptions(precision="bf16"), "precision="),
        (TrainOptions(compile=True), "compile="),
        (TrainOptions(precision="fp32", keep_epochs=[1]), "precision= and keep_epochs="),
    ):
        expected = f"{named} can be set for ResNet-18 only, and digits_mlp_seed is a zoo of "
        with pytest.raises(InvalidArgument, match=expected + "1x28x28 fc64 fc10") as caught:
            options.check(mlp)
        assert str(caught.value.hint).startswith("leave out --")
        options.check(get_zoo("cifar10_resnet18"))


@pytest.mark.parametrize("number", [0, "2", 1.5, True])
def test_options_refuse_what_is_no_number_of_things(number: Any) -> None:
    for make, what in (
        (partial(TrainOptions, threads=number), "threads"),
        (partial(TwinOptions, epochs=number), "epochs"),
    ):
        expected = f"{what} must be a whole number from 1 on, found {number!r}"
        with pytest.raises(InvalidArgument, match=expected):
            make()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"keep_epochs": [1.5]}, r"found 1\.5"),
        ({"keep_epochs": [1.0, 2]}, r"found 1\.0, 2"),
        ({"keep_epochs": "1,2"}, "found '1,2'"),
        ({"keep_epochs": 5}, "found 5"),
        ({"keep_epochs": (True,)}, "found True"),
        ({"compile": "yes"}, "compile must be True or False, found 'yes'"),
    ],
)
def test_options_refuse_values_of_another_kind(options: dict[str, Any], found: str) -> None:
    """What would fail only while models train is refused when the options are made."""
    with pytest.raises(InvalidArgument, match=found):
        TrainOptions(**options)


def test_a_mixed_grid_fills_the_lanes() -> None:
    blocks = group_models(get_zoo("mnist_cnn_s_hyp_10_r").models(256), 16)
    assert 256 / (16 * len(blocks)) >= 0.9


# --- The same bytes, however it is done -----------------------------------------------------------

MIXED = with_grid(ZOO, dropout=(0.0, 0.5))


def mixed(root: Path, digits: ImageData, **arguments: Any) -> dict[str, bytes]:
    generate(MIXED, root, digits, **grouped(**arguments, engine="lanes"))
    return contents(root)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> dict[str, bytes]:
    return mixed(tmp_path_factory.mktemp("undisturbed"), digits, models=64, threads=1)


def test_two_threads(tmp_path: Path, digits: ImageData, undisturbed: dict[str, bytes]) -> None:
    assert mixed(tmp_path, digits, models=64, threads=2) == undisturbed


def test_populations_of_any_size_and_order(
    tmp_path: Path, digits: ImageData, undisturbed: dict[str, bytes]
) -> None:
    for models in (1, 5, 16, 64):
        files = mixed(tmp_path, digits, models=models)
        assert len(files) == models
        assert {name: undisturbed[name] for name in files} == files
    # Some of the 64, in another order, as a zoo that has lost the others trains them.
    names = random.Random(0).sample(sorted(undisturbed), 21)
    for name in names:
        (tmp_path / "digits_cnn_s" / "models" / name).unlink()
    assert mixed(tmp_path, digits, models=64) == undisturbed


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets(
    tmp_path: Path,
    digits: ImageData,
    undisturbed: dict[str, bytes],
    isa: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from model_zoos.generation.engines.lanes.library import usable_isas

    if usable_isas()[0] != "avx512" or isa not in usable_isas():
        pytest.skip(f"needs avx512 and {isa}; this machine has {', '.join(usable_isas())}")
    monkeypatch.setenv("MODEL_ZOOS_ISA", isa)
    assert mixed(tmp_path, digits, models=20) == {
        f"{m.model_id}.safetensors": undisturbed[f"{m.model_id}.safetensors"]
        for m in MIXED.models(20)
    }


def test_only_the_kernels_of_the_models_are_built(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    [model] = ZOO.models(1)
    assert model.activation != dict(ZOO.grid)["activation"][0]
    monkeypatch.setenv("MODEL_ZOOS_CACHE", str(tmp_path / "cache"))
    generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(engine="auto"))
    if open_zoo(tmp_path, ZOO.name).info["engine"] != "lanes":
        pytest.skip("there is no C++ compiler")
    [kernel] = (tmp_path / "cache" / "lanes").glob("*.so")
    assert f"_{model.activation}_" in kernel.name


def _command(root: Path, *more: str) -> list[str]:
    return [
        *("generate", "digits_cnn_s", "--models", "48", "--epochs", "3", "--engine", "lanes"),
        *("--out", str(root), "--quiet", *more),
    ]


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("command")
    subprocess.run([sys.executable, "-m", "model_zoos", *_command(root)], check=True)
    return contents(root)


@pytest.mark.slow
def test_two_ranks_give_the_same_bytes(tmp_path: Path, by_command: dict[str, bytes]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "-m", "model_zoos", *_command(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == by_command


def test_ranks_share_the_models_without_overlap() -> None:
    models = get_zoo("mnist_cnn_s_hyp_10_r").models(300)
    shares = share_models(get_zoo("mnist_cnn_s_hyp_10_r"), models, 3)
    ids = [model.model_id for share in shares for model in share]
    assert sorted(ids) == sorted(model.model_id for model in models)
    assert max(map(len, shares)) - min(map(len, shares)) <= SHARE


@pytest.mark.parametrize(("models", "ranks"), [(16, 2), (3, 2), (20, 5), (2, 4), (0, 2), (7, 1)])
def test_no_rank_of_a_small_zoo_is_idle(models: int, ranks: int) -> None:
    zoo = get_zoo("mnist_cnn_s_seed")
    chosen = zoo.models(models) if models else []
    shares = share_models(zoo, chosen, ranks)
    assert sorted(m.seed for share in shares for m in share) == sorted(m.seed for m in chosen)
    assert sum(map(bool, shares)) == min(models, ranks)
    assert max(map(len, shares)) == -(-models // ranks)


@pytest.mark.slow
def test_killed_at_20_random_moments_and_resumed(
    tmp_path: Path, by_command: dict[str, bytes]
) -> None:
    chance = random.Random(0)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "model_zoos", *_command(tmp_path / "whole")], check=True)
    whole = time.monotonic() - start  # importing torch is most of it
    begun = 0
    for number in range(20):
        threads = ("--threads", str(1 + number % 2))
        process = subprocess.Popen(
            [sys.executable, "-m", "model_zoos", *_command(tmp_path, *threads)],
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.5, 1) * whole)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "digits_cnn_s" / "zoo.json").exists():
            found = contents(tmp_path)
            begun += 0 < len(found) < 48
            assert found.items() <= by_command.items()
            if len(found) == 48:  # start again: every kill shall meet a run at work
                for name in chance.sample(sorted(found), 40):
                    (tmp_path / "digits_cnn_s" / "models" / name).unlink()
    assert begun > 0
    subprocess.run([sys.executable, "-m", "model_zoos", *_command(tmp_path)], check=True)
    assert contents(tmp_path) == by_command


# --- Going on -------------------------------------------------------------------------------------


def test_only_what_is_missing_is_trained_and_no_split_moves(
    tmp_path: Path, digits: ImageData
) -> None:
    generate(ZOO, tmp_path, digits, models=2)
    directory = open_zoo(tmp_path, ZOO.name)
    before = {path: path.stat().st_mtime_ns for path in directory.files()}
    splits = directory.splits()
    summary = generate(ZOO, tmp_path, digits, models=4)
    assert (summary.models, summary.present) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {model: directory.splits()[model] for model in splits} == splits
    again = generate(ZOO, tmp_path, digits, models=4)
    assert (again.models, again.present, again.test_acc) == (0, 4, None)


def test_a_second_run_of_one_zoo_is_warned_and_makes_the_same_models(
    tmp_path: Path, digits: ImageData
) -> None:
    generate(ZOO, tmp_path / "alone", digits, models=2)
    (tmp_path / "beside" / ZOO.name).mkdir(parents=True)
    with FileLock(tmp_path / "beside" / ZOO.name / ".train.lock"):  # as the first run holds it
        with pytest.warns(AlreadyRunningWarning, match=f"trains models in .*{ZOO.name}"):
            generate(ZOO, tmp_path / "beside", digits, models=2)
        generate(ZOO, tmp_path / "beside", digits, models=2)  # nothing is missing: no warning
    assert contents(tmp_path / "beside") == contents(tmp_path / "alone")


def test_a_faulty_file_is_trained_again(tmp_path: Path, digits: ImageData) -> None:
    generate(ZOO, tmp_path, digits, models=3)
    expected = contents(tmp_path)
    path = open_zoo(tmp_path, ZOO.name).files()[1]
    os.truncate(path, 1000)
    assert generate(ZOO, tmp_path, digits, models=3).models == 1
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_auto_goes_on_with_the_engine_that_began(tmp_path: Path, digits: ImageData) -> None:
    generate(ZOO, tmp_path, digits, models=1, options=TrainOptions(engine="reference"))
    assert generate(ZOO, tmp_path, digits, models=2).engine == "reference"
    with pytest.raises(FaultyZoo, match="made with engine = 'reference', not 'lanes'") as caught:
        generate(ZOO, tmp_path, digits, models=3, options=TrainOptions(engine="lanes"))
    assert str(caught.value.hint).endswith(", --engine reference resumes this zoo")


def test_a_changed_note_does_not_stop_a_zoo(tmp_path: Path, digits: ImageData) -> None:
    """The note says nothing about how models are made: the one that is there is kept."""
    generate(ZOO, tmp_path, digits, models=1)
    path = tmp_path / ZOO.name / "zoo.json"
    content = path.read_bytes()
    summary = generate(dataclasses.replace(ZOO, note="another"), tmp_path, digits, models=2)
    assert (summary.present, summary.models) == (1, 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "inits",
    [
        ("normal(std=0.1)", "normal(std=0.10)"),
        ("kaiming_uniform", "kaiming_uniform(bias=0.01)"),
        ("xavier_normal( gain = 1 )", "xavier_normal"),
        ("trunc_normal(std=1,bias=0)", "trunc_normal(bias=0.0)"),
    ],
)
def test_one_initialisation_in_two_spellings_is_not_trained_twice(
    tmp_path: Path, digits: ImageData, inits: tuple[str, str]
) -> None:
    """A zoo of an earlier version that has them is resumed, since the spelling is in the ids."""
    zoo = with_grid(ZOO, init=inits)
    with pytest.raises(InvalidArgument, match="of the grid are the same init") as caught:
        generate(zoo, tmp_path, digits)
    assert all(repr(init) in str(caught.value) for init in inits)
    assert not list(tmp_path.iterdir())
    create_zoo(tmp_path, zoo, engine="lanes", stream="philox", images=digits.provenance())
    assert plan(zoo, tmp_path, models=3).missing == 3


def test_other_images_do_not_continue_a_zoo(tmp_path: Path, digits: ImageData) -> None:
    generate(ZOO, tmp_path, digits, models=1)
    with pytest.raises(FaultyZoo, match="trained on other images"):
        generate(ZOO, tmp_path, digits.subset(train=slice(90)), models=1)


def test_a_disk_without_room_is_one_clear_error(tmp_path: Path) -> None:
    # A limit on the size of files fails writing as a full disk does.
    code = """
import resource, signal, sys
from model_zoos import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ["model-zoos", *sys.argv[1:]]
cli.main()
"""
    arguments = [
        *("generate", "digits_cnn_s", "--models", "2", "--epochs", "1", "--engine", "lanes"),
        *("--out", str(tmp_path)),
    ]
    lanes_count(ZOO.layout, "tanh")  # the kernel's libraries are there: only the models fail
    for activation in ("relu", "sigmoid", "gelu"):
        lanes_count(ZOO.layout, activation)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: a model could not be written"), done.stderr
    assert "run the same command again" in last
    assert open_zoo(tmp_path, "digits_cnn_s").files() == []
    assert not list((tmp_path / "digits_cnn_s").rglob("*.partial"))


def test_interrupted_by_the_user(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "model_zoos", "generate", "digits_cnn_s", "--quiet"),
            *("--engine", "reference", "--out", str(tmp_path)),
        ],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    models = tmp_path / "digits_cnn_s" / "models"
    deadline = time.monotonic() + 60
    while not models.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=90)  # the epoch in training, on a busy machine
    assert process.returncode == 130
    first, last = errors.splitlines()
    assert first.startswith("stopping after the running epoch; Ctrl-C again stops at once.")
    assert last == "interrupted: run the same command again to resume"


ENDLESS_EPOCH = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.zoo_directory import create_zoo
from model_zoos.cli.display import resumable, training_progress
from model_zoos.generation.engines.collect import Done, collect
from model_zoos.generation.images import load_images
from model_zoos.generation.job import Job, Work
from threading import Event

zoo = zoo_spec("digits_cnn_s")
with resumable(), training_progress(zoo.name, False) as show:
    pool = ThreadPoolExecutor(1)
    futures = {pool.submit(time.sleep, 1000): zoo.models(3)}
    work = Work(Job(create_zoo(sys.argv[1], zoo), load_images("digits")), 1, "cpu", show)
    print("training", file=sys.stderr, flush=True)
    list(collect(work, pool, futures, lambda: Done(0, 0, None), Event()))
"""


def test_the_second_interruption_ends_the_epoch(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_EPOCH, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for awaited in ("training", "stopping after the running epoch"):
        while not (line := process.stderr.readline()).startswith(awaited):
            assert line, "it ended too soon"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.splitlines()[-1]  # behind a line of progress, if it took more than three seconds
    assert last == "interrupted: run the same command again to resume"
    assert "Traceback" not in errors


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "model_zoos", "generate", "digits_cnn_s", "--quiet"),
            *("--engine", "reference", "--out", str(tmp_path)),
        ],
        start_new_session=True,
    )

    def group() -> list[int]:
        found = subprocess.run(
            ["ps", "-o", "pid=", "-g", str(process.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [int(pid) for pid in found.stdout.split()]

    deadline = time.monotonic() + 60
    while len(group()) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while group() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert group() == []


# --- What cannot be done --------------------------------------------------------------------------


def test_without_a_compiler_the_batched_engine_serves(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.warns(SlowEngineWarning, match=r"no-compiler.*training with the engine batched"):
        summary = generate(ZOO, tmp_path, digits, models=1)
    assert summary.engine == "batched"


def test_an_activation_without_a_kernel_is_noticed_wherever_it_stands_in_the_grid(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIVATIONS, "softsign", "Softsign")
    zoo = with_grid(ZOO, activation=("gelu", "softsign"))
    zoo = dataclasses.replace(zoo, name="mixed", epochs=1)
    assert [model.activation for model in zoo.models(2)] == ["gelu", "softsign"]
    with pytest.raises(LanesUnavailable, match="no activation 'softsign'"):
        generate(zoo, tmp_path, digits, models=1, options=TrainOptions(engine="lanes"))
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(SlowEngineWarning, match="no activation 'softsign': training with .*batched"):
        assert generate(zoo, tmp_path, digits, models=1).engine == "batched"


def test_dense_models_cannot_have_the_name_of_twins(tmp_path: Path, digits: ImageData) -> None:
    for name in ("tiny_sparse", "tiny_sparse_magnitude"):
        zoo = dataclasses.replace(ZOO, name=name)
        with pytest.raises(ValueError, match=f"cannot be named '{name}'.*twins of 'tiny'"):
            generate(zoo, tmp_path, digits, models=1)
    assert list(tmp_path.iterdir()) == []
    # An earlier version trained them, and their zoo goes on.
    assert create_zoo(tmp_path, zoo, engine="lanes", stream="philox").parent_zoo is None
    assert create_zoo(tmp_path, dataclasses.replace(ZOO, name="of_sparse")).parent_zoo == "of"


def test_bad_arguments(tmp_path: Path, digits: ImageData) -> None:
    with pytest.raises(ValueError, match="unknown engine 'fast'"):
        generate(ZOO, tmp_path, digits, options=TrainOptions(engine="fast"))
    with pytest.raises(ValueError, match="from 1 on, found 0"):
        generate(ZOO, tmp_path, digits, options=TrainOptions(threads=0))
    with pytest.raises(ValueError, match="device must be 'cpu' or"):
        generate(ZOO, tmp_path, digits, options=TrainOptions(device="tpu"))
    with pytest.raises(ValueError, match=r"needs images of shape \(3, 28, 28\)"):
        generate(get_zoo("cifar10_cnn_s_seed"), tmp_path, digits)
    with pytest.raises(ValueError, match="unknown engine 'resnet' for CNN-s"):
        generate(ZOO, tmp_path, digits, options=TrainOptions(engine="resnet"))
    assert list(tmp_path.iterdir()) == []
