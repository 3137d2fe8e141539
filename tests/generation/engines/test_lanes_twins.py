"""The lane kernel of sparse twins against torch, and against itself on other paths."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.generation.engines.lanes import LanesTwins, LanesUnavailable
from model_zoos.generation.engines.lanes.blocks import aligned
from model_zoos.generation.engines.lanes.library import usable_isas
from model_zoos.generation.streams import dropout_masks, gaussian_noise
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    logits,
    make_images,
    make_orders,
    make_weights,
    populate,
)

try:
    ISAS = usable_isas()
except LanesUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def has_noise(layout: Layout) -> np.ndarray:
    """Which weights do, bool [N]: all but the biases of linear layers."""
    noisy = np.ones(layout.size, bool)
    for layer in layout.architecture.layers:
        if layer.kernel is None:
            noisy[layout.layers[layer.name]["bias"].slice] = False
    return noisy


def bounds(layout: Layout) -> np.ndarray:
    """Of log_alpha, [N]: 8 in convolutions, 10 in linear layers."""
    bound = np.full(layout.size, 10)
    for layer in layout.architecture.layers:
        if layer.kernel is not None:
            for slot in layout.layers[layer.name].values():
                bound[slot.slice] = 8
    return bound


def make_log_sigma2(layout: Layout, weights: np.ndarray, seed: int = 0) -> np.ndarray:
    """log_alpha from below the lower bound to above the upper one (of small weights), most below 3.

    More noise on larger weights makes activations of a thousand, and chaos in torch's float32 too.
    """
    rng = np.random.default_rng(seed)
    log_alpha = rng.uniform(-12, 0, weights.shape)
    log_alpha[rng.random(weights.shape) < 0.05] = 4
    log_alpha[np.abs(weights) < 0.01] = 11
    return (log_alpha + 2 * np.log(np.abs(weights) + 1e-15)).astype(np.float32)


def make_twins(count: int = 1, layout: Layout = CNN_S, **changes) -> LanesTwins:
    """Twins with means and everything else as in an ordinary zoo, but for the changes."""
    weights = changes.pop("weights", None)
    weights = make_weights(layout, count) if weights is None else weights
    options = {
        "activation": "tanh", "optimizer": "adam", "batch_size": 10, "seeds": 0,
        "learning_rate": 1e-3, "weights": weights, "log_sigma2": np.full(weights.shape, -10.0),
    }  # fmt: skip
    return populate(LanesTwins, layout, **(options | changes))


# The original's formulas (its def_net_distillation.py) in plain torch


def log_alphas(mean: torch.Tensor, log_sigma2: torch.Tensor, bound: Any) -> torch.Tensor:
    return torch.clamp(log_sigma2 - 2 * torch.log(torch.abs(mean) + 1e-15), -bound, bound)


def divergence(log_alpha: torch.Tensor) -> torch.Tensor:
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    shares = k1 * torch.sigmoid(k2 + k3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha)) - k1
    return -shares.sum()


def noisy_logits(layout, activation, means, log_sigma2s, x, noise, masks=(), close=None):
    """Logits in training mode and the divergence; `close` as in oracle.logits."""
    divergences = []

    def added(number, name, x):
        weight, bias = means[f"{name}.weight"], means[f"{name}.bias"]
        convolution = weight.ndim == 4
        bound = 8 if convolution else 10
        log_alpha = log_alphas(weight, log_sigma2s[f"{name}.weight"], bound)
        divergences.append(divergence(log_alpha))
        variances = torch.exp(log_alpha) * weight * weight
        if convolution:
            log_alpha = log_alphas(bias, log_sigma2s[f"{name}.bias"], bound)
            divergences.append(divergence(log_alpha))
            spread = functional.conv2d(x * x, variances, torch.exp(log_alpha) * bias * bias)
        else:
            spread = functional.linear(x * x, variances)
        return torch.sqrt(spread + 1e-15) * noise[number]

    out = logits(layout, activation, means, x, masks, close=close, noise=added)
    return out, sum(divergences)


def draws(layout, seed, rate, step, batch_size, dtype):
    """Noise and masks of a step."""
    masks = dropout_masks(layout, seed, rate, step, batch_size) if rate > 0 else []
    noise = gaussian_noise(layout, seed, step, batch_size)
    return tuple([torch.tensor(np.array(part), dtype=dtype) for part in x] for x in (noise, masks))


def torch_steps(
    layout, weights, log_sigma2, images, labels, order, batch_size, dtype, *, activation, optimizer,
    kl_weight, seed=0, learning_rate=1e-3, weight_decay=0.0, momentum=0.0, dropout=0.0,
) -> np.ndarray:  # fmt: skip
    """One twin trained by torch.optim: float64 [steps, 2, N], means and log_sigma2."""
    means, log_sigma2s = (
        {
            name: torch.tensor(tensor, dtype=dtype, requires_grad=True)
            for name, tensor in layout.to_state_dict(vector).items()
        }
        for vector in (weights, log_sigma2)
    )
    options = {"lr": learning_rate, "weight_decay": weight_decay}
    parameters = [*means.values(), *log_sigma2s.values()]
    if optimizer == "adam":
        step = torch.optim.Adam(parameters, **options)
    else:
        step = torch.optim.SGD(parameters, momentum=momentum, **options)
    x, y = torch.tensor(images, dtype=dtype), torch.tensor(labels)
    after = []
    for number, batch in enumerate(torch.tensor(order).split(batch_size)):
        noise, masks = draws(layout, seed, dropout, number, len(batch), dtype)
        step.zero_grad()
        out, total = noisy_logits(layout, activation, means, log_sigma2s, x[batch], noise, masks)
        (functional.cross_entropy(out, y[batch]) + kl_weight * total).backward()
        step.step()
        after.append(torch.cat([p.detach().flatten() for p in parameters]).reshape(2, -1))
    return torch.stack(after).double().numpy()


def check_against_torch(
    layout, activation, optimizer, dropout, steps, kl_weight=0.01, batch_size=10, isa="auto"
):
    """Ours is at most three times as far from torch float64 as torch float32 is, or 1e-6.

    One of the three twins may part at a close call, see oracle.logits.
    """
    images, labels = make_images(layout, 250)
    rates = {
        "seed": np.array([3, 2**40 + 7, -11]),
        "learning_rate": np.array([1e-3, 3e-4, 1e-4]) * (0.1 if optimizer == "sgd" else 1),
        "weight_decay": np.array([0.0, 1e-3, 1e-4]),
        "momentum": np.array([0.0, 0.9, 0.5]),
        "dropout": np.array([1.0, 0.6, 0.0]) * dropout,
    }
    # Near 0 the gradient of a free log_alpha is -2 / mean: sgd is soon thrown to NaN, torch's too.
    weights = make_weights(layout, 3)
    weights = np.copysign(np.maximum(np.abs(weights), np.float32(0.02)), weights)
    extreme = steps == 1 or optimizer == "adam"
    if extreme:
        weights[:, ::50], weights[:, 1::50] = 0, 1e-3
    log_sigma2 = make_log_sigma2(layout, weights)
    if extreme:
        log_sigma2[:, ::100], log_sigma2[:, ::200] = -10, -69  # bounded, and within the bounds
    orders = np.random.default_rng(1).integers(0, len(images), (3, batch_size * steps))
    population = populate(LanesTwins, 
        layout, activation=activation, optimizer=optimizer, batch_size=batch_size, weights=weights,
        log_sigma2=log_sigma2, isa=isa,
        **{"seeds" if name == "seed" else name: values for name, values in rates.items()},
    )  # fmt: skip
    ours = [np.stack([weights, log_sigma2], 1)]
    for batch in np.split(orders, steps, axis=1):
        population.train_epoch(images, labels, batch, kl_weight)
        ours.append(np.stack([population.mean, population.log_sigma2], 1))
    parted = []
    for model in range(3):
        options = {name: values[model] for name, values in rates.items()}
        single, double = (
            torch_steps(
                layout, weights[model], log_sigma2[model], images, labels, orders[model],
                batch_size, dtype, activation=activation, optimizer=optimizer, kl_weight=kl_weight,
                **options,
            )
            for dtype in (torch.float32, torch.float64)
        )  # fmt: skip
        allowed = np.maximum(3 * np.abs(single - double).max((0, 2)), 1e-6)
        apart = np.abs(np.array([our[model] for our in ours[1:]]) - double).max(2)
        if (apart <= allowed).all():
            continue
        parted.append(f"model {model}: {apart.max(0)} apart, {allowed} allowed")
        close = {}
        for step in range(int((apart > allowed).any(1).argmax()) + 1):
            tensors = [
                {name: torch.tensor(tensor) for name, tensor in layout.to_state_dict(part).items()}
                for part in ours[step][model].astype(np.float64)
            ]
            chosen = orders[model][batch_size * step :][:batch_size]
            x = torch.tensor(images[chosen], dtype=torch.float64)
            noise, masks = draws(
                layout, options["seed"], options["dropout"], step, batch_size, torch.float64
            )
            noisy_logits(layout, activation, *tensors, x, noise, masks, close)
        assert close, parted
    assert len(parted) <= 1, parted


def slow(case, condition: bool):
    """Every kernel takes seconds to build: the quick tests keep to four."""
    return pytest.param(*case, marks=pytest.mark.slow if condition else [])


EACH = list(itertools.product(ACTIVATIONS, ["adam", "sgd"], [0.0, 0.5]))


@pytest.mark.parametrize(
    ("activation", "optimizer", "dropout"),
    [slow(case, case[0] not in ("tanh", "relu")) for case in EACH],
)
def test_one_step_is_torchs(activation, optimizer, dropout):
    check_against_torch(CNN_S, activation, optimizer, dropout, steps=1)


@pytest.mark.parametrize(
    ("activation", "optimizer", "dropout"),
    [slow(case, case not in [("tanh", "adam", 0.5), ("relu", "sgd", 0.0)]) for case in EACH],
)
def test_20_steps_are_torchs(activation, optimizer, dropout):
    check_against_torch(CNN_S, activation, optimizer, dropout, steps=20)


@pytest.mark.parametrize(
    ("layout", "activation"),
    [
        (CNN_L, "tanh"),
        slow((CNN_L, "relu"), True),
        slow((CNN_L, "gelu"), True),
        slow((CNN_L, "sigmoid"), True),
        slow((make_layout("cnn_s", channels=3), "relu"), True),
        slow((make_layout("cnn_s", channels=1, classes=7), "gelu"), True),
        slow((make_layout("cnn_l", channels=1, classes=43), "gelu"), True),
    ],
)
def test_other_networks_are_torchs(layout, activation):
    check_against_torch(layout, activation, "adam", 0.5, steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_instruction_set_is_torchs(isa, optimizer):
    check_against_torch(CNN_S, "tanh", optimizer, 0.5, steps=20, isa=isa)


def test_gradient_of_the_divergence():
    """What kl_weight adds to a step of plain gradient descent, and where it adds nothing."""
    images, labels = make_images(CNN_S, 4)
    weights = make_weights(CNN_S, 2)
    log_sigma2 = make_log_sigma2(CNN_S, weights)
    moved = []
    for kl_weight in (0.0, 0.5):
        twins = make_twins(
            weights=weights, log_sigma2=log_sigma2, optimizer="sgd", learning_rate=0.25
        )
        twins.train_epoch(images, labels, np.arange(8).reshape(2, 4) % 4, kl_weight)
        moved.append(np.stack([twins.mean, twins.log_sigma2]).astype(np.float64))
    mean, free = (
        torch.tensor(values, dtype=torch.float64, requires_grad=True)
        for values in (weights, log_sigma2)
    )
    noisy, bound = has_noise(CNN_S), torch.tensor(bounds(CNN_S), dtype=torch.float64)
    divergence(log_alphas(mean, free, bound)[:, noisy]).backward()
    for parameter, part in enumerate((mean, free)):
        found, expected = (moved[0] - moved[1])[parameter], 0.125 * part.grad.numpy()
        scale = np.abs(moved).max(0)[parameter]  # of what the difference was taken
        assert (np.abs(found - expected) <= 3e-7 * scale + 2e-6 * np.abs(expected)).all()
        assert (np.abs(expected) > 1e-3).mean() > 0.5
    # Where log_alpha is bounded, and where there is no noise, log_sigma2 has no gradient at all.
    log_alpha = log_sigma2 - 2 * np.log(np.abs(weights.astype(np.float64)) + 1e-15)
    still = (np.abs(log_alpha) > bounds(CNN_S) + 1e-3) | ~noisy
    assert 0.1 < still.mean() < 0.9
    for values in moved:
        np.testing.assert_array_equal(values[1][still], log_sigma2[still])
    assert (moved[1][1] != log_sigma2)[~still].mean() > 0.9


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_linear_biases_keep_their_log_sigma2(optimizer):
    """As parameters that torch.optim finds without a gradient; the others feel weight decay."""
    images, labels = make_images(CNN_S, 20)
    twins = make_twins(2, optimizer=optimizer, weight_decay=0.1, momentum=0.9)
    twins.train_epoch(images, labels, make_orders(2, 20), 0.0)
    changed = twins.log_sigma2 != -10
    np.testing.assert_array_equal(changed[:, ~has_noise(CNN_S)], False)
    assert changed[:, has_noise(CNN_S)].mean() > 0.99


def test_losses_are_those_of_the_cross_entropy():
    """With a learning rate of 0, sample by sample in torch."""
    images, labels = make_images(CNN_S, 23)
    twins = make_twins(
        2, log_sigma2=np.full((2, CNN_S.size), -3.0), learning_rate=0.0, seeds=[5, 6]
    )
    orders = make_orders(2, 23)
    loss, accuracy = twins.train_epoch(images, labels, orders, 1.0)
    for model in range(2):
        means, log_sigma2s = (
            {name: torch.tensor(value) for name, value in CNN_S.to_state_dict(vector).items()}
            for vector in (twins.mean[model], twins.log_sigma2[model])
        )
        losses, correct = [], []
        for step, batch in enumerate(torch.tensor(orders[model]).split(10)):
            noise, _ = draws(CNN_S, 5 + model, 0.0, step, len(batch), torch.float32)
            x, y = torch.tensor(images)[batch], torch.tensor(labels)[batch]
            out, _ = noisy_logits(CNN_S, "tanh", means, log_sigma2s, x, noise)
            losses.append(functional.cross_entropy(out, y, reduction="none"))
            correct.append(out.argmax(1) == y)
        assert loss[model] == pytest.approx(torch.cat(losses).double().mean().item(), rel=1e-5)
        assert accuracy[model] == torch.cat(correct).double().mean().item()


@pytest.mark.parametrize(
    ("layout", "isa"),
    [
        slow((layout, isa), isa not in ISAS[: 2 if layout == CNN_S else 1])
        for layout in (CNN_S, CNN_L)
        for isa in ISAS
    ],
)
def test_noise_is_that_of_the_streams(layout, isa):
    seeds = np.array([0, 1, 2**63 - 1, -1, 2**32, -(2**63)])
    twins = make_twins(6, layout, seeds=seeds, isa=isa)
    library = twins._library
    for step, sample in ((0, 0), (1, 2), (2**32 - 1, 1), (2**40 + 3, 2)):
        parts = gaussian_noise(layout, seeds, step, batch_size=3)
        channels_last = [
            (np.moveaxis(part, 2, -1) if part.ndim > 3 else part)[:, sample] for part in parts
        ]
        expected = np.concatenate([part.reshape(6, -1) for part in channels_last], axis=1)
        found = []
        for block in twins._rates:
            noise = aligned((expected.shape[1] + 3, library.lanes_count()))
            units = library.gaussian_noise(block.ctypes.data, step, sample, noise.ctypes.data)
            assert units == expected.shape[1]
            found.append(noise[:units])
        found = np.concatenate(found, axis=1)[:, :6].T
        np.testing.assert_allclose(found, expected, rtol=5e-7, atol=1e-15)


# Pruning and evaluation


def test_pruned_weights_are_zero_in_evaluation():
    images, labels = make_images(CNN_S, 50)
    means = make_weights(CNN_S, 3)
    means[:, ::7] = 0
    log_sigma2 = make_log_sigma2(CNN_S, means)
    log_sigma2[:, ::7] = -10
    log_alpha = log_sigma2.astype(np.float64) - 2 * np.log(np.abs(means.astype(np.float64)) + 1e-15)
    assert np.abs(log_alpha - 3).min() > 1e-5
    pruned = (log_alpha >= 3) & has_noise(CNN_S)
    assert 0.05 < pruned.mean() < 0.5
    twins = make_twins(weights=means, log_sigma2=log_sigma2)
    np.testing.assert_array_equal(twins.weights, np.where(pruned, np.float32(0), means))
    np.testing.assert_array_equal(twins.mean, means)
    np.testing.assert_array_equal(twins.log_sigma2, log_sigma2)
    loss, accuracy = twins.evaluate(images, labels)
    for model in range(3):
        tensors = CNN_S.to_state_dict(twins.weights[model]).items()
        out = logits(CNN_S, "tanh", {k: torch.tensor(v) for k, v in tensors}, torch.tensor(images))
        expected = functional.cross_entropy(out.double(), torch.tensor(labels)).item()
        assert loss[model] == pytest.approx(expected, rel=1e-6)
        assert accuracy[model] == (out.argmax(1).numpy() == labels).mean()


def test_threshold_belongs_to_the_pruned():
    """A mean of 1 has log_alpha = log_sigma2 to the bit."""
    below, above = np.nextafter(np.float32(3), [np.float32(0), np.float32(9)])
    log_sigma2 = np.resize(np.array([below, 3, above], np.float32), (1, CNN_S.size))
    twins = make_twins(weights=np.ones((1, CNN_S.size)), log_sigma2=log_sigma2)
    pruned = (log_sigma2 >= 3) & has_noise(CNN_S)
    np.testing.assert_array_equal(twins.weights, np.where(pruned, 0, 1))


def test_twins_become_sparse():
    """With one image and a large weight of the divergence nearly all is noise."""
    images, labels = make_images(CNN_S, 1)
    twins = make_twins(2, learning_rate=0.02)
    for _ in range(3):
        twins.train_epoch(images, labels, np.zeros((2, 1000), int), 1.0)
    assert (twins.weights == 0)[:, has_noise(CNN_S)].mean() > 0.9


# The same bits on every path


def train(layout, models, threads=None, isa="auto", optimizer="adam", activation="tanh"):
    """Some twins of a population in which each has its own everything: each one's bytes."""
    everyone = 40
    images, labels = make_images(layout, 24)
    rng = np.random.default_rng(2)
    weights = make_weights(layout, 4)[rng.integers(0, 4, everyone)]
    log_sigma2 = make_log_sigma2(layout, weights)
    twins = make_twins(
        layout=layout,
        activation=activation,
        optimizer=optimizer,
        weights=weights[models],
        log_sigma2=log_sigma2[models],
        seeds=rng.integers(-(2**62), 2**62, everyone)[models],
        learning_rate=rng.choice([1e-2, 1e-3, 1e3], everyone)[models],
        weight_decay=rng.choice([0, 1e-3], everyone)[models],
        momentum=rng.choice([0, 0.9], everyone)[models],
        dropout=rng.choice([0, 0.3, 0.5], everyone)[models],
        threads=threads,
        isa=isa,
    )
    orders = make_orders(everyone, 24)[models]
    losses = [twins.train_epoch(images, labels, orders, weight) for weight in (0.0, 0.01)]
    losses.append(twins.evaluate(images, labels))
    results = zip(
        twins.weights, twins.mean, twins.log_sigma2, np.array(losses).transpose(2, 0, 1),
        strict=True,
    )  # fmt: skip
    return [tuple(array.tobytes() for array in arrays) for arrays in results]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bits_depend_on_the_model_alone(optimizer):
    expected = train(CNN_S, np.arange(40), threads=1, optimizer=optimizer)
    assert len(set(expected)) == 40
    shuffled = np.random.default_rng(3).permutation(40)
    for models in ([7], [1, 2, 3, 4, 5], np.arange(16), np.arange(10, 30), shuffled):
        for threads in (1, 2):
            found = train(CNN_S, models, threads, optimizer=optimizer)
            assert found == [expected[model] for model in models]


