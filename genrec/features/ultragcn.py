"""Collaborative item vectors: UltraGCN, the limit of infinitely many graph convolutions as a weighted loss.

Source: Mao et al., UltraGCN: Ultra Simplification of Graph Convolutional Networks for Recommendation, CIKM 2021:
equations 6 to 9 (user-item constraint), 10 to 12 (item-item constraint), 13 (their sum). Nothing is propagated, so an
epoch costs as much as one of matrix factorization. Different from the authors' code: the negatives are drawn for some
interactions together, not for each, which makes their scores a matrix product; an item is not its own neighbor.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from genrec.config import Section
from genrec.config.ranges import BatchSize, LearningRate, Rounds, Weight, Width, WidthOrNone
from genrec.features.collaborative import CollaborativeEncoder, CollaborativeSettings
from genrec.features.progress import progress

INITIAL_DEVIATION = 1e-4
# Rows of the item-item product that are held at once.
NEIGHBOR_ROWS = 4096
# Interactions of a batch that share their negatives. If all did, few items would take all the push of a step.
SHARED = 16


class UltraGCNSettings(CollaborativeSettings):
    """Settings of the encoder ``ultragcn``."""

    epochs: Rounds = 25
    batch_size: BatchSize = 1024
    learning_rate: LearningRate = 5e-3
    num_negatives: Width = Field(50, description="items drawn as negatives of each interaction")
    negative_weight: Weight = Field(10.0, description="weight of the mean over the negatives")
    constraints: tuple[Weight, Weight, Weight, Weight] = Field(
        (1e-6, 1.0, 1e-6, 1.0), description="w1 to w4: a constant and the graph's weight, of positives and of negatives"
    )
    num_neighbors: WidthOrNone = Field(10, description="co-occurring items that also count as positives")
    neighbor_weight: Weight = Field(5e-4, description="lambda, weight of the item-item constraint")
    l2: Weight = Field(1e-4, description="gamma, penalty on all vectors at every step")


@dataclass(frozen=True, eq=False)
class Graph:
    """What the loss knows of the graph.

    Args:
        user_factors: float32 ``[U]``, sqrt(d + 1) / d of every user's degree d; 1 without an edge.
        item_factors: float32 ``[N]``, 1 / sqrt(d + 1) of every item's degree d.
        neighbors: int64 ``[N, k]``, co-occurring items of the largest weight.
        weights: float32 ``[N, k]``, their weights; 0 where an item has fewer neighbors.
    """

    user_factors: Tensor
    item_factors: Tensor
    neighbors: Tensor
    weights: Tensor


class UltraGCNEncoder(CollaborativeEncoder):
    """UltraGCN on the training interactions."""

    name: ClassVar[str] = "ultragcn"
    Settings: ClassVar[type[Section]] = UltraGCNSettings
    settings: UltraGCNSettings

    def embed(self, edges: np.ndarray, num_users: int, num_items: int) -> np.ndarray:
        """Train."""
        return train_ultragcn(edges, num_users, num_items, self.settings)[1].numpy()


def degree_factors(edges: np.ndarray, num_users: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The factors of users and items whose product is the weight of a pair (equation 7).

    Args:
        edges: int64 ``[2, E]``, distinct pairs of user and item.
        num_users: Number of users.
        num_items: Number of items.

    Returns:
        float32 ``[U]`` and ``[N]``.
    """
    users = np.bincount(edges[0], minlength=num_users).astype(np.float64)
    items = np.bincount(edges[1], minlength=num_items).astype(np.float64)
    # A user without an edge is never in a batch; 1 keeps the division defined.
    user_factors = np.sqrt(users + 1) / np.maximum(users, 1)
    return user_factors.astype(np.float32), (1 / np.sqrt(items + 1)).astype(np.float32)


