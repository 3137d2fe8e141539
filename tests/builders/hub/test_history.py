"""Builds into a folder that has one already: models keep their shards."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.files import file_digest, file_stamp
from model_zoos.builders.hub import digests
from model_zoos.builders.hub.build import BuildSummary, build_folder
from model_zoos.builders.hub.contents import read_contents
from model_zoos.builders.hub.names import DATA_FILE
from model_zoos.builders.hub.publish import folder_files
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import ZooDirectory, create_zoo, open_zoo
from model_zoos.errors import InvalidArgument
from tests.builders.hub.folders import PUBLISH
from tests.hub_server import Client, ClientError, Hub

ZOO = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=2)

STATES = 3


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Shards of three models, in row groups of one."""
    model = 4 * STATES * ZOO.layout.size
    small = dataclasses.replace(
        ARCHITECTURES["cnn_s"], shard_bytes=3.5 * model, row_group_bytes=1.5 * model
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "cnn_s", small)
        yield


def add(directory: ZooDirectory, *models: str, seed: int = 0) -> None:
    """Write models whose weights are all equal, so that many shards have the same size."""
    for model in models:
        generator = np.random.default_rng([seed, *model.encode()])
        directory.write_model(
            model,
            {"seed": seed},
            range(STATES),
            np.full((STATES, ZOO.layout.size), generator.random(), np.float32),
            {"test_acc": np.full(STATES, generator.random())},
        )


def build(directory: ZooDirectory, out: Path) -> BuildSummary:
    [summary] = build_folder([ZOO.name], directory.path.parent, out, workers=1)
    return summary


def shards(out: Path) -> dict[str, tuple[str, bytes, int]]:
    """Name -> split, digest and inode of each file with weights."""
    found = {}
    for path in sorted(out.glob("data/*/*.parquet")):
        name = path.relative_to(out).as_posix()
        match = DATA_FILE.fullmatch(name)
        assert match is not None
        digest = hashlib.sha256(path.read_bytes()).digest()
        found[name] = (match["split"], digest, path.stat().st_ino)
    return found


def models_in(out: Path, name: str) -> list[str]:
    models = pq.read_table(out / name, columns=["model_id"])["model_id"]
    return list(models.unique().to_pylist())


def rows(out: Path, split: str) -> pa.Table:
    """The rows of a split as the viewer sees them, sorted."""
    paths = sorted(out.glob(f"data/*/{split}-*"))
    tables = [pq.read_table(path) for path in paths]
    return pa.concat_tables(tables).sort_by([("model_id", "ascending"), ("epoch", "ascending")])


