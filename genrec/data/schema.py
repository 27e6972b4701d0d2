"""What the tables must look like, and how close to it they may be: every doubt is an error with row numbers.

Rows are counted from 1, without a header line. Ids become strings, timestamps whole seconds since 1970 (UTC).
"""

import numpy as np
import polars as pl

from genrec.data.account import IDS, REPEATS, TableAccount, examples_of
from genrec.data.columns import check_names, require_columns
from genrec.data.ids import check_id_types, tidy_ids
from genrec.data.refusal import refuse
from genrec.data.times import read_positions, read_times
from genrec.errors import DataError, first_rows

# Columns of our own while rows are compared and sorted: times finer than seconds, numbers of rows, how many are alike.
# Names of a user's columns never end with a space.
EXACT, ROW, COUNT = "exact ", "row ", "count "


def tidy_interactions(
    frame: pl.DataFrame, *, where: str, account: TableAccount | None = None, drop_repeats: bool = False
) -> pl.DataFrame:
    """Check interactions and bring them into one form.

    Args:
        frame: Columns ``user_id`` and ``item_id``; optional ``timestamp``, ``order``, ``rating``; any others.
        where: What error messages call the table.
        account: Takes how columns were read, rows that are left out, and notes.
        drop_repeats: Leave out rows that repeat an earlier one in every column; see :func:`without_repeats`.

    Returns:
        ``user_id`` and ``item_id`` strings (categories stay categories), ``timestamp`` Int64 seconds or null, then
        ``order`` Int64 and ``rating`` Float64 where there are any, then the other columns. Rows are in the order given,
        or in the order of time where times were finer than a second.

    Raises:
        DataError: On a missing column, a value of the wrong type, an empty id, a table without rows, or a column that
            holds the order of events by another name.
    """
    account = account or TableAccount("interactions", where)
    require_columns(frame, IDS, where)
    _require_rows(frame, where)
    check_names(frame.columns, account, where)
    first = {name: checked_ids(frame, name, where) for name in IDS}
    exact = None
    if "timestamp" not in frame.columns:
        first["timestamp"] = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True).alias("timestamp")
    else:
        times = read_times(frame["timestamp"], where, account)
        first["timestamp"], exact = times.seconds, None if times.whole else times.exact.alias(EXACT)
    if "order" in frame.columns:
        first["order"] = read_positions(frame["order"], where)
    if "rating" in frame.columns:
        first["rating"] = _floats(frame["rating"], where)
    others = [frame[name] for name in frame.columns if name not in first]
    tidy = pl.DataFrame([*first.values(), *others, *([] if exact is None else [exact])])
    if drop_repeats:
        tidy = without_repeats(tidy, account)
    # Two events within one second keep their order although the fraction is dropped.
    return tidy if exact is None else tidy.sort(EXACT, maintain_order=True).drop(EXACT)


def tidy_items(frame: pl.DataFrame, *, where: str, account: TableAccount | None = None) -> pl.DataFrame:
    """Check items: ``item_id`` first and a string, one row per item, other columns as they are.

    Rows that say exactly the same are one row; the account says how many were left out.

    Raises:
        DataError: On a missing or empty ``item_id``, no rows, or two different rows for one item.
    """
    return _one_row_each(frame, "item", where, account)


def tidy_users(frame: pl.DataFrame, *, where: str, account: TableAccount | None = None) -> pl.DataFrame:
    """Check users as :func:`tidy_items` checks items, by ``user_id``."""
    return _one_row_each(frame, "user", where, account)


