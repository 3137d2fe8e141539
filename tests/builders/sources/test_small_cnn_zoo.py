"""The Small CNN Zoo in its published form: what is written here, and the shared sample."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import model_zoos
from model_zoos.benchmarks.audit import audit_zoo
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.speed.measure import peak_memory
from model_zoos.benchmarks.speed.small_cnn_zoo import write_source
from model_zoos.builders.catalog import ELSEWHERE
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.overview import overview
from model_zoos.builders.phrases import counted
from model_zoos.builders.sources import import_small_cnn
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.report import REPORT, LeftOut
from model_zoos.builders.sources.small_cnn_files import FILES
from model_zoos.builders.sources.small_cnn_zoo import read_small_cnn_zoo
from model_zoos.builders.zoo_directory import SOURCE_COLUMNS, open_zoo
from model_zoos.errors import UnknownZoo, Unreadable
from model_zoos.generation.images import ImageData, Images, load_images
from tests.shared import SHARED, needs_shared

LAYOUT = """varname,start_idx,end_idx,shape
sequential/conv2d/bias:0,0,16,"(16,)"
sequential/conv2d/kernel:0,16,160,"(3, 3, 1, 16)"
sequential/conv2d_1/bias:0,160,176,"(16,)"
sequential/conv2d_1/kernel:0,176,2480,"(3, 3, 16, 16)"
sequential/conv2d_2/bias:0,2480,2496,"(16,)"
sequential/conv2d_2/kernel:0,2496,4800,"(3, 3, 16, 16)"
sequential/dense/bias:0,4800,4810,"(10,)"
sequential/dense/kernel:0,4810,4970,"(16, 10)"
"""
STEPS = (0, 1, 20, 86)


def rows_of(models: int) -> list[dict[str, Any]]:
    """The table of some models, in order."""
    return [
        {
            "config.activation": ("relu", "tanh")[model % 2],
            "config.b_init": "zeros",
            "config.dataset": "mnist",
            "config.dropout": 0.1 * model,
            "config.epochs": 86,
            "config.l2reg": 1e-4 * (model + 1),
            "config.learning_rate": 1e-3 * (model + 1),
            "config.optimizer": ("adam", "sgd", "rmsprop")[model % 3],
            "config.random_seed": 100 + model,
            "config.train_fraction": 0.5,
            "config.w_init": ("glorot_normal", "orthogonal")[model % 2],
            "modeldir": f"/zoo/small/{model}",
            "step": step,
            "test_accuracy": 0.1 + 0.001 * step,
            "test_loss": 2.3,
            "train_accuracy": 0.2,
            "train_loss": 2.2,
        }
        for model in range(models)
        for step in STEPS
    ]


def write(folder: Path, rows: list[dict[str, Any]], weights: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weights.npy", weights)
    (folder / "layout.csv").write_text(LAYOUT)
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(table.getvalue().encode()))
    return folder


def some_weights(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4970)).astype(np.float32)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "own" / "models").iterdir()}


def test_weights_give_the_function_of_the_original_network(tmp_path: Path) -> None:
    """By TensorFlow's definition of a convolution: written out, image by image."""
    rows, weights = rows_of(2), some_weights(2 * len(STEPS))
    [report] = import_zoo(write(tmp_path / "zoo", rows, weights), tmp_path, "own")
    assert (report.models, report.kept, report.left_out) == (2, 8, ())
    row = load_dataset(
        "model_zoos",
        "own",
        data_dir=str(tmp_path),
        split="train",
        filters=[("model_id", "==", "1"), ("epoch", "==", 20)],
    )[0]
    assert (row["activation"], row["optimizer"], row["init"]) == ("tanh", "sgd", "orthogonal")
    assert (row["learning_rate"], row["seed"], row["epochs"]) == (2e-3, 101, 86)
    assert row["test_acc"] == pytest.approx(0.12)
    vector = weights[len(STEPS) + 2]
    image = np.random.default_rng(1).normal(size=(28, 28, 1))
    values = image
    start = 0
    for channels in (1, 16, 16):
        bias, start = vector[start : start + 16], start + 16
        kernel = vector[start : start + 144 * channels].reshape(3, 3, channels, 16)
        start += 144 * channels
        side = (len(values) - 3) // 2 + 1
        out = np.empty((side, side, 16))
        for y in range(side):
            for x in range(side):
                patch = values[2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
                out[y, x] = np.tensordot(patch, kernel, 3) + bias
        values = np.tanh(out)
    logits = values.mean((0, 1)) @ vector[4810:].reshape(16, 10) + vector[4800:4810]
    network = model_zoos.instantiate(row)
    with torch.no_grad():
        found = network(torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32))
    assert np.allclose(found.numpy()[0], logits, atol=1e-4)
    columns = pq.read_table(tmp_path / "own" / SOURCE_COLUMNS).to_pylist()
    assert [entry["model_id"] for entry in columns] == ["0", "1"]
    assert columns[1]["config.l2reg"] == "0.0002"


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    """Nor do rows whose modeldir is missing, if the model's other rows have one."""
    rows, weights = rows_of(5), some_weights(5 * len(STEPS))
    import_zoo(write(tmp_path / "a", rows, weights), tmp_path / "one", "own")
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    mixed = [dict(rows[number]) for number in order]
    import_zoo(write(tmp_path / "b", mixed, weights[order]), tmp_path / "two", "own")
    for row in mixed[::5]:
        if row["step"]:
            row["modeldir"] = ""
    import_zoo(write(tmp_path / "c", mixed, weights[order]), tmp_path / "three", "own")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "three")
    for row in mixed:
        del row["modeldir"]
    [report] = import_zoo(write(tmp_path / "d", mixed, weights[order]), tmp_path / "four", "own")
    assert (report.models, report.kept) == (5, 20)


