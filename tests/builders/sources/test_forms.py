"""Zoos as other versions of ray, other systems and other scripts write them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from model_zoos.builders.layout import make_layout
from model_zoos.builders.model_file import MODEL_ID, ModelFile
from model_zoos.builders.sources.checkpoint import read_state_dict
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.names import last_folders, model_id_of
from model_zoos.builders.sources.report import Report
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, Unreadable
from tests.builders.sources.raw import (
    LINE,
    PARAMS,
    made_trial,
    one_set,
    saved,
    state_dict,
    write_datasets,
    write_folder,
    write_zip,
)
from tests.shared import CNN_S, SHARED, contents, needs_shared

RUN = "tune_zoo_some_run"
RAY_1_8 = (
    "NN_tune_trainable_5f2aa_{0:05d}_{0}_model::dropout={1},model::init_type=kaiming_normal,"
    "model::nlin=tanh,optim::lr=0.001,optim::optimiz_2021-07-01_16-59-53"
)


def imported(source: Path, root: Path, name: str = "own") -> tuple[Report, dict[str, ModelFile]]:
    """Import a source with one zoo, and read it in every way: report, model id -> model."""
    [report] = import_zoo(source, root, name, workers=1)
    good, faulty = open_zoo(root, name).scan()
    assert not faulty
    return report, {states.model_id: states for states in good}


def rows(root: Path, name: str = "own") -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a zoo, by model and epoch."""
    splits = load_dataset("model_zoos", name, data_dir=str(root))
    return {(row["model_id"], row["epoch"]): row for split in splits.values() for row in split}


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "NN_tune_trainable_954e2_00000_0_seed=1_2026-11-23_09-23-46",
        "trial",
        "a" * 200,
        "x,y=1.0",
    ],
)
def test_names_that_can_be_ids_are_ids(name: str) -> None:
    assert model_id_of(name) == name


def test_names_of_ray_1_8_become_short_and_readable() -> None:
    found = model_id_of(RAY_1_8.format(7, 0.5))
    assert found.startswith("NN_tune_trainable_5f2aa_00007_7_dropout=0.5,sha=")
    assert len(found) == 64


ALIKE = [
    *("a:b", "a;b", "a b", "A:b", "a_b", "a:B", "a+b", "a\ufffdb", "a\udcffb", "a\x00b", "a:b "),
    *("é", "è", "", ".", "..", ".a", "a" * 201, "a" * 202, "A" * 201, "🦊", "🦊🦊"),
    model_id_of("a:b"),
]  # fmt: skip


def test_different_names_have_different_ids() -> None:
    ids = [model_id_of(name) for name in ALIKE]
    made = [found for name, found in zip(ALIKE, ids, strict=True) if found != name]
    assert len(set(ids)) == len(ALIKE)
    assert len({found.lower() for found in made}) == len(made)
    assert all(MODEL_ID.fullmatch(found) for found in ids)
    assert all(len(found) <= 64 for found in made)


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_two_names(one: str, other: str) -> None:
    assert MODEL_ID.fullmatch(model_id_of(one))
    assert (model_id_of(one) == model_id_of(other)) == (one == other)


def test_the_name_of_a_path() -> None:
    for path in ("/a/run/trial", "C:\\a\\run\\trial\\", "run/trial/checkpoint_000050/checkpoints"):
        assert last_folders(path) == ("run", "trial")
    for nothing in ("", "/", None, 1, "x/" * 5000):
        assert last_folders(nothing) == ("", "")


