"""Clusters with a capacity: never more, near the best assignment there is, and plain k-means where there is room."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from genrec.errors import ConfigError, DataError
from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.families.gid import GIDSettings, GIDTokenizer, assign_within, limited_kmeans
from genrec.tokenizers.families.rqkmeans import kmeans


def fitted(dataset, features, **settings) -> GIDTokenizer:
    tokenizer = GIDTokenizer(GIDSettings(**{"num_clusters": 4, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def by_hand(distances: np.ndarray, capacity: int) -> list[int]:
    """All waiting rows ask for their nearest open column; each column takes the nearest of those who ask."""
    rows, columns = distances.shape
    labels, room, waiting = [-1] * rows, [capacity] * columns, list(range(rows))
    while waiting:
        asked: dict[int, list[int]] = {}
        for row in waiting:
            free = [column for column in range(columns) if room[column]]
            asked.setdefault(min(free, key=lambda column: distances[row, column]), []).append(row)
        waiting = []
        for column, askers in asked.items():
            askers.sort(key=lambda row: distances[row, column])
            for row in askers[: room[column]]:
                labels[row] = column
            waiting += askers[room[column] :]
            room[column] -= min(room[column], len(askers))
    return labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [6, 7, 30])
def test_assignment_in_rounds(seed, capacity):
    distances = np.random.default_rng(seed).random((30, 5))
    labels = assign_within(distances, capacity)
    assert labels.tolist() == by_hand(distances, capacity)
    assert np.bincount(labels, minlength=5).max() <= capacity
    best = linear_sum_assignment(np.repeat(distances, capacity, axis=1))
    cost = distances[np.arange(30), labels].sum()
    assert cost <= 1.6 * np.repeat(distances, capacity, axis=1)[best].sum()


def test_with_room_it_is_plain_kmeans():
    points = np.random.default_rng(1).standard_normal((200, 3)).astype(np.float32)
    labels, centres = limited_kmeans(points, 5, 200, GIDSettings(iterations=9, seed=3))
    np.testing.assert_array_equal(centres, kmeans(points, 5, 9, 3))
    np.testing.assert_array_equal(labels, ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1))


def test_a_full_cluster_passes_items_on():
    # 60 points at one place and 4 at another: without a limit the clusters would have 60 and 4.
    points = np.concatenate([np.zeros((60, 2)), np.full((4, 2), 9.0)]).astype(np.float32)
    points += 0.01 * np.random.default_rng(0).standard_normal(points.shape).astype(np.float32)
    labels, centres = limited_kmeans(points, 2, 40, GIDSettings())
    assert sorted(np.bincount(labels).tolist()) == [24, 40]
    assert len(set(labels[60:])) == 1
    for code in range(2):
        np.testing.assert_allclose(centres[code], points[labels == code].mean(axis=0), atol=1e-5)


def test_every_leaf_holds_as_many_items_as_the_counter_has_codes(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    assert tokenizer.codes.shape == (40, 2)
    assert tokenizer.level_sizes == (4, 4)
    assert np.bincount(tokenizer.codes[:, 0]).max() <= 16
    assert np.unique(tokenizer.codes, axis=0, return_counts=True)[1].max() <= 4


def test_new_items_go_the_way_of_the_nearest(tiny_dataset, tiny_features, tmp_path):
    tokenizer = fitted(tiny_dataset, tiny_features, num_clusters=6, num_levels=4)
    tokenizer.save_pretrained(tmp_path)
    loaded = ItemTokenizer.from_pretrained(tmp_path)
    known = loaded.encode_catalogue(tiny_dataset, tiny_features)
    for value, code in zip(tiny_features.values, loaded.encode(tiny_features.values), strict=True):
        cluster = 0
        for level in range(3):
            distances = ((loaded.centroids[level][cluster] - value) ** 2).sum(axis=1)
            distances[loaded.children[level][cluster] < 0] = np.inf
            assert code[level] == distances.argmin()
            cluster = loaded.children[level][cluster, code[level]]
    # Where no cluster is full that is the way of the fitted items, too.
    np.testing.assert_array_equal(loaded.encode(tiny_features.values), known)


def test_catalogues_without_room_are_refused(tiny_dataset, tiny_features, with_vectors):
    with pytest.raises(DataError, match=r"(?s)2 levels of 6 codes hold 36 items, the catalogue has 40.*num_clusters"):
        fitted(tiny_dataset, tiny_features, num_clusters=6, num_levels=2)
    same = with_vectors(np.repeat(np.eye(3, 12), [20, 10, 10], axis=0))
    with pytest.raises(DataError, match=r"(?s)4 clusters but the 40 items have 3 different vectors.*num_clusters: 3"):
        fitted(tiny_dataset, same)


def test_equal_vectors_are_spread_when_a_cluster_is_full(tiny_dataset, with_vectors):
    tokenizer = fitted(tiny_dataset, with_vectors(np.repeat(np.eye(4, 12), [37, 1, 1, 1], axis=0)))
    assert np.unique(tokenizer.codes, axis=0, return_counts=True)[1].max() <= 4


def test_what_has_not_been_fitted_names_nothing(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match="the tokenizer gid has not been fitted"):
        GIDTokenizer(GIDSettings()).encode_catalogue(tiny_dataset, tiny_features)
