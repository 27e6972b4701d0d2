"""Tables from files: the format follows from the name, the columns by what they are called."""

import gzip
import hashlib
import io
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl

from genrec.artifacts import file_sha256
from genrec.data.account import TableAccount
from genrec.data.columns import rename_columns
from genrec.data.folders import partitions_of, parts_of, suffix_of
from genrec.data.ids import ID_COLUMNS, INVISIBLE, IdFindings, check_id_types, id_text, tidy_ids
from genrec.data.joining import joined
from genrec.data.jsonlines import read_json_lines
from genrec.data.parquet import parquet_pieces
from genrec.data.plaintext import utf8_bytes
from genrec.data.separated import read_separated, separator_of
from genrec.data.textformats import read_double_colon, read_recbole, read_u_data, read_u_item, read_u_user
from genrec.errors import DataError

logger = logging.getLogger(__name__)

Kind = Literal["interactions", "items", "users"]
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv", ".tab")
PIECE_ROWS = 5_000_000
# What Excel reads, and some programs write, before the header to name the separator.
SEPARATOR_LINE = re.compile(rb'\A"?sep=[,;\t]"?(?=\r?\n|\r)')
TRUNCATED = "make the file again: it is damaged or was not written to its end"
# What other programs write in addition: numbers of rows, and lines that they could not read.
HELPERS = re.compile(r"|Unnamed: \d+(\.\d+)?|__index_level_\d+__|__null_dask_index__|_corrupt_record")

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
            formats), or a folder of such files, also in inner folders, which are read in the order of their names
            (``part-2`` before ``part-10``).
        kind: Which table it is.
        columns: Our column name to the user's.
        categories: Make ``user_id`` and ``item_id`` categories. No more than a piece of the table then holds them as
            text: a shard, or five million rows of a Parquet file.
        account: Takes how many files and rows were read, what columns were called, what is left out, and notes; notes
            are logged as warnings.

    Returns:
        The table; ``user_id`` and ``item_id`` are tidy text (see :func:`genrec.data.ids.tidy_ids`), perhaps null.

    Raises:
        DataError: If the file is missing, empty, damaged, cut short, not UTF-8 or of an unknown format, its quotes
            cannot be explained, or an id is no id.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}", expected=f"a table of {kind}", fix="check the path")
    account = account or TableAccount(kind, str(path))
    account.source = account.source or str(path)
    noted, left_out = len(account.notes), sum(entry.rows for entry in account.left_out.values())
    saved = (path / "dataset_info.json").is_file()
    parts = [] if saved else parts_of(path, account)
    pieces = _pieces(path, parts, kind, columns or {}, account)
    frames = list(_with_ids(pieces, str(path), account, categories=categories))
    _note_absent_columns(frames, account)
    frame = joined(frames, str(path), "the shards do not fit together")
    frame = without_helpers(frame, account)
    frame = _typed(frame) if parts and suffix_of(parts[0]) in CSV_SUFFIXES else _without_wide_numbers(frame)
    account.files = max(len(parts), 1)
    account.rows_read += frame.height + sum(entry.rows for entry in account.left_out.values()) - left_out
    for note in account.notes[noted:]:
        logger.warning("%s: %s", account.source, note)
    return frame


def read_item_ids(path: Path) -> list[str]:
    """Ids of items from a table with ``item_id``, or from a ``.txt`` file of one id per line.

    Raises:
        DataError: If it cannot be read or has no such column.
    """
    if path.suffix != ".txt":
        frame = read_table(path, "items")
        if "item_id" not in frame.columns:
            raise DataError("there is no column 'item_id'", where=str(path), expected="item_id; or a .txt file of ids")
        check_id_types(frame, ["item_id"], str(path))
        ids = frame["item_id"].cast(pl.String).drop_nulls().to_list()
        if len(ids) < frame.height:
            logger.warning("%s: %d of %d rows have no item_id: left out", path, frame.height - len(ids), frame.height)
    else:
        try:
            lines = utf8_bytes(path.read_bytes(), str(path)).decode("utf-8").splitlines()
        except OSError as error:
            message = f"the list of items cannot be read: {error}"
            raise DataError(message, where=str(path), fix="check the path") from error
        ids = [line for line in map(id_text, lines) if line]
    if not ids:
        logger.warning("%s: there is no item in the list", path)
    return ids


