"""Cores of this machine."""

from __future__ import annotations

import os

from model_zoos.builders.machine import cores


def test_cores() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
