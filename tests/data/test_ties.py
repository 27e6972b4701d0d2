"""Interactions of one user at one time: how many there are, how their order is drawn, what is held out without it."""

import hashlib
import shutil
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from genrec.artifacts import read_json, write_artifact, write_json
from genrec.cli import main
from genrec.config import DataConfig, load_recipe
from genrec.data import Dataset, make_dataset, prepare_dataset
from genrec.data.histories import Histories
from genrec.data.ties import tie_statistics
from genrec.errors import ConfigError, DataError
from genrec.inspection import describe
from genrec.pipeline.run import run_recipe

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


def published_order(*groups: str, user: str = "u", start: int = 1) -> list[tuple[str, str, int]]:
    """Interactions of a user: each string is what happened on one day, an item per letter."""
    return [(user, item, day * 86_400) for day, items in enumerate(groups, start) for item in items]


def test_statistics_of_a_small_log_counted_by_hand(tmp_path):
    """Pairs: 4 + 3; tied: ab and de of u, yx of v. Targets: e after d is tied, z is not; d is not, x after y is."""
    rows = [*published_order("ab", "c", "de"), *published_order("w", "yx", "z", user="v")]
    ties = make(tmp_path / "out", log(*rows)).statistics["ties"]
    assert (ties["pairs"], ties["tied_pairs"]) == (7, 3 / 7)
    assert (ties["tied_test_targets"], ties["tied_validation_targets"]) == (1 / 2, 1 / 2)
    assert ties["ascending"] == 2 / 3
    assert ties["ids_compared_as"] == "text"
    assert ties["follows_ids"] == "no"
    # Three coins: two heads deviate by half a head from 1.5, with a variance of 3/4.
    assert ties["p_value"] == pytest.approx(2 * stats.norm.sf(0.5 / np.sqrt(0.75)))


def test_the_variance_of_ascents_is_that_of_all_orders(tmp_path):
    """Against every order of five items: mean 2 and variance (5 + 1) / 12 of the ascending pairs."""
    ascents = [sum(a < b for a, b in pairwise(order)) for order in permutations("abcde")]
    assert (np.mean(ascents), np.var(ascents)) == (2, pytest.approx(6 / 12))
    ties = make(tmp_path / "out", log(*published_order("abcde", "f"))).statistics["ties"]
    assert ties["p_value"] == pytest.approx(2 * stats.norm.sf((4 - 2) / np.std(ascents)))


def test_an_order_by_chance_is_seldom_taken_for_one_by_ids():
    """300 random files of 60 groups of three: a p-value below 0.05 in 5 %; 30 are four standard deviations too many."""
    random = np.random.default_rng(4)
    ids = pl.Series([f"i{item:02}" for item in range(30)])
    small = 0
    for _ in range(300):
        groups = np.concatenate([random.choice(30, 3, replace=False) for _ in range(60)]).astype(np.int32)
        times = np.repeat(np.arange(60), 3)
        histories = Histories(np.arange(1), np.array([0, 180]), groups, times)
        found = tie_statistics(histories, np.array([178]), np.array([179]), ids)
        small += found["p_value"] < 0.05
        assert found["follows_ids"] == "no" or found["p_value"] < 0.001
    assert 2 <= small <= 30


@pytest.mark.parametrize(("items", "follows"), [("abcdefghij", "ascending"), ("jihgfedcba", "descending")])
def test_an_order_by_ids_is_warned_of(tmp_path, caplog, items, follows):
    rows = [row for user in range(9) for row in published_order(items, "x", "y", user=f"u{user}")]
    dataset = make(tmp_path / "out", log(*rows))
    assert dataset.statistics["ties"]["follows_ids"] == follows
    (note,) = dataset.account.interactions.notes
    assert "the order within one time is that of the ids; ties: shuffle draws another order" in note
    assert note in caplog.text
    assert "| ties: follows ids | " + follows in (dataset.path / "statistics.md").read_text(encoding="utf-8")


def test_shuffled_ties_do_not_follow_the_ids(tmp_path):
    rows = [row for user in range(40) for row in published_order("abcdefghij", "x", "y", user=f"u{user}")]
    dataset = shuffled(tmp_path / "out", log(*rows))
    assert dataset.statistics["ties"]["follows_ids"] == "no"
    assert dataset.account.interactions.notes == []


