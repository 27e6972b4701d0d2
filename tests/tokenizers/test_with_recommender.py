"""A recommender learns to write the semantic IDs of the families that read no vectors."""

import pytest
import torch

from genrec.config import RecommenderConfig, TokenizerConfig
from genrec.data.histories import pad_histories
from genrec.models import build_recommender
from genrec.tokenizers import ItemIndex, build_tokenizer

FAMILIES = {
    "cid": {"num_clusters": 3, "leaf_size": 6},
    "gid": {"num_clusters": 4},
    "hybrid": {"first": {"name": "cid", "num_clusters": 3, "leaf_size": 6}},
    "independent": {},
    "louvain": {},
    "random": {"base": 8},
    "semantic-path": {"column": "genres"},
    "sequential": {"base": 10},
    "title": {"vocabulary_size": 60, "num_levels": 4},
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_decoder_learns(name, tiny_dataset, tiny_features, with_suffix):
    tokenizer = build_tokenizer(TokenizerConfig(name=name, **FAMILIES[name]))
    tokenizer.fit(tiny_dataset, tiny_features)
    resolved = with_suffix(tokenizer, tiny_dataset, tiny_features)
    index = ItemIndex(resolved.codes, resolved.level_sizes, tiny_dataset.item_ids)
    torch.manual_seed(0)
    config = RecommenderConfig(name="decoder", hidden_size=16, num_layers=1, num_heads=1, max_history=10, dropout=0.0)
    model = build_recommender(config, num_items=40, index=index)
    histories = tiny_dataset.train()
    batch = [torch.from_numpy(array) for array in pad_histories(histories, range(32), 10)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(*batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
