"""Statistics against the original's own output and against numpy; functions of a user's own."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoos.benchmarks.representations import (
    PERCENTILES,
    find_representation,
    represent,
    statistic_names,
    statistics,
    statistics_table,
    weights,
)
from model_zoos.benchmarks.stored import StoredMatrix, in_memory
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.errors import InvalidArgument
from tests.shared import CNN_S, SEED_ZOO, SHARED, needs_shared


@needs_shared
def test_statistics_are_the_originals() -> None:
    reference = np.load(SHARED / "data" / "raw_zoos" / "reference" / f"{SEED_ZOO}.npz")
    for order in ("sorted", "as_listed"):
        for split in ("train", "val", "test"):
            ours = statistics(reference[f"{order}_{split}_weights"], CNN_S)
            theirs = reference[f"{order}_{split}_quintiles"]
            assert ours.shape == theirs.shape == (len(theirs), 70)
            assert np.abs(ours - theirs).max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([("cnn_s", 1), ("cnn_l", 3)]), st.integers(1, 5), st.integers(0, 99))
def test_statistics_are_numpys(kind: tuple[str, int], rows: int, seed: int) -> None:
    layout = make_layout(*kind)
    matrix = np.random.default_rng(seed).standard_normal((rows, layout.size), np.float32)
    found = statistics(matrix, layout).reshape(rows, len(layout.slots), 7)
    for number, slot in enumerate(layout.slots):
        block = matrix[:, slot.slice].astype(np.float64)
        expected = [block.mean(1), block.var(1), *np.percentile(block, PERCENTILES, axis=1)]
        assert np.allclose(found[:, number], np.stack(expected, 1), atol=1e-6)


def test_weights_are_themselves() -> None:
    matrix = np.zeros((2, 2464), np.float32)
    assert weights(matrix, CNN_S) is matrix


def wrong_rows(matrix: np.ndarray, layout: object) -> np.ndarray:
    return matrix[:1]


def not_finite(matrix: np.ndarray, layout: object) -> np.ndarray:
    return np.full((len(matrix), 3), np.nan)


def texts(matrix: np.ndarray, layout: object) -> np.ndarray:
    return np.full((len(matrix), 3), "a")


def fails(matrix: np.ndarray, layout: object) -> np.ndarray:
    raise KeyError("conv9")


def test_ones_own_function_is_found() -> None:
    assert find_representation("statistics") is statistics
    assert find_representation(f"{__name__}:fails") is fails
    counts = represent("x", lambda m, _: (m > 0).sum(1, keepdims=True), np.ones((2, 4)), CNN_S)
    assert counts.dtype == np.float64


def test_a_part_of_the_weights_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a block is used again for the next one."""
    dataset = datasets.Dataset(rows_of(CNN_S, 7).select(["weights"]))
    dataset.save_to_disk(str(tmp_path))
    stored = StoredMatrix.of(datasets.load_from_disk(str(tmp_path)))
    monkeypatch.setattr("model_zoos.benchmarks.stored.BLOCK_BYTES", 2 * 8 * CNN_S.size)
    whole = stored.whole()
    for cut in (slice(5, 9), slice(None)):
        found = represent("x", lambda m, _, cut=cut: m[:, cut], stored, CNN_S)
        assert np.array_equal(in_memory(found), whole[:, cut])


