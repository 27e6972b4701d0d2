"""Semantic IDs from a tree of clusters that never overflow: hierarchical k-means with a capacity per cluster.

Source: Wang et al., Content-Based Collaborative Generation for Recommender Systems (ColaRec), arXiv 2403.18480, on the
vectors of a LightGCN. The paper solves a flow problem in every iteration; here items move in rounds.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field
from scipy.spatial.distance import cdist

from genrec.config.ranges import Codes, Levels, Rounds
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.collisions import rank_in_group
from genrec.tokenizers.parts.clustering import kmeans

if TYPE_CHECKING:
    from genrec.data import Dataset


class GIDSettings(TokenizerSettings):
    """Settings of the tokenizer ``gid``."""

    num_levels: Levels = Field(3, ge=2, le=16, description="codes per item, the collision policy's counter included")
    num_clusters: Codes = Field(32, ge=2, description="codes of every level")
    iterations: Rounds = Field(25, description="k-means iterations per cluster that is split")


class GIDTokenizer(ItemTokenizer):
    """The path of an item through a tree of clusters of which each leaf holds at most ``num_clusters`` items."""

    name: ClassVar[str] = "gid"
    Settings: ClassVar[type[TokenizerSettings]] = GIDSettings
    settings: GIDSettings

    def __init__(self, settings: GIDSettings) -> None:
        super().__init__(settings)
        self.codes = np.zeros((0, 0), dtype=np.int32)
        # Per level and cluster of that depth: its children's centroids [n, K, D], their numbers [n, K], -1 for none.
        self.centroids: list[np.ndarray] = []
        self.children: list[np.ndarray] = []

    def encode_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """The codes found at fitting, int32 ``[N, L]``: where a cluster is full an item has not its nearest one."""
        self._check_fitted()
        return self.codes

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        size, levels = self.settings.num_clusters, self.settings.num_levels
        if size**levels < dataset.num_items:
            raise DataError(
                f"{levels} levels of {size} codes hold {size**levels} items, the catalogue has {dataset.num_items}",
                where="tokenizer.num_clusters",
                expected="room for every item",
                fix="raise tokenizer.num_clusters or tokenizer.num_levels",
            )
        different = len({row.tobytes() for row in features.values})
        if different < size:
            raise DataError(
                f"there are {size} clusters but the {dataset.num_items} items have {different} different vectors",
                where="tokenizer.num_clusters",
                expected=f"at most {different}",
                fix=f"set tokenizer.num_clusters: {different} or smaller, or use features that tell the items apart",
            )

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        size, values = self.settings.num_clusters, features.values
        self.codes = np.empty((len(values), self.settings.num_levels - 1), dtype=np.int32)
        self.centroids, self.children = [], []
        clusters = [np.arange(len(values))]
        for level in range(self.codes.shape[1]):
            capacity = size ** (self.codes.shape[1] - level)
            centroids = np.zeros((len(clusters), size, values.shape[1]), dtype=np.float32)
            children = np.full((len(clusters), size), -1, dtype=np.int32)
            below: list[np.ndarray] = []
            for number, members in enumerate(clusters):
                labels, centres = limited_kmeans(values[members], size, capacity, self.settings)
                self.codes[members, level] = labels
                centroids[number, : len(centres)] = centres
                used = np.unique(labels)
                children[number, used] = np.arange(len(below), len(below) + len(used))
                below += [members[labels == code] for code in used]
            self.centroids.append(centroids)
            self.children.append(children)
            clusters = below
        self.level_sizes = (size,) * self.codes.shape[1]

    def _encode(self, values: np.ndarray) -> np.ndarray:
        codes = np.empty((len(values), len(self.centroids)), dtype=np.int32)
        cluster = np.zeros(len(values), dtype=np.int64)
        for level, (centroids, children) in enumerate(zip(self.centroids, self.children, strict=True)):
            for number in np.unique(cluster):
                rows = np.flatnonzero(cluster == number)
                distances = cdist(values[rows], centroids[number], "sqeuclidean")
                codes[rows, level] = np.where(children[number] < 0, np.inf, distances).argmin(axis=1)
            cluster = children[cluster, codes[:, level]]
        return codes

    def state(self) -> dict[str, np.ndarray]:
        """``codes`` int32 ``[N, L]``; per level ``centroids_l`` float32 ``[n, K, D]`` and ``children_l`` ``[n, K]``."""
        arrays = {"codes": self.codes}
        for level, (centroids, children) in enumerate(zip(self.centroids, self.children, strict=True)):
            arrays |= {f"centroids_{level}": centroids, f"children_{level}": children}
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codes = arrays["codes"]
        self.centroids = [arrays[f"centroids_{level}"] for level in range(len(self.level_sizes))]
        self.children = [arrays[f"children_{level}"] for level in range(len(self.level_sizes))]


def limited_kmeans(
    vectors: np.ndarray, size: int, capacity: int, settings: GIDSettings
) -> tuple[np.ndarray, np.ndarray]:
    """k-means whose clusters hold at most ``capacity`` vectors; plain k-means if none would hold more.

    Args:
        vectors: float32 ``[n, D]`` with n at most ``size * capacity``.
        size: Clusters; every vector has its own if there are no more than that.
        capacity: Most vectors per cluster.
        settings: For the iterations and the seed.

    Returns:
        Labels int32 ``[n]`` and centroids float32 ``[K, D]``.
    """
    if len(vectors) <= size:
        return np.arange(len(vectors), dtype=np.int32), vectors
    centres = kmeans(vectors, size, settings.iterations, settings.seed)
    distances = cdist(vectors, centres, "sqeuclidean")
    labels = assign_within(distances, capacity)
    if np.array_equal(labels, distances.argmin(axis=1)):
        return labels, centres
    for _ in range(settings.iterations):
        sums = np.zeros(centres.shape)
        np.add.at(sums, labels, vectors)
        counts = np.bincount(labels, minlength=size)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
        moved = assign_within(cdist(vectors, centres, "sqeuclidean"), capacity)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels, centres


def assign_within(distances: np.ndarray, capacity: int) -> np.ndarray:
    """Give every row its nearest column that has room: in each round all rows ask, and the nearest of them are taken.

    Args:
        distances: float64 ``[n, K]`` with n at most ``K * capacity``.
        capacity: Most rows per column.

    Returns:
        int32 ``[n]``.
    """
    labels = np.full(len(distances), -1, dtype=np.int32)
    room = np.full(distances.shape[1], capacity, dtype=np.int64)
    waiting = np.arange(len(distances))
    while len(waiting):
        wanted = np.where(room > 0, distances[waiting], np.inf).argmin(axis=1)
        order = np.argsort(distances[waiting, wanted], kind="stable")
        waiting, wanted = waiting[order], wanted[order]
        taken = rank_in_group(wanted) < room[wanted]
        labels[waiting[taken]] = wanted[taken]
        room -= np.bincount(wanted[taken], minlength=len(room))
        waiting = waiting[~taken]
    return labels
