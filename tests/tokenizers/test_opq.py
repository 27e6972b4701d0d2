"""Optimized product quantization against faiss."""

import faiss
import numpy as np

from genrec.tokenizers.families.opq import OptimizedProductSettings, OptimizedProductTokenizer
from genrec.tokenizers.families.pq import ProductSettings, ProductTokenizer


def fitted(dataset, features, **settings) -> OptimizedProductTokenizer:
    chosen = {"num_levels": 3, "codebook_size": 8, "rotation_iterations": 12, **settings}
    tokenizer = OptimizedProductTokenizer(OptimizedProductSettings(**chosen))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_codes_equal_faiss(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, seed=7)
    rotation = faiss.OPQMatrix(12, 3)
    rotation.niter = 12
    rotation.pq = inner = faiss.ProductQuantizer(12, 3, 3)
    inner.cp.min_points_per_centroid = 1
    rotation.train(tiny_features.values)
    rotated = rotation.apply(tiny_features.values)
    library = faiss.ProductQuantizer(12, 3, 3)
    library.cp.seed, library.cp.niter, library.cp.min_points_per_centroid = 7, 25, 1
    library.train(rotated)
    packed = library.compute_codes(rotated)
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, :9].reshape(-1, 3, 3)
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), bits @ [1, 2, 4])
    expected = rotation.reverse_transform(library.decode(packed))
    np.testing.assert_allclose(tokenizer.reconstruct(tokenizer.encode(tiny_features.values)), expected, atol=1e-5)


def test_the_rotation_keeps_lengths_and_loses_less(tiny_dataset, with_vectors):
    random = np.random.default_rng(0)
    # Two strong directions that plain cutting puts into one part.
    values = random.standard_normal((40, 6)) * [5, 5, 0.1, 0.1, 0.1, 0.1]
    features = with_vectors(values @ np.linalg.qr(random.standard_normal((6, 6)))[0])
    rotated = fitted(tiny_dataset, features, rotation_iterations=30)
    np.testing.assert_allclose(rotated.rotation @ rotated.rotation.T, np.eye(6), atol=1e-5)
    plain = ProductTokenizer(ProductSettings(num_levels=3, codebook_size=8))
    plain.fit(tiny_dataset, features)
    errors = [((t.reconstruct(t.encode(features.values)) - features.values) ** 2).sum() for t in (rotated, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_a_width_that_cannot_be_shared_equally_is_filled(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=5, codebook_size=(9, 2, 3, 4, 5))
    assert tokenizer.rotation.shape == (15, 12)
    np.testing.assert_allclose(tokenizer.rotation.T @ tokenizer.rotation, np.eye(12), atol=1e-5)
    codes = tokenizer.encode(tiny_features.values)
    assert (codes.max(axis=0) < [9, 2, 3, 4, 5]).all()
    assert tokenizer.reconstruct(codes).shape == (40, 12)
