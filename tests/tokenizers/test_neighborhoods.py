"""Whether like items have like semantic IDs, against worked examples, brute force and scikit-learn."""

import itertools

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors

from genrec.data.histories import Histories
from genrec.tokenizers.quality import neighborhoods
from genrec.tokenizers.quality.neighborhoods import (
    Nearest,
    by_users,
    by_vectors,
    category_agreement,
    expected_hits,
    measure_likeness,
    neighbor_recall,
    purity,
    shared_codes,
)


def test_nearest_vectors_equal_the_librarys():
    values = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    values[[7, 31]] = 0
    found = by_vectors(values)
    told = np.flatnonzero(values.any(axis=1))
    np.testing.assert_array_equal(found.pool, told)
    model = NearestNeighbors(n_neighbors=11, metric="cosine").fit(values[told])
    expected = told[model.kneighbors(values[told], return_distance=False)[:, 1:]]
    assert [set(row) for row in found.items.tolist()] == [set(row) for row in expected.tolist()]


def test_of_many_items_a_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr(neighborhoods, "MAX_POOL", 30)
    monkeypatch.setattr(neighborhoods, "MAX_QUERIES", 12)
    monkeypatch.setattr(neighborhoods, "SIMILARITY_ELEMENTS", 90)
    values = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    found = by_vectors(values)
    assert (len(found.pool), found.items.shape) == (30, (12, 10))
    assert set(found.items.ravel()) <= set(found.pool.tolist())
    assert not (found.items == found.queries[:, None]).any()


def test_vectors_that_say_nothing_have_no_neighbors():
    assert by_vectors(np.zeros((9, 3), dtype=np.float32)) is None
    one = np.zeros((9, 3), dtype=np.float32)
    one[4] = 1
    assert by_vectors(one) is None


def test_items_of_the_same_users_by_hand():
    # Items 0 and 1 share two users, 0 and 2 one; item 2 is had by three users, item 1 by two; no one has item 4.
    histories = Histories.from_lists([[0, 1], [1, 0, 0], [0, 2], [2], [2], [3]])
    found = by_users(histories, 5)
    np.testing.assert_array_equal(found.queries, [0, 1, 2])
    assert found.items[0, :3].tolist() == [1, 2, -1]
    assert found.items[1, :2].tolist() == [0, -1]
    assert found.items[2, :2].tolist() == [0, -1]
    assert by_users(Histories.from_lists([[0], [1], [2]]), 3) is None


def test_shared_codes_by_hand():
    codes = np.array([[1, 2, 3], [1, 9, 3], [0, 2, 3], [1, 2, -1]])
    assert shared_codes(codes, np.array([1, 2, 3]), "sequence").tolist() == [3, 1, 0, 2]
    assert shared_codes(codes, np.array([1, 2, 3]), "set").tolist() == [3, 2, 2, 2]
    assert shared_codes(codes, np.array([1, 2, -1]), "sequence").tolist() == [2, 1, 0, 3]
    assert shared_codes(codes, np.array([1, 2, -1]), "set").tolist() == [2, 1, 1, 2]


def test_expected_hits_equal_the_mean_over_all_orders():
    # Two items in the first class, one of them wanted; three in the second, two of them wanted; four places.
    first, second = [True, False], [True, True, False]
    lists = [a + b for a in itertools.permutations(first) for b in itertools.permutations(second)]
    mean = np.mean([sum(order[:4]) for order in lists])
    assert expected_hits(np.array([2, 3]), np.array([1, 2]), 4) == pytest.approx(mean)


@pytest.mark.parametrize("kind", ["sequence", "set"])
def test_recall_equals_brute_force(kind):
    random = np.random.default_rng(5)
    codes = random.integers(0, 3, (30, 3))
    queries, nearest = np.array([2, 11, 17]), np.array([[4, 9, 28], [0, 1, -1], [5, 18, 19]])
    report = neighbor_recall(codes, kind, Nearest(queries, nearest, np.arange(30)))
    shared, everyone = [], []
    for query, items in zip(queries, nearest, strict=True):
        lengths = []
        for item in range(30):
            equal = (codes[item] == codes[query]).tolist()
            lengths.append(sum(equal) if kind == "set" else [*equal, False].index(False))
        shared += [lengths[item] for item in items if item >= 0]
        everyone += [lengths[item] for item in range(30) if item != query]
    for level, numbers in enumerate(report["levels"], 1):
        assert numbers["recall"] == pytest.approx(np.mean(np.array(shared) >= level))
        assert numbers["chance"] == pytest.approx(np.mean(np.array(everyone) >= level))
    assert report["queries"] == 3
    assert report["chance"] == pytest.approx(8 / 3 / 29)


