"""The lane kernel on its several paths, and how it is built; test_engines.py has the rest."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.layout import make_layout
from model_zoos.generation.engines.kernels import architecture_header
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.engines.lanes.library import load, usable_isas
from model_zoos.generation.streams import dropout_masks
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    make_images,
    make_orders,
    make_weights,
    populate,
)

try:
    ISAS = usable_isas()
except LanesUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


SMALL = make_layout("1x4x4 fc2", 1, 2)
"""A network whose kernel is soon compiled."""


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(name, marks=[] if name in ("relu", "gelu") else pytest.mark.slow)
        for name in list(ACTIVATIONS)[:5]
    ],
)
def test_nan_wins_in_pooling(activation, isa):
    """A NaN pixel in a corner lies under one window only, in its first or its last place."""
    images, labels = make_images(CNN_S, 4)
    for image, (y, x) in zip(images[:3], [(0, 0), (0, 27), (27, 27)], strict=True):
        image[0, y, x] = np.nan
    population = populate(LanesPopulation, 
        CNN_S, activation=activation, optimizer="sgd", batch_size=1, weights=make_weights(CNN_S, 1),
        seeds=0, learning_rate=0.0, isa=isa,
    )  # fmt: skip
    for image in range(3):
        loss, accuracy = population.evaluate(images[image : image + 1], np.zeros(1, int))
        assert np.isnan(loss[0])
        assert accuracy[0] == 1  # torch predicts the first NaN
    assert np.isfinite(population.evaluate(images[3:], labels[3:])[0][0])


# The same bits on every path


def train(layout, models, threads=None, isa="auto", optimizer="adam", activation="tanh"):
    """Some models of a population in which each has its own everything: each one's bytes."""
    everyone = 64
    images, labels = make_images(layout, 44)
    rng = np.random.default_rng(2)
    weights = make_weights(layout, 4)[rng.integers(0, 4, everyone)]
    orders = make_orders(everyone, 44)[models]
    population = populate(
        LanesPopulation,
        layout,
        activation=activation,
        optimizer=optimizer,
        batch_size=10,
        weights=weights[models],
        seeds=rng.integers(-(2**62), 2**62, everyone)[models],
        learning_rate=rng.choice([1e-2, 1e-3, 1e3], everyone)[models],
        weight_decay=rng.choice([0, 1e-3], everyone)[models],
        momentum=rng.choice([0, 0.9], everyone)[models],
        dropout=rng.choice([0, 0.3, 0.5], everyone)[models],
        threads=threads,
        isa=isa,
    )
    losses = [population.train_epoch(images, labels, orders) for _ in range(2)]
    losses.append(population.evaluate(images, labels))
    results = zip(population.weights, np.array(losses).transpose(2, 0, 1), strict=True)
    return [(weights.tobytes(), measured.tobytes()) for weights, measured in results]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bits_depend_on_the_model_alone(optimizer):
    everyone = np.arange(64)
    expected = train(CNN_S, everyone, threads=1, optimizer=optimizer)
    shuffled = np.random.default_rng(3).permutation(64)
    for models in ([7], [1, 2, 3, 4, 5], np.arange(16), np.arange(30, 47), shuffled):
        for threads in (1, 2):
            found = train(CNN_S, models, threads, optimizer=optimizer)
            assert found == [expected[model] for model in models]


