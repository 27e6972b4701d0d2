"""Spectral clustering of one connected graph, without a dense matrix and without chance."""

import numpy as np
from scipy.linalg import qr, svd
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

DENSE_NODES = 512
LANCZOS_RESTARTS = 300
# Just above the largest eigenvalue, which is 1: at 1 itself the shifted matrix would be singular.
SHIFT = 1.0 + 1e-4


def spectral_labels(graph: csr_array, num_clusters: int) -> np.ndarray:
    """Clusters of a connected graph by the leading eigenvectors of its normalized Laplacian.

    As in scikit-learn's ``SpectralClustering`` with ``assign_labels="cluster_qr"``, which the item semantic IDs of
    arXiv 2305.06569 were made with, but the sparse matrix is never inverted unless the iteration needs it.

    Args:
        graph: Symmetric, not negative, connected, ``[n, n]``.
        num_clusters: Clusters wanted, at least 2; every node has its own if there are no more nodes than that.

    Returns:
        int64 ``[n]``, labels below ``num_clusters``; at least two of them occur.
    """
    nodes = graph.shape[0]
    if nodes <= num_clusters:
        return np.arange(nodes)
    scale = 1.0 / np.sqrt(np.asarray(graph.sum(axis=1)).reshape(-1))
    weights = diags_array(scale) @ graph @ diags_array(scale)
    vectors = _leading_eigenvectors(weights.tocsr(), num_clusters)
    labels = cluster_qr(vectors * scale[:, None])
    if (labels == labels[0]).all():
        # Rounding may leave one cluster of nodes that are all alike; the second eigenvector still orders them.
        labels = np.empty(nodes, dtype=np.int64)
        labels[np.argsort(vectors[:, -2], kind="stable")] = np.arange(nodes) * num_clusters // nodes
    return labels


def cluster_qr(vectors: np.ndarray) -> np.ndarray:
    """Labels from eigenvectors without initial guess or iteration.

    Source: Damle, Minden, Ying, Simple, direct and efficient multi-way spectral clustering, 2019.

    Args:
        vectors: float64 ``[n, k]``.

    Returns:
        int64 ``[n]``, labels below k.
    """
    k = vectors.shape[1]
    _, _, pivots = qr(vectors.T, mode="economic", pivoting=True)
    left, _, right = svd(vectors[pivots[:k]].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)


def _leading_eigenvectors(weights: csr_array, count: int) -> np.ndarray:
    """Eigenvectors of the ``count`` largest eigenvalues in ascending order of these, float64 ``[n, count]``."""
    nodes = weights.shape[0]
    if nodes <= DENSE_NODES:
        return np.linalg.eigh(weights.toarray())[1][:, -count:]
    start = np.random.default_rng(0).uniform(-1.0, 1.0, nodes)
    try:
        values, vectors = eigsh(weights, k=count, which="LA", v0=start, maxiter=LANCZOS_RESTARTS)
    except ArpackNoConvergence:
        # Chains and rings mix too slowly for the plain iteration, and are so sparse that inverting is cheap.
        values, vectors = eigsh(weights, k=count, sigma=SHIFT, v0=start)
    return vectors[:, np.argsort(values)]
