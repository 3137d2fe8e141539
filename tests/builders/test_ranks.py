"""Ranks: which one this process is, and how work is dealt to all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_zoos.builders.machine import cores
from model_zoos.builders.ranks import ALONE, Rank, deal, find_rank, launched_rank, rank_cores
from model_zoos.errors import InvalidArgument


@given(st.lists(st.floats(0.5, 1e9), max_size=40), st.integers(1, 9))
def test_work_is_dealt_evenly(costs: list[float], count: int) -> None:
    loads = [0.0] * count
    owners = deal(costs, loads)
    assert owners == deal(costs, [0.0] * count)
    assert len(owners) == len(costs)
    for rank, load in enumerate(loads):
        own = [cost for owner, cost in zip(owners, costs, strict=True) if owner == rank]
        assert load == pytest.approx(sum(own))
    # No rank has more than the mean and one piece besides.
    assert max(loads) <= sum(costs) / count + max(costs, default=0) * (1 + 1e-9)


def test_equal_pieces_are_dealt_in_turn() -> None:
    loads = [0.0] * 3
    assert deal([1] * 7, loads) == [0, 1, 2, 0, 1, 2, 0]
    assert deal([1, 5], loads) == [2, 1]  # where the last deal has ended


@pytest.mark.parametrize(("index", "count"), [(4, 4), (16, 16), (-1, 2), (1, 1), (0, 0), (0, -3)])
def test_a_rank_out_of_range_is_refused(index: int, count: int) -> None:
    with pytest.raises(InvalidArgument, match=r"found -?\d+"):
        find_rank(index, count)


@pytest.mark.parametrize(("index", "count"), [(None, 4), (3, None)])
def test_half_a_rank_is_refused(index: int | None, count: int | None) -> None:
    with pytest.raises(InvalidArgument, match="go together"):
        find_rank(index, count)


def test_a_launcher_tells_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_rank(None, None) == ALONE == Rank(0, 1)
    assert rank_cores() == cores()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert find_rank(None, None) == Rank(2, 3)
    assert find_rank(1, 5) == Rank(1, 5)  # what is typed counts
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * cores()))
    assert rank_cores() == 1
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(InvalidArgument, match="must be numbers"):
        launched_rank()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("WORLD_SIZE", "4", "WORLD_SIZE is 4, but RANK is not"), ("RANK", "2", "WORLD_SIZE is not")],
)
def test_half_of_a_launchers_variables_are_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match=message):
        launched_rank()


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "1"), ("RANK", "0")])
def test_one_rank_needs_one_variable_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert launched_rank() == ALONE
