"""The batched engine: the lane kernel's checks with `BatchedPopulation` in its place, and its own.

What an engine must do is written once, in test_lanes.py; the tests imported from there run here on
the batched engine. The reference engine and a published zoo are the other witnesses.
"""

from functools import partial

import numpy as np
import pytest
import torch

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import make_layout
from model_zoos.generation.engines import batched, reference
from model_zoos.generation.engines.batched import BatchedPopulation
from model_zoos.generation.images import load_images
from model_zoos.generation.streams import (
    SampleOrders,
    dropout_masks,
    initial_weights,
    sample_orders,
    split_seed,
)

from . import test_lanes
from .test_lanes import (  # noqa: F401
    CNN_L,
    CNN_S,
    EACH,
    logits,
    make_images,
    make_orders,
    make_weights,
    one_torch_thread,
    test_diverged_lane_is_nan_like_torchs_and_leaves_others_alone,
    test_last_batch_is_divided_by_its_own_size,
    test_losses_and_accuracies_are_torchs,
    test_odd_rows_and_columns_are_dropped,
    test_pooling_takes_the_first_of_equal_sums,
    test_repeats_a_published_zoo_from_its_images,
    test_wrong_data,
    test_wrong_population,
    torch_masks,
    torch_steps,
)

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
ON_CUDA = DEVICES[1:]


@pytest.fixture(autouse=True)
def batched_in_place_of_lanes(monkeypatch):
    monkeypatch.setattr(test_lanes, "LanesPopulation", BatchedPopulation)


def train(layout, models, optimizer="adam", samples=44, **options):
    """Some of seven models, each with rates of its own, trained for two epochs and evaluated.

    Returns:
        Weights [P, N], and losses and accuracies [P, 3, 2].
    """
    images, labels = make_images(layout, samples)
    rng = np.random.default_rng(2)
    population = BatchedPopulation(
        layout,
        activation="tanh",
        optimizer=optimizer,
        batch_size=10,
        weights=make_weights(layout, 7)[models],
        seeds=rng.integers(-(2**62), 2**62, 7)[models],
        learning_rate=rng.choice([1e-3, 3e-4], 7)[models],
        weight_decay=rng.choice([0, 1e-3], 7)[models],
        momentum=rng.choice([0, 0.9], 7)[models],
        dropout=rng.choice([0, 0.3, 0.5], 7)[models],
        **options,
    )
    orders = make_orders(7, samples)[models]
    losses = [population.train_epoch(images, labels, orders) for _ in range(2)]
    losses.append(population.evaluate(images, labels))
    return population.weights, np.array(losses).transpose(2, 0, 1)


