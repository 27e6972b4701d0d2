"""The learned reward of lists: its numbers against scikit-learn and by hand, and that it learns what there is."""

import numpy as np
import pytest
import torch
from simulator import World
from sklearn.metrics import roc_auc_score

from genrec.alignment.prompts import Prompts
from genrec.alignment.reward_model import (
    ListRewardModel,
    area_under_curve,
    calibration_error,
    train_list_reward,
)
from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.data.histories import Histories
from genrec.errors import DataError


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
    reward, quality = train_list_reward(world.dataset, {"liked": 1.0}, seed=0)
    assert quality.auc["taken"] > 0.8
    assert quality.auc["liked"] > 0.58
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
    first, second = (train_list_reward(world.dataset, {}, seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first[1] == second[1]


def test_a_place_is_credited_with_what_the_list_would_lose():
    torch.manual_seed(0)
    from genrec.alignment.reward_model import ListReward

    reward = ListReward(ListRewardModel(10, ["taken"]).eval())
    prompts = Prompts(Histories.from_lists([[1, 2]]), Histories.from_lists([[]]))
    lists = np.array([[3, 4, 5]])
    found = reward(prompts, lists)
    whole, without = reward.whole(prompts, lists)[0], reward.whole(prompts, np.array([[3, 5]]))[0]
    assert found[0, 1] == pytest.approx(whole - without, abs=1e-6)
    assert np.isfinite(reward(prompts, np.array([[3, -1, -1]]))).all()


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
    with pytest.raises(DataError, match="too few for a reward model"):
        train_list_reward(dataset, {}, seed=0)
