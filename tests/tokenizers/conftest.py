"""Helpers for the tests of item tokenizers."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from leakage import poisoned

from genrec.config import DataConfig, FeaturesConfig
from genrec.data import Dataset, make_dataset
from genrec.features import ItemFeatures, build_encoder
from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.collisions import Catalogue, Resolution, resolve_collisions


@pytest.fixture(scope="session")
def tiny_features(tiny_dataset: Dataset) -> ItemFeatures:
    """Lexical vectors of the small world, float32 [40, 12]."""
    return build_encoder(FeaturesConfig(encoder="lexical", dim=12)).fit(tiny_dataset)


@pytest.fixture
def poisoned_dataset(tiny_interactions: pl.DataFrame, tiny_items: pl.DataFrame, tmp_path: Path) -> Dataset:
    """The small world with other held-out interactions."""
    return make_dataset(poisoned(tiny_interactions, 40), tiny_items, DataConfig(k_core=0), tmp_path / "poisoned_data")


@pytest.fixture
def with_vectors(tiny_dataset: Dataset):
    """A function that gives the small world's items other vectors."""

    def make(values: np.ndarray) -> ItemFeatures:
        return ItemFeatures(np.asarray(values, dtype=np.float32), tiny_dataset.item_ids, {})

    return make


@pytest.fixture
def with_suffix():
    """A function that gives the items of a fitted tokenizer semantic IDs of their own, as fit_tokenizer does."""

    def resolve(tokenizer: ItemTokenizer, dataset: Dataset, features: ItemFeatures) -> Resolution:
        codes = tokenizer.encode_catalogue(dataset, features)
        catalogue = Catalogue(dataset.item_ids, dataset.train_popularity(), lambda rows: np.zeros((len(rows), 1)))
        return resolve_collisions("suffix", codes, tokenizer.level_sizes, catalogue)

    return resolve
