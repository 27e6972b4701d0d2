"""The benchmark of data beyond memory on a data set that fits: its tables are as told, and its commands run through."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from genrec.cli import main
from genrec.data import Dataset

BENCHMARK = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[2] / "scripts/benchmarks/beyond_memory.py"), run_name="benchmark")
)
USERS, ITEMS, INTERACTIONS = 300, 600, 3_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("beyond")
    BENCHMARK.make_tables(made, USERS, ITEMS, INTERACTIONS)
    return made


def test_the_tables(folder):
    interactions = pl.read_parquet(folder / "raw" / "interactions" / "*.parquet")
    counts = interactions["user_id"].value_counts()
    assert counts["count"].to_list() == [INTERACTIONS // USERS] * USERS
    assert interactions["user_id"].head(USERS).n_unique() == USERS
    items = pl.read_parquet(folder / "raw" / "items" / "*.parquet")
    assert items["item_id"].to_list() == [f"i{number}" for number in range(ITEMS)]
    numbers = interactions["item_id"].str.slice(1).cast(pl.Int64)
    assert numbers.is_between(0, ITEMS - 1).all()
    assert (numbers < ITEMS // 4).mean() == pytest.approx(0.5, abs=0.05)
    vectors = np.load(folder / "raw" / "vectors" / "vectors.npy")
    assert vectors.shape == (ITEMS, 64)
    assert vectors.std() > 0.5


def test_every_stage_ends_well(folder):
    for name, command in BENCHMARK.stages(folder, minutes=0.02).items():
        assert main([*command, "--out", str(folder / BENCHMARK.RESULTS[name])]) == 0, name
    dataset = Dataset.load(folder / "dataset", verify=True)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == (USERS, ITEMS, INTERACTIONS)
    lists = pl.read_parquet(folder / "lists.parquet")
    sampled = pl.read_parquet(folder / "raw" / "sample.parquet")["user_id"].unique()
    assert lists["user_id"].unique().sort().equals(sampled.sort())
    assert lists.group_by("user_id").agg(pl.col("item_id").n_unique())["item_id"].to_list() == [10] * len(sampled)


def test_what_a_command_takes(tmp_path):
    hold = "import sys; held = b'x' * (1500 << 20); print(len(held)); sys.exit(3)"
    found = BENCHMARK.measure([sys.executable, "-c", hold], tmp_path / "log")
    assert found["exit_code"] == 3
    assert 1500 / 1024 < found["peak_gb"] < 2
    assert 0 < found["cpu_seconds"] <= found["seconds"] + 0.1
    assert int((tmp_path / "log").read_text()) == 1500 << 20
