"""Ranks that verify a zoo: what they find, joined, is the result of one process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import model_zoos
from model_zoos.benchmarks.audit import Audit, audit_share, audit_zoo, join_shares
from model_zoos.benchmarks.checks import ZooOnDisk
from model_zoos.benchmarks.evaluation import blocks
from model_zoos.benchmarks.shares import owners, read_shares, share_path, write_share
from model_zoos.builders.ranks import Rank
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import InvalidArgument
from tests.benchmarks.test_audit import change
from tests.benchmarks.zoos import write_odd_zoos

NAME = "digits_cnn_s"


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory, digits_home: Path) -> Path:
    """A trained zoo with wrong states in many models, and the odd zoo, whose metrics are random."""
    root = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(digits_home / NAME, root / NAME)
    paths = open_zoo(root, NAME).files()
    for path in paths[3:17]:  # more than are named
        change(path, lambda tensors, _: tensors["weights"][:3].__imul__(np.float32(-1.5)))
    change(paths[18], lambda tensors, _: tensors["weights"][2:4].fill(np.nan))
    first = open_zoo(root, NAME).read(paths[0]).weights()
    change(paths[19], lambda tensors, _: tensors["weights"].__setitem__(slice(3, 6), first[3:]))
    paths[2].write_bytes(paths[2].read_bytes()[:-7])
    write_odd_zoos(root)
    return root


def on_ranks(
    name: str, root: Path, count: int, folder: Path, order: Callable[[range], object] = reversed
) -> Audit:
    """An audit in `count` shares, through their files."""
    for index in order(range(count)):  # type: ignore[attr-defined]
        write_share(folder, audit_share(name, Rank(index, count), root, states=None))
    return join_shares(name, read_shares(folder, name, count), root)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (NAME, 4),
        ("odd_sparse", 2),
        pytest.param(NAME, 2, marks=pytest.mark.slow),
        pytest.param("odd", 14, marks=pytest.mark.slow),
    ],
)
def test_ranks_find_what_one_process_finds(
    name: str, count: int, spoilt: Path, tmp_path: Path
) -> None:
    alone = audit_zoo(name, spoilt, states=None)
    assert alone.verdict == "wrong"
    if name == NAME:
        wrong = {check.name: check.wrong for check in alone.checks}
        assert min(wrong[key] for key in ("accuracy", "loss", "first weights")) > 10
        assert min(wrong[key] for key in ("files", "finite", "duplicates")) > 0
    found = on_ranks(name, spoilt, count, tmp_path)
    assert found == alone
    assert found.tables() == alone.tables()


@pytest.mark.slow
def test_a_healthy_zoo_on_ranks(digits_home: Path) -> None:
    """With some of its states, and with none."""
    for states, count in ((50, 3), (0, 2)):
        alone = audit_zoo(NAME, digits_home, states=states)
        shares = [
            audit_share(NAME, Rank(i, count), digits_home, states=states) for i in range(count)
        ]
        assert join_shares(NAME, shares, digits_home) == alone
        assert alone.verdict == "good"
        assert alone.evaluated == states


def test_the_work_is_shared(spoilt: Path) -> None:
    zoo = ZooOnDisk(open_zoo(spoilt, NAME))
    owner = owners(zoo.states, 4)
    assert (np.diff(owner) >= 0).all()
    counts = np.bincount(owner, minlength=4)
    assert counts.max() - counts.min() <= 2 * 6
    rows = [row for _, found in blocks(zoo, np.arange(len(owner))) for row in found]
    assert sorted(rows) == list(range(len(owner)))


def test_images_that_are_missing_are_said_once(spoilt: Path, tmp_path: Path) -> None:
    shutil.copytree(spoilt / NAME, tmp_path / NAME)
    path = tmp_path / NAME / "zoo.json"
    values = json.loads(path.read_text())
    values["images"]["sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    alone = audit_zoo(NAME, tmp_path, states=None)
    assert [check.name for check in alone.checks if check.undone] == ["accuracy", "loss"]
    assert on_ranks(NAME, tmp_path, 3, tmp_path / "parts") == alone


def test_what_does_not_belong_together_is_refused(digits_home: Path, tmp_path: Path) -> None:
    root, parts = tmp_path / "zoos", tmp_path / "parts"
    shutil.copytree(digits_home / NAME, root / NAME)
    for index in range(2):
        write_share(parts, audit_share(NAME, Rank(index, 2), root, states=8))
    shares = read_shares(parts, NAME, 2)
    assert join_shares(NAME, shares, root).good
    other = [shares[0], audit_share(NAME, Rank(1, 2), root, states=9)]
    for given, message in (
        (other, "other states of digits_cnn_s than rank 0"),
        (shares[:1], "ranks 0, 1, ... and no others"),
        (shares[::-1], "ranks 0, 1, ... and no others"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            join_shares(NAME, given, root)
    with pytest.raises(
        InvalidArgument, match="lacks the results of 3 of 3 ranks for digits_cnn_s: ranks 0, 1"
    ):
        read_shares(parts, NAME, 3)
    with pytest.raises(InvalidArgument, match="must be 0 or more"):
        audit_share(NAME, Rank(0, 2), root, states=-1)
    path = share_path(parts, NAME, Rank(1, 2))
    good = json.loads(path.read_text())
    for bad in (
        b"", b"[]", b"{}", path.read_bytes()[:-9], json.dumps({**good, "zoo": "odd"}).encode(),
        json.dumps({**good, "digests": "xyz"}).encode(), json.dumps({**good, "more": 1}).encode(),
    ):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(InvalidArgument, match=r"rank-1-of-2\.json: not what"):
            read_shares(parts, NAME, 2)
    path.write_text(json.dumps({**good, "digests": good["digests"][:-32]}))
    with pytest.raises(InvalidArgument, match="rank 1 has checked other states"):
        join_shares(NAME, read_shares(parts, NAME, 2), root)
    open_zoo(root, NAME).files()[0].unlink()
    with pytest.raises(InvalidArgument, match="has changed since rank 0"):
        join_shares(NAME, shares, root)


def command(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[object, str, str]:
    patch.setattr("sys.argv", ["model-zoos", "verify", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        model_zoos.main()
    out, error = capsys.readouterr()
    return ended.value.code, out, error


def test_the_command(
    spoilt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("digits-cnn-s", "--data-dir", spoilt, "--all")
    alone = command(monkeypatch, capsys, *given)
    assert alone[0] == 1
    assert command(monkeypatch, capsys, *given, "--ranks", 1)[:2] == alone[:2]
    status, _, error = command(monkeypatch, capsys, *given, "--rank", 2, "--ranks", 2)
    assert (status, "of 2 ranks the number is 0 to 1, found 2" in error) == (1, True)
    status, out, _ = command(monkeypatch, capsys, *given, "--rank", 1, "--ranks", 2)
    assert (status, out.splitlines()) == (
        0,
        [
            "written to digits_cnn_s-verify/digits_cnn_s-rank-1-of-2.json",
            "when all ranks have ended: model-zoos verify digits_cnn_s --ranks 2",
        ],
    )
    status, _, error = command(monkeypatch, capsys, *given[:3], "--ranks", 2)
    assert (status, "try: model-zoos verify digits_cnn_s --rank 0 --ranks 2" in error) == (1, True)
    with monkeypatch.context() as patch:  # as torchrun starts it
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        assert command(patch, capsys, *given)[0] == 0
    assert command(monkeypatch, capsys, *given[:3], "--ranks", 2)[:2] == alone[:2]
    as_json = command(monkeypatch, capsys, *given[:3], "--ranks", 2, "--json")
    assert as_json[1] == command(monkeypatch, capsys, *given, "--json")[1]


KILLED = """
import sys, time
from model_zoos.benchmarks.audit import audit_share
from model_zoos.builders.ranks import Rank
def show(done, total):
    print(done, flush=True)
    time.sleep(600)
audit_share(sys.argv[1], Rank(1, 2), sys.argv[2], states=None, on_progress=show)
"""


def test_a_killed_rank_is_started_again(spoilt: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, "odd", spoilt], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it has read some states
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write_share(tmp_path, audit_share("odd", Rank(0, 2), spoilt, states=None))
    with pytest.raises(InvalidArgument, match="lacks the results of 1 of 2 ranks for odd: ranks 1"):
        read_shares(tmp_path, "odd", 2)
    joined = on_ranks("odd", spoilt, 2, tmp_path, lambda _: [1])
    assert joined == audit_zoo("odd", spoilt, states=None)
