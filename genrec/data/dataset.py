"""A prepared data set: dense ids inside, external ids only at the border, histories mapped from disk."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from genrec.artifacts import Manifest, read_json, read_manifest, verify_artifact
from genrec.data.account import DatasetAccount, read_account
from genrec.data.arrow import read_histories
from genrec.data.histories import Histories
from genrec.data.profiles import Profiles
from genrec.errors import ArtifactError, ConfigError

STAGE = "dataset"
TITLE_COLUMNS = ("title", "name")


class Dataset:
    """Items, users and their histories with a split, as written by :func:`genrec.data.prepare_dataset`.

    Items are 0..N-1 in the order of ``item_ids``, users 0..U-1 in the order of ``user_ids``.

    Attributes:
        path: The folder.
        items: Row i is item i; column ``item_id`` and text or categorical columns of any name.
        statistics: What ``statistics.json`` holds.
        split: ``leave-one-out``, ``temporal`` or ``ratio``.
        fingerprint: Equal for data sets with equal content and settings.
    """

    def __init__(self, path: Path, manifest: Manifest, items: pl.DataFrame, statistics: dict[str, Any]) -> None:
        self.path = path
        self.items = items
        self.statistics = statistics
        self.split: str = manifest.config["split"]
        self.fingerprint: str = manifest.fingerprint
        histories, self._train_end, self._valid_end = read_histories(path / "histories")
        self._everything = replace(histories, profiles=_read_profiles(path / "users.parquet"))

    @classmethod
    def load(cls, path: Path, verify: bool = False) -> "Dataset":
        """Open a folder written by :func:`genrec.data.prepare_dataset`.

        Args:
            path: The folder.
            verify: Check every file against its hash.

        Raises:
            ArtifactError: If the folder is missing, incomplete, changed or not a data set.
        """
        path = Path(path)
        manifest = verify_artifact(path, STAGE) if verify else read_manifest(path, STAGE)
        return cls(path, manifest, _read_table(path / "items.parquet"), read_json(path / "statistics.json"))

    def __repr__(self) -> str:
        counts = f"{self.num_users} users, {self.num_items} items, {self.num_interactions} interactions"
        return f"Dataset({str(self.path)!r}: {counts}, {self.split})"

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self._everything)

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue, N."""
        return self.items.height

    @property
    def num_interactions(self) -> int:
        """Number of interactions in all parts."""
        return len(self._everything.items)

    @property
    def has_timestamps(self) -> bool:
        """Whether any interaction has a timestamp."""
        return self._everything.timestamps is not None

    @property
    def profiles(self) -> Profiles | None:
        """What is known of the users beside their interactions; None where there is no such column."""
        return self._everything.profiles

    @cached_property
    def account(self) -> DatasetAccount:
        """What became of the rows and columns of the tables; read from ``account.json``.

        Raises:
            ArtifactError: If the file is missing, is not an account, or does not add up.
        """
        return read_account(self.path)

    @cached_property
    def item_ids(self) -> list[str]:
        """External id of every item, N strings."""
        return self.items["item_id"].to_list()

    @cached_property
    def user_ids(self) -> list[str]:
        """External id of every user, U strings."""
        return _read_table(self.path / "users.parquet")["user_id"].to_list()

    def users_named(self, users: np.ndarray) -> list[str]:
        """External ids of some users, given as int ``[n]``; read from disk at each call, for few users of many."""
        return _read_table(self.path / "users.parquet")["user_id"][users].to_list()

    @property
    def interactions(self) -> pl.DataFrame:
        """All interactions, sorted by user and position, with every further column; read from disk at each call."""
        return _read_table(self.path / "interactions.parquet")

    @cached_property
    def titles(self) -> list[str]:
        """What to call every item: its title or name where it has one, else its id."""
        return titles_of(self.items).to_list()

    def title(self, item: int) -> str:
        """What to call one item: see :attr:`titles`."""
        return self.titles[item]

    def item_texts(self, columns: Sequence[str] | None = None) -> list[str]:
        """One text per item: its columns joined by ``". "``, missing ones skipped, lists joined by ``", "``.

        Args:
            columns: Which columns, in this order; all text columns (not numbers, not ids) if None.

        Returns:
            N strings, empty where an item has no text.

        Raises:
            ConfigError: If a column does not exist.
        """
        if columns is None:
            columns = [name for name, dtype in self.items.schema.items() if name != "item_id" and _is_text(dtype)]
        missing = [name for name in columns if name not in self.items.columns]
        if missing:
            raise ConfigError(
                f"the items have no column {missing[0]!r}", where=str(self.path), expected=", ".join(self.items.columns)
            )
        if not columns:
            return [""] * self.num_items
        texts = [_text_of(self.items, name) for name in columns]
        parts = [pl.when(text != "").then(text) for text in texts]
        joined = pl.concat_str(parts, separator=". ", ignore_nulls=True)
        return self.items.select(joined.alias("text"))["text"].to_list()

    def train(self) -> Histories:
        """The training part of every user who has one, oldest item first."""
        return self._leading(np.flatnonzero(self._train_end > 0), self._train_end)

    def full(self) -> Histories:
        """Everything known of every user, for lists that go into production; views of the mapped file."""
        return self._everything

    def evaluation(self, part: Literal["validation", "test"]) -> tuple[Histories, Histories]:
        """Histories and held-out targets of the users who have at least one of both, rows aligned.

        Args:
            part: ``validation`` (history = training part) or ``test`` (history = training and validation part).

        Raises:
            ConfigError: If the part has another name.
        """
        if part not in ("validation", "test"):
            raise ConfigError(f"there is no part {part!r}", expected="validation or test")
        begin = self._train_end if part == "validation" else self._valid_end
        end = self._valid_end if part == "validation" else self._everything.lengths
        rows = np.flatnonzero((begin > 0) & (end > begin))
        starts = self._everything.offsets[rows] + begin[rows]
        targets = self._everything.slice(self._everything.users[rows], starts, (end - begin)[rows])
        return self._leading(rows, begin), targets

    def train_popularity(self) -> np.ndarray:
        """How often each item occurs in the training part, int64 [N]."""
        return np.bincount(self.train().items, minlength=self.num_items).astype(np.int64)

    def _leading(self, rows: np.ndarray, ends: np.ndarray) -> Histories:
        everything = self._everything
        return everything.slice(everything.users[rows], everything.offsets[rows], ends[rows])


