"""Collaborative semantic IDs: the path of an item through a recursive clustering of the co-occurrence graph.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (CID). Two items are
linked by the number of training histories that hold both (the paper's code keeps the count of one order only).
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from genrec.config.ranges import Codes
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.cooccurrence import cooccurrence, training_incidence
from genrec.tokenizers.parts.paths import tree_codes
from genrec.tokenizers.parts.spectral import spectral_labels
from genrec.tokenizers.parts.transductive import TransductiveTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset


class CIDSettings(TokenizerSettings):
    """Settings of the tokenizer ``cid``."""

    num_clusters: Codes = Field(20, ge=2, description="clusters that a cluster is split into")
    leaf_size: Codes = Field(500, description="clusters of at most so many items are not split again")


class CollaborativeTokenizer(TransductiveTokenizer):
    """Recursive spectral clustering of the co-occurrence graph; the collision policy separates the items of a leaf."""

    name: ClassVar[str] = "cid"
    Settings: ClassVar[type[TokenizerSettings]] = CIDSettings
    reason: ClassVar[str] = "a new item has no place in the graph of training interactions"
    settings: CIDSettings

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        if dataset.num_items <= self.settings.leaf_size:
            raise DataError(
                f"the catalogue has {dataset.num_items} items, and a cluster of {self.settings.leaf_size} is not split",
                where="tokenizer.leaf_size",
                expected=f"less than {dataset.num_items}",
                fix="set a smaller tokenizer.leaf_size",
            )

    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        graph = cooccurrence(training_incidence(dataset, self.name))
        if not graph.nnz:
            raise DataError(
                "no training history holds two different items",
                where="tokenizer cid",
                expected="users with longer histories",
                fix="use a tokenizer that reads vectors, such as rqkmeans",
            )
        return tree_codes(cluster_paths(graph, self.settings.num_clusters, self.settings.leaf_size))


def cluster_paths(graph: csr_array, num_clusters: int, leaf_size: int) -> list[tuple[int, ...]]:
    """The path of every node through the tree of clusters.

    Args:
        graph: Symmetric, not negative, without self-loops, ``[N, N]`` with N > ``leaf_size``.
        num_clusters: Children of a node of the tree.
        leaf_size: Most graph nodes of a leaf.

    Returns:
        N paths of different lengths; none begins another. Children are numbered by size, the largest first.
    """
    paths: list[tuple[int, ...]] = [()] * graph.shape[0]
    waiting: list[tuple[np.ndarray, csr_array, tuple[int, ...]]] = [(np.arange(graph.shape[0]), graph, ())]
    while waiting:
        members, inner, path = waiting.pop()
        for code, part in enumerate(split(inner, num_clusters, leaf_size)):
            below = (*path, code)
            if len(part) > leaf_size:
                waiting.append((members[part], inner[part][:, part], below))
                continue
            for node in members[part].tolist():
                paths[node] = below
    return paths


def split(graph: csr_array, num_clusters: int, leaf_size: int) -> list[np.ndarray]:
    """Split a graph that is too large for a leaf into at most ``num_clusters`` parts.

    Spectral clustering knows nothing of nodes without a path between them, so connected components come first: those
    that fit a leaf (isolated items are the smallest) are put together in one part, the larger ones share the other
    codes by size.

    Args:
        graph: As in :func:`cluster_paths`, more than ``leaf_size`` nodes.
        num_clusters: Most parts, at least 2.
        leaf_size: Most nodes of a leaf.

    Returns:
        At least two parts, each the ascending positions of its nodes, largest part first.
    """
    labels = connected_components(graph, directed=False)[1]
    components = _groups(labels)
    small = [part for part in components if len(part) <= leaf_size]
    large = components[: len(components) - len(small)]
    if not large:
        parts = _pack(small, min(num_clusters, -(-graph.shape[0] // leaf_size)))
        return sorted(parts, key=_size_first)
    parts = [np.sort(np.concatenate(small))] if small else []
    codes = num_clusters - len(parts)
    if len(large) > codes:
        parts += _pack(large, codes)
    else:
        for component, share in zip(large, _shares([len(part) for part in large], codes), strict=True):
            if share == 1:
                parts.append(component)
                continue
            inner = spectral_labels(graph[component][:, component], share)
            parts += [component[part] for part in _groups(inner)]
    return sorted(parts, key=_size_first)


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    """The ascending positions of every label, largest group first."""
    order = np.argsort(labels, kind="stable")
    borders = np.flatnonzero(np.diff(labels[order])) + 1
    return sorted(np.split(order, borders), key=_size_first)


def _size_first(part: np.ndarray) -> tuple[int, int]:
    return -len(part), int(part[0])


def _pack(components: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Whole components in ``count`` parts of about one size: each, from the largest, to the part that has least."""
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    sizes = np.zeros(count, dtype=np.int64)
    for component in components:
        emptiest = int(sizes.argmin())
        parts[emptiest].append(component)
        sizes[emptiest] += len(component)
    return [np.sort(np.concatenate(part)) for part in parts]


def _shares(sizes: list[int], codes: int) -> list[int]:
    """How many of the codes each component gets: one, and every further one where most nodes share a code."""
    shares = [1] * len(sizes)
    for _ in range(codes - len(sizes)):
        shares[max(range(len(sizes)), key=lambda part: sizes[part] / shares[part])] += 1
    return shares
