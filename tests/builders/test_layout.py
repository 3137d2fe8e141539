"""Layouts against torch's own state_dicts and index_dict of the paper's code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.builders.architecture import ARCHITECTURES, Architecture, Layer
from model_zoos.builders.layout import find_layout, make_layout
from model_zoos.generation.networks import build
from tests.shared import SEED_ZOO, SHARED, needs_shared

SIZES = {("cnn_s", 1): 2464, ("cnn_s", 3): 2864, ("cnn_l", 3): 10853}


@pytest.mark.parametrize(("architecture", "channels"), SIZES)
def test_sizes_are_the_papers(architecture: str, channels: int) -> None:
    assert make_layout(architecture, channels).size == SIZES[architecture, channels]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 10), (3, 100), (3, 200)])
def test_slots_are_the_float_tensors_of_torchs_state_dict(
    architecture: str, channels: int, classes: int
) -> None:
    layout = make_layout(architecture, channels, classes)
    state = build(layout, "relu", 0.5).state_dict()
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    assert [(slot.name, slot.shape) for slot in layout.slots] == [
        (name, tuple(tensor.shape)) for name, tensor in floats.items()
    ]
    assert np.array_equal(
        layout.to_vector(state),
        torch.cat([tensor.reshape(-1) for tensor in floats.values()]).numpy(),
    )


def test_resnet18_has_the_published_number_of_parameters() -> None:
    layout = make_layout("resnet18", 3, 10)
    module = build(layout, "relu")
    assert sum(p.numel() for p in module.parameters()) == 11_173_962
    assert layout.size == 11_173_962 + sum(
        b.numel() for b in module.buffers() if b.is_floating_point()
    )


@needs_shared
def test_index_dict_is_the_originals() -> None:
    path = SHARED / "data" / "raw_zoos" / "reference" / f"{SEED_ZOO}_index_dict.json"
    assert make_layout("cnn_s", 1).index_dict() == json.loads(path.read_text())


def test_index_dict_names_the_layers_of_the_original_with_dropout() -> None:
    assert make_layout("cnn_s", 1).index_dict(0.5)["layer"] == [0, 4, 8, 11, 14]
    assert make_layout("cnn_l", 3).index_dict(0.0)["layer"] == [0, 4, 8, 13, 16]
    with pytest.raises(ValueError, match="not ResNet-18"):
        make_layout("resnet18", 3).index_dict()


@settings(max_examples=30, deadline=None)
@given(
    architecture=st.sampled_from(["cnn_s", "cnn_l"]),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(2, 200),
    dropout=st.sampled_from([0.0, 0.3]),
    original=st.booleans(),
    seed=st.integers(0, 99),
)
def test_vector_to_state_dict_and_back(
    architecture: str, channels: int, classes: int, dropout: float, original: bool, seed: int
) -> None:
    layout = make_layout(architecture, channels, classes)
    vector = np.random.default_rng(seed).standard_normal(layout.size, np.float32)
    state = layout.to_state_dict(vector, original_names=original, dropout=dropout)
    assert len(state) == len(layout.slots)
    assert layout.to_vector(state).tobytes() == vector.tobytes()
    assert find_layout(architecture, layout.size) == layout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_two_layouts_have_one_size(architecture: str) -> None:
    for channels in (1, 3):
        for classes in range(1, 1001):
            layout = make_layout(architecture, channels, classes)
            assert find_layout(architecture, layout.size) is layout


def test_batches_of_vectors_keep_their_leading_axes() -> None:
    layout = make_layout("cnn_s", 1)
    state = layout.to_state_dict(torch.zeros(4, 7, layout.size))
    assert state["conv2.weight"].shape == (4, 7, 6, 8, 5, 5)


def test_wrong_shapes() -> None:
    layout = make_layout("cnn_s", 1)
    with pytest.raises(ValueError, match="expected 2464 weights"):
        layout.to_state_dict(np.zeros(2864, np.float32))
    with pytest.raises(ValueError, match="not a CNN-s"):
        layout.to_vector({"a": np.zeros((8, 3, 5, 5), np.float32)})
    with pytest.raises(ValueError, match="no CNN-s has 2,465 weights"):
        find_layout("cnn_s", 2465)
    with pytest.raises(ValueError, match="of grey images it has 2,464, of images in colour 2,864"):
        find_layout("cnn_s", 100)
    with pytest.raises(ValueError, match="unknown architecture"):
        make_layout("cnn_xl", 1)


def _sequence(*layers: Layer, size: int | None = 8) -> Architecture:
    return Architecture("own", "Own", size, layers)


def test_a_network_of_linear_layers_sees_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = _sequence(Layer("fc1", 5), Layer("fc2", 10, activation=False))
    monkeypatch.setitem(ARCHITECTURES, "own", mlp)
    layout = make_layout("own", 3, 4)
    assert [slot.shape for slot in layout.slots] == [(5, 3 * 8 * 8), (5,), (4, 5), (4,)]
    assert layout.outputs == [(5,), (4,)]
    assert find_layout("own", layout.size) == layout
    module = build(layout, "relu")
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


LAST = Layer("fc", 10, activation=False)


@pytest.mark.parametrize(
    ("layers", "size", "message"),
    [
        ((), 8, "needs either layers or a graph"),
        ((LAST,), None, "need an image_size"),
        ((LAST, Layer("conv", 2, kernel=3)), 8, "convolutions come first"),
        ((Layer("fc", 4), LAST), 8, "two layers of one name"),
        ((Layer("conv", 2, kernel=9), LAST), 8, "8 x 8 pixels are too small for conv"),
        ((Layer("conv", 2, kernel=8, pool=True), LAST), 8, "too small for conv"),
    ],
)
def test_an_architecture_fits_its_images(
    layers: tuple[Layer, ...], size: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _sequence(*layers, size=size)
