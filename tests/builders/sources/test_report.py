"""What is left out, and that the account adds up."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from model_zoos.builders.sources.report import (
    LeftOut,
    Report,
    drop_unusable,
    require_metrics,
    weights_fault,
)
from model_zoos.errors import Unreadable


@pytest.mark.parametrize(
    ("value", "limit", "fault"),
    [
        (1.0, None, None),
        (6.0, None, None),
        (5.0, 5.0, None),
        (-6.0, 5.0, "weights above 5: the largest is 6"),
        (math.nan, None, "NaN or infinite weights: 1 of 4"),
        (-math.inf, 5.0, "NaN or infinite weights: 1 of 4"),
    ],
)
def test_weights(value: float, limit: float | None, fault: str | None) -> None:
    assert weights_fault(np.array([0, 1, value, 0], np.float32), limit) == fault


@pytest.mark.parametrize(
    ("metrics", "fault"),
    [
        ({"test_loss": 1.0}, "missing metrics: test_acc"),
        ({"test_loss": 1.0, "test_acc": math.nan}, "wrong metrics: test_acc"),
        ({"test_loss": 1.0, "test_acc": 98.0}, "wrong metrics: test_acc is 98.0"),
        ({"test_loss": "1", "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
        ({"test_loss": True, "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
        ({"test_loss": 10**400, "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
    ],
)
def test_metrics(metrics: dict[str, Any], fault: str) -> None:
    with pytest.raises(Unreadable, match=fault):
        require_metrics(metrics, ("test_loss", "test_acc"))


def test_losses_may_be_nan_and_accuracies_whole() -> None:
    require_metrics({"test_loss": math.nan, "test_acc": 0}, ("test_loss", "test_acc"))


def test_optional_metrics_that_cannot_be_used_are_null() -> None:
    states: list[tuple[int, dict[str, Any]]] = [
        (0, {"val_acc": 0.5, "val_loss": math.nan, "test_acc": 7.0, "sparsity": None}),
        (1, {"val_acc": math.nan, "val_loss": "x", "sparsity": None}),
        (2, {"val_acc": 51.0, "val_loss": 1, "sparsity": [1]}),
    ]
    assert drop_unusable(states) == [
        "sparsity is null at 1 states, at the first because sparsity is no number, at epoch 2",
        "val_acc is null at 2 states, at the first because val_acc is nan, not a share of 1, at "
        "epoch 1",
        "val_loss is null at 1 states, at the first because val_loss is no number, at epoch 1",
    ]
    assert states[1:] == [
        (1, {"val_acc": None, "val_loss": None, "sparsity": None}),
        (2, {"val_acc": None, "val_loss": 1, "sparsity": None}),
    ]
    assert math.isnan(states[0][1]["val_loss"])
    assert states[0][1]["test_acc"] == 7.0  # required: it is for `require_metrics`


def test_the_account_adds_up() -> None:
    left_out = (LeftOut("a", 1, "truncated: by half"), LeftOut("b", 2, "truncated: at its end"))
    report = Report("zoo", {"file": "zoo.zip"}, models=1, found=5, kept=3, left_out=left_out)
    assert report.categories() == {"truncated": 2}
    assert json.loads(json.dumps(report.to_json()))["left_out"][0] == {
        "trial": "a",
        "epoch": 1,
        "reason": "truncated: by half",
    }
    with pytest.raises(AssertionError, match="5 states found, 4 kept, 2 left out"):
        Report("zoo", {}, models=1, found=5, kept=4, left_out=left_out)
