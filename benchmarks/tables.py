"""Tables of text: the common form of results in the terminal, the report and README.md."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

_NUMBERS = re.compile(r"[-±%/\d.,()\[\] ]*")


@dataclass(frozen=True)
class Table:
    """A table of text with a title above and notes below.

    Attributes:
        title: one line on the numbers.
        columns: titles of the columns.
        rows: cells of each row, one for each column.
        notes: sentences that belong to the table.
        marked: indices of rows that report something wrong.
        secondary: the columns that a narrow terminal omits, in this order.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()
    secondary: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers, which are aligned on the right."""
        return tuple(
            any(cells) and all(map(_NUMBERS.fullmatch, cells))
            for cells in zip(*self.rows, strict=True)
        ) or (False,) * len(self.columns)

    def markdown(self) -> str:
        """Return the table with its title and notes as Markdown."""
        bars = ["---:" if numeric else "---" for numeric in self.numeric]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, bars, *self.rows)]
        return "\n".join([self.title, "", *lines, *(f"\n{note}" for note in self.notes)])


def number(value: float | None, digits: int = 3) -> str:
    """Return a number rounded to some digits, and "-" for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def interval(bounds: tuple[float, float]) -> str:
    """Return an interval as "[low, high]", and "-" for an unknown one (NaN or None)."""
    low, high = map(number, bounds)
    return "-" if low == "-" else f"[{low}, {high}]"


def rewrite_part(path: Path, name: str, text: str) -> None:
    """Replace the text between the marks `<!-- name: ... -->` and `<!-- /name -->` of a page.

    Raises:
        SystemExit: the page does not have exactly one pair of these marks.
    """
    marks = re.compile(rf"(<!-- {name}:.*?-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page, count = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", path.read_text())
    if count != 1:
        raise SystemExit(f"{path} must have one pair of `{name}` marks, found {count}")
    path.write_text(page)
