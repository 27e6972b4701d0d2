"""JSON lines and JSON arrays of objects, read in pieces; ids keep all their digits."""

import ast
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, Literal

import numpy as np
import polars as pl

from genrec.data.account import TableAccount
from genrec.data.amazon import (
    PICTURES,
    REVIEW_FIELDS,
    REVIEWS_2014,
    REVIEWS_2023,
    amazon_items,
    field_names,
    is_amazon_items,
    is_amazon_reviews,
    one_row_per_product,
    unread_of_reviews,
)
from genrec.data.ids import ID_COLUMNS, id_text
from genrec.data.joining import joined
from genrec.data.plaintext import utf8_bytes
from genrec.errors import DataError, first_rows

# A table of anybody's, or reviews or products as Amazon's releases write them.
Shape = Literal["plain", "reviews", "products"]
CHUNK_BYTES = 64 << 20
# Whole numbers of so many digits may not be exact as floats.
LONG_NUMBER = rb"-?[0-9]{16,}\s*[,}\]]"
# A key and a whole number beyond 64 bits; in a text the quote before the colon would have a backslash.
WIDE_NUMBER = re.compile(rb'((?<!\\)"\s*:\s*)(-?[0-9]{20,300})(?=\s*[,}\]])')
# Tables are flat; some versions of polars do not survive what is nested much deeper.
DEEPEST = 64
OPENING, CLOSING = (np.frombuffer(marks, np.uint8) for marks in (b"[{", b"]}"))
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}\n")
TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# A value of an id that is neither text nor a whole number: fractions, truth values, objects.
NO_PLAIN_ID = rb"(?:-?[0-9]+[.eE]|[tf{\[])"


