"""A data set of three known users and a larger random one."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset

CONFIG = DataConfig(k_core=0)


def write_dataset(folder: Path, sequences: dict[str, list[str]], items: list[str] | None = None) -> Dataset:
    """Leave-one-out data set from user id to item ids in order."""
    rows = [(user, item, time) for user, held in sequences.items() for time, item in enumerate(held)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    names = items or sorted({item for held in sequences.values() for item in held})
    catalogue = pl.DataFrame({"item_id": names, "title": [f"Title of {name}" for name in names]})
    return make_dataset(interactions, catalogue, CONFIG, folder)


@pytest.fixture(scope="session")
def make():
    """The function that writes a data set from sequences."""
    return write_dataset


@pytest.fixture(scope="session")
def sequences() -> dict[str, list[str]]:
    """120 users with 4 to 12 distinct items out of 60, some much more popular than others."""
    generator = np.random.default_rng(1)
    weights = 1 / np.arange(1, 61)
    lengths = generator.integers(4, 13, 120)
    chosen = [generator.choice(60, length, replace=False, p=weights / weights.sum()) for length in lengths]
    return {f"u{user}": [f"i{item}" for item in held] for user, held in enumerate(chosen)}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """u1: a b c d; u2: b c e; u3: a c only; items a b c d e f."""
    held = {"u1": ["a", "b", "c", "d"], "u2": ["b", "c", "e"], "u3": ["a", "c"]}
    return write_dataset(tmp_path_factory.mktemp("small") / "dataset", held, list("abcdef"))


@pytest.fixture(scope="session")
def skewed(tmp_path_factory: pytest.TempPathFactory, sequences) -> Dataset:
    """The data set of ``sequences``."""
    return write_dataset(tmp_path_factory.mktemp("skewed") / "dataset", sequences, [f"i{item}" for item in range(60)])
