"""Two semantic IDs in one: the codes are those of the parts."""

import numpy as np
import pytest

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError
from genrec.tokenizers import ItemTokenizer, build_tokenizer

CID = {"name": "cid", "num_clusters": 4, "leaf_size": 10}
KMEANS = {"name": "rqkmeans", "num_levels": 2, "codebook_size": 5}
PATH = {"name": "semantic-path", "column": "genres"}


def hybrid(first: dict, second: dict, **settings) -> TokenizerConfig:
    return TokenizerConfig(name="hybrid", first=first, second=second, **settings)


def codes_alone(part: dict, dataset, features) -> np.ndarray:
    tokenizer = build_tokenizer(TokenizerConfig(**part))
    tokenizer.fit(dataset, features)
    return tokenizer.encode_catalogue(dataset, features)


@pytest.mark.parametrize(
    ("first", "second"),
    [(CID, {"name": "independent"}), (PATH, CID), (KMEANS, {"name": "random", "base": 8}), (PATH, KMEANS)],
)
def test_codes_are_those_of_the_parts_alone(first, second, tiny_dataset, tiny_features, tmp_path):
    tokenizer = build_tokenizer(hybrid(first, second))
    tokenizer.fit(tiny_dataset, tiny_features)
    expected = np.hstack([codes_alone(part, tiny_dataset, tiny_features) for part in (first, second)])
    np.testing.assert_array_equal(tokenizer.encode_catalogue(tiny_dataset, tiny_features), expected)
    tokenizer.save_pretrained(tmp_path)
    loaded = ItemTokenizer.from_pretrained(tmp_path)
    assert loaded.level_sizes == tokenizer.level_sizes
    assert loaded.settings == tokenizer.settings
    np.testing.assert_array_equal(loaded.encode_catalogue(tiny_dataset, tiny_features), expected)


def test_an_independent_code_leaves_nothing_to_the_policy(tiny_dataset, tiny_features, with_suffix):
    tokenizer = build_tokenizer(hybrid(CID, {"name": "independent"}))
    tokenizer.fit(tiny_dataset, tiny_features)
    resolved = with_suffix(tokenizer, tiny_dataset, tiny_features)
    assert resolved.level_sizes == (4, 40)
    assert resolved.codes[:, 1].tolist() == list(range(40))


def test_new_items_need_parts_that_can_name_them(tiny_dataset, tiny_features):
    able, unable = (build_tokenizer(hybrid(PATH, second)) for second in (KMEANS, CID))
    for tokenizer in (able, unable):
        tokenizer.fit(tiny_dataset, tiny_features)
    assert able.encodes_new_items
    assert not unable.encodes_new_items
    assert able.encode_items(tiny_dataset.items[:3], tiny_features.values[:3]).shape == (3, 3)
    with pytest.raises(ConfigError, match="the tokenizer cid cannot name items that it was not fitted on"):
        unable.encode_items(tiny_dataset.items, tiny_features.values)


def test_parts_have_the_seed_of_the_whole_or_their_own(tiny_dataset, tiny_features):
    second = {"name": "random", "base": 8}
    codes = {}
    for seed, own in ((1, None), (2, None), (2, 1)):
        config = hybrid({"name": "independent"}, second if own is None else {**second, "seed": own}, seed=seed)
        tokenizer = build_tokenizer(config)
        tokenizer.fit(tiny_dataset, tiny_features)
        codes[seed, own] = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    assert (codes[1, None] != codes[2, None]).any()
    np.testing.assert_array_equal(codes[1, None], codes[2, 1])


def test_three_parts(tiny_dataset, tiny_features):
    inner = {"name": "hybrid", "first": CID, "second": KMEANS}
    tokenizer = build_tokenizer(hybrid(PATH, inner))
    tokenizer.fit(tiny_dataset, tiny_features)
    assert tokenizer.level_sizes == (4, 4, 5, 5)


def test_wrong_parts_are_refused():
    with pytest.raises(ConfigError, match="there is no item tokenizer 'sid'"):
        build_tokenizer(hybrid({"name": "sid"}, CID))
    with pytest.raises(ConfigError, match=r"(?s)unknown key codebook_size.*tokenizer.first"):
        build_tokenizer(hybrid({**CID, "codebook_size": 8}, KMEANS))
    with pytest.raises(ConfigError, match=r"(?s)collisions is decided by the whole.*second.*move collisions to"):
        build_tokenizer(hybrid(CID, {**KMEANS, "collisions": "bucket"}))
    with pytest.raises(ConfigError, match=r"(?s)unknown key third.*second"):
        build_tokenizer(TokenizerConfig(name="hybrid", first=CID, third=KMEANS))


def test_what_has_not_been_fitted_names_nothing(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match="the tokenizer hybrid has not been fitted"):
        build_tokenizer(hybrid(CID, KMEANS)).encode_catalogue(tiny_dataset, tiny_features)


def test_a_set_is_refused_as_a_part(monkeypatch):
    from genrec.tokenizers.families.rqkmeans import ResidualKMeansTokenizer

    monkeypatch.setattr(ResidualKMeansTokenizer, "kind", "set")
    with pytest.raises(ConfigError, match=r"(?s)the codes of rqkmeans have no order.*tokenizer.second"):
        build_tokenizer(hybrid(CID, KMEANS))
