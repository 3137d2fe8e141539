"""The text form of networks: what it says, its canonical spelling, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import model_zoos
from model_zoos.builders.architecture import (
    ARCHITECTURES,
    Layer,
    canonical_name,
    find_architecture,
)
from model_zoos.builders.hub.names import layout_file
from model_zoos.builders.hub.shards import layout_json
from model_zoos.builders.hyperparameters import ACTIVATIONS
from model_zoos.builders.layers import MAX_LAYERS, parse_text, text_of_list
from model_zoos.builders.layout import Layout, find_layout, make_layout
from model_zoos.builders.specification import Zoo
from model_zoos.generation.networks import build
from tests.generation.engines.networks import texts

SMALL_CNN = "1x28x28 conv16k3s2 conv16k3s2 conv16k3s2 gap fc10"
LENET = "1x28x28 conv6k5p2 pool conv16k5 pool fc120 fc84 fc10"


def layout_of_text(text: str) -> Layout:
    found = find_architecture(text)
    assert found.channels is not None
    assert found.classes is not None
    return make_layout(found.name, found.channels, found.classes)


@pytest.mark.parametrize(
    ("text", "size"),
    [(SMALL_CNN, 4970), (LENET, 61_706), ("1x28x28 fc64 fc10", 50_890), ("3x8x8 fc2", 386)],
)
def test_known_networks_have_their_numbers_of_weights(text: str, size: int) -> None:
    layout = layout_of_text(text)
    assert layout.size == size
    assert find_layout(text, size) == layout
    with pytest.raises(ValueError, match=f"has {size:,} weights, found {size + 1:,}"):
        find_layout(text, size + 1)


@settings(max_examples=60, deadline=None)
@given(texts())
def test_a_text_is_its_networks_name_and_torch_builds_it(text: str) -> None:
    found = parse_text(text)
    assert parse_text(found.text) == found
    assert parse_text(f"  {found.text.replace(' ', chr(10))} ").text == found.text
    layout = layout_of_text(text)
    module = build(layout, "tanh", 0.5).eval()
    state = module.state_dict()
    assert [(s.name, s.shape) for s in layout.slots] == [(k, v.shape) for k, v in state.items()]
    x = torch.zeros(2, found.channels, found.side, found.side)
    assert module(x).shape == (2, found.classes)


def test_names_of_the_catalog_are_names_of_texts() -> None:
    for channels in (1, 3):
        text = f"{channels}x28x28 conv8k5 pool drop conv6k5 pool drop conv4k2 fc20 drop fc10"
        assert canonical_name(text) == "cnn_s"
    assert canonical_name("cnn_l") == "cnn_l"
    assert canonical_name("1x28x28  conv16k3s1p0:relu gap\nfc10:none") == (
        "1x28x28 conv16k3:relu gap fc10"
    )
    assert ARCHITECTURES["cnn_s"].layers == (
        Layer("conv1", 8, kernel=5, pool=True, dropout=True),
        Layer("conv2", 6, kernel=5, pool=True, dropout=True),
        Layer("conv3", 4, kernel=2),
        Layer("fc1", 20, dropout=True),
        Layer("fc2", 10, activation=False),
    )


def test_a_list_of_layers_is_a_text() -> None:
    parts: list[object] = [
        {"input": [1, 28, 28]},
        {"conv": 6, "kernel": 5, "padding": 2, "activation": "tanh"},
        {"pool": 2},
        "conv16k5",
        {"pool": True},
        {"dropout": True},
        {"linear": 84, "activation": None},
        {"linear": 10},
    ]
    expected = "1x28x28 conv6k5p2:tanh pool conv16k5 pool drop fc84:identity fc10"
    assert canonical_name(parts) == canonical_name(json.loads(json.dumps(parts))) == expected


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([3], "element 1 of the network, 3: expected a word"),
        (["1x28x28", {"conv": 3}], "element 2.*a convolution needs a kernel"),
        (["1x28x28", {"conv": 3, "linear": 3}], "element 2.*one of the keys"),
        (["1x28x28", {"linear": 3, "kernel": 1}], "element 2.*unknown: kernel"),
        (["1x28x28", {"linear": True}], "element 2.*whole number, found True"),
        (["1x28x28", {"pool": 3}], "element 2.*the only pool is 2"),
        ([{"input": [1, 28]}, "fc10"], "element 1.*three whole numbers"),
        (["1x28x28", {"linear": 3, "activation": 7}], "element 2.*a name or null"),
    ],
)
def test_bad_lists(parts: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical_name(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown architecture"),
        (" ", "unknown architecture"),
        ("cnn_xl", "unknown architecture 'cnn_xl'; known: cnn_s"),
        ("28x28 fc10", "at character 1, '28x28': expected the input"),
        ("1x28x27 fc10", "at character 1.*must be square"),
        ("0x28x28 fc10", "channels and sides lie in"),
        ("1x28x28", "at character 1.*at least one layer with weights"),
        ("1x28x28 gap fc10", "at character 9, 'gap': gap follows a layer"),
        ("1x28x28 conv16k3z2 fc10", "at character 9, 'conv16k3z2': expected conv<channels>"),
        ("1x28x28 conv16k3 gap", "at character 9.*the last layer is linear"),
        ("1x28x28 fc10 conv16k3 fc10", "at character 14.*cannot follow linear layers"),
        ("1x28x28 conv4k3 gap conv16k3 fc10", "at character 21.*cannot follow gap"),
        ("1x8x8 conv4k9 fc10", "at character 7.*its kernel of 9 meets 8 x 8"),
        ("1x8x8 conv4k8 pool fc10", "at character 7.*its pool of 2 meets 1 x 1"),
        ("1x8x8 fc16 pool fc10", "at character 12, 'pool': pool follows a convolution"),
        ("1x8x8 conv4k3 drop pool fc10", "at character 20.*the order is pool, drop, gap"),
        ("1x8x8 conv4k3 drop drop fc10", "at most one drop"),
        ("1x8x8 fc16:cube fc10", "at character 7.*unknown activation 'cube'; known: tanh"),
        ("1x8x8 fc16 fc10:relu", "at character 12.*the logits, which have no activation"),
        ("1x8x8 fc16 fc10 drop", "at character 12.*the logits, which have no dropout"),
        ("1x8x8 conv4k3s0 fc10", "kernel and stride lie in 1 to"),
        ("1x8x8 conv4k3p3 fc10", "the padding 3 must be below the kernel 3"),
        ("1x8x8 conv0k3 fc10", "outputs lie in 1 to"),
        ("1x8x8 fc0", "outputs lie in 1 to"),
        ("1x8x8 conv99999999k3 fc10", "outputs lie in 1 to"),
        ("3x28x28 fc100000 fc10", "at character 9.*more than 100,000,000 weights"),
        ("1x1024x1024 conv64k1 gap fc10", "at character 13.*10,000,000 outputs"),
        ("1x8x8" + " fc8" * (MAX_LAYERS + 1), "at most 64 layers"),
        ("1x8x8" + " fc8" * 1000, "at most 2,000 characters"),
        ("1x8x8 conv\u0663k3 fc10", "expected conv<channels>"),
    ],
)
def test_what_cannot_be_a_network_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_architecture(text)


@pytest.mark.parametrize("value", [None, 3, b"1x1x1 fc2", {"fc": 1}, {1}, [None], 1.5, True])
def test_other_things_are_no_network(value: object) -> None:
    for function in (canonical_name, find_architecture):
        with pytest.raises(ValueError, match=r"network|architecture"):
            function(value)  # type: ignore[operator]


def test_a_thousand_malformed_texts_and_lists() -> None:
    """Each is either a network that torch could build, or a clear error in one line."""
    rng = random.Random(0)
    words = [*SMALL_CNN.split(), *LENET.split(), "drop", "fc8:relu", "conv4k1:gelu"]
    junk = [*"kspxc:0-1. ", "fc", "conv", "pool", "\n", "\0", "é", "999999999", "1x1x1", "none"]
    messages = []
    for _ in range(1000):
        chosen = [rng.choice(words) for _ in range(rng.randint(0, 8))]
        letters = list(" ".join(["1x28x28", *chosen]))
        for _ in range(rng.randint(1, 4)):
            letters[rng.randrange(len(letters))] = rng.choice(junk)
        text = "".join(letters)
        given: object = text if rng.random() < 0.7 else [*text.split(), rng.choice([1, {}, None])]
        try:
            name = canonical_name(given)  # type: ignore[arg-type]
        except ValueError as error:
            messages.append(str(error))
        else:
            assert canonical_name(name) == name
    assert len(messages) > 800
    assert not any("\n" in message or len(message) > 700 for message in messages)


def test_layouts_of_texts_have_file_names_and_say_how_to_rebuild() -> None:
    layout = layout_of_text("1x28x28 conv16k3s2:relu gap fc10")
    assert layout_file(layout) == "layouts/1x28x28-conv16k3s2.relu-gap-fc10-330.json"
    first, last = layout_json(layout)["layers"]  # type: ignore[misc]
    assert first == {
        "name": "conv1", "out": 16, "kernel": 3, "pool": False, "activation": "relu",
        "dropout": False, "stride": 2, "gap": True,
    }  # fmt: skip
    assert set(last) == {"name", "out", "kernel", "pool", "activation", "dropout"}
    long = layout_of_text("1x28x28" + " fc8:softplus" * 40 + " fc10")
    other = layout_of_text("1x28x28" + " fc8:softplus" * 39 + " fc8 fc10")
    assert len(layout_file(long)) < 160
    assert layout_file(long) != layout_file(other)


def test_a_row_describes_itself() -> None:
    text = "1x8x8 conv4k3s2p1:relu drop gap fc6 fc3"
    layout = layout_of_text(text)
    weights = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    row = {"architecture": text, "weights": weights.tolist(), "activation": "elu", "dropout": 0.5}
    network = model_zoos.instantiate(row)
    x = torch.randn(5, 1, 8, 8)
    t = {name: torch.from_numpy(v) for name, v in layout.to_state_dict(weights).items()}
    f = torch.nn.functional
    h = torch.relu(f.conv2d(x, t["conv1.weight"], t["conv1.bias"], stride=2, padding=1))
    h = f.elu(f.linear(h.mean((2, 3)), t["fc1.weight"], t["fc1.bias"]))
    expected = f.linear(h, t["fc2.weight"], t["fc2.bias"])
    torch.testing.assert_close(network(x), expected)
    assert torch.equal(model_zoos.layer(row, "fc1.weight"), t["fc1.weight"])
    with pytest.raises(ValueError, match=r"no tensor 'fc9\.weight'"):
        model_zoos.layer(row, "fc9.weight")


ZOO = {
    "name": "own", "image_dataset": "mnist", "images": "mnist", "variant": "seed", "seeds": 2,
    "grid": {
        "activation": ["tanh"], "init": ["xavier_uniform(gain=2, bias=0)"], "dropout": [0.0],
        "optimizer": ["adamw"], "learning_rate": [0.001], "weight_decay": [0.0],
    },
}  # fmt: skip


def test_a_zoo_takes_channels_and_classes_from_the_text() -> None:
    zoo = Zoo.from_json({**ZOO, "architecture": ["1x28x28", {"linear": 7}]})
    assert (zoo.architecture, zoo.channels, zoo.classes) == ("1x28x28 fc7", 1, 7)
    assert Zoo.from_json(json.loads(json.dumps(zoo.to_json()))) == zoo
    with pytest.raises(ValueError, match="has 7 classes, not 10"):
        dataclasses.replace(zoo, classes=10)
    with pytest.raises(ValueError, match="has 1 channels, not 3"):
        dataclasses.replace(zoo, channels=3)
    text = "3x28x28 conv8k5 pool drop conv6k5 pool drop conv4k2 fc20 drop fc10"  # that of CNN-s
    colour = Zoo.from_json({**ZOO, "architecture": text})
    assert (colour.architecture, colour.channels, colour.classes) == ("cnn_s", 3, 10)
    bands = Zoo.from_json({**ZOO, "architecture": text.replace("3x28", "13x28")})
    assert (bands.architecture, bands.channels) == (text.replace("3x28", "13x28"), 13)
    with pytest.raises(ValueError, match="drop fc10 has 3 channels, not 1"):
        Zoo.from_json({**ZOO, "architecture": text, "channels": 1})
    with pytest.raises(ValueError, match="drop fc10 has 3 channels, not 1"):
        make_layout(text, 1)
    with pytest.raises(ValueError, match="zoo 'own': network '1x28x28 fc', at character 9"):
        Zoo.from_json({**ZOO, "architecture": "1x28x28 fc", "channels": 1, "classes": 10})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("init", "normal(std=0)", "std must be above 0"),
        ("init", "normal(mean=1)", "normal has the numbers std, bias"),
        ("init", "normal(std=one)", "expected <name>=<number>"),
        ("init", "normal(std=1,std=2)", "once each"),
        ("init", "normal(std=inf)", "expected <name>=<number>"),
        ("init", "normal(", "unknown init"),
        ("init", "ones", "init must be one of uniform"),
        ("scheduler", "step(epochs=1.5)", "must be a whole number"),
        ("scheduler", "cosine(epochs=1)", "cosine has the numbers none"),
        ("scheduler", "warmup", "must be null or OneCycleLR"),
    ],
)
def test_bad_numbers_are_refused(key: str, value: str, message: str) -> None:
    spec = {**ZOO, "architecture": "1x28x28 fc10"}
    changed = {"grid": {**spec["grid"], key: [value]}} if key == "init" else {key: value}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=message):
        Zoo.from_json({**spec, **changed})


def test_activations_of_the_text_are_those_of_the_table() -> None:
    for name in ACTIVATIONS:
        [first, _] = parse_text(f"1x4x4 fc3:{name} fc2").layers
        assert first.activation_of("tanh") == (None if name == "identity" else name)
    assert text_of_list(["1x4x4", {"linear": 2}]) == "1x4x4 fc2"
