"""Collaborative item vectors in seconds: random projections of walks between items that share users.

Source: Chen et al., Fast and Accurate Network Embeddings via Very Sparse Random Projection, CIKM 2019, on the items of
the bipartite graph: one step of the walk goes from an item to one of its users and on to one of that user's items.
Nothing is trained.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from genrec.config import Section
from genrec.config.ranges import Factor
from genrec.features.base import unit_rows
from genrec.features.collaborative import CollaborativeEncoder, CollaborativeSettings

# Of the projection's entries one in SPARSITY is not zero (the paper's s).
SPARSITY = 3


class FastRPSettings(CollaborativeSettings):
    """Settings of the encoder ``fastrp``."""

    step_weights: tuple[Factor, ...] = Field(
        (1.0, 1.0, 1.0), min_length=1, description="weights of walks of 1, 2, ... steps"
    )
    degree_power: Factor = Field(-0.5, description="items at the end of a walk count by their degree to this power")


class FastRPEncoder(CollaborativeEncoder):
    """FastRP on walks between items."""

    name: ClassVar[str] = "fastrp"
    Settings: ClassVar[type[Section]] = FastRPSettings
    settings: FastRPSettings

    def embed(self, edges: np.ndarray, num_users: int, num_items: int) -> np.ndarray:
        """Project."""
        generator = np.random.default_rng(self.settings.seed)
        projection = sparse_projection(num_items, self.settings.dim, generator)
        return project_walks(edges, (num_users, num_items), projection, self.settings)


def sparse_projection(rows: int, dim: int, generator: np.random.Generator) -> np.ndarray:
    """Achlioptas' projection: sqrt(s), 0 and -sqrt(s) with probabilities 1 / 2s, 1 - 1 / s and 1 / 2s.

    Args:
        rows: Number of rows.
        dim: Number of columns.
        generator: Source of chance.

    Returns:
        float32 ``[rows, dim]`` of mean 0 and variance 1.
    """
    drawn = generator.integers(2 * SPARSITY, size=(rows, dim), dtype=np.int8)
    signs = (drawn == 0).astype(np.float32) - (drawn == 1)
    return np.asarray(signs * np.sqrt(SPARSITY), dtype=np.float32)


def project_walks(
    edges: np.ndarray, shape: tuple[int, int], projection: np.ndarray, settings: FastRPSettings
) -> np.ndarray:
    """The weighted sum of unit rows of P^k L R, where P is the walk, L the degrees' power and R the projection.

    Args:
        edges: int64 ``[2, E]``, distinct pairs of user and item.
        shape: Number of users and of items, (U, N).
        projection: R, float32 ``[N, D]``.
        settings: Of the encoder.

    Returns:
        float32 ``[N, D]``; rows of items without an edge are zero.
    """
    ones = np.ones(edges.shape[1], dtype=np.float32)
    took = csr_array((ones, (edges[0], edges[1])), shape=shape)
    user_degrees, item_degrees = took.sum(axis=1), took.sum(axis=0)
    # Nodes without an edge have empty rows, so any finite number does for them.
    to_items = took / np.maximum(user_degrees, 1)[:, None]
    to_users = took.T / np.maximum(item_degrees, 1)[:, None]
    to_items, to_users = csr_array(to_items), csr_array(to_users)
    scales = (np.maximum(item_degrees, 1) / item_degrees.sum()) ** settings.degree_power
    layer = projection * scales[:, None].astype(np.float32)
    total = np.zeros_like(layer)
    for weight in settings.step_weights:
        layer = to_users @ (to_items @ layer)
        total += np.float32(weight) * unit_rows(layer)
    return np.asarray(total, dtype=np.float32)
