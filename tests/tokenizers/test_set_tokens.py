"""Items as sets of tokens: no slot depends on another, nothing depends on their order, and what is saved."""

import numpy as np
import pytest
import torch

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemIndex, ItemTokenizer, fit_tokenizer
from genrec.tokenizers.families.set_tokens import SetSettings, SetTokenizer

WIDTH, SMALL = 4, {"num_levels": 4, "codebook_size": (6, 7, 8, 9), "hidden_sizes": (24,), "batch_size": 16}


@pytest.fixture(scope="module")
def features(tiny_dataset) -> ItemFeatures:
    values = np.random.default_rng(0).standard_normal((40, WIDTH + 10))
    parts = [{"encoder": "lexical", "width": 10}, {"encoder": "lightgcn", "width": WIDTH}]
    return ItemFeatures(values, tiny_dataset.item_ids, {"encoder": "concat", "parts": parts})


@pytest.fixture(scope="module")
def tokenizer(tiny_dataset, features) -> SetTokenizer:
    tokenizer = SetTokenizer(SetSettings(**SMALL, epochs=150, patience=150, learning_rate=0.01))
    tokenizer.fit(tiny_dataset, features)
    return tokenizer


def test_tokens_are_the_collaborative_vector_and_pieces_of_the_middle(tokenizer, features):
    tokens, state = tokenizer.tokens(features.values), tokenizer.state()
    assert tokens.shape == (40, 4, WIDTH)
    np.testing.assert_array_equal(tokens[:, 0], features.values[:, 10:])
    value = (features.values[3, :10] - state["network.mean"]) / state["network.scale"]
    hidden = np.maximum(state["network.encoder.0.weight"] @ value + state["network.encoder.0.bias"], 0)
    middle = state["network.encoder.2.weight"] @ hidden + state["network.encoder.2.bias"]
    np.testing.assert_allclose(tokens[3, 1:].reshape(-1), middle, atol=1e-5)


def test_the_semantic_tokens_tell_the_vectors(tokenizer, features):
    middle = tokenizer.tokens(features.values)[:, 1:].reshape(40, -1)
    rebuilt = tokenizer.network.decode(torch.from_numpy(middle)).detach().numpy()
    semantic = features.values[:, :10]
    assert ((semantic - rebuilt) ** 2).sum() < 0.2 * ((semantic - semantic.mean(axis=0)) ** 2).sum()


def test_codes_are_the_nearest_of_their_slot(tokenizer, features):
    tokens, codes = tokenizer.tokens(features.values), tokenizer.encode(features.values)
    for slot, codebook in enumerate(tokenizer.codebooks):
        distances = ((tokens[:, slot, None].astype(np.float64) - codebook[None]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(codes[:, slot], distances.argmin(axis=1))
    costs = tokenizer.last_level_costs(features.values, codes)
    np.testing.assert_allclose(costs, distances, atol=1e-5)


def test_the_order_of_slots_is_of_no_consequence(tokenizer, features, tmp_path):
    """Renaming the semantic slots renames the codes and changes nothing else, and no slot looks at another."""
    tokenizer.save_pretrained(tmp_path)
    other = ItemTokenizer.from_pretrained(tmp_path)
    order = np.array([0, 3, 1, 2])
    rows = np.concatenate([np.arange(WIDTH) + WIDTH * (slot - 1) for slot in order[1:]])
    last, first = other.network.encoder[2], other.network.decoder[0]
    last.weight.data, last.bias.data = last.weight.data[rows], last.bias.data[rows]
    first.weight.data = first.weight.data[:, rows]
    other.codebooks = [tokenizer.codebooks[slot] for slot in order]
    codes = tokenizer.encode(features.values)
    np.testing.assert_array_equal(other.encode(features.values), codes[:, order])
    np.testing.assert_allclose(other.tokens(features.values), tokenizer.tokens(features.values)[:, order], atol=1e-6)
    np.testing.assert_allclose(other.reconstruct(codes[:, order]), tokenizer.reconstruct(codes), atol=1e-5)
    other.codebooks = [codebook[::-1] if slot == 1 else codebook for slot, codebook in enumerate(other.codebooks)]
    changed = other.encode(features.values) != codes[:, order]
    assert changed[:, 1].all() or changed[:, 1].mean() > 0.5
    assert not changed[:, [0, 2, 3]].any()


def test_items_without_collaborative_vector_have_a_token_of_zeros(tokenizer, features):
    cold = features.values[:5].copy()
    cold[:, 10:] = 0
    assert not tokenizer.tokens(cold)[:, 0].any()
    np.testing.assert_array_equal(tokenizer.tokens(cold)[:, 1:], tokenizer.tokens(features.values[:5])[:, 1:])
    nearest = (tokenizer.codebooks[0].astype(np.float64) ** 2).sum(axis=1).argmin()
    assert (tokenizer.encode(cold)[:, 0] == nearest).all()


def test_codes_stand_for_vectors_of_both_kinds(tokenizer, features):
    codes = tokenizer.encode(features.values)
    rebuilt = tokenizer.reconstruct(codes)
    np.testing.assert_array_equal(rebuilt[:, 10:], tokenizer.codebooks[0][codes[:, 0]])
    assert ((features.values - rebuilt) ** 2).mean() < features.values.var(axis=0).mean()


def test_the_folder_holds_the_catalogues_tokens_and_says_that_it_is_a_set(tiny_dataset, features, tmp_path):
    fit_tokenizer(TokenizerConfig(name="set", **SMALL, epochs=2), tiny_dataset, features, tmp_path / "tokenizer")
    index = ItemIndex.load(tmp_path / "tokenizer")
    assert index.kind == "set"
    loaded = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    np.testing.assert_array_equal(loaded.catalogue_tokens, loaded.tokens(features.values))
    np.testing.assert_array_equal(index.codes[:, :4], loaded.encode(features.values))


def test_what_cannot_be_used_is_refused(tiny_dataset, tiny_features, tokenizer, features):
    with pytest.raises(ConfigError, match="the tokenizer set needs collaborative and semantic vectors"):
        SetTokenizer(SetSettings(num_levels=2, codebook_size=5)).fit(tiny_dataset, tiny_features)
    with pytest.raises(ConfigError, match="the tokenizer set has not been fitted"):
        SetTokenizer(SetSettings()).tokens(features.values)
    with pytest.raises(DataError, match=r"the vectors have the shape \(40, 5\)"):
        tokenizer.tokens(features.values[:, :5])
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        SetSettings(num_levels=1)
