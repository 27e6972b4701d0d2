"""Checks that every item tokenizer must pass; a new family is tested by being in the registry."""

import json
from pathlib import Path

import numpy as np
import pytest
from leakage import poisoned

from genrec.artifacts import read_manifest, verify_artifact
from genrec.config import DataConfig, FeaturesConfig, TokenizerConfig
from genrec.data import Dataset, make_dataset
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures, build_encoder
from genrec.tokenizers import (
    TOKENIZERS,
    ItemIndex,
    ItemTokenizer,
    TokenizerSettings,
    build_tokenizer,
    fit_tokenizer,
    tokenizer_class,
)
from genrec.tokenizers.base import CodebookSettings

SMALL = {"num_levels": 2, "codebook_size": (7, 5)}
# What a family needs beside SMALL (where it takes codebook sizes) to be quick on forty items.
QUICK = {
    "aligned": {"epochs": 3, "batch_size": 16},
    "cf-regularized": {"epochs": 3, "hidden_sizes": (12,), "latent_size": 6, "batch_size": 16},
    "cid": {"num_clusters": 3, "leaf_size": 6},
    "domain-contrastive": {
        "epochs": 3,
        "hidden_sizes": (12,),
        "latent_size": 6,
        "batch_size": 16,
        "domain_column": "genres",
    },
    "fsq": {"num_levels": 2, "grid": (3, 4), "num_heads": 1, "epochs": 3, "batch_size": 16},
    "gid": {"num_clusters": 4},
    "hybrid": {"first": {"name": "random", "base": 8}},
    "louvain": {"resolution": 3.0},
    "matryoshka": {"epochs": 3, "hidden_sizes": (12,), "latent_size": 6, "batch_size": 16},
    "mpq": {"epochs": 3, "hidden_sizes": (12,), "latent_size": 6, "batch_size": 16},
    "random": {"base": 8},
    "residual-fsq": {"grids": ((3, 3), (4, 2)), "epochs": 3, "hidden_sizes": (12,), "batch_size": 16},
    "rqvae": {"epochs": 3, "hidden_sizes": (12,), "latent_size": 6, "batch_size": 16},
    "semantic-path": {"column": "genres"},
    "set": {"epochs": 3, "hidden_sizes": (12,), "batch_size": 16},
    "title": {"vocabulary_size": 60, "num_levels": 4},
}

# Families that nothing random enters.
UNSEEDED = {"cid", "independent", "semantic-path", "sequential", "title"}


def has_codebooks(name: str) -> bool:
    return issubclass(tokenizer_class(name).Settings, CodebookSettings)


def recipe(name: str, **settings) -> TokenizerConfig:
    small = SMALL if has_codebooks(name) else {}
    return TokenizerConfig(name=name, **{**small, **QUICK.get(name, {}), **settings})


@pytest.fixture(scope="module")
def features(tiny_dataset) -> ItemFeatures:
    # Two parts, because some families read what users did beside what items are.
    return item_features(tiny_dataset)


def item_features(dataset: Dataset) -> ItemFeatures:
    parts = [{"encoder": "lexical", "dim": 12}, {"encoder": "fastrp", "dim": 4}]
    return build_encoder(FeaturesConfig(encoder="concat", parts=parts)).fit(dataset)


@pytest.fixture(params=sorted(TOKENIZERS), scope="module")
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, tiny_dataset, features, tmp_path_factory) -> Path:
    """One fitted tokenizer of each family, for the tests that only look at it."""
    out = tmp_path_factory.mktemp(name) / "tokenizer"
    fit_tokenizer(recipe(name), tiny_dataset, features, out)
    return out


def test_it_belongs_to_the_shelf(name):
    cls = tokenizer_class(name)
    assert issubclass(cls, ItemTokenizer)
    assert issubclass(cls.Settings, TokenizerSettings)
    assert cls.name == name
    assert cls.__doc__


def test_every_item_gets_an_identifier_of_its_own(folder, tiny_dataset):
    verify_artifact(folder, "tokenizer")
    index = ItemIndex.load(folder)
    assert index.num_items == tiny_dataset.num_items
    assert index.item_ids == tiny_dataset.item_ids
    assert len(np.unique(index.codes, axis=0)) == tiny_dataset.num_items
    assert (index.codes < np.array(index.level_sizes)).all()


def test_the_same_bytes_twice(name, folder, tiny_dataset, features, tmp_path):
    index = fit_tokenizer(recipe(name), tiny_dataset, features, tmp_path / "again")
    assert read_manifest(tmp_path / "again").fingerprint == read_manifest(folder).fingerprint
    assert ItemIndex.load(folder).fingerprint == index.fingerprint


