"""Output of the commands: tables, progress, JSON, warnings and errors."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column, Table
from rich.text import Text

from ..builders.ranks import launched_rank
from ..builders.untrusted import printable
from ..errors import ModelZoosError

if TYPE_CHECKING:
    from ..benchmarks.tables import Table as ResultTable
    from ..generation.job import Progress as Training

FIRST_SECONDS, REPORT_SECONDS = 3, 10
"""Seconds until the first progress line where there is no terminal, and between two lines."""

LONGEST_WORD = 60
"""Maximal length of a word in a table; a longer one loses its middle."""

SHOWN = 10
"""Maximal number of lines that are printed of a long list."""

_harmless = functools.partial(printable, kept="\n")


# --- Errors and warnings --------------------------------------------------------------------------


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print warnings and expected errors without a traceback, each with its hint.

    Raises:
        SystemExit: with status 1, after an error.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        _say("warning", str(message), message)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        except _expected() as error:
            cause: BaseException = error
            if isinstance(error, _wrapping()) and error.__cause__:
                cause = error.__cause__  # the builder's error
            _say("error", _reason(cause), cause)
            raise SystemExit(1) from None


def _expected() -> tuple[type[Exception], ...]:
    """Return the classes of expected errors, which are not bugs of the program."""
    return ModelZoosError, ValueError, OSError, RuntimeError, *_wrapping()


def _wrapping() -> tuple[type[Exception], ...]:
    """Return the class of the errors in which datasets wraps ours, if datasets is imported."""
    datasets = sys.modules.get("datasets")
    return () if datasets is None else (datasets.exceptions.DatasetGenerationError,)


def _reason(error: BaseException) -> str:
    """Return the message of an error; that of the operating system starts with the file's name."""
    if not (isinstance(error, OSError) and error.filename is not None and error.strerror):
        return str(error)
    text = f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        text += " (expected a folder)"
    return text


def _say(kind: str, text: str, subject: object) -> None:
    print(_broken(f"{kind}: {_harmless(text)}"), file=sys.stderr)
    if hint := getattr(subject, "hint", None):
        print(f"try: {hint}", file=sys.stderr)


def _broken(text: str) -> str:
    """Break a text between words if it goes to a terminal; paths are not broken."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = text.split("\n")
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines
    )


@contextmanager
def resumable() -> Iterator[None]:
    """Print after Ctrl-C that the same command resumes the work.

    Workers that a second Ctrl-C leaves behind end with this process. Their files appear by rename,
    complete or not at all.

    Raises:
        typer.Exit: with status 130, after an interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr, flush=True)
        if any(not (t.daemon or t is threading.current_thread()) for t in threading.enumerate()):
            os._exit(130)
        raise typer.Exit(130) from None


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that prints after Ctrl-C that it was interrupted.

    Raises:
        typer.Exit: with status 130, after an interruption.
    """

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            raise typer.Exit(130) from None

    return run


# --- Results --------------------------------------------------------------------------------------


def first_rank() -> bool:
    """Return whether this process is the one among its ranks that prints."""
    return launched_rank().index == 0


def console() -> Console:
    """Return the console for results, as wide as the terminal or COLUMNS.

    Without either, as in a pipe, lines are not broken.
    """
    return Console(width=None if _has_width() else 10_000)


def _has_width() -> bool:
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    left: Collection[str] = (),
    marked: Collection[int] = (),
    secondary: Sequence[str] = (),
) -> None:
    """Print a table of texts as wide as the terminal.

    A table that is too wide loses first its lines, then its secondary columns. Then texts are
    broken between words. If even that does not fit, each row is printed as a list. In a file or a
    pipe, a table has no lines.

    Args:
        columns: titles of the columns.
        rows: a text for each column.
        title: title above the table.
        left: the columns that are aligned on the left; all others are aligned on the right.
        marked: the rows that are printed in red.
        secondary: the columns that a narrow terminal omits, in this order.
    """
    shown = console()
    cells = [[_short(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    kept = list(range(len(columns)))
    boxed = sys.stdout.isatty() and sum(widths) + 3 * len(widths) + 1 <= shown.width
    whole = boxed or sum(widths) + 2 * len(widths) <= shown.width
    # Without lines, a title is broken between its words, so its column need not be wider.
    words = [
        max(map(len, [*_title_words(name), *(row[index] for row in cells)]))
        for index, name in enumerate(columns)
    ]
    for name in secondary:
        if whole or sum(words[index] + 1 for index in kept) - 1 <= shown.width:
            break
        kept.remove(columns.index(name))
    least = [  # names and numbers are not broken, other texts are broken between words
        words[index]
        if index == 0 or columns[index] not in left
        else max(len(word) for row in (columns, *cells) for word in row[index].split() or [""])
        for index in kept
    ]
    if title:
        shown.print(title, markup=False, style="italic")
    if not whole and sum(least) + len(kept) - 1 > shown.width:
        for row in cells:
            for index, (name, cell) in enumerate(zip(columns, row, strict=True)):
                shown.print(f"{'  ' if index else ''}{name}: {cell}", markup=False, highlight=False)
        return
    space = 2 if whole else 1
    table = Table() if boxed else Table(box=None, pad_edge=False, padding=(0, space, 0, 0))
    for index, width in zip(kept, least, strict=True):
        name = columns[index]
        table.add_column(
            escape(name if whole or len(name) <= width else "\n".join(_title_words(name))),
            justify="left" if name in left else "right",
            min_width=None if whole else width,
            no_wrap=whole or width == words[index],
        )
    for number, row in enumerate(cells):
        style = "red" if number in marked else None
        table.add_row(*(escape(row[index]) for index in kept), style=style)
    shown.print(table)
    if len(kept) < len(columns):
        hidden = [name for index, name in enumerate(columns) if index not in kept]
        text = f"no room for {', '.join(hidden)}: a wider terminal or --json shows them"
        shown.print(text, markup=False, style="dim")


def _title_words(title: str) -> list[str]:
    """Return the words of a column's title; a number stays with its per cent sign."""
    return re.findall(r"\S+(?: %\S*)?", title)


