"""Residual quantization, shared by every family that names an item by what the codes before left over."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from genrec.features.base import unit_rows
from genrec.features.progress import progress
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.parts.sampling import row_blocks

CHUNK_ELEMENTS = 1 << 22


class ResidualTokenizer(ItemTokenizer):
    """Encodes with one codebook after the other; a family says only how vectors enter the code space and leave it.

    Args:
        settings: The family's validated settings.
    """

    normalize_residuals = False
    # Whether codes are sums in the space of the vectors themselves, so that what they leave over compares.
    quantizes_vectors: ClassVar[bool] = False

    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings)
        self.codebooks: list[np.ndarray] = []

    @abstractmethod
    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """Vectors float32 ``[n, D]`` as the quantizer sees them, float32 ``[n, C]``."""

    @abstractmethod
    def from_code_space(self, vectors: np.ndarray) -> np.ndarray:
        """The way back: float32 ``[n, C]`` to float32 ``[n, D]``."""

    def _encode(self, values: np.ndarray) -> np.ndarray:
        codes = np.empty((len(values), len(self.codebooks)), dtype=np.int32)
        blocks = list(row_blocks(len(values)))
        for part in progress(blocks, "naming items", len(blocks)):
            residual = self.to_code_space(values[part])
            for level, codebook in enumerate(self.codebooks):
                codes[part, level], residual = residual_step(residual, codebook, self.normalize_residuals)
        return codes

    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Squared distances of what the earlier codes left to every code of the last level, float64 ``[n, K]``."""
        residual = self.to_code_space(self._check_vectors(np.asarray(features)))
        for level, codebook in enumerate(self.codebooks[:-1]):
            residual = self._left_over(residual, codebook, codes[:, level])
        if self.normalize_residuals:
            residual = unit_rows(residual)
        relative = np.concatenate([block for _, block in squared_distances(residual, self.codebooks[-1])])
        return relative + (residual.astype(np.float64) ** 2).sum(axis=1, keepdims=True)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """The sum of the codes' vectors, taken back; None with normalized residuals, whose lengths are not kept.

        Args:
            codes: int ``[n, l]``: all levels, or the first of them for what a prefix stands for.
        """
        if self.normalize_residuals:
            return None
        total = sum(self.codebooks[level][codes[:, level]] for level in range(codes.shape[1]))
        return self.from_code_space(np.asarray(total, dtype=np.float32))

    def residual_energy(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Mean squared distance in code space to what the first 0..L codes stand for, float64 ``[L + 1]``.

        Without any code that is the distance to the mean.
        """
        residual = self.to_code_space(self._check_vectors(np.asarray(features)))
        scale = np.ones(len(residual))
        energy = [_mean_energy(residual - residual.mean(axis=0, dtype=np.float64), scale)]
        for level, codebook in enumerate(self.codebooks):
            if self.normalize_residuals:
                scale = scale * np.linalg.norm(residual.astype(np.float64), axis=1)
            residual = self._left_over(residual, codebook, codes[:, level])
            energy.append(_mean_energy(residual, scale))
        return np.asarray(energy)

    def _left_over(self, residual: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return (unit_rows(residual) if self.normalize_residuals else residual) - codebook[codes]

    def state(self) -> dict[str, np.ndarray]:
        """One array ``codebook_l`` float32 ``[K_l, C]`` per level."""
        return {f"codebook_{level}": codebook for level, codebook in enumerate(self.codebooks)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codebooks = [arrays[f"codebook_{level}"] for level in range(len(self.level_sizes))]


def squared_distances(vectors: np.ndarray, codebook: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances in pieces of bounded memory, up to a constant per row.

    In float64, because float32 mistakes the nearest code where two are about equally near.

    Args:
        vectors: float32 ``[n, C]``.
        codebook: float32 ``[K, C]``.

    Yields:
        Rows and float64 ``[rows, K]``: the squared distance minus the row's own squared length.
    """
    exact = codebook.astype(np.float64)
    lengths = (exact**2).sum(axis=1)
    rows = max(1, CHUNK_ELEMENTS // max(codebook.shape))
    for start in range(0, len(vectors), rows):
        part = slice(start, min(start + rows, len(vectors)))
        yield part, lengths - 2.0 * (vectors[part].astype(np.float64) @ exact.T)


def nearest_codes(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The nearest code of each vector, int32 ``[n]``; the lowest code where several are equally near.

    Args:
        vectors: float32 ``[n, C]``.
        codebook: float32 ``[K, C]``.
    """
    codes = np.empty(len(vectors), dtype=np.int32)
    for part, distances in squared_distances(vectors, codebook):
        codes[part] = distances.argmin(axis=1)
    return codes


def residual_step(residual: np.ndarray, codebook: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Quantize one level.

    Args:
        residual: float32 ``[n, C]``, what the levels before left over.
        codebook: float32 ``[K, C]``.
        normalize: Scale residuals to length 1 first.

    Returns:
        Codes int32 ``[n]`` and what this level leaves over, float32 ``[n, C]``.
    """
    if normalize:
        residual = unit_rows(residual)
    codes = nearest_codes(residual, codebook)
    return codes, residual - codebook[codes]


def _mean_energy(residual: np.ndarray, scale: np.ndarray) -> float:
    return float(((residual.astype(np.float64) * scale[:, None]) ** 2).sum(axis=1).mean())
