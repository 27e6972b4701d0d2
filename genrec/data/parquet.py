"""Parquet files by their literal names: the one place where polars gets the path of a file.

To polars a path is a pattern: ``d[1]`` is also ``d1``, ``~`` a home folder, and a folder all files in it.
"""

from collections.abc import Sequence
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
    return (table if columns is None else table.select(columns)).collect()
