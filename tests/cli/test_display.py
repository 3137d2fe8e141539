"""Progress, as a log or a pipe shows it."""

from __future__ import annotations

import time

import pytest

from model_zoos.cli.display import Bars


def test_a_line_that_stays_the_same_is_said_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bars = Bars(hidden=False)
    said = []
    for second in range(41):  # 20 seconds without a change, then a change each second
        now = float(second)
        bars("zoo", text=f"{max(0, second - 20)} of 20 models")
        said += [(second, line) for line in capsys.readouterr().err.splitlines()]
    still = [second for second, line in said if line == "zoo: 0 of 20 models"]
    assert still[0] <= 5
    assert 1 <= len(still) <= 3
    assert [line for _, line in said if line != "zoo: 0 of 20 models"]
