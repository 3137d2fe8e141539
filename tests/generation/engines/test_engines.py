"""What every population engine must do, run on each of them; cuda/ has more about the kernel."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_zoos.builders.hyperparameters import ACTIVATIONS, INITS
from model_zoos.builders.layout import make_layout
from model_zoos.generation.engines.batched import BatchedPopulation
from model_zoos.generation.engines.cuda import CudaPopulation
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.streams import SampleOrders, initial_weights, sample_orders
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    Run,
    logits,
    make_images,
    make_orders,
    make_weights,
    populate,
    torch_steps,
)
from tests.shared import SEED_ZOO, needs_shared, raw_zoo, raw_zoo_images

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ENGINES = [
    "lanes",
    "batched",
    pytest.param("batched-cuda", marks=ON_GPU),
    pytest.param("cuda", marks=ON_GPU),
]


SLOW_BATCHED = [
    pytest.param(name, marks=pytest.mark.slow) if name == "batched" else name for name in ENGINES
]
"""The engines, for tests that take the batched one long."""


@pytest.fixture(params=ENGINES)
def engine(request):
    """The class of an engine's populations, on its device."""
    if request.param == "lanes":
        try:
            lanes_count(CNN_S)
        except LanesUnavailable as reason:
            pytest.skip(str(reason))
        yield partial(populate, LanesPopulation)
    elif request.param == "batched":
        yield partial(populate, BatchedPopulation)
    elif request.param == "cuda":
        yield partial(populate, CudaPopulation)
    else:
        # Where others allow TF32; a CUDA graph is captured in the first step and replayed in all.
        torch.set_float32_matmul_precision("high")
        yield partial(populate, BatchedPopulation, device="cuda")
        torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_against_torch(engine, layout, activation, optimizer, init, dropout, steps):
    """Models with rates of their own, at most three times as far from torch float32 as that is from
    torch float64, or 1e-6.

    One fixed tolerance would not do: Adam moves a weight whose gradient is rounding noise by the
    whole learning rate. And where two sums under a pooling window agree to seven digits, either may
    win: then rounding decides which way the gradient goes, and all that follows (in one of forty
    runs of 200 steps). It is the same run only if such decisions are made in the same way: where
    engine and torch part, torch runs again with a close call made the other way, until they agree.
    """
    images, labels = make_images(layout, 250)
    rates = {
        "seed": np.array([3, 2**40 + 7, 11]),
        "learning_rate": np.array([1e-3, 3e-4, 1e-4]),
        "weight_decay": np.array([0.0, 1e-3, 1e-4]),
        "momentum": np.array([0.0, 0.9, 0.5]),
        "dropout": np.array([1.0, 0.6, 0.0]) * dropout,
    }
    weights = make_weights(layout, 3, init)
    orders = np.random.default_rng(1).integers(0, len(images), (3, 10 * steps))
    population = engine(
        layout, activation=activation, optimizer=optimizer, batch_size=10, weights=weights,
        **{"seeds" if name == "seed" else name: values for name, values in rates.items()},
    )  # fmt: skip
    ours = [weights]
    for batch in np.split(orders, steps, axis=1):
        population.train_epoch(images, labels, batch)
        ours.append(population.weights)
    for model in range(3):
        run = Run(
            layout, activation, optimizer, images, labels, orders[model],
            {name: values[model] for name, values in rates.items()},
            [weights[model] for weights in ours],
            neighbours=0 if engine.args == (LanesPopulation,) else 20,
        )  # fmt: skip
        assert run.first_step_apart({}) is None or run.agrees_but_for_close_calls(), model


# The values of the paper's zoos; test_networks.py has the others.
EACH = list(itertools.product(list(ACTIVATIONS)[:5], ["adam", "sgd"], list(INITS)[:4], [0.0, 0.5]))


@pytest.mark.parametrize(("activation", "optimizer", "init", "dropout"), EACH)
def test_one_step_is_torchs(engine, activation, optimizer, init, dropout):
    check_against_torch(engine, CNN_S, activation, optimizer, init, dropout, steps=1)


@pytest.mark.parametrize("engine", SLOW_BATCHED, indirect=True)
@pytest.mark.parametrize(
    ("activation", "optimizer", "init", "dropout"),
    [
        # Each activation, optimizer, init and rate at least once here, all combinations if slow.
        pytest.param(*case, marks=[] if number in (0, 27, 37, 62, 65) else [pytest.mark.slow])
        for number, case in enumerate(EACH)
    ],
)
def test_200_steps_are_torchs(engine, activation, optimizer, init, dropout):
    check_against_torch(engine, CNN_S, activation, optimizer, init, dropout, steps=200)


