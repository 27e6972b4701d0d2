"""Residual k-means: every level is a k-means of what the levels before left over.

Source: the cheap variant that GRID recommends (with residuals scaled to length 1) and OneRec (2502.18965) builds on;
k-means by faiss.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Count, Rounds
from genrec.features.base import ItemFeatures, unit_rows
from genrec.features.progress import progress
from genrec.tokenizers.base import CodebookSettings, TokenizerSettings
from genrec.tokenizers.parts.clustering import kmeans
from genrec.tokenizers.parts.residual import ResidualTokenizer, residual_step
from genrec.tokenizers.parts.sampling import draw_rows

if TYPE_CHECKING:
    from genrec.data import Dataset


class ResidualKMeansSettings(CodebookSettings):
    """Settings of the tokenizer ``rqkmeans``."""

    iterations: Rounds = Field(25, description="k-means iterations per level")
    normalize_residuals: bool = Field(True, description="scale residuals to length 1 before every level (GRID)")
    max_points: Count = Field(
        1024, description="training vectors per centroid; of a larger catalogue a sample makes the centroids"
    )


class ResidualKMeansTokenizer(ResidualTokenizer):
    """Residual k-means on the vectors as they are."""

    name: ClassVar[str] = "rqkmeans"
    Settings: ClassVar[type[TokenizerSettings]] = ResidualKMeansSettings
    quantizes_vectors: ClassVar[bool] = True
    settings: ResidualKMeansSettings

    def __init__(self, settings: ResidualKMeansSettings) -> None:
        super().__init__(settings)
        self.normalize_residuals = settings.normalize_residuals

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        self.learn(features.values)

    def learn(self, values: np.ndarray) -> None:
        """Make the codebooks from vectors, or from a sample of them if there are very many.

        Args:
            values: float32 ``[N, D]``; may be a mapped file, of which only the sample is read.
        """
        limit = self.settings.max_points * max(self.level_sizes)
        residual = values[draw_rows(len(values), limit, self.settings.seed)]
        self.codebooks = []
        for level, size in enumerate(progress(self.level_sizes, "residual k-means", len(self.level_sizes))):
            vectors = unit_rows(residual) if self.normalize_residuals else residual
            self.codebooks.append(kmeans(vectors, size, self.settings.iterations, self.settings.seed + level))
            _, residual = residual_step(residual, self.codebooks[-1], self.normalize_residuals)

    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return values

    def from_code_space(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return vectors
