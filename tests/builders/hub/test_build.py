"""Repository folders: what is in their files, and that datasets alone reads them to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from datasets import Features, load_dataset

from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub import build, checked, parquet
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.contents import read_contents
from model_zoos.builders.hub.shards import PlannedShard
from model_zoos.builders.layout import make_layout
from model_zoos.builders.names import twin_name
from model_zoos.builders.schema import row_features
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.specification import VARIANTS, Zoo
from model_zoos.builders.splits import SPLITS
from model_zoos.builders.zoo_directory import create_zoo, open_zoo
from model_zoos.errors import FaultyFile, FaultyZoo, InvalidArgument, ZooNotFound
from tests.builders.hub.bits import digests
from tests.builders.sources.raw import RAW
from tests.shared import HYPERPARAMETER_ZOO, LARGE_ZOO, SEED_ZOO, contents, needs_shared
from tests.zoos import random_zoo

VIEWER_SCAN_BYTES = 300_000_000
"""Most that the Hub's viewer reads of one row group (huggingface/dataset-viewer, libs/libviewer:
scan_size_limit; "Scan size limit exceeded ... limit is 300000000 bytes")."""

VIEWER_FIRST_ROWS_BYTES = 1_000_000
VIEWER_FIRST_ROWS = 100
VIEWER_CELL_BYTES = 100
"""Of its answer for a config's first page, its rows, and what a long cell may be cut down to (the
same repository, services/worker/src/worker/config.py: FIRST_ROWS_*)."""

UNION = "mnist_cnn_s"
NAMES = ["digits_cnn_s", *(f"{UNION}_{v}" for v in VARIANTS), UNION, "mnist_cnn_s_seed_sparse"]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that would be published."""
    return {k: v for k, v in contents(folder).items() if not k.startswith(".build")}


def twins(root: Path, dense: str, share: float) -> None:
    """The twin zoo of a dense one: its own weights, a random share of them 0."""
    parents = open_zoo(root, dense)
    zoo = dataclasses.replace(parents.zoo, name=twin_name(dense))
    directory = create_zoo(root, zoo, engine="random zeros")
    generator = np.random.default_rng(0)
    directory.add_splits(parents.splits(), parents.splits())
    for path in parents.files():
        states = parents.read(path)
        weights = states.weights()
        weights = np.where(generator.random(weights.shape) < share, np.float32(0), weights)
        sparsity = (weights == 0).mean(axis=1)
        directory.write_model(
            states.model_id,
            states.hyperparameters,
            states.epochs,
            weights,
            {**states.metrics, "sparsity": sparsity},
            parent_model_id=states.model_id,
            extra={"mean": weights, "log_sigma2": weights},
        )


