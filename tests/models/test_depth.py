"""The depth family's own settings."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.decoding import recommend
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], dtype=np.int32)

SOFTMAXES = ({}, {"item_loss": 1.0}, {"item_loss": 1.0, "item_negatives": 100_000})


def build(**settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name="depth", hidden_size=16, num_heads=2, use_features=False, **settings)
    return build_recommender(config, num_items=5, index=ItemIndex(CODES, (3, 2), list("abcde"))).eval()


def test_item_loss_is_added_with_its_weight():
    items, lengths = torch.tensor([[0, 3, 4], [2, 1, 0]]), torch.tensor([3, 2])
    plain, weighted = build(), build(item_loss=0.5)
    with torch.no_grad():
        states = []
        for row, length in enumerate(lengths.tolist()):
            for cut in range(length):
                prefix = items[row : row + 1, :cut]
                inputs = torch.cat([plain.start[None, None], plain.items(prefix, plain.item_codes)], dim=1)
                states.append(plain.transformer(inputs)[0][0, -1])
        logits = torch.stack(states) @ plain.items.ids.weight.T
        expected = plain(items, lengths).loss + 0.5 * cross_entropy(logits, torch.tensor([0, 3, 4, 2, 1]))
        assert torch.allclose(weighted(items, lengths).loss, expected, atol=1e-5)


def test_many_item_negatives_approach_the_full_item_loss():
    items, lengths = torch.randint(5, (64, 6)), torch.full((64,), 6)
    with torch.no_grad():
        losses = [float(build(**settings)(items, lengths).loss) for settings in SOFTMAXES]
    assert losses[0] < losses[1]
    assert abs(losses[1] - losses[2]) < 1e-3


def test_item_loss_needs_item_vectors():
    with pytest.raises(ConfigError, match="use_ids or use_features"):
        build(item_loss=1.0, use_ids=False)


def test_sasrec_needs_item_vectors():
    with pytest.raises(ConfigError, match="use_ids or use_features"):
        build_recommender(RecommenderConfig(name="sasrec", use_ids=False), num_items=5)


def test_items_are_ranked_by_codes_and_item_vectors_together():
    model = build(item_loss=1.0)
    items, lengths = torch.tensor([[0, 3, 4], [2, 1, 0]]), torch.tensor([3, 2])
    with torch.no_grad():
        context = model.encode(items, lengths)
        every = torch.arange(5).expand(2, -1)
        dense = (context.item_state @ model.items.ids.weight.T).log_softmax(-1)
        assert torch.allclose(model.item_log_probabilities(context, every), dense, atol=1e-6)
        decoding = DecodingConfig(num_beams=5, top_k=5)
        plain = recommend(model, items, lengths, decoding=decoding)
        both = recommend(model, items, lengths, decoding=decoding.model_copy(update={"item_weight": 0.7}))
        codes = torch.full((2, 5), -torch.inf).scatter(1, plain.items, plain.scores)
        expected = (codes + 0.7 * dense).sort(dim=1, descending=True)
    assert torch.equal(both.items, expected.indices)
    assert torch.allclose(both.scores, expected.values, atol=1e-5)


def test_an_item_weight_needs_an_item_level_loss():
    with pytest.raises(ConfigError, match="has no item-level probabilities"):
        recommend(build(), torch.tensor([[0]]), torch.tensor([1]), decoding=DecodingConfig(item_weight=1.0))
