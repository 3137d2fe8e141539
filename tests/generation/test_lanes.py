"""The lane kernel against torch, against itself on other paths, and against a published zoo."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_zoos.builders.layout import ARCHITECTURES, Layout, make_layout
from model_zoos.generation.architectures import ACTIVATIONS, INITS
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.engines.lanes.library import architecture_header, load, usable_isas
from model_zoos.generation.streams import (
    SampleOrders,
    dropout_masks,
    initial_weights,
    sample_orders,
)

from ..shared import SEED_ZOO, needs_shared, raw_zoo, raw_zoo_images

try:
    ISAS = usable_isas()
except LanesUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

CNN_S = make_layout("cnn_s", channels=1)
CNN_L = make_layout("cnn_l", channels=3)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Every kernel of these tests is built by these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_ZOOS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_images(layout: Layout, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blurred noise with a class mean each, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    side = ARCHITECTURES[layout.architecture].image_size
    means = rng.normal(size=(layout.classes, layout.channels, side, side))
    labels = rng.integers(0, layout.classes, n)
    images = 0.5 * means[labels] + 0.5 * rng.normal(size=(n, layout.channels, side, side))
    return images.astype(np.float32), labels


def make_weights(layout: Layout, count: int, init: str = "kaiming_uniform") -> np.ndarray:
    return np.stack([initial_weights(layout, init, seed)[0] for seed in range(count)])


def make_orders(count: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(count)])


def logits(layout, activation, parameters, x, masks=(), gaps=None) -> torch.Tensor:
    """A CNN of the zoos in plain torch calls, from its specification.

    `gaps` is a list that receives by how much each pooling layer's closest decision was made: the
    largest of four sums against the next, and against 0 where relu follows, as share of the scale.
    """
    masks = iter(masks)
    for layer in ARCHITECTURES[layout.architecture].layers:
        tensors = parameters[f"{layer.name}.weight"], parameters[f"{layer.name}.bias"]
        if layer.kernel is not None:
            x = functional.conv2d(x, *tensors)
        else:
            x = functional.linear(x.flatten(1), *tensors)
        if layer.pool:
            if gaps is not None:
                sums = functional.unfold(x.flatten(0, 1)[:, None], 2, stride=2).sort(1).values
                scale = sums.abs().max()
                gaps.append(((sums[:, 3] - sums[:, 2]).min() / scale).item())
                if activation == "relu":
                    gaps.append((sums[:, 3].abs().min() / scale).item())
            x = functional.max_pool2d(x, 2)
        if layer.activation:
            x = ACTIVATIONS[activation]()(x)
        if layer.dropout:
            mask = next(masks, None)
            x = x if mask is None else x * mask
    return x


def torch_steps(
    layout: Layout, weights, images, labels, order, batch_size, dtype, *, activation, optimizer,
    seed=0, learning_rate=1e-3, weight_decay=0.0, momentum=0.0, dropout=0.0,
) -> np.ndarray:  # fmt: skip
    """One model trained by torch.optim in the lane kernel's order of samples and with its masks.

    Returns:
        float64 [steps, N], the weights after each step.
    """
    parameters = {
        name: torch.tensor(tensor, dtype=dtype, requires_grad=True)
        for name, tensor in layout.to_state_dict(weights).items()
    }
    options = {"lr": learning_rate, "weight_decay": weight_decay}
    if optimizer == "adam":
        step = torch.optim.Adam(parameters.values(), **options)
    else:
        step = torch.optim.SGD(parameters.values(), momentum=momentum, **options)
    x, y = torch.tensor(images, dtype=dtype), torch.tensor(labels)
    after = []
    for number, batch in enumerate(torch.tensor(order).split(batch_size)):
        masks = torch_masks(layout, seed, dropout, number, len(batch), dtype)
        step.zero_grad()
        out = logits(layout, activation, parameters, x[batch], masks)
        functional.cross_entropy(out, y[batch]).backward()
        step.step()
        after.append(torch.cat([p.detach().flatten() for p in parameters.values()]))
    return torch.stack(after).double().numpy()


def torch_masks(layout, seed, rate, step, batch_size, dtype) -> list[torch.Tensor]:
    masks = dropout_masks(layout, seed, rate, step, batch_size) if rate > 0 else []
    return [torch.tensor(mask, dtype=dtype) for mask in masks]


# Against torch


def check_against_torch(layout, activation, optimizer, init, dropout, steps):
    """Lanes with other rates beside each other; the unit is torch float32's distance from float64.

    One fixed tolerance would not do: Adam moves a weight whose gradient is rounding noise by the
    whole learning rate. And where two sums under a pooling window agree to seven digits, either may
    win: then rounding decides which way the gradient goes, and all that follows. In one of forty
    runs of 200 steps lanes and torch part for that reason; so one of the three models may, if
    there was such a close call.
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
    population = LanesPopulation(
        layout, activation=activation, optimizer=optimizer, batch_size=10, weights=weights,
        **{"seeds" if name == "seed" else name: values for name, values in rates.items()},
    )  # fmt: skip
    ours = [weights]
    for batch in np.split(orders, steps, axis=1):
        population.train_epoch(images, labels, batch)
        ours.append(population.weights)
    parted = []
    for model in range(3):
        options = {name: values[model] for name, values in rates.items()}
        single, double = (
            torch_steps(
                layout, weights[model], images, labels, orders[model], 10, dtype,
                activation=activation, optimizer=optimizer, **options,
            )
            for dtype in (torch.float32, torch.float64)
        )  # fmt: skip
        allowed = max(3 * np.abs(single - double).max(), 1e-6)
        apart = np.abs(np.array([our[model] for our in ours[1:]]) - single).max(1)
        if apart.max() <= allowed:
            continue
        parted.append(f"model {model}: {apart.max()} apart, {allowed} allowed")
        gaps = []
        for step in range(int((apart > allowed).argmax()) + 1):
            state = layout.to_state_dict(ours[step][model].astype(np.float64))
            parameters = {name: torch.tensor(tensor) for name, tensor in state.items()}
            x = torch.tensor(images[orders[model][10 * step :][:10]], dtype=torch.float64)
            masks = torch_masks(
                layout, options["seed"], options["dropout"], step, 10, torch.float64
            )
            logits(layout, activation, parameters, x, masks, gaps)
        assert min(gaps) < 1e-6, parted
    assert len(parted) <= 1, parted