def item_neighbors(
    edges: np.ndarray, num_users: int, num_items: int, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The co-occurring items of largest weight (equations 10 and 11), largest first, then by position.

    With G = A^T A and g its row sums, the weight of j for i is G_ij / (g_i - G_ii) * sqrt(g_i / g_j).

    Args:
        edges: int64 ``[2, E]``, distinct pairs of user and item.
        num_users: Number of users.
        num_items: Number of items.
        num_neighbors: k.

    Returns:
        int64 ``[N, k]`` and float32 ``[N, k]``; item 0 with weight 0 where an item has fewer neighbors.
    """
    ones = np.ones(edges.shape[1])
    bought = csr_array((ones, (edges[1], edges[0])), shape=(num_items, num_users))
    sums = bought @ (bought.T @ np.ones(num_items))
    others = sums - np.bincount(edges[1], minlength=num_items)
    neighbors = np.zeros((num_items, num_neighbors), dtype=np.int64)
    weights = np.zeros((num_items, num_neighbors), dtype=np.float32)
    for start in range(0, num_items, NEIGHBOR_ROWS):
        counts = (bought[start : start + NEIGHBOR_ROWS] @ bought.T).tocoo()
        rows, columns = counts.row.astype(np.int64) + start, counts.col.astype(np.int64)
        kept = rows != columns
        rows, columns = rows[kept], columns[kept]
        weight = counts.data[kept] / others[rows] * np.sqrt(sums[rows] / sums[columns])
        order = np.lexsort((columns, -weight, rows))
        rows, columns, weight = rows[order], columns[order], weight[order]
        first = np.searchsorted(rows, rows)
        rank = np.arange(len(rows)) - first
        best = rank < num_neighbors
        neighbors[rows[best], rank[best]] = columns[best]
        weights[rows[best], rank[best]] = weight[best]
    return neighbors, weights


def constraint_loss(
    positive_scores: Tensor, negative_scores: Tensor, positive_weights: Tensor, negative_weights: Tensor
) -> Tensor:
    """The weighted cross-entropy of pairs that are edges and of pairs that are drawn (equation 9 with its weights).

    Args:
        positive_scores: float32 ``[B]``.
        negative_scores: float32 ``[B, n]``.
        positive_weights: float32 ``[B]``.
        negative_weights: float32 ``[B, n]``, the weight of the mean over the negatives included.

    Returns:
        The sum over the batch, as in the authors' code.
    """
    positive = positive_weights * functional.softplus(-positive_scores)
    negative = (negative_weights * functional.softplus(negative_scores)).mean(dim=1)
    return (positive + negative).sum()


def neighbor_loss(users: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
    """The item-item constraint (equation 12): users score the neighbors of what they took.

    Args:
        users: float32 ``[B, D]``.
        neighbors: float32 ``[B, k, D]``.
        weights: float32 ``[B, k]``.

    Returns:
        The sum over the batch.
    """
    scores = (neighbors @ users.unsqueeze(2)).squeeze(2)
    return (weights * functional.softplus(-scores)).sum()


def ultragcn_loss(
    users: Tensor, items: Tensor, pairs: Tensor, negatives: Tensor, graph: Graph, settings: UltraGCNSettings
) -> Tensor:
    """The whole loss of a batch (equation 13 with the penalty).

    Args:
        users: float32 ``[U, D]``.
        items: float32 ``[N, D]``.
        pairs: int64 ``[2, B]``, users and items of edges.
        negatives: int64 ``[B / SHARED, n]``, items; interactions that follow each other share a row.
        graph: See :class:`Graph`.
        settings: Of the encoder.
    """
    constant, factor, constant_drawn, factor_drawn = settings.constraints
    chosen, own = users[pairs[0]], graph.user_factors[pairs[0]]
    # One look-up for all groups: each of its own would have a gradient as large as the catalogue.
    drawn = items[negatives]
    scores = [group @ vectors.T for group, vectors in zip(chosen.split(SHARED), drawn, strict=True)]
    factors = graph.item_factors[negatives].repeat_interleave(SHARED, dim=0)[: len(own)]
    loss = constraint_loss(
        (chosen * items[pairs[1]]).sum(dim=1),
        torch.cat(scores),
        constant + factor * own * graph.item_factors[pairs[1]],
        settings.negative_weight * (constant_drawn + factor_drawn * own[:, None] * factors),
    )
    if settings.num_neighbors and settings.neighbor_weight:
        near = items[graph.neighbors[pairs[1]]]
        loss = loss + settings.neighbor_weight * neighbor_loss(chosen, near, graph.weights[pairs[1]])
    return loss + settings.l2 * 0.5 * (users.square().sum() + items.square().sum())


def train_ultragcn(
    edges: np.ndarray, num_users: int, num_items: int, settings: UltraGCNSettings
) -> tuple[Tensor, Tensor]:
    """Train on a graph.

    Args:
        edges: int64 ``[2, E]``, distinct pairs of user and item.
        num_users: Number of users.
        num_items: Number of items.
        settings: Of the encoder.

    Returns:
        Vectors of users float32 ``[U, D]`` and of items float32 ``[N, D]``.
    """
    generator = np.random.default_rng(settings.seed)
    factors = [torch.from_numpy(part) for part in degree_factors(edges, num_users, num_items)]
    near = [torch.from_numpy(part) for part in item_neighbors(edges, num_users, num_items, settings.num_neighbors)]
    graph = Graph(*factors, *near)
    users, items = (
        torch.from_numpy(generator.standard_normal((rows, settings.dim), dtype=np.float32) * INITIAL_DEVIATION)
        for rows in (num_users, num_items)
    )
    optimizer = torch.optim.Adam([users.requires_grad_(), items.requires_grad_()], lr=settings.learning_rate)
    for _ in progress(range(settings.epochs), "ultragcn", settings.epochs):
        shuffled = torch.from_numpy(edges[:, generator.permutation(edges.shape[1])])
        for pairs in shuffled.split(settings.batch_size, dim=1):
            groups = -(-pairs.shape[1] // SHARED)
            negatives = torch.from_numpy(generator.integers(num_items, size=(groups, settings.num_negatives)))
            optimizer.zero_grad()
            ultragcn_loss(users, items, pairs, negatives, graph, settings).backward()
            optimizer.step()
    return users.detach(), items.detach()