def check_against_torch(layout, activation, optimizer, init, dropout, steps, device="cpu"):
    """Models with rates of their own; the unit is torch float32's distance from torch float64.

    One fixed tolerance would not do: Adam moves a weight whose gradient is rounding noise by the
    whole learning rate, and where two sums under a pooling window agree to seven digits, rounding
    decides which one wins. Whether that happens to torch in one run is a matter of luck. So where
    three times its distance is not enough, torch trains again from weights that differ in the last
    bit, up to twenty times, and the largest distance so far counts. Where that is not enough
    either, one of three models may part at a close call of a pool, as with the lanes.
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
    rng = np.random.default_rng(1)
    orders = rng.integers(0, len(images), (3, 10 * steps))
    population = BatchedPopulation(
        layout, activation=activation, optimizer=optimizer, batch_size=10, weights=weights,
        device=device, **{"seeds" if name == "seed" else name: rates[name] for name in rates},
    )  # fmt: skip
    ours = []
    for batch in np.split(orders, steps, axis=1):
        population.train_epoch(images, labels, batch)
        ours.append(population.weights)
    parted = []
    for model in range(3):

        def run(start, dtype, model=model):
            return torch_steps(
                layout, start, images, labels, orders[model], 10, dtype, activation=activation,
                optimizer=optimizer, **{name: values[model] for name, values in rates.items()},
            )  # fmt: skip

        def closest_call(steps, model=model):
            """The closest decision of a pool in our first steps, see test_lanes.logits."""
            gaps = []
            for step in range(steps):
                start = weights[model] if step == 0 else ours[step - 1][model]
                state = layout.to_state_dict(start.astype(np.float64))
                parameters = {name: torch.tensor(tensor) for name, tensor in state.items()}
                batch = orders[model][10 * step :][:10]
                rate, seed = rates["dropout"][model], rates["seed"][model]
                masks = torch_masks(layout, seed, rate, step, 10, torch.float64)
                x = torch.tensor(images[batch], dtype=torch.float64)
                logits(layout, activation, parameters, x, masks, gaps)
            return min(gaps)

        single, double = (run(weights[model], dtype) for dtype in (torch.float32, torch.float64))
        apart = np.abs([our[model] for our in ours] - single).max(1)
        distance = np.abs(single - double).max()
        for _ in range(20):
            if apart.max() <= max(3 * distance, 1e-6):
                break
            towards = rng.choice(np.float32([-np.inf, np.inf]), layout.size)
            neighbour = run(np.nextafter(weights[model], towards), torch.float32)
            distance = max(distance, np.abs(neighbour - double).max())
        allowed = max(3 * distance, 1e-6)
        if apart.max() > allowed:
            parted.append(model)
            assert closest_call(int((apart > allowed).argmax()) + 1) < 1e-6
    assert len(parted) <= 1


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


# Other models, other ways, the same results


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("device", DEVICES)
def test_neighbours_and_blocks_change_no_more_than_rounding(layout, optimizer, device, monkeypatch):
    together = train(layout, np.arange(7), optimizer)
    alone = train(layout, [5], optimizer, device=device)
    assert_close(alone, [part[5:6] for part in together])
    monkeypatch.setattr(batched, "_capacity", lambda layout, device: 25)
    assert_close(train(layout, np.arange(7), optimizer, device=device), together)


def test_threads_and_precision_are_given_back():
    torch.set_float32_matmul_precision("medium")
    try:
        expected = train(CNN_S, [0, 1], threads=2)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_close(train(CNN_S, [0, 1]), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_and_arrays_of_any_integers(device):
    images, labels = make_images(CNN_S, 23)
    orders = make_orders(2, 23)
    results = []
    for form in ("numpy", "small", "torch"):
        data = images, labels, orders
        if form == "small":
            data = images.astype(np.float64), labels.astype(np.uint8), orders.astype(np.uint16)
        elif form == "torch":
            data = [torch.tensor(array).to(device) for array in data]
        population = BatchedPopulation(
            CNN_S, activation="relu", optimizer="adam", batch_size=10, seeds=0, learning_rate=1e-3,
            weights=make_weights(CNN_S, 2), device=device,
        )  # fmt: skip
        population.train_epoch(*data)
        before = population.weights
        population.train_epoch(*data)
        assert (before != population.weights).any()  # what was read is a copy
        results.append(population.weights)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    for wrong in (torch.zeros(23), torch.zeros(23, dtype=torch.bool)):
        with pytest.raises(ValueError, match="labels must be integers"):
            population.evaluate(images, wrong)


@pytest.mark.slow
def test_compiled():
    """Two blocks, a smaller last batch, dropout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched, "_capacity", lambda layout, device: 40)
        expected = train(CNN_S, np.arange(7))
        assert_close(train(CNN_S, np.arange(7), compile=True), expected)


# Dropout


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture)
@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_those_of_the_streams(layout, device):
    seeds = np.array([0, 1, 2**63 - 1, -1, 2**32, -(2**63)])
    rates = np.array([0.5, 0.1, 0.9, 0.0, 1 / 3, 1 - 2**-20])
    population = BatchedPopulation(
        layout, activation="tanh", optimizer="sgd", batch_size=3, weights=make_weights(layout, 6),
        seeds=seeds, learning_rate=0.1, dropout=rates, device=device,
    )  # fmt: skip
    (block,) = population._blocks
    np.testing.assert_array_equal(block.rates.key.cpu().numpy(), split_seed(seeds))
    for step in (0, 1, 2**32 - 1, 2**40 + 3):
        found = batched.dropout_masks(layout, block.rates, torch.tensor(step, device=device), 3)
        expected = dropout_masks(layout, seeds, rates, step, batch_size=3)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32
            np.testing.assert_array_equal(one.movedim(-1, 1).cpu().numpy(), other)


# Against torch


@pytest.mark.parametrize(("activation", "optimizer", "init", "dropout"), EACH)
def test_one_step_is_torchs(activation, optimizer, init, dropout):
    check_against_torch(CNN_S, activation, optimizer, init, dropout, steps=1)


