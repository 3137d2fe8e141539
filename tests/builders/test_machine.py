"""Cores, digests and sizes in words."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from model_zoos.builders.machine import byte_size, cores, file_digest


def test_cores() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_digests(tmp_path: Path, size: int) -> None:
    content = bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file", "md5") == hashlib.md5(content).hexdigest()
    assert file_digest(tmp_path / "file", "sha256") == hashlib.sha256(content).hexdigest()


def test_sizes() -> None:
    counts = (0, 12_345, 1_200_000, 3_400_000_000, 2.2e12)
    assert [byte_size(count) for count in counts] == ["0 kB", "12 kB", "1.2 MB", "3.4 GB", "2.2 TB"]
    assert byte_size(12_345, "MB") == "0.0 MB"
