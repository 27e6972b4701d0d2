"""Interactions of one user at one time: how their order is drawn."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset
from genrec.errors import DataError

NAMES = ["user_id", "item_id", "timestamp"]


def log(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=NAMES[: len(rows[0])], orient="row", strict=False)


def make(out: Path, interactions: pl.DataFrame, **settings) -> Dataset:
    return make_dataset(interactions, None, DataConfig(**{"k_core": 0} | settings), out)


def shuffled(out: Path, interactions: pl.DataFrame, seed: int = 1) -> Dataset:
    return make(out, interactions, ties="shuffle", ties_seed=seed)


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    full = dataset.full()
    return {user: [dataset.item_ids[i] for i in full[row]] for row, user in enumerate(dataset.user_ids)}


def random_log(users: int, seed: int = 0) -> pl.DataFrame:
    """Eight interactions of each user on three days, items repeated now and then; in order of user, time and item."""
    random = np.random.default_rng(seed)
    rows = [
        (f"u{user:03}", f"i{item:02}", int(day) * 86_400)
        for user in range(users)
        for day, item in sorted(zip(random.integers(0, 3, 8), random.integers(0, 30, 8), strict=True))
    ]
    return log(*rows)


def test_only_interactions_of_one_user_and_time_change_places(tmp_path):
    table = random_log(50).unique(NAMES).sort("user_id", "timestamp", "item_id")
    file, drawn = make(tmp_path / "file", table), shuffled(tmp_path / "drawn", table)
    assert sequences(file) != sequences(drawn)
    assert (file.full().timestamps == drawn.full().timestamps).all()
    before, after = (
        Counter(zip(np.repeat(h.users, h.lengths).tolist(), h.timestamps.tolist(), h.items.tolist(), strict=True))
        for h in (file.full(), drawn.full())
    )
    assert before == after


def test_the_stored_interactions_are_in_the_new_order(tmp_path):
    table = random_log(20).with_columns(rating=pl.int_range(160).cast(pl.Float64))
    dataset = shuffled(tmp_path / "out", table)
    stored = dataset.interactions
    assert stored["item_id"].to_list() == [dataset.item_ids[i] for i in dataset.full().items]
    assert stored.sort("rating").select(NAMES).equals(table.select(NAMES))


def test_order_says_the_new_positions(tmp_path):
    table = random_log(20).unique(NAMES).sort("user_id", "timestamp", "item_id")
    dataset = shuffled(tmp_path / "out", table.with_columns(order=pl.int_range(table.height)))
    stored = dataset.interactions
    assert stored["order"].to_list() == list(range(table.height))
    assert stored["item_id"].to_list() == [dataset.item_ids[i] for i in dataset.full().items]
    assert sequences(dataset) == sequences(shuffled(tmp_path / "unnumbered", table))


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path):
    table = random_log(60)
    mixed = table.sample(fraction=1.0, shuffle=True, seed=3)
    one, other = shuffled(tmp_path / "one", table), shuffled(tmp_path / "other", mixed)
    assert sequences(one) == sequences(other)


def test_a_users_order_does_not_depend_on_other_users(tmp_path):
    table = random_log(60)
    few = table.filter(pl.col("user_id") >= "u040")
    everyone, some = (sequences(shuffled(tmp_path / name, part)) for name, part in (("all", table), ("few", few)))
    assert {user: everyone[user] for user in some} == some


def test_the_order_is_the_documented_one_on_every_platform(tmp_path):
    """Against integers of Python: a chain of SplitMix64 over seed, user, time, item and occurrence."""

    def key(seed: int, user: str, time: int, item: str, occurrence: int) -> int:
        state = seed
        for part in (digest(user), time, digest(item), occurrence):
            state = split_mix(split_mix(state) ^ part)
        return state

    def digest(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def split_mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    assert split_mix(0) == 0xE220A8397B1DCDAF  # The first output of the generator with seed 0, as published.
    table, expected = random_log(30).with_columns(rating=pl.int_range(240).cast(pl.Float64)), {}
    for (user, time), group in table.group_by("user_id", "timestamp", maintain_order=True):
        seen: Counter = Counter()
        keyed = []
        for item in group["item_id"]:
            keyed.append((key(7, user, time, item, seen[item]), item))
            seen[item] += 1
        expected.setdefault(user, {})[time] = [item for _, item in sorted(keyed)]
    drawn = sequences(shuffled(tmp_path / "out", table, seed=7))
    assert drawn == {user: [item for time in sorted(days) for item in days[time]] for user, days in expected.items()}


def test_every_order_of_three_is_as_likely_as_another(tmp_path):
    """Chi-square over the six orders, 5 degrees of freedom: 20.5 is exceeded by chance once in a thousand."""
    table = log(*[(f"u{user:04}", item, 7) for user in range(3000) for item in "abc"])
    counts = Counter("".join(items) for items in sequences(shuffled(tmp_path / "out", table)).values())
    assert len(counts) == 6
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 20.5


def test_seeds_draw_independent_orders(tmp_path):
    """Of 3000 pairs, half keep the order of the other seed: 1500, 4.5 standard deviations are 123."""
    table = log(*[(f"u{user:04}", item, 7) for user in range(3000) for item in "ab"])
    one, other = (sequences(shuffled(tmp_path / str(seed), table, seed)) for seed in (1, 2))
    assert abs(sum(one[user] == other[user] for user in one) - 1500) < 123


def test_repeated_items_of_one_time_are_drawn_one_by_one(tmp_path):
    """The three orders of two like items and another are equally likely; 13.8 is exceeded once in a thousand."""
    rows = [(f"u{user:04}", item, 7, rating) for user in range(3000) for item, rating in (("a", 1), ("a", 2), ("b", 3))]
    table = pl.DataFrame(rows, schema=[*NAMES, "rating"], orient="row")
    counts = Counter("".join(items) for items in sequences(shuffled(tmp_path / "out", table)).values())
    assert set(counts) == {"aab", "aba", "baa"}
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 13.8


def test_unknown_times_are_no_ties(tmp_path):
    table = log(*[("u", item, None) for item in "abcdefgh"], ("u", "z", 5))
    assert "".join(sequences(shuffled(tmp_path / "out", table))["u"]) == "abcdefghz"


def test_nothing_can_be_shuffled_without_times(tmp_path):
    with pytest.raises(DataError, match="no interaction has a timestamp: there are no ties to shuffle"):
        shuffled(tmp_path / "out", log(("u", "a"), ("u", "b"), ("u", "c")))
    assert list(tmp_path.iterdir()) == []


def test_ties_and_their_seed_make_another_dataset(tmp_path):
    table = random_log(20)
    made = [shuffled(tmp_path / str(seed), table, seed) for seed in (1, 2)]
    made.append(make(tmp_path / "file", table))
    assert len({dataset.fingerprint for dataset in made}) == 3
    assert make(tmp_path / "again", table, ties_seed=9).fingerprint == made[-1].fingerprint
