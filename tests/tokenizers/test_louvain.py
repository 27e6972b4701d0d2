"""Communities of graphs whose communities are known."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from genrec.data import Histories
from genrec.errors import DataError
from genrec.tokenizers.families.louvain import LouvainSettings, LouvainTokenizer, communities


def fitted(dataset, features, **settings) -> LouvainTokenizer:
    tokenizer = LouvainTokenizer(LouvainSettings(**settings))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_whoever_shares_users_shares_a_community():
    # Users 0-4 have items 0-3, users 5-8 items 4-6; item 7 has no one, item 8 a user of its own.
    incidence = np.zeros((10, 9))
    incidence[:5, :4] = incidence[5:9, 4:7] = incidence[9, 8] = 1
    labels = communities(csr_array(incidence), 1.0, 42)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_a_higher_resolution_gives_more_communities():
    random = np.random.default_rng(0)
    block = np.repeat(np.arange(6), 10)
    incidence = csr_array((random.random((60, 60)) < np.where(block[:, None] == block, 0.5, 0.03)).astype(float))
    found = [communities(incidence, resolution, 42).max() for resolution in (0.3, 1.0, 8.0)]
    assert found[0] < found[1] < found[2]
    labels = communities(incidence, 1.0, 42)
    assert [len(set(labels[block == number])) for number in range(6)] == [1] * 6


def test_the_second_code_splits_what_shares_the_first(tiny_dataset, tiny_features):
    codes = fitted(tiny_dataset, tiny_features).codes
    genre = np.array([int(name[1]) for name in tiny_dataset.item_ids])
    assert [len(set(codes[genre == number, 0])) for number in range(4)] == [1, 1, 1, 1]
    assert len(np.unique(codes[:, 0])) == 4
    assert len(np.unique(codes, axis=0)) > 4
    np.testing.assert_array_equal(fitted(tiny_dataset, tiny_features, num_levels=1).codes, codes[:, :1])


def test_held_out_interactions_change_nothing(tiny_dataset, poisoned_dataset, tiny_features):
    one = fitted(tiny_dataset, tiny_features).codes
    np.testing.assert_array_equal(one, fitted(poisoned_dataset, tiny_features).codes)


def test_graphs_without_communities_are_refused(tiny_dataset, tiny_features, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([[1], [2], [7]]))
    with pytest.raises(DataError, match=r"(?s)the graph of 40 items has one community.*resolution.*rqkmeans"):
        fitted(tiny_dataset, tiny_features)
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([]))
    with pytest.raises(DataError, match=r"(?s)there is no training interaction.*tokenizer louvain"):
        fitted(tiny_dataset, tiny_features)
