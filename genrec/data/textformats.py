"""RecBole's typed tables and the files of MovieLens."""

import re
from typing import Literal

import polars as pl

from genrec.errors import DataError

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


def read_recbole(data: bytes, where: str) -> pl.DataFrame:
    """A RecBole atomic file: tab-separated, ``name:type`` in the header.

    ``token`` and ``token_seq`` are text, ``float`` numbers, ``float_seq`` lists of numbers. The ``class`` of movies
    becomes ``genres``, their ``movie_title`` the ``title``.

    Raises:
        DataError: If it is not such a table or a number is not one.
    """
    frame = _separated(data.decode("utf-8"), "\t", where, header=True)
    types = dict(name.rpartition(":")[::2] if ":" in name else (name, "token") for name in frame.columns)
    frame.columns = list(types)
    for name, kind in types.items():
        if kind == "float":
            numbers = frame[name].cast(pl.Float64, strict=False)
            if numbers.null_count() == frame[name].null_count():
                frame = frame.with_columns(numbers)
        elif kind == "float_seq":
            frame = frame.with_columns(pl.col(name).str.split(" ").cast(pl.List(pl.Float64), strict=False))
    if {"movie_title", "class"} <= set(types):
        return _movies(frame.rename({"movie_title": "title", "class": "genres"}))
    return frame


def read_double_colon(data: bytes, kind: Literal["interactions", "items", "users"], where: str) -> pl.DataFrame:
    """``ratings.dat``, ``movies.dat`` or ``users.dat`` of MovieLens-1M (and -10M): Latin-1, separated by ``::``."""
    text = data.decode("latin-1").replace("::", "\t")
    if kind == "interactions":
        return _named(_separated(text, "\t", where), ("user_id", "item_id", "rating", "timestamp"), where)
    if kind == "users":
        return _named(_separated(text, "\t", where), ("user_id", "gender", "age", "occupation", "zip_code"), where)
    frame = _named(_separated(text, "\t", where), ("item_id", "title", "genres"), where)
    titles = pl.Series("title", [clean_movie_title(title) for title in frame["title"]], dtype=pl.String)
    return frame.with_columns(titles, pl.col("genres").str.replace_all("|", ", ", literal=True))


def read_u_data(data: bytes, where: str) -> pl.DataFrame:
    """``u.data`` of MovieLens-100K: user, item, rating, timestamp separated by tabs."""
    names = ("user_id", "item_id", "rating", "timestamp")
    return _named(_separated(data.decode("latin-1"), "\t", where), names, where)


def read_u_item(data: bytes, where: str) -> pl.DataFrame:
    """``u.item`` of MovieLens-100K: Latin-1, separated by ``|``, one column per genre."""
    frame = _separated(data.decode("latin-1"), "|", where)
    genres = MOVIELENS_GENRES.split()
    names = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *genres)
    frame = _named(frame, names, where)
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in genres]
    return frame.select(
        "item_id",
        pl.Series("title", [clean_movie_title(title) for title in frame["title"].fill_null("")], dtype=pl.String),
        pl.concat_str(flags, separator=", ", ignore_nulls=True).alias("genres"),
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64).alias("release_year"),
    )


def read_u_user(data: bytes, where: str) -> pl.DataFrame:
    """``u.user`` of MovieLens-100K: user, age, gender, occupation, zip code separated by ``|``, all as text."""
    names = ("user_id", "age", "gender", "occupation", "zip_code")
    return _named(_separated(data.decode("latin-1"), "|", where), names, where)


def _movies(frame: pl.DataFrame) -> pl.DataFrame:
    years = [""] * frame.height
    if "release_year" in frame.columns:
        frame = frame.with_columns(pl.col("release_year").str.extract(r"^(\d{4})$").cast(pl.Int64))
        years = frame["release_year"].cast(pl.String).fill_null("").to_list()
    # RecBole's ml-100k writes the one unknown movie so.
    titles = frame["title"].fill_null("").replace("unkonwn", "unknown")
    cleaned = [clean_movie_title(title, year) for title, year in zip(titles, years, strict=True)]
    title = pl.Series("title", cleaned, dtype=pl.String)
    frame = frame.with_columns(title, pl.col("genres").str.replace_all(" ", ", "))
    return frame.select("item_id", "title", "genres", pl.exclude("item_id", "title", "genres"))


def _separated(text: str, separator: str, where: str, header: bool = False) -> pl.DataFrame:
    try:
        return pl.read_csv(text.encode(), separator=separator, has_header=header, quote_char=None, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the table cannot be read: {message}", where=where, fix="check the file") from error


def _named(frame: pl.DataFrame, names: tuple[str, ...], where: str) -> pl.DataFrame:
    if frame.width != len(names):
        raise DataError(
            f"the table has {frame.width} columns", where=where, expected=f"{len(names)}: {', '.join(names)}"
        )
    frame.columns = list(names)
    return frame