@pytest.mark.parametrize(
    ("layout", "activation", "optimizer", "isas"),
    [
        (CNN_S, "tanh", "adam", ISAS[:2]),
        slow((CNN_S, "tanh", "adam", ISAS), True),
        slow((CNN_S, "gelu", "adam", ISAS), True),
        slow((CNN_S, "sigmoid", "sgd", ISAS), True),
        slow((CNN_L, "tanh", "adam", ISAS), True),
        slow((CNN_L, "gelu", "sgd", ISAS), True),
        slow((make_layout("cnn_s", 3, classes=7), "relu", "sgd", ISAS), True),
    ],
)
def test_bits_do_not_depend_on_the_instruction_set(layout, activation, optimizer, isas):
    results = [
        train(layout, np.arange(18), isa=isa, activation=activation, optimizer=optimizer)
        for isa in isas
    ]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_diverged_twin_is_nan_like_torchs_and_leaves_others_alone(optimizer):
    images, labels = make_images(CNN_S, 30)
    weights, orders = make_weights(CNN_S, 4), make_orders(4, 30)
    log_sigma2 = np.full_like(weights, -10)
    weights[3, 5] = np.nan
    results = []
    for rate in (1e-3, 1e30):
        twins = make_twins(
            weights=weights, log_sigma2=log_sigma2, optimizer=optimizer,
            learning_rate=[1e-3, rate, 1e-4, 1e-3],
        )  # fmt: skip
        for _ in range(2):
            loss, _ = twins.train_epoch(images, labels, orders, 0.01)
        results.append(np.stack([twins.weights, twins.mean, twins.log_sigma2]))
    np.testing.assert_array_equal(results[0][:, [0, 2]], results[1][:, [0, 2]])
    assert np.isfinite(results[0][:, :3]).all()
    assert np.isnan(loss[[1, 3]]).all()
    assert np.isnan(results[1][:2, [1, 3]]).mean() > 0.5
    for model, rate in ((1, 1e30), (3, 1e-3)):
        expected = torch_steps(
            CNN_S, weights[model], log_sigma2[model], images, labels, np.tile(orders[model], 2), 10,
            torch.float32, activation="tanh", optimizer=optimizer, kl_weight=0.01,
            learning_rate=rate,
        )[-1]  # fmt: skip
        np.testing.assert_array_equal(np.isnan(results[1][1:, model]), np.isnan(expected))