def to_frame(
    table: Any, columns: Mapping[str, str] | None = None, *, account: TableAccount | None = None
) -> pl.DataFrame:
    """A polars DataFrame from one, a ``datasets.Dataset``, a pandas DataFrame, an Arrow table or a dict of lists.

    Args:
        table: The table.
        columns: Our column name to the user's.
        account: Takes how many rows there are, what columns were called, and notes, which are logged as warnings.

    Raises:
        DataError: If it is none of these, or an id is no id.
    """
    table = _in_polars(table)
    account = account or TableAccount("table", "the table")
    noted = len(account.notes)
    account.rows_read += table.height
    table = _with_stripped_names(rename_columns(table, columns or {}, account))
    (frame,) = _with_ids(iter([table]), account.source, account)
    frame = without_helpers(_without_wide_numbers(frame), account)
    for note in account.notes[noted:]:
        logger.warning("%s: %s", account.source, note)
    return frame


def _in_polars(table: Any) -> pl.DataFrame:
    try:
        frame = _converted(table)
        objects = [name for name, kind in frame.schema.items() if kind == pl.Object]
        if objects:
            raise TypeError(f"the column {objects[0]!r} holds Python objects: convert it to text")
    except (TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"a {type(table).__name__} is not a table: {error}",
            expected="a polars or pandas DataFrame, a datasets.Dataset or an Arrow table",
        ) from error
    return frame


def _converted(table: Any) -> pl.DataFrame:
    if table is None:
        raise TypeError("nothing is given")
    if isinstance(table, pl.DataFrame | pl.LazyFrame):
        return table.lazy().collect()
    if isinstance(table, Mapping) and any(hasattr(part, "with_format") for part in table.values()):
        raise TypeError(f"it holds several data sets, {', '.join(map(str, table))}: give one of them")
    if hasattr(table, "with_format") and hasattr(table, "features"):
        return pl.DataFrame(pl.from_arrow(table.with_format("arrow")[:]))
    if hasattr(table, "reset_index") and any(name is not None for name in table.index.names):
        # polars leaves out the index of pandas; where it has names it holds columns.
        table = table.reset_index()
    return pl.DataFrame(table)


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


def without_helpers(frame: pl.DataFrame, account: TableAccount) -> pl.DataFrame:
    """A table without what other programs add to its columns; the account says which columns those were."""
    helpers = [name for name in frame.columns if HELPERS.fullmatch(name)]
    if "_corrupt_record" in helpers:
        bad = frame["_corrupt_record"].is_not_null()
        if bad.any():
            account.notes.append(
                f"{bad.sum()} rows are lines that Spark could not read (_corrupt_record), the first "
                f"is row {int(bad.arg_true()[0]) + 1}"
            )
    if helpers:
        account.columns_left_out |= dict.fromkeys(helpers, "a column that another program wrote for itself")
        account.notes.append(
            f"columns that another program wrote for itself are left out: {', '.join(map(repr, helpers))}"
        )
    return frame.drop(helpers)


def _pieces(
    path: Path, parts: list[Path], kind: Kind, columns: Mapping[str, str], account: TableAccount
) -> Iterator[pl.DataFrame]:
    """The table piece by piece, with our names of columns; without parts it is a folder of ``datasets``."""
    if not parts:
        yield _with_our_names(_saved_dataset(path), kind, columns, account)
    for part in parts:
        partitions = partitions_of(part, path)
        for piece in _read_file(part, kind, columns, account):
            for name in partitions.keys() & set(piece.columns):
                account.columns_left_out[f"{name} (in the files)"] = "the names of the folders say it"
            yield _with_our_names(piece.with_columns(partitions.values()), kind, columns, account)


def _with_ids(
    pieces: Iterator[pl.DataFrame], where: str, account: TableAccount, *, categories: bool = False
) -> Iterator[pl.DataFrame]:
    """Pieces with tidy ids, perhaps as categories; after the last one the account says what was odd about them."""
    findings, row = IdFindings(), 1
    kinds = {name: pl.Categorical(pl.Categories.random()) if categories else pl.String() for name in ID_COLUMNS}
    for piece in pieces:
        columns = []
        for name in [name for name in ID_COLUMNS if name in piece.columns]:
            # Looking at each category once costs less than at each text.
            given = _as_kind(piece[name], kinds[name])
            columns.append(_as_kind(tidy_ids(given, where, first_row=row, findings=findings), kinds[name]))
        yield piece.with_columns(columns)
        row += piece.height
    findings.note(account)


def _as_kind(values: pl.Series, kind: pl.DataType) -> pl.Series:
    if values.dtype == kind or not isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
        return values
    return values.cast(pl.String).cast(kind)


def _note_absent_columns(frames: list[pl.DataFrame], account: TableAccount) -> None:
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    for name in names:
        absent = sum(name not in frame.columns for frame in frames)
        if absent:
            account.notes.append(f"the column {name!r} is not in {absent} of {len(frames)} pieces")


