"""The commands and the Python of the README and of docs/, as a reader would run them.

A comment right above a fenced block says what differs from "run it":

    <!-- not run: reason -->    it needs the Hub, a GPU, a launcher, a download ...
    <!-- slow -->               only in `make test-all`
    <!-- file: PATH -->         it is saved as this file and not run
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import model_zoos
from model_zoos.cli import app

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|slow|file)(?:: (?P<value>.+?))? -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        place: page and line of its first line, for messages.
        language: "bash", "python", "json" or "text".
        text: its lines.
        mark: "not run", "slow", "file" or None, as the comment above says.
        value: what the comment says: a reason or a path.
    """

    place: str
    language: str
    text: str
    mark: str | None
    value: str | None

    def commands(self) -> list[list[str]]:
        """The words of each command; continued lines are joined, comments dropped."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """All blocks of a page, such as "README.md" or "docs/load.md"."""
    text = (ROOT / page).read_text()
    return [
        Block(
            place=f"{page}:{text.count(chr(10), 0, found.start('text')) + 1}",
            **{key: found[key] for key in ("language", "text", "mark", "value")},
        )
        for found in _BLOCK.finditer(text)
    ]


def arguments(command: list[str]) -> list[str] | None:
    """The arguments that a command gives to `model-zoos`, also behind a launcher; None if none."""
    for start in (["model-zoos"], ["-m", "model_zoos"]):
        for i in range(len(command)):
            if command[i : i + len(start)] == start:
                return command[i + len(start) :]
    return None


def check_options(given: list[str]) -> None:
    """Parse a command's arguments without running it; an unknown option is an error."""
    from typer.main import get_command

    group = get_command(app)
    name, *rest = given
    group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]


def run(block: Block, folder: Path) -> None:
    """Run a block in this process, with `folder` as the working directory.

    Raises:
        AssertionError: with the place of the block, if it fails.
    """
    with _inside(folder):
        try:
            if block.mark == "file":
                path = Path(str(block.value))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "python":
                names = {"__name__": "__main__", "print": _checked_print(block)}
                exec(compile(block.text, block.place, "exec"), names)
            elif block.language == "bash":
                for command in block.commands():
                    _run_command(command)
        except Exception as error:
            raise AssertionError(f"{block.place} failed: {error!r}") from error


def _checked_print(block: Block) -> Callable[..., None]:
    """Return a `print` for the Python of a block, which compares shapes with the comment behind it.

    A comment such as `# [rows, 66, 64], [66, 64]` says the shapes in the order of the arguments.
    Words stand for any number.
    """
    lines = block.text.splitlines()

    def checked(*values: object) -> None:
        print(*values)
        line = lines[sys._getframe(1).f_lineno - 1]
        shapes = [value for value in values if isinstance(value, tuple)]
        stated = re.findall(r"\[([^]]*)\]", line.partition("  # ")[2])
        for shape, text in zip(shapes, stated if shapes else (), strict=bool(stated)):
            said = text.split(", ")
            known = [one if word.isdigit() else word for one, word in zip(shape, said, strict=True)]
            assert [str(one) for one in known] == said, f"{line}: the shape is {tuple(shape)}"

    return checked


def _run_command(command: list[str]) -> None:
    settings = [word for word in command if re.fullmatch(r"[A-Z_]+=.*", word)]
    if settings and command[len(settings)] == "model-zoos":  # read when a process begins
        program = [sys.executable, "-m", "model_zoos", *command[len(settings) + 1 :]]
        variables = dict(setting.split("=", 1) for setting in settings)
        subprocess.run(program, env={**os.environ, **variables}, check=True)
        return
    assert command[0] == "model-zoos", f"not a command of ours: {shlex.join(command)}"
    sys.argv = command
    status: object = None
    try:
        model_zoos.main()
    except SystemExit as ended:
        status = ended.code
    assert status in (None, 0), f"exit status {status}: {shlex.join(command)}"


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """The working directory, arguments and module path of a process of its own."""
    before = Path.cwd(), sys.argv, list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before[0])
        _, sys.argv, sys.path[:] = before
