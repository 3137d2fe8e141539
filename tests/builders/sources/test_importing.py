"""Raw zoos become zoo directories: every state against torch.load and result.json."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset

import model_zoos
from model_zoos.benchmarks.representations import statistics
from model_zoos.builders.model_file import ModelFile
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.report import Report
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument, SourceNotFound
from tests.builders.sources.raw import (
    LINE,
    RAW,
    files_of,
    made_trial,
    saved,
    state_dict,
    write_folder,
    write_zip,
)
from tests.hostile import trial_files
from tests.shared import (
    CNN_L,
    CNN_S,
    HYPERPARAMETER_ZOO,
    LARGE_ZOO,
    SEED_ZOO,
    contents,
    needs_shared,
    raw_zoo,
    raw_zoo_images,
)

pytestmark = needs_shared

TWIN_ZIP = "cnn_small_mnist_ard"
SPARSE = f"{SEED_ZOO}_sparse"
NAMES = (
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "test_loss",
    "test_acc",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four raw zoos, imported."""
    root = tmp_path_factory.mktemp("imported")
    for name in (SEED_ZOO, HYPERPARAMETER_ZOO, LARGE_ZOO, TWIN_ZIP):
        import_zoo(RAW / f"{name}.zip", root)
    return root


def states_of(root: Path, name: str) -> dict[str, ModelFile]:
    good, faulty = open_zoo(root, name).scan()
    assert not faulty
    return {states.model_id: states for states in good}


def one(reports: list[Report]) -> Report:
    [report] = reports
    return report


@pytest.mark.parametrize(
    ("name", "layout"), [(SEED_ZOO, CNN_S), (HYPERPARAMETER_ZOO, CNN_S), (LARGE_ZOO, CNN_L)]
)
def test_every_state_is_as_torch_and_json_read_it(home: Path, name: str, layout: Any) -> None:
    found = states_of(home, name)
    trials = raw_zoo(name, layout)
    assert set(found) == {trial.name for trial in trials}
    left_out = 0
    for trial in trials:
        states = found[trial.name]
        good = [epoch for epoch in sorted(trial.weights) if np.isfinite(trial.weights[epoch]).all()]
        left_out += len(trial.weights) - len(good)
        assert states.epochs.tolist() == good
        expected = np.stack([trial.weights[epoch] for epoch in good])
        assert states.weights().tobytes() == expected.tobytes()
        for metric in NAMES:
            if metric not in trial.metrics[0]:
                assert metric not in states.metrics
                continue
            values = np.array([trial.metrics[epoch][metric] for epoch in good])
            assert np.array_equal(states.metrics[metric], values, equal_nan=True)
        wanted = trial.model.hyperparameters()
        if wanted["optimizer"] == "adam":
            wanted["momentum"] = None
        assert states.hyperparameters == wanted
        assert states.parent_model_id is None
    assert left_out == (5 if name == HYPERPARAMETER_ZOO else 0)


def test_all_states_of_mixed_dropout_have_2464_weights(home: Path) -> None:
    found = states_of(home, HYPERPARAMETER_ZOO)
    assert {states.hyperparameters["dropout"] for states in found.values()} == {0.0, 0.5}
    assert sum(len(states.epochs) for states in found.values()) == 199
    assert {states.weights().shape[1] for states in found.values()} == {2464}
    report = json.loads((home / HYPERPARAMETER_ZOO / "import_report.json").read_text())
    assert (report["found"], report["kept"], report["models"]) == (204, 199, 34)
    assert [(entry["epoch"], entry["reason"]) for entry in report["left_out"]] == [
        (epoch, "NaN or infinite weights: 2464 of 2464") for epoch in range(1, 6)
    ]
    assert {"lr=1000.0000" in entry["trial"] for entry in report["left_out"]} == {True}


