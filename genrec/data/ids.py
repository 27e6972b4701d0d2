"""Ids of users and items as text: one rule for every table, list and file, applied before anything is joined.

Whole numbers become their digits, also where a gap made a column of them floats (``5.0`` is ``5``; the text ``"5.0"``
stays). From 2^53 on, floats no longer hold every whole number, so that ids may have merged: they are refused. White
space and invisible characters at the ends are removed, and accents are written in one way (Unicode NFC).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any
from unicodedata import normalize

import polars as pl

from genrec.data.account import TableAccount
from genrec.data.refusal import refuse
from genrec.errors import DataError

ID_COLUMNS = ("user_id", "item_id")
# White space, control characters, and what takes no room: soft hyphen, zero-width characters, directions of text.
INVISIBLE = "".join(
    chr(code)
    for first, last in (
        (0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200F),
        (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)  # fmt: skip
MISSING_WORDS = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nil", "nat", "undefined", r"\n", "-nan")
TEXT = (pl.String, pl.Categorical, pl.Enum)
UNTIDY = "had white space or invisible characters at an end, or accents not in Unicode NFC"
MISSING = "are a word for a missing value"
FLOATS = "are whole numbers written as floats"
SHORTENED = "are numbers that a spreadsheet may have shortened"
ADVICE = {
    MISSING: "read as ids; remove these rows if they are none",
    FLOATS: "text is read as it is, so that 5.0 is not 5; write them without .0 if they are the same",
    SHORTENED: "different ids may have become one; export them again as text",
}
# The largest whole number below which a float of some bits holds all of them.
EXACT = 2**53
EXACT_BELOW = {"Float16": 2**11, "Float32": 2**24, "Float64": EXACT}
SHOWN = 5


@dataclass
class _Finding:
    count: int
    example: str
    rows: list[int]


@dataclass
class IdFindings:
    """What was odd about the ids of one table, counted over all of its pieces: column and kind to what was found."""

    found: dict[tuple[str, str], _Finding] = field(default_factory=dict)

    def add(self, values: pl.Series, distinct: pl.Series, tidy: pl.Series, first_row: int) -> None:
        """Count in a piece of a column of text what is not tidy, and what is probably not meant."""
        kinds = {
            UNTIDY: tidy != distinct,
            MISSING: tidy.str.to_lowercase().is_in(MISSING_WORDS),
            FLOATS: tidy.str.contains(r"^-?[0-9]+\.0$"),
            SHORTENED: tidy.str.contains(r"^[0-9]([.,][0-9]+)?[eE]\+[0-9]+$"),
        }
        for kind, odd in kinds.items():
            if odd.any():
                rows = values.cast(pl.String).is_in(distinct.filter(odd).implode()).fill_null(False).arg_true()
                before = self.found.setdefault((values.name, kind), _Finding(0, str(values[int(rows[0])]), []))
                before.count += len(rows)
                before.rows = [*before.rows, *(rows[:SHOWN] + first_row).to_list()][:SHOWN]

    def note(self, account: TableAccount) -> None:
        """Write what was found into an account."""
        for (name, kind), found in self.found.items():
            rows = ", ".join(map(str, found.rows)) + (", ..." if found.count > len(found.rows) else "")
            account.notes.append(
                f"{found.count} values of {name} {kind}, such as {found.example!r} "
                f"(row{'s' if found.count > 1 else ''} {rows}): "
                + (f"read as {_tidy(found.example)!r}" if kind == UNTIDY else ADVICE[kind])
            )


def tidy_ids(values: pl.Series, where: str, *, first_row: int = 1, findings: IdFindings | None = None) -> pl.Series:
    """A column of ids as text; NaN becomes null.

    Args:
        values: Text, categories, whole numbers, floats or decimals that are whole, or lists of these.
        where: What error messages call the table.
        first_row: Number of the first row in the table.
        findings: Takes what was not tidy.

    Returns:
        Text, or lists of text; tidy categories stay categories. Columns of other types are returned as they are.

    Raises:
        DataError: If a number is not whole or a float too large to be exact, with its rows.
    """
    dtype, element = values.dtype, pl.element()
    if isinstance(dtype, pl.List | pl.Array):
        bad, text = _rule(element, dtype.inner)
        if text is None:
            return values
        lists = values.arr.to_list() if isinstance(dtype, pl.Array) else values
        _refuse(values, lists.list.eval(bad).list.any(), where, first_row)
        return lists.list.eval(text)
    if not isinstance(dtype, TEXT):
        bad, text = _rule(pl.col(values.name), dtype)
        if text is None:
            return values
        frame = values.to_frame()
        _refuse(values, frame.select(bad).to_series(), where, first_row)
        return frame.select(text).to_series()
    distinct = values.unique().cast(pl.String).drop_nulls()
    tidy = _tidy_text(distinct)
    if findings is not None:
        findings.add(values, distinct, tidy, first_row)
    odd = tidy != distinct
    if not odd.any():
        return values if isinstance(dtype, pl.Categorical) else values.cast(pl.String)
    return values.cast(pl.String).replace(distinct.filter(odd), tidy.filter(odd))


def check_id_types(frame: pl.DataFrame, names: Iterable[str], where: str) -> None:
    """Refuse columns of tidy ids that are neither text nor categories, nor without a value.

    Raises:
        DataError: Naming the column and its type.
    """
    for name in names:
        dtype = frame.schema[name]
        if not isinstance(dtype, pl.String | pl.Categorical | pl.Null):
            raise DataError(
                f"{name} is {dtype}", where=where, expected="text or whole numbers", fix=f"convert {name} to text"
            )


def id_text(value: object, where: str = "") -> str:
    """One id as text, by the rule of :func:`tidy_ids`.

    Raises:
        DataError: If it is neither text nor a whole number, or a float too large to be exact.
    """
    if isinstance(value, str):
        return _tidy(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if number.is_integer() and abs(number) < EXACT_BELOW.get(f"{getattr(value, 'dtype', '')}".capitalize(), EXACT):
            return str(int(number))
    raise DataError(
        f"{value!r} is not an id",
        where=where,
        expected="text or whole numbers; floats only if they are whole and below 2^53",
        fix="give ids as text",
    )


def id_texts(values: Iterable[object], known: Mapping[str, int], where: str = "") -> list[str]:
    """Ids as text; those that are ``known`` as they are, are not looked at."""
    return [value if isinstance(value, str) and value in known else id_text(value, where) for value in values]


def _tidy(text: str) -> str:
    return normalize("NFC", text.strip(INVISIBLE))


def _tidy_text(values: pl.Series) -> pl.Series:
    tidy = values.str.strip_chars(INVISIBLE)
    return tidy if (tidy.str.len_bytes() == tidy.str.len_chars()).all() else tidy.str.normalize("NFC")


def _rule(value: pl.Expr, dtype: Any) -> tuple[pl.Expr, pl.Expr | None]:
    """Which values are no ids, and what the others are as text; None where no value of this type is an id."""
    bad = pl.lit(False)
    if dtype.is_float():
        value, limit = value.fill_nan(None), EXACT_BELOW[str(dtype)]
        bad = ~((value == value.floor()) & (value.abs() < limit)).fill_null(True)
        return bad, value.cast(pl.Int64).cast(pl.String)
    if dtype.is_decimal():
        whole = value.cast(pl.Int128, strict=False)
        return (whole.cast(dtype, strict=False) != value).fill_null(False), whole.cast(pl.String)
    if dtype.is_integer() or dtype == pl.Null:
        return bad, value.cast(pl.String)
    if isinstance(dtype, TEXT):
        return bad, value.cast(pl.String).str.strip_chars(INVISIBLE).str.normalize("NFC")
    return bad, None


def _refuse(values: pl.Series, bad: pl.Series, where: str, first_row: int) -> None:
    expected = "text or whole numbers; floats only below 2^53 (16-bit: 2^11, 32-bit: 2^24): larger ones merge"
    fix = "write the ids as text or whole numbers, or remove these rows"
    refuse(values, bad, f"{values.name} is not an id", expected, where, fix, first_row)
