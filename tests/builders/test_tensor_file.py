"""Our reading and writing of safetensors files against the library's."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from model_zoos.builders.atomic import write_atomically
from model_zoos.builders.tensor_file import DTYPES, TensorFile, encode_tensors

NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")
TENSORS = st.dictionaries(
    NAMES,
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda kind: arrays.arrays(DTYPES[kind], arrays.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=5,
)

TEXTS = st.dictionaries(st.text(), st.text(), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "file.safetensors"


@settings(deadline=None)
@given(tensors=TENSORS, texts=st.none() | TEXTS)
def test_what_the_library_writes_is_read_back(
    path: Path, tensors: dict[str, np.ndarray], texts: dict[str, str] | None
) -> None:
    path.write_bytes(save(tensors, texts))
    with TensorFile(path) as file:
        assert file.metadata == (texts or {})
        assert file.tensors.keys() == tensors.keys()
        mapped = {name: file.map(name) for name in tensors}
        read = {name: file.read(name) for name in tensors}
    path.unlink()  # what was mapped stays
    for name, value in tensors.items():
        for found in (mapped[name], read[name]):
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.tobytes() == value.tobytes()
        assert read[name].flags.writeable


@settings(deadline=None)
@given(
    tensors=st.dictionaries(
        NAMES,
        st.sampled_from(["F64", "F32", "I32"]).flatmap(
            lambda kind: arrays.arrays(DTYPES[kind], arrays.array_shapes(min_dims=0, min_side=0))
        ),
    ),
    text=st.text(),
)
def test_what_is_written_has_the_bytes_of_the_library(
    tensors: dict[str, np.ndarray], text: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write_atomically(path, *encode_tensors(tensors, {"key": text}))
        assert path.read_bytes() == save(tensors, {"key": text})


def test_only_contiguous_tensors_are_written() -> None:
    with pytest.raises(ValueError, match="a is not contiguous"):
        encode_tensors({"a": np.zeros((4, 4))[:, ::2]}, {})


@pytest.mark.parametrize("shape", [(), (0,), (3,), (4, 1, 5)])
def test_bfloat16_is_read_as_float32(path: Path, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    safetensors.torch.save_file({"a": torch.arange(3), "b": tensor}, path)
    with TensorFile(path) as file:
        for found in (file.read("b"), file.map("b")):
            assert (found.dtype, found.shape) == (np.float32, shape)
            assert found.tobytes() == tensor.float().numpy().tobytes()


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_taken_as_the_library_takes_it(path: Path, data: st.DataObject) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4)}
    content = bytearray(save(tensors, {"model_zoos": "{}"}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    expected: Any
    try:
        expected = {name: (v.dtype, v.tobytes()) for name, v in load_file(path).items()}
    except (SafetensorError, KeyError, AttributeError, ValueError):
        expected = None
    try:
        with TensorFile(path) as file:
            values = {name: file.read(name) for name in file.tensors}
            found = {name: (v.dtype, v.tobytes()) for name, v in values.items()}
    except ValueError:
        found = None
    if expected is not None and found is None:
        # The library passes over what we do not: types that numpy lacks.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert any(e["dtype"] not in DTYPES for n, e in header.items() if n != "__metadata__")
        return
    assert found == expected


def _file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _one(shape: list[Any], *offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no header"),
    "a header longer than the file": (_file({}, length=100), "no header"),
    "a header of terabytes": (_file({}, length=1 << 42), "no header"),
    "no JSON": (_file(b"{"), "Expecting"),
    "no text": (_file(b"\xff\xfe"), "utf-8"),
    "nested without end": (_file(b"[" * 200_000), "nested too deeply"),
    "a list": (_file([]), "no JSON object"),
    "metadata as a list": (_file({"__metadata__": []}), "metadata is no JSON object"),
    "no offsets": (_file({"a": {"dtype": "F32", "shape": []}}), "a: no tensor"),
    "a number as tensor": (_file({"a": 1}), "a: no tensor"),
    "one offset": (_file(_one([1], 0)), "a: no tensor"),
    "a type of another world": (_file(_one([4], 0, 4, dtype="BF8"), bytes(4)), "a: no tensor"),
    "a list as type": (_file(_one([1], 0, 4, dtype=[]), bytes(4)), "a: no tensor"),
    "negative offsets": (_file(_one([1], -4, 0), bytes(4)), "a: its offsets"),
    "a negative shape": (_file(_one([-1], 0, 4), bytes(4)), "a: its offsets"),
    "a shape of half": (_file(_one([0.5], 0, 2), bytes(2)), "a: its offsets"),
    "true as shape": (_file(_one([True], 0, 4), bytes(4)), "a: its offsets"),
    "offsets of another shape": (_file(_one([2], 0, 4), bytes(4)), "a: its offsets"),
    "beyond the end": (_file(_one([2], 0, 8), bytes(4)), "its header speaks of"),
    "terabytes": (_file(_one([1 << 40], 0, 1 << 42)), "its header speaks of"),
    "more than the header says": (_file(_one([1], 0, 4), bytes(5)), "its header speaks of"),
    "a hole": (_file(_one([1], 4, 8), bytes(8)), "does not follow"),
    "one above the other": (
        _file({**_one([2], 0, 8), "b": {**_one([1], 4, 8)["a"]}}, bytes(8)),
        "b does not follow",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TensorFile(path)
    with pytest.raises((SafetensorError, AttributeError, KeyError)):
        load_file(path)


def test_a_file_cut_while_open_is_no_whole_tensor(path: Path) -> None:
    value = np.arange(1 << 16, dtype=np.float64)
    path.write_bytes(save({"a": value}))
    with TensorFile(path) as file:
        with path.open("r+b") as other:
            other.truncate(1 << 16)
        with pytest.raises(ValueError, match="a is not whole"):
            file.read("a")
        with pytest.raises(ValueError, match="a is not whole"):
            file.map("a")


def test_maps_need_no_file_descriptors(path: Path) -> None:
    resource = pytest.importorskip("resource")
    path.write_bytes(save({"a": np.arange(9, dtype=np.float32)}))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    maps = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 10, before[1]))
        for _ in range(50):
            with TensorFile(path) as file:
                maps.append(file.map("a", whole=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert {values.tobytes() for values in maps} == {np.arange(9, dtype=np.float32).tobytes()}


def test_a_map_reads_no_more_than_its_rows(path: Path) -> None:
    rows, length = 64, 1 << 18
    path.write_bytes(save({"a": np.ones((rows, length), np.float32)}))

    def resident() -> int:
        status = Path("/proc/self/smaps_rollup").read_text()
        return int(status.partition("Rss:")[2].split()[0])

    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs /proc/self/smaps_rollup")
    with TensorFile(path) as file:
        before = resident()
        row = file.map("a")[[rows // 2]]
        grown = resident() - before
    assert row.sum() == length
    assert grown < math.prod(row.shape) * 4 / 1024 * 4
