"""What is trained: losses by each item's own length, the sampling policy, layers that compute again."""

import copy

import numpy as np
import pytest
import torch
from tiny_alignment import LEVEL_SIZES, NUM_ITEMS, SMALL, make_model

from genrec.alignment.learners import GroupLearner, PairLearner, preference_losses
from genrec.alignment.prompts import Prompts
from genrec.alignment.rewards import Mixture, Values
from genrec.alignment.scoring import count_codes
from genrec.config import AlignmentConfig, DecodingConfig, RecommenderConfig
from genrec.data.histories import Histories
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.training.wrapping import recomputed


def model_of_several_lengths():
    """Item 0 has one code, item 1 two, all others three."""
    codes = np.stack(np.unravel_index(np.arange(NUM_ITEMS) + 24, LEVEL_SIZES), axis=1).astype(np.int32)
    codes[0], codes[1] = [0, -1, -1], [1, 0, -1]
    index = ItemIndex(codes, LEVEL_SIZES, [f"i{item:02d}" for item in range(NUM_ITEMS)])
    return build_recommender(
        RecommenderConfig(name="decoder", **SMALL["decoder"]), num_items=NUM_ITEMS, index=index
    ).eval()


def test_codes_are_counted_item_by_item():
    model = model_of_several_lengths()
    assert count_codes(model, torch.tensor([[0, 1, 2, -1]])).tolist() == [[1, 2, 3, 0]]
    assert count_codes(model, torch.tensor([[[0, 1, 2], [2, 2, -1], [-1, -1, -1]]])).tolist() == [[6, 6, 0]]


def test_simpo_divides_by_the_codes_of_each_item():
    config = AlignmentConfig(method="simpo", beta=2.0, gamma=0.25)
    scores = torch.tensor([[-3.0, -3.0, 0.0], [-4.0, -3.0, -6.0]])
    candidates = torch.tensor([[0, 2, -1], [1, 0, 2]])
    found = preference_losses(config, scores, torch.zeros(2, 3), candidates, model_of_several_lengths())

    def loss(chosen: float, rejected: float) -> float:
        return float(np.log1p(np.exp(-(2.0 * (chosen - rejected) - 0.25))))

    # Per code: -3 against -1; -2 against -3 and -2.
    expected = [loss(-3, -1), (loss(-2, -3) + loss(-2, -2)) / 2]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def group_learner(model) -> GroupLearner:
    prompts = Prompts(Histories.from_lists([[1, 2], [3]]), Histories.from_lists([[4], [5]]))
    reward = Mixture([("values", 1.0, Values(np.arange(float(NUM_ITEMS))))])
    config = AlignmentConfig(method="grpo", refresh_steps=2, pairs={"list_size": 4})
    return GroupLearner(model, model, config, decoding=DecodingConfig(), prompts=prompts, reward=reward)


def test_a_refreshed_sampling_policy_is_the_policy_with_its_buffers():
    policy = make_model("decoder", experts=4, balance="bias", bias_step=0.05)
    learner = group_learner(policy)
    windows = torch.randint(NUM_ITEMS, (8, 8), generator=torch.Generator().manual_seed(0))
    policy.train()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.01
    for _ in range(3):
        policy(windows, torch.full((8,), 8))
    biases = [buffer for name, buffer in policy.named_buffers() if name.endswith("selection_bias")]
    assert any(bool(bias.any()) for bias in biases)
    learner._refresh()
    expected = policy.state_dict()
    for name, value in learner.sampler.state_dict().items():
        assert torch.equal(value, expected[name]), name
    policy.eval()
    learner.sampler.eval()
    with torch.no_grad():
        states = [one.encode(windows, torch.full((8,), 8)).state for one in (policy, learner.sampler)]
    assert torch.equal(*states)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_sampling_policy_is_refreshed_by_updates_not_by_micro_batches(parts):
    learner = group_learner(make_model("depth")).train()
    refreshed = []
    learner._refresh = lambda: refreshed.append(int(learner.updates))  # type: ignore[method-assign]
    windows, lengths = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 3])
    for _ in range(4):
        for part in range(parts):
            learner(
                windows,
                lengths,
                torch.tensor([[1, 2], [3, 0]]),
                torch.tensor([2, 1]),
                torch.tensor([0, 1]),
                torch.ones(2) / parts,
                torch.tensor([part, parts]),
            )
    assert refreshed == [0, 2]
    assert int(learner.updates) == 4


def test_layers_that_compute_again_for_the_gradient_do_so_without_the_dropout_that_scores_never_had():
    batch = {
        "items": torch.tensor([[1, 2, 3, 4]]),
        "lengths": torch.tensor([4]),
        "histories": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "history_lengths": torch.tensor([3, 2]),
        "candidates": torch.tensor([[10, 11], [12, 13]]),
        "reference": torch.zeros(2, 2),
        "weights": torch.ones(2),
    }
    config = AlignmentConfig(method="dpo", anchor_weight=0.0)
    plain = PairLearner(make_model("decoder", dropout=0.5), config, item_weight=0.0).train()
    again = copy.deepcopy(plain)
    found = []
    for learner, wanted in ((plain, False), (again, True)):
        with recomputed(learner, wanted):
            learner(**batch).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)
