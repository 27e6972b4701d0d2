"""Counts of the published data sets, where they are at hand: GENREC_DATA=folder pytest -m slow tests/data."""

import os
from pathlib import Path

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import prepare_dataset


@pytest.mark.slow
def test_beauty_has_the_counts_of_the_papers(tmp_path):
    folder = Path(os.environ["GENREC_DATA"]) / "amazon_beauty_2014"
    dataset = prepare_dataset(DataConfig(path=str(folder), k_core=0), tmp_path / "beauty")
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (22_363, 12_101, 198_502)
    table = pl.read_parquet(folder / "interactions.parquet").sort("user_id", "order")
    last = dict(table.group_by("user_id").last().select("user_id", "item_id").rows())
    histories, targets = dataset.evaluation("test")
    assert len(histories) == 22_363
    assert {dataset.user_ids[u]: dataset.item_ids[i] for u, i in zip(targets.users, targets.items, strict=True)} == last
    five_core = prepare_dataset(DataConfig(path=str(folder), k_core=5), tmp_path / "five")
    assert five_core.num_interactions == dataset.num_interactions
