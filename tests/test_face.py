"""instantiate, weights, and what importing the package costs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset

import model_zoos
from model_zoos.builders.layout import make_layout
from model_zoos.errors import InvalidArgument, UnknownZoo, ZooNotFound
from model_zoos.generation.images import load_images
from model_zoos.generation.networks import build
from model_zoos.generation.options import TwinOptions


@pytest.fixture(scope="module")
def splits(digits_home: Path) -> Any:
    return load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home))


def test_generate_and_sparsify_take_names(tmp_path: Path) -> None:
    zoo = dataclasses.replace(model_zoos.zoo_spec("digits_cnn_s"), epochs=1)
    images = load_images("digits")
    assert model_zoos.generate(zoo, tmp_path, "digits", models=1).models == 1
    # The same images: else the zoo directory would be refused.
    assert model_zoos.generate(zoo, tmp_path, images, models=1).present == 1
    assert model_zoos.generate(zoo, tmp_path, models=1).present == 1
    twins = TwinOptions(epochs=1)
    assert model_zoos.sparsify("digits_cnn_s", tmp_path, "digits", twins=twins).models == 1
    parents = model_zoos.open_zoo(tmp_path, "digits_cnn_s")
    assert model_zoos.sparsify(parents, tmp_path, images, twins=twins).present == 1
    assert model_zoos.sparsify(parents, tmp_path, twins=twins).present == 1


def test_generate_takes_a_zoo_of_ones_own_by_its_file_and_its_name(tmp_path: Path) -> None:
    values = model_zoos.zoo_spec("digits_cnn_s").to_json() | {"name": "mine", "epochs": 1}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    root = tmp_path / "zoos"
    assert model_zoos.generate(str(path), root, "digits", models=1).models == 1
    assert model_zoos.generate(path, root, "digits", models=1).present == 1
    grown = model_zoos.generate("mine", root, "digits", models=2)
    assert (grown.present, grown.models) == (1, 1)
    path.write_text("[1]")
    with pytest.raises(InvalidArgument, match=r"mine\.json: a zoo is a JSON object, found list"):
        model_zoos.generate(str(path), root, "digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zoo": "digits_cnn_z"}, "did you mean digits_cnn_s"),
        ({"zoo": 3}, "zoo must be a name, the path .*, found int"),
        ({"images": "digitz"}, "no image data set 'digitz'"),
        ({"images": 5}, "images must be a name .*, found int"),
        ({"images": (np.zeros(3), np.zeros(3))}, "images must be a name .*, found tuple"),
        ({"options": {"engine": "lanes"}}, "options must be .*TrainOptions, found dict"),
        ({"options": TwinOptions()}, "options must be .*TrainOptions, found TwinOptions"),
        ({"models": "3"}, "models must be a whole number from 1 on, found '3'"),
        ({"models": True}, "models must be a whole number from 1 on, found True"),
    ],
)
def test_generate_refuses_other_kinds(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"zoo": "digits_cnn_s", "images": "digits", "root": tmp_path, **arguments}
    with pytest.raises((InvalidArgument, UnknownZoo), match=message):
        model_zoos.generate(**given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parents": "digits_cnn_z"}, "there is no zoo 'digits_cnn_z'"),
        ({"parents": model_zoos.zoo_spec("digits_cnn_s")}, "open_zoo returns, .*, found Zoo"),
        ({"images": 5}, "images must be a name .*, found int"),
        ({"twins": {"epochs": 1}}, "twins must be .*TwinOptions, found dict"),
        ({"options": "lanes"}, "options must be .*TrainOptions, found str"),
        ({"models": 1.5}, "models must be a whole number from 1 on, found 1.5"),
    ],
)
def test_sparsify_refuses_other_kinds(
    digits_home: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    parents = model_zoos.open_zoo(digits_home, "digits_cnn_s")
    given = {"parents": parents, "images": "digits", "root": tmp_path, **arguments}
    with pytest.raises((InvalidArgument, ZooNotFound), match=message):
        model_zoos.sparsify(**given)
    assert not list(tmp_path.iterdir())


def test_every_recorded_accuracy_is_recomputed(splits: Any) -> None:
    digits = load_images("digits")
    images, labels = digits.normalized("test"), digits.test.labels
    for row in splits["test"]:
        network = model_zoos.instantiate(row)
        assert not network.training
        with torch.no_grad():
            logits = network(images)
        assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(
            row["test_acc"], abs=1e-7
        )
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert loss == pytest.approx(row["test_loss"], rel=1e-5)


@pytest.mark.parametrize("kind", ["list", "numpy", "torch"])
def test_rows_of_any_format(splits: Any, kind: str) -> None:
    dataset = splits["test"] if kind == "list" else splits["test"].with_format(kind)
    network = model_zoos.instantiate(dataset[0])
    vector = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    assert torch.equal(vector, torch.tensor(splits["test"][0]["weights"]))


@pytest.mark.parametrize(
    ("architecture", "channels", "classes"),
    [("cnn_s", 3, 10), ("cnn_l", 3, 10), ("resnet18", 3, 100)],
)
def test_every_architecture(architecture: str, channels: int, classes: int) -> None:
    layout = make_layout(architecture, channels, classes)
    original = build(layout, "gelu").eval()
    row = {
        "architecture": architecture,
        "activation": "gelu",
        "dropout": None,
        "weights": layout.to_vector(original.state_dict()),
    }
    images = torch.randn(
        2, channels, 28 if architecture == "cnn_s" else 32, 28 if architecture == "cnn_s" else 32
    )
    assert torch.equal(model_zoos.instantiate(row)(images), original(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "cnn_l"}, "no CNN-l has 2,464 weights"),
        ({"architecture": "resnet18"}, "no ResNet-18 has 2,464 weights"),
        ({"architecture": "vgg"}, "unknown architecture 'vgg'"),
        ({"weights": None}, "the row's weights is not known"),
        ({"weights": np.zeros(2463)}, "no CNN-s has 2,463 weights"),
        ({"weights": np.zeros((2, 2464))}, "expected one row"),
        ({"activation": "swish"}, "unknown activation"),
        ({"architecture": ["cnn_s"]}, "give one row"),
    ],
)
def test_rows_that_cannot_be_instantiated(
    splits: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model_zoos.instantiate({**splits["test"][0], **change})


def test_what_is_no_row(splits: Any) -> None:
    for thing in (splits, splits["test"], splits["test"][:2], splits["test"].data):
        with pytest.raises(ValueError, match=r"one row|no architecture"):
            model_zoos.instantiate(thing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": 5}, "weights must be a vector of numbers, found 5"),
        ({"weights": "0.5"}, "weights must be a vector of numbers, found '0.5'"),
        ({"weights": {"conv1": [0.5]}}, "weights must be a vector of numbers"),
        ({"weights": ["a"] * 2464}, "weights must be a vector of numbers .*'a'"),
        ({"weights": [[0.5, 0.5]] * 2464}, "weights must be one vector"),
        ({"dropout": "0.5"}, r"dropout must be a number in \[0, 1\), found '0.5'"),
        ({"dropout": [0.5]}, "dropout must be a number"),
        ({"dropout": 1.5}, "dropout must lie in"),
        ({"activation": ["relu"]}, "unknown activation"),
        ({"activation": 3}, "unknown activation 3"),
    ],
)
def test_values_of_a_wrong_kind(splits: Any, change: dict[str, Any], message: str) -> None:
    row = {**splits["test"][0], **change}
    with pytest.raises(InvalidArgument, match=message):
        model_zoos.instantiate(row)


@pytest.mark.parametrize("name", [None, 3, ("conv1", "weight"), b"conv1.weight"])
def test_a_tensor_is_named_by_a_text(splits: Any, name: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"named by a text, such as 'conv1\.weight', found"):
        model_zoos.layer(splits["test"][0], name)


def test_the_weights_of_one_row(splits: Any) -> None:
    """`weights` takes a data set, and says what one row has instead."""
    test = splits["test"]
    for row in (test[0], test.with_format("torch")[0]):
        with pytest.raises(InvalidArgument, match=r"^this is a row, not a data set: torch"):
            model_zoos.weights(row)
    made = torch.as_tensor(test[0]["weights"])
    assert torch.equal(made, model_zoos.weights(test.select([0]))[0])


def test_the_layout_of_a_row(splits: Any, digits_home: Path) -> None:
    row = splits["test"][0]
    layout = model_zoos.layout_of(row)
    assert layout == model_zoos.open_zoo(digits_home, "digits_cnn_s").zoo.layout
    for slot in layout.slots:
        cut = np.asarray(row["weights"], np.float32)[slot.slice].reshape(slot.shape)
        assert np.array_equal(model_zoos.layer(row, slot.name).numpy(), cut)
    with pytest.raises(ValueError, match=r"the row has no weights"):
        model_zoos.layout_of({"architecture": "cnn_s"})


def test_weights_are_the_rows_in_their_order(splits: Any) -> None:
    train = splits["train"]
    expected = np.array(train["weights"], np.float32)
    assert model_zoos.weights(train).numpy().tobytes() == expected.tobytes()
    chosen = [5, 3, 3, 80, 0]
    assert model_zoos.weights(train.select(chosen)).numpy().tobytes() == expected[chosen].tobytes()
    shuffled = train.shuffle(seed=1)
    assert np.array_equal(
        model_zoos.weights(shuffled).numpy(), np.array(shuffled["weights"], np.float32)
    )
    part = train.select(range(10, 20))
    assert np.array_equal(model_zoos.weights(part).numpy(), expected[10:20])


def test_weights_in_one_piece_are_not_copied(splits: Any) -> None:
    one = splits["test"].select(range(6))
    chunks = one.data.column("weights").chunks
    assert len(chunks) == 1
    address = chunks[0].flatten().to_numpy().__array_interface__["data"][0]
    assert model_zoos.weights(one).data_ptr() == address


def test_weights_of_what_has_none(splits: Any, digits_home: Path) -> None:
    with pytest.raises(ValueError, match="has no weights"):
        model_zoos.weights(splits["train"].remove_columns("weights"))
    with pytest.raises(ValueError, match="name a split"):
        model_zoos.weights(splits)
    stream = load_dataset(
        "model_zoos", "digits_cnn_s", data_dir=str(digits_home), split="test", streaming=True
    )
    with pytest.raises(ValueError, match="do not stream"):
        model_zoos.weights(stream)


def _as_float32(dataset: Any) -> list[list[float]]:
    return np.array(dataset["weights"], np.float64).astype(np.float32).tolist()


def test_weights_that_users_made_themselves() -> None:
    """Lists of any kind and number type, if they have one length, as float32."""
    rows = [[0.1, 2.0, -3.0], [4.0, 5.5, 1e-3]]
    frame = pandas.DataFrame({"weights": [np.array(row) for row in rows]})
    kinds = [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.int8(), 3)]
    made = [
        Dataset.from_pandas(frame),
        Dataset.from_list([{"weights": row} for row in rows]),
        Dataset.from_generator(lambda: ({"weights": row} for row in rows)),
        *(Dataset(pa.table({"weights": pa.array([[1, 2, 3], [4, 5, 6]], kind)})) for kind in kinds),
    ]
    for dataset in made:
        found = model_zoos.weights(dataset)
        assert found.dtype == torch.float32
        assert found.tolist() == _as_float32(dataset)
        assert model_zoos.weights(dataset.select([1, 0, 1])).tolist() == [
            *_as_float32(dataset)[::-1],
            _as_float32(dataset)[1],
        ]
    assert model_zoos.weights(made[0].select([])).shape[0] == 0


def test_rows_without_weights_are_counted(splits: Any) -> None:
    """Null rows are refused where they are chosen, and only there."""
    test = splits["test"]
    some = concatenate_datasets([test.remove_columns("weights"), test])
    lost = test.map(
        lambda row, i: {"weights": row["weights"] if i % 2 else None}, with_indices=True
    )
    expected = model_zoos.weights(test)
    for dataset, nulls, good, of in (
        (some, len(test), range(len(test), 2 * len(test)), range(len(test))),
        (lost, (len(test) + 1) // 2, range(1, len(test), 2), range(1, len(test), 2)),
    ):
        with pytest.raises(InvalidArgument, match=f"^{nulls} rows of this data set have no"):
            model_zoos.weights(dataset)
        with pytest.raises(InvalidArgument, match="1 rows of"):
            model_zoos.weights(dataset.select([0, good[0]]))
        assert torch.equal(model_zoos.weights(dataset.select(good)), expected[list(of)])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"several lengths \(1, 2\)"),
        ([["a"], ["b"]], "expected lists of numbers"),
        ([1.0, 2.0], "expected lists of numbers"),
        ([[[1.0]], [[2.0]]], "expected lists of numbers"),
        ([[1.0, None], [2.0, 3.0]], "1 weights of this data set are null"),
        ([None, None], "2 rows of this data set have no weights"),
    ],
)
def test_weights_that_are_none(column: list[Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        model_zoos.weights(Dataset.from_dict({"weights": column}))


def test_a_row_in_any_format_is_instantiated(splits: Any) -> None:
    """Also where dropout is null, which pandas and numpy show as NaN."""
    expected = model_zoos.instantiate(splits["test"][0]).state_dict()
    for dropout in (0.0, None):
        test = splits["test"].select([0]).remove_columns("dropout")
        test = test.add_column("dropout", pa.array([dropout], pa.float64()))
        rows = [test.with_format(kind)[0] for kind in (None, "numpy", "torch")]
        frame = test.to_pandas()
        missing = frame.iloc[0].copy()
        missing["dropout"] = pandas.NA
        for row in (*rows, frame.iloc[0], frame.iloc[0].to_dict(), missing):
            found = model_zoos.instantiate(row).state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        with pytest.raises(InvalidArgument, match="one row"):
            model_zoos.instantiate(frame)


def test_public_names() -> None:
    for name in model_zoos.__all__:
        assert getattr(model_zoos, name).__doc__, name
    for name in ("FaultyZoo", "ZooNotFound", "UnknownZoo", "FaultyFile", "HubFailed"):
        assert getattr(model_zoos, name) is getattr(model_zoos.errors, name)
    assert model_zoos.get_zoo is model_zoos.zoo_spec
    zoo = model_zoos.zoo_spec("digits-cnn-s")
    assert model_zoos.Zoo.from_json(zoo.to_json()) == zoo
    assert repr(zoo) == "<Zoo digits_cnn_s: 320 models, CNN-s on digits, 25 epochs>"


def test_a_zoo_is_made_and_sparsified_from_the_front_page(tmp_path: Path) -> None:
    from model_zoos import generate  # the function, whatever modules have this name

    zoo = dataclasses.replace(model_zoos.zoo_spec("digits_cnn_s"), epochs=1)
    digits, said = model_zoos.load_images(zoo.images), []
    summary = generate(zoo, tmp_path, digits, models=2, on_progress=said.append)
    assert (summary.models, summary.states, said[-1].models) == (2, 4, 2)
    dense = model_zoos.open_zoo(tmp_path, zoo.name)
    assert len(dense.files()) == 2
    assert model_zoos.sparsify(dense, tmp_path, digits, models=1).models == 1
    assert model_zoos.open_zoo(tmp_path, "digits_cnn_s_sparse").parent_zoo == zoo.name


def test_a_zoo_directory_in_one_line(digits_home: Path) -> None:
    directory = model_zoos.open_zoo(digits_home, "digits_cnn_s")
    expected = f"<ZooDirectory digits_cnn_s: 320 models, {digits_home / 'digits_cnn_s'}>"
    assert repr(directory) == expected


def test_import_brings_no_torch() -> None:
    """What is slow to import is imported when it is needed."""
    code = """
import sys
import model_zoos
print(sorted(n for n in ("torch", "torchvision", "matplotlib", "typer") if n in sys.modules))
print([n for n in sys.modules if n.startswith(("model_zoos.generation", "model_zoos.bench"))])
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert output == ["[]", "[]"]


def test_an_extension_that_cannot_be_imported_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "mine.py").write_text("print('imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import model_zoos; print(len(model_zoos.list_zoos()) > 0)"],
        cwd=tmp_path,
        env={
            **os.environ,
            "MODEL_ZOOS_EXTENSIONS": "broken, mine",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["imported", "True"]
    assert "MODEL_ZOOS_EXTENSIONS names 'broken', which cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("command", "ours"), [(["-m", "model_zoos.cli"], True), (["-u", "-m", "theirs", "x"], False)]
)
def test_only_our_own_command_changes_what_ctrl_c_prints(
    tmp_path: Path, command: list[str], ours: bool
) -> None:
    (tmp_path / "theirs.py").write_text("import model_zoos\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('changed', sys.excepthook is not sys.__excepthook__))\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, *command, *["--version"] * ours],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"changed {ours}"
