"""torch's files without torch: equal to torch.load, and safe from any bytes."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import enum
import errno
import io
import json
import logging
import os
import pickle
import re
import resource
import struct
import time
import zipfile
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from model_zoos.builders.sources import ray_tune
from model_zoos.builders.sources.archive import Source
from model_zoos.builders.sources.checkpoint import read_state_dict
from model_zoos.builders.sources.found import State
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.pickles import Record, Unread, unpickle
from model_zoos.builders.sources.report import LeftOut
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import Unreadable
from tests.builders.sources.raw import (
    LINE,
    files_of,
    made_trial,
    one_set,
    saved,
    state_dict,
    write_datasets,
    write_folder,
    write_zip,
)
from tests.shared import CNN_S, SEED_ZOO, contents, needs_shared

TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "vector": lambda: torch.arange(5.0),
    "scalar": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0, 3),
    "double": lambda: torch.randn(2, 3, dtype=torch.float64),
    "half": lambda: torch.randn(2, 3).half(),
    "bfloat16": lambda: torch.randn(2, 3).bfloat16(),
    "integers": lambda: torch.arange(6).reshape(2, 3),
    "bool": lambda: torch.tensor([True, False]),
    "a view": lambda: torch.arange(20.0)[3:9].reshape(2, 3),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "strided": lambda: torch.arange(20.0)[1::3],
    "parameter": lambda: torch.nn.Parameter(torch.randn(3)),
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_kind_of_tensor(options: dict[str, Any], protocol: int) -> None:
    state = OrderedDict((name, make()) for name, make in TENSORS.items())
    state["shared"] = state["vector"][1:]
    found = read_state_dict(saved(state, pickle_protocol=protocol, **options))
    assert list(found) == list(state)
    for name, tensor in state.items():
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has no such
        expected = wide.detach().numpy()
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert found[name].tobytes() == expected.tobytes()


def test_a_modules_state_dict_with_its_metadata() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    found = read_state_dict(saved(module.state_dict()))
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()
    }


def test_the_machine_agrees_with_pickle() -> None:
    value = {
        "texts": ["", "ü" * 300, b"bytes" * 100],
        "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -(2**40), 1.5, float("inf"), True, None],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "same": [[1]] * 300,
        3: {"nested": {}},
    }
    for protocol in (2, 3, 4, 5):
        if protocol == 2:
            value["texts"] = ["", "ü" * 300]
        assert unpickle(pickle.dumps(value, protocol))[0] == value


# --- Hostile files --------------------------------------------------------------------------------


class _Call:
    """A pickle of this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def torch_zip(pickled: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("checkpoints/data.pkl", pickled)
        for key, content in (storages or {}).items():
            archive.writestr(f"checkpoints/data/{key}", content)
    return buffer.getvalue()


def tensor_pickle(
    count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    """{"w": tensor} as torch writes it, with sizes of one's own."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    number = lambda n: pickle.dumps(n, 2)[2:-1]  # noqa: E731
    return b"".join(
        [
            b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(",
            storage + number(count) + b"tQ",
            number(offset) + b"(" + b"".join(map(number, shape)) + b"t(",
            b"".join(map(number, stride)) + b"t\x89NtRs.",
        ]
    )


def nested_key() -> bytes:
    """A tuple whose hash takes 2 to the power of 60 steps, as key of a dictionary."""
    grow = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    return b"\x80\x02})" + grow + b"Ns."


HOSTILE: dict[str, tuple[str, bytes]] = {
    "nothing": ("empty file", b""),
    "other bytes": ("neither a zip nor", b"\x00" * 1000),
    "a huge tensor": ("truncated", torch_zip(tensor_pickle(2**29, 0, (2**29,), (1,)), {"0": b"x"})),
    "a huge view": ("shape", torch_zip(tensor_pickle(1, 0, (2**29,), (0,)), {"0": b"1234"})),
    "absurd sizes": ("absurd", torch_zip(tensor_pickle(1, 0, (2**70,), (1,)), {"0": b"1234"})),
    "negative sizes": ("absurd", torch_zip(tensor_pickle(4, 0, (-1,), (1,)), {"0": b"1234" * 4})),
    "beyond the end": ("shape", torch_zip(tensor_pickle(4, 2, (3,), (1,)), {"0": b"1234" * 4})),
    "negative offset": ("absurd", torch_zip(tensor_pickle(4, -1, (3,), (1,)), {"0": b"1234" * 4})),
    "no storage": ("lacks the storage", torch_zip(tensor_pickle(4, 0, (4,), (1,)))),
    "many axes": (
        "malformed",
        torch_zip(tensor_pickle(1, 0, (1,) * 99, (1,) * 99), {"0": b"1234"}),
    ),
    "a memo of 16 GB": ("memo", torch_zip(b"\x80\x02]r\xff\xff\xff\x7f.")),
    "a text of 4 GB": ("truncated", torch_zip(b"\x80\x02X\xff\xff\xff\xff.")),
    "hash without end": ("as key", torch_zip(nested_key())),
    "unknown instruction": ("instruction", torch_zip(b"\x80\x02}2.")),
    "a cycle": (
        "expected a state_dict of at most 1,000 entries, found a list",
        torch_zip(b"\x80\x02]q\x00h\x00a."),
    ),
    "a cycle in a dict": (
        "expected a tensor",
        torch_zip(b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s."),
    ),
    "no stop": ("truncated", torch_zip(b"\x80\x02}")),
    "empty stack": ("malformed", torch_zip(b"\x80\x02a.")),
    "system": ("names 'posix.system'", torch_zip(pickle.dumps(_Call(os.system, "touch x"), 2))),
    "eval": ("names '.*eval'", torch_zip(pickle.dumps(_Call(eval, "1"), 2))),
    "a function in a partial": (
        "names 'posix.system'",
        torch_zip(pickle.dumps(partial(os.system, "touch x"), 2)),
    ),
    "commands of Python 2": ("names 'subprocess", torch_zip(b"\x80\x02ccommands\ngetoutput\n.")),
    "eval, protocol 4": ("names '.*eval'", torch_zip(pickle.dumps(_Call(eval, "1"), 4))),
    "a call in the old form": (
        "names 'posix.system'",
        saved([1], _use_new_zipfile_serialization=False)[:15]
        + pickle.dumps(_Call(os.system, "touch x"), 2),
    ),
    "no data.pkl": ("without data.pkl", torch_zip(b"").replace(b"data.pkl", b"data.tar")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message, content = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable, match=message):
        read_state_dict(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert list(tmp_path.iterdir()) == []


class Settings:
    """The configuration of somebody's script, which only its own package can unpickle."""

    class Inner:
        """A class in a class, which a pickle finds by getattr."""

    class Kind(enum.Enum):
        ONE = 1

    def __init__(self) -> None:
        self.rates = [0.1, 0.2]


BESIDE: dict[str, Callable[[], object]] = {
    "a counter": lambda: Counter({3: 1}),
    "a dictionary of lists": lambda: defaultdict(list, {"loss": [0.5]}),
    "a number of numpy": lambda: np.float64(0.5),
    "an array of numpy": lambda: np.arange(5.0),
    "an array of texts": lambda: np.array(["a", "b"]),
    "the state of random numbers": lambda: np.random.RandomState(0).get_state(),
    "arguments of a command line": lambda: argparse.Namespace(lr=0.1, layers=[1, 2]),
    "a device": lambda: torch.device("cpu"),
    "a type": lambda: torch.float32,
    "a set": lambda: {"a", "b"},
    "a frozen set": lambda: frozenset({1}),
    "bytes": lambda: b"abc",
    "a complex number": lambda: 1 + 2j,
    "a date": lambda: datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "other keys": lambda: {0.5: 1, None: 2, (1, "a"): 3, torch.float32: 4, torch.device("cpu"): 5},
    "a queue": lambda: deque([1, 2], maxlen=5),
    "a path": lambda: Path("a") / "b",
    "an object of a script": Settings,
    "a class of a script": lambda: Settings,
    "objects in objects": lambda: [{"a": (Settings(), Counter("aab"))}],
    "a schedule": lambda: torch.optim.lr_scheduler.MultiStepLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), [1, 2]
    ).state_dict(),
    "a history of 50,000 losses": lambda: [n / 7 for n in range(50_000)],
    "a number of 300 digits": lambda: 10**300,
    "a dictionary of whole numbers": lambda: defaultdict(int, {"steps": 5}),
    "types of Python": lambda: [int, str, range, type(None)],
    "a range": lambda: range(5),
    "an object of a nested class": lambda: Settings.Inner(),
    "a member of an enumeration": lambda: Settings.Kind.ONE,
    "a partial function": lambda: partial(int, "1"),
    "a regular expression": lambda: re.compile("a"),
    "a logger": lambda: logging.getLogger("a"),
    "an error": lambda: ValueError("a"),
    "a network": lambda: torch.nn.ReLU(),
    "complex numbers": lambda: torch.zeros(3, dtype=torch.complex64),
    "whole numbers of 16 bits": lambda: torch.zeros(3, dtype=torch.uint16),
    "numbers of 8 bits": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    "a quantized tensor": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
}


