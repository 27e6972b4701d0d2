"""Times and positions are exact: whole numbers keep all digits, and what is less exact than it looks is said."""

from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.data.account import TableAccount
from genrec.data.schema import tidy_interactions
from genrec.data.times import read_positions, read_times
from genrec.errors import DataError

NOON = 1_717_156_800
LARGE = NOON * 10**9


def read(values, dtype=None):
    account = TableAccount("interactions")
    times = read_times(pl.Series("timestamp", values, dtype), "log.csv", account)
    return times, account


def order_of(tmp_path, **columns) -> list[str]:
    size = len(next(iter(columns.values())))
    frame = pl.DataFrame({"user_id": ["u"] * size, "item_id": list("cbadefg"[:size]), **columns})
    dataset = make_dataset(frame, None, DataConfig(k_core=0), tmp_path / "out")
    return [dataset.item_ids[item] for item in dataset.full()[0]]


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([LARGE + 3, LARGE + 2, LARGE + 1]),
        pl.Series([LARGE + 3, LARGE + 2, LARGE + 1], dtype=pl.UInt64),
        pl.Series([str(LARGE + 3), str(LARGE + 2), str(LARGE + 1)]),
        pl.Series([Decimal(LARGE + 3), Decimal(LARGE + 2), Decimal(LARGE + 1)]),
        pl.Series([LARGE + 3, LARGE + 2, LARGE + 1]).cast(pl.Datetime("ns")),
        pl.Series([f"2024-05-31 12:00:00.00000000{n} UTC" for n in (3, 2, 1)]),
    ],
    ids=["int64", "uint64", "text", "decimal", "datetime", "dates"],
)
def test_nanoseconds_are_in_exact_order(tmp_path, values):
    times, account = read(values)
    assert times.exact.diff().drop_nulls().to_list() == [-1, -1]
    assert times.seconds.to_list() == [NOON] * 3
    assert account.notes == []
    assert order_of(tmp_path, timestamp=values) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([NOON], "seconds since 1970"),
        ([NOON * 10**3], "milliseconds since 1970"),
        ([NOON * 10**6], "microseconds since 1970"),
        ([NOON * 10**9], "nanoseconds since 1970"),
        (["1714564800000"], "milliseconds since 1970"),
        ([NOON + 0.5], "seconds since 1970"),
        (["2024-05-31"], "dates, UTC"),
        ([date(2024, 5, 31)], "dates, UTC"),
        ([datetime(2024, 5, 31)], "dates and times, UTC"),
        (["2024-05-31", "2024-05-31 12:00:00"], "dates and times, UTC"),
        ([None], "empty"),
        (["", None], "empty"),
    ],
)
def test_the_account_says_what_times_were_read_as(values, kind):
    assert read(values)[1].columns == {"timestamp": kind}


@pytest.mark.parametrize(
    "text", ["2024-05-31 12:00:00 UTC", "2024-05-31T12:00:00UTC", "2024-05-31 12:00:00 gmt", "2024-05-31 12:00:00.0Z"]
)
def test_utc_may_be_written_as_a_word(text):
    assert read([text, None])[0].seconds.to_list() == [NOON, None]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([2024, None, 2023], "YYYY"),
        (["202405", "202412"], "YYYYMM"),
        ([20240531, 20240601], "YYYYMMDD"),
        (["20240531", "20240601"], "YYYYMMDD"),
        ([20240531.0, None, 20240601.0], "YYYYMMDD"),
        ([202405311200, 202406010000], "YYYYMMDDHHMM"),
        ([20240531120000], "YYYYMMDDHHMMSS"),
    ],
)
def test_dates_in_digits_are_noticed(values, name):
    (note,) = read(values)[1].notes
    assert f"looks like a date as {name}, but is read as " in note


@pytest.mark.parametrize(
    "values", [[2024, 5], [202413, 202401], [20241331, 20240601], [20240531, 5], [NOON], [NOON * 1000]]
)
def test_other_numbers_are_no_dates_in_digits(values):
    assert read(values)[1].notes == []


