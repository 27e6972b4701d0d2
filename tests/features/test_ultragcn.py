"""UltraGCN against loops over the published formulae on a small graph, and that it learns."""

import math

import numpy as np
import pytest
import torch

from genrec.errors import DataError
from genrec.features.collaborative import training_edges
from genrec.features.ultragcn import (
    Graph,
    UltraGCNEncoder,
    UltraGCNSettings,
    degree_factors,
    item_neighbors,
    train_ultragcn,
    ultragcn_loss,
)

# User 3 and item 5 have no edge; item 4 shares its only user with no one.
EDGES = np.array([[0, 0, 0, 1, 1, 2, 4], [0, 1, 2, 0, 1, 3, 4]])
USERS, ITEMS = 5, 6
SETTINGS = UltraGCNSettings(
    dim=3, constraints=(0.1, 2.0, 0.3, 4.0), negative_weight=7.0, num_neighbors=2, neighbor_weight=0.5, l2=0.25
)


def matrix() -> list[list[int]]:
    known = set(map(tuple, EDGES.T.tolist()))
    return [[int((user, item) in known) for item in range(ITEMS)] for user in range(USERS)]


def pair_weight(user: int, item: int) -> float:
    taken = matrix()
    user_degree, item_degree = sum(taken[user]), sum(row[item] for row in taken)
    return math.sqrt(user_degree + 1) / user_degree / math.sqrt(item_degree + 1)


def item_weight(one: int, other: int) -> float:
    taken = matrix()
    together = [[sum(row[i] * row[j] for row in taken) for j in range(ITEMS)] for i in range(ITEMS)]
    sums = [sum(row) for row in together]
    left = sums[one] - together[one][one]
    return together[one][other] / left * math.sqrt(sums[one] / sums[other]) if together[one][other] else 0.0


def log_sigmoid(score: float) -> float:
    return -math.log(1 + math.exp(-score))


def test_pair_weights_by_loops():
    users, items = degree_factors(EDGES, USERS, ITEMS)
    for user, item in EDGES.T.tolist():
        assert users[user] * items[item] == pytest.approx(pair_weight(user, item), rel=1e-6)
    assert users[3] == 1
    assert items[5] == 1


def test_neighbors_by_loops(monkeypatch):
    # A product in several pieces gives the same.
    monkeypatch.setattr("genrec.features.ultragcn.NEIGHBOR_ROWS", 2)
    neighbors, weights = item_neighbors(EDGES, USERS, ITEMS, 2)
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item and item_weight(item, other) > 0]
        best = sorted(others, key=lambda other: (-item_weight(item, other), other))[:2]
        assert neighbors[item, : len(best)].tolist() == best
        assert weights[item, : len(best)] == pytest.approx([item_weight(item, other) for other in best], rel=1e-6)
        assert not weights[item, len(best) :].any()
    assert neighbors[0].tolist() == [1, 2]
    assert not weights[4].any()


def test_the_loss_by_loops(monkeypatch):
    generator = np.random.default_rng(0)
    users = torch.from_numpy(generator.standard_normal((USERS, 3)).astype(np.float32))
    items = torch.from_numpy(generator.standard_normal((ITEMS, 3)).astype(np.float32))
    factors = [torch.from_numpy(part) for part in degree_factors(EDGES, USERS, ITEMS)]
    near = [torch.from_numpy(part) for part in item_neighbors(EDGES, USERS, ITEMS, 2)]
    # The first two interactions share their negatives.
    monkeypatch.setattr("genrec.features.ultragcn.SHARED", 2)
    pairs, negatives = torch.tensor([[0, 1, 2], [2, 0, 3]]), torch.tensor([[5, 1, 4, 1], [0, 0, 2, 3]])
    score = (users.double() @ items.double().T).tolist()
    expected = 0.0
    for position, (user, item) in enumerate(pairs.T.tolist()):
        expected -= (0.1 + 2.0 * pair_weight(user, item)) * log_sigmoid(score[user][item])
        for other in negatives[position // 2].tolist():
            degree = sum(row[other] for row in matrix())
            weight = 0.3 + 4.0 * math.sqrt(sum(matrix()[user]) + 1) / sum(matrix()[user]) / math.sqrt(degree + 1)
            expected -= 7.0 / 4 * weight * log_sigmoid(-score[user][other])
        others = [other for other in range(ITEMS) if other != item]
        for other in sorted(others, key=lambda other: (-item_weight(item, other), other))[:2]:
            expected -= 0.5 * item_weight(item, other) * log_sigmoid(score[user][other])
    expected += 0.25 / 2 * float((users**2).sum() + (items**2).sum())
    loss = ultragcn_loss(users, items, pairs, negatives, Graph(*factors, *near), SETTINGS)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_without_neighbors_that_term_is_gone(tiny_dataset):
    edges = training_edges(tiny_dataset, "here")
    short = {"dim": 4, "epochs": 1}
    without = [
        train_ultragcn(edges, 60, 40, UltraGCNSettings(**short, **change))[1]
        for change in ({"num_neighbors": 0}, {"neighbor_weight": 0.0})
    ]
    assert torch.equal(*without)
    assert not torch.equal(without[0], train_ultragcn(edges, 60, 40, UltraGCNSettings(**short))[1])


def test_it_ranks_held_out_items_better_than_popularity(tiny_dataset):
    edges = training_edges(tiny_dataset, "here")
    settings = UltraGCNSettings(dim=16, epochs=60, learning_rate=0.02, batch_size=64, negative_weight=5.0)
    users, items = train_ultragcn(edges, tiny_dataset.num_users, tiny_dataset.num_items, settings)
    histories, targets = tiny_dataset.evaluation("validation")
    popularity = torch.from_numpy(tiny_dataset.train_popularity()).float().expand(len(histories), -1)
    hits = []
    for scores in ((users @ items.T)[histories.users], popularity.clone()):
        for row in range(len(histories)):
            scores[row, histories[row]] = -torch.inf
        best = scores.topk(5).indices.numpy()
        hits.append(np.mean([np.isin(targets[row], best[row]).any() for row in range(len(histories))]))
    assert hits[0] > hits[1] + 0.1


def test_vectors_tell_what_is_bought_together(tiny_dataset):
    settings = UltraGCNSettings(dim=16, epochs=60, learning_rate=0.02, batch_size=64, negative_weight=5.0)
    values = UltraGCNEncoder(settings).fit(tiny_dataset).values
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    genre = np.arange(40) // 10
    same, likeness = genre[:, None] == genre[None], unit @ unit.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.2


def test_the_same_bytes_twice_and_others_with_another_seed(tiny_dataset):
    values = [
        UltraGCNEncoder(UltraGCNSettings(dim=8, epochs=2, seed=seed)).fit(tiny_dataset).values.tobytes()
        for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


def test_new_items_are_refused_with_the_reason(tiny_dataset):
    with pytest.raises(DataError, match="ultragcn has no vectors for 40 new items"):
        UltraGCNEncoder(UltraGCNSettings()).transform(tiny_dataset.items)
