import numpy as np
import pytest

from genrec.data.histories import Histories
from genrec.evaluation.metrics import evaluate_lists
from genrec.evaluation.slices import evaluate_slices, length_group, length_labels, popularity_groups


def test_cold_tail_and_head():
    # Six warm items: a fifth of them, rounded up, is two.
    popularity = np.array([0, 3, 9, 1, 0, 4, 2, 4])
    names = np.array(["cold", "tail", "head"])[popularity_groups(popularity)]
    assert names.tolist() == ["cold", "tail", "head", "tail", "cold", "head", "tail", "tail"]


def test_no_training_interaction_means_all_cold():
    assert popularity_groups(np.zeros(3, int)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("length", "label"),
    [(0, "0"), (1, "1-4"), (4, "1-4"), (5, "5-9"), (49, "20-49"), (50, "50-99"), (100, "100+"), (9999, "100+")],
)
def test_history_lengths_have_fixed_groups(length, label):
    assert length_labels()[length_group(np.array([length]))[0]] == label


def test_slices_of_one_target_per_user_split_the_users():
    generator = np.random.default_rng(5)
    lists = np.stack([generator.permutation(50)[:10] for _ in range(200)])
    targets = Histories.from_lists(generator.integers(0, 50, (200, 1)).tolist())
    histories = Histories.from_lists([[0] * length for length in generator.integers(1, 130, 200)])
    popularity = np.r_[np.zeros(5, int), generator.integers(1, 99, 45)]
    slices = evaluate_slices(lists, histories, targets, popularity=popularity, ks=(5, 10))
    overall = evaluate_lists(lists, targets, num_items=50, ks=(5, 10)).metrics
    assert list(slices) == ["item_popularity", "history_length"]
    for groups in slices.values():
        assert sum(part.users for part in groups.values()) == 200
        for metric in ("recall@5", "ndcg@10", "mrr@10"):
            total = sum(part.metrics[metric] * part.users for part in groups.values())
            assert total / 200 == pytest.approx(overall[metric])
    of_cold = targets.items < 5
    direct = evaluate_lists(lists[of_cold], targets.select(of_cold), num_items=50, ks=(5,)).metrics["recall@5"]
    assert slices["item_popularity"]["cold"].metrics["recall@5"] == pytest.approx(direct)


def test_a_user_with_targets_in_two_groups_is_in_both():
    popularity = np.array([0, 1, 1, 1, 1, 9])
    lists, targets = np.array([[5, 1, 2]]), Histories.from_lists([[0, 5, 1]])
    slices = evaluate_slices(lists, Histories.from_lists([[3]]), targets, popularity=popularity, ks=(1, 3))
    found = {
        group: (part.users, part.targets, part.metrics["recall@3"]) for group, part in slices["item_popularity"].items()
    }
    assert found == {"cold": (1, 1, 0.0), "tail": (1, 1, 1.0), "head": (1, 1, 1.0)}
    assert slices["item_popularity"]["tail"].metrics["mrr@3"] == 0.5
    assert {group: part.targets for group, part in slices["history_length"].items()} == {"1-4": 3}


def test_groups_without_targets_are_left_out():
    slices = evaluate_slices(
        np.array([[1]]), Histories.from_lists([[0]]), Histories.from_lists([[1]]), popularity=np.array([1, 1]), ks=(1,)
    )
    assert list(slices["item_popularity"]) == ["tail"]
    assert slices["item_popularity"]["tail"].as_json() == {
        "users": 1, "targets": 1, "metrics": {"recall@1": 1.0, "ndcg@1": 1.0, "mrr@1": 1.0},
    }  # fmt: skip
