"""The batched engine's twins: the lane kernel's checks, the reference engine, masks, streams."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import make_layout
from model_zoos.builders.variational_dropout import kl_weight, prune
from model_zoos.generation.engines import reference
from model_zoos.generation.engines.batched import BatchedPopulation, population
from model_zoos.generation.engines.batched.rates import BlockRates
from model_zoos.generation.engines.batched.twins import BatchedTwins, gaussian_noise
from model_zoos.generation.engines.reference_twins import PrunedTwin, VariationalTwin
from model_zoos.generation.images import load_images
from model_zoos.generation.streams import SampleOrders, initial_weights, sample_orders, split_seed
from model_zoos.generation.streams import gaussian_noise as noise_of_streams
from tests.generation.engines import test_lanes_twins
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    make_images,
    make_orders,
    make_weights,
    populate,
)
from tests.generation.engines.test_batched import ON_CUDA
from tests.generation.engines.test_lanes_twins import (  # noqa: F401
    check_against_torch,
    has_noise,
    one_torch_thread,
)

DIGITS = get_zoo("digits_cnn_s")


@pytest.fixture(autouse=True)
def batched_in_place_of_lanes(monkeypatch):
    monkeypatch.setattr(
        test_lanes_twins,
        "LanesTwins",
        lambda layout, models, weights, isa, **options: BatchedTwins(
            layout, models, weights, **options
        ),
    )


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_step_is_torchs(activation, optimizer, dropout):
    check_against_torch(CNN_S, activation, optimizer, dropout, steps=1)


@pytest.mark.parametrize(
    ("layout", "activation", "optimizer", "steps"),
    [(CNN_S, "tanh", "adam", 20), (CNN_S, "sigmoid", "sgd", 20), (CNN_L, "relu", "adam", 3)],
)
def test_steps_are_torchs(layout, activation, optimizer, steps):
    check_against_torch(layout, activation, optimizer, 0.5, steps=steps)


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
def test_noise_is_that_of_the_streams(layout):
    seeds = np.array([3, -11, 2**40])
    empty = torch.zeros(3, 1)
    rates = BlockRates(empty, empty, empty, torch.tensor(split_seed(seeds).astype(np.int64)), 0, 0)
    found = gaussian_noise(layout, rates, torch.tensor(2**33 + 5), 6)
    for ours, expected in zip(found, noise_of_streams(layout, seeds, 2**33 + 5, 6), strict=True):
        np.testing.assert_allclose(ours.movedim(-1, 1), expected, atol=2e-6, rtol=0)


def twins_of(models, engine, **options):
    """A population of twins of the models' initial weights, and their sample orders."""
    layout = DIGITS.layout
    drawn = [initial_weights(layout, model.init, model.seed) for model in models]
    weights = np.stack([w for w, _ in drawn])
    return weights, [SampleOrders(generator, 105) for _, generator in drawn], engine(
        layout, models, weights, **options
    )  # fmt: skip


def some_models(optimizer):
    models = [m for m in DIGITS.models(60) if (m.activation, m.optimizer) == ("tanh", optimizer)]
    models = [m for m in models if m.init.startswith("kaiming")][:3]
    return [
        dataclasses.replace(model, epochs=2, dropout=rate, weight_decay=1e-3)
        for model, rate in zip(models, (0.0, 0.3, 0.5), strict=True)
    ]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_repeats_the_reference_engine_on_the_same_stream(optimizer):
    """Two epochs from specifications and images, the last batch smaller."""
    images = load_images("digits").subset(train=slice(105))
    data = images.normalized("train"), images.train.labels
    held_out = images.normalized("test"), images.test.labels
    models = some_models(optimizer)
    start = np.full((3, DIGITS.layout.size), -10, np.float32)
    weights, orders, twins = twins_of(models, BatchedTwins, log_sigma2=start)
    runs = [
        reference.train(m, DIGITS.layout, images, "philox", partial(VariationalTwin, parent=w))
        for m, w in zip(models, weights, strict=True)
    ]
    for epoch in range(3):
        states = [next(run) for run in runs]
        if epoch == 0:
            loss, accuracy = twins.evaluate(*data)
        else:
            weight = kl_weight(epoch, 2)
            loss, accuracy = twins.train_epoch(*data, sample_orders(orders, epoch), weight)
        test_loss, test_accuracy = twins.evaluate(*held_out)
        for number, state in enumerate(states):
            assert twins.mean[number] == pytest.approx(state.extra["mean"].numpy(), abs=2e-3)
            expected = state.extra["log_sigma2"].numpy()
            assert twins.log_sigma2[number] == pytest.approx(expected, abs=2e-3)
            differ = (twins.weights[number] == 0) != (state.weights.numpy() == 0)
            assert differ.mean() < 0.005
            metrics = state.metrics
            assert loss[number] == pytest.approx(metrics["train_loss"], abs=1e-3)
            assert accuracy[number] == pytest.approx(metrics["train_acc"], abs=0.01)
            assert test_loss[number] == pytest.approx(metrics["test_loss"], abs=1e-3)
            assert test_accuracy[number] == pytest.approx(metrics["test_acc"], abs=0.01)
        assert (twins.weights == prune(twins.mean, twins.log_sigma2, DIGITS.layout)).mean() > 0.9999
    assert (twins.weights == 0).mean() > 0.01


