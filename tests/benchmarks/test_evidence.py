"""The evidence page is that of the results, and each of its numbers is found a second time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_zoos.benchmarks import evidence
from model_zoos.benchmarks.epochs import summarise
from model_zoos.benchmarks.literature import BOX_PLOTS, PUBLISHED, SEED_ZOOS, TWINS
from model_zoos.benchmarks.tables import rewrite_part
from tests.shared import SHARED, needs_shared

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


def evidence_part() -> str:
    text = (BENCHMARKS / "README.md").read_text()
    found = re.search(r"<!-- evidence:.*?-->\n(.*?)\n<!-- /evidence -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_readme_has_the_page_of_the_results() -> None:
    assert evidence_part() == evidence.page(RESULTS)


def test_every_file_that_the_page_names_is_there() -> None:
    part = evidence_part()
    files = set(re.findall(r"[\w-]+\.json", part))
    assert len(files) > 3
    assert all((RESULTS / name).is_file() for name in files)
    figures = re.findall(r"\]\((results/figures/.*?)\)", part)
    assert len(figures) == 2
    for figure in figures:
        assert (BENCHMARKS / figure).is_file()
        assert (BENCHMARKS.parent / "docs" / figure).is_file()  # docs/protocol.md includes the page
    text = (BENCHMARKS / "README.md").read_text()
    for test in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (BENCHMARKS.parent / test).is_file()


def test_each_row_of_the_comparison_by_plain_arithmetic() -> None:
    """Theirs from the tables of literature.py, ours from the JSON files, read in another way."""
    rows = evidence.comparison(RESULTS).rows
    assert len(rows) > 12
    lines = [tuple(line.strip("| ").split(" | ")) for line in evidence_part().splitlines()]
    curves = {cells[0]: cells for cells in lines if len(cells) == 10 and cells[0].isdigit()}
    for row in rows:
        if row[0] == "`mnist_cnn_s_seed_sparse`":
            place = 1 + 3 * list(TWINS).index(row[1].removeprefix("median of "))
            there = curves[row[2]][place : place + 3]
            assert there == (row[4], row[5], row[9].split(" of ")[0] + ", NO" * (row[10] != "yes"))
        else:
            assert row in lines
    box = ("lower quartile", "median", "upper quartile", "highest")
    columns = {"test_acc": "accuracy", "generalization_gap": "gap", "sparsity": "sparsity"}
    for zoo, what, epoch, _, theirs, ours, _, models, difference, units, _, file in rows:
        zoo, file = zoo.strip("`"), file.strip("`")
        figure, metric = what.split(" of ")
        result = json.loads((RESULTS / file).read_text())
        if file.endswith("-epochs.json"):
            [found] = [e for e in result["test_acc"] if e["epoch"] == int(epoch)]
            percent = dict(zip(box, ("25", "50", "75", "100"), strict=True)).get(figure)
            value = found["quantiles"][percent] if percent else found["mean"]
            std, count = found["std"], found["models"]
        else:
            [found] = [e for e in result["diversity"]["epochs"] if e["epoch"] == int(epoch)]
            values = found[columns[metric]]
            value = values["mean"] if figure == "mean" else values["quartiles"][1]
            std, count = values["std"], values["count"]
        if zoo in SEED_ZOOS:
            published, spread = SEED_ZOOS[zoo][int(epoch)]
        elif zoo in BOX_PLOTS:
            published = BOX_PLOTS[zoo][box.index(figure)]
            spread = BOX_PLOTS[zoo][2] - BOX_PLOTS[zoo][0]
        else:
            published, spread = TWINS[metric][int(epoch)], std
        assert float(theirs.split(" ± ")[0]) == pytest.approx(published, abs=6e-4)
        assert float(ours.split(" ± ")[0]) == pytest.approx(value, abs=6e-4)
        assert int(models.replace(",", "")) == count
        assert float(difference) == pytest.approx(value - published, abs=6e-4)
        assert float(units.split(" of ")[0]) == pytest.approx(
            (value - published) / spread, abs=6e-3
        )


@needs_shared
def test_published_figures_are_those_of_the_reference() -> None:
    text = (SHARED / "reference" / "published_numbers.md").read_text()
    rows = {
        int(cells[0]): cells[1:]
        for line in text.split("## MNIST sparse twins")[0].splitlines()
        if (cells := line.strip("| ").split(" | "))[0].isdigit()
    }
    for column, (zoo, epochs) in enumerate(SEED_ZOOS.items()):
        assert zoo.split("_")[0] == ("mnist", "svhn", "cifar10", "stl10")[column]
        for epoch, values in epochs.items():
            found = re.findall(r"[\d.]+", rows[epoch][column])[:2]
            assert values == pytest.approx([float(number) / 100 for number in found])
    for title, zoo in (("Fashion-MNIST", "fashion"), ("USPS", "usps"), ("CIFAR-10 CNN-l", "cifar")):
        sentence = re.search(rf"{title} hyp random (.*?max \.\d+)", text)
        assert sentence is not None
        median, low, high, most = (float(n) for n in re.findall(r"\.\d+", sentence[1]))
        [box] = [values for name, values in BOX_PLOTS.items() if name.startswith(zoo)]
        assert box == (low, median, high, most)


def test_without_results_nothing_is_compared(tmp_path: Path) -> None:
    assert not evidence.comparison(tmp_path).rows
    assert " 0 have been compared, of 0 zoos; 0 of these agree" in evidence.page(tmp_path)
    assert not evidence.populations(tmp_path).rows
    listed = ", ".join(row[1] for row in evidence.not_compared(tmp_path).rows)
    assert listed.count(" at epoch ") == len(PUBLISHED)
    assert evidence.draw(tmp_path) == evidence.suites(tmp_path) == []
    assert not evidence.predictions(tmp_path).rows
    assert not evidence.runs(tmp_path).rows
    assert ".png" not in evidence.page(tmp_path)


def test_every_published_figure_is_compared_or_listed() -> None:
    listed = ", ".join(row[1] for row in evidence.not_compared(RESULTS).rows)
    compared = evidence.comparison(RESULTS).rows
    assert len(compared) + listed.count(" at epoch ") == len(PUBLISHED)
    found = re.match(
        r"Of (\d+) published figures .* (\d+) have been compared, of (\d+) zoos; (\d+) of",
        evidence_part(),
    )
    assert found is not None
    assert [int(count) for count in found.groups()] == [
        len(PUBLISHED),
        len(compared),
        len({row[0] for row in compared}),
        sum(row[10] == "yes" for row in compared),
    ]


def summary_of(zoo: str, median: float) -> dict[str, Any]:
    """A summary of epoch 50 whose quantiles lie around a median."""
    quantiles = {"0": 0.1, "5": 0.1, "25": median - 0.15, "50": median, "75": 0.85, "95": 0.87}
    ends = {"25": [median - 0.2, median - 0.1], "50": [median - 0.02, median + 0.02]}
    epoch = {
        "epoch": 50, "models": 256, "mean": 0.6, "std": 0.3,
        "quantiles": {**quantiles, "100": 0.885}, "intervals": {**ends, "75": [0.83, 0.86]},
    }  # fmt: skip
    return {
        "zoo": zoo, "made_by": "model-zoos generate it", "models": 256, "of": 2560,
        "grid_points": 256, "grid_points_of": 256, "states": 13056, "diverged_states": 3,
        "engine": "lanes", "images": {"sha256": "ab" * 32, "verified": True},
        "trivial_rate": 0.1, "never_left": 0.125, "test_acc": [epoch],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("median", "agrees"),
    [(0.76, "yes"), (0.733, "yes"), (0.7295, "NO"), (0.787, "yes"), (0.8, "NO")],
)
def test_a_new_result_moves_to_the_comparison(tmp_path: Path, median: float, agrees: str) -> None:
    """Fashion-MNIST is published with a median of 0.76, read to 0.01; our interval has ± 0.02."""
    zoo = "fashion_mnist_cnn_s_hyp_10_r"
    (tmp_path / f"{zoo}-epochs.json").write_text(json.dumps(summary_of(zoo, median)))
    rows = {row[1]: row for row in evidence.comparison(tmp_path).rows}
    assert len(rows) == 4
    row = rows["median of test_acc"]
    assert row[:4] == (f"`{zoo}`", "median of test_acc", "50", "B")
    assert row[6] == f"[{median - 0.02:.3f}, {median + 0.02:.3f}]"
    assert row[9:11] == (row[9], agrees)
    named = f"these do not: median of test_acc of `{zoo}` at epoch 50." in evidence.page(tmp_path)
    assert named == (agrees == "NO")
    assert rows["highest of test_acc"][6] == "-"
    assert rows["highest of test_acc"][10] == "yes"
    assert f"`{zoo}`" not in [row[0] for row in evidence.not_compared(tmp_path).rows]
    [population] = evidence.populations(tmp_path).rows
    assert population[1:9] == (
        "256 of 2,560", "256 of 256", "13,056", "3", "lanes", "`abababababab`", "0.100", "12.5 %",
    )  # fmt: skip
    assert population[9:] == ("-", "-", "-", "0.600 ± 0.300")
    page = evidence.page(tmp_path)
    assert "    model-zoos generate it\n" in page
    assert f"summarise {zoo} --made-by 'model-zoos generate it' --out FILE\n" in page
    unknown = {**summary_of(zoo, median), "made_by": None}
    (tmp_path / f"{zoo}-epochs.json").write_text(json.dumps(unknown))
    page = evidence.page(tmp_path)
    assert "None" not in page
    assert (
        f"-epochs.json\n    python -m model_zoos.benchmarks.evidence summarise {zoo} --out" in page
    )


def test_a_report_has_quartiles_only_and_a_summary_accuracies_only(tmp_path: Path) -> None:
    values = {"count": 9, "mean": 0.5, "std": 0.1, "quartiles": [0.2, 0.4, 0.6]}
    epoch = {"epoch": 50, "accuracy": values, "gap": None, "sparsity": None}
    report = {"zoo": "x", "models": {"train": 9}, "diversity": {"epochs": [epoch]}}
    zoo = "usps_cnn_s_hyp_10_r"
    (tmp_path / f"{zoo}-report.json").write_text(json.dumps(report))
    found = {row[1]: row[5] for row in evidence.comparison(tmp_path).rows}
    assert found == {
        "lower quartile of test_acc": "0.200",
        "median of test_acc": "0.400",
        "upper quartile of test_acc": "0.600",
    }
    assert f"| `{zoo}` | highest at epoch 50 |" in evidence.page(tmp_path)

    twins = "mnist_cnn_s_seed_sparse"
    summary = summary_of(twins, 0.7)
    summary["test_acc"][0]["epoch"] = 25
    (tmp_path / f"{twins}-epochs.json").write_text(json.dumps(summary))
    rows = [row for row in evidence.comparison(tmp_path).rows if row[0] == f"`{twins}`"]
    assert [(row[1], row[2], row[5]) for row in rows] == [("median of test_acc", "25", "0.700")]


def test_numbers_with_a_sign() -> None:
    shown = [evidence.signed(value, 3) for value in (0.0004, -0.0004, 0.0006, -0.25)]
    assert shown == ["0.000", "0.000", "+0.001", "-0.250"]


def test_the_figures_draw_the_results_and_what_is_published() -> None:
    plot, twins = evidence.draw(RESULTS)
    assert plot.png.startswith(b"\x89PNG")
    paths = sorted(RESULTS.glob("*-epochs.json"))
    assert len(plot.figure.axes) == len(paths)
    for axes, path in zip(plot.figure.axes, paths, strict=True):
        summary = json.loads(path.read_text())
        assert summary["zoo"] in axes.get_title()
        line = axes.lines[0].get_ydata()
        assert list(line) == [epoch["quantiles"]["50"] for epoch in summary["test_acc"]]
        drawn = {round(float(y), 4) for line in axes.lines for y in line.get_ydata()}
        assert drawn >= set(BOX_PLOTS.get(summary["zoo"], ()))
        assert drawn >= {mean for mean, _ in SEED_ZOOS.get(summary["zoo"], {}).values()}
    keys = ("sparsity", "accuracy", "gap")
    for axes, key, medians in zip(twins.figure.axes, keys, TWINS.values(), strict=True):
        *ours, published = axes.lines
        assert dict(zip(*map(list, published.get_data()), strict=True)) == medians
        for line, path in zip(ours, sorted(RESULTS.glob("*_seed_sparse-report.json")), strict=True):
            epochs = json.loads(path.read_text())["diversity"]["epochs"]
            assert list(line.get_ydata()) == [epoch[key]["quartiles"][1] for epoch in epochs]


def test_predictions_suites_and_runs_are_those_of_their_files() -> None:
    rows = evidence.predictions(RESULTS).rows
    paths = sorted(RESULTS.glob("*-benchmark.json"))
    found = [
        (f"`{result['zoo']}`", score)
        for result in map(json.loads, (path.read_text() for path in paths))
        for score in result["scores"]
        if score["target"] == "test_acc"
    ]
    assert len(rows) == len(found) >= 6
    for row, (zoo, score) in zip(rows, found, strict=True):
        assert row[0] == zoo
        assert float(row[5]) == pytest.approx(score["r2"]["test"], abs=6e-4)
        assert float(row[7]) == pytest.approx(score["tau"]["test"], abs=6e-4)
        low, high = score["r2_interval"]
        assert row[6] == f"[{low:.3f}, {high:.3f}]"
    published = {(row[0], row[3], row[4]): row[9:] for row in rows}
    assert published["`mnist_cnn_s_hyp_10_r`", "weights", "ridge"] == ("0.847", "0.747")
    assert published["`digits_cnn_s`", "statistics", "ridge"] == ("-", "-")
    for path in RESULTS.glob("*-suite.json"):
        for part in json.loads(path.read_text())["parts"]:
            assert f"`: {part['name']}: " in evidence_part()
    if (RESULTS / "runs.json").exists():
        runs = json.loads((RESULTS / "runs.json").read_text())["runs"]
        assert [float(row[3]) for row in evidence.runs(RESULTS).rows] == [
            pytest.approx(run["hours"], abs=6e-3) for run in runs
        ]


def test_a_summary_by_command(digits_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits_cnn_s-epochs.json"
    options = ["--data-dir", str(digits_home), "--made-by", "model-zoos generate digits_cnn_s"]
    run = CliRunner().invoke(
        evidence.app, ["summarise", "digits_cnn_s", *options, "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    expected = summarise("digits_cnn_s", digits_home, command=options[-1])
    assert json.loads(out.read_text()) == expected
    shown = CliRunner().invoke(evidence.app, ["summarise", "digits_cnn_s", *options])
    assert shown.stdout.endswith(out.read_text())
    assert evidence.populations(tmp_path).rows[0][1] == f"20 of {expected['of']:,}"


def test_the_page_is_rewritten_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "HERE", tmp_path)
    page, folder = tmp_path / "README.md", tmp_path / "results"
    shutil.copytree(RESULTS, folder)
    page.write_text("before\n<!-- evidence: by x -->\nold\n<!-- /evidence -->\nafter\n")
    for _ in range(2):  # the second time changes nothing
        run = CliRunner().invoke(evidence.app, ["page", "--folder", str(folder)])
        assert run.exit_code == 0, run.output
        assert page.read_text() == (
            f"before\n<!-- evidence: by x -->\n{evidence.page(folder)}\n<!-- /evidence -->\nafter\n"
        )
    for plot in evidence.draw(folder):
        assert (folder / "figures" / f"{plot.name}.png").read_bytes() == plot.png


def test_the_suite_of_a_part_of_a_zoo_names_the_command_that_makes_this_part() -> None:
    lines = evidence.commands(RESULTS).splitlines()
    [place] = [n for n, line in enumerate(lines) if line.endswith("hyp_10_r-suite.json")]
    result = json.loads((RESULTS / "usps_cnn_s_hyp_10_r-suite.json").read_text())
    models = sum(result["models"].values())
    command = f"    model-zoos generate usps_cnn_s_hyp_10_r --models {models} --allow-unverified"
    assert (lines[place + 1] == command) == (models < 2560)


def test_epochs_saved_have_a_reference_or_say_that_it_is_lacking(tmp_path: Path) -> None:
    path = tmp_path / "x-suite.json"
    measure = {"of": ["noise 0.5"], "name": "epochs saved", "value": 1, "interval": [None, None]}
    part = {
        "name": "fine-tuning", "title": "t", "labels": ["start"], "measures": [measure],
        "settings": {}, "notes": [], "not_obtained": {}, "seconds": 1,
    }  # fmt: skip
    counts = dict.fromkeys(("train", "validation", "test"), 1)
    result = {
        "protocol": "model_zoos suite 1", "zoo": "x", "models": counts, "states": counts,
        "digest": "d", "settings": {}, "versions": {}, "parts": [part],
    }  # fmt: skip
    path.write_text(json.dumps(result))
    said = "measured before it was counted"
    assert said in evidence.suites(tmp_path)[1].notes[-1]
    part["measures"] = [measure, {**measure, "of": ["initialisation"]}]
    path.write_text(json.dumps(result))
    assert said not in " ".join(evidence.suites(tmp_path)[1].notes)


def test_a_folder_without_results_leaves_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "HERE", tmp_path)
    page, folder = tmp_path / "README.md", tmp_path / "empty"
    page.write_text("<!-- evidence: by x -->\nold\n<!-- /evidence -->\n")
    folder.mkdir()
    for missing in (folder, tmp_path / "none"):
        run = CliRunner().invoke(evidence.app, ["page", "--folder", str(missing)])
        assert run.exit_code == 2, run.output
    assert "old" in page.read_text()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("text", ["", "<!-- a: x -->\n", "<!-- a: x -->\n<!-- /a -->\n" * 2])
def test_a_page_without_its_marks(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match=r"one pair of `a` marks, found [02]"):
        rewrite_part(page, "a", "new")
    assert page.read_text() == text
