"""Prepared tables as plain Python makes them: csv, json and pyarrow read the files, every rule is a loop over rows."""

import csv
import gzip
import io
import json
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
CLOCK = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d| UTC)?)?", flags=re.ASCII)
Row = dict[str, Any]


class Refused(Exception):
    """The rules give a reason not to use the tables."""


@dataclass
class Prepared:
    """What the rules make of the tables.

    Attributes:
        rows: Events in the order of the prepared table: user, item, seconds, rating and what else there is.
        read: How many rows the files hold.
        left_out: Reason to rows.
    """

    rows: list[Row]
    read: int
    left_out: Counter[str] = field(default_factory=Counter)


def read_rows(paths: list[Path], *, backslash: bool = False) -> list[Row]:
    """Rows of all files, cells as they come: text of CSV, values of JSON and Parquet.

    Args:
        paths: The files.
        backslash: Whether quotes inside values of CSV are written after a backslash.
    """
    return [row for path in paths for row in _read_file(path, backslash)]


def tidy(text: str) -> str:
    """An id without white space at its ends, its accents in one form."""
    return unicodedata.normalize("NFC", text.strip(" \t\u00a0\u200b"))


def prepare(rows: list[Row], items: list[str] | None, settings: dict[str, Any]) -> Prepared:
    """Apply the rules of the documentation; raises Refused."""
    rows = _renamed(rows, settings.get("columns", {}))
    result = Prepared([], len(rows))
    kept = _without_repeats(_checked(rows), result)
    least = settings.get("min_rating")
    if least is not None:
        _require(any("rating" in row for row in kept), "no rating")
        rated = [row for row in kept if row["rating"] is None or row["rating"] >= least]
        _require(rated, "all rated too low")
        result.left_out["low ratings"] += len(kept) - len(rated)
        kept = rated
    catalogue = {row["item_id"] for row in kept}
    if items is not None:
        catalogue, kept = _matched(kept, items, settings["unknown_items"], result)
    kept, catalogue = _core(kept, catalogue, settings["k_core"], result)
    _require(len(catalogue) >= 2, "fewer than two items")
    # Sorting is stable: file order is last.
    kept.sort(key=lambda row: (row["exact"] is not None, row["exact"] or 0))
    if any("order" in row for row in kept):
        kept.sort(key=lambda row: (row["order"], -1 if row["timestamp"] is None else row["timestamp"]))
    kept.sort(key=lambda row: row["user_id"])
    result.rows = kept
    return result


def _require(condition: object, why: str) -> None:
    if not condition:
        raise Refused(why)


def _read_file(path: Path, backslash: bool) -> list[Row]:
    if path.suffix == ".parquet":
        return _read_parquet(path)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8") from error
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix in (".jsonl", ".json"):
        try:
            return json.loads(text) if suffix == ".json" else list(map(json.loads, filter(str.strip, text.split("\n"))))
        except json.JSONDecodeError as error:
            raise Refused("no JSON") from error
    header = text.split("\n", 1)[0]
    separator = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    # Without a quote after a backslash nothing says that backslashes are no backslashes.
    backslash = backslash and '\\"' in text
    escaped: dict[str, Any] = {"doublequote": False, "escapechar": "\\"} if backslash else {}
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **escaped))
    except csv.Error as error:
        raise Refused("quotes") from error
    names, *lines = filter(None, lines)
    _require(all(len(line) == len(names) for line in lines), "a row is short or long")
    return [{name: cell or None for name, cell in zip(names, line, strict=True)} for line in lines]