def test_numbers_ascend_as_numbers(tmp_path):
    rows = [("u", item, 5) for item in ("9", "10", "11", "100")]
    ties = make(tmp_path / "out", log(*rows)).statistics["ties"]
    assert (ties["ids_compared_as"], ties["ascending"]) == ("numbers", 1.0)
    mixed = make(tmp_path / "mixed", log(*rows, ("u", "x1", 9))).statistics["ties"]
    assert (mixed["ids_compared_as"], mixed["ascending"]) == ("text", 1 / 3)


def test_one_number_written_twice_is_text(tmp_path):
    ties = make(tmp_path / "out", log(*[("u", item, 5) for item in ("007", "7", "8")])).statistics["ties"]
    assert ties["ids_compared_as"] == "text"


def test_groups_with_an_item_twice_say_nothing_of_a_direction(tmp_path):
    table = log(*published_order("aab", "cd", "x")).with_columns(rating=pl.int_range(6).cast(pl.Float64))
    ties = make(tmp_path / "out", table).statistics["ties"]
    assert (ties["tied_pairs"], ties["ascending"]) == (3 / 5, 1.0)
    assert ties["p_value"] == pytest.approx(2 * stats.norm.sf(1))


def test_without_times_nothing_is_said_of_ties(tmp_path):
    dataset = make(tmp_path / "out", log(("u", "b"), ("u", "a"), ("v", "b"), ("v", "a")))
    assert dataset.statistics["ties"] == {"pairs": 0, "note": "no times"}
    assert "| ties: note | no times |" in (dataset.path / "statistics.md").read_text(encoding="utf-8")


def test_unknown_times_make_no_pairs(tmp_path):
    ties = make(tmp_path / "out", log(("u", "a", None), ("u", "b", None), ("u", "c", 5), ("u", "d", 5))).statistics[
        "ties"
    ]
    assert (ties["pairs"], ties["tied_pairs"], ties["tied_test_targets"]) == (1, 1.0, 1.0)


def parts(dataset: Dataset, part: str) -> dict[str, tuple[str, str]]:
    """History and targets of every user, as letters."""
    histories, targets = dataset.evaluation(part)
    return {
        dataset.user_ids[user]: tuple("".join(dataset.item_ids[i] for i in held[row]) for held in (histories, targets))
        for row, user in enumerate(histories.users)
    }


def test_without_ties_the_last_two_times_are_held_out(tmp_path):
    """The example of docs/evaluation.md: what is held out, what is history, and what a model learns from."""
    rows = [
        *published_order("ab", "c", "de", "fgh", user="ann"),
        *published_order("a", "c", "d", user="bob"),
        *published_order("abc", "de", user="cem"),
    ]
    dataset = make(tmp_path / "out", log(*rows), ties="exclude")
    assert parts(dataset, "validation") == {"ann": ("abc", "de"), "bob": ("a", "c")}
    assert parts(dataset, "test") == {"ann": ("abcde", "fgh"), "bob": ("ac", "d")}
    train = dataset.train()
    assert ["".join(dataset.item_ids[i] for i in train[row]) for row in range(3)] == ["abc", "a", "abcde"]
    assert dataset.statistics["ties"]["tied_test_targets"] == 0
    assert (dataset.ties, dataset.ties_seed) == ("exclude", None)


def test_nothing_held_out_has_a_time_of_the_history(tmp_path):
    dataset = make(tmp_path / "out", random_log(80), ties="exclude")
    for part in ("validation", "test"):
        histories, targets = dataset.evaluation(part)
        assert targets.any_of
        assert len(targets) == dataset.statistics[part]["evaluated_users"] > 40
        for row in range(len(targets)):
            times = targets.timestamps[targets.offsets[row] : targets.offsets[row + 1]]
            past = histories.timestamps[histories.offsets[row] : histories.offsets[row + 1]]
            assert len(set(times.tolist())) == 1
            assert past.max() < times[0]


def test_users_with_an_unknown_time_are_for_training_only(tmp_path):
    rows = [*published_order("ab", "c", "de"), *published_order("a", "b", "c", user="v"), ("v", "z", None)]
    dataset = make(tmp_path / "out", log(*rows), ties="exclude")
    assert list(parts(dataset, "test")) == ["u"]
    assert dataset.account.interactions.notes == ["1 users have an interaction without a time: for training only"]


