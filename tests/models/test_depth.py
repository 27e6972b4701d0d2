"""The depth family's own settings."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], dtype=np.int32)


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


def test_item_loss_needs_item_vectors():
    with pytest.raises(ConfigError, match="use_ids or use_features"):
        build(item_loss=1.0, use_ids=False)


def test_sasrec_needs_item_vectors():
    with pytest.raises(ConfigError, match="use_ids or use_features"):
        build_recommender(RecommenderConfig(name="sasrec", use_ids=False), num_items=5)