def _read_file(path: Path, kind: Kind, columns: Mapping[str, str], account: TableAccount) -> Iterator[pl.DataFrame]:
    suffix, where = suffix_of(path), str(path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=where, expected=f"a table of {kind}", fix="check the file")
    if suffix in (".parquet", ".pq"):
        yield from _read_parquet(path)
        return
    try:
        with io.BufferedReader(gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            if suffix in JSON_SUFFIXES:
                frame = read_json_lines(stream, kind, where, account, columns, _id_names(kind, columns))
            else:
                frame = _read_text(stream.read(), suffix, kind, where, account)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the file cannot be unpacked: {error}", where=where, fix=TRUNCATED) from error
    yield frame


def _id_names(kind: Kind, columns: Mapping[str, str]) -> tuple[str, ...]:
    foreign = [theirs for names in FOREIGN_NAMES[kind] for theirs, ours in names.items() if ours in ID_COLUMNS]
    return tuple(dict.fromkeys([*ID_COLUMNS, *(columns[name] for name in ID_COLUMNS if name in columns), *foreign]))


def _read_text(data: bytes, suffix: str, kind: Kind, where: str, account: TableAccount) -> pl.DataFrame:
    if suffix in CSV_SUFFIXES:
        # Everything as text: ids such as 0012 stay as they are, and wrong values are named with their rows later.
        # The line of a spreadsheet becomes an empty one, so that lines keep their numbers.
        data = SEPARATOR_LINE.sub(b"", utf8_bytes(data, where))
        return read_separated(data, separator_of(data) if suffix == ".csv" else "\t", where, account)
    if suffix in (".inter", ".item", ".user"):
        return read_recbole(data, where, account)
    if suffix == ".dat":
        return read_double_colon(data, kind, where, account)
    movielens = {"u.data": read_u_data, "u.item": read_u_item, "u.user": read_u_user}
    if suffix in movielens:
        return movielens[suffix](data, where, account)
    raise DataError(
        f"the format {suffix or 'without a suffix'} is not known",
        where=where,
        expected=".parquet, .csv, .tsv, .jsonl, .json, .inter, .item, .user, .dat, u.data, u.item or u.user "
        "(text also .gz)",
        fix="convert the file, or give it the suffix of its format",
    )


def _read_parquet(path: Path) -> Iterator[pl.DataFrame]:
    try:
        yield from parquet_pieces(path, PIECE_ROWS)
    except (OSError, pl.exceptions.PolarsError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the parquet file cannot be read: {message}", where=str(path), fix=TRUNCATED) from error


def _saved_dataset(path: Path) -> pl.DataFrame:
    from datasets import load_from_disk

    try:
        return _in_polars(load_from_disk(str(path.absolute())))
    except (OSError, ValueError) as error:
        raise DataError(f"the saved data set cannot be read: {error}", where=str(path), fix=TRUNCATED) from error


def _with_our_names(frame: pl.DataFrame, kind: Kind, columns: Mapping[str, str], account: TableAccount) -> pl.DataFrame:
    frame = _with_stripped_names(rename_columns(frame, columns, account))
    for renames in FOREIGN_NAMES[kind]:
        if set(renames) <= set(frame.columns) and not set(renames.values()) & set(frame.columns):
            frame = rename_columns(frame, {ours: theirs for theirs, ours in renames.items()}, account)
    return frame


def _with_stripped_names(frame: pl.DataFrame) -> pl.DataFrame:
    stripped = {name: name.strip(INVISIBLE) for name in frame.columns}
    counts = Counter(stripped.values())
    return frame.rename({name: plain for name, plain in stripped.items() if plain and counts[plain] == 1})


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in frame.columns if name not in ID_COLUMNS]
    return frame.with_columns(_numbers_where_all_are(frame[name]) for name in names)


def _numbers_where_all_are(values: pl.Series) -> pl.Series:
    """A text column as numbers if every value is one that loses nothing by it.

    With a leading zero or plus it is a code, and with more digits than numbers hold it is an id: both stay text.
    """
    text = values.str.strip_chars()
    if text.null_count() == len(text) or text.str.contains(r"^[-+]?0\d|^\+").any():
        return values
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if dtype == pl.Float64 and text.str.contains(r"^-?\d{16,}$").any():
            return values
        if numbers.null_count() == text.null_count():
            return numbers
    return values


def _without_wide_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Whole numbers beyond 64 bits as text: other programs cannot read them from Parquet."""
    wide = [name for name, dtype in frame.schema.items() if dtype in (pl.Int128, getattr(pl, "UInt128", pl.Int128))]
    return frame.with_columns(pl.col(wide).cast(pl.String))
