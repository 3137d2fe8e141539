"""What a user writes between load_dataset and a batch: at most five lines, of public names only."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from torch.utils.data import DataLoader

import model_zoos

LINES = 5
COLUMNS = ["weights", "architecture", "test_acc"]


def layers(rows: Any) -> Any:
    layout = model_zoos.layout_of(rows[0])
    batch = model_zoos.to_layers(model_zoos.weights(rows)[:16], layout)
    return [(layer["weight"], layer["bias"]) for layer in batch.values()]


def tokens(rows: Any) -> Any:
    layout = model_zoos.layout_of(rows[0])
    return model_zoos.to_tokens(model_zoos.weights(rows)[:16], layout, width=64)


def graphs(rows: Any) -> Any:
    from torch_geometric.loader import DataLoader

    data = model_zoos.to_graphs(model_zoos.weights(rows), model_zoos.layout_of(rows[0])).to_pyg()
    return next(iter(DataLoader(data, batch_size=16)))


def augmented(rows: Any) -> Any:
    augment = model_zoos.PermuteUnits(model_zoos.layout_of(rows[0]))
    loader = DataLoader(rows.with_transform(augment), batch_size=16, num_workers=2)
    return next(iter(loader))


def pairs(rows: Any) -> Any:
    loader = DataLoader(model_zoos.pairs(rows), batch_size=16, shuffle=True)
    return next(iter(loader))


def check_layers(batch: Any) -> None:
    assert [tuple(weight.shape) for weight, _ in batch] == [
        (16, 8, 1, 5, 5), (16, 6, 8, 5, 5), (16, 4, 6, 2, 2), (16, 20, 36), (16, 10, 20)
    ]  # fmt: skip
    assert [tuple(bias.shape) for _, bias in batch] == [(16, n) for n in (8, 6, 4, 20, 10)]


def check_tokens(batch: Any) -> None:
    # 8 channels of 26 numbers, 6 of 201 in four pieces, 4 of 25, 20 of 37, 10 of 21
    assert batch.tokens.shape == (16, 8 + 4 * 6 + 4 + 20 + 10, 64)
    assert batch.mask.shape == (66, 64)
    assert batch.positions.shape == (66, 3)


def check_graphs(batch: Any) -> None:
    # The pixel, 8, 6 and 4 channels, 20 and 10 units; an edge between any two of neighbours
    edges = 1 * 8 + 8 * 6 + 6 * 4 + 4 * 20 + 20 * 10
    assert (batch.num_graphs, batch.num_nodes, batch.num_edges) == (16, 16 * 49, 16 * edges)


def check_augmented(batch: Any) -> None:
    assert batch["weights"].shape == (16, 2464)
    assert batch["test_acc"].shape == (16,)


def check_pairs(batch: Any) -> None:
    assert batch["weights"].shape == (16, 2, 2464)
    assert (batch["epochs"][:, 1] - batch["epochs"][:, 0]).tolist() == [1] * 16


@pytest.mark.parametrize(
    ("glue", "check", "columns"),
    [
        (layers, check_layers, None),
        (tokens, check_tokens, None),
        (graphs, check_graphs, None),
        (augmented, check_augmented, COLUMNS),
        (pairs, check_pairs, ["weights", "model_id", "epoch"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_glue_is_short(digits_home: Path, glue: Any, check: Any, columns: Any) -> None:
    if glue is graphs:
        pytest.importorskip("torch_geometric")
    name, home = "digits_cnn_s", str(digits_home)
    rows = load_dataset("model_zoos", name, data_dir=home, split="train", columns=columns)
    check(glue(rows))
    body = inspect.getsource(glue).strip().splitlines()[1:]
    assert len(body) + 1 <= LINES  # with the line of load_dataset
