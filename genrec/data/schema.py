"""What the two tables must look like, and how close to it they may be: every doubt is an error with row numbers.

Rows are counted from 1, without a header line. Ids become strings, timestamps whole seconds since 1970 (UTC).
"""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from genrec.data.ids import tidy_ids
from genrec.errors import DataError, first_rows

# The year 1973 in milliseconds and the year 5138 in seconds: nothing between the two readings is plausible.
MILLISECONDS_FROM, MICROSECONDS_FROM, NANOSECONDS_FROM = 10**11, 10**14, 10**17
TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")


def rename_columns(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """Give columns our names: ``columns`` maps our name to the user's; names that are not there are left alone."""
    renames = {theirs: ours for ours, theirs in columns.items() if theirs in frame.columns and theirs != ours}
    return frame.drop((set(renames.values()) & set(frame.columns)) - set(renames)).rename(renames)


def tidy_interactions(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check interactions and bring them into one form.

    Args:
        frame: Columns ``user_id`` and ``item_id``; optional ``timestamp``, ``order``, ``rating``; any others.
        where: What error messages call the table.

    Returns:
        ``user_id`` and ``item_id`` strings (categories stay categories), ``timestamp`` Int64 seconds or null, then
        ``order`` Int64 and ``rating`` Float64 where there are any, then the other columns. Rows are in the order given,
        or in the order of time where times were finer than a second.

    Raises:
        DataError: On a missing column, a value of the wrong type, an empty id, or a table without rows.
    """
    _require_columns(frame, ("user_id", "item_id"), where)
    _require_rows(frame, where)
    first = {name: _ids(frame, name, where) for name in ("user_id", "item_id")}
    if "timestamp" not in frame.columns:
        first["timestamp"] = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True).alias("timestamp")
        instants = None
    else:
        instants = _instants(frame["timestamp"], where)
        first["timestamp"] = instants if instants.dtype == pl.Int64 else instants.floor().cast(pl.Int64)
    if "order" in frame.columns:
        first["order"] = _order(frame["order"], where)
    if "rating" in frame.columns:
        first["rating"] = _floats(frame["rating"], where)
    others = [frame[name] for name in frame.columns if name not in first]
    tidy = pl.DataFrame([*first.values(), *others])
    if instants is None or instants.dtype == pl.Int64:
        return tidy
    # Two events within one second keep their order although the fraction is dropped.
    return tidy.with_columns(instants.alias("__instant")).sort("__instant", maintain_order=True).drop("__instant")


def tidy_items(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check items: ``item_id`` first and a string, one row per item, other columns as they are.

    Rows that say exactly the same are one row.

    Raises:
        DataError: On a missing or empty ``item_id``, no rows, or two different rows for one item.
    """
    return _one_row_each(frame, "item", where)


def tidy_users(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Check users as :func:`tidy_items` checks items, by ``user_id``."""
    return _one_row_each(frame, "user", where)


def without_duplicates(frame: pl.DataFrame) -> pl.DataFrame:
    """The first of all interactions with equal user, item and timestamp; unknown timestamps are equal to none."""
    key, timed = ("user_id", "item_id", "timestamp"), pl.col("timestamp").is_not_null()
    keys = frame.select(pl.col(key).to_physical())
    # Sorting a number per row takes a tenth of a table of all keys; the few that repeat are looked at themselves.
    hashes = keys.hash_rows().alias("hash")
    ranked = np.sort(hashes.filter(keys.select(timed).to_series()).to_numpy())
    repeated = pl.Series(np.unique(ranked[1:][ranked[1:] == ranked[:-1]]))
    if not len(repeated):
        return frame
    suspects = keys.with_columns(hashes).with_row_index("row").filter(timed & pl.col("hash").is_in(repeated.implode()))
    first = np.ones(frame.height, dtype=bool)
    first[suspects.filter(~pl.struct(key).is_first_distinct())["row"].to_numpy()] = False
    return frame.filter(pl.Series(first))


def _one_row_each(frame: pl.DataFrame, kind: str, where: str) -> pl.DataFrame:
    key = f"{kind}_id"
    _require_columns(frame, (key,), where)
    _require_rows(frame, where)
    ids = _ids(frame, key, where).cast(pl.String)
    others = [frame[name] for name in frame.columns if name != key]
    tidy = pl.DataFrame([ids, *others])
    if ids.n_unique() == tidy.height:
        return tidy
    tidy = tidy.unique(maintain_order=True)
    repeated = tidy.filter(tidy[key].is_duplicated())
    if repeated.height:
        name = repeated[key][0]
        rows = (ids == name).arg_true() + 1
        raise DataError(
            f"{repeated[key].n_unique()} {kind}s stand in several rows that differ, such as {name!r}",
            where=f"{where}, {first_rows(rows.to_list())}",
            expected=f"one row per {key}",
            fix=f"keep one row per {kind}",
        )
    return tidy


def _require_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> None:
    for name in names:
        if name in frame.columns:
            continue
        lower = {column.lower(): column for column in frame.columns}
        close = difflib.get_close_matches(name, lower, n=1, cutoff=0.4)
        nearest = lower[close[0]] if close else ""
        raise DataError(
            f"there is no column {name!r}" + (f"; the nearest is {nearest!r}" if nearest else ""),
            where=where,
            expected=f"columns {', '.join(names)}; found {', '.join(frame.columns) or 'none'}",
            fix=f"rename it, or say which column it is: columns: {{{name}: {nearest or 'YOUR_COLUMN'}}}",
        )


def _require_rows(frame: pl.DataFrame, where: str) -> None:
    if frame.height == 0:
        raise DataError("the table has no rows", where=where, expected="at least one row", fix="check the file")


def _ids(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    values = tidy_ids(frame[name], where)
    if not isinstance(values.dtype, pl.String | pl.Categorical):
        raise DataError(
            f"{name} is {values.dtype}", where=where, expected="text or whole numbers", fix=f"convert {name} to text"
        )
    empty = values.to_frame().select((pl.col(name) == "").fill_null(True)).to_series()
    fix = "remove these rows, or give them an id"
    _refuse(frame[name], empty, f"{name} is empty", "an id in every row", where, fix=fix)
    return values


def _instants(values: pl.Series, where: str) -> pl.Series:
    """Seconds since 1970: Int64 if the values are whole seconds, else Float64; nulls stay."""
    expected = "whole seconds since 1970, or dates such as 2024-05-31T12:00:00, or empty where unknown"
    if values.dtype == pl.String:
        values = _times_from_text(values, where, expected)
    if values.dtype == pl.Null:
        return values.cast(pl.Int64)
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if values.dtype == pl.Datetime:
        values = values.dt.epoch("us") / 1e6
    if not values.dtype.is_numeric():
        raise DataError(f"timestamp is {values.dtype}", where=where, expected=expected, fix="convert the column")
    if values.dtype.is_float():
        _refuse(values, ~values.is_finite().fill_null(True), "timestamp is not a number", expected, where)
    _refuse(values, (values < 0).fill_null(False), "timestamp is negative", expected, where)
    return _in_seconds(values, where, expected)


def _in_seconds(values: pl.Series, where: str, expected: str) -> pl.Series:
    largest = values.max()
    if largest is not None and largest >= MILLISECONDS_FROM:  # type: ignore[operator]
        small = ((values < MILLISECONDS_FROM) & (values > 0)).fill_null(False)
        fix = "use one unit in the whole column"
        _refuse(values, small, "timestamp mixes seconds and milliseconds", expected, where, fix=fix)
        units = ((NANOSECONDS_FROM, 10**9), (MICROSECONDS_FROM, 10**6), (MILLISECONDS_FROM, 10**3))
        unit = next(size for start, size in units if largest >= start)  # type: ignore[operator]
        finer = ((values < MILLISECONDS_FROM * unit // 1000) & (values > 0)).fill_null(False)
        _refuse(values, finer, "timestamp mixes units of time", expected, where, fix=fix)
        values = values.cast(pl.Float64) / unit
    if values.dtype.is_float() and (values == values.floor()).fill_null(True).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.Float64 if values.dtype.is_float() else pl.Int64)


def _times_from_text(values: pl.Series, where: str, expected: str) -> pl.Series:
    text = values.str.strip_chars()
    text = text.set(text == "", None)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == text.null_count():
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == text.null_count() else numbers
    utc = pl.Datetime("us", "UTC")
    formats = [pl.col("text").str.to_datetime(form, time_unit="us", strict=False) for form in TIME_FORMATS]
    formats = [
        parsed.cast(utc) if "z" in form else parsed.dt.replace_time_zone("UTC")
        for form, parsed in zip(TIME_FORMATS, formats, strict=True)
    ]
    dates = pl.col("text").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    times = pl.DataFrame({"text": text}).select(pl.coalesce(*formats, dates).alias("timestamp")).to_series()
    no_date = times.is_null() & text.is_not_null()
    _refuse(values, no_date & numbers.is_null(), "timestamp is not a time", expected, where)
    _refuse(values, no_date, "timestamp mixes numbers and dates", expected, where, fix="use one of them in all rows")
    return times


def _order(values: pl.Series, where: str) -> pl.Series:
    numbers = values.cast(pl.Float64, strict=False)
    bad = ~(numbers.is_finite() & (numbers == numbers.floor())).fill_null(False)
    fix = "fill the column in every row, or drop it and let the timestamp say"
    _refuse(values, bad, "order is not a position", "a whole number in every row", where, fix=fix)
    return numbers.cast(pl.Int64)


def _floats(values: pl.Series, where: str) -> pl.Series:
    numbers = values.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() & values.is_not_null()) | numbers.is_nan().fill_null(False)
    _refuse(values, bad, "rating is not a number", "numbers, or empty where there is none", where)
    return numbers


def _refuse(values: pl.Series, bad: pl.Series, what: str, expected: str, where: str, fix: str = "") -> None:
    rows = bad.arg_true()
    if len(rows):
        raise DataError(
            f"{what}: {values[int(rows[0])]!r}",
            where=f"{where}, {first_rows((rows + 1).to_list())}",
            expected=expected,
            fix=fix or "correct these rows, or remove them",
        )
