"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from model_zoos.builders.files import file_digest


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_digests(tmp_path: Path, size: int) -> None:
    content = bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file", "md5") == hashlib.md5(content).hexdigest()
    assert file_digest(tmp_path / "file", "sha256") == hashlib.sha256(content).hexdigest()
