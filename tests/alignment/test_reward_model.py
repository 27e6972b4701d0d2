"""The learned reward of lists: its numbers against scikit-learn and by hand, and that it learns what there is."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr
from simulator import World
from sklearn.metrics import roc_auc_score

from genrec.alignment.prompts import Prompts
from genrec.alignment.reward_model import (
    ListReward,
    ListRewardModel,
    _draw_distinct,
    _training_lists,
    area_under_curve,
    calibration_error,
    order_among_beams,
    train_list_reward,
)
from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "dataset", users=800)


def test_auc_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    scores, labels = random.integers(6, size=200) / 5, random.random(200) < 0.3
    assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(area_under_curve(scores, np.ones(200)))


def test_calibration_error_by_hand():
    probabilities, labels = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 0.5])
    # First bin: mean 0.05 against 0.5, two of four; last: 0.975 against 0.75, two of four.
    assert calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.225)


def test_it_learns_what_users_take_and_like(world):
    reward, quality, held_out = train_list_reward(world.dataset, {"liked": 1.0}, longest=5, seed=0)
    assert quality.auc["taken"] > 0.75
    assert quality.auc["liked"] > 0.6
    assert len(held_out) == 160
    assert max(quality.calibration_error.values()) < 0.17
    assert quality.lists > 500
    histories = world.dataset.train()
    prompts = Prompts(histories, histories)
    every = np.tile(np.arange(len(world.item_of)), (len(histories), 1))
    good = np.argsort(-world.reward(prompts, every), axis=1)[:, :5]
    drawn = np.random.default_rng(1).integers(every.shape[1], size=good.shape)
    assert (reward.whole(prompts, good) > reward.whole(prompts, drawn)).mean() > 0.85


def test_equal_seeds_learn_equal_rewards_and_leave_torch_alone(world):
    state = torch.get_rng_state()
    first, second = (train_list_reward(world.dataset, {}, longest=3, seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.quality == second.quality


@pytest.mark.parametrize("longest", [5, 9])
def test_it_orders_lists_of_every_length_that_it_was_trained_for_as_the_world_does(world, longest):
    reward, quality, _ = train_list_reward(world.dataset, {"liked": 1.0}, longest=longest, seed=0)
    assert quality.longest == longest
    histories = world.dataset.train()
    prompts, random = Prompts(histories, histories), np.random.default_rng(1)
    for size in (1, longest):
        lists = np.stack([random.permutation(len(world.item_of))[:size] for _ in range(len(histories))])
        true = world.reward(prompts, lists).mean(1)
        assert spearmanr(reward.whole(prompts, lists), true)[0] > 0.62, size


def test_lists_longer_than_it_was_trained_for_are_refused():
    reward = ListReward(ListRewardModel(10, ["taken"]).eval(), 2)
    prompts = Prompts(Histories.from_lists([[1, 2]]), Histories.from_lists([[]]))
    with pytest.raises(ConfigError, match="trained on lists of at most 2 items and is asked about 3"):
        reward.whole(prompts, np.array([[3, 4, 5]]))
    assert reward.whole(prompts, np.array([[3, 4, -1]])).shape == (1,)


def test_an_item_is_worth_what_a_list_of_it_alone_is_worth():
    torch.manual_seed(0)
    reward = ListReward(ListRewardModel(10, ["taken"]).eval(), 1)
    prompts = Prompts(Histories.from_lists([[1, 2]]), Histories.from_lists([[]]))
    found = reward(prompts, np.array([[3, 4, 5, -1]]))
    alone = [reward.whole(prompts, np.array([[item]]))[0] for item in (3, 4, 5)]
    np.testing.assert_allclose(found, [[*alone, 0.0]], atol=1e-6)


def test_a_list_written_twice_over_is_worth_the_same():
    """The mean over places, and attention among them, do not change where every item is there twice."""
    torch.manual_seed(0)
    model = ListRewardModel(10, ["taken"]).eval()
    history, lengths = torch.tensor([[1, 2]]), torch.tensor([2])
    with torch.no_grad():
        once = model(history, lengths, torch.tensor([[3, 4, 7]]))
        twice = model(history, lengths, torch.tensor([[3, 4, 7, 3, 4, 7]]))
    assert torch.allclose(once, twice, atol=1e-6)


def test_drawn_lists_hold_no_item_twice_and_follow_popularity():
    popularity, random = np.array([50, 30, 15, 5, 0]), np.random.default_rng(0)
    drawn = _draw_distinct(popularity, (20_000, 2), random)
    assert all(len(set(row)) == 2 for row in drawn.tolist())
    share = popularity / 100
    for first, second in ((0, 1), (2, 3), (3, 0)):
        # Drawing without replacement: the second of what the first leaves.
        expected = share[first] * share[second] / (1 - share[first])
        assert np.mean((drawn == [first, second]).all(1)) == pytest.approx(expected, abs=0.006)
    with pytest.raises(DataError, match="4 items with interactions are too few for lists of 5"):
        _draw_distinct(popularity, (1, 5), random)


def test_no_training_list_holds_an_item_twice_and_both_kinds_are_equally_long(tmp_path):
    rows = [(f"u{user}", f"i{(user + step % 3) % 7}", step) for user in range(20) for step in range(9)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{item}" for item in range(7)]})
    dataset = make_dataset(table, items, DataConfig(k_core=0), tmp_path / "d")
    lists = _training_lists(dataset, {}, 4, seed=0).lists
    taken, drawn = np.split(lists, 2)
    np.testing.assert_array_equal(taken >= 0, drawn >= 0)
    assert (np.sort((taken >= 0).sum(1))[[0, -1]] == [1, 3]).all()
    for row in lists.tolist():
        there = [item for item in row if item >= 0]
        assert len(there) == len(set(there))


def test_order_among_beams_by_hand():
    worth = np.array([[0.9, 0.5, 0.5, 7.0], [0.1, 0.2, 0.0, 0.0]])
    taken = np.array([[1, 0, 1, -1], [0, 0, 0, 0]])
    # First history: 0.9 > 0.5 counts one, 0.5 = 0.5 one half, of two pairs; the second has none.
    assert order_among_beams(worth, taken) == pytest.approx(0.75)
    assert order_among_beams(worth[1:], taken[1:]) is None


def test_lists_are_read_as_sets_whatever_their_padding():
    torch.manual_seed(0)
    model = ListRewardModel(10, ["taken", "liked"]).eval()
    history, lengths = torch.tensor([[1, 2, 9]]), torch.tensor([2])
    with torch.no_grad():
        plain = model(history, lengths, torch.tensor([[3, 4]]))
        padded = model(torch.tensor([[1, 2, 0]]), lengths, torch.tensor([[4, 3, -1]]))
    assert plain.shape == (1, 2)
    assert torch.allclose(plain, padded, atol=1e-6)


def test_too_few_lists_are_refused(tiny_interactions, tiny_items, tmp_path):
    few = tiny_interactions.filter(tiny_interactions["user_id"].is_in(["u00", "u01", "u05"]))
    dataset = make_dataset(few, tiny_items, DataConfig(k_core=0), tmp_path / "d")
    with pytest.raises(DataError, match="lists of 5 items are too few for a reward model"):
        train_list_reward(dataset, {}, longest=5, seed=0)