FORMS = [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_a_state_dict_does_not_matter(name: str, form: dict[str, Any]) -> None:
    weights = state_dict(1)
    content = saved({"extra": BESIDE[name](), "model": weights, "after": BESIDE[name]()}, **form)
    found = read_state_dict(content)
    assert list(found) == list(weights)
    assert all((found[key] == weights[key].numpy()).all() for key in weights)


def test_names_of_other_versions_of_python_are_known() -> None:
    """Python 3.13 has the classes of pathlib in another module, Python 2 had other names."""
    call = b"\x80\x02c%b\nX\1\0\0\0a\x85R."
    assert unpickle(call % b"pathlib._local\nPosixPath")[0] == "a"
    for theirs, ours in (
        (b"__builtin__\nlong", "builtins.int"),
        (b"__builtin__\nxrange", "builtins.range"),
        (b"copy_reg\n_reconstructor", "copyreg._reconstructor"),
    ):
        assert unpickle(call % theirs)[0] == ours


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [torch.complex64, torch.uint16, torch.float8_e4m3fn])
def test_tensors_of_other_types_among_the_weights_cost_no_others(
    form: dict[str, Any], kind: torch.dtype
) -> None:
    weights = state_dict(1)
    found = read_state_dict(saved({**weights, "mask": torch.zeros(3).to(kind)}, **form))
    floats = {name: array for name, array in found.items() if array.dtype.kind == "f"}
    assert list(floats) == list(weights)
    assert all((floats[name] == weights[name].numpy()).all() for name in weights)


