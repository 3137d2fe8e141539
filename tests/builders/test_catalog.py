"""The catalog against the facts read off the original's scripts."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from typing import Any

import pytest

from model_zoos.builders import catalog, specification
from model_zoos.builders.catalog import ZOOS, get_zoo, list_zoos
from model_zoos.builders.hyperparameters import INITS
from model_zoos.builders.names import dense_name
from model_zoos.builders.specification import Zoo, zoo_from_json
from model_zoos.errors import UnknownZoo
from tests.shared import SHARED, needs_shared

PUBLISHED = [zoo for zoo in ZOOS.values() if zoo.published]


def test_totals_of_the_expanded_catalog_are_the_papers() -> None:
    ids = [model.model_id for zoo in PUBLISHED for model in zoo.models()]
    states = sum(len(zoo.models()) * zoo.states_per_model for zoo in PUBLISHED)
    assert len(PUBLISHED) == 27
    assert len(ids) == len(set(ids)) == 50_360
    assert states == sum(zoo.state_count for zoo in PUBLISHED) == 2_585_360
    assert len(ids) * catalog.TWIN_EPOCHS == 1_259_000
    assert states + len(ids) * catalog.TWIN_EPOCHS == 3_844_360


@needs_shared
def test_every_fact_of_every_zoo() -> None:
    facts = json.loads((SHARED / "reference" / "zoo_facts.json").read_text())
    assert {entry["name"] for entry in facts["zoos"]} == {zoo.name for zoo in PUBLISHED}
    for entry in facts["zoos"]:
        zoo = get_zoo(entry["name"])
        assert {key: list(values) for key, values in zoo.grid} == entry["grid"]
        assert zoo.model_count == entry["models"]
        assert zoo.channels == entry["input"][0]
        for key in [
            "image_dataset",
            "architecture",
            "variant",
            "experiment",
            "epochs",
            "states_per_model",
            "batch_size",
            "momentum",
            "scheduler",
            "classes",
            "images",
        ]:
            assert getattr(zoo, key) == entry[key], (zoo.name, key)
    published = {doi for zoo in ZOOS.values() for doi in (zoo.doi, zoo.doi_preprocessed) if doi}
    assert published | set(catalog.TWIN_DOIS.values()) == set(facts["doi"].values())


@needs_shared
def test_random_grid_points_equal_the_facts() -> None:
    facts = json.loads((SHARED / "reference" / "zoo_facts.json").read_text())
    chance = random.Random(0)
    for entry in chance.sample(facts["zoos"], 12):
        point = {key: chance.choice(values) for key, values in entry["grid"].items()}
        found = [
            model
            for model in get_zoo(entry["name"]).models()
            if all(getattr(model, key) == value for key, value in point.items())
        ]
        assert len(found) == entry["models"] / _product(entry["grid"])
        for model in found:
            assert model.batch_size == entry["batch_size"]
            assert model.epochs == entry["epochs"]
            assert model.scheduler == entry["scheduler"]
            # The original's records repeat the zoo's momentum for adam, which has none.
            assert model.momentum == (entry["momentum"] if point["optimizer"] == "sgd" else None)
        if entry["variant"] != "hyp_10_r":
            assert sorted(model.seed for model in found) == list(range(1, len(found) + 1))
        else:
            assert len({model.seed for model in found}) == 10
            assert all(0 <= model.seed < 1_000_000 for model in found)


def _product(grid: dict[str, list[object]]) -> int:
    count = 1
    for values in grid.values():
        count *= len(values)
    return count


def test_random_seeds_look_uniform_and_differ_between_grid_points() -> None:
    seeds = [model.seed for model in get_zoo("mnist_cnn_s_hyp_10_r").models()]
    assert len(set(seeds)) > 0.99 * len(seeds)
    # Mean of 2,560 uniform draws: standard error 0.0057 of the range; five of them.
    assert abs(sum(seeds) / len(seeds) / 1_000_000 - 0.5) < 0.03


def test_model_ids_are_short_and_belong_to_the_specification() -> None:
    first = get_zoo("mnist_cnn_s_seed").models(1)[0]
    assert re.fullmatch(r"[0-9a-f]{12}", first.model_id)
    assert first.model_id == get_zoo("mnist_cnn_s_seed").models()[0].model_id
    for change in ({"seed": 2}, {"zoo": "other"}, {"epochs": 3}, {"dropout": 0.5}):
        assert dataclasses.replace(first, **change).model_id != first.model_id


def test_first_models_are_spread_over_the_grid_and_a_larger_number_only_adds() -> None:
    zoo = get_zoo("mnist_cnn_s_hyp_10_r")
    some, more = zoo.models(256), zoo.models(300)
    assert more[:256] == some
    points = {tuple(getattr(model, key) for key in specification.GRID_KEYS) for model in some}
    assert len(points) == 256
    assert len({model.activation for model in zoo.models(16)}) == 4


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_impossible_number_of_models(count: int) -> None:
    with pytest.raises(ValueError, match="has 1000 models"):
        get_zoo("mnist_cnn_s_seed").models(count)


def test_names() -> None:
    assert get_zoo("MNIST-cnn-s-seed").name == "mnist_cnn_s_seed"
    with pytest.raises(UnknownZoo, match="did you mean mnist_cnn_s_seed"):
        get_zoo("mnist_cnn_s_sed")
    with pytest.raises(UnknownZoo, match="union of mnist_cnn_s_seed"):
        get_zoo("mnist_cnn_s")
    for twins in ("_sparse", "_sparse_magnitude"):
        assert dense_name(f"mnist_cnn_s{twins}") == "mnist_cnn_s"
        assert catalog.parts_of(f"mnist_cnn_s{twins}") == tuple(
            f"mnist_cnn_s_{variant}{twins}" for variant in specification.VARIANTS
        )
    names = catalog.config_names()
    assert len(names) == len(set(names))
    assert {"digits_cnn_s", "eurosat_cnn_s", "cifar10_cnn_l", "metrics"} <= set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decays": [0.0]}, r"unknown: 'weight_decays' \(did you mean weight_decay\?\)"),
        (
            {"batch_size": [8]},
            r"a grid has the keys activation, .*; unknown: 'batch_size'. batch_size stands beside",
        ),
        ({"lr": [0.1], "learning_rate": None}, r"missing: learning_rate; unknown: 'lr'$"),
        ({str(n): [0] for n in range(90)}, "unknown: '0', '1', '2', '3', '4'$"),
    ],
)
def test_wrong_keys_of_a_grid(change: dict[str, Any], message: str) -> None:
    values = get_zoo("digits_cnn_s").to_json()
    grid = {key: v for key, v in {**values["grid"], **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        Zoo.from_json({**values, "name": "own", "grid": grid})


def test_wrong_keys_of_a_zoo() -> None:
    values = {**get_zoo("digits_cnn_s").to_json(), "epoch": 3}
    with pytest.raises(ValueError, match=r"unknown: 'epoch' \(did you mean epochs\?\)$"):
        Zoo.from_json(values)
    del values["epoch"], values["classes"], values["grid"]
    with pytest.raises(ValueError, match=r"missing: classes, grid$"):
        Zoo.from_json(values)


def test_filters_of_the_list() -> None:
    assert [zoo.name for zoo in list_zoos(architecture="resnet18")] == [
        "cifar10_resnet18",
        "cifar100_resnet18",
        "tiny_imagenet_resnet18",
    ]
    assert len(list_zoos("*cnn-l*", variant="seed")) == 2
    with pytest.raises(ValueError, match="no zoo has variant"):
        list_zoos(variant="hyp")
    with pytest.raises(UnknownZoo, match="no zoo of the catalog matches 'nosuch'"):
        list_zoos("nosuch")


def test_what_can_be_trained_is_what_a_specification_may_name() -> None:
    from model_zoos.generation import networks

    assert tuple(networks.INIT_FUNCTIONS) == tuple(INITS)


@pytest.mark.parametrize("name", ZOOS)
def test_specification_survives_json(name: str) -> None:
    assert Zoo.from_json(json.loads(json.dumps(ZOOS[name].to_json()))) == ZOOS[name]
    assert repr(ZOOS[name]).startswith(f"<Zoo {name}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vgg"}, "unknown architecture"),
        ({"colour": 1}, "unknown"),
        ({"name": "../up"}, "letters, digits"),
        ({"name": "Up_Case"}, "small letters, digits"),
        (
            {"channels": 2},
            "cnn_s is for images of 1 or 3 channels, not 2: write the network as a text",
        ),
        ({"channels": 0}, "channels must be a whole number from 1 to 1,024"),
        ({"scheduler": "warmup"}, "scheduler must be null"),
        ({"variant": "My variant"}, "variant must be small letters"),
        ({"images": 5}, "images must be a text"),
        ({"grid": {"activation": ["relu", "relu"]}}, "repeats a value of activation"),
        ({"grid": {"dropout": [0, 0.0]}}, "repeats a value of dropout"),
        ({"grid": {"learning_rate": [float("inf")]}}, "must be a finite number"),
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": True}, "epochs must be"),
        ({"momentum": None}, 'sgd needs a "momentum" beside the grid'),
        ({"momentum": "much"}, "momentum must be"),
        (
            {"grid": {"activation": ["tanh"], "init": ["normal"]}},
            "a grid has the keys .* missing: dropout",
        ),
        ({"grid": [1]}, "object of lists"),
        ({"grid": {"init": ["ones"]}}, "init must be one of"),
        ({"grid": {"init": "uniform"}}, "must be a list"),
        ({"grid": {"init": []}}, "no value for init"),
        ({"grid": {"dropout": [1.0]}}, r"dropout must be a number in \[0, 1\)"),
        ({"grid": {"learning_rate": ["fast"]}}, "must be a finite number"),
        ({"grid": {"learning_rate": [float("nan")]}}, "must be a finite number"),
    ],
)
def test_bad_specifications(change: dict[str, object], message: str) -> None:
    values = get_zoo("digits_cnn_s").to_json()
    grid = change.get("grid")
    if isinstance(grid, dict) and len(grid) == 1:
        change = {"grid": {**values["grid"], **grid}}
    with pytest.raises(ValueError, match=message):
        zoo_from_json({**values, **change})