@pytest.mark.parametrize(
    "layout",
    [
        CNN_L,
        make_layout("cnn_s", channels=3),
        make_layout("cnn_s", channels=1, classes=3),
        make_layout("cnn_s", channels=1, classes=100),
        make_layout("cnn_l", channels=1, classes=43),
    ],
    ids=lambda layout: f"{layout.architecture}-{layout.channels}-{layout.classes}",
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_other_networks_are_torchs(engine, layout, dropout):
    check_against_torch(engine, layout, "gelu", "adam", "kaiming_uniform", dropout, steps=20)


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_and_accuracies_are_torchs(engine, layout, activation):
    images, labels = make_images(layout, 57)
    weights = make_weights(layout, 2)
    population = engine(
        layout, activation=activation, optimizer="sgd", batch_size=10, weights=weights, seeds=0,
        learning_rate=0.0,
    )  # fmt: skip
    orders = make_orders(2, 57)
    measured = population.evaluate(images, labels)
    # Weights that do not move: training measures the same.
    trained = population.train_epoch(images, labels, orders)
    np.testing.assert_array_equal(population.weights, weights)
    for model in range(2):
        parameters = {k: torch.tensor(v) for k, v in layout.to_state_dict(weights[model]).items()}
        out = logits(layout, activation, parameters, torch.tensor(images))
        loss = functional.cross_entropy(out.double(), torch.tensor(labels)).item()
        accuracy = (out.argmax(1).numpy() == labels).mean()
        for losses, accuracies in (measured, trained):
            assert losses[model] == pytest.approx(loss, rel=1e-6)
            assert accuracies[model] == accuracy


def test_last_batch_is_divided_by_its_own_size(engine):
    images, labels = make_images(CNN_S, 23)
    weights, orders = make_weights(CNN_S, 1), make_orders(1, 23)
    options = {"activation": "tanh", "optimizer": "sgd", "learning_rate": 0.1}
    population = engine(CNN_S, batch_size=10, weights=weights, seeds=0, **options)
    population.train_epoch(images, labels, orders)
    expected = torch_steps(
        CNN_S, weights[0], images, labels, orders[0], 10, torch.float32, **options
    )[-1]
    np.testing.assert_allclose(population.weights[0], expected, atol=2e-7)


def test_pooling_takes_the_first_of_equal_sums(engine):
    """With first-layer weights of zero all sums are equal: torch's choice decides the gradient."""
    images, labels = make_images(CNN_S, 4)
    weights = make_weights(CNN_S, 1)
    weights[0, CNN_S.layers["conv1"]["weight"].slice] = 0
    options = {"activation": "tanh", "optimizer": "sgd", "learning_rate": 1.0}
    order = np.arange(4)[None]
    population = engine(CNN_S, batch_size=4, weights=weights, seeds=0, **options)
    population.train_epoch(images, labels, order)
    expected, other = (
        torch_steps(CNN_S, weights[0], images, labels, one, 4, torch.float32, **options)[-1]
        for one in (order[0], order[0, ::-1].copy())
    )
    moved = np.abs(expected - weights[0])[CNN_S.layers["conv1"]["weight"].slice]
    assert moved.max() > 1e-3
    # torch's own noise: the same batch in another order. (In float64 the sums are not all equal.)
    noise = np.abs(other - expected).max()
    assert noise < 2e-6
    np.testing.assert_allclose(population.weights[0], expected, atol=max(1e-6, 3 * noise))


def test_odd_rows_and_columns_are_dropped(engine):
    """CNN-l pools 13 sums to 6: the last row and column of its second layer change nothing."""
    images, labels = make_images(CNN_L, 3)
    changed = images.copy()
    # Sum (12, .) of conv2 sees rows 12..14 of conv1's pooled output, 14 sees pixels 28..31; rows
    # up to 13 also see pixels up to 29, so only the last two rows and columns are free.
    changed[:, :, 30:] = 7
    changed[:, :, :, 30:] = -7
    population = engine(
        CNN_L, activation="relu", optimizer="sgd", batch_size=1, weights=make_weights(CNN_L, 2),
        seeds=0, learning_rate=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(
        population.evaluate(images, labels), population.evaluate(changed, labels)
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_diverged_model_is_nan_like_torchs_and_leaves_others_alone(engine, activation, optimizer):
    images, labels = make_images(CNN_S, 100)
    weights, orders = make_weights(CNN_S, 3, "uniform"), make_orders(3, 100)
    results = []
    for rate in (1e-3, 1e3):
        population = engine(
            CNN_S, activation=activation, optimizer=optimizer, batch_size=10, weights=weights,
            seeds=0, learning_rate=[1e-3, rate, 1e-4], momentum=0.9,
        )  # fmt: skip
        for _ in range(3):
            loss, _ = population.train_epoch(images, labels, orders)
        results.append(population.weights)
    expected = torch_steps(
        CNN_S, weights[1], images, labels, np.tile(orders[1], 3), 10, torch.float32,
        activation=activation, optimizer=optimizer, learning_rate=1e3, momentum=0.9,
    )[-1]  # fmt: skip
    np.testing.assert_array_equal(np.isnan(results[1][1]), np.isnan(expected))
    assert np.isnan(loss[1]) == np.isnan(expected).any()
    np.testing.assert_array_equal(results[0][[0, 2]], results[1][[0, 2]])


@needs_shared
@pytest.mark.parametrize("engine", SLOW_BATCHED, indirect=True)
def test_repeats_a_published_zoo_from_its_images(engine):
    """12 models, 8 epochs: the untrained one to the bit, accuracies within a percentage point."""
    trials = raw_zoo(SEED_ZOO, CNN_S)
    data = raw_zoo_images(validation=False)
    train_set = data.normalized("train").numpy(), data.train.labels.numpy()
    test_set = data.normalized("test").numpy(), data.test.labels.numpy()
    model = trials[0].model
    weights, generators = zip(
        *(initial_weights(CNN_S, model.init, trial.model.seed) for trial in trials), strict=True
    )
    for trial, own in zip(trials, weights, strict=True):
        np.testing.assert_array_equal(own, trial.weights[0])
    orders = [SampleOrders(generator, len(train_set[1])) for generator in generators]
    population = engine(
        CNN_S,
        activation=model.activation,
        optimizer=model.optimizer,
        batch_size=model.batch_size,
        weights=np.stack(weights),
        seeds=[trial.model.seed for trial in trials],
        learning_rate=[trial.model.learning_rate for trial in trials],
        weight_decay=[trial.model.weight_decay for trial in trials],
    )
    for epoch in range(model.epochs + 1):
        if epoch:
            loss, accuracy = population.train_epoch(*train_set, sample_orders(orders, epoch))
        else:
            loss, accuracy = population.evaluate(*train_set)
        test_loss, test_accuracy = population.evaluate(*test_set)
        for number, trial in enumerate(trials):
            metrics = trial.metrics[epoch]
            assert loss[number] == pytest.approx(metrics["train_loss"], abs=0.02)
            assert accuracy[number] == pytest.approx(metrics["train_acc"], abs=0.01)
            assert test_loss[number] == pytest.approx(metrics["test_loss"], abs=0.02)
            assert test_accuracy[number] == pytest.approx(metrics["test_acc"], abs=0.01)
            if epoch == 0:
                assert test_accuracy[number] == metrics["test_acc"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((2, 100))}, r"weights must be \[P, 2464\]"),
        ({"weights": np.zeros((0, 2464))}, "weights must be"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"batch_size": 0}, "batch_size"),
        ({"dropout": 1.0}, "dropout rates"),
        ({"dropout": [0.1, np.nan]}, "dropout rates"),
        ({"seeds": 0.5}, "seeds must be integers"),
    ],
)
def test_wrong_population(engine, changes, message):
    options = {
        "activation": "tanh", "optimizer": "adam", "batch_size": 10,
        "weights": np.zeros((2, 2464)), "seeds": 0, "learning_rate": 1e-3,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        engine(CNN_S, **(options | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 1, 32, 32))}, "images must be"),
        ({"images": np.zeros((0, 1, 28, 28)), "labels": np.zeros(0, int)}, "images must be"),
        ({"images": np.zeros((5, 28, 28))}, "images must be"),
        ({"labels": np.zeros(4, int)}, "labels must be"),
        ({"labels": np.zeros(5)}, "labels must be"),
        ({"labels": np.full(5, 10)}, "labels must lie"),
        ({"labels": np.full(5, -1)}, "labels must lie"),
        ({"orders": np.zeros((3, 5), int)}, "orders must be"),
        ({"orders": np.zeros((2, 0), int)}, "orders must be"),
        ({"orders": np.zeros((2, 5))}, "orders must be integers"),
        ({"orders": np.full((2, 5), 5)}, "orders must be integers in"),
        ({"orders": np.full((2, 5), -1)}, "orders must be integers in"),
    ],
)
def test_wrong_data(engine, changes, message):
    population = engine(
        CNN_S, activation="tanh", optimizer="adam", batch_size=10, weights=np.zeros((2, 2464)),
        seeds=0, learning_rate=1e-3,
    )  # fmt: skip
    data = {
        "images": np.zeros((5, 1, 28, 28), np.float32),
        "labels": np.zeros(5, int),
        "orders": np.zeros((2, 5), int),
    }
    with pytest.raises(ValueError, match=message):
        population.train_epoch(**(data | changes))
    if "orders" not in changes:
        del data["orders"]
        with pytest.raises(ValueError, match=message):
            population.evaluate(**(data | changes))