def _short(text: str) -> str:
    """Return a long word, such as the id of an imported trial, without its middle if the width is
    limited."""
    text = _harmless(text)
    if len(text) <= LONGEST_WORD or " " in text or not _has_width():
        return text
    half = LONGEST_WORD // 2 - 1
    return f"{text[:half]}...{text[-half:]}"


def print_tables(tables: Iterable[ResultTable]) -> None:
    """Print the tables of a result with their notes."""
    for table in tables:
        left = [
            name for name, number in zip(table.columns, table.numeric, strict=True) if not number
        ]
        print_table(
            table.columns,
            table.rows,
            title=table.title,
            left=left,
            marked=table.marked,
            secondary=table.secondary,
        )
        for note in table.notes:  # broken between words
            console().print(_harmless(note), markup=False, highlight=False)


def print_values(title: str, values: Mapping[str, object]) -> None:
    """Print a title, then a table of named values."""
    plain = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table = Table(show_header=False) if sys.stdout.isatty() else plain
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(name, escape(_harmless(str(value))))
    shown = console()
    shown.print(_harmless(title), markup=False, soft_wrap=True)  # paths are not broken
    shown.print(table)


def print_some(lines: Sequence[str], where: str) -> None:
    """Print the first lines of a long list, then how many more there are and where to find them.

    Lines are broken between words, as wide as the terminal.
    """
    shown = console()
    for line in lines[:SHOWN]:
        shown.print(_harmless(line), markup=False, highlight=False)
    if len(lines) > SHOWN:
        shown.print(f"and {len(lines) - SHOWN:,} more: {where}", markup=False, highlight=False)


def print_next(*commands: str) -> None:
    """Print what can be done next."""
    print("\n".join(["next:", *(f"  {command}" for command in commands)]))


def json_text(value: object) -> str:
    """Return a value as JSON, with null for NaN and infinity, which JSON does not have."""
    return json.dumps(_finite(value), indent=1)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


# --- Progress -------------------------------------------------------------------------------------


class _TimeLeft(ProgressColumn):
    """The remaining time of a task: its own estimate, or one from its speed.

    It is computed when the bars are drawn, not at each call: rich scans the last 1,000 calls.
    """

    def render(self, task: Task) -> Text:
        return Text(_time_left(task))


def _time_left(task: Task) -> str:
    seconds = task.fields["seconds_left"]
    if seconds is None and task.fields["counted"]:
        seconds = task.time_remaining
    return "" if seconds is None else f"{duration(seconds)} left"


