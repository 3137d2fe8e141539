"""The manifest of a zoo directory: a scan with it finds what a scan without it finds, for less."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

import model_zoos  # noqa: F401  # makes the name "model_zoos" known to datasets
from model_zoos.benchmarks.checks import Findings, ZooOnDisk, check_files
from model_zoos.builders import manifest, tensor_file
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.manifest import MANIFEST
from model_zoos.builders.model_file import HEADER_KEY, ModelFile
from model_zoos.builders.overview import overview
from model_zoos.builders.schema import METRICS
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo, open_zoo
from model_zoos.errors import FaultyFile
from tests.builders.hub import small_states
from tests.shared import contents
from tests.zoos import random_zoo

DIGITS = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)

STEP = 0.02
"""Seconds for which the clock of the file system may stand still in these tests."""


@pytest.fixture(scope="module", autouse=True)
def fine_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_CLOCK_STEP", int(STEP * 1e9))
        yield


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model files that are opened from now on."""
    found: list[str] = []
    open_plain = tensor_file.open_plain

    def recording(path: str) -> Any:
        if path.endswith(".safetensors"):
            found.append(path)
        return open_plain(path)

    monkeypatch.setattr(tensor_file, "open_plain", recording)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> ZooDirectory:
    directory = random_zoo(tmp_path, DIGITS, 6)
    time.sleep(2 * STEP)
    return directory


def content(file: ModelFile) -> tuple[object, ...]:
    """All of a model file except its weights."""
    metrics = [
        (name, type(values), np.ma.getdata(values).tobytes(), np.ma.getmaskarray(values).tobytes())
        for name, values in file.metrics.items()
    ]
    epochs = (file.epochs.dtype, file.epochs.tobytes())
    other = (file.path, file.model_id, file.parent_model_id, file.original_name, file.zoo)
    return (*other, json.dumps(file.hyperparameters), epochs, metrics)


def truth(directory: ZooDirectory) -> tuple[list[tuple[object, ...]], list[str]]:
    """What the files themselves say."""
    good, faulty = [], []
    for path in directory.files():
        try:
            good.append(content(directory.read(path)))
        except FaultyFile as error:
            faulty.append(str(error))
    return good, faulty


def scanned(directory: ZooDirectory) -> tuple[list[tuple[object, ...]], list[str]]:
    good, faulty = directory.scan()
    return list(map(content, good)), list(map(str, faulty))


# --- It changes nothing ---------------------------------------------------------------------------


class Changes:
    """What may happen to the files of a zoo between two scans."""

    def __init__(self, directory: ZooDirectory, data: st.DataObject) -> None:
        self.directory, self.data = directory, data

    def _any(self) -> Path | None:
        files = self.directory.files()
        return self.data.draw(st.sampled_from(files)) if files else None

    def write(self) -> None:
        """Add a model, or replace one."""
        draw, zoo = self.data.draw, self.directory.zoo
        epochs = sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=3)))
        values = st.floats(0, 1) | st.sampled_from([0.0, -0.0, 1.0])
        metrics: dict[str, Any] = {}
        for name in draw(st.sets(st.sampled_from(METRICS))):
            metrics[name] = np.array([draw(values) for _ in epochs])
            if draw(st.booleans()):
                mask = [draw(st.booleans()) for _ in epochs]
                metrics[name] = np.ma.array(metrics[name], mask=mask)
            elif name.endswith("loss"):
                metrics[name][0] = draw(st.floats(allow_infinity=False))
        hyperparameters = {
            "dropout": draw(st.sampled_from([0, 0.0, None, 0.5])),
            "seed": draw(st.integers(-(2**63), 2**63 - 1)),
            "scheduler": draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=5)),
        }
        self.directory.write_model(
            draw(st.sampled_from("abc")),
            hyperparameters,
            epochs,
            np.zeros((len(epochs), zoo.layout.size), np.float32),
            metrics,
            parent_model_id=draw(st.sampled_from([None, "", "parent"])),
            original_name=draw(st.sampled_from([None, "", "a\nb"])),
        )

    def delete(self) -> None:
        if path := self._any():
            path.unlink()

    def truncate(self) -> None:
        if path := self._any():
            os.truncate(path, self.data.draw(st.integers(0, path.stat().st_size)))

    def touch(self) -> None:
        if path := self._any():
            os.utime(path, (0, self.data.draw(st.sampled_from([0, 10**9, 2**33]))))

    def change_in_place(self) -> None:
        """Change one byte of the header, and give the file back its size and time."""
        if (path := self._any()) and (before := path.stat()).st_size:
            with path.open("r+b") as file:
                file.seek(self.data.draw(st.integers(0, min(600, before.st_size - 1))))
                file.write(bytes([self.data.draw(st.sampled_from(b"0a\x00"))]))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def exchange(self) -> None:
        """Give two files each other's name."""
        if (first := self._any()) and (second := self._any()) and first != second:
            spare = first.with_name("spare")
            first.rename(spare)
            second.rename(first)
            spare.rename(second)

    def lose_the_manifest(self) -> None:
        (self.directory.path / MANIFEST).unlink(missing_ok=True)

    def wait(self) -> None:
        time.sleep(1.5 * STEP)

    def scan(self) -> None:
        self.directory.scan()


