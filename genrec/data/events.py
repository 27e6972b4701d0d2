"""Interactions as arrays of dense ids: matched with the catalogue, filtered, put in sequence.

Ids come as categories, so that an event costs eight bytes for both, however long they are; they become text again a
piece at a time when they are written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from genrec.data.account import CORE, EXAMPLES, IDS, UNKNOWN_ITEMS, TableAccount, examples_of
from genrec.data.histories import Histories
from genrec.data.splits import k_core
from genrec.data.ties import shuffled_positions
from genrec.errors import DataError

# Rows of a group of the Parquet files that polars writes.
PIECE_ROWS = 122_880


@dataclass(frozen=True)
class Events:
    """Interactions of E rows.

    Attributes:
        columns: ``timestamp`` and all further columns of the interactions, E rows.
        users: int [E], position in ``user_ids`` of each interaction.
        items: int [E], row in ``catalogue`` of each interaction.
        user_ids: External ids of the users, strings.
        catalogue: The items; column ``item_id`` and others.
    """

    columns: pl.DataFrame
    users: np.ndarray
    items: np.ndarray
    user_ids: pl.Series
    catalogue: pl.DataFrame

    def __len__(self) -> int:
        return len(self.users)

    def table(self) -> pl.LazyFrame:
        """The interactions with external ids and all their columns; text is made while rows are read."""
        schema = dict.fromkeys(IDS, pl.String()) | dict(self.columns.schema)

        def read(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, size: int | None
        ) -> Iterator[pl.DataFrame]:
            for piece in self._pieces():
                wanted = piece if predicate is None else piece.filter(predicate)
                yield wanted if columns is None else wanted.select(columns)

        return register_io_source(read, schema=schema)

    def _pieces(self) -> Iterator[pl.DataFrame]:
        """Pieces alike in size, the longer ones first: the groups into which polars cuts a table in memory."""
        item_ids, count = self.catalogue["item_id"], max(round(len(self) / PIECE_ROWS), 1)
        size, longer = divmod(len(self), count)
        bounds = [number * size + min(number, longer) for number in range(count + 1)]
        for start, end in pairwise(bounds):
            users, items = self.user_ids[self.users[start:end]], item_ids[self.items[start:end]]
            yield pl.DataFrame([users.alias("user_id"), items.alias("item_id"), *self.columns[start:end]])


def as_categories(frame: pl.DataFrame) -> pl.DataFrame:
    """Interactions whose ids are categories, if they are not yet."""
    texts = [name for name in IDS if frame.schema[name] == pl.String]
    return frame.with_columns(pl.col(name).cast(pl.Categorical(pl.Categories.random())) for name in texts)


def match_items(
    frame: pl.DataFrame,
    catalogue: pl.DataFrame | None,
    unknown: Literal["error", "drop", "keep"],
    where: tuple[str, str],
    account: TableAccount,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make every interaction's item a row of the catalogue.

    Without a catalogue, items are those of the interactions, sorted, so that their numbers do not depend on who
    took them when.

    Args:
        frame: Checked interactions, their ids as categories.
        catalogue: Checked items, or None.
        unknown: What to do with interactions whose item the catalogue lacks.
        where: What error messages call the interactions and the items.
        account: Of the interactions; takes those that are dropped, or a note on those that are kept.

    Raises:
        DataError: If items are unknown and ``unknown`` is ``error``; if there are fewer than two items.
    """
    names = frame["item_id"].unique().cast(pl.String).sort()
    if catalogue is None:
        return frame, pl.DataFrame({"item_id": names})
    missing = names.filter(~names.is_in(catalogue["item_id"].implode()))
    if not len(missing):
        return frame, catalogue
    known = ~frame["item_id"].is_in(missing.cast(frame.schema["item_id"]).implode())
    if unknown == "error":
        _refuse_unknown(frame, known, missing, where)
    rows = int((~known).sum())
    if unknown == "keep":
        account.note(f"{rows} interactions with {len(missing)} unknown items: kept, without text")
        return frame, pl.concat([catalogue, pl.DataFrame({"item_id": missing})], how="diagonal")
    if not known.any():
        raise DataError("no interaction has an item of the items table", where=" and ".join(where))
    account.note(f"{rows} interactions with {len(missing)} unknown items: dropped")
    account.leave_out(UNKNOWN_ITEMS, rows, examples_of(frame.filter(~known).select(IDS)))
    return frame.filter(known), catalogue


def encode(frame: pl.DataFrame, catalogue: pl.DataFrame) -> Events:
    """Number users in sorted order and items by their rows in the catalogue."""
    user_ids = frame["user_id"].unique().cast(pl.String).sort()
    users, items = _codes(frame["user_id"], user_ids), _codes(frame["item_id"], catalogue["item_id"])
    return Events(frame.drop(IDS), users, items, user_ids, catalogue)


def keep_core(events: Events, k: int, where: str, account: TableAccount) -> Events:
    """Drop users and items with fewer than ``k`` interactions until all have as many; 0 keeps the whole catalogue.

    Args:
        events: Matched with the catalogue.
        k: Fewest interactions.
        where: What error messages call the interactions.
        account: Of the interactions; takes those that are dropped.

    Raises:
        DataError: If fewer than two items are left.
    """
    if k:
        kept = k_core(events.users, events.items, k)
        account.leave_out(CORE, len(events) - len(kept), _examples(events, kept))
        users, user_rows = _renumbered(events.users[kept], len(events.user_ids))
        items, item_rows = _renumbered(events.items[kept], events.catalogue.height)
        columns = events.columns if len(kept) == len(events) else events.columns[kept]
        events = Events(columns, users, items, events.user_ids[user_rows], events.catalogue[item_rows])
    left = events.catalogue.height
    if left < 2:
        raise DataError(
            "the catalogue has one item" if left else f"no interaction is left after the {k}-core filter",
            where=where,
            expected=f"at least two items with at least {max(k, 1)} interactions" if k > 1 else "at least two items",
            fix=f"lower data.k_core (now {k})" if k > 1 else "add interactions with other items",
        )
    return events


