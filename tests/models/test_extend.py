"""A larger catalogue changes nothing of what a model says after histories of old items."""

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.models.resize_catalogue import extend_recommender, mean_of_prefix_siblings
from genrec.tokenizers import ItemIndex

OLD, NEW, SIZES = 20, 5, (4, 4, 4)
SMALL = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 5}
EXTRA = {"seq2seq": {"head_size": 8, "feed_forward_size": 32}, "depth": {"item_loss": 1.0}}


def make(family):
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.choice(64, OLD + NEW, replace=False), SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes[:OLD], SIZES, [f"i{item}" for item in range(OLD)])
    features = rng.standard_normal((OLD + NEW, 3)).astype(np.float32)
    torch.manual_seed(0)
    config = RecommenderConfig(name=family, **SMALL, **EXTRA.get(family, {}))
    model = build_recommender(config, num_items=OLD, index=index, features=features[:OLD]).eval()
    return model, index.extended(codes[OLD:], [f"n{item}" for item in range(NEW)]), features


def logits(model, items, lengths):
    """Of every level, along the semantic IDs of all old items."""
    context, codes = model.encode(items, lengths), model.item_codes[:OLD].long().expand(len(items), -1, -1)
    prefixes = [codes[:, :1, :0], codes[:, :, :1], codes[:, :, :2]]
    return [model.next_code_logits(context, prefix) for prefix in prefixes]


@pytest.mark.parametrize("family", ["depth", "decoder", "seq2seq"])
@torch.no_grad()
def test_old_items_keep_their_codes_and_their_probabilities(family):
    model, index, features = make(family)
    larger = extend_recommender(model, index, features[OLD:])
    assert (larger.config.num_items, larger.config.index_fingerprint) == (OLD + NEW, index.fingerprint)
    assert model.config.num_items == OLD
    assert torch.equal(larger.item_codes[:OLD], model.item_codes)
    assert larger.item_codes.tolist() == index.codes.tolist()
    batch = torch.randint(OLD, (6, 4)), torch.tensor([4, 3, 2, 1, 0, 4])
    for ours, theirs in zip(logits(larger, *batch), logits(model, *batch), strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.isfinite(part).all() for part in logits(larger, torch.full((1, 2), OLD + 1), torch.tensor([2])))


def test_features_of_new_items_come_behind():
    model, index, features = make("depth")
    larger = extend_recommender(model, index, features[OLD:])
    np.testing.assert_array_equal(larger.items.features.numpy(), features)
    assert torch.equal(larger.items.ids.weight[:OLD], model.items.ids.weight)


def test_a_new_vector_is_the_mean_of_the_nearest_relatives():
    old, new = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], [[0, 0, 2], [0, 2, 0], [1, 0, 0], [3, 3, 3]]
    vectors = torch.tensor([[1.0], [3.0], [8.0], [20.0]])
    means = mean_of_prefix_siblings(vectors, np.array([*old, *new]), 4)
    # The first two share (0, 0); all three of first code 0; the same semantic ID; nothing: all of them.
    assert means[:, 0].tolist() == [2.0, 4.0, 20.0, 8.0]


def test_models_that_score_items_are_refused():
    model, index, features = make("sasrec")
    with pytest.raises(ConfigError, match="'sasrec' learns a score for every item, and has none for new ones"):
        extend_recommender(model, index, features[OLD:])


def test_what_only_training_can_give_is_refused():
    model, index, _ = make("depth")
    with pytest.raises(ConfigError, match=r"the model keeps items\.features for every item"):
        extend_recommender(model, index, None)
