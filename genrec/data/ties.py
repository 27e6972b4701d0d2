"""Ties: interactions of one user at one time, whose order the data do not tell.

How many there are, whether the order of the file within them is that of the item ids, and another order.

Times are compared in whole seconds, as they are stored; unknown times are equal to nothing.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy.special import erfc

from genrec.data.histories import Histories
from genrec.errors import DataError

NO_TIMES = "no times"
# Within ties the order follows the ids if chance deviates as much once in a thousand, and by so many points from half.
CHANCE, DEVIATION = 0.001, 0.05


def tied_with_previous(histories: Histories) -> np.ndarray:
    """Which interactions have the same known time as the one before them in their row, bool [total]."""
    tied = np.zeros(len(histories.items), dtype=bool)
    times = histories.timestamps
    if times is not None and len(tied):
        tied[1:] = (times[1:] == times[:-1]) & (times[1:] >= 0)
        starts = histories.offsets[:-1]
        tied[starts[starts < len(tied)]] = False
    return tied


def tied_with_history(histories: Histories, targets: Histories) -> np.ndarray:
    """Which held-out items have the time of the last item of their user's history.

    Args:
        histories: R rows, none of them empty.
        targets: R rows.

    Returns:
        int8 [total of targets]: 1 where the times are equal, 0 where they differ, -1 where one of them is unknown.
    """
    if histories.timestamps is None or targets.timestamps is None:
        return np.full(len(targets.items), -1, dtype=np.int8)
    last = np.repeat(histories.timestamps[histories.offsets[1:] - 1], targets.lengths)
    equal = (last == targets.timestamps).astype(np.int8)
    return np.where((last >= 0) & (targets.timestamps >= 0), equal, np.int8(-1))


def tie_statistics(
    histories: Histories, train_end: np.ndarray, valid_end: np.ndarray, item_ids: pl.Series
) -> dict[str, Any]:
    """Count ties, and compare the order within them with that of the item ids.

    A pair is two consecutive interactions of a user with known times. If the order within a group of n different items
    at one time is drawn at random, (n - 1) / 2 of its pairs ascend, with a variance of (n + 1) / 12 (the Eulerian
    distribution); sums over groups are near enough to normal for ``p_value``. Groups that have an item twice are left
    out of ``ascending``, ``p_value`` and ``follows_ids``.

    Args:
        histories: Everything known of each user.
        train_end: int64 [R], end of the training part of each row.
        valid_end: int64 [R], end of the validation part of each row.
        item_ids: External id of every dense item, strings.

    Returns:
        ``pairs``, and ``tied_pairs`` as a share of them; ``tied_validation_targets`` and ``tied_test_targets``, the
        share that has the time of the last item of the history; ``ascending``, the share of tied pairs whose ids
        ascend; ``p_value``, the two-sided probability of a share as far from half; ``ids_compared_as``, ``numbers`` if
        all ids are whole numbers, else ``text`` (by code points); ``follows_ids``, ``ascending`` or ``descending`` if
        ``p_value`` is below 0.001 and the share is at least 5 points from half, else ``no``. Shares of nothing are
        null. Without times: ``pairs`` 0 and the ``note`` "no times".
    """
    times = histories.timestamps
    if times is None:
        return {"pairs": 0, "note": NO_TIMES}
    tied = tied_with_previous(histories)
    known = times >= 0
    known[1:] &= times[:-1] >= 0
    known[histories.offsets[:-1][histories.lengths > 0]] = False
    pairs = int(known.sum())
    return {
        "pairs": pairs,
        "tied_pairs": _share(int(tied.sum()), pairs),
        "tied_validation_targets": _tied_targets(histories, train_end, valid_end),
        "tied_test_targets": _tied_targets(histories, valid_end, histories.lengths),
        **_direction(histories, tied, item_ids),
    }


def ties_in_words(statistics: Mapping[str, Any]) -> str:
    """The numbers of :func:`tie_statistics` as a sentence; empty for data sets that were prepared without them."""
    pairs, targets = statistics.get("tied_pairs"), statistics.get("tied_test_targets")
    if "note" in statistics or not statistics:
        return str(statistics.get("note", ""))
    parts = [] if pairs is None else [f"{pairs:.1%} of consecutive interactions of a user have the same time"]
    if targets is not None:
        parts.append(f"{targets:.1%} of test targets have the time of the last item of the history")
    if statistics.get("ascending") is not None:
        parts.append(f"within one time the item ids ascend in {statistics['ascending']:.1%} of pairs (chance: 50%)")
    return "; ".join(parts)


def orders_by_ids(statistics: Mapping[str, Any]) -> bool:
    """Whether the order within one time follows the item ids."""
    return statistics.get("follows_ids", "no") != "no"


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
    places, groups = _tied_groups(tied_with_previous(histories))
    order = np.arange(len(histories.items), dtype=np.int64)
    users = histories.users[np.searchsorted(histories.offsets, places, side="right") - 1]
    items = histories.items[places]
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


def _tied_targets(histories: Histories, begin: np.ndarray, end: np.ndarray) -> float | None:
    rows = np.flatnonzero((begin > 0) & (end > begin))
    starts = histories.offsets[rows] + begin[rows]
    lasts = histories.slice(rows, starts - 1, np.ones_like(starts))
    tied = tied_with_history(lasts, histories.slice(rows, starts, (end - begin)[rows]))
    return _share(int((tied == 1).sum()), int((tied >= 0).sum()))


def _direction(histories: Histories, tied: np.ndarray, item_ids: pl.Series) -> dict[str, Any]:
    """Shares of tied pairs whose ids ascend, and how probable they are by chance."""
    ranks, compared_as = _ranks(item_ids)
    places, groups = _tied_groups(tied)
    items = histories.items[places]
    repeating = np.zeros(len(places) + 1, dtype=bool)
    repeating[groups[_occurrences(groups, items) > 0]] = True
    compared = np.flatnonzero(tied[places] & ~repeating[groups])
    ascending = int((ranks[items[compared]] > ranks[items[compared - 1]]).sum())
    sizes = np.bincount(groups[compared]) + 1
    deviation = float(np.sqrt((sizes[sizes > 1] + 1).sum() / 12))
    p_value = float(erfc(abs(ascending - len(compared) / 2) / deviation / np.sqrt(2))) if deviation else None
    share = _share(ascending, len(compared))
    follows = "no"
    if share is not None and p_value is not None and p_value < CHANCE and abs(share - 0.5) >= DEVIATION:
        follows = "ascending" if share > 0.5 else "descending"
    return {"ascending": share, "p_value": p_value, "ids_compared_as": compared_as, "follows_ids": follows}


def _tied_groups(tied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all tied interactions, ascending, and the number of the group of each, from 1; both int64 [n].

    Args:
        tied: As from :func:`tied_with_previous`.
    """
    in_group = tied.copy()
    in_group[:-1] |= tied[1:]
    places = np.flatnonzero(in_group)
    return places, np.cumsum(~tied[places])


def _ranks(item_ids: pl.Series) -> tuple[np.ndarray, str]:
    """The place of every item among the sorted ids, int64 [N], and what they were compared as."""
    numbers = item_ids.set(~item_ids.str.contains(r"^[+-]?[0-9]+$"), None).cast(pl.Int64, strict=False)
    whole = numbers.null_count() == 0 and numbers.n_unique() == len(numbers)
    values = numbers if whole else item_ids
    return values.rank("ordinal").cast(pl.Int64).to_numpy(), "numbers" if whole else "text"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