@pytest.mark.parametrize("form", FORMS)
def test_a_negative_view_and_a_tensor_with_attributes_are_read(form: dict[str, Any]) -> None:
    """torch keeps the imaginary part of a conjugate as a view with the other sign."""
    tensor = torch.complex(torch.zeros(3), torch.tensor([1.0, -2.0, 3.0])).conj().imag
    assert tensor.is_neg()
    own = torch.tensor([4.0, 5.0])
    own.note = "mine"  # type: ignore[attr-defined]
    found = read_state_dict(saved({"w": tensor, "b": own}, **form))
    assert (found["w"].tolist(), found["b"].tolist()) == ([-1.0, 2.0, -3.0], [4.0, 5.0])


def test_a_loss_beside_a_state_dict_is_no_network() -> None:
    weights = state_dict(1)
    found = read_state_dict(saved({"weights": weights, "loss": torch.tensor(0.5)}))
    assert list(found) == list(weights)


def test_a_pickle_that_torch_did_not_write_is_named() -> None:
    for value in ({"w": np.zeros(2)}, {"a": 1}):
        with pytest.raises(Unreadable, match=r"a pickle that torch\.save did not write"):
            read_state_dict(pickle.dumps(value))


def test_an_object_in_place_of_a_state_dict_is_named() -> None:
    for content, message in (
        (saved(Settings()), "holds an object of .*Settings.*expected a state_dict"),
        (
            saved({"model": {"w": torch.zeros(2), "b": Settings()}}),
            "expected a tensor, found .*Set",
        ),
        (saved({"model": {"w": np.zeros(2)}}), "expected a tensor, found numpy"),
    ):
        with pytest.raises(Unreadable, match=message):
            read_state_dict(content)


