"""Balanced residual k-means: every code of a level names about as many items as any other.

Source: OneRec (2502.18965, section 3.1, "balanced k-means clustering"). Clusters choose their nearest free items one
after the other. The paper leaves open what the last clusters of that order pay; here the order is drawn anew for every
sweep and the cheapest sweep is kept.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Rounds
from genrec.features.base import ItemFeatures, unit_rows
from genrec.features.progress import progress
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer
from genrec.tokenizers.parts.clustering import kmeans
from genrec.tokenizers.parts.residual import squared_distances
from genrec.tokenizers.parts.sampling import draw_rows, row_blocks

if TYPE_CHECKING:
    from genrec.data import Dataset

CATALOGUE_CODES = "catalogue_codes"
# Clusters that look at the same distances; a few dozen make one matrix product of them and bound the memory.
CLUSTER_BLOCK = 32


class BalancedKMeansSettings(ResidualKMeansSettings):
    """Settings of the tokenizer ``rqkmeans-balanced``."""

    iterations: Rounds = Field(25, description="k-means iterations that give the first centroids of a level")
    sweeps: Rounds = Field(50, description="sweeps over all clusters per level at most")
    patience: Rounds = Field(5, description="sweeps without a cheaper assignment before a level is done")
    normalize_residuals: bool = Field(False, description="scale residuals to length 1 before every level")


class BalancedKMeansTokenizer(ResidualKMeansTokenizer):
    """Residual k-means whose clusters differ by at most one item in size.

    Sizes are equal for the catalogue of the fit; new items get the nearest centroids.
    """

    name: ClassVar[str] = "rqkmeans-balanced"
    Settings: ClassVar[type[TokenizerSettings]] = BalancedKMeansSettings
    settings: BalancedKMeansSettings

    def __init__(self, settings: BalancedKMeansSettings) -> None:
        super().__init__(settings)
        self.catalogue_codes = np.empty((0, 0), dtype=np.int32)

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        residual, settings = features.values, self.settings
        rows = draw_rows(len(residual), settings.max_points * max(self.level_sizes), settings.seed)
        self.codebooks, columns = [], []
        for level, size in enumerate(progress(self.level_sizes, "balanced k-means", len(self.level_sizes))):
            vectors = unit_rows(residual) if self.normalize_residuals else residual
            first = kmeans(vectors[rows], size, settings.iterations, settings.seed + level)
            random = np.random.default_rng((settings.seed, level))
            codebook, codes = balanced_kmeans(vectors, first, settings.sweeps, settings.patience, random)
            residual = vectors - codebook[codes]
            self.codebooks.append(codebook)
            columns.append(codes)
        self.catalogue_codes = np.stack(columns, axis=1)

    def encode_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """The balanced codes int32 ``[N, L]`` of the catalogue that the tokenizer was fitted on."""
        return self.catalogue_codes

    def state(self) -> dict[str, np.ndarray]:
        """The codebooks, and ``catalogue_codes`` int32 ``[N, L]``."""
        return {**super().state(), CATALOGUE_CODES: self.catalogue_codes}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        self.catalogue_codes = arrays[CATALOGUE_CODES]


def balanced_kmeans(
    vectors: np.ndarray, centroids: np.ndarray, sweeps: int, patience: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters whose sizes differ by at most one.

    Stops when an assignment comes back, when ``patience`` sweeps in a row were no cheaper, or after ``sweeps``.

    Args:
        vectors: float32 ``[n, C]``.
        centroids: float32 ``[K, C]``, where to start.
        sweeps: At most so many.
        patience: Sweeps without a cheaper assignment.
        random: Draws the order of the clusters in every sweep.

    Returns:
        Centroids float32 ``[K, C]`` and codes int32 ``[n]`` of the cheapest sweep.
    """
    best = (centroids, np.zeros(len(vectors), dtype=np.int32))
    best_cost, since, seen = np.inf, 0, set()
    for _ in range(sweeps):
        codes = greedy_sweep(vectors, centroids, random.permutation(len(centroids)))
        centroids = cluster_means(vectors, codes, centroids)
        cost = sum(float(((vectors[part] - centroids[codes[part]]) ** 2).sum()) for part in row_blocks(len(vectors)))
        since += 1
        if cost < best_cost:
            best, best_cost, since = (centroids, codes), cost, 0
        if since >= patience or codes.tobytes() in seen:
            break
        seen.add(codes.tobytes())
    return best


def greedy_sweep(vectors: np.ndarray, centroids: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Let clusters choose their nearest free items one after the other.

    Args:
        vectors: float32 ``[n, C]``.
        centroids: float32 ``[K, C]``.
        order: int ``[K]``, the clusters in the order in which they choose. Each takes ``n // K`` items, and the first
            ``n % K`` of them one more.

    Returns:
        int32 ``[n]``.
    """
    share, rest = divmod(len(vectors), len(centroids))
    codes = np.full(len(vectors), -1, dtype=np.int32)
    free = np.arange(len(vectors))
    lengths = (vectors.astype(np.float64) ** 2).sum(axis=1)
    for start in range(0, len(order), CLUSTER_BLOCK):
        block = order[start : start + CLUSTER_BLOCK]
        # One row per cluster, infinite where an earlier cluster of the block was faster.
        costs = np.concatenate([part for _, part in squared_distances(vectors[free], centroids[block])]).T.copy()
        costs += lengths[free]
        for place, cluster in enumerate(block, start):
            wanted = share + (place < rest)
            taken = _smallest(costs[place - start], wanted)
            codes[free[taken]] = cluster
            costs[:, taken] = np.inf
        free = np.flatnonzero(codes < 0)
    return codes


def _smallest(costs: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` smallest of float64 ``[n]``; of equal ones the first."""
    if count >= len(costs) or not count:
        return np.arange(len(costs))[:count]
    border = np.partition(costs, count - 1)[count - 1]
    below = np.flatnonzero(costs < border)
    return np.concatenate([below, np.flatnonzero(costs == border)[: count - len(below)]])


def cluster_means(vectors: np.ndarray, codes: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The mean of each cluster's vectors, computed in float64.

    Args:
        vectors: float32 ``[n, C]``.
        codes: int ``[n]``.
        empty: float32 ``[K, C]``, what clusters without items keep.

    Returns:
        float32 ``[K, C]``.
    """
    sums = np.zeros(empty.shape, dtype=np.float64)
    for part in row_blocks(len(vectors)):
        order = np.argsort(codes[part], kind="stable")
        used, starts = np.unique(codes[part][order], return_index=True)
        sums[used] += np.add.reduceat(vectors[part][order].astype(np.float64), starts, axis=0)
    counts = np.bincount(codes, minlength=len(empty))
    means = empty.copy()
    means[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return means