def titles_of(items: pl.DataFrame) -> pl.Series:
    """What to call every item of a table: its title or name where it has one, else its id."""
    lower = {column.lower(): column for column in reversed(items.columns)}
    named = [lower[name] for name in TITLE_COLUMNS if name in lower]
    titles = [pl.when(_text_of(items, name) != "").then(_text_of(items, name)) for name in named]
    return items.select(pl.coalesce(*titles, pl.col("item_id")).alias("title")).to_series()


def _is_text(dtype: pl.DataType) -> bool:
    while isinstance(dtype, pl.List):
        dtype = dtype.inner  # type: ignore[assignment]
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _text_of(items: pl.DataFrame, name: str) -> pl.Expr:
    """A column as one text per row, "" where missing; inner lists are paths: ``A > B | A > C``."""
    dtype, column = items.schema[name], pl.col(name)
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.List):
        column = column.list.eval(pl.element().list.join(" > ")).list.join(" | ")
    elif isinstance(dtype, pl.List):
        column = column.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
    return column.cast(pl.String).str.strip_chars().fill_null("")


def _read_profiles(path: Path) -> Profiles | None:
    try:
        known = len(pl.read_parquet_schema(path)) > 1
    except (OSError, pl.exceptions.PolarsError):
        # Whoever asks for the users' names is told.
        return None
    return Profiles(_read_table(path)) if known else None


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(
            f"{path.name} cannot be read: {error}", where=str(path.parent), fix="prepare the data set again"
        ) from error
