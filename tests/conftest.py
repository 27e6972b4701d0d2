"""A small world that every test may use: 60 users with a favourite genre, 40 items in four genres."""

import signal

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset

GENRES = ("space adventure", "garden cooking", "river crime", "winter romance")
NOUNS = ("Lantern", "Harbour", "Orchard", "Comet", "Violin", "Falcon", "Mirror", "Bridge", "Kettle", "Compass")

# Tests send signals to themselves and to what they start, also where nohup or a shell's "&" made these ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked slow unless asked for: ``pytest -m slow``."""
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session")
def tiny_items() -> pl.DataFrame:
    """40 items: item i is of genre i // 10; title and genres tell it."""
    rows = [
        {"item_id": f"i{10 * g + n:02d}", "title": f"{noun} of {genre.split()[0]}", "genres": genre}
        for g, genre in enumerate(GENRES)
        for n, noun in enumerate(NOUNS)
    ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="session")
def tiny_interactions(tiny_items: pl.DataFrame) -> pl.DataFrame:
    """60 users with 2 to 14 interactions: they walk through the items of a favourite genre, with a few excursions."""
    random = np.random.default_rng(7)
    rows = []
    for user in range(60):
        favourite, start = user % len(GENRES), int(random.integers(10))
        length = 2 if user < 3 else int(random.integers(6, 15))
        for step in range(length):
            stays = random.random() < 0.85
            item = favourite * 10 + (start + step) % 10 if stays else int(random.integers(40))
            rows.append((f"u{user:02d}", f"i{item:02d}", 1_600_000_000 + 86_400 * step + 60 * user, float(3 + stays)))
    columns = ["user_id", "item_id", "timestamp", "rating"]
    order = random.permutation(len(rows))
    return pl.DataFrame(rows, schema=columns, orient="row")[order]


@pytest.fixture(scope="session")
def tiny_dataset(
    tiny_interactions: pl.DataFrame, tiny_items: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Dataset:
    """The small world prepared with leave-one-out; three users are too short to be evaluated."""
    out = tmp_path_factory.mktemp("tiny") / "dataset"
    return make_dataset(tiny_interactions, tiny_items, DataConfig(k_core=0), out)
