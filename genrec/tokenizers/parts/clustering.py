"""All that genrec asks of faiss: centroids, and the rotation of product quantization. Nothing else imports it.

faiss checks little of what it is given: too few vectors, none at all, or vectors whose squared distances overflow end
the process or write beyond its memory. Whatever could do that is refused or prepared for here.
"""

from typing import Any

import numpy as np

from genrec.errors import DataError

# A squared distance is at most four times the largest squared length, a sum over float32 loses a little.
_LARGEST_SQUARE = float(np.finfo(np.float32).max) / 8


def kmeans(vectors: np.ndarray, size: int, iterations: int, seed: int) -> np.ndarray:
    """Centroids of a k-means over all vectors.

    Args:
        vectors: float32 ``[n, C]`` with n >= ``size``.
        size: K, the number of centroids.
        iterations: Lloyd iterations.
        seed: Seed of the initial draw.

    Returns:
        float32 ``[K, C]``.

    Raises:
        DataError: If there are fewer vectors than centroids, or their distances cannot be computed in float32.
    """
    vectors = _usable(vectors, size)
    # faiss draws 256 points per centroid unless more are allowed, and warns below 39.
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": max(256, -(-len(vectors) // size))}
    # Its seeds are C integers, and larger ones begin anew.
    seed = (seed + 2**31) % 2**32 - 2**31
    model = _faiss().Kmeans(vectors.shape[1], size, niter=iterations, seed=seed, verbose=False, **limits)
    model.train(vectors)
    return np.ascontiguousarray(model.centroids, dtype=np.float32).reshape(size, vectors.shape[1])


def learn_rotation(vectors: np.ndarray, parts: int, size: int, iterations: int) -> np.ndarray:
    """The rotation after which product quantization loses least.

    Args:
        vectors: float32 ``[n, C]`` with n >= 1.
        parts: Parts that vectors are cut into.
        size: Centroids of a part; faiss knows powers of two, of which the largest that fits is taken.
        iterations: Alternations between rotation and centroids.

    Returns:
        float32 ``[D, C]`` with D the next multiple of ``parts``: orthogonal columns; ``vectors @ rotation.T`` are
        rotated.

    Raises:
        DataError: If there is no vector, or distances cannot be computed in float32.
    """
    vectors = _usable(vectors, 1)
    width = vectors.shape[1]
    bits = max(1, size.bit_length() - 1)
    # faiss cuts into parts of equal width: zeros fill the last one. It also takes for granted that there are at least
    # as many vectors as numbers in each, and as centroids: all vectors once more leave what is learned of them alone.
    padded = -(-width // parts) * parts
    copies = -(-max(padded, 1 << bits) // len(vectors))
    filled = np.zeros((copies * len(vectors), padded), dtype=np.float32)
    filled[:, :width] = np.tile(vectors, (copies, 1))
    faiss = _faiss()
    rotation = faiss.OPQMatrix(padded, parts)
    rotation.niter, rotation.max_train_points = iterations, len(filled)
    quantizer = faiss.ProductQuantizer(padded, parts, bits)
    quantizer.cp.min_points_per_centroid = 1
    rotation.pq = quantizer
    rotation.train(filled)
    return faiss.vector_to_array(rotation.A).reshape(padded, padded)[:, :width].copy()


def _usable(vectors: np.ndarray, size: int) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or not vectors.shape[1] or len(vectors) < max(size, 1):
        raise DataError(
            f"vectors of the shape {list(vectors.shape)} cannot have {size} centroids",
            where="tokenizer.codebook_size",
            expected=f"at least {max(size, 1)} vectors of at least one number",
            fix="set a smaller tokenizer.codebook_size, or give more items",
        )
    largest = np.einsum("nc,nc->n", vectors, vectors, dtype=np.float64).max()
    if not largest < _LARGEST_SQUARE:
        raise DataError(
            "a vector is not finite, or so long that distances to it are infinite in float32",
            where="tokenizer",
            expected=f"finite numbers, and vectors shorter than {_LARGEST_SQUARE**0.5:.1e}",
            fix="scale the vectors (features.normalize, or the file of the encoder matrix) and make the features again",
        )
    return vectors


def _faiss() -> Any:
    import faiss

    return faiss
