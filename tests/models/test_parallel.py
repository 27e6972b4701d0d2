"""Independent heads: exact scores against a sum written by hand, and the ranking by item vectors."""

import numpy as np
import pytest
import torch

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.decoding import recommend
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], dtype=np.int32)
ITEMS, LENGTHS = torch.tensor([[0, 3, 4], [2, 1, 0]]), torch.tensor([3, 2])


def build(name: str = "parallel", **settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name=name, hidden_size=16, num_heads=2, use_features=False, **settings)
    return build_recommender(config, num_items=5, index=ItemIndex(CODES, (3, 2), list("abcde"))).eval()


@torch.no_grad()
def code_scores(model) -> torch.Tensor:
    levels = [logits.log_softmax(-1) for logits in model.all_code_logits(model.encode(ITEMS, LENGTHS))]
    return torch.stack([levels[0][:, first] + levels[1][:, second] for first, second in CODES.tolist()], dim=1)


def test_every_item_is_scored_by_the_sum_of_its_codes():
    model = build()
    lists = recommend(model, ITEMS, LENGTHS, decoding=DecodingConfig(top_k=5))
    expected = code_scores(model)
    assert torch.allclose(lists.scores, expected.sort(dim=1, descending=True).values, atol=1e-5)
    assert torch.allclose(expected.gather(1, lists.items), lists.scores, atol=1e-5)


def test_item_vectors_add_to_the_codes():
    model = build(item_loss=1.0)
    with torch.no_grad():
        dense = (model.encode(ITEMS, LENGTHS).item_state @ model.items.ids.weight.T).log_softmax(-1)
    lists = recommend(model, ITEMS, LENGTHS, decoding=DecodingConfig(top_k=5, item_weight=0.7))
    expected = code_scores(model) + 0.7 * dense
    assert torch.allclose(expected.gather(1, lists.items), lists.scores, atol=1e-5)
    assert torch.allclose(lists.scores, expected.sort(dim=1, descending=True).values, atol=1e-5)


@pytest.mark.parametrize("name", ["parallel", "depth"])
def test_the_item_vectors_alone_rank_the_catalogue(name):
    model = build(name, item_loss=1.0)
    with torch.no_grad():
        dense = (model.encode(ITEMS, LENGTHS).item_state @ model.items.ids.weight.T).log_softmax(-1)
    decoding = DecodingConfig(top_k=2, mode="items")
    lists = recommend(model, ITEMS, LENGTHS, decoding=decoding, exclude=torch.tensor([[0], [-1]]))
    assert 0 not in lists.items[0]
    assert torch.equal(lists.items[1], dense[1].topk(2).indices)
    assert torch.allclose(lists.scores[1], dense[1].topk(2).values, atol=1e-6)


def test_a_model_without_item_loss_cannot_rank_by_item_vectors():
    with pytest.raises(ConfigError, match="no item-level probabilities"):
        recommend(build(), ITEMS, LENGTHS, decoding=DecodingConfig(mode="items"))