def check_rows(out: Path, directory: ZooDirectory, fresh: Path) -> None:
    """Compare a folder with a new one of the same zoo."""
    build(directory, fresh)
    read_contents(out)
    for split in SPLITS:
        if list(fresh.glob(f"data/*/{split}-*")):
            assert rows(out, split).equals(rows(fresh, split))
        else:
            assert not list(out.glob(f"data/*/{split}-*"))
    others = [path for path in fresh.rglob("*") if path.is_file() and ".build" not in path.parts]
    for path in others:
        if "data" not in path.relative_to(fresh).parts and path.name != "README.md":
            assert (out / path.relative_to(fresh)).read_bytes() == path.read_bytes()
    shutil.rmtree(fresh)


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_only_the_shards_that_must_change_do(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("case")
    directory, out = create_zoo(folder / "zoos", ZOO), folder / "out"
    ids = iter(f"{37 * number % 101:03d}" for number in range(101))
    models = [next(ids) for _ in range(18)]
    add(directory, *models)
    build(directory, out)
    for step in range(1, 3):
        replaced = data.draw(st.sets(st.sampled_from(models), max_size=2))
        removed = data.draw(st.sets(st.sampled_from(models), max_size=2))
        new = [next(ids) for _ in range(data.draw(st.integers(0, 6)))]
        add(directory, *sorted(replaced), *new, seed=step)
        for model in removed:
            directory.state_path(model, 0).unlink()
        models = [*(model for model in models if model not in removed), *new]
        before = shards(out)
        held = {name: set(models_in(out, name)) for name in before}
        summary = build(directory, out)
        after = shards(out)
        kept = {entry[1:] for entry in after.values()} & {entry[1:] for entry in before.values()}
        assert (summary.shards, summary.written) == (len(after), len(after) - len(kept))
        splits = directory.splits()
        for name, (split, *entry) in before.items():
            last = max(other for other in before if before[other][0] == split)
            grows = name == last and split in {splits[model] for model in new}
            if not grows and not held[name] & (replaced | removed):
                assert tuple(entry) in kept
        check_rows(out, directory, folder / "fresh")


def grown(folder: Path, models: int = 30) -> tuple[ZooDirectory, Path, list[str]]:
    """A zoo with a built folder, and ids of more models, all of its training split."""
    directory, out = create_zoo(folder / "zoos", ZOO), folder / "out"
    names = [f"m{number:02d}" for number in range(models)]
    more = [f"n{number}" for number in range(4)]
    directory.add_splits([*names, *more], dict.fromkeys([*names, *more], "train"))
    add(directory, *names)
    build(directory, out)
    return directory, out, more


def test_one_more_model_is_one_more_shard_or_in_the_last_one(tmp_path: Path) -> None:
    directory, out, more = grown(tmp_path)
    counts = []
    for model in more:
        before = shards(out)
        add(directory, model)
        assert build(directory, out).written == 1
        after = shards(out)
        train = [name for name in after if name.startswith(f"data/{ZOO.name}/train")]
        assert models_in(out, train[-1])[-1] == model
        lost = {entry[1:] for entry in before.values()} - {entry[1:] for entry in after.values()}
        assert len(lost) <= 1
        counts.append(len(train))
    assert counts == [10, 10, 10, 11]  # thirty models fill nine shards
    check_rows(out, directory, tmp_path / "fresh")


@pytest.mark.parametrize(
    "record",
    [None, b"", b"[]", b'{"train": 5}', b'{"train": [[5]]}', b"[" * 10**5],
)
def test_a_folder_without_a_record_of_models_keeps_its_shards(
    tmp_path: Path, record: bytes | None
) -> None:
    """Such is one that an earlier version built; its files tell which models they hold."""
    directory, out, more = grown(tmp_path, 7)
    path = out / f".build/{ZOO.name}.models.json"
    path.unlink() if record is None else path.write_bytes(record)
    add(directory, more[0])
    assert build(directory, out).written == 1
    check_rows(out, directory, tmp_path / "fresh")


def test_records_name_nothing_outside_the_folder(tmp_path: Path) -> None:
    directory, out, more = grown(tmp_path)
    path = out / f".build/{ZOO.name}.json"
    marks = json.loads(path.read_text())
    name = next(name for name in marks if "train-00003" in name)
    shutil.move(out / name, tmp_path / "outside.parquet")
    marks["../outside.parquet"] = marks.pop(name)
    marks[f"data/{ZOO.name}/../../../outside.parquet"] = marks["../outside.parquet"]
    path.write_text(json.dumps({**marks, "a": None, f"data/{ZOO.name}/train-00099-of-00100": []}))
    add(directory, more[0])
    build(directory, out)
    assert (tmp_path / "outside.parquet").exists()
    check_rows(out, directory, tmp_path / "fresh")


def test_shards_in_another_order_than_their_names_are_not_mixed_up(tmp_path: Path) -> None:
    directory, out, more = grown(tmp_path, 14)
    path = out / f".build/{ZOO.name}.models.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({"train": held["train"][::-1]}))
    build(directory, out)
    check_rows(out, directory, tmp_path / "fresh")
    add(directory, more[0])
    assert build(directory, out).written == 1
    check_rows(out, directory, tmp_path / "fresh")


def test_shards_that_have_lost_most_of_their_models_are_joined(tmp_path: Path) -> None:
    directory, out, _ = grown(tmp_path, 14)
    for name in shards(out):
        for model in models_in(out, name)[1:]:
            directory.state_path(model, 0).unlink()
    build(directory, out)
    assert len(shards(out)) == 2
    check_rows(out, directory, tmp_path / "fresh")


def replace_keeping_times(directory: ZooDirectory, model: str, seed: int) -> None:
    """Put other weights into a model file, which keeps its size and its time of modification."""
    path = directory.state_path(model, 0)
    before = path.stat()
    add(directory, model, seed=seed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_model_file_that_was_replaced_with_its_time_is_noticed(tmp_path: Path) -> None:
    """Such as by `cp -p`, `rsync -t` and `tar`."""
    directory, out, _ = grown(tmp_path)
    replace_keeping_times(directory, "m04", seed=1)
    assert build(directory, out).written == 1
    check_rows(out, directory, tmp_path / "fresh")


@pytest.mark.parametrize("earlier", [False, True])
def test_shards_stay_what_they_are_if_a_zoo_was_only_copied(tmp_path: Path, earlier: bool) -> None:
    """They are written again, also those of an earlier version, and with the same models."""
    directory, out, more = grown(tmp_path)
    add(directory, *more)
    build(directory, out)
    before = shards(out)
    shutil.copytree(directory.path, tmp_path / "copy" / ZOO.name)  # with all times
    copy = open_zoo(tmp_path / "copy", ZOO.name)
    if earlier:
        path = out / f".build/{ZOO.name}.json"
        marks = json.loads(path.read_text())
        path.write_text(json.dumps({name: [mark[2], mark[1]] for name, mark in marks.items()}))
    assert build(copy, out).written == len(before)
    after = shards(out)
    assert {n: e[:2] for n, e in after.items()} == {n: e[:2] for n, e in before.items()}
    assert build(copy, out).written == 0
    check_rows(out, copy, tmp_path / "fresh")


def flip(path: Path) -> None:
    """Change one byte of a file, which keeps its size and its time of modification."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("file", ["data/*/train-00002-of-*", "metrics/*-train.parquet"])
def test_a_damaged_shard_is_written_again(tmp_path: Path, file: str) -> None:
    directory, out, _ = grown(tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*-*.parquet")}
    [path] = out.glob(file)
    flip(path)
    assert build(directory, out).written == file.startswith("data")
    assert {path: path.read_bytes() for path in out.rglob("*-*.parquet")} == before


def test_files_are_read_once_to_find_out_whether_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, out, more = grown(tmp_path)
    read: list[Path] = []

    def counted(path: Path, algorithm: str) -> str:
        read.append(path)
        return file_digest(path, algorithm)

    monkeypatch.setattr(digests, "file_digest", counted)
    build(directory, out)
    for model in more:  # which give all shards new names
        add(directory, model)
        build(directory, out)
    assert read == []  # the build itself has written them
    first = min(out.glob("data/*/*"))
    os.utime(first)
    build(directory, out)
    assert read == [first]


def test_a_damage_that_no_time_tells_is_found_by_a_publication(
    writer: Client, tmp_path: Path
) -> None:
    """As by a disk that returns other bytes than were written."""
    directory, out, _ = grown(tmp_path)
    before = shards(out)
    path = out / min(before)
    flip(path)
    record = out / ".build/files.digests.json"
    stamps = json.loads(record.read_text())
    name = path.relative_to(out).as_posix()
    stamps[name] = [*file_stamp(path), stamps[name][-1]]
    record.write_text(json.dumps(stamps))
    assert build(directory, out).written == 0
    arguments: dict[str, Any] = {"folder": str(out), "repo_id": "me/damaged", "arguments": {}}
    with pytest.raises(ClientError, match=f"{name} was damaged or changed after the build"):
        writer.run(PUBLISH, **arguments)
    assert build(directory, out).written == 1
    assert {n: e[:2] for n, e in shards(out).items()} == {n: e[:2] for n, e in before.items()}
    writer.run(PUBLISH, **arguments)


def test_a_new_folder_is_as_it_was(tmp_path: Path) -> None:
    """Whatever was built elsewhere, the same zoo gives the same bytes in a new folder."""
    directory, out, more = grown(tmp_path)
    add(directory, *more)
    build(directory, out)
    for name in ("one", "two"):
        build(directory, tmp_path / name)
    one, two = shards(tmp_path / "one"), shards(tmp_path / "two")
    assert {n: e[:2] for n, e in one.items()} == {n: e[:2] for n, e in two.items()}
    train = [name for name, entry in one.items() if entry[0] == "train"]
    order = [model for name in train for model in models_in(tmp_path / "one", name)]
    assert order == sorted(order)


# --- Killed builds --------------------------------------------------------------------------------


def _dies(directory: ZooDirectory, out: Path, number: int) -> bool:
    """Build in a process that dies before the change `number` of the folder; False if it ended."""

    def run() -> None:
        left = number

        def dying(change: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return change(*args, **kwargs)

            return counted

        for name in ("rename", "replace", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        build(directory, out)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode in (0, 9)
    return process.exitcode == 9


@pytest.mark.parametrize(
    "change",
    [pytest.param("models more", marks=pytest.mark.slow), "a shard less and models more"],
)
def test_a_killed_rebuild_is_resumed(tmp_path: Path, change: str) -> None:
    directory, out, more = grown(tmp_path, 9)
    before = shards(out)
    add(directory, *more)
    if change.startswith("a shard less"):
        for model in models_in(out, min(before)):
            directory.state_path(model, 0).unlink()
    start = tmp_path / "start"
    out.rename(start)
    build(directory, shutil.copytree(start, tmp_path / "whole"))
    expected = {name: entry[:2] for name, entry in shards(tmp_path / "whole").items()}
    number = 0
    while _dies(directory, shutil.copytree(start, out), number):
        seen = [model for name in shards(out) for model in models_in(out, name)]
        assert len(set(seen)) == len(seen)  # no row twice
        found = {name: entry[:2] for name, entry in shards(out).items()}
        with contextlib.suppress(InvalidArgument):  # what looks whole is what was, or will be
            folder_files(out)
            assert found in (expected, {name: entry[:2] for name, entry in before.items()})
        inodes = {entry[1]: entry[2] for entry in shards(out).values()}
        build(directory, out)
        assert {name: entry[:2] for name, entry in shards(out).items()} == expected
        again = [e[1] for e in shards(out).values() if inodes.get(e[1], e[2]) != e[2]]
        assert len(again) <= 1  # one may have been finished, but not recorded yet
        assert not list(out.glob(".build/*.parquet"))
        shutil.rmtree(out)
        number += 1
    assert number > 5
    assert {name: entry[:2] for name, entry in shards(out).items()} == expected
    check_rows(out, directory, tmp_path / "fresh")


# --- Publication ----------------------------------------------------------------------------------


def test_a_publication_sends_one_shard_for_one_model_more(
    hub: Hub, writer: Client, tmp_path: Path
) -> None:
    directory, out, more = grown(tmp_path)
    arguments: dict[str, Any] = {"folder": str(out), "repo_id": "me/history", "arguments": {}}
    writer.run(PUBLISH, **arguments)
    for model in more:
        before = shards(out)
        add(directory, model)
        build(directory, out)
        after = shards(out)
        requests = len(hub.requests)
        summary = writer.run(PUBLISH, **arguments)
        sent = [r.received for r in hub.requests[requests:] if r.method == "PUT"]
        [new] = {entry[1] for entry in after.values()} - {entry[1] for entry in before.values()}
        metrics = out / f"metrics/{ZOO.name}-train.parquet"
        sizes = [(out / name).stat().st_size for name in after if after[name][1] == new]
        assert sorted(sent) == sorted([*sizes, metrics.stat().st_size])
        assert summary["renamed"] == len(after.keys() - before.keys()) - (len(after) > len(before))
        assert summary["uploaded"] == 3  # the shard, the metrics and the card
        files = [path for path in hub.content("me/history") if DATA_FILE.fullmatch(path)]
        assert sorted(files) == sorted(after)
        for path in files:
            assert hub.read("me/history", path) == (out / path).read_bytes()
