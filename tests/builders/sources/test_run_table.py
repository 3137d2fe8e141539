"""A folder of checkpoints with a table: 50 perceptrons of torch, and what can be wrong with it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from datasets import get_dataset_config_info, load_dataset, load_dataset_builder
from torch import nn
from typer.testing import CliRunner

import model_zoos
from model_zoos.benchmarks.audit import audit_zoo
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.overview import overview
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.report import Report
from model_zoos.builders.zoo_directory import SOURCE_COLUMNS, open_zoo
from model_zoos.cli import app
from model_zoos.errors import (
    FaultyZoo,
    InvalidArgument,
    ModelZoosWarning,
    SourceNotFound,
    Unreadable,
)
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.images.data import Images
from tests.builders.hub.folders import PUBLISH
from tests.hub_server import Client, Hub
from tests.shared import contents

TEXT = "1x28x28 fc8 fc10"
EPOCHS = (0, 4, 8)
TERMS = {"licence": "CC0 1.0", "cite": "nobody"}
IMAGES = {"architecture": TEXT, "images": "digits"}

Rows = list[dict[str, Any]]


def network(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), activation, nn.Linear(8, 10))


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits")


def save(path: Path, state: dict[str, torch.Tensor], number: int) -> Path:
    """Write a checkpoint in one of the forms that people have."""
    forms: list[tuple[str, Callable[[Path], object]]] = [
        (".pt", lambda p: torch.save(state, p)),
        (".pth", lambda p: torch.save({"epoch": 3, "state_dict": state, "lr": 0.1}, p)),
        (".pt", lambda p: torch.save({"model_state_dict": wrapped("module."), "best": True}, p)),
        (".pt", lambda p: torch.save({"model": wrapped("_orig_mod.module.")}, p)),
        (".safetensors", lambda p: safetensors.torch.save_file(state, p)),
        (".npz", lambda p: np.savez(p, **{k: v.numpy() for k, v in state.items()})),
        (".pt", lambda p: torch.save({k: v.double() for k, v in state.items()}, p)),
    ]

    def wrapped(prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + name: tensor for name, tensor in state.items()}

    suffix, write = forms[number % len(forms)]
    path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> tuple[Path, Rows]:
    """50 perceptrons at three epochs, and the rows of their table (never write to it)."""
    folder = tmp_path_factory.mktemp("runs")
    images, labels = digits.normalized("train")[:300], digits.train.labels[:300]
    test, test_labels = digits.normalized("test"), digits.test.labels
    rows: Rows = []
    for number in range(50):
        torch.manual_seed(number)
        name, module = (("relu", nn.ReLU()), ("tanh", nn.Tanh()))[number % 2]
        model, rate = network(module), 0.02 / (1 + number % 5)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for epoch in range(EPOCHS[-1] + 1):
            if epoch:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            if epoch in EPOCHS:
                with torch.no_grad():
                    logits = model(test)
                path = folder / "runs" / f"{number}" / f"epoch_{epoch}"
                rows.append(
                    {
                        "path": str(save(path, model.state_dict(), number).relative_to(folder)),
                        "model_id": f"run/{number}",
                        "epoch": epoch,
                        "test_acc": (logits.argmax(1) == test_labels).double().mean().item(),
                        "test_loss": nn.functional.cross_entropy(logits, test_labels).item(),
                        "activation": name,
                        "optimizer": "Adam",
                        "learning_rate": rate,
                        "seed": number,
                        "l2": 1e-4 * number,
                        "host": "" if number % 3 else "gpu-7",
                    }
                )
    return folder, rows


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    return path


def take(
    runs: tuple[Path, Rows], table: Path, change: Callable[[Rows], object], name: str = "own"
) -> Report:
    """Import the first two models with a changed table."""
    folder, rows = runs
    some = [dict(row) for row in rows[:6]]
    change(some)
    [report] = import_zoo(
        folder, table.parent / "zoos", name, table=write_csv(table, some), **IMAGES
    )
    return report


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, runs: tuple[Path, Rows]) -> Path:
    root = tmp_path_factory.mktemp("home")
    table = write_csv(root / "runs.csv", runs[1])
    [report] = import_zoo(runs[0], root, "perceptrons", table=table, **IMAGES, **TERMS)
    assert (report.models, report.found, report.kept, report.left_out) == (50, 150, 150, ())
    columns, ids = report.remarks
    assert columns == f"columns that no row has, kept in {SOURCE_COLUMNS} (2): l2, host"
    assert ids.startswith("the ids of 50 models are not their names: 'run/0' is run_0,sha=")
    return root


def test_every_row_is_torchs_network(
    home: Path, runs: tuple[Path, Rows], digits: ImageData
) -> None:
    images, labels = digits.normalized("test"), digits.test.labels
    splits = load_dataset("model_zoos", "perceptrons", data_dir=str(home))
    found = {(row["seed"], row["epoch"]): row for rows in splits.values() for row in rows}
    assert len(found) == 150
    assert {len(rows) for rows in splits.values()} == {105, 24, 21}
    for wanted in runs[1]:
        row = found[wanted["seed"], wanted["epoch"]]
        with torch.no_grad():
            logits = model_zoos.instantiate(row)(images)
        loss = nn.functional.cross_entropy(logits, labels).item()
        assert loss == pytest.approx(wanted["test_loss"], rel=1e-5)
        assert row["test_acc"] == pytest.approx(wanted["test_acc"])
        assert (row["activation"], row["optimizer"]) == (wanted["activation"], "adam")
        assert row["learning_rate"] == wanted["learning_rate"]
        assert row["train_loss"] is None


def test_it_verifies_benchmarks_and_builds(home: Path, digits: ImageData, tmp_path: Path) -> None:
    audit = audit_zoo("perceptrons", home, images=digits, states=None)
    assert audit.good, audit.tables()
    assert audit.evaluated == 150
    result = predict_properties("perceptrons", home, representations=["statistics"])
    assert {score.target for score in result.scores} >= {"test_acc", "epoch"}
    build_folder(["perceptrons"], home, tmp_path / "repository")
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "imported from checkpoints" in card
    assert "- `perceptrons`: licence: CC0 1.0; cite: nobody" in card
    states = [
        row
        for split in load_dataset(str(tmp_path / "repository"), "perceptrons").values()
        for row in split
    ]
    assert len(states) == 150


def test_it_is_published(home: Path, hub: Hub, writer: Client, tmp_path: Path) -> None:
    build_folder(["perceptrons"], home, tmp_path / "repository")
    folder = str(tmp_path / "repository")
    writer.run(PUBLISH, folder=folder, repo_id="me/perceptrons", arguments={})
    found = writer.run(
        "from datasets import load_dataset\n"
        "splits = load_dataset('me/perceptrons', 'perceptrons', streaming=True)\n"
        "result = {name: sum(1 for _ in rows) for name, rows in splits.items()}"
    )
    assert found == {"train": 105, "validation": 24, "test": 21}
    kept = hub.read("me/perceptrons", "sources/perceptrons.parquet")
    assert kept == (home / "perceptrons" / SOURCE_COLUMNS).read_bytes()


def test_the_licence_is_that_of_the_source(home: Path, digits_home: Path) -> None:
    config = get_dataset_config_info("model_zoos", "perceptrons", data_dir=str(home))
    assert config.license == TERMS["licence"]
    builder = load_dataset_builder("model_zoos", "mnist_cnn_s", data_dir=str(home))
    assert builder.info.license == "CC-BY-4.0"
    own = load_dataset_builder("model_zoos", "digits_cnn_s", data_dir=str(digits_home))
    assert own.info.license == ""


def test_other_columns_are_kept(home: Path, runs: tuple[Path, Rows]) -> None:
    table = pq.read_table(home / "perceptrons" / SOURCE_COLUMNS)
    assert table.column_names == ["model_id", "epoch", "l2", "host"]
    names = {f.model_id: f.original_name for f in open_zoo(home, "perceptrons").scan()[0]}
    kept = {(names[row["model_id"]], row["epoch"]): row for row in table.to_pylist()}
    for row in runs[1]:
        found = kept[row["model_id"], row["epoch"]]
        assert (found["l2"], found["host"]) == (str(row["l2"]), row["host"] or None)


def test_an_import_resumes_and_a_changed_table_is_another_source(
    home: Path, runs: tuple[Path, Rows], tmp_path: Path
) -> None:
    before = contents(home / "perceptrons")
    model = next((home / "perceptrons" / "models").iterdir())
    model.unlink()
    table = home / "runs.csv"
    [report] = import_zoo(runs[0], home, "perceptrons", table=table, **IMAGES, **TERMS)
    assert report.kept == 150
    assert contents(home / "perceptrons") == before
    other = write_csv(tmp_path / "other.csv", runs[1][:30])
    with pytest.raises(FaultyZoo, match="in another way: they differ in bytes, cite, licence"):
        import_zoo(runs[0], home, "perceptrons", table=other, **IMAGES)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_forms_of_tables_are_one(
    home: Path, runs: tuple[Path, Rows], tmp_path: Path, suffix: str
) -> None:
    folder, rows = runs
    renamed = [
        {("run" if k == "model_id" else "acc" if k == "test_acc" else k): v for k, v in row.items()}
        for row in reversed(rows)
    ]
    table = tmp_path / f"runs{suffix}"
    if suffix == ".jsonl":
        table.write_text("\n".join(json.dumps(row) for row in renamed))
    else:
        pq.write_table(pa.Table.from_pylist(renamed), table)
    rename = {"run": "model_id", "acc": "test_acc"}
    [report] = import_zoo(folder, tmp_path, "perceptrons", table=table, rename=rename, **IMAGES)
    assert report.kept == 150
    for path in (home / "perceptrons" / "models").iterdir():
        assert (tmp_path / "perceptrons" / "models" / path.name).read_bytes() == path.read_bytes()


def spoil(number: int, **values: object) -> Callable[[Rows], object]:
    return lambda rows: rows[number].update(values)


FAULTS: dict[str, tuple[Callable[[Rows], object], str]] = {
    "a missing file": (spoil(1, path="runs/none.pt"), r"missing file: there is no 'runs/none\.pt'"),
    "a folder": (spoil(1, path="runs"), "missing file"),
    "no path": (spoil(1, path=" "), "missing file: its path is empty"),
    "another network": (spoil(1, path="other.pt"), r"wrong shape: not a 1x28x28 fc8 fc10"),
    "a pickle that calls": (spoil(1, path="hostile.pt"), r"unreadable: .*'posix\.system'"),
    "objects in an array": (spoil(1, path="objects.npz"), "refused: .* holds object, not numbers"),
    "an infinite weight": (spoil(1, path="infinite.pt"), "NaN or infinite weights: 1 of 6370"),
    "a text": (spoil(1, path="notes.txt"), r"none of \.pt, "),
    "an empty file": (spoil(1, path="empty.pt"), "empty file"),
    "a path outside": (spoil(1, path="../secret.pt"), "refused: the path .* leaves the folder"),
    "an absolute path": (spoil(1, path="/etc/passwd"), "refused: the path"),
    "a link outside": (spoil(1, path="link.pt"), "refused: the path"),
    "an epoch twice": (spoil(1, epoch=0), r"repeated: another row is this epoch \(row 2\)"),
    "no epoch": (spoil(1, epoch="last"), "wrong epoch: epoch is 'last', no number"),
    "no model": (spoil(1, model_id=""), "wrong model_id: it is empty"),
    "an accuracy that is NaN": (spoil(1, test_acc="nan"), "wrong metrics: test_acc is nan"),
    "a loss that is NaN": (spoil(1, test_loss="NaN"), "wrong metrics: test_loss is nan"),
    "percents": (spoil(1, test_acc=97.5), "wrong metrics: test_acc is 97.5, not a share of 1"),
    "a word": (spoil(1, test_loss="low"), "wrong metrics: test_loss is 'low', no number"),
    "an activation": (
        spoil(1, activation="swash"),
        "wrong hyperparameters: activation is 'swash', not one of tanh, relu, sigmoid,",
    ),
    "a rate": (
        spoil(1, learning_rate=-1),
        "wrong hyperparameters: learning_rate is -1.0, not a finite number >= 0",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_its_row(name: str, runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder = runs[0]
    if not (folder / "other.pt").exists():

        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, ("touch hacked",)

        state = network(nn.ReLU()).state_dict()
        torch.save(nn.Linear(784, 9).state_dict(), folder / "other.pt")
        torch.save({"model": Evil()}, folder / "hostile.pt")
        np.savez(folder / "objects.npz", a=np.array([{}], object))
        torch.save({**state, "3.bias": torch.full((10,), 1e30).double() ** 9}, folder / "inf.pt")
        state["3.bias"][0] = float("inf")
        torch.save(state, folder / "infinite.pt")
        (folder / "notes.txt").write_text("none")
        (folder / "empty.pt").touch()
        torch.save(state, folder.parent / "secret.pt")
        (folder / "link.pt").symlink_to(folder.parent / "secret.pt")
    change, message = FAULTS[name]
    report = take(runs, tmp_path / "runs.csv", change)
    assert (report.found, report.kept, report.models) == (6, 5, 2)
    [entry] = report.left_out
    with pytest.raises(Unreadable, match=message):
        raise Unreadable(entry.reason)
    assert not Path("hacked").exists()


def test_hyperparameters_of_a_model(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """Empty cells are not known; a value that changes is that of the first epoch."""

    def change(rows: Rows) -> None:
        rows[0]["learning_rate"], rows[1]["activation"] = 0.5, ""
        rows[3]["seed"] = rows[4]["seed"] = rows[5]["seed"] = ""
        rows[2]["test_loss"] = ""

    report = take(runs, tmp_path / "runs.csv", change)
    assert report.kept == 6
    assert "learning_rate changes within 1 models" in report.remarks[1]
    first, second = open_zoo(tmp_path / "zoos", "own").scan()[0]
    assert (first.hyperparameters["learning_rate"], first.hyperparameters["seed"]) == (0.5, 0)
    assert (second.hyperparameters["seed"], first.hyperparameters["activation"]) == (None, "relu")
    assert np.ma.getmaskarray(first.metrics["test_loss"]).tolist() == [False, False, True]


def test_constants_and_a_named_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "runs"
    rows = []
    for number in range(3):
        zoo = model_zoos.zoo_spec("digits_cnn_s")
        vector = torch.randn(zoo.layout.size)
        path = save(folder / f"{number}", zoo.layout.to_state_dict(vector), number + 3)
        rows.append({"path": path.name, "model_id": number, "epoch": 7, "weights": vector})
    table = write_csv(
        folder / "runs.csv", [{k: v for k, v in row.items() if k != "weights"} for row in rows]
    )
    constants = {"activation": "GELU", "init": "normal(std=0.1)"}
    of_table = partial(import_zoo, folder, tmp_path, table=table.name, architecture="cnn_s")
    of_table(constants=constants)
    with pytest.raises(FaultyZoo, match=r"runs, in another way: they differ in activation\."):
        of_table(constants={**constants, "activation": "relu"})
    for file, row in zip(open_zoo(tmp_path, "runs").scan()[0], rows, strict=True):
        assert file.weights()[0].tolist() == row["weights"].tolist()
        assert file.hyperparameters["activation"] == "gelu"
        assert file.hyperparameters["init"] == "normal(std=0.1)"
    assert open_zoo(tmp_path, "runs").zoo.channels == 1


def test_a_constant_beside_a_column_is_remarked(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder, rows = runs
    table = write_csv(tmp_path / "runs.csv", [row for row in rows if row["seed"] < 4])
    [report] = import_zoo(
        folder,
        tmp_path,
        "constants",
        table=table,
        architecture=TEXT,
        images="digits",
        constants={"activation": "tanh", "optimizer": "adam"},
    )
    assert (
        "the constant activation has no effect on 2 models, whose activation the table has"
    ) in report.remarks
    assert not any("constant optimizer" in remark for remark in report.remarks)
    names = {
        file.hyperparameters["activation"] for file in open_zoo(tmp_path, "constants").scan()[0]
    }
    assert names == {"relu", "tanh"}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "the images that the models saw are not named"),
        ("minst", "no image data set 'minst' is known, .* did you mean mnist"),
        (
            "celeba",
            "no image data set 'celeba' is known, .* known: mnist, .*your own is folder/celeba$",
        ),
    ],
)
def test_images_that_nothing_can_be_verified_with_are_warned_of(
    runs: tuple[Path, Rows], tmp_path: Path, images: str | None, said: str
) -> None:
    folder, rows = runs
    arguments = {"table": write_csv(tmp_path / "runs.csv", rows[:3]), "architecture": TEXT}
    with pytest.warns(ModelZoosWarning, match=said) as caught:
        import_zoo(folder, tmp_path, "some", images=images, **arguments)
    assert caught[0].message.hint == "--images NAME"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelZoosWarning)
        for number, known in enumerate(("digits", "fashion-mnist", "folder/mine", "cifar10/grey")):
            import_zoo(folder, tmp_path, f"known_{number}", images=known, **arguments)


def test_a_folder_of_images_names_the_image_data_set(
    runs: tuple[Path, Rows], tmp_path: Path
) -> None:
    folder, rows = runs
    arguments = {
        "table": write_csv(tmp_path / "runs.csv", rows[:3]),
        "architecture": TEXT,
        "images": "folder/lab/counting",
    }
    import_zoo(folder, tmp_path, "own", **arguments)
    zoo = open_zoo(tmp_path, "own").zoo
    assert (zoo.image_dataset, zoo.images) == ("counting", "folder/lab/counting")
    # An import that an earlier version began, which called all such folders "folder".
    info = tmp_path / "own" / "zoo.json"
    info.write_text(info.read_text().replace('"counting"', '"folder"'))
    import_zoo(folder, tmp_path, "own", **arguments)
    assert open_zoo(tmp_path, "own").zoo.image_dataset == "folder"


def test_the_command_ends_with_an_error_if_nothing_is_kept(
    runs: tuple[Path, Rows], tmp_path: Path
) -> None:
    folder, rows = runs
    table = write_csv(tmp_path / "t.csv", rows[:2])
    given = ["import", str(folder), "--table", str(table), "--zoo", "own", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*given, "--architecture", "1x28x28 fc9 fc10"])
    assert "own: 0 models into" in done.stdout
    assert isinstance(done.exception, InvalidArgument)
    assert str(done.exception).startswith(f"no state of {folder} could be imported; the first: wr")
    table.write_text("file,model,step\n1,1,1\n")
    unnamed = CliRunner().invoke(app, [*given, "--architecture", TEXT])
    assert isinstance(unnamed.exception, Unreadable)
    assert unnamed.exception.hint == (
        "--rename THEIRS=path --rename THEIRS=model_id --rename THEIRS=epoch"
    )


def test_processes_give_the_same_zoo(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder, rows = runs
    table = write_csv(tmp_path / "t.csv", [*rows[4:], {**rows[3], "path": "missing.pt"}])
    files, reports = [], []
    for workers in (1, 2):
        root = tmp_path / str(workers)
        options: Any = {"architecture": TEXT, "images": "digits", "workers": workers}
        [report] = import_zoo(folder, root, "own", table=table, **options)
        zoo = open_zoo(root, "own")
        files.append({path.name: path.read_bytes() for path in zoo.files()})
        reports.append((report.kept, [state.reason for state in report.left_out]))
    assert reports[0] == reports[1]
    assert files[0] == files[1]
    assert len(files[0]) == 49


def test_tensors_that_are_sorted_by_name(tmp_path: Path) -> None:
    """Modules of one shape go by the numbers in their names, and not by words."""
    text = "1x2x2 fc4 fc4 fc4 fc2"
    layout = model_zoos.builders.layout.make_layout(text, 1, 2)
    vector = torch.arange(float(layout.size))
    ours = layout.to_state_dict(vector)
    good = [
        ["net.2", "net.4", "net.10", "head"],
        ["a0.fc", "a1.fc", "a11.fc", "z"],
        ["model.fc1", "model.fc2", "model.fc3", "model.fc4"],
    ]
    for number, names in enumerate([*good, ["first", "middle", "last", "head"]]):
        layers = dict(zip(("fc1", "fc2", "fc3", "fc4"), names, strict=True))
        state = {
            f"{layers[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor.clone()
            for name, tensor in ours.items()
        }
        folder = tmp_path / f"z{number}"
        folder.mkdir()
        safetensors.torch.save_file(state, folder / "a.safetensors")
        table = write_csv(folder / "t.csv", [{"path": "a.safetensors", "model_id": 1, "epoch": 1}])
        [report] = import_zoo(folder, tmp_path, table=table, architecture=text)
        if number < len(good):
            [file] = open_zoo(tmp_path, folder.name).scan()[0]
            assert file.weights()[0].tolist() == vector.tolist()
        else:
            assert "cannot be told" in report.left_out[0].reason


@pytest.mark.parametrize("order", ["of layers", "of an alphabet", "of no rule"])
def test_layers_of_one_shape_are_not_taken_in_the_order_of_an_alphabet(
    tmp_path: Path, order: str
) -> None:
    """An alphabet has layer 10 before layer 2. A file that is sorted by no rule is taken as it
    is."""
    layers = 12
    text = f"1x2x2 {'fc4 ' * layers}fc2"
    layout = model_zoos.builders.layout.make_layout(text, 1, 2)
    vector = torch.arange(float(layout.size))
    ours = layout.to_state_dict(vector)
    names = [f"net.{number}" for number in range(layers)] + ["out"]
    if order == "of no rule":
        names[:layers] = names[layers - 1 :: -1]
    state = {
        f"{names[int(name.partition('.')[0][2:]) - 1]}.{name.partition('.')[2]}": tensor
        for name, tensor in ours.items()
    }
    if order == "of an alphabet":  # each weight before its bias, as some programs write them
        state = dict(sorted(state.items(), key=lambda item: item[0].replace(".bias", ".x")))
    folder = tmp_path / "own"
    folder.mkdir()
    np.savez(folder / "a.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    table = write_csv(folder / "t.csv", [{"path": "a.npz", "model_id": 1, "epoch": 1}])
    [report] = import_zoo(folder, tmp_path / "zoos", table=table, architecture=text)
    assert report.kept == 1
    [file] = open_zoo(tmp_path / "zoos", "own").scan()[0]
    assert file.weights()[0].tolist() == vector.tolist()


BAD_TABLES: dict[str, tuple[str, str]] = {
    "no path": ("model_id,epoch\n1,1\n", "has no column path; it has model_id, epoch"),
    "spaces": ("path model_id epoch\na 1 1\n", "has no column path and no model_id"),
    "a name twice": ("path,model_id,epoch,epoch\na,1,1,1\n", "two columns .* 'epoch'"),
    "nothing": ("", "no row that can be read"),
    "no rows": ("path,model_id,epoch\n", "no row that can be read: it is empty"),
    "a line of its own": (
        "# runs\npath,model_id,epoch\n", "can be read: malformed: 3 values, expected 1"),
    "a million columns": (
        "path,model_id,epoch," + ",".join(map(str, range(10**6))) + "\n",
        "more than 1,000 columns",
    ),
    "a huge name": ("path,model_id,epoch," + "x" * (1 << 20) + "\n", "unreadable"),
    "too many cells": ("path,model_id,epoch" + ",".join(map(str, range(900))) + "\n" + (
        "," * 899 + "\n") * 6000, "more than 5,000,000 cells"),
    "another encoding": ("path,model_id,epoch\n\udcff,1,1\n", "not in UTF-8: save it as UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused(name: str, runs: tuple[Path, Rows], tmp_path: Path) -> None:
    content, message = BAD_TABLES[name]
    table = tmp_path / "runs.csv"
    table.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(Unreadable, match=message):
        import_zoo(runs[0], tmp_path, "own", table=table, **IMAGES)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(("sign", "suffix"), [(";", ".csv"), ("\t", ".csv"), ("\t", ".tsv")])
def test_cells_may_be_separated_by_other_signs(
    runs: tuple[Path, Rows], tmp_path: Path, sign: str, suffix: str
) -> None:
    folder, rows = runs
    plain = write_csv(tmp_path / "plain.csv", rows[:6])
    other = tmp_path / f"other{suffix}"
    other.write_text(plain.read_text().replace(",", sign))
    for name, table in (("plain", plain), ("other", other)):
        [report] = import_zoo(folder, tmp_path, name, table=table, **IMAGES)
        assert (report.kept, report.left_out) == (6, ())
    files = [contents(tmp_path / name / "models") for name in ("plain", "other")]
    assert {n: c.replace(b"other", b"plain") for n, c in files[1].items()} == files[0]


def test_values_as_trackers_write_them(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """Seeds of 63 bits, None and nan for no value, a mean of float32 above 1."""

    def change(some: Rows) -> None:
        for row in some:
            row |= {"scheduler": "None", "weight_decay": "nan", "seed": 2**62 + 1}
        some[0]["test_acc"] = 1.0000001192092896
        some[1]["test_acc"] = 1.01

    report = take(runs, tmp_path / "runs.csv", change)
    assert report.kept == 5
    [left_out] = report.left_out
    assert "test_acc is 1.01, not a share of 1" in left_out.reason
    directory = open_zoo(tmp_path / "zoos", "own")
    files, _ = directory.scan()
    for file in files:
        found = file.hyperparameters
        assert (found["scheduler"], found["weight_decay"], found["seed"]) == (None, None, 2**62 + 1)
    assert max(file.metrics["test_acc"].max() for file in files) == 1


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("optimizer", "torch.optim.SGD", "sgd"),
        ("optimizer", "AdamW", "adamw"),
        ("activation", "nn.ReLU()", "relu"),
        ("activation", "leaky-relu", "leaky_relu"),
        ("activation", "torch.nn.SiLU", "silu"),
        ("activation", "swish", "silu"),
        ("init", "nn.init.kaiming_normal_", "kaiming_normal"),
        ("init", "glorot_uniform", "xavier_uniform"),
        ("init", "normal(std=0.1)", "normal(std=0.1)"),
        ("optimizer", "lion", None),
        ("init", "my_init(3.5)", None),
    ],
)
def test_words_of_other_libraries(
    runs: tuple[Path, Rows], tmp_path: Path, name: str, theirs: str, ours: str | None
) -> None:
    report = take(
        runs, tmp_path / "runs.csv", lambda some: [row.update({name: theirs}) for row in some]
    )
    assert (report.kept, report.left_out) == (6, ())
    directory = open_zoo(tmp_path / "zoos", "own")
    assert {file.hyperparameters[name] for file in directory.scan()[0]} == {ours}
    remarks = [remark for remark in report.remarks if f"{name} is null" in remark]
    assert remarks == (
        []
        if ours
        else [f"{name} is null where it is none of ours ({theirs!r}); {SOURCE_COLUMNS} has it"]
    )
    if ours is None:
        kept = pq.read_table(directory.path / SOURCE_COLUMNS)
        assert kept[name].to_pylist() == [theirs] * 6


def test_splits_that_name_some_models(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder, rows = runs
    table = write_csv(tmp_path / "runs.csv", rows[:12])
    (tmp_path / "splits.csv").write_text("model_id,split\n run/0 , test\nrun/77,train\n")
    [report] = import_zoo(
        folder, tmp_path, "own", table=table, splits=tmp_path / "splits.csv", **IMAGES
    )
    names = [remark for remark in report.remarks if "splits.csv" in remark]
    assert names == [
        "splits.csv does not name 3 of 4 models, which were assigned 70/15/15",
        "splits.csv names 1 unknown model: run/77",
    ]
    splits = open_zoo(tmp_path, "own").splits()
    assert [split for model, split in splits.items() if model.startswith("run_0")] == ["test"]


def test_other_terms_for_the_same_files(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    table = write_csv(tmp_path / "runs.csv", runs[1][:3])
    given = {"table": table, **IMAGES}
    import_zoo(runs[0], tmp_path, "own", licence="CC0 1.0", **given)
    import_zoo(runs[0], tmp_path, "own", **given)
    with pytest.raises(FaultyZoo, match=r"has another licence, 'CC0 1\.0': change it"):
        import_zoo(runs[0], tmp_path, "own", licence="CC BY 4.0", **given)


def test_a_folder_whose_name_no_zoo_can_have(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    table = write_csv(tmp_path / "runs.csv", runs[1][:3])
    (tmp_path / "ä").mkdir()
    with pytest.raises(InvalidArgument, match="cannot be a zoo's name") as raised:
        import_zoo(tmp_path / "ä", tmp_path, table=table, **IMAGES)
    assert raised.value.hint == "--zoo NAME"


def test_malformed_rows_cost_themselves(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder, rows = runs
    table = write_csv(tmp_path / "runs.csv", [dict(row) for row in rows[:3]])
    table.write_text(table.read_text() + "a,b\n" + f"{'y' * 200_000},1,1,,,,,,,,\n")
    [report] = import_zoo(folder, tmp_path, "own", table=table, **IMAGES)
    assert report.kept == 3
    assert [entry.reason for entry in report.left_out] == [
        "malformed: 2 values, expected 11 (row 4)",
        "malformed: field larger than field limit (131072) (row 5)",
    ]
    lines = [json.dumps(row) for row in rows[:3]]
    nested = json.dumps({**rows[3], "config": {"depth": 2}})
    table = tmp_path / "runs.jsonl"
    table.write_text("\n".join([*lines, "[1]", "{", "", nested, "[" * 100_000]))
    [report] = import_zoo(folder, tmp_path, "two", table=table, **IMAGES)
    assert (report.kept, len(report.left_out)) == (4, 3)
    others = pq.read_table(tmp_path / "two" / SOURCE_COLUMNS)
    assert others["config.depth"].drop_null().to_pylist() == ["2"]


def test_columns_of_other_types(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """As pandas and polars write them: large texts, whole floats, times, nested columns."""
    folder, rows = runs
    times = pa.array([datetime(2020, 1, number + 1) for number in range(3)])
    table = pa.table(
        {
            "path": pa.array([row["path"] for row in rows[:3]], pa.large_string()),
            "model_id": [7.0] * 3,
            "epoch": [0.0, 4.0, 8.0],
            "val_loss": pa.array([None, 1.5, 2.5]),
            "at": times,
            "best": [True, False, None],
            "config": [{"depth": 2}] * 3,
        }
    )
    path = tmp_path / "runs.parquet"
    pq.write_table(table, path)
    [report] = import_zoo(folder, tmp_path, "own", table=path, **IMAGES)
    assert (report.kept, report.left_out) == (3, ())
    assert report.remarks == (
        f"columns that no row has, kept in {SOURCE_COLUMNS} (2): at, best",
        "nested columns that are not kept (1): config",
        "no column and no constant is the activation, so that nothing can be verified: "
        "--constant activation=NAME (constants=) gives it",
    )
    kept = pq.read_table(tmp_path / "own" / SOURCE_COLUMNS).to_pylist()
    assert [row["best"] for row in kept] == ["true", "false", None]
    assert kept[2] == {"model_id": "7", "epoch": 8, "at": "2020-01-03 00:00:00", "best": None}


def test_a_parquet_bomb_is_refused(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """A long text that a dictionary repeats takes few bytes in the file."""
    table = tmp_path / "runs.parquet"
    long = pa.array(["x" * 5_000_000]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), long.dictionary)
    ids = pa.array(["1"] * 20_000)
    named = {"path": ids, "model_id": ids, "epoch": pa.array(range(20_000)), "note": column}
    pq.write_table(pa.table(named), table, compression="zstd")
    assert table.stat().st_size < 2_000_000
    with pytest.raises(Unreadable, match="a cell has more than"):
        import_zoo(runs[0], tmp_path, "own", table=table, **IMAGES)


@pytest.mark.parametrize("above", [(97.5, 98.1), (97.5, 98.1, 55.0, 11.0)])
def test_a_column_of_percents_is_refused(
    runs: tuple[Path, Rows], tmp_path: Path, above: tuple[float, ...]
) -> None:
    """The accuracy .9 % of a diverged model would be taken for 90 %.

    It is this column that is named, though another one has a fault in the same rows.
    """

    def change(rows: Rows) -> None:
        for number, row in enumerate(rows):
            row["test_acc"] = above[number] if number < len(above) else 0.9
            row["train_acc"] = 1.2 if number == 0 else 0.5
            row["learning_rate"] = -1

    with pytest.raises(Unreadable, match=rf"test_acc is above 1 in {len(above)} of 6 rows; .*perc"):
        take(runs, tmp_path / "runs.csv", change)
    assert not (tmp_path / "zoos" / "own").exists()


def split_rows(rows: Rows, **changes: object) -> None:
    """Add for each row a second one with train_acc in place of the test metrics, as loggers do."""
    for row in [*rows]:
        rows.append({**row, "test_acc": "", "test_loss": "", "train_acc": 0.5, **changes})
        row["train_acc"] = ""


def test_rows_with_different_metrics_of_one_state_are_joined(
    runs: tuple[Path, Rows], tmp_path: Path
) -> None:
    """Equal values may stand in both, and columns that no row has may differ. Rows without any
    metric, which loggers write for steps, add nothing, wherever they stand."""

    def change(rows: Rows) -> None:
        for row in rows:
            row |= {"step": 49, "val_loss": 0.25}
        split_rows(rows, seed="", step=99)
        for row in rows[6:]:
            row["path"] = f"./{row['path']}"
        rows[6]["path"] = str(runs[0] / str(rows[0]["path"]))
        nothing = dict.fromkeys(("test_acc", "test_loss", "train_acc", "val_loss"), "")
        rows.insert(0, {**rows[0], **nothing, "step": ""})
        rows.append({**rows[1], **nothing, "step": ""})

    report = take(runs, tmp_path / "runs.csv", change)
    assert (report.found, report.kept, report.left_out) == (6, 6, ())
    assert "8 rows joined with another row of the same state" in report.remarks
    directory = open_zoo(tmp_path / "zoos", "own")
    expected = {(row["model_id"], row["epoch"]): row for row in runs[1][:6]}
    for file in directory.scan()[0]:
        assert file.metrics["train_acc"].tolist() == [0.5] * 3
        assert file.metrics["val_loss"].tolist() == [0.25] * 3
        for number, epoch in enumerate(file.epochs.tolist()):
            row = expected[file.original_name or file.model_id, epoch]
            assert file.metrics["test_acc"][number] == pytest.approx(row["test_acc"])
            assert file.hyperparameters["seed"] == row["seed"]
    others = pq.read_table(directory.path / SOURCE_COLUMNS)
    assert others["step"].to_pylist() == ["49; 99"] * 6


@pytest.mark.parametrize(
    "contradiction",
    [
        {"learning_rate": 0.7},
        {"activation": "selu"},
        {"optimizer": "lion"},
        {"path": "runs/0/none.pt"},
        {"test_acc": 0.25},
        {"test_acc": 0.25, "train_acc": ""},
    ],
)
def test_rows_that_contradict_each_other_are_not_joined(
    runs: tuple[Path, Rows], tmp_path: Path, contradiction: dict[str, object]
) -> None:
    report = take(runs, tmp_path / "runs.csv", lambda rows: split_rows(rows, **contradiction))
    assert (report.found, report.kept) == (12, 6)
    assert {entry.reason for entry in report.left_out} == {
        f"repeated: another row is this epoch (row {row})" for row in range(7, 13)
    }


def test_epochs_with_one_file_are_left_out(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """Also if one of them has another fault, or the path is written in another way. What such rows
    say of the model stays."""

    def change(rows: Rows) -> None:
        rows[0]["path"], rows[0]["test_acc"] = str(runs[0] / str(rows[1]["path"])), "nan"
        for row in rows[:3]:
            row["seed"] = 5 if row is rows[1] else ""
        for row in rows[3:]:
            row["path"] = "./" * row["epoch"] + rows[3]["path"]

    report = take(runs, tmp_path / "runs.csv", change)
    assert (report.found, report.kept, report.models) == (6, 1, 1)
    reasons = {entry.epoch: entry.reason for entry in report.left_out if "(row 2)" in entry.reason}
    assert reasons[EPOCHS[1]].startswith(f"ambiguous: {runs[1][1]['path']!r} is the file of 2 ep")
    assert sum("is the file of 3 epochs" in entry.reason for entry in report.left_out) == 3
    [file] = open_zoo(tmp_path / "zoos", "own").scan()[0]
    assert file.hyperparameters["seed"] == 5


def test_a_file_of_several_models_is_theirs(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """Models may begin with the same weights."""
    report = take(runs, tmp_path / "runs.csv", lambda rows: rows[3].update(path=rows[0]["path"]))
    assert report.kept == 6
    path, models = runs[1][0]["path"], [runs[1][row]["model_id"] for row in (0, 3)]
    assert f"1 checkpoint of several models: {path} belongs to {models[0]}, {models[1]}" in (
        report.remarks
    )


def test_names_that_resemble_ours_are_suggested(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """Also in nested objects of JSON lines, whose names are joined by dots."""
    folder, rows = runs
    lines = []
    for row in rows[:3]:
        rate = row["learning_rate"]
        line = {
            k: v for k, v in row.items() if k not in ("test_acc", "learning_rate", "activation")
        }
        line |= {
            "test/accuracy": row["test_acc"],
            "model_id": "a b",
            "wd": "1e-3 cosine",
            "val.loss": 1.5,
        }
        lines.append({**line, "config": {"lr": rate, "net": {"act": "relu"}}})
    table = tmp_path / "runs.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    [report] = import_zoo(folder, tmp_path, "one", table=table, **IMAGES)
    remarks = "\n".join(report.remarks)
    options = {
        "config.lr": "learning_rate",
        "config.net.act": "activation",
        "test/accuracy": "test_acc",
        "val.loss": "val_loss",
    }  # "wd" is no number, so that it cannot be weight_decay
    for theirs, ours in options.items():
        assert f"--rename {theirs}={ours}" in remarks
    assert remarks.count("--rename") == len(options)
    assert "the ids of 1 model are not their names: 'a b' is a_b,sha=" in remarks
    [report] = import_zoo(folder, tmp_path, "two", table=table, rename=options, **IMAGES)
    [file] = open_zoo(tmp_path, "two").scan()[0]
    assert file.hyperparameters["learning_rate"] == rows[0]["learning_rate"]
    assert file.metrics["test_acc"].tolist() == [row["test_acc"] for row in rows[:3]]
    assert not any("--rename" in remark for remark in report.remarks)


def test_metrics_that_some_states_lack(
    runs: tuple[Path, Rows], tmp_path: Path, digits: ImageData
) -> None:
    """The overview counts what there is; an audit that can compare nothing is not good."""
    report = take(runs, tmp_path / "runs.csv", lambda rows: rows[2].update(test_acc=""))
    assert report.kept == 6
    home = tmp_path / "zoos"
    [found] = overview("own", home)
    assert found.accuracies is not None
    assert found.accuracies == pytest.approx([runs[1][5]["test_acc"]] * len(found.accuracies))
    take(
        runs,
        tmp_path / "runs.csv",
        lambda rows: [row.update(test_acc="", test_loss="") for row in rows],
        name="none",
    )
    [found] = overview("none", home)
    assert found.accuracies is None
    audit = audit_zoo("none", home, images=digits)
    assert (audit.evaluated, audit.verdict) == (6, "not compared")
    assert "no evaluated state has a recorded accuracy" in next(
        c.note for c in audit.checks if c.name == "accuracy"
    )


def test_images_of_another_size(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    report = take(runs, tmp_path / "runs.csv", lambda rows: None)
    assert report.kept == 6
    small = load_images("digits")
    cut = [Images(part.pixels[..., 4:, 4:], part.labels) for part in (small.train, small.test)]
    other = dataclasses.replace(small, train=cut[0], validation=None, test=cut[1])
    audit = audit_zoo("own", tmp_path / "zoos", images=other)
    assert audit.verdict == "not compared"
    [note] = [check.note for check in audit.checks if check.name == "accuracy"]
    assert "the models take images [1, 28, 28], digits has [1, 24, 24]" in note


def test_tensors_that_lack_or_are_too_many(tmp_path: Path) -> None:
    state = network(nn.ReLU()).state_dict()
    torch.save({**state, "4.running_mean": torch.zeros(8)}, tmp_path / "more.pt")
    del state["3.bias"]
    torch.save(state, tmp_path / "less.pt")
    torch.save(network(nn.ReLU()).state_dict(), tmp_path / "whole.pt")
    rows = [
        {"path": f"{name}.pt", "model_id": name, "epoch": 1} for name in ("whole", "more", "less")
    ]
    table = write_csv(tmp_path / "t.csv", rows)
    [report] = import_zoo(tmp_path, tmp_path / "zoos", "own", table=table, **IMAGES)
    reasons = {entry.trial: entry.reason for entry in report.left_out}
    assert "): it lacks tensors of the shapes (10,)" in reasons["less"]
    assert "it has besides 4.running_mean (8,)" in reasons["more"]


def test_a_renamed_column_beside_one_of_that_name(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    """In JSON lines, only some rows may have both."""
    folder, rows = runs
    lines: Rows = [{**row, "step": row["epoch"], "epoch": 77} for row in rows[:3]]
    lines[0]["epoch_in_table"] = "own"
    del lines[1]["step"]
    lines[1]["epoch"] = rows[1]["epoch"]
    table = tmp_path / "runs.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    [report] = import_zoo(
        folder,
        tmp_path,
        "own",
        table=table,
        rename={"step": "epoch"},
        constants={"scheduler": "cosine"},
        **IMAGES,
    )
    assert report.kept == 3
    others = pq.read_table(tmp_path / "own" / SOURCE_COLUMNS).sort_by("epoch").to_pydict()
    assert others["epoch"] == list(EPOCHS)
    assert others["epoch_in_table"] == ["own", None, "77"]
    assert others["epoch_in_table_"] == ["77", None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": None}, "needs the architecture"),
        ({"architecture": "1x28x28 fc8 fc"}, "fc"),
        ({"architecture": "resnet9"}, "unknown architecture"),
        ({"rename": {"acc": "accuracy"}}, "cannot be renamed to 'accuracy'"),
        ({"rename": {"acc": "test_acc"}}, "has no column 'acc'"),
        ({"rename": {"a": "seed", "b": "seed"}}, "2 columns are renamed to seed"),
        ({"constants": {"activation": "swash"}}, "activation is 'swash'"),
        ({"constants": {"l2": "1"}}, "constant cannot be 'l2'"),
        ({"name": "mnist_cnn_s"}, "a zoo of the catalog"),
        ({"table": None}, "is for a folder of checkpoints"),
    ],
)
def test_arguments_are_checked(
    runs: tuple[Path, Rows], tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    table = write_csv(tmp_path / "runs.csv", runs[1][:3])
    given = {"root": tmp_path, "name": "own", "table": table, **IMAGES, **arguments}
    with pytest.raises(InvalidArgument, match=message):
        import_zoo(runs[0], **given)
    with pytest.raises(SourceNotFound, match="no such table"):
        import_zoo(runs[0], tmp_path, table="none.csv", architecture=TEXT)


def test_a_table_without_a_metric_says_so(runs: tuple[Path, Rows], tmp_path: Path) -> None:
    folder, rows = runs
    table = pa.Table.from_pylist(
        [{k: row[k] for k in ("path", "model_id", "epoch")} for row in rows]
    )
    pq.write_table(table, tmp_path / "runs.parquet")
    [report] = import_zoo(folder, tmp_path, "own", table=tmp_path / "runs.parquet", **IMAGES)
    assert any("--rename THEIRS=test_acc" in remark for remark in report.remarks)
