"""Rewards by hand, and what is refused."""

import math

import numpy as np
import pytest
import torch

from genrec.alignment.prompts import Prompts
from genrec.alignment.rewards import (
    CategoryMatch,
    Diversity,
    Hit,
    RankAware,
    Scorer,
    Values,
    WeightedRewards,
    check_names,
    item_freshness,
    item_labels,
    load_function,
    refuse_constant,
)
from genrec.config import RecommenderConfig
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError
from genrec.models import build_recommender

PROMPTS = Prompts(Histories.from_lists([[0, 1], [2]]), Histories.from_lists([[5, 6], [7]]))
LISTS = np.array([[6, 9, 5, -1], [1, 2, 3, 4]])
LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 3])


def test_a_hit_counts_by_how_soon_it_came():
    np.testing.assert_allclose(Hit()(PROMPTS, LISTS), [[0.5, 0, 1, 0], [0, 0, 0, 0]])


def test_the_rank_aware_reward_blames_misses_at_the_top_of_a_list_with_a_hit():
    weights = [1 / math.log2(rank + 2) for rank in range(4)]
    expected = [[1, -weights[1] / sum(weights), 1, -weights[3] / sum(weights)], [0, 0, 0, 0]]
    np.testing.assert_allclose(RankAware()(PROMPTS, LISTS), expected)


def test_categories_are_compared_with_those_of_the_targets():
    found = CategoryMatch(LABELS)(PROMPTS, np.array([[4, 0, 6, 9], [9, 8, 0, 4]]))
    np.testing.assert_array_equal(found, [[1, 0, 1, 0], [1, 1, 0, 0]])


def test_diversity_is_the_share_of_others_of_another_category():
    found = Diversity(LABELS)(PROMPTS, np.array([[4, 5, 0, -1], [1, 2, 3, 4]]))
    np.testing.assert_allclose(found[0, :3], [0.5, 0.5, 1.0])
    np.testing.assert_allclose(found[1], [1, 2 / 3, 2 / 3, 1])


def test_a_mixture_is_a_weighted_sum_and_zero_where_there_is_no_item():
    values = Values(np.arange(10.0))
    found = WeightedRewards([("hit", 2.0, Hit()), ("values", 0.1, values)])(PROMPTS, LISTS)
    np.testing.assert_allclose(found, [[1.6, 0.9, 2.5, 0], [0.1, 0.2, 0.3, 0.4]])


def test_a_scorer_gives_the_log_probability_of_each_item():
    torch.manual_seed(0)
    model = build_recommender(RecommenderConfig(name="sasrec", hidden_size=8, num_heads=1), num_items=10).eval()
    found = Scorer(model)(PROMPTS, LISTS)
    with torch.no_grad():
        alone = model.score_items(torch.tensor([[2]]), torch.tensor([1])).log_softmax(-1)[0]
    np.testing.assert_allclose(found[1], alone[[1, 2, 3, 4]].numpy(), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_names_the_item(bad):
    values = np.arange(10.0)
    values[3] = bad
    with pytest.raises(DataError, match=rf"the reward 'mine' is {bad} for item 3"):
        WeightedRewards([("mine", 1.0, Values(values))])(PROMPTS, LISTS)


def test_a_number_that_is_not_finite_where_there_is_no_item_does_not_matter():
    found = WeightedRewards([("mine", 1.0, lambda prompts, lists: np.where(lists < 0, np.nan, 1.0))])(PROMPTS, LISTS)
    np.testing.assert_array_equal(found, [[1, 1, 1, 0], [1, 1, 1, 1]])


def test_a_reward_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"the reward 'mine' is of shape \(2,\)"):
        WeightedRewards([("mine", 1.0, lambda prompts, lists: np.zeros(len(lists)))])(PROMPTS, LISTS)


def test_a_constant_reward_is_refused():
    with pytest.raises(DataError, match=r"the reward is 0\.5 for every item of every list"):
        refuse_constant(LISTS, np.where(LISTS < 0, 7.0, 0.5))
    refuse_constant(LISTS, np.eye(2, 4))


def test_unknown_and_missing_rewards_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'diversity'"):
        check_names({"hit": 1, "diversty": 1})
    with pytest.raises(ConfigError, match="need a reward"):
        check_names({})


@pytest.mark.parametrize("name", [None, "nothing", "nowhere.at.all:f", "math:nothing", "math:pi"])
def test_a_function_that_cannot_be_used_is_refused(name):
    with pytest.raises(ConfigError, match="cannot be used"):
        load_function(name)


def test_a_function_is_found_by_its_name():
    assert load_function("math:sqrt")(9) == 3


def test_labels_are_texts_of_a_column_or_first_codes(tiny_dataset):
    labels = item_labels(tiny_dataset, "genres", np.zeros((40, 2)))
    np.testing.assert_array_equal(labels[:10], np.full(10, labels[0]))
    assert len(set(labels.tolist())) == 4
    np.testing.assert_array_equal(item_labels(tiny_dataset, None, np.array([[3, 1], [2, 0]])), [3, 2])


def test_an_item_is_half_as_fresh_after_its_half_life(tiny_dataset):
    train = tiny_dataset.train()
    found = item_freshness(tiny_dataset, half_life=3.0)
    newest = train.timestamps.max()
    for item in range(40):
        own = train.timestamps[train.items == item]
        expected = 0.5 ** ((newest - own.min()) / 86_400 / 3.0) if len(own) else 0.0
        assert found[item] == pytest.approx(expected)


def test_freshness_needs_timestamps(tiny_interactions, tiny_items, tmp_path):
    from genrec.config import DataConfig
    from genrec.data import make_dataset

    table = tiny_interactions.sort("timestamp").drop("timestamp")
    dataset = make_dataset(table, tiny_items, DataConfig(k_core=0), tmp_path / "d")
    with pytest.raises(DataError, match="'freshness' needs timestamps"):
        item_freshness(dataset, 3.0)
