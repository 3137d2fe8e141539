"""Folders of this package are recognised where a source is expected."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.errors import Unreadable
from tests.hostile import trial_files
from tests.zoos import random_zoo


def test_what_needs_no_import(tmp_path: Path) -> None:
    zoos, built = tmp_path / "zoos", tmp_path / "built"
    random_zoo(zoos, dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=2), 12)
    build_folder(["digits_cnn_s"], zoos, built)
    forms = {
        zoos / "digits_cnn_s": (r"it is a zoo directory already", "model-zoos info digits_cnn_s"),
        zoos: (r"it holds zoo directories already.*: digits_cnn_s\.", "model-zoos list --data-dir"),
        built: (r"`model-zoos build` wrote this folder.*: digits_cnn_s\.", "model-zoos publish"),
        built / "data" / "digits_cnn_s": ("no trial", ""),
    }
    for source, (message, hint) in forms.items():
        with pytest.raises(Unreadable, match=message) as caught:
            import_zoo(source, tmp_path / "out")
        assert str(caught.value).startswith(str(source))
        assert hint in (caught.value.hint or "")


def test_a_source_beside_its_zoo_is_imported_again(tmp_path: Path) -> None:
    for name, content in trial_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    first = import_zoo(tmp_path, tmp_path, "own")
    again = import_zoo(tmp_path, tmp_path, "own")
    assert again[0].models == first[0].models > 0
