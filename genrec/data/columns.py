"""Names of columns: which of a user's columns is which of ours, and which looks as if it were meant to be one."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from genrec.data.account import TableAccount
from genrec.errors import ConfigError, DataError

# Our columns, and the tables that have them.
TABLES = {
    "user_id": ("interactions", "users"),
    "item_id": ("interactions", "items"),
    "timestamp": ("interactions",),
    "order": ("interactions",),
    "rating": ("interactions",),
    "title": ("items",),
    "name": ("items",),
}
# What columns of times are called, without case and marks; also whatever ends as the pattern says, such as created_at.
TIME_NAMES = """
time times ts t date datetime timestamps timestampms timestampus timestampns unixtime unixtimestamp epoch eventtime
reviewtime unixreviewtime createdtime creationtime servertime localtime visittime clicktime transactiontime
purchasetime ordertime sessiontime requesttime logtime
"""
TIME_ENDINGS = re.compile(r"[A-Za-z][\s_.-](?i:at|ts|timestamp|date|datetime)$|[a-z](?:At|Timestamp|Date|DateTime)$")
# Other verbs have no setting for it.
WITH_SETTINGS = "where data are prepared say which column it is"
POSITION_NAMES = "position sequence seq step sequencenumber seqno eventnumber eventno"
RATING_NAMES = "rating ratings stars score overall"


def check_mapping(columns: Mapping[str, str]) -> None:
    """Refuse a setting ``columns`` that names what we do not have, or one column twice.

    Args:
        columns: Our column name to the user's; empty where there is none.

    Raises:
        ConfigError: Naming the nearest of our names.
    """
    for ours, theirs in columns.items():
        if ours not in TABLES:
            meant = [name for name, found in _meanings([ours]).items() if found]
            close = meant or difflib.get_close_matches(plain(ours), TABLES, n=1, cutoff=0.5)
            raise ConfigError(
                f"columns names {ours!r}, which is none of our columns",
                where="data.columns",
                expected=f"our name: yours, with our names {', '.join(TABLES)}; other columns keep their names",
                fix=f"did you mean columns: {{{close[0]}: {theirs}}}?" if close else "leave it out",
            )
        twice = [other for other, name in columns.items() if name and name == theirs and other != ours]
        if twice:
            raise ConfigError(
                f"columns says that {theirs!r} is {ours} and {twice[0]}",
                where="data.columns",
                expected="a column of its own for each",
                fix="correct one of them, or leave it out",
            )


def mapping_of(table: str, columns: Mapping[str, str]) -> dict[str, str]:
    """The part of a setting ``columns`` that is about one table."""
    return {ours: theirs for ours, theirs in columns.items() if table in TABLES.get(ours, ())}


def check_found(columns: Mapping[str, str], tables: Iterable[TableAccount]) -> None:
    """Refuse a setting ``columns`` that names a column which none of its tables has.

    Args:
        columns: Our column name to the user's; empty where there is none.
        tables: Accounts of the tables as they were read, with all their columns.

    Raises:
        DataError: Naming the nearest columns that there are.
    """
    tables = list(tables)
    for ours, theirs in columns.items():
        meant = [table for table in tables if table.table in TABLES[ours]]
        if not theirs or any(
            table.renamed.get(ours, ours if ours in table.columns else None) == theirs for table in meant
        ):
            continue
        there = list(dict.fromkeys(table.renamed.get(name, name) for table in meant for name in table.columns))
        near = _nearest(theirs, there)
        raise DataError(
            f"there is no column {theirs!r}, which data.columns says is {ours}"
            + (f"; the nearest is {', '.join(map(repr, near))}" if near else ""),
            where=", ".join(table.source or table.table for table in meant) or "data.columns",
            expected=f"one of the columns {', '.join(there) or 'of the tables'}",
            fix=f"correct it: columns: {{{ours}: {near[0] if near else 'YOUR_COLUMN'}}}",
        )


def rename_columns(
    frame: pl.DataFrame, columns: Mapping[str, str], account: TableAccount | None = None
) -> pl.DataFrame:
    """Give columns our names.

    Args:
        frame: Any table.
        columns: Our name to the user's; empty where there is no such column, which leaves out one of our name. Names
            that are not there are left alone.
        account: Where it is written which columns were renamed or left out.
    """
    none = {ours for ours, theirs in columns.items() if not theirs}
    renames = {theirs: ours for ours, theirs in columns.items() if theirs in frame.columns and theirs != ours}
    replaced = (set(renames.values()) & set(frame.columns)) - set(renames)
    if account is not None:
        account.renamed |= {ours: theirs for theirs, ours in renames.items()}
        account.columns_left_out |= dict.fromkeys(none, "columns says that there is none")
        account.columns_left_out |= {name: f"columns names {columns[name]!r} instead" for name in replaced}
    return frame.drop((none & set(frame.columns)) | replaced).rename(renames)


def check_names(names: Sequence[str], account: TableAccount, where: str) -> None:
    """Refuse interactions whose order is lost because a column has another name than ours.

    ``Timestamp`` and ``Order`` are refused where ours are not there. What is called like a time or a position is
    refused where there is neither ``timestamp`` nor ``order``, and noted where there is one of them.

    Args:
        names: The columns that there are.
        account: Of the interactions; says which columns a user knows not to be there, and takes the notes.
        where: What error messages call the table.

    Raises:
        DataError: Naming the columns, and how to map them or to say that they are something else.
    """
    known = {"timestamp", "order", "rating"} & (set(names) | set(account.columns_left_out))
    others = [name for name in names if name not in TABLES]
    for ours in ("timestamp", "order"):
        alike = [name for name in others if plain(name) == ours]
        if ours not in known and alike:
            raise _not_ours(ours, alike, where)
    ordered = known & {"timestamp", "order"}
    meanings = _meanings(others)
    for ours in ("timestamp", "order"):
        alike = meanings[ours]
        if alike and not ordered:
            raise _not_ours(ours, alike, where)
        if alike and ours == "timestamp" and ours not in known:
            account.note(f"times are not known: {_shown(alike)} may be the timestamp (data.columns maps it)")
    rating = [name for name in others if plain(name) == "rating"]
    if rating and "rating" not in known:
        account.note(f"{_shown(rating)} is kept, but not read as the rating (data.columns maps it)")


def require_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: Naming the nearest column that there is.
    """
    for name in names:
        if name in frame.columns:
            continue
        near = _nearest(name, frame.columns, cutoff=0.4)[:1]
        raise DataError(
            f"there is no column {name!r}" + (f"; the nearest is {near[0]!r}" if near else ""),
            where=where,
            expected=f"columns {', '.join(names)}; found {', '.join(frame.columns) or 'none'}",
            fix=f"rename it, or {WITH_SETTINGS}: columns: {{{name}: {near[0] if near else 'YOUR_COLUMN'}}}",
        )