def in_sequence(events: Events, ties_seed: int | None = None) -> tuple[Histories, Events]:
    """Sort by user, then by ``order``, then by time (unknown times first), then as the rows are given.

    Args:
        events: In any order.
        ties_seed: If given, interactions of a user at one time are put into an order drawn by it; ``order`` then says
            the new positions.

    Raises:
        DataError: If ``ties_seed`` is given and no time is known.
    """
    times = events.columns["timestamp"].fill_null(-1).to_numpy()
    if "order" in events.columns.columns:
        rows = np.lexsort((times, events.columns["order"].to_numpy(), events.users))
    else:
        rows = _sorted_rows(events.users, times)
    events, times = _taken(events, rows), times[rows]
    offsets = np.zeros(len(events.user_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(events.users, minlength=len(events.user_ids)), out=offsets[1:])
    histories = Histories(
        users=np.arange(len(events.user_ids), dtype=np.int64),
        offsets=offsets,
        items=events.items.astype(np.int32, copy=False),
        timestamps=times if (times >= 0).any() else None,
    )
    if ties_seed is None:
        return histories, events
    rows = shuffled_positions(histories, events.user_ids, events.catalogue["item_id"], ties_seed)
    shuffled = _taken(events, rows)
    if "order" in events.columns.columns:
        shuffled = replace(shuffled, columns=shuffled.columns.with_columns(events.columns["order"]))
    return replace(histories, items=histories.items[rows]), shuffled


def note_order(events: Events, account: TableAccount) -> None:
    """Note users whose positions repeat or go against their times, as counters that begin again every day do.

    Args:
        events: In sequence.
        account: Of the interactions; takes the note.
    """
    if "order" not in events.columns.columns:
        return
    order, times = (events.columns[name].fill_null(-1).to_numpy() for name in ("order", "timestamp"))
    same = np.diff(events.users) == 0
    again = same & (np.diff(order) == 0)
    back = same & (np.diff(times) < 0) & (times[1:] >= 0)
    repeating, contrary = (len(np.unique(events.users[1:][found])) for found in (again, back))
    if repeating or contrary:
        account.note(
            f"order has a position twice for {repeating} and goes against the times for {contrary} of "
            f"{len(events.user_ids)} users; it has the last word, so drop it if it is no position in the whole history"
        )


def _taken(events: Events, rows: np.ndarray) -> Events:
    """The given rows, in the order given."""
    return replace(events, columns=events.columns[rows], users=events.users[rows], items=events.items[rows])


def _examples(events: Events, kept: np.ndarray) -> list[str]:
    """The first events that are not kept, as text."""
    dropped = np.ones(len(events), dtype=bool)
    dropped[kept] = False
    few = np.flatnonzero(dropped)[:EXAMPLES]
    names = [events.user_ids[events.users[few]], events.catalogue["item_id"][events.items[few]]]
    return examples_of(pl.DataFrame([name.alias(column) for name, column in zip(names, IDS, strict=True)]))


def _codes(values: pl.Series, names: pl.Series) -> np.ndarray:
    """The position in ``names`` of each category, int32; looked up once per category."""
    present = values.unique()
    categories = present.to_physical().to_numpy()
    numbers = np.zeros(int(categories.max()) + 1, dtype=np.int32)
    numbers[categories] = present.cast(pl.String).cast(pl.Enum(names)).to_physical().to_numpy()
    return numbers[values.to_physical().to_numpy()]


def _sorted_rows(users: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Rows by user, then key, then position."""
    if not len(users):
        return np.empty(0, dtype=np.int64)
    low, high = int(key.min()), int(key.max())
    if (int(users.max()) + 1) * (high - low + 1) < 2**63:
        # One sort of both in one number takes half the time of two.
        both = users.astype(np.int64)
        both *= high - low + 1
        both += key
        both -= low
        return np.argsort(both, kind="stable")
    return np.lexsort((key, users))


def _renumbered(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes without gaps, and the old code of each new one."""
    present = np.bincount(codes, minlength=size) > 0
    return (np.cumsum(present, dtype=np.int32) - np.int32(1))[codes], np.flatnonzero(present)


def _refuse_unknown(frame: pl.DataFrame, known: pl.Series, missing: pl.Series, where: tuple[str, str]) -> None:
    names = ", ".join(repr(name) for name in missing[:5])
    rows = (~known).arg_true()[:5] + 1
    raise DataError(
        f"{len(missing)} items of the interactions are not in the items table: {names}"
        + (", ..." if len(missing) > 5 else ""),
        where=f"{where[0]}, rows {', '.join(str(row) for row in rows)}"
        f"{', ...' if (~known).sum() > 5 else ''} ({(~known).sum()} in all); items in {where[1]}",
        expected="a row in the items table for every item_id",
        fix="add the items, or set data.unknown_items to drop (their interactions) or keep (without text)",
    )
