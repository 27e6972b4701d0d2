"""Good tables come out in one form; bad ones are refused with the rows, the value and the cure."""

from datetime import date, datetime, timedelta, timezone

import polars as pl
import pytest

from genrec.data.account import TableAccount
from genrec.data.columns import rename_columns
from genrec.data.schema import tidy_interactions, tidy_items, without_repeats
from genrec.errors import DataError

NOON = int(datetime(2024, 5, 31, 12, tzinfo=timezone.utc).timestamp())


def interactions(**columns) -> pl.DataFrame:
    size = len(next(iter(columns.values())))
    ids = {"user_id": [f"u{e}" for e in range(size)], "item_id": [f"i{e}" for e in range(size)]}
    return pl.DataFrame(ids | columns)


def tidy(frame: pl.DataFrame) -> pl.DataFrame:
    return tidy_interactions(frame, where="log.csv")


def times(values: list) -> list:
    return tidy(interactions(timestamp=pl.Series(values)))["timestamp"].to_list()


def refusal(frame: pl.DataFrame) -> str:
    with pytest.raises(DataError) as caught:
        tidy(frame)
    assert caught.value.exit_code == 3
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([NOON, None], [NOON, None]),
        ([0, 5], [0, 5]),
        ([NOON + 0.0, NOON + 0.75], [NOON, NOON]),
        ([NOON * 1000 + 999, NOON * 1000 + 1000], [NOON, NOON + 1]),
        ([NOON * 10**6], [NOON]),
        ([NOON * 10**9], [NOON]),
        ([str(NOON), None, ""], [NOON, None, None]),
        ([f"{NOON}.0"], [NOON]),
        (["2024-05-31T12:00:00Z", "2024-05-31 14:00:00+02:00"], [NOON, NOON]),
        (["2024-05-31T12:00:00.25", "2024-05-31 12:00:00"], [NOON, NOON]),
        (["2024-05-31", None], [NOON - 43_200, None]),
        ([date(2024, 5, 31)], [NOON - 43_200]),
        ([datetime(2024, 5, 31, 12)], [NOON]),
    ],
)
def test_times_become_seconds(values, expected):
    assert times(values) == expected


def test_times_with_a_zone_become_utc():
    zone = pl.Series("timestamp", [datetime(2024, 5, 31, 12)]).dt.replace_time_zone("America/New_York")
    assert tidy(interactions(timestamp=zone))["timestamp"].to_list() == [NOON + 4 * 3600]


def test_events_within_a_second_keep_their_order():
    frame = interactions(timestamp=[NOON * 1000 + 900, NOON * 1000 + 100, NOON * 1000 + 500])
    assert tidy(frame)["user_id"].to_list() == ["u1", "u2", "u0"]


def test_no_timestamp_column_means_unknown_times():
    assert tidy(interactions(rating=[1, 2]))["timestamp"].to_list() == [None, None]


def test_whole_numbers_become_ids_as_they_are_written():
    frame = pl.DataFrame({"user_id": [1, 20], "item_id": [7.0, 8.0]})
    assert tidy(frame).select("user_id", "item_id").rows() == [("1", "7"), ("20", "8")]


def test_order_rating_and_further_columns_are_kept():
    frame = interactions(shop=["a", "b"], rating=["4.5", "3"], order=["1", "0"])
    result = tidy(frame)
    assert result.columns == ["user_id", "item_id", "timestamp", "order", "rating", "shop"]
    assert result.select("order", "rating", "shop").rows() == [(1, 4.5, "a"), (0, 3.0, "b")]


def test_columns_are_renamed_to_ours():
    frame = pl.DataFrame({"customer": ["a"], "sku": ["b"], "item_id": ["old"]})
    renamed = rename_columns(frame, {"user_id": "customer", "item_id": "sku", "title": "not there"})
    assert renamed.to_dict(as_series=False) == {"user_id": ["a"], "item_id": ["b"]}


@pytest.mark.parametrize(("theirs", "nearest"), [("userid", "userid"), ("User_ID", "User_ID"), ("user", "user")])
def test_a_missing_column_names_the_nearest(theirs, nearest):
    message = refusal(pl.DataFrame({theirs: ["u"], "item_id": ["i"]}))
    assert f"there is no column 'user_id'; the nearest is {nearest!r}" in message
    assert f"columns: {{user_id: {nearest}}}" in message
    assert "log.csv" in message
    assert f"found {theirs}, item_id" in message


def test_a_missing_column_without_a_near_one_says_what_is_there():
    message = refusal(pl.DataFrame({"xyz": [1], "qq": [2]}))
    assert "there is no column 'user_id'\n" in message
    assert "found xyz, qq" in message


