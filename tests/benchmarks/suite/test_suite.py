"""The suite: on a trained zoo, on zoos that lack what a part needs, and compared with itself."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_zoos.benchmarks import probes
from model_zoos.benchmarks.states import fingerprint, read_states
from model_zoos.benchmarks.suite import (
    PARTS,
    PROTOCOL,
    Measure,
    Part,
    Settings,
    SuiteResult,
    compare,
    novelty,
    prediction,
    read_result,
    run_suite,
    sampling,
    set_network,
)
from model_zoos.benchmarks.suite.zoo import open_zoo
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.zoo_directory import create_zoo
from model_zoos.cli import display
from model_zoos.errors import InvalidArgument, ZooNotFound
from tests.benchmarks.zoos import write_odd_zoos
from tests.cli.test_cli import run
from tests.zoos import random_zoo

SMALL = Settings(network_passes=1, samples=3, tuned=2, tuned_epochs=1, good=1.0)


def saved(result: SuiteResult, path: Path) -> Path:
    path.write_text(display.json_text(dataclasses.asdict(result)))
    return path


def without_seconds(result: SuiteResult) -> str:
    parts = [dataclasses.replace(part, seconds=0.0) for part in result.parts]
    return display.json_text(dataclasses.asdict(dataclasses.replace(result, parts=parts)))


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    """Few trees, steps and images."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(set_network, "PASS_ROWS", (64, 256))
        here.setitem(prediction.TREES, "n_estimators", 10)
        here.setattr(probes, "REPORTED_TREES", 5)
        here.setattr(novelty, "IMAGES", 100)
        yield


@pytest.fixture(scope="module")
def good_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits_cnn_s and other_cnn_s of random weights whose accuracy is in the first bias."""
    root = tmp_path_factory.mktemp("zoos")
    for seed, name in enumerate(("digits_cnn_s", "other_cnn_s")):
        zoo = dataclasses.replace(get_zoo("digits_cnn_s"), name=name, epochs=1)
        directory = create_zoo(root, zoo, engine="random values")
        generator = np.random.default_rng(seed)
        models = zoo.models(60)
        directory.add_splits(model.model_id for model in models)
        bias = next(slot for slot in zoo.layout.slots if slot.name == "conv1.bias")
        for model in models:
            weights = 0.05 * generator.standard_normal((2, zoo.layout.size), np.float32)
            accuracy = generator.random(2)
            weights[:, bias.slice] = accuracy[:, None]
            metrics = {f"{s}_acc": accuracy for s in ("train", "val", "test")}
            metrics |= {f"{s}_loss": 1 - accuracy for s in ("train", "val", "test")}
            directory.write_model(model.model_id, model.hyperparameters(), [0, 1], weights, metrics)
    return root


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the run of `trained` said."""
    return []


@pytest.fixture(scope="module")
def trained(digits_home: Path, said: list[str]) -> SuiteResult:
    return run_suite(
        "digits_cnn_s",
        digits_home,
        settings=SMALL,
        on_progress=lambda step, done, total: said.append(step),
    )


def test_trees_say_how_far_they_are(trained: SuiteResult, said: list[str]) -> None:
    pytest.importorskip("lightgbm")
    assert trained.parts[0].name == "prediction"
    for seen in ("s(W)", "W"):
        start = f"prediction: {seen}: trees"
        doing = [step for step in said if step.startswith(start)]
        targets = int(doing[-1].split(" of ")[1].split(",")[0])
        expected = [
            f"{start}, target {target} of {targets}, {trees} of up to 10 trees"
            for target in range(1, targets + 1)
            for trees in (5, 10)
        ]
        assert doing == [start, *expected]


