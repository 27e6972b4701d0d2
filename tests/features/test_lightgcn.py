"""LightGCN against a dense numpy reference of the propagation, and that it learns."""

import numpy as np
import pytest
import torch

from genrec.data import Histories
from genrec.errors import DataError
from genrec.features.lightgcn import (
    LightGCNEncoder,
    LightGCNSettings,
    bpr_loss,
    normalised_adjacency,
    propagate,
    sample_triples,
    train_lightgcn,
)

# User 3 and item 4 have no edge.
EDGES = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 2, 3, 3]])
USERS, ITEMS = 4, 5


def dense_adjacency() -> np.ndarray:
    matrix = np.zeros((USERS + ITEMS, USERS + ITEMS))
    for user, item in EDGES.T:
        matrix[user, USERS + item] = matrix[USERS + item, user] = 1
    degree = matrix.sum(axis=1)
    factor = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return factor[:, None] * matrix * factor[None]


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((USERS + ITEMS, 6)).astype(np.float32))


def train_edges(dataset) -> np.ndarray:
    histories = dataset.train()
    users = np.repeat(histories.users, histories.lengths)
    return np.unique(np.stack([users, histories.items.astype(np.int64)]), axis=1)


def test_adjacency_equals_the_dense_one():
    sparse = normalised_adjacency(EDGES, USERS, ITEMS).toarray()
    np.testing.assert_allclose(sparse, dense_adjacency(), atol=1e-7)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_propagation_and_its_gradient_equal_the_dense_reference(vectors, num_layers):
    adjacency = dense_adjacency()
    power, mean = np.eye(USERS + ITEMS), np.zeros((USERS + ITEMS, USERS + ITEMS))
    for _ in range(num_layers + 1):
        mean += power / (num_layers + 1)
        power = adjacency @ power
    vectors.requires_grad_()
    final = propagate(normalised_adjacency(EDGES, USERS, ITEMS), vectors, num_layers)
    np.testing.assert_allclose(final.detach().numpy(), mean @ vectors.detach().numpy(), atol=1e-6)
    weights = torch.arange(final.numel(), dtype=torch.float32).reshape(final.shape)
    (final * weights).sum().backward()
    np.testing.assert_allclose(vectors.grad.numpy(), mean.T @ weights.numpy(), atol=1e-4)


def test_loss_by_hand(vectors):
    triples = torch.tensor([[0, 1], [4, 5], [6, 7]])
    expected = 0.0
    for user, positive, negative in triples.T.tolist():
        difference = float(vectors[user] @ vectors[negative] - vectors[user] @ vectors[positive])
        penalty = sum(float(vectors[node] @ vectors[node]) for node in (user, positive, negative))
        expected += (np.log1p(np.exp(difference)) + 0.5 * 0.1 * penalty) / 2
    assert float(bpr_loss(vectors, vectors, triples, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_sampled_triples_are_what_they_say(tiny_dataset):
    edges = train_edges(tiny_dataset)
    users, positives, negatives = sample_triples(edges, tiny_dataset.num_items, np.random.default_rng(1))
    known = set(map(tuple, edges.T.tolist()))
    assert len(users) == edges.shape[1]
    assert all(pair in known for pair in zip(users.tolist(), positives.tolist(), strict=True))
    assert not any(pair in known for pair in zip(users.tolist(), negatives.tolist(), strict=True))
    # Users are drawn uniformly, not by the number of their interactions.
    many = np.concatenate([sample_triples(edges, 40, np.random.default_rng(seed))[0] for seed in range(40)])
    shares = np.bincount(many, minlength=60) / len(many)
    assert shares.max() < 1.6 / 60


def test_training_equals_a_dense_reference(tiny_dataset):
    edges, users, items = train_edges(tiny_dataset), tiny_dataset.num_users, tiny_dataset.num_items
    settings = LightGCNSettings(dim=6, epochs=2, batch_size=100, learning_rate=0.01, l2=0.05, num_layers=2)
    taken = torch.zeros(users + items, users + items)
    taken[edges[0], users + edges[1]] = taken[users + edges[1], edges[0]] = 1
    factor = taken.sum(dim=1).clamp(min=1).rsqrt()
    layer = factor[:, None] * taken * factor
    mean = (torch.eye(users + items) + layer + layer @ layer) / 3
    random = np.random.default_rng(settings.seed)
    vectors = torch.from_numpy(random.standard_normal((users + items, 6), dtype=np.float32) * 0.1).requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=0.01)
    for _ in range(2):
        for batch in torch.from_numpy(sample_triples(edges, items, random)).split(100, dim=1):
            nodes = batch + torch.tensor([[0], [users], [users]])
            user, positive, negative = (mean @ vectors)[nodes]
            likelier = (user * positive).sum(dim=1) - (user * negative).sum(dim=1)
            penalty = 0.5 * 0.05 * (vectors[nodes] ** 2).sum() / batch.shape[1]
            optimiser.zero_grad()
            (penalty - torch.log(torch.sigmoid(likelier)).mean()).backward()
            optimiser.step()
    trained = train_lightgcn(edges, users, items, settings)
    np.testing.assert_allclose(trained.numpy(), (mean @ vectors).detach().numpy(), atol=1e-4)


def test_it_learns(tiny_dataset):
    edges = train_edges(tiny_dataset)
    settings = LightGCNSettings(dim=16, epochs=30, learning_rate=0.02, batch_size=128)
    final = train_lightgcn(edges, tiny_dataset.num_users, tiny_dataset.num_items, settings).numpy()
    scores = final[: tiny_dataset.num_users] @ final[tiny_dataset.num_users :].T
    known = np.zeros(scores.shape, dtype=bool)
    known[edges[0], edges[1]] = True
    better = [
        (scores[user][known[user]][:, None] > scores[user][~known[user]][None]).mean() for user in np.unique(edges[0])
    ]
    assert np.mean(better) > 0.9


def test_vectors_tell_what_is_bought_together(tiny_dataset):
    values = LightGCNEncoder(LightGCNSettings(dim=16, epochs=20, learning_rate=0.05)).fit(tiny_dataset).values
    assert values.shape == (40, 16)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    genre = np.arange(40) // 10
    same = genre[:, None] == genre[None]
    likeness = unit @ unit.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.3


def test_the_same_bytes_twice_and_others_with_another_seed(tiny_dataset):
    values = [
        LightGCNEncoder(LightGCNSettings(dim=8, epochs=2, seed=seed)).fit(tiny_dataset).values.tobytes()
        for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


def test_unit_length_on_demand(tiny_dataset):
    values = LightGCNEncoder(LightGCNSettings(dim=8, epochs=1, normalise=True)).fit(tiny_dataset).values
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)


def test_new_items_are_refused_with_the_reason(tiny_dataset):
    with pytest.raises(DataError, match="lightgcn has no vectors for 40 new items") as caught:
        LightGCNEncoder(LightGCNSettings()).transform(tiny_dataset.items)
    assert "use lexical" in str(caught.value)


def test_no_training_interactions_are_refused(tiny_dataset, monkeypatch):
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([]))
    with pytest.raises(DataError, match="there is no training interaction") as caught:
        LightGCNEncoder(LightGCNSettings()).fit(tiny_dataset)
    assert "lexical" in str(caught.value)
