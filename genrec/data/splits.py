"""Which interactions stay, and where each user's history is cut into training, validation and test."""

import numpy as np

from genrec.config import DataConfig
from genrec.data.histories import Histories
from genrec.data.ties import tied_with_previous
from genrec.errors import DataError, first_rows


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Interactions left when users and items with fewer than ``k`` of them are dropped until none is left to drop.

    Args:
        users: int [E], dense user id of each interaction.
        items: int [E], dense item id of each interaction.
        k: Fewest interactions of a user and of an item; 0 and 1 keep everything.

    Returns:
        int64 [E'], positions kept, ascending.
    """
    kept = np.arange(len(users), dtype=np.int64)
    while k > 1 and len(kept):
        by_user, by_item = users[kept], items[kept]
        stays = (np.bincount(by_user) >= k)[by_user] & (np.bincount(by_item) >= k)[by_item]
        if stays.all():
            break
        kept = kept[stays]
    return kept


def split_ends(histories: Histories, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Where the training and the validation part of every history end.

    Args:
        histories: Everything known of each user, oldest first.
        config: ``split`` and its ratios.

    Returns:
        train_end and valid_end, int64 [R]: training is ``[:train_end]``, validation targets are
        ``[train_end:valid_end]``, test targets are ``[valid_end:]``.

    Raises:
        DataError: If timestamps disagree with ``order`` for a temporal split or ``ties: exclude``; if one is missing
            for a temporal split, or one of every user for ``ties: exclude``; if a temporal split leaves nothing for
            training.
    """
    lengths = histories.lengths
    if config.split == "temporal":
        return _temporal_ends(histories, config)
    if config.ties == "exclude":
        return _last_times(histories)
    held_valid, held_test = np.ones_like(lengths), np.ones_like(lengths)
    if config.split == "ratio":
        held_valid = np.maximum(np.floor(lengths * config.validation_ratio).astype(np.int64), 1)
        held_test = np.maximum(np.floor(lengths * config.test_ratio).astype(np.int64), 1)
    long_enough = lengths >= 3
    valid_end = np.where(long_enough, lengths - held_test, lengths)
    return np.where(long_enough, valid_end - held_valid, lengths), valid_end


def users_without_times(histories: Histories) -> np.ndarray:
    """Rows with an interaction whose time is unknown, int64: with ``ties: exclude`` they are for training only."""
    if histories.timestamps is None:
        return np.arange(len(histories))
    return np.unique(np.searchsorted(histories.offsets, np.flatnonzero(histories.timestamps < 0), side="right") - 1)


def _last_times(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Where the last two distinct times of every user begin; the end for users who are for training only."""
    untimed = users_without_times(histories)
    if len(untimed) == len(histories):
        raise DataError(
            "no user has a timestamp on every interaction",
            expected="timestamps for ties: exclude",
            fix="add timestamps, or use ties: file",
        )
    _check_ascending(histories, "ties: exclude", "use ties: file or shuffle")
    lengths = histories.lengths
    begins = np.flatnonzero(~tied_with_previous(histories))
    # How many distinct times the rows so far have: those of one row are the places in `begins` between two numbers.
    ends = np.searchsorted(begins, histories.offsets[1:])
    enough = np.diff(ends, prepend=0) >= 3
    enough[untimed] = False
    train_end, valid_end = lengths.copy(), lengths.copy()
    for part, back in ((train_end, 2), (valid_end, 1)):
        part[enough] = begins[ends[enough] - back] - histories.offsets[:-1][enough]
    return train_end, valid_end


def _check_ascending(histories: Histories, needed_for: str, instead: str) -> None:
    """Refuse times that go back within a user; unknown ones are passed over."""
    assert histories.timestamps is not None
    known = np.flatnonzero(histories.timestamps >= 0)
    row = np.repeat(np.arange(len(histories)), histories.lengths)[known]
    backwards = np.flatnonzero((np.diff(histories.timestamps[known]) < 0) & (np.diff(row) == 0))
    if len(backwards):
        raise DataError(
            f"'order' disagrees with 'timestamp' for {len(np.unique(row[backwards]))} users",
            where=f"interactions sorted by user and order, {first_rows((known[backwards + 1] + 1).tolist())}",
            expected=f"times that do not go back within a user for {needed_for}",
            fix=f"drop the column 'order', or {instead}",
        )


def _temporal_ends(histories: Histories, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    times = histories.timestamps
    unknown = len(histories.items) if times is None else int(np.count_nonzero(times < 0))
    if times is None or unknown:
        raise DataError(
            f"{unknown} of {len(histories.items)} interactions have no timestamp",
            expected="a timestamp on every interaction for split: temporal",
            fix="add timestamps, or use split: leave-one-out or ratio",
        )
    _check_ascending(histories, "split: temporal", "use split: leave-one-out or ratio")
    row = np.repeat(np.arange(len(histories)), histories.lengths)
    ranked = np.sort(times)
    last = len(ranked) - 1
    first_valid = ranked[min(int(len(ranked) * (1 - config.validation_ratio - config.test_ratio)), last)]
    first_test = ranked[min(int(len(ranked) * (1 - config.test_ratio)), last)]
    train_end = np.bincount(row[times < first_valid], minlength=len(histories))
    valid_end = np.bincount(row[times < first_test], minlength=len(histories))
    if not train_end.any():
        raise DataError(
            "the temporal split leaves no interaction for training",
            where=f"timestamps run from {ranked[0]} to {ranked[-1]}",
            expected=f"interactions before {first_valid}, where validation begins",
            fix="use split: leave-one-out or ratio, or smaller validation_ratio and test_ratio",
        )
    return train_end.astype(np.int64), valid_end.astype(np.int64)
