"""Spectral clustering against scikit-learn and on graphs whose clusters are known."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from genrec.tokenizers.parts import spectral
from genrec.tokenizers.parts.spectral import spectral_labels


def blocks(sizes: list[int], inside: float, outside: float, seed: int = 0) -> np.ndarray:
    """A symmetric weighted graph in which nodes of one block are linked more often, float64 [n, n]."""
    random = np.random.default_rng(seed)
    block = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(block[:, None] == block, inside, outside)
    weights = np.triu((random.random(chance.shape) < chance) * random.integers(1, 4, chance.shape), 1)
    return (weights + weights.T).astype(np.float64)


def ring(nodes: int) -> csr_array:
    """A ring of nodes, each linked to its two neighbors."""
    rows = np.arange(nodes)
    ahead = csr_array((np.ones(nodes), (rows, (rows + 1) % nodes)), shape=(nodes, nodes))
    return (ahead + ahead.T).tocsr()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dense", [True, False])
def test_labels_are_those_of_scikit_learn(seed, dense, monkeypatch):
    monkeypatch.setattr(spectral, "DENSE_NODES", 512 if dense else 0)
    weights = blocks([40, 25, 20, 15], 0.5, 0.05, seed)
    reference = SpectralClustering(4, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    labels = spectral_labels(csr_array(weights), 4)
    assert adjusted_rand_score(reference.fit_predict(weights), labels) == 1.0


def test_blocks_are_found():
    labels = spectral_labels(csr_array(blocks([30, 30, 30], 0.6, 0.02)), 3)
    assert adjusted_rand_score(np.repeat([0, 1, 2], 30), labels) == 1.0


def test_a_graph_that_mixes_slowly_is_inverted(monkeypatch):
    # A ring of 1,500 nodes: so few restarts do not reach the eigenvectors of the plain iteration.
    monkeypatch.setattr(spectral, "LANCZOS_RESTARTS", 2)
    labels = spectral_labels(ring(1500), 5)
    borders = int((labels != np.roll(labels, 1)).sum())
    assert len(np.unique(labels)) == borders, "every cluster is one arc"
    assert np.bincount(labels).min() > 50


def test_few_nodes_are_clusters_of_their_own():
    assert spectral_labels(ring(4), 6).tolist() == [0, 1, 2, 3]


def test_one_cluster_is_never_the_answer(monkeypatch):
    monkeypatch.setattr(spectral, "cluster_qr", lambda vectors: np.zeros(len(vectors), dtype=np.int64))
    assert np.bincount(spectral_labels(csr_array(blocks([10, 11], 0.9, 0.1)), 3)).tolist() == [7, 7, 7]


def test_nodes_that_are_all_alike_are_split():
    labels = spectral_labels(csr_array(np.ones((30, 30)) - np.eye(30)), 4)
    assert 2 <= len(np.unique(labels)) <= 4