def test_blocks_and_diverged_neighbours_do_not_disturb(monkeypatch):
    """Models are trained as alone; one that is NaN stays NaN."""
    layout = make_layout("cnn_s", 1)
    images, labels = make_images(layout, 44)
    weights = make_weights(layout, 5)
    weights[2, 3] = np.nan
    orders = make_orders(5, 44)

    def trained(chosen):
        twins = populate(BatchedTwins, 
            layout, activation="relu", optimizer="adam", batch_size=10, weights=weights[chosen],
            log_sigma2=np.full_like(weights[chosen], -6), seeds=np.arange(5)[chosen],
            learning_rate=1e-3,
        )  # fmt: skip
        twins.train_epoch(images, labels, orders[chosen], 0.01)
        return twins

    together = trained([0, 1, 2, 3, 4])
    monkeypatch.setattr(population, "_capacity", lambda layout, device: 20)  # blocks of one
    for number in (0, 1, 3, 4):
        alone = trained([number])
        np.testing.assert_allclose(together.mean[number], alone.mean[0], atol=1e-5)
        np.testing.assert_allclose(together.log_sigma2[number], alone.log_sigma2[0], atol=1e-5)
    assert np.isnan(together.weights[2]).all() or np.isnan(together.mean[2]).mean() > 0.9
    assert np.isnan(together.evaluate(images, labels)[0][2])


def test_log_sigma2_without_noise_keeps_its_start():
    images, labels = make_images(CNN_S, 20)
    weights = make_weights(CNN_S, 2)
    start = np.random.default_rng(0).normal(-8, 1, weights.shape).astype(np.float32)
    twins = populate(BatchedTwins, 
        CNN_S, activation="tanh", optimizer="adam", batch_size=10, weights=weights, seeds=0,
        log_sigma2=start, learning_rate=1e-2, weight_decay=0.1,
    )  # fmt: skip
    twins.train_epoch(images, labels, make_orders(2, 20), 0.01)
    noisy = has_noise(CNN_S)
    np.testing.assert_array_equal(twins.log_sigma2[:, ~noisy], start[:, ~noisy])
    assert (twins.log_sigma2[:, noisy] != start[:, noisy]).mean() > 0.9


def test_a_mask_is_kept_as_by_the_reference_engine():
    images = load_images("digits").subset(train=slice(105))
    data = images.normalized("train"), images.train.labels
    models = [dataclasses.replace(model, dropout=0.0) for model in some_models("adam")]
    pruned = np.random.default_rng(0).random((3, DIGITS.layout.size)) < 0.7
    weights, orders, population = twins_of(models, BatchedPopulation, pruned=pruned)
    runs = [
        reference.train(
            m, DIGITS.layout, images, network=partial(PrunedTwin, parent=w, pruned=mask)
        )
        for m, w, mask in zip(models, weights, pruned, strict=True)
    ]
    for epoch in range(3):
        if epoch:
            population.train_epoch(*data, sample_orders(orders, epoch))
        assert not population.weights[pruned].any()
        assert (population.weights[~pruned] != 0).all()
        for number, run in enumerate(runs):
            expected = next(run).weights.numpy()
            np.testing.assert_allclose(population.weights[number], expected, atol=1e-4)


def test_wrong_arguments():
    weights = np.zeros((2, CNN_S.size), np.float32)
    options = {"activation": "tanh", "optimizer": "adam", "batch_size": 10, "weights": weights,
               "seeds": 0, "learning_rate": 1e-3}  # fmt: skip
    with pytest.raises(ValueError, match=r"log_sigma2 must be \[2, 2464\]"):
        populate(BatchedTwins, CNN_S, log_sigma2=weights[:1], **options)
    with pytest.raises(ValueError, match=r"pruned must be bool \[2, 2464\]"):
        populate(BatchedPopulation, CNN_S, pruned=weights, **options)


@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_cuda_is_torchs(layout, optimizer, device, monkeypatch):
    monkeypatch.setattr(
        test_lanes_twins,
        "LanesTwins",
        lambda layout, models, weights, isa, **options: BatchedTwins(
            layout, models, weights, device=device, **options
        ),
    )
    check_against_torch(layout, "gelu", optimizer, 0.3, steps=20)
