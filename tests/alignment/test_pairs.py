"""Preferences from feedback, by hand; and proof that held-out interactions shape none of them."""

import numpy as np
import polars as pl
import pytest
from leakage import poisoned

from genrec.alignment.pairs import explicit_pairs, feedback_column, implicit_pairs, reward_pairs
from genrec.alignment.prompts import Prompts, training_prompts
from genrec.config import DataConfig, PairsConfig
from genrec.data import make_dataset
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError

RATINGS = {"ann": [5, 1, 3, 4, 2, 5, 5], "bob": [4, 4, 4, 1, 4]}


@pytest.fixture
def rated(tmp_path):
    """ann takes items 0..6, bob 6, 5, 4 ...; the last two of each are held out."""
    rows = []
    for user, ratings in RATINGS.items():
        for step, rating in enumerate(ratings):
            item = step if user == "ann" else 6 - step
            rows.append((user, f"i{item}", 100 + step, float(rating), f"text {rating}"))
    columns = ["user_id", "item_id", "timestamp", "rating", "comment"]
    items = pl.DataFrame({"item_id": [f"i{item}" for item in range(7)]})
    return make_dataset(pl.DataFrame(rows, schema=columns, orient="row"), items, DataConfig(k_core=0), tmp_path / "d")


def rows_of(pairs) -> set[tuple]:
    return {
        (tuple(pairs.histories[row].tolist()), int(pairs.chosen[row]), tuple(pairs.rejected[row].tolist()))
        for row in range(len(pairs))
    }


def test_well_rated_items_stand_against_badly_rated_ones_nearby(rated):
    found = explicit_pairs(rated, PairsConfig(horizon=2), max_history=50, seed=0)
    # ann: item 3 (4 stars) against item 1 (1 star); item 0 has no history; 4 and 5 rated 2 and 5: item 5 is held out.
    # item 3 is one step from item 4 (2 stars), which is nearer than item 1. bob's bad item is held out.
    assert rows_of(found) == {((0, 1, 2), 3, (4,))}
    both = explicit_pairs(rated, PairsConfig(horizon=2, rejected=2), max_history=50, seed=0)
    assert rows_of(both) == {((0,), 3, (4, 1))}
    assert both.source == "explicit:rating"


def test_histories_are_cut_to_what_the_model_reads(rated):
    found = explicit_pairs(rated, PairsConfig(horizon=2), max_history=2, seed=0)
    assert rows_of(found) == {((1, 2), 3, (4,))}


def test_unpaired_feedback_gives_single_sides(rated):
    found = explicit_pairs(rated, PairsConfig(), max_history=50, seed=0, unpaired=True)
    ann = {((0,), -1, (1,)), ((0, 1, 2), 3, (-1,)), ((0, 1, 2, 3), -1, (4,))}
    bob = {((6,), 5, (-1,)), ((6, 5), 4, (-1,))}
    assert rows_of(found) == ann | bob


def test_a_missing_feedback_column_names_the_nearest(rated):
    with pytest.raises(ConfigError, match="no feedback column 'ratings'") as refused:
        feedback_column(rated, "ratings")
    assert "did you mean 'rating'?" in str(refused.value)


def test_a_feedback_column_without_numbers_is_refused(rated):
    with pytest.raises(DataError, match="'comment' holds no numbers"):
        feedback_column(rated, "comment")


def test_feedback_that_makes_no_pair_is_refused(rated):
    with pytest.raises(DataError, match="no user has a rating of 9 or more near one of 2 or less"):
        explicit_pairs(rated, PairsConfig(good=9), max_history=50, seed=0)


def test_prompts_are_cuts_of_the_training_part(rated):
    found = training_prompts(rated, per_user=9, horizon=2, max_history=3, seed=0)
    cuts = {(tuple(found.histories[row].tolist()), tuple(found.targets[row].tolist())) for row in range(len(found))}
    ann = {((0,), (1, 2)), ((0, 1), (2, 3)), ((0, 1, 2), (3, 4)), ((1, 2, 3), (4,))}
    assert cuts == ann | {((6,), (5, 4)), ((6, 5), (4,))}
    few = training_prompts(rated, per_user=1, horizon=2, max_history=3, seed=0)
    assert len(few) == 2


def test_prompts_may_be_those_of_a_few_users(rated):
    settings = {"per_user": 9, "horizon": 2, "max_history": 3}
    everything = training_prompts(rated, **settings, seed=0)
    drawn = {}
    for seed in range(8):
        one = training_prompts(rated, **settings, seed=seed, users=1)
        (user,) = set(one.histories.users.tolist())
        rows = everything.select(everything.histories.users == user)
        np.testing.assert_array_equal(one.histories.items, rows.histories.items)
        np.testing.assert_array_equal(one.targets.items, rows.targets.items)
        drawn[user] = one
    assert len(drawn) == 2


