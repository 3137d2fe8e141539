"""How long a training will take is told from the work that is done."""

from __future__ import annotations

import pytest

from model_zoos.generation.engines import track as tracks
from model_zoos.generation.engines.track import Track, seconds_left

SIZES = {"train": 50, "val": 20, "test": 30}


class Watch:
    """A clock that is set by hand, where the module asks for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(tracks.time, "monotonic", lambda: self.now)


def run(watch: Watch, track: Track, seconds: dict[bool, float], until: int) -> None:
    """Pass through the first passes; an image takes so long in training, and so in evaluation."""
    passes = [(name, False) for name in SIZES]
    passes += [(name, name == "train") for name in SIZES] * 3
    for name, trained in passes[:until]:
        track.begin(name, trained)
        watch.now += seconds[trained] * SIZES[name]
        track.end()
    track.look(0)


@pytest.mark.parametrize("ratio", [1.5, 3, 12])
def test_training_and_evaluation_are_measured_apart(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    watch, track = Watch(monkeypatch), Track(SIZES, 3)
    speed = {False: 0.01, True: 0.01 * ratio}
    rest = [0.5, 0.2, 0.3, *(0.5 * ratio, 0.2, 0.3) * 3]  # seconds of each pass
    assert seconds_left([track], 1) is None
    for number in range(4, 13):
        track = Track(SIZES, 3)
        run(watch, track, speed, number)
        assert seconds_left([track], 1) == pytest.approx(sum(rest[number:]))
        assert track.states == pytest.approx(number / 3, abs=0.7)
    assert track.states == 4


def test_a_block_waits_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    blocks = [Track(SIZES, 3, cost) for cost in (1, 1, 1, 4)]
    run(watch, blocks[0], {False: 0.01, True: 0.03}, 12)
    whole = watch.now - 100
    # One thread takes the two small blocks, the other the large one.
    assert seconds_left(blocks, 2) == pytest.approx(5 * whole)
    assert seconds_left(blocks, 1) == pytest.approx(6 * whole)
    assert seconds_left(blocks, 8) == pytest.approx(4 * whole)
    blocks[3].skip()
    blocks[3].look(0)
    assert seconds_left(blocks, 2) == pytest.approx(whole)
    assert blocks[3].states == 4


def test_the_running_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, track = Watch(monkeypatch), Track(SIZES, 2)
    track.begin("train")
    watch.now += 1
    track.look(0.5)
    assert track.states == pytest.approx(25 / 100)
    # 0.04 s an image; in training, which is not measured yet, three times as much.
    assert seconds_left([track], 1) == pytest.approx(0.04 * (75 + 2 * 50) + 0.12 * 100)
    track.end()
    track.look(0)
    assert track.states == pytest.approx(50 / 100)
    before = track.states
    track.begin("val")
    track.look(0)  # the population has not begun yet
    assert track.states == before
