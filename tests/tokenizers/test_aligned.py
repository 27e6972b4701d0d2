"""Aligned codes: the two kinds of vectors meet, and an item without one of them is near where it belongs."""

import numpy as np
import pytest

from genrec.errors import ConfigError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.families.aligned import AlignedSettings, AlignedTokenizer

WIDTH = 6


@pytest.fixture(scope="module")
def features(tiny_dataset) -> ItemFeatures:
    """Collaborative directions, and semantic vectors that are a rotation of them with noise and a shift."""
    random = np.random.default_rng(0)
    collaborative = random.standard_normal((40, WIDTH))
    semantic = collaborative @ random.standard_normal((WIDTH, 9)) + 3 + 0.1 * random.standard_normal((40, 9))
    parts = [{"encoder": "lexical", "width": 9}, {"encoder": "lightgcn", "width": WIDTH}]
    return ItemFeatures(np.hstack([semantic, collaborative]), tiny_dataset.item_ids, {"parts": parts})


@pytest.fixture(scope="module")
def tokenizer(tiny_dataset, features) -> AlignedTokenizer:
    return fitted(tiny_dataset, features)


def fitted(dataset, features, **settings) -> AlignedTokenizer:
    small = {"num_levels": 2, "codebook_size": 8, "epochs": 200, "patience": 200, "batch_size": 16, "held_out": 0.2}
    tokenizer = AlignedTokenizer(AlignedSettings(**{**small, "learning_rate": 0.02, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_each_semantic_vector_finds_its_own_collaborative_one(tokenizer, features):
    space = tokenizer.to_code_space(features.values)
    known, adapted = space[:, :WIDTH], space[:, WIDTH:]
    assert ((adapted @ known.T).argmax(axis=1) == np.arange(40)).mean() > 0.5, "by chance it would be one in forty"
    for half in (known, adapted):
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)


def test_the_code_space_by_hand(tokenizer, features):
    state, value = tokenizer.state(), features.values[5]
    centred = value[9:] - features.values[:, 9:].mean(axis=0)
    linear = state["network.0.weight"] @ value[:9] + state["network.0.bias"]
    scaled = (linear - linear.mean()) / np.sqrt(linear.var() + 1e-5)
    adapted = scaled * state["network.1.weight"] + state["network.1.bias"]
    expected = np.concatenate([centred / np.linalg.norm(centred), adapted / np.linalg.norm(adapted)])
    np.testing.assert_allclose(tokenizer.to_code_space(features.values)[5], expected, atol=1e-4)


def test_items_without_collaborative_vector_stand_where_their_meaning_is(tokenizer, features):
    cold = features.values.copy()
    cold[:, 9:] = 0
    space, whole = tokenizer.to_code_space(cold), tokenizer.to_code_space(features.values)
    np.testing.assert_array_equal(space[:, :WIDTH], space[:, WIDTH:])
    np.testing.assert_array_equal(space[:, WIDTH:], whole[:, WIDTH:])
    same = (tokenizer.encode(cold)[:, 0] == tokenizer.encode(features.values)[:, 0]).mean()
    assert same > 0.7, "most keep their first code; by chance it would be an eighth"


def test_codes_know_of_both(tiny_dataset, features, tokenizer):
    for columns in (slice(0, 9), slice(9, 15)):
        changed = features.values.copy()
        changed[:, columns] = changed[::-1, columns]
        assert not np.array_equal(tokenizer.encode(changed), tokenizer.encode(features.values))


def test_it_saves_and_loads(tokenizer, features, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = ItemTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.encode(features.values), tokenizer.encode(features.values))
    assert loaded.reconstruct(loaded.encode(features.values)) is None


def test_features_of_one_kind_are_refused_with_the_recipe_for_both(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match="the tokenizer aligned needs collaborative and semantic vectors") as caught:
        fitted(tiny_dataset, tiny_features)
    assert "parts: [{encoder: sentence}, {encoder: lightgcn}]" in str(caught.value)
