"""Filters and splits against slow and obvious versions of themselves."""

from collections import Counter

import numpy as np
import pytest

from genrec.config import DataConfig
from genrec.data import Histories
from genrec.data.splits import k_core, split_ends
from genrec.errors import DataError


def slow_k_core(pairs: list[tuple[int, int]], k: int) -> list[int]:
    kept = list(range(len(pairs)))
    while True:
        users, items = Counter(pairs[e][0] for e in kept), Counter(pairs[e][1] for e in kept)
        fewer = [e for e in kept if users[pairs[e][0]] >= k and items[pairs[e][1]] >= k]
        if fewer == kept:
            return kept
        kept = fewer


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [0, 1, 2, 3, 5])
def test_k_core_is_the_fixed_point(seed, k):
    random = np.random.default_rng(seed)
    users, items = random.integers(0, 15, 60), random.zipf(1.6, 60) % 15
    kept = k_core(users, items, k)
    assert kept.tolist() == slow_k_core(list(zip(users.tolist(), items.tolist(), strict=True)), k)


def test_k_core_follows_a_chain_to_its_end():
    # Dropping the end of a path leaves a new end each time, until nothing is left.
    users, items = np.array([0, 1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 2, 2])
    assert k_core(users, items, 2).tolist() == []


def ends(lengths: list[int], **settings) -> tuple[list[int], list[int]]:
    histories = Histories.from_lists([list(range(length)) for length in lengths])
    train_end, valid_end = split_ends(histories, DataConfig(**settings))
    return train_end.tolist(), valid_end.tolist()


def test_leave_one_out_holds_out_two_of_users_with_three():
    assert ends([1, 2, 3, 7]) == ([1, 2, 1, 5], [1, 2, 2, 6])


def test_ratio_holds_out_a_share_but_at_least_one():
    train_end, valid_end = ends([2, 3, 10, 40], split="ratio", validation_ratio=0.1, test_ratio=0.25)
    assert train_end == [2, 1, 7, 26]
    assert valid_end == [2, 2, 8, 30]


@pytest.mark.parametrize("length", range(3, 40))
def test_ratio_always_leaves_something_to_train_on(length):
    (train_end,), (valid_end,) = ends([length], split="ratio", validation_ratio=0.49, test_ratio=0.49)
    assert 1 <= train_end < valid_end < length


def timed(times: list[list[int]]) -> Histories:
    plain = Histories.from_lists([list(range(len(row))) for row in times])
    flat = np.array([time for row in times for time in row], dtype=np.int64)
    return Histories(plain.users, plain.offsets, plain.items, flat)


def test_temporal_cuts_all_users_at_the_same_two_moments():
    random = np.random.default_rng(3)
    times = [sorted(random.integers(0, 1000, random.integers(1, 30)).tolist()) for _ in range(50)]
    histories = timed(times)
    train_end, valid_end = split_ends(histories, DataConfig(split="temporal", validation_ratio=0.2, test_ratio=0.1))
    train = [t for row, end in zip(times, train_end, strict=True) for t in row[:end]]
    valid = [t for row, a, b in zip(times, train_end, valid_end, strict=True) for t in row[a:b]]
    test = [t for row, end in zip(times, valid_end, strict=True) for t in row[end:]]
    assert max(train) < min(valid) <= max(valid) < min(test)
    total = len(train) + len(valid) + len(test)
    assert total == len(histories.items)
    assert len(test) / total == pytest.approx(0.1, abs=0.02)
    assert len(valid) / total == pytest.approx(0.2, abs=0.02)


def test_temporal_needs_every_timestamp():
    with pytest.raises(DataError, match=r"2 of 4 interactions have no timestamp[\s\S]*split: leave-one-out"):
        split_ends(timed([[-1, 5], [-1, 9]]), DataConfig(split="temporal"))
    with pytest.raises(DataError, match="3 of 3 interactions have no timestamp"):
        split_ends(Histories.from_lists([[1, 2, 3]]), DataConfig(split="temporal"))


def test_temporal_refuses_an_order_that_goes_back_in_time():
    with pytest.raises(DataError, match=r"'order' disagrees with 'timestamp' for 1 users[\s\S]*row 4"):
        split_ends(timed([[1, 2], [5, 4, 6]]), DataConfig(split="temporal"))


def test_temporal_refuses_to_leave_nothing_for_training():
    with pytest.raises(DataError, match="leaves no interaction for training"):
        split_ends(timed([[7, 7], [7, 7, 7]]), DataConfig(split="temporal"))