def test_every_part_of_a_trained_zoo(trained: SuiteResult) -> None:
    assert trained.protocol == PROTOCOL
    assert [part.name for part in trained.parts] == list(PARTS)
    assert sum(trained.models.values()) == 20
    assert sum(trained.states.values()) == 120
    found = {part.name: part for part in trained.parts}
    assert "--against" not in found["generalisation"].not_obtained["all of it"]
    for name in set(PARTS) - {"generalisation"}:
        assert "all of it" not in found[name].not_obtained, found[name].not_obtained
        assert found[name].measures
        assert found[name].table().rows
    by = {measure.of[2] for measure in found["prediction"].measures}
    assert by == {*prediction.PREDICTORS, "set network", "highest without ties"}
    values = {(m.of[0], m.name): m.value for m in found["generation"].measures}
    for (of, name), value in values.items():
        assert 0 <= value <= 1 or name == "distance", (of, name)
    # A little noise keeps the function, more noise is further away.
    assert values["noise 0.1", "distance"] < values["noise 0.5", "distance"]
    assert values["noise 0.1", "overlap of errors"] > values["noise 0.5", "overlap of errors"]
    tuned = {(m.of[0], m.name): m.value for m in found["fine-tuning"].measures}
    assert tuned["initialisation", "epoch 1"] > 0
    for start in ("initialisation", "density in a subspace"):
        assert 0 <= tuned[start, "epochs saved"] <= 1
    # Of two fresh models, one is as good as their mean in the end.
    assert tuned["initialisation", "reached by"] > 0