@pytest.mark.parametrize(
    ("activation", "optimizer", "init", "dropout"),
    [
        # Each activation, optimizer, init and rate here, all combinations if slow.
        pytest.param(*case, marks=[] if number % 11 == 0 else [pytest.mark.slow])
        for number, case in enumerate(EACH)
    ],
)
def test_200_steps_are_torchs(activation, optimizer, init, dropout):
    check_against_torch(CNN_S, activation, optimizer, init, dropout, steps=200)


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
def test_other_networks_are_torchs(layout, dropout):
    check_against_torch(layout, "gelu", "adam", "kaiming_uniform", dropout, steps=20)


@pytest.mark.parametrize("device", DEVICES)
def test_repeats_the_reference_engine(device):
    """An epoch of three models of a grid, from nothing but their specifications and images."""
    zoo, images = get_zoo("digits_cnn_s"), load_images("digits")
    train_set = images.normalized("train"), images.train.labels
    test_set = images.normalized("test"), images.test.labels
    for optimizer in ("adam", "sgd"):
        models = [m for m in zoo.models(40) if (m.activation, m.optimizer) == ("tanh", optimizer)]
        models = models[:3]
        weights, generators = zip(
            *(initial_weights(zoo.layout, model.init, model.seed) for model in models), strict=True
        )
        orders = [SampleOrders(generator, len(train_set[1])) for generator in generators]
        population = BatchedPopulation(
            zoo.layout,
            activation="tanh",
            optimizer=optimizer,
            batch_size=zoo.batch_size,
            weights=np.stack(weights),
            seeds=[model.seed for model in models],
            learning_rate=[model.learning_rate for model in models],
            weight_decay=[model.weight_decay for model in models],
            momentum=[model.momentum or 0 for model in models],
            device=device,
        )
        runs = [reference.train(model, zoo.layout, images) for model in models]
        for epoch in range(2):
            states = [next(run) for run in runs]
            if epoch:
                loss, accuracy = population.train_epoch(*train_set, sample_orders(orders, epoch))
            else:
                loss, accuracy = population.evaluate(*train_set)
            test_loss, test_accuracy = population.evaluate(*test_set)
            for number, state in enumerate(states):
                if epoch == 0:
                    np.testing.assert_array_equal(population.weights[number], state.weights)
                metrics = state.metrics
                assert loss[number] == pytest.approx(metrics["train_loss"], abs=1e-3)
                assert accuracy[number] == pytest.approx(metrics["train_acc"], abs=0.002)
                assert test_loss[number] == pytest.approx(metrics["test_loss"], abs=1e-3)
                assert test_accuracy[number] == pytest.approx(metrics["test_acc"], abs=0.006)


# On a GPU


@pytest.fixture
def on_cuda(monkeypatch):
    """Where others allow TF32; a CUDA graph is captured in the first step and replayed in all."""
    monkeypatch.setattr(test_lanes, "LanesPopulation", partial(BatchedPopulation, device="cuda"))
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture)
@pytest.mark.parametrize("activation", batched.ACTIVATIONS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cuda_is_torchs(layout, activation, optimizer, dropout, device, on_cuda):
    check_against_torch(layout, activation, optimizer, "kaiming_uniform", dropout, 50, device)


@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_diverged_on_cuda(optimizer, device, on_cuda):
    test_diverged_lane_is_nan_like_torchs_and_leaves_others_alone("tanh", optimizer)


@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_graph_and_single_steps(compile, device, monkeypatch):
    """Whole batches replay a graph, the last does not; blocks share the graphs' memory."""
    monkeypatch.setattr(batched, "_capacity", lambda layout, device: 40)
    found = train(CNN_S, np.arange(7), samples=97, device=device, compile=compile)
    assert_close(found, train(CNN_S, np.arange(7), samples=97))


# Wrong arguments


@pytest.mark.parametrize(
    ("layout", "activation", "message"),
    [
        (make_layout("resnet18", channels=3), "relu", "not ResNet-18"),
        (CNN_S, "selu", "unknown activation 'selu'"),
    ],
)
def test_unknown_network(layout, activation, message):
    with pytest.raises(ValueError, match=message):
        BatchedPopulation(
            layout, activation=activation, optimizer="sgd", batch_size=10, seeds=0,
            weights=np.zeros((1, layout.size)), learning_rate=0.1,
        )  # fmt: skip