def test_a_pickle_can_build_records_only_of_the_one_known_class() -> None:
    known = b"\x80\x02ccheckpoints_to_datasets.dataset_base\nModelDatasetBase\n)\x81"
    known += b"}X\x01\x00\x00\x00aK\x01sb."
    assert unpickle(known)[0] == Record(a=1)
    other = unpickle(known.replace(b"Base\n", b"Evil\n"))[0]
    assert (type(other), other) == (
        Unread,
        "checkpoints_to_datasets.dataset_base.ModelDatasetEvil",
    )
    for pickled, message in (
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "changes an unknown object"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "makes an unknown object"),
        (b"\x80\x02X\x04\x00\x00\x00evil)R.", "calls what is no function"),
    ):
        with pytest.raises(Unreadable, match=message):
            unpickle(pickled)


def entry(content: bytes, claimed: int) -> bytes:
    """A zip of one deflated file that claims another size than it has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/checkpoint_0/checkpoints", content)
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<L", claimed)
    return bytes(data)


def test_zip_bombs(tmp_path: Path) -> None:
    zeros = bytes(100_000_000)
    for claimed, message in ((len(zeros), "too large"), (1000, "checksum")):
        (tmp_path / "bomb.zip").write_bytes(entry(zeros, claimed))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Source(tmp_path / "bomb.zip") as source:
            [member] = source.members()
            with pytest.raises(Unreadable, match=message):
                source.read(member, 1 << 20)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoints/data.pkl", zeros)
    with pytest.raises(Unreadable, match="too large"):
        read_state_dict(inner.getvalue())


@needs_shared
def test_a_hostile_trial_costs_no_other_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths that leave the folder, calls in every pickle, texts that are no UTF-8, absurd JSON."""
    monkeypatch.chdir(tmp_path)
    good = files_of(epochs=2)
    evil = pickle.dumps(_Call(os.system, f"touch {tmp_path}/executed"), 2)
    [params] = [content for name, content in good.items() if name.endswith("params.json")]
    [result] = [content for name, content in good.items() if name.endswith("result.json")]
    checkpoint = next(content for name, content in good.items() if "checkpoint_" in name)
    files = dict(good)

    def trial(folder: str, **changed: bytes) -> None:
        files[f"{folder}/params.json"] = changed.get("params", params)
        files[f"{folder}/result.json"] = changed.get("result", result)
        files[f"{folder}/params.pkl"] = evil
        files[f"{folder}/checkpoint_000000/checkpoints"] = changed.get("checkpoint", checkpoint)

    zoo = next(iter(good)).partition("/")[0]
    trial(f"{zoo}/../../../escaped")
    trial("/absolute")
    trial(f"{zoo}/.hidden")
    trial(f"{zoo}/evil", checkpoint=torch_zip(evil))
    trial(f"{zoo}/latin", params=b'{"model::type": "\xfc"}')
    trial(f"{zoo}/no-params", params=b"[" * 100_000)
    trial(f"{zoo}/latin-result", result=b'{"training_iteration": 0, "x": "\xfc"}')
    trial(f"{zoo}/deep-result", result=b"[" * 100_000)
    trial(f"{zoo}/infinite", params=params.replace(b'"optim::lr": 0.001', b'"optim::lr": 1e999'))
    trial(f"{zoo}/huge", params=params.replace(b'"seed": 1', b'"seed": 1' + b"0" * 100))
    source = write_zip(tmp_path / "zoo.zip", files)
    [report] = import_zoo(source, tmp_path / "out", "mine")
    assert (report.models, report.found, report.kept) == (2, 12, 3)
    reasons = {state.trial: state.reason for state in report.left_out}
    for name, reason in {
        "escaped": "refused: its path leaves the folder",
        "absolute": "refused: its path leaves the folder",
        "evil": "names 'posix.system'",
        "latin": "params.json is not UTF-8",
        "no-params": "params.json: it is nested too deeply",
        "latin-result": "missing metrics",
        "deep-result": "missing metrics",
        "infinite": "wrong params.json: optim::lr is inf",
        "huge": "params.json: the number 1000",
    }.items():
        assert reason in reasons[name], name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "zoo.zip"]
    assert {name.split("/")[0] for name in contents(tmp_path / "out")} == {"mine"}


