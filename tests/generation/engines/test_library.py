"""The cache of compiled kernels: what is loaded from it, and what is compiled anew."""

import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from model_zoos.builders.layout import make_layout
from model_zoos.errors import LanesUnavailable
from model_zoos.generation.engines.kernels.cache import cached
from model_zoos.generation.engines.lanes.library import usable_isas

try:
    usable_isas()
except LanesUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

IMPORTS = (
    "from model_zoos.builders.layout import make_layout\n"
    "from model_zoos.generation.engines.lanes.library import load"
)
LOAD = f"{IMPORTS}\nprint(load(make_layout('cnn_s', 1), 'tanh').weights_count())"
SIZE = make_layout("cnn_s", 1).size


def load_in_a_process(cache: Path, compiler: str | None = None, code: str = LOAD) -> str:
    """Load the kernel of CNN-s in a fresh process, which may have another compiler."""
    environment = os.environ | {
        "MODEL_ZOOS_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    if compiler is not None:
        environment["CXX"] = compiler
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one library, and a compiler that counts what it builds in `builds`."""
    cache = tmp_path_factory.mktemp("filled")
    assert load_in_a_process(cache, counting_compiler(cache)) == str(SIZE)
    assert builds(cache) == 1
    return cache


def counting_compiler(cache: Path) -> str:
    """A compiler that notes each build in `<cache>/builds`, and compiles only the first."""
    script = cache / "compiler"
    script.write_text(
        f"""#!/bin/sh
        for out; do :; done  # the last argument
        case "$out" in
        *kernel.so)
            echo built >> "{cache}/builds"
            [ -e "{cache}/first.so" ] || {os.environ.get("CXX", "c++")} "$@" || exit
            [ -e "{cache}/first.so" ] || cp "$out" "{cache}/first.so"
            cp "{cache}/first.so" "$out";;
        *) exec {os.environ.get("CXX", "c++")} "$@";;
        esac
        """
    )
    script.chmod(0o755)
    return str(script)


def builds(cache: Path) -> int:
    """How often the counting compiler built a library."""
    return (cache / "builds").read_text().count("built")


def test_the_cache_is_private_and_used_again(filled: Path) -> None:
    [library] = (filled / "lanes").iterdir()
    assert stat.S_IMODE((filled / "lanes").stat().st_mode) == 0o700
    assert not stat.S_IMODE(library.stat().st_mode) & 0o022
    assert load_in_a_process(filled, str(filled / "compiler")) == str(SIZE)
    assert builds(filled) == 1


def _replace_by_link(library: Path) -> None:
    target = library.parent.parent / "elsewhere.so"
    library.rename(target)
    library.symlink_to(target)


SPOILERS: dict[str, Callable[[Path], object]] = {
    "cut": lambda library: os.truncate(library, library.stat().st_size // 2),
    "empty": lambda library: os.truncate(library, 0),
    "other bytes": lambda library: library.write_bytes(library.read_bytes() + b"\0"),
    "writable by others": lambda library: library.chmod(0o777),
    "writable by the group": lambda library: library.chmod(0o770),
    "a link": _replace_by_link,
    "a pipe": lambda library: (library.unlink(), os.mkfifo(library)),
    "named by its digest alone": lambda library: library.rename(
        library.with_name(library.name.replace("cnn_s", "cnn_x"))
    ),
}


def some_slow(cases: Iterable[str], quick: Iterable[str]) -> list[Any]:
    """Each case compiles a library: only the quick ones belong to the short run."""
    return [pytest.param(x, marks=[] if x in quick else pytest.mark.slow, id=x) for x in cases]


@pytest.mark.parametrize("spoiler", some_slow(SPOILERS, ("cut", "writable by others", "a link")))
def test_a_spoilt_library_is_built_again(filled: Path, tmp_path: Path, spoiler: str) -> None:
    shutil.copytree(filled / "lanes", tmp_path / "lanes")
    compiler = filled / "compiler"
    [library] = (tmp_path / "lanes").iterdir()
    SPOILERS[spoiler](library)
    before = builds(filled)
    assert load_in_a_process(tmp_path, str(compiler)) == str(SIZE)
    assert builds(filled) == before + 1
    [rebuilt] = (found for found in (tmp_path / "lanes").iterdir() if "cnn_s" in found.name)
    assert rebuilt.read_bytes() == (filled / "first.so").read_bytes()
    assert not rebuilt.is_symlink()


def _link_folder(cache: Path) -> None:
    (cache / "lanes").rename(cache / "other")
    (cache / "lanes").symlink_to(cache / "other")


FOLDERS: dict[str, Callable[[Path], object]] = {
    "writable by others": lambda cache: (cache / "lanes").chmod(0o777),
    "writable by the group": lambda cache: (cache / "lanes").chmod(0o770),
    "a link": _link_folder,
    "a file": lambda cache: (shutil.rmtree(cache / "lanes"), (cache / "lanes").write_text("")),
}


@pytest.mark.parametrize("folder", some_slow(FOLDERS, ("writable by others", "a link")))
def test_nothing_is_loaded_from_a_folder_of_others(
    filled: Path, tmp_path: Path, folder: str
) -> None:
    """The same kernel is compiled into a temporary folder, which does not stay."""
    shutil.copytree(filled / "lanes", tmp_path / "lanes")
    FOLDERS[folder](tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = builds(filled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        assert load_in_a_process(tmp_path, str(filled / "compiler")) == str(SIZE)
    assert builds(filled) == before + 1
    assert not list(temporary.iterdir())


def test_threads_compile_several_kernels_side_by_side_and_none_twice(
    filled: Path, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f"""#!/bin/sh
        for out; do :; done  # the last argument
        case "$out" in
        *kernel.so)
            echo built >> "{tmp_path}/builds"
            for _ in $(seq 200); do  # until the other one is here, for at most 20 s
                [ "$(wc -l < "{tmp_path}/builds")" -ge 2 ] && break
                sleep 0.1
            done
            [ "$(wc -l < "{tmp_path}/builds")" -ge 2 ] && cp "{filled}/first.so" "$out";;
        *) exec {os.environ.get("CXX", "c++")} "$@";;
        esac
        """
    )
    compiler.chmod(0o755)
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"{IMPORTS}\n"
        "layout = make_layout('cnn_s', 1)\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    found = pool.map(lambda name: load(layout, name), ['tanh', 'tanh', 'relu', 'relu'])\n"
        "print(*(library.weights_count() for library in found))"
    )
    assert load_in_a_process(tmp_path, str(compiler), code) == " ".join([str(SIZE)] * 4)
    assert builds(tmp_path) == 2


def test_that_a_kernel_is_compiled_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def build(folder: Path) -> Path:
        (folder / "kernel.so").write_bytes(b"kernel")
        return folder / "kernel.so"

    caplog.set_level(logging.INFO, "model_zoos")
    for _ in range(2):
        assert cached(tmp_path / "own", "cnn_s-0123", ".so", build, Path.read_bytes) == b"kernel"
    assert [record.getMessage() for record in caplog.records] == [
        "compiling the kernel cnn_s for this machine"
    ]