def test_identifiers_that_sort_items_by_likeness_find_all_and_random_ones_what_chance_finds():
    groups = np.repeat(np.arange(20), 11)
    nearest = np.stack([np.setdiff1d(np.flatnonzero(groups == group), [i]) for i, group in enumerate(groups)])
    found = Nearest(np.arange(220), nearest, np.arange(220))
    assert neighbor_recall(groups[:, None], "sequence", found)["recall"] == pytest.approx(1.0)
    constant = neighbor_recall(np.zeros((220, 1), dtype=int), "sequence", found)
    assert constant["recall"] == pytest.approx(constant["chance"])
    assert constant["levels"] == [{"recall": 1.0, "chance": 1.0}]
    mixed = neighbor_recall(np.random.default_rng(0).permutation(groups)[:, None], "sequence", found)
    assert mixed["recall"] < 0.1


def test_purity_and_nmi_equal_the_librarys(tiny_dataset):
    random = np.random.default_rng(2)
    codes = np.stack([random.integers(0, 5, 40), random.integers(0, 4, 40)], axis=1)
    report = category_agreement(codes, "sequence", tiny_dataset.items)
    genres = tiny_dataset.items["genres"].to_list()
    assert (report["column"], report["categories"], report["items"]) == ("genres", 4, 40)
    for depth, level in enumerate(report["levels"], 1):
        prefix = [str(row) for row in codes[:, :depth].tolist()]
        assert level["nmi"] == pytest.approx(normalized_mutual_info_score(genres, prefix))
        assert level["purity"] == pytest.approx(contingency_matrix(genres, prefix).max(axis=0).sum() / 40)
    alone = category_agreement(codes, "set", tiny_dataset.items)["levels"][1]["nmi"]
    assert alone == pytest.approx(normalized_mutual_info_score(genres, codes[:, 1]))


def test_small_groups_are_pure_by_chance_too(tiny_dataset):
    level = category_agreement(np.arange(40)[:, None], "sequence", tiny_dataset.items)["levels"][0]
    assert level["purity"] == level["purity_by_chance"] == 1.0
    assert purity(np.array([0, 0, 1]), np.array([0, 0, 0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("Categories", ["A > B", "A > B", "A > C", "", None]),
        pl.Series("genres", [["x", "y"], ["x", "y"], ["x"], [], None]),
        pl.Series("category", [[["x", "y"], ["q"]], [["x", "y"]], [["z"]], [], None]),
        pl.Series("genre", ["x|y", "x", "z", None, ""]),
    ],
)
def test_categories_of_all_shapes(column):
    items = pl.DataFrame({"item_id": list("abcde"), column.name: column})
    report = category_agreement(np.arange(5)[:, None], "sequence", items)
    assert (report["items"], report["categories"]) == (3, 2)
    assert report["column"] == column.name


def test_without_categories_there_is_no_agreement():
    codes = np.arange(3)[:, None]
    assert category_agreement(codes, "sequence", pl.DataFrame({"item_id": ["a", "b", "c"]})) is None
    same = pl.DataFrame({"item_id": ["a", "b", "c"], "category": ["x", "x", None]})
    assert category_agreement(codes, "sequence", same) is None


def test_held_out_interactions_are_not_read(tiny_dataset, poisoned_dataset, tiny_features):
    codes = np.arange(40)[:, None] // 5
    before, after = (
        measure_likeness(codes, "sequence", tiny_features.values, dataset)
        for dataset in (tiny_dataset, poisoned_dataset)
    )
    assert before == after
    assert before["users"]["levels"][0]["recall"] > 2 * before["users"]["levels"][0]["chance"]
