"""Splits: shares, stability, independence of order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from model_zoos.builders.splits import (
    FEWEST_MODELS,
    SHARES,
    SPLITS,
    assign_splits,
    why_empty,
)

ids = st.lists(st.integers(0, 10**6).map(lambda i: f"{i:012x}"), unique=True, max_size=300)


@given(ids, st.randoms())
def test_order_of_the_models_does_not_matter(models: list[str], chance: object) -> None:
    shuffled = list(models)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_splits({}, models) == assign_splits({}, shuffled)


@given(ids, st.data())
def test_models_added_later_move_no_other_and_keep_the_shares(
    models: list[str], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(models)))
    first = assign_splits({}, models[:cut])
    later = assign_splits(first, models)
    assert {model: later[model] for model in first} == first
    counts = Counter(later.values())
    assert set(later) == set(models)
    for split in SPLITS:
        assert abs(counts[split] - SHARES[split] * len(models)) <= 1


def test_a_published_split_is_kept_whatever_its_shares() -> None:
    given_splits = {f"{i}": "test" for i in range(10)}
    later = assign_splits(given_splits, [*given_splits, "a", "b"])
    assert [later[str(i)] for i in range(10)] == ["test"] * 10
    assert later["a"] == later["b"] == "train"


def test_1000_models() -> None:
    counts = Counter(assign_splits({}, [f"{i:012x}" for i in range(1000)]).values())
    assert counts == {"train": 700, "validation": 150, "test": 150}


@given(ids)
def test_a_few_models_fill_all_splits(models: list[str]) -> None:
    counts = Counter(assign_splits({}, models).values())
    assert all(counts[split] for split in SPLITS) == (len(models) >= FEWEST_MODELS)
    assert (why_empty(counts) == "") == (not models or len(models) >= FEWEST_MODELS)
    twins = why_empty({"train": 14, "test": 2})
    assert twins.startswith("validation has no model: ")
    assert twins.endswith(
        "here 14/0/2, and twins are in the splits of their parents: more parents must have twins"
    )


def test_empty_splits_are_explained() -> None:
    assert why_empty({"train": 2}) == (
        "validation and test have no model: models are split 70/15/15, here 2/0/0, and from 5 "
        "models on each split has one"
    )
    assert why_empty({"train": 3, "validation": 1, "test": 0}).startswith("test has no model")
