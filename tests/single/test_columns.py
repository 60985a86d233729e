"""Tables of plain text."""

import pytest

from app.columns import columns


@pytest.fixture(autouse=True)
def narrow_colourful_terminal(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_cells_stand_below_each_other_with_numbers_to_the_right() -> None:
    rows = [["class", "train", "test"], ["a longer name", "1,500", "7"], ["no", "2", ""]]
    assert columns(rows, numbers=True).split("\n") == [
        "  class          train  test",
        "  a longer name  1,500     7",
        "  no                 2",
    ]
    assert columns(rows[1:]).split("\n")[1] == "  no             2"


def test_wide_characters_count_as_two() -> None:
    assert columns([["数据", "x"], ["data", "x"]]) == "  数据  x\n  data  x"


def test_a_long_cell_is_neither_cut_nor_wrapped() -> None:
    path = "/a path/" * 500
    assert columns([["run", path], ["data", "x"]]) == f"  run   {path}\n  data  x"


@pytest.mark.parametrize("cell", ["[red]x[/red]", "[/]", "[unclosed", ":smile:", r"\[x]"])
def test_what_looks_like_markup_is_shown_as_it_is(cell: str) -> None:
    assert columns([[cell, "x"]]) == f"  {cell}  x"


def test_lines_within_a_cell_stay_in_their_column() -> None:
    assert columns([["one\ntwo", "x\ny"], ["a\tb", "z"]]).split("\n") == [
        "  one        x",
        "  two        y",
        "  a       b  z",
    ]
