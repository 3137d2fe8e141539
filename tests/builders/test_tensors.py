"""Rows whose weights hold only the tensors that `tensors=` names."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from numpy.typing import NDArray

import model_zoos
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.layout import make_layout
from model_zoos.builders.schema import CHOICE, COLUMNS
from model_zoos.errors import FaultyZoo, InvalidArgument
from model_zoos.weight_space.normalize import Standardizer
from tests.builders.hub import small_states
from tests.zoos import random_zoo

STEM = "layer1.0.conv1.weight"


def load(name: str, home: Path, **arguments: Any) -> Any:
    return load_dataset("model_zoos", name, data_dir=str(home), **arguments)


def rows_of(found: Any) -> dict[tuple[str, str, int], dict[str, Any]]:
    parts = found.values() if isinstance(found, dict) else [found]
    return {(row["zoo"], row["model_id"], row["epoch"]): row for part in parts for row in part}


def expected(row: dict[str, Any], tensors: list[str]) -> NDArray[np.float32]:
    """Cut the tensors out of a whole row by its layout, in the order of the layout."""
    vector = np.asarray(row["weights"], np.float32)
    slots = model_zoos.layout_of(row).slots
    return np.concatenate([vector[slot.slice] for slot in slots if slot.name in tensors])


@pytest.fixture(scope="module")
def resnets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resnets")
    random_zoo(root, dataclasses.replace(get_zoo("cifar10_resnet18"), epochs=2), 2)
    return root


OTHERS: list[dict[str, Any]] = [
    {},
    {"columns": ["weights", "epoch", "zoo", "model_id", "architecture"]},
    {"filters": [("epoch", ">=", 2), ("epoch", "<", 4)]},
    {"final": True},
    {"max_weight": 0.9},
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("others", OTHERS, ids=str)
@pytest.mark.parametrize("tensors", [["conv2.bias"], ["fc2.bias", "conv1.weight", "conv1.bias"]])
def test_rows_hold_the_named_tensors_in_the_order_of_the_layout(
    digits_home: Path, tensors: list[str], others: dict[str, Any], streaming: bool
) -> None:
    whole = rows_of(load("digits_cnn_s", digits_home, **others))
    found = load("digits_cnn_s", digits_home, tensors=tensors, streaming=streaming, **others)
    names = [name for name in COLUMNS if name in others.get("columns", COLUMNS)]
    assert list(found["train"].features) == [*names, *CHOICE]
    parts = rows_of(found)
    assert list(parts) == list(whole)
    layout = make_layout("cnn_s", 1)
    order = [slot.name for slot in layout.slots if slot.name in tensors]
    for key, row in parts.items():
        assert np.float32(row["weights"]).tobytes() == expected(whole[key], tensors).tobytes()
        assert row["tensors"] == order
        assert row["layout_size"] == layout.size
        assert {**row, "weights": 0} == {
            **whole[key],
            "weights": 0,
            "tensors": order,
            "layout_size": layout.size,
        }


def _own(root: Path) -> str:
    zoo = dataclasses.replace(
        get_zoo("digits_cnn_s"), name="mine", architecture="1x28x28 fc40 fc10", epochs=2
    )
    random_zoo(root, zoo, 9)
    return zoo.name


def _file_per_state(root: Path) -> str:
    small_states.make(root, 9)
    return small_states.NAME


def _union(root: Path) -> str:
    for variant in ("seed", "hyp_10_r", "hyp_10_f"):
        random_zoo(root, dataclasses.replace(get_zoo(f"mnist_cnn_s_{variant}"), epochs=1), 7)
    return "mnist_cnn_s"


@pytest.fixture
def linear() -> Iterator[None]:
    small_states.register()
    yield
    small_states.unregister()


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("make", [_own, _file_per_state, _union])
def test_every_kind_of_zoo(make: Callable[[Path], str], tmp_path: Path) -> None:
    name, cache = make(tmp_path / "zoos"), str(tmp_path / "cache")
    home = tmp_path / "zoos"
    whole = rows_of(load(name, home, cache_dir=cache))
    some = model_zoos.layout_of(next(iter(whole.values()))).slots[-1].name
    two = {} if make is _file_per_state else {"num_proc": 2}  # whose other process knows no linear
    for options in ({"streaming": True}, {"cache_dir": cache}, {"cache_dir": cache, **two}):
        parts = rows_of(load(name, home, tensors=[some], **options))
        assert list(parts) == list(whole)
        for key, row in parts.items():
            assert np.float32(row["weights"]).tobytes() == expected(whole[key], [some]).tobytes()
            assert row["tensors"] == [some]


def test_what_a_row_says_of_its_tensors(digits_home: Path) -> None:
    tensors = ["conv1.bias", "fc2.weight"]
    whole = load("digits_cnn_s", digits_home, split="train")
    part = load("digits_cnn_s", digits_home, split="train", tensors=tensors)
    layout = model_zoos.layout_of(part[0])
    assert layout == make_layout("cnn_s", 1).choose(tensors)
    assert [(slot.name, slot.offset) for slot in layout.slots] == [
        ("conv1.bias", 0),
        ("fc2.weight", 8),
    ]
    assert str(layout) == f"2 of the 10 tensors of {make_layout('cnn_s', 1)}"
    kinds = ("numpy", "torch", "arrow", "pandas", None)
    for kind in kinds:
        rows = part.with_format(kind)
        row = rows[5]
        if kind == "arrow":
            row = {name: row[name][0].as_py() for name in row.column_names}
        elif kind == "pandas":
            row = row.iloc[0]
        for name in tensors:
            assert torch.equal(model_zoos.layer(row, name), model_zoos.layer(whole[5], name))
        with pytest.raises(InvalidArgument, match=r"without conv1.weight, with tensors=") as raised:
            model_zoos.layer(row, "conv1.weight")
        assert "fc2.weight" in str(raised.value)
        with pytest.raises(
            InvalidArgument, match=r"no tensor 'fc9.weight'; did you mean fc2.weigh"
        ):
            model_zoos.layer(row, "fc9.weight")
        with pytest.raises(InvalidArgument, match="load them without tensors="):
            model_zoos.instantiate(row)
    layers = model_zoos.to_layers(model_zoos.weights(part), layout)
    assert {name: list(roles) for name, roles in layers.items()} == {
        "conv1": ["bias"],
        "fc2": ["weight"],
    }
    full = model_zoos.to_layers(model_zoos.weights(whole), model_zoos.layout_of(whole[0]))
    assert torch.equal(layers["fc2"]["weight"], full["fc2"]["weight"])


def test_what_needs_all_tensors_says_so(digits_home: Path) -> None:
    rows = load("digits_cnn_s", digits_home, split="train", tensors=["conv2.weight"])
    weights, layout = model_zoos.weights(rows), model_zoos.layout_of(rows[0])
    calls: list[Callable[[], Any]] = [
        lambda: model_zoos.hidden_units(layout),
        lambda: model_zoos.to_graphs(weights, layout),
        lambda: model_zoos.canonical_order(weights, layout),
        lambda: model_zoos.match_models(rows),
        lambda: model_zoos.evaluate(weights, rows),
        lambda: model_zoos.evaluate(weights[:1], rows[0]),
        lambda: layout.index_dict(),
        lambda: layout.original_names(),
    ]
    for call in calls:
        with pytest.raises(
            InvalidArgument, match=r"1 of the 10 tensors of CNN-s.*without tensors="
        ):
            call()


def test_tensors_are_standardized(digits_home: Path, tmp_path: Path) -> None:
    tensors = ["conv2.weight", "fc1.weight", "fc1.bias"]
    rows = load("digits_cnn_s", digits_home, split="train", tensors=tensors)
    whole = Standardizer.fit(load("digits_cnn_s", digits_home, split="train"), per="element")
    found = Standardizer.fit(rows, per="element")
    places = np.concatenate([np.arange(2464)[part] for part in found.layout.sources])
    np.testing.assert_allclose(found.mean, whole.mean[places], rtol=1e-12)
    np.testing.assert_allclose(found.scale, whole.scale[places], rtol=1e-12)
    layers = Standardizer.fit(rows)
    layers.save(tmp_path / "file")
    again = Standardizer.load(tmp_path / "file")
    assert again.layout == layers.layout
    assert torch.equal(again(model_zoos.weights(rows)), layers(model_zoos.weights(rows)))
    other = rows.map(lambda row: {"tensors": row["tensors"][::-1]})
    with pytest.raises(InvalidArgument, match="several choices of tensors"):
        Standardizer.fit(concatenate_datasets([rows, other]))


def test_rows_that_contradict_themselves(digits_home: Path) -> None:
    row = load("digits_cnn_s", digits_home, split="test", tensors=["conv1.bias", "fc2.bias"])[0]
    for change, message in [
        ({"tensors": ["fc2.bias", "conv1.bias"]}, "weights are not the tensors"),
        ({"tensors": ["conv1.bias"]}, "18 weights are not the tensors"),
        ({"tensors": ["conv9.bias"]}, "no tensor 'conv9.bias'; did you mean"),
        ({"layout_size": None}, "layout_size is not known"),
        ({"layout_size": 17}, "17"),
    ]:
        with pytest.raises(ValueError, match=message):
            model_zoos.layout_of({**row, **change})
    del row["layout_size"]
    with pytest.raises(InvalidArgument, match="the row has no layout_size"):
        model_zoos.layout_of(row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": ["conv1.wieght"]}, "no tensor 'conv1.wieght'; did you mean conv1.weight"),
        ({"tensors": ["conv1.bias", STEM]}, f"no tensor '{STEM}'; did you mean"),
        ({"tensors": "conv1.weight"}, "tensors= is a list of names, found 'conv1.weight'"),
        ({"tensors": []}, "tensors= is a list of names, found []"),
        ({"tensors": [3]}, "tensors= is a list of names, found [3]"),
        ({"tensors": ["fc1.bias"], "columns": ["epoch"]}, "which columns= leaves out"),
        ({"tensors": ["fc1.bias"], "name": "metrics"}, "`metrics` has no weights for tensors="),
        ({"columns": ["tensors"]}, "there is no column 'tensors'"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_arguments(
    digits_home: Path, arguments: dict[str, Any], message: str, streaming: bool
) -> None:
    arguments = {"name": "digits_cnn_s", **arguments}
    with pytest.raises(InvalidArgument) as raised:
        load(arguments.pop("name"), digits_home, streaming=streaming, **arguments)
    assert message in str(raised.value)


def test_a_zoo_of_a_union_with_other_networks(tmp_path: Path) -> None:
    name = _union(tmp_path)
    odd = dataclasses.replace(get_zoo("mnist_cnn_s_hyp_10_f"), architecture="cnn_l", epochs=1)
    random_zoo(tmp_path / "odd", odd, 7)
    (tmp_path / odd.name).rename(tmp_path / "old")
    (tmp_path / "odd" / odd.name).rename(tmp_path / odd.name)
    with pytest.raises(FaultyZoo, match=r"hyp_10_f has networks CNN-l.*expected CNN-s"):
        load(name, tmp_path, tensors=["conv1.bias"], streaming=True)


def test_each_choice_has_its_own_cached_rows(digits_home: Path, tmp_path: Path) -> None:
    cache = str(tmp_path)
    for tensors in (["conv1.bias"], ["conv2.bias"], None, ["conv1.bias"]):
        for row in load(
            "digits_cnn_s", digits_home, split="test", tensors=tensors, cache_dir=cache
        ):
            assert row.get("tensors") == tensors


def test_resnet_rows(resnets: Path, tmp_path: Path) -> None:
    tensors = ["fc.bias", STEM, "bn1.running_var"]
    whole = load("cifar10_resnet18", resnets, split="train", streaming=True)
    tables = list(whole.with_format("arrow").iter(batch_size=1))
    parts = load("cifar10_resnet18", resnets, split="train", tensors=tensors, cache_dir=tmp_path)
    assert len(parts) == len(tables) == 4
    layout = model_zoos.layout_of(parts[0])
    assert [slot.name for slot in layout.slots] == ["bn1.running_var", STEM, "fc.bias"]
    for row, table in zip(parts, tables, strict=True):
        vector = table["weights"].combine_chunks().flatten().to_numpy()
        for slot in make_layout("resnet18", 3).slots:
            if slot.name in tensors:
                found = model_zoos.layer(row, slot.name)
                assert np.array_equal(found, vector[slot.slice].reshape(slot.shape))
    assert isinstance(parts.features.arrow_schema.field("weights").type, pa.FixedSizeListType)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes of a process")
def test_nothing_else_is_read_of_a_resnet(resnets: Path) -> None:
    def read(**arguments: Any) -> int:
        rows = load("cifar10_resnet18", resnets, split="train", streaming=True, **arguments)
        before = _bytes_read()
        assert len(list(rows.with_format("arrow"))) == 4
        return _bytes_read() - before

    wanted = 4 * make_layout("resnet18", 3).slot(STEM).size
    header = 1 << 15
    assert 4 * wanted <= read(tensors=[STEM]) <= 4 * (wanted + header)
    assert read() > 4 * 40e6


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_weights_of_chosen_rows(digits_home: Path) -> None:
    """The public functions take what `tensors=` gives as any other data set."""
    rows: Dataset = load("digits_cnn_s", digits_home, split="train", tensors=["fc2.weight"])
    layout = model_zoos.layout_of(rows[0])
    tokens = model_zoos.to_tokens(model_zoos.weights(rows), layout)
    assert torch.equal(model_zoos.from_tokens(tokens.tokens, layout), model_zoos.weights(rows))
