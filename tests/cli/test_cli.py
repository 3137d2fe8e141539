"""The command, run as a user runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_zoos.benchmarks.property_result import Result
from model_zoos.builders.catalog import get_zoo, parts_of
from model_zoos.builders.sources.report import LeftOut, Report
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import ZooDirectory
from model_zoos.cli import app, data, display, main, study
from model_zoos.errors import InvalidArgument
from model_zoos.generation.job import Summary
from tests.benchmarks.zoos import write_odd_zoos
from tests.documents import ROOT
from tests.zoos import random_zoo


def run(
    *arguments: str, cwd: Path, code: int = 0, columns: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported everything.

    What a process of its own does: run_alone.

    Args:
        arguments: those of the command.
        cwd: working directory.
        code: the exit status that it must have.
        columns: COLUMNS, as a shell may export it.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as here, warnings.catch_warnings():
        shown = warnings.showwarning
        here.chdir(cwd)
        here.setattr(sys, "argv", ["model-zoos", *arguments])
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's default, and not pytest's
        if columns is not None:
            here.setenv("COLUMNS", str(columns))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        assert warnings.showwarning is shown
    done = subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
    assert done.returncode == code, done.stderr
    return done


def run_alone(
    *arguments: str, cwd: Path, code: int = 0, columns: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; arguments as those of `run`."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if columns is not None:
        environment["COLUMNS"] = str(columns)
    done = subprocess.run(
        [sys.executable, "-m", "model_zoos", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def error(*arguments: str, cwd: Path) -> str:
    """The lines that an expected error prints."""
    printed = run(*arguments, cwd=cwd, code=1).stderr
    line, *hint = printed.strip().splitlines()
    assert line.startswith("error: ")
    assert not hint or (len(hint) == 1 and hint[0].startswith("try: "))
    return "\n".join([line, *hint])


def test_list(tmp_path: Path) -> None:
    table = run_alone("list", cwd=tmp_path).stdout
    assert len([line for line in table.splitlines() if "_" in line]) == 32
    assert "fashion_mnist_cnn_s_hyp_10_r" in table
    assert "130,560" in table
    assert table.isascii()  # no lines in a pipe
    titles, row = (
        next(line for line in table.splitlines() if line.startswith(f"{word} "))
        for word in ("zoo", "cifar10_cnn_l_seed")
    )
    cells = ("cifar10_cnn_l_seed", "cifar10", "CNN-l", "seed", "1,000", "51,000", "10,853")
    names = ("zoo", "images", "architecture", "variant", "models", "states", "weights")
    assert re.split("  +", titles.strip()) == list(names)
    assert re.split("  +", row.strip()) == list(cells)
    entries = json.loads(run("list", "--architecture", "cnn-l", "--json", cwd=tmp_path).stdout)
    assert [entry["name"] for entry in entries][:2] == [
        "cifar10_cnn_l_seed",
        "cifar10_cnn_l_hyp_10_r",
    ]
    assert entries[0]["models"] == 1000
    assert entries[0]["grid"]["learning_rate"] == [1e-4]
    message = error("list", "mnist_cnn", "--variant", "seed", cwd=tmp_path)
    assert "no zoo of the catalog matches 'mnist_cnn' with variant 'seed'; did you mean" in message
    assert "the union of mnist_cnn_s_seed, mnist_cnn_s_hyp" in error(
        "list", "mnist-cnn-s", cwd=tmp_path
    )
    assert "no zoo has variant" in error("list", "--variant", "random", cwd=tmp_path)


def test_the_zoos_of_a_folder_are_chosen_as_those_of_the_catalog(tmp_path: Path) -> None:
    for name in ("digits_cnn_s", "mnist_cnn_s_seed"):
        random_zoo(tmp_path, dataclasses.replace(get_zoo(name), epochs=1), 7)

    def listed(*arguments: str) -> list[str]:
        command = ("list", *arguments, "--data-dir", ".", "--json")
        return [entry["zoo"] for entry in json.loads(run(*command, cwd=tmp_path).stdout)]

    assert listed() == listed("--architecture", "cnn-s") == ["digits_cnn_s", "mnist_cnn_s_seed"]
    assert listed("--variant", "seed") == listed("MNIST-cnn-*") == ["mnist_cnn_s_seed"]
    assert listed("--image-dataset", "digits") == ["digits_cnn_s"]
    none = error("list", "--data-dir", ".", "--architecture", "resnet18", cwd=tmp_path)
    assert "matches '*' with architecture 'resnet18'; there are digits_cnn_s, mnist" in none


def test_only_a_finished_build_suggests_to_publish(digits_home: Path, tmp_path: Path) -> None:
    command = ("build", "digits_cnn_s", "--data-dir", str(digits_home), "--ranks", "2", "--rank")
    assert "publish" not in run(*command, "0", cwd=tmp_path).stdout
    assert not (tmp_path / "repository/README.md").exists()
    assert "next:\n  model-zoos publish ORG/NAME\n" in run(*command, "1", cwd=tmp_path).stdout
    assert (tmp_path / "repository/README.md").exists()


def test_a_table_has_the_width_of_the_terminal(tmp_path: Path) -> None:
    """Names and numbers are never cut: lines go first, then columns, then each row is a list."""
    narrow = run_alone("list", "mnist*", cwd=tmp_path, columns=80).stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    row = "mnist_cnn_s_seed mnist CNN-s seed 1,000 51,000 2,464"
    assert " ".join(narrow[1].split()) == row
    fewer = run("list", cwd=tmp_path, columns=80).stdout.splitlines()
    assert max(map(len, fewer)) <= 80
    assert "fashion_mnist_cnn_s_hyp_10_r CNN-s 2,560 130,560 2,464" in [
        " ".join(line.split()) for line in fewer
    ]
    assert fewer[-1] == "no room for images, variant: a wider terminal or --json shows them"
    stacked = run("list", "mnist*r", cwd=tmp_path, columns=30).stdout.splitlines()
    assert stacked[0] == "zoo: mnist_cnn_s_hyp_10_r"
    assert "  models: 2,560" in stacked


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals here")
def test_a_table_has_lines_in_a_wide_terminal_only(tmp_path: Path) -> None:
    import fcntl
    import termios

    for columns, lines in ((110, True), (60, False)):
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        command = [sys.executable, "-m", "model_zoos", "list", "usps*"]
        environment["TERM"] = "xterm"
        with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, env=environment) as process:
            os.close(theirs)
            printed = b""
            with contextlib.suppress(OSError):  # the other end is closed
                while part := os.read(ours, 4096):
                    printed += part
        os.close(ours)
        assert process.returncode == 0
        shown = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode()).splitlines()
        assert max(map(len, shown)) <= columns
        assert any("usps_cnn_s_hyp_10_f" in line for line in shown)
        assert any("│" in line for line in shown) == lines


def test_verify_without_images_compares_nothing(tmp_path: Path) -> None:
    zoo = dataclasses.replace(get_zoo("mnist_cnn_s_seed"), epochs=2)
    random_zoo(tmp_path / "zoos", zoo, 3)
    done = run("verify", "mnist_cnn_s_seed", cwd=tmp_path, code=2)
    line = done.stdout.splitlines()[-1]
    assert line == "not compared: accuracy, loss; nothing else is wrong"
    [audit] = json.loads(run("verify", "mnist_cnn_s_seed", "--json", cwd=tmp_path, code=2).stdout)
    assert (audit["good"], audit["verdict"]) == (False, "not compared")


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_libraries_do_not_spin(
    monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", str(given))
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr("sys.argv", ["model-zoos", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == used


@pytest.mark.parametrize(
    ("command", "delay"),
    [*(("generate", delay) for delay in (0.05, 0.3, 0.6, 1.0, 1.8)), ("report", 1.8)],
)
def test_ctrl_c_in_the_first_seconds_gives_one_line(
    digits_home: Path, tmp_path: Path, command: str, delay: float
) -> None:
    program = Path(sys.executable).with_name("model-zoos")
    words = [command, "digits_cnn_s", *(["--data-dir", digits_home] * (command == "report"))]
    process = subprocess.Popen([program, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    try:
        _, printed = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # the interpreter had it before the program, and went on
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if "states" not in line]
    # Until the interpreter has read the first lines of the package, the traceback is its own.
    early = not any("datasets" in line or "model_zoos/" in line for line in lines[:-1])
    assert early or (lines and lines[-1].startswith("interrupted"))
    assert not any("Traceback" in line for line in lines) or early


def test_the_licence_of_a_built_folder(digits_home: Path, tmp_path: Path) -> None:
    build = ("build", "digits_cnn_s", "--data-dir", str(digits_home))
    for more in (["--licence", "mit"], []):
        run(*build, *more, cwd=tmp_path)
        assert "\nlicense: mit\n" in (tmp_path / "repository/README.md").read_text()
    assert "such as mit or cc-by-4.0" in error(*build, "--licence", "CC BY", cwd=tmp_path)


def test_paths_in_ones_own_home(
    digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bash expands `~` at the beginning of a word, but not in `--out=~/built`."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    run("build", "digits_cnn_s", f"--data-dir={digits_home}", "--out=~/built", cwd=here)
    assert (home / "built/README.md").exists()
    for command in (
        ("publish", "me/zoos", "--from=~/none"),
        ("import", "~/none"),
        ("import", str(digits_home), "--table=~/none/runs.csv", "--architecture", "cnn_s"),
        ("benchmark", "--compare", "~/none", "~/none"),
        ("generate", "~/none.json"),
    ):
        assert f"{home}/none" in error(*command, cwd=here)
    assert not list(here.iterdir())


def test_what_is_there(digits_home: Path, tmp_path: Path) -> None:
    done = run("info", "digits-cnn-s", "--data-dir", str(digits_home), cwd=tmp_path).stdout
    assert "20 of 320" in done
    resume = f"  model-zoos generate digits_cnn_s --out {digits_home} --epochs 5  # trains 300 more"
    assert resume in done
    [entry] = json.loads(
        run("info", "digits_cnn_s", "--data-dir", str(digits_home), "--json", cwd=tmp_path).stdout
    )
    assert (entry["models"], entry["states"]) == (20, 120)
    table = run("list", "--data-dir", str(digits_home), cwd=tmp_path).stdout
    assert [line for line in table.splitlines() if "digits_cnn_s" in line and " 120 " in line]
    assert "there is no zoo in" in error("list", "--local", cwd=tmp_path)
    (tmp_path / "one.json").write_text("[1]")
    assert "one.json: a zoo is a JSON object, found list" in error(
        "generate", "one.json", cwd=tmp_path
    )
    for unknown in (("digit_cnn",), ("digits_cnn", "--data-dir", str(digits_home))):
        assert "did you mean digits_cnn_s" in error("info", *unknown, cwd=tmp_path)
    for command in ("verify", "build", "benchmark", "sparsify", "plot", "report"):
        for name in ("digits_cnns", "digit-cnn-s"):
            for folder in (digits_home, tmp_path / "none"):
                message = error(command, name, "--data-dir", str(folder), cwd=tmp_path)
                assert "did you mean digits_cnn_s" in message
        assert "model-zoos generate digits_cnn_s" in error(command, "digits_cnn_s", cwd=tmp_path)
    (tmp_path / "other" / "my_own").mkdir(parents=True)
    text = (digits_home / "digits_cnn_s" / "zoo.json").read_text()
    (tmp_path / "other" / "my_own" / "zoo.json").write_text(
        text.replace('"name": "digits_cnn_s"', '"name": "my_own"')
    )
    below = error("verify", "my_own", "--data-dir", ".", cwd=tmp_path)
    assert below.endswith(f"try: --data-dir {tmp_path / 'other'}")
    for path in ("other/my_own", str(tmp_path / "other" / "my_own")):
        assert "the name my_own with --data-dir" in error("verify", path, cwd=tmp_path)
    assert "zoo directories is --data-dir other" in error(
        "verify", "my_own", "--out", "other", cwd=tmp_path
    )
    assert "--out is the JSON file to write" in error(
        "benchmark", "my_own", "--out", "other", cwd=tmp_path
    )
    assert "did you mean my_own?" in error("generate", "my_owm", "--out", "other", cwd=tmp_path)
    for command in (("verify", "my_owm"), ("evaluate", "x.npy", "--like", "my_owm")):
        message = error(*command, "--data-dir", "other", cwd=tmp_path)
        assert "did you mean my_own?" in message
    assert not list(tmp_path.glob("repository"))
    spaced = tmp_path / "my zoos"
    spaced.symlink_to(digits_home)
    for command in (
        ("info", "digits_cnn_s", "--data-dir", str(spaced)),
        ("build", "digits_cnn_s", "--data-dir", str(spaced), "--out", str(tmp_path / "my built")),
    ):
        suggested = run(*command, cwd=tmp_path).stdout.partition("next:")[2].strip().splitlines()
        for line in suggested:
            path = shlex.split(line, comments=True)[4]
            assert path in (str(spaced), str(tmp_path / "my built"))
    hint = error("info", "usps_cnn_s_seed", "--data-dir", str(spaced), cwd=tmp_path)
    assert f"--out '{spaced}'" in hint
    assert "model-zoos generate" in error("info", "digits_cnn_s", cwd=tmp_path)


def test_faulty_zoos_are_listed(digits_home: Path, tmp_path: Path) -> None:
    (tmp_path / "digits_cnn_s").symlink_to(digits_home / "digits_cnn_s")
    for name, content in (("cut", '{"format":'), ("another", '{"format": 7}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zoo.json").write_text(content)
    entries = json.loads(run("list", "--data-dir", ".", "--json", cwd=tmp_path).stdout)
    assert [entry["zoo"] for entry in entries] == ["digits_cnn_s", "another", "cut"]
    assert [entry["states"] for entry in entries if "states" in entry] == [120]
    for entry in entries[1:]:
        assert f"{entry['zoo']}/zoo.json: " in entry["error"]
    message = error("list", "mnist*", "--data-dir", ".", cwd=tmp_path)
    assert "matches 'mnist*'; there are another, cut, digits_cnn_s" in message


def test_a_plan_without_readable_images_has_no_time(tmp_path: Path) -> None:
    """Images that are not known, as of an imported zoo, and a folder that is not there."""
    known = get_zoo("digits_cnn_s").to_json()
    times = []
    for images in ("unknown", "folder/mine"):
        specification = {**known, "name": "my_digits", "images": images}
        (tmp_path / "mine.json").write_text(json.dumps(specification))
        lines = run("generate", "mine.json", "--plan", cwd=tmp_path).stdout.splitlines()
        times += [line for line in lines if line.startswith("time: ")]
    assert times[0].startswith("time: unknown; --seconds-per-epoch states")
    assert times[1].startswith("time: unknown (images/mine/train is not there")
    assert "--images-dir names another folder); --seconds-per-epoch states" in times[1]


def test_a_changed_specification_is_refused_before_images_are_read(tmp_path: Path) -> None:
    """By the plan as by the training, whose images are not even there."""
    known = {**get_zoo("digits_cnn_s").to_json(), "name": "mine", "images": "folder/mine"}
    random_zoo(tmp_path / "zoos", Zoo.from_json({**known, "seeds": 4}), 1)
    (tmp_path / "mine.json").write_text(json.dumps({**known, "seeds": 8}))
    for more in ([], ["--plan", "--seconds-per-epoch", "1"]):
        message = error("generate", "mine.json", *more, cwd=tmp_path)
        assert "holds a zoo made with zoo.seeds = 4, not 8" in message


def test_a_key_that_a_zoo_file_has_twice_is_refused(tmp_path: Path) -> None:
    """JSON readers take the last of them, which the user may not have meant."""
    text = json.dumps({**get_zoo("digits_cnn_s").to_json(), "name": "mine", "seeds": 4})
    (tmp_path / "mine.json").write_text(text[:-1] + ', "seeds": 9}')
    message = error("generate", "mine.json", "--plan", cwd=tmp_path)
    assert "mine.json: not readable as JSON (it has the key 'seeds' twice)" in message


def test_an_activation_that_is_not_known_is_said_to_need_an_extension(tmp_path: Path) -> None:
    """In the words that a layer's activation has, whether in a grid or in a text of layers."""
    known = {**get_zoo("digits_cnn_s").to_json(), "name": "mine"}
    for changed in (
        {"grid": {**known["grid"], "activation": ["softsign"]}},
        {"architecture": "1x28x28 fc32:softsign fc10"},
    ):
        (tmp_path / "mine.json").write_text(json.dumps({**known, **changed}))
        message = error("generate", "mine.json", "--plan", cwd=tmp_path)
        assert "unknown activation 'softsign'; known: tanh" in message
        assert "modules that MODEL_ZOOS_EXTENSIONS names" in message


