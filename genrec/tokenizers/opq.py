"""Optimised product quantisation: the vectors are rotated first, so that cutting them loses least.

Source: Ge, He, Ke and Sun, Optimized Product Quantization, CVPR 2013; rotation by faiss.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Rounds
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.pq import ProductSettings, ProductTokenizer


class OptimisedProductSettings(ProductSettings):
    """Settings of the tokenizer ``opq``."""

    rotation_iterations: Rounds = Field(50, description="alternations between rotation and centroids")


class OptimisedProductTokenizer(ProductTokenizer):
    """Product quantisation of rotated vectors.

    Args:
        settings: See :class:`OptimisedProductSettings`.
    """

    name: ClassVar[str] = "opq"
    Settings: ClassVar[type[TokenizerSettings]] = OptimisedProductSettings
    settings: OptimisedProductSettings

    def __init__(self, settings: OptimisedProductSettings) -> None:
        super().__init__(settings)
        self.rotation = np.empty((0, 0), dtype=np.float32)

    def _learn_space(self, vectors: np.ndarray) -> None:
        parts, width = len(self.level_sizes), vectors.shape[1]
        # faiss cuts into parts of equal width: zeros fill the last one.
        padded = -(-width // parts) * parts
        filled = np.zeros((len(vectors), padded), dtype=np.float32)
        filled[:, :width] = vectors
        self.rotation = learn_rotation(filled, parts, max(self.level_sizes), self.settings.rotation_iterations)[
            :, :width
        ]

    def _to_space(self, values: np.ndarray) -> np.ndarray:
        # In float64 a row's result does not depend on the rows beside it.
        return (values.astype(np.float64) @ self.rotation.T.astype(np.float64)).astype(np.float32)

    def _from_space(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.rotation

    def state(self) -> dict[str, np.ndarray]:
        """The codebooks, and ``rotation`` float32 ``[C, D]``."""
        return {**super().state(), "rotation": self.rotation}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        self.rotation = arrays["rotation"]


def learn_rotation(vectors: np.ndarray, parts: int, size: int, iterations: int) -> np.ndarray:
    """The rotation after which product quantisation loses least.

    Args:
        vectors: float32 ``[n, C]`` with C a multiple of ``parts`` and n >= ``size``.
        parts: Parts that vectors are cut into.
        size: Centroids of a part; faiss knows powers of two, of which the largest that fits is taken.
        iterations: Alternations between rotation and centroids.

    Returns:
        float32 ``[C, C]``, an orthogonal matrix; ``vectors @ rotation.T`` are rotated.
    """
    import faiss

    bits = max(1, size.bit_length() - 1)
    rotation = faiss.OPQMatrix(vectors.shape[1], parts)
    rotation.niter, rotation.max_train_points = iterations, len(vectors)
    quantiser = faiss.ProductQuantizer(vectors.shape[1], parts, bits)
    quantiser.cp.min_points_per_centroid = 1
    rotation.pq = quantiser
    rotation.train(np.ascontiguousarray(vectors))
    return faiss.vector_to_array(rotation.A).reshape(vectors.shape[1], vectors.shape[1]).copy()