def test_twins(home: Path) -> None:
    """Pruned weights by torch's own operations, sparsity and parents by result.json and params."""
    found = states_of(home, SPARSE)
    assert len(found) == 12
    dense = open_zoo(home, SEED_ZOO).splits()
    splits = open_zoo(home, SPARSE).splits()
    from safetensors.numpy import load_file

    with zipfile.ZipFile(RAW / f"{TWIN_ZIP}.zip") as archive:
        for name, states in found.items():
            folder = f"{TWIN_ZIP}/{name}/"
            params = json.loads(archive.read(f"{folder}params.json"))
            parent = params["training::init_checkpoint_path"].rpartition("/")[2]
            assert states.parent_model_id == parent
            assert splits[name] == dense[parent]
            lines = archive.read(f"{folder}result.json").decode().splitlines()
            ratios = [json.loads(line)["sparsity_ratio"] for line in lines]
            assert states.metrics["sparsity"].tolist() == ratios
            file = load_file(states.path)
            for epoch in range(6):
                with archive.open(f"{folder}checkpoint_{epoch:06d}/checkpoints") as checkpoint:
                    tensors = torch.load(checkpoint, weights_only=True)
                weights, mean, log_sigma2, pruned = [], [], [], 0
                for key in [key for key in tensors if "log_sigma2" not in key]:
                    layer, _, role = key.rpartition(".")
                    w = tensors[key]
                    s = tensors[f"{layer}.log_sigma2" + "_bias" * (role == "bias")]
                    log_alpha = torch.clamp(s - 2 * torch.log(torch.abs(w) + 1e-15), -8, 8)
                    clipped = torch.where(torch.ge(log_alpha, 3), torch.zeros_like(w), w)
                    if role == "weight":
                        pruned += int((log_alpha >= 3).sum())
                    elif tensors[f"{layer}.weight"].ndim == 2:
                        clipped = w
                    weights.append(clipped.flatten())
                    mean.append(w.flatten())
                    log_sigma2.append(s.flatten())
                assert pruned / 2416 == ratios[epoch]
                for expected, values in (
                    (weights, states.weights()),
                    (mean, file["mean"]),
                    (log_sigma2, file["log_sigma2"]),
                ):
                    assert values[epoch].tobytes() == torch.cat(expected).numpy().tobytes()


def test_twins_before_their_parents(tmp_path: Path) -> None:
    import_zoo(RAW / f"{TWIN_ZIP}.zip", tmp_path)
    import_zoo(RAW / f"{SEED_ZOO}.zip", tmp_path)
    dense, splits = (open_zoo(tmp_path, name).splits() for name in (SEED_ZOO, SPARSE))
    for states in states_of(tmp_path, SPARSE).values():
        assert splits[states.model_id] == dense[str(states.parent_model_id)]


