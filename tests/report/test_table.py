"""Tables for a terminal."""

from __future__ import annotations

import doctest

from medseg_monai.report import format_table, table


def test_text_stands_left_numbers_right_and_floats_have_four_digits():
    rows = [["long name.png", 0.91234, 3], ["b.png", 12.5, 100]]
    assert format_table(["case", "dice", "n"], rows).splitlines() == [
        "case              dice    n",
        "long name.png   0.9123    3",
        "b.png          12.5000  100",
    ]


def test_a_column_with_a_text_is_text_throughout_and_lines_end_without_blanks():
    lines = format_table(["a", "state"], [[1, "ok"], [20, "failed"]]).splitlines()
    assert lines == [" a  state", " 1  ok", "20  failed"]


def test_an_undefined_value_is_nan():
    assert format_table(["dice"], [[float("nan")]]).splitlines() == ["dice", " nan"]


def test_what_a_row_does_not_have_is_left_blank_in_a_column_of_numbers():
    assert format_table(["n", "pooled"], [[1, None], [2, 0.5]]).splitlines() == ["n  pooled", "1", "2  0.5000"]


def test_a_table_without_rows_is_its_header():
    assert format_table(["case", "dice"], []) == "case  dice"


def test_the_example_of_the_docstring_holds():
    assert doctest.testmod(table).failed == 0
    assert doctest.testmod(table).attempted == 2
