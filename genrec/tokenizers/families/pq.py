"""Product quantization: a vector is cut into parts, and each part gets the nearest of its own centroids.

Source: Jégou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, PAMI 2011; as item semantic IDs in
VQ-Rec (Hou et al., WWW 2023) and RPG (2506.05781). Centroids by faiss.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Count, Levels, Rounds
from genrec.errors import ConfigError
from genrec.features.base import ItemFeatures
from genrec.features.progress import progress
from genrec.tokenizers.base import CodebookSettings, ItemTokenizer, TokenizerSettings
from genrec.tokenizers.parts.clustering import kmeans
from genrec.tokenizers.parts.residual import nearest_codes, squared_distances
from genrec.tokenizers.parts.sampling import draw_rows

if TYPE_CHECKING:
    from genrec.data import Dataset


class ProductSettings(CodebookSettings):
    """Settings of the tokenizer ``pq``."""

    num_levels: Levels = Field(4, description="parts that a vector is cut into, one code each")
    iterations: Rounds = Field(25, description="k-means iterations per part")
    max_points: Count = Field(
        1024, description="training vectors per centroid; of a larger catalogue a sample makes the centroids"
    )


class ProductTokenizer(ItemTokenizer):
    """A k-means of its own for every part of the vector; the order of the codes says nothing."""

    name: ClassVar[str] = "pq"
    Settings: ClassVar[type[TokenizerSettings]] = ProductSettings
    settings: ProductSettings

    def __init__(self, settings: ProductSettings) -> None:
        super().__init__(settings)
        self.codebooks: list[np.ndarray] = []

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        width = features.values.shape[1]
        if width < len(self.level_sizes):
            raise ConfigError(
                f"vectors of {width} numbers cannot be cut into {len(self.level_sizes)} parts",
                where="tokenizer.num_levels",
                expected=f"at most {width}",
                fix=f"set num_levels: {width} or fewer, or use wider features",
            )
        super()._check_catalogue(dataset, features)

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        settings = self.settings
        rows = draw_rows(len(features.values), settings.max_points * max(self.level_sizes), settings.seed)
        vectors = features.values[rows]
        self._learn_space(vectors)
        parts = zip(self._parts(vectors), self.level_sizes, strict=True)
        self.codebooks = [
            kmeans(part, size, settings.iterations, settings.seed)
            for part, size in progress(parts, "product quantization", len(self.level_sizes))
        ]

    def _encode(self, values: np.ndarray) -> np.ndarray:
        pairs = zip(self._parts(values), self.codebooks, strict=True)
        return np.stack([nearest_codes(part, codebook) for part, codebook in pairs], axis=1)

    def _learn_space(self, vectors: np.ndarray) -> None:
        """Learn what happens to vectors float32 ``[n, D]`` before they are cut; nothing here."""
        return

    def _to_space(self, values: np.ndarray) -> np.ndarray:
        """Vectors float32 ``[n, D]`` as they are cut, float32 ``[n, C]``."""
        return values

    def _from_space(self, vectors: np.ndarray) -> np.ndarray:
        """The way back."""
        return vectors

    def _parts(self, values: np.ndarray) -> list[np.ndarray]:
        return np.array_split(self._to_space(values), len(self.level_sizes), axis=1)

    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Squared distances of the last part to its centroids, float64 ``[n, K]``."""
        part = self._parts(self._check_vectors(np.asarray(features)))[-1]
        relative = np.concatenate([block for _, block in squared_distances(part, self.codebooks[-1])])
        return relative + (part.astype(np.float64) ** 2).sum(axis=1, keepdims=True)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """The centroids side by side, float32 ``[n, D]``."""
        parts = [codebook[codes[:, level]] for level, codebook in enumerate(self.codebooks)]
        return self._from_space(np.concatenate(parts, axis=1))

    def state(self) -> dict[str, np.ndarray]:
        """One array ``codebook_l`` float32 ``[K_l, C_l]`` per part."""
        return {f"codebook_{level}": codebook for level, codebook in enumerate(self.codebooks)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codebooks = [arrays[f"codebook_{level}"] for level in range(len(self.level_sizes))]