CASES: dict[str, tuple[int, int, dict[str, list[int]], dict[str, int]]] = {
    # states found, kept; epochs left out by seed; categories
    "case_old_checkpoint_names": (27, 27, {}, {}),
    "case_truncated_checkpoint": (36, 34, {"2": [8], "3": [8]}, {"truncated": 1, "empty file": 1}),
    "case_no_result_json": (27, 18, {"2": list(range(9))}, {"missing metrics": 9}),
    "case_unfinished_trial": (22, 22, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(tmp_path: Path, home: Path, case: str) -> None:
    found, kept, left_out, categories = CASES[case]
    report = one(import_zoo(RAW / f"{case}.zip", tmp_path))
    assert (report.found, report.kept, report.categories()) == (found, kept, categories)
    seeds: dict[str, list[int]] = {}
    for state in report.left_out:
        seeds.setdefault(state.trial.partition("seed=")[2][0], []).append(state.epoch)
    assert seeds == left_out
    whole = states_of(home, SEED_ZOO)  # the same trials, undamaged
    for name, states in states_of(tmp_path, SEED_ZOO).items():
        rows = states.epochs.tolist()
        assert states.weights().tobytes() == whole[name].weights(rows).tobytes()
        assert states.metrics["test_acc"].tolist() == whole[name].metrics["test_acc"][rows].tolist()
    if case == "case_unfinished_trial":
        [remark] = report.remarks
        assert "seed=2" in remark
        assert "line 5 of result.json is cut" in remark


@pytest.mark.parametrize("order", ["sorted", "as_listed"])
def test_rows_are_the_originals_loaders(home: Path, order: str) -> None:
    """load_dataset's rows beside weights, properties and statistics of the paper's own loader."""
    reference = RAW / "reference" / SEED_ZOO
    splits = load_dataset("model_zoos", SEED_ZOO, data_dir=str(home))
    rows = {(r["model_id"], r["epoch"]): r for split in splits.values() for r in split}
    expected = json.loads(reference.with_suffix(".json").read_text())[order]
    arrays = np.load(reference.with_suffix(".npz"))
    for split in ("train", "val", "test"):
        part = expected[split]
        chosen = [rows[key] for key in zip(part["row_paths"], part["row_epochs"], strict=True)]
        weights = np.array([row["weights"] for row in chosen], np.float32)
        assert weights.tobytes() == arrays[f"{order}_{split}_weights"].tobytes()
        quintiles = arrays[f"{order}_{split}_quintiles"]
        assert np.abs(statistics(weights, CNN_S) - quintiles).max() < 1e-6
        accuracy = np.float32(part["properties"]["test_acc"])
        assert [row["test_acc"] for row in chosen] == accuracy.tolist()
        gaps = np.float32(part["properties"]["ggap"])
        assert [row["generalization_gap"] for row in chosen] == gaps.tolist()


def recompute(home: Path, name: str, epochs: list[int] | None, validation: bool) -> int:
    """Compare the accuracy of instantiated rows with the recorded one; how many were compared."""
    images = raw_zoo_images(validation=validation, large=name == LARGE_ZOO)
    pixels = images.normalized("test")
    rows = 0
    for split in load_dataset("model_zoos", name, data_dir=str(home)).values():
        for row in split:
            if epochs is not None and row["epoch"] not in epochs:
                continue
            with torch.no_grad():
                answers = model_zoos.instantiate(row)(pixels).argmax(1)
            accuracy = (answers == images.test.labels).float().mean().item()
            assert math.isclose(accuracy, row["test_acc"], abs_tol=1e-6), (row["model_id"], row)
            rows += 1
    return rows


def test_some_recomputed_accuracies(home: Path) -> None:
    assert recompute(home, SEED_ZOO, [0, 8], False) == 24
    assert recompute(home, SPARSE, [5], False) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "states", "validation"),
    [
        (SEED_ZOO, 108, False),
        (HYPERPARAMETER_ZOO, 199, True),
        (LARGE_ZOO, 20, True),
        (SPARSE, 72, False),
    ],
)
def test_all_recomputed_accuracies(home: Path, name: str, states: int, validation: bool) -> None:
    assert recompute(home, name, None, validation) == states


# --- Other forms of the same ----------------------------------------------------------------------


def test_zip_folder_nested_folder_and_several_processes_agree(tmp_path: Path) -> None:
    files = files_of(trials=3, epochs=3)
    sources = [
        write_zip(tmp_path / "zoo.zip", files),
        write_zip(tmp_path / "stored.zip", files, zipfile.ZIP_STORED),
        write_folder(tmp_path / "plain", files),
        write_folder(tmp_path / "nested" / "a" / "b", files),
        next(write_folder(tmp_path / "inner", files).glob("*")),
    ]
    alone = next(sources[-1].iterdir())  # one trial is a source too
    assert one(import_zoo(alone, tmp_path / "alone", "alone")).kept == 3
    assert list(states_of(tmp_path / "alone", "alone")) == [alone.name]
    models = []
    for number, source in enumerate(sources):
        root = tmp_path / f"out{number}"
        report = one(import_zoo(source, root, workers=2 if number == 0 else None))
        assert (report.found, report.kept) == (9, 9)
        found = contents(root)
        models.append({name: found[name] for name in found if "/models/" in name})
        assert len(models[-1]) == 3
    assert all(model == models[0] for model in models)