def test_several_processes_write_the_same_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an interruption, which leaves some models."""
    monkeypatch.setattr(import_small_cnn, "CHUNK", 2)
    source = write(tmp_path / "zoo", rows_of(5), some_weights(5 * len(STEPS)))
    import_zoo(source, tmp_path / "one", "own")
    import_zoo(source, tmp_path / "two", "own", workers=2)
    files = files_of(tmp_path / "one")
    assert files == files_of(tmp_path / "two")
    reports = [(tmp_path / root / "own" / REPORT).read_bytes() for root in ("one", "two")]
    assert reports[0] == reports[1]
    for name in list(files)[:3]:
        (tmp_path / "one" / "own" / "models" / name).unlink()
    [report] = import_zoo(source, tmp_path / "one", "own")
    assert (report.kept, files_of(tmp_path / "one")) == (20, files)


@pytest.mark.slow
def test_the_published_size_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    """270,000 rows; the speed is measured by benchmarks/speed/small_cnn_zoo.py."""
    source = write_source(tmp_path / "mnist", 30_000)
    command = ("-m", "model_zoos", "import", str(source), "--quiet", "--out", str(tmp_path))
    memory = peak_memory(*command)
    assert memory["megabytes"] < 1000
    report = json.loads((tmp_path / "mnist_small_cnn" / REPORT).read_text())
    assert (report["models"], report["kept"], report["left_out"]) == (30_000, 270_000, [])


def test_a_bad_row_costs_itself_only(tmp_path: Path) -> None:
    rows, weights = rows_of(3), some_weights(3 * len(STEPS))
    weights[1, 7] = np.nan
    rows[2]["step"] = "many"
    rows[5]["step"] = 0  # twice
    rows[6]["test_accuracy"] = "?"
    rows[8]["config.learning_rate"] = "fast"
    [report] = import_zoo(write(tmp_path / "zoo", rows, weights), tmp_path, "own")
    assert report.kept == 12 - 5
    assert {entry.category for entry in report.left_out} == {
        "NaN or infinite weights",
        "wrong epoch",
        "repeated",
        "wrong metrics",
        "wrong hyperparameters",
    }
    files = {file.model_id: file for file in open_zoo(tmp_path, "own").scan()[0]}
    assert files["2"].hyperparameters["learning_rate"] == pytest.approx(3e-3)
    assert files["2"].hyperparameters["seed"] == 102


CELLS = {
    "": None,
    " ": None,
    "NA": None,
    "nan": math.nan,
    "NaN": math.nan,
    "inf": math.inf,
    "2.5": 2.5,
    "oops": "no number",
}
"""Text of a loss -> its value, or why its state is left out."""


@settings(max_examples=20, deadline=None)
@given(cells=st.lists(st.sampled_from(sorted(CELLS)), min_size=8, max_size=8))
def test_a_loss_that_was_not_measured_is_null_and_one_that_is_nan_is_nan(cells: list[str]) -> None:
    """A text that is no number costs its state."""
    rows = rows_of(2)
    for row, cell in zip(rows, cells, strict=True):
        row["test_loss"] = cell
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "zoo", rows, some_weights(len(rows)))
        if all(CELLS[cell] == "no number" for cell in cells):
            with pytest.raises(
                Unreadable, match="no row that can be used: wrong metrics: test_los"
            ):
                import_zoo(source, folder, "own")
            return
        [report] = import_zoo(source, folder, "own")
        found = {
            (file.model_id, epoch): None if value is np.ma.masked else float(value)
            for file in open_zoo(folder, "own").scan()[0]
            for epoch, value in zip(
                file.epochs.tolist(),
                file.metrics.get("test_loss", np.ma.masked_all(len(file.epochs))),
                strict=True,
            )
        }
    expected = {
        (str(number // len(STEPS)), STEPS[number % len(STEPS)]): CELLS[cell]
        for number, cell in enumerate(cells)
    }
    wrong = {state for state, value in expected.items() if value == "no number"}
    assert repr(sorted(found.items())) == repr(
        sorted((state, value) for state, value in expected.items() if state not in wrong)
    )
    assert {(entry.trial, entry.epoch) for entry in report.left_out} == wrong
    assert {entry.reason for entry in report.left_out} <= {
        "wrong metrics: test_loss is 'oops', no number"
    }
    empty = list(expected.values()).count(None)
    remarks = [f"test_loss is null at {counted(empty, 'state')}, whose cells are empty"]
    assert list(report.remarks) == (remarks if empty else [])


def test_losses_without_a_column_are_null(tmp_path: Path) -> None:
    """In the rows of the data set, in which no loss is NaN."""
    rows = rows_of(2)
    for row in rows:
        del row["train_loss"], row["test_loss"]
    [report] = import_zoo(write(tmp_path / "zoo", rows, some_weights(8)), tmp_path, "own")
    assert (report.kept, report.remarks) == (
        8,
        tuple(
            f"{name} is null: metrics.csv.gz has no column {name}"
            for name in ("test_loss", "train_loss")
        ),
    )
    found = load_dataset("model_zoos", "own", data_dir=str(tmp_path), split="all")
    assert (set(found["test_loss"]), set(found["train_loss"])) == ({None}, {None})
    assert None not in found["test_acc"]


@pytest.mark.parametrize(
    "absent", [["train_accuracy"], ["test_accuracy"], ["test_accuracy", "train_accuracy"]]
)
def test_a_missing_column_of_accuracies_is_named_once(tmp_path: Path, absent: list[str]) -> None:
    rows = [{k: v for k, v in row.items() if k not in absent} for row in rows_of(1)]
    folder = write(tmp_path / "zoo", rows, some_weights(len(rows)))
    names = " and no ".join(sorted(absent, reverse=True))
    with pytest.raises(Unreadable, match=f"metrics.csv.gz has no column {names}$"):
        import_zoo(folder, tmp_path, "own")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "missing metrics: test_acc"),
        ("nan", "wrong metrics: test_acc is nan, not a share of 1"),
        ("1.5", "wrong metrics: test_acc is 1.5, not a share of 1"),
        ("-0.1", "wrong metrics: test_acc is -0.1, not a share of 1"),
        ("?", "wrong metrics: test_acc is '?', no number"),
    ],
)
def test_an_accuracy_that_cannot_be_is_named_with_its_value(
    tmp_path: Path, cell: str, reason: str
) -> None:
    rows = rows_of(2)
    rows[5]["test_accuracy"] = cell
    [report] = import_zoo(write(tmp_path / "zoo", rows, some_weights(8)), tmp_path, "own")
    assert [*report.left_out] == [LeftOut("1", 1, reason)]
    assert report.kept == 7


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("optimizer", "lamb", {"optimizer": None}),
        ("w_init", "weird", {"init": None}),
        ("optimizer", "torch.optim.AdamW", {"optimizer": "adamw"}),
        ("activation", "Swish", {"activation": "silu"}),
        ("dropout", "nan", {"dropout": None}),
        ("dropout", "", {"dropout": None}),
        ("epochs", "86.0", {"epochs": 86}),
        ("random_seed", str(2**60 + 1), {"seed": 2**60 + 1}),
        ("activation", "mish", "activation is 'mish', not one of tanh, relu,"),
        ("learning_rate", "-1.0", "learning_rate is -1.0, not a finite number >= 0"),
        ("dropout", "1.0", r"dropout is 1.0, not a number in \[0, 1\)"),
        ("dropout", "inf", r"dropout is inf, not a number in \[0, 1\)"),
        ("random_seed", "1.5", "seed is '1.5', no whole number"),
        ("random_seed", str(2**63), f"seed is {2**63}, not in the range of its column"),
        ("epochs", "0", "epochs is 0, not a whole number from 1 to"),
    ],
)
def test_hyperparameters_are_checked_as_those_of_a_table(
    tmp_path: Path, column: str, cell: str, expected: dict[str, Any] | str
) -> None:
    rows = rows_of(3)
    for row in rows[4:8]:
        row[f"config.{column}"] = cell
    [report] = import_zoo(write(tmp_path / "zoo", rows, some_weights(12)), tmp_path, "own")
    files = {file.model_id: file for file in open_zoo(tmp_path, "own").scan()[0]}
    if isinstance(expected, str):
        assert (sorted(files), report.kept, len(report.left_out)) == (["0", "2"], 8, 4)
        for entry in report.left_out:
            assert re.match(f"wrong hyperparameters: {expected}", entry.reason)
        return
    [(name, value)] = expected.items()
    assert files["1"].hyperparameters[name] == value
    assert (report.kept, report.left_out) == (12, ())
    unknown = f"{name} is null where it is none of ours ('{cell}'); {SOURCE_COLUMNS} has it"
    assert report.remarks == ((unknown,) if name in ("optimizer", "init") and not value else ())
    kept = pq.read_table(tmp_path / "own" / SOURCE_COLUMNS).to_pylist()[1][f"config.{column}"]
    assert kept == (cell or None)


def test_config_that_changes_within_a_model_is_that_of_the_first_epoch(tmp_path: Path) -> None:
    """An empty cell is no change, nor is a number that is written in two ways."""
    rows = rows_of(3)
    rows[0]["config.random_seed"] = ""
    rows[1]["config.random_seed"] = "100.0"
    rows[5]["config.optimizer"] = "adam"
    rows[6]["config.optimizer"] = "rmsprop"
    rows[7]["config.l2reg"] = "0.5"
    rows[9]["config.activation"] = "mish"  # costs its row
    order = [*range(6, 12), *range(6)]
    source = write(tmp_path / "zoo", [rows[n] for n in order], some_weights(12))
    [report] = import_zoo(source, tmp_path, "own")
    assert report.kept == 11
    assert report.remarks == (
        f"config.l2reg changes within 1 model; {SOURCE_COLUMNS} has that of the first epoch",
        "optimizer changes within 1 model; their rows have that of the first epoch",
    )
    files = {file.model_id: file for file in open_zoo(tmp_path, "own").scan()[0]}
    assert [files[model].hyperparameters["seed"] for model in "012"] == [100, 101, 102]
    assert files["1"].hyperparameters["optimizer"] == "sgd"
    columns = pq.read_table(tmp_path / "own" / SOURCE_COLUMNS).to_pylist()
    assert columns[1]["config.l2reg"] == "0.0002"
    assert [row["config.random_seed"] for row in columns] == ["100.0", "101", "102"]


def _spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled objects": (
        lambda folder: np.save(
            folder / "weights.npy", np.array([{"a": 1}] * 4, object), allow_pickle=True
        ),
        r"weights\.npy has object",
    ),
    "a header of more rows": (
        _spoil("weights.npy", lambda content: content.replace(b"(4, 4970)", b"(9, 4970)")),
        "expected float32",
    ),
    "cut weights": (_spoil("weights.npy", lambda content: content[:-1]), "truncated"),
    "no numpy": (_spoil("weights.npy", lambda content: b"PK" + content), "unreadable"),
    "float64": (
        lambda folder: np.save(folder / "weights.npy", np.zeros((4, 4970))),
        "has float64",
    ),
    "a bomb": (
        lambda folder: (folder / "metrics.csv.gz").write_bytes(
            gzip.compress(b"step\n" + b"1\n" * (1 << 20)) * 150
        ),
        "too large",
    ),
    "many lines": (
        _spoil("metrics.csv.gz", lambda content: content + gzip.compress(b"\n" * 10_000)),
        "more lines than weights.npy has rows, 4",
    ),
    "a million columns": (
        lambda folder: (folder / "metrics.csv.gz").write_bytes(
            gzip.compress(b"step," + b",".join(str(n).encode() for n in range(10**6)) + b"\n")
        ),
        "repeats the name of a column, or has too many",
    ),
    "a header without an end": (
        _spoil("weights.npy", lambda content: content[:8] + b"\xff\xff" + b"{" * 70_000),
        "unreadable",
    ),
    "no gzip": (
        _spoil("metrics.csv.gz", lambda content: content[2:]),
        r"unreadable: metrics\.csv\.gz: ",
    ),
    "a cut table": (
        _spoil("metrics.csv.gz", lambda content: content[:-50]),
        r"unreadable: metrics\.csv\.gz: .* ended before the end",
    ),
    "Fortran's order": (
        lambda folder: np.save(folder / "weights.npy", np.asfortranarray(some_weights(4))),
        r"is in Fortran's order.* save numpy\.ascontiguousarray of it",
    ),
    "a layout with a gap": (
        _spoil("layout.csv", lambda content: content.replace(b",16,160,", b",17,160,")),
        "is not where its shape says",
    ),
    "a layout of nothing": (
        _spoil("layout.csv", lambda content: b"varname\n"),
        "has no column start_idx",
    ),
    "a huge layout": (_spoil("layout.csv", lambda content: content * 1000), "unreadable"),
    "other images": (
        _spoil(
            "metrics.csv.gz",
            lambda content: gzip.compress(gzip.decompress(content).replace(b"mnist", b"faces")),
        ),
        "trained on 'faces'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message = HOSTILE[name]
    folder = write(tmp_path / "zoo", rows_of(1), some_weights(len(STEPS)))
    spoil(folder)
    with pytest.raises(Unreadable, match=message):
        import_zoo(folder, tmp_path, "own")


def test_weights_that_become_shorter_are_no_other_models_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "zoo", rows_of(2), some_weights(2 * len(STEPS)))
    found = read_small_cnn_zoo(folder)
    first, second = found.models
    os.truncate(folder / "weights.npy", found.offset + 4 * 4970 * (len(STEPS) + 1) + 1)
    with found.opened() as opened:
        assert opened.read(first, None) == [None] * len(STEPS)
        with pytest.raises(Unreadable, match="has become shorter"):
            opened.read(second, None)


def test_source_and_terms_stand_in_zoo_json_and_the_card(tmp_path: Path) -> None:
    rows, weights = rows_of(8), some_weights(8 * len(STEPS))
    for row in rows:
        row["config.dataset"] = "svhn_cropped"
    [report] = import_zoo(write(tmp_path / "svhn_cropped", rows, weights), tmp_path)
    zoo = open_zoo(tmp_path, report.zoo)
    assert (zoo.zoo.name, zoo.zoo.image_dataset) == ("svhn_small_cnn", "svhn")
    assert zoo.zoo.images == "svhn/grey"
    assert zoo.zoo.layout.architecture.image_size == 32
    published = ELSEWHERE["svhn_small_cnn"]
    assert published.url.endswith("/svhn_cropped.tar.xz")
    assert zoo.info["source"]["url"] == published.url
    assert zoo.info["source"]["licence"] == "CC BY 4.0"
    [part] = overview(report.zoo, tmp_path)
    assert (part.models, part.specified, part.incomplete) == (8, None, 0)
    build_folder([report.zoo], tmp_path, tmp_path / "repository")
    card = (tmp_path / "repository" / "README.md").read_text()
    assert f"- `svhn_small_cnn`: licence: CC BY 4.0; cite: {published.cite}" in card
    copied = pq.read_table(tmp_path / "repository" / "sources" / "svhn_small_cnn.parquet")
    assert "config.train_fraction" in copied.column_names


def test_names_of_published_zoos_say_where_they_lie(tmp_path: Path) -> None:
    for name, zoo in ELSEWHERE.items():
        with pytest.raises(UnknownZoo, match=f"2002.11448.* its file is {zoo.url}"):
            model_zoos.zoo_spec(name)
        with pytest.raises(UnknownZoo, match=zoo.url):
            load_dataset("model_zoos", name, data_dir=str(tmp_path))
        with pytest.raises(UnknownZoo, match=zoo.url):
            overview(name, tmp_path)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_losses_may_contain_the_l2_penalty(tmp_path: Path, factor: float) -> None:
    """Those of the published files do, once; by torch alone."""
    rows, weights = rows_of(3), 0.1 * some_weights(3 * len(STEPS))
    pixels = torch.randint(256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    made = Images(pixels.to(torch.uint8), torch.arange(20) % 10)
    images = ImageData("made", made, None, made, (0.5,), (0.5,))
    for row, vector in zip(rows, weights, strict=True):
        tensors, start = [], 0
        for shape in [(3, 3, 1, 16), (3, 3, 16, 16), (3, 3, 16, 16), (16, 10)]:
            bias = torch.tensor(vector[start : start + shape[-1]])
            start += shape[-1]
            kernel = torch.tensor(vector[start : start + int(np.prod(shape))]).reshape(shape)
            start += kernel.numel()
            tensors.append((kernel, bias))
        x = images.normalized("test")
        for kernel, bias in tensors[:3]:
            x = torch.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride=2)
            x = getattr(torch, row["config.activation"])(x)
        logits = x.mean((2, 3)) @ tensors[3][0] + tensors[3][1]
        penalty = row["config.l2reg"] * sum(float((k.double() ** 2).sum()) for k, _ in tensors)
        loss = torch.nn.functional.cross_entropy(logits, made.labels).item()
        row["test_loss"] = loss + factor * penalty
        row["test_accuracy"] = (logits.argmax(1) == made.labels).double().mean().item()
    import_zoo(write(tmp_path / "zoo", rows, weights), tmp_path, "own")
    audit = audit_zoo("own", tmp_path, images=images, states=None)
    found = {check.name: (check.checked, check.wrong) for check in audit.checks}
    assert found["accuracy"] == (12, 0)
    assert found["loss"] == (12, 12 if factor == 2 else 0)


@needs_shared
def test_trees_and_ridge_from_statistics_of_the_sample(tmp_path: Path) -> None:
    """By the function of the command `benchmark`, as for any zoo."""
    import_zoo(SHARED / "data" / "foreign_zoos" / "small_cnn_zoo_mnist", tmp_path)
    result = predict_properties(
        "mnist_small_cnn", tmp_path, representations=["statistics"], boosting=True
    )
    assert {score.method for score in result.scores if score.target == "test_acc"} == {
        "ridge",
        "boosting",
    }
    assert sum(result.states.values()) + sum(result.left_out.values()) == 144
    best = max(s.r2["train"] for s in result.scores if s.target == "test_acc")
    assert 0 < best <= 1


@needs_shared
def test_the_sample_is_verified_and_another_padding_is_caught(tmp_path: Path) -> None:
    sample = SHARED / "data" / "foreign_zoos" / "small_cnn_zoo_mnist"
    assert all((sample / name).exists() for name in FILES)
    [report] = import_zoo(sample, tmp_path)
    assert (report.zoo, report.models, report.kept) == ("mnist_small_cnn", 16, 144)
    images = load_images("mnist/grey", SHARED / "data").subset(test=slice(500))
    audit = audit_zoo("mnist_small_cnn", tmp_path, images=images, states=None)
    assert audit.good
    assert audit.evaluated == 144
    path = tmp_path / "mnist_small_cnn" / "zoo.json"
    info = json.loads(path.read_text())
    info["zoo"]["architecture"] = "1x28x28 " + 3 * "conv16k3s2p1 " + "gap fc10"
    path.write_text(json.dumps(info))
    padded = audit_zoo("mnist_small_cnn", tmp_path, images=images, states=None)
    [accuracy] = [check for check in padded.checks if check.name == "accuracy"]
    assert accuracy.wrong > 50
