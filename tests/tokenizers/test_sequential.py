"""Numbers by first appearance, against walking through the histories by hand."""

import numpy as np
import pytest

from genrec.data import Histories
from genrec.errors import DataError
from genrec.tokenizers.families.sequential import (
    SequentialSettings,
    SequentialTokenizer,
    number_by_appearance,
    order_users,
)

HISTORIES = Histories(
    np.arange(4),
    np.array([0, 2, 5, 6, 8]),
    np.array([4, 1, 5, 1, 2, 7, 4, 0], dtype=np.int32),
    np.array([50, 60, 10, 20, 30, 50, 40, 45]),
)


def fitted(dataset, features, **settings) -> SequentialTokenizer:
    tokenizer = SequentialTokenizer(SequentialSettings(**settings))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_orders_of_users():
    assert order_users(HISTORIES, "time", 0).tolist() == [1, 3, 0, 2]
    assert order_users(HISTORIES, "short-to-long", 0).tolist() == [2, 0, 3, 1]
    assert order_users(HISTORIES, "long-to-short", 0).tolist() == [1, 0, 3, 2]
    drawn = [tuple(order_users(HISTORIES, "random", seed).tolist()) for seed in range(20)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    assert len(set(drawn)) > 5


def test_numbers_by_hand():
    # Walked: 5 1 2 | 4 0 | 4 1 | 7; items 3 and 6 have no history.
    numbers = number_by_appearance(HISTORIES, np.array([1, 3, 0, 2]), 8)
    assert numbers.tolist() == [4, 1, 2, 6, 3, 0, 7, 5]


@pytest.mark.parametrize("user_order", ["time", "random", "short-to-long", "long-to-short"])
def test_numbers_equal_those_of_a_loop(tiny_dataset, tiny_features, user_order):
    histories = tiny_dataset.train()
    seen: dict[int, int] = {}
    for user in order_users(histories, user_order, 42):
        for item in histories[int(user)].tolist():
            seen.setdefault(item, len(seen))
    for item in range(40):
        seen.setdefault(item, len(seen))
    codes = fitted(tiny_dataset, tiny_features, user_order=user_order, base=10).codes
    assert (codes @ np.array([10, 1])).tolist() == [seen[item] for item in range(40)]


def test_items_of_one_history_share_their_leading_digits(tiny_dataset, tiny_features):
    codes = fitted(tiny_dataset, tiny_features, base=10).codes
    first = tiny_dataset.train()
    earliest = first[int(order_users(first, "time", 0)[0])]
    assert set(codes[np.unique(earliest)[:10], 0].tolist()) <= {0, 1}


def test_the_seed_counts_for_the_random_order_alone(tiny_dataset, tiny_features):
    for user_order, differs in (("random", True), ("short-to-long", False)):
        one, other = (fitted(tiny_dataset, tiny_features, user_order=user_order, seed=seed).codes for seed in (1, 2))
        assert (one != other).any() == differs


def test_held_out_interactions_change_nothing(tiny_dataset, poisoned_dataset, tiny_features):
    one = fitted(tiny_dataset, tiny_features).codes
    np.testing.assert_array_equal(one, fitted(poisoned_dataset, tiny_features).codes)


def test_what_is_missing_is_named(tiny_dataset, tiny_features, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([[1, 2], [3]]))
    with pytest.raises(DataError, match=r"(?s)the interactions have no timestamps.*user_order: random"):
        fitted(tiny_dataset, tiny_features)
    assert fitted(tiny_dataset, tiny_features, user_order="long-to-short").codes[1].tolist() == [0]
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([]))
    with pytest.raises(DataError, match=r"(?s)there is no training interaction.*tokenizer sequential"):
        fitted(tiny_dataset, tiny_features)
