"""Helpers for the tests of features."""

from pathlib import Path

import polars as pl
import pytest
from leakage import poisoned

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset


@pytest.fixture
def make_catalogue(tmp_path: Path):
    """A function from a table of items to a data set in which one user has seen them all."""

    def make(items: pl.DataFrame) -> Dataset:
        ids = items["item_id"].to_list()
        seen = pl.DataFrame({"user_id": ["u"] * len(ids), "item_id": ids, "timestamp": list(range(1, len(ids) + 1))})
        return make_dataset(seen, items, DataConfig(k_core=0), tmp_path / "catalogue")

    return make


@pytest.fixture
def poisoned_dataset(tiny_interactions: pl.DataFrame, tiny_items: pl.DataFrame, tmp_path: Path) -> Dataset:
    """The small world with other held-out interactions."""
    return make_dataset(poisoned(tiny_interactions, 40), tiny_items, DataConfig(k_core=0), tmp_path / "poisoned_data")
