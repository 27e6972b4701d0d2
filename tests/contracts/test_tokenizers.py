"""Checks that every item tokenizer must pass; a new family is tested by being in the registry."""

from pathlib import Path

import pytest

from genrec.artifacts import read_manifest
from genrec.config import TokenizerConfig
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.testing import TokenizerContract, check_tokenizer, tiny_features
from genrec.tokenizers import (
    TOKENIZERS,
    ItemIndex,
    build_tokenizer,
    fit_tokenizer,
    tokenizer_class,
)
from genrec.tokenizers.base import CodebookSettings

SMALL = {"num_levels": 2, "codebook_size": (7, 5)}
# What a family needs next to SMALL (where it takes codebook sizes) to be quick on forty items.
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
    return tiny_features(tiny_dataset)


@pytest.fixture(params=sorted(TOKENIZERS), scope="module")
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def contract(name, tiny_dataset, features) -> TokenizerContract:
    return TokenizerContract(name, tiny_dataset, features, recipe(name).settings)


@pytest.fixture(scope="module")
def folder(name, tiny_dataset, features, tmp_path_factory) -> Path:
    """One fitted tokenizer of each family, for the tests that only look at it."""
    out = tmp_path_factory.mktemp(name) / "tokenizer"
    fit_tokenizer(recipe(name), tiny_dataset, features, out)
    return out


def test_it_is_documented_and_named(contract):
    contract.check_class()


def test_every_item_gets_a_semantic_id_of_its_own(contract, folder):
    contract.check_semantic_ids(folder)


def test_the_same_bytes_twice(contract, folder, tmp_path):
    contract.check_same_bytes(folder, tmp_path / "again")


def test_another_seed_is_another_tokenizer(name, folder, tiny_dataset, features, tmp_path):
    index = fit_tokenizer(recipe(name, seed=1), tiny_dataset, features, tmp_path / "other")
    if name in UNSEEDED:
        assert ItemIndex.load(folder).fingerprint == index.fingerprint
        return
    one, other = (read_manifest(path).files["codebooks.safetensors"].sha256 for path in (folder, tmp_path / "other"))
    assert one != other


def test_it_encodes_items_never_seen_and_loads_what_it_saved(contract, folder, tmp_path):
    contract.check_new_items(folder, tmp_path / "again")


def test_held_out_interactions_change_no_byte(contract, folder, tmp_path):
    contract.check_held_out(folder, tmp_path)


def test_the_folder_holds_no_pickle(contract, folder):
    contract.check_files(folder)


def test_it_reports_its_quality(contract, folder):
    contract.check_quality(folder)


def test_it_reassigns_codes_or_says_so_before_it_is_fitted(name):
    chosen = recipe(name, collisions="reassign")
    if tokenizer_class(name).reassigns():
        build_tokenizer(chosen)
        return
    with pytest.raises(ConfigError, match=f"(?s)the tokenizer {name} cannot reassign.*suffix, bucket or error"):
        build_tokenizer(chosen)


def test_it_refuses_what_it_cannot_use(contract, name, tiny_dataset, features, tmp_path):
    foreign, owner = ("resolution", "louvain") if name != "louvain" else ("leaf_size", "cid")
    with pytest.raises(ConfigError, match=f"(?s)unknown key {foreign}: the tokenizer {name} has.*that has it: {owner}"):
        fit_tokenizer(recipe(name, **{foreign: 3}), tiny_dataset, features, tmp_path / "tokenizer")
    if has_codebooks(name):
        with pytest.raises(DataError, match="level 1 has 99 codes but the 40 items have 40 different vectors"):
            fit_tokenizer(recipe(name, codebook_size=(99, 5)), tiny_dataset, features, tmp_path / "tokenizer")
    contract.check_bad_input(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_tokenizer_is_checked_by_name(tmp_path):
    check_tokenizer("rqkmeans", SMALL, tmp_path / "checks")


def test_a_tokenizer_that_shares_semantic_ids_is_found(tiny_dataset, features, tmp_path):
    contract = TokenizerContract("rqkmeans", tiny_dataset, features, {**SMALL, "collisions": "bucket"})
    contract.fit(tmp_path / "tokenizer")
    with pytest.raises(AssertionError, match=r"\d+ semantic IDs for 40 items"):
        contract.check_semantic_ids(tmp_path / "tokenizer")
