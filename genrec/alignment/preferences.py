"""Preferences in one schema, whatever they come from: a history, what was preferred, what was not, how much it counts.

On disk a Parquet table with external ids: ``history`` (list of strings, oldest first), ``chosen`` (string),
``rejected`` (list of strings), ``weight``, ``source``. A row may lack one side where feedback is unpaired (KTO). Where
whole lists were compared, ``chosen`` is a list of strings and ``rejected`` a list of such lists.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.artifacts import write_file
from genrec.data.arrow import write_parquet
from genrec.data.histories import Histories
from genrec.data.ids import tidy_ids
from genrec.data.readers import read_table
from genrec.errors import DataError, first_rows

REQUIRED = ("history", "chosen", "rejected")
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "history": pl.List(pl.String),
    "chosen": pl.String,
    "rejected": pl.List(pl.String),
    "weight": pl.Float32,
    "source": pl.String,
}
# The sides where whole lists were compared.
LIST_SIDES: dict[str, pl.DataType | type[pl.DataType]] = {
    "chosen": pl.List(pl.String),
    "rejected": pl.List(pl.List(pl.String)),
}


@dataclass(frozen=True, eq=False)
class Preferences:
    """P rows in dense ids.

    Attributes:
        histories: P rows; ``users`` says whose they are (the row's number where that is not known).
        chosen: int64 ``[P]``; -1 where a row only says what was bad. Lists of m items are ``[P, m]``.
        rejected: int64 ``[P, C]``; -1 fills, and is used alone where a row only says what was good; or ``[P, C, m]``.
        weights: float32 ``[P]``.
        source: What the rows come from.
    """

    histories: Histories
    chosen: np.ndarray
    rejected: np.ndarray
    weights: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def candidates(self) -> np.ndarray:
        """Chosen items, then the rejected ones: int64 ``[P, 1 + C]``, or lists ``[P, 1 + C, m]``; -1 = none."""
        return np.concatenate([self.chosen[:, None], self.rejected], axis=1)

    @property
    def present(self) -> np.ndarray:
        """bool ``[P, 1 + C]``: where there is a candidate."""
        candidates = self.candidates
        return (candidates if candidates.ndim == 2 else candidates[..., 0]) >= 0

    @property
    def paired(self) -> np.ndarray:
        """bool ``[P]``: rows with both sides."""
        there = self.present
        return there[:, 0] & there[:, 1:].any(axis=1)

    def select(self, rows: np.ndarray) -> "Preferences":
        """Some rows, by number or mask."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        return Preferences(
            self.histories.select(rows), self.chosen[rows], self.rejected[rows], self.weights[rows], self.source
        )

    def split_users(self, share: float, seed: int) -> tuple["Preferences", "Preferences"]:
        """Rows to learn from, and the rows of a share of the users (at least one, never all) that only measure."""
        users = np.unique(self.histories.users)
        if len(users) < 2:
            raise DataError(
                f"the preferences are those of {len(users)} users",
                expected="at least two users: some learn, some measure",
                fix="widen alignment.pairs (good, bad, horizon), or give more interactions",
            )
        count = min(max(1, round(share * len(users))), len(users) - 1)
        held = np.isin(self.histories.users, np.random.default_rng(seed).permutation(users)[:count])
        return self.select(~held), self.select(held)

    def save(self, path: Path, item_ids: Sequence[str]) -> None:
        """Write the Parquet table.

        Raises:
            ArtifactError: If the place cannot be written or the disk is full.
        """
        names = np.asarray(item_ids, dtype=object)
        lists = self.chosen.ndim == 2

        def named(items: np.ndarray) -> list[str]:
            return list(names[items[items >= 0]])

        columns = {
            "history": [named(self.histories[row]) for row in range(len(self))],
            "chosen": [(named(row) if lists else names[row]) if there else None for row, there in self._chosen_rows()],
            "rejected": [
                [named(part) for part in row if part[0] >= 0] if lists else named(row) for row in self.rejected
            ],
            "weight": self.weights.tolist(),
            "source": [self.source] * len(self),
        }
        with write_file(path) as temporary:
            write_parquet(pl.DataFrame(columns, schema=SCHEMA | (LIST_SIDES if lists else {})), temporary)

    def _chosen_rows(self) -> Iterator[tuple[Any, bool]]:
        return zip(self.chosen, self.present[:, 0].tolist(), strict=True)

    @classmethod
    def load(cls, path: Path, item_ids: Sequence[str]) -> "Preferences":
        """Read a table of preferences and check every row.

        Args:
            path: Parquet, or JSON lines, with the columns of the schema; ``weight`` (1) and ``source`` may be missing.
            item_ids: External id of every dense item.

        Raises:
            DataError: If a column is missing, an item is unknown, a history is empty, both sides name one item, a row
                has no side, or a weight is not a positive number; naming the rows.
        """
        frame = read_table(path, "interactions")
        _require_columns(frame, path)
        names = [name for name in ("history", "chosen", "rejected") if name in frame.columns]
        frame = frame.with_columns(tidy_ids(frame[name], str(path)) for name in names)
        whole = isinstance(frame.schema["chosen"], pl.List)
        kinds = SCHEMA | (LIST_SIDES if whole else {})
        frame = frame.select(
            pl.col("history").cast(kinds["history"]).fill_null([]),
            pl.col("chosen").cast(kinds["chosen"]),
            pl.col("rejected").cast(kinds["rejected"]).fill_null([]),
            (pl.col("weight").cast(pl.Float32) if "weight" in frame.columns else pl.lit(1.0, pl.Float32)).alias(
                "weight"
            ),
        )
        _refuse(frame["history"].list.len() == 0, "the history is empty", path, "at least one item before the choice")
        numbers = {name: number for number, name in enumerate(item_ids)}
        histories = _dense_lists(frame["history"], numbers, path)
        sides = _lists_of(frame, numbers, path) if whole else _items_of(frame, numbers, path)
        preferences = cls(
            Histories.from_lists(histories),
            *sides,
            frame["weight"].to_numpy(),
            str(path),
        )
        preferences.check(path)
        return preferences

    def check(self, where: str | Path) -> None:
        """Refuse rows that say nothing or contradict themselves.

        Raises:
            DataError: See :meth:`load`.
        """
        nothing = np.logical_not(self.present.any(axis=1))
        _refuse(nothing, "a row has neither a chosen nor a rejected item", where, "at least one of them")
        same = self.rejected == self.chosen[:, None]
        same = same if same.ndim == 2 else same.all(axis=2)
        equal = (same & self.present[:, :1] & self.present[:, 1:]).any(axis=1)
        what = "item" if self.chosen.ndim == 1 else "list"
        _refuse(equal, f"the chosen {what} is among the rejected ones", where, "two sides that differ")
        wrong = ~(np.isfinite(self.weights) & (self.weights > 0))
        _refuse(wrong, "the weight is not a positive number", where, "weights above 0")


