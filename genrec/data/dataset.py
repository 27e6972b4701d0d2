"""A prepared data set: dense ids inside, external ids only at the border, histories mapped from disk."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from genrec.artifacts import Manifest, read_json, read_manifest, verify_artifact
from genrec.artifacts.manifest import check_files
from genrec.artifacts.reading import reading
from genrec.config.sections import Ties
from genrec.data.account import DatasetAccount, read_account
from genrec.data.arrow import check_histories, read_histories
from genrec.data.histories import Histories
from genrec.data.parquet import read_parquet, scan_parquet
from genrec.data.profiles import Profiles
from genrec.data.texts import is_text, row_texts, text_of
from genrec.errors import ArtifactError, ConfigError

STAGE = "dataset"
SPLITS = ("leave-one-out", "temporal", "ratio")
TITLE_COLUMNS = ("title", "name")


class Dataset:
    """Items, users and their histories with a split, as written by :func:`genrec.data.prepare_dataset`.

    Items are 0..N-1 in the order of ``item_ids``, users 0..U-1 in the order of ``user_ids``.

    Attributes:
        path: The folder.
        items: Row i is item i; column ``item_id`` and text or categorical columns of any name.
        statistics: What ``statistics.json`` holds.
        split: ``leave-one-out``, ``temporal`` or ``ratio``.
        ties: ``file``, ``shuffle`` or ``exclude``: how interactions of a user at one time were treated.
        ties_seed: What drew their order; None unless they were shuffled.
        fingerprint: Equal for data sets with equal content and settings.
    """

    def __init__(self, path: Path, manifest: Manifest, items: pl.DataFrame, statistics: dict[str, Any]) -> None:
        self.path = path
        self.items = items
        self.statistics = statistics
        self.split: str = manifest.config["split"]
        self.ties: Ties = manifest.config.get("ties", "file")
        self.ties_seed: int | None = manifest.config.get("ties_seed")
        self.fingerprint: str = manifest.fingerprint
        histories, self._train_end, self._valid_end = read_histories(path / "histories")
        self._everything = replace(histories, profiles=_read_profiles(path / "users.parquet"))

    @classmethod
    def load(cls, path: Path, verify: bool = False) -> "Dataset":
        """Open a folder written by :func:`genrec.data.prepare_dataset`.

        Args:
            path: The folder.
            verify: Check every file against its hash. Names and the ranges of numbers are checked in any case.

        Raises:
            ArtifactError: If the folder is missing, incomplete, changed or not a data set.
        """
        path = Path(path)
        with reading(path):
            manifest = verify_artifact(path, STAGE) if verify else read_manifest(path, STAGE)
            if not verify:
                check_files(path, manifest)
            dataset = cls(path, manifest, _read_table(path / "items.parquet"), read_json(path / "statistics.json"))
            dataset._check()
        return dataset

    def _check(self) -> None:
        """Refuse a folder whose files contradict each other; columns of many items and users are not copied."""
        ids = self.items["item_id"]
        if ids.dtype != pl.String or ids.null_count() or ids.n_unique() != len(ids):
            raise ArtifactError(
                "items.parquet does not name the items",
                where=str(self.path),
                expected="item_id as text, every item once",
                fix="prepare the data set again",
            )
        if self.ties not in get_args(Ties):
            raise ArtifactError(
                f"ties: {self.ties!r} is not known",
                where=str(self.path),
                expected=f"one of {', '.join(get_args(Ties))}",
                fix="prepare the data set again, or use a newer version of genrec",
            )
        if self.split not in SPLITS or not isinstance(self.statistics, dict):
            raise ArtifactError(
                f"the split {self.split!r} is not known",
                where=str(self.path),
                expected=f"one of {', '.join(SPLITS)}, and statistics.json with their counts",
                fix="prepare the data set again",
            )
        check_histories(self._everything, self._train_end, self._valid_end, self.num_items)

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
        """What is known of the users besides their interactions; None where there is no such column."""
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
        users = _read_table(self.path / "users.parquet")
        if "user_id" not in users.columns or users.height != self.num_users:
            raise ArtifactError(
                f"users.parquet has {users.height} users, the histories {self.num_users}",
                where=str(self.path),
                expected="the column user_id, a row per history",
                fix="prepare the data set again",
            )
        return users["user_id"].to_list()

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
        """One text per item: its columns joined by ``". "``, missing ones skipped; see :mod:`genrec.data.texts`.

        Args:
            columns: Which columns, in this order; all text columns (not numbers, not ids) if None.

        Returns:
            N strings, empty where an item has no text.

        Raises:
            ConfigError: If a column does not exist.
        """
        if columns is None:
            columns = [name for name, dtype in self.items.schema.items() if name != "item_id" and is_text(dtype)]
        missing = [name for name in columns if name not in self.items.columns]
        if missing:
            raise ConfigError(
                f"the items have no column {missing[0]!r}", where=str(self.path), expected=", ".join(self.items.columns)
            )
        return row_texts(self.items, columns)

    def train(self) -> Histories:
        """The training part of every user who has one, oldest item first."""
        return self._leading(np.flatnonzero(self._train_end > 0), self._train_end)

    def full(self) -> Histories:
        """Everything known of every user, for lists that go into production; views of the mapped file."""
        return self._everything

    def evaluation(self, part: Literal["validation", "test"]) -> tuple[Histories, Histories]:
        """Histories and held-out targets of the users who have at least one of both, rows aligned.

        With ``ties: exclude`` the targets are alternatives (``any_of``), all later than everything in the history.

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
        return self._leading(rows, begin), replace(targets, any_of=self.ties == "exclude")

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
    titles = [pl.when(text_of(items, name) != "").then(text_of(items, name)) for name in named]
    return items.select(pl.coalesce(*titles, pl.col("item_id")).alias("title")).to_series()


def _read_profiles(path: Path) -> Profiles | None:
    try:
        known = len(scan_parquet(path).collect_schema()) > 1
    except (OSError, pl.exceptions.PolarsError):
        # Whoever asks for the users' names is told.
        return None
    return Profiles(_read_table(path)) if known else None


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(
            f"{path.name} cannot be read: {error}", where=str(path.parent), fix="prepare the data set again"
        ) from error
