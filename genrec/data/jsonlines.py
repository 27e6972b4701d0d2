"""JSON lines, also as the Amazon-Reviews releases of 2014 and 2023 write them."""

import ast
import html
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Any, Literal

import polars as pl

from genrec.errors import DataError

# Takes whole lines, what to call the file, and the number of the first line.
Parser = Callable[[bytes, str, int], pl.DataFrame]
CHUNK_BYTES = 64 << 20
# What is kept of reviews: their texts are most of the file and nothing here reads them.
REVIEW_FIELDS = {
    "reviewerID": pl.String,
    "user_id": pl.String,
    "asin": pl.String,
    "parent_asin": pl.String,
    "unixReviewTime": pl.Int64,
    "timestamp": pl.Int64,
    "overall": pl.Float64,
    "rating": pl.Float64,
}
META_TEXT = ("title", "brand", "store", "main_category")
META_LISTS = ("categories", "features", "description")


def read_json_lines(stream: IO[bytes], kind: Literal["interactions", "items", "users"], where: str) -> pl.DataFrame:
    """A table from one JSON object per line, or from one JSON array of objects; read in pieces.

    Amazon reviews keep their ids, time and rating. Amazon metadata keep ``asin`` or ``parent_asin``, title, brand
    or store, categories, features, description and price; the Python literals of the 2014 release are read too.

    Raises:
        DataError: If a line is not an object, with its number.
    """
    parse, frames, line = None, [], 1
    for piece in _pieces(stream):
        if parse is None:
            parse = _parser(piece, kind, where)
        frames.append(parse(piece, where, line))
        line += piece.count(b"\n")
    if not frames:
        raise DataError("the file is empty", where=where, expected=f"a table of {kind}", fix="check the file")
    try:
        table = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"a field changes its type: {error}", where=where, expected="the same type in every row of a field"
        ) from error
    if parse is not _amazon_items:
        return table
    # Products that stand twice repeat themselves; what no product has is no column.
    empty = [name for name in table.columns if table[name].null_count() == table.height]
    return table.drop(empty).unique("item_id", keep="first", maintain_order=True)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Pieces of whole lines; a JSON array is one piece."""
    while piece := stream.read(CHUNK_BYTES):
        piece += stream.read() if piece.lstrip().startswith(b"[") else stream.readline()
        if piece.strip():
            yield piece


def _parser(piece: bytes, kind: str, where: str) -> Parser:
    first = piece.lstrip().split(b"\n", 1)[0]
    if first.startswith(b"["):
        return lambda data, where, line: _parsed(pl.read_json, data, where, line)
    fields = _object(first, where, 1)
    if kind == "items" and ("asin" in fields or "parent_asin" in fields):
        return _amazon_items
    if kind == "interactions" and ("reviewerID" in fields or {"user_id", "parent_asin"} <= set(fields)):
        schema = {name: dtype for name, dtype in REVIEW_FIELDS.items() if name in fields}
        if "parent_asin" in schema:
            schema.pop("asin", None)
        return lambda data, where, line: _parsed(partial(pl.read_ndjson, schema=schema), data, where, line)
    return lambda data, where, line: _parsed(pl.read_ndjson, data, where, line)


def _parsed(parse: Callable[..., pl.DataFrame], data: bytes, where: str, first_line: int) -> pl.DataFrame:
    try:
        return parse(io.BytesIO(data), infer_schema_length=None)
    except (pl.exceptions.PolarsError, ValueError) as error:
        data.decode("utf-8")
        if not data.lstrip().startswith(b"["):
            for number, line in enumerate(data.split(b"\n"), start=first_line):
                if line.strip():
                    _object(line, where, number)
        message = " ".join(str(error).split())[:200]
        raise DataError(
            f"the table cannot be read: {message}",
            where=where,
            expected="one JSON object per line, or an array of them, with the same type in every row of a field",
            fix="correct the file",
        ) from error


def _object(line: bytes, where: str, number: int) -> dict[str, Any]:
    """One line as an object; Amazon's metadata of 2014 are Python literals."""
    text, value = line.decode("utf-8"), None
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        # Anything that is neither is told below.
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(text)
    if isinstance(value, dict):
        return value
    raise DataError(
        f"a line is not a JSON object: {text[:80]!r}",
        where=f"{where}, line {number}",
        expected="one JSON object per line",
        fix="correct the line; if it is the last one, the file was not written to its end",
    )


def _amazon_items(data: bytes, where: str, first_line: int) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in ("item_id", *META_TEXT, "price", *META_LISTS)}
    for number, line in enumerate(data.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        entry = _object(line, where, number)
        columns["item_id"].append(entry.get("parent_asin") or entry.get("asin"))
        columns["price"].append(_price(entry.get("price")))
        for name in META_TEXT:
            columns[name].append(_plain_text(entry.get(name)))
        for name in META_LISTS:
            columns[name].append(_plain_list(entry.get(name)))
    types: dict[str, Any] = {"price": pl.Float64, **dict.fromkeys(META_LISTS, pl.List(pl.String))}
    return pl.DataFrame([pl.Series(name, column, types.get(name, pl.String)) for name, column in columns.items()])


def _plain_text(value: Any) -> str | None:
    return " ".join(html.unescape(value).split()) or None if isinstance(value, str) else None


def _plain_list(value: Any) -> list[str] | None:
    """A list of texts; inner lists are paths in a tree of categories."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return None
    texts = [" > ".join(map(str, entry)) if isinstance(entry, list) else entry for entry in value]
    return [text for text in map(_plain_text, texts) if text] or None


def _price(value: Any) -> float | None:
    try:
        return float(str(value).replace(",", "").strip("$ "))
    except ValueError:
        return None
