"""What is known of users besides their interactions: columns of a table, as one number per user and column."""

from collections.abc import Sequence
from functools import cached_property
from zlib import crc32

import numpy as np
import polars as pl

# So many that few values of a column share a bucket, and a value that no one had in training needs none of its own.
USER_BUCKETS = 4096
NOTHING = 0


class Profiles:
    """Values of users' columns as buckets 1 to ``USER_BUCKETS``, 0 where nothing is known.

    A bucket is a checksum of the column's name and the value as text, so it is the same in every table. Text,
    categories, truth values, whole numbers and lists (all of one as one value) can be read. Numbers with fractions
    cannot: hardly two users have the same one, and quantiles of them would not be the same in every table.

    Args:
        table: Row u is dense user u; ``user_id`` and further columns.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self.table = table
        self._buckets: dict[str, np.ndarray] = {}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that can be read."""
        others = [name for name in self.table.columns if name != "user_id"]
        return tuple(name for name in others if _as_text(self.table[name]) is not None)

    def values(self, users: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Buckets of some users.

        Args:
            users: int [B], dense users.
            columns: F names; a column that is not there has no values.

        Returns:
            int64 [B, F].
        """
        found = np.full((len(users), len(columns)), NOTHING, dtype=np.int64)
        for place, name in enumerate(columns):
            if name in self.columns:
                found[:, place] = self._column(name)[users]
        return found

    def _column(self, name: str) -> np.ndarray:
        if name not in self._buckets:
            self._buckets[name] = _buckets(name, self.table[name])
        return self._buckets[name]


def with_columns(user_ids: Sequence[str] | pl.Series, table: pl.DataFrame) -> pl.DataFrame:
    """One row per user in the order given, with the columns of a tidy table; nulls for users whom it lacks."""
    names = pl.DataFrame({"user_id": pl.Series(user_ids, dtype=pl.String)})
    return names.join(table, on="user_id", how="left", maintain_order="left")


def _buckets(name: str, values: pl.Series) -> np.ndarray:
    texts = _as_text(values)
    if texts is None:
        raise TypeError(f"{name} cannot be read")
    distinct = texts.drop_nulls().unique()
    numbers = [1 + crc32(f"{name}={text}".encode()) % USER_BUCKETS for text in distinct]
    found = texts.replace_strict(distinct, pl.Series(numbers, dtype=pl.Int64), default=NOTHING, return_dtype=pl.Int64)
    return found.to_numpy()


def _as_text(values: pl.Series) -> pl.Series | None:
    """Each value as text, null where there is none; None where values are not of a kind that repeats."""
    dtype = values.dtype
    if dtype.is_float():
        # Whole numbers with empty places are floats in some formats.
        known = values.drop_nulls().drop_nans()
        if not (known == known.round()).all() or not known.is_finite().all():
            return None
        values = values.fill_nan(None).cast(pl.Int64)
    elif isinstance(dtype, pl.List):
        if dtype.inner.is_nested():
            return None
        values = values.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
    elif not (dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)):
        return None
    texts = values.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)