def test_several_runs_together(tmp_path: Path) -> None:
    files = files_of(trials=4, epochs=2)
    odd = ("seed=2_", "seed=4_")
    runs = {f"run{any(o in n for o in odd):d}/{n}": content for n, content in files.items()}
    assert len({name.partition("/")[0] for name in runs}) == 2
    again = {name.replace("run0/", "copy/"): c for name, c in runs.items() if "run0/" in name}
    report = one(import_zoo(write_zip(tmp_path / "zoo.zip", {**runs, **again}), tmp_path / "out"))
    assert (report.models, report.found, report.kept) == (4, 12, 8)
    assert report.categories() == {"repeated": 4}


def test_dense_and_twins_in_one_archive(tmp_path: Path) -> None:
    files = {**files_of(trials=2), **files_of(TWIN_ZIP, trials=3, epochs=6)}
    dense, twins = import_zoo(write_zip(tmp_path / "zoo.zip", files), tmp_path, "my-zoo")
    assert (dense.zoo, dense.kept, twins.zoo, twins.kept) == ("my_zoo", 18, "my_zoo_sparse", 18)
    assert {open_zoo(tmp_path, report.zoo).zoo.image_dataset for report in (dense, twins)} == {
        "mnist"
    }
    # The third twin's parent is not among the dense models.
    assert twins.remarks == ("1 of 3 twins have a parent that is not in my_zoo",)


def test_a_catalog_zoo_is_recognised_by_its_experiment(tmp_path: Path) -> None:
    files = {
        name: content.replace(b"tune_zoo_mnist_kaiming_uniform", b"tune_zoo_mnist_uniform")
        for name, content in files_of(trials=1, epochs=2).items()
    }
    report = one(import_zoo(write_zip(tmp_path / "zoo.zip", files), tmp_path))
    assert report.zoo == "mnist_cnn_s_seed"
    assert open_zoo(tmp_path, "mnist_cnn_s_seed").zoo == model_zoos.get_zoo("mnist_cnn_s_seed")


def test_resnet_with_batch_norm_buffers(tmp_path: Path) -> None:
    """The original's Resnet18 is torchvision's; num_batches_tracked is no weight."""
    import io

    from model_zoos.builders.layout import make_layout
    from model_zoos.generation.networks import build

    layout = make_layout("resnet18", 3, 10)
    params = json.loads(next(c for n, c in files_of(epochs=0).items() if "params" in n))
    params |= {"model::type": "Resnet18", "model::channels_in": 3, "optim::optimizer": "sgd"}
    params |= {"optim::momentum": 0.9, "optim::scheduler": "OneCycleLR", "model::nlin": "relu"}
    files = {"run/trial/params.json": json.dumps(params).encode()}
    line = {"train_loss": 1.0, "train_acc": 0.5, "test_loss": 1.0, "test_acc": 0.5}
    lines = [json.dumps({**line, "training_iteration": epoch}) for epoch in (1, 2)]
    files["run/trial/result.json"] = "\n".join(lines).encode()
    expected = []
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        state = build(layout, "relu").state_dict()
        assert any("num_batches_tracked" in name for name in state)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files[f"run/trial/checkpoint_{epoch}/checkpoints"] = buffer.getvalue()
        floats = [t.flatten() for t in state.values() if t.is_floating_point()]
        expected.append(torch.cat(floats).numpy())
    source = write_zip(tmp_path / "zoo.zip", files, zipfile.ZIP_STORED)
    for _ in range(2):
        report = one(import_zoo(source, tmp_path, "my_resnets"))
        assert (report.models, report.found, report.kept) == (1, 2, 2)
    good, _ = open_zoo(tmp_path, "my_resnets").scan()
    assert [states.epochs.tolist() for states in good] == [[1], [2]]
    for states, weights in zip(good, expected, strict=True):
        assert states.weights()[0].tobytes() == weights.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_resnets_of_45_mb_a_state_are_imported_in_little_memory(tmp_path: Path, kind: str) -> None:
    import io

    from model_zoos.builders.layout import make_layout
    from model_zoos.generation.networks import build

    buffer = io.BytesIO()
    torch.save(build(make_layout("resnet18", 3, 10), "relu").state_dict(), buffer)
    params = json.loads(next(c for n, c in files_of(epochs=0).items() if "params" in n))
    params |= {"model::type": "Resnet18", "model::channels_in": 3, "optim::optimizer": "sgd"}
    params |= {"optim::momentum": 0.9, "optim::scheduler": "OneCycleLR", "model::nlin": "relu"}
    line = {"train_loss": 1.0, "train_acc": 0.5, "test_loss": 1.0, "test_acc": 0.5}
    lines = [json.dumps({**line, "training_iteration": epoch}) for epoch in range(1, 7)]
    files = {
        "run/trial/params.json": json.dumps(params).encode(),
        "run/trial/result.json": "\n".join(lines).encode(),
        **{f"run/trial/checkpoint_{e:06d}/checkpoints": buffer.getvalue() for e in range(1, 7)},
    }
    source = (
        write_folder(tmp_path / "raw", files)
        if kind == "folder"
        else write_zip(tmp_path / "raw.zip", files)
    )
    code = """
import sys
from model_zoos.builders.sources.importing import import_zoo
[report] = import_zoo(sys.argv[1], sys.argv[2], "my_resnets", workers=1)
assert report.kept == 6, report
[memory] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(memory.split()[1])
"""
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "zoos")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400_000  # kB


