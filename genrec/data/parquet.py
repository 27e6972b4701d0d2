"""Parquet files by their literal names: the one place where polars gets the path of a file to read.

To polars a path is a pattern: ``d[1]`` is also ``d1``, ``~`` a home folder, and a folder all files in it. What breaks
its reader of damaged files beyond its own errors becomes one of them here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl


def scan_parquet(path: Path) -> pl.LazyFrame:
    """One Parquet file, to be read in parts.

    Raises:
        OSError: If it is missing or not a file.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """One Parquet file.

    Args:
        path: The file.
        columns: Which columns; all if None.

    Raises:
        OSError: If it is missing or not a file.
        polars.exceptions.PolarsError: If it is damaged or lacks a column.
    """
    table = scan_parquet(path)
    with panics_as_errors():
        return (table if columns is None else table.select(columns)).collect()


def parquet_pieces(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    """One Parquet file in pieces of some rows, at least one piece.

    Raises:
        OSError: If it is missing or not a file.
        polars.exceptions.PolarsError: If it is damaged.
    """
    table = scan_parquet(path)
    with panics_as_errors():
        size = table.select(pl.len()).collect().item()
    for start in range(0, max(size, 1), rows):
        with panics_as_errors():
            piece = table.slice(start, rows).collect()
        yield piece


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Make a ``PolarsError`` of what is not even an ``Exception``: polars' reader giving up on damaged bytes.

    Raises:
        polars.exceptions.PolarsError: Instead of a panic.
    """
    try:
        yield
    except pl.exceptions.PanicException as error:
        raise pl.exceptions.ComputeError(f"the file is damaged: {error}") from error
