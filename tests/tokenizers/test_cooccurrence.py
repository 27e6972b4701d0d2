"""The graph of the training part against counting by hand."""

from itertools import combinations

import numpy as np
import pytest

from genrec.data import Histories
from genrec.errors import DataError
from genrec.tokenizers.parts.cooccurrence import cooccurrence, training_incidence


def test_counts_equal_those_of_a_loop_over_users(tiny_dataset):
    expected = np.zeros((40, 40))
    for history in tiny_dataset.train():
        for one, other in combinations(sorted(set(history.tolist())), 2):
            expected[one, other] += 1
            expected[other, one] += 1
    graph = cooccurrence(training_incidence(tiny_dataset, "cid"))
    np.testing.assert_array_equal(graph.toarray(), expected)
    assert expected.max() > 1


def test_a_repeated_item_counts_once_and_never_with_itself(tiny_dataset, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([[3, 5, 3, 3], [5]]))
    graph = cooccurrence(training_incidence(tiny_dataset, "cid"))
    assert graph.nnz == 2
    assert graph[3, 5] == graph[5, 3] == 1


def test_held_out_interactions_are_not_read(tiny_dataset, poisoned_dataset):
    one, other = (training_incidence(dataset, "cid").toarray() for dataset in (tiny_dataset, poisoned_dataset))
    np.testing.assert_array_equal(one, other)


def test_no_interactions_are_refused(tiny_dataset, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([]))
    with pytest.raises(DataError, match=r"(?s)there is no training interaction.*tokenizer louvain.*rqkmeans"):
        training_incidence(tiny_dataset, "louvain")
