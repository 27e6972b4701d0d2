"""Tables of interactions at random: types, encodings, separators, quotes, ids, times, mistakes."""

import csv
import gzip
import io
import json
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from naive_tables import tidy

NOON = 1_714_564_800
TEXT_IDS = ("a", "b", "0012", "Ünal", "映画", "İ", "A b", "z-9")
ODD_IDS = ("a,b", "a;b", 'say "x"', "it's", "tab\there", "a\\b", "#1", "null")
# Pairs of them are one id.
UNTIDY_IDS = ("a", " a", "b", "b\u00a0", "\u00e9", "e\u0301", "c\u200b")
NUMBER_IDS = (1, 2, 3, 10, 2**40, 7)
WORDS = (None, "", "view", "buy", "naïve", "a;b", "x, y", 'say "x"', "two\nlines", "映画")
BAD_TIMES = (-5, 1e308, "yesterday", "2024-13-01", "31/05/2024", "nan", NOON, NOON * 1000, "2024-05-31", 2**63)
BAD_ORDERS = (None, 1.5, 1e30, "first", 2**63)
BAD_RATINGS = ("good", "nan")
BAD_IDS = (None, "")
# Every clock: a time of tick and fraction; both small, so that times repeat.
CLOCKS = {
    "ticks": lambda tick, part: tick,
    "seconds": lambda tick, part: NOON + tick,
    "days": lambda tick, part: NOON + 86_400 * tick,
    "milliseconds": lambda tick, part: NOON * 10**3 + 300 * tick,
    "microseconds": lambda tick, part: NOON * 10**6 + 300_000 * tick + part,
    "nanoseconds": lambda tick, part: NOON * 10**9 + 300_000_000 * tick + part,
    "fractions": lambda tick, part: NOON + 0.25 * tick,
    "fractions of milliseconds": lambda tick, part: NOON * 1e3 + 300 * tick + 0.5 * part,
    "dates": lambda tick, part: f"2024-05-{tick + 1:02d}",
    "T": lambda tick, part: f"2024-05-31T12:00:0{tick}",
    "space": lambda tick, part: f"2024-05-31 12:00:0{tick}.{part}",
    "finest": lambda tick, part: f"2024-05-31T12:00:0{tick // 2}.12345678{part}Z",
    "zones": lambda tick, part: f"2024-05-31 1{part}:00:0{tick}{('Z', '+01:00', ' UTC', '-02:00')[part]}",
}
ARROW_CLOCKS = {
    "date32": (pa.date32(), lambda tick, part: date(2024, 5, tick + 1)),
    "ms": (pa.timestamp("ms"), lambda tick, part: datetime(2024, 5, 31, 12) + timedelta(milliseconds=300 * tick)),
    "us": (pa.timestamp("us", "Europe/Berlin"), lambda tick, part: datetime(2024, 5, 31, 12, 0, tick // 2, part)),
    "ns": (pa.timestamp("ns"), lambda tick, part: NOON * 10**9 + 300_000_000 * tick + part),
}
HEADERS = ("Timestamp", "Order", "TIMESTAMP")


@dataclass
class Log:
    """A table of interactions before it is a file.

    Attributes:
        columns: Name in the file to cells.
        types: Name to the Arrow type, or types of the shards, where Parquet does not find it itself.
        form: ``csv``, ``tsv``, ``jsonl``, ``json`` or ``parquet``.
        dialect: How text is written: separator, quoting, quotes inside values after a backslash, line ends, an empty
            line at the end, encoding, packed, how many bytes are cut off.
        shards: In how many files.
        items: Ids of the items table, if there is one.
        settings: Of ``DataConfig``.
    """

    columns: dict[str, list[Any]]
    types: dict[str, Any]
    form: str
    dialect: dict[str, Any]
    shards: int
    items: list[str] | None
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """The files, in the order of their names."""
        size = len(next(iter(self.columns.values())))
        bounds = [size * number // self.shards for number in range(self.shards + 1)]
        packed = ".gz" if self.dialect["packed"] and self.form != "parquet" else ""
        paths = []
        for number, (start, end) in enumerate(pairwise(bounds)):
            path = folder / f"part-{number}.{self.form}{packed}"
            part = {name: cells[start:end] for name, cells in self.columns.items()}
            if self.form == "parquet":
                pq.write_table(pa.table({name: self._array(name, cells, number) for name, cells in part.items()}), path)
            else:
                text = self._json(part) if self.form.startswith("json") else self._separated(part)
                data = text.encode(self.dialect["encoding"], errors="replace")
                data = data[: max(len(data) - self.dialect["cut"], 1)] if number == self.shards - 1 else data
                path.write_bytes(gzip.compress(data) if packed else data)
            paths.append(path)
        return paths

    def _array(self, name: str, cells: list[Any], shard: int) -> pa.Array:
        kind = self.types.get(name)
        if isinstance(kind, list):
            kind = kind[shard % len(kind)]
            convert = {pa.string(): str, pa.float64(): float}.get(kind, int)
            cells = [None if cell is None else convert(cell) for cell in cells]
        return pa.array(cells, kind)

    def _json(self, part: dict[str, list[Any]]) -> str:
        rows = [dict(zip(part, cells, strict=True)) for cells in zip(*part.values(), strict=True)]
        ascii_only = self.dialect["quoting"] == csv.QUOTE_ALL
        if self.form == "json":
            return json.dumps(rows, ensure_ascii=ascii_only)
        return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)

    def _separated(self, part: dict[str, list[Any]]) -> str:
        stream = io.StringIO(newline="")
        separator = "\t" if self.form == "tsv" else self.dialect["separator"]
        ends, quoting = self.dialect["line_end"], self.dialect["quoting"]
        escaped = {"doublequote": False, "escapechar": "\\"} if self.dialect["backslash"] else {}
        # Outside quotes a backslash is a backslash.
        quoting = csv.QUOTE_ALL if escaped else quoting
        writer = csv.writer(stream, delimiter=separator, lineterminator=ends, quoting=quoting, **escaped)
        writer.writerow(part)
        writer.writerows(["" if cell is None else cell for cell in cells] for cells in zip(*part.values(), strict=True))
        return stream.getvalue() + ends * self.dialect["empty_line"]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Any log: mostly good ones, some with a mistake."""
    size, form = (
        draw(st.integers(3, 16)),
        draw(st.sampled_from(["csv", "csv", "tsv", "jsonl", "json", "parquet", "parquet"])),
    )
    columns: dict[str, list[Any]] = {}
    types: dict[str, Any] = {}
    for name in ("user_id", "item_id"):
        columns[name] = _ids(draw, name, size, form, types)
    _add_times(draw, columns, types, size, form)
    if draw(st.integers(0, 3)) == 0:
        first = draw(st.sampled_from([0, NOON * 10**9, -(2**62)]))
        columns["order"] = [first + step for step in draw(_cells(st.integers(0, 9), size))]
    if draw(st.booleans()):
        columns["rating"] = draw(_cells(st.sampled_from([None, 1, 2.5, 4, 5]), size))
    if draw(st.booleans()):
        columns["event"] = draw(_cells(st.sampled_from(draw(st.sampled_from([WORDS, WORDS[1:4]]))), size))
    if form == "parquet":
        types.update({name: pa.float64() for name in ("rating",) if name in columns})
    if draw(st.integers(0, 4)) == 0:
        _make_mistake(draw, columns, form)
    settings = _settings(draw, columns)
    dialect = {
        "separator": draw(st.sampled_from(",;\t")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "line_end": draw(st.sampled_from(["\n", "\r\n"])),
        "encoding": draw(st.sampled_from(["utf-8"] * 9 + ["utf-8-sig", "utf-16", "latin-1"]))
        if form == "csv"
        else "utf-8",
        "packed": draw(st.integers(0, 5)) == 0,
        "backslash": draw(st.integers(0, 9)) == 0,
        "empty_line": draw(st.integers(0, 9)) == 0,
        "cut": draw(st.sampled_from([0] * 12 + [1, 2, 3, 8, 20])),
    }
    items = None
    if draw(st.integers(0, 2)) == 0:
        named = list({tidy(str(name)): None for name in columns.get("item_id", columns.get("sku", []))})
        items = [*draw(st.permutations(named))[draw(st.integers(0, 2)) :], "never", "never seen"]
    return Log(columns, types, form, dialect, draw(st.integers(1, 3)), items, settings)


def _cells(cell: st.SearchStrategy, size: int) -> st.SearchStrategy:
    return st.lists(cell, min_size=size, max_size=size)


def _ids(draw: st.DrawFn, name: str, size: int, form: str, types: dict[str, Any]) -> list[Any]:
    pool = draw(st.sampled_from([TEXT_IDS, ODD_IDS, UNTIDY_IDS, NUMBER_IDS]))
    cells = draw(_cells(st.sampled_from(pool[: draw(st.integers(2, len(pool)))]), size))
    if form == "parquet" and pool is NUMBER_IDS:
        types[name] = draw(st.lists(st.sampled_from([pa.int64(), pa.uint64(), pa.float64(), pa.string()]), min_size=1))
    elif form == "parquet":
        types[name] = draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]))
    return cells


def _add_times(draw: st.DrawFn, columns: dict[str, list[Any]], types: dict[str, Any], size: int, form: str) -> None:
    if draw(st.integers(0, 6)) == 0:
        return
    parts = draw(_cells(st.tuples(st.integers(0, 5), st.integers(0, 3)), size))
    if form == "parquet" and draw(st.booleans()):
        types["timestamp"], clock = ARROW_CLOCKS[draw(st.sampled_from(sorted(ARROW_CLOCKS)))]
    else:
        clock = CLOCKS[draw(st.sampled_from(sorted(CLOCKS)))]
    known = draw(_cells(st.sampled_from([True] * draw(st.sampled_from([1, 6])) + [False]), size))
    all_known = draw(st.booleans())
    cells = [clock(*part) if all_known or there else None for part, there in zip(parts, known, strict=True)]
    if form == "parquet" and "timestamp" not in types and cells[0] is not None and isinstance(cells[0], int):
        fitting: list[Any] = [pa.int64(), pa.uint64(), pa.decimal128(25, 0)]
        fitting += [pa.float64(), [pa.float64(), pa.int64()], [pa.int64(), pa.float64()]] * (cells[0] < 2**50)
        types["timestamp"] = draw(st.sampled_from(fitting))
        if types["timestamp"] == pa.decimal128(25, 0):
            cells = [None if cell is None else Decimal(cell) for cell in cells]
    columns["timestamp"] = cells


def _make_mistake(draw: st.DrawFn, columns: dict[str, list[Any]], form: str) -> None:
    """A bad cell, or a column that is missing or has another name."""
    kind = draw(st.sampled_from(["cell", "cell", "cell", "header", "missing"]))
    if kind == "missing":
        del columns[draw(st.sampled_from(["user_id", "item_id"]))]
    elif kind == "header":
        header = draw(st.sampled_from(HEADERS))
        columns[header] = columns.pop(header.lower(), [1] * len(columns["user_id"]))
    else:
        bad = {"timestamp": BAD_TIMES, "order": BAD_ORDERS, "rating": BAD_RATINGS, "user_id": BAD_IDS}
        name = draw(st.sampled_from([name for name in bad if name in columns]))
        cells = columns[name]
        value = draw(st.sampled_from(bad[name]))
        # Columns of Parquet are of one type.
        if form != "parquet" or value is None:
            cells[draw(st.integers(0, len(cells) - 1))] = value


def _settings(draw: st.DrawFn, columns: dict[str, list[Any]]) -> dict[str, Any]:
    settings: dict[str, Any] = {"k_core": draw(st.sampled_from([0, 0, 1, 2]))}
    settings["unknown_items"] = draw(st.sampled_from(["error", "drop", "drop", "keep", "keep"]))
    if draw(st.integers(0, 2 if "rating" in columns else 20)) == 0:
        settings["min_rating"] = draw(st.sampled_from([2, 4.5]))
    mapping = draw(st.sampled_from(["none"] * 20 + ["right"] * 4 + ["nowhere", "unknown", "empty"]))
    if mapping == "right" and "item_id" in columns:
        cells = columns.pop("item_id")
        columns["sku"], settings["columns"] = cells, {"item_id": "sku"}
    elif mapping in ("nowhere", "unknown"):
        settings["columns"] = {"nowhere": {"timestamp": "time stamp"}, "unknown": {"timestmap": "user_id"}}[mapping]
    elif mapping == "empty":
        settings["columns"] = {"timestamp": ""}
    return settings
