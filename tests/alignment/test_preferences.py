"""The table of preferences: what goes in comes out, and every kind of nonsense is named with its rows."""

import numpy as np
import polars as pl
import pytest

from genrec.alignment.preferences import SCHEMA, Preferences
from genrec.data.histories import Histories
from genrec.errors import DataError

IDS = ["a", "b", "c", "d", "e"]


def some() -> Preferences:
    return Preferences(
        Histories.from_lists([[0, 1], [2], [3, 4, 0]]),
        np.array([2, -1, 1]),
        np.array([[3, 4], [0, -1], [-1, -1]]),
        np.array([1.0, 0.5, 2.0], dtype=np.float32),
        "mine",
    )


def table(**changes) -> pl.DataFrame:
    values = {"history": [["a", "b"], ["c"]], "chosen": ["c", "d"], "rejected": [["d"], ["a", "b"]], **changes}
    return pl.DataFrame({name: column for name, column in values.items() if column is not None})


def load(tmp_path, frame: pl.DataFrame) -> Preferences:
    frame.write_parquet(tmp_path / "p.parquet")
    return Preferences.load(tmp_path / "p.parquet", IDS)


def test_what_is_saved_is_loaded(tmp_path):
    some().save(tmp_path / "p.parquet", IDS)
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert dict(frame.schema) == SCHEMA
    assert frame.row(0) == (["a", "b"], "c", ["d", "e"], 1.0, "mine")
    assert frame.row(1) == (["c"], None, ["a"], 0.5, "mine")
    loaded = Preferences.load(tmp_path / "p.parquet", IDS)
    np.testing.assert_array_equal(loaded.candidates, some().candidates)
    np.testing.assert_array_equal(loaded.weights, some().weights)
    assert [loaded.histories[row].tolist() for row in range(3)] == [[0, 1], [2], [3, 4, 0]]
    np.testing.assert_array_equal(loaded.paired, [True, False, False])


@pytest.mark.parametrize(
    ("history", "chosen", "rejected"),
    [([[1.0, 2.0]], [3.0], [[4.0]]), ([[1, 2]], [3], [[4]]), ([[" 1", "2"]], ["3\u00a0"], [["4"]])],
)
def test_ids_are_read_as_everywhere(tmp_path, history, chosen, rejected):
    pl.DataFrame({"history": history, "chosen": chosen, "rejected": rejected}).write_parquet(tmp_path / "p.parquet")
    found = Preferences.load(tmp_path / "p.parquet", ["1", "2", "3", "4"])
    assert found.histories[0].tolist() == [0, 1]
    assert found.candidates.tolist() == [[2, 3]]


def test_weight_and_source_may_be_missing(tmp_path):
    found = load(tmp_path, table())
    np.testing.assert_array_equal(found.weights, [1, 1])
    np.testing.assert_array_equal(found.candidates, [[2, 3, -1], [3, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chosen": ["c", "a"]}, ["the chosen item is among the rejected ones", "row 2"]),
        ({"chosen": ["c", "zz"]}, ["the item 'zz' is not in the catalogue", "row 2, column chosen"]),
        ({"rejected": [["d"], ["a", "y"]]}, ["the item 'y' is not in the catalogue", "column rejected"]),
        ({"history": [[], ["c"]]}, ["the history is empty", "row 1", "at least one item before the choice"]),
        ({"chosen": [None, "d"], "rejected": [[], ["a"]]}, ["neither a chosen nor a rejected item", "row 1"]),
        ({"weight": [1.0, -1.0]}, ["the weight is not a positive number", "row 2"]),
        ({"weight": [float("nan"), 1.0]}, ["the weight is not a positive number", "row 1"]),
        ({"rejected": None, "rejcted": [["a"], ["b"]]}, ["no column 'rejected'; the nearest is 'rejcted'"]),
        ({"history": ["a", "b"]}, ["history is String", "a list of item ids"]),
    ],
)
def test_nonsense_is_refused_with_its_rows(changes, words, tmp_path):
    with pytest.raises(DataError) as refused:
        load(tmp_path, table(**changes))
    for word in words:
        assert word in str(refused.value)


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="there are no preferences"):
        load(tmp_path, table().clear())


def test_users_are_either_learned_from_or_measured():
    many = Preferences(
        Histories(np.repeat(np.arange(10), 3), np.arange(31), np.zeros(30, dtype=np.int32)),
        np.ones(30, dtype=np.int64),
        np.full((30, 1), 2),
        np.ones(30, dtype=np.float32),
        "mine",
    )
    learned, measured = many.split_users(0.2, seed=1)
    assert (len(learned), len(measured)) == (24, 6)
    assert not set(learned.histories.users) & set(measured.histories.users)
    assert len(many.split_users(0.001, seed=1)[1]) == 3


def test_one_user_cannot_both_teach_and_measure():
    with pytest.raises(DataError, match="those of 1 users"):
        some().select(np.array([0])).split_users(0.1, seed=0)