@pytest.mark.parametrize(
    ("values", "dtype", "bits", "seconds"),
    [
        ([NOON], pl.Float32, 32, 128),
        ([NOON * 1000], pl.Float32, 32, 131.072),
        ([LARGE], pl.Float64, 64, 2.56e-07),
    ],
)
def test_floats_that_lose_the_order_are_noted(values, dtype, bits, seconds):
    kind = {32: np.float32, 64: np.float64}[bits]
    gap = float(np.nextafter(kind(values[0]), kind(np.inf))) - float(kind(values[0]))
    assert gap / (values[0] // NOON) == pytest.approx(seconds)
    (note,) = read(values, dtype)[1].notes
    assert f"floats of {bits} bits, exact to {seconds:g} seconds only" in note


@pytest.mark.parametrize("values", [[NOON + 0.25], [NOON * 1000.0], [NOON * 10**6 + 0.0]])
def test_floats_that_are_exact_are_not_noted(values):
    assert read(values)[1].notes == []


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1e308], None), ([1.0, 1e20], None), (["1e19"], None), ([2**63], pl.UInt64), (["9223372036854775808"], None)],
)
def test_times_beyond_every_unit_are_refused(values, dtype):
    with pytest.raises(DataError, match="timestamp is too large for any unit of time"):
        read(values, dtype)


def test_dates_far_away_are_dates_and_no_numbers():
    values = [datetime(9999, 12, 31), datetime(1970, 1, 1, 0, 0, 1)]
    assert read(values)[0].seconds.to_list() == [253_402_214_400, 1]
    with pytest.raises(DataError, match="timestamp is negative"):
        read([date(1969, 12, 31)])


@pytest.mark.parametrize(
    ("values", "per_second"), [([NOON * 1000.0 + 999.75, 0.0], 1000), ([NOON + 0.875, 5.0], 1), ([LARGE + 999], 10**9)]
)
def test_seconds_are_the_floor_of_exact_times(values, per_second):
    wanted = [Fraction(value) // per_second for value in values]
    assert read(values)[0].seconds.to_list() == wanted


SNOWFLAKE = 1_714_564_800_123_456_700


@pytest.mark.parametrize(
    "values",
    [
        [SNOWFLAKE + 3, SNOWFLAKE + 2, SNOWFLAKE + 1],
        [str(SNOWFLAKE + 3), str(SNOWFLAKE + 2), str(SNOWFLAKE + 1)],
        ["3.0", "2", "1"],
        [2**63 - 1, 0, -(2**63)],
    ],
)
def test_positions_are_exact(tmp_path, values):
    positions = read_positions(pl.Series("order", values), "log.csv").to_list()
    assert positions == [int(float(value)) if value == "3.0" else int(value) for value in values]
    assert order_of(tmp_path, order=values) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1e30, 2e30], None, "order is too large to be exact: 1e+30"),
        ([float(SNOWFLAKE)], None, "order is too large to be exact"),
        ([2.0**24], pl.Float32, "order is too large to be exact"),
        ([2**63], pl.UInt64, "order is too large to be exact"),
        (["9223372036854775808"], None, "order is too large to be exact"),
        ([1.5], None, "order is not a position: 1.5"),
        ([None], None, "order is not a position: None"),
        (["", "1"], None, "order is not a position: ''"),
        (["first"], None, "order is not a position: 'first'"),
        ([date(2024, 5, 31)], None, "order is Date"),
        ([True], None, "order is Boolean"),
    ],
)
def test_what_is_no_exact_position_is_refused(values, dtype, message):
    with pytest.raises(DataError, match=message.replace("+", r"\+")):
        read_positions(pl.Series("order", values, dtype), "log.csv")