def nearest_column(name: str, columns: Sequence[str]) -> str:
    """The column that may have been meant, or an empty text."""
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
    return close[0] if close else ""


def _require_columns(frame: pl.DataFrame, path: Path) -> None:
    for name in REQUIRED:
        if name not in frame.columns:
            nearest = nearest_column(name, frame.columns)
            raise DataError(
                f"the preferences have no column {name!r}" + (f"; the nearest is {nearest!r}" if nearest else ""),
                where=str(path),
                expected=f"columns {', '.join(SCHEMA)}; found {', '.join(frame.columns)}",
                fix="rename the column",
            )
    for name in ("history", "rejected"):
        if not isinstance(frame.schema[name], pl.List):
            raise DataError(
                f"the column {name} is {frame.schema[name]}",
                where=str(path),
                expected="a list of item ids in every row",
                fix="write it as a list, as in Parquet or JSON lines",
            )
    if frame.height == 0:
        raise DataError("there are no preferences", where=str(path), expected="at least one row", fix="check the file")


def _dense_lists(lists: pl.Series, numbers: dict[str, int], path: Path) -> list[list[int]]:
    dense = [[numbers.get(name, -1) for name in row] for row in lists.to_list()]
    unknown = [row for row, items in enumerate(dense) if -1 in items]
    if unknown:
        name = lists[unknown[0]][dense[unknown[0]].index(-1)]
        raise DataError(
            f"the item {name!r} is not in the catalogue",
            where=f"{path}, {first_rows([row + 1 for row in unknown])}, column {lists.name}",
            expected="items of the data set that the model was trained on",
            fix="remove these rows, or train on a catalogue that has these items",
        )
    return dense


def _items_of(frame: pl.DataFrame, numbers: dict[str, int], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Chosen ``[P]`` and rejected ``[P, C]`` items."""
    chosen = _dense_lists(frame.select(pl.concat_list("chosen").list.drop_nulls())["chosen"], numbers, path)
    rejected = _padded(_dense_lists(frame["rejected"], numbers, path))
    return np.array([row[0] if row else -1 for row in chosen], dtype=np.int64), rejected


def _lists_of(frame: pl.DataFrame, numbers: dict[str, int], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Chosen ``[P, m]`` and rejected ``[P, C, m]`` lists."""
    chosen = _dense_lists(frame["chosen"].fill_null([]), numbers, path)
    counts = frame["rejected"].list.len().to_list()
    parts = [part for row in frame["rejected"].to_list() for part in row]
    rejected = _dense_lists(pl.Series("rejected", parts, dtype=pl.List(pl.String)), numbers, path)
    flat = _padded([*chosen, *rejected])
    sides = np.full((len(chosen), max(max(counts, default=1), 1), flat.shape[1]), -1, dtype=np.int64)
    row = np.repeat(np.arange(len(chosen)), counts)
    sides[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = flat[len(chosen) :]
    return flat[: len(chosen)], sides


def _padded(lists: list[list[int]]) -> np.ndarray:
    block = np.full((len(lists), max((len(row) for row in lists), default=1) or 1), -1, dtype=np.int64)
    for row, items in enumerate(lists):
        block[row, : len(items)] = items
    return block


def _refuse(bad: pl.Series | np.ndarray, what: str, where: str | Path, expected: str) -> None:
    rows = np.flatnonzero(np.asarray(bad))
    if len(rows):
        raise DataError(
            what,
            where=f"{where}, {first_rows((rows + 1).tolist())}",
            expected=expected,
            fix="correct these rows, or remove them",
        )