@needs_shared
def test_links_and_pipes_in_a_folder_are_not_opened(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "zoo", files_of(epochs=2))
    [trial] = (path.parent for path in folder.rglob("params.json"))
    for epoch, make in ((7, os.mkfifo), (8, lambda path: path.symlink_to("/etc/passwd"))):
        (trial / f"checkpoint_{epoch}").mkdir()
        (trial / f"checkpoint_{epoch}" / ".is_checkpoint").touch()
        make(trial / f"checkpoint_{epoch}" / "checkpoints")
    [report] = import_zoo(folder, tmp_path)
    assert (report.found, report.kept, report.categories()) == (4, 2, {"missing file": 2})


# --- Random mutations -----------------------------------------------------------------------------


def mutate(content: bytes, data: st.DataObject) -> bytes:
    """A few bytes changed, cut out, put in or cut off."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        kind = data.draw(st.sampled_from(["change", "change", "insert", "delete", "cut"]))
        if kind == "change" and changed:
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del changed[at : at + data.draw(st.integers(1, 8))]
        elif kind == "cut" and data.draw(st.booleans()):
            del changed[at:]
    return bytes(changed)


def repack(content: bytes, data: st.DataObject) -> bytes:
    """A checkpoint whose pickle was mutated, with right checksums: it reaches the machine."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as before,
        zipfile.ZipFile(buffer, "w") as after,
    ):
        for name in before.namelist():
            part = before.read(name)
            after.writestr(name, mutate(part, data) if name.endswith("data.pkl") else part)
    return buffer.getvalue()


def flatten(content: bytes) -> bytes | None:
    """What torch itself makes of a checkpoint; None if it refuses it."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        return CNN_S.to_vector(state).tobytes()
    except Exception:
        return None


def read_all(folder: Path) -> list[State | LeftOut]:
    with Source(folder) as source:
        [trial] = ray_tune.find_trials(source.members(), "trial")
        try:
            lines, _ = ray_tune.results(source, trial)
        except Unreadable as error:
            return list(trial.without(str(error)))
        return list(ray_tune.states(source, trial, lines, CNN_S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trial with three states."""
    root = tmp_path_factory.mktemp("mutations")
    write_folder(root, files_of(epochs=3))
    return next((root / SEED_ZOO).iterdir())


def mutated_checkpoint(folder: Path, data: st.DataObject) -> None:
    """The other states stay; the mutated one is what torch reads, or left out with a reason."""
    path = folder / "checkpoint_000001" / "checkpoints"
    original = path.read_bytes()
    how = data.draw(st.sampled_from([mutate, repack]))
    content = how(original, data)
    try:
        path.write_bytes(content)
        before, state, after = read_all(folder)
    finally:
        path.write_bytes(original)
    assert isinstance(before, State)
    assert isinstance(after, State)
    assert state.epoch == 1
    if isinstance(state, LeftOut):
        assert state.reason
        return
    # Where torch refuses what we read (a device that it does not know), only the original will do.
    assert state.weights.tobytes() in (flatten(content), flatten(original))


