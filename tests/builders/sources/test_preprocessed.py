"""Preprocessed data sets: the published rows and splits, without the original's class."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_zoos.builders.sources.identify import zoo_of_file
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, Unreadable
from tests.builders.sources.raw import RAW, one_set, state_dict, write_datasets
from tests.builders.sources.test_checkpoint import mutate
from tests.shared import SEED_ZOO, contents, needs_shared

FILE = RAW / "reference" / "dataset_mnist_kaiming_uniform.pt"
NAME = "mnist_cnn_s_seed"  # the file does not say the hyperparameters that a zoo of its own needs


@needs_shared
def test_rows_and_split_are_the_published(tmp_path: Path) -> None:
    """Beside the reference's `sorted` (the file was made with sorted trial folders)."""
    for _ in range(2):
        [report] = import_zoo(FILE, tmp_path, NAME)
        assert (report.models, report.found, report.kept, report.left_out) == (12, 36, 36, ())
    reference = RAW / "reference" / SEED_ZOO
    expected = json.loads(reference.with_suffix(".json").read_text())["sorted"]
    arrays = np.load(reference.with_suffix(".npz"))
    data = load_dataset("model_zoos", NAME, data_dir=str(tmp_path))
    for ours, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        part = expected[theirs]
        rows = {(row["model_id"], row["epoch"]): row for row in data[ours]}
        keys = list(zip(part["row_paths"], part["row_epochs"], strict=True))
        assert len(keys) == len(rows) == part["rows"]
        weights = np.array([rows[key]["weights"] for key in keys], np.float32)
        assert weights.tobytes() == arrays[f"sorted_{theirs}_weights"].tobytes()
        accuracy = np.float32(part["properties"]["test_acc"])
        assert [rows[key]["test_acc"] for key in keys] == accuracy.tolist()
        gaps = [rows[key]["generalization_gap"] for key in keys]
        assert np.allclose(gaps, part["properties"]["ggap"], atol=1e-7, rtol=0)
        assert {row["activation"] for row in rows.values()} == {None}


@needs_shared
def test_a_zoo_that_it_does_not_describe_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"does not say the activation, .* give it the") as error:
        import_zoo(FILE, tmp_path)
    assert error.value.hint == "--zoo NAME"
    import_zoo(FILE, tmp_path, NAME)
    with pytest.raises(FaultyZoo, match="which is another source than"):
        import_zoo(RAW / f"{SEED_ZOO}.zip", tmp_path, NAME)


@pytest.mark.parametrize(
    ("file", "zoo"),
    [
        ("dataset_mnist_seed.pt", "mnist_cnn_s_seed"),
        ("dataset_mnist_hyp_rand.pt", "mnist_cnn_s_hyp_10_r"),
        ("dataset_mnist_hyp_fix.pt", "mnist_cnn_s_hyp_10_f"),
        ("dataset_cifar_small_hyp_rand.pt", "cifar10_cnn_s_hyp_10_r"),
        ("dataset_cifar_large_seed.pt", "cifar10_cnn_l_seed"),
        ("dataset_fmnist_seed.pt", "fashion_mnist_cnn_s_seed"),
        ("index_dict_mnist.json", None),
        ("tune_zoo_mnist_uniform.zip", None),
    ],
)
def test_names_of_files(file: str, zoo: str | None) -> None:
    assert zoo_of_file(file) == zoo


def test_mode_vector_and_hyperparameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = one_set(["a", "b"], [1, 2]), one_set(["c"], [1, 2])
    train["data_in"][1, 5] = float("nan")
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train, testset=test)
    [report] = import_zoo(path, tmp_path)
    assert (report.zoo, report.found, report.kept) == (NAME, 6, 5)
    assert [(s.trial, s.epoch, s.reason) for s in report.left_out] == [
        ("a", 2, "NaN or infinite weights: 1 of 2464")
    ]
    directory = open_zoo(tmp_path, NAME)
    assert directory.splits() == {"a": "train", "b": "train", "c": "test"}
    a, b, c = directory.scan()[0]
    assert a.weights().tobytes() == train["data_in"][:1].numpy().tobytes()
    assert b.weights().tobytes() == train["data_in"][2:].numpy().tobytes()
    assert c.weights().tobytes() == test["data_in"].numpy().tobytes()
    assert a.hyperparameters["learning_rate"] == 3e-4
    assert a.hyperparameters["seed"] == 1
    assert c.metrics["train_acc"].tolist() == [0.75, 0.75]