def like_ratings(names: Sequence[str]) -> list[str]:
    """The names that a column of ratings may have."""
    return _meanings(names)["rating"]


def plain(name: str) -> str:
    """A name without case, spaces and marks."""
    return re.sub(r"[\s_.\-\ufeff]+", "", name).casefold()


def _names(table: TableAccount) -> dict[str, str]:
    """Our name of every column to that in the files."""
    return {name: table.renamed.get(name, name) for name in table.columns}


def _meanings(names: Sequence[str]) -> dict[str, list[str]]:
    """The names that each of our optional columns may have."""
    known = {"timestamp": TIME_NAMES.split(), "order": POSITION_NAMES.split(), "rating": RATING_NAMES.split()}
    found = {ours: [name for name in names if plain(name) in others] for ours, others in known.items()}
    close = difflib.get_close_matches("timestamp", map(plain, names), n=len(names) + 1, cutoff=0.85)
    found["timestamp"] += [name for name in names if TIME_ENDINGS.search(name) or plain(name) in close]
    return {ours: list(dict.fromkeys(others)) for ours, others in found.items()}


def _nearest(name: str, names: Sequence[str], cutoff: float = 0.6) -> list[str]:
    lower = {other.lower(): other for other in names}
    return [lower[close] for close in difflib.get_close_matches(name.lower(), lower, n=2, cutoff=cutoff)]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5])


def _not_ours(ours: str, alike: Sequence[str], where: str) -> DataError:
    return DataError(
        f"there is no column {ours!r}, but {_shown(alike)}: what it says of the order of events would be lost",
        where=where,
        expected="times in a column 'timestamp', positions in a column 'order'",
        fix=f"rename it to {ours}, or {WITH_SETTINGS}: columns: {{{ours}: {alike[0]}}}; if it is none, "
        f'say so, columns: {{{ours}: ""}}, or rename it to something else',
    )