def test_vectors_whose_outputs_are_not_finite_are_counted(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(good: np.ndarray, layout: object, count: int, seed: int) -> np.ndarray:
        new = good[:count].copy()
        new[0] = np.nan
        return new

    monkeypatch.setattr(novelty, "SAMPLERS", {"faulty": draw})
    monkeypatch.setitem(sampling.SAMPLERS, "faulty", draw)
    zoo = open_zoo("digits_cnn_s", digits_home, None, False, SMALL)
    notes = PARTS["generation"](zoo, [], lambda step: None).notes
    assert notes[-1].startswith("faulty: 1 of 3 vectors have outputs that are not finite;")


@pytest.mark.slow
def test_twice_the_same_numbers(trained: SuiteResult, digits_home: Path) -> None:
    again = run_suite("digits_cnn_s", digits_home, settings=SMALL)
    assert without_seconds(again) == without_seconds(trained)
    other = run_suite(
        "digits_cnn_s",
        digits_home,
        parts=["generation"],
        settings=dataclasses.replace(SMALL, seed=1),
    )
    assert other.parts[0].measures != trained.parts[2].measures


def test_json_and_back(trained: SuiteResult, tmp_path: Path) -> None:
    path = saved(trained, tmp_path / "a.json")
    back = read_result(path)
    assert saved(back, tmp_path / "b.json").read_bytes() == path.read_bytes()
    assert [table.markdown() for table in back.tables()] == [
        table.markdown() for table in trained.tables()
    ]
    same = compare(trained, back)
    assert len(same.pairs) == sum(len(part.measures) for part in trained.parts)
    assert all(pair.difference == 0 or np.isnan(pair.difference) for pair in same.pairs)
    assert (same.only_a, same.only_b) == ((), ())
    assert len(same.remarks) == 1  # that they are of the same states


# --- Predictions ----------------------------------------------------------------------------------


def scores(part: Part) -> dict[tuple[str, ...], float]:
    return {(*measure.of, measure.name): measure.value for measure in part.measures}


def test_what_the_weights_say_is_found_here_and_elsewhere(good_home: Path) -> None:
    result = run_suite(
        "digits_cnn_s",
        good_home,
        parts=list(PARTS)[:2],
        against=["other_cnn_s", "other-cnn-s"],  # the same one
        settings=dataclasses.replace(SMALL, network_passes=1),
    )
    within, across = result.parts
    assert within.settings["states"] == {"train": 84, "validation": 18, "test": 18}
    here = scores(within)
    assert here["test_acc", "s(W)", "ridge", "R2"] > 0.99
    assert here["test_acc", "W", "ridge", "tau"] > 0.9
    assert abs(here["epoch", "W", "ridge", "R2"]) < 0.9  # nothing says it
    assert "constant" in within.not_obtained["generalization_gap"]
    assert "absent" in within.not_obtained["sparsity"]
    there = scores(across)
    assert len(there) == len(across.measures)  # measured once
    for name in ("R2", "R2 own", "tau", "tau own"):
        assert there["other_cnn_s", "test_acc", "ridge", name] > 0.9, name
    intervals = [m.interval for m in within.measures if m.name == "R2"]
    assert np.isnan(intervals).all()  # 9 models in test are too few


def test_without_lightgbm_the_trees_are_not_obtained(
    good_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    (part,) = run_suite("digits_cnn_s", good_home, parts=list(PARTS)[:1], settings=SMALL).parts
    assert part.not_obtained["trees"].startswith("boosted trees need LightGBM")
    assert {measure.of[2] for measure in part.measures} >= {"ridge", "set network"}


def test_weights_that_do_not_fit_are_not_read(good_home: Path) -> None:
    settings = dataclasses.replace(SMALL, weights_bytes=1 << 20)
    (part,) = run_suite("digits_cnn_s", good_home, parts=list(PARTS)[:1], settings=settings).parts
    assert "too many" in part.not_obtained["W"]
    assert {measure.of[1] for measure in part.measures} == {"s(W)", ""}


@pytest.mark.slow
@pytest.mark.parametrize(("states", "epochs", "models"), [(70, [1], 60), (40, [1], 40)])
def test_many_states_are_thinned_out(
    states: int, epochs: list[int], models: int, good_home: Path
) -> None:
    settings = dataclasses.replace(SMALL, states=states)
    (part,) = run_suite("digits_cnn_s", good_home, parts=list(PARTS)[:1], settings=settings).parts
    assert part.settings["epochs"] == epochs
    assert sum(part.settings["models"].values()) == models
    assert "epoch" in part.not_obtained


# --- What a part needs ----------------------------------------------------------------------------


def test_diverged_states_are_counted_and_small_zoos_say_what_is_missing(tmp_path: Path) -> None:
    write_odd_zoos(tmp_path)
    result = run_suite("odd", tmp_path, settings=SMALL)
    within, across, generation, tuning = result.parts
    assert within.measures
    assert within.notes[0] == (
        "Left out: 2 states (weights not finite), 2 states (a weight above 5)."
    )
    assert "no other zoo" in across.not_obtained["all of it"]
    for part in (generation, tuning):
        assert "at least 5 are needed" in part.not_obtained["all of it"]


def test_the_sparsity_of_twins_is_predicted(tmp_path: Path) -> None:
    write_odd_zoos(tmp_path)
    (part,) = run_suite("odd_sparse", tmp_path, parts=["prediction"], settings=SMALL).parts
    assert ("sparsity", "s(W)", "ridge", "R2") in scores(part)


def test_a_zoo_of_two_models(tmp_path: Path) -> None:
    random_zoo(tmp_path, get_zoo("digits_cnn_s"), models=2)
    result = run_suite("digits_cnn_s", tmp_path, settings=SMALL)
    assert all(list(part.not_obtained) == ["all of it"] for part in result.parts)
    assert "digits_cnn_s has 0 usable states in" in result.parts[0].not_obtained["all of it"]
    assert all(table.rows for table in result.tables())


def test_without_images_predictions_are_still_made(good_home: Path, tmp_path: Path) -> None:
    zoo = dataclasses.replace(
        get_zoo("digits_cnn_s"), name="mine_cnn_s", images="mnist", image_dataset="mnist", epochs=1
    )
    random_zoo(tmp_path, zoo, models=40)
    settings = dataclasses.replace(SMALL, max_weight=10)
    result = run_suite("mine_cnn_s", tmp_path, images_dir=tmp_path / "none", settings=settings)
    assert result.parts[0].measures
    for part in result.parts[2:]:
        assert "MNIST" in part.not_obtained["all of it"]


@pytest.mark.parametrize(
    ("part", "column"),
    [("generation", "activation"), ("fine-tuning", "batch_size"), ("fine-tuning", "init")],
)
def test_what_a_source_does_not_say_is_named(part: str, column: str, digits_home: Path) -> None:
    zoo = open_zoo("digits_cnn_s", digits_home, None, False, SMALL)
    states, unknown = zoo.states, np.full(len(zoo.states), None, object)
    states = dataclasses.replace(states, columns={**states.columns, column: unknown})
    with pytest.raises(InvalidArgument, match=f"the source does not say the models' {column}"):
        PARTS[part](dataclasses.replace(zoo, states=states), [], lambda step: None)


def test_other_layouts_and_the_zoo_itself_are_refused(good_home: Path, tmp_path: Path) -> None:
    (tmp_path / "digits_cnn_s").symlink_to(good_home / "digits_cnn_s")
    random_zoo(tmp_path, dataclasses.replace(get_zoo("cifar10_cnn_s_seed"), epochs=1), models=5)
    (part,) = run_suite(
        "digits_cnn_s",
        tmp_path,
        parts=["generalisation"],
        against=["cifar10_cnn_s_seed"],
        settings=SMALL,
    ).parts
    assert "its layout is" in part.not_obtained["cifar10_cnn_s_seed"]
    with pytest.raises(InvalidArgument, match="against itself"):
        run_suite("digits_cnn_s", tmp_path, against=["digits_cnn_s"])
    with pytest.raises(ZooNotFound):
        run_suite("digits_cnn_s", tmp_path, against=["usps_cnn_s_seed"])
    with pytest.raises(InvalidArgument, match="unknown part 'x'"):
        run_suite("digits_cnn_s", tmp_path, parts=["x"])


def test_the_fingerprint_sees_ids_epochs_and_metrics(good_home: Path) -> None:
    states = read_states("digits_cnn_s", good_home)
    assert fingerprint(states) == fingerprint(read_states("digits_cnn_s", good_home))
    assert fingerprint(states) != fingerprint(read_states("other_cnn_s", good_home))
    for column in ("test_acc", "epoch", "model_id", "split"):
        values = states[column].copy()
        values[7] = "other" if values.dtype == object else values[7] + 1
        changed = dataclasses.replace(states, columns={**states.columns, column: values})
        assert fingerprint(changed) != fingerprint(states), column


# --- Comparison -----------------------------------------------------------------------------------


def result(*measures: Measure, part: str = "generation", protocol: str = PROTOCOL) -> SuiteResult:
    counts = {"train": 1, "validation": 1, "test": 1}
    parts = [Part(part, "title", ("what",), measures)]
    return SuiteResult(protocol, "z", counts, counts, "d", {"seed": 0}, {"torch": "2"}, parts)


def test_intervals_overlap_or_not() -> None:
    nan = float("nan")
    cases = [
        ((0.1, 0.2), (0.2, 0.3), True),
        ((0.1, 0.4), (0.2, 0.3), True),
        ((0.2, 0.3), (0.1, 0.4), True),
        ((0.1, 0.2), (0.21, 0.3), False),
        ((0.21, 0.3), (0.1, 0.2), False),
        ((nan, nan), (0.1, 0.2), None),
    ]
    for number, (mine, theirs, expected) in enumerate(cases):
        of = (f"case {number}",)
        found = compare(
            result(Measure(of, "accuracy", 0.5, mine)),
            result(Measure(of, "accuracy", 0.75, theirs)),
        )
        assert found.pairs[0].overlap is expected, number
        assert found.pairs[0].difference == 0.25


def test_what_only_one_has_is_named() -> None:
    both, mine = Measure(("a", "ridge"), "x", 1.0), Measure(("b",), "x", 1.0)
    more = [Measure(("a", "ridge"), "y", 1.0), Measure(("a", "trees"), "x", 1.0)]
    found = compare(result(both, *more), result(both))
    assert found.only_a == ("generation, a, ridge (y)", "generation, a, trees (x)")
    found = compare(result(both, mine), result(both))
    assert (found.only_a, found.only_b) == (("generation, b",), ())
    others = [Measure(("c", method), "x", 1.0) for method in ("ridge", "trees")]
    assert compare(result(both, *others), result(both)).only_a == ("generation, c",)
    found = compare(result(both), result(both, part="fine-tuning"))
    assert (found.only_a, found.only_b) == (("generation",), ("fine-tuning",))
    assert found.tables()[0].notes[-1] == "Only B has: fine-tuning."


def test_settings_and_versions_that_differ_are_said() -> None:
    mine = result(Measure(("a",), "x", 1.0))
    theirs = dataclasses.replace(mine, settings={"seed": 1}, versions={"torch": "3"}, digest="e")
    notes = " ".join(compare(mine, theirs).tables()[0].notes)
    assert "Settings differ (seed 0 and 1)" in notes
    assert "torch 2 and 3" in notes
    assert "other states" in notes
    theirs = dataclasses.replace(mine, settings={"seed": 0, "more": 2})
    assert "Settings differ (more - and 2)" in " ".join(compare(mine, theirs).remarks)


def test_settings_of_a_part_and_what_was_not_obtained_are_said() -> None:
    mine = result(Measure(("a",), "x", 1.0))
    settings = ({"samples": 32, "epochs": [1], "a": 1}, {"samples": 16, "epochs": [2], "b": 0.5})
    a, b = (
        dataclasses.replace(mine, parts=[dataclasses.replace(mine.parts[0], settings=one)])
        for one in settings
    )
    assert compare(a, b).remarks[-1] == (
        "Settings of generation differ: samples 32 and 16; epochs; a 1 and -; b - and 0.5."
    )
    lacking = Part("generation", "", not_obtained={"all of it": "no images"})
    remarks = compare(mine, dataclasses.replace(mine, parts=[lacking])).remarks
    assert remarks[-1] == "Not obtained in B: generation, all of it: no images"
    assert len(compare(mine, mine).remarks) == 1


def test_other_protocols_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'model_zoos suite 1', b of 'model_zoos suite 0'"):
        compare(result(), result(protocol="model_zoos suite 0"), ("a", "b"))


def malformed(**change: object) -> dict[str, Any]:
    """A part of one measure, whose entries are other ones."""
    measure = {"of": ["a"], "name": "x", "value": 1.0, "interval": [None, None], **change}
    return {**dataclasses.asdict(result().parts[0]), "measures": [measure]}


CHANGES = [
    {"parts": 3},
    {"parts": [1]},
    {"more": 1},
    {"settings": 3},
    {"models": {"train": "x"}},
    {"models": {}},
    {"settings": []},
    {"versions": [["torch", "2"]]},
    {"digest": None},
    {"parts": [malformed(of="abc")]},
    {"parts": [malformed(of=["a", "b"])]},
    {"parts": [malformed(value="1")]},
    {"parts": [malformed(interval=[0, 1, 2])]},
    {"parts": [{**malformed(), "notes": "n"}]},
]


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**dataclasses.asdict(result()), "parts": [malformed()]}))
    assert read_result(path).parts[0].measures[0].value == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"zoo": "z", "scores": []}', '{"protocol": "model_zoos suite 1"}']
    + [json.dumps({**dataclasses.asdict(result()), **change}) for change in CHANGES],
)
def test_files_that_are_not_of_the_suite_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=r"other\.json"):
        read_result(path)