def _read_parquet(path: Path) -> list[Row]:
    table, columns = pq.read_table(path, partitioning=None), {}
    for name in table.column_names:
        column, unit = table[name], getattr(table[name].type, "unit", None)
        if pa.types.is_date(column.type):
            columns[name] = [day and Fraction((day - EPOCH.date()).days * 86_400) for day in column.to_pylist()]
        elif unit is not None:
            size = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
            counts = column.cast(pa.int64()).to_pylist()
            columns[name] = [None if count is None else Fraction(count, size) for count in counts]
        else:
            columns[name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _renamed(rows: list[Row], columns: dict[str, str]) -> list[Row]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    ours = ("user_id", "item_id", "timestamp", "order", "rating", "title", "name")
    for name, theirs in columns.items():
        _require(name in ours, "not our name")
        _require(not theirs or theirs in names, "found nowhere")
    back = {theirs: name for name, theirs in columns.items() if theirs}
    dropped = {name for name, theirs in columns.items() if theirs != name} - set(back)
    names = [back.get(name, name) for name in names if name not in dropped]
    for name in ("user_id", "item_id"):
        _require(name in names, f"no {name}")
    for name in ("timestamp", "order"):
        alike = [other for other in names if other != name and other.lower() == name]
        _require(name in names or name in columns or not alike, f"{alike} is not read")
    return [{back.get(name, name): row.get(name) for name in row if name not in dropped} for row in rows]


def _checked(rows: list[Row]) -> list[Row]:
    _require(rows, "no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    times = _times([row.get("timestamp") for row in rows])
    checked = []
    for row, exact in zip(rows, times, strict=True):
        new = {name: row.get(name) for name in names}
        new["user_id"], new["item_id"] = _id(row.get("user_id")), _id(row.get("item_id"))
        new["exact"], new["timestamp"] = exact, None if exact is None else math.floor(exact)
        if "order" in names:
            new["order"] = _position(row.get("order"))
        if "rating" in names:
            rating = row.get("rating")
            new["rating"] = None if rating in (None, "") else _number(rating)
            _require(new["rating"] is None or not math.isnan(new["rating"]), "rating is NaN")
        checked.append(new)
    return checked


def _id(value: Any) -> str:
    _require(value not in (None, ""), "empty id")
    if isinstance(value, float):
        _require(value.is_integer() and abs(value) < 2**53, "no id")
        value = int(value)
    text = tidy(str(value))
    _require(text, "empty id")
    return text


def _position(value: Any) -> int:
    number = value if isinstance(value, int) else Fraction(_number(value))
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        number = int(value)
    elif not isinstance(value, int):
        _require(abs(number) < 2**53, "not exact")
    _require(number == int(number) and -(2**63) <= number < 2**63, "no position")
    return int(number)


def _number(value: Any) -> float:
    _require(value is not None, "no number")
    try:
        return float(value)
    except ValueError as error:
        raise Refused("no number") from error


def _times(values: list[Any]) -> list[Fraction | None]:
    values = [None if value == "" else value for value in values]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, Fraction) for value in known):
        _require(all(value >= 0 for value in known), "before 1970")
        return values
    dates = [CLOCK.fullmatch(value) for value in known if isinstance(value, str)]
    if any(dates):
        _require(all(dates) and len(dates) == len(known), "no time, or numbers and dates")
        return [None if value is None else _clock(value) for value in values]
    numbers = [None if value is None else _exact(value) for value in values]
    largest = max((number for number in numbers if number is not None), default=0)
    _require(largest < 2**63, "too large")
    unit = next((size for start, size in ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3)) if largest >= start), 1)
    least = 10**11 * unit // 1000 if unit > 1 else 0
    for number in numbers:
        _require(number is None or number == 0 or number >= max(least, 0), "negative, or two units")
    return [None if number is None else Fraction(number, unit) for number in numbers]


def _exact(value: Any) -> Fraction:
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        return Fraction(int(value))
    number = value if isinstance(value, int | Decimal) else _number(value)
    _require(math.isfinite(number), "not finite")
    return Fraction(number)


def _clock(text: str) -> Fraction:
    day, clock, fraction, zone = CLOCK.fullmatch(text).groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}+00:00")
    except ValueError as error:
        raise Refused("no such time") from error
    if zone and zone[0] in "+-":
        away = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        moment += away if zone[0] == "-" else -away
    seconds = Fraction(round((moment - EPOCH).total_seconds())) + Fraction(
        int(fraction or 0), 10 ** len(fraction or "")
    )
    _require(seconds >= 0, "before 1970")
    return seconds


def _without_repeats(rows: list[Row], result: Prepared) -> list[Row]:
    seen, kept = set(), []
    for row in rows:
        key = tuple(sorted((name, repr(value)) for name, value in row.items()))
        if row["timestamp"] is None or key not in seen:
            kept.append(row)
        seen.add(key)
    result.left_out["exact repeats"] += len(rows) - len(kept)
    return kept


def _matched(rows: list[Row], items: list[str], unknown: str, result: Prepared) -> tuple[set[str], list[Row]]:
    catalogue, wanted = set(items), {row["item_id"] for row in rows}
    if wanted <= catalogue:
        return catalogue, rows
    _require(unknown != "error", "unknown items")
    if unknown == "keep":
        return catalogue | wanted, rows
    kept = [row for row in rows if row["item_id"] in catalogue]
    _require(kept, "no known item")
    result.left_out["unknown items"] += len(rows) - len(kept)
    return catalogue, kept


def _core(rows: list[Row], catalogue: set[str], k: int, result: Prepared) -> tuple[list[Row], set[str]]:
    if not k:
        return rows, catalogue
    before = len(rows)
    while True:
        users, items = (Counter(row[name] for row in rows) for name in ("user_id", "item_id"))
        left = [row for row in rows if users[row["user_id"]] >= k and items[row["item_id"]] >= k]
        if len(left) == len(rows):
            break
        rows = left
    result.left_out["k-core"] += before - len(rows)
    return rows, {row["item_id"] for row in rows}