def read_json_lines(
    stream: IO[bytes],
    kind: Literal["interactions", "items", "users"],
    where: str,
    account: TableAccount,
    columns: Mapping[str, str],
    id_names: tuple[str, ...] = ID_COLUMNS,
) -> pl.DataFrame:
    """A table from one JSON object per line, or from one JSON array of objects; read in pieces.

    Amazon's files are known by their fields, if none of them is somebody's own or named by ``columns``: reviews keep
    ids, time and rating; metadata keep ``asin`` or ``parent_asin``, title, brand or store, categories, features,
    description and price; the Python literals of the 2014 release are read too. Other tables are read as they are.

    Args:
        stream: The bytes of the file.
        kind: Which table it is.
        where: What error messages call the file.
        account: Gets what is left out, and notes.
        columns: Our column name to the user's.
        id_names: Fields that may hold ids.

    Raises:
        DataError: If a line is not an object, with its number.
    """
    frames, line = [], 1
    shape: Shape | None = None
    for given in _pieces(stream):
        piece, first_line = utf8_bytes(given, where, first_line=line), line
        line += piece.count(b"\n")
        if not piece.strip():
            continue
        shape = shape or _shape(piece, kind, where, columns)
        if shape == "products":
            frames.append(amazon_items(_objects(piece, where, first_line), where, account))
        elif shape == "reviews":
            frames.append(_reviews(piece, where, first_line, account))
        else:
            frames.append(_parsed(piece, where, first_line, id_names))
    if not frames:
        raise DataError("the file is empty", where=where, expected=f"a table of {kind}", fix="check the file")
    table = joined(frames, where, "a field changes its type")
    return one_row_per_product(table, account) if shape == "products" else table


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Pieces of whole lines; a JSON array is one piece."""
    while piece := stream.read(CHUNK_BYTES):
        yield piece + (stream.read() if _is_array(piece) else stream.readline())


def _is_array(piece: bytes) -> bool:
    return piece.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _shape(piece: bytes, kind: str, where: str, columns: Mapping[str, str]) -> Shape:
    """Whose table it is, by the fields of the first object."""
    if _is_array(piece):
        return "plain"
    start = len(piece) - len(piece.lstrip())
    line = piece.count(b"\n", 0, start) + 1
    fields = _object(piece[start:].split(b"\n", 1)[0], where, line).keys()
    if set(columns.values()) & fields:
        return "plain"
    if kind == "items" and is_amazon_items(fields):
        return "products"
    return "reviews" if kind == "interactions" and is_amazon_reviews(fields) else "plain"


def _reviews(data: bytes, where: str, line: int, account: TableAccount) -> pl.DataFrame:
    fields = field_names(data)
    unread = unread_of_reviews(fields)
    account.columns_left_out |= unread
    if fields - REVIEWS_2014 - REVIEWS_2023 - PICTURES:
        return _parsed(data, where, line, ID_COLUMNS).drop(unread, strict=False)
    # Nearly all of the file are texts: they are not even parsed.
    schema = {name: dtype for name, dtype in REVIEW_FIELDS.items() if name in fields and name not in unread}
    return _parsed(data, where, line, (), schema)


def _parsed(
    data: bytes, where: str, first_line: int, id_names: tuple[str, ...], schema: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """The objects of a piece as a table; whole numbers beyond 64 bits as text."""
    _refuse_deep(data, where, first_line)
    if re.search(rb":\s*-?[0-9]{20}", data):
        data = WIDE_NUMBER.sub(rb'\1"\2"', data)

    def read(**options: Any) -> pl.DataFrame:
        parse: Callable[..., pl.DataFrame] = pl.read_json if _is_array(data) else pl.read_ndjson
        return parse(io.BytesIO(data), infer_schema_length=None, **options)

    try:
        frame = read(schema=schema)
        long = [name for name, dtype in frame.schema.items() if dtype == pl.Float64 and _has(data, name, LONG_NUMBER)]
        if long:
            # A field of floats with whole numbers that floats do not hold: as text, digit by digit.
            frame = read(schema_overrides=dict.fromkeys(long, pl.String))
    except (pl.exceptions.PolarsError, ValueError) as error:
        # Whichever line is no object says so itself.
        deque(_entries(data, where, first_line), maxlen=0)
        message = " ".join(str(error).split())[:200]
        raise DataError(
            f"the table cannot be read: {message}",
            where=where,
            expected="one JSON object per line, or an array of them, with the same type in every row of a field",
            fix="correct the file",
        ) from error
    names = [name for name in id_names if name in frame.columns]
    odd = [
        name
        for name in names
        if frame.schema[name].is_float()
        or name in long
        or (frame.schema[name] == pl.String and _has(data, name, NO_PLAIN_ID))
    ]
    return _with_exact_ids(frame, odd, data, where, first_line) if odd else frame


def _refuse_deep(data: bytes, where: str, first_line: int) -> None:
    array = _is_array(data)
    marks = data.translate(None, NO_BRACKETS)
    lines = [marks.replace(b"\n", b"")] if array else marks.split(b"\n")
    suspects = [row for row, line in enumerate(lines) if len(line) > DEEPEST and _depth(line) > DEEPEST]
    texts = [data] if array else data.split(b"\n") if suspects else []
    for row in suspects:
        # Once more without the brackets that texts have.
        if _depth(TEXT.sub(b"", texts[row])) > DEEPEST:
            shown = texts[row][:80].decode("utf-8", errors="replace")
            raise DataError(
                f"the table cannot be read, it is nested too deep: {shown!r}",
                where=where if array else f"{where}, line {row + first_line}",
                expected=f"values nested at most {DEEPEST} deep",
                fix="correct the file",
            )


def _depth(text: bytes) -> int:
    marks = np.frombuffer(text, np.uint8)
    steps = np.isin(marks, OPENING).astype(np.int8) - np.isin(marks, CLOSING).astype(np.int8)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _has(data: bytes, name: str, value: bytes) -> bool:
    return re.search(re.escape(json.dumps(name).encode()) + rb"\s*:\s*" + value, data) is not None


def _with_exact_ids(frame: pl.DataFrame, names: list[str], data: bytes, where: str, first_line: int) -> pl.DataFrame:
    """Ids from the lines themselves: ``5`` and ``5.0`` are one id, and large numbers keep their digits."""
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for place, entry in _entries(data, where, first_line):
        for name in names:
            value = entry.get(name)
            columns[name].append(None if value is None else id_text(value, place))
    return frame.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in columns.items())


def _objects(data: bytes, where: str, first_line: int) -> Iterator[dict[str, Any]]:
    return (entry for _, entry in _entries(data, where, first_line))


def _entries(data: bytes, where: str, first_line: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object is, and the object."""
    if _is_array(data):
        for number, entry in enumerate(_array(data, where), start=1):
            yield f"{where}, row {number}", entry
        return
    for number, line in enumerate(data.split(b"\n"), start=first_line):
        if line.strip():
            yield f"{where}, line {number}", _object(line, where, number)


def _array(data: bytes, where: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the table cannot be read: {error}", where=where, fix="correct the file") from error
    odd = [number for number, entry in enumerate(entries, start=1) if not isinstance(entry, dict)]
    if odd:
        raise DataError(
            f"an entry of the array is not an object: {str(entries[odd[0] - 1])[:80]!r}",
            where=f"{where}, {first_rows(odd)}",
            expected="an array of objects",
            fix="correct the file",
        )
    return list(entries)


def _object(line: bytes, where: str, number: int) -> dict[str, Any]:
    """One line as an object; Amazon's metadata of 2014 are Python literals."""
    text, value, why = line.decode("utf-8", errors="replace"), None, ""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        why = ": it is nested too deep"
    except ValueError as error:
        why = f": {error}" if "NaN" in str(error) or "digits" in str(error) else ""
        # Anything that is neither is refused below.
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(text)
    if isinstance(value, dict):
        return value
    raise DataError(
        f"a line is not a JSON object: {text[:80]!r}{why}",
        where=f"{where}, line {number}",
        expected="one JSON object per line",
        fix="correct the line; if it is the last one, the file was not written to its end",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"NaN, Infinity and -Infinity are no JSON, here {name}: write null")
