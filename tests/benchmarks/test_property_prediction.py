"""Probes against scikit-learn, scipy and the original's own output; protocol; refusals."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model_zoos.benchmarks import bootstrap, probes, property_prediction
from model_zoos.benchmarks import rows as rows_module
from model_zoos.benchmarks.logistic import STEPS, C, logistic
from model_zoos.benchmarks.probes import STRENGTHS, ridge
from model_zoos.benchmarks.property_prediction import predict_properties
from model_zoos.benchmarks.property_result import Result
from model_zoos.benchmarks.rows import refuse_leakage, split_by_value
from model_zoos.benchmarks.states import fingerprint, read_states
from model_zoos.benchmarks.versions import matrix_threads
from model_zoos.builders.catalog import get_zoo
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.zoo_directory import create_zoo, open_zoo
from model_zoos.errors import BoostingUnavailable, InvalidArgument, Leakage, TooFewModels
from tests.documents import ROOT
from tests.shared import SEED_ZOO, SHARED, needs_shared
from tests.zoos import random_zoo

SPLITS = ("train", "validation", "test")
NUMBERS = ["test_acc", "epoch", "generalization_gap"]


def test_the_17_strengths_of_the_original() -> None:
    assert len(STRENGTHS) == 17
    assert STRENGTHS[:4] == (1e3, 3e2, 1e2, 3e1)
    assert STRENGTHS[-2:] == (3e-5, 1e-5)


# --- Splits by a hyperparameter -------------------------------------------------------------------


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo in which nothing but the start, which models of a seed share, tells the accuracy."""
    zoo = get_zoo("digits_cnn_s")
    root = tmp_path_factory.mktemp("starts")
    directory = create_zoo(root, zoo, engine="made")
    generator = np.random.default_rng(0)
    for seed in range(20):
        start = generator.standard_normal(zoo.layout.size)
        accuracy = generator.random()
        for number in range(10):
            noise = generator.standard_normal(zoo.layout.size) / 10
            directory.write_model(
                f"{seed}_{number}",
                {"seed": seed, "activation": "tanh"},
                [1],
                (start + noise)[None].astype(np.float32),
                {"test_acc": [accuracy]},
            )
    return root


def test_a_split_by_seed_takes_away_what_a_shared_start_tells(starts: Path) -> None:
    by_model, by_seed = (
        predict_properties(
            "digits_cnn_s",
            starts,
            representations=["weights"],
            targets=["test_acc", "sparsity"],  # which is absent
            split_by=by,
        )
        for by in (None, "seed")
    )
    [shared], [apart] = by_model.scores, by_seed.scores
    assert shared.r2["test"] > 0.9
    assert apart.r2["test"] < 0.2
    scores, used = by_seed.tables()
    assert used.rows[0] == ("values of seed", "14", "3", "3")
    few = "The intervals are over models of 3 values of seed and say nothing about others."
    assert scores.notes == (few,)
    many = dataclasses.replace(by_seed, values=dict.fromkeys(SPLITS, 10))
    assert few not in by_model.tables()[0].notes + many.tables()[0].notes
    assert [row[0] for row in by_model.tables()[-1].rows] == ["models", "states"]


def test_all_rows_of_a_value_are_in_one_split(starts: Path) -> None:
    loaded = datasets.load_dataset("model_zoos", "digits_cnn_s", data_dir=str(starts))
    found, values = split_by_value(loaded, "seed", "digits_cnn_s")
    seeds = {split: set(found[split]["seed"]) for split in SPLITS}
    assert [len(seeds[split]) for split in SPLITS] == [values[s] for s in SPLITS] == [14, 3, 3]
    assert not seeds["train"] & seeds["validation"]
    assert not (seeds["train"] | seeds["validation"]) & seeds["test"]
    rows = [(row["model_id"], row["weights"]) for s in SPLITS for row in found[s]]
    assert sorted(rows) == sorted((r["model_id"], r["weights"]) for s in SPLITS for r in loaded[s])