@pytest.mark.parametrize(
    ("columns", "what", "rows"),
    [
        ({"user_id": ["a", None, "", "d"]}, "user_id is empty: None", "rows 2, 3 (2 in all)"),
        ({"item_id": ["a", "b", ""]}, "item_id is empty: ''", "row 3"),
        ({"item_id": [1.0, 2.5]}, "item_id is not an id: 2.5", "row 2"),
        ({"item_id": [1.0, float("nan")]}, "item_id is empty: nan", "row 2"),
        ({"timestamp": [NOON, -5, -6]}, "timestamp is negative: -5", "rows 2, 3 (2 in all)"),
        ({"timestamp": [1.0, float("nan")]}, "timestamp is not a number: nan", "row 2"),
        ({"timestamp": [1.0, float("inf")]}, "timestamp is not a number: inf", "row 2"),
        ({"timestamp": ["5", "yesterday"]}, "timestamp is not a time: 'yesterday'", "row 2"),
        ({"timestamp": ["2024-05-31", "5"]}, "timestamp mixes numbers and dates: '5'", "row 2"),
        ({"timestamp": ["2024-05-31", "31/05/2024"]}, "timestamp is not a time: '31/05/2024'", "row 2"),
        ({"timestamp": [NOON, NOON * 1000]}, "timestamp mixes seconds and milliseconds", "row 1"),
        ({"timestamp": [NOON * 1000, NOON * 10**6]}, "timestamp mixes units", "row 1"),
        ({"order": [0, None]}, "order is not a position: None", "row 2"),
        ({"order": [0.0, 1.5]}, "order is not a position: 1.5", "row 2"),
        ({"rating": ["5", "good"]}, "rating is not a number: 'good'", "row 2"),
        ({"rating": [5.0, float("nan")]}, "rating is not a number: nan", "row 2"),
    ],
)
def test_bad_values_are_refused_with_their_rows(columns, what, rows):
    message = refusal(interactions(**columns))
    assert what in message
    assert f"log.csv, {rows}" in message
    assert "expected: " in message
    assert "what to do: " in message


def test_only_the_first_five_rows_are_named():
    message = refusal(interactions(timestamp=[-1] * 9))
    assert "rows 1, 2, 3, 4, 5, ... (9 in all)" in message


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"user_id": [["a"], ["b"]]}, "user_id is List(String)"),
        ({"item_id": [True, False]}, "item_id is Boolean"),
        ({"timestamp": [True, False]}, "timestamp is Boolean"),
        ({"timestamp": [[1], [2]]}, "timestamp is List(Int64)"),
    ],
)
def test_columns_of_the_wrong_type_are_refused(columns, what):
    assert what in refusal(interactions(**columns))


def test_a_table_without_rows_is_refused():
    assert "the table has no rows" in refusal(pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String}))


def test_items_have_one_row_each():
    frame = pl.DataFrame({"title": ["A", "B", "A"], "item_id": [1, 2, 1]})
    assert tidy_items(frame, where="items.csv").rows() == [("1", "A"), ("2", "B")]
    differing = pl.DataFrame({"title": ["A", "B", "C"], "item_id": [1, 2, 1]})
    with pytest.raises(DataError, match=r"1 items occur in several rows that differ, such as '1'[\s\S]*rows 1, 3"):
        tidy_items(differing, where="items.csv")


def test_items_need_their_id():
    with pytest.raises(DataError, match=r"no column 'item_id'; the nearest is 'item'"):
        tidy_items(pl.DataFrame({"item": ["a"]}), where="items.csv")
    with pytest.raises(DataError, match=r"item_id is empty: None[\s\S]*items.csv, row 2"):
        tidy_items(pl.DataFrame({"item_id": ["a", None]}), where="items.csv")


def test_only_rows_with_a_known_time_are_repeats():
    rows = [("u", "i", 5), ("u", "i", 5), ("u", "i", 6), ("u", "j", None), ("u", "j", None), ("v", "i", 5)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    assert without_repeats(frame, TableAccount("interactions")).rows() == [rows[0], *rows[2:]]


@pytest.mark.parametrize(
    "values",
    [
        pl.Series(["5", "4.5", None], dtype=pl.Categorical),
        pl.Series(["5", "4.5", ""], dtype=pl.Enum(["", "4.5", "5"])),
        pl.Series([" 5", "4.5 ", " "]),
        pl.Series(["5", "4.5", None]).cast(pl.Decimal(10, 2)),
    ],
)
def test_ratings_of_any_type_that_holds_numbers(values):
    assert tidy(interactions(rating=values))["rating"].to_list() == [5.0, 4.5, None]


@pytest.mark.parametrize("value", [[1.0], {"a": 1}, b"5", date(2024, 5, 31), timedelta(1), datetime(2024, 5, 31)])
def test_ratings_that_are_no_numbers_are_refused(value):
    assert "rating is " in refusal(interactions(rating=[value, value]))


@pytest.mark.parametrize("name", ["__exact", "__row", "__len", "exact", "row", "count", "hash", "user"])
@pytest.mark.parametrize("unit", [1, 1000])
def test_columns_of_any_name_are_carried_and_decide_nothing(name, unit):
    """Two different times of one user and item are no repeats, whatever another column says; nor is its order read."""
    frame = pl.DataFrame(
        {"user_id": "u", "item_id": "a", "timestamp": [NOON * unit + 1, NOON * unit, NOON * unit + 1], name: [7, 7, 7]}
    )
    account = TableAccount("interactions")
    found = tidy_interactions(frame, where="log.csv", account=account, drop_repeats=True)
    assert sorted(found["timestamp"].to_list()) == sorted([NOON, NOON + 1] if unit == 1 else [NOON, NOON])
    assert found[name].to_list() == [7, 7]
    assert account.rows_left_out("exact repeats") == 1