def test_metrics_of_another_epoch_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's offset of one: its properties can be those of the next epoch."""
    train = one_set(["a"], [1, 2])
    train["properties"]["training_iteration"] = [2, 3]
    train["properties"]["test_acc"] = [0.2, 0.3]
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    [report] = import_zoo(path, tmp_path)
    [left_out] = report.left_out
    assert (left_out.epoch, left_out.category) == (1, "missing metrics")
    [states] = open_zoo(tmp_path, NAME).scan()[0]
    assert (states.epochs.tolist(), states.metrics["test_acc"].tolist()) == ([2], [0.2])


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_rows_of_an_epoch_one_counts_wholly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """Weights, metrics and hyperparameters come from the first row."""
    train = one_set(["a", "a"], [1])
    train["data_in"] = train["data_in"][::order] if order > 0 else train["data_in"].flip(0)
    train["properties"] |= {"test_acc": [0.25, 0.5][::order], "optim::lr": [0.1, 0.2][::order]}
    train["properties"]["seed"] = [3, 4][::order]
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    [report] = import_zoo(path, tmp_path, NAME)
    assert (report.found, report.kept, report.left_out[0].category) == (2, 1, "repeated")
    [states] = open_zoo(tmp_path, NAME).scan()[0]
    assert states.weights().tobytes() == train["data_in"][:1].numpy().tobytes()
    assert states.metrics["test_acc"].tolist() == [[0.25, 0.5][::order][0]]
    assert states.hyperparameters["learning_rate"] == [0.1, 0.2][::order][0]
    assert states.hyperparameters["seed"] == [3, 4][::order][0]


def test_rows_that_contradict_each_other_are_remarked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = one_set(["a"], [1, 2])
    train["properties"]["training_iteration"] = [2, 2]
    train["properties"]["test_acc"] = [0.2, 0.3]
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    [report] = import_zoo(path, tmp_path)
    assert [remark for remark in report.remarks if "other metrics" in remark] == [
        "a: 1 row with other metrics than an earlier row of the same training_iteration, whose "
        "metrics count"
    ]


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("odd", [{"x": torch.zeros(7)}, {}, 5, {"x": 1}])
def test_one_odd_state_does_not_decide_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, odd: object
) -> None:
    train = one_set(["a", "b"], [1, 2])
    train["data_in"] = [state_dict(n) for n in range(4)]
    train["data_in"][place] = odd
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    [report] = import_zoo(path, tmp_path, NAME)
    assert (report.found, report.kept, len(report.left_out)) == (4, 3, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"}" * 800_000,
        b"]" * 800_000,
        b"}K\x01K\x01s" * 300_000,
        b"NN\x86" * 280_000,
        b"(" * 800_000,
        b"(t" * 400_000,
    ],
)
def test_a_pickle_of_many_containers_is_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "dataset_x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
    with pytest.raises(Unreadable, match="too many lists and dictionaries"):
        import_zoo(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": [1]}, "one path, epoch and property"),
        ({"paths": None}, "one path, epoch and property"),
        ({"properties": {"test_acc": [1.0]}}, "one path, epoch and property"),
        ({"data_in": [1, 2]}, "no readable state"),
        ({"data_in": torch.zeros(2, 7)}, "7 weights"),
    ],
)
def test_faulty_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    train = one_set(["a"], [1, 2]) | change
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    with pytest.raises(ValueError, match=rf"x\.pt: .*{message}"):
        import_zoo(path, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutations(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.getbasetemp() / "preprocessed"
    path = root / "x.pt"
    if not path.exists():
        root.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            write_datasets(path, monkeypatch, trainset=one_set(["a", "b"], [1, 2]))
        import_zoo(path, root / "right")
    out = tmp_path_factory.mktemp("mutated")
    mutated = out / "x.pt"
    mutated.write_bytes(mutate(path.read_bytes(), data))
    try:
        [report] = import_zoo(mutated, out)
    except ValueError:
        return
    if report.kept == report.found == 4:
        right, found = contents(root / "right"), contents(out)
        assert all(found[n] == c for n, c in right.items() if n.endswith(".safetensors"))
