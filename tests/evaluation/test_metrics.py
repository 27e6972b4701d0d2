import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import ndcg_score

from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError
from genrec.evaluation import metrics
from genrec.evaluation.metrics import evaluate_lists, gini

N = 12


@st.composite
def lists_and_targets(draw):
    users = draw(st.integers(1, 6))
    lists = [draw(st.permutations(range(N)))[: draw(st.integers(0, 8))] for _ in range(users)]
    targets = [draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=5)) for _ in range(users)]
    return [[*items, *[-1] * (8 - len(items))] for items in lists], targets


def by_definition(items, targets, k):
    """Recall, NDCG and MRR of one user, place by place."""
    targets, hits, gain, first = set(targets), 0, 0.0, 0.0
    for place, item in enumerate(items[:k], start=1):
        if item in targets:
            hits, gain = hits + 1, gain + 1 / math.log2(place + 1)
            first = first or 1 / place
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(targets)) + 1))
    return hits / len(targets), gain / ideal, first


def test_values_worked_by_hand():
    lists = np.array([[3, 1, 2], [0, 5, 4], [1, 2, 3]])
    targets = Histories.from_lists([[1], [0, 4], [7]])
    found = evaluate_lists(lists, targets, num_items=8, ks=(1, 3)).metrics
    assert found["recall@1"] == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert found["recall@3"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["mrr@3"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    second = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert found["ndcg@3"] == pytest.approx((1 / math.log2(3) + second + 0) / 3)
    # With k = 1 only one of the two targets can be found, and the ideal says so.
    assert found["ndcg@1"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["coverage@3"] == pytest.approx(6 / 8)


@given(lists_and_targets(), st.sets(st.integers(1, 10), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition_user_by_user(case, ks):
    lists, targets = case
    found = evaluate_lists(np.array(lists), Histories.from_lists(targets), num_items=N, ks=sorted(ks))
    for k in ks:
        expected = np.array([by_definition(items, held, k) for items, held in zip(lists, targets, strict=True)])
        for column, name in enumerate(("recall", "ndcg", "mrr")):
            np.testing.assert_allclose(found.per_user[f"{name}@{k}"], expected[:, column])


@given(lists_and_targets())
@settings(max_examples=60, deadline=None)
def test_bounds_and_growth_with_k(case):
    lists, targets = case
    found = evaluate_lists(np.array(lists), Histories.from_lists(targets), num_items=N, ks=(1, 2, 4, 8))
    for name, values in found.per_user.items():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all(), name
    for name in ("recall", "mrr"):
        assert (np.diff([found.per_user[f"{name}@{k}"] for k in (1, 2, 4, 8)], axis=0) >= 0).all()
    assert (np.diff([found.metrics[f"coverage@{k}"] for k in (1, 2, 4, 8)]) >= 0).all()


def test_ndcg_equals_scikit_learn():
    generator = np.random.default_rng(0)
    lists = np.stack([generator.permutation(30) for _ in range(50)])
    targets = [generator.choice(30, generator.integers(1, 6), replace=False).tolist() for _ in range(50)]
    relevance, scores = np.zeros((50, 30)), np.empty((50, 30))
    for row, held in enumerate(targets):
        relevance[row, held] = 1
        scores[row, lists[row]] = -np.arange(30)
    found = evaluate_lists(lists, Histories.from_lists(targets), num_items=30, ks=(5, 10)).metrics
    assert found["ndcg@5"] == pytest.approx(ndcg_score(relevance, scores, k=5))
    assert found["ndcg@10"] == pytest.approx(ndcg_score(relevance, scores, k=10))


def test_order_of_users_and_blocks_change_nothing(monkeypatch):
    generator = np.random.default_rng(3)
    lists = np.stack([generator.permutation(40)[:10] for _ in range(90)])
    targets = Histories.from_lists([generator.choice(40, 3, replace=False).tolist() for _ in range(90)])
    whole = evaluate_lists(lists, targets, num_items=40, ks=(5, 10))
    order = generator.permutation(90)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", 7)
    shuffled = evaluate_lists(lists[order], targets.select(order), num_items=40, ks=(5, 10))
    for name, values in whole.per_user.items():
        np.testing.assert_array_equal(values[order], shuffled.per_user[name])
    assert whole.catalogue == shuffled.catalogue
    np.testing.assert_array_equal(shuffled.users, order)


def test_missing_places_are_misses_that_keep_the_others_in_place():
    targets = Histories.from_lists([[4], [4]])
    found = evaluate_lists(np.array([[-1, 4], [-1, -1]]), targets, num_items=5, ks=(1, 2, 9))
    assert found.metrics["recall@1"] == 0
    assert found.metrics["recall@9"] == 0.5
    assert found.metrics["mrr@2"] == 0.25
    assert found.metrics["coverage@2"] == pytest.approx(1 / 5)


def test_a_target_held_out_twice_counts_once():
    found = evaluate_lists(np.array([[4, 2]]), Histories.from_lists([[4, 4]]), num_items=5, ks=(2,))
    assert found.metrics["recall@2"] == 1
    assert found.metrics["ndcg@2"] == 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
@settings(deadline=None)
def test_gini_equals_the_mean_difference(counts):
    mean = np.mean(counts)
    expected = 0 if mean == 0 else np.abs(np.subtract.outer(counts, counts)).mean() / (2 * mean)
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_popularity_rank_is_the_mean_rank_of_listed_items():
    popularity = np.array([5, 9, 0, 5, 1])
    ranks = rankdata(-popularity)
    assert ranks.tolist() == [2.5, 1, 5, 2.5, 4]
    lists = np.array([[1, 0, -1], [4, 2, 3]])
    found = evaluate_lists(
        lists, Histories.from_lists([[0], [0]]), num_items=5, popularity=popularity, ks=(2, 3)
    ).metrics
    assert found["popularity_rank@2"] == pytest.approx((1 + 2.5 + 4 + 5) / 4)
    assert found["popularity_rank@3"] == pytest.approx((1 + 2.5 + 4 + 5 + 2.5) / 5)


@pytest.mark.parametrize(
    ("lists", "targets", "message"),
    [
        (np.zeros((0, 3), int), [], "no users to evaluate"),
        ([[1, 2]], [[1], [2]], "one row for each of 2 users"),
        ([[1, 2], [1, 2]], [[1], []], r"without a held-out item.*\n.*row 1"),
        ([[1, 8]], [[1]], r"items -1..8\n.*0..4"),
        ([[1, -2]], [[1]], r"items -2..1\n"),
        ([[1, 1]], [[1]], r"names an item twice\n.*row 0"),
    ],
)
def test_lists_that_do_not_fit_are_refused(lists, targets, message):
    with pytest.raises(DataError, match=message):
        evaluate_lists(np.asarray(lists), Histories.from_lists(targets), num_items=5, ks=(2,))


@pytest.mark.parametrize("ks", [(), (0, 5)])
def test_unusable_ks_are_refused(ks):
    with pytest.raises(ConfigError, match=r"evaluation.ks = .* cannot be used"):
        evaluate_lists(np.array([[1]]), Histories.from_lists([[1]]), num_items=5, ks=ks)