def test_the_page_has_the_numbers_of_models_that_share_a_start() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    for split, name in (("the zoo's own, by model", "shared"), ("by seed", "apart")):
        path = ROOT / "benchmarks" / "results" / f"usps_cnn_s_starts-{name}.json"
        found = Result.from_json(json.loads(path.read_text()))
        for score in found.scores:
            if score.target == "test_acc":
                low, high = score.r2_interval
                numbers = (
                    f"{score.r2['test']:.3f} | [{low:.3f}, {high:.3f}] | {score.tau['test']:.3f}"
                )
                assert f"| {split} | {score.representation} | {numbers} |" in page


def test_a_split_that_cannot_be(starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(property_prediction, "load_dataset", None)  # weights are not read for it
    with pytest.raises(TooFewModels, match=r"digits_cnn_s cannot be .* 1 value of activation, and"):
        predict_properties("digits_cnn_s", starts, targets=["test_acc"], split_by="activation")
    with pytest.raises(InvalidArgument, match="unknown hyperparameter 'test_acc'"):
        predict_properties("digits_cnn_s", starts, targets=["test_acc"], split_by="test_acc")


# --- Ridge ----------------------------------------------------------------------------------------


def random_problem(columns: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    generator = np.random.default_rng(columns)
    truth = generator.standard_normal((columns, 2))
    features, values = {}, {}
    for split, rows in zip(SPLITS, (40, 20, 30), strict=True):
        features[split] = (generator.standard_normal((rows, columns)) + 3).astype(np.float32)
        values[split] = features[split] @ truth + 5 + generator.standard_normal((rows, 2))
    return features, values


@pytest.mark.parametrize("offset", ["free", "regularised"])
@pytest.mark.parametrize("columns", [5, 39, 40, 80])  # fewer and more columns than rows
def test_ridge_is_scikit_learns(columns: int, offset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BLOCK_BYTES", 1000)  # several blocks
    features, values = random_problem(columns)

    def seen(split: str) -> np.ndarray:
        x = features[split].astype(np.float64)
        return x if offset == "free" else np.column_stack([x, np.ones(len(x))])

    for target, (strength, predicted) in enumerate(ridge(features, values, offset)):
        predictions = {}
        for candidate in STRENGTHS:
            model = Ridge(candidate, solver="svd", fit_intercept=offset == "free")
            model.fit(seen("train"), values["train"][:, target])
            predictions[candidate] = {split: model.predict(seen(split)) for split in SPLITS}
        best = max(
            STRENGTHS,
            key=lambda candidate: r2_score(
                values["validation"][:, target], predictions[candidate]["validation"]
            ),
        )
        assert strength == best
        for split in SPLITS:
            assert np.allclose(predicted[split], predictions[best][split], rtol=0, atol=1e-6)


def test_standardised_features_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BLOCK_BYTES", 400)  # several blocks
    features, _ = random_problem(7)
    features["train"][:, 3] = features["test"][:, 3] = 2  # does not vary
    mean, deviation = (
        getattr(features["train"].astype(np.float64), name)(axis=0) for name in ("mean", "std")
    )
    deviation[3] = 1
    for split, found in probes.standardise(features).items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, (features[split] - mean) / deviation, 1e-6, 1e-6)


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_usable_rows_in_any_order(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((40, 6)).astype(np.float32)
    weights[[3, 8], [1, 2]] = np.nan, 7
    columns = {
        "zoo": ["z"] * 40,
        "model_id": [f"model_{number // 4}" for number in range(40)],
        "epoch": [number % 4 for number in range(40)],
        "test_acc": [None if number == 21 else number / 8 for number in range(40)],
        "init": [None if number < 4 else f"init {number % 3}" for number in range(40)],
    }
    features = datasets.Features(
        {
            **{name: datasets.Value("string") for name in ("zoo", "model_id", "init")},
            "epoch": datasets.Value("int64"),
            "test_acc": datasets.Value("float32"),
            "weights": datasets.List(datasets.Value("float32"), length=6),
        }
    )
    ordered = datasets.Dataset.from_dict({**columns, "weights": weights.tolist()}, features)
    kept = np.setdiff1d(np.arange(40), [3, 8, 21])
    for dataset in (ordered, ordered.select(generator.permutation(40))):
        left_out: dict[str, int] = {}
        found = rows_module.read_rows(dataset, ["test_acc"], ["init"], 5.0, left_out)
        assert found.weights.tobytes() == weights[kept].tobytes()
        assert found.columns["test_acc"].tolist() == (kept / 8).tolist()
        assert found.columns["init"].tolist() == [columns["init"][row] for row in kept]
        assert found.model.tolist() == (kept // 4).tolist()
        assert left_out == {"weights not finite": 1, "a weight above 5": 1, "target absent": 1}


def test_a_validation_split_that_does_not_vary() -> None:
    features, values = random_problem(5)
    values["validation"][:] = 1
    (strength, predicted), _ = ridge(features, values)
    assert strength == STRENGTHS[0]
    assert np.isfinite(predicted["test"]).all()


# --- Parity with the original ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> dict:
    path = SHARED / "data" / "raw_zoos" / "reference" / f"{SEED_ZOO}.json"
    return json.loads(path.read_text())


@needs_shared
@pytest.mark.parametrize("order", ["sorted", "as_listed"])
def test_the_originals_benchmark(order: str, tmp_path: Path, reference: dict) -> None:
    """Its rows, its splits, its ridge: its R2. Of `as_listed` the reference has the rows alone."""
    import_zoo(SHARED / "data" / "raw_zoos" / f"{SEED_ZOO}.zip", tmp_path)
    names = {"train": "train", "val": "validation", "test": "test"}
    splits = {
        trial: ours
        for theirs, ours in names.items()
        for trial in reference[order][theirs]["trials"]
    }
    path = open_zoo(tmp_path, SEED_ZOO).path / "splits.json"
    assert set(json.loads(path.read_text())) == set(splits)
    path.write_text(json.dumps(splits))
    result = predict_properties(
        SEED_ZOO,
        tmp_path,
        targets=NUMBERS,
        epochs=reference["epochs"],
        max_weight=reference["weight_threshold"],
        offset="regularised",
    )
    assert result.states == {ours: reference[order][s]["rows"] for s, ours in names.items()}
    assert sum(result.left_out.values()) == 0
    targets = {"test_acc": "test_acc", "epoch": "training_iteration", "generalization_gap": "ggap"}
    expected = reference[order].get("benchmark_as_published") or {
        kind: plain_benchmark(order, kind, reference[order], list(targets.values()))
        for kind in ("weights", "stats")
    }
    for score in result.scores:
        theirs = expected["stats" if score.representation == "statistics" else "weights"]
        for split, ours in names.items():
            r2 = theirs[f"{targets[score.target]}_{split}"]
            assert score.r2[ours] == pytest.approx(r2, abs=1e-3, rel=1e-5)


def plain_benchmark(order: str, kind: str, rows: dict, targets: list[str]) -> dict[str, float]:
    """The original's ridge in the plainest way, on the reference's own features."""
    arrays = np.load(SHARED / "data" / "raw_zoos" / "reference" / f"{SEED_ZOO}.npz")
    key = {"weights": "weights", "stats": "quintiles"}[kind]
    x = {s: arrays[f"{order}_{s}_{key}"].astype(np.float64) for s in ("train", "val", "test")}
    x = {split: np.column_stack([a, np.ones(len(a))]) for split, a in x.items()}
    found = {}
    for target in targets:
        y = {split: np.array(rows[split]["properties"][target], float) for split in x}
        fits = []
        for strength in STRENGTHS:
            # In the form for few rows, which is the same: (X'X + s)^-1 X'y = X'(XX' + s)^-1 y.
            gram = x["train"] @ x["train"].T + strength * np.eye(len(x["train"]))
            solution = x["train"].T @ np.linalg.solve(gram, y["train"])
            fits.append({split: r2_score(y[split], x[split] @ solution) for split in x})
        best = max(fits, key=lambda fit: fit["val"])
        found |= {f"{target}_{split}": r2 for split, r2 in best.items()}
    return found


@needs_shared
def test_the_plain_benchmark_is_the_originals(reference: dict) -> None:
    """So that it can stand for the numbers which the reference lacks."""
    targets = ["test_acc", "training_iteration", "ggap"]
    for kind, theirs in reference["sorted"]["benchmark_as_published"].items():
        found = plain_benchmark("sorted", kind, reference["sorted"], targets)
        assert found == pytest.approx(theirs, abs=1e-3, rel=1e-5)


# --- Intervals ------------------------------------------------------------------------------------


@pytest.fixture(params=["as is", "small parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows as one part, and cut as often as many rows are."""
    if request.param == "small parts":
        for name, size in (("_COUNTS", 100), ("_FEW", 3), ("_GROUPS", 2)):
            monkeypatch.setattr(bootstrap, name, size)


def rows_of_sample(model: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of a bootstrap sample, one after the other."""
    drawn = np.repeat(np.arange(len(counts)), counts.astype(int))
    return np.concatenate([np.flatnonzero(model == number) for number in drawn])


def test_intervals_are_those_of_a_plain_bootstrap(
    parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    generator = np.random.default_rng(1)
    model = np.repeat(np.arange(12), generator.integers(1, 6, 12))
    truth = np.round(generator.random(len(model)), 1) + 10  # ties, and far from 0
    prediction = np.round(truth + generator.standard_normal(len(model)) / 5, 1)
    r2, tau = [], []
    for counts in np.concatenate(list(bootstrap.resamples(12))):
        rows = rows_of_sample(model, counts)
        r2.append(r2_score(truth[rows], prediction[rows]))
        tau.append(kendalltau(truth[rows], prediction[rows]).statistic)
    found = bootstrap.number_intervals(truth, prediction, model)
    assert found[0] == pytest.approx(np.percentile(r2, [2.5, 97.5]), abs=1e-9)
    assert found[1] == pytest.approx(np.percentile(tau, [2.5, 97.5]), abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*invalid value.*:RuntimeWarning")
@pytest.mark.parametrize(("truths", "predictions"), [(1, 1), (1, 7), (2, 1), (2, 3), (40, 0)])
@pytest.mark.parametrize("rows", [2, 13, 300])
def test_tau_of_samples_is_scipys(rows: int, truths: int, predictions: int, parts: None) -> None:
    """With so many values, of which 1 is constant and 0 stands for no ties at all."""
    generator = np.random.default_rng(rows)
    truth = generator.integers(truths, size=rows) - 0.5
    prediction = generator.random(rows)
    if predictions:
        prediction = np.floor(prediction * predictions) * -1.0  # 0 and -0 are equal
    model = np.sort(generator.integers(rows // 2, size=rows))
    model = np.unique(model, return_inverse=True)[1]
    models = int(model[-1]) + 1
    weights = np.stack(
        [
            *generator.multinomial(models, np.full(models, 1 / models), 20),
            np.eye(models, dtype=int)[0],
        ]
    )
    expected = [
        kendalltau(truth[sample], prediction[sample]).statistic
        for sample in (rows_of_sample(model, counts) for counts in weights)
    ]
    found = bootstrap.kendall_tau(truth, prediction, model, weights.astype(np.float64))
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(found).all() or 1 not in (truths, predictions)
    shuffled = generator.permutation(rows)
    again = bootstrap.kendall_tau(
        truth[shuffled], prediction[shuffled], model[shuffled], weights.astype(np.float64)
    )
    assert again.tobytes() == found.tobytes()


def test_many_models_are_drawn_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = np.concatenate(list(bootstrap.resamples(30)))
    assert at_once.shape == (bootstrap.RESAMPLES, 30)
    assert (at_once.sum(axis=1) == 30).all()
    monkeypatch.setattr(bootstrap, "_COUNTS", 7 * 30)
    blocks = list(bootstrap.resamples(30))
    assert {len(block) for block in blocks} == {7, bootstrap.RESAMPLES % 7}
    assert (np.concatenate(blocks) == at_once).all()


@pytest.mark.parametrize("models", [1, 2, 9, 10, 11])
def test_fewer_than_ten_models_have_no_interval(models: int) -> None:
    generator = np.random.default_rng(models)
    model = np.repeat(np.arange(models), 20)  # many rows are no substitute
    truth = generator.random(len(model))
    intervals = [
        *bootstrap.number_intervals(truth, truth + generator.random(len(model)), model),
        bootstrap.share_interval(truth < 0.5, model * 3),
    ]
    assert [bool(np.isfinite(interval).all()) for interval in intervals] == [models >= 10] * 3


def test_states_of_one_model_are_no_evidence() -> None:
    """Repeated rows narrow an interval over rows; they must not narrow ours."""
    generator = np.random.default_rng(0)
    truth = generator.random(20)
    prediction = truth + generator.standard_normal(20) / 3
    once = bootstrap.number_intervals(truth, prediction, np.arange(20))
    often = bootstrap.number_intervals(
        np.repeat(truth, 9), np.repeat(prediction, 9), np.repeat(np.arange(20), 9)
    )
    assert often[0] == pytest.approx(once[0], abs=1e-9)
    assert often[1] == pytest.approx(once[1], abs=1e-9)


# --- Leakage --------------------------------------------------------------------------------------


def rows(*triples: tuple[str, str, str | None]) -> datasets.Dataset:
    columns = dict(
        zip(("zoo", "model_id", "parent_model_id"), zip(*triples, strict=True), strict=True)
    )
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    return datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()}, features=features)


def test_leakage_is_refused() -> None:
    a, b = ("z", "a", None), ("z", "b", None)
    twin_of_a, other_twin = ("z_sparse", "t", "a"), ("z_sparse", "u", "a")
    same_name = ("another", "a", None)
    pruned_a = ("z_sparse_magnitude", "t", "a")
    refuse_leakage({"train": rows(a, a, twin_of_a, other_twin), "test": rows(b, same_name)})
    with pytest.raises(Leakage, match="a twin of the model a of z lies in test"):
        refuse_leakage({"train": rows(a, b), "test": rows(pruned_a)})
    with pytest.raises(Leakage, match=r"a state of the model . of z lies in test, another"):
        refuse_leakage({"train": rows(a), "validation": rows(b), "test": rows(b, a)})
    with pytest.raises(Leakage, match="model a"):
        refuse_leakage({"train": rows(a), "test": rows(b, twin_of_a)})
    with pytest.raises(Leakage, match="a twin of the model a"):
        refuse_leakage({"train": rows(twin_of_a), "test": rows(b, other_twin)})
    shuffled = rows(a, b).select([1])  # indices, not rows, say what is in it
    refuse_leakage({"train": shuffled, "test": rows(a)})


@needs_shared
def test_no_model_and_no_twin_in_two_splits(tmp_path: Path, digits_home: Path) -> None:
    raw = SHARED / "data" / "raw_zoos"
    for name in (SEED_ZOO, "cnn_small_mnist_ard"):
        import_zoo(raw / f"{name}.zip", tmp_path)
    columns = ["zoo", "model_id", "parent_model_id"]

    def load(name: str, home: Path) -> datasets.DatasetDict:
        return datasets.load_dataset("model_zoos", name, data_dir=str(home), columns=columns)

    dense, twins = load(SEED_ZOO, tmp_path), load(f"{SEED_ZOO}_sparse", tmp_path)
    refuse_leakage(load("digits_cnn_s", digits_home))
    refuse_leakage({s: datasets.concatenate_datasets([dense[s], twins[s]]) for s in SPLITS})
    # The benchmark itself refuses: two twins of one parent, then one of them in another split.
    twin_zoo = open_zoo(tmp_path, f"{SEED_ZOO}_sparse")
    path = twin_zoo.path / "splits.json"
    splits = json.loads(path.read_text())
    states = twin_zoo.read(twin_zoo.files()[0])
    twin_zoo.write_model(
        "second",
        states.hyperparameters,
        states.epochs,
        states.weights(),
        states.metrics,
        parent_model_id=states.parent_model_id,
    )
    path.write_text(json.dumps({**splits, "second": splits[states.model_id]}))
    predict_properties(f"{SEED_ZOO}_sparse", tmp_path, representations=["statistics"])
    path.write_text(json.dumps({**splits, "second": _other(splits[states.model_id])}))
    with pytest.raises(Leakage, match="a twin of the model"):
        predict_properties(f"{SEED_ZOO}_sparse", tmp_path)


def _other(split: str) -> str:
    return "test" if split == "train" else "train"


# --- The benchmark --------------------------------------------------------------------------------


def test_a_zoo_is_benchmarked(digits_home: Path) -> None:
    steps = []
    result = predict_properties(
        "digits_cnn_s", digits_home, on_progress=lambda *step: steps.append(step)
    )
    assert [done for _, done, _ in steps] == list(range(steps[0][2]))
    assert result.models == {"train": 14, "validation": 3, "test": 3}
    # 120 states, of which some explode (relu from uniform weights, sgd at 3e-3).
    assert sum(result.states.values()) + sum(result.left_out.values()) == 120
    assert result.left_out["a weight above 5"] > 0
    assert [(score.representation, score.target) for score in result.scores] == [
        (representation, target)
        for representation in ("weights", "statistics")
        for target in NUMBERS
    ]
    assert all(score.strength in STRENGTHS for score in result.scores)
    assert all(score.r2["train"] <= 1 for score in result.scores)
    assert result.not_scored == {
        "sparsity": "absent",
        "dropout": "constant: 0.0",
        "weight_decay": "constant: 0.001",
    }
    classes = {(s.representation, s.target): s for s in result.class_scores}
    assert {target for _, target in classes} == {"activation", "init", "optimizer", "learning_rate"}
    for score in result.scores:  # 3 test models are too few for an interval
        assert np.isnan([*score.r2_interval, *score.tau_interval]).all()
    numbers, kinds, used = result.tables()
    assert {row[numbers.columns.index("[95 %]")] for row in numbers.rows} == {"-"}
    for table in (numbers, kinds):
        assert table.notes == ("There is no interval for fewer than 10 test models that differ.",)
        assert table.title.endswith(". 3 models: too few to compare with scores of papers")
    [why] = [note for note in used.notes if "unstable training" in note]
    assert "leave out states whose largest weight exceeds 5" in why
    assert "--max-weight inf" in why
    assert "max_weight=math.inf" in why
    for score in result.class_scores:
        assert np.isnan(score.accuracy_interval).all()
        assert score.accuracy["train"] >= score.majority["train"] >= 1 / score.classes
        assert score.unknown == 0
    assert result.digest == fingerprint(read_states("digits_cnn_s", digits_home))
    assert result.versions["numpy"] == np.__version__
    assert {"python", "cpu", "scikit-learn", "datasets"} <= set(result.versions)
    with threadpool_limits(1, user_api="blas"):
        assert matrix_threads() == 1
    assert result.settings["threads"] == matrix_threads()
    init = classes["weights", "init"]  # uniform from [0, 1) is easy to tell from kaiming
    assert init.accuracy["test"] > 0.9


def test_the_order_of_rows_does_not_matter(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result() -> Result:
        return predict_properties(
            "digits_cnn_s", digits_home, targets=["test_acc", "activation"], epochs=range(6)
        )

    before = result()
    load = property_prediction.load_dataset
    monkeypatch.setattr(
        property_prediction, "load_dataset", lambda *a, **k: load(*a, **k).shuffle(seed=5)
    )
    assert result() == before  # to the bit


def test_classes_are_recognised_as_by_scikit_learn(digits_home: Path) -> None:
    result = predict_properties(
        "digits_cnn_s",
        digits_home,
        targets=["optimizer"],
        representations=["weights"],
        max_weight=np.inf,
    )
    [score] = result.class_scores
    splits = datasets.load_dataset("model_zoos", "digits_cnn_s", data_dir=str(digits_home))
    x, y = ({s: np.array(splits[s][key]) for s in SPLITS} for key in ("weights", "optimizer"))
    finite = {s: np.isfinite(x[s]).all(axis=1) for s in SPLITS}
    x, y = ({s: v[s][finite[s]] for s in SPLITS} for v in (x, y))
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    plain.fit(x["train"], y["train"])
    names, counts = np.unique(y["train"], return_counts=True)
    for split in SPLITS:
        # Ours may stop earlier, and in float32.
        assert score.accuracy[split] == pytest.approx(plain.score(x[split], y[split]), abs=0.12)
        assert score.majority[split] == (y[split] == names[counts.argmax()]).mean()


def test_states_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), epochs=3)
    directory = create_zoo(tmp_path, zoo)
    generator = np.random.default_rng(0)
    models = zoo.models(20)
    directory.add_splits(model.model_id for model in models)
    for number, model in enumerate(models):
        weights = generator.uniform(-1, 1, (4, 2464)).astype(np.float32)
        metrics = {"train_acc": generator.random(4), "test_acc": generator.random(4)}
        hyperparameters = {"activation": ["tanh", "relu"][number % 2]} if number != 11 else {}
        if number == 0:
            weights[2:] = np.nan
        elif number == 1:
            weights[1, 5] = np.inf
        elif number == 2:
            weights[0, 5] = -3e38  # large, but finite
            del metrics["train_acc"]
        elif number == 3:
            weights[3, 5] = 5.5
        directory.write_model(model.model_id, hyperparameters, range(4), weights, metrics)
    result = predict_properties("digits_cnn_s", tmp_path, representations=["statistics"])
    assert result.left_out == {"weights not finite": 3, "a weight above 5": 2, "target absent": 3}
    assert sum(result.states.values()) == 20 * 4 - 8
    assert sum(result.models.values()) == 19
    assert "exceeds 5" in result.tables()[-1].notes[1]
    assert [score.target for score in result.class_scores] == ["activation"]
    assert result.class_scores[0].unknown == 4  # of this target alone
    assert result.not_scored["init"] == "absent"
    result = predict_properties(
        "digits_cnn_s", tmp_path, representations=["statistics"], max_weight=np.inf
    )
    assert result.left_out == {"weights not finite": 3, "a weight above inf": 0, "target absent": 4}
    assert not any("exceeds" in note for note in result.tables()[-1].notes)
    result = predict_properties(
        "digits_cnn_s", tmp_path, representations=["statistics"], epochs=[2]
    )
    assert result.not_scored["epoch"] == "constant: 2.0"
    assert sum(result.states.values()) == 18
    last, third = (
        predict_properties("digits_cnn_s", tmp_path, representations=["statistics"], epochs=epochs)
        for epochs in ("last", [3])
    )
    assert last.settings["epochs"] == "last"
    assert last.scores == third.scores
    assert last.states == third.states
    with pytest.raises(InvalidArgument, match="'last', found 'first'"):
        predict_properties("digits_cnn_s", tmp_path, epochs="first")


def norms(matrix: np.ndarray, layout: object) -> np.ndarray:
    """A representation of one's own."""
    assert matrix.dtype == np.float32
    return np.linalg.norm(matrix, axis=1, keepdims=True)


def test_a_representation_of_ones_own(digits_home: Path) -> None:
    name = f"{__name__}:norms"
    result = predict_properties(
        "digits_cnn_s", digits_home, representations=[name], targets=["epoch", "init"]
    )
    assert {s.representation for s in (*result.scores, *result.class_scores)} == {name}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of 80 models and 160 states, with random metrics; 12 models are in test."""
    root = tmp_path_factory.mktemp("untrained")
    random_zoo(root, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 80)
    return root


def test_a_predictor_of_ones_own_has_the_scores_and_intervals_of_the_probe_that_it_repeats(
    untrained: Path,
) -> None:
    """scikit-learn's ridge and logistic regression, given as predictors."""
    seen: list[tuple[int, int]] = []
    strength = 1.0

    def fit(x, y, validation_x, validation_y):  # type: ignore[no-untyped-def]
        seen.append((len(x), len(validation_x)))
        assert (len(x), len(validation_x)) == (len(y), len(validation_y))
        if y.dtype.kind == "i":
            assert np.allclose(x.mean(axis=0, dtype=np.float64), 0, atol=1e-5)
            return LogisticRegression(C=C, max_iter=STEPS).fit(x, y).predict
        return Ridge(strength, solver="svd").fit(x.astype(np.float64), y).predict

    def scores(target: str, standardised: bool) -> Result:
        return predict_properties(
            "digits_cnn_s",
            untrained,
            representations=["statistics"],
            targets=[target],
            predictors={"mine": fit},
            standardised=standardised,
        )

    strength = scores("test_acc", False).scores[0].strength or 0
    result = scores("test_acc", False)
    ridge, mine = result.scores
    assert (ridge.method, mine.method, mine.strength) == ("ridge", "mine", None)
    assert result.models["test"] >= 10
    assert seen == [(result.states["train"], result.states["validation"])] * 2
    for field in ("r2_interval", "tau_interval"):
        assert np.isfinite(getattr(mine, field)).all()
        assert getattr(mine, field) == pytest.approx(getattr(ridge, field), abs=1e-6)
    assert mine.r2 == pytest.approx(ridge.r2, abs=1e-6)
    rows = [row[2:4] for row in result.tables()[0].rows]
    assert [by for by, _ in rows] == ["ridge", "mine"]
    assert (float(rows[0][1]), rows[1][1]) == (ridge.strength, "-")
    assert Result.from_json(dataclasses.asdict(result)) == result
    logistic, mine = scores("activation", True).class_scores
    assert dataclasses.replace(mine, method="logistic") == logistic


def predictor(answer: Any) -> dict[str, Any]:
    """A predictor whose `fit` returns this answer, by its name."""
    return {"mine": lambda *given: answer}


@pytest.mark.parametrize(
    ("predictors", "message"),
    [
        (
            predictor(lambda x: np.zeros((len(x), 1))),
            r"number for each row, \[\d+\]; found float64",
        ),
        (predictor(lambda x: np.zeros(3)), "number for each row"),
        (predictor(lambda x: ["good"] * len(x)), "number for each row"),
        (predictor(lambda x: np.full(len(x), np.nan)), "'mine' returned NaN or infinity in train"),
        (predictor(None), r"must return .* predict\(x\); it returned NoneType"),
        (lambda *given: None, "predictors must be {name: function}, found function"),
        ({"mine": 3}, "the predictor 'mine' is no function: 3"),
    ],
)
def test_a_predictor_that_does_not_return_a_number_for_each_row(
    predictors: Any, message: str, untrained: Path
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        predict_properties(
            "digits_cnn_s",
            untrained,
            representations=["statistics"],
            targets=["test_acc"],
            predictors=predictors,
        )


def test_boosted_trees(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightgbm")
    monkeypatch.setitem(probes.BOOSTING, "n_estimators", 60)
    steps: list[tuple[str, int, int]] = []
    result = predict_properties(
        "digits_cnn_s",
        digits_home,
        representations=["statistics"],
        targets=["test_acc", "init"],
        boosting=True,
        on_progress=lambda *step: steps.append(step),
    )
    for fit in ("statistics: test_acc by boosting", "statistics: init by boosting"):
        [place] = [number for number, (step, _, _) in enumerate(steps) if step == fit]
        more = [step for step, _, _ in steps if step.startswith(f"{fit}, ")]
        assert more == [f"{fit}, {trees} of up to 60 trees" for trees in (25, 50)]
        assert [at[1:] for at in steps[place + 1 : place + 3]] == [steps[place][1:]] * 2
    linear, trees = result.scores
    assert (linear.method, trees.method, trees.strength) == ("ridge", "boosting", None)
    assert trees.r2["train"] > 0.3
    assert [score.method for score in result.class_scores] == ["logistic", "boosting"]
    assert result.class_scores[1].accuracy["test"] > 0.8
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(BoostingUnavailable, match="need LightGBM") as error:
        predict_properties("digits_cnn_s", digits_home, boosting=True)
    assert error.value.hint == "pip install 'model_zoos[boosting]'"


def test_refusals(tmp_path: Path) -> None:
    random_zoo(tmp_path, dataclasses.replace(get_zoo("digits_cnn_s"), epochs=1), 2)
    with pytest.raises(TooFewModels, match=r"validation and test have no model.*2/0/0"):
        predict_properties("digits_cnn_s", tmp_path)
    with pytest.raises(TooFewModels, match="no state of epoch 7"):
        predict_properties("digits_cnn_s", tmp_path, epochs=[7])
    with pytest.raises(ValueError, match="unknown representation 'pixels'"):
        predict_properties("digits_cnn_s", tmp_path, representations=["pixels"])
    with pytest.raises(ValueError, match=r"targets is a list of names: targets=\['test_acc'\]"):
        predict_properties("digits_cnn_s", targets="test_acc")
    with pytest.raises(ValueError, match="no row has a column 'speed'"):
        predict_properties("digits_cnn_s", tmp_path, targets=["speed"])
    with pytest.raises(InvalidArgument, match="cannot be named 'ridge'"):
        predict_properties("digits_cnn_s", tmp_path, predictors={"ridge": logistic})
    for limit in (float("nan"), -1.0, 0.0):
        with pytest.raises(InvalidArgument, match=f"must be above 0, found {limit}"):
            predict_properties("digits_cnn_s", tmp_path, max_weight=limit)
    with pytest.raises(ValueError, match="unknown offset 'none'"):
        predict_properties("digits_cnn_s", tmp_path, offset="none")
