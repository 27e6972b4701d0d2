"""Tables from files: the format is told by the name, the columns by what they are called."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl

from genrec.artifacts import file_sha256
from genrec.data.account import TableAccount
from genrec.data.columns import rename_columns
from genrec.data.jsonlines import read_json_lines
from genrec.data.textformats import read_double_colon, read_recbole, read_u_data, read_u_item, read_u_user
from genrec.errors import DataError

Kind = Literal["interactions", "items", "users"]
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv", ".tab")
PIECE_ROWS = 5_000_000
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
TRUNCATED = "make the file again: it is damaged or was not written to its end"

# Names used by well-known data sets: applied where all of a group are there and ours are not.
FOREIGN_NAMES: dict[Kind, tuple[dict[str, str], ...]] = {
    "interactions": (
        {"userId": "user_id", "movieId": "item_id"},
        {"reviewerID": "user_id", "asin": "item_id", "unixReviewTime": "timestamp", "overall": "rating"},
        {"parent_asin": "item_id"},
    ),
    "items": ({"movieId": "item_id"}, {"parent_asin": "item_id"}, {"asin": "item_id"}, {"movie_title": "title"}),
    "users": ({"userId": "user_id"},),
}
# Names of tables in a folder, best first.
TABLE_NAMES: dict[Kind, tuple[str, ...]] = {
    "interactions": ("interactions", "interactions.*", "*.inter", "u.data", "ratings.*", "reviews*"),
    "items": ("items", "items.*", "*.item", "u.item", "movies.*", "meta*"),
    "users": ("users", "users.*", "*.user", "u.user"),
}


def read_table(
    path: Path,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    *,
    categories: bool = False,
    account: TableAccount | None = None,
) -> pl.DataFrame:
    """Read one table from a file, a folder of shards, or a folder of ``datasets.Dataset.save_to_disk``.

    Args:
        path: Parquet, CSV/TSV, JSON lines, RecBole, MovieLens or Amazon-Reviews file (also ``.gz`` of the text
            formats), or a folder of such files, which are read in the order of their names.
        kind: Which table it is.
        columns: Our column name to the user's.
        categories: Make ``user_id`` and ``item_id`` categories where they are text. No more than a piece of the table
            then holds them as text: a shard, or five million rows of a Parquet file.
        account: Takes how many files and rows were read, and what columns were called.

    Raises:
        DataError: If the file is missing, empty, damaged, not UTF-8 or of an unknown format.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}", expected=f"a table of {kind}", fix="check the path")
    saved = (path / "dataset_info.json").is_file()
    parts = [] if saved else _parts(path)
    account = account or TableAccount(kind, str(path))
    pieces = (_with_our_names(piece, kind, columns or {}, account) for piece in _pieces(path, parts, kind))
    frames = list(_with_categories(pieces) if categories else pieces)
    try:
        frame = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the shards do not fit together: {error}", where=str(path), expected="the same columns in every shard"
        ) from error
    account.files, account.rows_read = max(len(parts), 1), frame.height
    return _typed(frame) if parts and _suffix(parts[0]) in CSV_SUFFIXES else frame


def read_item_ids(path: Path) -> list[str]:
    """Ids of items from a table with ``item_id``, or from a ``.txt`` file of one id per line.

    Raises:
        DataError: If it cannot be read or has no such column.
    """
    if path.suffix != ".txt":
        frame = read_table(path, "items")
        if "item_id" not in frame.columns:
            raise DataError("there is no column 'item_id'", where=str(path), expected="item_id; or a .txt file of ids")
        return frame["item_id"].cast(pl.String).drop_nulls().to_list()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of items cannot be read: {error}", where=str(path), fix="check the path") from error
    return [line.strip() for line in lines if line.strip()]