EACH = list(itertools.product(ACTIVATIONS, ["adam", "sgd"], INITS, [0.0, 0.5]))


@pytest.mark.parametrize(("activation", "optimizer", "init", "dropout"), EACH)
def test_one_step_is_torchs(activation, optimizer, init, dropout):
    check_against_torch(CNN_S, activation, optimizer, init, dropout, steps=1)


@pytest.mark.parametrize(
    ("activation", "optimizer", "init", "dropout"),
    [
        # Each activation, optimizer, init and rate at least twice here, all combinations if slow.
        pytest.param(*case, marks=[] if number % 9 == 0 else [pytest.mark.slow])
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


@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_and_accuracies_are_torchs(layout, activation):
    images, labels = make_images(layout, 57)
    weights = make_weights(layout, 2)
    population = LanesPopulation(
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


def test_last_batch_is_divided_by_its_own_size():
    images, labels = make_images(CNN_S, 23)
    weights, orders = make_weights(CNN_S, 1), make_orders(1, 23)
    options = {"activation": "tanh", "optimizer": "sgd", "learning_rate": 0.1}
    population = LanesPopulation(CNN_S, batch_size=10, weights=weights, seeds=0, **options)
    population.train_epoch(images, labels, orders)
    expected = torch_steps(
        CNN_S, weights[0], images, labels, orders[0], 10, torch.float32, **options
    )[-1]
    np.testing.assert_allclose(population.weights[0], expected, atol=2e-7)


def test_pooling_takes_the_first_of_equal_sums():
    """With first-layer weights of zero all sums are equal: torch's choice decides the gradient."""
    images, labels = make_images(CNN_S, 4)
    weights = make_weights(CNN_S, 1)
    weights[0, CNN_S.layers["conv1"]["weight"].slice] = 0
    options = {"activation": "tanh", "optimizer": "sgd", "learning_rate": 1.0}
    order = np.arange(4)[None]
    population = LanesPopulation(CNN_S, batch_size=4, weights=weights, seeds=0, **options)
    population.train_epoch(images, labels, order)
    expected = torch_steps(
        CNN_S, weights[0], images, labels, order[0], 4, torch.float32, **options
    )[-1]
    moved = np.abs(expected - weights[0])[CNN_S.layers["conv1"]["weight"].slice]
    assert moved.max() > 1e-3
    np.testing.assert_allclose(population.weights[0], expected, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_wins_in_pooling(activation, isa):
    """A NaN pixel in a corner lies under one window only, in its first or its last place."""
    images, labels = make_images(CNN_S, 4)
    for image, (y, x) in zip(images[:3], [(0, 0), (0, 27), (27, 27)], strict=True):
        image[0, y, x] = np.nan
    population = LanesPopulation(
        CNN_S, activation=activation, optimizer="sgd", batch_size=1, weights=make_weights(CNN_S, 1),
        seeds=0, learning_rate=0.0, isa=isa,
    )  # fmt: skip
    for image in range(3):
        loss, accuracy = population.evaluate(images[image : image + 1], np.zeros(1, int))
        assert np.isnan(loss[0])
        assert accuracy[0] == 1  # torch predicts the first NaN
    assert np.isfinite(population.evaluate(images[3:], labels[3:])[0][0])


def test_odd_rows_and_columns_are_dropped():
    """CNN-l pools 13 sums to 6: the last row and column of its second layer change nothing."""
    images, labels = make_images(CNN_L, 3)
    changed = images.copy()
    # Sum (12, .) of conv2 sees rows 12..14 of conv1's pooled output, 14 sees pixels 28..31; rows
    # up to 13 also see pixels up to 29, so only the last two rows and columns are free.
    changed[:, :, 30:] = 7
    changed[:, :, :, 30:] = -7
    population = LanesPopulation(
        CNN_L, activation="relu", optimizer="sgd", batch_size=1, weights=make_weights(CNN_L, 2),
        seeds=0, learning_rate=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(
        population.evaluate(images, labels), population.evaluate(changed, labels)
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_diverged_lane_is_nan_like_torchs_and_leaves_others_alone(activation, optimizer):
    images, labels = make_images(CNN_S, 100)
    weights, orders = make_weights(CNN_S, 3, "uniform"), make_orders(3, 100)
    results = []
    for rate in (1e-3, 1e3):
        population = LanesPopulation(
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


# The same bits on every path


def train(layout, models, threads=None, isa="auto", optimizer="adam", activation="tanh"):
    """Some models of a population in which each has its own everything: each one's bytes."""
    everyone = 64
    images, labels = make_images(layout, 44)
    rng = np.random.default_rng(2)
    weights = make_weights(layout, 4)[rng.integers(0, 4, everyone)]
    orders = make_orders(everyone, 44)[models]
    population = LanesPopulation(
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
        (CNN_S, "tanh", "adam"),
        (CNN_S, "gelu", "adam"),
        (CNN_S, "sigmoid", "sgd"),
        (CNN_L, "relu", "adam"),
        (make_layout("cnn_s", channels=3, classes=7), "relu", "sgd"),
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
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture)
def test_masks_are_those_of_the_streams(layout, isa):
    seeds = np.array([0, 1, 2**63 - 1, -1, 2**32, -(2**63)])
    rates = np.array([0.5, 0.1, 0.9, 0.0, 1 / 3, 1 - 2**-20])
    population = LanesPopulation(
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


# Against a published zoo


@needs_shared
def test_repeats_a_published_zoo_from_its_images():
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
    population = LanesPopulation(
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


# Building


def test_header_is_the_architecture():
    header = architecture_header(make_layout("cnn_l", channels=3, classes=7), "gelu")
    assert "kChannels = 3, kSide = 32" in header
    assert "Activation::gelu" in header
    assert "{15, 3, true, true, true},  // conv3" in header
    assert "{7, 0, false, false, false},  // fc2" in header


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
    assert load(CNN_S, "tanh").weights_count() == CNN_S.size
    assert (tmp_path / "file").read_text() == ""


def test_instruction_set_by_environment(monkeypatch):
    monkeypatch.setenv("MODEL_ZOOS_ISA", "portable")
    assert lanes_count(CNN_S) == 4
    monkeypatch.setenv("MODEL_ZOOS_ISA", "mmx")
    with pytest.raises(ValueError, match="unknown instruction set 'mmx'"):
        load(CNN_S, "tanh")


def test_unknown_network():
    with pytest.raises(ValueError, match="not ResNet-18"):
        load(make_layout("resnet18", channels=3), "relu")
    with pytest.raises(ValueError, match="unknown activation 'selu'"):
        load(CNN_S, "selu")


# Wrong arguments never reach the kernel


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((2, 100))}, r"weights must be \[P, 2464\]"),
        ({"weights": np.zeros((0, 2464))}, "weights must be"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"batch_size": 0}, "batch_size"),
        ({"dropout": 1.0}, "dropout rates"),
        ({"dropout": [0.1, np.nan]}, "dropout rates"),
        ({"learning_rate": [1e-3] * 3}, "learning_rate must be one number or"),
        ({"seeds": 0.5}, "seeds must be integers"),
    ],
)
def test_wrong_population(changes, message):
    options = {
        "activation": "tanh", "optimizer": "adam", "batch_size": 10,
        "weights": np.zeros((2, 2464)), "seeds": 0, "learning_rate": 1e-3,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        LanesPopulation(CNN_S, **(options | changes))


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
def test_wrong_data(changes, message):
    population = LanesPopulation(
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
