"""Collaborative item vectors: LightGCN on the training part of the interactions.

Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020
(equations 3 to 5 and the BPR loss of section 3.3). Layers propagate over the bipartite graph of users and items without
weights of their own; the vector is the mean over layers 0..K.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from genrec.config import Section
from genrec.config.ranges import BatchSize, LayersOrNone, LearningRate, Rounds, Weight
from genrec.features.collaborative import CollaborativeEncoder, CollaborativeSettings
from genrec.features.progress import progress

INITIAL_DEVIATION = 0.1
# Rejection leaves at most this share of negatives that are positives for users who have nearly the whole catalogue.
REJECTION_ROUNDS = 10


class LightGCNSettings(CollaborativeSettings):
    """Settings of the encoder ``lightgcn``."""

    num_layers: LayersOrNone = 3
    epochs: Rounds = Field(20, description="one sampled triple per training interaction and epoch")
    batch_size: BatchSize = 2048
    learning_rate: LearningRate = 5e-3
    l2: Weight = Field(1e-4, description="penalty on the layer-0 vectors of each triple")


class LightGCNEncoder(CollaborativeEncoder):
    """LightGCN trained with BPR."""

    name: ClassVar[str] = "lightgcn"
    Settings: ClassVar[type[Section]] = LightGCNSettings
    settings: LightGCNSettings

    def embed(self, edges: np.ndarray, num_users: int, num_items: int) -> np.ndarray:
        """Train, and propagate once more."""
        return train_lightgcn(edges, num_users, num_items, self.settings)[num_users:].numpy()


def normalized_adjacency(edges: np.ndarray, num_users: int, num_items: int) -> csr_array:
    """D^-1/2 A D^-1/2 of the bipartite graph, without self-loops; rows of isolated nodes are zero.

    Args:
        edges: int64 ``[2, E]``, distinct pairs of dense user and item.
        num_users: Number of users.
        num_items: Number of items.

    Returns:
        Sparse float32 ``[users + items, users + items]``.
    """
    users, items = edges[0], edges[1] + num_users
    rows, columns = np.concatenate([users, items]), np.concatenate([items, users])
    nodes = num_users + num_items
    # Only nodes with an edge are ever looked up, so no degree is zero here.
    degree = np.bincount(rows, minlength=nodes).astype(np.float64)
    weights = (degree[rows] * degree[columns]) ** -0.5
    return csr_array((weights.astype(np.float32), (rows, columns)), shape=(nodes, nodes))


class _Propagation(torch.autograd.Function):
    """One layer; the matrix is symmetric, so the gradient takes the same product.

    The product is scipy's, which takes half the time of torch's sparse product on one core.
    """

    @staticmethod
    def forward(ctx: Any, adjacency: csr_array, vectors: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return torch.from_numpy(adjacency @ vectors.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, torch.from_numpy(ctx.adjacency @ gradients[0].numpy())


def propagate(adjacency: csr_array, vectors: Tensor, num_layers: int) -> Tensor:
    """Mean of layers 0..K.

    Args:
        adjacency: Normalized, ``[nodes, nodes]``.
        vectors: Layer 0, float32 ``[nodes, D]``.
        num_layers: K.
    """
    total = layer = vectors
    for _ in range(num_layers):
        layer = _Propagation.apply(adjacency, layer)
        total = total + layer
    return total / (num_layers + 1)


def bpr_loss(final: Tensor, initial: Tensor, triples: Tensor, l2: float) -> Tensor:
    """Mean softplus of negative minus positive score, plus the penalty on layer-0 vectors.

    Args:
        final: float32 ``[nodes, D]``, propagated.
        initial: float32 ``[nodes, D]``, layer 0.
        triples: int64 ``[3, B]``: nodes of user, positive item and negative item.
        l2: Weight of the penalty, half the mean squared length of the three vectors together.
    """
    users, positives, negatives = final[triples[0]], final[triples[1]], final[triples[2]]
    ranking = functional.softplus(((negatives - positives) * users).sum(dim=1)).mean()
    return ranking + l2 * 0.5 * initial[triples].square().sum() / triples.shape[1]


def sample_triples(edges: np.ndarray, num_items: int, generator: np.random.Generator) -> np.ndarray:
    """As many triples as edges: a user uniformly, a positive of theirs uniformly, a negative by rejection.

    Args:
        edges: int64 ``[2, E]``, sorted by user, then item.
        num_items: Number of items.
        generator: Source of chance.

    Returns:
        int64 ``[3, E]``: users, positives, negatives (dense ids).
    """
    users, starts, degrees = np.unique(edges[0], return_index=True, return_counts=True)
    chosen = generator.integers(len(users), size=int(edges.shape[1]))
    positives = edges[1][starts[chosen] + (generator.random(len(chosen)) * degrees[chosen]).astype(np.int64)]
    keys = edges[0] * num_items + edges[1]
    negatives = generator.integers(num_items, size=len(chosen))
    for _ in range(REJECTION_ROUNDS):
        wanted = users[chosen] * num_items + negatives
        found = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
        if not found.any():
            break
        negatives[found] = generator.integers(num_items, size=int(found.sum()))
    return np.stack([users[chosen], positives, negatives])


def train_lightgcn(edges: np.ndarray, num_users: int, num_items: int, settings: LightGCNSettings) -> Tensor:
    """Train and propagate once more.

    Args:
        edges: int64 ``[2, E]``, distinct pairs of user and item, sorted.
        num_users: Number of users.
        num_items: Number of items.
        settings: Of the encoder.

    Returns:
        float32 ``[users + items, D]``.
    """
    generator = np.random.default_rng(settings.seed)
    adjacency = normalized_adjacency(edges, num_users, num_items)
    start = generator.standard_normal((num_users + num_items, settings.dim), dtype=np.float32) * INITIAL_DEVIATION
    initial = torch.from_numpy(start).requires_grad_()
    optimizer = torch.optim.Adam([initial], lr=settings.learning_rate)
    offsets = np.array([[0], [num_users], [num_users]])
    for _ in progress(range(settings.epochs), "lightgcn", settings.epochs):
        triples = torch.from_numpy(sample_triples(edges, num_items, generator) + offsets)
        for batch in triples.split(settings.batch_size, dim=1):
            optimizer.zero_grad()
            loss = bpr_loss(propagate(adjacency, initial, settings.num_layers), initial, batch, settings.l2)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return propagate(adjacency, initial, settings.num_layers)
