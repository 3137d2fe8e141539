"""The reference engine repeats the original's models bit for bit, where torch's sums are the same.

Elsewhere its draws still are: initial weights are equal in every bit, and a model whose learning
rate is no larger than the zoos' follows the original within float32 noise for an epoch (later,
Adam and pooling amplify it).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.generation.engines.reference import State, train
from model_zoos.generation.images import ImageData, Images, load_images
from tests.shared import (
    CNN_L,
    CNN_S,
    HYPERPARAMETER_ZOO,
    LARGE_ZOO,
    SAME_SUMS,
    SEED_ZOO,
    Trial,
    needs_shared,
    raw_zoo,
    raw_zoo_images,
)

ZOOS = {  # zoo -> layout, with validation set, as CNN-l, models, states of each
    SEED_ZOO: (CNN_S, False, False, 12, 9),
    HYPERPARAMETER_ZOO: (CNN_S, True, False, 34, 6),
    LARGE_ZOO: (CNN_L, True, True, 4, 5),
}


def _assert_repeated(zoo: str, chosen: list[Trial], layout: Layout, states: int) -> None:
    _, validation, large, _, _ = ZOOS[zoo]
    images = raw_zoo_images(validation=validation, large=large)
    for trial in chosen:
        if not SAME_SUMS:  # later epochs have little in common
            for state in itertools.islice(train(trial.model, layout, images), 2):
                _assert_near(trial, state)
            continue
        trained = list(train(trial.model, layout, images))
        assert [state.epoch for state in trained] == sorted(trial.weights) == list(range(states))
        for state in trained:
            where = f"{trial.name}, epoch {state.epoch}"
            assert state.weights.numpy().tobytes() == trial.weights[state.epoch].tobytes(), where
            recorded = trial.metrics[state.epoch]
            for name, value in state.metrics.items():
                if name.startswith("test_loss"):
                    # The original's test loss is a float32 whose last digit differs: one or two
                    # units in the last place, 2^-23 of the value each.
                    assert value == pytest.approx(recorded[name], rel=3e-7, nan_ok=True), where
                else:
                    assert np.array_equal(value, recorded[name], equal_nan=True), (where, name)


def _assert_near(trial: Trial, state: State) -> None:
    """Equal at first, then within 20 units in the last place of 1."""
    found, original = state.weights.numpy(), trial.weights[state.epoch]
    if state.epoch == 0:
        assert found.tobytes() == original.tobytes()
    if trial.model.learning_rate > 0.1:
        assert np.isfinite(found).any() == np.isfinite(original).any()
    elif state.epoch == 1:
        np.testing.assert_allclose(found, original, rtol=0, atol=20 * 2**-23)
        assert state.metrics["test_acc"] == trial.metrics[state.epoch]["test_acc"]


@needs_shared
@pytest.mark.parametrize("zoo", ZOOS)
def test_some_models_are_repeated_bit_for_bit(zoo: str) -> None:
    layout, _, _, models, states = ZOOS[zoo]
    trials = raw_zoo(zoo, layout)
    assert len(trials) == models
    if zoo == HYPERPARAMETER_ZOO:
        # The two diverged models, and one with dropout of either optimizer.
        chosen = [trial for trial in trials if trial.model.learning_rate > 0.1]
        for optimizer in ("adam", "sgd"):
            chosen.append(
                next(
                    trial
                    for trial in trials
                    if trial.model.optimizer == optimizer and trial.model.dropout
                )
            )
        assert len(chosen) == 4
        assert np.isnan(chosen[0].weights[1]).all()
    else:
        chosen = trials[:1]
    _assert_repeated(zoo, chosen, layout, states)


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("zoo", ZOOS)
def test_all_models_are_repeated_bit_for_bit(zoo: str) -> None:
    if not SAME_SUMS:
        pytest.skip("torch sums in another order here, and differences grow within an epoch")
    layout, _, _, models, states = ZOOS[zoo]
    trials = raw_zoo(zoo, layout)
    assert len(trials) == models
    _assert_repeated(zoo, trials, layout, states)


def test_training_leaves_torchs_global_stream_alone_and_is_not_disturbed_by_it() -> None:
    digits = load_images("digits").subset(train=slice(0, 100))
    model = dataclasses.replace(get_zoo("digits_cnn_s").models(1)[0], epochs=2, dropout=0.5)
    first = [state.weights for state in train(model, CNN_S, digits)]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    second, drawn = [], []
    for state in train(model, CNN_S, digits):
        second.append(state.weights)
        drawn.append(torch.rand(1))
    assert torch.equal(torch.cat(drawn), expected)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("scale", [1, 3])
def test_last_batch_smaller_no_validation_set_three_channels_other_classes(scale: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        return Images(
            torch.randint(0, 256, (count, scale, 28, 28), generator=generator, dtype=torch.uint8),
            torch.randint(0, 7, (count,), generator=generator),
        )

    data = ImageData(
        "noise", images(25), None, images(8), (0.5,) * scale, (0.5,) * scale, classes=7
    )
    model = dataclasses.replace(get_zoo("digits_cnn_s").models(1)[0], epochs=1)
    layout = make_layout("cnn_s", scale, 7)
    states = list(train(model, layout, data))
    assert set(states[1].metrics) == {"train_loss", "train_acc", "test_loss", "test_acc"}
    assert states[1].weights.shape == (layout.size,)
    assert (states[1].metrics["train_acc"] * 25) % 1 == pytest.approx(0)


def test_how_pixels_lie_in_memory_does_not_matter() -> None:
    digits = load_images("digits").subset(train=slice(60))
    model = dataclasses.replace(get_zoo("digits_cnn_s").models(1)[0], epochs=1)
    found = []
    for strides in ((784, 784, 28, 1), (784, 1, 28, 1)):  # the same memory, for one channel
        pixels = digits.train.pixels.as_strided(digits.train.pixels.shape, strides)
        images = dataclasses.replace(digits, train=Images(pixels, digits.train.labels))
        found.append([state.weights for state in train(model, CNN_S, images)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_resnet_is_refused() -> None:
    zoo = get_zoo("cifar10_resnet18")
    with pytest.raises(ValueError, match="sequences of layers, not ResNet-18"):
        next(train(zoo.models(1)[0], zoo.layout, load_images("digits")))
