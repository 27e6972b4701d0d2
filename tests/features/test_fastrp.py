"""FastRP against dense matrix powers, and that near items are near."""

import numpy as np
import pytest

from genrec.data import Histories
from genrec.errors import DataError
from genrec.features.fastrp import FastRPEncoder, FastRPSettings, project_walks, sparse_projection

# User 3 and item 4 have no edge.
EDGES = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 2, 3, 3]])
USERS, ITEMS = 4, 5


def test_walks_equal_dense_matrix_powers():
    taken = np.zeros((USERS, ITEMS))
    taken[EDGES[0], EDGES[1]] = 1
    walk = np.zeros((ITEMS, ITEMS))
    for start in range(ITEMS):
        for user in np.flatnonzero(taken[:, start]):
            walk[start] += taken[user] / taken[user].sum() / taken[:, start].sum()
    assert walk[:4].sum(axis=1) == pytest.approx(1), "a walk goes somewhere"
    projection = np.random.default_rng(0).standard_normal((ITEMS, 7)).astype(np.float32)
    degrees = taken.sum(axis=0)
    scaled = projection * (np.maximum(degrees, 1)[:, None] / degrees.sum()) ** -0.7
    expected = np.zeros((ITEMS, 7))
    for power, weight in ((1, 0.5), (2, 0.0), (3, 2.0)):
        layer = np.linalg.matrix_power(walk, power) @ scaled
        lengths = np.linalg.norm(layer, axis=1, keepdims=True)
        expected += weight * np.divide(layer, lengths, out=np.zeros_like(layer), where=lengths > 0)
    settings = FastRPSettings(dim=7, step_weights=(0.5, 0.0, 2.0), degree_power=-0.7)
    values = project_walks(EDGES, (USERS, ITEMS), projection, settings)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert not values[4].any()


def test_the_projection_has_mean_0_and_variance_1_and_is_sparse():
    values = sparse_projection(2000, 50, np.random.default_rng(1))
    np.testing.assert_allclose(np.unique(values), [-np.sqrt(3), 0, np.sqrt(3)], rtol=1e-6)
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.var() == pytest.approx(1, abs=0.01)
    assert (values == 0).mean() == pytest.approx(2 / 3, abs=0.01)


def test_vectors_tell_what_is_bought_together(tiny_dataset):
    values = FastRPEncoder(FastRPSettings(dim=32)).fit(tiny_dataset).values
    assert values.shape == (40, 32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    genre = np.arange(40) // 10
    same, likeness = genre[:, None] == genre[None], unit @ unit.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.2


def test_the_same_bytes_twice_and_others_with_another_seed(tiny_dataset):
    values = [FastRPEncoder(FastRPSettings(dim=8, seed=seed)).fit(tiny_dataset).values.tobytes() for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_unit_length_on_demand(tiny_dataset):
    values = FastRPEncoder(FastRPSettings(dim=8, normalize=True)).fit(tiny_dataset).values
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)


def test_new_items_and_empty_graphs_are_refused(tiny_dataset, monkeypatch):
    with pytest.raises(DataError, match="fastrp has no vectors for 40 new items"):
        FastRPEncoder(FastRPSettings()).transform(tiny_dataset.items)
    monkeypatch.setattr(tiny_dataset, "train", lambda: Histories.from_lists([]))
    with pytest.raises(DataError, match=r"(?s)there is no training interaction.*features fastrp"):
        FastRPEncoder(FastRPSettings()).fit(tiny_dataset)
