"""RecBole's typed tables and the files of MovieLens."""

import re
from typing import Literal

import polars as pl

from genrec.data.account import TableAccount
from genrec.data.plaintext import latin_text, utf8_bytes
from genrec.data.separated import read_separated, refuse_repeated_names
from genrec.errors import DataError, first_rows

# In the order of the columns of u.item.
MOVIELENS_GENRES = """
unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical Mystery
Romance Sci-Fi Thriller War Western
"""
# "Lion King, The" at the end, before a bracket, or inside one.
_ARTICLE = re.compile(r"([^()]+?), (The|A|An|Il|La|Le|L'|Les|Los|El|Das|Der|Die|Det|Lo|I|Une|Un)(?= \(|\)|$)")


def clean_movie_title(title: str, year: str = "") -> str:
    """MovieLens titles as people write them: ``Lion King, The`` and ``1994`` become ``The Lion King (1994)``."""
    title = _ARTICLE.sub(r"\2 \1", " ".join(title.split())).replace("L' ", "L'")
    return f"{title} ({year})" if year.isdigit() else title


def read_recbole(data: bytes, where: str, account: TableAccount) -> pl.DataFrame:
    """A RecBole atomic file: tab-separated, ``name:type`` in the header.

    ``token`` and ``token_seq`` are text, ``float`` numbers, ``float_seq`` lists of numbers. The ``class`` of movies
    becomes ``genres``, their ``movie_title`` the ``title``.

    Raises:
        DataError: If it is not such a table or a number is not one.
    """
    frame = read_separated(utf8_bytes(data, where), "\t", where, account, quotes=False)
    types = [name.rpartition(":")[::2] if ":" in name else (name, "token") for name in frame.columns]
    names = [name for name, _ in types]
    refuse_repeated_names(names, where)
    frame.columns = names
    for name, kind in types:
        if kind == "float":
            frame = frame.with_columns(_numbers(frame[name]))
        elif kind == "float_seq":
            frame = frame.with_columns(_lists_of_numbers(frame[name], where))
    if {"movie_title", "class"} <= set(names) and "title" not in names:
        return _movies(frame.rename({"movie_title": "title", "class": "genres"}), account)
    return frame


def read_double_colon(
    data: bytes, kind: Literal["interactions", "items", "users"], where: str, account: TableAccount
) -> pl.DataFrame:
    """``ratings.dat``, ``movies.dat`` or ``users.dat`` of MovieLens-1M (and -10M): separated by ``::``."""
    names = {
        "interactions": ("user_id", "item_id", "rating", "timestamp"),
        "users": ("user_id", "gender", "age", "occupation", "zip_code"),
        "items": ("item_id", "title", "genres"),
    }
    frame = _named(latin_text(data, where).replace("::", "\t"), "\t", names[kind], where, account)
    if kind != "items":
        return frame
    titles = pl.Series("title", [clean_movie_title(title or "") for title in frame["title"]], dtype=pl.String)
    return frame.with_columns(titles, pl.col("genres").str.replace_all("|", ", ", literal=True))


def read_u_data(data: bytes, where: str, account: TableAccount) -> pl.DataFrame:
    """``u.data`` of MovieLens-100K: user, item, rating, timestamp separated by tabs."""
    names = ("user_id", "item_id", "rating", "timestamp")
    return _named(latin_text(data, where), "\t", names, where, account)


def read_u_item(data: bytes, where: str, account: TableAccount) -> pl.DataFrame:
    """``u.item`` of MovieLens-100K: Latin-1, separated by ``|``, one column per genre."""
    genres = MOVIELENS_GENRES.split()
    names = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *genres)
    frame = _named(latin_text(data, where), "|", names, where, account)
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in genres]
    return frame.select(
        "item_id",
        pl.Series("title", [clean_movie_title(title) for title in frame["title"].fill_null("")], dtype=pl.String),
        pl.concat_str(flags, separator=", ", ignore_nulls=True).alias("genres"),
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64).alias("release_year"),
    )


def read_u_user(data: bytes, where: str, account: TableAccount) -> pl.DataFrame:
    """``u.user`` of MovieLens-100K: user, age, gender, occupation, zip code separated by ``|``, all as text."""
    names = ("user_id", "age", "gender", "occupation", "zip_code")
    return _named(latin_text(data, where), "|", names, where, account)


def _movies(frame: pl.DataFrame, account: TableAccount) -> pl.DataFrame:
    years = [""] * frame.height
    if "release_year" in frame.columns:
        odd = frame["release_year"].filter(~frame["release_year"].str.contains(r"^\d{4}$|^unkn?own|^unkonwn"))
        if len(odd):
            account.notes.append(f"{len(odd)} values of release_year are no year, such as {odd[0]!r}: left empty")
        frame = frame.with_columns(pl.col("release_year").str.extract(r"^(\d{4})$").cast(pl.Int64))
        years = frame["release_year"].cast(pl.String).fill_null("").to_list()
    # RecBole's ml-100k writes the one unknown movie so.
    titles = frame["title"].fill_null("").replace("unkonwn", "unknown")
    cleaned = [clean_movie_title(title, year) for title, year in zip(titles, years, strict=True)]
    title = pl.Series("title", cleaned, dtype=pl.String)
    frame = frame.with_columns(title, pl.col("genres").str.replace_all(" ", ", "))
    return frame.select("item_id", "title", "genres", pl.exclude("item_id", "title", "genres"))


def _named(text: str, separator: str, names: tuple[str, ...], where: str, account: TableAccount) -> pl.DataFrame:
    frame = read_separated(text.encode(), separator, where, account, header=False, quotes=False)
    if frame.width != len(names):
        raise DataError(
            f"the table has {frame.width} columns", where=where, expected=f"{len(names)}: {', '.join(names)}"
        )
    frame.columns = list(names)
    return frame


def _numbers(values: pl.Series) -> pl.Series:
    """Text as numbers if every value is one, whole ones with all their digits."""
    for dtype in (pl.Int64, pl.Float64):
        numbers = values.cast(dtype, strict=False)
        if numbers.null_count() == values.null_count():
            return numbers
    return values


def _lists_of_numbers(values: pl.Series, where: str) -> pl.Series:
    lists = values.str.strip_chars().str.split(" ")
    numbers = lists.cast(pl.List(pl.Float64), strict=False)
    bad = (numbers.list.eval(pl.element().is_null()).list.any() & values.is_not_null()).fill_null(False).arg_true()
    if len(bad):
        raise DataError(
            f"{values.name} is not a list of numbers: {values[int(bad[0])]!r}",
            where=f"{where}, {first_rows((bad + 1).to_list())}",
            expected="numbers separated by one space (float_seq)",
            fix="correct these rows",
        )
    return numbers