def test_another_seed_is_another_tokenizer(name, folder, tiny_dataset, features, tmp_path):
    index = fit_tokenizer(recipe(name, seed=1), tiny_dataset, features, tmp_path / "other")
    if name in UNSEEDED:
        assert ItemIndex.load(folder).fingerprint == index.fingerprint
        return
    one, other = (read_manifest(path).files["codebooks.safetensors"].sha256 for path in (folder, tmp_path / "other"))
    assert one != other


def test_it_encodes_items_never_seen_and_loads_what_it_saved(folder, tiny_dataset, features, tmp_path):
    tokenizer = ItemTokenizer.from_pretrained(folder)
    assert tokenizer.level_sizes
    if not tokenizer.encodes_new_items:
        with pytest.raises(ConfigError, match="cannot name items that it was not fitted on"):
            tokenizer.encode(features.values)
        known = tokenizer.encode_catalogue(tiny_dataset, features)
        tokenizer.save_pretrained(tmp_path / "again")
        again = ItemTokenizer.from_pretrained(tmp_path / "again")
        np.testing.assert_array_equal(again.encode_catalogue(tiny_dataset, features), known)
        return
    items, unseen = tiny_dataset.items, features.values[::-1] * 0.9 + 0.01
    codes = tokenizer.encode_items(items, unseen)
    assert codes.dtype == np.int32
    assert codes.shape == (40, len(tokenizer.level_sizes))
    assert (codes >= 0).all()
    assert (codes < np.array(tokenizer.level_sizes)).all()
    tokenizer.save_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(ItemTokenizer.from_pretrained(tmp_path / "again").encode_items(items, unseen), codes)
    # Nothing depends on which items are encoded together.
    alone = [tokenizer.encode_items(items[row : row + 1], unseen[row : row + 1]) for row in range(8)]
    np.testing.assert_array_equal(np.concatenate(alone), codes[:8])
    assert tokenizer.encode_items(items[:0], unseen[:0]).shape == (0, len(tokenizer.level_sizes))


def test_held_out_interactions_change_no_byte(name, folder, tiny_interactions, tiny_items, tmp_path):
    table = poisoned(tiny_interactions, 40)
    dataset = make_dataset(table, tiny_items, DataConfig(k_core=0), tmp_path / "dataset")
    fit_tokenizer(recipe(name), dataset, item_features(dataset), tmp_path / "tokenizer")
    files = [
        {key: file.sha256 for key, file in read_manifest(at).files.items()} for at in (folder, tmp_path / "tokenizer")
    ]
    assert files[0] == files[1]


def test_the_folder_holds_no_pickle(folder):
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".parquet", ".png"}


def test_it_reports_its_quality(name, folder):
    index = ItemIndex.load(folder)
    report = json.loads((folder / "quality.json").read_text())
    assert report["tokenizer"] == name
    assert report["items"] == 40
    for level in report["levels"]:
        assert 0 < level["use"] <= 1
        assert 1 <= level["perplexity"] <= level["size"] * (1 + 1e-9)
    assert report["collisions"]["before"]["identifiers"] <= 40
    assert report["collisions"]["after"]["identifiers"] == len(np.unique(index.codes, axis=0))
    assert report["neighbors"]


def test_it_reassigns_codes_or_says_so_before_it_is_fitted(name):
    chosen = recipe(name, collisions="reassign")
    if tokenizer_class(name).reassigns():
        build_tokenizer(chosen)
        return
    with pytest.raises(ConfigError, match=f"(?s)the tokenizer {name} cannot reassign.*suffix, bucket or error"):
        build_tokenizer(chosen)


def test_it_refuses_what_it_cannot_use(name, tiny_dataset, features, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)unknown key colisions.*did you mean 'collisions'"):
        fit_tokenizer(recipe(name, colisions="error"), tiny_dataset, features, tmp_path / "tokenizer")
    foreign, owner = ("resolution", "louvain") if name != "louvain" else ("leaf_size", "cid")
    with pytest.raises(ConfigError, match=f"(?s)unknown key {foreign}: the tokenizer {name} has.*that has it: {owner}"):
        fit_tokenizer(recipe(name, **{foreign: 3}), tiny_dataset, features, tmp_path / "tokenizer")
    if has_codebooks(name):
        with pytest.raises(DataError, match="level 1 has 99 codes but the 40 items have 40 different vectors"):
            fit_tokenizer(recipe(name, codebook_size=(99, 5)), tiny_dataset, features, tmp_path / "tokenizer")
    broken = ItemFeatures(np.where(np.arange(40)[:, None] == 6, np.nan, features.values), features.item_ids, {})
    with pytest.raises(DataError, match=r"(?s)NaN or infinity.*row 6"):
        fit_tokenizer(recipe(name), tiny_dataset, broken, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir()), "nothing half-written"
