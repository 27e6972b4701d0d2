"""What families that know only their catalogue do with another one."""

import numpy as np
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.families.independent import IndependentTokenizer


@pytest.fixture
def tokenizer(tiny_dataset, tiny_features) -> IndependentTokenizer:
    tokenizer = IndependentTokenizer(TokenizerSettings())
    tokenizer.fit(tiny_dataset, tiny_features)
    return tokenizer


def test_independent_codes_are_one_per_item(tokenizer, tiny_dataset, tiny_features):
    codes = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    assert codes.dtype == np.int32
    assert codes.tolist() == [[item] for item in range(40)]
    assert tokenizer.level_sizes == (40,)


def test_new_items_are_refused(tokenizer, tiny_dataset, tiny_features):
    for name in (tokenizer.encode, lambda values: tokenizer.encode_items(tiny_dataset.items, values)):
        with pytest.raises(ConfigError) as caught:
            name(tiny_features.values)
        message = str(caught.value)
        assert "independent cannot name items that it was not fitted on: a new item would need" in message
        assert "rqkmeans" in message


def test_another_catalogue_is_refused(tokenizer, tiny_interactions, tiny_items, tiny_features, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    renamed = tiny_items.with_columns(item_id=tiny_items["item_id"].str.replace("i", "j"))
    interactions = tiny_interactions.with_columns(item_id=tiny_interactions["item_id"].str.replace("i", "j"))
    other = make_dataset(interactions, renamed, DataConfig(k_core=0), tmp_path / "dataset")
    features = ItemFeatures(tiny_features.values, other.item_ids, {})
    loaded = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    with pytest.raises(DataError, match=r"(?s)the 40 items are not those that the tokenizer independent was fitted on"):
        loaded.encode_catalogue(other, features)


def test_what_has_not_been_fitted_names_nothing(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match="the tokenizer independent has not been fitted"):
        IndependentTokenizer(TokenizerSettings()).encode_catalogue(tiny_dataset, tiny_features)