def test_representations_cannot_change_the_weights() -> None:
    matrix = np.ones((3, 2464), np.float32)

    def centred(rows: np.ndarray, layout: object) -> np.ndarray:
        rows -= rows.mean(axis=1, keepdims=True)
        return rows

    with pytest.raises(InvalidArgument, match=r"must not change the weights.*: copy them") as error:
        represent("x", centred, matrix, CNN_S)
    assert f"{__file__}:{centred.__code__.co_firstlineno + 1}" in str(error.value)
    assert (matrix == 1).all()
    part = represent("x", lambda m, _: m[:, :2], matrix, CNN_S)
    assert isinstance(part, np.ndarray)
    part += 1
    assert (matrix == 1).all()
    assert represent("weights", weights, matrix, CNN_S) is matrix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(weights, layout)\n", r"SyntaxError: expected ':' \(broken_0.py, line 1\)"),
        ("x = 1\nnumbers = nmupy\n", r"NameError: name 'nmupy' .*broken_1.py:2$"),
        ("\n\nimport no_such_module\n", r"No module named 'no_such_module'\) at .*broken_2.py:3$"),
    ],
)
def test_a_module_with_a_fault(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = said.partition("broken_")[2][0]
    (tmp_path / f"broken_{module}.py").write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        find_representation(f"broken_{module}:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixels", "known: weights, statistics, or your own as module:function"),
        ("no_such_module:f", "the module 'no_such_module' cannot be imported"),
        (":f", "cannot be imported"),
        (f"{__name__}:nothing", "has no function 'nothing'"),
        (f"{__name__}:CNN_S", "has no function 'CNN_S'"),
        (f"{__name__}:wrong_rows", r"must return a matrix \[3, d\].*found \[1, 2464\]"),
        (f"{__name__}:not_finite", "returned NaN or infinite features"),
        (f"{__name__}:texts", "must return numbers"),
        (f"{__name__}:fails", r"failed on weights float32 \[3, 2464\] with KeyError: 'conv9' at"),
    ],
)
def test_ones_own_function_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        represent(name, find_representation(name), np.zeros((3, 2464), np.float32), CNN_S)
    assert repr(name) in str(error.value)


def rows_of(layout: Layout, rows: int) -> pa.Table:
    matrix = np.random.default_rng(rows).standard_normal((rows, layout.size), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), layout.size)
    architecture = pa.array(["cnn_s"] * rows)
    columns = {"architecture": architecture, "weights": column, "epoch": pa.array(range(rows))}
    return pa.table(columns)


def test_statistics_of_tables_and_batches() -> None:
    """In pieces, sliced, and with lists of any length, as engines give them."""
    table = rows_of(CNN_S, 23)
    matrix = np.stack(table["weights"].to_numpy())
    expected, names = statistics(matrix, CNN_S), statistic_names(CNN_S)
    assert names[:3] == ("conv1.weight.mean", "conv1.weight.variance", "conv1.weight.p1")
    assert len(set(names)) == len(names) == expected.shape[1]
    whole = statistics_table(table)
    assert whole.column_names == ["architecture", "epoch", *names]
    assert {whole.schema.field(name).type for name in names} == {pa.float64()}
    lists = table["weights"].cast(pa.list_(pa.float32()))
    pieces = [
        *(statistics_table(batch, CNN_S) for batch in table.to_batches(max_chunksize=5)),
        statistics_table(table.slice(23), CNN_S),
    ]
    for found in (
        whole,
        statistics_table(table.set_column(1, "weights", lists), CNN_S),
        pa.concat_tables(pieces),
        pa.concat_tables([statistics_table(table.slice(0, 9)), statistics_table(table.slice(9))]),
    ):
        assert np.array_equal(np.column_stack([found[name] for name in names]), expected)
        assert found["epoch"].to_pylist() == list(range(23))


def test_rows_without_statistics_are_refused() -> None:
    table, other = rows_of(CNN_S, 3), make_layout("cnn_s", 3)
    absent = pa.array([None] * 3, table["weights"].type)
    for bad, layout, message in (
        (table.drop_columns("weights"), CNN_S, "have no weights, only architecture, epoch"),
        (table, other, "expected 2864 weights in each row, found 2464"),
        (table.set_column(1, "weights", absent), CNN_S, "expected 2464 weights in each row, found"),
        (table.drop_columns("architecture"), None, "without a layout"),
        (table.slice(3), None, "without a layout"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            statistics_table(bad, layout)
