"""The lane kernel of sparse twins against torch, and against itself on other paths."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_zoos.builders.layout import ARCHITECTURES, Layout, make_layout
from model_zoos.generation.architectures import ACTIVATIONS
from model_zoos.generation.engines.lanes import LanesTwins, LanesUnavailable
from model_zoos.generation.engines.lanes.library import usable_isas
from model_zoos.generation.streams import dropout_masks, gaussian_noise

from .test_lanes import (  # noqa: F401
    logits,
    make_images,
    make_orders,
    make_weights,
    one_torch_thread,
    own_cache,
)

try:
    ISAS = usable_isas()
except LanesUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

CNN_S = make_layout("cnn_s", channels=1)
CNN_L = make_layout("cnn_l", channels=3)


def has_noise(layout: Layout) -> np.ndarray:
    """Which weights do, bool [N]: all but the biases of linear layers."""
    noisy = np.ones(layout.size, bool)
    for layer in ARCHITECTURES[layout.architecture].layers:
        if layer.kernel is None:
            noisy[layout.layers[layer.name]["bias"].slice] = False
    return noisy


def bounds(layout: Layout) -> np.ndarray:
    """Of log_alpha, [N]: 8 in convolutions, 10 in linear layers."""
    bound = np.full(layout.size, 10)
    for layer in ARCHITECTURES[layout.architecture].layers:
        if layer.kernel is not None:
            for slot in layout.layers[layer.name].values():
                bound[slot.slice] = 8
    return bound


def make_log_sigma2(layout: Layout, weights: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means of log_alpha from below the lower bound to above the upper one, most below 3."""
    rng = np.random.default_rng(seed)
    log_alpha = rng.uniform(-12, 2, weights.shape)
    log_alpha[rng.random(weights.shape) < 0.02] = 11
    log_alpha[rng.random(weights.shape) < 0.05] = 4
    return (log_alpha + 2 * np.log(np.abs(weights) + 1e-15)).astype(np.float32)


# The original's formulas (its def_net_distillation.py) in plain torch


def log_alphas(mean: torch.Tensor, log_sigma2: torch.Tensor, bound: float) -> torch.Tensor:
    return torch.clamp(log_sigma2 - 2 * torch.log(torch.abs(mean) + 1e-15), -bound, bound)


def divergence(log_alpha: torch.Tensor) -> torch.Tensor:
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    shares = k1 * torch.sigmoid(k2 + k3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha)) - k1
    return -shares.sum()


def noisy_logits(layout, activation, means, log_sigma2s, x, noise, masks=(), gaps=None):
    """Logits in training mode and the divergence; `gaps` as in test_lanes.logits."""
    masks, total = iter(masks), 0
    for layer, normal in zip(ARCHITECTURES[layout.architecture].layers, noise, strict=True):
        weight, bias = means[f"{layer.name}.weight"], means[f"{layer.name}.bias"]
        bound = 10 if layer.kernel is None else 8
        la = log_alphas(weight, log_sigma2s[f"{layer.name}.weight"], bound)
        total = total + divergence(la)
        variance = torch.exp(la) * weight * weight
        if layer.kernel is not None:
            la = log_alphas(bias, log_sigma2s[f"{layer.name}.bias"], bound)
            total = total + divergence(la)
            mean = functional.conv2d(x, weight, bias)
            spread = functional.conv2d(x * x, variance, torch.exp(la) * bias * bias)
        else:
            x = x.flatten(1)
            mean, spread = functional.linear(x, weight, bias), functional.linear(x * x, variance)
        x = mean + torch.sqrt(spread + 1e-15) * normal
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
    return x, total


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
    """As in test_lanes: the unit is torch float32's distance from float64, and one of the three
    twins may part at a close call under a pooling window."""
    images, labels = make_images(layout, 250)
    rates = {
        "seed": np.array([3, 2**40 + 7, -11]),
        "learning_rate": np.array([1e-3, 3e-4, 1e-4]),
        "weight_decay": np.array([0.0, 1e-3, 1e-4]),
        "momentum": np.array([0.0, 0.9, 0.5]),
        "dropout": np.array([1.0, 0.6, 0.0]) * dropout,
    }
    # Nearer to 0 the gradient of a free log_alpha, -2 / mean, throws a mean far away under sgd.
    weights = make_weights(layout, 3)
    weights = np.copysign(np.maximum(np.abs(weights), np.float32(0.02)), weights)
    log_sigma2 = make_log_sigma2(layout, weights)
    orders = np.random.default_rng(1).integers(0, len(images), (3, batch_size * steps))
    population = LanesTwins(
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
        gaps = []
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
            noisy_logits(layout, activation, *tensors, x, noise, masks, gaps)
        assert min(gaps) < 1e-6, parted
    assert len(parted) <= 1, parted


EACH = list(itertools.product(ACTIVATIONS, ["adam", "sgd"], [0.0, 0.5]))


@pytest.mark.parametrize(("activation", "optimizer", "dropout"), EACH)
def test_one_step_is_torchs(activation, optimizer, dropout):
    check_against_torch(CNN_S, activation, optimizer, dropout, steps=1)


@pytest.mark.parametrize(("activation", "optimizer", "dropout"), EACH)
def test_20_steps_are_torchs(activation, optimizer, dropout):
    check_against_torch(CNN_S, activation, optimizer, dropout, steps=20)