def twin(seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint of a sparse twin, whose every weight has a log_sigma2."""
    dense = state_dict(seed)
    beside = {
        f"{name.rpartition('.')[0]}.log_sigma2{'_bias' * name.endswith('bias')}": tensor - 10
        for name, tensor in dense.items()
    }
    return {**dense, **beside}


def test_ray_1_8_with_its_twins(tmp_path: Path) -> None:
    names = [RAY_1_8.format(n, dropout) for n, dropout in enumerate((0.0, 0.5))]
    dense: dict[str, bytes] = {}
    twins: dict[str, bytes] = {}
    for number, name in enumerate(names):
        dense |= made_trial(f"{RUN}/{name}", params={**PARAMS, "seed": number + 1})
        path = f"/netscratch/zoos/{RUN}/{name}/checkpoint_000050/checkpoints"
        twins |= made_trial(
            f"ard/NN_tune_trainable_c57_0000{number}_0_training::init_checkpoint_path=_netscr_2021",
            params={
                **PARAMS,
                "model::type": "CNN_ARD",
                "training::init_checkpoint_path": path,
            },
            checkpoint=lambda epoch: saved(twin(epoch)),
        )
    report, models = imported(write_zip(tmp_path / "dense.zip", dense), tmp_path)
    assert (report.models, report.kept, report.left_out) == (2, 6, ())
    assert set(models) == {model_id_of(name) for name in names}
    assert [states.original_name for states in models.values()] == names
    # Names reach the zoo by two ways, a twin's params.json and the folder: both give one id.
    source = write_zip(tmp_path / "twins.zip", twins)
    [report] = import_zoo(source, tmp_path, "own")
    assert (report.zoo, report.kept, report.remarks) == ("own_sparse", 6, ())
    found, _ = open_zoo(tmp_path, "own_sparse").scan()
    assert {states.parent_model_id for states in found} == set(models)
    splits = open_zoo(tmp_path, "own").splits() | open_zoo(tmp_path, "own_sparse").splits()
    for states in found:
        assert splits[states.model_id] == splits[str(states.parent_model_id)]
    assert {key[0] for key in rows(tmp_path)} == set(models)
    before = contents(tmp_path)
    imported(tmp_path / "dense.zip", tmp_path)
    assert contents(tmp_path) == before


def test_names_that_are_alike_are_two_models(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number, name in enumerate(("t::A", "t::a", "t;;A", "t+A", "plain", "PLAIN")):
        files |= made_trial(f"run/{name}", params={**PARAMS, "seed": number})
    report, models = imported(write_zip(tmp_path / "x.zip", files), tmp_path)
    assert (report.models, report.kept) == (6, 18)
    assert {s.original_name for s in models.values()} == {"t::A", "t::a", "t;;A", "t+A", None}


def test_paths_of_a_preprocessed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [RAY_1_8.format(n, 0.5) for n in range(2)]
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=one_set(names, [1, 2]))
    report, models = imported(path, tmp_path, "mnist_cnn_s_seed")
    assert report.kept == 4
    assert {m: s.original_name for m, s in models.items()} == {model_id_of(n): n for n in names}


# --- Ray 2.7 and later ----------------------------------------------------------------------------


def newer(
    epochs: Sequence[int], folders: Sequence[int], named: Sequence[tuple[int, int | None]]
) -> dict[str, bytes]:
    """A trial of ray >= 2.7: epoch in each folder, and iteration and folder of each line."""
    content = dict(zip(folders, epochs, strict=True))
    lines = [
        {**LINE, "test_loss": place, "training_iteration": iteration}
        | ({} if folder is None else {"checkpoint_dir_name": f"checkpoint_{folder:06d}"})
        for place, (iteration, folder) in enumerate(named)
    ]
    return made_trial(
        "run/trial",
        epochs=folders,
        lines=lines,
        checkpoint=lambda number: saved(state_dict(content[number])),
    )


@pytest.mark.parametrize(
    ("epochs", "folders", "named", "kept", "left_out"),
    [
        # epoch 1 lies in folder 0, and so on; kept: epoch -> place of its line
        ([1, 2, 3], [0, 1, 2], [(1, 0), (2, 1), (3, 2)], {1: 0, 2: 1, 3: 2}, {}),
        # a state in every second epoch
        ([2, 4], [0, 1], [(1, None), (2, 0), (3, None), (4, 1)], {2: 1, 4: 3}, {}),
        # resumed after epoch 1: epoch 2 was trained again, into a folder of its own
        ([1, 2, 2], [0, 1, 2], [(1, 0), (2, 1), (2, 2)], {1: 0, 2: 2}, {2: "repeated"}),
        # the last line is missing
        ([1, 2], [0, 1], [(1, 0)], {1: 0}, {1: "missing metrics"}),
        # older ray, whose folders have the numbers of epochs, with one line of a newer one
        ([1, 2, 3], [1, 2, 3], [(1, None), (2, 1), (3, None)], {1: 0, 2: 1, 3: 2}, {}),
        # the first folders were deleted by ray's num_to_keep
        ([4, 5], [3, 4], [(n + 1, n) for n in range(5)], {4: 3, 5: 4}, {}),
    ],
)
def test_newer_ray(
    tmp_path: Path,
    epochs: list[int],
    folders: list[int],
    named: list[tuple[int, int | None]],
    kept: dict[int, int],
    left_out: dict[int, str],
) -> None:
    source = write_zip(tmp_path / "x.zip", newer(epochs, folders, named))
    for _ in range(2):
        report, models = imported(source, tmp_path)
        states = models["trial"]
        assert states.epochs.tolist() == list(kept)
        assert states.metrics["test_loss"].tolist() == list(kept.values())
        expected = [CNN_S.to_vector(state_dict(epoch)).tobytes() for epoch in kept]
        assert [vector.tobytes() for vector in states.weights()] == expected
        assert {s.epoch: s.category for s in report.left_out} == left_out


# --- Metrics that are measured now and then -------------------------------------------------------


def test_validation_at_some_epochs(tmp_path: Path) -> None:
    """One of three, a loss alone, the last only, a diverged loss, unusable ones: null or as is."""
    extra: list[dict[str, Any]] = [
        {"val_loss": 1.5, "val_acc": 0.5},
        {},
        {"val_loss": float("nan"), "val_acc": None},
        {"val_loss": "x", "val_acc": 7.0},
    ]
    lines = [{**LINE, **more, "training_iteration": n} for n, more in enumerate(extra)]
    files = made_trial("run/a", epochs=range(4), lines=lines)
    last = [{**LINE, "training_iteration": n} for n in range(3)]
    last[-1]["sparsity_ratio"] = 0.5
    files |= made_trial("run/b", lines=last)
    files |= made_trial("run/c", lines=[{**line, "val_loss": 1.0} for line in last])
    source = write_zip(tmp_path / "x.zip", files)
    report, models = imported(source, tmp_path)
    assert (report.found, report.kept) == (10, 10)
    assert report.remarks == (
        "a: val_acc is null at 1 states, at the first because val_acc is 7.0, not a share of 1, "
        "at epoch 3",
        "a: val_loss is null at 1 states, at the first because val_loss is no number, at epoch 3",
    )
    assert models["a"].metrics["val_acc"].tolist() == [0.5, None, None, None]
    assert str(models["a"].metrics["val_loss"].tolist()) == "[1.5, None, nan, None]"
    assert set(models["b"].metrics) == {*LINE, "sparsity"}
    assert type(models["c"].metrics["val_loss"]) is np.ndarray
    found = rows(tmp_path)
    for name, column, expected in (
        ("a", "val_acc", [0.5, None, None, None]),
        ("b", "val_acc", [None] * 3),
        ("b", "sparsity", [None, None, 0.5]),
        ("c", "val_loss", [1.0] * 3),
        ("c", "generalization_gap", [0.25] * 3),
    ):
        values = [row[column] for (model, _), row in sorted(found.items()) if model == name]
        assert values == expected, (name, column)
    assert str([found["a", n]["val_loss"] for n in range(4)]) == "[1.5, None, nan, None]"
    before = (tmp_path / "own" / "import_report.json").read_bytes()
    imported(source, tmp_path)
    assert (tmp_path / "own" / "import_report.json").read_bytes() == before


def test_preprocessed_validation_at_some_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = one_set(["a"], [1, 2, 3])
    train["properties"] |= {"val_acc": [0.5, None, 2.0], "training_iteration": [1.0, 2.0, 3.0]}
    train["epochs"] = [1.0, 2, 3]
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    report, models = imported(path, tmp_path, "mnist_cnn_s_seed")
    assert report.kept == 3
    assert models["a"].metrics["val_acc"].tolist() == [0.5, None, None]
    assert len(report.remarks) == 1


# --- What systems and programs leave behind -------------------------------------------------------


def clutter(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """What macOS and Jupyter add to a folder of files."""
    added = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        added[f"__MACOSX/{folder}/._{file}"] = b"\0\5\26\7"
        added[f"{folder}/._{file}"] = b"\0\5\26\7"
        added[f"{folder}/.ipynb_checkpoints/{file}"] = b"{}"
        added[f"{folder}/.DS_Store"] = b"\0\0\0\1Bud1"
    added[f"{next(iter(files)).partition('/')[0]}/._trial/params.json"] = b"{}"
    added["run/trial/.ipynb_checkpoints/checkpoint_000009/checkpoints"] = b""
    return added


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_clutter_is_not_seen(tmp_path: Path, kind: str) -> None:
    files = made_trial("run/trial")
    for root in ("a", "b"):
        (tmp_path / root).mkdir()
    write = write_zip if kind == "zip" else write_folder
    report, _ = imported(write(tmp_path / "a" / "x.zip", files), tmp_path / "a")  # type: ignore[operator]
    again, _ = imported(write(tmp_path / "b" / "x.zip", files | clutter(files)), tmp_path / "b")  # type: ignore[operator]
    assert (again.found, again.kept, again.left_out, again.remarks) == (3, 3, (), ())
    assert (report.found, report.kept) == (3, 3)


def test_byte_order_marks_and_whole_floats(tmp_path: Path) -> None:
    params = {**PARAMS, "seed": 1.0, "training::batchsize": 10.0, "optim::wd": 0}
    lines = [{**LINE, "training_iteration": float(epoch)} for epoch in range(3)]
    files = made_trial("run/a", params=params, lines=lines)
    mark = b"\xef\xbb\xbf"
    marked = {n: mark + c if n.endswith(".json") else c for n, c in files.items()}
    report, models = imported(write_zip(tmp_path / "x.zip", marked), tmp_path)
    assert (report.kept, report.remarks) == (3, ())
    assert models["a"].hyperparameters["seed"] == 1
    assert models["a"].hyperparameters["batch_size"] == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: f"./{name}",
        lambda name: name.replace("/", "//"),
        lambda name: f".//./{name.replace('/', '/./')}",
    ],
)
def test_separators_of_other_programs(tmp_path: Path, change: Any) -> None:
    files = {change(name): content for name, content in made_trial("run/trial").items()}
    report, models = imported(write_zip(tmp_path / "x.zip", files), tmp_path)
    assert (report.kept, list(models)) == (3, ["trial"])


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_empty_folder_of_a_checkpoint_is_counted(tmp_path: Path, kind: str) -> None:
    """Where a copy ended too early, or is not finished: its folders have other names."""
    files = made_trial("run/trial")
    lost = "run/trial/checkpoint_000001/checkpoints"
    files["run/trial/checkpoint_000009.part/checkpoints"] = files.pop(lost)
    if kind == "folder":
        source = write_folder(tmp_path / "source", files)
        (source / lost).mkdir(parents=True)
    else:
        folder = f"{lost.rpartition('/')[0]}/"
        source = write_zip(tmp_path / "x.zip", {"run/": b"", folder: b""} | files)
    report, _ = imported(source, tmp_path)
    assert (report.found, report.kept) == (3, 2)
    [left_out] = report.left_out
    assert (left_out.epoch, left_out.category) == (1, "missing file")
    [remark] = report.remarks
    assert remark.startswith("1 folder passed over")
    assert "checkpoint_000009.part" in remark


def test_a_folder_that_was_repaired_is_said_to_have_changed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", made_trial("run/trial"))
    checkpoint = source / "run" / "trial" / "checkpoint_000001" / "checkpoints"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    report, _ = imported(source, tmp_path)
    assert (report.found, report.kept) == (3, 2)
    checkpoint.write_bytes(whole)
    with pytest.raises(FaultyZoo, match=r"has changed since: it had \d+ bytes, and has \d"):
        import_zoo(source, tmp_path, "own")


def test_of_two_trials_of_one_name_both_places_are_said(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", made_trial("one/a") | made_trial("two/a"))
    report, _ = imported(source, tmp_path)
    assert {state.reason for state in report.left_out} == {
        "repeated: two/a has the name of one/a, which came first"
    }


def test_archives_within_a_source_are_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_zip(tmp_path / "source" / "zoo.zip", made_trial("a"))
    with pytest.raises(Unreadable, match=r"it holds 1 archive, .* on its own: zoo\.zip"):
        import_zoo(tmp_path / "source", tmp_path / "zoos")


def test_links_within_the_source(tmp_path: Path) -> None:
    """A trial that a link leads to counts once, as it lies there; checkpoints count by the link."""
    root = write_folder(tmp_path / "source", made_trial("store/a") | made_trial("run/b"))
    (root / "run" / "a").symlink_to("../store/a")
    (root / "run" / "latest").symlink_to("b")
    (root / "run" / "loop").symlink_to("..")
    (root / "run" / "nothing").symlink_to("nowhere")
    stored = root / "run" / "b" / "checkpoint_000001"
    stored.rename(root / "store" / "kept")
    stored.symlink_to("../../store/kept")
    result = root / "run" / "b" / "result.json"
    result.rename(root / "store" / "b.json")
    result.symlink_to("../../store/b.json")
    write_folder(tmp_path / "outside", made_trial("c"))
    (root / "run" / "c").symlink_to(tmp_path / "outside" / "c")
    report, models = imported(root, tmp_path)
    assert (report.found, report.kept, set(models)) == (6, 6, {"a", "b"})
    [remark] = report.remarks
    assert remark.startswith("5 links or folders were not followed")
    assert "run/a, run/c, run/latest, ..." in remark
    only = tmp_path / "only"
    only.mkdir()
    (only / "a").symlink_to(root / "store" / "a")
    with pytest.raises(Unreadable, match=r"holds no trial .*; 1 links or folders were not .*: a\n"):
        import_zoo(only, tmp_path, "own")


# --- Checkpoints of other scripts -----------------------------------------------------------------

DENSE = state_dict(5)
NESTED: dict[str, Any] = {
    "plain": DENSE,
    "model_state_dict": {"epoch": 3, "model_state_dict": DENSE, "loss": 0.5},
    "state_dict": {"state_dict": DENSE, "epoch": 1, "arch": "cnn"},
    "model": {"model": DENSE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "own name": {"my_weights": DENSE, "step": 7},
    "twice": {"model": {"state_dict": DENSE}, "args": {"lr": 0.1}},
    "beside a tensor": {"loss": torch.tensor(0.5), "model": DENSE},
    "beside an average": {"state_dict": DENSE, "ema": state_dict(6)},
    "parallel": state_dict(5, "module.{}"),
    "compiled": {"model": state_dict(5, "_orig_mod.module.{}")},
}


@pytest.mark.parametrize("form", NESTED)
def test_nested_checkpoints(tmp_path: Path, form: str) -> None:
    content = saved(NESTED[form])
    source = write_zip(
        tmp_path / "x.zip", made_trial("run/a", epochs=[0], checkpoint=lambda epoch: content)
    )
    report, models = imported(source, tmp_path)
    assert report.kept == 1, report.left_out
    assert models["a"].weights()[0].tobytes() == CNN_S.to_vector(DENSE).tobytes()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"epoch": 3, "optimizer": {"state": {}}}, "expected a tensor or one state_dict, found"),
        ({"a": DENSE, "b": DENSE}, "expected a tensor or one state_dict, found 'a', 'b'"),
        ({"epoch": 3}, "expected a tensor, found int"),
        ([DENSE], "expected a state_dict of at most 1,000 entries"),
    ],
)
def test_what_is_no_checkpoint(value: Any, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read_state_dict(saved(value))


def test_bfloat16_and_doubles(tmp_path: Path) -> None:
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        tensors = {name: tensor.to(kind) for name, tensor in DENSE.items()}
        files = made_trial("run/a", epochs=[0], checkpoint=lambda epoch, t=tensors: saved(t))  # type: ignore[misc]
        root = tmp_path / str(kind)
        root.mkdir()
        _, models = imported(write_zip(root / "x.zip", files), root)
        expected = np.concatenate([t.float().numpy().ravel() for t in tensors.values()])
        assert models["a"].weights()[0].tobytes() == expected.tobytes()


def test_a_run_that_can_be_no_zoo_costs_no_other(tmp_path: Path) -> None:
    """Its parameters do not make a grid, or its name is none of a zoo."""
    for number, changes in enumerate(
        ({"optim::lr": None}, {"dataset::dump": "/x/_/dataset.pt"}, {"optim::momentum": 7.0}), 1
    ):
        other = {"optim::optimizer": "sgd", "optim::momentum": 0.9, "dataset::dump": "/x/y/z.pt"}
        params = {**PARAMS, **other, **changes}
        files = made_trial("run/a") | made_trial("other/b", params=params)
        source = write_zip(tmp_path / f"{number}.zip", files)
        [report] = import_zoo(source, tmp_path / str(number))
        assert (report.zoo, report.found, report.kept) == ("some_run", 6, 3)
        assert {state.trial for state in report.left_out} == {"b"}
        with pytest.raises(Unreadable):
            import_zoo(
                write_zip(tmp_path / "alone.zip", made_trial("other/b", params=params)), tmp_path
            )


# --- Worker processes -----------------------------------------------------------------------------

SCRIPT = """
import sys
from model_zoos.builders.sources.importing import import_zoo
print("started")
[report] = import_zoo(sys.argv[1], sys.argv[2], "own", workers=2)
print("kept", report.kept)
"""


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_two_workers_of_a_script_without_a_guard(tmp_path: Path, how: str) -> None:
    """The workers do not run the script again, and need no file of it."""
    source = write_zip(tmp_path / "x.zip", made_trial("run/a") | made_trial("run/b"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-" if how == "stdin" else script, source, tmp_path],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["started", "kept", "6"]


# --- The files on which earlier versions failed ---------------------------------------------------

CASES: dict[str, tuple[int, int]] = {
    "hyp_ray_1_8_names": (6, 6),
    "plus_sign": (6, 6),
    "newer_ray": (3, 3),
    "as_ray_1_8": (4, 4),
    "validation_every_2": (9, 9),
    "made_on_macos": (3, 3),
    "result_json_with_bom": (3, 3),
    "nested_checkpoint": (3, 3),
    "path_doubling": (2, 1),
    "result_bad_lines": (2, 1),
    "BUILD_with_a_non_dict": (2, 1),
    "empty_tensor_of_huge_shape": (2, 1),
    "zip64_offset_2p63": (2, 1),
    "surrogate_scheduler": (2, 1),
}


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_cases(tmp_path: Path, case: str) -> None:
    source = SHARED / "data" / "cases" / f"{case}.zip"
    if not source.exists():
        pytest.skip("the reference data lacks this file")
    report, _ = imported(source, tmp_path)
    assert (report.found, report.kept) == CASES[case]
    assert len(rows(tmp_path)) == report.kept


@needs_shared
def test_newer_ray_has_the_rows_of_ray_1_8(tmp_path: Path) -> None:
    found = {}
    for case in ("newer_ray", "as_ray_1_8"):
        source = SHARED / "data" / "cases" / f"{case}.zip"
        if not source.exists():
            pytest.skip("the reference data lacks this file")
        imported(source, tmp_path / case)
        found[case] = rows(tmp_path / case)
    common = {key: row for key, row in found["as_ray_1_8"].items() if key in found["newer_ray"]}
    assert common == found["newer_ray"]
    assert len(common) == 3


# --- Zoos of other work ---------------------------------------------------------------------------


def resnet(classes: int) -> bytes:
    """A checkpoint of ResNet-18, all of whose weights are 0.01."""
    layout = make_layout("resnet18", 3, classes)
    state = {slot.name: torch.full(slot.shape, 0.01) for slot in layout.slots}
    return saved({"model_state_dict": state, "epoch": 1})


RESNET = {
    **PARAMS,
    "model::type": "Resnet18",
    "model::channels_in": 3,
    "model::init_type": "kaiming_uniform",
    "optim::optimizer": "sgd",
    "optim::scheduler": "OneCycleLR",
}


def test_a_wrong_number_of_classes_is_that_of_the_checkpoints(tmp_path: Path) -> None:
    """Also where the first checkpoint is of something else."""
    good, broken = resnet(100), saved({"model": {"a": torch.zeros(3)}})
    files = made_trial(
        "run/a",
        epochs=[1, 2],
        params={**RESNET, "model::o_dim": 10},
        checkpoint=lambda epoch: broken if epoch == 1 else good,
    )
    source = write_folder(tmp_path / "source", files)
    [report] = import_zoo(source, tmp_path, "own")
    assert (report.kept, [entry.category for entry in report.left_out]) == (1, ["wrong shape"])
    assert "the checkpoints of 1 trials have 100 classes" in report.remarks[0]
    zoo = open_zoo(tmp_path, "own").zoo
    assert (zoo.classes, zoo.layout.size) == (100, 11_229_732)


@pytest.mark.parametrize("classes", [10, 26])
def test_a_cnn_of_other_classes(tmp_path: Path, classes: int) -> None:
    """Of 10, whatever params.json says, as in the paper; or of as many as the checkpoints have."""
    layout = make_layout("cnn_s", 1, classes)
    generator = torch.Generator().manual_seed(0)
    state = {slot.name: torch.randn(slot.shape, generator=generator) for slot in layout.slots}
    files = made_trial(
        "run/a",
        params={**PARAMS, "model::o_dim": 47},
        checkpoint=lambda epoch: saved(state),
    )
    [report] = import_zoo(write_folder(tmp_path / "source", files), tmp_path, "own")
    assert report.kept == 3
    assert bool(report.remarks) == (classes != 10)
    assert open_zoo(tmp_path, "own").zoo.classes == classes


def test_one_odd_checkpoint_does_not_change_the_classes(tmp_path: Path) -> None:
    layout = make_layout("cnn_s", 1, 7)
    odd = saved({slot.name: torch.zeros(slot.shape) for slot in layout.slots})
    files = made_trial("run/a", checkpoint=lambda epoch: saved(state_dict(epoch)) if epoch else odd)
    [report] = import_zoo(write_folder(tmp_path / "source", files), tmp_path, "own")
    assert (report.kept, report.remarks) == (2, ())
    assert report.left_out[0].category == "wrong shape"


def test_other_values_of_a_result_are_listed(tmp_path: Path) -> None:
    """Those of follow-up work: curvature, similarity, calibration; not what ray itself writes."""
    own = {"hessian_trace": 3.0, "cka_similarity": [0.1, 0.2], "ece": None, "a\x1b[2Jb": 1}
    ray = {"time_total_s": 3, "config": {"a": 1}, "trial_id": "x", "node_ip": "127.0.0.1"}
    lines = [{**LINE, **own, **ray, "training_iteration": epoch} for epoch in range(3)]
    files = made_trial("run/a", lines=lines) | made_trial("run/b")
    [report] = import_zoo(write_folder(tmp_path / "source", files), tmp_path, "own")
    assert report.kept == 6
    assert report.remarks == (
        "4 values in result.json that no row has: a\ufffd[2Jb, cka_similarity, ece, hessian_trace",
    )