# Wrong arguments never reach the kernel


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_sigma2": np.zeros((2, 100))}, r"log_sigma2 must be \[2, 2464\], found \[2, 100\]"),
        ({"log_sigma2": -10.0}, "log_sigma2 must be"),
        ({"weights": np.zeros((2, 100))}, r"weights must be \[P, 2464\]"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"dropout": 1.0}, "dropout rates"),
        ({"seeds": 0.5}, "seeds must be integers"),
        ({"layout": make_layout("resnet18", channels=3)}, "which ResNet-18 is not"),
    ],
)
def test_wrong_population(changes, message):
    with pytest.raises(ValueError, match=message):
        make_twins(**({"weights": np.zeros((2, 2464))} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 1, 32, 32))}, "images must be"),
        ({"labels": np.full(5, 10)}, "labels must lie"),
        ({"orders": np.zeros((3, 5), int)}, "orders must be"),
        ({"orders": np.full((2, 5), 5)}, "orders must be integers in"),
        ({"kl_weight": np.nan}, "kl_weight must be a finite number"),
    ],
)
def test_wrong_data(changes, message):
    data = {
        "images": np.zeros((5, 1, 28, 28), np.float32),
        "labels": np.zeros(5, int),
        "orders": np.zeros((2, 5), int),
        "kl_weight": 0.01,
    }
    twins = make_twins(2)
    with pytest.raises(ValueError, match=message):
        twins.train_epoch(*(data | changes).values())