def without_repeats(frame: pl.DataFrame, account: TableAccount) -> pl.DataFrame:
    """Leave out interactions that repeat an earlier one in every column, times as finely as they were given.

    Rows without a known time are no repeats of each other. Rows of one user, item and time that differ elsewhere stay:
    the account notes how many there are and in which columns they differ, unless in their position.

    Args:
        frame: Tidy interactions, also with their exact times.
        account: Takes the rows that are left out, and the note.
    """
    timed = pl.col("timestamp").is_not_null()
    key = [*IDS, EXACT if EXACT in frame.columns else "timestamp"]
    keys = frame.select(pl.col(key).to_physical())
    # Sorting a number per row takes a tenth of a table of all keys; the few that repeat are looked at themselves.
    hashes = keys.hash_rows().alias("hash")
    ranked = np.sort(hashes.filter(frame.select(timed).to_series()).to_numpy())
    repeated = pl.Series(np.unique(ranked[1:][ranked[1:] == ranked[:-1]]))
    if not len(repeated):
        return frame
    suspects = frame.with_row_index(ROW).filter(timed & hashes.is_in(repeated.implode()))
    first = suspects.select(pl.struct(pl.exclude(ROW)).is_first_distinct()).to_series()
    _note_differences(suspects.filter(first), key, account)
    rows = suspects.filter(~first)
    shown = rows.head(2).select(pl.format("row {}", pl.col(ROW) + 1)).to_series().to_list()
    texts = examples_of(rows.select(*IDS, "timestamp"))
    account.leave_out(REPEATS, rows.height, [f"{row}: {text}" for row, text in zip(shown, texts, strict=False)])
    kept = np.ones(frame.height, dtype=bool)
    kept[rows[ROW].to_numpy()] = False
    return frame.filter(pl.Series(kept))


def checked_ids(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column of ids as tidy text or categories, none of them empty.

    Raises:
        DataError: If the column is of another type, or a row has no id.
    """
    values = tidy_ids(frame[name], where)
    check_id_types(values.to_frame(), [name], where)
    empty = values.to_frame().select((pl.col(name) == "").fill_null(True)).to_series()
    fix = "remove these rows, or give them an id"
    refuse(frame[name], empty, f"{name} is empty", "an id in every row", where, fix=fix)
    return values


def _note_differences(frame: pl.DataFrame, key: list[str], account: TableAccount) -> None:
    """Note rows of one user, item and time, and position where there is one, that differ in other columns."""
    key = [*key, *(name for name in ("order",) if name in frame.columns)]
    others = [name for name in frame.columns if name not in (*key, "timestamp", ROW)]
    counts = frame.group_by(key).agg(pl.len().alias(COUNT), pl.col(others).n_unique()).filter(pl.col(COUNT) > 1)
    if counts.height:
        differing = [repr(name) for name in others if (counts[name] > 1).any()]
        rows = int(counts[COUNT].sum()) - counts.height
        account.note(
            f"{rows} rows have the user, item and time of another, but differ in {', '.join(differing)}: all are kept"
        )


def _one_row_each(frame: pl.DataFrame, kind: str, where: str, account: TableAccount | None) -> pl.DataFrame:
    key = f"{kind}_id"
    require_columns(frame, (key,), where)
    _require_rows(frame, where)
    ids = checked_ids(frame, key, where).cast(pl.String)
    others = [frame[name] for name in frame.columns if name != key]
    tidy = pl.DataFrame([ids, *others])
    if ids.n_unique() == tidy.height:
        return tidy
    if account is not None:
        again = tidy.filter(~tidy.select(pl.struct(pl.all()).is_first_distinct()).to_series())
        account.leave_out(REPEATS, again.height, examples_of(again.select(key)))
    tidy = tidy.unique(maintain_order=True)
    repeated = tidy.filter(tidy[key].is_duplicated())
    if repeated.height:
        name = repeated[key][0]
        rows = (ids == name).arg_true() + 1
        raise DataError(
            f"{repeated[key].n_unique()} {kind}s occur in several rows that differ, such as {name!r}",
            where=f"{where}, {first_rows(rows.to_list())}",
            expected=f"one row per {key}",
            fix=f"keep one row per {kind}",
        )
    return tidy


def _require_rows(frame: pl.DataFrame, where: str) -> None:
    if frame.height == 0:
        raise DataError("the table has no rows", where=where, expected="at least one row", fix="check the file")


def _floats(values: pl.Series, where: str) -> pl.Series:
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        values = text.set(text == "", None)
    elif not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"rating is {values.dtype}", where=where, expected="numbers", fix="convert the column")
    numbers = values.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() & values.is_not_null()) | numbers.is_nan().fill_null(False)
    refuse(values, bad, "rating is not a number", "numbers, or empty where there is none", where)
    return numbers
