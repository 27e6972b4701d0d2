"""Residual k-means against a naive reference and against faiss called by hand."""

import faiss
import numpy as np
import pytest

from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer, kmeans
from genrec.tokenizers.parts.residual import nearest_codes, residual_step
from genrec.tokenizers.parts.sampling import draw_rows


def fitted(dataset, features, **settings) -> ResidualKMeansTokenizer:
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(**{"codebook_size": 6, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def naive_codes(values: np.ndarray, codebooks: list[np.ndarray], normalize: bool) -> np.ndarray:
    rows = []
    for value in values:
        residual, codes = value, []
        for codebook in codebooks:
            if normalize and np.linalg.norm(residual) > 0:
                residual = residual / np.linalg.norm(residual)
            distances = [((residual.astype(np.float64) - code) ** 2).sum() for code in codebook]
            codes.append(int(np.argmin(distances)))
            residual = residual - codebook[codes[-1]]
        rows.append(codes)
    return np.array(rows)


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    """300 vectors of width 12 in 20 clusters."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((20, 12))
    return (centres[random.integers(20, size=300)] + 0.3 * random.standard_normal((300, 12))).astype(np.float32)


@pytest.mark.parametrize("normalize", [False, True])
def test_codes_equal_the_naive_reference(tiny_dataset, tiny_features, cloud, normalize):
    tokenizer = fitted(tiny_dataset, tiny_features, normalize_residuals=normalize)
    for values in (tiny_features.values, cloud[:, :1] * tiny_features.values[0]):
        np.testing.assert_array_equal(tokenizer.encode(values), naive_codes(values, tokenizer.codebooks, normalize))


def test_nearest_codes_in_pieces_equal_all_distances(cloud, monkeypatch):
    monkeypatch.setattr("genrec.tokenizers.parts.residual.CHUNK_ELEMENTS", 100)
    distances = ((cloud[:, None].astype(np.float64) - cloud[None, :37]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_codes(cloud, cloud[:37]), distances.argmin(axis=1))


def test_equally_near_codes_give_the_lowest(cloud):
    np.testing.assert_array_equal(nearest_codes(cloud[:5], np.repeat(cloud[:5], 3, axis=0)), np.arange(5) * 3)


def test_every_level_is_faiss_on_what_is_left(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, normalize_residuals=False, seed=7, iterations=9)
    residual = tiny_features.values
    for level, codebook in enumerate(tokenizer.codebooks):
        model = faiss.Kmeans(12, 6, niter=9, seed=7 + level, max_points_per_centroid=10_000, min_points_per_centroid=1)
        model.train(residual)
        np.testing.assert_array_equal(codebook, model.centroids)
        residual = residual_step(residual, codebook, False)[1]


def test_kmeans_looks_at_all_points():
    # faiss by itself would draw 256 points per centroid, and one centroid would not be the mean of all.
    points = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    np.testing.assert_allclose(kmeans(points, 1, 5, 0)[0], points.mean(axis=0), atol=1e-5)


def test_levels_and_sizes_are_free(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=4, codebook_size=(9, 5, 3, 2))
    assert [codebook.shape for codebook in tokenizer.codebooks] == [(9, 12), (5, 12), (3, 12), (2, 12)]
    assert tokenizer.encode(tiny_features.values).max(axis=0).tolist() <= [8, 4, 2, 1]


def test_reconstruction_is_the_sum_of_codes(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, normalize_residuals=False)
    codes = tokenizer.encode(tiny_features.values)
    expected = [sum(tokenizer.codebooks[level][code] for level, code in enumerate(row)) for row in codes.tolist()]
    np.testing.assert_allclose(tokenizer.reconstruct(codes), expected, atol=1e-6)
    errors = ((tiny_features.values - np.array(expected)) ** 2).sum(axis=1).mean()
    assert tokenizer.residual_energy(tiny_features.values, tokenizer.encode(tiny_features.values))[-1] == pytest.approx(
        errors, rel=1e-4
    )


def test_normalized_residuals_have_no_reconstruction_but_an_energy(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, normalize_residuals=True)
    assert tokenizer.reconstruct(tokenizer.encode(tiny_features.values)) is None
    expected = np.zeros(4)
    for value in tiny_features.values.astype(np.float64):
        # What is left, in the vector's own scale.
        residual, scale = value, 1.0
        expected[0] += ((value - tiny_features.values.mean(axis=0)) ** 2).sum()
        for level, codebook in enumerate(tokenizer.codebooks):
            scale *= np.linalg.norm(residual)
            unit = residual / np.linalg.norm(residual)
            residual = unit - codebook[((unit - codebook) ** 2).sum(axis=1).argmin()]
            expected[level + 1] += scale**2 * (residual @ residual)
    np.testing.assert_allclose(
        tokenizer.residual_energy(tiny_features.values, tokenizer.encode(tiny_features.values)),
        expected / 40,
        rtol=1e-4,
    )


def test_residual_energy_falls(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=4)
    energy = tokenizer.residual_energy(tiny_features.values, tokenizer.encode(tiny_features.values))
    assert (np.diff(energy) <= 0).all()
    assert energy[-1] < 0.3 * energy[0]


def test_of_a_large_catalogue_a_sample_makes_the_centroids(tiny_dataset, tiny_features, cloud):
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(num_levels=2, codebook_size=4, max_points=10, seed=5))
    tokenizer.learn(cloud)
    rows = draw_rows(300, 40, 5)
    alone = ResidualKMeansTokenizer(ResidualKMeansSettings(num_levels=2, codebook_size=4, seed=5))
    alone.learn(cloud[rows])
    for codebook, expected in zip(tokenizer.codebooks, alone.codebooks, strict=True):
        np.testing.assert_array_equal(codebook, expected)


def test_naming_in_blocks_changes_no_code(tiny_dataset, tiny_features, monkeypatch):
    tokenizer = fitted(tiny_dataset, tiny_features)
    whole = tokenizer.encode(tiny_features.values)
    monkeypatch.setattr("genrec.tokenizers.parts.sampling.BLOCK_ROWS", 7)
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), whole)
