"""Counts of a hand-made data set, worked out on paper."""

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset

ROWS = [
    ("u", "a", 0), ("u", "b", 86_400), ("u", "a", 172_800), ("u", "c", 259_200),
    ("v", "a", 1), ("v", "d", 2),
]  # fmt: skip
ITEMS = pl.DataFrame({"item_id": list("abcde"), "title": ["A", "B", "", None, "E"], "tags": [["x"], [], None, [], []]})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    interactions = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")
    return make_dataset(interactions, ITEMS, DataConfig(k_core=0), tmp_path_factory.mktemp("s") / "out")


def test_statistics(dataset):
    numbers = dataset.statistics
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == (2, 5, 6)
    assert numbers["density"] == pytest.approx(6 / 10)
    assert numbers["repeated_interactions"] == 1
    assert numbers["interactions_per_user"] == {"min": 2, "median": 3.0, "mean": 3.0, "max": 4}
    assert numbers["interactions_per_item"] == {"min": 0, "median": 1.0, "mean": 1.2, "max": 3}
    # Popularities 0, 1, 1, 1, 3: the sum of all |x - y| over ordered pairs, over 2 n times the total.
    pairs = sum(abs(x - y) for x in (0, 1, 1, 1, 3) for y in (0, 1, 1, 1, 3))
    assert numbers["popularity_gini"] == pytest.approx(pairs / (2 * 5 * 6))
    assert numbers["items_without_interactions"] == 1
    # In training: u has a, b; v has a, d.
    assert numbers["items_without_training"] == 2
    assert numbers["training"] == {"interactions": 4, "users": 2}
    assert numbers["validation"] == {"interactions": 1, "evaluated_users": 1}
    assert numbers["test"] == {"interactions": 1, "evaluated_users": 1}
    assert numbers["training_only_users"] == 1
    assert numbers["time"] == {
        "known": 6, "first": 0, "last": 259_200, "first_day": "1970-01-01", "last_day": "1970-01-04",
    }  # fmt: skip
    assert numbers["items_with_text"] == pytest.approx({"title": 3 / 5, "tags": 1 / 5})
    assert numbers["dropped"] == {"duplicates": 0, "unknown_items": 0, "k_core": 0}


def test_the_page_shows_every_number(dataset):
    page = (dataset.path / "statistics.md").read_text(encoding="utf-8")
    for row in (
        "| users | 2 |",
        "| interactions per user: max | 4 |",
        "| density | 0.6 |",
        "| time: last day | 1970-01-04 |",
    ):
        assert row in page
    leaves = sum(len(value) if isinstance(value, dict) else 1 for value in dataset.statistics.values())
    assert page.count("\n|") == leaves + 2