def log(**columns) -> pl.DataFrame:
    return pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "a"], **columns})


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": [NOON * 1000 + 100, NOON * 1000 + 500, NOON * 1000 + 900]},
        {"timestamp": [LARGE, LARGE + 1, LARGE + 2]},
        {"timestamp": [NOON + 0.0, NOON + 0.25, NOON + 0.5]},
        {"timestamp": ["2024-05-31"] * 3, "order": [1, 2, 3]},
        {"timestamp": [1, 2, 1], "event": ["view", "view", "buy"]},
        {"timestamp": [1, 2, 1], "rating": [3, 3, 4]},
        {"timestamp": [1, 2, 1], "tags": [["x"], ["x"], ["x", "y"]]},
        {"timestamp": [None, 2, None]},
    ],
)
def test_rows_that_differ_in_anything_are_no_repeats(tmp_path, columns):
    dataset = make_dataset(log(**columns), None, DataConfig(k_core=0), tmp_path / "out")
    assert dataset.num_interactions == 3
    assert dataset.account.interactions.left_out == {}


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": [NOON, NOON + 1, NOON]},
        {"timestamp": [LARGE + 1, LARGE + 2, LARGE + 1]},
        {"timestamp": ["2024-05-31", "2024-06-01", "2024-05-31T00:00:00Z"]},
        {"timestamp": [1, 2, 1], "order": [0, 1, 0], "rating": ["3", None, "3.0"], "tags": [["x"], None, ["x"]]},
    ],
)
def test_rows_that_are_equal_in_everything_are_repeats(tmp_path, columns):
    dataset = make_dataset(log(**columns), None, DataConfig(k_core=0), tmp_path / "out")
    assert dataset.num_interactions == 2
    assert dataset.account.interactions.left_out["exact repeats"].examples[0].startswith("row 3: user_id 'u', item_id")


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"event": ["view", "view", "buy"]}, "'event'"),
        ({"event": ["view", "view", "buy"], "rating": [1, 2, 3], "shop": ["s"] * 3}, "'rating', 'event'"),
        ({"event": ["view", "view", "buy"], "order": [0, 1, 2]}, None),
    ],
)
def test_columns_in_which_almost_repeats_differ_are_named(tmp_path, columns, named):
    frame = log(timestamp=[1, 2, 1], **columns)
    notes = make_dataset(frame, None, DataConfig(k_core=0), tmp_path / "out").account.interactions.notes
    wanted = f"1 rows have the user, item and time of another, but differ in {named}: all are kept"
    assert [note for note in notes if "all are kept" in note] == ([wanted] if named else [])


@pytest.mark.parametrize(
    ("order", "timestamp", "counts"),
    [
        # Counters that begin again every day.
        ([1, 2, 1, 1, 2, 1], [10, 20, 90, 10, 20, 90], (2, 2)),
        ([1, 2, 3, 1, 2, 1], [10, 20, 90, 10, 20, 90], (1, 1)),
        ([1, 2, 3, 3, 2, 1], [10, 20, 90, 10, 20, 90], (0, 1)),
        ([1, 2, 3, 3, 2, 1], [None, 20, 90, None, 20, None], (0, 0)),
        ([1, 2, 3, 1, 2, 3], [10, 20, 90, 10, 20, 90], (0, 0)),
    ],
)
def test_positions_that_repeat_or_go_against_the_times_are_counted(tmp_path, order, timestamp, counts):
    frame = pl.DataFrame({"user_id": ["u"] * 3 + ["v"] * 3, "item_id": list("abcabc")})
    frame = frame.with_columns(order=pl.Series(order), timestamp=pl.Series(timestamp))
    notes = make_dataset(frame, None, DataConfig(k_core=0), tmp_path / "out").account.interactions.notes
    repeating, contrary = counts
    wanted = f"order has a position twice for {repeating} and goes against the times for {contrary} of 2 users"
    assert [wanted in note for note in notes] == ([True] if any(counts) else [])


def test_equal_positions_are_in_the_order_of_time(tmp_path):
    assert order_of(tmp_path, order=[1, 1, 1], timestamp=[3, 2, 1]) == ["a", "b", "c"]
    assert order_of(tmp_path, order=[1, 1, 0], timestamp=[3, 3, 5]) == ["a", "c", "b"]


def test_empty_ratings_in_quotes_are_no_ratings(tmp_path):
    frame = log(rating=["5", "", None])
    dataset = make_dataset(frame, None, DataConfig(k_core=0), tmp_path / "out")
    assert dataset.interactions["rating"].to_list() == [5.0, None, None]


@pytest.mark.parametrize("cut", ["2024-05-31T12:00:0", "2024-05-31T12:00", "2024-05-3", "2024-05-31T12:00:00+0"])
def test_the_rest_of_a_time_is_no_time(cut):
    table = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": ["2024-05-31T12:00:00", cut]})
    with pytest.raises(DataError, match="timestamp is not a time"):
        tidy_interactions(table, where="log.csv")