@pytest.mark.parametrize(
    ("layout", "activation", "optimizer"),
    [
        pytest.param(CNN_S, "tanh", "adam", marks=pytest.mark.slow),
        (CNN_S, "gelu", "adam"),
        pytest.param(CNN_S, "sigmoid", "sgd", marks=pytest.mark.slow),
        (CNN_L, "relu", "adam"),
        pytest.param(
            make_layout("cnn_s", channels=3, classes=7), "relu", "sgd", marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.architecture,
)
def test_bits_do_not_depend_on_the_instruction_set(layout, activation, optimizer):
    results = [
        train(layout, np.arange(18), isa=isa, activation=activation, optimizer=optimizer)
        for isa in ISAS
    ]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
def test_masks_are_those_of_the_streams(layout, isa):
    seeds = np.array([0, 1, 2**63 - 1, -1, 2**32, -(2**63)])
    rates = np.array([0.5, 0.1, 0.9, 0.0, 1 / 3, 1 - 2**-20])
    population = populate(LanesPopulation, 
        layout, activation="tanh", optimizer="sgd", batch_size=3, weights=make_weights(layout, 6),
        seeds=seeds, learning_rate=0.1, dropout=rates, isa=isa,
    )  # fmt: skip
    library = population._library
    for step, sample in ((0, 0), (1, 2), (2**32 - 1, 1), (2**40 + 3, 2)):
        expected = np.concatenate(
            [mask[:, sample].reshape(6, -1) for mask in
             dropout_masks(layout, seeds, rates, step, batch_size=3)], axis=1
        )  # fmt: skip
        found = []
        for block in population._rates:
            masks = np.empty((expected.shape[1], library.lanes_count()), np.float32)
            units = library.dropout_masks(block.ctypes.data, step, sample, masks.ctypes.data)
            assert units == len(masks)
            found.append(masks)
        np.testing.assert_array_equal(np.concatenate(found, axis=1)[:, :6].T, expected)


# Building


def test_header_is_the_architecture():
    header = architecture_header(make_layout("cnn_l", channels=3, classes=7), "gelu")
    assert "kChannels = 3, kSide = 32" in header
    assert "using Activation = activations::gelu;" in header
    assert "{15, 3, true, true, true},  // conv3" in header
    assert "{7, 0, false, false, false},  // fc2" in header


@pytest.mark.slow
def test_several_processes_may_build_the_same_kernel_at_once(tmp_path):
    code = (
        "from model_zoos.builders.layout import make_layout\n"
        "from model_zoos.generation.engines.lanes.library import load\n"
        "print(load(make_layout('cnn_s', 1), 'tanh').weights_count())"
    )
    environment = os.environ | {
        "MODEL_ZOOS_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [process.communicate()[0].split() for process in processes] == [[b"2464"]] * 4
    assert len(list(Path(tmp_path).rglob("*"))) == 2  # the folder and one library


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (None, "found no C\\+\\+ compiler"),
        ("no-such-compiler", "cannot run no-such-compiler"),
        ("false", "false does not work"),
    ],
)
def test_no_compiler(monkeypatch, tmp_path, compiler, message):
    if compiler is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CXX", compiler)
    with pytest.raises(LanesUnavailable, match=message) as failure:
        load(CNN_S, "tanh")
    assert "\n" not in str(failure.value)


def test_failed_build(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_ZOOS_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} -DkLanes=3")
    with pytest.raises(LanesUnavailable, match=r"failed: .*error"):
        load(CNN_S, "tanh")


def test_without_a_place_for_the_cache_the_kernel_is_built_all_the_same(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODEL_ZOOS_CACHE", str(tmp_path / "file"))
    assert load(SMALL, "tanh").weights_count() == SMALL.size
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("folder", ["~/kernels", "kernels", "./in/../kernels"])
def test_the_cache_is_where_a_shell_would_put_it(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_ZOOS_CACHE", folder)
    monkeypatch.chdir(tmp_path)
    assert load(SMALL, "tanh").weights_count() == SMALL.size
    assert len(list((tmp_path / "kernels" / "lanes").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kernels"]


def test_instruction_set_by_environment(monkeypatch):
    monkeypatch.setenv("MODEL_ZOOS_ISA", "portable")
    assert lanes_count(CNN_S) == 4
    monkeypatch.setenv("MODEL_ZOOS_ISA", "mmx")
    with pytest.raises(ValueError, match="unknown instruction set 'mmx'"):
        load(CNN_S, "tanh")


def test_unknown_network():
    with pytest.raises(ValueError, match="which ResNet-18 is not"):
        load(make_layout("resnet18", channels=3), "relu")
    with pytest.raises(ValueError, match="unknown activation 'cube'"):
        load(CNN_S, "cube")
