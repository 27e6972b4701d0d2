"""What an item tokenizer's identifiers are worth, in numbers and in titles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset

EXAMPLES = 8
NEIGHBOURS = 5


def level_quality(codes: np.ndarray, size: int) -> dict[str, Any]:
    """How evenly one level uses its codes.

    Args:
        codes: int ``[N]``, one level.
        size: K of the level.

    Returns:
        ``size``, ``used`` (codes with an item), ``use`` (their share of the codes that could be used),
        ``entropy_bits``, ``perplexity`` (2 to the entropy) and ``largest`` (items of the most frequent code).
    """
    counts = np.bincount(codes[codes >= 0], minlength=size)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(shares * np.log2(shares)).sum())
    return {
        "size": size,
        "used": int((counts > 0).sum()),
        "use": float((counts > 0).sum() / max(min(size, len(codes)), 1)),
        "entropy_bits": entropy,
        "perplexity": float(2.0**entropy),
        "largest": int(counts.max(initial=0)),
    }


def bucket_sizes(codes: np.ndarray) -> dict[str, list[int]]:
    """How many prefixes of each length hold how many items.

    Args:
        codes: int ``[N, L]``.

    Returns:
        For every depth ``"1" .. "L"`` the numbers of items of all prefixes of that length, largest first.
    """
    return {
        str(depth): np.sort(np.unique(codes[:, :depth], axis=0, return_counts=True)[1])[::-1].tolist()
        for depth in range(1, codes.shape[1] + 1)
    }


def neighbours_in_titles(codes: np.ndarray, dataset: "Dataset") -> list[dict[str, Any]]:
    """Examples: popular items, each with the items that share the longest beginning of its identifier.

    The popular items are those of the training part with different first codes, so that the examples differ.

    Args:
        codes: int ``[N, L]``, before the collision policy.
        dataset: For popularity (training part) and titles.
    """
    order = np.argsort(-dataset.train_popularity(), kind="stable")
    _, first = np.unique(codes[order, 0], return_index=True)
    examples = []
    for item in order[np.sort(first)[:EXAMPLES]].tolist():
        shared = np.cumprod(codes == codes[item], axis=1).sum(axis=1)
        shared[item] = -1
        near = np.argsort(-shared, kind="stable")[:NEIGHBOURS].tolist()
        examples.append(
            {
                "item": dataset.title(item),
                "codes": codes[item].tolist(),
                "neighbours": [
                    {"item": dataset.title(other), "codes": codes[other].tolist(), "shared_codes": int(shared[other])}
                    for other in near
                    if shared[other] > 0
                ],
            }
        )
    return examples


def measure_quality(
    tokenizer: ItemTokenizer, codes: np.ndarray, features: ItemFeatures, dataset: "Dataset"
) -> dict[str, Any]:
    """The quality report of a fitted tokenizer, without the collisions' part.

    Args:
        tokenizer: Fitted.
        codes: int32 ``[N, L]`` of the catalogue, before the collision policy.
        features: The vectors that were named.
        dataset: For the examples.

    Returns:
        ``items``, ``levels`` (see :func:`level_quality`), ``residual_norm`` (root mean squared distance to what the
        first 0..L codes stand for, the mean for none), ``residual_energy`` (its square as a share of the first),
        ``reconstruction_error`` (squared error as a share of the vectors' variance) and ``neighbours``; null where the
        family has no such thing.
    """
    energy = tokenizer.residual_energy(features.values)
    return {
        "tokenizer": tokenizer.name,
        "items": len(codes),
        "levels": [level_quality(codes[:, level], size) for level, size in enumerate(tokenizer.level_sizes)],
        "residual_norm": None if energy is None else np.sqrt(energy).tolist(),
        "residual_energy": None if energy is None else relative_energy(energy.tolist()),
        "reconstruction_error": reconstruction_error(features.values, tokenizer.reconstruct(codes)),
        "neighbours": neighbours_in_titles(codes, dataset),
    }


def relative_energy(energy: Sequence[float]) -> list[float]:
    """Residual energies as shares of the first."""
    first = float(energy[0])
    return [float(value) / first if first else 0.0 for value in energy]


def reconstruction_error(values: np.ndarray, reconstructed: np.ndarray | None) -> float | None:
    """Squared error as a share of the squared distance from the mean: 0 is perfect, 1 is no better than the mean.

    Args:
        values: float32 ``[N, D]``.
        reconstructed: float32 ``[N, D]``, or None if there is none.
    """
    if reconstructed is None:
        return None
    exact = values.astype(np.float64)
    variance = float(((exact - exact.mean(axis=0)) ** 2).sum())
    error = float(((exact - reconstructed) ** 2).sum())
    return error / variance if variance else 0.0