@pytest.fixture(scope="module")
def per_state() -> Iterator[None]:
    small_states.register()
    yield
    small_states.unregister()


@pytest.mark.parametrize("kind", ["a file a model", "a file a state"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_scan_with_the_manifest_finds_what_the_files_say(
    tmp_path_factory: pytest.TempPathFactory, per_state: None, kind: str, data: st.DataObject
) -> None:
    zoo = DIGITS if kind == "a file a model" else small_states.small_zoo()
    directory = create_zoo(tmp_path_factory.mktemp("zoo"), zoo)
    changes = Changes(directory, data)
    names = [name for name in vars(Changes) if not name.startswith("_")]
    changes.write()
    for name in data.draw(st.lists(st.sampled_from([*names, "write", "wait"]), max_size=8)):
        getattr(changes, name)()
        if data.draw(st.booleans()):
            assert scanned(directory) == truth(directory)
    changes.wait()
    directory.scan()
    for _ in range(2):  # once as the manifest is written, once as it is read
        assert scanned(directory) == truth(directory)


def test_rows_builds_and_fingerprints_are_the_same(directory: ZooDirectory, tmp_path: Path) -> None:
    root, name = directory.path.parent, DIGITS.name
    found = []
    for there in (False, True):
        if not there:
            (directory.path / MANIFEST).unlink(missing_ok=True)
        cache = str(tmp_path / f"cache-{there}")
        splits = load_dataset("model_zoos", name, data_dir=str(root), cache_dir=cache)
        assert (directory.path / MANIFEST).exists()
        tables = {split: rows.with_format("arrow")[:] for split, rows in splits.items()}
        (tmp_path / f"{there}").mkdir()
        build_folder([name], root, tmp_path / f"{there}")
        files = [path.parent.name for path in Path(cache).rglob("dataset_info.json")]
        shown = dataclasses.replace(overview(name, root)[0])
        built = {k: v for k, v in contents(tmp_path / f"{there}").items() if ".build" not in k}
        found.append((tables, built, files, shown, directory.fingerprint()))
        directory.scan()
    assert found[0] == found[1]


# --- It spares work -------------------------------------------------------------------------------


def test_only_new_and_changed_files_are_opened(directory: ZooDirectory, opened: list[str]) -> None:
    directory.scan()
    assert len(opened) == 6
    opened.clear()
    directory.scan()
    assert opened == []
    written = (directory.path / MANIFEST).stat()
    first, second, *_ = directory.files()
    os.utime(first)
    second.unlink()
    [new] = directory.write_model("new", {}, [0], np.zeros((1, 2464), np.float32), {})
    time.sleep(2 * STEP)
    assert scanned(directory) == truth(directory)
    opened.clear()
    directory.scan()
    assert opened == []
    assert (directory.path / MANIFEST).stat() != written
    written = (directory.path / MANIFEST).stat()
    directory.scan()
    assert (directory.path / MANIFEST).stat() == written  # nothing has changed
    assert opened == []
    os.utime(new)
    directory.scan()
    assert opened == [str(new)]


def test_a_faulty_file_is_opened_and_reported_each_time(
    directory: ZooDirectory, opened: list[str]
) -> None:
    bad = directory.files()[1]
    os.truncate(bad, 100)
    time.sleep(2 * STEP)
    for _ in range(3):
        opened.clear()
        _, faulty = directory.scan()
        assert [str(bad) in str(error) for error in faulty] == [True]
    assert opened == [str(bad)]


def test_what_needs_no_weights_opens_no_model_file(
    directory: ZooDirectory, opened: list[str], tmp_path: Path
) -> None:
    directory.scan()
    opened.clear()
    arguments: dict[str, Any] = {
        "data_dir": str(directory.path.parent),
        "cache_dir": str(tmp_path / "cache"),
    }
    rows = load_dataset("model_zoos", DIGITS.name, columns=["epoch", "test_acc"], **arguments)
    assert sum(map(len, rows.values())) == 24
    load_dataset("model_zoos", DIGITS.name, final=True, columns=["model_id"], **arguments)
    overview(DIGITS.name, directory.path.parent)
    assert opened == []
    stream = load_dataset("model_zoos", DIGITS.name, split="train", streaming=True, **arguments)
    assert len(next(iter(stream))["weights"]) == 2464
    assert 0 < len(opened) <= 2


def test_a_file_that_may_yet_change_unseen_is_opened_again(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_CLOCK_STEP", 10**9)
    directory = random_zoo(tmp_path, DIGITS, 2)
    old, young = directory.files()
    time.sleep(1.1)
    os.utime(young)
    for _ in range(2):
        directory.scan()
    tensors = load_file(directory.path / MANIFEST)
    assert tensors["names"].tobytes().decode() == old.name
    time.sleep(1.1)
    directory.scan()
    assert load_file(directory.path / MANIFEST)["names"].tobytes().decode().split() == [
        old.name,
        young.name,
    ]


def test_verify_opens_every_file(directory: ZooDirectory, opened: list[str]) -> None:
    directory.scan()
    opened.clear()
    zoo = ZooOnDisk(directory)
    assert sorted(opened) == list(map(str, directory.files()))
    assert zoo.good


# --- It is never trusted --------------------------------------------------------------------------


def _altered(path: Path, **changes: Any) -> None:
    """Change tensors of a manifest, as somebody would who knows how its digest is made."""
    tensors = load_file(path)
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    about = manifest._about(DIGITS, tensors)
    save_file(tensors, path, metadata={HEADER_KEY: about})


def _text(change: Callable[[bytes], bytes]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.frombuffer(change(array.tobytes()), np.uint8)


def _set(place: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


def _header(**changes: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Change the first header."""

    def change(text: bytes) -> bytes:
        first, *others = text.split(b"\n")
        return b"\n".join([json.dumps({**json.loads(first), **changes}).encode(), *others])

    return _text(change)


def _other_zoo(path: Path) -> None:
    tensors = load_file(path)
    other = dataclasses.replace(DIGITS, epochs=4)
    save_file(tensors, path, metadata={HEADER_KEY: manifest._about(other, tensors)})


def _other_version(path: Path) -> None:
    tensors = load_file(path)
    about = {**json.loads(manifest._about(DIGITS, tensors)), "manifest": 0}
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(about, sort_keys=True)})


def _sparse(path: Path) -> None:
    entry = {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}
    header = json.dumps({"names": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + (1 << 40))


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "other bytes": lambda p: p.write_bytes(b"PK\x03\x04" * 1000),
    "no tensors": lambda p: p.write_bytes(save({})),
    "half": lambda p: os.truncate(p, p.stat().st_size // 2),
    "a model file": lambda p: shutil.copy(next((p.parent / "models").iterdir()), p),
    "another zoo's": _other_zoo,
    "another version": _other_version,
    "terabytes": _sparse,
    "a folder": lambda p: (p.unlink(), p.mkdir(), (p / "file").touch()),
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "a device": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
    "a link to itself": lambda p: (p.unlink(), p.symlink_to(p)),
    "accuracy in percent": lambda p: _altered(p, metrics=_set((1, 0), 98.0)),
    "epochs decrease": lambda p: _altered(p, epochs=_set(1, 0)),
    "negative epoch": lambda p: _altered(p, epochs=_set(0, -1)),
    "states beyond the epochs": lambda p: _altered(p, states=_set(0, 5)),
    "negative states": lambda p: _altered(p, states=_set(slice(2), [-4, 12])),
    "stamps of another form": lambda p: _altered(p, stamps=lambda a: a[:, :3].copy()),
    "metrics of another form": lambda p: _altered(p, metrics=lambda a: a[:, 1:].copy()),
    "metrics of another type": lambda p: _altered(p, metrics=lambda a: a.astype(np.float32)),
    "no number of files": lambda p: _altered(p, stamps=lambda a: np.array(a[0, 0])),
    "a name twice": lambda p: _altered(p, names=_text(lambda t: b"\n".join(t.split()[:1] * 6))),
    "many names": lambda p: _altered(p, names=_text(lambda t: b"\n" * 10**7)),
    "names that are no text": lambda p: _altered(p, names=_text(lambda t: b"\xff" + t[1:])),
    "headers that are no JSON": lambda p: _altered(p, headers=_text(lambda t: b"x" + t[1:])),
    "deep headers": lambda p: _altered(p, headers=_text(lambda t: b"[" * 10**6 + b"\n" * 5)),
    "a list as header": lambda p: _altered(p, headers=_text(lambda t: b"[]" + b"\n" * 5)),
    "no hyperparameters": lambda p: _altered(p, headers=_text(lambda t: b"{}" + b"\n" * 5)),
    "unknown hyperparameter": lambda p: _altered(p, headers=_header(hyperparameters={"x": 1})),
    "seed as text": lambda p: _altered(p, headers=_header(hyperparameters={"seed": "1"})),
    "unknown metric": lambda p: _altered(p, headers=_header(metrics=["loss"])),
    "metrics as number": lambda p: _altered(p, headers=_header(metrics=1)),
    "metrics of metrics": lambda p: _altered(p, headers=_header(metrics=[["test_acc"]])),
    "parent as list": lambda p: _altered(p, headers=_header(parent_model_id=["a"])),
    "not measured, as text": lambda p: _altered(p, headers=_header(not_measured="test_acc")),
    "not measured, but unknown": lambda p: _altered(p, headers=_header(not_measured={"x": [1]})),
    "not measured, no epochs": lambda p: _altered(
        p, headers=_header(not_measured={"test_acc": ["1"]})
    ),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_manifest_that_cannot_be_used_is_made_anew(
    directory: ZooDirectory, opened: list[str], fault: str
) -> None:
    expected = scanned(directory)
    HOSTILE[fault](directory.path / MANIFEST)
    opened.clear()
    assert scanned(directory) == expected == truth(directory)
    assert len(opened) == 12
    opened.clear()
    directory.scan()
    assert len(opened) == (6 if fault == "a folder" else 0)  # which no file can replace


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mutation_of_the_manifest_is_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "mutated-manifests"
    if not root.exists():
        random_zoo(root, DIGITS, 2)
        time.sleep(2 * STEP)
    directory = open_zoo(root, DIGITS.name)
    path = directory.path / MANIFEST
    expected = scanned(directory)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, 900) | st.integers(0, len(whole) - 1))
        whole[position] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    assert scanned(directory) == expected


def test_a_copied_zoo_does_not_believe_the_manifest_that_came_with_it(
    directory: ZooDirectory, opened: list[str], tmp_path: Path
) -> None:
    """A copy that keeps times has other inodes, and was changed later."""
    directory.scan()
    shutil.copytree(directory.path, tmp_path / "copy" / DIGITS.name)
    copy = open_zoo(tmp_path / "copy", DIGITS.name)
    opened.clear()
    copy.scan()
    assert len(opened) == 6


def test_verify_finds_a_manifest_that_lies(directory: ZooDirectory) -> None:
    """It is repaired where that is possible, and else reported."""
    directory.scan()
    path = directory.path / MANIFEST
    _altered(path, metrics=_set((5, 0), 0.125))
    content = path.read_bytes()
    assert directory.scan()[0][0].metrics["test_acc"][0] == 0.125  # for its stamp is right

    def wrong(directory: ZooDirectory) -> int:
        findings = Findings()
        check_files(ZooOnDisk(directory), findings)
        return findings["files"].wrong

    assert wrong(directory) == 0
    assert scanned(directory) == truth(directory)
    path.write_bytes(content)

    def verify(directory: ZooDirectory) -> None:
        assert wrong(directory) == 1

    _without_permission(directory, verify)


# --- Other processes, and folders that cannot be written to ---------------------------------------


def _forked(target: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def _without_permission(directory: ZooDirectory, check: Callable[[ZooDirectory], None]) -> None:
    """Check a zoo in a process that cannot write to it."""

    def run() -> None:
        os.chdir(directory.path.parent)  # the folders above are closed to others
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        here = open_zoo(".", directory.zoo.name)
        with pytest.raises(PermissionError):
            (here.path / "file").touch()
        check(here)

    folders = [directory.path.parent, directory.path, directory.models_path]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(0o555)
    try:
        process = _forked(run)
        process.join(60)
        assert process.exitcode == 0
    finally:
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)


def test_a_folder_that_cannot_be_written_to_is_scanned_silently(directory: ZooDirectory) -> None:
    def check(directory: ZooDirectory) -> None:
        for _ in range(2):
            assert scanned(directory) == truth(directory)
        assert len(directory.files()) == 6

    _without_permission(directory, check)
    assert not (directory.path / MANIFEST).exists()


def test_several_processes_scan_while_another_writes(directory: ZooDirectory) -> None:
    def scan() -> None:
        for _ in range(15):
            there = {path.stem for path in directory.files()}
            good, faulty = directory.scan()
            assert not faulty
            assert there <= {file.model_id for file in good}

    processes = [_forked(scan) for _ in range(3)]
    for number in range(20):
        directory.write_model(f"{number}", {}, [0], np.zeros((1, 2464), np.float32), {})
        time.sleep(0.01)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    time.sleep(2 * STEP)
    for _ in range(2):
        assert scanned(directory) == truth(directory)
    assert not list(directory.path.glob(".*.partial"))


def test_a_model_that_is_written_during_a_scan_is_found_by_the_next(
    directory: ZooDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_plain = tensor_file.open_plain
    new = iter(["early", "late"])

    def writing(path: str) -> Any:
        if name := next(new, None):
            directory.write_model(name, {}, [0], np.zeros((1, 2464), np.float32), {})
        return open_plain(path)

    monkeypatch.setattr(tensor_file, "open_plain", writing)
    assert len(directory.scan()[0]) == 6
    for _ in range(2):
        assert len(directory.scan()[0]) == 8
        time.sleep(2 * STEP)


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    directory: ZooDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_plain = tensor_file.open_plain
    path = directory.files()[0]

    def replacing(found: str) -> Any:
        file = open_plain(found)
        if found == str(path):
            monkeypatch.setattr(tensor_file, "open_plain", open_plain)
            weights = np.zeros((1, 2464), np.float32)
            directory.write_model(path.stem, {"seed": 77}, [0], weights, {})
        return file

    monkeypatch.setattr(tensor_file, "open_plain", replacing)
    assert directory.scan()[0][0].hyperparameters.get("seed") != 77
    time.sleep(2 * STEP)
    for _ in range(2):
        assert directory.scan()[0][0].hyperparameters == {"seed": 77}
        assert scanned(directory) == truth(directory)
