"""Product quantization against faiss and by hand."""

import faiss
import numpy as np
import pytest

from genrec.errors import ConfigError
from genrec.tokenizers.families.pq import ProductSettings, ProductTokenizer


def fitted(dataset, features, **settings) -> ProductTokenizer:
    tokenizer = ProductTokenizer(ProductSettings(**{"num_levels": 3, "codebook_size": 8, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_centroids_and_codes_equal_faiss(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, seed=7, iterations=9)
    library = faiss.ProductQuantizer(12, 3, 3)
    library.cp.seed, library.cp.niter, library.cp.min_points_per_centroid = 7, 9, 1
    library.train(tiny_features.values)
    np.testing.assert_array_equal(
        np.stack(tokenizer.codebooks), faiss.vector_to_array(library.centroids).reshape(3, 8, 4)
    )
    packed = library.compute_codes(tiny_features.values)
    # Three codes of three bits each, the lowest bits first.
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, :9].reshape(-1, 3, 3)
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), bits @ [1, 2, 4])
    rebuilt = library.decode(packed)
    np.testing.assert_allclose(tokenizer.reconstruct(tokenizer.encode(tiny_features.values)), rebuilt, atol=1e-6)


def test_parts_may_differ_in_width_and_size(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=5, codebook_size=(9, 2, 3, 4, 5))
    assert [codebook.shape for codebook in tokenizer.codebooks] == [(9, 3), (2, 3), (3, 2), (4, 2), (5, 2)]
    codes = tokenizer.encode(tiny_features.values)
    part = tiny_features.values[:, 6:8].astype(np.float64)
    distances = ((part[:, None] - tokenizer.codebooks[2]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(codes[:, 2], distances.argmin(axis=1))
    assert tokenizer.reconstruct(codes).shape == tiny_features.values.shape


def test_costs_of_the_last_part(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    costs = tokenizer.last_level_costs(tiny_features.values, tokenizer.encode(tiny_features.values))
    expected = ((tiny_features.values[:, None, 8:] - tokenizer.codebooks[2]) ** 2).sum(axis=2)
    np.testing.assert_allclose(costs, expected, atol=1e-6)


def test_more_parts_than_numbers_are_refused(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match=r"(?s)vectors of 12 numbers cannot be cut into 13 parts.*num_levels: 12"):
        fitted(tiny_dataset, tiny_features, num_levels=13)
