"""Columns of every nesting as text, worked by hand."""

import polars as pl
import pytest

from genrec.data.texts import is_text, row_texts, text_of

PATHS = [["Home", "Light"], ["Gifts"]]
COLUMNS = {
    "plain": (pl.Series([" a ", "", None]), ["a", "", ""]),
    "category": (pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b", ""]),
    "list": (pl.Series([["red", None, " ", "small "], [], None]), ["red, small", "", ""]),
    "paths": (pl.Series([PATHS, [[]], None]), ["Home > Light | Gifts", "", ""]),
    "deeper": (pl.Series([[PATHS, [["Sale"]]], [[[None]]], None]), ["Home > Light | Gifts | Sale", "", ""]),
    "array": (pl.Series([["u", "v"], ["w", None], None], dtype=pl.Array(pl.String, 2)), ["u, v", "w", ""]),
    "struct": (
        pl.Series([{"en": "red", "size": 3, "tags": ["p", "q"]}, {"en": None, "size": 1, "tags": None}, None]),
        ["red, p, q", "", ""],
    ),
    "structs": (pl.Series([[{"k": "size", "v": "L"}, {"k": "hue", "v": None}], [], None]), ["size, L, hue", "", ""]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_as_text(kind):
    column, expected = COLUMNS[kind]
    table = pl.DataFrame({"item_id": ["i", "j", "k"], "c": column})
    assert is_text(table.schema["c"])
    assert table.select(text_of(table, "c")).to_series().to_list() == expected


@pytest.mark.parametrize("values", [[1, 2], [[1.5], [2.5]], [[[1]], [[2]]], [b"a", b"b"], [{"n": 1}, {"n": 2}]])
def test_numbers_and_bytes_are_no_text(values):
    assert not is_text(pl.Series(values).dtype)


def test_rows_join_what_there_is():
    table = pl.DataFrame({"title": ["A", None, " "], "tags": [["x"], ["y", "z"], None], "price": [1.5, None, None]})
    assert row_texts(table, ["title", "tags"]) == ["A. x", "y, z", ""]
    assert row_texts(table, ["price", "title"]) == ["1.5. A", "", ""]
    assert row_texts(table, []) == ["", "", ""]
