"""What is left out, and that the account adds up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from model_zoos.builders.sources.report import (
    LeftOut,
    Report,
    common_metrics,
    metrics_fault,
    weights_fault,
)


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
        ({"test_loss": 1.0, "test_acc": 0.5}, None),
        ({"test_loss": math.nan, "test_acc": 0}, None),
        (None, "missing metrics: no line"),
        ({"test_loss": 1.0}, "missing metrics: test_acc"),
        ({"test_loss": 1.0, "test_acc": math.nan}, "wrong metrics: test_acc"),
        ({"test_loss": 1.0, "test_acc": 98.0}, "wrong metrics: test_acc is 98.0"),
        ({"test_loss": "1", "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
        ({"test_loss": True, "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
        ({"test_loss": 10**400, "test_acc": 0.5}, "wrong metrics: test_loss is no number"),
    ],
)
def test_metrics(metrics: dict[str, float] | None, fault: str | None) -> None:
    found = metrics_fault(metrics, ("test_loss", "test_acc"))
    assert found == fault or (fault is not None and str(found).startswith(fault))


def test_a_metric_of_few_results_is_not_asked_of_all() -> None:
    lines = [{"val_acc": 0.5, "val_loss": None}, {"val_acc": 0.1}, {"sparsity": 0.5}]
    assert common_metrics(lines) == ("val_acc",)
    assert common_metrics([]) == ()


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