def test_the_last_of_repeated_lines_wins_and_epoch_0_may_be_missing(tmp_path: Path) -> None:
    files = files_of(epochs=3)
    [result] = [name for name in files if name.endswith("result.json")]
    lines = files[result].decode().splitlines()
    later = {**json.loads(lines[1]), "test_acc": 0.25}
    files[result] = "\n".join([*lines[:2], json.dumps(later), *lines[2:]]).encode()
    del files[next(name for name in files if "checkpoint_000000" in name)]
    import_zoo(write_zip(tmp_path / "zoo.zip", files), tmp_path)
    [states] = states_of(tmp_path, SEED_ZOO).values()
    assert states.epochs.tolist() == [1, 2]
    assert states.metrics["test_acc"][0] == 0.25
    assert states.metrics["test_acc"][1] == json.loads(lines[2])["test_acc"]


def test_two_folders_of_one_epoch(tmp_path: Path) -> None:
    files = files_of(epochs=3)
    [first] = [name for name in files if "checkpoint_000001" in name]
    files[first.replace("checkpoint_000001", "checkpoint_1")] = files[first]
    source = write_zip(tmp_path / "zoo.zip", files)
    for _ in range(2):
        report = one(import_zoo(source, tmp_path))
        assert (report.found, report.kept, report.categories()) == (4, 3, {"repeated": 1})