def to_frame(
    table: Any, columns: Mapping[str, str] | None = None, *, account: TableAccount | None = None
) -> pl.DataFrame:
    """A polars DataFrame from one, a ``datasets.Dataset``, a pandas DataFrame, an Arrow table or a dict of lists.

    Args:
        table: The table.
        columns: Our column name to the user's.
        account: Takes how many rows there are, and what columns were called.

    Raises:
        DataError: If it is none of these.
    """
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    elif hasattr(table, "with_format") and hasattr(table, "features"):
        table = pl.from_arrow(table.with_format("arrow")[:])
    elif not isinstance(table, pl.DataFrame):
        try:
            table = pl.DataFrame(table)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"a {type(table).__name__} is not a table: {error}",
                expected="a polars or pandas DataFrame, a datasets.Dataset or an Arrow table",
            ) from error
    if account is not None:
        account.rows_read = table.height
    return rename_columns(table, columns or {}, account)


def find_table(folder: Path, kind: Kind) -> Path | None:
    """The table of a kind in a folder by its name (``interactions.*``, ``*.inter``, ``u.data`` ...), None without one.

    Raises:
        DataError: If several have equal claim.
    """
    for pattern in TABLE_NAMES[kind]:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise DataError(
                f"several files could be the {kind}: {names}",
                where=str(folder),
                fix=f"keep one {pattern}, or say which: data.interactions, data.items, data.users instead of data.path",
            )
        if found:
            return found[0]
    return None


def require_table(folder: Path, kind: Kind) -> Path:
    """As :func:`find_table`, but there must be one.

    Raises:
        DataError: If there is none, or if several have equal claim.
    """
    found = find_table(folder, kind)
    if found is not None:
        return found
    raise DataError(
        f"there are no {kind} in {folder}",
        expected=" or ".join(TABLE_NAMES[kind]),
        fix="name the file interactions.csv (.parquet, .jsonl ...), or give it by data.interactions",
    )


def table_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(f"{part.relative_to(path).as_posix()} {file_sha256(part)}\n".encode())
    return digest.hexdigest()