def mutated_result(folder: Path, data: st.DataObject) -> None:
    """States whose line is untouched keep its metrics; the others are right or left out."""
    path = folder / "result.json"
    original = path.read_bytes()
    # Most of a line is the repeated config: make the part that matters likely to be hit.
    lines = [json.loads(line) for line in original.splitlines()[:3]]
    short = [{k: v for k, v in line.items() if k != "config"} for line in lines]
    before = "\n".join(json.dumps(line) for line in short).encode()
    content = mutate(before, data)
    try:
        path.write_bytes(content)
        found = read_all(folder)
    finally:
        path.write_bytes(original)
    assert [state.epoch for state in found] == [0, 1, 2]
    expected: dict[int, dict[str, Any]] = {}
    for line in content.split(b"\n"):
        try:
            values = json.loads(line)
            if values["training_iteration"] in (0, 1, 2):  # 1.0 is 1
                expected[values["training_iteration"]] = values
        except (ValueError, KeyError, TypeError):
            continue
    for state in found:
        if isinstance(state, LeftOut):
            assert expected.get(state.epoch) != short[state.epoch]
            continue
        for name, value in state.metrics.items():
            assert np.array_equal(value, expected[state.epoch][name], equal_nan=True)


MUTATIONS = {"checkpoint": mutated_checkpoint, "result.json": mutated_result}

PATIENCE = 20_000
"""Milliseconds that an example may take where the machine has other work or pauses."""


@contextlib.contextmanager
def within_two_seconds() -> Iterator[None]:
    """No bytes take more than two seconds of the processor."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < 2


@needs_shared
@pytest.mark.parametrize("what", MUTATIONS)
@settings(max_examples=300, deadline=PATIENCE, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch, of mutated texts
def test_mutations(folder: Path, what: str, data: st.DataObject) -> None:
    with within_two_seconds():
        MUTATIONS[what](folder, data)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("what", MUTATIONS)
@settings(max_examples=5000, deadline=PATIENCE, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_5000_mutations(folder: Path, what: str, data: st.DataObject) -> None:
    with within_two_seconds():
        MUTATIONS[what](folder, data)


@needs_shared
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutations_of_a_whole_zip(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("zip")
    files = files_of(trials=2, epochs=2)
    source = write_zip(root / "zoo.zip", files)
    right = {flatten(content) for name, content in files.items() if "checkpoint_" in name}
    content = source.read_bytes()
    # The directory at the end is where a change does most harm.
    start = data.draw(st.sampled_from([0, len(content) - 1200]))
    source.write_bytes(content[:start] + mutate(content[start:], data))
    try:
        reports = import_zoo(source, root, "mine")
    except ValueError as error:
        assert str(source) in str(error)  # noqa: PT017
        return
    assert sum(report.kept for report in reports) <= 4
    for path in root.rglob("*.safetensors"):
        assert {row.tobytes() for row in load_file(path)["weights"]} <= right


def test_large_zips(tmp_path: Path) -> None:
    """More than 65,535 files, and sizes in 64 bits: zipfile's zip64 form."""
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w") as archive:
        for number in range(66_000):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
        with archive.open("large", "w", force_zip64=True) as file:
            file.write(b"content")
    with Source(tmp_path / "zoo.zip") as source:
        members = list(source.members())
        assert source.read(members[-1], 100) == b"content"
    assert [member.name for member in members] == [*map(str, range(66_000)), "large"]


@settings(max_examples=300, deadline=PATIENCE)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    with within_two_seconds():
        for candidate in (content, torch_zip(content), b"\x80\x02" + content):
            with contextlib.suppress(Unreadable):
                read_state_dict(candidate)
        with contextlib.suppress(Unreadable):
            unpickle(content)


def test_the_checksum_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytearray(saved({"w": torch.ones(3)}))
    at = content.index(struct.pack("<3f", 1, 1, 1))
    content[at] ^= 1
    assert zlib.crc32(content[at : at + 12]) != zlib.crc32(struct.pack("<3f", 1, 1, 1))
    with pytest.raises(Unreadable, match="checksum"):
        read_state_dict(bytes(content))


