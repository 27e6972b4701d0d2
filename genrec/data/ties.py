"""Ties: interactions of one user at one time, whose order the data do not tell.

Times are compared in whole seconds, as they are stored; unknown times are equal to nothing.
"""

import hashlib

import numpy as np
import polars as pl

from genrec.data.histories import Histories
from genrec.errors import DataError


def tied_with_previous(histories: Histories) -> np.ndarray:
    """Which interactions have the same known time as the one before them in their row, bool [total]."""
    tied = np.zeros(len(histories.items), dtype=bool)
    times = histories.timestamps
    if times is not None and len(tied):
        tied[1:] = (times[1:] == times[:-1]) & (times[1:] >= 0)
        starts = histories.offsets[:-1]
        tied[starts[starts < len(tied)]] = False
    return tied


def shuffled_positions(histories: Histories, user_ids: pl.Series, item_ids: pl.Series, seed: int) -> np.ndarray:
    """A new order of tied interactions; all others keep their places.

    Within a group of one user and time, interactions are sorted by a hash of seed, user id, time, item id and, where an
    item occurs several times in the group, its occurrence. The order of items is therefore a pure function of these:
    it depends neither on the order of the rows nor on other users, other items, the platform or the number of threads.

    Args:
        histories: All interactions of every user, each group of equal times together.
        user_ids: External id of every dense user, strings.
        item_ids: External id of every dense item, strings.
        seed: Another seed gives another order.

    Returns:
        int64 [total], the position in ``histories`` of the interaction that comes to each place.

    Raises:
        DataError: If no time is known.
    """
    if histories.timestamps is None:
        raise DataError(
            "no interaction has a timestamp: there are no ties to shuffle",
            expected="timestamps for ties: shuffle",
            fix="add timestamps, or use ties: file",
        )
    again = tied_with_previous(histories)
    in_group = again.copy()
    in_group[:-1] |= again[1:]
    places = np.flatnonzero(in_group)
    order = np.arange(len(again), dtype=np.int64)
    if not len(places):
        return order
    users = histories.users[np.repeat(np.arange(len(histories)), histories.lengths)[places]]
    items, groups = histories.items[places], np.cumsum(~again)[places]
    keys = np.full(len(places), seed, dtype=np.uint64)
    parts = (
        _hashes(users, user_ids),
        histories.timestamps[places].astype(np.uint64),
        _hashes(items, item_ids),
        _occurrences(groups, items).astype(np.uint64),
    )
    for part in parts:
        keys = _mixed(_mixed(keys) ^ part)
    order[places] = places[np.lexsort((keys, groups))]
    return order


def _hashes(numbers: np.ndarray, ids: pl.Series) -> np.ndarray:
    """A hash of the external id of every dense number, uint64 [n]."""
    present, where = np.unique(numbers, return_inverse=True)
    return np.array([_hash(text) for text in ids[present].to_list()], dtype=np.uint64)[where]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _occurrences(groups: np.ndarray, items: np.ndarray) -> np.ndarray:
    """How many earlier places of the same group have the same item, int64 [n]."""
    order = np.lexsort((items, groups))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(groups[order]) != 0) | (np.diff(items[order]) != 0)
    place = np.arange(len(order))
    counts = np.empty(len(order), dtype=np.int64)
    counts[order] = place - place[first][np.cumsum(first) - 1]
    return counts


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64 bits, uint64 [n]."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