# --- The command ----------------------------------------------------------------------------------


def test_the_command_writes_and_compares(digits_home: Path, tmp_path: Path) -> None:
    arguments = ["benchmark", "digits_cnn_s", "--data-dir", str(digits_home), "--suite"]
    arguments += ["--part", "generalisation"]
    shown = run(*arguments, cwd=tmp_path).stdout
    assert "no other zoo is given" in shown
    found = json.loads((tmp_path / "digits_cnn_s-suite.json").read_text())
    assert found["protocol"] == PROTOCOL
    name = "digits_cnn_s-suite.json"
    compared = run("benchmark", "--compare", name, name, cwd=tmp_path).stdout
    assert "A: digits_cnn_s-suite.json (digits_cnn_s)" in compared
    as_json = run("benchmark", "--compare", name, name, "--json", cwd=tmp_path).stdout
    assert json.loads(as_json)["pairs"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite"], "name a zoo"),
        (["digits_cnn_s", "--suite", "--epochs", "1"], "fixed protocol, without --epochs"),
        (["digits_cnn_s", "--part", "generation"], "only --suite takes --part"),
        (["digits_cnn_s", "--compare", "a", "b"], "--compare takes two files, and not a zoo"),
        (["--compare", "a.json", "b.json"], "a.json: there is no such file"),
        (["digits_cnn_s", "--suite", "--part", "x"], "unknown part"),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: list[str], message: str, tmp_path: Path, digits_home: Path
) -> None:
    given = ["benchmark", *arguments]
    if "--compare" not in given:
        given += ["--data-dir", str(digits_home)]
    assert message in " ".join(run(*given, cwd=tmp_path, code=1).stderr.split())
