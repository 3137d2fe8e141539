"""The transform of rows draws differently for each row and in each worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from model_zoos.errors import InvalidArgument
from model_zoos.weight_space.augmentation import PermuteUnits

from .layouts import PLAIN, logits, random_weights


def test_workers_permute_each_row_differently() -> None:
    layout = PLAIN[0]
    weights = np.repeat(random_weights(layout, 1), 8, axis=0)
    rows = Dataset.from_dict({"weights": list(weights), "test_acc": np.arange(8.0)})
    augmented = rows.with_transform(PermuteUnits(layout))
    torch.manual_seed(0)
    batches = list(DataLoader(augmented, batch_size=4, num_workers=2))
    seen = torch.cat([batch["weights"] for batch in batches])
    assert torch.cat([batch["test_acc"] for batch in batches]).tolist() == list(range(8))
    assert len({vector.numpy().tobytes() for vector in seen}) == 8
    assert (seen.sort(dim=1).values == torch.from_numpy(weights).sort(dim=1).values).all()
    torch.manual_seed(0)
    again = torch.cat([b["weights"] for b in DataLoader(augmented, batch_size=4, num_workers=2)])
    assert torch.equal(again, seen)
    stream = rows.to_iterable_dataset(num_shards=2).with_format("numpy")
    streamed = stream.map(PermuteUnits(layout), batched=True, batch_size=2)
    batches = list(DataLoader(streamed, batch_size=4, num_workers=2))
    seen = torch.cat([batch["weights"] for batch in batches])
    assert len({vector.numpy().tobytes() for vector in seen}) == 8
    with pytest.raises(ValueError, match="have no weights"):
        rows.select_columns("test_acc").with_transform(PermuteUnits(layout))[0]


@pytest.mark.parametrize("scales", [-1.0, 0.0, 0.5, float("nan"), (0.5, 2.0)])
def test_scales_are_checked_before_a_row_is_read(scales: Any) -> None:
    with pytest.raises(InvalidArgument, match="scales must be at least 1, found"):
        PermuteUnits(PLAIN[0], scales=scales)


def test_signs_and_scales_by_the_activation_of_each_row() -> None:
    layout = PLAIN[0]
    weights = 0.3 * np.repeat(random_weights(layout, 1), 3, axis=0)
    names = ["tanh", "relu", "sigmoid"]
    rows = Dataset.from_dict({"weights": list(weights), "activation": names})
    batch = rows.with_transform(PermuteUnits(layout, flips=True, scales=2.0))[:]
    images = torch.randn(4, 1, 28, 28)
    for given, found, name in zip(weights, batch["weights"], names, strict=True):
        before, after = (logits(w, "cnn_s", name, images) for w in (given, found))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    [tanh, relu, sigmoid] = np.sort(np.abs(batch["weights"]), axis=1)
    assert (tanh == np.sort(np.abs(weights[0]))).all()
    assert (sigmoid == tanh).all()
    assert (relu != tanh).any()
    assert (np.sort(batch["weights"][0]) != np.sort(weights[0])).any()
    one = PermuteUnits(layout, flips=True)({"weights": weights[0], "activation": "tanh"})
    assert one["weights"].shape == (2464,)
    with pytest.raises(ValueError, match="depend on the activation"):
        rows.remove_columns("activation").with_transform(PermuteUnits(layout, flips=True))[0]
