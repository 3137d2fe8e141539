"""Ranks that build one repository folder: the bytes of one process, whatever happens to them."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

import model_zoos
from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.contents import read_contents
from model_zoos.builders.ranks import Rank
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import AlreadyRunning, FaultyZoo
from tests.shared import contents
from tests.zoos import random_zoo

NAMES = ["mnist_cnn_s_seed", "digits_cnn_s", "usps_cnn_s_seed"]
SHARD = 100_000
"""Bytes of a shard, so that there are many."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(ARCHITECTURES["cnn_s"], shard_bytes=SHARD, row_group_bytes=SHARD)
    monkeypatch.setitem(ARCHITECTURES, "cnn_s", small)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zoos with 20, 12 and a few shards; the smallest lacks models in some splits."""
    root = tmp_path_factory.mktemp("home")
    for name, models, epochs in zip(NAMES, (20, 12, 2), (9, 9, 1), strict=True):
        random_zoo(root, dataclasses.replace(zoo_spec(name), epochs=epochs), models)
    return root


def result(out: Path) -> dict[str, bytes]:
    """All files of a finished folder but its two locks and the stamps of its files."""
    others = (".build/lock", ".build/gate", ".build/files.digests.json")
    return {name: content for name, content in contents(out).items() if name not in others}


@pytest.fixture
def whole(home: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one process writes."""
    build_folder(NAMES, home, tmp_path / "whole")
    return result(tmp_path / "whole")


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 3, 1)])
def test_ranks_one_after_the_other(
    order: tuple[int, ...], home: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """In any order."""
    out, written, count = tmp_path / "out", [], len(order)
    for index in order:
        assert not (out / "README.md").exists() or count > sum(written)
        summaries = build_folder(NAMES, home, out, rank=Rank(index, count))
        written.append(sum(summary.written for summary in summaries))
        if not (out / "README.md").exists():
            assert any(summary.missing for summary in summaries)
    assert result(out) == whole
    assert sum(written) == sum(name.startswith("data/") for name in whole)
    assert max(written) - min(written) <= 2
    assert not any(summary.missing for summary in summaries)
    assert sum(s.file_bytes for s in summaries) == sum(
        len(content) for name, content in whole.items() if name.startswith("data/")
    )


def test_more_ranks_than_files(home: Path, tmp_path: Path) -> None:
    out, written = tmp_path / "out", 0
    for index in (4, 0, 3, 1, 2):
        [summary] = build_folder(NAMES[2:], home, out, rank=Rank(index, 5))
        written += summary.written
    assert written == summary.shards < 5
    build_folder(NAMES[2:], home, tmp_path / "whole")
    assert result(out) == result(tmp_path / "whole")


def test_ranks_at_the_same_time_over_an_older_build(home: Path, tmp_path: Path) -> None:
    """Shards of a zoo that has changed go before the first new one appears, the others stay."""
    old, out, alone = tmp_path / "old", tmp_path / "out", tmp_path / "alone"
    shutil.copytree(home, old)
    for path in open_zoo(old, NAMES[0]).files()[:5]:
        path.unlink()
    build_folder(NAMES, old, out)
    shutil.copytree(out, alone)
    build_folder(NAMES, home, alone)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: build_folder(NAMES, home, out, rank=Rank(i, 4)), range(4)))
    assert result(out) == result(alone)


@pytest.mark.parametrize("later", [[Rank(0, 3), Rank(1, 3), Rank(2, 3)], [Rank()], [Rank(1, 2)]])
def test_what_ranks_left_is_finished_by_others(
    later: list[Rank], home: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """Two ranks of four have run; another number of ranks, one process, or nearly all follow."""
    out = tmp_path / "out"
    for index in (1, 2):
        build_folder(NAMES, home, out, rank=Rank(index, 4))
    with pytest.raises(FaultyZoo, match="lacks some of its files"):
        read_contents(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    for rank in later:
        build_folder(NAMES, home, out, rank=rank)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    if later != [Rank(1, 2)]:
        assert result(out) == whole
    else:
        assert not (out / "README.md").exists()


def test_a_zoo_that_changes_between_ranks_is_not_finished(home: Path, tmp_path: Path) -> None:
    """Until each rank has built the zoo as it is now."""
    zoos, out = tmp_path / "zoos", tmp_path / "out"
    shutil.copytree(home, zoos)
    build_folder(NAMES, zoos, out, rank=Rank(0, 2))
    open_zoo(zoos, NAMES[0]).files()[3].unlink()
    last = build_folder(NAMES, zoos, out, rank=Rank(1, 2))
    assert last[0].missing
    assert not (out / "README.md").exists()
    build_folder(NAMES, zoos, out, rank=Rank(0, 2))
    build_folder(NAMES, zoos, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_a_running_build_excludes_others(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_folder(NAMES[2:], home, out)
    with FileLock(out / ".build" / "lock"), pytest.raises(AlreadyRunning, match="another build"):
        build_folder(NAMES, home, out, rank=Rank(0, 2))
    folder = out / ".build" / "rank-0-of-2"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        for rank in (Rank(), Rank(0, 2), Rank(1, 3)):
            with pytest.raises(AlreadyRunning, match="rank-0-of-2"):
                build_folder(NAMES, home, out, rank=rank)
        build_folder(NAMES, home, out, rank=Rank(1, 2))


KILLED = f"""
import dataclasses, sys
from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.ranks import Rank
small = dataclasses.replace(ARCHITECTURES["cnn_s"], shard_bytes={SHARD}, row_group_bytes={SHARD})
ARCHITECTURES["cnn_s"] = small
build_folder({NAMES}, *sys.argv[1:], workers=1, rank=Rank(1, 2))
"""


def test_a_killed_rank_is_started_again(
    home: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, home, out])
    while not (out / ".build" / "rank-1-of-2" / f"{NAMES[0]}.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(summary.missing for summary in build_folder(NAMES, home, out, rank=Rank(0, 2)))
    assert not (out / "README.md").exists()
    last = build_folder(NAMES, home, out, rank=Rank(1, 2))
    assert not any(summary.missing for summary in last)
    assert result(out) == whole


def test_the_command_takes_a_rank(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model-zoos", "build", NAMES[2], "--data-dir", str(home), "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", [*command, "--rank", "2", "--ranks", "2"])
        with pytest.raises(SystemExit, match="1"):
            model_zoos.main()
        assert "of 2 ranks the number is 0 to 1, found 2" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
        patch.setattr("sys.argv", command)  # as torchrun starts it
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "1")
        with pytest.raises(SystemExit, match="0"):
            model_zoos.main()
    assert "files that other ranks still write" in capsys.readouterr().out
    assert (tmp_path / ".build" / "rank-1-of-2").is_dir()