# --- Few bytes that would cost much ---------------------------------------------------------------


def at_one_offset(files: dict[str, bytes], name: str, copies: int) -> bytes:
    """A zip whose directory names one file many times, as further checkpoints."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in files.items():
            archive.writestr(entry, content)
        info = archive.getinfo(name)
        for number in range(10, 10 + copies):
            copy = zipfile.ZipInfo(re.sub(r"checkpoint_\d+", f"checkpoint_{number:06d}", name))
            for attribute in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copy, attribute, getattr(info, attribute))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    return buffer.getvalue()


def test_many_checkpoints_at_one_offset(tmp_path: Path) -> None:
    files = made_trial("run/a") | made_trial("run/b", epochs=[0]) | made_trial("run/c")
    name = "run/b/checkpoint_000000/checkpoints"
    lines = [{**LINE, "training_iteration": n} for n in [0, *range(10, 3010)]]
    files["run/b/result.json"] = "\n".join(map(json.dumps, lines)).encode()
    source = tmp_path / "x.zip"
    source.write_bytes(at_one_offset(files, name, 3000))
    [report] = import_zoo(source, tmp_path, "own", workers=1)
    assert report.found == 3007
    kept = {
        states.model_id: states.epochs.tolist() for states in open_zoo(tmp_path, "own").scan()[0]
    }
    assert kept["a"] == kept["c"] == [0, 1, 2]
    assert len(kept["b"]) <= 2
    assert {state.category for state in report.left_out} == {"refused"}


PAIRS = b"X\x01\x00\x00\x00aN\x86"
EXPENSIVE: dict[str, bytes] = {
    "a dictionary made again and again": b"\x80\x02]q\x00(" + PAIRS * 30_000 + b"ec"
    b"collections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R0" * 60_000 + b".",
    "attributes set again and again": b"\x80\x02}q\x00("
    + b"".join(b"X\x05\x00\x00\x00%05dN" % n for n in range(30_000))
    + b"u0ccheckpoints_to_datasets.dataset_base\nModelDatasetBase\n)\x81"
    + b"h\x00b" * 60_000
    + b".",
    "arguments taken again and again": b"\x80\x02(" + b"N" * 60_000 + b"tq\x00ctorch\nSize\nq\x01"
    b"0" + b"h\x01(h\x00h\x00tR0" * 10 + b".",
    "a path that doubles": b"\x80\x02X\x04\x00\x00\x00abcdq\x00cpathlib\nPosixPath\nq\x01"
    + b"h\x01h\x00h\x00\x86Rq\x00" * 40
    + b".",
    "a long key hashed again and again": b"\x80\x02("
    + b"N" * 60_000
    + b"tq\x000}("
    + b"h\x00N" * 60_000
    + b"u.",
    "a million lists": b"\x80\x02](" + b"]" * 2_000_000 + b"e.",
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_expensive_pickles_are_refused_soon(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable):
        read_state_dict(torch_zip(EXPENSIVE[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kB


@pytest.mark.parametrize(
    ("result", "left_out", "remark"),
    [
        (b"\n" * (4 << 20), "missing metrics", None),
        (b"x\n" * (2 << 20), "missing metrics", "and line 1000 is the last that was read"),
        (
            b"{}\n" * 100,
            "missing metrics",
            "line 1 of result.json has no training_iteration, and",
        ),
        (b"[" + b"[]," * (1 << 20) + b"[]]", "missing metrics", "line 1 of result.json has more"),
        (b"[" * (4 << 20), "missing metrics", "line 1 of result.json has more than"),
        (b"x" * (17 << 20), "too large", None),
    ],
)
def test_a_result_json_without_end(
    tmp_path: Path, result: bytes, left_out: str, remark: str | None
) -> None:
    files = made_trial("run/a") | made_trial("run/b", epochs=[0])
    files["run/b/result.json"] = result
    [report] = import_zoo(write_zip(tmp_path / "x.zip", files), tmp_path, "own", workers=1)
    assert (report.found, report.kept, report.categories()) == (4, 3, {left_out: 1})
    assert len(report.remarks) == (remark is not None)
    assert remark is None or remark in report.remarks[0]
    assert sum(map(len, report.remarks)) < 300


def test_values_that_cannot_be_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of lists in which all are the same: 2^60 values, if a message showed them."""
    deep: list[Any] = ["x"]
    for _ in range(60):
        deep = [deep, deep]
    train = one_set(["a", "b"], [1, 2])
    for column, values in {
        "model::nlin": [deep, deep, "tanh", "tanh"],
        "val_acc": [0.5, 0.5, deep, 0.5],
        "training_iteration": [1, 2, 1, deep],
    }.items():
        train["properties"][column] = values
    train["paths"][0] = Path("/".join(["a"] * 3000))
    path = write_datasets(tmp_path / "x.pt", monkeypatch, trainset=train)
    [report] = import_zoo(path, tmp_path, "mnist_cnn_s_seed")
    assert (report.found, report.kept) == (4, 1)
    assert sorted(state.reason for state in report.left_out) == [
        "missing metrics: the file has none of this epoch",
        "refused: its path cannot name a model",
        "wrong params.json: model::nlin is a list",
    ]
    assert report.remarks == (
        "b: val_acc is null at 1 states, at the first because val_acc is no number, at epoch 1",
    )