def _parts(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    parts = sorted(
        part
        for part in path.rglob("*")
        if part.is_file() and part.name[0] not in "._" and all("=" in name for name in _folders(part, path))
    )
    if not parts:
        raise DataError(f"the folder {path} is empty", expected="files of a table", fix="check the path")
    suffixes = {_suffix(part) for part in parts}
    if len(suffixes) > 1:
        raise DataError(
            f"the folder mixes formats: {', '.join(sorted(suffixes))}", where=str(path), expected="one format"
        )
    return parts


def _folders(part: Path, table: Path) -> tuple[str, ...]:
    return part.relative_to(table).parts[:-1]


def _partitions(part: Path, table: Path) -> list[pl.Expr]:
    """What the names of a shard's folders say, ``year=2024/``, as text columns."""
    pairs = [name.split("=", 1) for name in _folders(part, table)] if part != table else []
    return [pl.lit(None if value == NO_VALUE else unquote(value), pl.String).alias(name) for name, value in pairs]


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name if name in ("u.data", "u.item", "u.user") else name[name.rfind(".") :] if "." in name else ""


def _pieces(path: Path, parts: list[Path], kind: Kind) -> Iterator[pl.DataFrame]:
    """The table piece by piece; without parts it is a folder of ``datasets``."""
    if not parts:
        yield _saved_dataset(path)
    for part in parts:
        partitions = _partitions(part, path)
        for piece in _read_file(part, kind):
            yield piece.with_columns(partitions)


def _with_categories(pieces: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Ids that are text in the first piece as categories, the same in all pieces; other ids stay."""
    kinds: dict[str, pl.Categorical] | None = None
    for piece in pieces:
        if kinds is None:
            texts = [name for name in ("user_id", "item_id") if piece.schema.get(name) == pl.String]
            kinds = {name: pl.Categorical(pl.Categories.random()) for name in texts}
        there = {name: kind for name, kind in kinds.items() if name in piece.columns}
        yield piece.with_columns(pl.col(name).cast(pl.String).cast(kind) for name, kind in there.items())


def _read_file(path: Path, kind: Kind) -> Iterator[pl.DataFrame]:
    readers: dict[str, Callable[[bytes], pl.DataFrame]] = {
        **dict.fromkeys(CSV_SUFFIXES, lambda data: _read_csv(data, path)),
        **dict.fromkeys((".inter", ".item", ".user"), lambda data: read_recbole(data, str(path))),
        ".dat": lambda data: read_double_colon(data, kind, str(path)),
        "u.data": lambda data: read_u_data(data, str(path)),
        "u.item": lambda data: read_u_item(data, str(path)),
        "u.user": lambda data: read_u_user(data, str(path)),
    }
    suffix = _suffix(path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), expected=f"a table of {kind}", fix="check the file")
    if suffix in (".parquet", ".pq"):
        yield from _read_parquet(path)
        return
    if suffix not in readers and suffix not in JSON_SUFFIXES:
        raise DataError(
            f"the format {suffix or 'without a suffix'} is not known",
            where=str(path),
            expected=".parquet, .csv, .tsv, .jsonl, .json, .inter, .item, .user, .dat, u.data, u.item or u.user "
            "(text also .gz)",
            fix="convert the file, or give it the suffix of its format",
        )
    try:
        with io.BufferedReader(gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as stream:
            json = suffix in JSON_SUFFIXES
            frame = read_json_lines(stream, kind, str(path)) if json else readers[suffix](stream.read())
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the file cannot be unpacked: {error}", where=str(path), fix=TRUNCATED) from error
    yield frame


def _read_parquet(path: Path) -> Iterator[pl.DataFrame]:
    try:
        table = pl.scan_parquet(path)
        rows = table.select(pl.len()).collect().item()
        for start in range(0, max(rows, 1), PIECE_ROWS):
            yield table.slice(start, PIECE_ROWS).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the parquet file cannot be read: {message}", where=str(path), fix=TRUNCATED) from error


def _read_csv(data: bytes, path: Path) -> pl.DataFrame:
    """Everything as text: ids such as 0012 stay as they are, and wrong values are told with their rows later."""
    header = data.split(b"\n", 1)[0]
    separator = "\t" if _suffix(path) != ".csv" else max(",;\t", key=lambda mark: header.count(mark.encode()))
    _check_utf8(data)
    try:
        frame = pl.read_csv(data, separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(
            f"the table cannot be read: {message}",
            where=str(path),
            expected=f"a header line and values separated by {separator!r}, text with {separator!r} in double quotes",
            fix="write the file again with quotes",
        ) from error
    return frame.rename({name: name.strip() for name in frame.columns})


def _check_utf8(data: bytes) -> None:
    # Strict decoding costs a copy; ASCII needs none.
    if not data.isascii():
        data.decode("utf-8")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    row = error.object.count(b"\n", 0, error.start) + 1
    line = error.object.rfind(b"\n", 0, error.start) + 1
    piece = error.object[max(error.start - 10, line) : error.end + 10].decode("latin-1").split("\n")[0]
    return DataError(
        f"the file is not UTF-8: byte 0x{error.object[error.start]:02x} in {piece!r}",
        where=f"{path}, line {row}",
        expected="text in UTF-8",
        fix=f"convert it: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}",
    )


def _saved_dataset(path: Path) -> pl.DataFrame:
    from datasets import load_from_disk

    try:
        return to_frame(load_from_disk(str(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"the saved data set cannot be read: {error}", where=str(path), fix=TRUNCATED) from error


def _with_our_names(frame: pl.DataFrame, kind: Kind, columns: Mapping[str, str], account: TableAccount) -> pl.DataFrame:
    frame = rename_columns(frame, columns, account)
    for renames in FOREIGN_NAMES[kind]:
        if set(renames) <= set(frame.columns) and not set(renames.values()) & set(frame.columns):
            frame = rename_columns(frame, {ours: theirs for theirs, ours in renames.items()}, account)
    return frame


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in frame.columns if name not in ("user_id", "item_id")]
    return frame.with_columns(_numbers_where_all_are(frame[name]) for name in names)


def _numbers_where_all_are(values: pl.Series) -> pl.Series:
    """A text column as numbers if every value is one; with a leading zero it is a code and stays text."""
    text = values.str.strip_chars()
    if text.null_count() == len(text) or text.str.contains(r"^[-+]?0\d").any():
        return values
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
    return values
