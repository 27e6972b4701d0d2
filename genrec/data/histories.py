"""User histories as two flat arrays, the way they lie in the Arrow file: no Python object per user."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from genrec.data.profiles import Profiles


@dataclass(frozen=True, eq=False)
class Histories:
    """Item sequences of R rows (one per user), oldest item first.

    Attributes:
        users: int64 [R], dense user id of each row.
        offsets: int64 [R+1], row r holds positions ``offsets[r]:offsets[r+1]``.
        items: int32 [total], dense item ids; may be a read-only view of a memory-mapped file.
        timestamps: int64 [total] in seconds, -1 where unknown; None where the data have no timestamps at all.
        profiles: What is known of the dense users besides their items; None where nothing is.
        any_of: Of held-out items: those of a row are alternatives, and any one of them is the row's target.
    """

    users: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    profiles: Profiles | None = None
    any_of: bool = False

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, row: int) -> np.ndarray:
        """Items of one row, int32 [length], a view; negative rows count from the end."""
        row = range(len(self))[row]
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of items per row, int64 [R]."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> "Histories":
        """The given rows (integers or a mask), in the order given, copied together."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return self.slice(self.users[rows], self.offsets[rows], self.lengths[rows])

    def slice(self, users: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "Histories":
        """Any contiguous pieces of the flat arrays as new rows.

        Args:
            users: int64 [R'], dense user id of each new row.
            starts: int64 [R'], first position of each piece.
            lengths: int64 [R'], positions in each piece; 0 is allowed.
        """
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        positions = np.repeat(starts - offsets[:-1], lengths)
        positions += np.arange(offsets[-1], dtype=np.int64)
        timestamps = None if self.timestamps is None else self.timestamps[positions]
        users = np.asarray(users, dtype=np.int64)
        return replace(self, users=users, offsets=offsets, items=self.items[positions], timestamps=timestamps)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> "Histories":
        """Histories without timestamps from lists of dense item ids; row r is user r."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(items) for items in lists], out=offsets[1:])
        flat = np.fromiter((item for items in lists for item in items), dtype=np.int32, count=int(offsets[-1]))
        return cls(np.arange(len(lists), dtype=np.int64), offsets, flat)


def pad_histories(histories: Histories, rows: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """The last ``max_history`` items of some rows as a right-padded block.

    Args:
        histories: Where the rows are.
        rows: int [B], row numbers.
        max_history: Most items kept per row, at least 1.

    Returns:
        Items int64 [B, T], 0 where padded, T the longest row of the batch (at least 1); lengths int64 [B].
    """
    positions, real, lengths = _last_positions(histories, rows, max_history)
    items = np.zeros(real.shape, dtype=np.int64)
    items[real] = histories.items[positions[real]]
    return items, lengths


def pad_time_deltas(histories: Histories, rows: np.ndarray, max_history: int) -> np.ndarray:
    """Seconds from the item before to each item of the block that :func:`pad_histories` gives.

    Args:
        histories: Where the rows are.
        rows: int [B], row numbers.
        max_history: Most items kept per row, at least 1.

    Returns:
        int64 [B, T]; -1 where there is no item before it in the block, where one of both times is unknown, and where
        they contradict the order of the items.
    """
    positions, real, _ = _last_positions(histories, rows, max_history)
    time_deltas = np.full(real.shape, -1, dtype=np.int64)
    if histories.timestamps is not None:
        real[:, 0] = False
        after = positions[real]
        before, now = histories.timestamps[after - 1], histories.timestamps[after]
        time_deltas[real] = np.where((before >= 0) & (now >= before), now - before, -1)
    return time_deltas


def _last_positions(
    histories: Histories, rows: np.ndarray, max_history: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [B, T] of the last items of some rows, which of them are real, and how many of each row."""
    rows = np.asarray(rows, dtype=np.int64)
    ends = histories.offsets[rows + 1]
    lengths = np.minimum(ends - histories.offsets[rows], max_history)
    steps = np.arange(max(int(lengths.max(initial=0)), 1), dtype=np.int64)
    return (ends - lengths)[:, None] + steps, steps < lengths[:, None], lengths