def test_max_weight(tmp_path: Path, home: Path) -> None:
    report = one(import_zoo(RAW / f"{HYPERPARAMETER_ZOO}.zip", tmp_path, max_weight=5))
    largest = [
        np.abs(states.weights()).max(1) for states in states_of(home, HYPERPARAMETER_ZOO).values()
    ]
    above = int((np.concatenate(largest) > 5).sum())
    assert above > 0
    assert report.categories() == {"weights above 5": above, "NaN or infinite weights": 5}
    with pytest.raises(FaultyZoo, match="max_weight = 5, not None"):
        import_zoo(RAW / f"{HYPERPARAMETER_ZOO}.zip", tmp_path)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"nosuch\.zip: there is no such file") as missing:
        import_zoo(tmp_path / "nosuch.zip", tmp_path)
    assert "model-zoos download" in str(missing.value.hint)
    for content, message in (
        (b"", "empty file"),
        (b"x" * 100, "not a zip"),
        ((RAW / f"{SEED_ZOO}.zip").read_bytes()[:-5000], "directory"),
    ):
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(ValueError, match=rf"bad\.zip: .*{message}"):
            import_zoo(tmp_path / "bad.zip", tmp_path)
    write_zip(tmp_path / "other.zip", {"a/b.txt": b"x"})
    with pytest.raises(ValueError, match="holds no trial"):
        import_zoo(tmp_path / "other.zip", tmp_path)
    source = RAW / f"{LARGE_ZOO}.zip"
    with pytest.raises(ValueError, match="not those of mnist_cnn_s_seed"):
        import_zoo(source, tmp_path, "mnist_cnn_s_seed")
    with pytest.raises(ValueError, match="small letters"):
        import_zoo(source, tmp_path, "../up")
    with pytest.raises(ValueError, match="no sparse twins"):
        import_zoo(source, tmp_path, "my_zoo_sparse")
    assert list(tmp_path.glob("*/zoo.json")) == []


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model_zoos", "import", *arguments, "--out", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(str(RAW / "case_truncated_checkpoint.zip"), "--zoo", "my-zoo")
    assert done.returncode == 0, done.stderr
    for text in ("my_zoo: 4 models", "36", "34", "left out: truncated", "seed=3_"):
        assert text in done.stdout
    assert "epoch 8: empty file" in done.stdout
    done = run(str(tmp_path / "nosuch.zip"))
    assert done.returncode == 1
    line, hint = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {tmp_path}/nosuch.zip: there is no such file")
    assert "model-zoos download NAME" in hint


# --- Interruptions --------------------------------------------------------------------------------


def many_trials(path: Path, trials: int, epochs: int) -> Path:
    """A zip with many models: copies of three trials under other names."""
    files: dict[str, bytes] = {}
    for name, content in files_of(trials=3, epochs=epochs).items():
        for copy in range(trials // 3):
            files[name.replace("_954e2_", f"_{copy:05x}_")] = content
    return write_zip(path, files, zipfile.ZIP_STORED)


def test_an_import_goes_on_and_is_idempotent(tmp_path: Path) -> None:
    source = many_trials(tmp_path / "zoo.zip", 6, 3)
    import_zoo(source, tmp_path / "a")
    before = contents(tmp_path / "a")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.safetensors")}
    model = next(iter(times))
    model.unlink()
    import_zoo(source, tmp_path / "a")
    assert contents(tmp_path / "a") == before
    assert all(path.stat().st_mtime_ns == t for path, t in times.items() if path != model)


def children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_run_again(tmp_path: Path, workers: int) -> None:
    source = many_trials(tmp_path / "zoo.zip", 300, 9)
    command = [sys.executable, "-m", "model_zoos", "import", str(source), "--quiet"]
    command += ["--workers", str(workers), "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "a")])
    models = tmp_path / "a" / SEED_ZOO / "models"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(models.glob("*.safetensors"))) < 20:
        time.sleep(0.002)
    workers_alive = children(process.pid)
    assert len(workers_alive) >= (0 if workers == 1 else workers)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while set(map(str, workers_alive)) & set(os.listdir("/proc")):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.01)
    killed = len(list(models.glob("*.safetensors")))
    assert 20 <= killed < 300
    assert not (tmp_path / "a" / SEED_ZOO / "import_report.json").exists()
    import_zoo(source, tmp_path / "a")
    import_zoo(source, tmp_path / "b")
    left = {n: c for n, c in contents(tmp_path / "a").items() if not n.endswith(".partial")}
    assert left == contents(tmp_path / "b")


@needs_shared
def test_a_name_does_not_turn_one_zoo_into_another(tmp_path: Path) -> None:
    source = RAW / f"{SEED_ZOO}.zip"
    for wrong in ("usps_cnn_s_seed", "digits_cnn_s"):
        with pytest.raises(ValueError, match=f"not trained on .* as {wrong} is"):
            import_zoo(source, tmp_path, wrong)
    for reserved in ("metrics", "default"):
        with pytest.raises(InvalidArgument, match=f"a zoo cannot be named '{reserved}': "):
            import_zoo(source, tmp_path, reserved)
    for weight in (float("nan"), -1.0, 0.0):
        with pytest.raises(ValueError, match="largest weight must be"):
            import_zoo(source, tmp_path, max_weight=weight)
    with pytest.raises(ValueError, match="number of workers"):
        import_zoo(source, tmp_path, workers=0)
    assert list(tmp_path.iterdir()) == []


