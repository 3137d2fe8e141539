"""The batched engine: blocks, devices, graphs; test_engines.py has what every engine must do."""

import numpy as np
import pytest
import torch

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import make_layout
from model_zoos.generation.engines import reference
from model_zoos.generation.engines.batched import BatchedPopulation, random_numbers
from model_zoos.generation.engines.batched import population as population_module
from model_zoos.generation.images import load_images
from model_zoos.generation.streams import (
    SampleOrders,
    dropout_masks,
    initial_weights,
    sample_orders,
    split_seed,
)
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    make_images,
    make_orders,
    make_weights,
    populate,
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


def train(layout, models, optimizer="adam", samples=44, **options):
    """Some of seven models, each with rates of its own, trained for two epochs and evaluated.

    Returns:
        Weights [P, N], and losses and accuracies [P, 3, 2].
    """
    images, labels = make_images(layout, samples)
    rng = np.random.default_rng(2)
    population = populate(
        BatchedPopulation,
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


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


# Other models, other ways, the same results


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("device", DEVICES)
def test_neighbours_and_blocks_change_no_more_than_rounding(layout, optimizer, device, monkeypatch):
    together = train(layout, np.arange(7), optimizer)
    alone = train(layout, [5], optimizer, device=device)
    assert_close(alone, [part[5:6] for part in together])
    monkeypatch.setattr(population_module, "_capacity", lambda layout, device: 25)
    assert_close(train(layout, np.arange(7), optimizer, device=device), together)


def test_threads_and_precision_are_given_back():
    torch.set_float32_matmul_precision("medium")
    threads = torch.get_num_threads()
    try:
        expected = train(CNN_S, [0, 1], threads=threads + 1)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == threads
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
        population = populate(BatchedPopulation, 
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


# Dropout


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_those_of_the_streams(layout, device):
    seeds = np.array([0, 1, 2**63 - 1, -1, 2**32, -(2**63)])
    rates = np.array([0.5, 0.1, 0.9, 0.0, 1 / 3, 1 - 2**-20])
    population = populate(BatchedPopulation, 
        layout, activation="tanh", optimizer="sgd", batch_size=3, weights=make_weights(layout, 6),
        seeds=seeds, learning_rate=0.1, dropout=rates, device=device,
    )  # fmt: skip
    (block,) = population._blocks
    np.testing.assert_array_equal(block.rates.key.cpu().numpy(), split_seed(seeds))
    for step in (0, 1, 2**32 - 1, 2**40 + 3):
        found = random_numbers.dropout_masks(
            layout, block.rates, torch.tensor(step, device=device), 3
        )
        expected = dropout_masks(layout, seeds, rates, step, batch_size=3)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32
            np.testing.assert_array_equal(one.movedim(-1, 1).cpu().numpy(), other)


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
        population = BatchedPopulation(zoo.layout, models, np.stack(weights), device=device)
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


@pytest.mark.parametrize("device", ON_CUDA)
def test_graph_and_single_steps(device, monkeypatch):
    """Whole batches replay a graph, the last does not; blocks share the graphs' memory."""
    monkeypatch.setattr(population_module, "_capacity", lambda layout, device: 40)
    found = train(CNN_S, np.arange(7), samples=97, device=device)
    assert_close(found, train(CNN_S, np.arange(7), samples=97))


# Wrong arguments


@pytest.mark.parametrize(
    ("layout", "activation", "message"),
    [
        (make_layout("resnet18", channels=3), "relu", "which ResNet-18 is not"),
        (CNN_S, "cube", "unknown activation 'cube'"),
    ],
)
def test_unknown_network(layout, activation, message):
    with pytest.raises(ValueError, match=message):
        populate(BatchedPopulation, 
            layout, activation=activation, optimizer="sgd", batch_size=10, seeds=0,
            weights=np.zeros((1, layout.size)), learning_rate=0.1,
        )  # fmt: skip
