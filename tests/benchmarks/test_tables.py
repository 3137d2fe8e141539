"""Tables: which columns are numbers, Markdown, and numbers that are not known."""

from __future__ import annotations

import math

from model_zoos.benchmarks.tables import Table, interval, number


def test_numbers_are_aligned_on_the_right() -> None:
    rows = (("a", "1,234", "0.5 [-0.1, 0.6]", "-", "2 of them"), ("3", "-", "-", "-", ""))
    table = Table("title", ("", "n", "quartiles", "nothing", "note"), rows, ("A note.",))
    assert table.numeric == (False, True, True, True, False)
    assert table.markdown().splitlines() == [
        "title",
        "",
        "|  | n | quartiles | nothing | note |",
        "| --- | ---: | ---: | ---: | --- |",
        "| a | 1,234 | 0.5 [-0.1, 0.6] | - | 2 of them |",
        "| 3 | - | - | - |  |",
        "",
        "A note.",
    ]
    assert Table("", ("a", "b"), ()).numeric == (False, False)


def test_numbers_that_are_not_known() -> None:
    assert number(-0.0001) == "0.000"
    assert number(1234.56, 1) == "1,234.6"
    assert number(None) == number(math.nan) == "-"
    assert interval((math.nan, math.nan)) == "-"
    assert interval((-0.5, 1)) == "[-0.500, 1.000]"
