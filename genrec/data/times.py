"""Times and positions of events, exactly as they were given: nothing passes through floats that is a whole number.

A column of times is whole numbers of one unit, floats, or dates. Whole numbers are read as milliseconds, microseconds
or nanoseconds only where every value is too large for the coarser unit.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from genrec.data.account import TableAccount
from genrec.data.refusal import refuse
from genrec.errors import DataError

# The year 1973 in milliseconds and the year 5138 in seconds: nothing between the two readings is plausible.
MILLISECONDS_FROM, MICROSECONDS_FROM, NANOSECONDS_FROM = 10**11, 10**14, 10**17
# The year 2262 in nanoseconds: more than 64 bits hold.
BEYOND = 2.0**63
UNITS = ((NANOSECONDS_FROM, 10**9), (MICROSECONDS_FROM, 10**6), (MILLISECONDS_FROM, 10**3))
UNIT_NAMES = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
TIME_SHAPE = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}:\d{2}(?:\.\d+)?\s*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)?)?$"
TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")
# Dates written as one number: what they are called, how they are written, the first and the last that are likely.
PACKED_DATES = (
    ("YYYY", "%Y%m%d", 1_970, 2_100),
    ("YYYYMM", "%Y%m%d", 197_001, 210_012),
    ("YYYYMMDD", "%Y%m%d", 19_000_101, 21_001_231),
    ("YYYYMMDDHHMM", "%Y%m%d%H%M", 190_001_010_000, 210_012_312_359),
    ("YYYYMMDDHHMMSS", "%Y%m%d%H%M%S", 19_000_101_000_000, 21_001_231_235_959),
)
EXPECTED = "whole seconds since 1970, or dates such as 2024-05-31T12:00:00, or empty where unknown"
FINEST_TEXT = r"[.]\d{7}"


@dataclass(frozen=True, eq=False)
class Times:
    """A column of times.

    Attributes:
        seconds: Int64, whole seconds since 1970 (UTC), null where unknown.
        exact: Int64 or Float64, the times as finely as they were given, in any unit; equal where they are equal and
            ascending with them. The same as ``seconds`` where no time is finer than a second.
    """

    seconds: pl.Series
    exact: pl.Series

    @property
    def whole(self) -> bool:
        """Whether no time is finer than a second."""
        return self.exact is self.seconds


def read_times(values: pl.Series, where: str, account: TableAccount) -> Times:
    """Times from numbers, dates or text; the account says as what they were read.

    Args:
        values: The column.
        where: What error messages call the table.
        account: Takes the reading, and notes on values that are less exact than they look.

    Raises:
        DataError: On a value that is no time, and where units, or numbers and dates, are mixed.
    """
    if isinstance(values.dtype, pl.Categorical | pl.Enum | pl.Decimal):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        values = _from_text(values, where)
    if values.dtype == pl.Null:
        account.columns[values.name] = "empty"
        return _times(values.cast(pl.Int64), 1)
    if values.dtype in (pl.Date, pl.Datetime):
        return _from_dates(values, where, account)
    if not values.dtype.is_numeric():
        raise DataError(f"timestamp is {values.dtype}", where=where, expected=EXPECTED, fix="convert the column")
    return _from_numbers(values, where, account)


def read_positions(values: pl.Series, where: str) -> pl.Series:
    """Positions, Int64, from whole numbers of any type or as text.

    Raises:
        DataError: On a value that is not whole, is missing, or is too large to be exact.
    """
    whole = isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null) or values.dtype.is_numeric()
    if not whole:
        fix = "columns: {timestamp: order}" if values.dtype in (pl.Date, pl.Datetime) else "convert the column"
        raise DataError(f"order is {values.dtype}", where=where, expected="a whole number in every row", fix=fix)
    exact = values.dtype.is_integer()
    if not (exact or values.dtype.is_float()):
        values = values.cast(pl.String).str.strip_chars()
    numbers = values.cast(pl.Float64, strict=False)
    bad = ~(numbers.is_finite() & (numbers == numbers.floor())).fill_null(False)
    fix = "fill the column in every row, or drop it and let the timestamp say"
    refuse(values, bad, "order is not a position", "a whole number in every row", where, fix)
    # Text may be a whole number, which is exact, or one with a point, which is a float.
    positions = pl.Series(values.name, [None] * len(values), pl.Int64) if values.dtype.is_float() else values
    positions = positions.cast(pl.Int64, strict=False)
    limit = 2.0**24 if values.dtype == pl.Float32 else 2.0**53
    inexact = positions.is_null() & ((numbers.abs() >= limit) if not exact else True)
    expected = f"whole numbers of 64 bits; as floats below {limit:.0f}"
    refuse(values, inexact, "order is too large to be exact", expected, where, "write the column as whole numbers")
    return positions.fill_null(numbers.cast(pl.Int64, strict=False))


def _times(counts: pl.Series, per_second: int) -> Times:
    """Times from counts of a unit since 1970, Int64 or Float64."""
    whole = counts.floor().cast(pl.Int64) if counts.dtype.is_float() else counts
    seconds = whole // per_second
    exact = (counts == seconds * per_second).fill_null(True).all()
    return Times(seconds, seconds if exact else counts)


def _from_numbers(values: pl.Series, where: str, account: TableAccount) -> Times:
    floats = values.dtype.is_float()
    counts = values.cast(pl.Float64 if floats else pl.Int64, strict=False)
    if floats:
        refuse(values, ~counts.is_finite().fill_null(True), "timestamp is not a number", EXPECTED, where)
    refuse(values, (counts < 0).fill_null(False), "timestamp is negative", EXPECTED, where)
    beyond = (counts >= BEYOND).fill_null(False) if floats else counts.is_null() & values.is_not_null()
    fix = "correct these rows, or leave the time empty where it is unknown"
    refuse(values, beyond, "timestamp is too large for any unit of time", EXPECTED, where, fix)
    unit = _unit(counts, where)
    account.columns[values.name] = f"{UNIT_NAMES[unit]} since 1970"
    _note_packed_dates(counts, account)
    if floats:
        _note_spacing(values, unit, account)
        whole = (counts == counts.floor()).fill_null(True).all()
        return _times(counts.cast(pl.Int64) if whole else counts, unit)
    return _times(counts, unit)


def _unit(values: pl.Series, where: str) -> int:
    """How many of a column's units make a second."""
    largest = values.max()
    unit = next((size for start, size in UNITS if largest is not None and largest >= start), 1)  # type: ignore[operator]
    if unit == 1:
        return 1
    fix = "use one unit in the whole column"
    small = ((values < MILLISECONDS_FROM) & (values > 0)).fill_null(False)
    refuse(values, small, "timestamp mixes seconds and milliseconds", EXPECTED, where, fix)
    finer = ((values < MILLISECONDS_FROM * unit // 1000) & (values > 0)).fill_null(False)
    refuse(values, finer, "timestamp mixes units of time", EXPECTED, where, fix)
    return unit


def _from_dates(values: pl.Series, where: str, account: TableAccount) -> Times:
    if values.dtype == pl.Date:
        account.columns[values.name] = "dates, UTC"
        counts, unit = values.cast(pl.Int64) * 86_400, 1
    else:
        name = str(values.dtype.time_unit)  # type: ignore[attr-defined]
        account.columns[values.name] = "dates and times, UTC"
        counts, unit = values.to_physical(), {"ms": 10**3, "us": 10**6, "ns": 10**9}[name]
    refuse(values, (counts < 0).fill_null(False), "timestamp is negative", EXPECTED, where)
    return _times(counts, unit)


def _from_text(values: pl.Series, where: str) -> pl.Series:
    """Text as whole numbers, floats, dates or dates with times."""
    text = values.str.strip_chars()
    text = text.set(text == "", None)
    if text.null_count() == len(text):
        return pl.Series(values.name, [None] * len(values), pl.Null)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == text.null_count():
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else numbers
    # To polars 2024-05-3 and 12:00:4 are times, too; here they are the rest of a value in a file that was cut short.
    days = text.set(~text.str.contains(TIME_SHAPE).fill_null(True), None).str.to_date("%Y-%m-%d", strict=False)
    if days.null_count() == text.null_count():
        return days.alias(values.name)
    # BigQuery writes the zone as a word.
    zoned = text.str.replace(r"(?i)\s*(?:UTC|GMT)$", "Z")
    finest: Literal["ns", "us"] = "ns" if text.str.contains(FINEST_TEXT).any() else "us"
    utc = pl.Datetime(finest, "UTC")
    formats = [pl.col("text").str.to_datetime(form, time_unit=finest, strict=False) for form in TIME_FORMATS]
    formats = [
        parsed.cast(utc) if "z" in form else parsed.dt.replace_time_zone("UTC")
        for form, parsed in zip(TIME_FORMATS, formats, strict=True)
    ]
    dates = pl.lit(days.cast(pl.Datetime(finest))).dt.replace_time_zone("UTC")
    times = pl.DataFrame({"text": zoned}).select(pl.coalesce(*formats, dates).alias(values.name)).to_series()
    times = times.set(~zoned.str.contains(TIME_SHAPE).fill_null(True), None)
    no_date = times.is_null() & text.is_not_null()
    refuse(values, no_date & numbers.is_null(), "timestamp is not a time", EXPECTED, where)
    refuse(values, no_date, "timestamp mixes numbers and dates", EXPECTED, where, "use one of them in all rows")
    return times


def _note_spacing(values: pl.Series, unit: int, account: TableAccount) -> None:
    """Say so where floats are too large to know every unit of time."""
    largest = values.max()
    if not isinstance(largest, float):
        return
    width = str(values.dtype).removeprefix("Float")
    spacing = float(np.spacing(np.dtype(f"float{width}").type(largest)))
    if spacing > 1:
        account.note(
            f"timestamp is floats of {width} bits, exact to {spacing / unit:.9g} seconds only at {largest:.0f}: the "
            "order of events that are closer is lost; write whole numbers"
        )


def _note_packed_dates(values: pl.Series, account: TableAccount) -> None:
    """Say so where numbers look like dates in digits."""
    low, high = values.min(), values.max()
    for name, form, first, last in PACKED_DATES:
        if low is None or not (first <= low and high <= last):  # type: ignore[operator]
            continue
        digits = values.drop_nulls().unique().cast(pl.Int64).cast(pl.String)
        if "H" in form:
            dates = digits.str.to_datetime(form, strict=False, time_unit="us")
        else:
            # What is left out of a date is its first month or day.
            dates = (digits + "0101").str.head(8).str.to_date(form, strict=False)
        if not dates.null_count():
            unit = account.columns[values.name]
            account.note(
                f"timestamp {low!r} looks like a date as {name}, but is read as {unit}: write 2024-05-31 instead"
            )