def test_many_tensors_in_one_storage(tmp_path: Path) -> None:
    base = torch.zeros(200_000)
    with pytest.raises(Unreadable, match="too large: its tensors have more than"):
        read_state_dict(saved({str(n): base[n:] for n in range(900)}))


# --- Errors of the machine are no reasons ---------------------------------------------------------


def test_any_error_in_a_state_is_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: bytes, error: Exception | None = None) -> Any:
        if error is not None and content == bad:
            raise error
        return read_state_dict(content)

    bad = saved(state_dict(9))
    files = made_trial("run/a", checkpoint=lambda n: bad if n == 1 else saved(state_dict(n)))
    source = write_zip(tmp_path / "x.zip", files)
    for number, error in enumerate(
        [
            ZeroDivisionError("x"),
            RecursionError(),
            OverflowError("\x1b[2J"),
            OSError(errno.EIO, "io"),
        ]
    ):
        monkeypatch.setattr(ray_tune, "read_state_dict", partial(fail, error=error))
        [report] = import_zoo(source, tmp_path / str(number), "own", workers=1)
        [left_out] = report.left_out
        assert (report.kept, left_out.epoch, left_out.category) == (2, 1, "unreadable")
        assert left_out.reason.isprintable()
    for code in (errno.EMFILE, errno.ENOSPC):
        error = OSError(code, os.strerror(code))
        monkeypatch.setattr(ray_tune, "read_state_dict", partial(fail, error=error))
        with pytest.raises(OSError, match=os.strerror(code)):
            import_zoo(source, tmp_path / "machine", "own", workers=1)


@pytest.mark.parametrize(
    "file",
    [
        "params.json",
        "result.json",
        "checkpoint_000000/checkpoints",
        "checkpoint_000001/checkpoints",
    ],
)
def test_odd_files_in_a_folder_cost_only_their_states(tmp_path: Path, file: str) -> None:
    """A folder, a pipe, a dead link and a device in place of a file."""
    for number, make in enumerate(
        (Path.mkdir, os.mkfifo, partial(os.symlink, "gone"), partial(os.symlink, "/dev/zero"))
    ):
        files = made_trial("run/a") | made_trial("run/b")
        root = write_folder(tmp_path / str(number) / "source", files)
        odd = root / "run" / "b" / file
        odd.unlink()
        make(odd)
        [report] = import_zoo(root, tmp_path / str(number), "own", workers=1)
        lost = 3 if file.endswith("json") else 1
        assert report.kept == 6 - lost
        assert report.found >= report.kept
