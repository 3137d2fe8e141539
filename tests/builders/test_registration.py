"""`load_dataset("model_zoos", ...)` works in whatever order the packages are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOAD = (
    "rows = load_dataset('model_zoos', 'digits_cnn_s', data_dir=home, cache_dir=cache)\n"
    "print(sum(len(part) for part in rows.values()))\n"
)


def output(code: str, *, cwd: Path, home: Path) -> str:
    """Run code in a Python of its own, and return what it prints."""
    start = f"home, cache = {str(home)!r}, {str(cwd / 'cache')!r}\n"
    run = subprocess.run(
        [sys.executable, "-c", start + code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import model_zoos\nfrom datasets import load_dataset\n",
        "from datasets import load_dataset\nimport model_zoos\n",
        "import runpy\nrunpy.run_module('model_zoos', run_name='again')\n"  # as python -m does
        "import model_zoos\nimport datasets.load\nload_dataset = datasets.load.load_dataset\n",
    ],
)
def test_the_order_of_imports_does_not_matter(
    digits_home: Path, tmp_path: Path, imports: str
) -> None:
    code = imports + LOAD + "from datasets import get_dataset_config_names\n"
    code += "print(get_dataset_config_names('model_zoos', data_dir=home)[0])"
    assert output(code, cwd=tmp_path, home=digits_home).split() == ["120", "digits_cnn_s"]


def test_datasets_is_imported_when_it_is_needed(digits_home: Path, tmp_path: Path) -> None:
    code = (
        "import sys, model_zoos, model_zoos.cli\n"
        "print('datasets' in sys.modules, 'torch' in sys.modules)\n"
        "finders = len(sys.meta_path)\n"
        "from datasets import load_dataset\n"
        "print(len(sys.meta_path) - finders, model_zoos.ModelZoos.__name__)\n"
    )
    printed = output(code + LOAD, cwd=tmp_path, home=digits_home)
    assert printed.split() == ["False", "False", "-1", "ModelZoos", "120"]


def test_an_import_that_fails_can_be_repeated(digits_home: Path, tmp_path: Path) -> None:
    """pandas is not importable at first, and datasets with it."""
    code = (
        "import sys, model_zoos\n"
        "sys.modules['pandas'] = None\n"
        "try:\n    import datasets\nexcept ImportError:\n    print('failed')\n"
        "del sys.modules['pandas']\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] == 'datasets']:\n"
        "    del sys.modules[name]\n"
        "from datasets import load_dataset\n"
    )
    assert output(code + LOAD, cwd=tmp_path, home=digits_home).split() == ["failed", "120"]


def test_other_names_go_to_datasets_own_factory(digits_home: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n2\n")
    code = (
        "import model_zoos\nfrom datasets import load_dataset\n"
        "print(load_dataset('csv', data_files='rows.csv', cache_dir=cache)['train']['a'][:])\n"
    )
    assert output(code, cwd=tmp_path, home=digits_home).strip() == "[1, 2]"
