"""Networks of the text form in every engine, against plain torch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from torch.nn import functional

from model_zoos.builders.architecture import find_architecture
from model_zoos.builders.hyperparameters import ACTIVATIONS, OPTIMIZERS, SCHEDULE_NUMBERS
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.generation.engines import evaluate
from model_zoos.generation.engines.batched import BatchedPopulation
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.schedules import make_scheduler, schedule
from tests.generation.engines.networks import texts
from tests.generation.engines.oracle import (
    Run,
    logits,
    make_images,
    make_models,
    make_weights,
    torch_steps,
)

NETWORKS = (
    "1x28x28 fc64 drop fc10",
    "1x28x28 fc32:relu fc32:tanh drop fc10",
    "1x28x28 conv16k3s2 drop conv16k3s2 drop conv16k3s2 drop gap fc10",
    "1x28x28 conv6k5p2 pool drop conv16k5 pool fc120 fc84 fc10",
    "3x32x32 conv8k3s2p1 pool conv12k3s2p1:elu drop conv9k3p1 gap fc20 fc10",
)
SCHEDULERS = (None, *SCHEDULE_NUMBERS)
CASES = [
    (
        NETWORKS[(number + number // 5) % 5],
        activation,
        optimizer,
        SCHEDULERS[(number + number // 5 + number // 20) % 4],
        0.5 * (number % 3 == 0),
    )
    for number, (activation, optimizer) in enumerate(itertools.product(ACTIVATIONS, OPTIMIZERS))
]
"""Each pair of values of activation, optimizer, schedule and network at least once."""


def test_each_pair_of_values_is_there() -> None:
    names = (NETWORKS, tuple(ACTIVATIONS), tuple(OPTIMIZERS), SCHEDULERS)
    for (i, first), (j, second) in itertools.combinations(enumerate(names), 2):
        found = {(case[i], case[j]) for case in CASES}
        assert found == set(itertools.product(first, second)), (i, j)


def layout_of(text: str) -> Layout:
    found = find_architecture(text)
    return make_layout(text, found.channels or 1, found.classes or 10)


def kinds(layout: Layout, activation: str, engine: str) -> Any:
    if engine == "batched":
        return BatchedPopulation
    try:
        lanes_count(layout, activation)
    except LanesUnavailable as reason:
        pytest.skip(str(reason))
    return LanesPopulation


def check(
    text: str,
    engine: str,
    activation: str,
    optimizer: str,
    scheduler: str | None,
    dropout: float,
    steps: int = 20,
) -> None:
    """Steps of two models, as close to torch as `Run` asks for; then their evaluation."""
    layout = layout_of(text)
    images, labels = make_images(layout, 60)
    rates = {
        "seed": np.array([3, 2**40 + 7]),
        "learning_rate": np.array([1e-3, 3e-4]),
        "weight_decay": np.array([1e-2, 0.0]),
        "momentum": np.array([0.9, 0.5 if optimizer == "nesterov" else 0.0]),
        "dropout": np.array([1.0, 0.6]) * dropout,
    }
    weights = make_weights(layout, 2)
    orders = np.random.default_rng(1).integers(0, len(images), (2, 10 * steps))
    given = {"seeds" if name == "seed" else name: values for name, values in rates.items()}
    models = make_models(
        2, activation=activation, optimizer=optimizer, batch_size=10, scheduler=scheduler,
        epochs=steps, **given,
    )  # fmt: skip
    population = kinds(layout, activation, engine)(layout, models, weights, threads=1)
    ours = [weights]
    for batch in np.split(orders, steps, axis=1):
        population.train_epoch(images, labels, batch)
        ours.append(population.weights)
    assert np.abs(ours[-1] - ours[0]).max() > 1e-5
    for model in range(2):
        own = {name: values[model] for name, values in rates.items()}
        run = Run(
            layout, activation, optimizer, images, labels, orders[model],
            {**own, "scheduler": scheduler}, [weights[model] for weights in ours], neighbours=20,
        )  # fmt: skip
        assert run.first_step_apart({}) is None or run.agrees_but_for_close_calls(), model
        parameters = {k: torch.tensor(v) for k, v in layout.to_state_dict(ours[-1][model]).items()}
        out = logits(layout, activation, parameters, torch.tensor(images)).double()
        expected = functional.cross_entropy(out, torch.tensor(labels)).item()
        assert population.evaluate(images, labels)[0][model] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if number % 11 == 0 else [pytest.mark.slow])
        for number, case in enumerate(CASES)
    ],
    ids=lambda case: "-".join(map(str, case[1:])),
)
@pytest.mark.parametrize("engine", ["batched", "lanes"])
def test_networks_are_torchs(engine: str, case: tuple[str, str, str, str | None, float]) -> None:
    text, *more = case
    check(text, engine, *more)


@pytest.mark.parametrize("engine", ["batched", "lanes"])
def test_images_can_have_any_number_of_channels(engine: str) -> None:
    check("4x12x12 conv6k3s2 drop fc8 fc3", engine, "gelu", "adam", None, 0.5)


def _check_any(text: str, engine: str) -> None:
    number = sum(map(ord, text))
    check(
        text,
        engine,
        list(ACTIVATIONS)[number % 10],
        list(OPTIMIZERS)[number % 5],
        SCHEDULERS[number % 4],
        0.5 * (number % 3 == 0),
        steps=20,
    )


ANY = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(ANY, max_examples=12)
@given(texts())
@example("1x1x1 fc2")
@example("3x5x5 conv3k2s2p1 pool drop fc2")
def test_any_network_is_torchs_in_batched(text: str) -> None:
    _check_any(text, "batched")


@settings(ANY, max_examples=2)
@given(texts())
@example("3x9x9 conv7k3s3p2:silu pool drop gap fc5")
def test_any_network_is_torchs_in_lanes(text: str) -> None:
    _check_any(text, "lanes")


@pytest.mark.slow
@settings(ANY, max_examples=40)
@given(texts())
def test_many_networks_are_torchs_in_lanes(text: str) -> None:
    _check_any(text, "lanes")


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "step(epochs=2, factor=0.5)"])
@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 4), (7, 3), (50, 11)])
def test_schedules_are_torchs(
    scheduler: str | None, optimizer: str, epochs: int, steps: int
) -> None:
    [model] = make_models(
        1, activation="tanh", optimizer=optimizer, batch_size=10, learning_rate=3e-3,
        scheduler=scheduler, epochs=epochs, momentum=0.9,
    )  # fmt: skip
    found = schedule(scheduler, epochs, steps)
    parameter = torch.nn.Parameter(torch.zeros(1))
    stepper: torch.optim.Optimizer = (
        torch.optim.Adam([parameter], lr=3e-3)
        if optimizer == "adam"
        else torch.optim.SGD([parameter], lr=3e-3, momentum=0.9, nesterov=True)
    )
    torchs = make_scheduler(stepper, model, steps)
    if found is None or torchs is None:
        assert found is None
        assert torchs is None
        return
    for step in range(epochs * steps):
        [group] = stepper.param_groups
        assert 3e-3 * found.factor[step] == pytest.approx(group["lr"], rel=1e-9, abs=1e-15)
        if found.momentum is not None:
            momentum = group["betas"][0] if optimizer == "adam" else group["momentum"]
            assert found.momentum[step] == pytest.approx(momentum, rel=1e-12)
        stepper.step()
        if step + 1 < epochs * steps:
            torchs.step()


@pytest.mark.parametrize("text", NETWORKS[1::2])
def test_evaluation_is_the_same_by_every_engine(text: str) -> None:
    layout = layout_of(text)
    images, labels = make_images(layout, 30)
    weights = make_weights(layout, 3)
    expected = evaluate(weights, layout, "selu", images, labels, engine="reference", threads=1)
    for engine in ("batched", "lanes"):
        kinds(layout, "selu", engine)
        found = evaluate(weights, layout, "selu", images, labels, engine=engine, threads=1)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_array_equal(found[1], expected[1])


def test_plain_steps_are_those_of_the_oracle() -> None:
    """The oracle itself, with a network written out."""
    layout = layout_of("1x6x6 conv2k3s2p1:relu gap fc3")
    images, labels = make_images(layout, 10)
    [start] = make_weights(layout, 1)
    [after] = torch_steps(
        layout, start, images, labels, np.arange(10), 10, torch.float64, activation="tanh",
        optimizer="sgd", learning_rate=0.1,
    )  # fmt: skip
    conv, fc = torch.nn.Conv2d(1, 2, 3, 2, 1).double(), torch.nn.Linear(2, 3).double()
    state = {k: torch.tensor(v) for k, v in layout.to_state_dict(start.astype(np.float64)).items()}
    conv.load_state_dict({"weight": state["conv1.weight"], "bias": state["conv1.bias"]})
    fc.load_state_dict({"weight": state["fc1.weight"], "bias": state["fc1.bias"]})
    out = fc(torch.relu(conv(torch.tensor(images).double())).mean((2, 3)))
    functional.cross_entropy(out, torch.tensor(labels)).backward()
    expected = torch.cat(
        [(p - 0.1 * p.grad).flatten() for p in (*conv.parameters(), *fc.parameters())]  # type: ignore[operator]
    )
    np.testing.assert_allclose(after, expected.detach().numpy(), atol=1e-12)