def test_scores_fit_into_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "benchmarks" / "results" / "digits_cnn_s-benchmark.json"
    table = Result.from_json(json.loads(path.read_text())).tables()[0]
    for columns, kept in ((80, slice(6, None)), (100, slice(4, None)), (110, slice(3, None))):
        monkeypatch.setenv("COLUMNS", str(columns))
        display.print_tables([table])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        shown = [" ".join(line.split()) for line in lines]
        for row in table.rows:
            assert " ".join((*row[:3], *row[kept])) in shown


def test_a_result_that_cannot_be_written_is_found_before_the_work(
    digits_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "digits_cnn_s-benchmark.json").mkdir()
    command = ("benchmark", "digits_cnn_s", "--data-dir", str(digits_home))
    for suite in ((), ("--suite",)):
        message = error(*command, *suite, "--out", "/proc/x.json", cwd=tmp_path)
        assert "/proc/x.json cannot be written: " in message
        assert message.endswith("try: --out names another file")
        message = error(*command, *suite, "--out", "file/x.json", cwd=tmp_path)
        assert f"file/x.json cannot be written: {tmp_path / 'file'}: File exists" in message
    assert "digits_cnn_s-benchmark.json is a folder" in error(*command, cwd=tmp_path)
    kept = tmp_path / "kept.json"
    kept.write_text("before")
    (tmp_path / "link.json").symlink_to("nothing.json")
    for name in ("kept.json", "new.json", "link.json"):
        failing = (*command, "--max-weight", "nan", "--out", name)
        assert "max_weight must be above 0, found nan" in error(*failing, cwd=tmp_path)
    assert "found -1.0" in error(*command, "--max-weight", "-1", "--out", "new.json", cwd=tmp_path)
    assert kept.read_text() == "before"
    assert (tmp_path / "link.json").is_symlink()
    left = {"file", "digits_cnn_s-benchmark.json", "kept.json", "link.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize(("quiet", "as_json"), [(False, False), (True, False), (False, True)])
def test_a_result_that_could_not_be_written_is_printed(
    quiet: bool, as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "benchmarks" / "results" / "digits_cnn_s-benchmark.json"
    result = Result.from_json(json.loads(path.read_text()))
    with pytest.raises(InvalidArgument, match=r"gone/x\.json cannot be written: No such file"):
        study._write_result(result, tmp_path / "gone" / "x.json", quiet, as_json)
    shown = capsys.readouterr().out
    assert ("numbers, R2" in shown) != (quiet or as_json)
    printed = json.loads(shown[shown.index("{") :])
    assert printed == json.loads(display.json_text(dataclasses.asdict(result)))


@pytest.mark.slow
def test_from_a_specification_of_ones_own_to_benchmark_and_plot(tmp_path: Path) -> None:
    specification = {
        **get_zoo("digits_cnn_s").to_json(),
        "name": "my_digits",
        "epochs": 1,
        "seeds": 1,
    }
    (tmp_path / "my_digits.json").write_text(json.dumps(specification))
    done = run_alone("generate", "my_digits.json", "--models", "8", "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert (summary["models"], summary["states"]) == (8, 16)
    assert (tmp_path / "zoos" / "my_digits" / "zoo.json").exists()
    assert (
        "8 of 8"
        not in run("generate", "my_digits.json", "--models", "8", "--quiet", cwd=tmp_path).stdout
    )
    (tmp_path / "my_digits.json").rename(tmp_path / "renamed.json")  # zoo.json has it all
    assert "next: model-zoos generate my_digits " in " ".join(
        run("info", "my-digits", cwd=tmp_path).stdout.split()
    )
    more = run("generate", "my-digits", "--models", "9", "--json", cwd=tmp_path).stdout
    assert (json.loads(more)["models"], json.loads(more)["present"]) == (1, 8)
    (tmp_path / "table.csv").write_text("a\n1\n")
    assert "a file that ends in .json" in error("generate", "table.csv", cwd=tmp_path)
    table = run("benchmark", "my_digits", cwd=tmp_path).stdout
    assert "generalization_gap" in table
    written = json.loads((tmp_path / "my_digits-benchmark.json").read_text())
    assert len(written["scores"]) == 6
    assert "too few to compare" in table
    assert {score["target"] for score in written["class_scores"]} >= {"activation", "optimizer"}
    (tmp_path / "mine.py").write_text("def first(matrix, layout):\n    return matrix[:, :9]\n")
    program = Path(sys.executable).with_name("model-zoos")  # whose path lacks the current folder
    arguments = ["benchmark", "my_digits", "--representation", "mine:first", "--epochs", "0,1"]
    done = subprocess.run(
        [program, *arguments, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["scores"][0]["representation"] == "mine:first"
    assert run("verify", "my_digits", cwd=tmp_path).stdout.splitlines()[-1] == "good"
    splits = tmp_path / "zoos" / "my_digits" / "splits.json"
    before = splits.read_text()
    splits.write_text(json.dumps(dict.fromkeys(json.loads(before), "train")))
    done = run("verify", "my_digits", "--states", "3", "--json", cwd=tmp_path, code=1)
    [audit] = json.loads(done.stdout)
    assert (audit["good"], audit["evaluated"]) == (False, 3)
    assert [check["name"] for check in audit["checks"] if check["wrong"]] == ["splits"]
    splits.write_text(before)
    (tmp_path / "my_digits-benchmark.json").unlink()
    as_json = run_alone("benchmark", "my_digits", "--json", cwd=tmp_path)
    assert not (tmp_path / "my_digits-benchmark.json").exists()
    message = error("benchmark", "metrics", cwd=tmp_path)
    assert "`metrics` has no weights" in message
    assert json.loads(as_json.stdout) == written
    assert as_json.stderr == ""
    run("plot", "my-digits", "--out", "new/figure.png", cwd=tmp_path)
    assert (tmp_path / "new" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "--out figure.png" in error("plot", "my-digits", "--out", "figure.txt", cwd=tmp_path)


def test_expected_errors_are_one_line(tmp_path: Path) -> None:
    misspelt = ("generate", "mnist_cnn_s_sed")
    assert "did you mean mnist_cnn_s_seed" in error(*misspelt, cwd=tmp_path)
    done = run_alone(*misspelt, cwd=tmp_path, code=1)
    assert (done.stdout, done.stderr) == ("", f"{error(*misspelt, cwd=tmp_path)}\n")
    message = error("generate", "mnist_cnn_s_seed", "--models", "2", cwd=tmp_path)
    assert "train-images-idx3-ubyte" in message
    assert "--download" in message
    assert "MODEL_ZOOS_IMAGES" in message
    lanes = error("generate", "cifar10_resnet18", "--engine", "lanes", cwd=tmp_path)
    assert "unknown engine 'lanes' for ResNet-18" in lanes
    epochs = error("generate", "cifar10_resnet18", "--keep-epochs", "all", cwd=tmp_path)
    assert "--keep-epochs takes numbers such as 1,10,50" in epochs
    epochs = error("benchmark", "digits_cnn_s", "--epochs", "1;2", cwd=tmp_path)
    assert "--epochs takes numbers such as 1,10,50" in epochs
    for option in ("--ranks", "--seconds-per-epoch"):
        assert "are for --plan" in error("generate", "digits_cnn_s", option, "2", cwd=tmp_path)
    assert "unknown engine" in error("generate", "digits_cnn_s", "--engine", "x", cwd=tmp_path)
    for models, message in (
        ("0", "from 1 on, found 0"),
        ("321", "has 320 models; cannot take 321"),
    ):
        assert message in error("generate", "digits_cnn_s", "--models", models, cwd=tmp_path)
    assert "model-zoos generate" in error("benchmark", "digits_cnn_s", cwd=tmp_path)
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json: not readable as JSON" in error("generate", "bad.json", cwd=tmp_path)
    (tmp_path / "taken.json").write_text(json.dumps(get_zoo("digits_cnn_s").to_json()))
    assert "choose another name" in error("generate", "taken.json", cwd=tmp_path)
    values = get_zoo("digits_cnn_s").to_json() | {"name": "default"}
    (tmp_path / "reserved.json").write_text(json.dumps(values))
    message = error("generate", "reserved.json", "--models", "2", cwd=tmp_path)
    assert "reserved.json: a zoo cannot be named 'default': datasets takes the config" in message
    assert not (tmp_path / "zoos").exists()


def test_sparsify_reads_the_images_of_a_union_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of("mnist_cnn_s")
    assert len(parts) > 1
    for name in parts:
        random_zoo(tmp_path, dataclasses.replace(get_zoo(name), epochs=1), 1)
    summary = Summary("", "", "lanes", 1, 0, 1, 0, 0, None, 1.0, 0.0)
    loaded: list[str] = []
    trained: list[object] = []

    def load(name: str, *_: object, **__: object) -> object:
        loaded.append(name)
        return "the images"

    def train(parents: ZooDirectory, root: Path, images: object, **_: object) -> Summary:
        trained.append((parents.zoo.name, images))
        return summary

    monkeypatch.setattr("model_zoos.generation.images.load_images", load)
    monkeypatch.setattr("model_zoos.generation.sparsify.sparsify", train)
    run("sparsify", "mnist_cnn_s", "--data-dir", str(tmp_path), "--json", cwd=tmp_path)
    assert loaded == ["mnist"]
    assert trained == [(name, "the images") for name in parts]


def test_sparsify(tmp_path: Path) -> None:
    message = error("sparsify", "digits_cnn_s", cwd=tmp_path)
    assert "the zoo 'digits_cnn_s' is not in" in message
    assert "model-zoos generate digits_cnn_s" in message
    assert "not of ResNet-18" in error("sparsify", "cifar10-resnet18", cwd=tmp_path)
    assert "model-zoos sparsify digits_cnn_s" in error("plot", "digits_cnn_s_sparse", cwd=tmp_path)
    run("generate", "digits_cnn_s", "--models", "2", "--epochs", "1", "--quiet", cwd=tmp_path)
    command = ("sparsify", "digits-cnn-s", "--epochs", "1")
    assert "must be a number, 'first' or 'parent'" in error(*command, "--seed", "x", cwd=tmp_path)
    assert "what are 0.5?" in error(*command[:2], "0.5", cwd=tmp_path)
    wrong = (*command, "--method", "magnitude", "--sparsity", "0.5", "digits_mlp_seed")
    assert "numbers such as 0.5 0.8, found digits_mlp_seed" in error(*wrong, cwd=tmp_path)
    usage = run("sparsify", "--help", cwd=tmp_path).stdout.split("Train")[0]
    assert usage.split()[-3:] == ["sparsify", "[OPTIONS]", "{zoo}"]
    assert "No such option" in run("sparsify", "x", "--y", cwd=tmp_path, code=2).stderr
    levels = ("--method", "magnitude", "--sparsity", "0.5", "0.8")
    summary = json.loads(run(*command, *levels, "--json", cwd=tmp_path).stdout)
    assert (summary["zoo"], summary["models"]) == ("digits_cnn_s_sparse_magnitude", 4)
    assert summary["sparsity"] == pytest.approx(0.65, abs=1e-3)
    assert summary["left_out"] == {}
    folder = tmp_path / "zoos" / "digits_cnn_s" / "models"
    next(folder.iterdir()).unlink()
    table = run(*command, "--out", "twins", "--engine", "batched", cwd=tmp_path).stdout
    assert "parents left out" in table
    assert "it is not trained yet" in table
    assert len(list((tmp_path / "twins" / "digits_cnn_s_sparse" / "models").iterdir())) == 1
    (tmp_path / "zoos").rename(tmp_path / "other")
    run(*command, "--out", "other", "--quiet", cwd=tmp_path)  # the dense zoo lies there too
    info = tmp_path / "other" / "digits_cnn_s" / "zoo.json"
    info.write_text(info.read_text().replace('"images": "digits"', '"images": "unknown"'))
    message = error(*command, "--data-dir", "other", cwd=tmp_path)
    assert "does not say which images" in message
    assert "--zoo" in message.splitlines()[1]


@pytest.mark.parametrize(
    "command", ["list", "generate", "sparsify", "benchmark", "verify", "plot", "report"]
)
def test_help(command: str, tmp_path: Path) -> None:
    assert "Usage" in run(command, "--help", cwd=tmp_path).stdout


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_odd_zoos(tmp_path / "zoos")
    done = run("report", "odd", "--out", "page", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    files = [tmp_path / file for file in result["files"]]
    assert files[0] == tmp_path / "page" / "odd.html"
    assert "12 models, 36 states" in files[0].read_text()
    assert len(files) == 1 + len(result["captions"]) == 6
    assert result["diversity"]["epochs"][2]["diverged"] == 1
    assert result["prediction"]["zoo"] == "odd"
    assert done.stderr == ""
    monkeypatch.chdir(tmp_path)  # the rest in this process, which has imported everything already
    CliRunner().invoke(app, ["report", "odd", "--figures", "figures", "--quiet"])
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == sorted(path.name for path in files[1:])
    both = CliRunner().invoke(app, ["report", "odd", "--out", "a", "--figures", "b"])
    assert "not both" in str(both.exception)
    page = CliRunner().invoke(app, ["report", "odd", "--out", "odd.html"])
    assert "--out odd" in str(page.exception)


def test_left_out_states_take_a_line_for_each_trial_and_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = "NN_tune_trainable_954e2_00001_1_seed=2_2026-11-23_09-23-46"
    reason = "missing metrics: there is no result.json"
    left_out = [LeftOut(trial, epoch, reason) for epoch in range(9)]
    left_out += [LeftOut(trial, 9, "empty file")]
    left_out += [LeftOut(name, 4, "empty file") for name in ("other", "third", "last")]
    report = Report("my_zoo", {}, 1, len(left_out), 0, tuple(left_out))
    lines = data._left_out(report)
    assert lines == [
        f"{trial}, 9 epochs, 0 to 8: {reason}",
        f"{trial}, epoch 9: empty file",
        "other and 2 more, epoch 4: empty file",
    ]
    for columns in (80, 62):
        monkeypatch.setenv("COLUMNS", str(columns))
        display.print_some(lines * 5, "import_report.json")
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= columns
        assert printed.count(trial) == 7
        assert printed.split()[-4:] == ["and", "5", "more:", "import_report.json"]
    monkeypatch.delenv("COLUMNS")
    display.print_some(lines, "")  # into a pipe
    assert capsys.readouterr().out.splitlines() == lines


def test_the_time_left_is_that_of_what_a_bar_shows():
    with display.progress_bars(hidden=True) as bars:

        def shown():
            column = bars.progress.columns[-1]
            return [column.render(task).plain for task in bars.progress.tasks]

        bars("phases", text="starting")
        assert shown() == [""]
        bars("phases", 1, 4, seconds_left=3600)
        assert shown() == ["60 min left"]
        time.sleep(0.01)
        bars("phases", 2, 4)
        bars("phases", 4, 4)
        assert shown() == ["0 s left"]
        bars("phases", text="the next phase")
        assert shown() == [""]
        bars("phases", 0, 100)
        bars("others", 0, 5, seconds_left=7)
        assert shown() == ["", "7 s left"]


def test_what_the_package_logs_is_shown_beside_the_bars(capsys):
    log = logging.getLogger("model_zoos.generation")
    for hidden in (False, True):
        with display.progress_bars(hidden):
            log.info("compiling %s", "a kernel")
            log.debug("no remark")
    log.info("later")
    assert capsys.readouterr().err == "compiling a kernel\n"
