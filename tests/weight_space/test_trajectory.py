"""Trajectories and windows against a plain loop over the rows, in any order and with holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_dataset
from torch.utils.data import DataLoader

import model_zoos
from model_zoos.errors import InvalidArgument
from model_zoos.weight_space.trajectory import epoch_windows, pairs, trajectories
from tests.zoos import random_zoo


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    import dataclasses

    root = tmp_path_factory.mktemp("zoos")
    zoo = dataclasses.replace(model_zoos.zoo_spec("digits_cnn_s"), epochs=6)
    random_zoo(root, zoo, models=8)
    return load_dataset("model_zoos", "digits_cnn_s", data_dir=str(root), split="train")


def choose(rows: Dataset, case: str) -> Dataset:
    shuffled = rows.shuffle(seed=1)
    if case == "holes":
        kept = [i for i, row in enumerate(shuffled.select_columns(["epoch"])) if i % 5]
        return shuffled.select(kept)
    return {"in order": rows, "shuffled": shuffled}[case]


def by_state(rows: Dataset) -> dict[tuple[str, int], np.ndarray]:
    vectors = np.array(rows["weights"], np.float32)
    keys = zip(rows["model_id"], rows["epoch"], strict=True)
    return dict(zip(keys, vectors, strict=True))


@pytest.mark.parametrize("case", ["in order", "shuffled", "holes"])
def test_every_state_is_at_its_place(rows: Dataset, case: str) -> None:
    chosen = choose(rows, case)
    states, found = by_state(chosen), trajectories(chosen)
    assert found.model_ids == list(dict.fromkeys(chosen["model_id"]))
    assert found.epochs.tolist() == sorted(set(chosen["epoch"]))
    assert found.mask.sum() == len(chosen)
    for i, model in enumerate(found.model_ids):
        for j, epoch in enumerate(found.epochs.tolist()):
            expected = states.get((model, epoch))
            assert found.mask[i, j] == (expected is not None)
            assert (found.weights[i, j] == (0 if expected is None else expected)).all()


@pytest.mark.parametrize("case", ["in order", "shuffled", "holes"])
@pytest.mark.parametrize(("length", "step"), [(1, 1), (2, 1), (2, 3), (3, 2), (7, 1)])
def test_all_windows_and_no_others(rows: Dataset, case: str, length: int, step: int) -> None:
    chosen = choose(rows, case)
    states = by_state(chosen)
    expected = {
        (model, epoch)
        for model, epoch in states
        if all((model, epoch + step * i) in states for i in range(length))
    }
    if not expected:
        with pytest.raises(InvalidArgument, match=f"no model has {length} states"):
            epoch_windows(chosen, length, step)
        return
    windows = epoch_windows(chosen, length, step)
    assert {(w["model_id"], int(w["epochs"][0])) for w in windows} == expected
    assert len(windows) == len(expected)
    for window in windows:
        assert np.diff(window["epochs"]).tolist() == [step] * (length - 1)
        for vector, epoch in zip(window["weights"], window["epochs"], strict=True):
            assert (vector == states[window["model_id"], int(epoch)]).all()
    assert (windows[-1]["weights"] == windows[len(windows) - 1]["weights"]).all()
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_loader_shuffles_pairs_in_workers(rows: Dataset) -> None:
    steps = pairs(rows)
    loader = DataLoader(steps, batch_size=7, shuffle=True, num_workers=2)
    states, seen = by_state(rows), []
    for batch in loader:
        for pair, epochs, model in zip(*batch.values(), strict=True):
            seen.append((model, int(epochs[0])))
            assert (pair[1].numpy() == states[model, int(epochs[1])]).all()
    assert sorted(seen) == sorted((w["model_id"], int(w["epochs"][0])) for w in steps)


def test_refusals(rows: Dataset) -> None:
    with pytest.raises(InvalidArgument, match=f"{len(rows)} rows of this data set repeat"):
        trajectories(concatenate_datasets([rows, rows]))
    for missing in ("model_id", "epoch", "weights"):
        for function in (trajectories, pairs):
            with pytest.raises(InvalidArgument, match=f"has no {missing}"):
                function(rows.remove_columns(missing))
    with pytest.raises(InvalidArgument, match="do not stream"):
        pairs(rows.to_iterable_dataset())
    with pytest.raises(InvalidArgument, match="at least 1"):
        pairs(rows, step=0)


def test_models_of_several_zoos_may_share_their_ids(rows: Dataset) -> None:
    two: Any = concatenate_datasets([rows, rows.map(lambda row: {**row, "zoo": "other"})])
    assert len(trajectories(two).model_ids) == 2 * len(trajectories(rows).model_ids)
