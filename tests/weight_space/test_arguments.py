"""Arguments of a wrong kind are refused with a sentence, and seeds stand for generators."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import model_zoos
from model_zoos import weight_space
from model_zoos.errors import InvalidArgument, ModelZoosError

from .layouts import PLAIN, random_weights

LAYOUT = PLAIN[0]
WEIGHTS = random_weights(LAYOUT, 3)
ROW = {"architecture": "cnn_s", "weights": WEIGHTS[0], "activation": "tanh"}
GOOD: dict[str, dict[str, Any]] = {
    "canonical_order": {"weights": WEIGHTS, "layout": LAYOUT},
    "compose": {"first": {}, "second": {}},
    "from_graphs": {"graphs": weight_space.to_graphs(WEIGHTS, LAYOUT)},
    "from_layers": {"layers": weight_space.to_layers(WEIGHTS, LAYOUT), "layout": LAYOUT},
    "from_tokens": {"tokens": weight_space.to_tokens(WEIGHTS, LAYOUT), "layout": LAYOUT},
    "hidden_units": {"layout": LAYOUT},
    "invert": {"permutation": {}},
    "permute": {"weights": WEIGHTS, "layout": LAYOUT, "permutation": {}},
    "PermuteUnits": {"layout": LAYOUT, "scales": 2.0},
    "random_factors": {"layout": LAYOUT, "activation": "tanh", "generator": 0},
    "random_permutation": {"layout": LAYOUT, "generator": 0},
    "rescale": {"weights": WEIGHTS, "layout": LAYOUT, "factors": {}, "activation": "tanh"},
    "stacked_state_dict": {"weights": WEIGHTS, "layout": LAYOUT},
    "to_graphs": {"weights": WEIGHTS, "layout": LAYOUT},
    "to_layers": {"weights": WEIGHTS, "layout": LAYOUT},
    "to_tokens": {"weights": WEIGHTS, "layout": LAYOUT},
    "token_windows": {"tokens": weight_space.to_tokens(WEIGHTS, LAYOUT), "length": 2, "start": 0},
    "weight_matching": {"weights": WEIGHTS, "reference": WEIGHTS[0], "layout": LAYOUT},
}
WRONG: dict[str, tuple[Any, ...]] = {
    "layout": (ROW, "cnn_s", None, WEIGHTS),
    "generator": ("seed", -1, 0.5, torch.Generator(), [0.5]),
    "weights": ([[0.0]], "weights", ROW),
    "tokens": (ROW, 3, None, "tokens"),
    "graphs": (WEIGHTS, ROW, None),
    "layers": (WEIGHTS, [WEIGHTS], None),
    "permutation": ([1, 0], WEIGHTS, None),
    "first": ([1, 0], WEIGHTS, None),
    "second": ([1, 0], WEIGHTS, None),
    "factors": ([1.0], WEIGHTS, None),
    "reference": ("reference", ROW),
    "scales": (-1.0, 0.5, np.nan, np.inf, (0.5, 2.0), "2", None),
    "start": (65, -1, [0, 1], 0.5, "0", np.full(3, 66), np.full((3, 1), 0)),
    "length": (0, 67),
}
WITH_ROWS = {
    "PermuteUnits", "epoch_windows", "evaluate", "match_models", "pairs", "train", "trajectories"
}  # fmt: skip
CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{i}")
    for name, good in GOOD.items()
    for argument in good
    for i, value in enumerate(WRONG.get(argument, ()))
]


def test_every_function_of_layouts_and_weights_is_here() -> None:
    names = {
        name
        for name in weight_space.__all__
        if inspect.isfunction(getattr(weight_space, name)) and name not in WITH_ROWS
    }
    assert names <= GOOD.keys()
    for name, arguments in GOOD.items():
        getattr(model_zoos, name)(**arguments)


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_a_wrong_kind_is_refused(name: str, argument: str, value: Any) -> None:
    with pytest.raises(ModelZoosError) as caught:
        getattr(model_zoos, name)(**{**GOOD[name], argument: value})
    assert len(str(caught.value)) < 250
    assert not re.search(r"has no attribute|unhashable|indices must be", str(caught.value))


@pytest.mark.parametrize("draw", [
    lambda generator: model_zoos.random_permutation(LAYOUT, generator, rows=3),
    lambda generator: model_zoos.random_factors(LAYOUT, "relu", generator, scales=2.0),
])  # fmt: skip
def test_a_seed_is_a_generator_of_its_own(draw: Callable[[Any], Any]) -> None:
    one, two = draw(7), draw(np.random.default_rng(7))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)


def test_tokens_join_as_they_were_returned() -> None:
    for weights in (WEIGHTS, torch.from_numpy(WEIGHTS)):
        tokens = model_zoos.to_tokens(weights, LAYOUT, width=40)
        assert (model_zoos.from_tokens(tokens, LAYOUT) == weights).all()
        assert type(model_zoos.from_tokens(tokens, LAYOUT)) is type(weights)


def test_the_message_about_a_row_says_what_to_give() -> None:
    with pytest.raises(InvalidArgument, match=r"layout_of\(row\)"):
        model_zoos.to_layers(WEIGHTS, ROW)