def test_negatives_are_the_models_best_that_the_user_never_took(rated):
    prompts = training_prompts(rated, per_user=1, horizon=1, max_history=9, seed=3)
    lists = np.array([[5, 0, 6, 1, 5, -1], [6, 3, 3, 0, 5, 4]])
    found = implicit_pairs(rated, prompts, PairsConfig(rejected=2), lists=lists, seed=0)
    # ann took 0..4, bob 6, 5, 4 in training.
    np.testing.assert_array_equal(found.rejected, [[5, 6], [3, 0]])
    np.testing.assert_array_equal(found.chosen, [prompts.targets[0][0], prompts.targets[1][0]])


@pytest.mark.parametrize("negatives", ["popular", "uniform"])
def test_drawn_negatives_are_never_taken_and_differ(negatives, tiny_dataset):
    prompts = training_prompts(tiny_dataset, per_user=3, horizon=1, max_history=9, seed=0)
    found = implicit_pairs(tiny_dataset, prompts, PairsConfig(negatives=negatives, rejected=3), lists=None, seed=0)
    train = tiny_dataset.train()
    taken = {int(user): set(train[row].tolist()) for row, user in enumerate(train.users)}
    for row in range(len(found)):
        real = [item for item in found.rejected[row].tolist() if item >= 0]
        assert len(set(real)) == len(real) >= 1
        assert not set(real) & taken[int(found.histories.users[row])]


def test_popular_negatives_follow_popularity(tiny_dataset):
    prompts = training_prompts(tiny_dataset, per_user=8, horizon=1, max_history=9, seed=0)
    popularity = tiny_dataset.train_popularity()
    means = {}
    for negatives in ("popular", "uniform"):
        config = PairsConfig(negatives=negatives, rejected=5)
        found = implicit_pairs(tiny_dataset, prompts, config, lists=None, seed=0).rejected
        means[negatives] = popularity[found[found >= 0]].mean()
    assert means["popular"] > means["uniform"] + 0.2


def test_lists_that_were_all_taken_are_refused(rated):
    prompts = training_prompts(rated, per_user=1, horizon=1, max_history=9, seed=3)
    with pytest.raises(DataError, match="took everything that could be rejected"):
        implicit_pairs(rated, prompts, PairsConfig(), lists=np.array([[0, 1], [5, 4]]), seed=0)


def prompts_of(rows: int) -> Prompts:
    return Prompts(Histories.from_lists([[row] for row in range(rows)]), Histories.from_lists([[]] * rows))


def test_self_play_sets_the_best_against_the_worst():
    lists = np.array([[10, 11, 12, 13], [20, 21, 22, -1], [30, -1, -1, -1], [40, 41, 42, 43]])
    rewards = np.array([[0.1, 0.9, 0.3, 0.2], [5.0, 1.0, 7.0, 99.0], [1.0, 0, 0, 0], [2.0, 2.0, 2.0, 2.0]])
    found = reward_pairs(prompts_of(4), lists, rewards, PairsConfig(rejected=3))
    assert rows_of(found) == {((0,), 11, (10, 13, -1)), ((1,), 22, (21, -1, -1))}


def test_self_play_with_several_pairs_per_list_goes_inwards():
    lists, rewards = np.array([[10, 11, 12, 13, 14]]), np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])
    found = reward_pairs(prompts_of(1), lists, rewards, PairsConfig(per_list=4))
    assert rows_of(found) == {((0,), 10, (14,)), ((0,), 11, (13,))}


def test_rewards_that_tell_nothing_apart_are_refused():
    with pytest.raises(DataError, match="tell no two items of any list apart"):
        reward_pairs(prompts_of(1), np.array([[1, 2]]), np.array([[3.0, 3.0]]), PairsConfig())


def test_held_out_interactions_shape_no_preference(tiny_interactions, tiny_items, tiny_dataset, tmp_path):
    other = make_dataset(poisoned(tiny_interactions, 40), tiny_items, DataConfig(k_core=0), tmp_path / "poisoned")
    assert other.fingerprint != tiny_dataset.fingerprint
    found = []
    for dataset in (tiny_dataset, other):
        config = PairsConfig(good=4, bad=3, negatives="popular", rejected=2)
        prompts = training_prompts(dataset, per_user=4, horizon=3, max_history=9, seed=0)
        explicit = explicit_pairs(dataset, config, max_history=9, seed=0)
        implicit = implicit_pairs(dataset, prompts, config, lists=None, seed=0)
        found.append([explicit.candidates, explicit.histories.items, implicit.candidates, prompts.targets.items])
    for clean, after in zip(*found, strict=True):
        np.testing.assert_array_equal(clean, after)
