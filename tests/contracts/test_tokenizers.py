"""Checks that every item tokenizer must pass; a new family is tested by being in the registry."""

import numpy as np
import pytest

from genrec.artifacts import read_manifest, verify_artifact
from genrec.config import FeaturesConfig, TokenizerConfig
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures, build_encoder
from genrec.tokenizers import TOKENIZERS, ItemIndex, ItemTokenizer, TokenizerSettings, fit_tokenizer, tokenizer_class
from genrec.tokenizers.base import CodebookSettings

SMALL = {"num_levels": 2, "codebook_size": (7, 5)}
# What a family needs beside SMALL (where it takes codebook sizes) to be quick on forty items.
QUICK = {"rqvae": {"epochs": 3, "hidden_sizes": (12,), "latent_size": 6, "batch_size": 16}}

# Families that nothing random enters.
UNSEEDED: set[str] = set()


def has_codebooks(name: str) -> bool:
    return issubclass(tokenizer_class(name).Settings, CodebookSettings)


def recipe(name: str, **settings) -> TokenizerConfig:
    small = SMALL if has_codebooks(name) else {}
    return TokenizerConfig(name=name, **{**small, **QUICK.get(name, {}), **settings})


@pytest.fixture(scope="module")
def features(tiny_dataset) -> ItemFeatures:
    return build_encoder(FeaturesConfig(encoder="lexical", dim=12)).fit(tiny_dataset)


@pytest.fixture(params=sorted(TOKENIZERS))
def name(request) -> str:
    return request.param


def test_it_belongs_to_the_shelf(name):
    cls = tokenizer_class(name)
    assert issubclass(cls, ItemTokenizer)
    assert issubclass(cls.Settings, TokenizerSettings)
    assert cls.name == name
    assert cls.__doc__


def test_every_item_gets_an_identifier_of_its_own(name, tiny_dataset, features, tmp_path):
    index = fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / "tokenizer")
    verify_artifact(tmp_path / "tokenizer", "tokenizer")
    assert index.num_items == tiny_dataset.num_items
    assert index.item_ids == tiny_dataset.item_ids
    assert len(np.unique(index.codes, axis=0)) == tiny_dataset.num_items
    assert (index.codes < np.array(index.level_sizes)).all()
    assert ItemIndex.load(tmp_path / "tokenizer").fingerprint == index.fingerprint


def test_the_same_bytes_twice(name, tiny_dataset, features, tmp_path):
    for folder in ("a", "b"):
        fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / folder)
    assert read_manifest(tmp_path / "a").fingerprint == read_manifest(tmp_path / "b").fingerprint


def test_another_seed_is_another_tokenizer(name, tiny_dataset, features, tmp_path):
    if name in UNSEEDED:
        index = [fit_tokenizer(recipe(name, seed=s), tiny_dataset, features, tmp_path / str(s)) for s in (1, 2)]
        assert index[0].fingerprint == index[1].fingerprint
        return
    files = []
    for seed in (1, 2):
        fit_tokenizer(recipe(name, seed=seed), tiny_dataset, features, tmp_path / str(seed))
        files.append(read_manifest(tmp_path / str(seed)).files["codebooks.safetensors"].sha256)
    assert files[0] != files[1]


def test_it_encodes_items_never_seen_and_loads_what_it_saved(name, tiny_dataset, features, tmp_path):
    fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / "tokenizer")
    tokenizer = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer.level_sizes
    if not tokenizer.encodes_new_items:
        with pytest.raises(ConfigError, match="cannot name items that it was not fitted on"):
            tokenizer.encode(features.values)
        known = tokenizer.encode_catalogue(tiny_dataset, features)
        tokenizer.save_pretrained(tmp_path / "again")
        again = ItemTokenizer.from_pretrained(tmp_path / "again")
        np.testing.assert_array_equal(again.encode_catalogue(tiny_dataset, features), known)
        return
    unseen = features.values[::-1] * 0.9 + 0.01
    codes = tokenizer.encode(unseen)
    assert codes.dtype == np.int32
    assert codes.shape == (40, len(tokenizer.level_sizes))
    assert (codes >= 0).all()
    assert (codes < np.array(tokenizer.level_sizes)).all()
    tokenizer.save_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(ItemTokenizer.from_pretrained(tmp_path / "again").encode(unseen), codes)
    # Nothing depends on which items are encoded together.
    np.testing.assert_array_equal(np.concatenate([tokenizer.encode(row[None]) for row in unseen[:8]]), codes[:8])
    assert tokenizer.encode(unseen[:0]).shape == (0, len(tokenizer.level_sizes))


def test_the_folder_holds_no_pickle(name, tiny_dataset, features, tmp_path):
    fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / "tokenizer")
    suffixes = {path.suffix for path in (tmp_path / "tokenizer").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".parquet", ".png"}


def test_it_reports_its_quality(name, tiny_dataset, features, tmp_path):
    import json

    index = fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / "tokenizer")
    report = json.loads((tmp_path / "tokenizer" / "quality.json").read_text())
    assert report["tokenizer"] == name
    assert report["items"] == 40
    for level in report["levels"]:
        assert 0 < level["use"] <= 1
        assert 1 <= level["perplexity"] <= level["size"]
    assert report["collisions"]["before"]["identifiers"] <= 40
    assert report["collisions"]["after"]["identifiers"] == len(np.unique(index.codes, axis=0))
    assert report["neighbours"]


def test_it_refuses_what_it_cannot_use(name, tiny_dataset, features, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)unknown key colisions.*did you mean 'collisions'"):
        fit_tokenizer(recipe(name, colisions="error"), tiny_dataset, features, tmp_path / "tokenizer")
    if has_codebooks(name):
        with pytest.raises(DataError, match="level 1 has 99 codes but the 40 items have 40 different vectors"):
            fit_tokenizer(recipe(name, codebook_size=(99, 5)), tiny_dataset, features, tmp_path / "tokenizer")
    broken = ItemFeatures(np.where(np.arange(40)[:, None] == 6, np.nan, features.values), features.item_ids, {})
    with pytest.raises(DataError, match=r"(?s)NaN or infinity.*row 6"):
        fit_tokenizer(recipe(name), tiny_dataset, broken, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir()), "nothing half-written"
