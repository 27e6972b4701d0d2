"""Balanced residual k-means: sizes, a naive greedy assignment, and what new items get."""

import numpy as np
import pytest

from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.families.rqkmeans_balanced import (
    BalancedKMeansSettings,
    BalancedKMeansTokenizer,
    balanced_kmeans,
    cluster_means,
    greedy_sweep,
)


def fitted(dataset, features, **settings) -> BalancedKMeansTokenizer:
    tokenizer = BalancedKMeansTokenizer(BalancedKMeansSettings(**{"codebook_size": 6, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def naive_greedy(vectors: np.ndarray, centroids: np.ndarray, order: np.ndarray) -> list[int]:
    codes = [-1] * len(vectors)
    for place, cluster in enumerate(order):
        room = len(vectors) // len(centroids) + (place < len(vectors) % len(centroids))
        for _ in range(room):
            free = [item for item in range(len(vectors)) if codes[item] < 0]
            distances = [((vectors[item].astype(float) - centroids[cluster]) ** 2).sum() for item in free]
            codes[free[int(np.argmin(distances))]] = int(cluster)
    return codes


@pytest.mark.parametrize(("items", "clusters"), [(61, 7), (40, 40), (90, 37)])
def test_a_sweep_equals_the_naive_greedy_assignment(items, clusters):
    random = np.random.default_rng(items)
    vectors = random.standard_normal((items, 5)).astype(np.float32)
    centroids = random.standard_normal((clusters, 5)).astype(np.float32)
    order = random.permutation(clusters)
    assert greedy_sweep(vectors, centroids, order).tolist() == naive_greedy(vectors, centroids, order)


def test_equally_near_items_are_taken_in_their_order():
    vectors = np.zeros((5, 2), dtype=np.float32)
    assert greedy_sweep(vectors, np.zeros((2, 2), dtype=np.float32), np.array([1, 0])).tolist() == [1, 1, 1, 0, 0]


def test_more_clusters_than_items_leave_some_empty():
    vectors = np.arange(3, dtype=np.float32)[:, None]
    codes = greedy_sweep(vectors, np.array([[2.0], [9.0], [0.0], [1.0]], dtype=np.float32), np.array([3, 2, 0, 1]))
    assert codes.tolist() == [2, 3, 0]


@pytest.mark.parametrize("normalize", [False, True])
def test_sizes_differ_by_at_most_one_on_every_level(tiny_dataset, tiny_features, normalize):
    tokenizer = fitted(tiny_dataset, tiny_features, codebook_size=(6, 7, 40), normalize_residuals=normalize)
    codes = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    for level, size in enumerate((6, 7, 40)):
        counts = np.bincount(codes[:, level], minlength=size)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == 40


def test_centroids_are_the_means_of_what_the_levels_before_left(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    codes, residual = tokenizer.encode_catalogue(tiny_dataset, tiny_features), tiny_features.values
    for level, codebook in enumerate(tokenizer.codebooks):
        for code in range(6):
            np.testing.assert_allclose(codebook[code], residual[codes[:, level] == code].mean(axis=0), atol=1e-6)
        residual = residual - codebook[codes[:, level]]
    energy = tokenizer.residual_energy(tiny_features.values, codes)
    assert energy[-1] == pytest.approx((residual.astype(np.float64) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_the_cheapest_sweep_is_kept():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((80, 4)).astype(np.float32)
    start = vectors[:9].copy()
    costs, draws, centroids = [], np.random.default_rng(5), start
    for _ in range(8):
        codes = greedy_sweep(vectors, centroids, draws.permutation(9))
        centroids = cluster_means(vectors, codes, centroids)
        costs.append(((vectors - centroids[codes]) ** 2).sum())
    centroids, codes = balanced_kmeans(vectors, start, 8, 8, np.random.default_rng(5))
    assert ((vectors - centroids[codes]) ** 2).sum() == pytest.approx(min(costs), rel=1e-5)
    # Patience ends it at the first sweep that is no cheaper.
    first = next((sweep for sweep in range(1, 8) if costs[sweep] >= min(costs[:sweep])), 8)
    centroids, codes = balanced_kmeans(vectors, start, 8, 1, np.random.default_rng(5))
    assert ((vectors - centroids[codes]) ** 2).sum() == pytest.approx(min(costs[:first]), rel=1e-5)


def test_it_ends_when_an_assignment_comes_back():
    class Counting:
        calls = 0

        def permutation(self, size):
            self.calls += 1
            return np.arange(size)

    order = Counting()
    points = np.array([[0.0], [0.1], [5.0], [5.1]], dtype=np.float32)
    _, codes = balanced_kmeans(points, np.array([[0.0], [5.0]], dtype=np.float32), 50, 50, order)
    assert codes.tolist() == [0, 0, 1, 1]
    assert order.calls == 2


def test_new_items_get_the_nearest_centroids(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    for value, codes in zip(tiny_features.values, tokenizer.encode(tiny_features.values), strict=True):
        for codebook, code in zip(tokenizer.codebooks, codes, strict=True):
            assert code == ((value.astype(np.float64) - codebook) ** 2).sum(axis=1).argmin()
            value = value - codebook[code]


def test_balanced_codes_survive_saving(tiny_dataset, tiny_features, tmp_path):
    tokenizer = fitted(tiny_dataset, tiny_features)
    tokenizer.save_pretrained(tmp_path)
    again = ItemTokenizer.from_pretrained(tmp_path)
    expected = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    np.testing.assert_array_equal(again.encode_catalogue(tiny_dataset, tiny_features), expected)


def test_reassigning_starts_from_the_balanced_codes(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=2)
    codes = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    left = tiny_features.values - tokenizer.codebooks[0][codes[:, 0]]
    expected = ((left[:, None] - tokenizer.codebooks[1]) ** 2).sum(axis=2)
    np.testing.assert_allclose(tokenizer.last_level_costs(tiny_features.values, codes), expected, atol=1e-5)
