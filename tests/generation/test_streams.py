import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from model_zoos.generation import networks as architectures
from model_zoos.generation.streams import (
    SampleOrders,
    dropout_masks,
    dropout_scale,
    dropout_shapes,
    dropout_threshold,
    gaussian_noise,
    initial_weights,
    philox,
    sample_orders,
    split_seed,
)
from tests.shared import CNN_L, CNN_S


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_known_answers(counter, key, words):
    """From Random123's kat_vectors, philox4x32 with 10 rounds."""
    counter, key, words = (
        np.array([int(word, 16) for word in text.split()], np.uint32)
        for text in (counter, key, words)
    )
    np.testing.assert_array_equal(philox(counter, key), words)
    many = philox(np.broadcast_to(counter, (3, 2, 4)), key)
    np.testing.assert_array_equal(many, np.broadcast_to(words, (3, 2, 4)))


def test_shapes_of_dropout_layers():
    assert dropout_shapes(CNN_S) == [(8, 12, 12), (6, 4, 4), (20,)]
    assert dropout_shapes(CNN_L) == [(16, 15, 15), (32, 6, 6), (15, 2, 2), (20,)]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**64 - 1),
    sample=st.integers(0, 3),
    unit=st.integers(0, 1267),
    rate=st.floats(0, 0.999),
)
def test_a_mask_is_the_stated_function(seed, step, sample, unit, rate):
    """One unit at a time, in Python integers."""
    counter = (unit // 4, 1 << 24 | sample, step % 2**32, step // 2**32)
    key = np.array([seed % 2**32, seed % 2**64 // 2**32], np.uint32)
    word = int(philox(np.array(counter, np.uint32), key)[unit % 4])
    masks = dropout_masks(CNN_S, seed, rate, step, batch_size=4)
    assert [mask.dtype for mask in masks] == [np.float32] * 3
    flat = np.concatenate([mask[sample].ravel() for mask in masks])
    kept = np.float32(1) / np.float32(1 - rate)
    assert flat[unit] == (kept if word >= int(rate * 2**32) else 0)


def test_masks_of_several_models_are_those_of_each():
    seeds, rates = np.array([5, -3, 2**40]), np.array([0.5, 0.0, 0.1])
    together = dropout_masks(CNN_L, seeds, rates, step=2**33 + 1, batch_size=3)
    for model in range(3):
        alone = dropout_masks(CNN_L, seeds[model], rates[model], step=2**33 + 1, batch_size=3)
        for joint, own in zip(together, alone, strict=True):
            np.testing.assert_array_equal(joint[model], own)
    assert all((mask[1] == 1).all() for mask in together)  # rate 0 keeps everything


def test_masks_do_not_depend_on_the_batch():
    full = dropout_masks(CNN_S, 9, 0.5, step=4, batch_size=10)
    small = dropout_masks(CNN_S, 9, 0.5, step=4, batch_size=3)
    for a, b in zip(full, small, strict=True):
        np.testing.assert_array_equal(a[:3], b)


def test_share_of_kept_units():
    for rate in (0.1, 0.5, 0.9):
        mask = dropout_masks(CNN_L, 1, rate, step=0, batch_size=50)[0]
        assert (mask > 0).mean() == pytest.approx(1 - rate, abs=0.005)
        assert mask.mean() == pytest.approx(1, abs=0.02 / (1 - rate))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**64 - 1),
    sample=st.integers(0, 2),
    place=st.sampled_from(
        # Layer, place in it, unit: after 24 * 24 * 8 outputs of the first layer come 8 * 8 * 6, ...
        [
            (0, (0, 0, 0), 0),
            (0, (3, 5, 7), (5 * 24 + 7) * 8 + 3),
            (1, (5, 7, 0), 4608 + (7 * 8 + 0) * 6 + 5),
            (2, (1, 0, 2), 4608 + 384 + 2 * 4 + 1),
            (3, (19,), 4608 + 384 + 36 + 19),
            (4, (9,), 4608 + 384 + 36 + 20 + 9),
        ]
    ),
)
def test_noise_is_the_stated_function(seed, step, sample, place):
    """One unit at a time, in Python numbers."""
    layer, index, unit = place
    counter = (unit // 4, 2 << 24 | sample, step % 2**32, step // 2**32)
    key = np.array([seed % 2**32, seed % 2**64 // 2**32], np.uint32)
    words = philox(np.array(counter, np.uint32), key)[unit % 4 // 2 * 2 :][:2]
    u0, u1 = (float(np.float32(int(word) // 256 + 0.5)) / 2**24 for word in words)
    wave = math.sin if unit % 2 else math.cos
    noise = gaussian_noise(CNN_S, seed, step, batch_size=3)
    assert [part.dtype for part in noise] == [np.float32] * 5
    expected = wave(2 * math.pi * u1) * math.sqrt(-2 * math.log(u0))
    assert noise[layer][(sample, *index)] == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_noise_is_standard_normal():
    for layout, outputs in ((CNN_S, 5058), (CNN_L, 20_078)):
        noise = gaussian_noise(layout, 5, step=1, batch_size=40)
        flat = np.concatenate([part.reshape(40, -1) for part in noise], axis=1)
        assert flat.shape == (40, outputs)
        assert stats.kstest(flat.ravel(), "norm").pvalue > 0.01
        count = flat.size
        assert flat.mean() == pytest.approx(0, abs=4 / count**0.5)
        assert (flat**2).mean() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
        assert (flat**4).mean() == pytest.approx(3, abs=4 * (96 / count) ** 0.5)
        # Nothing in common: the two numbers of a pair, their squares, neighbours, samples.
        pairs = [
            (flat[:, 0::2], flat[:, 1::2]),
            (flat[:, 0::2] ** 2, flat[:, 1::2] ** 2),
            (flat[:, 1:-1:2], flat[:, 2::2]),
            (flat[:-1], flat[1:]),
        ]
        for a, b in pairs:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size**0.5


def test_noise_depends_on_the_model_and_the_sample_alone():
    seeds = np.array([5, -3, 2**40])
    together = gaussian_noise(CNN_L, seeds, step=2**33 + 1, batch_size=3)
    assert [part.shape for part in together] == [
        *((3, 3, 16, 30, 30), (3, 3, 32, 13, 13), (3, 3, 15, 4, 4), (3, 3, 20), (3, 3, 10))
    ]
    for model in (2, 0):
        alone = gaussian_noise(CNN_L, seeds[model], step=2**33 + 1, batch_size=2)
        for joint, own in zip(together, alone, strict=True):
            np.testing.assert_array_equal(joint[model, :2], own)
    other = gaussian_noise(CNN_L, seeds, step=2**33 + 2, batch_size=3)
    assert not any((a == b).any() for a, b in zip(together[2:], other[2:], strict=True))


def test_threshold_and_scale():
    assert dropout_threshold(0.5) == 2**31
    assert dropout_threshold(0.0) == 0
    assert dropout_scale(0.5) == 2
    assert dropout_scale(np.array([0.1])).dtype == np.float32
    np.testing.assert_array_equal(split_seed(-1), [2**32 - 1, 2**32 - 1])


@pytest.mark.parametrize("init", architectures.INIT_FUNCTIONS)
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
def test_initial_weights_and_orders_are_the_originals(layout, init):
    """The recipe in torch's global stream, by hand."""
    torch.manual_seed(17)
    module = architectures.build(layout, "gelu", dropout=0.5)
    architectures.initialise(module, init)
    expected = layout.to_vector({k: v.detach() for k, v in module.state_dict().items()})
    orders = [torch.randperm(1000).numpy() for _ in range(4)]

    torch.manual_seed(99)
    before = torch.get_rng_state()
    weights, generator = initial_weights(layout, init, seed=17)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(weights, expected)
    stream = SampleOrders(generator, 1000)
    for epoch in (0, 1, 3, 2, 2, 0, 3):  # forwards, backwards and again
        np.testing.assert_array_equal(stream.epoch(epoch), orders[epoch])
    assert sample_orders([stream, stream], epoch=1).shape == (2, 1000)
