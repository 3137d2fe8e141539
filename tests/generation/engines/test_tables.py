"""Every activation, initialisation, optimizer and schedule of the tables, in every engine."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from model_zoos.builders import hyperparameters
from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import ZOOS, zoo_spec
from model_zoos.builders.hyperparameters import ACTIVATIONS, INITS, OPTIMIZERS
from model_zoos.builders.layout import make_layout
from model_zoos.builders.specification import Model
from model_zoos.generation import networks
from model_zoos.generation.engines import ENGINES, batched, kernels, reference
from model_zoos.generation.engines.batched import blocks
from model_zoos.generation.engines.cuda import CudaPopulation
from model_zoos.generation.engines.kernels import without_kernel
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.images import IMAGE_SOURCES, ImageData, load_images
from model_zoos.generation.schedules import SCHEDULES
from model_zoos.generation.streams import SampleOrders, initial_weights, sample_orders

LAYOUT = zoo_spec("digits_cnn_s").layout
MODEL = zoo_spec("digits_cnn_s").models(1)[0]


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_images("digits").subset(train=slice(20), validation=slice(5), test=slice(5))


def test_every_engine_knows_every_optimizer() -> None:
    for table in (blocks.OPTIMIZERS, kernels.OPTIMIZERS):
        assert set(table) == set(OPTIMIZERS)


def test_the_kernels_know_each_optimizer_by_its_number() -> None:
    source = (kernels.FOLDER / "elementwise.hpp").read_text()
    cases = re.findall(r"case (\d+): return function\((\w+)\(pace\)\)", source)
    assert {name.lower(): int(number) for number, name in cases} == kernels.OPTIMIZERS


def test_a_kernel_refuses_an_unknown_number(
    images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        lanes_count(LAYOUT)
    except LanesUnavailable as reason:
        pytest.skip(str(reason))
    weights = initial_weights(LAYOUT, MODEL.init, MODEL.seed)[0][None]
    population = LanesPopulation(LAYOUT, [MODEL], weights)
    monkeypatch.setitem(kernels.OPTIMIZERS, MODEL.optimizer, len(OPTIMIZERS))
    with pytest.raises(ValueError, match="no optimizer of this number"):
        population.train_epoch(images.normalized("train"), images.train.labels, [[0, 1]])
    np.testing.assert_array_equal(population.weights, weights)


def test_every_schedule_has_its_values() -> None:
    assert set(SCHEDULES) == set(hyperparameters.SCHEDULE_NUMBERS)


def test_the_kernels_have_every_activation() -> None:
    assert without_kernel(LAYOUT, ACTIVATIONS) is None
    assert without_kernel(LAYOUT, ["tanh", "Smooth0"]) == "Smooth0"
    assert without_kernel(make_layout("1x28x28 fc9:relu fc10", 1, 10), ["tanh"]) is None


def test_the_tables_of_architectures_engines_and_images_fit() -> None:
    for architecture in ARCHITECTURES.values():
        assert set(architecture.engines) <= set(ENGINES)
        assert bool(architecture.layers) != (architecture.name in networks.MODULES)
    assert {zoo.images for zoo in ZOOS.values()} <= set(IMAGE_SOURCES)


@pytest.mark.parametrize(
    ("activation", "optimizer"),
    [*((name, "adam") for name in ACTIVATIONS), *(("tanh", name) for name in list(OPTIMIZERS)[1:])],
)
def test_the_engines_train_the_same_model(
    activation: str, optimizer: str, images: ImageData
) -> None:
    """Two epochs of one model by each engine: nothing falls through to something else."""
    model = dataclasses.replace(
        MODEL, activation=activation, optimizer=optimizer, epochs=2, learning_rate=1e-3,
        momentum=0.9 if optimizer in hyperparameters.MOMENTUM_OPTIMIZERS else None,
        init="kaiming_uniform",
    )  # fmt: skip
    states = list(reference.train(model, LAYOUT, images))
    expected = np.stack([state.weights.numpy() for state in states])
    assert (expected[2] != expected[1]).any()
    start, generator = initial_weights(LAYOUT, model.init, model.seed)
    sets = images.normalized("train"), images.train.labels
    kinds = [batched.BatchedPopulation]
    try:
        lanes_count(LAYOUT, activation)
    except LanesUnavailable:
        pass
    else:
        kinds.append(LanesPopulation)
    for kind in kinds:
        population = kind(LAYOUT, [model], start[None], threads=1)
        orders = [SampleOrders(generator, len(sets[1]))]
        for epoch in (1, 2):
            population.train_epoch(*sets, sample_orders(orders, epoch))
            np.testing.assert_allclose(population.weights[0], expected[epoch], atol=2e-5)


@pytest.mark.parametrize("init", INITS)
def test_an_initialisation_is_torchs_of_this_name(init: str) -> None:
    module = networks.build(LAYOUT, "tanh")
    torch.manual_seed(3)
    networks.initialise(module, init)
    torch.manual_seed(3)
    for name, tensor in module.named_parameters():
        if name.endswith("weight"):
            expected = getattr(torch.nn.init, f"{init}_")(torch.empty_like(tensor))
            assert torch.equal(tensor, expected)
        else:
            assert torch.equal(tensor, torch.full_like(tensor, hyperparameters.BIAS))


UNKNOWN = {"activation": "cube", "optimizer": "lion", "scheduler": "warmup"}


@pytest.mark.parametrize("key", UNKNOWN)
@pytest.mark.parametrize("engine", ["reference", "batched", "lanes", "cuda"])
def test_an_unknown_name_is_refused_by_every_engine(
    key: str, engine: str, images: ImageData
) -> None:
    model: Model = dataclasses.replace(MODEL, **{key: UNKNOWN[key]})
    weights = initial_weights(LAYOUT, model.init, model.seed)[0][None]
    if engine == "lanes":
        try:
            lanes_count(LAYOUT)
        except LanesUnavailable as reason:
            pytest.skip(str(reason))

    def train() -> None:
        if engine == "reference":
            list(reference.train(model, LAYOUT, images))
        elif engine == "batched":
            batched.BatchedPopulation(LAYOUT, [model], weights)
        elif engine == "cuda":
            CudaPopulation(LAYOUT, [model], weights)
        else:
            LanesPopulation(LAYOUT, [model], weights)

    with pytest.raises(ValueError, match=f"{key}.*{UNKNOWN[key]}"):
        train()