def test_ties_cannot_be_excluded_without_times(tmp_path):
    with pytest.raises(DataError, match="no user has a timestamp on every interaction"):
        make(tmp_path / "out", log(("u", "a"), ("u", "b"), ("u", "c")), ties="exclude")
    table = log(*published_order("a", "b", "c")).with_columns(order=pl.Series([2, 1, 0]))
    with pytest.raises(DataError, match="'order' disagrees with 'timestamp' for 1 users"):
        make(tmp_path / "out", table, ties="exclude")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["temporal", "ratio"])
def test_other_splits_have_no_last_time(split):
    with pytest.raises(ConfigError, match=f"ties: exclude is for split: leave-one-out, not {split}"):
        load_recipe(None, ["data.ties=exclude", f"data.split={split}"])


def test_a_prepared_data_set_keeps_its_ties(tmp_path, caplog):
    made = shuffled(tmp_path / "made", random_log(20), seed=2)
    copied = prepare_dataset(DataConfig(path=str(made.path), ties="exclude", ties_seed=3), tmp_path / "copy")
    assert (copied.ties, copied.ties_seed, copied.fingerprint) == ("shuffle", 2, made.fingerprint)
    assert "prepared with ties=shuffle; data.ties=exclude has no effect on it" in caplog.text
    assert "prepared with ties_seed=2; data.ties_seed=3 has no effect on it" in caplog.text


def test_a_data_set_of_an_earlier_version_has_the_order_of_its_file(tmp_path):
    """Its manifest says nothing of ties, its statistics neither."""
    made = make(tmp_path / "made", random_log(20))
    assert "ties" not in read_json(made.path / "manifest.json")["config"]
    statistics = {key: value for key, value in made.statistics.items() if key != "ties"}
    with write_artifact(tmp_path / "old", "dataset", config=read_json(made.path / "manifest.json")["config"]) as folder:
        for path in (path for path in made.path.rglob("*") if path.is_file() and path.name != "manifest.json"):
            (folder.path / path.relative_to(made.path)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder.path / path.relative_to(made.path))
        write_json(folder.path / "statistics.json", statistics)
    old = Dataset.load(tmp_path / "old", verify=True)
    assert (old.ties, old.ties_seed) == ("file", None)
    assert "ties:" not in describe(tmp_path / "old")
    assert "of consecutive interactions of a user have the same time" in describe(made.path)


def test_a_run_prepares_again_for_other_ties_and_for_no_other_reason(tmp_path, capsys):
    """The stage of the data set and, through its fingerprint, all others; by the ledger that `genrec run` keeps."""
    (tmp_path / "data").mkdir()
    random_log(20).write_csv(tmp_path / "data" / "interactions.csv")

    def said(*changes: str) -> str:
        given = [f"data.path={tmp_path / 'data'}", "data.k_core=0", *(f"data.{change}" for change in changes)]
        run_recipe(load_recipe(None, given), tmp_path / "run", until="dataset")
        return capsys.readouterr().err

    assert "dataset: not made yet" in said()
    assert "dataset: fresh" in said("ties=file", "ties_seed=5")
    assert "dataset: its settings or inputs changed" in said("ties=shuffle")
    assert "dataset: fresh" in said("ties=shuffle", "ties_seed=1")
    assert "dataset: its settings or inputs changed" in said("ties=shuffle", "ties_seed=2")
    assert "dataset: its settings or inputs changed" in said("ties=exclude", "ties_seed=2")
    assert "dataset: fresh" in said("ties=exclude", "ties_seed=3")


def test_the_command_line_has_both_settings(tmp_path, capsys):
    random_log(20).write_csv(tmp_path / "log.csv")
    command = ["prepare", "--interactions", str(tmp_path / "log.csv"), "--k-core", "0", "--out", str(tmp_path / "out")]
    assert main([*command, "--ties", "shuffle", "--ties-seed", "2"]) == 0
    assert "| ties: follows ids | no |" in capsys.readouterr().out
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.ties, dataset.ties_seed) == ("shuffle", 2)
    assert main([*command, "--ties", "exclude", "--split", "ratio"]) == 2
    assert "ties: exclude is for split: leave-one-out, not ratio" in capsys.readouterr().err
