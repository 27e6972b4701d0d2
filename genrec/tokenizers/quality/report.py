"""What an item tokenizer's semantic IDs are worth, in numbers and in titles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, Kind
from genrec.tokenizers.collisions import prefix_groups
from genrec.tokenizers.parts.residual import ResidualTokenizer
from genrec.tokenizers.parts.sampling import draw_rows
from genrec.tokenizers.quality.level_words import first_codes
from genrec.tokenizers.quality.neighborhoods import measure_likeness, shared_codes

if TYPE_CHECKING:
    from genrec.data import Dataset

EXAMPLES = 8
NEIGHBORS = 5
MAX_MEASURED = 50_000
SEED = 8191


def level_quality(codes: np.ndarray, size: int) -> dict[str, Any]:
    """How evenly one level uses its codes.

    Args:
        codes: int ``[N]``, one level.
        size: K of the level.

    Returns:
        ``size``, ``used`` (codes with an item), ``use`` (their share of the codes that could be used),
        ``entropy_bits``, ``perplexity`` (2 to the entropy), ``largest`` and ``smallest`` (items of the most and the
        least frequent code) and ``gini`` (0 if all codes have as many items, near 1 if one has all).
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
        "smallest": int(counts.min(initial=counts.max(initial=0))),
        "gini": gini(counts),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of how items are spread over codes: 0 is even.

    Args:
        counts: int ``[K]``, items of every code.
    """
    total = int(counts.sum())
    if not total:
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2.0 * (ranks * np.sort(counts)).sum() / (len(counts) * total) - (len(counts) + 1) / len(counts))


def bucket_sizes(codes: np.ndarray) -> dict[str, list[int]]:
    """How many prefixes of each length hold how many items.

    Args:
        codes: int ``[N, L]``.

    Returns:
        For every depth ``"1" .. "L"`` the numbers of items of all prefixes of that length, largest first.
    """
    return {
        str(depth): np.sort(np.bincount(group))[::-1].tolist() for depth, group in enumerate(prefix_groups(codes), 1)
    }


def prefix_quality(buckets: dict[str, list[int]]) -> list[dict[str, Any]]:
    """How far the first 1..L codes tell items apart.

    Args:
        buckets: See :func:`bucket_sizes`.

    Returns:
        For every length ``prefixes``, ``largest`` (items of the most frequent one) and ``collision_rate``
        (1 - prefixes / items).
    """
    return [
        {"prefixes": len(sizes), "largest": sizes[0], "collision_rate": 1.0 - len(sizes) / sum(sizes)}
        for sizes in buckets.values()
    ]


def neighbors_in_titles(codes: np.ndarray, dataset: "Dataset", kind: Kind = "sequence") -> list[dict[str, Any]]:
    """Examples: popular items, each with the items that share most of its semantic ID.

    The popular items are those of the training part with different first codes, so that the examples differ.

    Args:
        codes: int ``[N, L]``, before the collision policy.
        dataset: For popularity (training part) and titles.
        kind: In a ``sequence`` the leading codes count, in a ``set`` all equal ones.
    """
    order = np.argsort(-dataset.train_popularity(), kind="stable")
    _, first = np.unique(codes[order, 0], return_index=True)
    examples = []
    for item in order[np.sort(first)[:EXAMPLES]].tolist():
        shared = shared_codes(codes, codes[item], kind)
        shared[item] = -1
        near = np.argsort(-shared, kind="stable")[:NEIGHBORS].tolist()
        examples.append(
            {
                "item": dataset.title(item),
                "codes": codes[item].tolist(),
                "neighbors": [
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
        dataset: For training histories, categories and titles.

    Returns:
        ``items``, ``kind``, ``levels`` (see :func:`level_quality`), ``prefixes`` (see :func:`prefix_quality`),
        ``likeness`` (see :func:`~genrec.tokenizers.quality.neighborhoods.measure_likeness`), ``residual_norm`` (root
        mean squared distance to what the first 0..L codes stand for, the mean for none), ``residual_energy`` (its
        square as a share of the first), ``residual_space`` (``vectors``, or ``own`` where the family quantizes what it
        made of them), ``reconstruction_error`` (squared error as a share of the vectors' variance),
        ``first_codes`` (see :func:`~genrec.tokenizers.quality.level_words.first_codes`), ``neighbors`` and
        ``stability``
        (null until :func:`~genrec.tokenizers.quality.stability.measure_stability` says it); null where the family has
        no such thing.
        Distances are measured on MAX_MEASURED items at most.
    """
    rows = draw_rows(len(codes), MAX_MEASURED, SEED)
    values = features.values[rows]
    energy = tokenizer.residual_energy(values, codes[rows])
    titled = dataset.titles != dataset.item_ids
    return {
        "tokenizer": tokenizer.name,
        "items": len(codes),
        "kind": tokenizer.kind,
        "levels": [level_quality(codes[:, level], size) for level, size in enumerate(tokenizer.level_sizes)],
        "prefixes": prefix_quality(bucket_sizes(codes)),
        "likeness": measure_likeness(codes, tokenizer.kind, features.values, dataset),
        "residual_norm": None if energy is None else np.sqrt(energy).tolist(),
        "residual_energy": None if energy is None else relative_energy(energy.tolist()),
        "residual_space": None if energy is None else _residual_space(tokenizer),
        "reconstruction_error": reconstruction_error(values, tokenizer.reconstruct(codes[rows])),
        "first_codes": first_codes(codes, dataset.titles if titled else None),
        "neighbors": neighbors_in_titles(codes, dataset, tokenizer.kind),
        "stability": None,
    }


def _residual_space(tokenizer: ItemTokenizer) -> str:
    return "vectors" if isinstance(tokenizer, ResidualTokenizer) and tokenizer.quantizes_vectors else "own"


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
