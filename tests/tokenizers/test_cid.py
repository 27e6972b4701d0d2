"""The tree of clusters on graphs whose clusters are known, and what must hold on any graph."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array
from scipy.sparse.csgraph import connected_components

from genrec.config import TokenizerConfig
from genrec.data import Histories
from genrec.errors import ConfigError, DataError
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.families.cid import CIDSettings, CollaborativeTokenizer, cluster_paths, split


def cliques(sizes: list[int], bridge: float = 0.0) -> csr_array:
    """Complete graphs side by side; the first node of each is linked to that of the next with a weight."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    weights = (block[:, None] == block).astype(float) - np.eye(len(block))
    firsts = np.cumsum([0, *sizes[:-1]])
    for one, other in pairwise(firsts):
        weights[one, other] = weights[other, one] = bridge
    return csr_array(weights)


def random_graph(nodes: int, density: float, seed: int) -> csr_array:
    one = random_array((nodes, nodes), density=density, rng=np.random.default_rng(seed), format="csr")
    graph = (one + one.T).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def fitted(dataset, features, **settings) -> CollaborativeTokenizer:
    tokenizer = CollaborativeTokenizer(CIDSettings(**{"num_clusters": 4, "leaf_size": 10, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_cliques_are_leaves():
    paths = cluster_paths(cliques([9, 7, 5], bridge=0.5), 3, 9)
    assert paths == [(0,)] * 9 + [(1,)] * 7 + [(2,)] * 5


def test_the_tree_is_as_deep_as_the_leaves_ask_for():
    # Two clusters at a time: the pairs of cliques that are linked more strongly come apart last.
    graph = cliques([6, 6, 6, 6]).toarray()
    graph[0, 6] = graph[6, 0] = graph[12, 18] = graph[18, 12] = 3.0
    graph[5, 17] = graph[17, 5] = 0.1
    paths = cluster_paths(csr_array(graph), 2, 6)
    assert sorted(set(paths)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(len(set(paths[start : start + 6])) == 1 for start in (0, 6, 12, 18))
    assert paths[0][0] == paths[6][0] != paths[12][0] == paths[18][0]


def test_isolated_items_are_together_and_apart_from_the_others():
    graph = np.zeros((20, 20))
    graph[:12, :12] = cliques([6, 6], bridge=0.5).toarray()
    parts = split(csr_array(graph), 3, 8)
    assert [part.tolist() for part in parts] == [list(range(12, 20)), list(range(6)), list(range(6, 12))]


def test_components_that_fit_a_leaf_are_never_cut():
    graph = cliques([5, 4, 4, 3, 2, 1, 1])
    paths = cluster_paths(graph, 3, 7)
    labels = connected_components(graph)[1]
    for component in range(7):
        assert len({paths[node] for node in np.flatnonzero(labels == component)}) == 1
    assert sorted(np.unique([str(path) for path in paths], return_counts=True)[1].tolist()) == [6, 7, 7]


def test_large_components_share_the_codes_by_size():
    parts = split(cliques([30, 10, 10, 2]), 6, 5)
    membership = np.repeat([0, 1, 2, 3], [30, 10, 10, 2])
    codes = [sum(membership[part[0]] == component for part in parts) for component in range(4)]
    assert codes == [3, 1, 1, 1]
    assert all(len(set(membership[part].tolist())) == 1 for part in parts)


def test_more_large_components_than_codes_stay_whole():
    parts = split(cliques([9, 8, 7, 6, 1]), 3, 5)
    assert [len(part) for part in parts] == [15, 15, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("density", [0.0, 0.002, 0.01, 0.1])
@pytest.mark.parametrize(("num_clusters", "leaf_size"), [(2, 1), (3, 7), (20, 15)])
def test_on_any_graph(seed, density, num_clusters, leaf_size):
    paths = cluster_paths(random_graph(90, density, seed), num_clusters, leaf_size)
    leaves, counts = np.unique([str(path) for path in paths], return_counts=True)
    assert counts.max() <= leaf_size
    assert max(max(path) for path in paths) < num_clusters
    inner = {path[:depth] for path in paths for depth in range(1, len(path))}
    assert not inner & set(paths), "no path begins another"
    assert len(leaves) >= 90 / leaf_size


def test_items_of_a_genre_share_codes(tiny_dataset, tiny_features):
    codes = fitted(tiny_dataset, tiny_features).codes
    assert codes.shape[1] == 1
    genre = np.array([int(name[1]) for name in tiny_dataset.item_ids])
    assert [len(set(codes[genre == number, 0])) for number in range(4)] == [1, 1, 1, 1]
    assert len(set(codes[:, 0])) == 4


def test_held_out_interactions_change_nothing(tiny_dataset, poisoned_dataset, tiny_features):
    one = fitted(tiny_dataset, tiny_features, leaf_size=4).codes
    np.testing.assert_array_equal(one, fitted(poisoned_dataset, tiny_features, leaf_size=4).codes)


def test_the_suffix_counts_the_items_of_a_leaf(tiny_dataset, tiny_features, with_suffix):
    resolved = with_suffix(fitted(tiny_dataset, tiny_features), tiny_dataset, tiny_features)
    assert resolved.level_sizes == (4, 10)
    for leaf in range(4):
        assert resolved.codes[resolved.codes[:, 0] == leaf, 1].tolist() == list(range(10))


def test_new_items_are_refused_with_the_reason(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    with pytest.raises(ConfigError, match="cannot name items that it was not fitted on: a new item has no place in"):
        tokenizer.encode_items(tiny_dataset.items, tiny_features.values)


def test_catalogues_that_cannot_be_split_are_refused(tiny_dataset, tiny_features, monkeypatch):
    with pytest.raises(DataError, match=r"(?s)40 items, and a cluster of 40 is not split.*leaf_size.*less than 40"):
        fitted(tiny_dataset, tiny_features, leaf_size=40)
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([[1, 1], [2], [7]]))
    with pytest.raises(DataError, match=r"(?s)no training history holds two different items.*rqkmeans"):
        fitted(tiny_dataset, tiny_features)


def test_settings_of_another_family_are_refused(tiny_dataset, tiny_features, tmp_path):
    config = TokenizerConfig(name="cid", codebook_size=8)
    with pytest.raises(ConfigError, match=r"(?s)unknown key codebook_size.*leaf_size"):
        fit_tokenizer(config, tiny_dataset, tiny_features, tmp_path / "tokenizer")
