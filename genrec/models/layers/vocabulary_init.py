"""Where new rows of a vocabulary start: the codebook, among the vectors of the words that are there already."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from genrec.models.layers.codes import CodeSpace
from genrec.models.layers.text_tokenizer import NO_WORD


def mean_word_vectors(table: Tensor, words: Tensor) -> Tensor:
    """The mean vector ``[N, D]`` of each text's words ``[N, S]`` in ``table [V, D]``; of all where it has none."""
    mask = words != NO_WORD
    counts = mask.sum(1)
    weights = mask / counts.clamp_min(1).unsqueeze(1)
    means = embedding_bag(words.long().clamp_min(0), table, per_sample_weights=weights.to(table.dtype), mode="sum")
    told = counts > 0
    return torch.where(told.unsqueeze(1), means, means[told].mean(0))


def codebook_rows(table: Tensor, vectors: Tensor | None, codes: Tensor, level_sizes: list[int]) -> Tensor:
    """A row for each code: the mean of the words' rows, moved by the code's residual centroid of item vectors.

    The centroid of a code is the mean, over its items, of what the codes before it leave of their vectors; where the
    semantic IDs are residual codes of these vectors, that is the codebook itself. Each level's centroids are scaled to
    the spread of the words' rows, so that the model tells them apart as it does words. Codes of no item, and all codes
    without vectors, are drawn at random with that spread.

    Args:
        table: Rows of the words, ``[V, D]``.
        vectors: Of the items, ``[N, D]``, or None.
        codes: int64 ``[N, L]``.
        level_sizes: Codes of each level.

    Returns:
        ``[sum of level_sizes, D]``.
    """
    middle, spread = table.mean(0), table.std()
    space = CodeSpace(level_sizes)
    rows = torch.randn(space.end, table.shape[1], device=table.device) * spread
    if vectors is None:
        return rows + middle
    residual = vectors - vectors.mean(0)
    for level, size in enumerate(level_sizes):
        counts = torch.bincount(codes[:, level], minlength=size).unsqueeze(1)
        sums = residual.new_zeros(size, residual.shape[1]).index_add_(0, codes[:, level], residual)
        centroids = sums / counts.clamp_min(1)
        used = counts[:, 0] > 0
        scale = centroids[used].std()
        if scale > 0:
            rows[space.rows(level)][used] = centroids[used] / scale * spread
        residual = residual - centroids[codes[:, level]]
    return rows + middle