class Bars:
    """Progress bars on a terminal; in a log or a pipe, a line for each and then one at intervals.

    Args:
        hidden: whether to show nothing.
    """

    def __init__(self, hidden: bool) -> None:
        self.lines = not hidden and not sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            _TimeLeft(table_column=Column(no_wrap=True, min_width=11)),
            console=Console(stderr=True),
            disable=hidden or self.lines,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._due: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def __call__(
        self,
        name: str,
        done: float = 0,
        total: float | None = None,
        text: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Move the bar of this name; create it when it is first named.

        Args:
            name: name of the bar.
            done, total: its position; without a total it only moves.
            text: text beside it.
            seconds_left: an estimate; None to estimate it from the bar's speed.
        """
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(
                name, total=total, text="", seconds_left=None, counted=False
            )
            self._due[name] = time.monotonic() + FIRST_SECONDS
        number = self._tasks[name]
        self.progress.update(
            number,
            completed=done,
            total=total,
            text=text,
            seconds_left=seconds_left,
            counted=total is not None,
        )
        if self.lines and time.monotonic() > self._due[name]:
            left = _time_left(next(task for task in self.progress.tasks if task.id == number))
            line = f"{name}: {text}{', ' * bool(left)}{left}"
            same = line == self._said.get(name)
            self._due[name] = time.monotonic() + (
                REPORT_SECONDS if left or same else FIRST_SECONDS / 2
            )
            self._said[name] = "" if same else line
            if not same:  # an unchanged line is repeated every ten seconds
                self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self.progress.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self.progress.console.print(line, markup=False, highlight=False)


class _Remarks(logging.Handler):
    """Prints the package's log messages, such as that it compiles a kernel, above the bars."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(logging.INFO)
        self._bars = bars

    def emit(self, record: logging.LogRecord) -> None:
        self._bars.say(_harmless(record.getMessage()))


@contextmanager
def _log_shown(bars: Bars) -> Iterator[None]:
    """Show the package's log messages above the bars."""
    log, remarks = logging.getLogger("model_zoos"), _Remarks(bars)
    level, propagate = log.level, log.propagate
    log.addHandler(remarks)
    log.setLevel(min(level or logging.INFO, logging.INFO))
    log.propagate = False  # a handler of the root logger would repeat them
    try:
        yield
    finally:
        log.removeHandler(remarks)
        log.setLevel(level)
        log.propagate = propagate


def duration(seconds: float) -> str:
    """Return a time as "45 s", "12 min" or "3.2 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


@contextmanager
def progress_bars(hidden: bool) -> Iterator[Bars]:
    """Show progress bars within the context."""
    bars = Bars(hidden)
    # rich 13 ends a progress display with an empty line even if it is disabled.
    with (
        nullcontext() if bars.progress.disable else bars.progress,
        nullcontext() if hidden else _log_shown(bars),
    ):
        try:
            yield bars
        except Exception:
            bars.progress.live.transient = True  # an error must not leave bars above it
            raise


def counting(bars: Bars, unit: str) -> Callable[[str, int, int], None]:
    """Return a callback (name, done, total) that moves a bar and counts units beside it."""
    return lambda name, done, total: bars(name, done, total, f"{done:,}/{total:,} {unit}")


def gigabytes(bars: Bars, name: str) -> Callable[[str, int, int], None]:
    """Return a callback (what, bytes done, bytes in all) that moves the bar of this name."""
    bars(name)
    return lambda what, done, total: bars(
        name, done, total, f"{what}: {done / 1e9:.2f} of {total / 1e9:.2f} GB"
    )


@contextmanager
def training_progress(name: str, hidden: bool) -> Iterator[Callable[[Training], None]]:
    """Show the progress of a training, and its remaining time."""
    began = time.monotonic()
    with progress_bars(hidden or not first_rank()) as bars:
        bars(name, text="starting")

        def show(done: Training) -> None:
            if done.remark and (done.stopping or not hidden) and first_rank():
                bars.say(done.remark)
            speed = done.samples / (time.monotonic() - began)
            text = (
                f"{done.models}/{done.models_total} models, "
                f"{int(done.states):,}/{done.states_total:,} states"
            )
            if done.samples and (bars.lines or bars.progress.console.width >= 110):
                text += f", {speed:,.0f} samples/s"
            if done.published is not None:
                text += f", {done.published} published"
            bars(name, done.states, done.states_total, text, done.seconds_left)

        yield show


def hide_dataset_bars(quiet: bool) -> None:
    """Hide the progress bars of datasets where those of this command are hidden."""
    if quiet or not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
