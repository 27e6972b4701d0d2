"""A trained model on another catalogue: what belongs to items is exchanged, every weight stays."""

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.errors import ArtifactError, ConfigError
from genrec.models import build_recommender
from genrec.models.resize_catalogue import replace_catalogue
from genrec.tokenizers.index import ItemIndex

SIZES = (5, 5, 5)


def make_index(num_items: int, seed: int, sizes=SIZES) -> ItemIndex:
    codes = np.random.default_rng(seed).integers(5, size=(num_items, len(sizes))).astype(np.int32)
    return ItemIndex(codes, sizes, [f"{seed}-{item}" for item in range(num_items)])


def make_features(num_items: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_items, 7)).astype(np.float32)


def make_model(family: str, **settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name=family, **{"hidden_size": 16, "num_heads": 2, "num_layers": 1, **settings})
    return build_recommender(config, num_items=12, index=make_index(12, 1), features=make_features(12, 1)).eval()


@pytest.mark.parametrize("num_items", [30, 12])
@pytest.mark.parametrize(
    ("family", "settings"),
    [("recgpt", {}), ("decoder", {}), ("seq2seq", {}), ("discrec", {}), ("depth", {"use_ids": False})],
)
@torch.no_grad()
def test_it_is_the_model_that_was_built_for_the_other_catalogue(family, settings, num_items):
    """The reference: an untrained model of the other catalogue into which the trained weights are put by hand."""
    model, index, features = make_model(family, **settings), make_index(num_items, 2), make_features(num_items, 2)
    config = RecommenderConfig(name=family, **{"hidden_size": 16, "num_heads": 2, "num_layers": 1, **settings})
    expected = build_recommender(config, num_items=num_items, index=index, features=features).eval()
    for ours, theirs in zip(expected.parameters(), model.parameters(), strict=True):
        ours.copy_(theirs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = replace_catalogue(model, index, features)
    assert found.config.num_items == num_items
    assert found.config.index_fingerprint == index.fingerprint
    items, lengths = torch.tensor([[3, 11, 7], [9, 0, 0]]), torch.tensor([3, 1])
    prefix = torch.tensor([[[1], [4]]] * 2)
    logits = [one.next_code_logits(one.encode(items, lengths), prefix) for one in (found, expected)]
    assert torch.equal(*logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_single_items_are_refused_even_if_as_many():
    with pytest.raises(ConfigError, match=r"'depth' keeps items\.ids\.weight for every item(.|\n)*use_ids: false"):
        replace_catalogue(make_model("depth"), make_index(12, 2), make_features(12, 2))


def test_models_that_score_items_are_refused():
    with pytest.raises(ConfigError, match="learns a score for every item"):
        replace_catalogue(make_model("sasrec"), make_index(12, 2), make_features(12, 2))


@pytest.mark.parametrize("features", [None, make_features(9, 2)])
def test_features_of_every_item_are_needed(features):
    with pytest.raises(ConfigError, match=r"keeps items\.features for every item"):
        replace_catalogue(make_model("recgpt"), make_index(30, 2), features)


def test_other_codebooks_are_refused():
    with pytest.raises(ArtifactError, match=r"expected: \[5, 5, 5\] codes, found \[5, 5\]"):
        replace_catalogue(make_model("recgpt"), make_index(30, 2, (5, 5)), make_features(30, 2))