def small_shards(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Shards and row groups of about so many bytes."""
    small = dataclasses.replace(ARCHITECTURES["cnn_s"], shard_bytes=size, row_group_bytes=size)
    monkeypatch.setitem(ARCHITECTURES, "cnn_s", small)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits_home: Path) -> Path:
    """The trained digits, the three variants of a union with random weights, and twins."""
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(digits_home / "digits_cnn_s", root / "digits_cnn_s")
    for variant, models in zip(VARIANTS, (9, 8, 7), strict=True):
        random_zoo(root, dataclasses.replace(zoo_spec(f"{UNION}_{variant}"), epochs=2), models)
    twins(root, "mnist_cnn_s_seed", 0.8)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A repository folder of them all, named as our package is, built in two steps."""
    out = tmp_path_factory.mktemp("repository") / "model_zoos"
    build_folder(["digits-cnn-s"], home, out)
    build_folder([UNION, "mnist_cnn_s_seed_sparse"], home, out, workers=3)
    return out


# --- Round trip -----------------------------------------------------------------------------------


def test_datasets_alone_loads_every_value_to_the_bit(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    """In a process that cannot import our package, from the folder's name and from its path."""
    names = [*NAMES, "metrics"]
    loads = [*((folder.name, name) for name in names), (str(folder), "digits_cnn_s")]
    request = {"loads": loads, "unions": {UNION: [f"{UNION}_{v}" for v in VARIANTS]}}
    done = subprocess.run(
        [sys.executable, "-I", Path(__file__).with_name("bits.py"), json.dumps(request)],
        cwd=folder.parent,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = {name: load_dataset("model_zoos", name, data_dir=str(home)) for name in names}
    bits = {
        name: {split: digests(rows) for split, rows in splits.items()}
        for name, splits in expected.items()
    }
    for path, name in loads:
        found = answer[f"{path}:{name}"]
        assert len(found["map"]) == 3
        assert found["map"] == bits[name]
        assert found["streaming"] == bits[name]
        assert found["features"] == {s: str(rows.features) for s, rows in expected[name].items()}
    assert answer[f"{folder.name}:{UNION}"]["parts"] == bits[UNION]
    assert answer["default"] == bits["metrics"]


def test_the_parquet_loader_finds_the_same(home: Path, folder: Path) -> None:
    files = {split: str(folder / f"data/digits_cnn_s/{split}-*.parquet") for split in SPLITS}
    expected = load_dataset("model_zoos", "digits_cnn_s", data_dir=str(home))
    loaded = load_dataset("parquet", data_files=files)
    for split in SPLITS:
        assert digests(loaded[split]) == digests(expected[split])
        assert loaded[split].features == row_features(2464)


@needs_shared
def test_imported_zoos_keep_every_bit(tmp_path: Path) -> None:
    names = (SEED_ZOO, HYPERPARAMETER_ZOO, LARGE_ZOO)
    for name in names:
        import_zoo(RAW / f"{name}.zip", tmp_path / "zoos")
    first, *_ = build_folder(names, tmp_path / "zoos", tmp_path / "out")
    assert (first.models, first.states) == (12, 108)
    for name in names:
        files = {
            path.name.partition("-")[0]: str(path)
            for path in (tmp_path / "out" / "data" / name).iterdir()
        }
        expected = load_dataset("model_zoos", name, data_dir=str(tmp_path / "zoos"))
        loaded = load_dataset("parquet", data_files=files)
        assert set(loaded) == set(expected)
        for split, rows in expected.items():
            assert digests(loaded[split]) == digests(rows)


def test_filters_and_columns_work_on_a_folder(folder: Path) -> None:
    rows = load_dataset(
        str(folder),
        "digits_cnn_s",
        split="train",
        columns=["epoch", "weights", "test_acc"],
        filters=[("epoch", "==", 5)],
    )
    assert rows.column_names == ["epoch", "weights", "test_acc"]
    assert (len(rows), set(rows["epoch"])) == (14, {5})


def test_filters_find_nan_in_a_folder(tmp_path: Path) -> None:
    """The statistics of a column leave NaN out, and datasets passes over row groups by them."""
    root, out = tmp_path / "zoos", tmp_path / "out"
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    directory = random_zoo(root, zoo, 9)
    model = zoo.models(1)[0]
    weights = np.zeros((2, zoo.layout.size), np.float32)
    metrics = {"test_loss": np.array([1.0, np.nan]), "test_acc": np.array([0.1, 0.2])}
    directory.write_model(model.model_id, model.hyperparameters(), [0, 1], weights, metrics)
    split = directory.splits()[model.model_id]
    build_folder([zoo.name], root, out)
    for name in (zoo.name, "metrics"):
        not_small = ~(pc.field("test_loss") < 5)
        rows = load_dataset(str(out), name, split=split, filters=not_small)
        assert rows["model_id"] == [model.model_id]
    for path in out.rglob("*.parquet"):
        lacking = {"test_loss"} if path.name.removeprefix(f"{zoo.name}-").startswith(split) else ()
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        plain = [column for column in columns if not column.path_in_schema.startswith("weights")]
        assert {c.path_in_schema for c in plain if not c.is_stats_set} == set(lacking)


# --- What is in the files -------------------------------------------------------------------------


def test_datasets_sees_that_a_folder_has_changed(tmp_path: Path) -> None:
    """Its cache of a folder depends on the card, not on the files."""
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    root, out = tmp_path / "zoos", tmp_path / "out"

    def loaded(name: str) -> dict[tuple[str, int], float]:
        build_folder([zoo.name], root, out)
        rows = load_dataset(str(out), name, cache_dir=str(tmp_path / "cache"))
        return {
            (row["model_id"], row["epoch"]): row["test_loss"]
            for split in rows.values()
            for row in split.select_columns(["model_id", "epoch", "test_loss"])
        }

    directory = random_zoo(root, zoo, 9)
    assert len(loaded(zoo.name)) == len(loaded("metrics")) == 18
    random_zoo(root, zoo, 12)
    assert len(loaded(zoo.name)) == len(loaded("metrics")) == 24
    model = zoo.models(1)[0]
    weights = np.zeros((2, zoo.layout.size), np.float32)
    losses = {"test_loss": np.array([7.0, 8.0])}
    directory.write_model(model.model_id, model.hyperparameters(), [0, 1], weights, losses)
    for name in (zoo.name, "metrics"):
        assert loaded(name)[model.model_id, 1] == 8


@contextmanager
def broken_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk on which no shard can be written."""

    def fail(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as broken:
        broken.setattr(build, "write_shard", fail)
        yield


def test_nothing_is_loaded_of_a_zoo_that_is_being_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a part of the rows, which the cache of datasets would keep for later, too."""
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1)
    other = dataclasses.replace(zoo, name="other_digits")
    root, out = tmp_path / "zoos", tmp_path / "out"
    random_zoo(root, other, 6)
    directory = random_zoo(root, zoo, 9)
    build_folder([zoo.name, other.name], root, out, licence="mit")
    notes = "## Notes\n\nOurs.\n"
    (out / "README.md").open("a").write(notes)

    def rows(name: str) -> int:
        loaded = load_dataset(str(out), name, cache_dir=str(tmp_path / "cache"))
        return sum(map(len, loaded.values()))

    for path in directory.files():  # as after a copy of the zoo: the bytes will be the same
        path.touch()
    with broken_shards(monkeypatch), pytest.raises(OSError, match="full"):
        build_folder([zoo.name], root, out)
    for name in (zoo.name, "metrics"):
        with pytest.raises(ValueError, match=r"not found. Available: .'other_digits'."):
            rows(name)
    assert rows(other.name) == 12
    for path in open_zoo(root, other.name).files():
        path.touch()
    with broken_shards(monkeypatch), pytest.raises(OSError, match="full"):
        build_folder([other.name], root, out)
    with pytest.raises(FileNotFoundError, match="a build was interrupted here"):
        rows("metrics")
    build_folder([zoo.name, other.name], root, out)
    assert (rows(zoo.name), rows("metrics")) == (18, 30)
    card = (out / "README.md").read_text()
    assert card.endswith(notes)
    assert card.count("Ours.") == 1
    assert "\nlicense: mit\n" in card


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """60 models of 51 states with random weights, CNN-s; zoos and repository."""
    root = tmp_path_factory.mktemp("large")
    random_zoo(root / "zoos", zoo_spec("mnist_cnn_s_seed"), 60)
    build_folder(["mnist_cnn_s_seed"], root / "zoos", root / "out")
    return root / "zoos", root / "out"


def test_row_groups_are_whole_trajectories_in_order(large: tuple[Path, Path]) -> None:
    out = large[1]
    file = pq.ParquetFile(out / "data/mnist_cnn_s_seed/train-00000-of-00001.parquet")
    groups = [
        file.read_row_group(number, columns=["model_id", "epoch"]).to_pydict()
        for number in range(file.num_row_groups)
    ]
    assert [len(group["epoch"]) for group in groups] == [20 * 51, 20 * 51, 2 * 51]  # 42 models
    assert [epoch for group in groups for epoch in group["epoch"]] == 42 * list(range(51))
    order = [model for group in groups for model in group["model_id"]]
    assert order == sorted(order)
    sizes = [4 * 2464 * len(group["epoch"]) for group in groups]
    assert sizes[:2] == [pytest.approx(10e6, rel=0.05)] * 2


def test_columns_are_encoded_as_the_house_says(folder: Path) -> None:
    for path in folder.glob("data/*/*.parquet"):
        twin = path.parent.name.endswith("_sparse")
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                assert column.compression == "ZSTD"
                assert column.has_offset_index
                if column.path_in_schema == "weights.list.element":
                    assert ("BYTE_STREAM_SPLIT" in column.encodings) == (not twin)
                    assert not column.has_dictionary_page
                    assert not column.is_stats_set
                else:
                    assert "RLE_DICTIONARY" in column.encodings
                    assert column.is_stats_set


def test_the_viewers_limits_are_kept(folder: Path, large: tuple[Path, Path]) -> None:
    for out in (folder, large[1]):
        files = sorted(out.rglob("*.parquet"))
        assert files
        for path in files:
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                group = metadata.row_group(group)
                assert group.total_byte_size < VIEWER_SCAN_BYTES
                assert all(group.column(n).has_offset_index for n in range(group.num_columns))
            schema = pq.read_schema(path)
            if path.parent.name != "metrics":
                # A fixed-size list of numbers is no column that the viewer makes statistics of.
                assert pa.types.is_fixed_size_list(schema.field("weights").type)
            assert Features.from_arrow_schema(schema)
            row = pq.ParquetFile(path).read_row_group(0).slice(0, 1).to_pylist()[0]
            cells = {name: len(json.dumps(value)) + len(name) + 5 for name, value in row.items()}
            if path.parent.name != "metrics":
                cells["weights"] = VIEWER_CELL_BYTES  # the only one that is cut
            assert sum(cells.values()) * VIEWER_FIRST_ROWS < VIEWER_FIRST_ROWS_BYTES
        default = load_dataset(str(out), split="train")
        assert "weights" not in default.column_names


def test_the_largest_row_of_the_catalog_is_within_the_viewers_limit() -> None:
    assert 4 * make_layout("resnet18", 3, 200).size < VIEWER_SCAN_BYTES / 6


def test_a_trajectory_that_no_row_group_holds_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit above which readers refuse a row group, here 100 kB."""
    for module in (parquet, checked):
        monkeypatch.setattr(module, "MAX_GROUP_BYTES", 100_000)
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=24)
    directory = random_zoo(tmp_path / "zoos", zoo, 4)
    build_folder([zoo.name], tmp_path / "zoos", tmp_path / "out")
    for path in sorted((tmp_path / "out" / "data").rglob("*.parquet")):
        with path.open("rb") as file:
            fragment = checked.open_fragment(file)
            assert [group.num_rows for group in fragment.row_groups][:2] == [6, 6]
            tables = [
                fragment.subset(row_group_ids=[group.id]).to_table()
                for group in fragment.row_groups
            ]
        for row in pa.concat_tables(tables).to_pylist():
            file_of_row = directory.read(directory.state_path(row["model_id"], 0))
            assert row["weights"] == file_of_row.weights()[row["epoch"]].tolist()


def test_a_filter_reads_the_row_groups_that_can_match(large: tuple[Path, Path]) -> None:
    path = large[1] / "data/mnist_cnn_s_seed/train-00000-of-00001.parquet"
    [fragment] = ds.dataset(path).get_fragments()
    model = pq.read_table(path, columns=["model_id"])["model_id"][21 * 51].as_py()

    def groups(expression: ds.Expression) -> int:
        return len(fragment.subset(expression).row_groups)

    assert groups(ds.field("model_id") == model) == 1
    assert groups(ds.field("epoch") == 50) == 3  # whole trajectories: each group has every epoch
    assert groups(ds.field("epoch") == 51) == 0


@needs_shared
def test_real_weights_shrink(tmp_path: Path) -> None:
    """Dense ones of a real zoo; twins are the same weights with 80 % at random set to 0."""
    for name in (SEED_ZOO, LARGE_ZOO):
        import_zoo(RAW / f"{name}.zip", tmp_path / "zoos")
    twins(tmp_path / "zoos", SEED_ZOO, 0.8)
    shares = {}
    for name in (SEED_ZOO, LARGE_ZOO, twin_name(SEED_ZOO)):
        [summary] = build_folder([name], tmp_path / "zoos", tmp_path / "out")
        stored = sum(
            pq.read_metadata(path).row_group(group).column(7).total_compressed_size
            for path in (tmp_path / "out" / "data" / name).iterdir()
            for group in range(pq.read_metadata(path).num_row_groups)
        )
        shares[name] = stored / summary.weights_bytes
    assert shares[SEED_ZOO] <= 0.86
    assert shares[LARGE_ZOO] <= 0.86
    assert shares[twin_name(SEED_ZOO)] <= 0.27


def test_layouts_of_one_architecture_do_not_collide(tmp_path: Path) -> None:
    for name in ("mnist_cnn_s_seed", "cifar10_cnn_s_seed"):
        random_zoo(tmp_path / "zoos", dataclasses.replace(zoo_spec(name), epochs=1), 2)
    out = tmp_path / "out"
    build_folder(["mnist_cnn_s_seed", "cifar10_cnn_s_seed"], tmp_path / "zoos", out)
    layouts = {path.name: json.loads(path.read_text()) for path in (out / "layouts").iterdir()}
    assert {name: layout["channels"] for name, layout in layouts.items()} == {
        "cnn_s-2464.json": 1,
        "cnn_s-2864.json": 3,
    }


# --- Building again -------------------------------------------------------------------------------


def test_the_same_zoo_gives_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 100_000)
    shutil.copytree(home, tmp_path / "copy", copy_function=shutil.copy)  # with other times
    names = ["digits_cnn_s", "mnist_cnn_s_seed_sparse"]
    [digits, _] = build_folder(names, home, tmp_path / "one", workers=1)
    for name in reversed(names):
        build_folder([name], tmp_path / "copy", tmp_path / "three", workers=3)
    assert digits.shards == 13
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    counts = [len(list(tmp_path.glob(f"one/data/digits_cnn_s/{split}-*"))) for split in SPLITS]
    assert counts == [9, 2, 2]
    row_groups = [
        pq.read_metadata(path).num_row_groups for path in tmp_path.glob("one/data/digits_cnn_s/*")
    ]
    assert sum(row_groups) == 20  # one trajectory each


def test_what_is_still_valid_is_not_written_again(home: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "zoos", tmp_path / "out"
    shutil.copytree(home, root)
    names = ["digits_cnn_s", "mnist_cnn_s_seed"]
    build_folder(names, root, out)

    def times() -> dict[str, int]:
        return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*.parquet")}

    before = times()
    assert [summary.written for summary in build_folder(names, root, out)] == [0, 0]
    assert times() == before
    # A damaged shard (another size) and a missing one are made again, the others left alone.
    damaged, missing = (out / f"data/digits_cnn_s/{s}-00000-of-00001.parquet" for s in SPLITS[:2])
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[:-9])
    missing.unlink()
    [digits] = build_folder(["digits_cnn_s"], root, out)
    assert digits.written == 2
    assert damaged.read_bytes() == kept
    changed = {name for name, when in times().items() if when != before[name]}
    assert changed == {str(damaged.relative_to(out)), str(missing.relative_to(out))}


def test_a_changed_zoo_replaces_its_shards_and_no_others(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "zoos", tmp_path / "out"
    shutil.copytree(home, root)
    with monkeypatch.context() as patch:
        small_shards(patch, 20_000)
        build_folder(["digits_cnn_s", "mnist_cnn_s_seed"], root, out)
    other = (out / "data/digits_cnn_s/notes.txt", out / "data/mine/train-00000-of-00001.parquet")
    for path in other:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not ours")
    untouched = {p: p.stat().st_mtime_ns for p in out.glob("data/mnist_cnn_s_seed/*")}
    directory = open_zoo(root, "digits_cnn_s")
    splits = directory.splits()
    next(path for path in directory.files() if splits[path.stem] == "train").unlink()
    [summary] = build_folder(["digits_cnn_s"], root, out)
    assert (summary.models, summary.states, summary.shards) == (19, 19 * 6, 3)
    assert sorted(path.name for path in out.glob("data/digits_cnn_s/*.parquet")) == [
        f"{split}-00000-of-00001.parquet" for split in sorted(SPLITS)
    ]
    assert {p: p.stat().st_mtime_ns for p in untouched} == untouched
    assert all(path.read_text() == "not ours" for path in other)
    fresh = tmp_path / "fresh"
    build_folder(["digits_cnn_s"], root, fresh)
    for path in fresh.rglob("*.parquet"):
        assert (out / path.relative_to(fresh)).read_bytes() == path.read_bytes()


def test_a_resnet_zoo_that_grows_keeps_its_shards(tmp_path: Path) -> None:
    """Each model has files of its own, so that terabytes are not written again for one more."""
    zoos, out = tmp_path / "zoos", tmp_path / "out"
    directory = random_zoo(zoos, dataclasses.replace(zoo_spec("cifar10_resnet18"), epochs=1), 3)
    models = sorted(directory.splits())
    shutil.move(directory.models_path / models[1], tmp_path / models[1])
    [first] = build_folder(["cifar10_resnet18"], zoos, out)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "data").rglob("*.parquet")}
    shutil.move(tmp_path / models[1], directory.models_path / models[1])
    [second] = build_folder(["cifar10_resnet18"], zoos, out)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "data").rglob("*.parquet")}
    assert (first.shards, second.shards, second.written) == (2, 3, 1)
    assert before.items() <= after.items()
    [new] = after.keys() - before.keys()
    assert new == f"{directory.splits()[models[1]]}-{models[1]}-00000-of-00001.parquet"
    rows = [row["model_id"] for split in SPLITS for row in _rows(out, split)]
    assert sorted(rows) == models


def _rows(out: Path, split: str) -> list[dict[str, Any]]:
    stream = load_dataset(str(out), "cifar10_resnet18", streaming=True, columns=["model_id"])
    return list(stream[split]) if split in stream else []


def test_faulty_files_are_left_out_and_reported(home: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "zoos", tmp_path / "out"
    shutil.copytree(home, root)
    bad, orphan, *_ = open_zoo(root, "digits_cnn_s").files()
    bad.write_bytes(bad.read_bytes()[:-10])
    splits = json.loads((root / "digits_cnn_s/splits.json").read_text())
    del splits[orphan.stem]
    (root / "digits_cnn_s/splits.json").write_text(json.dumps(splits))
    [summary] = build_folder(["digits_cnn_s"], root, out)
    assert summary.models == 18
    assert sorted(reason.split(": ")[0] for reason in summary.left_out) == sorted(
        [str(bad), str(orphan)]
    )
    for path in open_zoo(root, "digits_cnn_s").files():
        path.write_bytes(b"")
    with pytest.raises(FaultyZoo, match="none of its 20 model files"):
        build_folder(["digits_cnn_s"], root, out)
    assert len(list(out.glob("data/digits_cnn_s/*"))) == 3  # what was built stays


KILLED = """
import sys
import dataclasses
from model_zoos.builders.architecture import ARCHITECTURES
from model_zoos.builders.hub.build import build_folder
small = dataclasses.replace(ARCHITECTURES["cnn_s"], shard_bytes=10**6, row_group_bytes=10**6)
ARCHITECTURES["cnn_s"] = small
build_folder(["mnist_cnn_s_seed"], sys.argv[1], sys.argv[2], workers=2)
"""


def test_a_killed_build_goes_on(
    large: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoos, out = large[0], tmp_path / "out"
    data = out / "data/mnist_cnn_s_seed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, zoos, out])
    while len(list(data.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
    for path in done:
        pq.read_table(path)  # each one whole
    small_shards(monkeypatch, 1_000_000)
    assert not (out / "README.md").exists()
    with pytest.raises(FaultyZoo, match="lacks some of its files"):
        read_contents(out)
    [summary] = build_folder(["mnist_cnn_s_seed"], zoos, out)
    # One shard may have been renamed, and not yet written down, when the process died.
    assert len(done) - 2 <= summary.shards - summary.written <= len(done)
    assert summary.written > 0
    kept = sum(path.stat().st_mtime_ns == when for path, when in done.items())
    assert kept == summary.shards - summary.written
    build_folder(["mnist_cnn_s_seed"], zoos, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(out.glob(".build/*.partial"))


def test_an_interruption_stops_all_workers(
    large: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 1_000_000)

    def stop(zoo: str, done: int, total: int) -> None:
        assert total == 60 * 51
        if done > total * 0.75:  # all metrics and half of the weights
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        build_folder(["mnist_cnn_s_seed"], large[0], tmp_path, on_progress=stop)
    written = len(list(tmp_path.glob("data/mnist_cnn_s_seed/*.parquet")))
    assert 0 < written < 30
    assert not list(tmp_path.glob(".build/*.partial"))


def test_after_an_error_no_other_shard_is_begun(
    large: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 1_000_000)
    begun = []

    def full(shard: PlannedShard, *_: Any) -> None:
        begun.append(shard.name)
        raise OSError("No space left on device")

    monkeypatch.setattr(build, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        build_folder(["mnist_cnn_s_seed"], large[0], tmp_path, workers=1)
    assert len([name for name in begun if name.startswith("data/")]) <= 1


def test_a_model_that_changes_during_a_build_is_built_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row has the metrics of the scan and the weights of a later file, in any shard."""
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=2)
    directory = random_zoo(tmp_path / "zoos", zoo, 6)
    file = directory.scan()[0][0]
    arranged = build._arranged

    def changing(*arguments: Any) -> Any:
        directory.write_model(
            file.model_id,
            file.hyperparameters,
            file.epochs,
            file.weights()[::-1],
            {name: values[::-1] for name, values in file.metrics.items()},
        )
        return arranged(*arguments)

    with monkeypatch.context() as during:
        during.setattr(build, "_arranged", changing)
        with pytest.raises(FaultyFile, match="has changed since it was listed"):
            build_folder([zoo.name], tmp_path / "zoos", tmp_path / "one")
    for folder in ("one", "two"):
        build_folder([zoo.name], tmp_path / "zoos", tmp_path / folder)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_bad_requests_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooNotFound, match="no zoo 'fashion_mnist_cnn_s_seed'"):
        build_folder(["digits_cnn_s", "fashion_mnist_cnn_s"], home, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="metrics is built along"):
        build_folder(["metrics"], home, tmp_path / "a")
    with pytest.raises(InvalidArgument, match="a zoo cannot be named 'default'"):
        build_folder(["default"], home, tmp_path / "a")
    with pytest.raises(ValueError, match="at least 1"):
        build_folder(["digits_cnn_s"], home, tmp_path / "a", workers=0)
    with pytest.raises(ValueError, match="at least one zoo"):
        build_folder([], home, tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "notes" / "figures").mkdir()
    with pytest.raises(
        InvalidArgument, match=r"holds other files \(README\.md\): build into a fol"
    ):
        build_folder(["digits_cnn_s"], home, tmp_path / "notes")
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"
    with pytest.raises(InvalidArgument, match=r"holds zoo directories \(digits_cnn_s, "):
        build_folder(["digits_cnn_s"], home, home)
    with pytest.raises(InvalidArgument, match=r"holds other files .*zoo\.json"):
        build_folder(["digits_cnn_s"], home, home / "digits_cnn_s")
    with pytest.raises(InvalidArgument, match="is a file, expected the folder to build into"):
        build_folder(["digits_cnn_s"], home, tmp_path / "notes" / "README.md")
    (tmp_path / "model_zoos.py").write_text("")
    with pytest.raises(ValueError, match=r"holds a model_zoos\.py"):
        build_folder(["digits_cnn_s"], home, tmp_path)


