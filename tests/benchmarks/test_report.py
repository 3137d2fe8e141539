"""Figures and the page: readable images, honest captions, nothing fetched from anywhere."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_zoos.benchmarks import plots
from model_zoos.benchmarks.plots import draw_all, plot_accuracy_by_epoch
from model_zoos.benchmarks.report import (
    ZooReport,
    _training,
    make_report,
    render,
    write_figures,
    write_report,
)
from model_zoos.benchmarks.states import read_states
from model_zoos.builders.layout import find_layout
from tests.benchmarks.zoos import write_odd_zoos

REFERENCES = ("src", "srcset", "data", "href", "xlink:href", "poster", "action", "background")


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [
            value or ""
            for name, value in attributes
            if name
            in ("src", "srcset", "data", "href", "xlink:href", "poster", "action", "background")
        ]
        self.ids += [value or "" for name, value in attributes if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


def image(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def made(odd: Path) -> ZooReport:
    return make_report("odd", odd)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    write_odd_zoos(root)
    return root


def test_the_figures_of_a_grid(made: ZooReport) -> None:
    drawn = {plot.name: plot for plot in made.plots}
    assert list(drawn) == [
        "accuracy-by-epoch",
        "accuracy-by-hyperparameter",
        "train-and-test-accuracy",
        "weight-histograms",
        "trajectories",
    ]
    for plot in drawn.values():
        pixels = image(plot.png)
        assert pixels.shape[1] == plots.WIDTH * plots.DPI
        assert (pixels[0, 0] == 255).all()  # white
        assert (pixels != 255).any(axis=2).mean() > 0.01  # and something on it
        assert f'viewBox="0 0 {72 * plots.WIDTH:g} ' in plot.svg
        assert plot.title in plot.svg  # as text, which can be read and searched
    assert "12 models" in drawn["accuracy-by-epoch"].title
    assert "Left out: 2 diverged states." in drawn["accuracy-by-epoch"].caption
    assert "of 11 models" in drawn["accuracy-by-hyperparameter"].title
    assert "Left out: 1 model," in drawn["accuracy-by-hyperparameter"].caption
    # NaN weights are never read; the exploded model's two states are counted.
    assert "Left out: 2 states" in drawn["weight-histograms"].caption
    assert "(32 states)" in drawn["trajectories"].caption


def test_the_page_says_how_the_models_were_trained(made: ZooReport, odd: Path) -> None:
    assert {"varied", "same for all models", "seeds"} <= made.about.keys()
    states = read_states("odd", odd)
    given = {
        "seed": states.model % 3,
        "activation": np.array(["tanh", "relu"], object)[states.model % 2],
        "init": np.array(["normal", None], object)[states.model % 2],
        "dropout": states.model / 10,
        "momentum": np.array([0.9, None], object)[states.model % 2],
        "batch_size": np.full(len(states), 10),
    }
    for name in ("optimizer", "learning_rate", "weight_decay", "scheduler"):
        given[name] = np.full(len(states), None)
    changed = dataclasses.replace(states, columns={**states.columns, **given})
    assert _training(changed) == {
        "varied": "activation relu or tanh; init normal or unknown; dropout 12 values from 0 to "
        "1.1; momentum 0.9 or none",
        "same for all models": "optimizer unknown; learning rate unknown; weight decay unknown; "
        "batch size 10; scheduler none",
        "seeds": "3",
    }
    plain = dict.fromkeys(given, np.full(len(states), None))
    same = dataclasses.replace(states, columns={**states.columns, **plain})
    assert _training(same)["varied"] == "nothing but the seed"
    assert _training(same)["seeds"] == "unknown"


def test_diverged_states_do_not_change_a_figure(odd: Path) -> None:
    states = read_states("odd", odd)
    accuracies = states["test_acc"].copy()
    accuracies[states.diverged] = 1e9
    changed = dataclasses.replace(states, columns={**states.columns, "test_acc": accuracies})
    for draw in (
        plots.accuracy_by_epoch,
        plots.accuracy_by_hyperparameter,
        plots.train_and_test_accuracy,
    ):
        assert (image(draw(changed).png) == image(draw(states).png)).all()


def test_the_figures_of_twins(odd: Path) -> None:
    drawn = {plot.name: plot for plot in draw_all("odd_sparse", odd)}
    assert "median of their 10 parents" in drawn["sparsity-by-epoch"].caption
    assert "Pruned weights" in drawn["weight-histograms"].caption
    alone = plots.sparsity_by_epoch(read_states("odd_sparse", odd), None)
    assert "parents' accuracy is not here" in alone.caption


def test_constant_and_absent_numbers_are_drawn_or_left_out(odd: Path) -> None:
    states = read_states("odd", odd)
    absent = {"test_acc": np.full(len(states), np.nan)}
    empty = dataclasses.replace(states, columns={**states.columns, **absent})
    assert "34 states without these numbers" in plots.accuracy_by_epoch(empty).caption
    assert plots.accuracy_by_hyperparameter(empty) is None
    assert plots.train_and_test_accuracy(empty) is None
    rows = np.arange(6)
    same = np.zeros((6, 2464), np.float32)
    assert plots.trajectories(states, rows, same) is not None


def test_the_page_holds_everything_and_fetches_nothing(made: ZooReport, tmp_path: Path) -> None:
    page, *figures = write_report(made, tmp_path / "out")
    html = page.read_text()
    parsed = Page(html)
    assert page.name == "odd.html"
    assert [path.name for path in figures] == [f"odd-{plot.name}.png" for plot in made.plots]
    assert [path.read_bytes() for path in figures] == [plot.png for plot in made.plots]
    assert parsed.tags.count("svg") == len(figures) == 5
    links = {reference for reference in parsed.references if reference.startswith("#")}
    assert all(e.startswith("data:image/png;base64,") for e in {*parsed.references} - links)
    assert {link[1:] for link in links} <= set(parsed.ids)
    assert {f"#{plot.name}" for plot in made.plots} <= links  # the navigation
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(parsed.tags)
    assert not re.search(r"https?:|url\((?!#)|@import", html)
    assert "default-src 'none'" in html
    assert "12 models, 36 states" in parsed.text
    assert "2 of these states have diverged" in parsed.text
    assert "Linear CKA" in parsed.text
    assert parsed.text.count("How to read:") == 3
    assert "model-zoos report odd --data-dir" in parsed.text
    assert re.search(r"Made on \d{4}-\d\d-\d\d with Python \d.*torch \d", parsed.text)
    for score in made.prediction.scores:
        assert f"{score.r2['test']:.3f}" in parsed.text
    assert render(made) == html
    json.dumps(dataclasses.asdict(dataclasses.replace(made, plots=())))


def test_names_from_outside_are_escaped(made: ZooReport) -> None:
    hostile = dataclasses.replace(
        made,
        about={"made by": "<script>alert(1)</script>"},
        made={**made.made, "command": "<img src=x>"},
        not_obtained={"<img src=http://a>": '"><b>'},
    )
    tags = Page(render(hostile)).tags
    assert not {"script", "img"} & set(tags)


def test_names_in_figures_are_text(odd: Path) -> None:
    states = read_states("odd", odd)
    names = np.array(["<script>$x$</script>", 'a" onload="b'], object)
    hostile = dataclasses.replace(
        states, columns={**states.columns, "init": names[states.model % 2]}
    )
    plot = plots.accuracy_by_hyperparameter(hostile)
    assert plot is not None
    parsed = Page(plot.svg)
    assert "script" not in parsed.tags
    assert "<script>$x$</script>" in parsed.text
    assert "onload" in parsed.text


@pytest.mark.parametrize("models", [1, 9, 400])
def test_a_figure_is_of_bounded_size_and_shows_two_modes(models: int, odd: Path) -> None:
    states = read_states("odd", odd)
    model = np.repeat(np.arange(models), 51)
    generator = np.random.default_rng(0)
    good = generator.random(models) < 0.5
    accuracy = np.where(good[model], 0.9, 0.1) + 0.01 * generator.standard_normal(len(model))
    columns = {key: values[np.zeros(len(model), int)] for key, values in states.columns.items()}
    columns |= {"epoch": np.tile(np.arange(51), models), "optimizer": good.astype(object)[model]}
    columns |= {"test_acc": accuracy, "train_acc": accuracy}
    many = plots.StateTable("odd", columns, model, np.zeros(len(model), bool))
    drawn = plots.accuracy_by_epoch(many)
    assert f"{models} model" in drawn.title
    for draw in (plots.accuracy_by_hyperparameter, plots.train_and_test_accuracy):
        assert (plot := draw(many)) is None or len(plot.svg) < 400_000
    assert len(drawn.svg) < 400_000
    if models == 400:  # shapes are wide at both modes and thin between
        wide = (image(drawn.png) < 240).any(axis=2).mean(axis=1)
        wide = wide[int(0.16 * len(wide)) : int(0.78 * len(wide))]
        assert (
            min(wide[:10].max(), wide[-10:].max())
            > 2 * wide[len(wide) // 3 : -len(wide) // 3].min()
        )


@pytest.mark.parametrize("inits", [["a"], ["a", None], ["a", "b", "c", "d", "e"]])
def test_weights_are_drawn_by_initialisation(inits: list[str | None], odd: Path) -> None:
    states = read_states("odd", odd)
    init = np.array([inits[model % len(inits)] for model in states.model], object)
    states = dataclasses.replace(states, columns={**states.columns, "init": init})
    weights = np.random.default_rng(0).standard_normal((len(states), 2464)).astype(np.float32)
    layout = find_layout("cnn_s", 2464)
    plot = plots.weight_histograms(states, np.arange(len(states)), weights, layout)
    assert plot is not None
    text = Page(plot.svg).text
    assert [name in text for name in ["conv1.weight", "conv1.bias", "fc2.weight"]] == [1, 0, 1]
    assert len(plot.figure.axes) == 5 * min(len(inits), plots.MOST_INITS)
    assert ("unknown" in text) == (None in inits)
    assert ("most frequent" in plot.caption) == (len(inits) > plots.MOST_INITS)


def test_densities_of_twins_are_labelled_in_plain_numbers(odd: Path) -> None:
    """Their axis is logarithmic, and the figures write no TeX."""
    states = read_states("odd", odd)
    parents = np.full(len(states), "parent", object)
    states = dataclasses.replace(states, columns={**states.columns, "parent_model_id": parents})
    weights = np.random.default_rng(0).standard_normal((len(states), 2464)).astype(np.float32)
    rows = np.arange(len(states))
    plot = plots.weight_histograms(states, rows, weights, find_layout("cnn_s", 2464))
    assert plot is not None
    assert {axes.get_yscale() for axes in plot.figure.axes} == {"log"}
    text = Page(plot.svg).text
    assert "0.1" in text
    assert "$" not in text


def test_trajectories_start_together_and_end_at_their_arrows(odd: Path) -> None:
    """Two models that move along two lines, one ten times as far as the other."""
    states = read_states("odd", odd)
    rows = np.arange(6)
    weights = np.full((6, 2464), 0.5, np.float32)
    weights[:3, 0] += [0, 1, 2]
    weights[3:, 1] += [0, 0.1, 0.2]
    plot = plots.trajectories(states, rows, weights)
    assert plot is not None
    assert "of 2 models" in plot.title
    plane, distance = plot.figure.axes[:2]
    places = plane.collections[-1].get_offsets()
    assert np.allclose(places[[0, 3]], 0, atol=1e-6)  # the first states
    assert np.allclose(np.linalg.norm(places, axis=1), [0, 0.5, 1] * 2, atol=1e-6)
    assert np.allclose(distance.collections[-1].get_offsets()[:, 1], [0, 1, 2, 0, 0.1, 0.2])
    assert (weights[:, 2] == 0.5).all()  # the caller's are as they were


@pytest.mark.parametrize("count", range(1, 9))
def test_panels_fill_their_figure(count: int) -> None:
    figure, panels = plots.panel_grid(count, 2, "y")
    assert len(panels) == len(figure.axes) == count
    figure.canvas.draw()
    rights = {round(panel.get_position().x1, 2) for panel in panels}
    rows = {round(panel.get_position().y0, 2) for panel in panels}
    assert len(rows) == -(-count // 3)
    last = [p for p in panels if round(p.get_position().x1, 2) == max(rights)]
    assert len(last) == len(rows)  # each row reaches the right edge


def test_single_figures(digits_home: Path, tmp_path: Path) -> None:
    path = plot_accuracy_by_epoch("digits_cnn_s", tmp_path / "a.png", digits_home)
    plot = plots.accuracy_by_epoch(read_states("digits_cnn_s", digits_home))
    assert plot.png == path.read_bytes()
    [written] = write_figures("digits_cnn_s", [plot], tmp_path / "figures")
    # The names that a repository's card looks for.
    assert re.fullmatch(r"[\w.-]+\.png", written.name)
    assert written.name == "digits_cnn_s-accuracy-by-epoch.png"
