"""Separated values as text: quotes and the width of every line are checked before anything is parsed.

A parser that meets a quote it does not expect takes the following rows for a part of a value, and one that meets a
short row fills it up; neither says so. Here a scan finds where rows end by RFC 4180 (quotes inside a quoted value are
doubled), and what was parsed must have as many rows.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from genrec.data.account import TableAccount
from genrec.data.folders import in_file
from genrec.data.ids import INVISIBLE
from genrec.errors import DataError, first_rows

SEPARATORS = ",;\t"
OTHER_SEPARATORS = ",;\t|^~\x01 "
BLOCK = 16 << 20
HEADER_BYTES = 1 << 20
SHOWN = 5
QUOTE, NEWLINE, RETURN = 34, 10, 13
# A value in quotes that has a backslash before a quote or a backslash, as Spark and MySQL write it.
BACKSLASHED = re.compile(rb'"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"', re.DOTALL)
NOTHING = np.empty(0, dtype=np.int64)


@dataclass
class _Scan:
    """What the lines of a table look like.

    Attributes:
        rows: How many there are, the first one and those with another width included, empty lines not.
        width: Values in the first row.
        ragged: Line and width of the first rows that have another width.
        ragged_rows: How many have.
        last_line: Line of the last row.
        spanning: How many rows have a value that goes over several lines.
        spanning_line: Line of the first of these.
        swallowed_line: Line of the first of these whose lines all look like rows of their own.
        empty: Where empty lines start and end.
        broken_line: Line of the first quote that RFC 4180 does not explain, None without one; nothing after it is read.
    """

    rows: int = 0
    width: int = 0
    ragged: list[tuple[int, int]] = field(default_factory=list)
    ragged_rows: int = 0
    last_line: int = 0
    spanning: int = 0
    spanning_line: int = 0
    swallowed_line: int = 0
    empty: list[tuple[int, int]] = field(default_factory=list)
    broken_line: int | None = None

    @property
    def sound(self) -> bool:
        """Whether every quote is explained, and no row hides in a value of another."""
        return self.broken_line is None and not self.swallowed_line


def read_separated(
    data: bytes, separator: str, where: str, account: TableAccount, *, header: bool = True, quotes: bool = True
) -> pl.DataFrame:
    """A table of which every value is text, null where it is empty.

    Args:
        data: UTF-8.
        separator: One character.
        where: What error messages call the file.
        account: Gets notes on what is unusual.
        header: Whether the first row names the columns.
        quotes: Whether values may be in double quotes; else a quote is a letter like any other.

    Raises:
        DataError: If a row is wider or narrower than the first, a quote cannot be explained, or a name occurs twice.
    """
    if b"\n" not in data and b"\r" in data:
        account.notes.append(f"{in_file(where, account)}lines end with CR alone, as on old computers: read so")
        data = data.replace(b"\r", b"\n")
    data, quotes, found = _explained(data, separator, where, account) if quotes else (
        data, False, _scan(data, ord(separator), quotes=False)
    )  # fmt: skip
    if found.ragged_rows:
        raise _ragged(found, where, separator)
    if found.spanning:
        account.notes.append(
            f"{in_file(where, account)}{found.spanning} rows have a value of several lines, the first in line "
            f"{found.spanning_line}"
        )
    data = _without(data, found.empty)
    names = _header(data, separator, where, quotes) if header and found.rows else []
    try:
        frame = pl.read_csv(
            data, separator=separator, has_header=header, quote_char='"' if quotes else None, infer_schema=False
        )
    except pl.exceptions.PolarsError as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the table cannot be read: {message}", where=where, fix="check the file") from error
    if frame.height != found.rows - header:
        raise DataError(
            f"{found.rows - header} rows were counted, {frame.height} read",
            where=where,
            expected="the same number",
            fix="write the file again, with text in double quotes",
        )
    return _named(frame, names, account) if names else frame


def _named(frame: pl.DataFrame, names: list[str], account: TableAccount) -> pl.DataFrame:
    """The table with its names; lines that repeat the header, as files put one after another have them, are no rows."""
    frame.columns = names
    again = frame.select(pl.all_horizontal(pl.col(name) == name for name in names)).to_series().fill_null(False)
    if len(names) < 2 or not again.any():
        return frame
    rows = (again.arg_true() + 1).to_list()
    account.leave_out("lines that repeat the header", len(rows), [f"row {row}" for row in rows[:2]])
    account.notes.append(f"{len(rows)} lines repeat the header and are left out: {first_rows(rows)}")
    return frame.filter(~again)


def separator_of(data: bytes) -> str:
    """The most frequent of comma, semicolon and tab outside quotes in the first line that is not empty."""
    head = data[:HEADER_BYTES].lstrip(b"\r\n")
    line = re.sub(rb'"[^"]*"', b"", head.split(b"\n", 1)[0].split(b"\r", 1)[0])
    return max(SEPARATORS, key=lambda mark: line.count(mark.encode()))


def _explained(data: bytes, separator: str, where: str, account: TableAccount) -> tuple[bytes, bool, _Scan]:
    """The table so that RFC 4180 explains it, whether quotes mean anything in it, and its rows."""
    mark = ord(separator)
    if b'"' not in data:
        return data, False, _scan(data, mark, quotes=False)
    found = _scan(data, mark, quotes=True)
    if b'\\"' in data and (found.spanning or not found.sound):
        plain = _without_backslashes(data)
        escaped = _scan(plain, mark, quotes=True)
        if escaped.sound and not (found.sound and found.rows >= escaped.rows):
            account.notes.append(f'{in_file(where, account)}quotes inside values are written as \\": read so')
            return plain, True, escaped
    if found.sound:
        return data, True, found
    if not re.search(rb'(?:^|[\n\r%b]) *"' % re.escape(separator).encode(), data):
        line = data.count(b"\n", 0, data.index(b'"')) + 1
        account.notes.append(
            f"{in_file(where, account)}values have double quotes inside, the first in line {line}: read as they are"
        )
        return data, False, _scan(data, mark, quotes=False)
    raise DataError(
        "a double quote does not end the value that it should end"
        if found.broken_line
        else "rows would be read as part of a value in double quotes",
        where=f"{where}, line {found.broken_line or found.swallowed_line}",
        expected='quotes inside a value in quotes doubled ("12"" vinyl"), and every value in quotes closed',
        fix="correct this line, or write the file again with quotes doubled",
    )


def _without_backslashes(data: bytes) -> bytes:
    def rewritten(match: re.Match[bytes]) -> bytes:
        return re.sub(rb'\\(["\\])', lambda pair: b'""' if pair[1] == b'"' else b"\\", match[0])

    return BACKSLASHED.sub(rewritten, data)


def _scan(data: bytes, mark: int, *, quotes: bool) -> _Scan:
    """Look through a table in blocks of whole rows."""
    found, start, line, size = _Scan(), 0, 1, BLOCK
    while start < len(data):
        block = np.frombuffer(data, np.uint8, min(size, len(data) - start), start)
        last = start + len(block) == len(data)
        marks = np.flatnonzero((block == mark) | (block == NEWLINE))
        quoted = np.flatnonzero(block == QUOTE) if quotes else NOTHING
        outside = marks[np.searchsorted(quoted, marks) % 2 == 0] if len(quoted) else marks
        ends = np.flatnonzero(block[outside] == NEWLINE)
        stops = outside[ends]
        if last and (not len(stops) or stops[-1] != len(block) - 1):
            ends, stops = np.append(ends, len(outside)), np.append(stops, len(block))
        newlines = marks[block[marks] == NEWLINE]
        broken = _unexplained(block, quoted, mark, last=last)
        if broken is not None:
            found.broken_line = line + int(np.searchsorted(newlines, broken))
            return found
        if not len(stops):
            size *= 2
            continue
        length = min(int(stops[-1]) + 1, len(block))
        newlines = newlines[newlines < length]
        _count(found, block, stops, np.diff(ends, prepend=-1), start, line, newlines)
        if found.spanning and not found.swallowed_line:
            found.swallowed_line = _swallowed(stops, newlines, marks, found.width, line)
        start, line, size = start + length, line + len(newlines), BLOCK
    return found


def _unexplained(block: np.ndarray, quoted: np.ndarray, mark: int, *, last: bool) -> int | None:
    """Position of the first quote that neither opens nor closes a value nor is one of two."""
    around = np.concatenate([[NEWLINE], block, [NEWLINE]])
    opening, closing = quoted[0::2], quoted[1::2]
    before, after = around[opening], around[closing + 2]
    opens = (before == mark) | (before == NEWLINE) | (before == QUOTE)
    closes = (after == mark) | (after == NEWLINE) | (after == QUOTE)
    closes |= (after == RETURN) & (around[np.minimum(closing + 3, len(around) - 1)] == NEWLINE)
    # Where a value does not end as it should, the quote that opened it is named.
    wrong = [*opening[~opens][:1], *opening[: len(closing)][~closes][:1]]
    if last and len(opening) > len(closing):
        wrong.append(opening[-1])
    return int(min(wrong)) if wrong else None


def _count(
    found: _Scan, block: np.ndarray, stops: np.ndarray, widths: np.ndarray, start: int, line: int, newlines: np.ndarray
) -> None:
    """Add the rows of a block, which end at ``stops``."""
    begins = np.append(0, stops[:-1] + 1)
    lines = line + np.searchsorted(newlines, begins)
    lengths = stops - begins
    empty = (lengths == 0) | ((lengths == 1) & (block[np.minimum(begins, len(block) - 1)] == RETURN))
    found.empty += [
        (start + int(begin), start + int(stop) + 1) for begin, stop in zip(begins[empty], stops[empty], strict=True)
    ]
    if empty.all():
        return
    found.width = found.width or int(widths[~empty][0])
    ragged = np.flatnonzero((widths != found.width) & ~empty)
    found.ragged += [(int(lines[row]), int(widths[row])) for row in ragged[: SHOWN - len(found.ragged)]]
    found.ragged_rows += len(ragged)
    found.rows += int((~empty).sum())
    found.last_line = int(lines[~empty][-1])
    over = np.flatnonzero(np.diff(np.append(lines, line + np.searchsorted(newlines, stops[-1] + 1))) > 1)
    if len(over) and not found.spanning:
        found.spanning_line = int(lines[over[0]])
    found.spanning += len(over)


def _swallowed(stops: np.ndarray, newlines: np.ndarray, marks: np.ndarray, width: int, line: int) -> int:
    """Line of the first row of several lines that all are as wide as a row, 0 without one."""
    # In a narrow table lines of a text may well have one comma each.
    if width < 3:
        return 0
    places = np.searchsorted(marks, newlines)
    alike = np.diff(places, prepend=-1) == width
    begins = np.searchsorted(newlines, np.append(0, stops[:-1] + 1))
    begins = begins[begins < len(newlines)]
    whole = np.logical_and.reduceat(alike, begins)
    several = np.diff(np.append(begins, len(newlines))) > 1
    suspects = np.flatnonzero(whole & several)
    return line + int(begins[suspects[0]]) if len(suspects) else 0


def _without(data: bytes, cuts: list[tuple[int, int]]) -> bytes:
    if not cuts:
        return data
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def _header(data: bytes, separator: str, where: str, quotes: bool) -> list[str]:
    """Names of the columns without invisible characters around them."""
    text = io.StringIO(data[:HEADER_BYTES].decode("utf-8", errors="replace"), newline="")
    try:
        row = next(csv.reader(text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE))
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", where=where, fix="check the first line") from error
    names = [name.strip(INVISIBLE) for name in row]
    refuse_repeated_names(names, where)
    others = [mark for mark in OTHER_SEPARATORS if mark in names[0]]
    if len(names) == 1 and others:
        raise DataError(
            f"the header is one column, {names[0]!r}",
            where=f"{where}, line 1",
            expected="values separated by comma, semicolon or tab (.csv), by tab (.tsv, .tab)",
            fix=f"write the file again with one of these separators instead of {others[0]!r}: comma, semicolon, tab",
        )
    return names


def _ragged(found: _Scan, where: str, separator: str) -> DataError:
    line, width = found.ragged[0]
    lines = ", ".join(str(line) for line, _ in found.ragged) + (", ..." if found.ragged_rows > SHOWN else "")
    cut = found.ragged_rows == 1 and line == found.last_line and width < found.width
    return DataError(
        f"line {line} has {width} values, the first line has {found.width}"
        + (": the file is cut short" if cut else ""),
        where=f"{where}, line{'s' if found.ragged_rows > 1 else ''} {lines}"
        + (f" ({found.ragged_rows} in all)" if found.ragged_rows > 1 else ""),
        expected=f"values separated by {separator!r}, text with {separator!r} in double quotes, as many in every line",
        fix="make the file again: it was not written to its end" if cut else "correct these lines",
    )


def refuse_repeated_names(names: Sequence[str], where: str) -> None:
    """Refuse a header that names a column twice.

    Raises:
        DataError: Naming the column.
    """
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise DataError(
            f"the column {twice[0]!r} occurs twice",
            where=f"{where}, line 1",
            expected="every column once",
            fix="rename or remove one of them",
        )