def test_the_command_builds_and_reports(home: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "model_zoos", "build", "digits-cnn-s", "--json"]
    done = subprocess.run(
        [*program, "--data-dir", home, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=True,
    )
    [summary] = json.loads(done.stdout)
    assert (summary["zoo"], summary["models"], summary["states"]) == ("digits_cnn_s", 20, 120)
    assert not list((tmp_path / "out").rglob("model_zoos.py"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".build",
        "README.md",
        "croissant.json",
        "data",
        "layouts",
        "metrics",
    }


# --- ResNet-18 ------------------------------------------------------------------------------------

PEAK = """
import sys
{}
# Not getrusage: its maximum is at least what the parent had when this process was started.
[memory] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(memory.split()[1]) * 1024)
"""


def resnet(root: Path, models: int, epochs: int) -> Zoo:
    zoo = dataclasses.replace(zoo_spec("cifar10_resnet18"), epochs=epochs)
    random_zoo(root, zoo, models)
    return zoo


def peak_bytes(code: str, *arguments: Any, cache: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(code), *map(str, arguments)],
        env={**os.environ, "HF_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resnet_rows_build_and_stream_in_little_memory(tmp_path: Path) -> None:
    zoos, out = tmp_path / "zoos", tmp_path / "out"
    zoo = resnet(zoos, models=1, epochs=12)  # 12 rows of 45 MB in two files
    build = """
from model_zoos.builders.hub.build import build_folder
[summary] = build_folder(["cifar10_resnet18"], sys.argv[1], sys.argv[2], workers=2)
assert summary.states == 12
"""
    assert peak_bytes(build, zoos, out, cache=tmp_path / "cache") < 1e9
    stream = """
import pyarrow, pyarrow.dataset
from datasets import load_dataset
pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # as the card says
options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
splits = load_dataset(
    sys.argv[1], "cifar10_resnet18", streaming=True, fragment_scan_options=options
)
assert sum(len(row["weights"]) for rows in splits.values()
           for row in rows.with_format("numpy")) == 12 * 11183562
"""
    assert peak_bytes(stream, out, cache=tmp_path / "cache") < 1e9
    files = sorted((out / "data/cifar10_resnet18").iterdir())
    assert len(files) == 2
    for path in files:
        metadata = pq.read_metadata(path)
        assert metadata.num_row_groups == metadata.num_rows  # one state each
        assert metadata.row_group(0).total_byte_size < VIEWER_SCAN_BYTES
        [fragment] = ds.dataset(path).get_fragments()
        matching = fragment.subset(ds.field("epoch") == zoo.epochs).row_groups
        assert len(matching) == (path == files[-1])
    bits = {
        split: digests(rows)
        for split, rows in load_dataset(
            "model_zoos", "cifar10_resnet18", data_dir=str(zoos), streaming=True
        ).items()
    }
    assert bits == {
        split: digests(rows)
        for split, rows in load_dataset(str(out), "cifar10_resnet18", streaming=True).items()
    }
    metrics = out / "metrics" / "cifar10_resnet18-train.parquet"
    assert metrics.stat().st_size < 50_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_column_of_more_than_2_to_the_31_elements(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 30e9:
        pytest.skip("needs 19 GB of disk")
    rows = 193
    zoo = dataclasses.replace(zoo_spec("cifar10_resnet18"), epochs=rows)
    directory = create_zoo(tmp_path / "zoos", zoo)
    weights = np.arange(zoo.layout.size, dtype=np.float32)[None] % 251
    assert rows * weights.size > 2**31
    for epoch in range(1, rows + 1):
        directory.write_model("only", {}, [epoch], weights, {"test_acc": np.array([0.5])})
    out = tmp_path / "out"
    build = """
from model_zoos.builders.hub.build import build_folder
[summary] = build_folder(["cifar10_resnet18"], sys.argv[1], sys.argv[2], workers=2)
assert (summary.states, summary.shards) == (193, 20)
"""
    assert peak_bytes(build, tmp_path / "zoos", out, cache=tmp_path / "cache") < 1e9
    load = """
import numpy as np
from datasets import load_dataset
[rows] = load_dataset(sys.argv[1], "cifar10_resnet18", writer_batch_size=4).values()
rows = rows.with_format("numpy")
assert len(rows) == 193
for number in (0, 191, 192):
    assert (rows[number]["weights"] == np.arange(11183562, dtype=np.float32) % 251).all()
"""
    try:
        assert peak_bytes(load, out, cache=tmp_path / "cache") < 2e9
    finally:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
