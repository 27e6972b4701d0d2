"""Tiny recommenders of every family with ordered semantic IDs."""

import numpy as np
import torch

from genrec.config import RecommenderConfig
from genrec.models import GenerativeRecommender, build_recommender
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, LEVEL_SIZES = 40, (4, 4, 4)
SMALL = {
    "depth": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "use_features": False},
    "decoder": {"hidden_size": 16, "num_layers": 1, "num_heads": 1},
    "seq2seq": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "head_size": 16, "feed_forward_size": 32},
    "parallel": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "use_features": False},
    "discrec": {
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 1,
        "head_size": 16,
        "feed_forward_size": 32,
        "branch_heads": 1,
        "branch_feed_forward_size": 16,
    },
}


def make_index(item_ids: list[str] | None = None) -> ItemIndex:
    flat = np.random.default_rng(3).choice(int(np.prod(LEVEL_SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, LEVEL_SIZES, item_ids or [f"i{item:02d}" for item in range(NUM_ITEMS)])


def make_model(family: str = "depth", seed: int = 0, **settings) -> GenerativeRecommender:
    torch.manual_seed(seed)
    config = RecommenderConfig(name=family, **{**SMALL[family], "max_history": 10, **settings})
    model = build_recommender(config, num_items=NUM_ITEMS, index=make_index())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
