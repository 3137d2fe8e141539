"""Sizes in words."""

from __future__ import annotations

from model_zoos.builders.phrases import byte_size


def test_sizes() -> None:
    counts = (0, 12_345, 1_200_000, 3_400_000_000, 2.2e12)
    assert [byte_size(count) for count in counts] == ["0 kB", "12 kB", "1.2 MB", "3.4 GB", "2.2 TB"]
    assert byte_size(12_345, "MB") == "0.0 MB"
