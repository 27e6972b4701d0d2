"""The sampled softmax of the baseline against its formula, written out in numpy."""

import numpy as np
import torch

from genrec.config import RecommenderConfig
from genrec.models import build_recommender


def build(**settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name="sasrec", hidden_size=16, num_heads=2, dropout=0.0, **settings)
    return build_recommender(config, num_items=30)


def test_sampled_loss_is_the_corrected_softmax_over_the_shared_candidates():
    model = build(negatives=6)
    states, targets = torch.randn(5, 16), torch.tensor([3, 9, 3, 0, 29])
    torch.manual_seed(4)
    drawn = torch.randint(30, (6,)).tolist()
    torch.manual_seed(4)
    loss = float(model.items.next_item_loss(states, targets, bias=model.item_bias, negatives=6).detach())
    candidates = sorted(set(drawn) | set(targets.tolist()))
    table = model.items.table().detach().numpy()
    expected = []
    for state, target in zip(states.numpy(), targets.tolist(), strict=True):
        scores = []
        for item in candidates:
            probability = targets.tolist().count(item) + 6 / 30
            scores.append(state @ table[item] - np.log(probability))
        shifted = np.array(scores)
        log_sum = np.log(np.exp(shifted - shifted.max()).sum()) + shifted.max()
        expected.append(log_sum - shifted[candidates.index(target)])
    assert abs(loss - np.mean(expected)) < 1e-5


def test_more_negatives_approach_the_full_softmax():
    items, lengths = torch.randint(30, (64, 8)), torch.full((64,), 8)
    full = build()
    sampled = build(negatives=100_000)
    sampled.load_state_dict(full.state_dict())
    with torch.no_grad():
        for model in (full, sampled):
            model.items.ids.weight.copy_(torch.randn(30, 16, generator=torch.Generator().manual_seed(1)))
        # Uniform candidates in expectation: the correction is a constant shift, and the softmax is full.
        assert abs(float(full(items, lengths).loss) - float(sampled(items, lengths).loss)) < 0.05
