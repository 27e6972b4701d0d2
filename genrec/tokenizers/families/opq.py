"""Optimized product quantization: the vectors are rotated first, so that cutting them loses least.

Source: Ge, He, Ke and Sun, Optimized Product Quantization, CVPR 2013; rotation by faiss.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Rounds
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.pq import ProductSettings, ProductTokenizer
from genrec.tokenizers.parts.clustering import learn_rotation


class OptimizedProductSettings(ProductSettings):
    """Settings of the tokenizer ``opq``."""

    rotation_iterations: Rounds = Field(50, description="alternations between rotation and centroids")


class OptimizedProductTokenizer(ProductTokenizer):
    """Product quantization of rotated vectors."""

    name: ClassVar[str] = "opq"
    Settings: ClassVar[type[TokenizerSettings]] = OptimizedProductSettings
    settings: OptimizedProductSettings

    def __init__(self, settings: OptimizedProductSettings) -> None:
        super().__init__(settings)
        self.rotation = np.empty((0, 0), dtype=np.float32)

    def _learn_space(self, vectors: np.ndarray) -> None:
        self.rotation = learn_rotation(
            vectors, len(self.level_sizes), max(self.level_sizes), self.settings.rotation_iterations
        )

    def _to_space(self, values: np.ndarray) -> np.ndarray:
        # In float64 a row's result does not depend on the rows next to it.
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