@needs_shared
def test_a_source_is_known_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    source = RAW / "case_unfinished_trial.zip"
    shutil.copy(source, tmp_path / "renamed.zip")
    [first] = import_zoo(source, tmp_path / "zoos", "mine")
    [second] = import_zoo(tmp_path / "renamed.zip", tmp_path / "zoos", "mine")
    assert (first.kept, first.left_out) == (second.kept, second.left_out)
    assert first.kept == 22
    other = source.with_name("case_no_result_json.zip")
    with pytest.raises(FaultyZoo, match=r"which is another source than case_no_result_json.*bytes"):
        import_zoo(other, tmp_path / "zoos", "mine")


@needs_shared
def test_hyperparameters_outside_of_the_named_zoos_grid_are_remarked(tmp_path: Path) -> None:
    source = RAW / f"{SEED_ZOO}.zip"
    [report] = import_zoo(source, tmp_path, "mnist_cnn_s_seed")
    assert any("12 of 12 models have hyperparameters outside" in text for text in report.remarks)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_with_files_of_the_same_sizes_is_another_source(
    tmp_path: Path, workers: int
) -> None:
    """One of two trials has other metrics and weights: its states are left out, and none mixed."""
    for folder, accuracy, seed in (("a", 0.25, 0), ("b", 0.75, 10)):
        for name in ("one", "two"):
            changed = (accuracy, seed) if name == "two" else (0.25, 0)
            lines = [{**LINE, "test_acc": changed[0], "training_iteration": e} for e in range(3)]
            files = made_trial(
                f"source/{name}",
                lines=lines,
                checkpoint=lambda epoch, s=changed[1]: saved(state_dict(s + epoch)),  # type: ignore[misc]
            )
            write_folder(tmp_path / folder, files)
    import_zoo(tmp_path / "a/source", tmp_path / "zoos", "own")
    before = contents(tmp_path / "zoos/own/models")
    [report] = import_zoo(tmp_path / "b/source", tmp_path / "zoos", "own", workers=workers)
    assert (report.found, report.kept) == (6, 3)
    assert {(s.trial, s.epoch) for s in report.left_out} == {("two", e) for e in range(3)}
    assert "from another source" in report.left_out[0].reason
    assert contents(tmp_path / "zoos/own/models") == before


def test_a_state_that_the_source_has_lost_is_kept(tmp_path: Path) -> None:
    """A second import of a folder, in which another state is damaged than at the first."""
    trial = tmp_path / "source" / "NN_tune_trainable_00000_0_seed=1_2021-01-01"
    for name, content in trial_files().items():
        if "_00000_0_" in name:
            path = tmp_path / "source" / name.partition("/")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    first, last = (trial / f"checkpoint_{epoch:06d}" / "checkpoints" for epoch in (0, 2))
    good = last.read_bytes()
    last.write_bytes(good[:-200] + bytes(200))
    import_zoo(tmp_path / "source", tmp_path, "own")
    [before] = open_zoo(tmp_path, "own").scan()[0]
    assert before.epochs.tolist() == [0, 1]
    weights = before.weights()
    last.write_bytes(good)
    first.write_bytes(good[:-200] + bytes(200))
    import_zoo(tmp_path / "source", tmp_path, "own")
    [after] = open_zoo(tmp_path, "own").scan()[0]
    assert after.epochs.tolist() == [0, 1, 2]
    assert after.weights([0, 1]).tobytes() == weights.tobytes()
    assert after.metrics["test_acc"][:2].tolist() == before.metrics["test_acc"].tolist()
